//! What a workload manager reports of nodes and jobs, and the questions asked of it.
//!
//! The vocabulary is Slurm's: a base state and flags. How they are printed is the client's business.

use std::collections::BTreeSet;

use crate::names::{NodeName, PartitionName};
use crate::time::WlmTime;

/// The base state of a node: the part before the first `+` of Slurm's `State=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseState {
    /// Runs nothing and could.
    Idle,
    /// Runs jobs on some of its processors.
    Mixed,
    /// Runs jobs on all of its processors.
    Allocated,
    /// Out of service: died, rebooted by itself, or was set so.
    Down,
    /// The controller has not heard of it since it started.
    Unknown,
    /// Anything else (`ERROR`, `FUTURE`, a state of a newer version): nothing may be concluded from it.
    Other,
}

/// A flag beside the base state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flag {
    /// `DRAIN`: no new jobs.
    Drain,
    /// `FAIL` (or `FAILING`): no new jobs, somebody says it is about to fail.
    Fail,
    /// `COMPLETING`: a job ended and its epilog runs.
    Completing,
    /// `NOT_RESPONDING` (a `*` in `sinfo`).
    NotResponding,
}

/// One node as the workload manager reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WlmNode {
    /// Its name there.
    pub name: NodeName,
    /// The base state.
    pub base: BaseState,
    /// The flags that matter here; others are left out.
    pub flags: BTreeSet<Flag>,
    /// Processors given to jobs. `None` when it was not reported, which proves nothing.
    pub cpus_allocated: Option<u32>,
    /// When the host booted; `None` while the controller does not know.
    pub boot_time: Option<WlmTime>,
    /// Why it is out of service, without the "who and when" in brackets.
    pub reason: Option<String>,
}

impl WlmNode {
    /// Whether the flag is set.
    pub fn has(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }

    /// Whether new jobs are kept from it: drained, failing or down.
    pub fn is_held(&self) -> bool {
        self.has(Flag::Drain) || self.has(Flag::Fail) || self.base == BaseState::Down
    }

    /// Whether the controller is in touch with it and knows when it booted.
    pub fn shows_its_boot(&self) -> bool {
        self.boot_time.is_some() && !self.has(Flag::NotResponding)
    }

    /// Whether nothing runs on it, its epilogs included, as far as the node's own record tells; the jobs
    /// must agree.
    ///
    /// `sinfo` may call a node drained while its job still runs, for seconds after the controller restarts;
    /// the processors given away tell the truth.
    pub fn is_quiet(&self) -> bool {
        matches!(self.base, BaseState::Idle | BaseState::Down)
            && !self.has(Flag::Completing)
            && self.cpus_allocated == Some(0)
    }

    /// Whether it takes jobs: neither held nor silent, and known to the controller.
    pub fn is_in_service(&self) -> bool {
        matches!(self.base, BaseState::Idle | BaseState::Mixed | BaseState::Allocated)
            && !self.is_held()
            && !self.has(Flag::NotResponding)
    }

    /// The state in Slurm's words, such as `IDLE+DRAIN`.
    pub fn state(&self) -> String {
        let mut text = String::from(match self.base {
            BaseState::Idle => "IDLE",
            BaseState::Mixed => "MIXED",
            BaseState::Allocated => "ALLOCATED",
            BaseState::Down => "DOWN",
            BaseState::Unknown => "UNKNOWN",
            BaseState::Other => "OTHER",
        });
        for flag in &self.flags {
            text.push_str(match flag {
                Flag::Drain => "+DRAIN",
                Flag::Fail => "+FAIL",
                Flag::Completing => "+COMPLETING",
                Flag::NotResponding => "+NOT_RESPONDING",
            });
        }
        text
    }
}

/// A job that holds nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The job's id, as printed.
    pub id: String,
    /// Whose it is.
    pub user: String,
    /// The nodes it holds.
    pub nodes: Vec<NodeName>,
    /// When it ends at the latest; `None` without a limit.
    pub end: Option<WlmTime>,
}

/// A partition, with the nodes in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub name: PartitionName,
    /// How many nodes it has, whatever their state.
    pub total: usize,
    /// Those of them that are [in service](WlmNode::is_in_service).
    pub in_service: BTreeSet<NodeName>,
}
