//! What happened in a session, as a list of bounded length that can be followed.
//!
//! The machine tells each entry once, by [`Event::Entry`](crate::machine::Event::Entry); a store keeps the latest
//! [`ENTRIES_MAX`] of a session. Their numbers rise by one, across restarts and replicas.

use serde::{Deserialize, Serialize};

use crate::actor::Actor;
use crate::model::{Counts, Failure, PauseReason, Stage};
use crate::names::Xname;
use crate::time::Time;

/// The most entries that are kept of a session.
pub const ENTRIES_MAX: u64 = 10_000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, from 1.
    pub number: u64,
    /// When.
    pub at: Time,
    /// In which step.
    pub step: u32,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Happening {
    /// Its turn came, and its nodes are known: it works from now on.
    Started {
        /// How many nodes it has.
        nodes: usize,
    },
    /// The step entered a stage.
    Stage {
        /// Which.
        stage: Stage,
    },
    /// Nodes entered a state.
    Nodes {
        /// Which state, as [`NodeState::word`](crate::model::NodeState::word) has it.
        state: String,
        /// The failure, when they failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
        /// Which nodes, in order.
        nodes: Vec<Xname>,
    },
    /// Something was said.
    Message {
        /// In these words.
        text: String,
    },
    /// It starts no other step.
    Paused {
        /// Why.
        why: PauseReason,
        /// Who paused it, when an operator did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Actor>,
    },
    /// An operator let it go on.
    Resumed {
        /// Who.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Actor>,
    },
    /// An operator had nodes tried again.
    Retried {
        /// How many.
        nodes: usize,
        /// Who.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Actor>,
    },
    /// An operator wants it deleted.
    DeletionOrdered {
        /// Who.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Actor>,
    },
    /// A step ended.
    StepDone {
        /// How many of its nodes were upgraded.
        upgraded: usize,
        /// How many failed, those that were skipped included.
        failed: usize,
    },
    /// It is done.
    Finished {
        /// How its nodes stand.
        counts: Counts,
    },
}
