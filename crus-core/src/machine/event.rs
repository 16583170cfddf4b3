//! What changed durably, and which parts of a session that is.

use std::collections::BTreeSet;

use crate::history::Entry;
use crate::model::{Phase, Session, Stage};

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
    /// The node at this position changed.
    Node(usize),
    /// The message at this position, the last one, is new, or was said again.
    Message(usize),
    /// Old messages were folded: none is where it was.
    MessagesFolded,
    /// The history has a new entry. The head changed with it.
    Entry(Entry),
}

/// Which parts of a session must be stored: what some events say has changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Whether the head changed.
    pub head: bool,
    /// The positions of the nodes that changed.
    pub nodes: BTreeSet<usize>,
    /// The positions of the messages that changed or are new.
    pub messages: BTreeSet<usize>,
    /// Whether messages that are stored beyond the last one must be removed.
    pub messages_folded: bool,
    /// New entries of the history.
    pub entries: Vec<Entry>,
}

impl Changes {
    /// Everything of a session but its history.
    pub fn all(session: &Session) -> Self {
        let messages = (0..session.messages.len()).collect();
        let nodes = (0..session.nodes.len()).collect();
        Changes { head: true, nodes, messages, ..Changes::default() }
    }

    /// What these events say.
    pub fn of(session: &Session, events: &[Event]) -> Self {
        let mut changes = Changes::default();
        for event in events {
            match event {
                Event::Head | Event::Phase(_) | Event::Stage { .. } => changes.head = true,
                Event::Frozen => changes.nodes.extend(0..session.nodes.len()),
                Event::Node(i) => _ = changes.nodes.insert(*i),
                Event::Message(i) => _ = changes.messages.insert(*i),
                Event::MessagesFolded => {
                    changes.messages = (0..session.messages.len()).collect();
                    changes.messages_folded = true;
                }
                Event::Entry(entry) => {
                    changes.head = true;
                    changes.entries.push(entry.clone());
                }
            }
        }
        changes
    }
}
