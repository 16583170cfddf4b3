//! Slurm 22.05 as it was seen to behave.

use std::collections::BTreeSet;

use crus_core::check::What;
use crus_core::time::WlmTime;
use crus_core::wlm::{BaseState, Flag, WlmNode};
use crus_core::{NodeName, Time};

use super::power::Hardware;
use super::queue::{Event, Ix};
use super::{Cluster, Node};
use crate::config::ReturnToService;

/// Why a node is out of service, and who said so when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The text.
    pub text: String,
    /// Who set it: `root` for every update, `slurm` for Slurm itself.
    pub user: &'static str,
    /// When.
    pub at: WlmTime,
}

/// A node as `scontrol show node` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its name.
    pub name: NodeName,
    /// The base state.
    pub base: BaseState,
    /// The flags.
    pub flags: BTreeSet<Flag>,
    /// Its processors.
    pub cpus_total: u32,
    /// Those given to jobs.
    pub cpus_allocated: u32,
    /// `BootTime`; `None` while Slurm does not know.
    pub boot_time: Option<WlmTime>,
    /// `SlurmdStartTime`; `None` while Slurm does not know.
    pub slurmd_start_time: Option<WlmTime>,
    /// `Reason`.
    pub reason: Option<Reason>,
    /// `Comment`.
    pub comment: Option<String>,
    /// `Extra`.
    pub extra: Option<String>,
}

impl From<NodeRecord> for WlmNode {
    fn from(record: NodeRecord) -> WlmNode {
        WlmNode {
            name: record.name,
            base: record.base,
            flags: record.flags,
            cpus_allocated: Some(record.cpus_allocated),
            boot_time: record.boot_time,
            reason: record.reason.map(|reason| reason.text),
        }
    }
}

/// What `scontrol show node` printed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShownNodes {
    /// The nodes that Slurm knows, in the order asked for.
    pub nodes: Vec<NodeRecord>,
    /// Names that it does not know: `Node NAME not found`, and exit code 1.
    pub not_found: Vec<NodeName>,
}

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// It waits for nodes.
    Pending,
    /// It runs.
    Running,
}

/// A job as `squeue` tells it. One whose epilog runs is gone from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    /// Its id.
    pub id: u32,
    /// Whose it is.
    pub user: String,
    /// How it stands.
    pub state: JobState,
    /// Its nodes; empty while it waits.
    pub nodes: Vec<NodeName>,
    /// How many nodes it has, or wants while it waits.
    pub node_count: u32,
    /// Its processors on all its nodes, or those it wants while it waits.
    pub cpus: u32,
    /// When it was submitted.
    pub submitted: WlmTime,
    /// When it began; `None` while it waits.
    pub start: Option<WlmTime>,
    /// Its time limit, in seconds; `None`: none.
    pub limit_s: Option<u64>,
    /// When it ends at the latest: `None` without a limit (`squeue`: `NONE`), and while it waits (`squeue`: `N/A`).
    pub end: Option<WlmTime>,
}

/// A new state for nodes: `State=` of `scontrol update`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewState {
    /// `DRAIN`.
    Drain,
    /// `UNDRAIN`.
    Undrain,
    /// `RESUME`.
    Resume,
    /// `DOWN`.
    Down,
    /// `FAIL`.
    Fail,
}

/// One `scontrol update`. What is `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Update {
    /// `State=`.
    pub state: Option<NewState>,
    /// `Reason=`. Alone it changes only nodes that are down, drained or failing.
    pub reason: Option<String>,
    /// `Comment=`.
    pub comment: Option<String>,
    /// `Extra=`.
    pub extra: Option<String>,
}

impl Update {
    /// `State=DRAIN Reason=…`
    pub fn drain(reason: &str) -> Self {
        Update { state: Some(NewState::Drain), reason: Some(reason.to_owned()), ..Update::default() }
    }

    /// `State=DOWN Reason=…`
    pub fn down(reason: &str) -> Self {
        Update { state: Some(NewState::Down), reason: Some(reason.to_owned()), ..Update::default() }
    }

    /// `State=FAIL Reason=…`
    pub fn fail(reason: &str) -> Self {
        Update { state: Some(NewState::Fail), reason: Some(reason.to_owned()), ..Update::default() }
    }

    /// `State=RESUME`
    pub fn resume() -> Self {
        Update { state: Some(NewState::Resume), ..Update::default() }
    }

    /// `State=UNDRAIN`
    pub fn undrain() -> Self {
        Update { state: Some(NewState::Undrain), ..Update::default() }
    }

    /// `Reason=…` alone
    pub fn reason(reason: &str) -> Self {
        Update { reason: Some(reason.to_owned()), ..Update::default() }
    }
}

/// What Slurm's commands print when they fail, all with exit code 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlurmError {
    /// slurmctld is down. Commands that read print `slurm_load_node error: ` and the like before it, and it takes
    /// them [`SlurmConfig::connect_timeout_ms`](crate::config::SlurmConfig::connect_timeout_ms) to say so.
    #[error("Unable to contact slurm controller (connect failure)")]
    ControllerDown,
    /// A name in the list is unknown. Those that come before it in the order of names were changed.
    #[error("slurm_update error: Invalid node name specified")]
    InvalidNodeName,
    /// RESUME of a node that has nothing to resume from. The others were changed.
    #[error("slurm_update error: Invalid node state specified")]
    InvalidNodeState,
    /// DRAIN, DOWN or FAIL without a reason. Nothing was changed.
    #[error("You must specify a reason when DOWNING or DRAINING a node. Request denied")]
    NoReason,
    /// The caller is neither root nor SlurmUser. Nothing was changed.
    #[error("slurm_update error: Invalid user id")]
    InvalidUser,
}

/// What Slurm says of a node that it lost.
const NOT_RESPONDING: &str = "Not responding";
/// What Slurm says of a node that booted without being told to.
const REBOOTED: &str = "Node unexpectedly rebooted";

/// A time on Slurm's clock.
pub(super) fn wlm_time(time: Time) -> WlmTime {
    WlmTime(i64::try_from(time.0 / 1000).unwrap_or(i64::MAX))
}

/// slurmctld.
#[derive(Debug, Default)]
pub(super) struct Controller {
    pub(super) stopped: bool,
    refuses_updates: bool,
}

/// Slurm's record of a node.
#[derive(Debug)]
pub(super) struct SlurmNode {
    down: bool,
    drain: bool,
    fail: bool,
    silent: bool,
    /// Not heard of since slurmctld started.
    unknown: bool,
    /// Whether it shows as `UNKNOWN` meanwhile, even with jobs.
    hides_jobs: bool,
    boot_time: Option<WlmTime>,
    slurmd_start_time: Option<WlmTime>,
    /// When it was last heard of. A boot later than this was unexpected.
    last_response: WlmTime,
    reason: Option<Reason>,
    comment: Option<String>,
    extra: Option<String>,
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
#[derive(Debug, PartialEq, Eq)]
struct Witnessed {
    held: bool,
    in_service: bool,
    reason: Option<String>,
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

    pub(super) fn is_in_service(&self) -> bool {
        !self.is_held() && !self.silent && !self.unknown
    }

    fn base(&self, cpus_total: u32) -> BaseState {
        if self.down {
            BaseState::Down
        } else if self.unknown && (self.hides_jobs || self.cpus == 0) {
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
    fn ask_again(&mut self, now: WlmTime) {
        self.silent = true;
        self.boot_time = None;
        self.slurmd_start_time = None;
        self.last_response = now;
    }
}

impl Node {
    fn record(&self, name: NodeName) -> NodeRecord {
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
        }
    }
}

impl Cluster {
    /// All node names, in order: what `ALL` stands for.
    pub fn node_names(&self) -> impl Iterator<Item = &NodeName> {
        self.by_name.keys()
    }

    /// `scontrol show node` of these names.
    ///
    /// # Errors
    /// Only [`SlurmError::ControllerDown`].
    pub fn show_nodes(&self, names: &[NodeName]) -> Result<ShownNodes, SlurmError> {
        if self.controller.stopped {
            return Err(SlurmError::ControllerDown);
        }
        let mut shown = ShownNodes::default();
        for name in names {
            match self.by_name.get(name) {
                Some(&ix) => shown.nodes.push(self.node(ix).record(name.clone())),
                None => shown.not_found.push(name.clone()),
            }
        }
        Ok(shown)
    }

    /// `scontrol update` of these names. **Not atomic**: slurmctld takes the names in order, stops at the first
    /// that it does not know, and skips nodes that are in the wrong state.
    ///
    /// # Errors
    /// As each [`SlurmError`] says.
    pub fn update(&mut self, names: &[NodeName], update: &Update) -> Result<(), SlurmError> {
        let needs_reason = matches!(update.state, Some(NewState::Drain | NewState::Down | NewState::Fail));
        if needs_reason && update.reason.as_ref().is_none_or(String::is_empty) {
            return Err(SlurmError::NoReason);
        }
        if self.controller.stopped {
            return Err(SlurmError::ControllerDown);
        }
        if self.controller.refuses_updates {
            return Err(SlurmError::InvalidUser);
        }
        let mut result = Ok(());
        for name in names.iter().collect::<BTreeSet<_>>() {
            let Some(&ix) = self.by_name.get(name) else {
                result = Err(SlurmError::InvalidNodeName);
                break;
            };
            let slurm = &mut self.node_mut(ix).slurm;
            if let Some(comment) = &update.comment {
                slurm.comment = Some(comment.clone());
            }
            if let Some(extra) = &update.extra {
                slurm.extra = Some(extra.clone());
            }
            match update.state {
                Some(NewState::Resume) => result = result.and(self.resume(ix)),
                Some(NewState::Undrain) => self.undrain(ix),
                Some(NewState::Drain | NewState::Down | NewState::Fail) | None => self.hold(ix, update),
            }
            self.touch(ix);
        }
        self.start_jobs();
        result
    }

    /// Takes a node out of service, or changes its reason.
    pub(super) fn hold(&mut self, ix: Ix, update: &Update) {
        let at = wlm_time(self.now);
        if update.state == Some(NewState::Down) {
            self.lose_jobs(ix);
        }
        let slurm = &mut self.node_mut(ix).slurm;
        match update.state {
            Some(NewState::Down) => slurm.down = true,
            Some(NewState::Drain) => (slurm.drain, slurm.fail) = (true, false),
            Some(NewState::Fail) => (slurm.drain, slurm.fail) = (false, true),
            _ => {}
        }
        if let Some(text) = &update.reason
            && slurm.is_held()
        {
            slurm.reason = Some(Reason { text: text.clone(), user: "root", at });
        }
    }

    fn resume(&mut self, ix: Ix) -> Result<(), SlurmError> {
        let now = wlm_time(self.now);
        let slurm = &mut self.node_mut(ix).slurm;
        if !slurm.is_held() {
            return Err(SlurmError::InvalidNodeState);
        }
        let asks_again = slurm.down || slurm.drain;
        (slurm.down, slurm.drain, slurm.fail, slurm.reason) = (false, false, false, None);
        if asks_again {
            slurm.ask_again(now);
            self.await_answer(ix);
        }
        Ok(())
    }

    fn undrain(&mut self, ix: Ix) {
        let now = wlm_time(self.now);
        let slurm = &mut self.node_mut(ix).slurm;
        if !slurm.drain && !slurm.fail {
            return;
        }
        (slurm.drain, slurm.fail) = (false, false);
        if !slurm.down {
            slurm.reason = None;
        }
        slurm.ask_again(now);
        self.await_answer(ix);
    }

    /// Plans the answer of a slurmd that was asked, or what becomes of a dead one.
    fn await_answer(&mut self, ix: Ix) {
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

    /// Whether updates are refused, as for a caller that is neither root nor SlurmUser. Reading is allowed.
    pub fn refuse_updates(&mut self, refuse: bool) {
        self.controller.refuses_updates = refuse;
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

    pub(super) fn slurmd_starts(&mut self, ix: Ix, generation: u32) {
        let now = wlm_time(self.now);
        let node = self.node_mut(ix);
        if node.hardware.generation != generation {
            return;
        }
        node.hardware.slurmd = Some(now);
        if !self.controller.stopped {
            self.register(ix);
        }
    }

    pub(super) fn slurmd_answers(&mut self, ix: Ix, generation: u32) {
        let node = self.node(ix);
        if node.slurm.generation == generation && node.hardware.slurmd.is_some() {
            self.register(ix);
        }
    }

    pub(super) fn slurmd_silent(&mut self, ix: Ix, generation: u32) {
        if self.node(ix).slurm.generation == generation {
            self.node_mut(ix).slurm.silent = true;
            self.touch(ix);
        }
    }

    pub(super) fn slurmd_lost(&mut self, ix: Ix, generation: u32) {
        if self.node(ix).slurm.generation != generation {
            return;
        }
        self.lose_jobs(ix);
        let at = wlm_time(self.now);
        let slurm = &mut self.node_mut(ix).slurm;
        (slurm.down, slurm.silent, slurm.unknown) = (true, true, false);
        slurm.reason.get_or_insert_with(|| Reason { text: NOT_RESPONDING.to_owned(), user: "slurm", at });
        self.touch(ix);
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
    fn lose_jobs(&mut self, ix: Ix) {
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

    /// To be called after anything in a node's record changed: tells the witness, and the scheduler.
    pub(super) fn touch(&mut self, ix: Ix) {
        let node = &self.nodes[ix as usize];
        if node.spec.name.is_none() {
            return;
        }
        let slurm = &node.slurm;
        let (held, in_service) = (slurm.is_held(), slurm.is_in_service());
        let reason = slurm.reason.as_ref().map(|reason| reason.text.as_str());
        let available =
            in_service && slurm.jobs.is_empty() && slurm.epilogs.is_empty() && node.hardware.slurmd.is_some();
        let told = &slurm.witnessed;
        if (told.held, told.in_service, told.reason.as_deref()) != (held, in_service, reason) {
            let (xname, reason) = (node.spec.xname, reason.map(str::to_owned));
            self.node_mut(ix).slurm.witnessed = Witnessed { held, in_service, reason: reason.clone() };
            self.tell(What::NodeChanged { xname, held, reason, in_service });
        }
        self.jobs.set_available(ix, available);
    }
}
