//! Slurm 22.05 as it was seen to behave.

use std::collections::BTreeSet;

use crus_core::time::WlmTime;
use crus_core::wlm::{BaseState, Flag, WlmNode};
use crus_core::{NodeName, PartitionName, Time};
use serde::{Deserialize, Serialize};

use super::Cluster;
use super::queue::Ix;
use super::snapshot::{self, Word};

/// Why a node is out of service, and who said so when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The text.
    pub text: String,
    /// Who set it: `root` for every update, `slurm` for Slurm itself.
    #[serde(deserialize_with = "snapshot::reason_user")]
    pub user: Word,
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
    /// `Partitions`.
    pub partitions: Vec<PartitionName>,
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
    /// Its partition.
    pub partition: Option<PartitionName>,
    /// Its nodes; empty while it waits.
    pub nodes: Vec<NodeName>,
    /// How many nodes it has, or wants while it waits.
    pub node_count: u32,
    /// Its processors on all its nodes, or those it wants while it waits.
    pub cpus: u32,
    /// When it was submitted, or put back into the queue.
    pub submitted: WlmTime,
    /// When it began; `None` while it waits.
    pub start: Option<WlmTime>,
    /// Before when it does not start again: so long one waits that was put back into the queue.
    pub begin: Option<WlmTime>,
    /// How often it was put back into the queue.
    pub restarts: u32,
    /// Whether it may be put back into the queue.
    pub requeue: bool,
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
    /// There is no job of this id.
    #[error("Invalid job id specified")]
    InvalidJobId,
    /// The job waits: it cannot be put back into the queue.
    #[error("Job is pending execution")]
    JobPending,
    /// The job was submitted with `--no-requeue`.
    #[error("Requested operation is presently disabled")]
    NoRequeue,
    /// The caller is neither root nor SlurmUser, and the job is somebody else's.
    #[error("Access/permission denied")]
    AccessDenied,
}

/// A time on Slurm's clock.
pub(super) fn wlm_time(time: Time) -> WlmTime {
    WlmTime(i64::try_from(time.0 / 1000).unwrap_or(i64::MAX))
}

/// slurmctld.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Controller {
    pub(super) stopped: bool,
    pub(super) refuses_updates: bool,
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
                Some(&ix) => shown.nodes.push(NodeRecord {
                    partitions: self.partitions.of(ix),
                    ..self.node(ix).record(name.clone())
                }),
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

    /// Whether updates are refused, as for a caller that is neither root nor SlurmUser. Reading is allowed.
    pub fn refuse_updates(&mut self, refuse: bool) {
        self.controller.refuses_updates = refuse;
    }
}
