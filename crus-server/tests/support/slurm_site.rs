//! A real Slurm on this host, with the simulator's HSM and BOS for the same nodes: a reboot by that BOS ends the node's
//! real slurmd and starts it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crus_core::promises::What;
use crus_core::{NodeName, Xname};
use crus_sim::cluster::PowerEvent;
use crus_sim::config::{BootBehaviour, BootEnd, BosConfig, GroupSpec, Span, TemplateSpec};
use crus_sim::http::{LiveCluster, Server};
use crus_sim::slurm_lab::{LabConfig, LabError, QUICK_SILENCE, SlurmLab};
use crus_sim::{Cluster, ClusterConfig};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, block_in_place};
use tokio::time::Instant;

use crate::support::{self, PATIENCE, Service, until};

/// Nothing is drawn that matters: every span of the simulated BOS is exact.
const SEED: u64 = 1;

// ---- what Slurm prints -----------------------------------------------------------------------------------

/// One line of `scontrol show … -o`: what stands behind each key.
pub(crate) struct Record(pub(crate) String);

impl Record {
    pub(crate) fn all(text: &str) -> Vec<Record> {
        text.lines().filter(|line| !line.trim().is_empty()).map(|line| Record(line.to_owned())).collect()
    }

    pub(crate) fn field(&self, key: &str) -> &str {
        let begin = format!(" {key}=");
        let line = &self.0;
        let at =
            if line.starts_with(&begin[1..]) { 0 } else { line.find(&begin).map_or(line.len(), |at| at + 1) };
        let value = line[at..].split_once('=').map_or("", |(_, value)| value);
        if key == "Reason" { value } else { value.split(' ').next().unwrap() }
    }

    pub(crate) fn is(&self, flag: &str) -> bool {
        self.field("State").split('+').any(|state| state == flag)
    }

    pub(crate) fn is_held(&self) -> bool {
        ["DRAIN", "DOWN", "FAIL"].iter().any(|flag| self.is(flag))
    }

    pub(crate) fn is_in_service(&self) -> bool {
        ["IDLE", "MIXED", "ALLOCATED"].iter().any(|base| self.is(base))
            && !self.is_held()
            && !self.is("NOT_RESPONDING")
    }
}

// ---- the site --------------------------------------------------------------------------------------------

/// The way that the nodes of a site boot. By default all boot well, and within a second or two.
#[derive(Debug, Clone, Default)]
pub(crate) struct Boots {
    /// The node that never boots.
    pub(crate) failing: Option<usize>,
    /// The node that registers with less than Slurm's configuration says.
    pub(crate) badly: Option<usize>,
    /// The node that something else drains once it has registered, before BOS knows that it booted; and for what.
    pub(crate) drained: Option<(usize, &'static str)>,
    /// Makes boots last three times `SlurmdTimeout`, so that Slurm takes each booting node for dead.
    pub(crate) long: bool,
}

/// A real Slurm, with the simulator's HSM and BOS for the same nodes.
pub(crate) struct Site {
    pub(crate) lab: Arc<SlurmLab>,
    pub(crate) live: LiveCluster,
    pub(crate) bos: Server,
    pub(crate) folder: tempfile::TempDir,
    /// False while operating systems do not come up: a boot then waits.
    pub(crate) boots: watch::Sender<bool>,
    /// Set once the node of [`Boots::drained`] was drained.
    drained: Arc<AtomicBool>,
    /// Everything that was wrong at the moment of a power cut.
    pub(crate) wrongs: Arc<Mutex<Vec<String>>>,
    pub(crate) hands: JoinSet<()>,
}

pub(crate) fn nid(n: usize) -> String {
    format!("nid{n:06}")
}

impl Site {
    /// Starts one whose nodes are all in the group `slurm-nodes`.
    pub(crate) async fn start(nodes: usize, boots: Boots) -> Site {
        Site::with(nodes, boots, 1..=nodes, &[]).await
    }

    /// Starts one. `upgraded`: the nodes of the group `slurm-nodes`. `lines`: what else `slurm.conf` holds.
    pub(crate) async fn with(
        nodes: usize,
        boots: Boots,
        upgraded: impl IntoIterator<Item = usize>,
        lines: &[&str],
    ) -> Site {
        let extra = lines.iter().map(|line| (*line).to_owned()).collect();
        let config = LabConfig { nodes, quick_silence: boots.long, extra, ..LabConfig::default() };
        let lab = block_in_place(|| SlurmLab::start(config).unwrap());
        let cluster = Cluster::new(cluster(nodes, boots.failing, upgraded), SEED).shared();
        let live = LiveCluster::paced(cluster, 1.0);
        let events = live.power_events();
        let bos = crus_sim::http::serve(live.clone(), SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let mut site = Site {
            lab: Arc::new(lab),
            live,
            bos,
            folder: tempfile::tempdir().unwrap(),
            boots: watch::Sender::new(true),
            drained: Arc::default(),
            wrongs: Arc::default(),
            hands: JoinSet::new(),
        };
        let hands = Hands {
            lab: site.lab.clone(),
            live: site.live.clone(),
            boots,
            may_boot: site.boots.subscribe(),
            off_since: BTreeMap::new(),
            drained: site.drained.clone(),
            wrongs: site.wrongs.clone(),
        };
        site.hands.spawn(hands.work(events));
        site
    }

    /// Returns true once the node of [`Boots::drained`] was drained.
    pub(crate) fn was_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("crus.redb")
    }

    pub(crate) fn service(&self) -> Service {
        Service::start(self.serve())
    }

    /// The command that runs the service.
    pub(crate) fn serve(&self) -> Command {
        let url = self.bos.url();
        let (hsm, bos) = (format!("{url}/hsm/v2"), format!("{url}/v2"));
        let mut command = support::serve(&self.store(), &hsm, &bos, "0.3");
        command.args(["--settle-s", "2", "--call-timeout-s", "20"]).envs(self.lab.env());
        command
    }

    pub(crate) fn nodes(&self) -> Vec<Record> {
        block_in_place(|| Record::all(&self.lab.scontrol(&["show", "node", "-o"]).unwrap()))
    }

    pub(crate) fn node(&self, name: &str) -> Record {
        self.nodes().into_iter().find(|node| node.field("NodeName") == name).unwrap()
    }

    pub(crate) fn members(&self, label: &str) -> BTreeSet<String> {
        members(&self.live, label)
    }

    /// Submits a job that has its nodes for itself. `wants`: what else it asks for, such as `--nodes=2`.
    pub(crate) fn submit(&self, wants: &str, script: &str) -> String {
        let id = block_in_place(|| {
            let wrap = format!("--wrap={script}");
            let common = ["--parsable", "--output=/dev/null", "--chdir=/", "--exclusive", "--time=3"];
            self.lab.run("sbatch", &[&common[..], &[wants, &wrap]].concat()).unwrap()
        });
        id.trim().to_owned()
    }

    /// All jobs, those that ended included.
    pub(crate) fn any_jobs(&self) -> Vec<Record> {
        block_in_place(|| Record::all(&self.lab.scontrol(&["show", "job", "-o"]).unwrap()))
    }

    /// All jobs, as [`any_jobs`](Self::any_jobs). Fails if one of them was requeued (P2).
    pub(crate) fn jobs(&self) -> Vec<Record> {
        let jobs = self.any_jobs();
        for job in &jobs {
            assert_eq!(job.field("Restarts"), "0", "{}", job.0);
        }
        jobs
    }

    /// P2: no job was killed, requeued or cut short. Waits for those that still run.
    pub(crate) async fn assert_no_job_harmed(&self, submitted: &BTreeSet<String>) -> Vec<Record> {
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

    /// The number of times that the simulated BOS cut the power of each node.
    pub(crate) fn power_cuts(&self) -> BTreeMap<String, u32> {
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
fn cluster(nodes: usize, failing: Option<usize>, upgraded: impl IntoIterator<Item = usize>) -> ClusterConfig {
    let mut specs = ClusterConfig::nodes(u32::try_from(nodes).unwrap());
    if let Some(failing) = failing {
        specs[failing - 1].boot = BootBehaviour::Fails;
    }
    let members = upgraded.into_iter().map(|n| specs[n - 1].xname).collect();
    let all = GroupSpec { members, ..GroupSpec::default() };
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
            attempt_ms: if failing.is_some() { 12_000 } else { 60_000 },
            ..BosConfig::default()
        },
        ..ClusterConfig::default()
    }
}

pub(crate) fn name_of(live: &LiveCluster, xname: Xname) -> String {
    live.with(|cluster| cluster.name_of(xname).map(NodeName::to_string)).unwrap()
}

pub(crate) fn members(live: &LiveCluster, label: &str) -> BTreeSet<String> {
    let xnames: Vec<Xname> =
        live.with(|cluster| cluster.group(label).unwrap().members.iter().copied().collect());
    xnames.into_iter().map(|xname| name_of(live, xname)).collect()
}

/// The task that does to the real slurmds what BOS does to the hardware.
struct Hands {
    lab: Arc<SlurmLab>,
    live: LiveCluster,
    boots: Boots,
    may_boot: watch::Receiver<bool>,
    off_since: BTreeMap<Xname, Instant>,
    drained: Arc<AtomicBool>,
    wrongs: Arc<Mutex<Vec<String>>>,
}

impl Hands {
    async fn work(mut self, mut events: mpsc::UnboundedReceiver<PowerEvent>) {
        while let Some(event) = events.recv().await {
            match event {
                PowerEvent::Cut { xname, .. } => block_in_place(|| self.cut(xname)),
                PowerEvent::Boot { xname, .. } => {
                    self.may_boot.wait_for(|may| *may).await.unwrap();
                    self.boot(xname).await;
                }
            }
        }
    }

    fn node(&self, name: &str) -> Record {
        Record(self.lab.scontrol(&["show", "node", "-o", name]).unwrap())
    }

    /// Right before a power cut, real Slurm is asked whether anything runs there (P2).
    fn cut(&mut self, xname: Xname) {
        let name = name_of(&self.live, xname);
        let record = self.node(&name);
        let jobs = self.lab.squeue(&["-h", "-w", &name, "-o", "%i %T"]).unwrap();
        if !record.is_held() || record.field("CPUAlloc") != "0" || !jobs.trim().is_empty() {
            lock(&self.wrongs).push(format!("jobs {jobs:?} on {}", record.0));
        }
        self.lab.stop_node(&name).unwrap();
        self.off_since.insert(xname, Instant::now());
    }

    async fn boot(&self, xname: Xname) {
        if self.boots.long {
            // From its power cut: the others of its step boot meanwhile.
            tokio::time::sleep_until(self.off_since[&xname] + 3 * QUICK_SILENCE).await;
        }
        block_in_place(|| self.boot_now(&name_of(&self.live, xname)).unwrap());
        assert!(self.live.with(|cluster| cluster.node_booted(xname)), "BOS waits for the boot of {xname}");
    }

    fn boot_now(&self, name: &str) -> Result<(), LabError> {
        if self.boots.long {
            self.lab.wait_until("the silent node down", PATIENCE, || Ok(self.node(name).is("DOWN")))?;
        }
        let before = self.node(name).field("BootTime").to_owned();
        if self.boots.badly.map(nid).as_deref() == Some(name) {
            self.lab.start_node_badly(name)?;
        } else {
            self.lab.start_node(name)?;
        }
        if let Some((node, reason)) = self.boots.drained
            && nid(node) == name
        {
            let registered = || Ok(self.node(name).field("BootTime") != before);
            self.lab.wait_until("the node registered", PATIENCE, registered)?;
            let (node, reason) = (format!("NodeName={name}"), format!("Reason={reason}"));
            self.lab.scontrol(&["update", &node, "State=DRAIN", &reason])?;
            self.drained.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
