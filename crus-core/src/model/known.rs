//! What was seen of the world, and never stored: after a restart it is looked at again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::HoldingJob;
use crate::boots::BootIds;
use crate::estimate::Outlook;
use crate::names::{NodeName, Xname};
use crate::ports::{BootSession, NodeFacts, Rejected, Verdict};
use crate::time::Time;
use crate::window::ZoneOffset;
use crate::wlm::{Job, Partition, WlmNode};

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
    /// The partitions of which some nodes must stay in service, and when that was answered.
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
    /// The boot sessions that there are, where BOS takes no names of ours, and when that was answered.
    pub boot_ids: Option<(Time, BootIds)>,
    /// Since when BOS does not show a boot session that it did show.
    pub boot_gone_since: Option<Time>,
    /// Whether the reboot may be asked for, once: its intent was noted in this run, on a last look, and not acted
    /// upon.
    pub may_ask: bool,
    /// What [`Boot::unanswered`](super::Boot::unanswered) was before that intent.
    pub unanswered_before: Option<Time>,
    /// When the latest request for a reboot ended that may have been carried out.
    pub reboot_asked: Time,
    /// Why BOS left nodes out of its session, as far as HSM's facts tell.
    pub left_out: BTreeMap<Xname, String>,
    /// Nodes that HSM would not put into a group.
    pub rejected: BTreeMap<(Group, Xname), Rejected>,
    /// The time of the latest step.
    pub stepped: Time,
    /// The time of the first step since it was loaded: what was noted before may be another replica's clock.
    pub taken_up: Time,
    /// When each kind of request was last made: none is repeated within a poll interval.
    pub asked: BTreeMap<CallKind, Time>,
    /// The kinds of calls that fail.
    pub troubles: BTreeMap<CallKind, Trouble>,
    /// What was said in this stage to be in the way.
    pub told: BTreeSet<Said>,
}

/// Something that is in the way, and is said once a stage, whatever its words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    /// A condition is not met, in words.
    Condition(String),
    /// Calls of this kind fail.
    Call(CallKind),
    /// The next step may not start yet.
    HeldBack,
    /// Nodes drain for longer than they may.
    Late,
    /// It is not known what came of the request for a reboot.
    InDoubt,
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
pub enum CallKind {
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
    /// Looking which boot sessions there are.
    ReadBootIds,
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
