//! What happens in a world, counted, and told line by line to whoever wants to read it.

use std::fmt::Write as _;

use crus_core::Time;

/// A kind of thing that happens: one *event* each time. After each of them the promises are checked, as far as it can
/// touch them: what the cluster did is witnessed fact by fact, and a session is looked at whenever it took anything in.
///
/// Nothing is counted that has no effect: not a due event that was overtaken, nor a tick of a session that changes
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A job was submitted, began or ended, or its epilog ended.
    Job,
    /// A slurmd registered, fell silent or was given up, or an operating system came up; slurmctld started.
    Node,
    /// BOS worked out the nodes of a session, did the next thing with one of them, or forgot a session.
    Boot,
    /// A call reached HSM.
    CallHsm,
    /// A call reached BOS.
    CallBos,
    /// A call reached Slurm.
    CallWlm,
    /// A session asked for its turn.
    Claim,
    /// A session took something in: the answer to a call, an order to delete it, or a time that changed something.
    Input,
    /// A session changed durably: each change that it tells.
    Change,
    /// A store wrote, or would not.
    Write,
    /// A call was made to fail, or a store.
    Fault,
    /// The service died and started again, or lost its sessions to another replica, or the loser went on.
    Crash,
    /// The service's clock was set.
    Clock,
    /// An operator did something: created or deleted a session, or changed the cluster.
    Operator,
}

impl Kind {
    /// All of them, in order.
    pub const ALL: [Kind; 14] = [
        Kind::Job,
        Kind::Node,
        Kind::Boot,
        Kind::CallHsm,
        Kind::CallBos,
        Kind::CallWlm,
        Kind::Claim,
        Kind::Input,
        Kind::Change,
        Kind::Write,
        Kind::Fault,
        Kind::Crash,
        Kind::Clock,
        Kind::Operator,
    ];

    /// What it is called in reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Job => "jobs",
            Kind::Node => "nodes and slurmctld",
            Kind::Boot => "boots",
            Kind::CallHsm => "calls to HSM",
            Kind::CallBos => "calls to BOS",
            Kind::CallWlm => "calls to Slurm",
            Kind::Claim => "claims",
            Kind::Input => "inputs",
            Kind::Change => "durable changes",
            Kind::Write => "store writes",
            Kind::Fault => "faults",
            Kind::Crash => "crashes",
            Kind::Clock => "clock jumps",
            Kind::Operator => "operator's actions",
        }
    }
}

/// How often each kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts([u64; Kind::ALL.len()]);

impl Counts {
    /// How often this kind of thing happened.
    pub fn of(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    /// All of them together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Something else counted this kind of thing.
    pub(crate) fn set(&mut self, kind: Kind, times: u64) {
        self.0[kind as usize] = times;
    }

    /// Adds what happened elsewhere.
    pub fn add(&mut self, other: &Counts) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }
}

/// Counts what happens, and writes it down if it is asked to.
#[derive(Debug, Default)]
pub struct Journal {
    counts: Counts,
    text: Option<String>,
}

impl Journal {
    /// Writes down what happens from now on.
    pub fn write_down(&mut self) {
        self.text.get_or_insert_default();
    }

    /// What was counted so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What was written down so far: a line for each thing, each with its virtual time.
    pub fn text(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }

    /// Whether things are written down.
    pub(crate) fn is_written(&self) -> bool {
        self.text.is_some()
    }

    /// Something happened.
    pub(crate) fn note(&mut self, at: Time, kind: Kind, what: impl FnOnce() -> String) {
        self.counts.0[kind as usize] += 1;
        self.remark(at, what);
    }

    /// So many things happened that are written down elsewhere, or not at all.
    pub(crate) fn count(&mut self, kind: Kind, times: usize) {
        self.counts.0[kind as usize] += times as u64;
    }

    /// Writes a line that counts for nothing.
    pub(crate) fn remark(&mut self, at: Time, what: impl FnOnce() -> String) {
        if let Some(text) = &mut self.text {
            // Writing to a string cannot fail.
            _ = writeln!(text, "{at} {}", what());
        }
    }
}
