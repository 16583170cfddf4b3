//! Whether a session keeps to its [strategy](crate::strategy) and to the orders it was given.
//!
//! What counts is when a step begins: from then on its nodes are drained. The session is looked at after each round, so
//! that no step begins unseen; how many nodes failed, which canaries passed and what may still be spared is worked out
//! here anew.

use std::collections::{BTreeMap, BTreeSet};

use super::{Violation, broken};
use crate::history::{Entry, Happening};
use crate::model::{Command, Counts, Failure, NodeState, Phase, Session, Stage};
use crate::names::{Domain, PartitionName, Xname};
use crate::strategy::Strategy;
use crate::time::Time;
use crate::window::{Opening, ZoneOffset};

/// Follows one session.
#[derive(Debug)]
pub(super) struct Keeper {
    strategy: Strategy,
    step_size: usize,
    /// How many nodes of a domain may be drained at a time.
    domain_cap: Option<usize>,
    /// The partitions of which some nodes must stay in service, as they were when the session was last told the truth
    /// about them: how many nodes, and those in service.
    looked: BTreeMap<PartitionName, (usize, BTreeSet<Xname>)>,
    /// The step and stage that were seen last.
    at: (u32, Stage),
    was_done: bool,
    /// Orders that were answered and not taken in yet.
    orders: BTreeMap<u64, Command>,
    /// Whether it was told to start no other step.
    paused: bool,
    was_paused: bool,
    retries_ordered: u32,
    /// How many failures an operator has let pass.
    accepted: usize,
    /// The steps of which a node was upgraded, as far as they can be canaries. What was not stored may end in another way
    /// after a crash.
    passed: BTreeSet<u32>,
    /// A step in which more nodes failed than may, until an operator knows.
    bad_step: Option<(usize, usize)>,
    /// The clocks of time zones.
    pub(super) zone: Option<fn(&str, Time) -> Option<ZoneOffset>>,
}

impl Keeper {
    pub(super) fn new(session: &Session) -> Self {
        let strategy = session.head.spec.strategy.clone();
        let order = strategy.order.unwrap_or(session.limits.order);
        Keeper {
            step_size: usize::try_from(session.head.spec.step_size.get()).unwrap_or(usize::MAX),
            domain_cap: strategy.domain_cap(order),
            strategy,
            looked: BTreeMap::new(),
            at: (0, Stage::Starting),
            was_done: false,
            orders: BTreeMap::new(),
            paused: false,
            was_paused: false,
            retries_ordered: 0,
            accepted: 0,
            passed: BTreeSet::new(),
            bad_step: None,
            zone: None,
        }
    }

    pub(super) fn ordered(&mut self, number: u64, command: Command) {
        self.orders.insert(number, command);
    }

    pub(super) fn looked(&mut self, partition: &PartitionName, total: usize, in_service: &BTreeSet<Xname>) {
        if self.strategy.min_in_service.contains_key(partition) {
            self.looked.insert(partition.clone(), (total, in_service.clone()));
        }
    }

    /// Looks at the session after a round.
    pub(super) fn follow(&mut self, session: &Session) -> Vec<Violation> {
        let head = &session.head;
        let mut violations = Vec::new();
        self.take_in_orders(session);
        let (step, stage) = (head.step, head.stage);
        if head.phase == Phase::Rolling {
            if step > self.at.0 {
                self.step_ended(session);
            }
            let begun = stage != Stage::Starting && stage != Stage::Cleanup;
            // After a crash it may be seen in an earlier step again.
            if begun && (step > self.at.0 || (step == self.at.0 && self.at.1 == Stage::Starting)) {
                violations = self.step_begins(session);
            }
        }
        self.at = (step, stage);
        self.was_done = head.is_done();
        self.was_paused = head.pause.is_some();
        if self.was_done {
            self.bad_step = None;
        }
        let most = self.strategy.retries + self.retries_ordered;
        for node in session.batch().filter(|node| node.attempt > most) {
            violations
                .push(broken("P3", format!("{} is tried for the {}. time", node.xname, node.attempt + 1)));
        }
        violations
    }

    fn take_in_orders(&mut self, session: &Session) {
        let head = &session.head;
        let taken: Vec<u64> = self.orders.range(..=head.commands).map(|(number, _)| *number).collect();
        for number in taken {
            match self.orders.remove(&number) {
                Some(Command::Pause) => self.paused |= !self.was_done,
                Some(Command::Resume) => {
                    self.paused = false;
                    self.bad_step = None;
                }
                Some(Command::Retry) => {
                    self.retries_ordered += 1;
                    if self.was_done {
                        self.paused = false;
                    }
                }
                None => {}
            }
        }
        if self.was_paused && head.pause.is_none() && !head.is_done() {
            // Whoever lets it go on knows of these.
            self.accepted = failed(session);
        }
    }

    fn step_ended(&mut self, session: &Session) {
        let taken = session.batch().filter(|node| node.step == Some(self.at.0));
        let (mut upgraded, mut failed) = (0, 0);
        for node in taken {
            upgraded += usize::from(node.state == NodeState::Upgraded);
            failed += usize::from(counts_as_failed(&node.state));
        }
        let new = self.passed.len() < self.strategy.canary.len();
        if upgraded == 0 {
            self.passed.remove(&self.at.0);
        } else if new {
            self.passed.insert(self.at.0);
        }
        let max = self.strategy.max_failed_step.map(|limit| limit.at_most(session.head.batch.len()));
        if let Some(max) = max.filter(|max| failed > *max)
            && session.head.pause.as_ref().is_none_or(|pause| pause.why != crate::model::PauseReason::Command)
        {
            self.bad_step = Some((failed, max));
        }
    }

    /// A step has begun: its nodes are drained from now on.
    fn step_begins(&mut self, session: &Session) -> Vec<Violation> {
        let head = &session.head;
        let mut violations = Vec::new();
        let mut broke = |promise, what: String| {
            violations.push(broken(promise, format!("step {} began {what}", head.step)));
        };
        if head.counts != Counts::of(&session.nodes) {
            broke(
                "counts",
                format!("with {}, of nodes that are {}", head.counts, Counts::of(&session.nodes)),
            );
        }
        let pause_left = self.orders.values().any(|order| *order == Command::Pause);
        if self.paused || pause_left || head.pause.is_some() {
            broke("paused", "in a session that was paused".to_owned());
        }
        let failed = failed(session);
        self.accepted = self.accepted.min(failed);
        if let Some(limit) = self.strategy.max_failed {
            let (more, max) = (failed - self.accepted, limit.at_most(session.nodes.len()));
            if more > max {
                broke("max_failed", format!("after {more} nodes had failed, of {max} that may"));
            }
        }
        if let Some((failed, max)) = self.bad_step.take() {
            broke(
                "max_failed_step",
                format!("after {failed} nodes of the last had failed, of {max} that may"),
            );
        }
        let size = session.batch().count();
        let canary = self.strategy.canary.get(self.passed.len()).map(|size| size.get());
        let most = canary.and_then(|size| usize::try_from(size).ok()).unwrap_or(self.step_size);
        if size > most {
            broke("canary", format!("with {size} nodes, of {most} that it may have"));
        }
        if let Some(window) = &self.strategy.window
            && let Some(zone) = self.zone.and_then(|zone| zone(&window.time_zone, head.stage_since))
            && head.stage == Stage::Quiescing
            && let Opening::Closed(until) = window.at(head.stage_since, zone)
        {
            broke("window", format!("at {}, and may at {until}", head.stage_since));
        }
        for (partition, floor) in &self.strategy.min_in_service {
            let Some((total, in_service)) = self.looked.get(partition) else {
                broke("min_in_service", format!("without a look at partition '{partition}'"));
                continue;
            };
            let taken = session.batch().filter(|node| in_service.contains(&node.xname)).count();
            let floor = floor.at_least(*total);
            let left = in_service.len() - taken;
            if taken > 0 && left < floor {
                broke(
                    "min_in_service",
                    format!("and leaves {left} of '{partition}' in service, not {floor}"),
                );
            }
        }
        violations
    }

    /// These nodes carry our drain now.
    pub(super) fn drained(&self, xname: Xname, drained: &BTreeSet<Xname>) -> Option<Violation> {
        let cap = self.domain_cap?;
        let domain: Domain = self.strategy.domain;
        let of = xname.domain(domain);
        let count = drained.iter().filter(|other| other.domain(domain) == of).count();
        (count > cap)
            .then(|| broken("max_per_domain", format!("{count} nodes of {of} are drained, not {cap}")))
    }

    /// Whether a node from which new jobs have been kept since then drains for too long.
    pub(super) fn is_late(&self, since: Time, now: Time) -> bool {
        let patience = self.strategy.drain_timeout_s.map_or(0, |seconds| seconds.get().saturating_mul(1000));
        now.since(since) >= patience
    }
}

fn counts_as_failed(state: &NodeState) -> bool {
    matches!(state, NodeState::Failed(failure) if *failure != Failure::DrainTimedOut)
}

fn failed(session: &Session) -> usize {
    session.nodes.iter().filter(|node| counts_as_failed(&node.state)).count()
}

/// Compares a session's stored history with the session: its numbers rise by one up to the latest, and what it says of
/// nodes is so.
pub fn history(session: &Session, entries: &[Entry]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let first = entries.first().map_or(1, |entry| entry.number);
    let latest = first + entries.len() as u64 - 1;
    let gap = (first..).zip(entries).find(|(number, entry)| entry.number != *number);
    if let Some((number, entry)) = gap {
        violations.push(broken("history", format!("entry {} stands in the place of {number}", entry.number)));
    }
    if latest != session.head.entries {
        violations.push(broken("history", format!("it ends with {latest}, not {}", session.head.entries)));
    }
    let mut told: BTreeMap<Xname, &str> = BTreeMap::new();
    for entry in entries {
        if let Happening::Nodes { state, nodes, .. } = &entry.what {
            told.extend(nodes.iter().map(|xname| (*xname, state.as_str())));
        }
    }
    for node in &session.nodes {
        let word = node.state.word();
        // What is not pending was told of, unless that is so long ago that it was dropped.
        let said = told.get(&node.xname).copied().or((first == 1).then_some("pending"));
        if said.is_some_and(|said| said != word) {
            let what =
                format!("it says that {} is {}, which is {word}", node.xname, said.unwrap_or_default());
            violations.push(broken("history", what));
        }
    }
    violations
}
