//! Sessions in one local file, with [redb].
//!
//! A session is stored in parts, so that a change to one node of many thousands is a small write: heads, nodes,
//! messages and claims each have a table, with JSON for values. Every write is one transaction, on
//! disk when the call returns. The file is locked: two services cannot share it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use crus_core::claims::{self, Claim};
use crus_core::history::Entry;
use crus_core::machine::Event;
use crus_core::model::{Command, Message, Node, Phase, Session, Summary, UpgradeId};
use crus_core::ports::{Change, Changes, Revision, SessionStore, StoreError};
use crus_core::stored::{self, FORMAT, Parts};
use crus_core::{Time, Xname};
use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
    TableHandle,
};
use uuid::Uuid;

/// How long a lock on the file is waited for, and how often it is tried.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// redb's own default would let it grow to a gibibyte; the hot part of a session is some hundred KiB.
const CACHE_BYTES: usize = 4 << 20;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT_KEY: &str = "format";
/// How many sessions were ever created: the place of the latest in the order of creation.
const CREATED_KEY: &str = "created";
const REVISIONS: TableDefinition<'_, u128, u64> = TableDefinition::new("revisions");
const HEADS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("heads");
const NODES: TableDefinition<'_, (u128, u32), &[u8]> = TableDefinition::new("nodes");
const MESSAGES: TableDefinition<'_, (u128, u32), &[u8]> = TableDefinition::new("messages_2");
const CLAIMS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("claims");
const ORDERS: TableDefinition<'_, u128, ()> = TableDefinition::new("deletion_orders");
const HISTORY: TableDefinition<'_, (u128, u32), &[u8]> = TableDefinition::new("history");
const COMMANDS: TableDefinition<'_, (u128, u64), &[u8]> = TableDefinition::new("commands");
/// How many commands were ever noted: the number of the latest.
const COMMANDED_KEY: &str = "commanded";

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

/// A [`SessionStore`] in one local file.
///
/// # Guarantees
/// - A call that returned is on disk; one that failed, or whose process was killed, left nothing behind.
/// - After an error of the disk (full, say) it works again as soon as the disk does and the file is there: a new one
///   is never begun then.
#[derive(Clone)]
pub struct RedbStore {
    file: Arc<StoreFile>,
}

impl RedbStore {
    /// Opens the store, or creates one, readable by its owner alone.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let database = open(path)?;
        let held = RwLock::new(Held { database: Some(database), times: 0 });
        let file = StoreFile { path: path.to_owned(), held };
        Ok(RedbStore { file: Arc::new(file) })
    }

    /// Runs `work` where it may wait for the disk. It runs to its end even when the caller goes away.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = Arc::clone(&self.file);
        match tokio::task::spawn_blocking(move || file.run(work)).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Failed(error.to_string())),
        }
    }
}

struct StoreFile {
    path: PathBuf,
    /// Whoever works with it reads this; it is opened again once all of them are done.
    held: RwLock<Held>,
}

struct Held {
    /// `None` after an error of the disk: redb refuses everything from then on, until opened again.
    database: Option<Database>,
    /// How often it was opened again.
    times: u64,
}

impl StoreFile {
    fn run<T>(&self, work: impl FnOnce(&Database) -> Result<T, Trouble>) -> Result<T, StoreError> {
        loop {
            let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
            let Some(database) = &held.database else {
                drop(held);
                self.open_again()?;
                continue;
            };
            let (result, times) = (work(database), held.times);
            drop(held);
            return result.map_err(|trouble| self.told(trouble, times));
        }
    }

    fn open_again(&self) -> Result<(), StoreError> {
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if held.database.is_none() {
            held.database = Some(reopen(&self.path).map_err(StoreError::Failed)?);
            held.times += 1;
        }
        Ok(())
    }

    /// What to tell of it. When the disk failed, the database that was opened so many `times` is closed.
    fn told(&self, trouble: Trouble, times: u64) -> StoreError {
        let error = match trouble {
            Trouble::Told(error) => return error,
            Trouble::Redb(error) => error,
        };
        if matches!(
            *error,
            redb::Error::Io(_)
                | redb::Error::PreviousIo
                | redb::Error::Backend(_)
                | redb::Error::LockPoisoned(_)
                | redb::Error::DatabaseClosed
        ) {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            if held.times == times {
                held.database = None;
            }
        }
        StoreError::Failed(format!("{}: {error}", self.path.display()))
    }
}

fn open(path: &Path) -> Result<Database, OpenError> {
    let (path, directory) = place(path)?;
    if is_store(&path) { open_existing(&path) } else { create(&path, &directory) }
}

/// Opens the store that was open before. Nothing is created where it is missing, as when its file system is not mounted:
/// sessions would be forgotten while their nodes stay drained. Otherwise why not, in words.
fn reopen(path: &Path) -> Result<Database, String> {
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
    match format_of(&database).map_err(|error| trouble_at(path, error))? {
        Some(FORMAT) => {}
        Some(1) => migrate_from_1(&database)
            .and_then(|()| migrate_from_2(&database))
            .map_err(|trouble| told_at(path, trouble))?,
        Some(2) => migrate_from_2(&database).map_err(|trouble| told_at(path, trouble))?,
        Some(found) if found > FORMAT => {
            return Err(OpenError::Newer { path: path.display().to_string(), found });
        }
        Some(found) => return Err(not_a_store(path, format!("format {found}"))),
        // Versions before this one could leave it so, when they were killed while they created it.
        None => lay_out(&database).map_err(|trouble| told_at(path, trouble))?,
    }
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

/// Creates all tables, so that readers find them.
fn lay_out(database: &Database) -> Result<(), Trouble> {
    let writing = database.begin_write()?;
    writing.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
    writing.open_table(REVISIONS)?;
    writing.open_table(HEADS)?;
    writing.open_table(NODES)?;
    writing.open_table(MESSAGES)?;
    writing.open_table(CLAIMS)?;
    writing.open_table(ORDERS)?;
    writing.open_table(HISTORY)?;
    writing.open_table(COMMANDS)?;
    writing.commit()?;
    Ok(())
}

/// From the first format: messages were texts in a table of their own, and there were no claims. All or nothing.
fn migrate_from_1(database: &Database) -> Result<(), Trouble> {
    const OLD_MESSAGES: TableDefinition<'_, (u128, u32), &str> = TableDefinition::new("messages");
    let writing = database.begin_write()?;
    {
        let mut messages = writing.open_table(MESSAGES)?;
        for row in writing.open_table(OLD_MESSAGES)?.iter()? {
            let (key, text) = row?;
            let message = stored::encode(&Message::new(text.value(), Time(0))).map_err(Trouble::Told)?;
            messages.insert(key.value(), message.as_slice())?;
        }
        writing.open_table(CLAIMS)?;
        let mut sessions = Vec::new();
        let (heads, nodes) = (writing.open_table(HEADS)?, writing.open_table(NODES)?);
        for row in writing.open_table(REVISIONS)?.iter()? {
            let id = UpgradeId(Uuid::from_u128(row?.0.value()));
            let (head, nodes) = (head_of(&heads, id)?, rows(&nodes, id.0.as_u128())?);
            let none: [(u32, Vec<u8>); 0] = [];
            let session = stored::session(id, &head, nodes, none).map_err(Trouble::Told)?;
            if !session.is_done() {
                sessions.push(session);
            }
        }
        sessions.sort_by_key(|session| (session.head.created, session.head.id));
        for session in &sessions {
            enter_claim(&writing, session)?;
        }
        writing.open_table(META)?.insert(FORMAT_KEY, 2)?;
    }
    writing.delete_table(OLD_MESSAGES)?;
    writing.commit()?;
    Ok(())
}

/// From the second format: heads did not count their nodes, and there were neither histories nor commands. All or
/// nothing.
fn migrate_from_2(database: &Database) -> Result<(), Trouble> {
    let writing = database.begin_write()?;
    {
        let (mut heads, nodes) = (writing.open_table(HEADS)?, writing.open_table(NODES)?);
        let mut ids = Vec::new();
        for row in writing.open_table(REVISIONS)?.iter()? {
            ids.push(UpgradeId(Uuid::from_u128(row?.0.value())));
        }
        for id in ids {
            let (head, nodes) = (head_of(&heads, id)?, rows(&nodes, id.0.as_u128())?);
            let none: [(u32, Vec<u8>); 0] = [];
            let session = stored::session(id, &head, nodes, none).map_err(Trouble::Told)?;
            let head = stored::encode(&session.head).map_err(Trouble::Told)?;
            heads.insert(id.0.as_u128(), head.as_slice())?;
        }
        writing.open_table(HISTORY)?;
        writing.open_table(COMMANDS)?;
        writing.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
    }
    writing.commit()?;
    Ok(())
}

/// Why a transaction did not happen.
enum Trouble {
    Redb(Box<redb::Error>),
    Told(StoreError),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Redb(error) => error.fmt(f),
            Trouble::Told(error) => error.fmt(f),
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Trouble::Redb(Box::new(error.into()))
    }
}

fn write(parts: &Parts, writing: &redb::WriteTransaction, id: u128) -> Result<(), Trouble> {
    if let Some(head) = &parts.head {
        writing.open_table(HEADS)?.insert(id, head.as_slice())?;
    }
    put(&mut writing.open_table(NODES)?, id, &parts.nodes)?;
    if !parts.history.is_empty() {
        let mut history = writing.open_table(HISTORY)?;
        for (place, entry) in &parts.history {
            history.insert((id, *place), entry.as_slice())?;
        }
    }
    let mut messages = writing.open_table(MESSAGES)?;
    put(&mut messages, id, &parts.messages)?;
    if let Some(end) = parts.messages_end {
        messages.retain_in((id, end)..=(id, u32::MAX), |_, _| false)?;
    }
    Ok(())
}

/// Replaces or appends values, in the order of their positions. What would leave a gap is refused: the session could
/// not be read again.
fn put(
    table: &mut Table<'_, (u128, u32), &[u8]>,
    id: u128,
    values: &[(u32, Vec<u8>)],
) -> Result<(), Trouble> {
    for (i, value) in values {
        let is_new = table.insert((id, *i), value.as_slice())?.is_none();
        if is_new && *i > 0 && table.get((id, i - 1))?.is_none() {
            let text = format!("{} {i} would leave a gap", table.name());
            return Err(Trouble::Told(StoreError::Failed(text)));
        }
    }
    Ok(())
}

/// The rows of one session.
fn rows(
    table: &impl ReadableTable<(u128, u32), &'static [u8]>,
    id: u128,
) -> Result<Vec<(u32, Vec<u8>)>, Trouble> {
    let mut rows = Vec::new();
    for row in table.range(keys_of(id))? {
        let (key, value) = row?;
        rows.push((key.value().1, value.value().to_vec()));
    }
    Ok(rows)
}

/// The keys of everything that belongs to one session.
fn keys_of(id: u128) -> std::ops::RangeInclusive<(u128, u32)> {
    (id, 0)..=(id, u32::MAX)
}

fn head_of(table: &impl ReadableTable<u128, &'static [u8]>, id: UpgradeId) -> Result<Vec<u8>, Trouble> {
    let head = table.get(id.0.as_u128())?.map(|head| head.value().to_vec());
    let missing = || StoreError::Unreadable(format!("the head of session {id} is missing"));
    head.ok_or_else(|| Trouble::Told(missing()))
}

fn commands_of(
    table: &impl ReadableTable<(u128, u64), &'static [u8]>,
    id: UpgradeId,
) -> Result<Vec<(u64, Command)>, Trouble> {
    let key = id.0.as_u128();
    let mut commands = Vec::new();
    for row in table.range((key, 0)..=(key, u64::MAX))? {
        let (number, value) = row?;
        let command = stored::decode("a command", id, value.value()).map_err(Trouble::Told)?;
        commands.push((number.value().1, command));
    }
    Ok(commands)
}

fn claims_in(table: &impl ReadableTable<u128, &'static [u8]>) -> Result<BTreeMap<UpgradeId, Claim>, Trouble> {
    let mut claims = BTreeMap::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let id = UpgradeId(Uuid::from_u128(key.value()));
        let claim = stored::decode("the claim", id, value.value()).map_err(Trouble::Told)?;
        claims.insert(id, claim);
    }
    Ok(claims)
}

/// Enters a session that is not done, last in the order of creation, which never gives a place twice.
fn enter_claim(writing: &redb::WriteTransaction, session: &Session) -> Result<(), Trouble> {
    let mut meta = writing.open_table(META)?;
    let order = meta.get(CREATED_KEY)?.map_or(0, |created| created.value()) + 1;
    meta.insert(CREATED_KEY, order)?;
    let claim = stored::encode(&Claim::of(session, order)).map_err(Trouble::Told)?;
    writing.open_table(CLAIMS)?.insert(session.head.id.0.as_u128(), claim.as_slice())?;
    Ok(())
}

#[async_trait]
impl SessionStore for RedbStore {
    async fn create(&self, session: &Session) -> Result<Revision, StoreError> {
        let id = session.head.id;
        let parts = Parts::all(session)?;
        let session = session.clone();
        self.run(move |database| {
            let key = id.0.as_u128();
            let writing = database.begin_write()?;
            {
                let mut revisions = writing.open_table(REVISIONS)?;
                if revisions.get(key)?.is_some() {
                    return Err(Trouble::Told(StoreError::Conflict(id)));
                }
                revisions.insert(key, 1)?;
                write(&parts, &writing, key)?;
                if !session.is_done() {
                    enter_claim(&writing, &session)?;
                }
            }
            writing.commit()?;
            Ok(Revision(1))
        })
        .await
    }

    async fn ids(&self) -> Result<Vec<UpgradeId>, StoreError> {
        self.run(|database| {
            let revisions = database.begin_read()?.open_table(REVISIONS)?;
            let mut ids = Vec::new();
            for row in revisions.iter()? {
                ids.push(UpgradeId(Uuid::from_u128(row?.0.value())));
            }
            Ok(ids)
        })
        .await
    }

    async fn summary(&self, id: UpgradeId) -> Result<Option<Summary>, StoreError> {
        self.run(move |database| {
            let key = id.0.as_u128();
            let reading = database.begin_read()?;
            if reading.open_table(REVISIONS)?.get(key)?.is_none() {
                return Ok(None);
            }
            let head = head_of(&reading.open_table(HEADS)?, id)?;
            let messages = rows(&reading.open_table(MESSAGES)?, key)?;
            let deletion_ordered = reading.open_table(ORDERS)?.get(key)?.is_some();
            let commands = commands_of(&reading.open_table(COMMANDS)?, id)?;
            let told = (|| {
                let (head, messages) = (stored::head(id, &head)?, stored::messages(id, messages)?);
                Ok(Some(Summary { head, messages, deletion_ordered, commands }))
            })();
            told.map_err(Trouble::Told)
        })
        .await
    }

    async fn load(&self, id: UpgradeId) -> Result<Option<(Session, Revision)>, StoreError> {
        self.run(move |database| {
            let key = id.0.as_u128();
            let reading = database.begin_read()?;
            let Some(revision) = reading.open_table(REVISIONS)?.get(key)?.map(|found| found.value()) else {
                return Ok(None);
            };
            let head = head_of(&reading.open_table(HEADS)?, id)?;
            let nodes = rows(&reading.open_table(NODES)?, key)?;
            let messages = rows(&reading.open_table(MESSAGES)?, key)?;
            let session = stored::session(id, &head, nodes, messages).map_err(Trouble::Told)?;
            Ok(Some((session, Revision(revision))))
        })
        .await
    }

    async fn save(
        &self,
        session: &Session,
        events: &[Event],
        revision: Revision,
    ) -> Result<Revision, StoreError> {
        let id = session.head.id;
        let done = session.is_done();
        let taken = session.head.commands;
        // It begins anew after its end, when it had no claim any more.
        let revived = events.contains(&Event::Phase(Phase::Created)).then(|| session.clone());
        let parts = Parts::of(session, events)?;
        self.run(move |database| {
            let key = id.0.as_u128();
            let next = Revision(revision.0 + 1);
            let writing = database.begin_write()?;
            {
                let mut revisions = writing.open_table(REVISIONS)?;
                if revisions.get(key)?.map(|stored| stored.value()) != Some(revision.0) {
                    return Err(Trouble::Told(StoreError::Conflict(id)));
                }
                revisions.insert(key, next.0)?;
                write(&parts, &writing, key)?;
                if taken > 0 && parts.head.is_some() {
                    writing.open_table(COMMANDS)?.retain_in((key, 0)..=(key, taken), |_, _| false)?;
                }
                if done {
                    writing.open_table(CLAIMS)?.remove(key)?;
                } else if let Some(session) = &revived {
                    enter_claim(&writing, session)?;
                }
            }
            writing.commit()?;
            Ok(next)
        })
        .await
    }

    async fn remove(&self, id: UpgradeId) -> Result<(), StoreError> {
        self.run(move |database| {
            let key = id.0.as_u128();
            let writing = database.begin_write()?;
            writing.open_table(REVISIONS)?.remove(key)?;
            writing.open_table(HEADS)?.remove(key)?;
            writing.open_table(NODES)?.retain_in(keys_of(key), |_, _| false)?;
            writing.open_table(MESSAGES)?.retain_in(keys_of(key), |_, _| false)?;
            writing.open_table(HISTORY)?.retain_in(keys_of(key), |_, _| false)?;
            writing.open_table(COMMANDS)?.retain_in((key, 0)..=(key, u64::MAX), |_, _| false)?;
            writing.open_table(ORDERS)?.remove(key)?;
            writing.open_table(CLAIMS)?.remove(key)?;
            writing.commit()?;
            Ok(())
        })
        .await
    }

    async fn order_deletion(&self, id: UpgradeId) -> Result<(), StoreError> {
        self.run(move |database| {
            let key = id.0.as_u128();
            let writing = database.begin_write()?;
            // An order for a session that is gone would stay for ever.
            if writing.open_table(REVISIONS)?.get(key)?.is_some() {
                writing.open_table(ORDERS)?.insert(key, ())?;
            }
            writing.commit()?;
            Ok(())
        })
        .await
    }

    async fn deletion_ordered(&self, id: UpgradeId) -> Result<bool, StoreError> {
        self.run(move |database| {
            let orders = database.begin_read()?.open_table(ORDERS)?;
            Ok(orders.get(id.0.as_u128())?.is_some())
        })
        .await
    }

    async fn command(&self, id: UpgradeId, command: Command) -> Result<Option<u64>, StoreError> {
        self.run(move |database| {
            let key = id.0.as_u128();
            let writing = database.begin_write()?;
            let number = {
                if writing.open_table(REVISIONS)?.get(key)?.is_none() {
                    return Ok(None);
                }
                let mut commands = writing.open_table(COMMANDS)?;
                let last = match commands.range((key, 0)..=(key, u64::MAX))?.next_back().transpose()? {
                    None => None,
                    Some((number, value)) => {
                        let last: Command =
                            stored::decode("a command", id, value.value()).map_err(Trouble::Told)?;
                        Some((number.value().1, last))
                    }
                };
                if let Some((number, _)) = last.filter(|(_, last)| *last == command) {
                    return Ok(Some(number));
                }
                let mut meta = writing.open_table(META)?;
                let number = meta.get(COMMANDED_KEY)?.map_or(0, |number| number.value()) + 1;
                meta.insert(COMMANDED_KEY, number)?;
                let command = stored::encode(&command).map_err(Trouble::Told)?;
                commands.insert((key, number), command.as_slice())?;
                number
            };
            writing.commit()?;
            Ok(Some(number))
        })
        .await
    }

    async fn commands(&self, id: UpgradeId) -> Result<Vec<(u64, Command)>, StoreError> {
        self.run(move |database| commands_of(&database.begin_read()?.open_table(COMMANDS)?, id)).await
    }

    async fn nodes(&self, id: UpgradeId, from: usize, count: usize) -> Result<Vec<Node>, StoreError> {
        self.run(move |database| {
            let key = id.0.as_u128();
            let Ok(from) = u32::try_from(from) else { return Ok(Vec::new()) };
            let table = database.begin_read()?.open_table(NODES)?;
            let mut nodes = Vec::new();
            for row in table.range((key, from)..=(key, u32::MAX))?.take(count) {
                nodes.push(stored::node(id, row?.1.value()).map_err(Trouble::Told)?);
            }
            Ok(nodes)
        })
        .await
    }

    async fn history(&self, id: UpgradeId, after: u64, count: usize) -> Result<Vec<Entry>, StoreError> {
        self.run(move |database| {
            let key = id.0.as_u128();
            let reading = database.begin_read()?;
            if reading.open_table(REVISIONS)?.get(key)?.is_none() {
                return Ok(Vec::new());
            }
            let head = stored::head(id, &head_of(&reading.open_table(HEADS)?, id)?).map_err(Trouble::Told)?;
            let table = reading.open_table(HISTORY)?;
            let read = |place| match table.get((key, place)) {
                Ok(value) => Ok(value.map(|value| value.value().to_vec())),
                Err(error) => Err(StoreError::Failed(error.to_string())),
            };
            stored::history(id, head.entries, after, count, read).map_err(Trouble::Told)
        })
        .await
    }

    async fn claim(&self, id: UpgradeId, nodes: &[Xname]) -> Result<Result<(), String>, StoreError> {
        let nodes = nodes.to_vec();
        self.run(move |database| {
            // Who waits asks again and again: as long as that changes nothing, others save meanwhile.
            let mut claims = claims_in(&database.begin_read()?.open_table(CLAIMS)?)?;
            let (answer, changed) = claims::claim(id, &nodes, &mut claims);
            if !changed {
                return Ok(answer);
            }
            let writing = database.begin_write()?;
            let answer = {
                let mut table = writing.open_table(CLAIMS)?;
                let mut claims = claims_in(&table)?;
                let (answer, _) = claims::claim(id, &nodes, &mut claims);
                if let Some(claim) = claims.get(&id) {
                    let claim = stored::encode(claim).map_err(Trouble::Told)?;
                    table.insert(id.0.as_u128(), claim.as_slice())?;
                }
                answer
            };
            writing.commit()?;
            Ok(answer)
        })
        .await
    }

    async fn own(&self, id: UpgradeId) -> Result<bool, StoreError> {
        self.run(move |database| {
            Ok(database.begin_read()?.open_table(REVISIONS)?.get(id.0.as_u128())?.is_some())
        })
        .await
    }

    /// The file is locked: nobody else can run anything.
    fn owns(&self, _: UpgradeId) -> bool {
        true
    }

    async fn disowned(&self, _: UpgradeId) {
        std::future::pending::<()>().await;
    }

    async fn disown(&self, _: UpgradeId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn changes(&self) -> Result<Box<dyn Changes>, StoreError> {
        Ok(Box::new(NoChanges))
    }
}

/// Nobody else can change anything, and who shares this process knows what was done.
struct NoChanges;

#[async_trait]
impl Changes for NoChanges {
    async fn next(&mut self) -> Result<Change, StoreError> {
        std::future::pending().await
    }
}
