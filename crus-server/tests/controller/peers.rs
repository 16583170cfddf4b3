//! The controller over peers that misbehave: what it answers meanwhile, and what it has done in the end.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use crus_api::service::{Follow, News};
use crus_api::{ServiceError, SessionState, Sessions};
use crus_core::Actor;
use crus_core::boots::BootIds;
use crus_core::claims::Turn;
use crus_core::history::{Entry, Happening};
use crus_core::machine::Event;
use crus_core::model::{
    Command, DeletionOrder, Failure, Node, NodeState, NumberedCommand, PauseReason, Phase, Session, Summary,
};
use crus_core::names::BootHandle;
use crus_core::ports::{
    BootKey, BootSession, Bos, Clock as _, DriverStore, Hsm, NodeFacts, Peer, PortError, RebootRequest,
    Rejected, Revision, SessionStore, StoreChanges, StoreError, TemplateKey, Wlm,
};
use crus_core::wlm::{Job, Partition, WlmNode};
use crus_core::{GroupLabel, Limits, NodeName, PartitionName, Spec, Time, UpgradeId, Xname};
use crus_server::clock::SteadyClock;
use crus_server::controller::{Controller, Outside, RecoveryError, Retention};
use crus_server::store::RedbStore;
use crus_sim::store::MemoryStore;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::support::replicas::{PATIENCE, eventually};

/// How every call to a peer ends.
#[derive(Clone, Copy)]
enum Ends {
    Unreachable,
    /// Not before the gate is opened.
    Hangs,
    Panics,
}

struct Peers {
    ends: Mutex<Ends>,
    gate: Semaphore,
    calls: AtomicUsize,
}

impl Peers {
    fn new(ends: Ends) -> Arc<Self> {
        Arc::new(Peers { ends: Mutex::new(ends), gate: Semaphore::new(0), calls: AtomicUsize::new(0) })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn call<T>(&self, peer: Peer) -> Result<T, PortError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let ends = *self.ends.lock().unwrap();
        match ends {
            Ends::Unreachable => {}
            Ends::Hangs => drop(self.gate.acquire().await.unwrap()),
            Ends::Panics => panic!("this panic is part of the test"),
        }
        Err(PortError::Unreachable { peer, detail: "it is only a test".into() })
    }
}

#[async_trait]
impl Hsm for Peers {
    async fn group(&self, _: &GroupLabel) -> Result<Option<BTreeSet<Xname>>, PortError> {
        self.call(Peer::Hsm).await
    }
    async fn add_members(&self, _: &GroupLabel, _: &[Xname]) -> Result<Vec<Rejected>, PortError> {
        self.call(Peer::Hsm).await
    }
    async fn remove_members(&self, _: &GroupLabel, _: &[Xname]) -> Result<(), PortError> {
        self.call(Peer::Hsm).await
    }
    async fn facts(&self, _: &[Xname]) -> Result<Vec<NodeFacts>, PortError> {
        self.call(Peer::Hsm).await
    }
}

#[async_trait]
impl Bos for Peers {
    async fn has_template(&self, _: &TemplateKey) -> Result<bool, PortError> {
        self.call(Peer::Bos).await
    }
    async fn boot_ids(&self) -> Result<BootIds, PortError> {
        self.call(Peer::Bos).await
    }
    async fn reboot(&self, _: &RebootRequest) -> Result<Option<BootHandle>, PortError> {
        self.call(Peer::Bos).await
    }
    async fn session(&self, _: &BootKey) -> Result<Option<BootSession>, PortError> {
        self.call(Peer::Bos).await
    }
}

#[async_trait]
impl Wlm for Peers {
    async fn nodes(&self, _: &[NodeName]) -> Result<Vec<WlmNode>, PortError> {
        self.call(Peer::Wlm).await
    }
    async fn jobs(&self, _: &[NodeName]) -> Result<Vec<Job>, PortError> {
        self.call(Peer::Wlm).await
    }
    async fn drain(&self, _: &[NodeName], _: &str) -> Result<(), PortError> {
        self.call(Peer::Wlm).await
    }
    async fn resume(&self, _: &[NodeName]) -> Result<(), PortError> {
        self.call(Peer::Wlm).await
    }
    async fn down(&self, _: &[NodeName], _: &str) -> Result<(), PortError> {
        self.call(Peer::Wlm).await
    }
    async fn set_reason(&self, _: &[NodeName], _: &str) -> Result<(), PortError> {
        self.call(Peer::Wlm).await
    }
    async fn partitions(&self, _: &[PartitionName]) -> Result<Vec<Partition>, PortError> {
        self.call(Peer::Wlm).await
    }
    async fn requeue(&self, _: &[String]) -> Result<(), PortError> {
        self.call(Peer::Wlm).await
    }
    async fn cancel(&self, _: &[String]) -> Result<(), PortError> {
        self.call(Peer::Wlm).await
    }
}

/// A store that can be told to refuse writes, and to hold up the creation of sessions.
struct Moody {
    inner: RedbStore,
    fails: AtomicBool,
    /// Removing a session panics.
    panics: AtomicBool,
    creating: Semaphore,
    /// How often the removal of a finished session was asked for, which waits for its turn.
    removals: AtomicUsize,
    removing: Semaphore,
}

impl Moody {
    fn open(path: &Path) -> Arc<Self> {
        let inner = RedbStore::open(path).unwrap();
        Arc::new(Moody {
            inner,
            fails: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            creating: Semaphore::new(1),
            removals: AtomicUsize::new(0),
            removing: Semaphore::new(1),
        })
    }

    fn mood(&self) -> Result<(), StoreError> {
        match self.fails.load(Ordering::SeqCst) {
            true => Err(StoreError::Failed("the disk is full".into())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl DriverStore for Moody {
    async fn save(&self, s: &Session, events: &[Event], r: Revision) -> Result<Revision, StoreError> {
        self.mood()?;
        self.inner.save(s, events, r).await
    }
    async fn remove(&self, id: UpgradeId) -> Result<(), StoreError> {
        self.mood()?;
        self.inner.remove(id).await
    }
    async fn claim(&self, id: UpgradeId, nodes: &[Xname]) -> Result<Turn, StoreError> {
        self.inner.claim(id, nodes).await
    }
    fn owns(&self, id: UpgradeId) -> bool {
        self.inner.owns(id)
    }
}

#[async_trait]
impl SessionStore for Moody {
    async fn create(&self, session: &Session) -> Result<Revision, StoreError> {
        self.mood()?;
        let _creating = self.creating.acquire().await.unwrap();
        self.inner.create(session).await
    }
    async fn ids(&self) -> Result<Vec<UpgradeId>, StoreError> {
        self.inner.ids().await
    }
    async fn load(&self, id: UpgradeId) -> Result<Option<(Session, Revision)>, StoreError> {
        self.inner.load(id).await
    }
    async fn order_deletion(&self, id: UpgradeId, by: Option<&Actor>) -> Result<(), StoreError> {
        self.mood()?;
        self.inner.order_deletion(id, by).await
    }
    async fn deletion(&self, id: UpgradeId) -> Result<Option<DeletionOrder>, StoreError> {
        self.inner.deletion(id).await
    }
    async fn summary(&self, id: UpgradeId) -> Result<Option<Summary>, StoreError> {
        self.inner.summary(id).await
    }
    async fn command(
        &self,
        id: UpgradeId,
        command: Command,
        by: Option<&Actor>,
    ) -> Result<Option<u64>, StoreError> {
        self.mood()?;
        self.inner.command(id, command, by).await
    }
    async fn commands(&self, id: UpgradeId) -> Result<Vec<NumberedCommand>, StoreError> {
        self.inner.commands(id).await
    }
    async fn nodes(&self, id: UpgradeId, from: usize, count: usize) -> Result<Vec<Node>, StoreError> {
        self.inner.nodes(id, from, count).await
    }
    async fn history(&self, id: UpgradeId, after: u64, count: usize) -> Result<Vec<Entry>, StoreError> {
        self.inner.history(id, after, count).await
    }
    async fn delivered(&self, id: UpgradeId) -> Result<Option<u64>, StoreError> {
        self.inner.delivered(id).await
    }
    async fn set_delivered(&self, id: UpgradeId, number: u64) -> Result<(), StoreError> {
        self.inner.set_delivered(id, number).await
    }
    async fn own(&self, id: UpgradeId) -> Result<bool, StoreError> {
        self.inner.own(id).await
    }
    async fn disowned(&self, id: UpgradeId) {
        self.inner.disowned(id).await;
    }
    async fn remove_finished(&self, id: UpgradeId) -> Result<bool, StoreError> {
        self.removals.fetch_add(1, Ordering::SeqCst);
        let _removing = self.removing.acquire().await.unwrap();
        assert!(!self.panics.load(Ordering::SeqCst), "this panic is part of the test");
        self.mood()?;
        self.inner.remove_finished(id).await
    }
    async fn disown(&self, id: UpgradeId) -> Result<(), StoreError> {
        self.inner.disown(id).await
    }
    async fn changes(&self) -> Result<Box<dyn StoreChanges>, StoreError> {
        self.inner.changes().await
    }
}

struct Service {
    controller: Controller,
    peers: Arc<Peers>,
    store: Arc<Moody>,
    _directory: tempfile::TempDir,
}

fn limits() -> Limits {
    Limits { poll_ms: 10, retry_max_ms: 20, ..Limits::default() }
}

fn spec() -> Spec {
    Spec {
        starting: "slurm-nodes".parse().unwrap(),
        upgrading: "upgrading-nodes".parse().unwrap(),
        failed: "failed-nodes".parse().unwrap(),
        step_size: 2.try_into().unwrap(),
        template: "new-image".parse().unwrap(),
        tenant: None,
        strategy: crus_core::Strategy::default(),
    }
}

fn stored(phase: Phase, created: u64) -> Session {
    let mut session = Session::new(UpgradeId(Uuid::new_v4()), spec(), "1", limits(), Time(created));
    session.head.phase = phase;
    session
}

fn outside(peers: &Arc<Peers>, store: &Arc<Moody>) -> Outside {
    Outside {
        hsm: peers.clone(),
        bos: peers.clone(),
        wlm: peers.clone(),
        store: store.clone(),
        clock: Arc::new(SteadyClock::new()),
        checks: Arc::new(()),
    }
}

async fn controller(
    peers: &Arc<Peers>,
    store: &Arc<Moody>,
    max_sessions: usize,
) -> Result<Controller, RecoveryError> {
    let retention = Retention { max_sessions, count: 100, max_age_ms: None };
    Controller::start(outside(peers, store), limits(), retention).await
}

/// A service over a store that holds `sessions`.
async fn service(ends: Ends, sessions: &[Session]) -> Service {
    let directory = tempfile::tempdir().unwrap();
    let store = Moody::open(&directory.path().join("crus.redb"));
    for session in sessions {
        store.create(session).await.unwrap();
    }
    let peers = Peers::new(ends);
    let controller = controller(&peers, &store, 100).await.unwrap();
    Service { controller, peers, store, _directory: directory }
}

impl Service {
    async fn create(&self) -> UpgradeId {
        self.controller.create(spec(), None).await.unwrap().upgrade_id
    }

    async fn gone(&self, id: UpgradeId) {
        eventually("the session is gone", async || {
            self.controller.get(id).await.unwrap().is_none() && self.store.load(id).await.unwrap().is_none()
        })
        .await;
    }
}

#[tokio::test]
async fn a_created_session_is_stored_and_listed_in_order_of_creation() {
    let earlier = stored(Phase::Done, 1);
    let service = service(Ends::Unreachable, std::slice::from_ref(&earlier)).await;
    let created = service.controller.create(spec(), None).await.unwrap();
    assert_eq!(created.state, SessionState::Updating);
    assert!(service.store.load(created.upgrade_id).await.unwrap().is_some());
    let listed = service.controller.list().await.unwrap();
    assert_eq!(
        listed.iter().map(|s| s.upgrade_id).collect::<Vec<_>>(),
        [earlier.head.id, created.upgrade_id]
    );
    assert!(service.controller.get(UpgradeId(Uuid::new_v4())).await.unwrap().is_none());
}

#[tokio::test]
async fn no_more_sessions_than_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Moody::open(&directory.path().join("crus.redb"));
    let controller = controller(&Peers::new(Ends::Unreachable), &store, 1).await.unwrap();
    controller.create(spec(), None).await.unwrap();
    assert_eq!(controller.create(spec(), None).await, Err(ServiceError::Full { limit: 1 }));
}

/// The original's fault 12: a DELETE waited for a lock, and other requests waited with it.
#[tokio::test]
async fn p7_no_answer_waits_for_a_peer_that_hangs() {
    let service = service(Ends::Hangs, &[]).await;
    let id = service.create().await;
    eventually("a call hangs", async || service.peers.calls() > 0).await;

    assert_eq!(service.controller.get(id).await.unwrap().unwrap().state, SessionState::Updating);
    assert_eq!(service.controller.progress(id).await.unwrap().unwrap().state, SessionState::Updating);
    assert_eq!(service.controller.nodes(id, 0, 10).await, Ok(Vec::new()));
    assert_eq!(service.controller.events(id, 0, 10).await, Ok(Some(Vec::new())));
    assert!(service.controller.follow(id, 0).await.unwrap().is_some());
    for _ in 0..2 {
        let deleting = service.controller.delete(id, None).await.unwrap().unwrap();
        assert_eq!(deleting.state, SessionState::Deleting, "as often as asked");
    }
    assert_eq!(service.controller.get(id).await.unwrap().unwrap().state, SessionState::Deleting);
    assert!(service.store.deletion(id).await.unwrap().is_some(), "the order is stored before it is answered");
}

#[tokio::test]
async fn p7_a_session_that_waits_is_woken_by_its_deletion_and_disappears() {
    let service = service(Ends::Unreachable, &[]).await;
    let id = service.create().await;
    eventually("a call failed", async || service.peers.calls() > 0).await;
    service.controller.delete(id, None).await.unwrap().unwrap();
    service.gone(id).await;
    assert!(service.controller.delete(id, None).await.unwrap().is_none());
}

#[tokio::test]
async fn a_session_that_is_done_makes_no_calls_and_can_be_deleted() {
    let done = stored(Phase::Done, 1);
    let service = service(Ends::Unreachable, std::slice::from_ref(&done)).await;
    let status = service.controller.get(done.head.id).await.unwrap().unwrap();
    assert_eq!((status.state, status.completed), (SessionState::Ready, true));
    let status = service.controller.delete(done.head.id, None).await.unwrap().unwrap();
    assert_eq!((status.state, status.completed), (SessionState::Deleting, false), "what is taken away");
    service.gone(done.head.id).await;
    assert_eq!(service.peers.calls(), 0);
}

#[tokio::test]
async fn p7_orders_and_sessions_are_taken_up_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = Moody::open(&directory.path().join("crus.redb"));
    let (running, ordered, done) =
        (stored(Phase::Created, 1), stored(Phase::Created, 2), stored(Phase::Done, 3));
    for session in [&running, &ordered, &done] {
        store.create(session).await.unwrap();
    }
    for id in [ordered.head.id, done.head.id] {
        store.order_deletion(id, None).await.unwrap();
    }
    let peers = Peers::new(Ends::Unreachable);
    let controller = controller(&peers, &store, 100).await.unwrap();
    let service = Service { controller, peers, store, _directory: directory };
    service.gone(ordered.head.id).await;
    service.gone(done.head.id).await;
    eventually("the running one asks its peers", async || service.peers.calls() > 0).await;
    assert!(service.controller.get(running.head.id).await.unwrap().is_some());
}

#[tokio::test]
async fn p9_a_task_that_panics_begins_again() {
    let service = service(Ends::Panics, &[]).await;
    let id = service.create().await;
    eventually("it panicked, and began again", async || service.peers.calls() > 2).await;
    *service.peers.ends.lock().unwrap() = Ends::Unreachable;
    service.controller.delete(id, None).await.unwrap().unwrap();
    service.gone(id).await;
}

#[tokio::test]
async fn p9_a_store_that_fails_is_tried_again() {
    let service = service(Ends::Unreachable, &[]).await;
    let id = service.create().await;
    eventually("a call failed", async || service.peers.calls() > 0).await;

    service.store.fails.store(true, Ordering::SeqCst);
    let refused = ServiceError::Store(StoreError::Failed("the disk is full".into()));
    assert_eq!(service.controller.create(spec(), None).await, Err(refused.clone()));
    assert_eq!(service.controller.delete(id, None).await, Err(refused));
    let status = service.controller.get(id).await.unwrap().unwrap();
    assert_eq!(status.state, SessionState::Updating, "what is not stored is not answered for");

    service.store.fails.store(false, Ordering::SeqCst);
    service.controller.delete(id, None).await.unwrap().unwrap();
    service.gone(id).await;
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_no_session_that_nobody_runs() {
    let service = service(Ends::Unreachable, &[]).await;
    let held = service.store.creating.acquire().await.unwrap();
    let call = service.controller.create(spec(), None);
    let gave_up = tokio::time::timeout(Duration::from_millis(20), call).await;
    assert!(gave_up.is_err(), "the caller went away while the store was busy");
    drop(held);
    eventually("the session runs", async || {
        service.controller.list().await.unwrap().len() == 1 && service.peers.calls() > 0
    })
    .await;
}

#[tokio::test]
async fn a_shutdown_waits_for_the_call_under_way_and_no_longer_than_allowed() {
    let service = service(Ends::Hangs, &[]).await;
    service.create().await;
    eventually("a call hangs", async || service.peers.calls() > 0).await;
    assert!(!service.controller.shutdown(Duration::from_millis(20)).await, "the call hangs still");
    service.peers.gate.add_permits(1);
    assert!(service.controller.shutdown(PATIENCE).await);
    assert_eq!(service.peers.calls(), 1, "no other call was begun");
}

#[tokio::test]
async fn p4_a_session_that_cannot_be_read_is_not_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crus.redb");
    let session = stored(Phase::Rolling, 1);
    RedbStore::open(&path).unwrap().create(&session).await.unwrap();
    let database = redb::Database::open(&path).unwrap();
    let writing = database.begin_write().unwrap();
    let heads = redb::TableDefinition::<u128, &[u8]>::new("heads");
    writing.open_table(heads).unwrap().insert(session.head.id.0.as_u128(), b"{}".as_slice()).unwrap();
    writing.commit().unwrap();
    drop(database);

    let refused = controller(&Peers::new(Ends::Unreachable), &Moody::open(&path), 100).await;
    let error = refused.err().expect("the start is refused").to_string();
    assert!(error.contains(&session.head.id.to_string()) && error.contains("restore the store"), "{error}");
}

// ---- replicas -------------------------------------------------------------------------------------------------

/// Two controllers on one store, as in two processes: each with peers of its own, so that it shows who acts.
struct Replicas {
    controllers: [Controller; 2],
    peers: [Arc<Peers>; 2],
    stores: [Arc<MemoryStore>; 2],
}

impl Replicas {
    async fn start(retention: Retention) -> Self {
        let store = MemoryStore::default();
        let stores = [Arc::new(store.another_replica()), Arc::new(store)];
        let peers = [Peers::new(Ends::Unreachable), Peers::new(Ends::Unreachable)];
        let start = async |i: usize| {
            let peers = peers[i].clone();
            let outside = Outside {
                hsm: peers.clone(),
                bos: peers.clone(),
                wlm: peers,
                store: stores[i].clone(),
                clock: Arc::new(SteadyClock::new()),
                checks: Arc::new(()),
            };
            Controller::start(outside, limits(), retention.clone()).await.unwrap()
        };
        Replicas { controllers: [start(0).await, start(1).await], peers, stores }
    }

    /// A session that the first replica runs.
    async fn create(&self) -> UpgradeId {
        let id = self.controllers[0].create(spec(), None).await.unwrap().upgrade_id;
        eventually("the first replica runs it", async || self.peers[0].calls() > 0).await;
        id
    }
}

fn keep_all() -> Retention {
    Retention { max_sessions: 100, count: 100, max_age_ms: None }
}

#[tokio::test]
async fn every_replica_answers_for_a_session_and_one_runs_it() {
    let replicas = Replicas::start(keep_all()).await;
    let id = replicas.create().await;
    eventually("both tell the same", async || {
        let [one, two] = [&replicas.controllers[0], &replicas.controllers[1]];
        let (one, two) = (one.get(id).await.unwrap().unwrap(), two.get(id).await.unwrap());
        two.is_some_and(|two| !two.messages.is_empty() && *two == *one)
    })
    .await;
    assert_eq!(replicas.peers[1].calls(), 0, "the other one leaves it alone");
}

/// What one who follows a session is told until `last` is.
async fn told_until(follow: &mut dyn Follow, last: impl Fn(&News) -> bool) -> Vec<Entry> {
    let mut entries = Vec::new();
    loop {
        let news = follow.next(PATIENCE).await.unwrap();
        assert_ne!(news, News::Nothing, "{entries:?}");
        if let News::Entries(more) = &news {
            entries.extend(more.iter().cloned());
        }
        if last(&news) {
            return entries;
        }
    }
}

fn tells(news: &News, what: &Happening) -> bool {
    matches!(news, News::Entries(entries) if entries.iter().any(|entry| entry.what == *what))
}

#[tokio::test]
async fn every_replica_shows_how_a_session_goes_and_tells_who_follows_it() {
    let replicas = Replicas::start(keep_all()).await;
    let id = replicas.create().await;
    let [runner, other] = &replicas.controllers;
    eventually("both show the same", async || {
        let waits = async |controller: &Controller| {
            controller.progress(id).await.unwrap().and_then(|progress| progress.waits_for)
        };
        let (one, two) = (waits(runner).await, waits(other).await);
        one.is_some() && one == two
    })
    .await;
    let mut follow =
        [runner.follow(id, 0).await.unwrap().unwrap(), other.follow(id, 0).await.unwrap().unwrap()];
    let by = |name: &str| Some(name.parse::<Actor>().unwrap());
    other.command(id, Command::Pause, by("ada")).await.unwrap().unwrap();
    let paused = Happening::Paused { why: PauseReason::Command, by: by("ada") };
    let mut told = Vec::new();
    for follow in &mut follow {
        told.push(told_until(follow.as_mut(), |news| tells(news, &paused)).await);
    }
    assert_eq!(told[0], told[1]);
    let numbers: Vec<u64> = told[0].iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "each once");
    assert!(told[0].iter().any(|entry| matches!(entry.what, Happening::Message { .. })), "{:?}", told[0]);
    assert_eq!(other.events(id, 0, 1000).await.unwrap().unwrap(), told[0]);

    runner.delete(id, by("grace")).await.unwrap();
    let [mut at_runner, mut at_other] = follow;
    let end = told_until(at_runner.as_mut(), |news| *news == News::Deleted).await;
    let last = end.iter().map(|entry| &entry.what).collect::<Vec<_>>();
    assert!(last.contains(&&Happening::DeletionOrdered { by: by("grace") }), "{last:?}");
    assert!(matches!(last.last(), Some(Happening::Finished { .. })), "{last:?}");
    told_until(at_other.as_mut(), |news| *news == News::Deleted).await;
    assert!(other.follow(id, 0).await.unwrap().is_none());
}

#[tokio::test]
async fn who_follows_a_session_is_told_when_the_service_ends_and_holds_nothing_up() {
    let service = service(Ends::Unreachable, &[]).await;
    let id = service.controller.create(spec(), None).await.unwrap().upgrade_id;
    let mut follow = service.controller.follow(id, u64::MAX).await.unwrap().unwrap();
    let controller = service.controller.clone();
    let ends = tokio::spawn(async move { controller.shutdown(PATIENCE).await });
    told_until(follow.as_mut(), |news| *news == News::Stopping).await;
    assert!(ends.await.unwrap(), "with one who follows still there");
    assert_eq!(follow.next(Duration::ZERO).await, Ok(News::Stopping));
}

/// A replica that has not heard of a session yet asks the store.
#[tokio::test]
async fn p7_a_session_can_be_read_and_deleted_on_any_replica_as_soon_as_it_is_created() {
    let replicas = Replicas::start(keep_all()).await;
    for _ in 0..50 {
        let id = replicas.controllers[0].create(spec(), None).await.unwrap().upgrade_id;
        assert!(replicas.controllers[1].get(id).await.unwrap().is_some());
        let deleting = replicas.controllers[1].delete(id, None).await.unwrap().unwrap();
        assert_eq!(deleting.state, SessionState::Deleting);
    }
    for controller in &replicas.controllers {
        eventually("all gone", async || controller.list().await.unwrap().is_empty()).await;
    }
    let unknown = UpgradeId(Uuid::new_v4());
    assert!(replicas.controllers[1].delete(unknown, None).await.unwrap().is_none());
}

#[tokio::test]
async fn p7_a_deletion_given_to_another_replica_reaches_the_owner() {
    let replicas = Replicas::start(keep_all()).await;
    let id = replicas.create().await;
    let deleting = replicas.controllers[1].delete(id, None).await.unwrap().unwrap();
    assert_eq!(deleting.state, SessionState::Deleting);
    for controller in &replicas.controllers {
        eventually("gone", async || controller.get(id).await.unwrap().is_none()).await;
    }
    assert_eq!(replicas.peers[1].calls(), 0);
    assert_eq!(replicas.stores[0].load(id).await, Ok(None));
}

#[tokio::test]
async fn p3_a_session_whose_owner_lost_its_lease_is_run_by_another_and_left_by_the_first() {
    let replicas = Replicas::start(keep_all()).await;
    let id = replicas.create().await;
    replicas.stores[0].cut_off();
    eventually("the second runs it", async || replicas.peers[1].calls() > 0).await;
    assert!(replicas.stores[1].owns(id));
    let calls = replicas.peers[0].calls();
    let later = replicas.peers[1].calls() + 20;
    eventually("the second goes on", async || replicas.peers[1].calls() > later).await;
    assert_eq!(replicas.peers[0].calls(), calls, "the first one acts no more");
}

#[tokio::test]
async fn a_replica_that_stops_hands_its_sessions_over_at_once() {
    let replicas = Replicas::start(keep_all()).await;
    let id = replicas.create().await;
    assert!(replicas.controllers[0].shutdown(PATIENCE).await);
    eventually("the second runs it", async || replicas.peers[1].calls() > 0).await;
    assert!(replicas.stores[1].owns(id));
}

// ---- finished sessions ----------------------------------------------------------------------------------------

/// A finished session that ended then.
fn finished(ended: u64) -> Session {
    let mut session = stored(Phase::Done, ended);
    session.head.ended = Some(Time(ended));
    session.messages = vec![crus_core::Message::new("Upgrade Session Completed", Time(ended))];
    session
}

#[tokio::test]
async fn finished_sessions_are_kept_up_to_a_number_and_an_age_and_running_ones_always() {
    let now = SteadyClock::new().now().0;
    let directory = tempfile::tempdir().unwrap();
    let store = Moody::open(&directory.path().join("crus.redb"));
    let [old, third, second, last] = [1_000, now - 3_000, now - 2_000, now - 1_000].map(finished);
    let running = stored(Phase::Created, 1);
    for session in [&second, &old, &last, &running, &third] {
        store.create(session).await.unwrap();
    }
    let peers = Peers::new(Ends::Unreachable);
    let outside = outside(&peers, &store);
    let retention = Retention { max_sessions: 100, count: 3, max_age_ms: Some(3_600_000) };
    let controller = Controller::start(outside.clone(), limits(), retention).await.unwrap();
    let left = async |controller: &Controller| {
        let mut ids: Vec<_> = controller.list().await.unwrap().iter().map(|s| s.upgrade_id).collect();
        ids.sort_unstable();
        ids
    };
    let ids = |sessions: &[&Session]| {
        let mut ids: Vec<_> = sessions.iter().map(|session| session.head.id).collect();
        ids.sort_unstable();
        ids
    };
    let by_age = ids(&[&third, &second, &last, &running]);
    eventually("the old one went", async || left(&controller).await == by_age).await;
    assert!(controller.shutdown(PATIENCE).await);

    let retention = Retention { max_sessions: 100, count: 1, max_age_ms: None };
    let controller = Controller::start(outside, limits(), retention).await.unwrap();
    let by_number = ids(&[&last, &running]);
    eventually("all but the latest went", async || left(&controller).await == by_number).await;
    assert_eq!(store.load(second.head.id).await, Ok(None), "from the store as well");
    let kept = controller.get(last.head.id).await.unwrap().unwrap();
    assert_eq!(
        (kept.state, &*kept.messages),
        (SessionState::Ready, &["Upgrade Session Completed".into()][..])
    );
}

/// P4: a session may be retried after it was found to be too old and before it goes.
#[tokio::test]
async fn p4_a_session_that_is_retried_while_old_ones_go_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = Moody::open(&directory.path().join("crus.redb"));
    // The latest goes first.
    let [mut retried, old] = [1_000, 2_000].map(finished);
    retried.head.counts.failed = 1;
    let node = Node::new("x1000c0s0b0n0".parse().unwrap(), None, Time(1));
    retried.nodes = vec![Node { state: NodeState::Failed(Failure::BootTimedOut), ..node }];
    for session in [&old, &retried] {
        store.create(session).await.unwrap();
    }
    let removing = store.removing.acquire().await.unwrap();
    let outside = outside(&Peers::new(Ends::Unreachable), &store);
    let retention = Retention { max_sessions: 100, count: 0, max_age_ms: None };
    let controller = Controller::start(outside, limits(), retention).await.unwrap();
    eventually("old sessions go", async || store.removals.load(Ordering::SeqCst) == 1).await;
    let id = retried.head.id;
    controller.command(id, Command::Retry, None).await.unwrap().unwrap();
    drop(removing);
    eventually("it is its turn", async || store.removals.load(Ordering::SeqCst) == 2).await;
    drop(store.removing.acquire().await.unwrap());
    eventually("it works again", async || {
        let session = controller.get(id).await.unwrap().expect("it is there");
        session.state != SessionState::Ready
    })
    .await;
    assert_eq!(store.load(old.head.id).await, Ok(None));
    assert!(!store.load(id).await.unwrap().expect("it is stored").0.is_done());
}

/// What hangs costs a plan its time and is told; it is no error, and holds up nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_ends_in_its_time_whoever_hangs() {
    let service = service(Ends::Hangs, &[]).await;
    service.controller.limit_plans(Duration::from_millis(400));
    let plan = tokio::time::timeout(PATIENCE, service.controller.plan(spec())).await.unwrap().unwrap();
    let unmet: Vec<&str> =
        plan.conditions.iter().filter(|condition| !condition.met).map(|condition| condition.name).collect();
    assert_eq!(unmet, ["template", "starting_group"]);
    assert!(plan.conditions[0].detail.contains("no answer in the time"), "{:?}", plan.conditions);
    assert_eq!(service.peers.calls(), 2, "whoever hangs is not asked again");
    assert!(service.controller.list().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_plans_are_made_at_a_time() {
    let service = service(Ends::Hangs, &[]).await;
    service.controller.limit_plans(PATIENCE);
    let plans: Vec<_> = (0..2)
        .map(|_| {
            let controller = service.controller.clone();
            tokio::spawn(async move { controller.plan(spec()).await })
        })
        .collect();
    eventually("both ask", async || service.peers.calls() == 2).await;
    assert_eq!(service.controller.plan(spec()).await, Err(ServiceError::Busy { limit: 2 }));
    *service.peers.ends.lock().unwrap() = Ends::Unreachable;
    service.peers.gate.add_permits(2);
    for plan in plans {
        assert!(!plan.await.unwrap().unwrap().is_feasible());
    }
    assert!(service.controller.plan(spec()).await.is_ok(), "there is a place again");
}

#[tokio::test]
async fn a_session_that_goes_first_is_in_the_way_of_a_plan() {
    let (waiting, done) = (stored(Phase::Created, 1), stored(Phase::Done, 2));
    let service = service(Ends::Unreachable, &[waiting.clone(), done]).await;
    let plan = service.controller.plan(spec()).await.unwrap();
    let conflicts: Vec<&str> = plan
        .conditions
        .iter()
        .filter(|condition| condition.name == "conflicts")
        .map(|condition| condition.detail.as_str())
        .collect();
    let id = waiting.head.id;
    assert_eq!(conflicts, [format!("session {id} uses the group 'upgrading-nodes', and goes first")]);
}

/// What takes up sessions that nobody runs is a task of its own: without it the process would be alive, and deaf.
#[tokio::test]
async fn a_controller_one_of_whose_tasks_has_died_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = Moody::open(&directory.path().join("crus.redb"));
    let peers = Peers::new(Ends::Unreachable);
    let outside = || Outside {
        hsm: peers.clone(),
        bos: peers.clone(),
        wlm: peers.clone(),
        store: store.clone(),
        clock: Arc::new(SteadyClock::new()),
        checks: Arc::new(()),
    };
    // What is done is removed at once.
    let retention = Retention { max_sessions: 10, count: 0, max_age_ms: None };
    let mut done = stored(Phase::Done, 1);
    done.head.ended = Some(Time(2));
    store.create(&done).await.unwrap();
    let alive = Controller::start(outside(), limits(), retention.clone()).await.unwrap();
    eventually("it is at work", async || store.load(done.head.id).await == Ok(None)).await;
    assert_eq!(alive.deaf(), None);
    assert!(alive.shutdown(PATIENCE).await);
    assert_eq!(alive.deaf(), None, "it was told to stop");

    store.panics.store(true, Ordering::SeqCst);
    done.head.id = UpgradeId(Uuid::new_v4());
    store.create(&done).await.unwrap();
    let dying = Controller::start(outside(), limits(), retention).await.unwrap();
    eventually("it says so", async || {
        dying.deaf().as_deref() == Some("what takes up sessions that nobody runs has ended")
    })
    .await;
}
