//! Commands, as any replica notes them, each under a key of its own. A command's number is the revision of etcd in
//! which its key was created: it rises whoever notes it, and is greater than that of any command before.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crus_core::model::{NumberedCommand, Ordered, UpgradeId};
use crus_core::ports::StoreError;
use crus_core::stored;
use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use uuid::Uuid;

use super::reading::Noted;
use super::writing::Table;

/// How often a command is tried to be noted that others come before.
const TRIES: usize = 20;

/// The most commands that one save drops: more would not fit into its transaction.
const DROPPED_AT_ONCE: usize = 10;

/// The keys of commands that were seen here, by their numbers: who runs a session has seen those that it takes in.
#[derive(Default)]
pub(super) struct Seen(Mutex<BTreeMap<UpgradeId, BTreeMap<u64, Vec<u8>>>>);

impl Seen {
    fn see(&self, id: UpgradeId, noted: &Noted) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entry(id).or_default().insert(noted.number, noted.key.clone());
    }

    /// Those that a session has taken in up to this number, or some of them.
    pub(super) fn taken_in(&self, id: UpgradeId, number: u64) -> Vec<(u64, Vec<u8>)> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken_in = seen.get(&id).into_iter().flat_map(|seen| seen.range(..=number)).take(DROPPED_AT_ONCE);
        taken_in.map(|(number, key)| (*number, key.clone())).collect()
    }

    /// They are not in etcd any more.
    pub(super) fn dropped(&self, id: UpgradeId, dropped: &[(u64, Vec<u8>)]) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of) = seen.get_mut(&id) else { return };
        for (number, _) in dropped {
            of.remove(number);
        }
        if of.is_empty() {
            seen.remove(&id);
        }
    }

    /// Somebody else runs the session, or nobody.
    pub(super) fn forget(&self, id: UpgradeId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

/// Notes a command. `None` when there is no such session.
pub(super) async fn note(
    table: Table<'_>,
    id: UpgradeId,
    ordered: Ordered,
) -> Result<Option<u64>, StoreError> {
    let keys = table.keys;
    let key = keys.command(id, &Uuid::new_v4().to_string());
    for _ in 0..TRIES {
        let Some(look) = table.look(id).await? else { return Ok(None) };
        let next = look.at + 1;
        let (_, noted, _) = look.commands(id)?;
        // Noted by an attempt whose answer was lost.
        if let Some(own) = noted.iter().find(|noted| noted.key == key.as_bytes()) {
            return Ok(Some(own.number));
        }
        if let Some(latest) = noted.last().filter(|latest| latest.ordered.command == ordered.command) {
            return Ok(Some(latest.number));
        }
        let when = [
            Compare::version(keys.revision(id), CompareOp::Greater, 0),
            // Nobody noted another one since.
            Compare::create_revision(keys.commands(id), CompareOp::Less, next).with_prefix(),
        ];
        let put = TxnOp::put(key.as_str(), stored::encode(&ordered)?, None);
        let done = table.txn("note a command", Txn::new().when(when).and_then([put])).await?;
        if done.succeeded() {
            let number = done.header().and_then(|header| u64::try_from(header.revision()).ok());
            let untold = || StoreError::Failed("etcd did not tell the revision".to_owned());
            return number.map(Some).ok_or_else(untold);
        }
    }
    Err(StoreError::Failed("too many commands are noted for the session at once".to_owned()))
}

/// The commands that are noted and not taken in, in order. `seen`: where to keep their keys, when the session is ours.
pub(super) async fn noted(
    table: Table<'_>,
    id: UpgradeId,
    seen: Option<&Seen>,
) -> Result<Vec<NumberedCommand>, StoreError> {
    let Some(look) = table.look(id).await? else { return Ok(Vec::new()) };
    let (_, noted, taken_in) = look.commands(id)?;
    if let Some(seen) = seen {
        // A save that took them in may not have known them.
        taken_in.iter().chain(&noted).for_each(|noted| seen.see(id, noted));
    }
    Ok(noted.into_iter().map(|noted| noted.ordered.numbered(noted.number)).collect())
}
