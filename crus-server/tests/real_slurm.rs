//! The running service upgrades a real Slurm on this host. HSM and BOS are the simulator's HTTP faces; a reboot by
//! that BOS ends the node's real slurmd and starts it anew.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crus_core::check::What;
use crus_core::model::Stage;
use crus_core::ports::SessionStore as _;
use crus_core::{NodeName, UpgradeId, Xname};
use crus_server::store::RedbStore;
use crus_sim::cluster::PowerEvent;
use crus_sim::config::{BootBehaviour, BootEnd, BosConfig, GroupSpec, Span, TemplateSpec};
use crus_sim::http::{LiveCluster, Server};
use crus_sim::slurm_lab::{LabConfig, SlurmLab, left_out};
use crus_sim::{Cluster, ClusterConfig};
use support::{Service, path_of, spec, until};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, block_in_place};

/// How often real Slurm is looked at beside the service.
const SAMPLE: Duration = Duration::from_millis(150);

/// Nothing is drawn that matters: every span of the simulated BOS is exact.
const SEED: u64 = 1;

// ---- what Slurm prints -----------------------------------------------------------------------------------

/// One line of `scontrol show … -o`: what stands behind each key.
struct Record(String);

impl Record {
    fn all(text: &str) -> Vec<Record> {
        text.lines().filter(|line| !line.trim().is_empty()).map(|line| Record(line.to_owned())).collect()
    }

    fn field(&self, key: &str) -> &str {
        let begin = format!(" {key}=");
        let line = &self.0;
        let at =
            if line.starts_with(&begin[1..]) { 0 } else { line.find(&begin).map_or(line.len(), |at| at + 1) };
        let value = line[at..].split_once('=').map_or("", |(_, value)| value);
        if key == "Reason" { value } else { value.split(' ').next().unwrap() }
    }

    fn is(&self, flag: &str) -> bool {
        self.field("State").split('+').any(|state| state == flag)
    }

    fn is_held(&self) -> bool {
        ["DRAIN", "DOWN", "FAIL"].iter().any(|flag| self.is(flag))
    }

    fn is_in_service(&self) -> bool {
        ["IDLE", "MIXED", "ALLOCATED"].iter().any(|base| self.is(base))
            && !self.is_held()
            && !self.is("NOT_RESPONDING")
    }
}

// ---- the site --------------------------------------------------------------------------------------------

/// A real Slurm, with the simulator's HSM and BOS for the same nodes.
struct Site {
    lab: Arc<SlurmLab>,
    live: LiveCluster,
    bos: Server,
    folder: tempfile::TempDir,
    /// Whether operating systems come up now; while not, a boot waits.
    boots: watch::Sender<bool>,
    /// What was wrong at the moment of a power cut.
    wrongs: Arc<Mutex<Vec<String>>>,
    hands: JoinSet<()>,
}

fn nid(n: usize) -> String {
    format!("nid{n:06}")
}

impl Site {
    /// `failing`: the node that will not boot.
    async fn start(nodes: usize, failing: Option<usize>) -> Site {
        // Slurm starts what waits as soon as it can, so that the test need not wait for its scheduler.
        let extra = vec!["SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1".to_owned()];
        let lab =
            block_in_place(|| SlurmLab::start(LabConfig { nodes, extra, ..LabConfig::default() }).unwrap());
        let cluster = Cluster::new(cluster(nodes, failing), SEED).shared();
        let live = LiveCluster::paced(cluster, 1.0);
        let events = live.power_events();
        let bos = crus_sim::http::serve(live.clone(), SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let mut site = Site {
            lab: Arc::new(lab),
            live,
            bos,
            folder: tempfile::tempdir().unwrap(),
            boots: watch::Sender::new(true),
            wrongs: Arc::default(),
            hands: JoinSet::new(),
        };
        let (lab, live, wrongs) = (site.lab.clone(), site.live.clone(), site.wrongs.clone());
        site.hands.spawn(hands(lab, live, events, site.boots.subscribe(), wrongs));
        site
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("crus.redb")
    }

    fn service(&self) -> Service {
        let url = self.bos.url();
        let (hsm, bos) = (format!("{url}/hsm/v2"), format!("{url}/v2"));
        let mut command = support::serve(&self.store(), &hsm, &bos, "0.3");
        command.args(["--settle-s", "2", "--call-timeout-s", "20"]).envs(self.lab.env());
        Service::start(command)
    }

    fn nodes(&self) -> Vec<Record> {
        block_in_place(|| Record::all(&self.lab.scontrol(&["show", "node", "-o"]).unwrap()))
    }

    fn node(&self, name: &str) -> Record {
        self.nodes().into_iter().find(|node| node.field("NodeName") == name).unwrap()
    }

    fn members(&self, label: &str) -> BTreeSet<String> {
        members(&self.live, label)
    }

    /// Submits a job that has its nodes for itself. `wants`: what else it asks for, such as `--nodes=2`.
    fn submit(&self, wants: &str, script: &str) -> String {
        let id = block_in_place(|| {
            let wrap = format!("--wrap={script}");
            let common = ["--parsable", "--output=/dev/null", "--chdir=/", "--exclusive", "--time=3"];
            self.lab.run("sbatch", &[&common[..], &[wants, &wrap]].concat()).unwrap()
        });
        id.trim().to_owned()
    }

    /// All jobs, those that ended included. None of them was requeued (P2).
    fn jobs(&self) -> Vec<Record> {
        let jobs = block_in_place(|| Record::all(&self.lab.scontrol(&["show", "job", "-o"]).unwrap()));
        for job in &jobs {
            assert_eq!(job.field("Restarts"), "0", "{}", job.0);
        }
        jobs
    }

    /// P2: no job was killed, requeued or cut short. Waits for those that still run.
    async fn assert_no_job_harmed(&self, submitted: &BTreeSet<String>) -> Vec<Record> {
        assert_eq!(*lock(&self.wrongs), [""; 0], "at power cuts");
        until("all jobs ended", async || {
            self.jobs()
                .iter()
                .all(|job| !["PENDING", "RUNNING", "COMPLETING"].contains(&job.field("JobState")))
        })
        .await;
        let jobs = self.jobs();
        let ended: BTreeSet<String> = jobs.iter().map(|job| job.field("JobId").to_owned()).collect();
        assert_eq!(&ended, submitted);
        for job in &jobs {
            assert_eq!((job.field("JobState"), job.field("ExitCode")), ("COMPLETED", "0:0"), "{}", job.0);
        }
        jobs
    }

    /// How often the simulated BOS cut the power of each node.
    fn power_cuts(&self) -> BTreeMap<String, u32> {
        let facts = self.live.with(|cluster| cluster.facts().to_vec());
        let mut cuts = BTreeMap::new();
        for fact in facts {
            if let What::PowerCut { xname, .. } = fact.what {
                *cuts.entry(name_of(&self.live, xname)).or_default() += 1;
            }
        }
        cuts
    }
}

/// The same nodes for HSM and BOS as the lab has. A reboot takes about a second.
fn cluster(nodes: usize, failing: Option<usize>) -> ClusterConfig {
    let mut specs = ClusterConfig::nodes(u32::try_from(nodes).unwrap());
    if let Some(failing) = failing {
        specs[failing - 1].boot = BootBehaviour::Fails;
    }
    let all = GroupSpec { members: specs.iter().map(|node| node.xname).collect(), ..GroupSpec::default() };
    ClusterConfig {
        nodes: specs,
        groups: BTreeMap::from([
            ("slurm-nodes".parse().unwrap(), all),
            ("upgrading-nodes".parse().unwrap(), GroupSpec::default()),
            ("failed-nodes".parse().unwrap(), GroupSpec::default()),
        ]),
        templates: BTreeMap::from([(
            "new-image".parse().unwrap(),
            TemplateSpec::of_group("upgrading-nodes"),
        )]),
        bos: BosConfig {
            pending: Span::exactly(200),
            setup: Span::exactly(100),
            power_off_call: Span::exactly(100),
            power_off: Span::exactly(200),
            power_on_call: Span::exactly(100),
            configure: Span::exactly(300),
            boot_end: BootEnd::Reported,
            attempts: 1,
            // The node that will not boot is given up after this; the others' slurmd needs far less to start.
            attempt_ms: if failing.is_some() { 8_000 } else { 60_000 },
            ..BosConfig::default()
        },
        ..ClusterConfig::default()
    }
}

fn name_of(live: &LiveCluster, xname: Xname) -> String {
    live.with(|cluster| cluster.name_of(xname).map(NodeName::to_string)).unwrap()
}

fn members(live: &LiveCluster, label: &str) -> BTreeSet<String> {
    let xnames: Vec<Xname> =
        live.with(|cluster| cluster.group(label).unwrap().members.iter().copied().collect());
    xnames.into_iter().map(|xname| name_of(live, xname)).collect()
}

/// What BOS does to the hardware happens to the real slurmds. Right before a power cut, real Slurm is asked whether
/// anything runs there (P2).
async fn hands(
    lab: Arc<SlurmLab>,
    live: LiveCluster,
    mut events: mpsc::UnboundedReceiver<PowerEvent>,
    mut boots: watch::Receiver<bool>,
    wrongs: Arc<Mutex<Vec<String>>>,
) {
    while let Some(event) = events.recv().await {
        match event {
            PowerEvent::Cut { xname, .. } => block_in_place(|| {
                let node = name_of(&live, xname);
                let record = Record(lab.scontrol(&["show", "node", "-o", &node]).unwrap());
                let jobs = lab.squeue(&["-h", "-w", &node, "-o", "%i %T"]).unwrap();
                if !record.is_held() || record.field("CPUAlloc") != "0" || !jobs.trim().is_empty() {
                    lock(&wrongs).push(format!("jobs {jobs:?} on {}", record.0));
                }
                lab.stop_node(&node).unwrap();
            }),
            PowerEvent::Boot { xname, .. } => {
                boots.wait_for(|boots| *boots).await.unwrap();
                block_in_place(|| lab.start_node(&name_of(&live, xname)).unwrap());
                assert!(live.with(|cluster| cluster.node_booted(xname)), "BOS waits for the boot of {xname}");
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

// ---- the upgrade -----------------------------------------------------------------------------------------

const NODES: usize = 12;
const STEP_SIZE: u32 = 4;
/// The node that an admin drained before, and why.
const ADMINS: usize = 7;
const ADMINS_REASON: &str = "bad DIMM, ticket 4711";
/// The node that will not boot.
const FAILING: usize = 10;

/// How many nodes were out of service at most, in all samples.
#[derive(Default)]
struct Width {
    widest: usize,
    samples: u32,
    wrongs: Vec<String>,
}

/// P1, seen from outside: samples real Slurm all along. The admin's node counts only while it is in a step, the
/// failed one only until it is marked.
async fn sample(lab: Arc<SlurmLab>, live: LiveCluster, width: Arc<Mutex<Width>>) {
    let admins = nid(ADMINS);
    let in_step = || members(&live, "upgrading-nodes").contains(&admins);
    loop {
        let before = in_step();
        let text = block_in_place(|| lab.scontrol(&["show", "node", "-o"]).unwrap());
        let admins_counts = before && in_step();
        let out: Vec<String> = Record::all(&text)
            .into_iter()
            .filter(|node| !node.is_in_service())
            .filter(|node| admins_counts || node.field("NodeName") != admins)
            .filter(|node| !node.field("Reason").starts_with("upgrading-boot-session-failed"))
            .map(|node| format!("{} {}", node.field("NodeName"), node.field("State")))
            .collect();
        {
            let mut width = lock(&width);
            width.samples += 1;
            width.widest = width.widest.max(out.len());
            if out.len() > STEP_SIZE as usize {
                width.wrongs.push(out.join(", "));
            }
        }
        tokio::time::sleep(SAMPLE).await;
    }
}

/// Keeps some jobs waiting, so that whatever returns to service gets work.
struct Users {
    submitted: BTreeSet<String>,
}

impl Users {
    /// Jobs on every node but the admin's: some end soon, some make their step wait, some span two nodes.
    async fn start(site: &Site) -> Users {
        let first =
            [("nid[000001-000002]", 6), ("nid000003", 2), ("nid[000004-000005]", 3), ("nid000006", 8)];
        let more = [("nid000008", 4), ("nid[000009-000010]", 2), ("nid000011", 7), ("nid000012", 3)];
        let jobs = first.into_iter().chain(more);
        let submitted = jobs
            .map(|(nodes, seconds)| {
                site.submit(&format!("--nodelist={nodes}"), &format!("exec sleep {seconds}"))
            })
            .collect();
        until("all jobs running", async || {
            // One that ended already ran as well.
            site.jobs().iter().all(|job| job.field("JobState") != "PENDING")
        })
        .await;
        Users { submitted }
    }

    fn keep_waiting(&mut self, site: &Site) {
        let pending = site.jobs().iter().filter(|job| job.field("JobState") == "PENDING").count();
        for _ in pending..3 {
            let turn = self.submitted.len();
            let (count, seconds) = ([1, 2, 1][turn % 3], [3, 2, 4, 1][turn % 4]);
            self.submitted.insert(site.submit(&format!("--nodes={count}"), &format!("exec sleep {seconds}")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_slurm_upgrades_a_cluster_and_harms_no_job() {
    if left_out() {
        return;
    }
    let site = Site::start(NODES, Some(FAILING)).await;
    let drain = format!("NodeName={}", nid(ADMINS));
    block_in_place(|| {
        site.lab.scontrol(&["update", &drain, "State=DRAIN", &format!("Reason={ADMINS_REASON}")]).unwrap();
    });
    let before: BTreeMap<String, String> = site
        .nodes()
        .iter()
        .map(|node| (node.field("NodeName").to_owned(), node.field("BootTime").to_owned()))
        .collect();
    let width = Arc::new(Mutex::new(Width::default()));
    let mut watchers = JoinSet::new();
    watchers.spawn(sample(site.lab.clone(), site.live.clone(), width.clone()));
    let service = site.service();
    let mut users = Users::start(&site).await;

    let (code, created) = service.post(&spec(STEP_SIZE)).await;
    assert_eq!(code, 201, "{created}");
    let path = path_of(&created);
    until("the session completed", async || {
        users.keep_waiting(&site);
        service.get(&path).await.1["completed"] == true
    })
    .await;
    let session = service.get(&path).await.1;

    // P2
    let jobs = site.assert_no_job_harmed(&users.submitted).await;
    let returned: Vec<Record> = site.nodes();
    let back_at_work = jobs.iter().any(|job| {
        returned.iter().any(|node| {
            node.field("NodeName") == job.field("BatchHost")
                && before[node.field("NodeName")] != node.field("BootTime")
                && job.field("StartTime") > node.field("BootTime")
        })
    });
    assert!(back_at_work, "no job ran on an upgraded node");

    // P1
    watchers.shutdown().await;
    let width = lock(&width);
    assert_eq!(width.wrongs, [""; 0]);
    assert_eq!(
        width.widest, STEP_SIZE as usize,
        "in {} samples: steps are as wide as asked for",
        width.samples
    );

    // P3, P4, P5, P6
    let id = created["upgrade_id"].as_str().unwrap();
    let cuts = site.power_cuts();
    for node in site.nodes() {
        let name = node.field("NodeName").to_owned();
        assert_eq!(cuts.get(&name), Some(&1), "{name}");
        let reason = node.field("Reason");
        if name == nid(FAILING) {
            assert!(node.is("DOWN"), "{}", node.0);
            assert!(reason.starts_with("upgrading-boot-session-failed"), "{}", node.0);
            assert!(reason.contains(id), "{}", node.0);
            continue;
        }
        // Local times of one form: their order is the order of time.
        assert!(node.field("BootTime") > before[&name].as_str(), "{}", node.0);
        if name == nid(ADMINS) {
            assert!(node.is("DRAIN") && reason.starts_with(&format!("{ADMINS_REASON} [")), "{}", node.0);
        } else {
            assert!(node.is_in_service(), "{}", node.0);
        }
    }
    assert_eq!(site.members("failed-nodes"), BTreeSet::from([nid(FAILING)]));
    assert_eq!(site.members("upgrading-nodes"), BTreeSet::new());
    assert_eq!(session["state"], "READY");
    let told = session["messages"].as_array().unwrap();
    assert_eq!(told.last().unwrap(), "Upgrade Session Completed", "{told:?}");
}

// ---- kill -9 ---------------------------------------------------------------------------------------------

/// `kill -9` while the session is in this stage: the world holds it there, and what is stored says so.
async fn kill_in(stage: Stage, step: u32, service: Service, store: &Path, path: &str) {
    let began = match stage {
        Stage::Quiescing => format!("Quiesce requested in step {step}: moving to QUIESCING"),
        _ => format!("Began the boot session for step {step}: moving to BOOTING"),
    };
    until(&began, async || {
        let session = service.get(path).await.1;
        session["messages"].as_array().unwrap().iter().any(|message| *message == *began)
    })
    .await;
    service.kill();
    let id: UpgradeId = path.rsplit('/').next().unwrap().parse().unwrap();
    // A process that was cut off between its fork and the start of its program may hold the store for a moment.
    let mut opened = None;
    until("the store let go", async || {
        opened = RedbStore::open(store).ok();
        opened.is_some()
    })
    .await;
    let (session, _) = opened.unwrap().load(id).await.unwrap().unwrap();
    assert_eq!((session.head.stage, session.head.step), (stage, step));
}

/// P3: whatever is forgotten, no node is rebooted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_slurm_survives_kill_9_of_the_server() {
    if left_out() {
        return;
    }
    let site = Site::start(6, None).await;
    // They run until they are told to end: so long a step that holds their nodes is QUIESCING.
    let script = |gate: &Path| format!("until [ -e {} ]; do sleep 0.1; done", gate.display());
    let gates = [0, 1].map(|step| site.folder.path().join(format!("end-{step}")));
    let mut submitted = BTreeSet::from([
        site.submit("--nodelist=nid[000001-000002]", &script(&gates[0])),
        site.submit("--nodelist=nid[000003-000005]", &script(&gates[0])),
        site.submit("--nodelist=nid000006", &script(&gates[0])),
    ]);
    until("the jobs running", async || site.jobs().iter().all(|job| job.field("JobState") == "RUNNING"))
        .await;

    let mut service = site.service();
    let path = path_of(&service.post(&spec(3)).await.1);
    for (step, gate) in (0..).zip(&gates) {
        kill_in(Stage::Quiescing, step, service, &site.store(), &path).await;
        site.boots.send_replace(false);
        std::fs::write(gate, "").unwrap();
        service = site.service();
        kill_in(Stage::Booting, step, service, &site.store(), &path).await;
        // The nodes of the next step have work when their turn comes.
        if step == 0 {
            submitted.insert(site.submit("--nodelist=nid[000004-000006]", &script(&gates[1])));
            until("the job running", async || {
                site.jobs().iter().any(|job| job.field("JobState") == "RUNNING")
            })
            .await;
        }
        site.boots.send_replace(true);
        service = site.service();
    }
    until("the session completed", async || service.get(&path).await.1["completed"] == true).await;

    site.assert_no_job_harmed(&submitted).await;
    assert_eq!(site.power_cuts(), (1..=6).map(|n| (nid(n), 1)).collect());
    for n in 1..=6 {
        assert!(site.node(&nid(n)).is_in_service());
    }
    assert_eq!(site.members("upgrading-nodes"), BTreeSet::new());
    assert_eq!(site.members("failed-nodes"), BTreeSet::new());
    let session = service.get(&path).await.1;
    assert_eq!(session["messages"].as_array().unwrap().last().unwrap(), "Upgrade Session Completed");
}
