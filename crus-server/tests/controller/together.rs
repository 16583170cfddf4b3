//! Many sessions at once on one Slurm, in virtual time: what they cost it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use crus_api::Sessions as _;
use crus_core::model::{NodeState, Stage};
use crus_core::ports::{Peer, PortError, Wlm};
use crus_core::wlm::{Job, Partition, WlmNode};
use crus_core::{Limits, NodeName, PartitionName, Spec, Strategy, UpgradeId, Xname};
use crus_server::controller::{Controller, Outside, Retention};
use crus_sim::cluster::{SharedCluster, lock};
use crus_sim::config::{GroupSpec, NodeSpec, SlurmConfig, Span, TemplateSpec};
use crus_sim::ports::{SimPorts, SimWlm};
use crus_sim::store::MemoryStore;
use crus_sim::workload::{JobSpec, Wanted, Workload};
use crus_sim::{Cluster, ClusterConfig};

const SESSIONS: u32 = 10;
const NODES: u32 = 8;
/// As long as the last job of each session runs.
const JOB_MS: u64 = 1_800_000;
/// How finely time passes.
const TICK: Duration = Duration::from_millis(250);

fn xname(nid: u32) -> Xname {
    let (cabinet, slot) = (1000 + nid / 100, nid % 100);
    format!("x{cabinet}c{}s{}b0n{}", slot / 32, slot / 2 % 16, slot % 2).parse().unwrap()
}

/// The nodes of a session, each with a group and a template of its own.
fn cluster() -> ClusterConfig {
    let mut config = ClusterConfig::default();
    let mut jobs = Vec::new();
    for session in 0..SESSIONS {
        let nids = (1..=NODES).map(|n| session * NODES + n);
        let nodes: Vec<NodeSpec> = nids.map(|nid| NodeSpec::new(xname(nid), nid)).collect();
        jobs.push(JobSpec {
            id: session + 1,
            user: "ada".to_owned(),
            wanted: Wanted::Nodes(vec![nodes[0].name.clone().unwrap()]),
            cpus: None,
            start_ms: 0,
            duration_ms: Some(JOB_MS),
            limit_ms: Some(2 * JOB_MS),
            partition: None,
            requeue: true,
        });
        let starting =
            GroupSpec { members: nodes.iter().map(|node| node.xname).collect(), ..GroupSpec::default() };
        let label = |kind: &str| format!("{kind}-{session}").parse().unwrap();
        config.groups.insert(label("starting"), starting);
        config.groups.insert(label("upgrading"), GroupSpec::default());
        config.groups.insert(label("failed"), GroupSpec::default());
        let template = TemplateSpec::of_group(&format!("upgrading-{session}"));
        config.templates.insert(format!("image-{session}").parse().unwrap(), template);
        config.nodes.extend(nodes);
    }
    let slurm = SlurmConfig { epilog: Span::new(0, 0), ..SlurmConfig::default() };
    ClusterConfig { workload: Workload::Listed(jobs), slurm, ..config }
}

fn spec(session: u32) -> Spec {
    let label = |kind: &str| format!("{kind}-{session}").parse().unwrap();
    Spec {
        starting: label("starting"),
        upgrading: label("upgrading"),
        failed: label("failed"),
        step_size: NODES.try_into().unwrap(),
        template: format!("image-{session}").parse().unwrap(),
        tenant: None,
        strategy: Strategy::default(),
    }
}

/// Moves the cluster's time along with that of the tasks, which passes when none of them has anything to do.
async fn pass(cluster: SharedCluster) {
    loop {
        tokio::time::sleep(TICK).await;
        let mut cluster = lock(&cluster);
        let next = cluster.now() + TICK.as_millis() as u64;
        cluster.advance_to(next);
    }
}

/// The service on this cluster, with this way to its Slurm.
async fn start(ports: &SimPorts, wlm: Arc<dyn Wlm>) -> Controller {
    let outside = Outside {
        hsm: Arc::new(ports.hsm.clone()),
        bos: Arc::new(ports.bos.clone()),
        wlm,
        store: Arc::new(MemoryStore::default()),
        clock: Arc::new(ports.clock.clone()),
        checks: Arc::new(()),
    };
    let retention = Retention { max_sessions: 100, count: 100, max_age_ms: None };
    Controller::start(outside, Limits::default(), retention).await.unwrap()
}

async fn is_done(controller: &Controller, id: UpgradeId) -> bool {
    let status = controller.get(id).await.unwrap().unwrap();
    status.completed
}

/// Ten sessions that wait for their nodes cost one look in a poll interval, and none of them waits longer for what it waits
/// for than it would alone: a poll interval (DESIGN).
#[tokio::test(start_paused = true)]
async fn ten_sessions_look_at_their_nodes_in_one_call() {
    let cluster = Cluster::new(cluster(), 7).shared();
    let ports = SimPorts::new(&cluster);
    let poll = Duration::from_millis(Limits::default().poll_ms);
    let controller = start(&ports, Arc::new(ports.wlm.clone())).await;
    tokio::spawn(pass(Arc::clone(&cluster)));
    let mut ids = Vec::new();
    for session in 0..SESSIONS {
        ids.push(controller.create(spec(session), None).await.unwrap().upgrade_id);
        // At all times of the interval.
        tokio::time::sleep(poll * 13 / 10).await;
    }
    tokio::time::sleep(poll * 5).await;
    let before = ports.calls.of("wlm.nodes");
    tokio::time::sleep(poll * 50).await;
    let looks = ports.calls.of("wlm.nodes") - before;
    assert!((49..=51).contains(&looks), "{looks} looks at nodes in 50 poll intervals");
    for id in &ids {
        assert!(!is_done(&controller, *id).await);
    }
    // The jobs end all at once. A stage is left within a poll of its fact, whoever looked.
    let ends = Duration::from_millis(JOB_MS);
    let start = lock(&cluster).config().start;
    while lock(&cluster).now().since(start) < ends.as_millis() as u64 {
        tokio::time::sleep(TICK).await;
    }
    tokio::time::sleep(poll + TICK * 2).await;
    for id in &ids {
        let stage = controller.progress(*id).await.unwrap().unwrap().stage;
        assert_ne!(stage, "QUIESCING", "the jobs ended a poll interval ago");
    }
    for id in &ids {
        while !is_done(&controller, *id).await {
            tokio::time::sleep(poll).await;
        }
        let nodes = controller.nodes(*id, 0, 100).await.unwrap();
        assert_eq!(nodes.len(), NODES as usize);
        assert!(nodes.iter().all(|node| node.state == NodeState::Upgraded), "{nodes:?}");
    }
}

/// Slurm, where what is shown of one node cannot be read: that refuses the whole call.
struct Garbled {
    inner: SimWlm,
    name: Mutex<Option<NodeName>>,
}

#[async_trait]
impl Wlm for Garbled {
    async fn nodes(&self, names: &[NodeName]) -> Result<Vec<WlmNode>, PortError> {
        let garbled = self.name.lock().unwrap().clone();
        match garbled.filter(|name| names.contains(name)) {
            Some(name) => Err(PortError::Refused { peer: Peer::Wlm, detail: format!("{name} is garbled") }),
            None => self.inner.nodes(names).await,
        }
    }
    async fn jobs(&self, names: &[NodeName]) -> Result<Vec<Job>, PortError> {
        self.inner.jobs(names).await
    }
    async fn drain(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.inner.drain(names, reason).await
    }
    async fn resume(&self, names: &[NodeName]) -> Result<(), PortError> {
        self.inner.resume(names).await
    }
    async fn down(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.inner.down(names, reason).await
    }
    async fn set_reason(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.inner.set_reason(names, reason).await
    }
    async fn partitions(&self, names: &[PartitionName]) -> Result<Vec<Partition>, PortError> {
        self.inner.partitions(names).await
    }
    async fn requeue(&self, jobs: &[String]) -> Result<(), PortError> {
        self.inner.requeue(jobs).await
    }
    async fn cancel(&self, jobs: &[String]) -> Result<(), PortError> {
        self.inner.cancel(jobs).await
    }
}

/// P9: what one session lacks is said by it alone, and holds up no other one that looks together with it.
#[tokio::test(start_paused = true)]
async fn p9_a_look_that_is_refused_for_one_sessions_node_is_no_other_ones_trouble() {
    let cluster = Cluster::new(cluster(), 7).shared();
    let ports = SimPorts::new(&cluster);
    let poll = Duration::from_millis(Limits::default().poll_ms);
    let wlm = Arc::new(Garbled { inner: ports.wlm.clone(), name: Mutex::default() });
    let controller = start(&ports, wlm.clone()).await;
    tokio::spawn(pass(Arc::clone(&cluster)));
    let guilty = controller.create(spec(0), None).await.unwrap().upgrade_id;
    let other = controller.create(spec(1), None).await.unwrap().upgrade_id;
    tokio::time::sleep(poll * 5).await;
    let head = async |id: UpgradeId| controller.head(id).await.unwrap().unwrap();
    for id in [guilty, other] {
        assert_eq!(head(id).await.stage, Stage::Quiescing, "its nodes are busy");
    }
    let garbled = controller.nodes(guilty, 0, 1).await.unwrap()[0].name.clone().unwrap();
    *wlm.name.lock().unwrap() = Some(garbled.clone());
    let mut said = None;
    while !is_done(&controller, other).await {
        tokio::time::sleep(TICK).await;
        assert_eq!(head(other).await.condition, None, "nothing of it is in the way of the other");
        said = said.or(head(guilty).await.condition.clone());
    }
    assert!(said.as_ref().is_some_and(|said| said.contains(&garbled.to_string())), "{said:?}");
    // It goes on once that is mended.
    *wlm.name.lock().unwrap() = None;
    while !is_done(&controller, guilty).await {
        tokio::time::sleep(poll).await;
    }
    for id in [guilty, other] {
        let nodes = controller.nodes(id, 0, 100).await.unwrap();
        assert!(nodes.iter().all(|node| node.state == NodeState::Upgraded), "{nodes:?}");
    }
}
