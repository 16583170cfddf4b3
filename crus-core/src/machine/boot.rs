//! From the intent to reboot to the end of the boot session.

use std::collections::{BTreeMap, BTreeSet};

use super::look::LastLook;
use super::{Event, Machine, Stage, messages, paced, release};
use crate::boots::BootIds;
use crate::model::{Boot, CallKind, Failure, Limits, NodeState};
use crate::names::Xname;
use crate::ports::{BootKey, BootNodeState, BootSession, BootStatus, RebootRequest};
use crate::time::Time;

impl Machine<'_> {
    /// The intent is stored, and BOS has not shown the session yet. It may have been asked for, by us or by
    /// a process that died: BOS's word counts, and its session's name keeps a second request from doing
    /// harm.
    pub(super) fn intended(&mut self) -> bool {
        let Some(boot) = self.s.head.boot.clone() else { return false };
        if self.is_of_another_api(&boot) {
            let rebooting = self.s.batch_in(|state| *state == NodeState::Rebooting);
            if self.s.head.deletion.is_some() {
                self.release_intended(&rebooting);
                return true;
            }
            self.forget_intent();
            for i in rebooting {
                self.change(i, |node| node.state = NodeState::Quiesced);
            }
            return true;
        }
        if self.s.head.deletion.is_some() && self.never_asked() {
            let rebooting = self.s.batch_in(|state| *state == NodeState::Rebooting);
            self.release_intended(&rebooting);
            return true;
        }
        self.renew_before(&boot);
        self.note_own_boots(&boot);
        // The look must have begun when each request had had its time to arrive.
        let looked = self.s.known.boot.as_ref().map(|(at, _)| *at);
        let settled = self.asked_until(&boot).is_none_or(|asked| {
            let settled = asked.max(self.s.known.taken_up) + self.s.limits.settle_ms;
            looked.is_some_and(|looked| looked >= settled)
        });
        let found = match &self.s.known.boot {
            // BOS has told what it calls it: it has it.
            _ if boot.handle.is_some() => true,
            // No request of ours is under way: whatever there is, is somebody else's.
            _ if !self.s.limits.names_boots && !self.s.may_be_asked(&boot) => false,
            None => return false,
            Some((_, Some(seen))) if seen.status == BootStatus::Unclear => {
                if self.s.may_be_asked(&boot) {
                    return self.unclear(&boot);
                }
                false
            }
            // One with some of the nodes may be somebody else's, as long as ours may yet appear.
            Some((_, Some(seen))) if !self.s.limits.names_boots && !settled => {
                if !self.has_all_nodes(seen) {
                    self.s.known.may_ask = false;
                    return false;
                }
                true
            }
            Some((_, Some(_))) => true,
            Some((_, None)) => false,
        };
        if found {
            let shown = self.s.known.boot.as_ref().and_then(|(_, seen)| seen.as_ref()?.handle.clone());
            if let Some(boot) = &mut self.s.head.boot {
                boot.handle = shown.or(boot.handle.take());
                boot.before = None;
                boot.begun = Some(self.now);
                boot.unanswered = None;
            }
            self.s.known.may_ask = false;
            self.s.known.wlm.clear();
            self.say(messages::boot_begun(self.s.head.step));
            self.enter(Stage::Booting);
            return true;
        }
        // BOS knows no such session. A request that was lost on its way may still arrive.
        let rebooting = self.s.batch_in(|state| *state == NodeState::Rebooting);
        // A session that is forgotten may have existed: a node that booted anew was rebooted by it (P3).
        let newer = |i: &usize| {
            let (at, seen) = self.s.seen_at(*i)?;
            self.s.shows_newer_boot(*i, seen).then_some(at)
        };
        let newest = rebooting.iter().filter_map(newer).max();
        if let Some(newest) = newest.filter(|_| self.asked_until(&boot).is_some()) {
            // BOS may know the session by now: no other is asked for before it was asked.
            self.s.known.may_ask = false;
            let is_lost = looked.is_some_and(|looked| looked >= newest);
            if is_lost {
                self.fail_each(rebooting.iter().map(|&i| (i, Failure::BootSessionLost)).collect());
                self.end_boot();
            }
            return is_lost;
        }
        // One that was up and is silent now may be on its way through that boot: it is not asked for again, nor given
        // back, before the node shows which boot it has.
        if let Some(asked) = self.asked_until(&boot)
            && self.s.fell_silent(&boot).next().is_some()
        {
            self.s.known.may_ask = false;
            let limits = &self.s.limits;
            let late = self.now.since(asked) >= limits.settle_ms.saturating_add(limits.boot_timeout_ms);
            if late {
                self.fail_each(rebooting.iter().map(|&i| (i, Failure::BootSessionLost)).collect());
                self.end_boot();
            }
            return late;
        }
        if self.s.head.deletion.is_some() {
            let seen = |i: &usize| self.s.seen(*i).is_some() || self.s.is_gone(*i);
            let release = settled && rebooting.iter().all(seen);
            if release {
                self.release_intended(&rebooting);
            }
            return release;
        }
        let gone = rebooting.iter().any(|&i| self.s.is_gone(i));
        match self.s.last_look(&rebooting, self.now) {
            look if settled && (gone || matches!(look, LastLook::Busy(_))) => {
                self.forget_intent();
                for &i in &rebooting {
                    self.change(i, |node| node.state = NodeState::Quiesced);
                }
                if let LastLook::Busy(busy) = look {
                    self.back_to_draining(&busy);
                }
                true
            }
            LastLook::Quiet
                if !self.s.known.may_ask
                    && (settled || self.s.limits.names_boots)
                    && self.now >= paced(self.s, CallKind::Reboot) =>
            {
                self.note_intent();
                false
            }
            _ => false,
        }
    }

    /// Whether an intent that is open to be asked for was noted for a BOS of the other kind than this: it has the names
    /// that this one does not take, or no list of what there was before.
    fn is_of_another_api(&self, boot: &Boot) -> bool {
        boot.handle.is_none()
            && boot.unanswered.is_none()
            && boot.before.is_some() == self.s.limits.names_boots
    }

    /// Some boot session may be the one that was asked for. Nothing is asked for, and no node given back, until that is
    /// clear; not for longer than a boot may take.
    fn unclear(&mut self, boot: &Boot) -> bool {
        self.s.known.may_ask = false;
        let Some(asked) = self.asked_until(boot) else { return false };
        let Limits { settle_ms, boot_timeout_ms, .. } = self.s.limits;
        let late = self.now.since(asked) >= settle_ms.saturating_add(boot_timeout_ms)
            && self.now.since(self.s.known.taken_up) >= settle_ms;
        if late {
            let seen = self.s.known.boot.as_ref().and_then(|(_, seen)| seen.as_ref()?.error.clone());
            let failure = Failure::BootSession(messages::boot_unclear(&seen.unwrap_or_default()));
            let rebooting = self.s.batch_in(|state| *state == NodeState::Rebooting);
            self.fail_each(rebooting.into_iter().map(|i| (i, failure.clone())).collect());
            self.end_boot();
        }
        late
    }

    /// The reboot may be asked for once, now; whoever loads the session must take it for asked.
    pub(super) fn note_intent(&mut self) {
        if let Some(boot) = &mut self.s.head.boot {
            self.s.known.unanswered_before = boot.unanswered;
            boot.unanswered = Some(self.now);
            self.s.known.may_ask = true;
            self.events.push(Event::Head);
        }
    }

    /// Whether the reboot was certainly not asked for: its first intent was noted in this run, and stands.
    fn never_asked(&self) -> bool {
        self.s.known.may_ask && self.s.known.unanswered_before.is_none()
    }

    /// When the latest request ended that may have been carried out without our knowing. The intent may be much older:
    /// the last look comes between them. Who did not see the end, since the service was restarted, knows the intent alone.
    fn asked_until(&self, boot: &Boot) -> Option<Time> {
        let noted = boot.unanswered.filter(|_| !self.never_asked())?;
        Some(noted.max(self.s.known.reboot_asked))
    }

    /// While no request is under way, the boot sessions that there are now are none that it made.
    fn renew_before(&mut self, boot: &Boot) {
        if self.s.limits.names_boots || self.s.may_be_asked(boot) {
            return;
        }
        let latest = self.s.boot_ids(self.now).cloned();
        if let Some(boot) = &mut self.s.head.boot
            && latest.is_some()
            && boot.before != latest
        {
            boot.before = latest;
            self.events.push(Event::Head);
        }
    }

    /// While no request is under way, and BOS shows nothing that one has come to, what nodes booted is their own doing: no sign
    /// of a reboot that is yet to be asked for (P5), nor that one was lost.
    fn note_own_boots(&mut self, boot: &Boot) {
        let is_shown = matches!(self.s.known.boot, Some((_, Some(_))));
        let rebooting = self.s.batch_in(|state| *state == NodeState::Rebooting);
        if is_shown
            || self.asked_until(boot).is_some()
            || self.s.last_look(&rebooting, self.now) == LastLook::Stale
        {
            return;
        }
        let silent = self.note_boots(&rebooting);
        if let Some(boot) = &mut self.s.head.boot
            && boot.silent != silent
        {
            boot.silent = silent;
            self.events.push(Event::Head);
        }
    }

    /// Takes note of who keeps these nodes out of service, and of the boot that each has. Returns those that do not show theirs.
    pub(super) fn note_boots(&mut self, nodes: &[usize]) -> Vec<usize> {
        nodes.iter().for_each(|&i| self.follow_holder(i));
        let is_silent = |i: &usize| self.s.seen(*i).is_none_or(|seen| !seen.shows_its_boot());
        nodes.iter().copied().filter(is_silent).collect()
    }

    /// Whether a boot session shows each node that was asked for.
    fn has_all_nodes(&self, seen: &BootSession) -> bool {
        let nodes: BTreeSet<Xname> = seen.nodes.iter().map(|node| node.xname).collect();
        let mut rebooting = self.s.batch().filter(|node| node.state == NodeState::Rebooting);
        rebooting.all(|node| nodes.contains(&node.xname))
    }

    fn release_intended(&mut self, rebooting: &[usize]) {
        self.forget_intent();
        release(self, rebooting);
        self.enter(Stage::Cleanup);
    }

    fn forget_intent(&mut self) {
        self.s.head.boot = None;
        self.s.known.boot = None;
        self.s.known.may_ask = false;
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
            let waited = self.s.known.waited.map_or(0, |(_, waited)| waited);
            if waited < self.s.limits.boot_timeout_ms {
                return false;
            }
            let why = match &self.s.known.boot {
                Some((_, Some(seen))) if seen.status == BootStatus::Unclear => {
                    Failure::BootSession(messages::boot_unclear(seen.error.as_deref().unwrap_or_default()))
                }
                _ => Failure::BootTimedOut,
            };
            self.fail_each(late.into_iter().map(|i| (i, why.clone())).collect());
        }
        self.end_boot();
        true
    }

    fn end_boot(&mut self) {
        self.say(messages::boot_completed(self.s.head.step));
        // Told once for all, though BOS gives nodes up one by one.
        let in_boot = |failure: &Failure| {
            !matches!(
                failure,
                Failure::DrainTimedOut
                    | Failure::UnknownToWlm
                    | Failure::UnknownToHsm
                    | Failure::CheckFailed(_)
                    | Failure::SoakFailed(_)
            )
        };
        let failed = self.s.batch_in(|state| matches!(state, NodeState::Failed(f) if in_boot(f)));
        self.tell_failures(&failed);
        self.enter(Stage::Booted);
    }

    fn follow_boot(&mut self, session: &BootSession) {
        if matches!(session.status, BootStatus::Pending | BootStatus::Unclear) {
            return;
        }
        let complete = session.status == BootStatus::Complete;
        let error = session.error.clone();
        let states: BTreeMap<Xname, &BootNodeState> =
            session.nodes.iter().map(|node| (node.xname, &node.state)).collect();
        let mut failed: Vec<(usize, Failure)> = Vec::new();
        for i in self.s.batch_in(|state| *state == NodeState::Rebooting) {
            let xname = self.s.nodes[i].xname;
            match states.get(&xname).copied() {
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
        self.fail_each(failed);
    }

    /// BOS no longer shows the session that it had: the nodes' results are lost.
    fn boot_is_gone(&mut self) {
        let since = self.s.known.boot_gone_since.unwrap_or(self.now);
        if self.now.since(since) >= self.s.limits.settle_ms {
            let nodes = self.s.batch_in(|state| *state == NodeState::Rebooting);
            self.fail_each(nodes.into_iter().map(|i| (i, Failure::BootSessionLost)).collect());
        }
    }
}

impl crate::model::Session {
    /// Whether a request for this boot may be on its way, or have been carried out without our knowing.
    pub(super) fn may_be_asked(&self, boot: &Boot) -> bool {
        let only_noted = self.known.may_ask && self.known.unanswered_before.is_none();
        boot.unanswered.is_some() && !only_noted
    }

    /// Nodes of the step that were up when their reboot was intended, and of which it is not known any more which boot
    /// they have.
    fn fell_silent(&self, boot: &Boot) -> impl Iterator<Item = usize> {
        let rebooting = self.batch_in(|state| *state == NodeState::Rebooting);
        rebooting
            .into_iter()
            .filter(|i| !boot.silent.contains(i) && self.seen(*i).is_some_and(|seen| !seen.shows_its_boot()))
    }

    /// Why it is not known what came of the request for a reboot, in words, when that is so and BOS answers.
    pub(super) fn boot_in_doubt(&self) -> Option<String> {
        let boot = self.head.boot.as_ref()?;
        let looks_fail = self.known.troubles.contains_key(&CallKind::ReadBoot);
        let seen = self.known.boot.as_ref().filter(|_| !looks_fail);
        let (_, seen) = seen.filter(|_| matches!(self.head.stage, Stage::Quiesced | Stage::Booting))?;
        let intended = self.head.stage == Stage::Quiesced;
        if intended && (boot.handle.is_some() || !self.may_be_asked(boot)) {
            return None;
        }
        if let Some(seen) = seen {
            let unclear = seen.status == BootStatus::Unclear;
            return unclear.then(|| messages::boot_in_doubt(seen.error.as_deref().unwrap_or_default()));
        }
        let silent: Vec<Xname> =
            self.fell_silent(boot).filter(|_| intended).map(|i| self.nodes[i].xname).collect();
        (!silent.is_empty()).then(|| messages::boot_in_doubt(&messages::silent_nodes(silent.iter())))
    }

    /// What there is of boot sessions before one is asked for, where BOS takes no names of ours, as seen lately.
    pub(super) fn boot_ids(&self, now: Time) -> Option<&BootIds> {
        let (at, ids) = self.known.boot_ids.as_ref()?;
        // The last look at nodes and jobs comes after it, however long that one takes.
        let oldest = self.nodes_looked_by(now) - self.limits.last_look_ms.saturating_mul(3);
        let since = oldest.max(self.head.stage_since);
        (!self.limits.names_boots && *at >= since).then_some(ids)
    }

    /// Whether enough is known of boot sessions to ask for one. While a request may be under way, no more is to be
    /// learned of what there was before it.
    pub(super) fn knows_boots(&self, now: Time) -> bool {
        let may_be_asked = self.head.boot.as_ref().is_some_and(|boot| self.may_be_asked(boot));
        self.limits.names_boots || may_be_asked || self.boot_ids(now).is_some()
    }

    pub(super) fn reboot_request(&self, boot: &Boot, nodes: &[usize]) -> RebootRequest {
        RebootRequest {
            name: boot.name.clone(),
            tenant: self.head.spec.tenant.clone(),
            template: self.head.spec.template.clone(),
            nodes: nodes.iter().map(|&i| self.nodes[i].xname).collect(),
            before: boot.before.clone(),
        }
    }

    /// What its boot session is found by: by these nodes as long as BOS has no other name for it.
    pub(super) fn boot_key(&self, boot: &Boot, nodes: &[usize]) -> BootKey {
        let nodes = if self.limits.names_boots || boot.handle.is_some() { &[] } else { nodes };
        BootKey { request: self.reboot_request(boot, nodes), handle: boot.handle.clone() }
    }

    /// Nodes of this step that BOS left out, and about which it is not found out why.
    pub(super) fn unexplained(&self) -> Vec<Xname> {
        let Some((_, Some(session))) = &self.known.boot else { return Vec::new() };
        if matches!(session.status, BootStatus::Pending | BootStatus::Unclear) || session.members.is_empty() {
            return Vec::new();
        }
        let owned: BTreeSet<Xname> = session.nodes.iter().map(|node| node.xname).collect();
        let left_out = |xname: &Xname| {
            !session.members.contains(xname)
                && !owned.contains(xname)
                && !self.known.left_out.contains_key(xname)
        };
        let rebooting = self.batch().filter(|node| node.state == NodeState::Rebooting);
        rebooting.map(|node| node.xname).filter(left_out).collect()
    }
}
