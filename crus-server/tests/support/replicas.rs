//! Replicas of the controller on one store in memory and one simulated cluster, in this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crus_api::{ServiceError, SessionState, Sessions as _};
use crus_core::commands::NotNow;
use crus_core::history::Happening;
use crus_core::model::{Command, Counts, Phase};
use crus_core::ports::SessionStore as _;
use crus_core::promises::What;
use crus_core::{Limits, Spec, UpgradeId, Xname};
use crus_server::clock::SteadyClock;
use crus_server::controller::{Controller, Outside, Retention, Told};
use crus_server::webhook::Webhook;
use crus_sim::config::{BootBehaviour, BosConfig, GroupSpec, Span, TemplateSpec};
use crus_sim::http::LiveCluster;
use crus_sim::ports::SimPorts;
use crus_sim::store::MemoryStore;
use crus_sim::workload::{JobSpec, Wanted, Workload};
use crus_sim::{Cluster, ClusterConfig};
use tokio::task::AbortHandle;

pub(crate) const SEED: u64 = 11;
/// So many virtual seconds pass in a real one.
pub(crate) const SPEED: f64 = 2_000.0;
/// How long what must come is waited for, on the slowest of machines.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// A session that sleeps for an hour is woken, or the test fails.
pub(crate) const HOUR_MS: u64 = 3_600_000;

/// A job on all nodes that no test lives to see the end of.
pub(crate) fn busy() -> ClusterConfig {
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
pub(crate) fn config() -> ClusterConfig {
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

pub(crate) fn spec() -> Spec {
    Spec {
        starting: "all".parse().unwrap(),
        upgrading: "up".parse().unwrap(),
        failed: "failed".parse().unwrap(),
        step_size: 2.try_into().unwrap(),
        template: "image".parse().unwrap(),
        tenant: None,
        strategy: crus_core::Strategy::default(),
    }
}

/// A cluster, and a store that replicas share.
pub(crate) struct Site {
    pub(crate) cluster: LiveCluster,
    pub(crate) ports: SimPorts,
    pub(crate) store: MemoryStore,
    pub(crate) pacing: AbortHandle,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.pacing.abort();
    }
}

pub(crate) struct Replica {
    pub(crate) controller: Controller,
    pub(crate) store: Arc<MemoryStore>,
}

impl Site {
    pub(crate) fn new(config: ClusterConfig) -> Site {
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
    pub(crate) async fn replica(&self, poll_ms: u64) -> Replica {
        self.replica_telling(None, poll_ms).await
    }

    /// Likewise, telling a receiver what happens.
    pub(crate) async fn replica_telling(&self, webhook: Option<Webhook>, poll_ms: u64) -> Replica {
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
        let told = Told { webhook, ..Told::default() };
        let controller = Controller::start_telling(told, outside, limits, retention).await.unwrap();
        Replica { controller, store }
    }

    pub(crate) async fn phase(&self, id: UpgradeId) -> Phase {
        self.store.summary(id).await.unwrap().unwrap().head.phase
    }

    pub(crate) async fn counts(&self, id: UpgradeId) -> Counts {
        self.store.summary(id).await.unwrap().unwrap().head.counts
    }

    pub(crate) async fn is_paused(&self, id: UpgradeId) -> bool {
        self.store.summary(id).await.unwrap().unwrap().head.pause.is_some()
    }

    /// What happened of this kind, as the history has it.
    pub(crate) async fn happened(&self, id: UpgradeId, what: fn(&Happening) -> bool) -> usize {
        let history = self.store.history(id, 0, usize::MAX).await.unwrap();
        history.iter().filter(|entry| what(&entry.what)).count()
    }

    /// P3: which boot sessions rebooted each node.
    pub(crate) fn reboots(&self) -> BTreeMap<Xname, Vec<String>> {
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
    pub(crate) async fn create(&self) -> UpgradeId {
        self.controller.create(spec(), None).await.unwrap().upgrade_id
    }

    pub(crate) async fn order(&self, id: UpgradeId, command: Command) {
        let status = self.controller.command(id, command, None).await.unwrap().unwrap();
        assert_eq!(status.upgrade_id, id);
    }

    pub(crate) async fn refuses(&self, id: UpgradeId, command: Command) -> NotNow {
        match self.controller.command(id, command, None).await {
            Err(ServiceError::NotNow { reason }) => reason,
            other => panic!("{command:?} ended as {other:?}"),
        }
    }

    pub(crate) async fn state(&self, id: UpgradeId) -> SessionState {
        self.controller.get(id).await.unwrap().unwrap().state
    }

    /// As a process that is killed: its sessions are lost, and it gets none again.
    pub(crate) async fn crash(self) {
        self.store.cut_off();
        assert!(self.controller.shutdown(PATIENCE).await);
    }
}

pub(crate) async fn eventually(what: &str, so: impl AsyncFn() -> bool) {
    let come = tokio::time::timeout(PATIENCE, async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    come.await.unwrap_or_else(|_| panic!("never came true: {what}"));
}
