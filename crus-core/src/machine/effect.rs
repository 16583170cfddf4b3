//! What is asked of the world, and what was seen of it.

use crate::actor::Actor;
use crate::boots::BootIds;
use crate::claims::Turn;
use crate::model::{CallKind, Group, NumberedCommand, SeenGroup};
use crate::names::{BootHandle, BootSessionName, NodeName, PartitionName, Xname};
use crate::ports::{
    BootKey, BootSession, CheckRequest, NodeFacts, PortError, RebootRequest, Rejected, TemplateKey, Verdict,
};
use crate::time::Time;
use crate::window::ZoneOffset;
use crate::wlm::{Job, Partition, WlmNode};

/// Something to be asked of the world. Asking again is harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read a group.
    ReadGroup(Group),
    /// Read HSM's facts about nodes.
    ReadFacts(Vec<Xname>),
    /// Look whether the session template is there.
    ReadTemplate(TemplateKey),
    /// Ask whether the session's turn has come to work on the [members](crate::Session::members) of its starting group.
    Claim,
    /// Look at nodes in the workload manager.
    ReadNodes(Vec<NodeName>),
    /// Look at the jobs that hold any of these nodes.
    ReadJobs(Vec<NodeName>),
    /// Look at the jobs that hold any of the [pending](crate::Session::pending) nodes, to choose those of a step. It does not
    /// list them: they may be very many.
    ReadPendingJobs,
    /// Look which boot sessions there are, where BOS takes no names of ours.
    ReadBootIds,
    /// Look at a boot session.
    ReadBoot(BootKey),
    /// Drain nodes.
    Drain(Vec<NodeName>),
    /// Put nodes back to work.
    Resume(Vec<NodeName>),
    /// Take failed nodes, which run nothing, out of service with this reason.
    MarkDown(Vec<NodeName>, String),
    /// Give failed nodes, which somebody else holds, this reason.
    MarkReason(Vec<NodeName>, String),
    /// Put nodes into a group.
    AddMembers(Group, Vec<Xname>),
    /// Take nodes out of a group.
    RemoveMembers(Group, Vec<Xname>),
    /// Reboot nodes.
    Reboot(RebootRequest),
    /// Look at partitions.
    ReadPartitions(Vec<PartitionName>),
    /// Ask for the clocks of a time zone.
    ReadZone(String),
    /// Put jobs back into the queue.
    Requeue(Vec<String>),
    /// End jobs for good.
    Cancel(Vec<String>),
    /// Have nodes checked.
    Check(CheckRequest),
}

impl Effect {
    /// Which kind of call it is.
    pub fn kind(&self) -> CallKind {
        match self {
            Effect::ReadGroup(group) => CallKind::ReadGroup(*group),
            Effect::ReadFacts(_) => CallKind::ReadFacts,
            Effect::ReadTemplate(_) => CallKind::ReadTemplate,
            Effect::Claim => CallKind::Claim,
            Effect::ReadNodes(_) => CallKind::ReadNodes,
            Effect::ReadJobs(_) | Effect::ReadPendingJobs => CallKind::ReadJobs,
            Effect::ReadBootIds => CallKind::ReadBootIds,
            Effect::ReadBoot(_) => CallKind::ReadBoot,
            Effect::Drain(_) => CallKind::Drain,
            Effect::Resume(_) => CallKind::Resume,
            Effect::MarkDown(..) | Effect::MarkReason(..) => CallKind::Mark,
            Effect::AddMembers(group, _) | Effect::RemoveMembers(group, _) => CallKind::Change(*group),
            Effect::Reboot(_) => CallKind::Reboot,
            Effect::ReadPartitions(_) => CallKind::ReadPartitions,
            Effect::ReadZone(_) => CallKind::ReadZone,
            Effect::Requeue(_) | Effect::Cancel(_) => CallKind::EndJobs,
            Effect::Check(_) => CallKind::Check,
        }
    }
}

/// What was seen. `at` is when the look began: what happened later may not be in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Nothing but time passed.
    Tick,
    /// The operator wants the session deleted.
    Delete {
        /// Who does.
        by: Option<Actor>,
    },
    /// An operator orders something else. A command whose number is not greater than that of an earlier one was taken in
    /// before.
    Command(NumberedCommand),
    /// A group as it is.
    Group(Group, SeenGroup),
    /// HSM's facts about nodes that were asked for; unknown ones are left out.
    Facts {
        /// When the look began.
        at: Time,
        /// The nodes that were asked for.
        asked: Vec<Xname>,
        /// What HSM knows.
        facts: Vec<NodeFacts>,
    },
    /// Whether the session template is there.
    Template {
        /// When the look began.
        at: Time,
        /// Whether it is.
        exists: bool,
    },
    /// Whether the session's turn has come.
    Claim {
        /// When it was asked.
        at: Time,
        /// The answer.
        turn: Turn,
    },
    /// Nodes as the workload manager reports them.
    Nodes {
        /// When the look began.
        at: Time,
        /// The nodes that were asked for.
        asked: Vec<NodeName>,
        /// Those it knows.
        nodes: Vec<WlmNode>,
    },
    /// The jobs that hold nodes of this session.
    Jobs {
        /// When the look began.
        at: Time,
        /// The nodes that were asked about.
        asked: Vec<NodeName>,
        /// The jobs that hold any of them.
        jobs: Vec<Job>,
    },
    /// The jobs that hold pending nodes. Those of other nodes do no harm.
    PendingJobs(Vec<Job>),
    /// The boot sessions that there are, where BOS takes no names of ours.
    BootIds(BootIds),
    /// The boot session of this name, if BOS knows one.
    Boot {
        /// When the look began.
        at: Time,
        /// Its name.
        name: BootSessionName,
        /// The session.
        session: Option<BootSession>,
    },
    /// Partitions as the workload manager reports them; unknown ones are left out.
    Partitions(Vec<Partition>),
    /// The clocks of the time zone that was asked for; `None`: there is no such zone.
    Zone {
        /// When that was so.
        at: Time,
        /// The zone's clocks.
        offset: Option<ZoneOffset>,
    },
    /// How nodes are judged.
    Checked {
        /// In which step.
        step: u32,
        /// The nodes and their verdicts.
        verdicts: Vec<(Xname, Verdict)>,
    },
    /// A request was made. Whether it worked is seen, not told.
    Asked {
        /// What was asked for.
        effect: Effect,
        /// Nodes that HSM would not put into the group.
        rejected: Vec<Rejected>,
        /// What the peer said; of a reboot that it took, what it calls the boot session where it takes no name of ours.
        result: Result<Option<BootHandle>, PortError>,
    },
    /// A look failed.
    Failed {
        /// What was looked for.
        effect: Effect,
        /// Why.
        error: PortError,
    },
}
