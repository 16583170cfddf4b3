//! What a cluster is made of, and how its parts behave.
//!
//! Every time is virtual milliseconds unless the name says otherwise.

use std::collections::BTreeMap;

use crus_core::{GroupLabel, NodeName, NodeNameFormat, PartitionName, TemplateName, Time, Xname};
use serde::{Deserialize, Serialize};

use crate::workload::{Drawn, Workload};

/// A length of time that is drawn anew each time, evenly from `min_ms` to `max_ms`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The shortest.
    pub min_ms: u64,
    /// The longest.
    pub max_ms: u64,
}

impl Span {
    /// Always the same length.
    pub const fn exactly(ms: u64) -> Self {
        Span { min_ms: ms, max_ms: ms }
    }

    /// From `min_ms` to `max_ms`.
    pub const fn new(min_ms: u64, max_ms: u64) -> Self {
        Span { min_ms, max_ms }
    }
}

/// What happens when BOS reboots a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BootBehaviour {
    /// It comes up; how long that takes is drawn from [`BosConfig::boot`].
    #[default]
    Normal,
    /// It comes up after just this long.
    Takes {
        /// From power on to the end of the boot.
        ms: u64,
    },
    /// It never comes up, and BOS gives it up after its retries.
    Fails,
    /// It never comes up, and BOS never gives it up.
    Hangs,
    /// BOS says that it booted, and its slurmd never shows up.
    NeverRegisters,
    /// BOS says that it booted, and nobody touched its power: the old image runs on.
    DidNotReboot,
    /// BOS's power or configuration service does not know it: `on_hold` with this error, and no reboot.
    OnHold {
        /// BOS's words.
        error: String,
    },
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Its xname.
    pub xname: Xname,
    /// Its node id in HSM; `None` when HSM holds none for it.
    pub nid: Option<u32>,
    /// Its name in Slurm; `None` when Slurm does not know it.
    pub name: Option<NodeName>,
    /// Whether HSM knows it. A group of the configuration may hold a node that HSM does not know.
    pub in_hsm: bool,
    /// Its role in HSM.
    pub role: String,
    /// Its architecture in HSM: `X86`, `ARM`, `Other` or `Unknown`.
    pub arch: String,
    /// Whether HSM has it enabled.
    pub enabled: bool,
    /// Whether HSM has it locked.
    pub locked: bool,
    /// Its processors.
    pub cpus: u32,
    /// What happens when BOS reboots it.
    pub boot: BootBehaviour,
}

impl NodeSpec {
    /// An enabled, unlocked x86 compute node of 64 processors that boots, known to HSM and, as `nid%06d`, to
    /// Slurm.
    pub fn new(xname: Xname, nid: u32) -> Self {
        NodeSpec {
            xname,
            nid: Some(nid),
            name: NodeNameFormat::default().name(nid),
            in_hsm: true,
            role: "Compute".to_owned(),
            arch: "X86".to_owned(),
            enabled: true,
            locked: false,
            cpus: 64,
            boot: BootBehaviour::Normal,
        }
    }
}

/// What Slurm does with a node that is down when its slurmd registers (`ReturnToService` of `slurm.conf`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ReturnToService {
    /// 0: an operator must resume it.
    Never,
    /// 1: it returns if it was down for not responding and has not rebooted.
    #[default]
    IfNotResponding,
    /// 2: it returns.
    Always,
}

/// How Slurm behaves. The defaults are what was measured with `SlurmdTimeout=10`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlurmConfig {
    /// What happens to a node that is down when its slurmd registers.
    pub return_to_service: ReturnToService,
    /// From the end of a slurmd to `NOT_RESPONDING`.
    pub not_responding: Span,
    /// From the end of a slurmd to `DOWN`.
    pub down: Span,
    /// From the end of a node's boot to its slurmd's registration.
    pub register: Span,
    /// From RESUME to the answer of a living slurmd: so long it is `IDLE+NOT_RESPONDING`, `BootTime=None`.
    pub resume: Span,
    /// From a restart of slurmctld to the registration of a living slurmd: so long it is `UNKNOWN`.
    pub restart: Span,
    /// How long an epilog runs after its job.
    pub epilog: Span,
    /// From the requeue of a job to the moment from which it may start again: `cred_expire`, and a second.
    pub requeue: Span,
    /// How long a command waits for a slurmctld that is down.
    pub connect_timeout_ms: u64,
}

impl Default for SlurmConfig {
    fn default() -> Self {
        SlurmConfig {
            return_to_service: ReturnToService::default(),
            not_responding: Span::new(12_000, 16_000),
            down: Span::new(28_000, 32_000),
            register: Span::new(500, 3_000),
            resume: Span::new(500, 5_000),
            restart: Span::new(3_000, 5_000),
            epilog: Span::exactly(0),
            requeue: Span::new(120_000, 122_000),
            connect_timeout_ms: 9_000,
        }
    }
}

/// Who says when a boot has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BootEnd {
    /// The model, after the drawn length.
    #[default]
    Drawn,
    /// The caller, with [`Cluster::node_booted`](crate::Cluster::node_booted), after it saw
    /// [`PowerEvent::Boot`](crate::cluster::PowerEvent::Boot): for tests in which something real boots.
    Reported,
}

/// How BOS and the hardware behave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BosConfig {
    /// From the request to the moment when the nodes of a session are worked out.
    pub pending: Span,
    /// From there until the session shows as `running`.
    pub setup: Span,
    /// From `running` to the call that switches a node off.
    pub power_off_call: Span,
    /// From that call to the power being cut.
    pub power_off: Span,
    /// From there to the call that switches the node on.
    pub power_on_call: Span,
    /// From power on to the end of the boot, for nodes of [`BootBehaviour::Normal`].
    pub boot: Span,
    /// From the end of the boot to the end of configuration.
    pub configure: Span,
    /// Who says when a boot has ended.
    pub boot_end: BootEnd,
    /// How often BOS tries to bring a node up.
    pub attempts: u32,
    /// How long it waits for each try.
    pub attempt_ms: u64,
    /// How long after its start a complete session is forgotten.
    pub forget_ms: u64,
    /// Whether locked nodes are left out; versions before 2.47 reboot them.
    pub respects_locks: bool,
    /// Which version of its API the service speaks to it.
    #[serde(default)]
    pub api: BosApi,
    /// Whether a session of version 1 is ever said to be complete; old versions do not say so.
    #[serde(default = "yes")]
    pub says_complete: bool,
}

fn yes() -> bool {
    true
}

/// A version of BOS's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum BosApi {
    /// Without names of ours: a second request is a second reboot.
    V1,
    /// With names of ours.
    #[default]
    V2,
}

impl Default for BosConfig {
    fn default() -> Self {
        BosConfig {
            pending: Span::new(1_000, 5_000),
            setup: Span::new(0, 500),
            power_off_call: Span::new(500, 2_000),
            power_off: Span::new(5_000, 30_000),
            power_on_call: Span::new(500, 2_000),
            boot: Span::new(4 * 60_000, 12 * 60_000),
            configure: Span::new(10_000, 60_000),
            boot_end: BootEnd::Drawn,
            attempts: 3,
            attempt_ms: 20 * 60_000,
            forget_ms: 7 * 24 * 3_600_000,
            respects_locks: true,
            api: BosApi::V2,
            says_complete: true,
        }
    }
}

/// A group of HSM as it is at the start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupSpec {
    /// What it is for.
    pub description: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// A node is in at most one group of the same name here.
    pub exclusive_group: Option<String>,
    /// Its nodes.
    pub members: Vec<Xname>,
}

/// One boot set of a session template: which nodes it names. What is not a node's choice (kernel, image) is of
/// no consequence here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSet {
    /// HSM groups, as text: BOS does not check them.
    pub node_groups: Vec<String>,
    /// Nodes, as text: BOS does not check them.
    pub node_list: Vec<String>,
    /// HSM roles.
    pub node_roles_groups: Vec<String>,
    /// Nodes of other architectures are left out.
    pub arch: String,
}

impl BootSet {
    /// One that names a group and takes x86 nodes.
    pub fn of_group(label: &str) -> Self {
        BootSet {
            node_groups: vec![label.to_owned()],
            node_list: Vec::new(),
            node_roles_groups: Vec::new(),
            arch: "X86".to_owned(),
        }
    }
}

/// A session template of BOS: boot sets by name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TemplateSpec {
    /// The boot sets.
    pub boot_sets: BTreeMap<String, BootSet>,
    /// Why BOS refuses sessions of it, when it does: the end of `Session template fails check: …`.
    pub broken: Option<String>,
}

impl TemplateSpec {
    /// One whose only boot set, `compute`, names this group.
    pub fn of_group(label: &str) -> Self {
        TemplateSpec { boot_sets: [("compute".to_owned(), BootSet::of_group(label))].into(), broken: None }
    }
}

/// How a node is out of service at the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// An operator drained it, with this reason.
    Drained(String),
    /// An operator set it down, with this reason.
    Down(String),
}

/// A cluster at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// The moment it starts at. The clock of its Slurm shows this time, in seconds.
    pub start: Time,
    /// Its nodes.
    pub nodes: Vec<NodeSpec>,
    /// The groups of its HSM.
    pub groups: BTreeMap<GroupLabel, GroupSpec>,
    /// The session templates of its BOS.
    pub templates: BTreeMap<TemplateName, TemplateSpec>,
    /// Nodes that are out of service.
    pub held: BTreeMap<Xname, Held>,
    /// The partitions of its Slurm, with their nodes. A node may be in several, or in none: then it runs no jobs. None at
    /// all stand for one, `batch`, of all nodes.
    pub partitions: BTreeMap<PartitionName, Vec<NodeName>>,
    /// The jobs.
    pub workload: Workload,
    /// How Slurm behaves.
    pub slurm: SlurmConfig,
    /// How BOS and the hardware behave.
    pub bos: BosConfig,
    /// Whether facts and power events are logged, until somebody takes them out. Long simulations that nobody
    /// checks save memory without.
    pub record_facts: bool,
}

impl Default for ClusterConfig {
    /// No nodes, no groups, no templates, no jobs; 2026-01-01T00:00:00Z.
    fn default() -> Self {
        ClusterConfig {
            start: Time(1_767_225_600_000),
            nodes: Vec::new(),
            groups: BTreeMap::new(),
            templates: BTreeMap::new(),
            held: BTreeMap::new(),
            partitions: BTreeMap::new(),
            workload: Workload::None,
            slurm: SlurmConfig::default(),
            bos: BosConfig::default(),
            record_facts: true,
        }
    }
}

/// The node of the demo that will not boot.
pub const DEMO_BROKEN: &str = "x1001c0s3b0n1";
/// The node of the demo that an admin drained, for [`DEMO_REASON`].
pub const DEMO_DRAINED: &str = "x1002c0s5b0n0";
/// Why.
pub const DEMO_REASON: &str = "bad DIMM, ticket 4711";

impl ClusterConfig {
    /// The cluster of the demo: 64 nodes in cabinets x1000 to x1003 with jobs of some minutes on most, HSM groups
    /// `slurm-nodes` (all of them), `upgrading-nodes` and `failed-nodes` (empty), the session template
    /// `new-image`, which boots `upgrading-nodes`; [`DEMO_BROKEN`] will not boot, [`DEMO_DRAINED`] is drained by
    /// an admin.
    pub fn demo() -> Self {
        let places = (1000..1004).flat_map(|cabinet| {
            (0..8).flat_map(move |slot| (0..2).map(move |node| format!("x{cabinet}c0s{slot}b0n{node}")))
        });
        let mut nodes: Vec<NodeSpec> = places
            .zip(1..)
            .filter_map(|(place, nid)| Some(NodeSpec::new(Xname::new(&place).ok()?, nid)))
            .collect();
        let mut held = BTreeMap::new();
        for node in &mut nodes {
            match node.xname.to_string().as_str() {
                DEMO_BROKEN => node.boot = BootBehaviour::Fails,
                DEMO_DRAINED => {
                    held.insert(node.xname, Held::Drained(DEMO_REASON.to_owned()));
                }
                _ => {}
            }
        }
        let mut groups = BTreeMap::new();
        for (label, description) in [
            ("slurm-nodes", "the compute nodes of the demo"),
            ("upgrading-nodes", "nodes being upgraded"),
            ("failed-nodes", "nodes that failed to upgrade"),
        ] {
            let all = label == "slurm-nodes";
            let members = nodes.iter().filter(|_| all).map(|node| node.xname).collect();
            let group = GroupSpec { description: description.to_owned(), members, ..GroupSpec::default() };
            groups.extend(GroupLabel::new(label).ok().map(|label| (label, group)));
        }
        let template = TemplateSpec::of_group("upgrading-nodes");
        let templates =
            TemplateName::new("new-image").ok().map(|name| (name, template)).into_iter().collect();
        ClusterConfig {
            nodes,
            groups,
            templates,
            held,
            workload: Workload::Drawn(Drawn {
                busy_per_mille: 850,
                length: Span::new(2 * 60_000, 8 * 60_000),
                unlimited_per_mille: 0,
                ..Drawn::default()
            }),
            slurm: SlurmConfig { epilog: Span::new(1_000, 5_000), ..SlurmConfig::default() },
            bos: BosConfig {
                boot: Span::new(2 * 60_000, 5 * 60_000),
                attempts: 2,
                attempt_ms: 6 * 60_000,
                ..BosConfig::default()
            },
            ..ClusterConfig::default()
        }
    }

    /// Nodes of slots `0..count` in cabinet x1000, two boards of one node each, NIDs from 1.
    pub fn nodes(count: u32) -> Vec<NodeSpec> {
        let place = |n: u32| format!("x1000c{}s{}b{}n0", n / 16, n / 2 % 8, n % 2);
        (0..count).filter_map(|n| Some(NodeSpec::new(Xname::new(&place(n)).ok()?, n + 1))).collect()
    }
}
