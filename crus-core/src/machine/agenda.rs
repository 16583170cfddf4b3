//! What should be asked of the world, and when: a function of the state.

use std::collections::{BTreeMap, BTreeSet};

use super::gate::Gate;
use super::look::{LastLook, Mark, Way};
use super::{Effect, paced};
use crate::model::{CallKind, Group, NodeState, Phase, Session, Stage};
use crate::names::NodeName;
use crate::ports::BootStatus;
use crate::strategy::OnDrainTimeout;
use crate::time::Time;

/// At once.
const NOW: Time = Time(0);

/// What should be asked of the world now: what has been due for longest, and of that the most urgent, first.
///
/// After each answer the rest must be worked out anew: what was outstanding before may be wrong after it.
pub fn outstanding(session: &Session, now: Time) -> Vec<Effect> {
    let mut due: Vec<_> = agenda(session, now).into_iter().filter(|(due, _)| *due <= now).collect();
    // A peer that takes longer to answer than a poll interval is to be looked at again as soon as it has answered: that
    // must not hold up what has been due for longer (P9).
    due.sort_by_key(|(due, _)| *due);
    due.into_iter().map(|(_, effect)| effect).collect()
}

/// When there will be something to do again if nothing is outstanding now; `None` when the session is done.
pub fn next_wake(session: &Session, now: Time) -> Option<Time> {
    if session.is_done() {
        return None;
    }
    let asks = agenda(session, now).into_iter().map(|(due, _)| due);
    let next = asks.chain(deadlines(session, now)).filter(|due| *due > now).min();
    Some(next.unwrap_or(now + session.limits.poll_ms))
}

/// The nodes that will be looked at in the workload manager, and when, if nothing happens before: a host that runs many
/// sessions may make such looks in one call ([`Driver::looked`](crate::driver::Driver::looked)). `None` when there is no such
/// look, or it is outstanding now, or it may be the last one before a reboot: that one is the session's own (P2).
pub fn next_look(session: &Session, now: Time) -> Option<(Time, Vec<NodeName>)> {
    if session.head.stage == Stage::Quiesced {
        return None;
    }
    agenda(session, now).into_iter().find_map(|(due, effect)| match effect {
        Effect::ReadNodes(names) if due > now => Some((due, names)),
        _ => None,
    })
}

/// The kinds of calls that the session needs now or later.
pub(super) fn needed_kinds(session: &Session, now: Time) -> BTreeSet<CallKind> {
    let mut kinds: BTreeSet<_> = agenda(session, now).into_iter().map(|(_, effect)| effect.kind()).collect();
    // What keeps a reboot from being asked for is worth knowing until it is.
    let intended = session.head.stage == Stage::Quiesced && session.head.boot.is_some();
    kinds.extend(intended.then_some(CallKind::Reboot));
    kinds
}

fn agenda(s: &Session, now: Time) -> Vec<(Time, Effect)> {
    let mut a = Agenda { s, now, effects: Vec::new(), looks: BTreeMap::new() };
    match s.head.phase {
        Phase::Created => a.created(),
        Phase::Rolling => {
            a.debts();
            match s.head.stage {
                Stage::Starting => a.starting(),
                Stage::Quiescing => a.quiescing(),
                Stage::Quiesced if s.head.boot.is_some() => a.intended(),
                Stage::Quiesced => a.quiesced(),
                Stage::Booting => a.booting(),
                Stage::WlmWaiting => a.returning(),
                Stage::Cleanup => a.cleanup(),
                Stage::Booted => {}
            }
        }
        Phase::Done => {}
    }
    a.finish()
}

/// The moments at which patience with draining nodes ends; with booting and returning ones it ends at a look.
fn deadlines(s: &Session, now: Time) -> impl Iterator<Item = Time> + '_ {
    let draining = s.batch().filter(|node| node.state == NodeState::Draining);
    draining.filter_map(|node| s.drain_deadline(node)).chain(s.window_opens(now)).chain(s.head.soak_until)
}

struct Agenda<'a> {
    s: &'a Session,
    now: Time,
    effects: Vec<(Time, Effect)>,
    /// Nodes to look at, and when: all in one call.
    looks: BTreeMap<NodeName, Time>,
}

impl Agenda<'_> {
    /// A look: as often as `due` says, unless looks of this kind fail.
    fn look(&mut self, due: Time, effect: Effect) {
        let trouble = self.s.known.troubles.get(&effect.kind()).map_or(NOW, |trouble| trouble.until);
        self.effects.push((due.max(trouble), effect));
    }

    /// A request: not more often than once in a poll interval.
    fn ask(&mut self, effect: Effect) {
        self.effects.push((paced(self.s, effect.kind()), effect));
    }

    /// One poll interval after a look.
    fn again(&self, at: Time) -> Time {
        at + self.s.limits.poll_ms
    }

    /// A look at a node: at once if it was not seen in its present state, else at the next poll.
    fn look_at(&mut self, i: usize) {
        let Some(name) = &self.s.nodes[i].name else { return };
        let polled = self.s.known.wlm.get(name).map_or(NOW, |(at, _)| self.again(*at));
        let missing = self.s.known.missing.contains_key(name);
        let due = if self.s.seen(i).is_some() || missing { polled } else { NOW };
        self.looks.insert(name.clone(), due);
    }

    fn finish(mut self) -> Vec<(Time, Effect)> {
        if let Some(due) = self.looks.values().min().copied() {
            let names = std::mem::take(&mut self.looks).into_keys().collect();
            self.look(due, Effect::ReadNodes(names));
        }
        self.effects
    }

    // ---- the stages ---------------------------------------------------------------------------------

    fn created(&mut self) {
        let known = &self.s.known;
        if self.s.head.deletion.is_some() {
            return;
        }
        if !self.s.nodes.is_empty() {
            // It begins anew, and knows its nodes.
            let due = known.blocked.as_ref().map_or(NOW, |(at, _)| self.again(*at));
            return self.look(due, Effect::Claim);
        }
        let Some(starting) = &known.starting else {
            return self.look(NOW, Effect::ReadGroup(Group::Starting));
        };
        let Some(members) = &starting.members else {
            return self.look(self.again(starting.at), Effect::ReadGroup(Group::Starting));
        };
        if self.s.too_many_nodes().is_some() {
            return self.look(self.again(starting.at), Effect::ReadGroup(Group::Starting));
        }
        if known.claimed {
            if known.facts.is_none() {
                self.look(NOW, Effect::ReadFacts(members.iter().copied().collect()));
            }
        } else if let Some((at, _)) = &known.blocked {
            // The group may change while the session waits for its turn.
            self.look(self.again(starting.at), Effect::ReadGroup(Group::Starting));
            self.look(self.again(*at), Effect::Claim);
        } else {
            self.look(NOW, Effect::Claim);
        }
    }

    fn starting(&mut self) {
        let s = self.s;
        if !s.batch().all(|node| node.is_settled()) || !s.has_more_to_do() {
            return;
        }
        match s.gate(self.now) {
            Gate::Open if s.has_pending() => {}
            Gate::ZoneNeeded | Gate::ZoneUnknown => return self.ask_for_the_zone(),
            Gate::Open | Gate::Paused | Gate::Closed(_) => return,
        }
        let groups = [Group::Upgrading, Group::Failed];
        for group in groups {
            self.watch(group);
        }
        match s.known.template {
            Some((at, true)) if at >= s.head.stage_since => {}
            Some((at, false)) if at >= s.head.stage_since => {
                self.look(self.again(at), Effect::ReadTemplate(s.head.spec.template_key()));
            }
            _ => self.look(NOW, Effect::ReadTemplate(s.head.spec.template_key())),
        }
        let partitions = || s.head.spec.strategy.min_in_service.keys().cloned().collect();
        if let Some((at, _)) = &s.known.partitions
            && s.missing_partition().is_some()
        {
            self.look(self.again(*at), Effect::ReadPartitions(partitions()));
        }
        if !self.effects.is_empty() || s.unmet_condition().is_some() {
            return;
        }
        // Only now that the step can begin may the groups lose what earlier upgrades left there.
        for group in groups {
            self.tidy(group);
        }
        if !self.effects.is_empty() {
            return;
        }
        let unnamed = s.unnamed();
        if !unnamed.is_empty() {
            let xnames = unnamed.iter().map(|&i| s.nodes[i].xname).collect();
            return self.look(NOW, Effect::ReadFacts(xnames));
        }
        if !s.knows_its_floors(self.now) {
            return self.look(NOW, Effect::ReadPartitions(partitions()));
        }
        if !s.is_ready_to_start(self.now) {
            return self.look(NOW, Effect::ReadPendingJobs);
        }
        if s.known.chosen.as_ref().is_some_and(|(_, chosen)| chosen.is_empty())
            && let Some((at, _)) = &s.known.partitions
        {
            return self.look(self.again(*at), Effect::ReadPartitions(partitions()));
        }
        for &i in s.known.chosen.iter().flat_map(|(_, chosen)| chosen) {
            let Some(name) = s.nodes[i].name.clone() else { continue };
            let due = match s.known.wlm.get(&name) {
                Some((at, _)) if *at >= s.head.stage_since => self.again(*at),
                _ => NOW,
            };
            self.looks.insert(name, due);
        }
    }

    fn ask_for_the_zone(&mut self) {
        let Some(window) = &self.s.head.spec.strategy.window else { return };
        let due = match self.s.known.zone {
            Some((at, None)) => self.again(at),
            _ => NOW,
        };
        self.look(due, Effect::ReadZone(window.time_zone.clone()));
    }

    /// Reads a group; again and again while it is missing or holds anything that is not ours. Tells whether it is as
    /// it should be.
    fn watch(&mut self, group: Group) -> bool {
        let s = self.s;
        let due = match s.group(group) {
            None => NOW,
            Some(seen) if seen.members.is_none() || s.others_in(group).next().is_some() => {
                self.again(seen.at)
            }
            Some(_) => return true,
        };
        self.look(due, Effect::ReadGroup(group));
        false
    }

    /// Takes out of a group what of ours does not belong there, and puts in what does. While it holds anything else
    /// it is left alone (P8).
    fn tidy(&mut self, group: Group) {
        let s = self.s;
        if !self.watch(group) {
            return;
        }
        let strays = s.strays_in(group);
        let absent = s.absent_from(group);
        if !strays.is_empty() {
            self.ask(Effect::RemoveMembers(group, strays));
        } else if !absent.is_empty() {
            self.ask(Effect::AddMembers(group, absent));
        }
    }

    fn quiescing(&mut self) {
        let s = self.s;
        let draining = s.batch_in(|state| *state == NodeState::Draining);
        let mut to_drain = Vec::new();
        for &i in &draining {
            self.look_at(i);
            if s.seen(i).is_some_and(|seen| s.wants_drain(i, seen)) {
                to_drain.extend(s.nodes[i].name.clone());
            }
        }
        if !to_drain.is_empty() {
            self.ask(Effect::Drain(to_drain));
        }
        // Jobs cost a call of their own: they are looked at once the nodes are quiet.
        let quiet = |i: &usize| s.seen(*i).is_some_and(|seen| s.is_quiet(*i, seen));
        if !draining.is_empty() && draining.iter().all(quiet) {
            self.jobs_after_nodes(&draining);
        }
        self.end_jobs();
        let curious = s.curious(self.now);
        if !curious.is_empty() && s.known.jobs.is_none() {
            self.look(NOW, Effect::ReadJobs(curious));
        }
        self.tidy(Group::Upgrading);
    }

    /// Ends the jobs of late nodes, where the operator asked for that.
    fn end_jobs(&mut self) {
        let s = self.s;
        let end = match s.on_drain_timeout() {
            OnDrainTimeout::Requeue => Effect::Requeue,
            OnDrainTimeout::Cancel => Effect::Cancel,
            OnDrainTimeout::Wait | OnDrainTimeout::Skip | OnDrainTimeout::Later => return,
        };
        let late = s.late(self.now);
        if late.is_empty() {
            return;
        }
        // Right before, somebody may have let them go.
        let oldest = s.nodes_looked_by(self.now) - s.limits.last_look_ms;
        let stale = |name: &&NodeName| s.known.wlm.get(*name).is_none_or(|(at, _)| *at < oldest);
        let names = || late.iter().filter_map(|&i| s.nodes[i].name.as_ref());
        if names().any(|name| stale(&name)) {
            self.looks.extend(names().map(|name| (name.clone(), NOW)));
            return;
        }
        match s.jobs_to_end(&late, self.now) {
            // A request that was refused is due later, and needed until then.
            None if paced(s, CallKind::EndJobs) > self.now => self.ask(end(Vec::new())),
            None => {
                let names = late.iter().filter_map(|&i| s.nodes[i].name.clone()).collect();
                self.look(NOW, Effect::ReadJobs(names));
            }
            Some(jobs) if jobs.is_empty() => {}
            Some(jobs) => self.ask(end(jobs)),
        }
    }

    /// The jobs, if they were not looked at since the nodes were.
    fn jobs_after_nodes(&mut self, nodes: &[usize]) {
        let oldest = self.now - self.s.limits.last_look_ms;
        let names: Vec<NodeName> = nodes.iter().filter_map(|&i| self.s.nodes[i].name.clone()).collect();
        let seen = self.s.known.jobs.as_ref().filter(|jobs| jobs.at >= oldest);
        if seen.is_none_or(|jobs| !names.iter().all(|name| jobs.asked.contains(name))) {
            self.look(NOW, Effect::ReadJobs(names));
        }
    }

    /// The last look: the nodes, then their jobs, as fresh as P2 wants them, not before `due`.
    fn last_look(&mut self, nodes: &[usize], due: Time) {
        let s = self.s;
        let oldest = self.now - s.limits.last_look_ms;
        let mut fresh = true;
        for &i in nodes {
            let Some(name) = s.nodes[i].name.clone() else { continue };
            let looked = s.known.wlm.get(&name).map(|(at, _)| *at);
            if s.known.missing.contains_key(&name) {
                fresh = false;
                self.looks.insert(name, looked.map_or(due, |at| self.again(at).max(due)));
            } else if s.seen(i).is_none() || looked.is_none_or(|at| at < oldest) {
                fresh = false;
                self.looks.insert(name, due);
            }
        }
        if fresh && due <= self.now {
            self.jobs_after_nodes(nodes);
        }
    }

    fn quiesced(&mut self) {
        self.tidy(Group::Upgrading);
        if self.s.is_upgrading_group_filled() {
            // Before the last look, which must be fresh.
            if !self.s.knows_boots(self.now) {
                return self.look(NOW, Effect::ReadBootIds);
            }
            let nodes = self.s.batch_in(|state| *state == NodeState::Quiesced);
            self.last_look(&nodes, NOW);
        }
    }

    fn intended(&mut self) {
        let s = self.s;
        let Some(boot) = &s.head.boot else { return };
        let rebooting = s.batch_in(|state| *state == NodeState::Rebooting);
        let look = s.last_look(&rebooting, self.now);
        let deleting = s.head.deletion.is_some();
        if s.known.may_ask && look == LastLook::Quiet && !deleting && s.knows_boots(self.now) {
            return self.ask(Effect::Reboot(s.reboot_request(boot, &rebooting)));
        }
        // Where BOS takes no names of ours, there is nothing to look for before anything was asked for.
        let nameless = !s.limits.names_boots && boot.handle.is_none() && !s.may_be_asked(boot);
        let none = if nameless {
            if !deleting && !s.knows_boots(self.now) {
                // As before the intent: before the last look, which must be fresh.
                return self.look(paced(s, CallKind::Reboot), Effect::ReadBootIds);
            }
            true
        } else {
            let due = s.known.boot.as_ref().map_or(NOW, |(at, _)| self.again(*at));
            self.look(due, Effect::ReadBoot(s.boot_key(boot, &rebooting)));
            match &s.known.boot {
                Some((_, Some(seen))) => seen.status == BootStatus::Unclear && !s.may_be_asked(boot),
                Some((_, None)) => true,
                None => false,
            }
        };
        if none {
            match look {
                // For the request that comes after it.
                LastLook::Stale => self.last_look(&rebooting, paced(s, CallKind::Reboot)),
                LastLook::Busy(busy) => busy.into_iter().for_each(|i| self.look_at(i)),
                LastLook::Quiet => {}
            }
        }
    }

    fn booting(&mut self) {
        let s = self.s;
        if let Some(boot) = &s.head.boot
            && s.batch().any(|node| node.state == NodeState::Rebooting)
        {
            let due = s.known.boot.as_ref().map_or(NOW, |(at, _)| self.again(*at));
            self.look(due, Effect::ReadBoot(s.boot_key(boot, &[])));
        }
        let unexplained = s.unexplained();
        if !unexplained.is_empty() {
            self.look(NOW, Effect::ReadFacts(unexplained));
        }
        self.returning();
    }

    fn returning(&mut self) {
        let s = self.s;
        let mut to_resume = Vec::new();
        for i in s.batch_in(|state| *state == NodeState::Returning) {
            self.look_at(i);
            if s.seen(i).is_some_and(|seen| s.way_back(i, seen) == Way::Held) {
                to_resume.extend(s.nodes[i].name.clone());
            }
        }
        if !to_resume.is_empty() {
            self.ask(Effect::Resume(to_resume));
        }
        if let Some(until) = s.head.soak_until {
            for i in s.batch_in(|state| *state == NodeState::Upgraded) {
                let Some(name) = s.nodes[i].name.clone() else { continue };
                let looked = s.known.wlm.get(&name).filter(|(at, _)| *at >= until);
                match looked {
                    None => _ = self.looks.insert(name, until),
                    Some((at, None)) => _ = self.looks.insert(name, self.again(*at)),
                    Some(_) => {}
                }
            }
        }
        if let Some(request) = s.to_be_checked() {
            self.ask(Effect::Check(request));
        }
    }

    fn cleanup(&mut self) {
        let s = self.s;
        if s.is_untouched() {
            return;
        }
        for group in [Group::Upgrading, Group::Failed] {
            match s.group(group) {
                None => self.look(NOW, Effect::ReadGroup(group)),
                Some(_) => {
                    let strays = s.strays_in(group);
                    if !strays.is_empty() {
                        self.ask(Effect::RemoveMembers(group, strays));
                    }
                }
            }
        }
    }

    /// What is owed to the nodes whose fate is decided.
    fn debts(&mut self) {
        let s = self.s;
        let mut marks: BTreeMap<(bool, String), Vec<NodeName>> = BTreeMap::new();
        let mut to_resume = Vec::new();
        let mut listing = false;
        for &i in &s.head.batch {
            let node = &s.nodes[i];
            listing |= node.owed.listing;
            if node.owed.marking || node.owed.resuming {
                self.look_at(i);
            }
            let Some(name) = node.name.clone() else { continue };
            let marked = s.known.marked.get(&name).map_or(NOW, |at| self.again(*at));
            if node.owed.marking && marked <= self.now {
                match s.mark_due(i, self.now) {
                    Some(Mark::Down(reason)) => marks.entry((true, reason)).or_default().push(name),
                    Some(Mark::Reason(reason)) => marks.entry((false, reason)).or_default().push(name),
                    Some(Mark::Done) => {}
                    // A look of this poll may be too old to take a node down by.
                    None if s.seen(i).is_some_and(|seen| seen.is_quiet()) => {
                        self.looks.insert(name, NOW);
                    }
                    None => {}
                }
            } else if node.owed.resuming && s.seen(i).is_some() && !s.is_given_back(i) {
                to_resume.push(name);
            }
        }
        for ((down, reason), names) in marks {
            // Each node is marked at most once a poll; nodes with other reasons need not wait for it.
            let mark = if down { Effect::MarkDown(names, reason) } else { Effect::MarkReason(names, reason) };
            self.look(NOW, mark);
        }
        if !to_resume.is_empty() {
            self.ask(Effect::Resume(to_resume));
        }
        if listing {
            self.list_failed();
        }
    }

    fn list_failed(&mut self) {
        let s = self.s;
        let Some(seen) = s.group(Group::Failed) else {
            return self.look(NOW, Effect::ReadGroup(Group::Failed));
        };
        if seen.members.is_none() {
            return self.look(self.again(seen.at), Effect::ReadGroup(Group::Failed));
        }
        let unlisted = s.batch().filter(|node| node.owed.listing).map(|node| node.xname);
        let unlisted: Vec<_> = unlisted.filter(|xname| !s.is_listed_or_cannot_be(*xname)).collect();
        if !unlisted.is_empty() {
            self.ask(Effect::AddMembers(Group::Failed, unlisted));
        }
    }
}
