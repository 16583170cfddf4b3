//! After a canary step: a wait, and a second look at its nodes.

use super::{Machine, messages};
use crate::model::{Failure, Holder, NodeState, Session};
use crate::wlm::WlmNode;

impl Machine<'_> {
    /// Waits until the nodes of a canary step have soaked, and fails those that did not stay in service. `false` while
    /// it waits.
    pub(super) fn soaked(&mut self) -> bool {
        let upgraded = self.s.batch_in(|state| *state == NodeState::Upgraded);
        let Some(seconds) = self.s.head.spec.strategy.soak_s.filter(|_| self.s.is_canary()) else {
            return true;
        };
        if upgraded.is_empty() || self.s.head.deletion.is_some() {
            return true;
        }
        let Some(until) = self.s.head.soak_until else {
            let until = self.now + seconds.get().saturating_mul(1000);
            self.s.head.soak_until = Some(until);
            self.say(messages::soaking(self.s.head.step, seconds.get()));
            self.events.push(super::Event::Head);
            return false;
        };
        // One look without the node may be one at a controller that is being reconfigured.
        let sure = |i: usize| {
            self.s.nodes[i].name.as_ref().is_none_or(|name| !self.s.known.missing.contains_key(name))
        };
        let looked = |&i: &usize| self.s.looked_since(i, until) && (sure(i) || self.s.is_gone(i));
        if self.now < until || !upgraded.iter().all(looked) {
            return false;
        }
        let mut failed = Vec::new();
        for i in upgraded {
            if let Err(state) = self.s.stayed(i) {
                failed.push((i, Failure::SoakFailed(state)));
            }
        }
        let positions: Vec<usize> = failed.iter().map(|(i, _)| *i).collect();
        self.fail_each(failed);
        self.tell_failures(&positions);
        self.s.head.soak_until = None;
        true
    }
}

impl Session {
    /// Whether the step at work is a canary.
    pub(super) fn is_canary(&self) -> bool {
        self.head.canaries < self.head.spec.strategy.canary.len()
    }

    /// Whether the node was looked at since then.
    pub(super) fn looked_since(&self, i: usize, then: crate::Time) -> bool {
        let name = self.nodes.get(i).and_then(|node| node.name.as_ref());
        name.and_then(|name| self.known.wlm.get(name)).is_some_and(|(at, _)| *at >= then)
    }

    /// Whether a node that was upgraded is still as it was; otherwise how it is.
    fn stayed(&self, i: usize) -> Result<(), String> {
        let node = &self.nodes[i];
        let seen =
            node.name.as_ref().and_then(|name| self.known.wlm.get(name)).and_then(|(_, seen)| seen.as_ref());
        let Some(seen) = seen else { return Err("not at all".to_owned()) };
        if seen.is_in_service() || self.is_held_as_before(i, seen) {
            return Ok(());
        }
        Err(match &seen.reason {
            Some(reason) => format!("{} ({reason})", seen.state()),
            None => seen.state(),
        })
    }

    /// Whether it is out of service for the one who kept it so before it was rebooted, and lives.
    fn is_held_as_before(&self, i: usize, seen: &WlmNode) -> bool {
        let same = |theirs: &String| match self.holder_of(seen) {
            Holder::Other(now) => now == *theirs,
            Holder::Us => false,
        };
        matches!(&self.nodes[i].holder, Holder::Other(theirs) if same(theirs))
            && !seen.has(crate::wlm::Flag::NotResponding)
    }
}
