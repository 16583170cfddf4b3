//! From the intent to reboot to the end of the boot session.

use std::collections::BTreeSet;

use super::look::LastLook;
use super::{Event, Machine, Stage, messages, paced, release};
use crate::model::{Failure, Kind, NodeState};
use crate::names::Xname;
use crate::ports::{BootNodeState, BootSession, BootStatus};
use crate::time::Time;

impl Machine<'_> {
    /// The intent is stored, and BOS has not shown the session yet. It may have been asked for, by us or by
    /// a process that died: BOS's word counts, and its session's name keeps a second request from doing
    /// harm.
    pub(super) fn intended(&mut self) -> bool {
        let Some(boot) = self.s.head.boot.clone() else { return false };
        let found = match &self.s.known.boot {
            None => return false,
            Some((_, Some(_))) => true,
            Some((_, None)) => false,
        };
        if found {
            if let Some(boot) = &mut self.s.head.boot {
                boot.begun = Some(self.now);
                boot.unanswered = None;
            }
            self.s.known.intent_is_new = false;
            self.s.known.wlm.clear();
            self.say(messages::boot_begun(self.s.head.step));
            self.enter(Stage::Booting);
            return true;
        }
        // BOS knows no such session. A request that was lost on its way may still arrive.
        let asked = if self.s.known.intent_is_new {
            self.s.known.asked.get(&Kind::Reboot).copied()
        } else {
            boot.unanswered
        };
        let settled = asked.is_none_or(|at| self.now.since(at) >= self.s.limits.settle_ms);
        let rebooting = self.s.batch_in(|state| *state == NodeState::Rebooting);
        if self.s.head.deletion.is_some() {
            if settled {
                self.forget_intent();
                release(self, &rebooting);
                self.enter(Stage::Cleanup);
            }
            return settled;
        }
        match self.s.last_look(&rebooting, self.now) {
            LastLook::Busy(busy) if settled => {
                self.forget_intent();
                for &i in &rebooting {
                    self.change(i, |node| node.state = NodeState::Quiesced);
                }
                self.back_to_draining(&busy);
                true
            }
            LastLook::Quiet if !self.s.known.intent_is_new && self.now >= paced(self.s, Kind::Reboot) => {
                if let Some(boot) = &mut self.s.head.boot {
                    boot.unanswered = Some(self.now);
                }
                self.s.known.intent_is_new = true;
                self.events.push(Event::Head);
                false
            }
            _ => false,
        }
    }

    fn forget_intent(&mut self) {
        self.s.head.boot = None;
        self.s.known.boot = None;
        self.s.known.intent_is_new = false;
        self.events.push(Event::Head);
    }

    /// BOS boots the nodes; each goes on as soon as BOS lets go of it.
    pub(super) fn booting(&mut self) -> bool {
        let seen = self.s.known.boot.as_ref().map(|(_, seen)| seen.clone());
        match seen {
            Some(Some(session)) => self.follow_boot(&session),
            Some(None) => self.boot_is_gone(),
            None => {}
        }
        self.welcome_back();
        let late = self.s.batch_in(|state| *state == NodeState::Rebooting);
        if !late.is_empty() {
            let begun = self.s.head.boot.as_ref().and_then(|boot| boot.begun).unwrap_or(Time(0));
            // Time is up when a look after that moment shows so: BOS may have been out of reach.
            let looked = self.s.known.boot.as_ref().map_or(Time(0), |(at, _)| *at);
            if looked < begun + self.s.limits.boot_timeout_ms {
                return false;
            }
            self.fail(&late, |_| Failure::BootTimedOut);
        }
        self.say(messages::boot_completed(self.s.head.step));
        // Told once for all, though BOS gives nodes up one by one.
        let in_boot = |failure: &Failure| {
            !matches!(failure, Failure::DrainTimedOut | Failure::UnknownToWlm | Failure::UnknownToHsm)
        };
        let failed = self.s.batch_in(|state| matches!(state, NodeState::Failed(f) if in_boot(f)));
        self.tell_failures(&failed);
        self.enter(Stage::Booted);
        true
    }

    fn follow_boot(&mut self, session: &BootSession) {
        if session.status == BootStatus::Pending {
            return;
        }
        let complete = session.status == BootStatus::Complete;
        let error = session.error.clone();
        let mut failed: Vec<(usize, Failure)> = Vec::new();
        for i in self.s.batch_in(|state| *state == NodeState::Rebooting) {
            let xname = self.s.nodes[i].xname;
            match session.nodes.iter().find(|node| node.xname == xname).map(|node| &node.state) {
                Some(BootNodeState::Succeeded) => {
                    self.change(i, |node| node.state = NodeState::Returning);
                }
                Some(BootNodeState::Failed(error)) => failed.push((i, Failure::Boot(error.clone()))),
                Some(BootNodeState::Stopped(why) | BootNodeState::Working(why)) if complete => {
                    failed.push((i, Failure::Boot(why.clone())));
                }
                Some(_) => {}
                // Not "done": a newer session has it.
                None if complete && session.members.contains(&xname) => {
                    failed.push((i, Failure::TakenOver));
                }
                None if session.members.contains(&xname) => {}
                None if !session.members.is_empty() => {
                    failed.extend(self.s.left_out_failure(xname).map(|failure| (i, failure)));
                }
                None if complete => {
                    let error = error.clone().unwrap_or_else(|| "no nodes were booted".to_owned());
                    failed.push((i, Failure::BootSession(error)));
                }
                None => {}
            }
        }
        let nodes: Vec<usize> = failed.iter().map(|(i, _)| *i).collect();
        self.fail(&nodes, |i| {
            let found = failed.iter().find(|(failed, _)| *failed == i);
            found.map_or(Failure::BootSessionLost, |(_, failure)| failure.clone())
        });
    }

    /// BOS no longer shows the session that it had: the nodes' results are lost.
    fn boot_is_gone(&mut self) {
        let since = self.s.known.boot_gone_since.unwrap_or(self.now);
        if self.now.since(since) >= self.s.limits.settle_ms {
            let nodes = self.s.batch_in(|state| *state == NodeState::Rebooting);
            self.fail(&nodes, |_| Failure::BootSessionLost);
        }
    }
}

impl crate::model::Session {
    /// Nodes of this step that BOS left out, and about which it is not found out why.
    pub(super) fn unexplained(&self) -> Vec<Xname> {
        let Some((_, Some(session))) = &self.known.boot else { return Vec::new() };
        if session.status == BootStatus::Pending || session.members.is_empty() {
            return Vec::new();
        }
        let left_out = |xname: &Xname| {
            !session.members.contains(xname)
                && !session.nodes.iter().any(|node| node.xname == *xname)
                && !self.known.left_out.contains_key(xname)
        };
        let rebooting = self.batch().filter(|node| node.state == NodeState::Rebooting);
        rebooting.map(|node| node.xname).filter(left_out).collect::<BTreeSet<_>>().into_iter().collect()
    }
}
