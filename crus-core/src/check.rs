//! The promises P1–P9, checked (being written).

use std::collections::BTreeSet;

use crate::names::{GroupLabel, Xname};
use crate::time::Time;

/// Something that really happened in the world, told by whoever can see it: the simulator, or a test that
/// watches a real cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// When.
    pub at: Time,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
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
