//! Opening the file: what may be there already, and what is made of it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crus_core::stored::FORMAT;
use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, StorageError};

use super::migrate::migrate;
use super::overlay::Overlay;
use super::tables::{FORMAT_KEY, META, Trouble, lay_out};

/// How long a lock on the file is waited for, and how often it is tried.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// redb's own default would let it grow to a gibibyte; the hot part of a session is some hundred KiB.
const CACHE_BYTES: usize = 4 << 20;

/// Why the store could not be opened, and what to do about it. Each tells its cause itself, before the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory that should hold it is not there, or is no directory.
    #[error(
        "failed to open the store {path}: {directory} is not a directory; create it (mkdir -p {directory}), or \
         choose another place with --store"
    )]
    NoDirectory {
        /// The store's file.
        path: String,
        /// Its directory.
        directory: String,
    },
    /// The system would not let us.
    #[error(
        "failed to open the store {path}: {error}; the service's user must be able to read and write it, and \
         to create files in its directory"
    )]
    Io {
        /// The store's file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// There is no room for it.
    #[error("failed to open the store {path}: {error}; make room on its file system, then start again")]
    NoSpace {
        /// The store's file.
        path: String,
        /// What the system said.
        error: io::Error,
    },
    /// Another process has it open.
    #[error(
        "failed to open the store {path}: another process has it open; stop that one first, or choose another \
         file with --store"
    )]
    Locked {
        /// The store's file.
        path: String,
    },
    /// It is something else, or was damaged.
    #[error(
        "failed to open the store {path}: it is not a CRUS store, or is damaged ({detail}); choose another file \
         with --store, or restore it from a backup"
    )]
    NotAStore {
        /// The store's file.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A newer version of the service wrote it.
    #[error(
        "failed to open the store {path}: it has format {found}, and this version knows formats up to {FORMAT}; \
         start the version of crus that wrote it, or a newer one"
    )]
    Newer {
        /// The store's file.
        path: String,
        /// Its format.
        found: u64,
    },
}

pub(super) fn open(path: &Path) -> Result<Database, OpenError> {
    let (path, directory) = place(path)?;
    if is_store(&path) { open_existing(&path) } else { create(&path, &directory) }
}

/// Opens the store that was open before. Nothing is created where it is missing, as when its file system is not mounted:
/// sessions would be forgotten while their nodes stay drained. Otherwise why not, in words.
pub(super) fn reopen(path: &Path) -> Result<Database, String> {
    let not_there = |what: &str| {
        format!(
            "the store {} {what}, and was there when the service started; bring it back (is its file system \
             mounted?): the service goes on then by itself",
            path.display()
        )
    };
    match fs::metadata(path) {
        Ok(found) if found.is_file() && found.len() == 0 => return Err(not_there("is empty")),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(not_there("is gone"));
        }
        _ => {}
    }
    let told = |error: OpenError| error.to_string();
    let database = unlocked(|| builder().open(path)).map_err(|error| told(trouble_at(path, error)))?;
    match format_of(&database).map_err(|error| told(trouble_at(path, error)))? {
        Some(FORMAT) => Ok(database),
        found => Err(not_there(&match found {
            Some(found) => format!("has format {found}"),
            None => "holds nothing".to_owned(),
        })),
    }
}

/// Where the file is or will be, behind symbolic links, and its directory.
fn place(path: &Path) -> Result<(PathBuf, PathBuf), OpenError> {
    let mut path = path.to_owned();
    // As many as the system follows.
    for _ in 0..40 {
        let Ok(target) = fs::read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    if fs::metadata(&directory).is_ok_and(|found| found.is_dir()) {
        return Ok((path, directory));
    }
    Err(OpenError::NoDirectory {
        path: path.display().to_string(),
        directory: directory.display().to_string(),
    })
}

/// Whether something is there that must be a store: only an empty file may be replaced by one.
fn is_store(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(found) => !found.is_file() || found.len() > 0,
        // What cannot be looked at is not replaced either.
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn open_existing(path: &Path) -> Result<Database, OpenError> {
    let database = unlocked(|| builder().open(path)).map_err(|error| trouble_at(path, error))?;
    made_newest(path, &database)?;
    Ok(database)
}

/// Makes the newest format of what is there.
fn made_newest(path: &Path, database: &Database) -> Result<(), OpenError> {
    match format_of(database).map_err(|error| trouble_at(path, error))? {
        Some(FORMAT) => {}
        Some(format @ (1 | 2)) => migrate(database, format).map_err(|trouble| told_at(path, trouble))?,
        Some(found) if found > FORMAT => {
            return Err(OpenError::Newer { path: path.display().to_string(), found });
        }
        Some(found) => return Err(not_a_store(path, format!("format {found}"))),
        // Versions before this one could leave it so, when they were killed while they created it.
        None => lay_out(database).map_err(|trouble| told_at(path, trouble))?,
    }
    Ok(())
}

/// Opens a store to look into it: the file is never changed. What is of an older format, or was not closed, is put in order
/// in memory.
pub(super) fn look_into(path: &Path) -> Result<Database, OpenError> {
    if fs::metadata(path).map_err(|error| io_at(path, error))?.len() == 0 {
        return Err(not_a_store(path, "it is empty".to_owned()));
    }
    let open = || {
        let overlay = Overlay::over(File::open(path)?)?;
        builder().create_with_backend(overlay)
    };
    let database = unlocked(open).map_err(|error| trouble_at(path, error))?;
    made_newest(path, &database)?;
    Ok(database)
}

/// Makes a store under another name, and gives it its own once it is whole: what a kill or a full disk leaves behind
/// until then would not be known for ours.
fn create(path: &Path, directory: &Path) -> Result<Database, OpenError> {
    let io = |error| io_at(path, error);
    let unfinished = path.with_added_extension("unfinished");
    let create = || {
        // redb would create it readable by everybody.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&unfinished)?;
        let inode = file.metadata()?.ino();
        Ok((inode, builder().create_with_backend(FileBackend::new(file)?)?))
    };
    let (inode, database) = match unlocked(create) {
        Err(DatabaseError::Storage(StorageError::Io(error)))
            if error.kind() == io::ErrorKind::InvalidData =>
        {
            fs::remove_file(&unfinished).map_err(io)?;
            unlocked(create)
        }
        created => created,
    }
    .map_err(|error| trouble_at(path, error))?;
    if is_store(path) {
        // Another process was faster: what we hold was made after it had taken its own away.
        fs::remove_file(&unfinished).map_err(io)?;
        return open_existing(path);
    }
    lay_out(&database).map_err(|trouble| told_at(path, trouble))?;
    fs::rename(&unfinished, path).map_err(io)?;
    if fs::metadata(path).map_err(io)?.ino() != inode {
        return Err(OpenError::Locked { path: path.display().to_string() });
    }
    // A new name in a directory survives a power cut only once the directory is on disk, too.
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    Ok(database)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    // Of a damaged file it is known when it is opened: a plain look at a damaged page panics.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

/// A service that was killed may leave its lock with a program that it was just starting, until that program runs:
/// such a lock is waited for.
fn unlocked<T>(mut open: impl FnMut() -> Result<T, DatabaseError>) -> Result<T, DatabaseError> {
    let started = Instant::now();
    loop {
        match open() {
            Err(DatabaseError::DatabaseAlreadyOpen) if started.elapsed() < LOCK_PATIENCE => {
                thread::sleep(LOCK_PAUSE);
            }
            result => return result,
        }
    }
}

fn told_at(path: &Path, trouble: Trouble) -> OpenError {
    match trouble {
        Trouble::Redb(error) => trouble_at(path, *error),
        Trouble::Told(error) => not_a_store(path, error.to_string()),
    }
}

fn trouble_at(path: &Path, error: impl Into<redb::Error>) -> OpenError {
    match error.into() {
        redb::Error::DatabaseAlreadyOpen => OpenError::Locked { path: path.display().to_string() },
        // Of a file that was cut, redb may learn so only when it reads past its end.
        redb::Error::Io(error)
            if !matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            io_at(path, error)
        }
        error => not_a_store(path, error.to_string()),
    }
}

fn io_at(path: &Path, error: io::Error) -> OpenError {
    let path = path.display().to_string();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            OpenError::NoSpace { path, error }
        }
        _ => OpenError::Io { path, error },
    }
}

fn not_a_store(path: &Path, detail: String) -> OpenError {
    OpenError::NotAStore { path: path.display().to_string(), detail }
}

/// The format of a database; `None` when it holds nothing at all, as after a crash while it was created.
fn format_of(database: &Database) -> Result<Option<u64>, redb::Error> {
    let reading = database.begin_read()?;
    if reading.list_tables()?.next().is_none() {
        return Ok(None);
    }
    // A database of somebody else: without our table, or with another one of that name.
    let meta = reading.open_table(META)?;
    Ok(Some(meta.get(FORMAT_KEY)?.map_or(0, |format| format.value())))
}
