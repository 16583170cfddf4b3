//! Sessions in [etcd], shared by several replicas of the service.
//!
//! # Layout
//!
//! All keys begin with the prefix of the configuration. Values are JSON but for a few words.
//!
//! | key | value |
//! | --- | --- |
//! | `format` | the [format](crus_core::stored::FORMAT) of all of it |
//! | `turn` | changes whenever a claim does; who decides about claims compares it |
//! | `claims/ID` | the [claim](Claim) of a session that is not done; its place in the order of creation is the revision of etcd in which this key was created |
//! | `sessions/ID/revision` | the name of the last save. The revision of etcd in which it was written is the session's [`Revision`] |
//! | `sessions/ID/node/POSITION`, `…/message/POSITION` | one node or message |
//! | `sessions/ID/history/PLACE` | one entry of the history: a ring |
//! | `sessions/ID/delivered` | the number of the latest entry that was delivered to who wants to be told of it |
//! | `sessions/ID/staged/NAME/node/POSITION`, … | many of them, as lines: parts of a save that is too large for one transaction |
//! | `sessions/ID/pending` | the name of the staged set that counts, and is to be laid over the parts |
//! | `live/heads/ID` | the head; the session exists while this does |
//! | `live/orders/ID` | its deletion was ordered: by whom, where that is known |
//! | `live/commands/ID/NAME` | a command that is noted for it, until it was taken in; the revision of etcd in which the key was created is its number |
//! | `live/owners/ID` | who runs it, bound to that process's lease |
//!
//! Replicas follow `live/`, which is small. To look into it: `etcdctl get --prefix /crus/live/`.
//!
//! # Guarantees
//!
//! - A save is stored wholly or not at all, however large, and only by the owner: the transaction that makes it
//!   count compares the owner's lease and the revision. What a save that was cut off left is ignored, and removed by the
//!   next owner.
//! - A save that is made again since its answer was lost learns that it happened.
//! - A session is owned until shortly before its lease can end, counted from when the last renewal was sent, by a clock
//!   that nobody sets. A process that was stopped for longer knows at its next question that it owns nothing.
//! - When etcd goes away everything fails in bounded time, and works again once it is back: every request that got
//!   no answer makes for a new connection, to the next of its members.
//!
//! # Caveats
//!
//! - Old revisions must be removed by etcd itself, as everywhere (`--auto-compaction-retention`).
//! - The clock does not count time in which the whole machine is suspended. Actions are named and their outcome
//!   is looked at, so that even two owners reboot nothing twice.
//!
//! [etcd]: https://etcd.io

mod changes;
mod commands;
mod connection;
mod inspect;
mod keys;
mod opening;
mod ownership;
mod reading;
mod writing;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crus_core::claims::{self, Claim, Turn};
use crus_core::history::Entry;
use crus_core::machine::Event;
use crus_core::model::{
    Command, DeletionOrder, Node, NumberedCommand, Ordered, Phase, Session, Summary, UpgradeId,
};
use crus_core::ports::{DriverStore, Revision, SessionStore, StoreChanges, StoreError};
use crus_core::stored::{self, Parts};
use crus_core::{Actor, Xname};
use etcd_client::{Compare, CompareOp, DeleteOptions, PutOptions, Txn, TxnOp};
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::Lease;
use crate::metrics::LeaseMetrics;
use crate::settings::EtcdOptions;

pub(super) use inspect::EtcdView;
pub use opening::EtcdError;

use changes::Watching;
use commands::Seen;
use connection::{Connection, PATIENCE, Trouble};
use keys::Keys;
use ownership::{Keeper, Ownership, found};
use reading::Claims;
use writing::{ReadError, Table, Write, Written, token};

/// How often a claim is decided anew that another one came before, and how long a pause in between is at most.
const CLAIM_TRIES: u32 = 50;
const CLAIM_PAUSE_MS: u32 = 50;

/// How often a save begins anew, or a read of a revision that is not kept any more.
const TRIES: usize = 5;

/// So much shorter than the configured time is the lease: etcd looks for leases that have ended twice a second, and
/// whoever takes over needs a moment.
const TO_TAKE_OVER_S: u64 = 1;

/// For how long nothing may be heard of etcd by who follows it.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

/// How long what must be done right away may take.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);

/// A [`SessionStore`] in etcd.
#[derive(Clone)]
pub struct EtcdStore {
    shared: Arc<Shared>,
}

struct Shared {
    connection: Arc<Connection>,
    keys: Keys,
    ownership: Arc<Ownership>,
    lease: Duration,
    /// Who we are, for people who look into etcd.
    name: String,
    /// The commands of the sessions that are ours.
    seen: Seen,
    keeper: AbortHandle,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl EtcdStore {
    /// Opens the store, or lays it out, and gets a lease. Must be called on a runtime of tokio, which renews it.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub async fn open(options: &EtcdOptions) -> Result<Self, EtcdError> {
        EtcdStore::open_counting(options, LeaseMetrics::default()).await
    }

    /// Likewise, counting there what becomes of leases.
    ///
    /// # Errors
    /// As of [`EtcdStore::open`].
    pub async fn open_counting(options: &EtcdOptions, metrics: LeaseMetrics) -> Result<Self, EtcdError> {
        opening::check(options)?;
        let connection = Connection::new(options.clone());
        // What can be said better before anything is asked.
        connection.connect_options().map_err(|error| EtcdError::File(error.to_string()))?;
        let connection = Arc::new(connection);
        let keys = Keys::new(&options.prefix);
        opening::lay_out_or_migrate(options, Table { connection: &connection, keys: &keys }).await?;
        let explained = |trouble| opening::explained(options, trouble);

        let ownership = Arc::new(Ownership::new(metrics));
        let lease_s = options.lease_s.saturating_sub(TO_TAKE_OVER_S).max(1);
        let keeper = Keeper::new(Arc::clone(&connection), keys.clone(), Arc::clone(&ownership), lease_s);
        keeper.begin(PATIENCE).await.map_err(explained)?;
        let keeper = tokio::spawn(keeper.run()).abort_handle();
        let lease = Duration::from_secs(lease_s);
        let seen = Seen::default();
        let shared = Shared { connection, keys, ownership, lease, name: name(), seen, keeper };
        Ok(EtcdStore { shared: Arc::new(shared) })
    }

    /// Ends the lease: what is owned still is free for others at once. Nothing can be owned from then on.
    pub async fn close(&self) {
        let Shared { connection, ownership, keeper, .. } = &*self.shared;
        keeper.abort();
        let Some((lease, _)) = ownership.end() else { return };
        if let Err(trouble) = ownership::revoke(connection, lease, SHORT_PATIENCE).await {
            tracing::warn!(
                "failed to end our lease in etcd, so that others wait for its end: {}",
                StoreError::from(trouble)
            );
        }
    }

    /// How our lease stands.
    pub(super) fn lease(&self) -> Lease {
        let Shared { ownership, keeper, .. } = &*self.shared;
        if keeper.is_finished() {
            let trouble = Some("nobody renews the lease any more".to_owned());
            return Lease { trouble, sessions: 0 };
        }
        ownership.look()
    }

    fn table(&self) -> Table<'_> {
        Table { connection: &self.shared.connection, keys: &self.shared.keys }
    }

    fn keys(&self) -> &Keys {
        &self.shared.keys
    }

    /// The parts of a save. The head is always told with the messages, as it is what others follow.
    fn parts(session: &Session, events: &[Event]) -> Result<Parts, StoreError> {
        let mut parts = Parts::of(session, events)?;
        if parts.head.is_none() && !(parts.messages.is_empty() && parts.messages_end.is_none()) {
            parts.head = Some(stored::encode(&session.head)?);
        }
        Ok(parts)
    }

    /// Why a session that is not ours cannot be saved.
    async fn not_ours(&self, id: UpgradeId) -> Result<StoreError, StoreError> {
        let there = self.table().look(id).await?.is_some();
        Ok(if there { StoreError::NotOwner(id) } else { StoreError::Conflict(id) })
    }

    /// etcd says that a session is not ours.
    fn lost(&self, id: UpgradeId) -> StoreError {
        self.shared.seen.forget(id);
        self.shared.ownership.leave(id);
        StoreError::NotOwner(id)
    }
}

/// Reads again while what is read is removed meanwhile.
macro_rules! while_compacted {
    ($read:expr) => {{
        let mut tries = 1;
        loop {
            match $read.await {
                Err(ReadError::Trouble(Trouble::Compacted)) if tries < TRIES => tries += 1,
                read => break read.map_err(StoreError::from),
            }
        }
    }};
}

/// The value of an order that nobody knows the giver of.
const ORDERED: &[u8] = b"ordered";

#[async_trait]
impl DriverStore for EtcdStore {
    async fn save(
        &self,
        session: &Session,
        events: &[Event],
        revision: Revision,
    ) -> Result<Revision, StoreError> {
        let id = session.head.id;
        let parts = Self::parts(session, events)?;
        let Some(lease) = self.shared.ownership.lease_of(id) else { return Err(self.not_ours(id).await?) };
        let stored = i64::try_from(revision.0).map_err(|_| StoreError::Conflict(id))?;
        let token = token(lease, stored, &parts);
        let mut besides = Vec::new();
        if session.is_done() {
            besides.push(TxnOp::delete(self.keys().claim(id), None));
        } else if events.contains(&Event::Phase(Phase::Created)) {
            // It begins anew after its end, when it had no claim any more: a new key is the last.
            let claim = stored::encode(&Claim::of(session, 0))?;
            besides.push(TxnOp::put(self.keys().claim(id), claim, None));
        }
        let seen = &self.shared.seen;
        let dropped = match parts.head {
            Some(_) => seen.taken_in(id, session.head.commands),
            None => Vec::new(),
        };
        besides.extend(dropped.iter().map(|(_, key)| TxnOp::delete(key.as_slice(), None)));
        let write = Write { id, parts: &parts, token: &token, guard: Some((lease, stored)), besides };
        for _ in 0..TRIES {
            match self.table().write(&write).await? {
                Written::Done(revision) => {
                    seen.dropped(id, &dropped);
                    return Ok(to_revision(revision));
                }
                Written::Conflict => return Err(StoreError::Conflict(id)),
                Written::NotOwner => return Err(self.lost(id)),
                Written::Gap => return Err(would_leave_a_gap(id)),
                Written::Pending(token) => self.table().apply(id, &token, None).await?,
            }
        }
        Err(StoreError::Failed("a large write before this one does not come to its end".to_owned()))
    }

    async fn remove(&self, id: UpgradeId) -> Result<(), StoreError> {
        self.table().txn("remove a session", Txn::new().and_then(removal(self.keys(), id))).await?;
        self.shared.seen.forget(id);
        self.shared.ownership.leave(id);
        Ok(())
    }

    async fn claim(&self, id: UpgradeId, nodes: &[Xname]) -> Result<Turn, StoreError> {
        let Some(lease) = self.shared.ownership.lease_of(id) else { return Err(self.not_ours(id).await?) };
        let keys = self.keys();
        for n in 0..CLAIM_TRIES {
            let Claims { turn: key, owner, own, mut all } = while_compacted!(self.table().claims(id))?;
            if owner != lease {
                return Err(self.lost(id));
            }
            let (turn, changed) = claims::claim(id, nodes, &mut all);
            let Some(claim) = all.get(&id).filter(|_| changed) else { return Ok(turn) };
            let when = [
                Compare::mod_revision(keys.turn(), CompareOp::Equal, key),
                Compare::mod_revision(keys.claim(id), CompareOp::Equal, own),
                Compare::lease(keys.owner(id), CompareOp::Equal, lease),
            ];
            let then = [
                TxnOp::put(keys.turn(), id.to_string(), None),
                TxnOp::put(keys.claim(id), stored::encode(claim)?, None),
            ];
            if self.table().txn("claim", Txn::new().when(when).and_then(then)).await?.succeeded() {
                return Ok(turn);
            }
            // Another claim came first. Those that wait here do not all come back at once.
            let spread = u32::try_from(id.0.as_u128() % 97).unwrap_or_default() + 1;
            let pause = spread * (n + 1) % CLAIM_PAUSE_MS;
            tokio::time::sleep(Duration::from_millis(pause.into())).await;
        }
        Err(StoreError::Failed("too many sessions ask for their turn at once".to_owned()))
    }

    fn owns(&self, id: UpgradeId) -> bool {
        self.shared.ownership.owns(id)
    }
}

#[async_trait]
impl SessionStore for EtcdStore {
    async fn create(&self, session: &Session) -> Result<Revision, StoreError> {
        let id = session.head.id;
        let parts = Parts::all(session)?;
        let mut besides = Vec::new();
        if !session.is_done() {
            let claim = stored::encode(&Claim::of(session, 0))?;
            besides.push(TxnOp::put(self.keys().claim(id), claim, None));
        }
        let token = Uuid::new_v4().to_string();
        let write = Write { id, parts: &parts, token: &token, guard: None, besides };
        match self.table().write(&write).await? {
            Written::Done(revision) => Ok(to_revision(revision)),
            Written::Conflict | Written::NotOwner => Err(StoreError::Conflict(id)),
            Written::Pending(_) | Written::Gap => Err(would_leave_a_gap(id)),
        }
    }

    async fn ids(&self) -> Result<Vec<UpgradeId>, StoreError> {
        Ok(self.table().ids().await?)
    }

    async fn summary(&self, id: UpgradeId) -> Result<Option<Summary>, StoreError> {
        while_compacted!(self.table().summary(id))
    }

    async fn load(&self, id: UpgradeId) -> Result<Option<(Session, Revision)>, StoreError> {
        let loaded = while_compacted!(self.table().load(id))?;
        Ok(loaded.map(|(session, revision)| (session, to_revision(revision))))
    }

    async fn order_deletion(&self, id: UpgradeId, by: Option<&Actor>) -> Result<(), StoreError> {
        let (head, order) = (self.keys().head(id), self.keys().order(id));
        // An order for a session that is gone would stay for ever.
        let when = [
            Compare::version(head, CompareOp::Greater, 0),
            Compare::version(order.clone(), CompareOp::Equal, 0),
        ];
        let value = by.map_or_else(|| Ok(ORDERED.to_vec()), stored::encode)?;
        let txn = Txn::new().when(when).and_then([TxnOp::put(order, value, None)]);
        self.table().txn("order a deletion", txn).await?;
        Ok(())
    }

    async fn deletion(&self, id: UpgradeId) -> Result<Option<DeletionOrder>, StoreError> {
        let read = Txn::new().and_then([TxnOp::get(self.keys().order(id), None)]);
        let answer = self.table().txn("read an order", read).await?;
        let Some(order) = found(&answer).into_iter().flatten().next() else { return Ok(None) };
        let by = match order.value() {
            ORDERED => None,
            // Whoever it was: the order stands.
            by => stored::decode("who ordered a deletion", id, by).ok(),
        };
        Ok(Some(DeletionOrder { by }))
    }

    async fn command(
        &self,
        id: UpgradeId,
        command: Command,
        by: Option<&Actor>,
    ) -> Result<Option<u64>, StoreError> {
        commands::note(self.table(), id, Ordered { command, by: by.cloned() }).await
    }

    async fn commands(&self, id: UpgradeId) -> Result<Vec<NumberedCommand>, StoreError> {
        let seen = self.owns(id).then_some(&self.shared.seen);
        commands::noted(self.table(), id, seen).await
    }

    async fn nodes(&self, id: UpgradeId, from: usize, count: usize) -> Result<Vec<Node>, StoreError> {
        while_compacted!(self.table().nodes(id, from, count))
    }

    async fn history(&self, id: UpgradeId, after: u64, count: usize) -> Result<Vec<Entry>, StoreError> {
        while_compacted!(self.table().history(id, after, count))
    }

    async fn delivered(&self, id: UpgradeId) -> Result<Option<u64>, StoreError> {
        let read = Txn::new().and_then([TxnOp::get(self.keys().delivered(id), None)]);
        let answer = self.table().txn("read what was delivered", read).await?;
        let number = found(&answer).into_iter().flatten().next();
        number.map(|kv| stored::decode("what was delivered", id, kv.value())).transpose()
    }

    async fn set_delivered(&self, id: UpgradeId, number: u64) -> Result<(), StoreError> {
        let keys = self.keys();
        let Some(lease) = self.shared.ownership.lease_of(id) else { return Err(StoreError::NotOwner(id)) };
        let when = [
            Compare::version(keys.revision(id), CompareOp::Greater, 0),
            Compare::lease(keys.owner(id), CompareOp::Equal, lease),
        ];
        let put = TxnOp::put(keys.delivered(id), number.to_string(), None);
        let txn = Txn::new().when(when).and_then([put]);
        match self.table().txn("note what was delivered", txn).await?.succeeded() {
            true => Ok(()),
            false => Err(StoreError::NotOwner(id)),
        }
    }

    async fn own(&self, id: UpgradeId) -> Result<bool, StoreError> {
        let Shared { ownership, keys, name, .. } = &*self.shared;
        let _held = ownership.hold(id).await?;
        let Some(lease) = ownership.lease() else { return Err(ownership.why_none()) };
        let owner = keys.owner(id);
        // Replicas ask for each other's sessions again and again: no write for what somebody else runs.
        let read = Txn::new().and_then([TxnOp::get(owner.clone(), None)]);
        let read = self.table().txn("read an owner", read).await?;
        if found(&read).into_iter().flatten().any(|key| key.lease() != lease) {
            ownership.leave(id);
            return Ok(false);
        }
        let is_there = || Compare::version(keys.revision(id), CompareOp::Greater, 0);
        let put = TxnOp::put(owner.clone(), name.as_str(), Some(PutOptions::new().with_lease(lease)));
        // What somebody staged who does not own the session any more, and which does not count.
        let clean = Txn::new()
            .when([Compare::version(keys.pending(id), CompareOp::Equal, 0)])
            .and_then([TxnOp::delete(keys.staged(id), Some(DeleteOptions::new().with_prefix()))]);
        // Put again even when it is ours, so that nothing asked before concerns this key.
        let again = Txn::new()
            .when([is_there(), Compare::lease(owner.clone(), CompareOp::Equal, lease)])
            .and_then([put.clone()]);
        let txn = Txn::new()
            .when([is_there(), Compare::version(owner.clone(), CompareOp::Equal, 0)])
            .and_then([put, TxnOp::txn(clean)])
            .or_else([TxnOp::txn(again)]);
        let answer = self.table().txn("own a session", txn).await?;
        let owned = answer.succeeded()
            || answer
                .op_responses()
                .iter()
                .any(|again| matches!(again, etcd_client::TxnOpResponse::Txn(again) if again.succeeded()));
        let revision = answer.header().map_or(0, |header| header.revision());
        if !owned {
            ownership.leave(id);
            return Ok(false);
        }
        if !ownership.enter(id, lease, revision) {
            return Err(StoreError::Failed("our lease in etcd has ended meanwhile".to_owned()));
        }
        Ok(true)
    }

    async fn disowned(&self, id: UpgradeId) {
        self.shared.ownership.left(id).await;
    }

    async fn remove_finished(&self, id: UpgradeId) -> Result<bool, StoreError> {
        let keys = self.keys();
        let Some(look) = self.table().look(id).await? else { return Ok(true) };
        let (revision, next) = (look.revision, look.at + 1);
        let (head, commands, _) = look.commands(id)?;
        if !head.is_done() || !commands.is_empty() {
            return Ok(false);
        }
        let lease = self.shared.ownership.lease_of(id).unwrap_or_default();
        let when = [
            Compare::mod_revision(keys.revision(id), CompareOp::Equal, revision),
            // Nothing was noted since; what was taken in may be there still.
            Compare::create_revision(keys.commands(id), CompareOp::Less, next).with_prefix(),
            Compare::version(keys.order(id), CompareOp::Equal, 0),
            // What is not ours must be nobody's: a key that is not there has no lease.
            Compare::lease(keys.owner(id), CompareOp::Equal, lease),
        ];
        let txn = Txn::new().when(when).and_then(removal(keys, id));
        let removed = self.table().txn("remove a finished session", txn).await?.succeeded()
            // By an attempt whose answer was lost.
            || self.table().look(id).await?.is_none();
        if removed {
            self.shared.seen.forget(id);
            self.shared.ownership.leave(id);
        }
        Ok(removed)
    }

    async fn disown(&self, id: UpgradeId) -> Result<(), StoreError> {
        let Shared { connection, ownership, keys, .. } = &*self.shared;
        self.shared.seen.forget(id);
        // At once, however long the rest takes.
        let left = ownership.leave(id);
        let _held = ownership.hold(id).await.inspect_err(|_| ownership.give_up_later(id))?;
        let revision = ownership.leave(id).or(left);
        let (Some(revision), Some(lease)) = (revision, ownership.lease()) else { return Ok(()) };
        let given_up = ownership::give_up(connection, keys, id, lease, revision, SHORT_PATIENCE).await;
        Ok(given_up.inspect_err(|_| ownership.give_up_later(id))?)
    }

    async fn changes(&self) -> Result<Box<dyn StoreChanges>, StoreError> {
        let Shared { connection, keys, lease, .. } = &*self.shared;
        let silence = LONGEST_SILENCE.min(*lease);
        Ok(Box::new(Watching::begin(connection, keys.clone(), silence).await?))
    }
}

/// What removes a session with everything that belongs to it.
fn removal(keys: &Keys, id: UpgradeId) -> [TxnOp; 6] {
    let whole = DeleteOptions::new().with_prefix();
    [
        TxnOp::delete(keys.session(id), Some(whole.clone())),
        TxnOp::delete(keys.commands(id), Some(whole)),
        TxnOp::delete(keys.head(id), None),
        TxnOp::delete(keys.order(id), None),
        TxnOp::delete(keys.owner(id), None),
        TxnOp::delete(keys.claim(id), None),
    ]
}

fn to_revision(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or_default())
}

fn would_leave_a_gap(id: UpgradeId) -> StoreError {
    StoreError::Failed(format!("session {id} would have a gap among its nodes or messages"))
}

/// Who we are, for people.
fn name() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("process {} on {}", std::process::id(), host.trim())
}
