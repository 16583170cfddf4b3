//! Nodes that are taken again: those that were late with their jobs and those that failed in their boot, in steps at
//! the end; and those that an operator wants to be taken again.

use super::{Event, Machine};
use crate::actor::Actor;
use crate::history::Happening;
use crate::messages;
use crate::model::{Node, NodeState, Owed, Phase, Session, Stage};

impl Machine<'_> {
    /// No node is pending: those that were put off are taken now, then those that are to be tried again.
    pub(super) fn take_again(&mut self) {
        let deferred = self.s.positions(|node| node.state == NodeState::Deferred);
        if !deferred.is_empty() {
            self.begin_again(&deferred, |_| {});
            return self.say(messages::retrying(deferred.len(), self.s.head.step));
        }
        let retries = self.s.head.spec.strategy.retries;
        let again = self.s.positions(|node| is_retried(node, retries));
        self.begin_again(&again, |node| node.attempt += 1);
        self.say(messages::retrying(again.len(), self.s.head.step));
    }

    /// An operator wants the nodes that failed or were skipped to be taken once more: of a session that is done, or
    /// paused with no step in flight.
    pub(super) fn retry(&mut self, by: Option<Actor>) {
        let between_steps = matches!(self.s.head.stage, Stage::Starting | Stage::Cleanup);
        if !self.s.is_done() && (self.s.head.pause.is_none() || !between_steps) {
            return;
        }
        if !self.s.batch().all(Node::is_settled) {
            // What is owed for the failed ones is done first.
            if !std::mem::replace(&mut self.s.head.retry, true) {
                self.s.head.retry_by = by;
            }
            return;
        }
        if !self.s.head.retry {
            self.s.head.retry_by = by;
        }
        self.take_failed_again();
    }

    pub(super) fn take_failed_again(&mut self) {
        let by = self.s.head.retry_by.take();
        if std::mem::take(&mut self.s.head.retry) {
            self.events.push(Event::Head);
        }
        let again = self.s.positions(|node| node.is_settled() && matches!(node.state, NodeState::Failed(_)));
        if again.is_empty() {
            return;
        }
        if self.s.is_done() {
            // It must wait for its turn once more.
            let head = &mut self.s.head;
            head.phase = Phase::Created;
            head.ended = None;
            head.batch.clear();
            head.boot = None;
            self.s.known = crate::model::Known { stepped: self.s.known.stepped, ..Default::default() };
            self.s.known.taken_up = self.now;
            self.events.push(Event::Phase(Phase::Created));
        }
        if self.s.head.stage != Stage::Starting {
            self.enter(Stage::Starting);
        }
        self.begin_again(&again, |node| {
            node.attempt += 1;
            node.deferred = false;
        });
        let head = &mut self.s.head;
        head.accepted = head.accepted.min(head.counts.failed);
        head.retried = true;
        self.say(messages::retried(again.len()));
        self.tell(Happening::Retried { nodes: again.len(), by });
    }

    fn begin_again(&mut self, nodes: &[usize], change: impl Fn(&mut Node)) {
        for &i in nodes {
            self.change(i, |node| {
                if let NodeState::Failed(failure) = &node.state {
                    node.failure_before = Some(failure.clone());
                }
                node.state = NodeState::Pending;
                node.step = None;
                node.holder = crate::model::Holder::Us;
                node.boot_before = None;
                node.rebooted = false;
                node.checked = false;
                node.job = None;
                node.owed = Owed::default();
                change(node);
            });
        }
        let is_again = |i: &usize| nodes.binary_search(i).is_ok();
        self.s.head.batch.retain(|i| !is_again(i));
        self.s.known.first_pending = self.s.known.first_pending.min(nodes.first().copied().unwrap_or(0));
        self.s.known.chosen = None;
        self.s.known.named = false;
        self.events.push(Event::Head);
    }
}

fn is_retried(node: &Node, retries: u32) -> bool {
    let of_boot = matches!(&node.state, NodeState::Failed(failure) if failure.is_of_boot());
    of_boot && node.attempt < retries
}

impl Session {
    /// Whether any node is left to be taken: one that no step has taken, or one to be taken again.
    pub(super) fn has_more_to_do(&self) -> bool {
        self.has_pending() || self.has_more_to_try()
    }

    fn has_more_to_try(&self) -> bool {
        let counts = &self.head.counts;
        let retries = self.head.spec.strategy.retries;
        counts.deferred > 0
            || (retries > 0 && counts.failed > 0 && self.nodes.iter().any(|node| is_retried(node, retries)))
    }

    /// The positions of nodes that are such, in order.
    fn positions(&self, such: impl Fn(&Node) -> bool) -> Vec<usize> {
        (0..).zip(&self.nodes).filter(|(_, node)| such(node)).map(|(i, _)| i).collect()
    }
}
