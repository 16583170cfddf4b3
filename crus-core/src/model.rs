//! The session: one value that holds everything an upgrade knows and must not forget.
//!
//! It is stored in three parts, so that a change to one node of 100,000 is a small write: the [`Head`], the
//! [`Node`]s one by one, and the messages one by one. What was merely seen is kept beside them in [`Known`],
//! which is never stored: after a restart the world is looked at again.

mod known;
mod message;
mod node;
mod positions;

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::actor::Actor;
use crate::batch;
use crate::boots::BootIds;
use crate::estimate::Outlook;
use crate::names::{
    BootHandle, BootSessionName, GroupLabel, NodeNameFormat, TemplateName, TenantName, Xname,
};
use crate::ports::TemplateKey;
use crate::strategy::Strategy;
use crate::time::Time;

pub use known::{CallKind, Group, Known, Said, SeenBoot, SeenGroup, SeenJobs, Trouble};
pub use message::Message;
pub use node::{Counts, Failure, Holder, HoldingJob, Node, NodeState, Owed};

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
    /// The tenant for whom the nodes are booted: BOS shows each tenant its own session templates and sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantName>,
    /// How to go about it.
    #[serde(default, skip_serializing_if = "Strategy::is_default")]
    pub strategy: Strategy,
}

impl Spec {
    /// The session template, for whom it is.
    pub fn template_key(&self) -> TemplateKey {
        TemplateKey { tenant: self.tenant.clone(), name: self.template.clone() }
    }
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
    /// Whether BOS takes our names for its sessions (API v2). Otherwise (API v1) what there is before a request is noted
    /// with its intent, to tell later what came of it.
    pub names_boots: bool,
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
            names_boots: true,
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
    /// Its name, the key to asking once where BOS takes it.
    pub name: BootSessionName,
    /// What BOS calls it, where BOS does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<BootHandle>,
    /// The boot sessions that there were before the first request, where BOS does not take our names and its own is not
    /// known: one that is not among them may be this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<BootIds>,
    /// When the first request was noted. It stands in for the boot time of a node that showed none before, though
    /// it is another clock's.
    pub intended: Time,
    /// When the latest request was noted that may have been carried out without our knowing. `None` once
    /// BOS showed the session, or refused.
    pub unanswered: Option<Time>,
    /// Since when BOS is known to have it.
    pub begun: Option<Time>,
    /// The nodes, by their positions, that the workload manager was out of touch with before it was first asked for. Of
    /// the others one that falls silent may be booting.
    #[serde(default, with = "positions", skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<usize>,
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
    /// Who created it; `None` where nobody is asked who they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<Actor>,
    /// When deletion was asked for.
    pub deletion: Option<Time>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_by: Option<Actor>,
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
    /// Who wants that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_by: Option<Actor>,
    /// Whether failed nodes were taken again on an operator's order, and no step has begun since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retried: bool,
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
    /// Who paused it, when an operator did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Actor>,
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
        self.merge(Pace { boots: 1, total_ms: ms, least_ms: ms, most_ms: ms });
    }

    /// Takes note of the steps of another session.
    pub(crate) fn merge(&mut self, other: Pace) {
        self.least_ms = match (self.boots, other.boots) {
            (_, 0) => self.least_ms,
            (0, _) => other.least_ms,
            _ => self.least_ms.min(other.least_ms),
        };
        self.most_ms = self.most_ms.max(other.most_ms);
        self.total_ms = self.total_ms.saturating_add(other.total_ms);
        self.boots = self.boots.saturating_add(other.boots);
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

/// A command, and who gave it: what a store keeps of it under its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredOrdered", into = "StoredOrdered")]
pub struct Ordered {
    /// What.
    pub command: Command,
    /// Who; `None` where nobody is asked who they are.
    pub by: Option<Actor>,
}

impl Ordered {
    /// The command of this number.
    pub fn numbered(self, number: u64) -> NumberedCommand {
        NumberedCommand { number, command: self.command, by: self.by }
    }
}

/// A command as it reaches a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumberedCommand {
    /// Its number: greater than that of any command that was noted for the session before.
    pub number: u64,
    /// What.
    pub command: Command,
    /// Who gave it; `None` where nobody is asked who they are.
    pub by: Option<Actor>,
}

/// That a session's deletion was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeletionOrder {
    /// Who ordered it first; `None` where nobody is asked who they are.
    pub by: Option<Actor>,
}

/// As it is stored: the command alone, as it always was, unless it is known who gave it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum StoredOrdered {
    Alone(Command),
    By { command: Command, by: Actor },
}

impl From<Ordered> for StoredOrdered {
    fn from(Ordered { command, by }: Ordered) -> Self {
        by.map_or(StoredOrdered::Alone(command), |by| StoredOrdered::By { command, by })
    }
}

impl From<StoredOrdered> for Ordered {
    fn from(stored: StoredOrdered) -> Self {
        match stored {
            StoredOrdered::Alone(command) => Ordered { command, by: None },
            StoredOrdered::By { command, by } => Ordered { command, by: Some(by) },
        }
    }
}

impl Head {
    /// Whether the session has ended.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }
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
                created_by: None,
                deletion: None,
                deleted_by: None,
                condition: None,
                queued: false,
                ended: None,
                counts: Counts::default(),
                entries: 0,
                commands: 0,
                pause: None,
                retry: false,
                retry_by: None,
                retried: false,
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

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
