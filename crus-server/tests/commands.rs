//! Pause, resume and retry, given to any of several replicas on one store: they reach the owner, hold, and happen once.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crus_api::{ServiceError, SessionState, Sessions as _};
use crus_core::check::What;
use crus_core::commands::NotNow;
use crus_core::history::Happening;
use crus_core::model::{Command, Counts, NodeState, Phase};
use crus_core::ports::{SessionStore, StoreError};
use crus_core::{Limits, Spec, UpgradeId, Xname};
use crus_server::clock::SteadyClock;
use crus_server::controller::{Controller, Outside, Retention};
use crus_sim::config::{BootBehaviour, BosConfig, GroupSpec, Span, TemplateSpec};
use crus_sim::http::LiveCluster;
use crus_sim::ports::SimPorts;
use crus_sim::store::MemoryStore;
use crus_sim::workload::{JobSpec, Wanted, Workload};
use crus_sim::{Cluster, ClusterConfig};
use tokio::task::AbortHandle;
use uuid::Uuid;

const SEED: u64 = 11;
/// So many virtual seconds pass in a real one.
const SPEED: f64 = 2_000.0;
/// How long what must come is waited for, on the slowest of machines.
const PATIENCE: Duration = Duration::from_secs(60);
/// A session that sleeps for an hour is woken, or the test fails.
const HOUR_MS: u64 = 3_600_000;

/// A job on all nodes that no test lives to see the end of.
fn busy() -> ClusterConfig {
    let config = config();
    let names = config.nodes.iter().filter_map(|node| node.name.clone()).collect();
    let job = JobSpec {
        id: 1,
        user: "ada".to_owned(),
        wanted: Wanted::Nodes(names),
        cpus: None,
        start_ms: 0,
        duration_ms: None,
        limit_ms: None,
        partition: None,
        requeue: false,
    };
    ClusterConfig { workload: Workload::Listed(vec![job]), ..config }
}

/// Four nodes, of which one does not boot.
fn config() -> ClusterConfig {
    let mut nodes = ClusterConfig::nodes(4);
    nodes[1].boot = BootBehaviour::Fails;
    let members = nodes.iter().map(|node| node.xname).collect();
    let group = |members| GroupSpec { members, ..GroupSpec::default() };
    ClusterConfig {
        nodes,
        groups: [("all", members), ("up", Vec::new()), ("failed", Vec::new())]
            .map(|(label, members)| (label.parse().unwrap(), group(members)))
            .into(),
        templates: BTreeMap::from([("image".parse().unwrap(), TemplateSpec::of_group("up"))]),
        bos: BosConfig {
            boot: Span::new(60_000, 120_000),
            attempts: 1,
            attempt_ms: 180_000,
            ..BosConfig::default()
        },
        ..ClusterConfig::default()
    }
}

fn spec() -> Spec {
    Spec {
        starting: "all".parse().unwrap(),
        upgrading: "up".parse().unwrap(),
        failed: "failed".parse().unwrap(),
        step_size: 2.try_into().unwrap(),
        template: "image".parse().unwrap(),
        strategy: crus_core::Strategy::default(),
    }
}

/// A cluster, and a store that replicas share.
struct Site {
    cluster: LiveCluster,
    ports: SimPorts,
    store: MemoryStore,
    pacing: AbortHandle,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.pacing.abort();
    }
}

struct Replica {
    controller: Controller,
    store: Arc<MemoryStore>,
}

impl Site {
    fn new(config: ClusterConfig) -> Site {
        let shared = Cluster::new(config, SEED).shared();
        let ports = SimPorts::new(&shared);
        let cluster = LiveCluster::paced(shared, SPEED);
        let live = cluster.clone();
        let pacing = tokio::spawn(async move {
            loop {
                live.with(|_| ());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Site { cluster, ports, store: MemoryStore::default(), pacing: pacing.abort_handle() }
    }

    /// Another replica of the service.
    async fn replica(&self, poll_ms: u64) -> Replica {
        let store = Arc::new(self.store.another_replica());
        let outside = Outside {
            hsm: Arc::new(self.ports.hsm.clone()),
            bos: Arc::new(self.ports.bos.clone()),
            wlm: Arc::new(self.ports.wlm.clone()),
            store: store.clone(),
            clock: Arc::new(SteadyClock::new()),
            checks: Arc::new(()),
        };
        let limits = Limits { poll_ms, retry_max_ms: poll_ms, settle_ms: 100, ..Limits::default() };
        let retention = Retention { max_sessions: 10, count: 9, max_age_ms: None };
        Replica { controller: Controller::start(outside, limits, retention).await.unwrap(), store }
    }

    async fn phase(&self, id: UpgradeId) -> Phase {
        self.store.summary(id).await.unwrap().unwrap().head.phase
    }

    async fn counts(&self, id: UpgradeId) -> Counts {
        self.store.summary(id).await.unwrap().unwrap().head.counts
    }

    async fn is_paused(&self, id: UpgradeId) -> bool {
        self.store.summary(id).await.unwrap().unwrap().head.pause.is_some()
    }

    /// What happened of this kind, as the history has it.
    async fn happened(&self, id: UpgradeId, what: fn(&Happening) -> bool) -> usize {
        let history = self.store.history(id, 0, usize::MAX).await.unwrap();
        history.iter().filter(|entry| what(&entry.what)).count()
    }

    /// P3: which boot sessions rebooted each node.
    fn reboots(&self) -> BTreeMap<Xname, Vec<String>> {
        let mut reboots = BTreeMap::<Xname, Vec<String>>::new();
        for fact in self.cluster.with(|cluster| cluster.facts().to_vec()) {
            if let What::PowerCut { xname, boot_session, .. } = fact.what {
                reboots.entry(xname).or_default().push(boot_session);
            }
        }
        reboots
    }
}

impl Replica {
    async fn create(&self) -> UpgradeId {
        self.controller.create(spec()).await.unwrap().upgrade_id
    }

    async fn order(&self, id: UpgradeId, command: Command) {
        let status = self.controller.command(id, command).await.unwrap().unwrap();
        assert_eq!(status.upgrade_id, id);
    }

    async fn refuses(&self, id: UpgradeId, command: Command) -> NotNow {
        match self.controller.command(id, command).await {
            Err(ServiceError::NotNow { reason }) => reason,
            other => panic!("{command:?} ended as {other:?}"),
        }
    }

    async fn state(&self, id: UpgradeId) -> SessionState {
        self.controller.get(id).await.unwrap().unwrap().state
    }

    /// As a process that is killed: its sessions are lost, and it gets none again.
    async fn crash(self) {
        self.store.cut_off();
        assert!(self.controller.shutdown(PATIENCE).await);
    }
}

async fn eventually(what: &str, so: impl AsyncFn() -> bool) {
    let come = tokio::time::timeout(PATIENCE, async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    come.await.unwrap_or_else(|_| panic!("never came true: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ordered_of_one_replica_reaches_the_owner_at_once_however_long_it_sleeps() {
    let site = Site::new(config());
    let owner = site.replica(HOUR_MS).await;
    let id = owner.create().await;
    eventually("its own", async || owner.store.owns(id)).await;
    let other = site.replica(HOUR_MS).await;
    eventually("its nodes are known", async || site.phase(id).await == Phase::Rolling).await;
    assert!(owner.store.owns(id) && !other.store.owns(id));

    other.order(id, Command::Pause).await;
    eventually("paused", async || site.is_paused(id).await).await;
    other.order(id, Command::Pause).await;
    other.order(id, Command::Resume).await;
    eventually("resumed", async || !site.is_paused(id).await).await;
    owner.order(id, Command::Resume).await;
    owner.order(id, Command::Pause).await;
    eventually("paused", async || site.is_paused(id).await).await;
    eventually("all is taken in", async || site.store.commands(id).await.unwrap().is_empty()).await;
    assert_eq!(site.happened(id, |what| matches!(what, Happening::Paused { .. })).await, 2);
    assert_eq!(site.happened(id, |what| *what == Happening::Resumed).await, 1);
    assert!(owner.store.owns(id), "nobody else took it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_finished_session_is_retried_at_any_replica_and_after_a_restart() {
    let site = Site::new(config());
    let first = site.replica(10).await;
    let id = first.create().await;
    eventually("done", async || site.phase(id).await == Phase::Done).await;
    assert_eq!(site.counts(id).await, Counts { upgraded: 3, failed: 1, ..Counts::default() });
    let second = site.replica(10).await;
    first.crash().await;

    assert_eq!(second.state(id).await, SessionState::Ready);
    assert_eq!(second.refuses(id, Command::Pause).await, NotNow::Done(Command::Pause));
    let third = site.replica(10).await;
    // Both are asked at once: it is one retry, or the later comes when it works again.
    let at_once = tokio::join!(
        second.controller.command(id, Command::Retry),
        third.controller.command(id, Command::Retry)
    );
    let refused = |answer: &Result<_, ServiceError>| answer.is_err();
    assert!(!refused(&at_once.0) || !refused(&at_once.1), "{at_once:?}");
    for error in [at_once.0.err(), at_once.1.err()].into_iter().flatten() {
        assert_eq!(error, ServiceError::NotNow { reason: NotNow::Working });
    }
    eventually("it works again", async || {
        second.state(id).await == SessionState::Updating && third.state(id).await == SessionState::Updating
            || site.happened(id, |what| matches!(what, Happening::Finished { .. })).await > 1
    })
    .await;
    eventually("done again", async || {
        site.phase(id).await == Phase::Done
            && second.state(id).await == SessionState::Ready
            && third.state(id).await == SessionState::Ready
    })
    .await;
    assert_eq!(site.happened(id, |what| matches!(what, Happening::Retried { .. })).await, 1);
    let session = site.store.load(id).await.unwrap().unwrap().0;
    assert_eq!(session.nodes[1].attempt, 1);
    assert!(matches!(session.nodes[1].state, NodeState::Failed(_)), "nobody mended it");
    for (xname, names) in site.reboots() {
        let expected = if xname == session.nodes[1].xname { 2 } else { 1 };
        assert_eq!(names.len(), expected, "{xname}: {names:?}");
    }
    assert!(!second.store.owns(id) && !third.store.owns(id), "who is done is nobody's");

    // Once more, and now it boots.
    let broken = session.nodes[1].xname;
    site.cluster.with(|cluster| cluster.set_boot_behaviour(broken, BootBehaviour::Normal));
    third.order(id, Command::Retry).await;
    eventually("all upgraded", async || site.counts(id).await.upgraded == 4).await;
    eventually("done for good", async || second.state(id).await == SessionState::Ready).await;
    assert_eq!(second.refuses(id, Command::Retry).await, NotNow::NothingFailed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_noted_right_before_a_crash_is_neither_lost_nor_done_twice() {
    let site = Site::new(config());
    let owner = site.replica(10).await;
    let id = owner.create().await;
    eventually("at work", async || site.phase(id).await == Phase::Rolling).await;
    // Noted, and nobody has heard of it: who owns the session is gone.
    owner.store.cut_off();
    let handle = site.store.another_replica();
    handle.command(id, Command::Pause).await.unwrap().unwrap();
    owner.crash().await;
    let heir = site.replica(10).await;
    eventually("paused", async || site.is_paused(id).await).await;
    // An heir of the heir finds it taken in.
    heir.crash().await;
    let last = site.replica(10).await;
    eventually("its own", async || last.store.owns(id)).await;
    last.order(id, Command::Resume).await;
    eventually("done", async || site.phase(id).await == Phase::Done).await;
    assert_eq!(site.happened(id, |what| matches!(what, Happening::Paused { .. })).await, 1);
    assert_eq!(site.happened(id, |what| *what == Happening::Resumed).await, 1);

    // Likewise a retry of a session that is done, which nobody runs.
    last.crash().await;
    handle.command(id, Command::Retry).await.unwrap().unwrap();
    let _service = site.replica(10).await;
    eventually("retried", async || {
        site.happened(id, |what| matches!(what, Happening::Finished { .. })).await == 2
    })
    .await;
    assert_eq!(site.happened(id, |what| matches!(what, Happening::Retried { .. })).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_with_the_reason_and_changes_nothing() {
    let site = Site::new(busy());
    let replica = site.replica(10).await;
    let nowhere = UpgradeId(Uuid::new_v4());
    assert_eq!(replica.controller.command(nowhere, Command::Pause).await, Ok(None));
    let id = replica.create().await;
    eventually("nodes are drained", async || site.counts(id).await.draining > 0).await;
    assert_eq!(replica.refuses(id, Command::Retry).await, NotNow::Working);
    replica.order(id, Command::Pause).await;
    assert_eq!(replica.refuses(id, Command::Retry).await, NotNow::StepInFlight(0));
    eventually("paused", async || site.is_paused(id).await).await;
    assert_eq!(replica.refuses(id, Command::Retry).await, NotNow::StepInFlight(0));
    assert_eq!(site.store.commands(id).await, Ok(Vec::new()), "nothing of it was noted");

    site.store.fail(Some("no quorum"));
    let failed = ServiceError::Store(StoreError::Failed("no quorum".to_owned()));
    assert_eq!(replica.controller.command(id, Command::Resume).await, Err(failed));
    site.store.fail(None);
    replica.controller.delete(id).await.unwrap().unwrap();
    for command in [Command::Pause, Command::Resume, Command::Retry] {
        match replica.controller.command(id, command).await {
            Err(ServiceError::NotNow { reason: NotNow::Deleting }) | Ok(None) => {}
            other => panic!("{command:?} ended as {other:?}"),
        }
    }
}
