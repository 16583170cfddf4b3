//! The promises P1–P9, checked.
//!
//! [`session`] checks what a session says of itself; it is cheap and runs after every step, in production as
//! well. An [`Audit`] checks what really happened, as a witness tells it: the simulator, or a test that
//! watches a real cluster. P9 (fix and go on) is about what must happen in the end: whoever knows that nothing
//! is in the way any more waits for a bounded time, and then calls it broken with [`no_end`].
//!
//! Beside them stand the promises of a [strategy](crate::strategy), by their names: `max_failed`, `max_failed_step`,
//! `canary`, `max_per_domain`, `min_in_service` and `window`; `paused`; and `history` and `counts`, of what is told.

mod strategy;

use std::collections::{BTreeMap, BTreeSet};

use self::strategy::Keeper;
pub use self::strategy::history;
use crate::claims;
use crate::messages;
use crate::model::{Command, Counts, Failure, Holder, NodeState, Owed, Phase, Session, UpgradeId};
use crate::names::{GroupLabel, PartitionName, Xname};
use crate::strategy::{OnDrainTimeout, Strategy};
use crate::time::Time;
use crate::window::ZoneOffset;

/// Something that really happened in the world, told by whoever can see it: the simulator, or a test that
/// watches a real cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// When.
    pub at: Time,
    /// Whose deed it was.
    pub by: By,
    /// What.
    pub what: What,
}

/// Whose deed something was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum By {
    /// It came about by itself, as a consequence of what was done before; or the witness cannot tell.
    #[default]
    Itself,
    /// A call made for this session did it, at once.
    Session(UpgradeId),
    /// An operator did it.
    Operator,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A boot session was asked for that names this node.
    RebootAsked {
        /// Which node.
        xname: Xname,
        /// The name of the boot session.
        boot_session: String,
        /// When the node and its jobs were last looked at before, with a true answer; the earlier of both. `None`
        /// when they were not, or when the witness cannot tell.
        looked: Option<Time>,
    },
    /// A node lost its power without a boot session.
    PowerLost {
        /// Which node.
        xname: Xname,
    },
    /// A boot session cut the power of a node.
    PowerCut {
        /// Which node.
        xname: Xname,
        /// The name of the boot session that did it.
        boot_session: String,
        /// The jobs that ran on it at that moment, epilogs included.
        jobs: Vec<String>,
        /// Whether the workload manager kept new jobs from it at that moment.
        held: bool,
    },
    /// A job lost a node before it had ended.
    JobKilled {
        /// Which node.
        xname: Xname,
        /// Which job.
        job: String,
    },
    /// A job was ended, or put back into the queue, because somebody asked for just that.
    JobEnded {
        /// Which job.
        job: String,
        /// The nodes that it ran on; none when it waited.
        nodes: BTreeSet<Xname>,
        /// Whether it is to run again.
        requeued: bool,
    },
    /// The workload manager's record of a node changed.
    NodeChanged {
        /// Which node.
        xname: Xname,
        /// Whether new jobs are kept from it.
        held: bool,
        /// Its reason.
        reason: Option<String>,
        /// Whether it takes jobs.
        in_service: bool,
        /// When somebody was last told the truth about it before. `None` when nobody was, or when the witness cannot
        /// tell.
        looked: Option<Time>,
    },
    /// A session was told the truth about a partition.
    PartitionLooked {
        /// Which partition.
        partition: PartitionName,
        /// How many nodes it has.
        total: usize,
        /// Those that take jobs.
        in_service: BTreeSet<Xname>,
    },
    /// A group's members changed.
    GroupChanged {
        /// Which group.
        label: GroupLabel,
        /// Who joined.
        added: BTreeSet<Xname>,
        /// Who left.
        removed: BTreeSet<Xname>,
    },
}

/// A promise that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise: `"P1"` to `"P9"`, or one of a strategy by its name.
    pub promise: &'static str,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}

fn broken(promise: &'static str, what: String) -> Violation {
    Violation { promise, what }
}

/// Checks what a session must satisfy at every instant. The cost grows with the size of a step, except once,
/// when the session is done.
pub fn session(session: &Session) -> Vec<Violation> {
    let head = &session.head;
    let mut violations = Vec::new();
    let in_flight = session.in_flight().count();
    if in_flight as u64 > u64::from(head.spec.step_size.get()) {
        violations.push(broken("P1", format!("{in_flight} nodes are in flight")));
    }
    for node in session.batch() {
        let xname = node.xname;
        match node.state {
            NodeState::Rebooting | NodeState::Returning if head.boot.is_none() => {
                violations.push(broken("P3", format!("{xname} reboots in no boot session")));
            }
            NodeState::Upgraded if !node.rebooted => {
                violations.push(broken("P5", format!("{xname} counts as upgraded without a newer boot")));
            }
            _ => {}
        }
    }
    if head.counts.total() != session.nodes.len() {
        let (counts, nodes) = (head.counts.total(), session.nodes.len());
        violations.push(broken("counts", format!("{counts} of {nodes} nodes are counted")));
    }
    if head.phase == Phase::Done {
        if head.counts != Counts::of(&session.nodes) {
            let (told, are) = (head.counts, Counts::of(&session.nodes));
            violations.push(broken("counts", format!("it ended with {told}, of nodes that are {are}")));
        }
        for node in &session.nodes {
            let released = node.state == NodeState::Released && head.deletion.is_some();
            let decided = released || matches!(node.state, NodeState::Upgraded | NodeState::Failed(_));
            if !decided || !node.owed.is_nothing() {
                let promise = if head.deletion.is_some() { "P7" } else { "P4" };
                let Owed { listing, marking, resuming } = node.owed;
                violations.push(broken(
                    promise,
                    format!(
                        "{} ended as {:?}, owed: listing {listing}, marking {marking}, resuming {resuming}",
                        node.xname, node.state
                    ),
                ));
            }
        }
    }
    violations
}

/// The violation of a session that has not ended within the time that it was given after the last condition was
/// met, and the last fault over (P9).
pub fn no_end(session: &Session) -> Violation {
    let head = &session.head;
    let waits = head.condition.as_deref().unwrap_or("nothing that it says");
    broken("P9", format!("session {} stays in step {}, {}, for {waits}", head.id, head.step, head.stage))
}

/// Checks that two sessions that both work share no node and no group that either of them changes (P8).
pub fn apart(one: &Session, other: &Session) -> Option<Violation> {
    let work = |session: &Session| session.head.phase == Phase::Rolling;
    let shared = (work(one) && work(other)).then(|| claims::shared(one, other))??;
    Some(broken("P8", format!("sessions {} and {} both work on {shared}", one.head.id, other.head.id)))
}

/// The violation of a session that is done and still there within that time, though its deletion was ordered (P7).
pub fn not_deleted(session: &Session) -> Violation {
    broken("P7", format!("session {} is still there, though deletion was ordered", session.head.id))
}

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
        let mut violations = Vec::new();
        match &fact.what {
            What::RebootAsked { xname, boot_session, looked } => {
                if boot_session.contains(&self.id_text) {
                    self.nodes.entry(*xname).or_default().looked = *looked;
                }
            }
            What::PowerLost { xname } => {
                let story = self.nodes.entry(*xname).or_default();
                (story.cut_by_others, story.rebooted_otherwise) = (true, true);
            }
            What::PowerCut { xname, boot_session, jobs, held } => {
                let story = self.nodes.entry(*xname).or_default();
                if !boot_session.contains(&self.id_text) {
                    (story.cut_by_others, story.rebooted_otherwise) = (true, true);
                    return violations;
                }
                story.back = story.theirs;
                // Who was let go after the last look at it may run jobs by now, and that is not our doing.
                story.cut_by_others =
                    story.let_go.is_some_and(|at| story.looked.is_some_and(|looked| at >= looked));
                if !self.own.contains(xname) {
                    violations.push(broken("P2", format!("{xname} is not of this session, and rebooted")));
                }
                if (!jobs.is_empty() || !held) && !story.cut_by_others {
                    violations
                        .push(broken("P2", format!("{xname} rebooted while held {held}, jobs {jobs:?}")));
                }
                story.reboots += 1;
                if story.reboots > story.attempt + 1 {
                    violations.push(broken("P3", format!("{xname} rebooted {} times", story.reboots)));
                }
            }
            What::JobKilled { xname, job } => {
                let ours = match fact.by {
                    By::Operator => false,
                    By::Session(id) => id == self.id,
                    By::Itself => !self.nodes.get(xname).is_some_and(|story| story.cut_by_others),
                };
                if ours {
                    violations.push(broken("P2", format!("job {job} lost {xname}")));
                }
            }
            What::JobEnded { job, nodes, requeued } => {
                let holds_late = nodes.iter().any(|xname| self.is_late(*xname, fact.at));
                if fact.by == By::Session(self.id) && (self.may_end_jobs != Some(*requeued) || !holds_late) {
                    let done = if *requeued { "requeued" } else { "cancelled" };
                    violations.push(broken("P2", format!("job {job} on {nodes:?} was {done}")));
                }
            }
            What::NodeChanged { xname, held, reason, in_service, looked } => {
                let story = self.nodes.entry(*xname).or_default();
                if story.held && !held && fact.by != By::Session(self.id) {
                    story.let_go = Some(fact.at);
                }
                if !story.held {
                    story.held_since = fact.at;
                }
                story.held = *held;
                story.by_hand = fact.by == By::Operator || (story.by_hand && fact.by == By::Itself);
                let reason = reason.as_deref();
                let theirs = *held
                    && reason.is_some_and(|reason| {
                        !messages::is_crus_reason(reason) && !messages::is_slurm_reason(reason)
                    });
                story.theirs = theirs;
                story.back |= *in_service || theirs;
                if theirs && fact.by != By::Session(self.id) {
                    story.wish = reason.map(|reason| messages::owners_words(reason).to_owned());
                }
                let reason = reason.filter(|_| *held).unwrap_or_default();
                violations.extend(self.drain_changed(*xname, reason));
                violations.extend(self.reason_changed(fact, *xname, reason, *looked));
            }
            What::PartitionLooked { partition, total, in_service } => {
                if fact.by == By::Session(self.id) {
                    self.keeper.looked(partition, *total, in_service);
                }
            }
            What::GroupChanged { label, added, removed } => {
                if *label == self.starting {
                    if fact.by == By::Session(self.id) {
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
                match fact.by {
                    By::Operator => self.by_hand.extend(changed()),
                    By::Session(id) if id != self.id => {}
                    By::Session(_) | By::Itself => {
                        changed().for_each(|member| _ = self.by_hand.remove(&member));
                        let others = removed.difference(&self.own);
                        violations.extend(
                            others.map(|xname| broken("P8", format!("{xname} was taken out of '{label}'"))),
                        );
                    }
                }
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
        let is_theirs =
            !reason.is_empty() && !messages::is_crus_reason(reason) && !messages::is_slurm_reason(reason);
        let before = self.theirs.remove(&xname);
        let since = before.as_ref().filter(|(_, theirs)| theirs == reason).map_or(at, |(since, _)| *since);
        if is_theirs {
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
        let mut violations = self::session(session);
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
                        && (messages::is_crus_reason(reason) || messages::is_slurm_reason(reason))
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
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::model::{Limits, Node, Spec};

    fn xname(n: u32) -> Xname {
        format!("x1000c0s{n}b0n0").parse().unwrap()
    }

    fn a_session() -> Session {
        let spec = Spec {
            starting: "all".parse().unwrap(),
            upgrading: "up".parse().unwrap(),
            failed: "failed".parse().unwrap(),
            step_size: NonZeroU32::new(2).unwrap(),
            template: "image".parse().unwrap(),
            tenant: None,
            strategy: crate::Strategy::default(),
        };
        Session::new(UpgradeId(uuid::Uuid::from_u128(1)), spec, "1", Limits::default(), Time(0))
    }

    /// An audit of a session of nodes 1 to 3.
    fn audit() -> Audit {
        Audit::new(&a_session(), (1..=3).map(xname).collect())
    }

    fn ours() -> By {
        By::Session(a_session().head.id)
    }

    fn another() -> By {
        By::Session(UpgradeId(uuid::Uuid::from_u128(2)))
    }

    fn group(by: By, label: &str, added: &[u32], removed: &[u32]) -> Fact {
        let nodes = |list: &[u32]| list.iter().copied().map(xname).collect();
        let (added, removed) = (nodes(added), nodes(removed));
        Fact { at: Time(0), by, what: What::GroupChanged { label: label.parse().unwrap(), added, removed } }
    }

    fn held(by: By, at: u64, n: u32, reason: Option<&str>) -> Fact {
        let (held, reason) = (reason.is_some(), reason.map(str::to_owned));
        let what = What::NodeChanged { xname: xname(n), held, reason, in_service: !held, looked: None };
        Fact { at: Time(at), by, what }
    }

    fn promises(violations: Vec<Violation>) -> Vec<&'static str> {
        violations.into_iter().map(|violation| violation.promise).collect()
    }

    #[test]
    fn p6_p7_a_drain_must_be_of_the_sessions_nodes_and_before_its_deletion() {
        let mut audit = audit();
        let drain = messages::drain_reason(a_session().head.id);
        assert_eq!(promises(audit.witness(&held(ours(), 0, 1, Some(&drain)))), [""; 0]);
        assert_eq!(promises(audit.witness(&held(ours(), 0, 9, Some(&drain)))), ["P6"]);
        audit.witness(&held(ours(), 0, 9, None));
        audit.deletion_ordered(Time(1));
        assert_eq!(
            promises(audit.witness(&held(ours(), 2, 1, Some(&drain)))),
            [""; 0],
            "it was drained before"
        );
        assert_eq!(promises(audit.witness(&held(ours(), 2, 2, Some(&drain)))), ["P7"]);
    }

    #[test]
    fn p6_what_somebody_wrote_stands_until_they_change_it() {
        let mut audit = audit();
        let failed = messages::failure_reason(a_session().head.id, &Failure::BootTimedOut);
        let deeds = |audit: &mut Audit, by, reasons: &[Option<&str>]| {
            let at = [0, KNOWN_AFTER_MS].into_iter().zip(reasons);
            promises(at.flat_map(|(at, reason)| audit.witness(&held(by, at, 1, *reason))).collect())
        };
        for by in [By::Operator, By::Itself, another()] {
            assert_eq!(deeds(&mut audit, by, &[Some("bad dimm"), None]), [""; 0]);
        }
        assert_eq!(deeds(&mut audit, ours(), &[Some("bad dimm"), None]), ["P6"]);
        let mine = messages::drain_reason(a_session().head.id);
        assert_eq!(deeds(&mut audit, ours(), &[Some("bad dimm"), Some(&mine)]), ["P6"]);
        let behind = messages::added_reason("bad dimm", &failed);
        assert_eq!(deeds(&mut audit, ours(), &[Some("bad dimm"), Some(&behind)]), [""; 0]);
        // It may not have been seen yet.
        audit.witness(&held(By::Operator, 0, 2, Some("just now")));
        assert_eq!(promises(audit.witness(&held(ours(), 1, 2, None))), [""; 0]);
        for (look, broken) in [(4, 0), (6, 1)] {
            audit.witness(&held(By::Operator, 5, 3, Some("bad dimm")));
            let mut fact = held(ours(), 5 + KNOWN_AFTER_MS, 3, None);
            if let What::NodeChanged { looked, .. } = &mut fact.what {
                *looked = Some(Time(look));
            }
            assert_eq!(promises(audit.witness(&fact)), ["P6"][..broken], "by when it was looked at");
        }
    }

    #[test]
    fn p8_groups_lose_only_the_sessions_nodes_and_the_starting_group_none() {
        let mut audit = audit();
        assert_eq!(promises(audit.witness(&group(ours(), "up", &[], &[1, 2]))), [""; 0]);
        assert_eq!(promises(audit.witness(&group(ours(), "up", &[], &[1, 9]))), ["P8"]);
        assert_eq!(promises(audit.witness(&group(By::Operator, "up", &[], &[9]))), [""; 0]);
        assert_eq!(promises(audit.witness(&group(ours(), "all", &[], &[1]))), ["P8"]);
    }

    #[test]
    fn p8_a_session_takes_nodes_of_its_starting_group_alone() {
        let mut session = a_session();
        session.nodes = [2, 4].map(|n| Node::new(xname(n), None, Time(0))).to_vec();
        assert_eq!(audit().follow(&session), [], "not frozen yet");
        session.head.phase = Phase::Rolling;
        assert_eq!(promises(audit().follow(&session)), ["P8"]);
        let mut audit = audit();
        audit.witness(&group(By::Operator, "all", &[4], &[]));
        assert_eq!(audit.follow(&session), []);
        // Nodes 1 and 3 were members, and are not of the session.
        assert_eq!(promises(audit.witness(&group(ours(), "up", &[], &[1]))), ["P8"]);
    }

    #[test]
    fn p2_a_job_that_others_end_is_not_ours_to_answer_for() {
        let what = What::JobKilled { xname: xname(1), job: "7".into() };
        for (by, broken) in [(By::Operator, 0), (another(), 0), (ours(), 1), (By::Itself, 1)] {
            let fact = Fact { at: Time(0), by, what: what.clone() };
            assert_eq!(promises(audit().witness(&fact)), ["P2"][..broken], "{by:?}");
        }
    }

    #[test]
    fn p2_a_job_is_ended_only_where_that_was_asked_for_by_name() {
        let (requeue, cancel) = (OnDrainTimeout::Requeue, OnDrainTimeout::Cancel);
        for (asked, requeued, on, broken) in [
            (None, true, 1, true),
            (None, false, 1, true),
            (Some(OnDrainTimeout::Skip), false, 1, true),
            (Some(requeue), true, 1, false),
            (Some(requeue), false, 1, true),
            (Some(cancel), false, 1, false),
            (Some(cancel), true, 1, true),
            (Some(cancel), false, 9, true),
        ] {
            let mut session = a_session();
            let strategy = &mut session.head.spec.strategy;
            (strategy.drain_timeout_s, strategy.on_drain_timeout) =
                (asked.and_then(|_| std::num::NonZero::new(60)), asked.unwrap_or_default());
            let mut audit = Audit::new(&session, (1..=3).map(xname).collect());
            let drain = messages::drain_reason(session.head.id);
            audit.witness(&held(ours(), 0, 1, Some(&drain)));
            let what = What::JobEnded { job: "7".into(), nodes: [xname(on)].into(), requeued };
            for (by, counts) in [(ours(), true), (By::Operator, false), (another(), false)] {
                let fact = Fact { at: Time(60_000), by, what: what.clone() };
                let expected = usize::from(broken && counts);
                assert_eq!(promises(audit.witness(&fact)), ["P2"][..expected], "{asked:?} {what:?} {by:?}");
            }
            let early = Fact { at: Time(59_999), by: ours(), what };
            assert_eq!(promises(audit.witness(&early)), ["P2"], "no drain is late yet");
        }
    }

    #[test]
    fn p7_p9_a_session_must_end_and_as_it_was_ordered() {
        let mut session = a_session();
        let mut audit = audit();
        assert_eq!(promises(audit.at_end(&session, &Outcome::default())), ["P9"]);
        session.head.phase = Phase::Done;
        session.head.ended = Some(Time(5));
        assert_eq!(audit.at_end(&session, &Outcome::default()), []);
        audit.deletion_ordered(Time(4));
        assert_eq!(promises(audit.at_end(&session, &Outcome::default())), ["P7"]);
    }
}
