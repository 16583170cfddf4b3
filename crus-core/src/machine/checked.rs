//! The check command: a node returns to service only once it passed.

use super::Machine;
use crate::model::{Failure, NodeState, Session};
use crate::ports::{CheckRequest, Verdict};

impl Machine<'_> {
    /// Takes note of the verdicts on nodes that have booted.
    pub(super) fn judge_checked(&mut self) {
        let mut failed = Vec::new();
        for i in self.s.batch_in(|state| *state == NodeState::Returning) {
            match self.s.known.checks.get(&self.s.nodes[i].xname) {
                Some(Verdict::Passed) if !self.s.nodes[i].checked => {
                    self.change_quietly(i, |node| node.checked = true);
                }
                Some(Verdict::Failed(why)) => failed.push((i, Failure::CheckFailed(why.clone()))),
                _ => {}
            }
        }
        if !failed.is_empty() {
            let positions: Vec<usize> = failed.iter().map(|(i, _)| *i).collect();
            self.fail_each(failed);
            self.tell_failures(&positions);
        }
    }
}

impl Session {
    /// Whether the check command, if there is one, let the node pass.
    pub(super) fn is_checked(&self, i: usize) -> bool {
        self.head.spec.strategy.check_command.is_none() || self.nodes[i].checked
    }

    /// Whether the node is being checked at the moment.
    pub(super) fn is_being_checked(&self, i: usize) -> bool {
        !self.is_checked(i) && self.known.checks.get(&self.nodes[i].xname) == Some(&Verdict::Running)
    }

    /// What is to be checked now: nodes that have shown their new boot and are heard of.
    pub(super) fn to_be_checked(&self) -> Option<CheckRequest> {
        let name = self.head.spec.strategy.check_command.clone()?;
        let ready = |&i: &usize| {
            let heard_of = self.seen(i).is_some_and(|seen| !seen.has(crate::wlm::Flag::NotResponding));
            // Of a node that fell silent while it was checked the verdict is still to be had.
            self.nodes[i].rebooted && !self.nodes[i].checked && (heard_of || self.is_being_checked(i))
        };
        let returning = self.batch_in(|state| *state == NodeState::Returning).into_iter().filter(ready);
        let nodes: Vec<_> =
            returning.filter_map(|i| Some((self.nodes[i].xname, self.nodes[i].name.clone()?))).collect();
        let request = CheckRequest { session: self.head.id, step: self.head.step, name, nodes };
        (!request.nodes.is_empty()).then_some(request)
    }
}
