//! Sessions in one local file, with [redb].
//!
//! A session is stored in parts, so that a change to one node of many thousands is a small write: its head,
//! its nodes and its messages each have a table, with JSON for values. Every write is one transaction, on
//! disk when the call returns. The file is locked: two services cannot share it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use crus_core::machine::{Changes, Event};
use crus_core::model::{Known, Limits, Node, Session, UpgradeId};
use crus_core::ports::{Revision, SessionStore, StoreError};
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
    TableHandle,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// The version of the stored form that this code writes. It changes when older code could not read it.
const FORMAT: u64 = 1;

/// How long a lock on the file is waited for, and how often it is tried.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// redb's own default would let it grow to a gibibyte; the hot part of a session is some hundred KiB.
const CACHE_BYTES: usize = 4 << 20;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT_KEY: &str = "format";
const REVISIONS: TableDefinition<'_, u128, u64> = TableDefinition::new("revisions");
const HEADS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("heads");
const NODES: TableDefinition<'_, (u128, u32), &[u8]> = TableDefinition::new("nodes");
const MESSAGES: TableDefinition<'_, (u128, u32), &str> = TableDefinition::new("messages");
const ORDERS: TableDefinition<'_, u128, ()> = TableDefinition::new("deletion_orders");

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
/// - After an error of the disk (full, say) it works again as soon as the disk does.
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
        let file = StoreFile { path: path.to_owned(), database: Mutex::new(Some(Arc::new(database))) };
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
    /// `None` after an error of the disk: redb refuses everything from then on, until opened again.
    database: Mutex<Option<Arc<Database>>>,
}

impl StoreFile {
    fn run<T>(&self, work: impl FnOnce(&Database) -> Result<T, Trouble>) -> Result<T, StoreError> {
        let database = self.database().map_err(|error| StoreError::Failed(error.to_string()))?;
        work(&database).map_err(|trouble| match trouble {
            Trouble::Told(error) => error,
            Trouble::Redb(error) => {
                if matches!(
                    *error,
                    redb::Error::Io(_)
                        | redb::Error::PreviousIo
                        | redb::Error::Backend(_)
                        | redb::Error::LockPoisoned(_)
                        | redb::Error::DatabaseClosed
                ) {
                    self.database.lock().unwrap_or_else(PoisonError::into_inner).take();
                }
                StoreError::Failed(format!("{}: {error}", self.path.display()))
            }
        })
    }

    fn database(&self) -> Result<Arc<Database>, OpenError> {
        let mut held = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match held.take() {
            Some(database) => database,
            None => Arc::new(open(&self.path)?),
        };
        Ok(Arc::clone(held.insert(database)))
    }
}

fn open(path: &Path) -> Result<Database, OpenError> {
    let shown = || path.display().to_string();
    let io = |error| OpenError::Io { path: shown(), error };

    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !fs::metadata(directory).is_ok_and(|found| found.is_dir()) {
        return Err(OpenError::NoDirectory { path: shown(), directory: directory.display().to_string() });
    }
    // redb would create it readable by everybody.
    let created =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let length = created.and_then(|file| file.metadata()).map_err(io)?.len();
    if length == 0 {
        // A new name in a directory survives a power cut only once the directory is on disk, too.
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    }

    let not_a_store = |detail: String| OpenError::NotAStore { path: shown(), detail };
    let database = create(path).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::Locked { path: shown() },
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
            io(error)
        }
        other => not_a_store(other.to_string()),
    })?;

    let found =
        if length == 0 { None } else { format_of(&database).map_err(|e| not_a_store(e.to_string()))? };
    match found {
        Some(FORMAT) => Ok(database),
        Some(found) if found > FORMAT => Err(OpenError::Newer { path: shown(), found }),
        Some(found) => Err(not_a_store(format!("format {found}"))),
        None => {
            lay_out(&database).map_err(|trouble| match trouble {
                Trouble::Redb(error) => not_a_store(error.to_string()),
                Trouble::Told(error) => not_a_store(error.to_string()),
            })?;
            Ok(database)
        }
    }
}

/// Opens the database, or makes it. A service that was killed may leave its lock with a program that it was just
/// starting, until that program runs: such a lock is waited for.
fn create(path: &Path) -> Result<Database, DatabaseError> {
    let started = Instant::now();
    loop {
        match Builder::new().set_cache_size(CACHE_BYTES).create(path) {
            Err(DatabaseError::DatabaseAlreadyOpen) if started.elapsed() < LOCK_PATIENCE => {
                thread::sleep(LOCK_PAUSE);
            }
            result => return result,
        }
    }
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
    writing.open_table(ORDERS)?;
    writing.commit()?;
    Ok(())
}

/// Why a transaction did not happen.
enum Trouble {
    Redb(Box<redb::Error>),
    Told(StoreError),
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Trouble::Redb(Box::new(error.into()))
    }
}

/// The parts of a session that a write is about, encoded.
#[derive(Default)]
struct Parts {
    head: Option<Vec<u8>>,
    nodes: Vec<(u32, Vec<u8>)>,
    messages: Vec<(u32, String)>,
}

impl Parts {
    fn of(session: &Session, changes: Changes) -> Result<Self, StoreError> {
        let Changes { head, nodes, messages } = changes;
        let missing = |what: &str, index| {
            StoreError::Failed(format!("session {} has no {what} {index} to store", session.head.id))
        };
        let mut parts = Parts { head: head.then(|| encode(&session.head)).transpose()?, ..Parts::default() };
        for index in nodes {
            let node = session.nodes.get(index).ok_or_else(|| missing("node", index))?;
            parts.nodes.push((position(index)?, encode(node)?));
        }
        for index in messages {
            let message = session.messages.get(index).ok_or_else(|| missing("message", index))?;
            parts.messages.push((position(index)?, message.clone()));
        }
        Ok(parts)
    }

    fn write(&self, writing: &redb::WriteTransaction, id: u128) -> Result<(), Trouble> {
        if let Some(head) = &self.head {
            writing.open_table(HEADS)?.insert(id, head.as_slice())?;
        }
        let nodes = self.nodes.iter().map(|(index, node)| (*index, node.as_slice()));
        put(&mut writing.open_table(NODES)?, id, nodes)?;
        let messages = self.messages.iter().map(|(index, message)| (*index, message.as_str()));
        put(&mut writing.open_table(MESSAGES)?, id, messages)
    }
}

/// Replaces or appends values, in the order of their indices. What would leave a gap is refused: the session could not
/// be read again.
fn put<'a, V: redb::Value + 'static>(
    table: &mut Table<'_, (u128, u32), V>,
    id: u128,
    values: impl Iterator<Item = (u32, V::SelfType<'a>)>,
) -> Result<(), Trouble> {
    for (index, value) in values {
        let is_new = table.insert((id, index), value)?.is_none();
        if is_new && index > 0 && table.get((id, index - 1))?.is_none() {
            let text = format!("{} {index} would leave a gap", table.name());
            return Err(Trouble::Told(StoreError::Failed(text)));
        }
    }
    Ok(())
}

fn position(index: usize) -> Result<u32, StoreError> {
    u32::try_from(index).map_err(|_| StoreError::Failed(format!("index {index} is too large to store")))
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Failed(error.to_string()))
}

fn decode<T: DeserializeOwned>(what: &str, id: UpgradeId, value: &[u8]) -> Result<T, Trouble> {
    serde_json::from_slice(value)
        .map_err(|error| Trouble::Told(StoreError::Unreadable(format!("{what} of session {id}: {error}"))))
}

/// The values of one session, which must be without a gap.
fn in_order<T>(
    what: &str,
    id: UpgradeId,
    rows: impl Iterator<Item = Result<(u32, T), Trouble>>,
) -> Result<Vec<T>, Trouble> {
    let mut values = Vec::new();
    for row in rows {
        let (index, value) = row?;
        if usize::try_from(index) != Ok(values.len()) {
            let text = format!("{what} {} of session {id} is missing", values.len());
            return Err(Trouble::Told(StoreError::Unreadable(text)));
        }
        values.push(value);
    }
    Ok(values)
}

/// The keys of everything that belongs to one session.
fn keys_of(id: u128) -> std::ops::RangeInclusive<(u128, u32)> {
    (id, 0)..=(id, u32::MAX)
}

#[async_trait]
impl SessionStore for RedbStore {
    async fn create(&self, session: &Session) -> Result<Revision, StoreError> {
        let id = session.head.id;
        let parts = Parts::of(session, Changes::all(session))?;
        self.run(move |database| {
            let key = id.0.as_u128();
            let writing = database.begin_write()?;
            {
                let mut revisions = writing.open_table(REVISIONS)?;
                if revisions.get(key)?.is_some() {
                    return Err(Trouble::Told(StoreError::Conflict(id)));
                }
                revisions.insert(key, 1)?;
                parts.write(&writing, key)?;
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

    async fn load(&self, id: UpgradeId) -> Result<Option<(Session, Revision)>, StoreError> {
        self.run(move |database| {
            let key = id.0.as_u128();
            let reading = database.begin_read()?;
            let Some(revision) = reading.open_table(REVISIONS)?.get(key)?.map(|found| found.value()) else {
                return Ok(None);
            };
            let Some(head) = reading.open_table(HEADS)?.get(key)? else {
                let text = format!("the head of session {id} is missing");
                return Err(Trouble::Told(StoreError::Unreadable(text)));
            };
            let nodes = reading.open_table(NODES)?;
            let nodes = nodes.range(keys_of(key))?.map(|row| {
                let (key, value) = row?;
                Ok((key.value().1, decode::<Node>("a node", id, value.value())?))
            });
            let messages = reading.open_table(MESSAGES)?;
            let messages = messages.range(keys_of(key))?.map(|row| {
                let (key, value) = row?;
                Ok((key.value().1, value.value().to_owned()))
            });
            let session = Session {
                head: decode("the head", id, head.value())?,
                nodes: in_order("node", id, nodes)?,
                messages: in_order("message", id, messages)?,
                limits: Limits::default(),
                known: Known::default(),
            };
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
        let parts = Parts::of(session, Changes::of(session, events))?;
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
                parts.write(&writing, key)?;
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
            writing.open_table(ORDERS)?.remove(key)?;
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
}
