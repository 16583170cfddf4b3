//! What happens to a node (being written).

use crate::model::{Phase, Stage};

/// A durable change of a session: what must be stored, and what can be told to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The head changed.
    Head,
    /// The session entered a phase.
    Phase(Phase),
    /// The step entered a stage.
    Stage {
        /// The step.
        step: u32,
        /// The stage it entered.
        stage: Stage,
    },
    /// The nodes were frozen: all of them are new.
    Frozen,
    /// The node at this index changed.
    Node(usize),
    /// The message at this index is new.
    Message(usize),
}
