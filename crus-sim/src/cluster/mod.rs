//! The model: nodes, Slurm, HSM and BOS as one value in virtual time.
//!
//! [`Cluster::advance_to`] moves the time on and lets everything happen that is due by then, in order. Calls to
//! the peers act at [`Cluster::now`]; they are methods here, each peer's in its own file:
//!
//! - [`slurm`]: `show_nodes`, `jobs`, `update`, and what happens to slurmctld.
//! - [`hsm`]: groups, members, components.
//! - [`bos`]: session templates, sessions, components.
//!
//! # Time
//!
//! [`Time`] is virtual milliseconds since 1970. Slurm's clock is the same time in whole seconds, in UTC. To run
//! the model in real or sped-up time, call `advance_to` with the mapped time before each use, and again at
//! [`Cluster::next_event`] when nobody asks meanwhile.
//!
//! # Something real that boots
//!
//! [`Cluster::drain_power_events`] tells, in order, whose power was cut and whose operating system starts; a test
//! that stands real slurmds beside the simulated BOS stops and starts them by it. With
//! [`BootEnd::Drawn`](crate::config::BootEnd::Drawn) BOS takes a boot as done after the drawn length, whatever the
//! real one does; with [`BootEnd::Reported`](crate::config::BootEnd::Reported) it waits for
//! [`Cluster::node_booted`].

mod boot;
pub mod bos;
pub mod hsm;
mod jobs;
mod limit;
mod partitions;
mod power;
mod queue;
pub mod slurm;
mod slurmd;
mod snapshot;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crus_core::promises::{By, Fact, What};
use crus_core::wlm::Partition;
use crus_core::{NodeName, Time, Xname};
use serde::{Deserialize, Serialize};

use self::boot::Component;
use self::bos::Bos;
use self::hsm::Hsm;
use self::jobs::Jobs;
use self::partitions::Partitions;
use self::power::Hardware;
use self::queue::{Event, Ix, Queue};
use self::slurm::{Controller, Update};
use self::slurmd::SlurmNode;
pub use self::snapshot::RestoreError;
use crate::config::{BootBehaviour, ClusterConfig, Held, NodeSpec, Span};
use crate::journal::{Journal, Kind};
use crate::rng::Rng;

/// A cluster that several parts of a program look at.
pub type SharedCluster = Arc<Mutex<Cluster>>;

/// Locks a shared cluster. A panic of somebody who held the lock does not keep others out: a test that failed has
/// said so already.
pub fn lock(cluster: &SharedCluster) -> MutexGuard<'_, Cluster> {
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something that the hardware did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PowerEvent {
    /// The power of a node was cut: whatever ran on it is gone.
    Cut {
        /// When.
        at: Time,
        /// Which node.
        xname: Xname,
    },
    /// A node has power and its operating system starts. A node that will not boot never gets here; nor does one
    /// whose slurmd never shows up.
    Boot {
        /// When.
        at: Time,
        /// Which node.
        xname: Xname,
    },
}

/// The random numbers, a stream for each purpose.
#[derive(Debug, Serialize, Deserialize)]
struct Draws {
    jobs: Rng,
    boots: Rng,
    slurm: Rng,
}

/// One node, in all its aspects.
#[derive(Debug, Serialize, Deserialize)]
struct Node {
    spec: NodeSpec,
    hardware: Hardware,
    slurm: SlurmNode,
    component: Component,
    #[serde(skip)]
    looked: Looked,
}

/// When somebody was last told the truth about a node.
#[derive(Debug, Clone, Copy, Default)]
struct Looked {
    node: Option<Time>,
    jobs: Option<Time>,
}

impl Looked {
    /// When both were looked at: the earlier of the two.
    fn earlier(self) -> Option<Time> {
        Some(self.node?.min(self.jobs?))
    }
}

/// The model of a cluster.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    now: Time,
    queue: Queue,
    draws: Draws,
    nodes: Vec<Node>,
    by_xname: BTreeMap<Xname, Ix>,
    by_name: BTreeMap<NodeName, Ix>,
    partitions: Partitions,
    controller: Controller,
    jobs: Jobs,
    hsm: Hsm,
    bos: Bos,
    facts: Vec<Fact>,
    power_events: Vec<PowerEvent>,
    /// Who acts on it now.
    acting: By,
    journal: Journal,
}

impl Cluster {
    /// A cluster at its start. Everything drawn follows from the seed.
    pub fn new(config: ClusterConfig, seed: u64) -> Self {
        let mut draws = Draws { jobs: Rng::new(seed, 1), boots: Rng::new(seed, 2), slurm: Rng::new(seed, 3) };
        let nodes: Vec<Node> = config
            .nodes
            .iter()
            .map(|spec| {
                // Up for an hour to thirty days.
                let up_ms = draws.boots.between(3_600_000, 30 * 24 * 3_600_000);
                let hardware = Hardware::up_since(config.start - up_ms);
                Node {
                    spec: spec.clone(),
                    slurm: SlurmNode::in_service(&hardware, config.start),
                    component: Component::new(config.start),
                    hardware,
                    looked: Looked::default(),
                }
            })
            .collect();
        let mut cluster = Cluster {
            now: config.start,
            queue: Queue::default(),
            draws,
            nodes,
            by_xname: BTreeMap::new(),
            by_name: BTreeMap::new(),
            partitions: Partitions::default(),
            controller: Controller::default(),
            jobs: Jobs::default(),
            hsm: Hsm::new(&config.groups),
            bos: Bos::new(&config.templates),
            facts: Vec::new(),
            power_events: Vec::new(),
            acting: By::Itself,
            journal: Journal::default(),
            config,
        };
        cluster.index_nodes();
        cluster.tell_groups();
        for (xname, held) in cluster.config.held.clone() {
            let update = match &held {
                Held::Drained(reason) => Update::drain(reason),
                Held::Down(reason) => Update::down(reason),
            };
            if let Some(&ix) = cluster.by_xname.get(&xname)
                && cluster.nodes[ix as usize].spec.name.is_some()
            {
                cluster.hold(ix, &update);
            }
        }
        for ix in 0..cluster.nodes.len() {
            cluster.touch(ix as Ix);
        }
        cluster.start_workload();
        cluster
    }

    /// Notes where each node is, and which are in which partition.
    fn index_nodes(&mut self) {
        let nodes = || self.nodes.iter().zip(0..);
        self.by_xname = nodes().map(|(node, ix)| (node.spec.xname, ix)).collect();
        self.by_name = nodes().filter_map(|(node, ix)| Some((node.spec.name.clone()?, ix))).collect();
        self.partitions = Partitions::new(&self.config, &self.by_name);
    }

    /// The cluster behind a lock.
    pub fn shared(self) -> SharedCluster {
        Arc::new(Mutex::new(self))
    }

    /// What it was made of.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Moves the time on to `time` and lets everything happen that is due by then, in order. A time in the past
    /// changes nothing.
    pub fn advance_to(&mut self, time: Time) {
        let acting = std::mem::take(&mut self.acting);
        while let Some((at, event)) = self.queue.pop_due(time) {
            self.now = self.now.max(at);
            if self.happen(event) {
                self.journal.note(self.now, event.kind(), || format!("{event:?}"));
                self.start_jobs();
            }
        }
        self.now = self.now.max(time);
        self.acting = acting;
    }

    /// From now on, what is done to it is this one's deed; what comes of it later by itself is not.
    pub fn acts(&mut self, by: By) {
        self.acting = by;
    }

    /// What happened so far, counted, and written down if that was asked for.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// To write down what happens.
    pub fn journal_mut(&mut self) -> &mut Journal {
        &mut self.journal
    }

    /// Somebody was told the truth about these nodes, or about the jobs on them, as of this time: the witness wants to
    /// know what was known when a reboot is asked for.
    pub(crate) fn told(&mut self, names: &[NodeName], of_jobs: bool, at: Time) {
        for name in names {
            let Some(&ix) = self.by_name.get(name) else { continue };
            let looked = &mut self.node_mut(ix).looked;
            *(if of_jobs { &mut looked.jobs } else { &mut looked.node }) = Some(at);
        }
    }

    /// Somebody was told the truth about these partitions.
    pub(crate) fn told_partitions(&mut self, partitions: &[Partition]) {
        for Partition { name, total, in_service } in partitions {
            let in_service = in_service.iter().filter_map(|name| self.xname_of(name)).collect();
            self.tell(What::PartitionLooked { partition: name.clone(), total: *total, in_service });
        }
    }

    /// Something happened.
    pub(crate) fn note(&mut self, kind: Kind, what: impl FnOnce() -> String) {
        self.journal.note(self.now, kind, what);
    }

    /// When something happens next by itself; `None` when nothing will. It may turn out that nothing does.
    pub fn next_event(&self) -> Option<Time> {
        self.queue.next()
    }

    /// How much has happened by itself. As long as this stays the same, only time passes and callers act.
    pub(crate) fn happened(&self) -> u64 {
        self.queue.happened()
    }

    /// Whether anything happened: what was overtaken does not.
    fn happen(&mut self, event: Event) -> bool {
        match event {
            Event::JobArrives(index) => self.job_arrives(index),
            Event::JobEnds(id, run) => self.job_ends(id, run),
            Event::JobMayBegin(id) => self.job_may_begin(id),
            Event::EpilogEnds(ix, id) => self.epilog_ends(ix, id),
            Event::OsUp(ix, generation) => self.os_up(ix, generation),
            Event::SlurmdStarts(ix, generation) => self.slurmd_starts(ix, generation),
            Event::Answers(ix, generation) => self.slurmd_answers(ix, generation),
            Event::Silent(ix, generation) => self.slurmd_silent(ix, generation),
            Event::Lost(ix, generation) => self.slurmd_lost(ix, generation),
            Event::ControllerStarts => {
                self.start_slurmctld();
                true
            }
            Event::SessionResolves(id) => self.session_resolves(id),
            Event::SessionRuns(id) => self.session_runs(id),
            Event::SessionForgotten(id) => self.session_forgotten(id),
            Event::Component(ix, action, generation) => self.component_acts(ix, action, generation),
        }
    }

    fn plan(&mut self, after_ms: u64, event: Event) {
        self.queue.plan(self.now + after_ms, event);
    }

    /// What happened since the start, or since the last [`drain_facts`](Self::drain_facts), for a witness. The
    /// state at the start is told as changes, too.
    pub fn facts(&self) -> &[Fact] {
        &self.facts
    }

    /// Takes the facts out.
    pub fn drain_facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.facts)
    }

    fn tell(&mut self, what: What) {
        if self.config.record_facts {
            self.journal.remark(self.now, || format!("  {what:?} by {:?}", self.acting));
            self.facts.push(Fact { at: self.now, by: self.acting, what });
        }
    }

    /// Changes what happens when BOS reboots a node from now on. Returns whether there is such a node.
    pub fn set_boot_behaviour(&mut self, xname: Xname, boot: BootBehaviour) -> bool {
        match self.by_xname.get(&xname) {
            Some(&ix) => {
                self.node_mut(ix).spec.boot = boot;
                true
            }
            None => false,
        }
    }

    /// The node that Slurm knows by this name.
    pub fn xname_of(&self, name: &NodeName) -> Option<Xname> {
        self.by_name.get(name).map(|&ix| self.node(ix).spec.xname)
    }

    /// Slurm's name of a node; `None` when Slurm does not know it.
    pub fn name_of(&self, xname: Xname) -> Option<&NodeName> {
        self.by_xname.get(&xname).and_then(|&ix| self.node(ix).spec.name.as_ref())
    }

    fn node(&self, ix: Ix) -> &Node {
        &self.nodes[ix as usize]
    }

    fn node_mut(&mut self, ix: Ix) -> &mut Node {
        &mut self.nodes[ix as usize]
    }
}

impl Rng {
    fn span(&mut self, span: Span) -> u64 {
        self.between(span.min_ms, span.max_ms)
    }
}
