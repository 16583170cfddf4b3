//! Nodes whose fate is decided, and what is owed for them.

use super::look::Mark;
use super::{Event, Machine};
use crate::messages;
use crate::model::{Failure, Holder, NodeState, Phase};
use crate::names::Xname;

/// How many reasons for which nodes failed are told at a time.
pub(super) const REASONS_MAX: usize = 8;

impl Machine<'_> {
    /// Strikes off what is seen to be done for the nodes whose fate is decided.
    pub(super) fn pay_debts(&mut self) {
        for position in 0..self.s.head.batch.len() {
            let i = self.s.head.batch[position];
            let Some(node) = self.s.nodes.get(i) else { continue };
            let mut owed = node.owed;
            if owed.is_nothing() {
                continue;
            }
            if owed.listing && self.s.is_listed_or_cannot_be(node.xname) {
                owed.listing = false;
            }
            let missing = self.s.is_gone(i);
            if owed.marking && (missing || self.s.mark_due(i, self.now) == Some(Mark::Done)) {
                owed.marking = false;
            }
            if owed.resuming && (missing || self.s.is_given_back(i)) {
                owed.resuming = false;
            }
            if owed != node.owed {
                self.change_quietly(i, |node| node.owed = owed);
            }
        }
    }

    /// Fails nodes of the step, and notes what that obliges us to.
    pub(super) fn fail_each(&mut self, failed: Vec<(usize, Failure)>) {
        for (i, failure) in failed {
            self.change(i, |node| {
                node.owed.listing = true;
                if failure == Failure::DrainTimedOut {
                    // Its jobs run on: it is given back, not marked.
                    node.owed.resuming = node.holder == Holder::Us;
                }
                node.owed.marking |= failure.is_marked();
                node.settle(NodeState::Failed(failure.bounded()));
            });
        }
    }

    pub(super) fn give_up_gone(&mut self, nodes: &[usize]) {
        self.fail_each(nodes.iter().map(|&i| (i, Failure::UnknownToWlm)).collect());
        self.tell_failures(nodes);
    }

    /// One message for all nodes that failed for the same reason, so that messages grow with what happens
    /// and not with the number of nodes.
    pub(super) fn tell_failures(&mut self, nodes: &[usize]) {
        let mut reasons: Vec<(Failure, Vec<Xname>)> = Vec::new();
        let mut others: Vec<Xname> = Vec::new();
        for &i in nodes {
            let node = &self.s.nodes[i];
            let NodeState::Failed(failure) = &node.state else { continue };
            match reasons.iter().position(|(known, _)| known == failure) {
                Some(place) => reasons[place].1.push(node.xname),
                None if reasons.len() < REASONS_MAX => reasons.push((failure.clone(), vec![node.xname])),
                None => others.push(node.xname),
            }
        }
        for (failure, xnames) in reasons {
            self.say(messages::failed(self.s.head.step, &xnames, &failure));
        }
        if !others.is_empty() {
            self.say(messages::more_failed(self.s.head.step, &others));
        }
    }
}

/// Given back before their reboot was asked for: nodes that nobody else holds are put back to work (P7). One that was
/// tried again has failed as before.
pub(super) fn release(machine: &mut Machine<'_>, nodes: &[usize]) {
    let begun = machine.s.head.phase == Phase::Rolling;
    for &i in nodes {
        let Some(node) = machine.s.nodes.get(i) else { continue };
        let drained = matches!(node.state, NodeState::Draining | NodeState::Quiesced | NodeState::Rebooting);
        match node.failure_before.clone() {
            // It is marked once more: our drain has replaced its mark.
            Some(failure) if drained && failure.is_marked() && !node.was_mended => {
                machine.fail_each(vec![(i, failure)]);
            }
            // It was at work when it was taken, and goes back.
            Some(failure) if drained => machine.change(i, |node| {
                node.owed.listing = true;
                node.owed.resuming = node.holder == Holder::Us;
                node.settle(NodeState::Failed(failure));
            }),
            Some(failure) => machine.change(i, |node| {
                // Its mark stands, but it may have left its group.
                node.owed.listing = begun;
                node.settle(NodeState::Failed(failure));
            }),
            None => machine.change(i, |node| {
                // One that was put off may still be on its way back.
                node.owed.resuming |= drained && node.holder == Holder::Us;
                node.settle(NodeState::Released);
            }),
        }
    }
    let owed = nodes.iter().copied().filter(|&i| machine.s.nodes[i].owed.listing);
    machine.s.head.batch.extend(owed);
    machine.s.head.batch.sort_unstable();
    machine.s.head.batch.dedup();
    machine.events.push(Event::Head);
}
