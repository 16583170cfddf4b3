//! Taking in what was seen.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Effect, Event, Input, Machine, late, messages, release, retry_pause};
use crate::actor::Actor;
use crate::claims::Turn;
use crate::history::Happening;
use crate::model::{Boot, CallKind, Group, NodeState, Phase, SeenGroup, SeenJobs, Stage, Trouble};
use crate::names::{BootHandle, NodeName, Xname};
use crate::ports::{NodeFacts, PortError, Rejected};
use crate::time::Time;
use crate::wlm::WlmNode;

impl Machine<'_> {
    pub(super) fn take_in(&mut self, input: Input) {
        if let Input::Command(command) = input {
            return self.command(command);
        }
        if self.s.is_done() {
            return;
        }
        let known = &mut self.s.known;
        match input {
            Input::Tick | Input::Command(_) => {}
            Input::Delete { by } => self.delete(by),
            Input::Group(group, seen) => {
                known.troubles.remove(&CallKind::ReadGroup(group));
                match group {
                    Group::Starting if self.s.head.phase == Phase::Created => {
                        if seen.members.is_none() {
                            // It waits for the group now, whomever it waited for before.
                            known.blocked = None;
                        }
                        known.starting = Some(seen);
                    }
                    Group::Starting => {}
                    Group::Upgrading => known.upgrading = Some(seen),
                    Group::Failed => known.failed = Some(seen),
                }
            }
            Input::Facts { at, asked, facts } => {
                known.troubles.remove(&CallKind::ReadFacts);
                self.take_facts(at, &asked, facts);
            }
            Input::Template { at, exists } => {
                known.troubles.remove(&CallKind::ReadTemplate);
                known.template = Some((at, exists));
            }
            Input::Claim { at, turn } => {
                if self.s.head.phase == Phase::Created {
                    known.claimed = turn == Turn::Granted;
                    known.blocked = turn.waits_for().map(|why| (at, why));
                }
            }
            Input::Nodes { at, asked, nodes } => {
                known.troubles.remove(&CallKind::ReadNodes);
                let mut nodes: HashMap<_, _> =
                    nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
                // What a slow controller says is as old as its answer: there is nothing fresher to be had.
                let now = self.now;
                for name in asked {
                    let node = nodes.remove(&name);
                    let jobs_changed = known.wlm.get(&name).is_some_and(|(_, before)| {
                        let cpus =
                            |node: &Option<WlmNode>| node.as_ref().and_then(|node| node.cpus_allocated);
                        cpus(before) != cpus(&node)
                    });
                    known.jobs_changed |= jobs_changed;
                    match node {
                        Some(_) => _ = known.missing.remove(&name),
                        None => _ = known.missing.entry(name.clone()).or_insert(now),
                    }
                    known.wlm.insert(name, (now, node));
                }
                if self.s.head.stage != Stage::Starting {
                    // Jobs count for the last look only if they were looked at after the nodes. Times may
                    // be equal, so this cannot be told from them.
                    known.jobs = None;
                }
                self.note_drained();
                // A node that we are not allowed to resume does not come back, and is not to blame. Nor is one that
                // cannot be checked; but nobody waits for ever for a check of a session that is to go.
                let troubles = &self.s.known.troubles;
                let unchecked = troubles.contains_key(&CallKind::Check) && self.s.head.deletion.is_none();
                if self.s.head.stage == Stage::WlmWaiting
                    && !troubles.contains_key(&CallKind::Resume)
                    && !unchecked
                    && !self.s.head.batch.iter().any(|&i| self.s.is_being_checked(i))
                {
                    self.note_waited(at);
                }
            }
            Input::Jobs { at, asked, jobs } => {
                known.troubles.remove(&CallKind::ReadJobs);
                known.jobs_changed = false;
                self.note_jobs(&asked, &jobs);
                let known = &mut self.s.known;
                let asked = asked.into_iter().collect();
                known.jobs = Some(SeenJobs { begun: at, at: self.now, asked, jobs });
            }
            Input::PendingJobs(jobs) => {
                known.troubles.remove(&CallKind::ReadJobs);
                if self.s.head.phase == Phase::Rolling && self.s.head.stage == Stage::Starting {
                    let chosen = self.s.choose(&jobs);
                    let mut holding = late::holding(&jobs);
                    let names: HashSet<&NodeName> =
                        chosen.iter().filter_map(|&i| self.s.nodes[i].name.as_ref()).collect();
                    holding.retain(|name, _| names.contains(name));
                    self.s.known.holding = holding;
                    self.s.known.jobs_noted = Some(self.now);
                    self.s.known.outlook =
                        (!chosen.is_empty()).then(|| self.s.outlook(&jobs, chosen.len(), self.now));
                    self.s.known.chosen = Some((self.now, chosen));
                }
            }
            Input::BootIds(ids) => {
                known.troubles.remove(&CallKind::ReadBootIds);
                // As old as the answer, as what a slow controller says is.
                known.boot_ids = Some((self.now, ids));
            }
            Input::Boot { at, name, session } => {
                known.troubles.remove(&CallKind::ReadBoot);
                if self.s.head.boot.as_ref().is_some_and(|boot| boot.name == name) {
                    match session {
                        Some(_) => known.boot_gone_since = None,
                        None => known.boot_gone_since = known.boot_gone_since.or(Some(at)),
                    }
                    known.boot = Some((at, session));
                    if self.s.head.stage == Stage::Booting {
                        self.note_waited(at);
                    }
                }
            }
            Input::Partitions(partitions) => {
                known.troubles.remove(&CallKind::ReadPartitions);
                // What was chosen by an earlier look stands until it is chosen anew, for those who ask why it waits.
                known.partitions = Some((self.now, partitions));
            }
            Input::Zone { at, offset } => known.zone = Some((at, offset)),
            Input::Checked { step, verdicts } => {
                known.troubles.remove(&CallKind::Check);
                known.asked.insert(CallKind::Check, self.now);
                if step == self.s.head.step {
                    self.s.known.checks.extend(verdicts);
                }
            }
            Input::Asked { effect, rejected, result } => self.asked(&effect, rejected, result),
            Input::Failed { effect, error } => {
                if let Effect::ReadFacts(nodes) = &effect
                    && self.s.head.phase == Phase::Rolling
                    && self.s.head.stage != Stage::Starting
                {
                    // The reason is worth a look, not a wait.
                    self.explain(nodes, &[]);
                } else {
                    if let Effect::Check(request) = &effect {
                        // Whatever ran of them has ended: nobody waits for it.
                        let checks = &mut self.s.known.checks;
                        request.nodes.iter().for_each(|(xname, _)| _ = checks.remove(xname));
                    }
                    self.trouble(effect.kind(), &error);
                }
            }
        }
    }

    /// Counts time in which the nodes were watched.
    fn note_waited(&mut self, at: Time) {
        let known = &mut self.s.known;
        let (last, waited) = known.waited.unwrap_or((at, 0));
        let watched = at.since(last).min(2 * self.s.limits.poll_ms);
        known.waited = Some((at, waited + watched));
    }

    /// Patience with a draining node begins when it is seen drained: not while we cannot reach or change it, and anew once
    /// somebody has let it go, since jobs may have begun on it.
    fn note_drained(&mut self) {
        for i in self.s.batch_in(|state| *state == NodeState::Draining) {
            let Some(name) = self.s.nodes[i].name.clone() else { continue };
            let drained = self.s.seen(i).map(|seen| !self.s.wants_drain(i, seen));
            match drained {
                Some(true) => _ = self.s.known.drained.entry(name).or_insert(self.now),
                Some(false) => _ = self.s.known.drained.remove(&name),
                None => {}
            }
        }
    }

    /// A request was made. What it was about must be looked at anew.
    fn asked(
        &mut self,
        effect: &Effect,
        rejected: Vec<Rejected>,
        result: Result<Option<BootHandle>, PortError>,
    ) {
        let known = &mut self.s.known;
        known.asked.insert(effect.kind(), self.now);
        match effect {
            Effect::Drain(names)
            | Effect::Resume(names)
            | Effect::MarkDown(names, _)
            | Effect::MarkReason(names, _) => {
                for name in names {
                    known.wlm.remove(name);
                    if effect.kind() == CallKind::Mark {
                        known.marked.insert(name.clone(), self.now);
                    }
                }
            }
            Effect::AddMembers(group, nodes) => {
                self.forget_group(*group);
                let known = &mut self.s.known;
                known.rejected.retain(|(of, xname), _| of != group || !nodes.contains(xname));
                known
                    .rejected
                    .extend(rejected.into_iter().map(|rejected| ((*group, rejected.xname), rejected)));
            }
            Effect::RemoveMembers(group, _) => {
                self.forget_group(*group);
                let first_step = self.s.head.step == 0 && self.s.head.stage == Stage::Starting;
                if result.is_ok() && first_step {
                    self.say(messages::cleared_group(&self.s.label(*group).clone()));
                }
            }
            Effect::Requeue(jobs) | Effect::Cancel(jobs) => {
                known.jobs = None;
                if result.is_ok() {
                    let new: Vec<String> =
                        jobs.iter().filter(|job| !known.ended_jobs.contains_key(*job)).cloned().collect();
                    known.ended_jobs.extend(jobs.iter().map(|job| (job.clone(), self.now)));
                    if !new.is_empty() {
                        let cancelled = matches!(effect, Effect::Cancel(_));
                        self.say(messages::jobs_ended(self.s.head.step, &new, cancelled));
                    }
                }
            }
            Effect::Reboot(request) => {
                // Before it is asked for again, everything is looked at again.
                known.boot = None;
                known.wlm.clear();
                known.jobs = None;
                known.may_ask = false;
                let refused =
                    matches!(result, Err(PortError::Refused { .. } | PortError::Unreachable { .. }));
                if !refused {
                    known.reboot_asked = self.now;
                }
                if let Some(Boot { name, unanswered, .. }) = &mut self.s.head.boot
                    && *name == request.name
                    && refused
                {
                    *unanswered = self.s.known.unanswered_before;
                    self.events.push(Event::Head);
                }
                if let Some(boot) = &mut self.s.head.boot
                    && boot.name == request.name
                    && let Ok(Some(handle)) = &result
                {
                    // Nothing else tells which one it is: it is stored before anything else is done.
                    boot.handle = Some(handle.clone());
                    self.events.push(Event::Head);
                }
            }
            _ => {}
        }
        match result {
            Ok(_) => _ = self.s.known.troubles.remove(&effect.kind()),
            Err(error) => self.trouble(effect.kind(), &error),
        }
    }

    fn forget_group(&mut self, group: Group) {
        let known = &mut self.s.known;
        match group {
            Group::Starting => {}
            Group::Upgrading => known.upgrading = None,
            Group::Failed => known.failed = None,
        }
    }

    /// A kind of call fails: the next attempt waits twice as long as the last, up to a bound.
    fn trouble(&mut self, kind: CallKind, error: &PortError) {
        let failures =
            self.s.known.troubles.get(&kind).map_or(1, |trouble| trouble.failures.saturating_add(1));
        let trouble = Trouble {
            failures,
            until: self.now + retry_pause(self.s, kind, failures),
            error: messages::bounded(error.to_string(), messages::TEXT_MAX),
        };
        self.s.known.troubles.insert(kind, trouble);
    }

    fn take_facts(&mut self, at: Time, asked: &[Xname], facts: Vec<NodeFacts>) {
        if self.s.head.phase == Phase::Created {
            self.s.known.facts = Some((at, facts));
        } else if self.s.head.stage == Stage::Starting {
            self.name_again(asked, &facts);
        } else {
            self.explain(asked, &facts);
        }
    }

    /// Why BOS left nodes out of its session without a word.
    fn explain(&mut self, nodes: &[Xname], facts: &[NodeFacts]) {
        let facts: BTreeMap<Xname, &NodeFacts> = facts.iter().map(|fact| (fact.xname, fact)).collect();
        for &xname in nodes {
            let why = match facts.get(&xname) {
                Some(fact) if fact.locked => "locked in the Hardware State Manager".to_owned(),
                Some(fact) if !fact.enabled => "disabled in the Hardware State Manager".to_owned(),
                Some(fact) => {
                    let template = &self.s.head.spec.template;
                    let arch = if fact.arch.is_empty() { "unknown" } else { &fact.arch };
                    format!("no boot set of template '{template}' takes it (its architecture is {arch})")
                }
                None => "why is not known".to_owned(),
            };
            self.s.known.left_out.insert(xname, why);
        }
    }

    /// Untouched nodes stay untouched, drained ones are given back, and those being rebooted are followed to
    /// their end (P7).
    fn delete(&mut self, by: Option<Actor>) {
        if self.s.head.deletion.is_some() {
            return;
        }
        self.s.head.deletion = Some(self.now);
        self.s.head.deleted_by.clone_from(&by);
        self.events.push(Event::Head);
        self.tell(Happening::DeletionOrdered { by });
        if self.s.is_untouched() {
            self.say(messages::deleted_before_updates());
            // They failed before they were touched: nobody waits for the record.
            for i in self.s.head.batch.clone() {
                self.change_quietly(i, |node| node.owed.listing = false);
            }
        } else {
            self.say(messages::deleted());
        }
        let nodes: Vec<usize> = (0..self.s.nodes.len())
            .filter(|&i| {
                matches!(
                    self.s.nodes[i].state,
                    NodeState::Pending | NodeState::Draining | NodeState::Quiesced | NodeState::Deferred
                )
            })
            .collect();
        release(self, &nodes);
        let in_boot = |state: &NodeState| matches!(state, NodeState::Rebooting | NodeState::Returning);
        if self.s.head.phase == Phase::Rolling && self.s.batch_in(in_boot).is_empty() {
            self.enter(Stage::Cleanup);
        }
    }
}

impl SeenGroup {
    /// A group as read at this time.
    pub fn new(at: Time, members: Option<std::collections::BTreeSet<Xname>>) -> Self {
        SeenGroup { at, members }
    }
}
