//! Sessions in one local file, with [redb].
//!
//! A session is stored in parts, so that a change to one node of many thousands is a small write: heads, nodes,
//! messages and claims each have a table, with JSON for values. Every write is one transaction, on
//! disk when the call returns. The file is locked: two services cannot share it.

mod file;
mod inspect;
mod migrate;
mod opening;
mod overlay;
mod tables;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use crus_core::claims::{self, Turn};
use crus_core::history::Entry;
use crus_core::machine::Event;
use crus_core::model::{
    Command, DeletionOrder, Node, NumberedCommand, Ordered, Phase, Session, Summary, UpgradeId,
};
use crus_core::ports::{Change, DriverStore, Revision, SessionStore, StoreChanges, StoreError};
use crus_core::stored::{self, Parts};
use crus_core::{Actor, Xname};
use redb::{Database, ReadableDatabase, ReadableTable, TableError};
use uuid::Uuid;

use file::StoreFile;
use tables::{
    CLAIMS, COMMANDED_KEY, COMMANDS, DELIVERED, HEADS, HISTORY, MESSAGES, META, NODES, ORDERED_BY, ORDERS,
    REVISIONS, Trouble, claims_in, commands_of, enter_claim, head_of, rows, write,
};

pub(super) use inspect::FileView;
pub use opening::OpenError;

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
        let database = opening::open(path)?;
        Ok(RedbStore { file: Arc::new(StoreFile::new(path, database)) })
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

#[async_trait]
impl DriverStore for RedbStore {
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
            let writing = database.begin_write()?;
            tables::remove(&writing, id.0.as_u128())?;
            writing.commit()?;
            Ok(())
        })
        .await
    }

    async fn claim(&self, id: UpgradeId, nodes: &[Xname]) -> Result<Turn, StoreError> {
        let nodes = nodes.to_vec();
        self.run(move |database| {
            // Who waits asks again and again: as long as that changes nothing, others save meanwhile.
            let mut claims = claims_in(&database.begin_read()?.open_table(CLAIMS)?)?;
            let (turn, changed) = claims::claim(id, &nodes, &mut claims);
            if !changed {
                return Ok(turn);
            }
            let writing = database.begin_write()?;
            let turn = {
                let mut table = writing.open_table(CLAIMS)?;
                let mut claims = claims_in(&table)?;
                let (turn, _) = claims::claim(id, &nodes, &mut claims);
                if let Some(claim) = claims.get(&id) {
                    let claim = stored::encode(claim).map_err(Trouble::Told)?;
                    table.insert(id.0.as_u128(), claim.as_slice())?;
                }
                turn
            };
            writing.commit()?;
            Ok(turn)
        })
        .await
    }

    /// The file is locked: nobody else can run anything.
    fn owns(&self, _: UpgradeId) -> bool {
        true
    }
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
                let commands = commands.into_iter().map(|noted| (noted.number, noted.command)).collect();
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

    async fn order_deletion(&self, id: UpgradeId, by: Option<&Actor>) -> Result<(), StoreError> {
        let by = by.cloned();
        self.run(move |database| {
            let key = id.0.as_u128();
            let writing = database.begin_write()?;
            // An order for a session that is gone would stay for ever.
            if writing.open_table(REVISIONS)?.get(key)?.is_some() {
                let is_first = writing.open_table(ORDERS)?.insert(key, ())?.is_none();
                if let Some(by) = by.as_ref().filter(|_| is_first) {
                    writing.open_table(ORDERED_BY)?.insert(key, by.as_str())?;
                }
            }
            writing.commit()?;
            Ok(())
        })
        .await
    }

    async fn deletion(&self, id: UpgradeId) -> Result<Option<DeletionOrder>, StoreError> {
        self.run(move |database| {
            let key = id.0.as_u128();
            let reading = database.begin_read()?;
            if reading.open_table(ORDERS)?.get(key)?.is_none() {
                return Ok(None);
            }
            let by = match reading.open_table(ORDERED_BY) {
                Ok(table) => table.get(key)?.and_then(|by| by.value().parse().ok()),
                Err(TableError::TableDoesNotExist(_)) => None,
                Err(error) => return Err(error.into()),
            };
            Ok(Some(DeletionOrder { by }))
        })
        .await
    }

    async fn command(
        &self,
        id: UpgradeId,
        command: Command,
        by: Option<&Actor>,
    ) -> Result<Option<u64>, StoreError> {
        let by = by.cloned();
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
                        let last: Ordered =
                            stored::decode("a command", id, value.value()).map_err(Trouble::Told)?;
                        Some((number.value().1, last))
                    }
                };
                if let Some((number, _)) = last.filter(|(_, last)| last.command == command) {
                    return Ok(Some(number));
                }
                let mut meta = writing.open_table(META)?;
                let number = meta.get(COMMANDED_KEY)?.map_or(0, |number| number.value()) + 1;
                meta.insert(COMMANDED_KEY, number)?;
                let ordered = Ordered { command, by };
                let ordered = stored::encode(&ordered).map_err(Trouble::Told)?;
                commands.insert((key, number), ordered.as_slice())?;
                number
            };
            writing.commit()?;
            Ok(Some(number))
        })
        .await
    }

    async fn commands(&self, id: UpgradeId) -> Result<Vec<NumberedCommand>, StoreError> {
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

    async fn delivered(&self, id: UpgradeId) -> Result<Option<u64>, StoreError> {
        self.run(move |database| {
            let delivered = database.begin_read()?.open_table(DELIVERED)?;
            Ok(delivered.get(id.0.as_u128())?.map(|number| number.value()))
        })
        .await
    }

    async fn set_delivered(&self, id: UpgradeId, number: u64) -> Result<(), StoreError> {
        self.run(move |database| {
            let key = id.0.as_u128();
            let writing = database.begin_write()?;
            if writing.open_table(REVISIONS)?.get(key)?.is_none() {
                return Err(Trouble::Told(StoreError::NotOwner(id)));
            }
            writing.open_table(DELIVERED)?.insert(key, number)?;
            writing.commit()?;
            Ok(())
        })
        .await
    }

    async fn own(&self, id: UpgradeId) -> Result<bool, StoreError> {
        self.run(move |database| {
            Ok(database.begin_read()?.open_table(REVISIONS)?.get(id.0.as_u128())?.is_some())
        })
        .await
    }

    async fn disowned(&self, _: UpgradeId) {
        std::future::pending::<()>().await;
    }

    async fn remove_finished(&self, id: UpgradeId) -> Result<bool, StoreError> {
        self.run(move |database| {
            let key = id.0.as_u128();
            let writing = database.begin_write()?;
            if writing.open_table(REVISIONS)?.get(key)?.is_none() {
                return Ok(true);
            }
            let head = head_of(&writing.open_table(HEADS)?, id)?;
            let is_done = stored::head(id, &head).map_err(Trouble::Told)?.is_done();
            if !is_done
                || writing.open_table(ORDERS)?.get(key)?.is_some()
                || !commands_of(&writing.open_table(COMMANDS)?, id)?.is_empty()
            {
                return Ok(false);
            }
            tables::remove(&writing, key)?;
            writing.commit()?;
            Ok(true)
        })
        .await
    }

    async fn disown(&self, _: UpgradeId) -> Result<(), StoreError> {
        Ok(())
    }

    async fn changes(&self) -> Result<Box<dyn StoreChanges>, StoreError> {
        Ok(Box::new(NoChanges))
    }
}

/// Nobody else can change anything, and who shares this process knows what was done.
struct NoChanges;

#[async_trait]
impl StoreChanges for NoChanges {
    async fn next(&mut self) -> Result<Change, StoreError> {
        std::future::pending().await
    }
}
