//! What really happens during a session, compared with what was promised.

use std::collections::{BTreeMap, BTreeSet};

use super::strategy::Keeper;
use super::{By, Fact, Violation, What, broken, no_end};
use crate::messages;
use crate::model::{Command, Failure, Holder, NodeState, Phase, Session, UpgradeId};
use crate::names::{GroupLabel, Xname};
use crate::strategy::{OnDrainTimeout, Strategy};
use crate::time::Time;
use crate::window::ZoneOffset;

/// What came of a session in the real world, when it ends.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The nodes in the workload manager.
    pub nodes: BTreeMap<Xname, NodeView>,
    /// The members of the session's upgrading group.
    pub upgrading: BTreeSet<Xname>,
    /// The members of the session's failed group.
    pub failed: BTreeSet<Xname>,
}

/// A node in the workload manager, as far as promises are about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Whether new jobs are kept from it.
    pub held: bool,
    /// Its reason.
    pub reason: Option<String>,
}

/// How long somebody's reason must have stood, in milliseconds, before the session can be expected to know of it, where
/// the witness cannot tell when the session looked: a request may rely on a look of the last poll, and wait as long as a
/// retry does.
const KNOWN_AFTER_MS: u64 = 70_000;

/// Follows what really happens during one session.
///
/// What an operator does is no deed of the session, and what follows from it is no broken promise: where an operator
/// let a node go after the last look at it, added a bystander or changed a reason, that is theirs.
#[derive(Debug)]
pub struct Audit {
    id: UpgradeId,
    /// The session's id as its boot sessions have it in their names.
    id_text: String,
    own_drain: String,
    step_size: usize,
    /// Whether jobs that hold its nodes may be requeued (`true`) or cancelled (`false`); `None`: neither.
    may_end_jobs: Option<bool>,
    starting: GroupLabel,
    upgrading: GroupLabel,
    failed: GroupLabel,
    /// The nodes that carry our drain.
    drained: BTreeSet<Xname>,
    /// The nodes that carry a reason of somebody else, and since when.
    theirs: BTreeMap<Xname, (Time, String)>,
    nodes: BTreeMap<Xname, Story>,
    /// The nodes that the session may touch: those of its starting group.
    own: BTreeSet<Xname>,
    /// Whether these are all: the session has frozen them.
    frozen: bool,
    /// When its deletion was ordered.
    deletion: Option<Time>,
    /// The members of its groups that an operator put in or took out last.
    by_hand: BTreeSet<(GroupLabel, Xname)>,
    keeper: Keeper,
    /// Whether the service's clock was set: what it takes for late may not be.
    clock_set: bool,
}

/// What a session of this strategy may do to jobs: each only when it was asked for by name.
fn may_end_jobs(strategy: &Strategy) -> Option<bool> {
    strategy.drain_timeout_s?;
    match strategy.on_drain_timeout {
        OnDrainTimeout::Requeue => Some(true),
        OnDrainTimeout::Cancel => Some(false),
        OnDrainTimeout::Wait | OnDrainTimeout::Skip | OnDrainTimeout::Later => None,
    }
}

/// What happened to a node during the session.
#[derive(Debug, Clone, Default)]
struct Story {
    /// How often it lost power by this session.
    reboots: u32,
    /// How often the session has taken it again: each attempt may reboot it once.
    attempt: u32,
    held: bool,
    /// Since when new jobs have been kept from it, whoever did.
    held_since: Time,
    /// Whether somebody else holds it.
    theirs: bool,
    /// When it was last let go by somebody else, or by itself.
    let_go: Option<Time>,
    /// The last look at it before its reboot was asked for.
    looked: Option<Time>,
    /// Whether the last power cut, and what it did to jobs, was not this session's doing.
    cut_by_others: bool,
    /// Whether it lost power in another way than by this session.
    rebooted_otherwise: bool,
    /// Whether it was in service, or somebody else held it, after this session cut its power.
    back: bool,
    /// For what somebody else held it last.
    wish: Option<String>,
    /// Whether an operator was the last to change its state or reason.
    by_hand: bool,
}

impl Audit {
    /// An audit of this session. `own`: the members of its starting group.
    pub fn new(session: &Session, own: BTreeSet<Xname>) -> Self {
        let spec = &session.head.spec;
        Audit {
            id: session.head.id,
            id_text: session.head.id.to_string(),
            own_drain: messages::drain_reason(session.head.id),
            step_size: usize::try_from(spec.step_size.get()).unwrap_or(usize::MAX),
            may_end_jobs: may_end_jobs(&spec.strategy),
            starting: spec.starting.clone(),
            upgrading: spec.upgrading.clone(),
            failed: spec.failed.clone(),
            drained: BTreeSet::new(),
            theirs: BTreeMap::new(),
            nodes: BTreeMap::new(),
            own,
            frozen: false,
            deletion: None,
            by_hand: BTreeSet::new(),
            keeper: Keeper::new(session),
            clock_set: false,
        }
    }

    /// An audit of a session that is over, by all that happened from before it began, with the promises that were broken
    /// on the way.
    pub fn of<'a>(
        session: &Session,
        own: BTreeSet<Xname>,
        facts: impl IntoIterator<Item = &'a Fact>,
    ) -> (Self, Vec<Violation>) {
        let mut audit = Audit::new(session, own);
        let violations = facts.into_iter().flat_map(|fact| audit.witness(fact)).collect();
        (audit, violations)
    }

    /// Takes note of an order, and that it was answered for with this number.
    pub fn ordered(&mut self, number: u64, command: Command) {
        self.keeper.ordered(number, command);
    }

    /// Lets it know the time zones of windows as the service's clock does. Without, it knows none, and no window.
    pub fn zones(&mut self, zone: fn(&str, Time) -> Option<ZoneOffset>) {
        self.keeper.zone = Some(zone);
    }

    /// Takes note that the service's clock was set.
    pub fn clock_set(&mut self) {
        self.clock_set = true;
    }

    /// Takes note that the session's deletion was ordered, and the order answered for.
    pub fn deletion_ordered(&mut self, at: Time) {
        self.deletion.get_or_insert(at);
    }

    /// Whether it was.
    pub fn is_deletion_ordered(&self) -> bool {
        self.deletion.is_some()
    }

    /// Takes note of how the session stands, after each of its rounds.
    pub fn follow(&mut self, session: &Session) -> Vec<Violation> {
        for node in session.batch().filter(|node| node.attempt > 0) {
            self.nodes.entry(node.xname).or_default().attempt = node.attempt;
        }
        let mut violations = self.keeper.follow(session);
        if self.frozen || session.head.phase == Phase::Created {
            return violations;
        }
        self.frozen = true;
        let frozen: BTreeSet<Xname> = session.nodes.iter().map(|node| node.xname).collect();
        let others = frozen.difference(&self.own);
        violations
            .extend(others.map(|xname| {
                broken("P8", format!("{xname} was never in '{}', and is taken", self.starting))
            }));
        self.own = frozen;
        violations
    }

    /// How often this session rebooted a node.
    pub fn reboots(&self, xname: Xname) -> u32 {
        self.nodes.get(&xname).map_or(0, |story| story.reboots)
    }

    /// Takes in what happened.
    pub fn witness(&mut self, fact: &Fact) -> Vec<Violation> {
        let of_session = fact.by == By::Session(self.id);
        match &fact.what {
            What::RebootAsked { xname, boot_session, looked } => {
                if boot_session.contains(&self.id_text) {
                    self.nodes.entry(*xname).or_default().looked = *looked;
                }
                Vec::new()
            }
            What::PowerLost { xname } => {
                self.cut_by_others(*xname);
                Vec::new()
            }
            What::PowerCut { xname, boot_session, .. } if !boot_session.contains(&self.id_text) => {
                self.cut_by_others(*xname);
                Vec::new()
            }
            What::PowerCut { xname, jobs, held, .. } => self.rebooted(*xname, jobs, *held),
            What::JobKilled { xname, job } => {
                let ours = match fact.by {
                    By::Operator => false,
                    By::Session(_) => of_session,
                    By::Itself => !self.nodes.get(xname).is_some_and(|story| story.cut_by_others),
                };
                let violation = || broken("P2", format!("job {job} lost {xname}"));
                ours.then(violation).into_iter().collect()
            }
            What::JobEnded { job, nodes, requeued } => {
                let holds_late = nodes.iter().any(|xname| self.is_late(*xname, fact.at));
                let wrong = of_session && (self.may_end_jobs != Some(*requeued) || !holds_late);
                let done = if *requeued { "requeued" } else { "cancelled" };
                let violation = || broken("P2", format!("job {job} on {nodes:?} was {done}"));
                wrong.then(violation).into_iter().collect()
            }
            What::NodeChanged { xname, held, reason, in_service, looked } => {
                self.node_changed(fact, *xname, *held, reason.as_deref(), *in_service, *looked)
            }
            What::PartitionLooked { partition, total, in_service } => {
                if of_session {
                    self.keeper.looked(partition, *total, in_service);
                }
                Vec::new()
            }
            What::GroupChanged { label, added, removed } => {
                self.group_changed(fact.by, label, added, removed)
            }
        }
    }

    /// A node lost its power, and not by this session.
    fn cut_by_others(&mut self, xname: Xname) {
        let story = self.nodes.entry(xname).or_default();
        (story.cut_by_others, story.rebooted_otherwise) = (true, true);
    }

    /// A boot session of ours cut the power of a node, on which these jobs ran.
    fn rebooted(&mut self, xname: Xname, jobs: &[String], held: bool) -> Vec<Violation> {
        let mut violations = Vec::new();
        let story = self.nodes.entry(xname).or_default();
        story.back = story.theirs;
        // Who was let go after the last look at it may run jobs by now, and that is not our doing.
        story.cut_by_others = story.let_go.is_some_and(|at| story.looked.is_some_and(|looked| at >= looked));
        if !self.own.contains(&xname) {
            violations.push(broken("P2", format!("{xname} is not of this session, and rebooted")));
        }
        if (!jobs.is_empty() || !held) && !story.cut_by_others {
            violations.push(broken("P2", format!("{xname} rebooted while held {held}, jobs {jobs:?}")));
        }
        story.reboots += 1;
        if story.reboots > story.attempt + 1 {
            violations.push(broken("P3", format!("{xname} rebooted {} times", story.reboots)));
        }
        violations
    }

    /// The workload manager's record of a node changed.
    fn node_changed(
        &mut self,
        fact: &Fact,
        xname: Xname,
        held: bool,
        reason: Option<&str>,
        in_service: bool,
        looked: Option<Time>,
    ) -> Vec<Violation> {
        let of_session = fact.by == By::Session(self.id);
        let story = self.nodes.entry(xname).or_default();
        if story.held && !held && !of_session {
            story.let_go = Some(fact.at);
        }
        if !story.held {
            story.held_since = fact.at;
        }
        story.held = held;
        story.by_hand = fact.by == By::Operator || (story.by_hand && fact.by == By::Itself);
        story.theirs = held && reason.is_some_and(messages::is_theirs);
        story.back |= in_service || story.theirs;
        if story.theirs && !of_session {
            story.wish = reason.map(|reason| messages::owners_words(reason).to_owned());
        }
        let reason = reason.filter(|_| held).unwrap_or_default();
        let mut violations = self.drain_changed(xname, reason);
        violations.extend(self.reason_changed(fact, xname, reason, looked));
        violations
    }

    /// A group's members changed.
    fn group_changed(
        &mut self,
        by: By,
        label: &GroupLabel,
        added: &BTreeSet<Xname>,
        removed: &BTreeSet<Xname>,
    ) -> Vec<Violation> {
        let mut violations = Vec::new();
        if *label == self.starting {
            if by == By::Session(self.id) {
                violations.push(broken("P8", format!("'{label}' was changed")));
            }
            if !self.frozen {
                self.own.extend(added);
            }
        }
        if *label != self.upgrading && *label != self.failed {
            return violations;
        }
        let changed = || added.union(removed).map(|xname| (label.clone(), *xname));
        match by {
            By::Operator => self.by_hand.extend(changed()),
            By::Session(id) if id != self.id => {}
            By::Session(_) | By::Itself => {
                changed().for_each(|member| _ = self.by_hand.remove(&member));
                let others = removed.difference(&self.own);
                violations
                    .extend(others.map(|xname| broken("P8", format!("{xname} was taken out of '{label}'"))));
            }
        }
        violations
    }

    /// Whether a node of ours is out of service for so long that its jobs may be ended.
    fn is_late(&self, xname: Xname, now: Time) -> bool {
        let held = self.nodes.get(&xname).filter(|story| story.held);
        let late = held.is_some_and(|story| self.keeper.is_late(story.held_since, now));
        // Who let it go just now may not have been seen.
        let let_go = self.nodes.get(&xname).and_then(|story| story.let_go);
        let late = late || let_go.is_some_and(|at| now.since(at) < KNOWN_AFTER_MS);
        self.own.contains(&xname) && (late || self.clock_set)
    }

    /// A node is held for this reason now; the empty one: is not, or nobody says why.
    fn drain_changed(&mut self, xname: Xname, reason: &str) -> Vec<Violation> {
        let mut violations = Vec::new();
        if reason != self.own_drain {
            self.drained.remove(&xname);
            return violations;
        }
        if !self.own.contains(&xname) {
            violations.push(broken("P6", format!("{xname} is not of this session, and drained")));
        }
        let is_new = self.drained.insert(xname);
        if is_new {
            violations.extend(self.keeper.drained(xname, &self.drained));
        }
        if is_new && self.deletion.is_some() {
            violations.push(broken("P7", format!("{xname} was drained after deletion was ordered")));
        }
        if self.drained.len() > self.step_size {
            violations.push(broken("P1", format!("{} nodes are drained", self.drained.len())));
        }
        violations
    }

    /// Likewise: what somebody else wrote there stands until they change it.
    fn reason_changed(
        &mut self,
        fact: &Fact,
        xname: Xname,
        reason: &str,
        looked: Option<Time>,
    ) -> Option<Violation> {
        let at = fact.at;
        let before = self.theirs.remove(&xname);
        let since = before.as_ref().filter(|(_, theirs)| theirs == reason).map_or(at, |(since, _)| *since);
        if !reason.is_empty() && messages::is_theirs(reason) {
            self.theirs.insert(xname, (since, reason.to_owned()));
        }
        let (since, theirs) = before.filter(|_| fact.by == By::Session(self.id))?;
        let was_known = looked.map_or(at.since(since) >= KNOWN_AFTER_MS, |looked| looked > since);
        let kept = reason.starts_with(messages::owners_words(&theirs));
        (was_known && !kept).then(|| {
            broken("P6", format!("{xname} was held for {theirs:?}, now {reason:?}, by this session"))
        })
    }

    /// Compares how the session ended with what came of it.
    pub fn at_end(&self, session: &Session, outcome: &Outcome) -> Vec<Violation> {
        let mut violations = super::session(session);
        if !session.is_done() {
            violations.push(no_end(session));
            return violations;
        }
        let accounted = if session.head.deletion.is_some() { "P7" } else { "P4" };
        let untold = Story::default();
        let ended_after = |order| session.head.ended.is_some_and(|ended| ended > order);
        if session.head.deletion.is_none() && self.deletion.is_some_and(ended_after) {
            violations.push(broken("P7", "it went on to its end though deletion was ordered".to_owned()));
        }
        for xname in self.drained.iter().filter(|xname| !outcome.nodes.contains_key(xname)) {
            violations.push(broken(accounted, format!("{xname} is left drained by us")));
        }
        for node in &session.nodes {
            let xname = node.xname;
            let story = self.nodes.get(&xname).unwrap_or(&untold);
            let by_hand = |label: &GroupLabel| self.by_hand.contains(&(label.clone(), xname));
            let view = outcome.nodes.get(&xname);
            let reason = view.filter(|v| v.held).and_then(|v| v.reason.as_deref()).unwrap_or_default();
            if reason == self.own_drain {
                violations.push(broken(accounted, format!("{xname} is left drained by us")));
            }
            let listed = outcome.failed.contains(&xname);
            match &node.state {
                NodeState::Upgraded => {
                    // Whoever else rebooted it meanwhile, it has booted anew, and BOS said that it succeeded.
                    if story.reboots == 0 && !story.rebooted_otherwise {
                        violations.push(broken("P5", format!("{xname} is upgraded and was never rebooted")));
                    }
                    if listed && !by_hand(&self.failed) {
                        violations.push(broken(accounted, format!("{xname} is upgraded, and listed failed")));
                    }
                    if !story.back
                        && let Some(view) = view
                        && view.held
                        && !messages::is_theirs(reason)
                    {
                        violations
                            .push(broken(accounted, format!("{xname} is upgraded, and held: {reason}")));
                    }
                }
                NodeState::Failed(failure) => {
                    // A node that HSM does not know cannot be in a group; a deleted session does not wait for
                    // a group that is gone.
                    let may_miss = *failure == Failure::UnknownToHsm || session.head.deletion.is_some();
                    if !listed && !may_miss && node.step.is_some() && !by_hand(&self.failed) {
                        violations.push(broken(accounted, format!("{xname} failed, and is not listed")));
                    }
                    let mark = messages::failure_mark(self.id, failure);
                    let marked = reason.contains(&mark);
                    let touched = node.step.is_some() && *failure != Failure::DrainTimedOut;
                    let held = view.is_some_and(|view| view.held);
                    if touched && held && !marked && !story.by_hand {
                        violations.push(broken(accounted, format!("{xname} failed, and says {reason:?}")));
                    }
                }
                NodeState::Released if story.reboots > 0 => {
                    violations.push(broken("P7", format!("{xname} is released after a reboot")));
                }
                _ => {}
            }
            if let Holder::Other(theirs) = &node.holder
                && view.is_some_and(|view| view.held)
                && !reason.starts_with(messages::owners_words(theirs))
                // Whoever let it go, or gave another reason, has changed their mind.
                && story.let_go.is_none()
                && story.wish.as_ref().is_none_or(|wish| wish == messages::owners_words(theirs))
                && !story.by_hand
            {
                violations.push(broken("P6", format!("{xname} was held for {theirs:?}, now {reason:?}")));
            }
            // A session that was deleted before it touched a node leaves it wherever it was.
            let touched = node.step.is_some() || session.head.deletion.is_none();
            if outcome.upgrading.contains(&xname) && touched && !by_hand(&self.upgrading) {
                violations.push(broken(accounted, format!("{xname} is left in the upgrading group")));
            }
        }
        violations
    }
}

#[cfg(test)]
mod tests;
