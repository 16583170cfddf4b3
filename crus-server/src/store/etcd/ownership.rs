//! Which sessions are ours, by a lease.
//!
//! A lease is renewed at every third of its time. It is taken for ended at a moment that is surely before etcd ends
//! it: counted from when its last renewal was *sent*, with a margin. That moment is compared with the clock whenever
//! it matters, since a process that was stopped for a while is told of nothing.
//!
//! A lease that ended here is never used again, even when etcd still knows it: all sessions are lost, and may be owned
//! again by the next lease.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use crus_core::model::UpgradeId;
use crus_core::ports::StoreError;
use etcd_client::{Compare, CompareOp, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse};
use tokio::sync::Notify;
use tracing::{Instrument as _, Span, debug, info, warn};

use super::connection::{ATTEMPT, Connection, PATIENCE, Trouble};
use super::keys::Keys;
use crate::metrics::LeaseMetrics;

/// The pause before a lease that could not be had or renewed is asked for again.
const PAUSE: Duration = Duration::from_millis(200);

/// Sessions are owned and given up side by side, as far as they do not share one of so many locks.
const EXCHANGES: usize = 64;

/// How often a session is tried to be given up whose key changes meanwhile.
const GIVE_UP_TRIES: usize = 5;

/// Why there is no lease, while nothing else is known.
const JUST_ENDED: &str = "the last one has just ended";

/// How many different reasons for having no lease are told, until there is one again.
const MOST_TROUBLES: usize = 10;

/// What this process owns.
pub(super) struct Ownership {
    /// Held, for some of the sessions, while one is owned or given up in etcd, and that is taken in here.
    exchanges: [tokio::sync::Mutex<()>; EXCHANGES],
    state: Mutex<State>,
    /// Something was lost.
    lost: Notify,
    /// A session could not be given up in etcd yet.
    to_give_up: Notify,
    metrics: LeaseMetrics,
}

#[derive(Default)]
struct State {
    lease: Option<Lease>,
    /// Sessions that are given up here, and in etcd as soon as that can be reached; each with what is logged of it.
    given_up: BTreeMap<UpgradeId, Span>,
    /// Why a lease could not be had or renewed, since that last worked: all that was told, and what came last.
    troubles: BTreeSet<String>,
    trouble: Option<String>,
}

struct Lease {
    id: i64,
    /// From this moment on it is taken for ended.
    until: Instant,
    /// With the revision of the key that says so.
    owned: BTreeMap<UpgradeId, i64>,
}

impl State {
    /// The lease, while it holds.
    fn held(&mut self) -> Option<&mut Lease> {
        self.lease.as_mut().filter(|lease| Instant::now() < lease.until)
    }

    fn works(&mut self) {
        self.troubles.clear();
        self.trouble = None;
    }
}

impl Ownership {
    /// Nothing is owned.
    pub(super) fn new(metrics: LeaseMetrics) -> Self {
        Ownership {
            metrics,
            exchanges: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            state: Mutex::default(),
            lost: Notify::new(),
            to_give_up: Notify::new(),
        }
    }

    /// How the lease stands.
    pub(super) fn look(&self) -> super::Lease {
        let mut state = self.lock();
        let sessions = state.held().map(|lease| lease.owned.len());
        let trouble = match sessions {
            Some(_) => None,
            None => Some(state.trouble.clone().unwrap_or_else(|| JUST_ENDED.to_owned())),
        };
        super::Lease { trouble, sessions: sessions.unwrap_or_default() }
    }

    /// Keeps others here from owning this session, or giving it up, meanwhile.
    fn exchange(&self, id: UpgradeId) -> &tokio::sync::Mutex<()> {
        &self.exchanges[usize::from(id.0.as_bytes()[0]) % EXCHANGES]
    }

    /// Waits until nobody else here owns this session or gives it up.
    pub(super) async fn hold(&self, id: UpgradeId) -> Result<tokio::sync::MutexGuard<'_, ()>, Trouble> {
        let held = tokio::time::timeout(PATIENCE, self.exchange(id).lock()).await;
        held.map_err(|_| Trouble::Away("it does not answer".to_owned()))
    }

    /// The lease, while it holds.
    pub(super) fn lease(&self) -> Option<i64> {
        self.lock().held().map(|lease| lease.id)
    }

    /// The lease by which a session is ours at this moment.
    pub(super) fn lease_of(&self, id: UpgradeId) -> Option<i64> {
        self.lock().held().filter(|lease| lease.owned.contains_key(&id)).map(|lease| lease.id)
    }

    pub(super) fn owns(&self, id: UpgradeId) -> bool {
        self.lease_of(id).is_some()
    }

    /// Takes in that a session is ours by this lease, as its key of this revision says; `false` when the lease has
    /// ended.
    pub(super) fn enter(&self, id: UpgradeId, lease: i64, revision: i64) -> bool {
        let mut state = self.lock();
        state.given_up.remove(&id);
        let Some(held) = state.held().filter(|held| held.id == lease) else { return false };
        held.owned.insert(id, revision);
        true
    }

    /// Takes in that a session is not ours any more. Tells the revision of its key if it was.
    pub(super) fn leave(&self, id: UpgradeId) -> Option<i64> {
        let left = self.lock().lease.as_mut().and_then(|lease| lease.owned.remove(&id));
        self.lost.notify_waiters();
        left
    }

    /// Gives a session up in etcd when that can be reached again, unless it is owned anew first.
    pub(super) fn give_up_later(&self, id: UpgradeId) {
        self.lock().given_up.insert(id, Span::current());
        self.to_give_up.notify_one();
    }

    /// Ready once a session is not ours. Every poll asks the clock first: after a stop of the process this may be polled
    /// before any timer has fired.
    pub(super) async fn left(&self, id: UpgradeId) {
        loop {
            let mut lost = pin!(self.lost.notified());
            lost.as_mut().enable();
            let Some(until) = self.owned_until(id) else { return };
            let mut end = pin!(tokio::time::sleep_until(until.into()));
            poll_fn(|context| {
                let over = !self.owns(id)
                    || end.as_mut().poll(context).is_ready()
                    || lost.as_mut().poll(context).is_ready();
                if over { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    fn owned_until(&self, id: UpgradeId) -> Option<Instant> {
        self.lock().held().filter(|lease| lease.owned.contains_key(&id)).map(|lease| lease.until)
    }

    fn begin(&self, id: i64, until: Instant) {
        let mut state = self.lock();
        state.lease = Some(Lease { id, until, owned: BTreeMap::new() });
        state.works();
        self.metrics.granted.inc();
    }

    /// Takes in why a lease could not be had or renewed; `true` when that was not known yet.
    fn note(&self, trouble: &str) -> bool {
        let mut state = self.lock();
        state.trouble = Some(trouble.to_owned());
        state.troubles.len() < MOST_TROUBLES && state.troubles.insert(trouble.to_owned())
    }

    /// Why there is no lease.
    pub(super) fn why_none(&self) -> StoreError {
        let why = self.lock().trouble.clone();
        let why = why.as_deref().unwrap_or(JUST_ENDED);
        StoreError::Failed(format!("there is no lease in etcd at the moment: {why}"))
    }

    /// Takes in that the lease was renewed; `false` when it has ended all the same.
    fn renew(&self, id: i64, until: Instant) -> bool {
        let mut state = self.lock();
        let held = state.held().filter(|lease| lease.id == id);
        let renewed = held.map(|lease| lease.until = until).is_some();
        if renewed {
            self.metrics.renewals.inc();
            state.works();
        }
        renewed
    }

    /// All sessions are lost. The lease, even when it has ended before, and how many there were.
    pub(super) fn end(&self) -> Option<(i64, usize)> {
        let ended = self.lock().lease.take();
        self.lost.notify_waiters();
        ended.map(|lease| (lease.id, lease.owned.len()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change leaves it whole, whoever panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gets a lease, renews it, and gets another one when it has ended.
pub(super) struct Keeper {
    connection: Arc<Connection>,
    keys: Keys,
    ownership: Arc<Ownership>,
    lasts: Duration,
    /// Leases that ended here, and may live on in etcd with the sessions that they held.
    ended: Vec<i64>,
}

impl Keeper {
    /// A keeper of leases that last so many seconds.
    pub(super) fn new(
        connection: Arc<Connection>,
        keys: Keys,
        ownership: Arc<Ownership>,
        lease_s: u64,
    ) -> Self {
        Keeper { connection, keys, ownership, lasts: Duration::from_secs(lease_s), ended: Vec::new() }
    }

    /// Gets a lease.
    pub(super) async fn begin(&self, patience: Duration) -> Result<(), Trouble> {
        let seconds = i64::try_from(self.lasts.as_secs()).unwrap_or(i64::MAX);
        let mut sent = Instant::now();
        let granted = self.connection.ask("get a lease", patience, |mut client| {
            sent = Instant::now();
            async move { client.lease_grant(seconds, None).await }
        });
        let lease = granted.await?.id();
        self.ownership.begin(lease, self.end_of(sent));
        debug!(lease, "got a lease in etcd");
        Ok(())
    }

    /// Keeps a lease, for ever.
    pub(super) async fn run(mut self) {
        let mut sent = Instant::now();
        loop {
            let Some(lease) = self.ownership.lease() else {
                self.begin_anew().await;
                sent = Instant::now();
                continue;
            };
            let renew_at = sent + self.third();
            if let Some(limit) = self.limit_before(renew_at) {
                self.revoke_ended(limit).await;
            }
            tokio::select! {
                () = tokio::time::sleep_until(renew_at.into()) => {}
                () = self.ownership.to_give_up.notified() => {
                    self.give_up(renew_at).await;
                    continue;
                }
            }
            let asked = Instant::now();
            let renewed = self.connection.attempt(self.limit(), |mut client| async move {
                // One answer is all that is wanted of this stream.
                client.lease_keep_alive(lease).await.map(drop)
            });
            match renewed.await {
                Ok(()) => {
                    sent = asked;
                    if self.ownership.renew(lease, self.end_of(asked)) {
                        self.give_up(asked + self.third()).await;
                    }
                }
                Err(Trouble::NoLease) => self.lose("etcd has ended it"),
                Err(trouble) => {
                    self.ownership.metrics.renewals_failed.inc();
                    self.tell("renew our lease in etcd", &trouble);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Ends what is left of the last lease, and gets another one.
    async fn begin_anew(&mut self) {
        self.lose("it could not be renewed in time");
        self.revoke_ended(self.limit()).await;
        match self.begin(self.limit()).await {
            Ok(()) => info!("got a new lease in etcd: sessions can be owned again"),
            Err(trouble) => {
                self.tell("get a lease in etcd", &trouble);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Keeps the last reason, and warns of each once.
    fn tell(&self, what: &str, trouble: &Trouble) {
        let why = trouble.to_string();
        if self.ownership.note(&why) {
            warn!("failed to {what}, which is tried again: {why}");
        } else {
            debug!("failed to {what}: {why}");
        }
    }

    fn lose(&mut self, why: &str) {
        if let Some((lease, sessions)) = self.ownership.end() {
            self.ownership.metrics.lost.inc();
            warn!(sessions, "our lease in etcd is lost, and with it all sessions that we owned: {why}");
            self.ended.push(lease);
        }
    }

    /// What ended leases still hold in etcd becomes free at once.
    async fn revoke_ended(&mut self, limit: Duration) {
        if let Some(lease) = self.ended.last().copied() {
            match revoke(&self.connection, lease, limit).await {
                Ok(()) | Err(Trouble::NoLease) => _ = self.ended.pop(),
                Err(trouble) => debug!("failed to end an old lease: {trouble:?}"),
            }
        }
    }

    /// Gives up in etcd what was given up here, as far as there is time for it before the lease is to be renewed.
    async fn give_up(&self, renew_at: Instant) {
        let given_up = self.ownership.lock().given_up.clone();
        for (id, span) in given_up {
            let Some(limit) = self.limit_before(renew_at) else { return };
            let (Some(lease), Ok(_held)) = (self.ownership.lease(), self.ownership.exchange(id).try_lock())
            else {
                return;
            };
            if !self.ownership.owns(id) {
                let given_up = give_up(&self.connection, &self.keys, id, lease, 0, limit);
                if let Err(trouble) = given_up.instrument(span.clone()).await {
                    span.in_scope(|| debug!("failed to give the session up: {trouble:?}"));
                    return;
                }
            }
            self.ownership.lock().given_up.remove(&id);
        }
    }

    /// How long something may take that must not delay a renewal; `None` when there is no time to begin with it.
    fn limit_before(&self, renew_at: Instant) -> Option<Duration> {
        let left = renew_at.saturating_duration_since(Instant::now());
        (left > PAUSE).then(|| left.min(self.limit()))
    }

    /// A third of a lease: a renewal may fail, and another one comes in time.
    fn third(&self) -> Duration {
        self.lasts / 3
    }

    /// How long one request may take.
    fn limit(&self) -> Duration {
        self.third().min(ATTEMPT)
    }

    /// When a lease is to be taken for ended. The margin is for clocks that run at different paces, and for what was
    /// begun a moment before.
    fn end_of(&self, sent: Instant) -> Instant {
        sent + self.lasts - self.lasts / 10
    }
}

/// Removes the key by which a session is ours, which had this revision when we looked last. Compared with what it is
/// now: a request that etcd carries out late must not remove a key by which we own the session again. All of it takes
/// `limit` at most.
pub(super) async fn give_up(
    connection: &Connection,
    keys: &Keys,
    id: UpgradeId,
    lease: i64,
    mut revision: i64,
    limit: Duration,
) -> Result<(), Trouble> {
    let owner = &keys.owner(id);
    let end = Instant::now() + limit;
    for _ in 0..GIVE_UP_TRIES {
        let txn = Txn::new()
            .when([Compare::mod_revision(owner.clone(), CompareOp::Equal, revision)])
            .and_then([TxnOp::delete(owner.clone(), None)])
            .or_else([TxnOp::get(owner.clone(), None)]);
        let left = end.saturating_duration_since(Instant::now());
        let done = connection.attempt(left, |mut client| async move { client.txn(txn).await }).await?;
        match found(&done).into_iter().flatten().next() {
            Some(key) if !done.succeeded() && key.lease() == lease => revision = key.mod_revision(),
            _ => return Ok(()),
        }
    }
    Err(Trouble::Away("the owner's key changes all the time".to_owned()))
}

/// Ends a lease: what it holds is free at once.
pub(super) async fn revoke(connection: &Connection, lease: i64, limit: Duration) -> Result<(), Trouble> {
    let revoked = connection.attempt(limit, |mut client| async move { client.lease_revoke(lease).await });
    revoked.await.map(drop)
}

/// What the reads of a transaction found, one after the other.
pub(super) fn found(answer: &TxnResponse) -> Vec<Vec<KeyValue>> {
    let reads = answer.op_responses().into_iter();
    reads
        .filter_map(|read| if let TxnOpResponse::Get(mut read) = read { Some(read.take_kvs()) } else { None })
        .collect()
}
