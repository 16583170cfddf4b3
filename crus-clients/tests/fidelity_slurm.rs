//! One suite for two Slurms: a real one, and the simulator's stand-in for its programs. What holds for the client
//! with one holds with the other, so that whatever is tested on the simulator may be believed.
//!
//! The stand-in is a program, and this binary is also that program (`slurm-stand-in` as its first argument): hence
//! a harness of its own.

#![expect(
    clippy::unwrap_used,
    reason = "a test's panic is how it fails; without the usual harness it is not seen as one"
)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crus_clients::slurm::{Slurm, SlurmConfig};
use crus_core::names::{NodeName, PartitionName};
use crus_core::ports::{Peer, PortError, Wlm};
use crus_core::wlm::{BaseState, Flag, Job, WlmNode};
use crus_sim::config::{BosConfig, NodeSpec, Span};
use crus_sim::http::{LiveCluster, Server, serve};
use crus_sim::slurm_lab::{LabConfig, SlurmLab, SlurmVersion, known_failure, left_out};
use crus_sim::workload::{JobSpec, Wanted};
use crus_sim::{Cluster, ClusterConfig, stand_in};
use libtest_mimic::{Arguments, Trial};

const STAND_IN: &str = "slurm-stand-in";

/// The time that something may take that must happen.
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    if args.peek().is_some_and(|arg| arg == STAND_IN) {
        return stand_in::main(args);
    }
    let mut trials = Vec::new();
    for (name, scenario) in SCENARIOS {
        trials.push(Trial::test(format!("stand_in_{name}"), move || {
            runtime().block_on(async { scenario(&StandIn::start().await).await });
            Ok(())
        }));
        trials.push(on_a_real_slurm(name, move |site| scenario(site)));
    }
    for (name, scenario) in REAL_ONLY {
        trials.push(on_a_real_slurm(name, scenario));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn on_a_real_slurm<S>(name: &'static str, scenario: S) -> Trial
where
    S: for<'a> Fn(&'a Real) -> Pin<Box<dyn Future<Output = ()> + 'a>> + Send + 'static,
{
    Trial::test(format!("real_slurm_{name}"), move || {
        if !left_out() {
            let site = Real::start(lines_of(name));
            runtime().block_on(as_known(name, scenario(&site)));
        }
        Ok(())
    })
}

/// Further lines of the lab's `slurm.conf` for a scenario.
fn lines_of(name: &str) -> &'static [&'static str] {
    match name {
        // While the controller is down, each program tries once a second for so long, by default 9 to 10 seconds.
        // (src/common/slurm_protocol_api.c)
        "a_controller_that_is_down_is_unreachable" => &["MessageTimeout=2"],
        _ => &[],
    }
}

/// Runs a scenario, which on some releases is known to fail.
async fn as_known(name: &str, scenario: impl Future<Output = ()>) {
    match name {
        "resuming_what_is_in_service_is_harmless" => {
            known_failure(
                SlurmVersion::new(25, 11)..,
                // The client does not know the newer text, "Invalid node state transition".
                "… a RESUME refused for a node's state is that node's fault and counts against the time-out, on 22.05 \
                 as on 26.05.",
                &["Invalid node state transition"],
                scenario,
            )
            .await;
        }
        _ => scenario.await,
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

// The two Slurms

/// A Slurm with four nodes of four processors, `nid000001` to `nid000004`, all idle; in the partitions `batch` (all of
/// them), `pair` (the last two) and `empty`.
trait Site: Sync {
    fn slurm(&self) -> &Slurm;
    /// Submits a job that takes one processor of each of these nodes and runs until it is ended; its id. It may wait
    /// for a while.
    fn submit(&self, nodes: &[&str], limit_minutes: Option<u32>) -> String;
    /// Submits such a job that may not be requeued, and has no limit.
    fn submit_once(&self, nodes: &[&str]) -> String;
    fn end_job(&self, id: &str);
    /// Boots the node anew, whatever runs there.
    fn reboot(&self, node: &str);
    fn stop_controller(&self);
    fn start_controller(&self);
    /// Returns true if RESUME leaves the reason on the node.
    fn keeps_the_reason_after_resume(&self) -> bool;
}

struct Real {
    lab: SlurmLab,
    slurm: Slurm,
}

impl Real {
    fn start(lines: &[&str]) -> Self {
        let partitions = [
            "PartitionName=pair Nodes=nid[000003-000004] Hidden=YES State=UP",
            "PartitionName=empty State=UP",
        ];
        let extra = partitions.iter().chain(lines).map(|line| (*line).to_owned()).collect();
        let lab = SlurmLab::start(LabConfig { nodes: 4, extra, ..LabConfig::default() }).unwrap();
        let env = lab.env().map(|(name, value)| (name.into(), value.to_owned())).to_vec();
        Real { lab, slurm: Slurm::new(SlurmConfig { env, ..SlurmConfig::default() }) }
    }
}

impl Real {
    fn sbatch(&self, args: &[&str]) -> String {
        let common = ["--parsable", "--output=/dev/null", "--chdir=/"];
        self.lab.run("sbatch", &[&common, args].concat()).unwrap().trim().to_owned()
    }

    /// The state of a job, and the number of times it was requeued.
    fn job(&self, id: &str) -> (String, String) {
        let field = |name| self.lab.job_field(id, name).unwrap().unwrap();
        (field("JobState"), field("Restarts"))
    }
}

impl Site for Real {
    fn slurm(&self) -> &Slurm {
        &self.slurm
    }

    fn submit(&self, nodes: &[&str], limit_minutes: Option<u32>) -> String {
        // No limit is asked for by a limit of 0.
        self.lab.sleep_job(&nodes.join(","), 3_600, limit_minutes.unwrap_or(0)).unwrap()
    }

    fn submit_once(&self, nodes: &[&str]) -> String {
        let nodes = format!("--nodelist={}", nodes.join(","));
        self.sbatch(&["--no-requeue", &nodes, "--ntasks-per-node=1", "--wrap=exec sleep 3600"])
    }

    fn end_job(&self, id: &str) {
        self.lab.run("scancel", &[id]).unwrap();
    }

    fn reboot(&self, node: &str) {
        self.lab.reboot_node(node).unwrap();
    }

    fn stop_controller(&self) {
        self.lab.stop_controller().unwrap();
    }

    fn start_controller(&self) {
        self.lab.start_controller().unwrap();
    }

    fn keeps_the_reason_after_resume(&self) -> bool {
        self.lab.version().keeps_the_reason_after_resume()
    }
}

struct StandIn {
    live: LiveCluster,
    _server: Server,
    slurm: Slurm,
    last_job: AtomicU32,
}

impl StandIn {
    /// Its time passes twenty times as fast as ours.
    async fn start() -> Self {
        let nodes = (1..=4)
            .map(|nid| {
                let xname = format!("x1000c0s{nid}b0n0").parse().unwrap();
                NodeSpec { cpus: 4, ..NodeSpec::new(xname, nid) }
            })
            .collect();
        let bos = BosConfig { boot: Span::new(5_000, 20_000), ..BosConfig::default() };
        let all = ["nid000001", "nid000002", "nid000003", "nid000004"];
        let partitions = [("batch", names(&all)), ("pair", names(&all[2..])), ("empty", vec![])];
        let partitions = partitions.map(|(name, nodes)| (name.parse().unwrap(), nodes)).into();
        let cluster = Cluster::new(ClusterConfig { nodes, bos, partitions, ..ClusterConfig::default() }, 7);
        let live = LiveCluster::paced(cluster.shared(), 20.0);
        let server = serve(live.clone(), ([127, 0, 0, 1], 0).into()).await.unwrap();
        let own = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
        let program = |name: &str| vec![own.clone(), STAND_IN.to_owned(), name.to_owned()];
        let slurm = Slurm::new(SlurmConfig {
            scontrol: program("scontrol"),
            squeue: program("squeue"),
            scancel: program("scancel"),
            env: vec![(OsString::from(stand_in::ADDRESS), server.address().to_string().into())],
            ..SlurmConfig::default()
        });
        StandIn { live, _server: server, slurm, last_job: AtomicU32::new(0) }
    }
}

impl StandIn {
    fn submit_job(&self, nodes: &[&str], limit_minutes: Option<u32>, requeue: bool) -> String {
        let id = self.last_job.fetch_add(1, Ordering::Relaxed) + 1;
        let job = JobSpec {
            id,
            user: "ada".to_owned(),
            wanted: Wanted::Nodes(names(nodes)),
            cpus: Some(1),
            start_ms: 0,
            duration_ms: None,
            limit_ms: limit_minutes.map(|minutes| u64::from(minutes) * 60_000),
            partition: None,
            requeue,
        };
        assert!(self.live.with(|cluster| cluster.submit(job)));
        id.to_string()
    }
}

impl Site for StandIn {
    fn slurm(&self) -> &Slurm {
        &self.slurm
    }

    fn submit(&self, nodes: &[&str], limit_minutes: Option<u32>) -> String {
        self.submit_job(nodes, limit_minutes, true)
    }

    fn submit_once(&self, nodes: &[&str]) -> String {
        self.submit_job(nodes, None, false)
    }

    fn end_job(&self, id: &str) {
        assert!(self.live.with(|cluster| cluster.end_job(id.parse().unwrap())));
    }

    fn reboot(&self, node: &str) {
        self.live.with(|cluster| {
            let xname = cluster.xname_of(&name(node)).unwrap();
            assert!(cluster.power_off(xname) && cluster.power_on(xname));
        });
    }

    fn stop_controller(&self) {
        self.live.with(Cluster::stop_slurmctld);
    }

    fn start_controller(&self) {
        self.live.with(Cluster::start_slurmctld);
    }

    fn keeps_the_reason_after_resume(&self) -> bool {
        false
    }
}

// Questions

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn names(texts: &[&str]) -> Vec<NodeName> {
    texts.iter().map(|text| name(text)).collect()
}

async fn node(site: &dyn Site, text: &str) -> WlmNode {
    let mut nodes = site.slurm().nodes(&[name(text)]).await.unwrap();
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    nodes.remove(0)
}

async fn state(site: &dyn Site, text: &str) -> String {
    node(site, text).await.state()
}

async fn jobs(site: &dyn Site, nodes: &[&str]) -> Vec<Job> {
    let mut jobs = site.slurm().jobs(&names(nodes)).await.unwrap();
    jobs.sort_by(|a, b| a.id.cmp(&b.id));
    jobs
}

/// Looks at a node until it is as wanted, and returns it.
async fn node_once(site: &dyn Site, text: &str, wanted: impl Fn(&WlmNode) -> bool) -> WlmNode {
    let begin = Instant::now();
    loop {
        let node = node(site, text).await;
        if wanted(&node) {
            return node;
        }
        assert!(begin.elapsed() < LIMIT, "it stays as it is: {node:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// Submits a job and waits until it is seen on its nodes.
async fn running_job(site: &dyn Site, nodes: &[&str], limit_minutes: Option<u32>) -> String {
    let id = site.submit(nodes, limit_minutes);
    let begin = Instant::now();
    while !jobs(site, nodes).await.iter().any(|job| job.id == id) {
        assert!(begin.elapsed() < LIMIT, "job {id} does not start");
        tokio::time::sleep(POLL).await;
    }
    id
}

/// Looks until no job is seen on these nodes.
async fn jobs_gone(site: &dyn Site, nodes: &[&str]) {
    let begin = Instant::now();
    loop {
        let left = jobs(site, nodes).await;
        if left.is_empty() {
            return;
        }
        assert!(begin.elapsed() < LIMIT, "they stay: {left:?}");
        tokio::time::sleep(POLL).await;
    }
}

fn refused(detail: &str) -> Result<(), PortError> {
    Err(PortError::Refused { peer: Peer::Wlm, detail: detail.to_owned() })
}

// The suite

type Scenario<S> = for<'a> fn(&'a S) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), |site| Box::pin($name(site)))),*]
    };
}

const SCENARIOS: [(&str, Scenario<dyn Site>); 17] = scenarios![
    idle_nodes_are_in_service_and_quiet,
    unknown_nodes_are_left_out,
    a_drain_carries_its_reason_and_repeating_it_is_harmless,
    a_drain_without_a_reason_is_refused,
    jobs_are_seen_with_their_nodes_and_ends_until_they_end,
    a_drained_busy_node_keeps_its_job_and_is_not_quiet,
    a_resumed_node_is_in_service_once_it_answers,
    a_node_set_down_loses_its_job_and_can_be_resumed,
    resuming_what_is_in_service_is_harmless,
    a_drain_is_refused_at_an_unknown_node_with_those_before_it_drained,
    a_controller_that_is_down_is_unreachable,
    a_reboot_shows_as_a_newer_boot_time,
    a_reason_keeps_quotes_of_some_kind_at_its_ends,
    partitions_tell_which_of_their_nodes_are_in_service,
    a_requeued_job_leaves_its_nodes_and_no_other_job_does,
    a_job_that_cannot_be_requeued_is_refused_and_the_others_are_requeued,
    a_cancelled_job_is_gone_for_good,
];

async fn idle_nodes_are_in_service_and_quiet(site: &dyn Site) {
    let asked = names(&["nid000001", "nid000002", "nid000003", "nid000004"]);
    let nodes = site.slurm().nodes(&asked).await.unwrap();
    assert_eq!(nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>(), asked);
    for node in nodes {
        assert_eq!(node.state(), "IDLE");
        assert!(node.is_in_service() && node.is_quiet(), "{node:?}");
        assert_eq!((node.cpus_allocated, &node.reason), (Some(0), &None));
        assert!(node.boot_time.is_some());
    }
    assert_eq!(jobs(site, &["nid000001"]).await, []);
}

async fn unknown_nodes_are_left_out(site: &dyn Site) {
    let nodes = site.slurm().nodes(&names(&["nid009999", "nid000002", "nid1"])).await.unwrap();
    assert_eq!(nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>(), ["nid000002"]);
    assert_eq!(site.slurm().nodes(&names(&["nid009999"])).await, Ok(vec![]));
    assert_eq!(jobs(site, &["nid009999"]).await, []);
}

async fn a_drain_carries_its_reason_and_repeating_it_is_harmless(site: &dyn Site) {
    let both = names(&["nid000001", "nid000002"]);
    for _ in 0..2 {
        site.slurm().drain(&both, "rolling-upgrade 17; a=b [x@y] State=IDLE é").await.unwrap();
        for node in site.slurm().nodes(&both).await.unwrap() {
            assert_eq!(node.state(), "IDLE+DRAIN");
            assert_eq!(node.reason.as_deref(), Some("rolling-upgrade 17; a=b [x@y] State=IDLE é"));
            assert!(node.is_quiet() && node.is_held());
        }
    }
    assert_eq!(state(site, "nid000003").await, "IDLE");

    site.slurm().set_reason(&both[..1], "see \"bad dimm\"\nin the log").await.unwrap();
    let node = node(site, "nid000001").await;
    assert_eq!(node.reason.as_deref(), Some("see 'bad dimm' in the log"));
    assert_eq!(node.state(), "IDLE+DRAIN");
}

async fn a_drain_without_a_reason_is_refused(site: &dyn Site) {
    let words = "You must specify a reason when DOWNING or DRAINING a node. Request denied";
    assert_eq!(site.slurm().drain(&names(&["nid000001"]), "").await, refused(words));
    assert_eq!(site.slurm().down(&names(&["nid000001"]), " \n").await, refused(words));
    assert_eq!(state(site, "nid000001").await, "IDLE");
}

async fn jobs_are_seen_with_their_nodes_and_ends_until_they_end(site: &dyn Site) {
    let limited = running_job(site, &["nid000001", "nid000002"], Some(20)).await;
    let unlimited = running_job(site, &["nid000003"], None).await;
    let seen = jobs(site, &["nid000002", "nid000003", "nid000004"]).await;
    assert_eq!(seen.iter().map(|job| &job.id).collect::<Vec<_>>(), [&limited, &unlimited]);
    assert_eq!(seen[0].nodes, names(&["nid000001", "nid000002"]));
    assert!(seen[0].end.is_some() && seen[1].end.is_none(), "{seen:?}");
    assert!(seen.iter().all(|job| !job.user.is_empty()));
    assert_eq!(jobs(site, &["nid000004"]).await, []);

    // One that waits holds nothing: all of nid000004 is held, so that none of it is left.
    site.slurm().drain(&names(&["nid000004"]), "full").await.unwrap();
    site.submit(&["nid000004"], Some(1));
    assert_eq!(jobs(site, &["nid000004"]).await, []);

    // One that ended holds nothing either, though Slurm still knows it.
    site.end_job(&limited);
    jobs_gone(site, &["nid000001", "nid000002"]).await;
    let node = node_once(site, "nid000002", WlmNode::is_quiet).await;
    assert_eq!(node.state(), "IDLE");
}

async fn a_drained_busy_node_keeps_its_job_and_is_not_quiet(site: &dyn Site) {
    let job = running_job(site, &["nid000001"], Some(20)).await;
    site.slurm().drain(&names(&["nid000001"]), "rolling-upgrade").await.unwrap();
    let node = node(site, "nid000001").await;
    assert_eq!((node.state().as_str(), node.cpus_allocated), ("MIXED+DRAIN", Some(1)));
    assert!(!node.is_quiet());
    assert_eq!(jobs(site, &["nid000001"]).await[0].id, job);

    site.end_job(&job);
    let node = node_once(site, "nid000001", WlmNode::is_quiet).await;
    assert_eq!(node.state(), "IDLE+DRAIN");
}

async fn a_resumed_node_is_in_service_once_it_answers(site: &dyn Site) {
    let one = names(&["nid000001"]);
    site.slurm().drain(&one, "rolling-upgrade").await.unwrap();
    site.slurm().resume(&one).await.unwrap();
    assert!(!node(site, "nid000001").await.is_held());
    let node = node_once(site, "nid000001", |node| node.is_in_service() && node.boot_time.is_some()).await;
    let left = site.keeps_the_reason_after_resume().then(|| "rolling-upgrade".to_owned());
    assert_eq!((node.state().as_str(), node.reason), ("IDLE", left));
}

async fn a_node_set_down_loses_its_job_and_can_be_resumed(site: &dyn Site) {
    let one = names(&["nid000001"]);
    running_job(site, &["nid000001"], Some(20)).await;
    site.slurm().down(&one, "upgrading-boot-session-failed").await.unwrap();
    let node = node(site, "nid000001").await;
    assert_eq!(node.base, BaseState::Down);
    assert_eq!(node.reason.as_deref(), Some("upgrading-boot-session-failed"));
    assert!(node.is_held() && !node.is_in_service());
    jobs_gone(site, &["nid000001"]).await;
    node_once(site, "nid000001", WlmNode::is_quiet).await;

    site.slurm().resume(&one).await.unwrap();
    node_once(site, "nid000001", WlmNode::is_in_service).await;
}

async fn resuming_what_is_in_service_is_harmless(site: &dyn Site) {
    running_job(site, &["nid000003"], Some(20)).await;
    let three = names(&["nid000001", "nid000002", "nid000003"]);
    assert_eq!(site.slurm().resume(&three).await, Ok(()));
    site.slurm().drain(&three[1..2], "rolling-upgrade").await.unwrap();
    assert_eq!(site.slurm().resume(&three).await, Ok(()));
    node_once(site, "nid000002", WlmNode::is_in_service).await;
    assert_eq!(state(site, "nid000003").await, "MIXED");

    let error = refused("Invalid node name specified");
    assert_eq!(site.slurm().resume(&names(&["nid009999"])).await, error);
}

async fn a_drain_is_refused_at_an_unknown_node_with_those_before_it_drained(site: &dyn Site) {
    let asked = names(&["nid000000", "nid000002"]);
    assert_eq!(site.slurm().drain(&asked, "rolling-upgrade").await, refused("Invalid node name specified"));
    assert_eq!(state(site, "nid000002").await, "IDLE");

    let asked = names(&["nid000001", "nid009999"]);
    assert_eq!(site.slurm().drain(&asked, "rolling-upgrade").await, refused("Invalid node name specified"));
    assert_eq!(state(site, "nid000001").await, "IDLE+DRAIN");
}

async fn a_controller_that_is_down_is_unreachable(site: &dyn Site) {
    let one = names(&["nid000001"]);
    site.stop_controller();
    let detail = "Unable to contact slurm controller (connect failure)".to_owned();
    let unreachable = PortError::Unreachable { peer: Peer::Wlm, detail };
    let (partition, job) = (["batch".parse().unwrap()], ["1".to_owned()]);
    let (nodes, jobs, resumed, partitions, requeued, cancelled) = tokio::join!(
        site.slurm().nodes(&one),
        site.slurm().jobs(&one),
        site.slurm().resume(&one),
        site.slurm().partitions(&partition),
        site.slurm().requeue(&job),
        site.slurm().cancel(&job),
    );
    assert_eq!(nodes, Err(unreachable.clone()));
    assert_eq!(jobs, Err(unreachable.clone()));
    assert_eq!(resumed, Err(unreachable.clone()));
    assert_eq!(partitions, Err(unreachable));
    // `scontrol requeue` does not say what kept it from it.
    let detail = "Unexpected message received for job 1".to_owned();
    assert_eq!(requeued, Err(PortError::MayHaveActed { peer: Peer::Wlm, detail }));
    let detail =
        "Kill job error on job id 1: Unable to contact slurm controller (connect failure)".to_owned();
    assert_eq!(cancelled, Err(PortError::Unreachable { peer: Peer::Wlm, detail }));

    site.start_controller();
    node_once(site, "nid000001", |node| node.is_in_service() && node.boot_time.is_some()).await;
}

async fn a_reboot_shows_as_a_newer_boot_time(site: &dyn Site) {
    let one = names(&["nid000001"]);
    site.slurm().drain(&one, "rolling-upgrade").await.unwrap();
    let before = node(site, "nid000001").await.boot_time.unwrap();
    site.reboot("nid000001");
    let node = node_once(site, "nid000001", |node| node.boot_time.is_some_and(|at| at > before)).await;
    assert!(node.has(Flag::Drain), "{node:?}");
    assert_eq!(node.reason.as_deref(), Some("rolling-upgrade"));

    let back = |node: &WlmNode| node.is_in_service() && node.boot_time.is_some();
    let mut node = node;
    while !back(&node) {
        site.slurm().resume(&one).await.unwrap();
        // So soon after its boot Slurm may see a second one and take the node down: see the lab's caveats.
        node = node_once(site, "nid000001", |node| back(node) || node.base == BaseState::Down).await;
    }
    assert!(node.boot_time.unwrap() > before);
}

/// The partitions of these names: with how many nodes, and which of them are in service.
async fn partitions(site: &dyn Site, asked: &[&str]) -> Vec<(String, usize, Vec<String>)> {
    let asked: Vec<PartitionName> = asked.iter().map(|name| name.parse().unwrap()).collect();
    let told = site.slurm().partitions(&asked).await.unwrap();
    let texts = |nodes: BTreeSet<NodeName>| nodes.iter().map(ToString::to_string).collect();
    told.into_iter().map(|one| (one.name.to_string(), one.total, texts(one.in_service))).collect()
}

async fn partitions_tell_which_of_their_nodes_are_in_service(site: &dyn Site) {
    site.slurm().drain(&names(&["nid000002", "nid000003"]), "rolling-upgrade").await.unwrap();
    running_job(site, &["nid000001"], None).await;
    let told = partitions(site, &["pair", "nope", "empty", "batch"]).await;
    let expected =
        [("batch", 4, vec!["nid000001", "nid000004"]), ("empty", 0, vec![]), ("pair", 2, vec!["nid000004"])];
    let texts = |nodes: Vec<&str>| nodes.into_iter().map(str::to_owned).collect();
    assert_eq!(told, expected.map(|(name, total, nodes)| (name.to_owned(), total, texts(nodes))));
    assert_eq!(partitions(site, &["nope"]).await, []);
}

async fn a_requeued_job_leaves_its_nodes_and_no_other_job_does(site: &dyn Site) {
    let job = running_job(site, &["nid000001", "nid000002"], Some(20)).await;
    let other = running_job(site, &["nid000003"], Some(20)).await;
    let beside = running_job(site, &["nid000002"], Some(20)).await;
    // One that is not there any more, or never was, is fine.
    let asked = [job.clone(), "999999".to_owned()];
    assert_eq!(site.slurm().requeue(&asked).await, Ok(()));
    jobs_gone(site, &["nid000001"]).await;
    assert_eq!(node_once(site, "nid000001", WlmNode::is_quiet).await.state(), "IDLE");
    let left = jobs(site, &["nid000001", "nid000002", "nid000003"]).await;
    let left: BTreeSet<&String> = left.iter().map(|job| &job.id).collect();
    assert_eq!(left, BTreeSet::from([&other, &beside]));
    assert_eq!(site.slurm().requeue(&asked).await, Ok(()), "again is harmless: it waits");
}

async fn a_job_that_cannot_be_requeued_is_refused_and_the_others_are_requeued(site: &dyn Site) {
    let once = site.submit_once(&["nid000001"]);
    let job = running_job(site, &["nid000002"], Some(20)).await;
    let begin = Instant::now();
    while jobs(site, &["nid000001"]).await.is_empty() {
        assert!(begin.elapsed() < LIMIT, "job {once} does not start");
        tokio::time::sleep(POLL).await;
    }
    let words = format!("Requested operation is presently disabled for job {once}");
    assert_eq!(site.slurm().requeue(&[once.clone(), job]).await, refused(&words));
    jobs_gone(site, &["nid000002"]).await;
    assert_eq!(jobs(site, &["nid000001"]).await[0].id, once);
}

async fn a_cancelled_job_is_gone_for_good(site: &dyn Site) {
    let job = running_job(site, &["nid000001", "nid000002"], Some(20)).await;
    let other = running_job(site, &["nid000003"], None).await;
    let asked = ["999999".to_owned(), job.clone()];
    for _ in 0..2 {
        assert_eq!(site.slurm().cancel(&asked).await, Ok(()));
    }
    jobs_gone(site, &["nid000001", "nid000002"]).await;
    assert_eq!(jobs(site, &["nid000003"]).await[0].id, other);
    assert_eq!(site.slurm().requeue(&[job]).await, Ok(()), "what was cancelled is not run again");
    tokio::time::sleep(POLL).await;
    assert_eq!(jobs(site, &["nid000001", "nid000002"]).await, []);
}

// What the simulator does not have

const REAL_ONLY: [(&str, Scenario<Real>); 4] = scenarios![
    a_suspended_job_is_seen_though_its_node_looks_idle,
    a_job_that_ended_meanwhile_is_not_run_again_by_a_requeue,
    a_task_of_an_array_is_ended_alone_and_a_heterogeneous_job_as_a_whole,
    a_job_of_srun_cannot_be_requeued,
];

/// A plain `scontrol requeue` would: what is read of the jobs is old by the time it is acted upon.
async fn a_job_that_ended_meanwhile_is_not_run_again_by_a_requeue(site: &Real) {
    let done = site.sbatch(&["--nodelist=nid000001", "--wrap=exec sleep 0.2"]);
    let cancelled = running_job(site, &["nid000002"], Some(20)).await;
    site.end_job(&cancelled);
    let begin = Instant::now();
    while site.job(&done).0 != "COMPLETED" || site.job(&cancelled).0 != "CANCELLED" {
        assert!(begin.elapsed() < LIMIT, "they do not end");
        tokio::time::sleep(POLL).await;
    }
    assert_eq!(site.slurm().requeue(&[done.clone(), cancelled.clone()]).await, Ok(()));
    assert_eq!(site.job(&done), ("COMPLETED".to_owned(), "0".to_owned()));
    assert_eq!(site.job(&cancelled), ("CANCELLED".to_owned(), "0".to_owned()));
    // That this could be seen: the plain one does it.
    site.lab.scontrol(&["requeue", &done]).unwrap();
    assert_eq!(site.job(&done), ("PENDING".to_owned(), "1".to_owned()));
}

/// The ids of the jobs on these nodes, once there are so many.
async fn running_ids(site: &Real, nodes: &[&str], count: usize) -> Vec<String> {
    let begin = Instant::now();
    loop {
        let ids: Vec<String> = jobs(site, nodes).await.into_iter().map(|job| job.id).collect();
        if ids.len() == count {
            return ids;
        }
        assert!(begin.elapsed() < LIMIT, "{ids:?}");
        tokio::time::sleep(POLL).await;
    }
}

async fn a_task_of_an_array_is_ended_alone_and_a_heterogeneous_job_as_a_whole(site: &Real) {
    let sleep = "--wrap=exec sleep 3600";
    let array = site.sbatch(&["--array=1-3", "--nodelist=nid000001", "--ntasks=1", sleep]);
    let mixed = site.sbatch(&[
        "--nodelist=nid000002",
        "--ntasks=1",
        ":",
        "--nodelist=nid000003",
        "--ntasks=1",
        sleep,
    ]);
    let task = |n: u32| format!("{array}_{n}");
    assert_eq!(running_ids(site, &["nid000001"], 3).await, [task(1), task(2), task(3)]);
    // The last of an array has the array's own number.
    assert_eq!(site.slurm().requeue(&[task(3)]).await, Ok(()));
    assert_eq!(running_ids(site, &["nid000001"], 2).await, [task(1), task(2)]);
    assert_eq!(site.slurm().cancel(&[task(1), format!("{array}_99")]).await, Ok(()));
    assert_eq!(running_ids(site, &["nid000001"], 1).await, [task(2)]);

    let parts = [format!("{mixed}+0"), format!("{mixed}+1")];
    assert_eq!(running_ids(site, &["nid000002", "nid000003"], 2).await, parts);
    assert_eq!(site.slurm().requeue(&parts[1..]).await, Ok(()));
    jobs_gone(site, &["nid000002", "nid000003"]).await;
    let mixed = site.sbatch(&[
        "--nodelist=nid000002",
        "--ntasks=1",
        ":",
        "--nodelist=nid000003",
        "--ntasks=1",
        sleep,
    ]);
    running_ids(site, &["nid000002", "nid000003"], 2).await;
    assert_eq!(site.slurm().cancel(&[format!("{mixed}+1")]).await, Ok(()));
    jobs_gone(site, &["nid000002", "nid000003"]).await;
}

async fn a_job_of_srun_cannot_be_requeued(site: &Real) {
    let mut srun = std::process::Command::new("srun")
        .args(["--nodelist=nid000001", "--ntasks=1", "--chdir=/", "sleep", "3600"])
        .envs(site.lab.env())
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let ids = running_ids(site, &["nid000001"], 1).await;
    let words = format!("Only batch jobs are accepted or processed for job {}", ids[0]);
    assert_eq!(site.slurm().requeue(&ids).await, refused(&words));
    assert_eq!(running_ids(site, &["nid000001"], 1).await, ids);
    assert_eq!(site.slurm().cancel(&ids).await, Ok(()));
    jobs_gone(site, &["nid000001"]).await;
    assert!(!srun.wait().unwrap().success());
}

/// P2: the node's own record says that nothing runs there.
async fn a_suspended_job_is_seen_though_its_node_looks_idle(site: &Real) {
    let job = running_job(site, &["nid000001"], Some(20)).await;
    site.lab.scontrol(&["suspend", &job]).unwrap();
    let node = node_once(site, "nid000001", WlmNode::is_quiet).await;
    assert_eq!((node.state().as_str(), node.cpus_allocated), ("IDLE", Some(0)));
    assert_eq!(jobs(site, &["nid000001"]).await[0].id, job);
}

/// Slurm takes a double quote off either end of a reason.
async fn a_reason_keeps_quotes_of_some_kind_at_its_ends(site: &dyn Site) {
    for (given, kept) in [("\"bad\" dimm", "'bad' dimm"), ("dimm \"bad\"", "dimm 'bad'"), ("'bad'", "'bad'")]
    {
        site.slurm().drain(&names(&["nid000001"]), given).await.unwrap();
        assert_eq!(node(site, "nid000001").await.reason.as_deref(), Some(kept));
    }
}
