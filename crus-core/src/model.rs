//! The session: one value that holds everything an upgrade knows and must not forget.
//!
//! It is stored in three parts, so that a change to one node of 100,000 is a small write: the [`Head`], the
//! [`Node`]s one by one, and the messages one by one. What was merely seen is kept beside them in [`Known`],
//! which is never stored: after a restart the world is looked at again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::batch;
use crate::estimate::Outlook;
use crate::messages;
use crate::names::{BootSessionName, GroupLabel, NodeName, NodeNameFormat, TemplateName, Xname};
use crate::ports::{BootSession, NodeFacts, Rejected, Verdict};
use crate::strategy::Strategy;
use crate::time::{Time, WlmTime};
use crate::window::ZoneOffset;
use crate::wlm::{Job, Partition, WlmNode};

/// The id of an upgrade session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UpgradeId(pub Uuid);

impl fmt::Display for UpgradeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for UpgradeId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Uuid::parse_str(text).map(UpgradeId)
    }
}

/// What the operator asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The group of all nodes to upgrade.
    pub starting: GroupLabel,
    /// The group that holds the nodes in flight; the session template boots it.
    pub upgrading: GroupLabel,
    /// The group that receives the nodes that fail.
    pub failed: GroupLabel,
    /// How many nodes at most are in flight (P1).
    pub step_size: NonZeroU32,
    /// The session template to boot from.
    pub template: TemplateName,
    /// How to go about it.
    #[serde(default, skip_serializing_if = "Strategy::is_default")]
    pub strategy: Strategy,
}

/// Paces and patience. Times are in milliseconds unless the name says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How often a fact that is waited for is looked at.
    pub poll_ms: u64,
    /// The longest pause between two attempts at something that fails.
    pub retry_max_ms: u64,
    /// How long a node may take to run nothing, once it was seen drained, before it is given back, where the session's
    /// [strategy](Strategy) says nothing about it. `None`: as long as their jobs run.
    pub drain_timeout_ms: Option<u64>,
    /// How long a boot session may be watched. Time in which BOS could not be reached does not count, and a restart
    /// of the service begins anew. BOS itself tries three times, twenty minutes each, before it gives
    /// a node up: a shorter time than that fails nodes that BOS would still bring up.
    pub boot_timeout_ms: u64,
    /// How long a node may be watched on its way back into service once BOS is done; counted likewise.
    pub return_timeout_ms: u64,
    /// How long a node takes at least from the request of its reboot to its return, as long as no session tells.
    pub boot_low_ms: u64,
    /// How long it takes at most.
    pub boot_high_ms: u64,
    /// What part of its time limit a job runs, in percent, as long as no session tells.
    pub job_used_percent: u32,
    /// How long a request without an answer may still take effect at the peer, and how long a boot session
    /// must be gone before it is believed to be.
    pub settle_ms: u64,
    /// How old the last look at nodes may be when the one at their jobs begins, and that one when their reboot is
    /// asked for (P2).
    pub last_look_ms: u64,
    /// How much later a boot time must be to be another boot. Slurm's jitters by a second.
    pub boot_margin_s: i64,
    /// How many nodes a session may have. One whose starting group holds more waits until it does not.
    pub max_nodes: usize,
    /// How the nodes of a step are chosen, where the session's strategy says nothing about it.
    pub order: batch::Order,
    /// How the workload manager names the node of a NID.
    pub node_name_format: NodeNameFormat,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            poll_ms: 10_000,
            retry_max_ms: 60_000,
            drain_timeout_ms: None,
            boot_timeout_ms: 90 * 60_000,
            return_timeout_ms: 10 * 60_000,
            boot_low_ms: 5 * 60_000,
            boot_high_ms: 15 * 60_000,
            job_used_percent: 60,
            settle_ms: 60_000,
            last_look_ms: 20_000,
            boot_margin_s: 3,
            max_nodes: 100_000,
            order: batch::Order::SoonestFree,
            node_name_format: NodeNameFormat::default(),
        }
    }
}

/// Where a step stands, in the words operators of the original know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Stage {
    /// Conditions are checked and the nodes of the step chosen.
    Starting,
    /// The nodes are drained; their jobs are waited for.
    Quiescing,
    /// All are quiet; the upgrading group is filled and the reboot asked for.
    Quiesced,
    /// BOS boots them.
    Booting,
    /// The boot session ended.
    Booted,
    /// The nodes that booted are put back to work.
    WlmWaiting,
    /// No steps are left; what is owed is done.
    Cleanup,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Starting => "STARTING",
            Stage::Quiescing => "QUIESCING",
            Stage::Quiesced => "QUIESCED",
            Stage::Booting => "BOOTING",
            Stage::Booted => "BOOTED",
            Stage::WlmWaiting => "WLM_WAITING",
            Stage::Cleanup => "CLEANUP",
        })
    }
}

/// Whether a session waits for its turn, works, or is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Reads its groups and waits for sessions that share a group or a node with it. No node is touched.
    Created,
    /// Its nodes are frozen; it works on them.
    Rolling,
    /// Nothing is left to do.
    Done,
}

/// The boot session of a step, noted before it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Its name, the key to asking once.
    pub name: BootSessionName,
    /// When the first request was noted. It stands in for the boot time of a node that showed none before, though
    /// it is another clock's.
    pub intended: Time,
    /// When the latest request was noted that may have been carried out without our knowing. `None` once
    /// BOS showed the session, or refused.
    pub unanswered: Option<Time>,
    /// Since when BOS is known to have it.
    pub begun: Option<Time>,
    /// The nodes, by their positions, that the workload manager was out of touch with when it was first noted. Of
    /// the others one that falls silent may be booting.
    #[serde(default, with = "positions", skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<usize>,
}

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

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Node {
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

/// Everything of a session but its nodes and messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The id.
    pub id: UpgradeId,
    /// The version of the API that created it.
    pub api_version: String,
    /// When it was created.
    pub created: Time,
    /// What was asked for.
    pub spec: Spec,
    /// Whether it waits, works, or is done.
    pub phase: Phase,
    /// The step at work, from 0.
    pub step: u32,
    /// Where that step stands.
    pub stage: Stage,
    /// Since when.
    pub stage_since: Time,
    /// The nodes of this step, by their positions; before step 0 those that failed right away.
    #[serde(with = "positions")]
    pub batch: Vec<usize>,
    /// The boot session of this step, once intended.
    pub boot: Option<Boot>,
    /// When deletion was asked for.
    pub deletion: Option<Time>,
    /// The condition that is not met, in words, while there is one (P9).
    pub condition: Option<String>,
    /// Whether that condition is a session that shares a group or a node with this one and goes first.
    #[serde(default)]
    pub queued: bool,
    /// When it ended.
    pub ended: Option<Time>,
    /// How many nodes are in which state.
    #[serde(default, skip_serializing_if = "is_default")]
    pub counts: Counts,
    /// How many entries its [history](crate::history) ever got: the number of the latest.
    #[serde(default, skip_serializing_if = "is_default")]
    pub entries: u64,
    /// The number of the latest command that was taken in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub commands: u64,
    /// Why no other step is started, while that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// Whether an operator wants the failed nodes to be taken again as soon as what is owed for them is done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retry: bool,
    /// How many failed nodes an operator knew of when they let the session go on: they do not count for
    /// [`Strategy::max_failed`] any more.
    #[serde(default, skip_serializing_if = "is_default")]
    pub accepted: usize,
    /// How many of the canary steps were passed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub canaries: usize,
    /// Until when the nodes of the step soak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak_until: Option<Time>,
    /// How long steps took from the request of their reboot to their end.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pace: Pace,
    /// What was expected when the nodes of the latest step were chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlook: Option<Outlook>,
}

/// Why and since when a session starts no other step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Since when.
    pub since: Time,
    /// Why.
    pub why: PauseReason,
}

/// Why a session starts no other step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum PauseReason {
    /// An operator wanted it.
    Command,
    /// More nodes failed than may.
    MaxFailed {
        /// How many failed.
        failed: usize,
        /// How many may.
        max: usize,
    },
    /// More nodes of one step failed than may.
    MaxFailedStep {
        /// How many failed.
        failed: usize,
        /// How many may.
        max: usize,
    },
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

/// Without the states that no node is in: "3 draining, 13 upgraded".
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (word, count) in self.named().into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{comma}{count} {word}")?;
            comma = ", ";
        }
        Ok(())
    }
}

/// How long the boots of steps took: from the request to the last node's return, soaking not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pace {
    /// How many steps were booted.
    pub boots: u32,
    /// How long these took together, in milliseconds.
    pub total_ms: u64,
    /// How long the quickest took.
    pub least_ms: u64,
    /// How long the slowest took.
    pub most_ms: u64,
}

impl Pace {
    /// Takes note of a step that took so long.
    pub(crate) fn note(&mut self, ms: u64) {
        self.least_ms = if self.boots == 0 { ms } else { self.least_ms.min(ms) };
        self.most_ms = self.most_ms.max(ms);
        self.total_ms = self.total_ms.saturating_add(ms);
        self.boots = self.boots.saturating_add(1);
    }
}

/// What an operator may tell a session to do; deletion has a way of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// To finish the step in flight, and start no other.
    Pause,
    /// To go on.
    Resume,
    /// To take the nodes that failed or were skipped once more: of a session that is paused, or done.
    Retry,
}

impl Head {
    /// Whether the session has ended.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }
}

/// Something that was said, for people: once, or so many times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredMessage")]
pub struct Message {
    /// What was said. Where old messages were folded into one, `…` stands for the steps in which they differed.
    pub text: String,
    /// How often.
    #[serde(skip_serializing_if = "is_one")]
    pub times: u32,
    /// When it was said last.
    pub last: Time,
}

impl Message {
    /// Something said once.
    pub fn new(text: impl Into<String>, at: Time) -> Self {
        Message { text: text.into(), times: 1, last: at }
    }
}

/// `text`, or `text (12 times, last 10:31:07)`, in UTC.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Message { text, times, last } = self;
        match times {
            1 => f.write_str(text),
            _ => write!(f, "{text} ({times} times, last {})", last.time_of_day()),
        }
    }
}

/// A message as it is stored: the first format held texts alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredMessage {
    Text(String),
    Message {
        text: String,
        #[serde(default = "one")]
        times: u32,
        last: Time,
    },
}

impl From<StoredMessage> for Message {
    fn from(stored: StoredMessage) -> Self {
        match stored {
            StoredMessage::Text(text) => Message { text, times: 1, last: Time(0) },
            StoredMessage::Message { text, times, last } => Message { text, times, last },
        }
    }
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_one(times: &u32) -> bool {
    *times == 1
}

/// A session without its nodes, and what is ordered for it: what answers and lists need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Everything but nodes and messages.
    pub head: Head,
    /// What happened, in order, for people.
    pub messages: Vec<Message>,
    /// Whether its deletion was ordered.
    pub deletion_ordered: bool,
    /// The commands that are noted for it and not [taken in](Head::commands) yet, in order, with their numbers.
    pub commands: Vec<(u64, Command)>,
}

/// An upgrade session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Everything but nodes and messages.
    pub head: Head,
    /// The nodes, in the order of their xnames, frozen when it began to work; empty until then. A node's
    /// position never changes.
    pub nodes: Vec<Node>,
    /// What happened, in order, for people.
    pub messages: Vec<Message>,
    /// Paces and patience; the running service's own, not stored.
    #[serde(skip)]
    pub limits: Limits,
    /// What was seen since the service started; not stored.
    #[serde(skip)]
    pub known: Known,
}

impl Session {
    /// A session as it begins: nothing is read, nothing touched.
    pub fn new(id: UpgradeId, spec: Spec, api_version: &str, limits: Limits, now: Time) -> Self {
        Session {
            head: Head {
                id,
                api_version: api_version.to_owned(),
                created: now,
                spec,
                phase: Phase::Created,
                step: 0,
                stage: Stage::Starting,
                stage_since: now,
                batch: Vec::new(),
                boot: None,
                deletion: None,
                condition: None,
                queued: false,
                ended: None,
                counts: Counts::default(),
                entries: 0,
                commands: 0,
                pause: None,
                retry: false,
                accepted: 0,
                canaries: 0,
                soak_until: None,
                pace: Pace::default(),
                outlook: None,
            },
            nodes: Vec::new(),
            messages: Vec::new(),
            limits,
            known: Known::default(),
        }
    }

    /// Whether it has ended.
    pub fn is_done(&self) -> bool {
        self.head.is_done()
    }

    /// The nodes in flight: all of them are of the current step.
    pub fn in_flight(&self) -> impl Iterator<Item = &Node> {
        self.batch().filter(|node| node.in_flight())
    }

    /// The nodes of the current step.
    pub fn batch(&self) -> impl Iterator<Item = &Node> {
        self.head.batch.iter().filter_map(|&i| self.nodes.get(i))
    }

    /// The nodes that no step has taken yet.
    pub fn pending(&self) -> impl Iterator<Item = &Node> {
        let nodes = self.nodes.get(self.known.first_pending..).unwrap_or_default();
        nodes.iter().filter(|node| node.state == NodeState::Pending)
    }

    /// The members of the starting group as they were read, until the nodes are frozen; then these.
    pub fn members(&self) -> impl Iterator<Item = Xname> {
        let members = self.known.starting.as_ref().and_then(|seen| seen.members.as_ref());
        let members = members.into_iter().flatten().copied().filter(|_| self.nodes.is_empty());
        members.chain(self.nodes.iter().map(|node| node.xname))
    }

    /// The label of one of its groups.
    pub fn label(&self, group: Group) -> &GroupLabel {
        match group {
            Group::Starting => &self.head.spec.starting,
            Group::Upgrading => &self.head.spec.upgrading,
            Group::Failed => &self.head.spec.failed,
        }
    }

    /// Whether the node is one of this session's.
    pub fn has_node(&self, xname: Xname) -> bool {
        self.nodes.binary_search_by_key(&xname, |node| node.xname).is_ok()
    }
}

/// A group as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenGroup {
    /// When it was asked for.
    pub at: Time,
    /// Its members; `None` when there is no such group.
    pub members: Option<BTreeSet<Xname>>,
}

/// How a kind of call has failed lately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// How often in a row.
    pub failures: u32,
    /// It is not tried again before this.
    pub until: Time,
    /// What went wrong last.
    pub error: String,
}

/// The jobs on some nodes as they were looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenJobs {
    /// When the look began.
    pub begun: Time,
    /// When its answer came.
    pub at: Time,
    /// The nodes that were asked about.
    pub asked: BTreeSet<NodeName>,
    /// The jobs that hold any of them.
    pub jobs: Vec<Job>,
}

/// A boot session as it was looked at; `None` when BOS knew none of that name.
pub type SeenBoot = Option<BootSession>;

/// What was seen of the world since the service started. Everything here can be seen again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// The starting group, as read before the nodes are frozen.
    pub starting: Option<SeenGroup>,
    /// HSM's facts about its members.
    pub facts: Option<(Time, Vec<NodeFacts>)>,
    /// Whether the session's turn has come.
    pub claimed: bool,
    /// The session that this one waits for and what they share, in words, and when that was asked.
    pub blocked: Option<(Time, String)>,
    /// The upgrading group.
    pub upgrading: Option<SeenGroup>,
    /// The failed group.
    pub failed: Option<SeenGroup>,
    /// Whether the session template was there, and when that was asked.
    pub template: Option<(Time, bool)>,
    /// Nodes in the workload manager, and when they were looked at; unknown ones are `None`.
    pub wlm: HashMap<NodeName, (Time, Option<WlmNode>)>,
    /// Since when nodes are unknown to the workload manager.
    pub missing: HashMap<NodeName, Time>,
    /// The jobs on nodes of the step.
    pub jobs: Option<SeenJobs>,
    /// The nodes that the next step takes, by the jobs on all pending ones, and when these were seen.
    pub chosen: Option<(Time, Vec<usize>)>,
    /// What is expected of that step and of those after it.
    pub outlook: Option<Outlook>,
    /// Of the jobs on each of these nodes, the one that is expected to end last.
    pub holding: HashMap<NodeName, HoldingJob>,
    /// The partitions of which some nodes must stay in service, and when they were looked at.
    pub partitions: Option<(Time, Vec<Partition>)>,
    /// The clocks of the window's zone, and when they were asked for; `None` when nobody knows the zone.
    pub zone: Option<(Time, Option<ZoneOffset>)>,
    /// How the check command judges nodes.
    pub checks: BTreeMap<Xname, Verdict>,
    /// When the jobs on draining nodes were last noted.
    pub jobs_noted: Option<Time>,
    /// Whether the jobs on draining nodes seem to be others since.
    pub jobs_changed: bool,
    /// The jobs that were to be ended in this step, and when that was asked for last.
    pub ended_jobs: BTreeMap<String, Time>,
    /// Whether no pending node was seen without a name in the workload manager, and none can be since.
    pub named: bool,
    /// Whether the next step might not start when that was last looked at.
    pub held_back: bool,
    /// No node before this position is pending.
    pub first_pending: usize,
    /// Since when a draining node was seen drained.
    pub drained: HashMap<NodeName, Time>,
    /// When a failed node was last marked.
    pub marked: HashMap<NodeName, Time>,
    /// For how long nodes were seen not to be booted, or back, and until when. Time in which nobody could look,
    /// because the service or the peer was down, does not count.
    pub waited: Option<(Time, u64)>,
    /// The boot session of this step, and when it was looked at.
    pub boot: Option<(Time, SeenBoot)>,
    /// Since when BOS does not show a boot session that it did show.
    pub boot_gone_since: Option<Time>,
    /// Whether the reboot may be asked for, once: its intent was noted in this run, on a last look, and not acted
    /// upon.
    pub may_ask: bool,
    /// What [`Boot::unanswered`] was before that intent.
    pub unanswered_before: Option<Time>,
    /// Why BOS left nodes out of its session, as far as HSM's facts tell.
    pub left_out: BTreeMap<Xname, String>,
    /// Nodes that HSM would not put into a group.
    pub rejected: BTreeMap<(Group, Xname), Rejected>,
    /// The time of the latest step.
    pub stepped: Time,
    /// The time of the first step since it was loaded: what was noted before may be another replica's clock.
    pub taken_up: Time,
    /// When each kind of request was last made: none is repeated within a poll interval.
    pub asked: BTreeMap<Kind, Time>,
    /// The kinds of calls that fail.
    pub troubles: BTreeMap<Kind, Trouble>,
    /// What was said in this stage to be missing: a kind of call that fails, or a condition in words.
    pub told: BTreeSet<Result<String, Kind>>,
}

/// One of the three groups of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// All nodes to upgrade.
    Starting,
    /// The nodes in flight.
    Upgrading,
    /// The nodes that failed.
    Failed,
}

/// A kind of call to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Reading a group.
    ReadGroup(Group),
    /// Reading HSM's facts about nodes.
    ReadFacts,
    /// Looking for the session template.
    ReadTemplate,
    /// Asking whether the session's turn has come.
    Claim,
    /// Looking at nodes in the workload manager.
    ReadNodes,
    /// Looking at jobs.
    ReadJobs,
    /// Looking at the boot session.
    ReadBoot,
    /// Draining nodes.
    Drain,
    /// Putting nodes back to work.
    Resume,
    /// Marking failed nodes.
    Mark,
    /// Changing a group.
    Change(Group),
    /// Rebooting nodes.
    Reboot,
    /// Looking at partitions.
    ReadPartitions,
    /// Asking for the clocks of a time zone.
    ReadZone,
    /// Requeueing or cancelling jobs.
    EndJobs,
    /// Having nodes checked.
    Check,
}

/// Positions as ranges, `0-3,7`: a step of many thousand nodes stays a small record.
mod positions {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    /// The most positions that a stored list may stand for.
    const MAX: usize = 1 << 24;

    pub(super) fn serialize<S: Serializer>(positions: &[usize], to: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for run in positions.chunk_by(|one, next| one + 1 == *next) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let comma = if text.is_empty() { "" } else { "," };
            text += &match first == last {
                true => format!("{comma}{first}"),
                false => format!("{comma}{first}-{last}"),
            };
        }
        to.serialize_str(&text)
    }

    /// The first format listed them one by one.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Ranges(String),
        Each(Vec<usize>),
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<usize>, D::Error> {
        let text = match Stored::deserialize(from)? {
            Stored::Each(positions) => return Ok(positions),
            Stored::Ranges(text) => text,
        };
        let mut positions = Vec::new();
        for range in text.split(',').filter(|range| !range.is_empty()) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| {
                text.parse::<usize>()
                    .map_err(|_| D::Error::custom(format!("{range:?} is no range of positions")))
            };
            let (first, last) = (number(first)?, number(last)?);
            if last.saturating_sub(first) >= MAX - positions.len().min(MAX - 1) {
                return Err(D::Error::custom("more positions than a session can have"));
            }
            positions.extend(first..=last);
        }
        Ok(positions)
    }
}
