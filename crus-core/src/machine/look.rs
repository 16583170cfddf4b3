//! What may be concluded from what was seen.

use std::collections::BTreeSet;

use crate::messages;
use crate::model::{Failure, Group, Holder, Node, NodeState, Phase, Said, SeenGroup, Session, Stage};
use crate::names::{NodeName, PartitionName, Xname};
use crate::time::Time;
use crate::wlm::{BaseState, Flag, WlmNode};

/// What the latest look at some nodes and their jobs says about rebooting them now (P2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LastLook {
    /// All are drained and run nothing.
    Quiet,
    /// These are not.
    Busy(Vec<usize>),
    /// The look is too old, or incomplete.
    Stale,
}

/// Where a rebooted node is on its way back into service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It takes jobs, or somebody else keeps it from them.
    Arrived,
    /// It is out of service because of us or of Slurm itself, and could be resumed.
    Held,
    /// It must first show itself.
    Silent,
}

/// What is to be done to mark a failed node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing more.
    Done,
    /// Take it out of service with this reason.
    Down(String),
    /// It is out of service by somebody else's wish: add our mark to their reason.
    Reason(String),
}

impl Session {
    /// The node as seen last, if it was looked at since it is in its state.
    pub(super) fn seen(&self, i: usize) -> Option<&WlmNode> {
        self.seen_at(i).map(|(_, seen)| seen)
    }

    pub(super) fn seen_at(&self, i: usize) -> Option<(Time, &WlmNode)> {
        let node = self.nodes.get(i)?;
        let (at, seen) = self.known.wlm.get(node.name.as_ref()?)?;
        // What was seen before a node rebooted says nothing about its return.
        let counts = *at >= node.since || matches!(node.state, NodeState::Draining | NodeState::Quiesced);
        Some((*at, seen.as_ref()?)).filter(|_| counts)
    }

    /// Who keeps this node from jobs, if anybody does. What Slurm or an earlier upgrade did is nobody's
    /// wish.
    pub(crate) fn holder_of(&self, seen: &WlmNode) -> Holder {
        let reason = seen.reason.as_deref().unwrap_or_default();
        let somebody_did = match reason {
            // Slurm takes a node down without a word; it never drains or fails one so.
            "" => seen.has(Flag::Drain) || seen.has(Flag::Fail),
            // Most often it is our own, which is told at a glance.
            _ => {
                seen.is_held()
                    && !messages::is_drain_reason(reason, self.head.id)
                    && messages::is_theirs(reason)
            }
        };
        // Cut without a mark, so that it stays the beginning of the whole.
        let kept = || reason.chars().take(messages::DETAIL_MAX).collect();
        if somebody_did { Holder::Other(kept()) } else { Holder::Us }
    }

    /// Whether the node must still be drained, or drained again.
    pub(super) fn wants_drain(&self, i: usize, seen: &WlmNode) -> bool {
        let ours =
            || seen.reason.as_deref().is_some_and(|text| messages::is_drain_reason(text, self.head.id));
        self.nodes[i].holder == Holder::Us
            && self.holder_of(seen) == Holder::Us
            && !(seen.has(Flag::Drain) && ours())
    }

    /// Whether the node runs nothing and gets nothing new, as its own record tells.
    pub(super) fn is_quiet(&self, i: usize, seen: &WlmNode) -> bool {
        let kept_from_jobs = match self.nodes[i].holder {
            Holder::Us => seen.has(Flag::Drain) && !self.wants_drain(i, seen),
            Holder::Other(_) => seen.is_held(),
        };
        // A node in touch that shows no boot time will show it in seconds, and we need it as proof.
        let boot_known =
            seen.boot_time.is_some() || seen.base == BaseState::Down || seen.has(Flag::NotResponding);
        kept_from_jobs && seen.is_quiet() && boot_known
    }

    /// When a draining node has drained for too long.
    pub(super) fn drain_deadline(&self, node: &Node) -> Option<Time> {
        let drained = self.known.drained.get(node.name.as_ref()?)?;
        let own = self.head.spec.strategy.drain_timeout_s.map(|seconds| seconds.get().saturating_mul(1000));
        own.or(self.limits.drain_timeout_ms).map(|timeout| *drained + timeout)
    }

    /// Whether the workload manager does not know the node: in one look it may be missing because the controller
    /// is being reconfigured, so it takes two, a poll interval apart.
    pub(super) fn is_gone(&self, i: usize) -> bool {
        let Some(name) = self.nodes.get(i).and_then(|node| node.name.as_ref()) else { return true };
        let since = self.known.missing.get(name);
        let looked = self.known.wlm.get(name).map(|(at, _)| *at);
        since.zip(looked).is_some_and(|(since, looked)| looked.since(*since) >= self.limits.poll_ms)
    }

    /// By when nodes must have been looked at for their last look: right before their jobs were, however long that took.
    pub(super) fn nodes_looked_by(&self, now: Time) -> Time {
        let jobs = self.known.jobs.as_ref().filter(|jobs| jobs.at >= now - self.limits.last_look_ms);
        jobs.map_or(now, |jobs| jobs.begun)
    }

    /// Judges the latest look at nodes and jobs.
    pub(super) fn last_look(&self, nodes: &[usize], now: Time) -> LastLook {
        let fresh = |at: Time, then: Time| at >= then - self.limits.last_look_ms;
        let jobs = self.known.jobs.as_ref().filter(|jobs| fresh(jobs.at, now));
        let then = self.nodes_looked_by(now);
        let mut busy = Vec::new();
        for &i in nodes {
            match self.seen_at(i).filter(|(at, _)| fresh(*at, then)) {
                None => return LastLook::Stale,
                Some((_, seen)) if !self.is_quiet(i, seen) => busy.push(i),
                Some(_) => {}
            }
        }
        if !busy.is_empty() {
            return LastLook::Busy(busy);
        }
        let names = || nodes.iter().filter_map(|&i| self.nodes[i].name.as_ref());
        let Some(jobs) = jobs.filter(|jobs| names().all(|name| jobs.asked.contains(name))) else {
            return LastLook::Stale;
        };
        let taken: BTreeSet<&NodeName> = jobs.jobs.iter().flat_map(|job| &job.nodes).collect();
        let is_taken = |i: &usize| self.nodes[*i].name.as_ref().is_some_and(|name| taken.contains(name));
        busy.extend(nodes.iter().copied().filter(is_taken));
        if busy.is_empty() { LastLook::Quiet } else { LastLook::Busy(busy) }
    }

    /// Whether the node shows a boot that is newer than the one it had (P5).
    pub(super) fn shows_newer_boot(&self, i: usize, seen: &WlmNode) -> bool {
        let node = &self.nodes[i];
        let Some(boot) = seen.boot_time else { return false };
        // A node that showed no boot time when drained was down: then the time of our request must do,
        // though that is another clock.
        let before = match (node.boot_before, &self.head.boot) {
            (Some(before), _) => before.0,
            (None, Some(request)) => i64::try_from(request.intended.0 / 1000).unwrap_or(i64::MAX),
            (None, None) => return false,
        };
        boot.0 > before.saturating_add(self.limits.boot_margin_s)
    }

    /// Where a node that BOS booted is on its way back.
    pub(super) fn way_back(&self, i: usize, seen: &WlmNode) -> Way {
        if seen.has(Flag::NotResponding) {
            return Way::Silent;
        }
        if seen.is_in_service() || matches!(self.holder_of(seen), Holder::Other(_)) {
            return Way::Arrived;
        }
        let proved = self.nodes[i].rebooted || self.shows_newer_boot(i, seen);
        if seen.is_held() && proved && self.is_checked(i) { Way::Held } else { Way::Silent }
    }

    /// The state a returning node is in, for the reason of its failure.
    pub(super) fn describe_return(&self, i: usize) -> String {
        match self.seen(i) {
            None => "never since its boot".to_owned(),
            Some(seen) if !self.nodes[i].rebooted => format!("{} with its old boot", seen.state()),
            Some(seen) => seen.state(),
        }
    }

    /// What is left to do to mark a failed node; `None` until it was looked at lately.
    pub(super) fn mark_due(&self, i: usize, now: Time) -> Option<Mark> {
        let NodeState::Failed(failure) = &self.nodes[i].state else { return Some(Mark::Done) };
        let (at, seen) = self.seen_at(i)?;
        if at < now - self.limits.last_look_ms {
            return None;
        }
        let mark = messages::failure_mark(self.head.id, failure);
        let text = messages::failure_reason(self.head.id, failure);
        let reason = seen.reason.as_deref().unwrap_or_default();
        Some(match self.holder_of(seen) {
            // Somebody put it back to work: it is theirs.
            _ if !seen.is_held() && !seen.has(Flag::NotResponding) => Mark::Done,
            Holder::Other(_) if reason.contains(&mark) => Mark::Done,
            Holder::Other(_) => Mark::Reason(messages::added_reason(reason, &text)),
            Holder::Us if reason.starts_with(&mark) && seen.base == BaseState::Down => Mark::Done,
            // Taking it down would kill what runs on it.
            Holder::Us if !seen.is_quiet() => return None,
            Holder::Us => Mark::Down(text),
        })
    }

    /// Whether a node that is to be given back takes jobs, or somebody else keeps it from them.
    pub(super) fn is_given_back(&self, i: usize) -> bool {
        self.seen(i).is_some_and(|seen| !seen.is_held() || self.holder_of(seen) != Holder::Us)
    }

    /// A group as it was read since the stage began, or since our last change to it.
    pub(super) fn group(&self, group: Group) -> Option<&SeenGroup> {
        let seen = match group {
            Group::Starting => return self.known.starting.as_ref(),
            Group::Upgrading => &self.known.upgrading,
            Group::Failed => &self.known.failed,
        };
        seen.as_ref().filter(|seen| seen.at >= self.head.stage_since)
    }

    /// Nodes in a group that are not of this session.
    pub(super) fn others_in(&self, group: Group) -> impl Iterator<Item = &Xname> {
        let members = self.group(group).and_then(|seen| seen.members.as_ref());
        members.into_iter().flatten().filter(|xname| !self.has_node(**xname))
    }

    /// Whether a node of this session belongs into a group. The upgrading group holds the nodes in flight.
    pub(super) fn belongs(&self, node: &Node, group: Group) -> bool {
        match group {
            Group::Starting => true,
            Group::Upgrading => node.in_flight() && !node.owed.resuming,
            Group::Failed => matches!(node.state, NodeState::Failed(_)),
        }
    }

    /// Nodes of this session that are in a group and do not belong there.
    pub(super) fn strays_in(&self, group: Group) -> Vec<Xname> {
        let members = self.group(group).and_then(|seen| seen.members.as_ref());
        let stray = |xname: &&Xname| {
            let i = self.nodes.binary_search_by_key(*xname, |node| node.xname);
            i.is_ok_and(|i| !self.belongs(&self.nodes[i], group))
        };
        members.into_iter().flatten().filter(stray).copied().collect()
    }

    /// Nodes of this step that belong into a group and are not in it.
    pub(super) fn absent_from(&self, group: Group) -> Vec<Xname> {
        let Some(members) = self.group(group).and_then(|seen| seen.members.as_ref()) else {
            return Vec::new();
        };
        let known_to_hsm =
            |xname| self.known.rejected.get(&(group, xname)).is_none_or(|rejected| !rejected.unknown);
        let absent = |node: &&Node| {
            self.belongs(node, group) && !members.contains(&node.xname) && known_to_hsm(node.xname)
        };
        self.batch().filter(absent).map(|node| node.xname).collect()
    }

    /// Whether the upgrading group was seen to hold the nodes of the step and nothing else.
    pub(super) fn is_upgrading_group_filled(&self) -> bool {
        self.group(Group::Upgrading).is_some_and(|seen| seen.members.is_some())
            && self.others_in(Group::Upgrading).next().is_none()
            && self.strays_in(Group::Upgrading).is_empty()
            && self.absent_from(Group::Upgrading).is_empty()
    }

    /// Whether a failed node is in the failed group, or there is no way to put it there.
    pub(super) fn is_listed_or_cannot_be(&self, xname: Xname) -> bool {
        // Once the operator took the session away, nobody will mend what keeps the node out of the group.
        let deleting = self.head.deletion.is_some();
        let rejected = self.known.rejected.get(&(Group::Failed, xname));
        if rejected.is_some_and(|rejected| rejected.unknown || deleting) {
            return true;
        }
        match self.group(Group::Failed).map(|seen| &seen.members) {
            None => false,
            Some(None) => deleting,
            Some(Some(members)) => members.contains(&xname),
        }
    }

    /// Whether the groups hold none of our nodes that do not belong there.
    pub(super) fn are_groups_clean(&self) -> bool {
        if self.is_untouched() {
            return true;
        }
        [Group::Upgrading, Group::Failed]
            .into_iter()
            .all(|group| self.group(group).is_some() && self.strays_in(group).is_empty())
    }

    /// Whether deletion was asked for before any node was touched: then nothing needs to be cleaned.
    pub(super) fn is_untouched(&self) -> bool {
        // The first step touches its nodes, and no other one follows before that.
        self.head.deletion.is_some() && self.head.step == 0 && self.batch().all(|node| node.step.is_none())
    }

    /// A partition of which some nodes must stay in service, and that was not there at the last look.
    pub(super) fn missing_partition(&self) -> Option<&PartitionName> {
        let (_, partitions) = self.known.partitions.as_ref()?;
        let known = |name: &PartitionName| partitions.iter().any(|partition| partition.name == *name);
        self.head.spec.strategy.min_in_service.keys().find(|name| !known(name))
    }

    /// Whether the partitions of which some nodes must stay in service were looked at lately, if there are any.
    pub(super) fn knows_its_floors(&self, now: Time) -> bool {
        let oldest = now - self.limits.last_look_ms.saturating_mul(3);
        let since = oldest.max(self.head.stage_since);
        self.head.spec.strategy.min_in_service.is_empty()
            || self.known.partitions.as_ref().is_some_and(|(at, _)| *at >= since)
    }

    /// Whether everything was read that choosing the nodes of a step needs. The conditions are
    /// [`Session::unmet`]'s.
    pub(super) fn is_ready_to_start(&self, now: Time) -> bool {
        let since = self.head.stage_since;
        [Group::Upgrading, Group::Failed]
            .into_iter()
            .all(|group| self.group(group).is_some() && self.strays_in(group).is_empty())
            && self.known.template.is_some_and(|(at, exists)| exists && at >= since)
            && self.unnamed().is_empty()
            && self.knows_its_floors(now)
            && self.has_chosen(since)
    }

    /// Whether the nodes of the step were chosen since then, by the latest look at partitions.
    fn has_chosen(&self, since: Time) -> bool {
        let partitions = self.known.partitions.as_ref().map_or(since, |(at, _)| since.max(*at));
        self.known.chosen.as_ref().is_some_and(|(at, _)| *at >= partitions)
    }

    /// What keeps the session from going on, in words (P9): a condition that is not met, or a call that it
    /// needs and that fails; with what it is, whatever its words.
    pub(super) fn unmet(&self) -> Option<(Said, String)> {
        let trouble = || {
            let (kind, trouble) = self.known.troubles.first_key_value()?;
            Some((Said::Call(*kind), trouble.error.clone()))
        };
        let doubt = || self.boot_in_doubt().map(|why| (Said::InDoubt, why));
        let unmet = self.unmet_condition().map(|why| (Said::Condition(why.clone()), why));
        unmet.or_else(doubt).or_else(trouble)
    }

    /// How many nodes the starting group holds, when that is more than a session may have.
    pub(super) fn too_many_nodes(&self) -> Option<usize> {
        let size = self.known.starting.as_ref()?.members.as_ref()?.len();
        (!self.known.claimed && size > self.limits.max_nodes).then_some(size)
    }

    /// Whether it waits for another session's end.
    pub(super) fn is_queued(&self) -> bool {
        self.head.phase == Phase::Created && self.known.blocked.is_some() && self.too_many_nodes().is_none()
    }

    /// The condition that is not met, as far as the world could be read.
    pub(super) fn unmet_condition(&self) -> Option<String> {
        let spec = &self.head.spec;
        if let Some(size) = self.too_many_nodes() {
            return Some(messages::group_too_large(&spec.starting, size, self.limits.max_nodes));
        }
        if let Some((_, why)) = &self.known.blocked {
            return Some(why.clone());
        }
        for group in [Group::Starting, Group::Upgrading, Group::Failed] {
            let label = self.label(group);
            if !self.needs_group(group) {
                continue;
            }
            if self.group(group).is_some_and(|seen| seen.members.is_none()) {
                return Some(messages::group_missing(label));
            }
            if group != Group::Starting && self.others_in(group).next().is_some() {
                return Some(messages::group_holds_others(label, &spec.starting, self.others_in(group)));
            }
            let absent = self.absent_from(group);
            if let Some(rejected) = absent.iter().find_map(|xname| self.known.rejected.get(&(group, *xname)))
                && !rejected.unknown
            {
                return Some(messages::members_rejected(label, rejected.xname, &rejected.detail));
            }
        }
        if self.head.stage == Stage::Starting
            && self.head.phase == Phase::Rolling
            && self.head.deletion.is_none()
        {
            let strategy = &self.head.spec.strategy;
            if let (Some(window), Some((_, None))) = (&strategy.window, &self.known.zone) {
                return Some(messages::zone_unknown(&window.time_zone));
            }
            if let Some(missing) = self.missing_partition() {
                return Some(messages::partition_missing(missing));
            }
        }
        if self.needs_template() && self.known.template.is_some_and(|(_, exists)| !exists) {
            return Some(messages::template_missing(&spec.template));
        }
        None
    }

    /// Whether the session cannot go on without this group.
    fn needs_group(&self, group: Group) -> bool {
        let deleting = self.head.deletion.is_some();
        match (group, self.head.phase, self.head.stage) {
            (Group::Starting, phase, _) => phase == Phase::Created && self.nodes.is_empty(),
            (_, Phase::Created, _) => false,
            (Group::Upgrading, _, stage) => {
                !deleting && matches!(stage, Stage::Starting | Stage::Quiescing | Stage::Quiesced)
            }
            (Group::Failed, _, Stage::Starting) => !deleting,
            (Group::Failed, ..) => !deleting && self.batch().any(|node| node.owed.listing),
        }
    }

    fn needs_template(&self) -> bool {
        self.head.stage == Stage::Starting && self.head.deletion.is_none()
    }

    /// Why BOS left a node out, once that is found out.
    pub(super) fn left_out_failure(&self, xname: Xname) -> Option<Failure> {
        self.known.left_out.get(&xname).cloned().map(Failure::LeftOut)
    }
}
