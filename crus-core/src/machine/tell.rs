//! What the history gets, and the counts of nodes.

use std::collections::BTreeMap;

use super::settle::REASONS_MAX;
use super::{Event, Machine};
use crate::history::{Entry, Happening};
use crate::model::{Failure, NodeState};
use crate::names::Xname;

impl Machine<'_> {
    /// Adds an entry to the history.
    pub(super) fn tell(&mut self, what: Happening) {
        self.tell_moved();
        self.add(what);
    }

    fn add(&mut self, what: Happening) {
        let head = &mut self.s.head;
        head.entries += 1;
        let entry = Entry { number: head.entries, at: self.now, step: head.step, what };
        self.events.push(Event::Entry(entry));
    }

    /// Takes note that a node went from one state to another.
    pub(super) fn note_move(&mut self, i: usize, before: &NodeState) {
        let Some(node) = self.s.nodes.get(i).filter(|node| node.state != *before) else { return };
        let counts = &mut self.s.head.counts;
        let left = counts.of_state(before);
        *left = left.saturating_sub(1);
        *counts.of_state(&node.state) += 1;
        self.moved.push(i);
    }

    /// One entry for all nodes that went the same way at the same time.
    pub(super) fn tell_moved(&mut self) {
        let moved = std::mem::take(&mut self.moved);
        let mut reasons = 0;
        let mut groups: BTreeMap<(usize, String), (Option<Failure>, Vec<Xname>)> = BTreeMap::new();
        for i in moved {
            let node = &self.s.nodes[i];
            let word = node.state.word();
            let place = NodeState::WORDS.iter().position(|known| *known == word).unwrap_or_default();
            let failure = match &node.state {
                NodeState::Failed(failure) => Some(failure.clone()),
                _ => None,
            };
            let why = failure.as_ref().map_or_else(String::new, ToString::to_string);
            if !why.is_empty() && !groups.contains_key(&(place, why.clone())) {
                reasons += 1;
            }
            // Reasons may name their nodes: beyond some they are told together, as in the messages.
            let (why, failure) = if reasons > REASONS_MAX { (String::new(), None) } else { (why, failure) };
            groups.entry((place, why)).or_insert_with(|| (failure, Vec::new())).1.push(node.xname);
        }
        for ((place, _), (failure, mut nodes)) in groups {
            nodes.sort_unstable();
            nodes.dedup();
            self.add(Happening::Nodes { state: NodeState::WORDS[place].to_owned(), failure, nodes });
        }
    }
}
