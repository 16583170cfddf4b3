//! A node of a session, and how it stands.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::messages;
use crate::names::{NodeName, Xname};
use crate::time::{Time, WlmTime};

/// The state of one node. Only forwards, except that a node which is not quiet at the last look goes from
/// `Quiesced` back to `Draining`, one that does not stay up while it soaks from `Upgraded` to `Failed`, and that one
/// which is tried again begins anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Not touched yet.
    Pending,
    /// Drained, or about to be; its jobs are waited for.
    Draining,
    /// Drained and seen to run nothing.
    Quiesced,
    /// Its reboot was asked for, or is about to be.
    Rebooting,
    /// BOS says it booted; the workload manager must see it, and take it back.
    Returning,
    /// Booted anew and in service, or left as its owner wanted it.
    Upgraded,
    /// Did not make it.
    Failed(Failure),
    /// Given back without a reboot.
    Released,
    /// Given back with its jobs: it is tried again in a step at the end.
    Deferred,
}

impl NodeState {
    /// The state in one word, as views and the [history](crate::history) show it.
    pub fn word(&self) -> &'static str {
        match self {
            NodeState::Pending => "pending",
            NodeState::Draining => "draining",
            NodeState::Quiesced => "quiesced",
            NodeState::Rebooting => "rebooting",
            NodeState::Returning => "returning",
            NodeState::Upgraded => "upgraded",
            NodeState::Failed(Failure::DrainTimedOut) => "skipped",
            NodeState::Failed(_) => "failed",
            NodeState::Released => "released",
            NodeState::Deferred => "deferred",
        }
    }

    /// All words, in the order of a node's way.
    pub const WORDS: [&'static str; 10] = [
        "pending",
        "draining",
        "quiesced",
        "rebooting",
        "returning",
        "upgraded",
        "failed",
        "skipped",
        "deferred",
        "released",
    ];
}

/// Why a node failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// HSM does not know it.
    UnknownToHsm,
    /// HSM holds no node id of its own for it, so that it has no name in the workload manager.
    NoNid,
    /// It is not a compute node; the role that it has.
    NotCompute(String),
    /// The workload manager does not know it.
    UnknownToWlm,
    /// Its jobs did not end in time; it was given back.
    DrainTimedOut,
    /// BOS left it out of the boot session; why, as far as can be told.
    LeftOut(String),
    /// BOS gave it up; BOS's words.
    Boot(String),
    /// The boot session failed altogether; BOS's words.
    BootSession(String),
    /// The boot session was gone before it ended.
    BootSessionLost,
    /// A newer boot session took it over.
    TakenOver,
    /// BOS did not end in time.
    BootTimedOut,
    /// It booted, and was not back in service in time; the state last seen.
    ReturnTimedOut(String),
    /// It booted, and the check command did not let it pass; why.
    CheckFailed(String),
    /// It was back in service, and did not stay there while it soaked; the state last seen.
    SoakFailed(String),
}

impl Failure {
    /// The same, with words of others that are not too long to be kept for each node.
    #[must_use]
    pub(crate) fn bounded(self) -> Self {
        let cut = |words: String| messages::bounded(words, messages::DETAIL_MAX);
        match self {
            Failure::NotCompute(role) => Failure::NotCompute(cut(role)),
            Failure::LeftOut(why) => Failure::LeftOut(cut(why)),
            Failure::Boot(error) => Failure::Boot(cut(error)),
            Failure::BootSession(error) => Failure::BootSession(cut(error)),
            Failure::ReturnTimedOut(state) => Failure::ReturnTimedOut(cut(state)),
            Failure::CheckFailed(why) => Failure::CheckFailed(cut(why)),
            Failure::SoakFailed(state) => Failure::SoakFailed(cut(state)),
            Failure::UnknownToHsm
            | Failure::NoNid
            | Failure::UnknownToWlm
            | Failure::DrainTimedOut
            | Failure::BootSessionLost
            | Failure::TakenOver
            | Failure::BootTimedOut => self,
        }
    }

    /// Whether a node that failed so is marked in the workload manager: not one that was never out of service for us.
    pub(crate) fn is_marked(&self) -> bool {
        !matches!(
            self,
            Failure::UnknownToHsm
                | Failure::NoNid
                | Failure::NotCompute(_)
                | Failure::UnknownToWlm
                | Failure::DrainTimedOut
        )
    }

    /// Whether it may go away when it is tried again without anybody's doing: it failed in its boot.
    pub(crate) fn is_of_boot(&self) -> bool {
        match self {
            Failure::LeftOut(_)
            | Failure::Boot(_)
            | Failure::BootSession(_)
            | Failure::BootSessionLost
            | Failure::BootTimedOut
            | Failure::ReturnTimedOut(_)
            | Failure::CheckFailed(_)
            | Failure::SoakFailed(_) => true,
            // Somebody else boots it now: whether it is ours again is for an operator to say.
            Failure::UnknownToHsm
            | Failure::NoNid
            | Failure::NotCompute(_)
            | Failure::UnknownToWlm
            | Failure::TakenOver
            | Failure::DrainTimedOut => false,
        }
    }
}

/// Who keeps a node out of service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// Nobody but us.
    Us,
    /// Somebody else, with a reason that begins so: the node keeps that state (P6).
    Other(String),
}

/// What is still to be done for a node whose fate is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Owed {
    /// It must be put into the failed group.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub listing: bool,
    /// It must be marked in the workload manager with the reason.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub marking: bool,
    /// It must be put back to work.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resuming: bool,
}

impl Owed {
    /// Whether nothing is.
    pub fn is_nothing(self) -> bool {
        self == Owed::default()
    }
}

/// One node of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its xname.
    pub xname: Xname,
    /// Its name in the workload manager; `None` only for a node that failed for want of one.
    pub name: Option<NodeName>,
    /// How it stands.
    pub state: NodeState,
    /// Since when.
    pub since: Time,
    /// The step that took it.
    pub step: Option<u32>,
    /// Who keeps it out of service, while it is.
    pub holder: Holder,
    /// The boot it had when last seen before its reboot was asked for.
    pub boot_before: Option<WlmTime>,
    /// Whether the workload manager has shown a newer boot since.
    pub rebooted: bool,
    /// What is still to be done for it.
    pub owed: Owed,
    /// Which attempt at it this is, from 0: how often it was tried again after it failed. Each is one reboot at most (P3).
    #[serde(default, skip_serializing_if = "is_default")]
    pub attempt: u32,
    /// Why it failed in the attempt before, while it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_before: Option<Failure>,
    /// Whether it was in service when it was taken again: somebody had mended it, and it goes back to work if it is given
    /// back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_mended: bool,
    /// Whether it was given back with its jobs before, to be tried again at the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deferred: bool,
    /// Whether the check command let it pass.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub checked: bool,
    /// While it drains: of the jobs that hold it, the one that is expected to end last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<HoldingJob>,
}

/// A job that a draining node waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldingJob {
    /// Its id, as the workload manager prints it.
    pub id: String,
    /// Whose it is.
    pub user: String,
    /// When it ends at the latest, by the workload manager's clock; `None` without a limit.
    pub end: Option<WlmTime>,
}

impl Node {
    /// Its fate is decided: it waits for no job, and what became of it before it was taken again does not matter any more.
    pub(crate) fn settle(&mut self, state: NodeState) {
        self.job = None;
        self.failure_before = None;
        self.was_mended = false;
        self.state = state;
    }

    /// A node not touched yet.
    pub fn new(xname: Xname, name: Option<NodeName>, now: Time) -> Self {
        Node {
            xname,
            name,
            state: NodeState::Pending,
            since: now,
            step: None,
            holder: Holder::Us,
            boot_before: None,
            rebooted: false,
            owed: Owed::default(),
            attempt: 0,
            failure_before: None,
            was_mended: false,
            deferred: false,
            checked: false,
            job: None,
        }
    }

    /// Whether it is between our drain and its return, failure or release (P1). A node that is still to be
    /// given back is.
    pub fn in_flight(&self) -> bool {
        self.owed.resuming
            || matches!(
                self.state,
                NodeState::Draining | NodeState::Quiesced | NodeState::Rebooting | NodeState::Returning
            )
    }

    /// Whether its fate is decided and nothing is left to do for it.
    pub fn is_settled(&self) -> bool {
        self.owed.is_nothing()
            && matches!(
                self.state,
                NodeState::Upgraded | NodeState::Failed(_) | NodeState::Released | NodeState::Deferred
            )
    }
}

/// How many nodes are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Not touched yet.
    pub pending: usize,
    /// Drained, their jobs are waited for.
    pub draining: usize,
    /// Drained and quiet.
    pub quiesced: usize,
    /// Being rebooted.
    pub rebooting: usize,
    /// Booted, not yet back in service.
    pub returning: usize,
    /// Done.
    pub upgraded: usize,
    /// Failed.
    pub failed: usize,
    /// Given back untouched, since their jobs did not end in time.
    pub skipped: usize,
    /// Given back, to be tried again at the end.
    pub deferred: usize,
    /// Given back without a reboot.
    pub released: usize,
}

impl Counts {
    /// Counts nodes.
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a Node>) -> Self {
        let mut counts = Counts::default();
        for node in nodes {
            *counts.of_state(&node.state) += 1;
        }
        counts
    }

    /// How many are in this state.
    pub(crate) fn of_state(&mut self, state: &NodeState) -> &mut usize {
        match state {
            NodeState::Pending => &mut self.pending,
            NodeState::Draining => &mut self.draining,
            NodeState::Quiesced => &mut self.quiesced,
            NodeState::Rebooting => &mut self.rebooting,
            NodeState::Returning => &mut self.returning,
            NodeState::Upgraded => &mut self.upgraded,
            NodeState::Failed(Failure::DrainTimedOut) => &mut self.skipped,
            NodeState::Failed(_) => &mut self.failed,
            NodeState::Released => &mut self.released,
            NodeState::Deferred => &mut self.deferred,
        }
    }

    /// The counts under the [words](NodeState::WORDS) of their states, in the order of a node's way.
    pub fn named(&self) -> [(&'static str, usize); 10] {
        let Counts { pending, draining, quiesced, rebooting, returning, .. } = *self;
        let Counts { upgraded, failed, skipped, deferred, released, .. } = *self;
        let counts = [
            pending, draining, quiesced, rebooting, returning, upgraded, failed, skipped, deferred, released,
        ];
        std::array::from_fn(|i| (NodeState::WORDS[i], counts[i]))
    }

    /// How many nodes there are.
    pub fn total(&self) -> usize {
        self.named().iter().map(|(_, count)| count).sum()
    }
}

/// Without the states that no node is in: "3 draining, 13 upgraded"; "no nodes" when there are none.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.total() == 0 {
            return f.write_str("no nodes");
        }
        let mut comma = "";
        for (word, count) in self.named().into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{comma}{count} {word}")?;
            comma = ", ";
        }
        Ok(())
    }
}
