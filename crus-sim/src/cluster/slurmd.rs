//! What slurmctld knows of each node, and how it hears of it: slurmds register, fall silent and are given up.

use crus_core::promises::{By, Fact, What};
use crus_core::time::WlmTime;
use crus_core::wlm::{BaseState, Flag};
use crus_core::{NodeName, Time};
use serde::{Deserialize, Serialize};

use super::power::{Hardware, Power};
use super::queue::{Event, Ix};
use super::slurm::{NodeRecord, Reason, wlm_time};
use super::{Cluster, Node};
use crate::config::ReturnToService;

/// What Slurm says of a node that it lost.
const NOT_RESPONDING: &str = "Not responding";
/// What Slurm says of a node that booted without being told to.
const REBOOTED: &str = "Node unexpectedly rebooted";

/// Slurm's record of a node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SlurmNode {
    pub(super) down: bool,
    pub(super) drain: bool,
    pub(super) fail: bool,
    pub(super) silent: bool,
    /// Not heard of since slurmctld started.
    unknown: bool,
    /// Whether it shows as `UNKNOWN` meanwhile, even with jobs.
    hides_jobs: bool,
    boot_time: Option<WlmTime>,
    slurmd_start_time: Option<WlmTime>,
    /// When it was last heard of. A boot later than this was unexpected.
    last_response: WlmTime,
    pub(super) reason: Option<Reason>,
    pub(super) comment: Option<String>,
    pub(super) extra: Option<String>,
    /// Counts the changes of what slurmctld waits for, so that an older wait does not end.
    generation: u32,
    /// The jobs that run on it.
    pub(super) jobs: Vec<u32>,
    /// The jobs whose epilog runs on it.
    pub(super) epilogs: Vec<u32>,
    /// Whether its power was cut under its jobs, and Slurm has not noticed.
    jobs_lost: bool,
    /// Processors given to jobs.
    pub(super) cpus: u32,
    witnessed: Witnessed,
}

/// What the witness was last told of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Witnessed {
    held: bool,
    in_service: bool,
    pub(super) reason: Option<String>,
}

impl SlurmNode {
    pub(super) fn in_service(hardware: &Hardware, now: Time) -> Self {
        SlurmNode {
            down: false,
            drain: false,
            fail: false,
            silent: false,
            unknown: false,
            hides_jobs: false,
            boot_time: Some(hardware.booted),
            slurmd_start_time: hardware.slurmd,
            last_response: wlm_time(now),
            reason: None,
            comment: None,
            extra: None,
            generation: 0,
            jobs: Vec::new(),
            epilogs: Vec::new(),
            jobs_lost: false,
            cpus: 0,
            witnessed: Witnessed { held: false, in_service: true, reason: None },
        }
    }

    /// Whether new jobs are kept from it.
    pub(super) fn is_held(&self) -> bool {
        self.down || self.drain || self.fail
    }

    /// Whether its record says that it takes jobs.
    fn is_in_service(&self) -> bool {
        !self.is_held() && !self.silent && !self.shows_unknown()
    }

    /// Whether a job may start on it: slurmctld must have heard of it.
    pub(super) fn takes_jobs(&self) -> bool {
        self.is_in_service() && !self.unknown && self.epilogs.is_empty()
    }

    fn shows_unknown(&self) -> bool {
        self.unknown && (self.hides_jobs || self.cpus == 0)
    }

    fn base(&self, cpus_total: u32) -> BaseState {
        if self.down {
            BaseState::Down
        } else if self.shows_unknown() {
            BaseState::Unknown
        } else if self.cpus >= cpus_total && self.cpus > 0 {
            BaseState::Allocated
        } else if self.cpus > 0 {
            BaseState::Mixed
        } else {
            BaseState::Idle
        }
    }

    /// Forgets when it booted, until its slurmd answers.
    pub(super) fn ask_again(&mut self, now: WlmTime) {
        self.silent = true;
        self.boot_time = None;
        self.last_response = now;
    }
}

impl Node {
    /// Its record, without partitions: it does not know them.
    pub(super) fn record(&self, name: NodeName) -> NodeRecord {
        let slurm = &self.slurm;
        let flags = [
            (Flag::Drain, slurm.drain),
            (Flag::Fail, slurm.fail),
            (Flag::Completing, !slurm.epilogs.is_empty()),
            (Flag::NotResponding, slurm.silent),
        ];
        NodeRecord {
            name,
            base: slurm.base(self.spec.cpus),
            flags: flags.into_iter().filter_map(|(flag, set)| set.then_some(flag)).collect(),
            cpus_total: self.spec.cpus,
            cpus_allocated: slurm.cpus,
            boot_time: slurm.boot_time,
            slurmd_start_time: slurm.slurmd_start_time,
            reason: slurm.reason.clone(),
            comment: slurm.comment.clone(),
            extra: slurm.extra.clone(),
            partitions: Vec::new(),
        }
    }
}

impl Cluster {
    /// Plans the answer of a slurmd that was asked, or what becomes of a dead one.
    pub(super) fn await_answer(&mut self, ix: Ix) {
        let generation = self.next_generation(ix);
        if self.node(ix).hardware.slurmd.is_some() {
            let after = self.draws.slurm.span(self.config.slurm.resume);
            self.plan(after, Event::Answers(ix, generation));
        } else {
            let after = self.draws.slurm.span(self.config.slurm.down);
            self.plan(after, Event::Lost(ix, generation));
        }
    }

    fn next_generation(&mut self, ix: Ix) -> u32 {
        let slurm = &mut self.node_mut(ix).slurm;
        slurm.generation += 1;
        slurm.generation
    }

    /// Stops slurmctld. Jobs run on; nothing starts.
    pub fn stop_slurmctld(&mut self) {
        self.controller.stopped = true;
        for ix in 0..self.nodes.len() {
            self.next_generation(ix as Ix);
        }
    }

    /// Starts slurmctld, or restarts it. Until a node has registered again its `BootTime` is `None`, and it is
    /// `UNKNOWN` unless it is down; of those that run jobs, some are and some are not. Processors stay allocated.
    pub fn start_slurmctld(&mut self) {
        self.controller.stopped = false;
        for ix in (0..self.nodes.len()).map(|ix| ix as Ix) {
            let hides_jobs = self.draws.slurm.chance(500);
            let slurm = &mut self.node_mut(ix).slurm;
            (slurm.unknown, slurm.hides_jobs) = (true, hides_jobs);
            slurm.boot_time = None;
            slurm.slurmd_start_time = None;
            let generation = self.next_generation(ix);
            if self.node(ix).hardware.slurmd.is_some() {
                let after = self.draws.slurm.span(self.config.slurm.restart);
                self.plan(after, Event::Answers(ix, generation));
            } else {
                self.await_silence(ix, generation);
            }
            self.touch(ix);
        }
    }

    /// Stops slurmctld now, and starts it again after this long.
    pub fn restart_slurmctld(&mut self, after_ms: u64) {
        self.stop_slurmctld();
        if after_ms == 0 {
            self.start_slurmctld();
        } else {
            self.plan(after_ms, Event::ControllerStarts);
        }
    }

    /// A node lost its power.
    pub(super) fn slurmd_dies(&mut self, ix: Ix) {
        let now = wlm_time(self.now);
        let node = self.node_mut(ix);
        let was_alive = node.hardware.slurmd.take().is_some();
        node.slurm.epilogs.clear();
        if !node.slurm.jobs_lost {
            node.slurm.jobs_lost = !node.slurm.jobs.is_empty();
            let killed = node.slurm.jobs.clone();
            let xname = node.spec.xname;
            for job in killed {
                self.tell(What::JobKilled { xname, job: job.to_string() });
            }
        }
        if was_alive {
            let slurm = &mut self.node_mut(ix).slurm;
            slurm.last_response = slurm.last_response.max(now);
            if !self.controller.stopped {
                let generation = self.next_generation(ix);
                self.await_silence(ix, generation);
            }
        }
        self.touch(ix);
    }

    fn await_silence(&mut self, ix: Ix, generation: u32) {
        let silent = self.draws.slurm.span(self.config.slurm.not_responding);
        let lost = self.draws.slurm.span(self.config.slurm.down).max(silent);
        self.plan(silent, Event::Silent(ix, generation));
        self.plan(lost, Event::Lost(ix, generation));
    }

    pub(super) fn slurmd_starts(&mut self, ix: Ix, generation: u32) -> bool {
        let now = wlm_time(self.now);
        let node = self.node_mut(ix);
        if node.hardware.generation != generation {
            return false;
        }
        node.hardware.slurmd = Some(now);
        if !self.controller.stopped {
            self.register(ix);
        }
        true
    }

    pub(super) fn slurmd_answers(&mut self, ix: Ix, generation: u32) -> bool {
        let node = self.node(ix);
        let answers = node.slurm.generation == generation && node.hardware.slurmd.is_some();
        if answers {
            self.register(ix);
        }
        answers
    }

    pub(super) fn slurmd_silent(&mut self, ix: Ix, generation: u32) -> bool {
        let silent = self.node(ix).slurm.generation == generation;
        if silent {
            self.node_mut(ix).slurm.silent = true;
            self.touch(ix);
        }
        silent
    }

    pub(super) fn slurmd_lost(&mut self, ix: Ix, generation: u32) -> bool {
        if self.node(ix).slurm.generation != generation {
            return false;
        }
        self.lose_jobs(ix);
        let at = wlm_time(self.now);
        let slurm = &mut self.node_mut(ix).slurm;
        (slurm.down, slurm.silent, slurm.unknown) = (true, true, false);
        slurm.reason.get_or_insert_with(|| Reason { text: NOT_RESPONDING.to_owned(), user: "slurm", at });
        self.touch(ix);
        true
    }

    /// slurmctld hears from a living slurmd.
    fn register(&mut self, ix: Ix) {
        self.next_generation(ix);
        if self.node(ix).slurm.jobs_lost {
            self.lose_jobs(ix);
        }
        let returns = self.config.slurm.return_to_service;
        let now = wlm_time(self.now);
        // slurmd works its boot out from the uptime: it is off by a second now and then.
        let jitter = self.draws.slurm.between(0, 2) as i64 - 1;
        let node = self.node_mut(ix);
        let (slurm, hardware) = (&mut node.slurm, &node.hardware);
        let rebooted = hardware.booted > slurm.last_response;
        (slurm.silent, slurm.unknown) = (false, false);
        slurm.boot_time = Some(WlmTime(hardware.booted.0 + jitter));
        slurm.slurmd_start_time = hardware.slurmd;
        slurm.last_response = now;
        let lost_only = slurm.reason.as_ref().is_some_and(|reason| reason.text == NOT_RESPONDING);
        if rebooted && returns != ReturnToService::Always {
            slurm.down = true;
            if slurm.reason.is_none() || lost_only {
                slurm.reason = Some(Reason { text: REBOOTED.to_owned(), user: "slurm", at: now });
            }
        } else if slurm.down
            && (returns == ReturnToService::Always
                || (returns == ReturnToService::IfNotResponding && lost_only))
        {
            slurm.down = false;
            if !slurm.is_held() {
                slurm.reason = None;
            }
        }
        self.touch(ix);
    }

    /// Slurm takes the jobs on a node for killed.
    pub(super) fn lose_jobs(&mut self, ix: Ix) {
        let node = self.node_mut(ix);
        let known = std::mem::take(&mut node.slurm.jobs_lost);
        node.slurm.epilogs.clear();
        let (jobs, xname) = (node.slurm.jobs.clone(), node.spec.xname);
        for job in jobs {
            if !known {
                self.tell(What::JobKilled { xname, job: job.to_string() });
            }
            self.remove_job(job, Some(ix));
        }
    }

    /// What a witness who comes late must know: the nodes as they were told last, and which of them are booting, or
    /// have booted without slurmctld knowing.
    pub(crate) fn told_nodes(&self) -> impl Iterator<Item = Fact> {
        let told = self.nodes.iter().filter(|node| node.spec.name.is_some()).map(|node| {
            let Witnessed { held, in_service, reason } = node.slurm.witnessed.clone();
            What::NodeChanged { xname: node.spec.xname, held, reason, in_service, looked: None }
        });
        let unnoticed = self.nodes.iter().filter(|node| {
            let known = node.slurm.boot_time.is_some_and(|known| node.hardware.booted.0 <= known.0 + 1);
            !known || node.hardware.power != Power::On
        });
        let lost = unnoticed.map(|node| What::PowerLost { xname: node.spec.xname });
        told.chain(lost).map(|what| Fact { at: self.now, by: By::Itself, what })
    }

    /// To be called after anything in a node's record changed: tells the witness, and the scheduler.
    pub(super) fn touch(&mut self, ix: Ix) {
        let node = &self.nodes[ix as usize];
        if node.spec.name.is_none() {
            return;
        }
        let slurm = &node.slurm;
        let (held, in_service) = (slurm.is_held(), slurm.is_in_service());
        let reason = slurm.reason.as_ref().map(|reason| reason.text.as_str());
        let available = slurm.takes_jobs() && slurm.jobs.is_empty() && node.hardware.slurmd.is_some();
        let told = &slurm.witnessed;
        if (told.held, told.in_service, told.reason.as_deref()) != (held, in_service, reason) {
            let (xname, reason) = (node.spec.xname, reason.map(str::to_owned));
            self.node_mut(ix).slurm.witnessed = Witnessed { held, in_service, reason: reason.clone() };
            let looked = self.node(ix).looked.node;
            self.tell(What::NodeChanged { xname, held, reason, in_service, looked });
        }
        self.jobs.set_available(ix, available);
    }
}
