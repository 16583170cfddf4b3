//! What really happened, as a witness tells it.

use std::collections::BTreeSet;

use crate::model::UpgradeId;
use crate::names::{GroupLabel, PartitionName, Xname};
use crate::time::Time;

/// Something that really happened in the world, told by whoever can see it: the simulator, or a test that
/// watches a real cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// When.
    pub at: Time,
    /// Whose deed it was.
    pub by: By,
    /// What.
    pub what: What,
}

/// Whose deed something was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum By {
    /// It came about by itself, as a consequence of what was done before; or the witness cannot tell.
    #[default]
    Itself,
    /// A call made for this session did it, at once.
    Session(UpgradeId),
    /// An operator did it.
    Operator,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A boot session was asked for that names this node.
    RebootAsked {
        /// Which node.
        xname: Xname,
        /// The name of the boot session.
        boot_session: String,
        /// When the node and its jobs were last looked at before, with a true answer; the earlier of both. `None`
        /// when they were not, or when the witness cannot tell.
        looked: Option<Time>,
    },
    /// A node lost its power without a boot session.
    PowerLost {
        /// Which node.
        xname: Xname,
    },
    /// A boot session cut the power of a node.
    PowerCut {
        /// Which node.
        xname: Xname,
        /// The name of the boot session that did it.
        boot_session: String,
        /// The jobs that ran on it at that moment, epilogs included.
        jobs: Vec<String>,
        /// Whether the workload manager kept new jobs from it at that moment.
        held: bool,
    },
    /// A job lost a node before it had ended.
    JobKilled {
        /// Which node.
        xname: Xname,
        /// Which job.
        job: String,
    },
    /// A job was ended, or put back into the queue, because somebody asked for just that.
    JobEnded {
        /// Which job.
        job: String,
        /// The nodes that it ran on; none when it waited.
        nodes: BTreeSet<Xname>,
        /// Whether it is to run again.
        requeued: bool,
    },
    /// The workload manager's record of a node changed.
    NodeChanged {
        /// Which node.
        xname: Xname,
        /// Whether new jobs are kept from it.
        held: bool,
        /// Its reason.
        reason: Option<String>,
        /// Whether it takes jobs.
        in_service: bool,
        /// When somebody was last told the truth about it before. `None` when nobody was, or when the witness cannot
        /// tell.
        looked: Option<Time>,
    },
    /// A session was told the truth about a partition.
    PartitionLooked {
        /// Which partition.
        partition: PartitionName,
        /// How many nodes it has.
        total: usize,
        /// Those that take jobs.
        in_service: BTreeSet<Xname>,
    },
    /// A group's members changed.
    GroupChanged {
        /// Which group.
        label: GroupLabel,
        /// Who joined.
        added: BTreeSet<Xname>,
        /// Who left.
        removed: BTreeSet<Xname>,
    },
}
