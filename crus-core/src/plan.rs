//! What an upgrade would come to, if it began now.
//!
//! [`plan`] reads what a session would read, and lets the machine choose: the order of nodes is that of a session. It
//! creates, drains and writes nothing. What is in the way is told as conditions, not as an error; so is a peer that does
//! not answer.
//!
//! # Cost
//!
//! Each peer is asked a fixed number of times, whatever the number of nodes: HSM for three groups and the facts, BOS for
//! the template, the workload manager for nodes, jobs, and partitions if these matter. A peer that failed once is not
//! asked again.

mod look;

use std::collections::{BTreeMap, BTreeSet};

use crate::batch::FreeAt;
use crate::estimate::{self, Boots, Outlook, Range};
use crate::machine;
use crate::messages;
use crate::model::{
    Failure, Holder, HoldingJob, Limits, NodeState, Pace, Phase, Session, Spec, Stage, UpgradeId,
};
use crate::names::{NodeName, Xname};
use crate::ports::{Bos, Clock, Hsm, NodeFacts, Wlm};
use crate::strategy::OnDrainTimeout;
use crate::time::Time;
use crate::wlm::{Job, WlmNode};

/// The most steps that are chosen and listed; of those after them the number is told.
pub const STEPS_MAX: usize = 100;
/// The most kinds of findings with reasons of others, such as those of nodes that were drained.
const REASONS_MAX: usize = 50;

/// What a plan is made from. It only looks.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The Hardware State Manager.
    pub hsm: &'a dyn Hsm,
    /// The Boot Orchestration Service.
    pub bos: &'a dyn Bos,
    /// The workload manager.
    pub wlm: &'a dyn Wlm,
    /// The time.
    pub clock: &'a dyn Clock,
}

/// What earlier sessions tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Experience {
    /// How long their boots took.
    pub pace: Pace,
    /// How long their steps were expected to wait for jobs, in milliseconds.
    pub passed_ms: u64,
    /// How long they waited.
    pub took_ms: u64,
}

impl Experience {
    /// Takes note of one more session.
    pub fn add(&mut self, head: &crate::model::Head) {
        self.pace.merge(head.pace);
        let outlook = head.outlook.unwrap_or_default();
        self.passed_ms = self.passed_ms.saturating_add(outlook.passed_ms);
        self.took_ms = self.took_ms.saturating_add(outlook.took_ms);
    }
}

/// What an upgrade would come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// When it was made.
    pub at: Time,
    /// What must be so, each met or not.
    pub conditions: Vec<Condition>,
    /// The nodes of the starting group.
    pub nodes: BTreeSet<Xname>,
    /// The first steps: [`STEPS_MAX`] at most. None while it is not known which nodes there are and what runs on them.
    pub steps: Vec<PlannedStep>,
    /// How many steps there are; as far as it can be told.
    pub steps_total: usize,
    /// When it would end, if it began now and nothing were in the way: at the earliest and at the latest. `None` when
    /// that cannot be told.
    pub ends: Option<(Time, Time)>,
    /// The nodes that will not make it, and why.
    pub lost: Vec<Finding>,
    /// What else there is to know of some nodes.
    pub warnings: Vec<Finding>,
    /// What the estimate does not know, in sentences.
    pub caveats: Vec<String>,
}

impl Plan {
    /// Whether every condition is met: a session would begin at once.
    pub fn is_feasible(&self) -> bool {
        self.conditions.iter().all(|condition| condition.met)
    }

    /// How long it takes, in milliseconds.
    pub fn takes(&self) -> Option<Range> {
        self.ends.map(|(low, high)| Range { low_ms: low.since(self.at), high_ms: high.since(self.at) })
    }

    /// Notes a session that this one would wait for, in words; or that there is none.
    pub fn add_conflicts(&mut self, conflicts: Vec<String>) {
        self.note("conflicts", conflicts, "no session is in the way");
    }

    /// What of a condition is not met, or that it is.
    fn note(&mut self, name: &'static str, unmet: Vec<String>, met: &str) {
        if unmet.is_empty() {
            self.conditions.push(Condition { name, met: true, detail: met.to_owned() });
        }
        self.conditions.extend(unmet.into_iter().map(|detail| Condition { name, met: false, detail }));
    }
}

/// Something that must be so before a session goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What it is about, in one word.
    pub name: &'static str,
    /// Whether it is so.
    pub met: bool,
    /// How it is, in words.
    pub detail: String,
}

/// A step as it would be now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStep {
    /// Its number, from 0.
    pub number: u32,
    /// Its nodes, in order.
    pub nodes: Vec<Xname>,
    /// Their names in the workload manager.
    pub names: Vec<NodeName>,
    /// When it is expected to start, in its window; `None`: that is too far away.
    pub starts: Option<Time>,
    /// How long it is expected to wait for the jobs on its nodes, in milliseconds.
    pub wait_ms: u64,
    /// How long it is expected to take altogether, in milliseconds.
    pub takes_ms: u64,
    /// Of the jobs that are on its nodes now, the one that ends last.
    pub job: Option<HoldingJob>,
}

/// The same thing about some nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What, in words.
    pub reason: String,
    /// The nodes, in order.
    pub nodes: Vec<Xname>,
}

/// Makes a plan. It does not fail: what cannot be read is a condition that is not met.
pub async fn plan(sources: Sources<'_>, spec: Spec, limits: Limits, experience: Experience) -> Plan {
    let now = sources.clock.now();
    let mut planner = Planner {
        session: Session::new(UpgradeId(uuid::Uuid::nil()), spec, "", limits, now),
        plan: Plan {
            at: now,
            conditions: Vec::new(),
            nodes: BTreeSet::new(),
            steps: Vec::new(),
            steps_total: 0,
            ends: None,
            lost: Vec::new(),
            warnings: Vec::new(),
            caveats: Vec::new(),
        },
    };
    planner.session.head.pace = experience.pace;
    let Experience { passed_ms, took_ms, .. } = experience;
    planner.session.head.outlook = Some(Outlook { passed_ms, took_ms, ..Outlook::default() });
    let zone = planner.zone(sources.clock);
    planner.template(sources.bos).await;
    let facts = planner.hsm(sources.hsm).await;
    if let Some(facts) = facts {
        planner.freeze(&facts);
        if let Some(jobs) = planner.wlm(sources.wlm).await {
            planner.steps(&jobs, zone);
        }
    }
    planner.plan
}

/// A session that is never stored, and what is found out with it.
struct Planner {
    session: Session,
    plan: Plan,
}

impl Planner {
    /// The machine itself decides which of its nodes a session can work on.
    fn freeze(&mut self, facts: &[NodeFacts]) {
        let now = self.plan.at;
        self.session.known.claimed = true;
        self.session.known.facts = Some((now, facts.to_vec()));
        machine::step(&mut self.session, now, machine::Input::Tick);
        let mut lost: BTreeMap<String, Vec<Xname>> = BTreeMap::new();
        for node in &self.session.nodes {
            if let NodeState::Failed(failure) = &node.state {
                lost.entry(failure.to_string()).or_default().push(node.xname);
            }
        }
        self.plan.lost.extend(lost.into_iter().map(|(reason, nodes)| Finding { reason, nodes }));
        let such = |such: fn(&NodeFacts) -> bool| {
            let pending = |fact: &&NodeFacts| such(fact) && self.is_pending(fact.xname);
            facts.iter().filter(pending).map(|fact| fact.xname).collect::<BTreeSet<_>>()
        };
        let locked = such(|fact| fact.locked);
        let disabled = such(|fact| !fact.enabled);
        let left_out = |how: &str| {
            format!(
                "{how} in the Hardware State Manager: the Boot Orchestration Service will leave it out, and it fails"
            )
        };
        for (how, nodes) in [("disabled", disabled), ("locked", locked)] {
            if !nodes.is_empty() {
                self.plan.lost.push(Finding { reason: left_out(how), nodes: nodes.into_iter().collect() });
            }
        }
    }

    fn is_pending(&self, xname: Xname) -> bool {
        let found = self.session.nodes.binary_search_by_key(&xname, |node| node.xname);
        found.is_ok_and(|i| self.session.nodes[i].state == NodeState::Pending)
    }

    fn warn(&mut self, reason: impl Into<String>, nodes: impl IntoIterator<Item = Xname>) {
        let nodes: Vec<Xname> = nodes.into_iter().collect();
        if !nodes.is_empty() {
            self.plan.warnings.push(Finding { reason: reason.into(), nodes });
        }
    }

    /// Takes in how the nodes are in the workload manager; `None` in a look: unknown there.
    fn take_in_nodes(&mut self, seen: &[WlmNode]) {
        let seen: BTreeMap<&NodeName, &WlmNode> = seen.iter().map(|node| (&node.name, node)).collect();
        let mut unknown = Vec::new();
        let mut held: BTreeMap<String, Vec<Xname>> = BTreeMap::new();
        let mut down = Vec::new();
        for i in 0..self.session.nodes.len() {
            let node = &self.session.nodes[i];
            let Some(name) = node.name.as_ref().filter(|_| node.state == NodeState::Pending) else {
                continue;
            };
            let xname = node.xname;
            let Some(seen) = seen.get(name) else {
                self.session.nodes[i].state = NodeState::Failed(Failure::UnknownToWlm);
                unknown.push(xname);
                continue;
            };
            match self.session.holder_of(seen) {
                Holder::Other(reason) => held.entry(reason).or_default().push(xname),
                Holder::Us if !seen.shows_its_boot() || seen.base == crate::wlm::BaseState::Down => {
                    down.push(xname);
                }
                Holder::Us => {}
            }
        }
        if !unknown.is_empty() {
            self.plan.lost.push(Finding { reason: Failure::UnknownToWlm.to_string(), nodes: unknown });
        }
        self.warn("down or silent in the workload manager: it is rebooted as it is", down);
        let rest: Vec<Xname> = held.values().skip(REASONS_MAX).flatten().copied().collect();
        for (reason, nodes) in held.into_iter().take(REASONS_MAX) {
            let what = "drained or taken down by somebody else: it is upgraded, and stays so";
            self.warn(if reason.is_empty() { what.to_owned() } else { format!("{what} ({reason})") }, nodes);
        }
        self.warn(
            "drained or taken down by somebody else, for other reasons: it is upgraded, and stays so",
            rest,
        );
    }

    /// The steps as they would be now, and how long they take.
    fn steps(&mut self, jobs: &[Job], zone: Option<crate::window::ZoneOffset>) {
        let session = &self.session;
        let mut candidates = machine::candidates(session, jobs);
        let left: Vec<(Xname, FreeAt)> = candidates.iter().map(|c| (c.xname, c.free)).collect();
        let strategy = &session.head.spec.strategy;
        let mut canaries = 0;
        let mut chosen: Vec<Vec<Xname>> = Vec::new();
        while chosen.len() < STEPS_MAX && !candidates.is_empty() {
            let mut step = session.choose_of(&mut candidates, session.size_of_step(canaries));
            if step.is_empty() {
                break;
            }
            step.sort_unstable();
            candidates.retain(|candidate| step.binary_search(&candidate.xname).is_err());
            canaries += 1;
            chosen.push(step);
        }
        if chosen.is_empty() {
            let floor = strategy.min_in_service.keys().next().is_some() && !candidates.is_empty();
            let unmet = if floor { vec![look::floor(session)] } else { Vec::new() };
            if !unmet.is_empty() {
                self.plan.note("min_in_service", unmet, "");
            }
            return;
        }
        let mut sizes: Vec<usize> = chosen.iter().map(Vec::len).collect();
        if !candidates.is_empty() {
            let rest: Vec<(Xname, FreeAt)> = candidates.iter().map(|c| (c.xname, c.free)).collect();
            let next = session.size_of_step(canaries).min(rest.len());
            let next =
                if sizes.last().is_some_and(|last| *last < next) && chosen.len() > strategy.canary.len() {
                    sizes.last().copied().unwrap_or(next)
                } else {
                    next
                };
            sizes.extend(session.sizes_of_steps(&rest, next, canaries));
        }
        let now = self.plan.at;
        let waits = session.waits(&left, &sizes, now);
        let outlook = session.outlook_of(&left, &waits, now);
        let mut head = session.head.clone();
        head.phase = Phase::Rolling;
        head.stage = Stage::Starting;
        head.batch.clear();
        head.counts.deferred = 0;
        head.outlook = Some(outlook);
        let ends = estimate::expected_end(&head, [], &session.limits, zone, now);
        self.plan.ends = ends.map(|(low, high)| match strategy.window {
            None => narrowed(now, low, high),
            Some(_) => (low, high),
        });
        self.plan.steps_total = sizes.len();
        self.plan.steps = self.listed(chosen, &waits, jobs, zone);
        self.late(jobs);
        self.caveats(jobs, &left);
    }

    fn listed(
        &self,
        chosen: Vec<Vec<Xname>>,
        waits: &[u64],
        jobs: &[Job],
        zone: Option<crate::window::ZoneOffset>,
    ) -> Vec<PlannedStep> {
        let Session { head, limits, nodes, .. } = &self.session;
        let strategy = &head.spec.strategy;
        let window = strategy.window.as_ref().map(|window| (window, zone));
        let mut walk = estimate::Walk::new(window, self.plan.at);
        let boots = Boots::new(head.pace, limits);
        let outlook = head.outlook.unwrap_or_default();
        let holding = machine::holding(jobs);
        let mut reachable = true;
        let mut listed = Vec::with_capacity(chosen.len());
        for ((number, nodes_of_step), wait_ms) in (0..).zip(chosen).zip(waits) {
            let name = |xname: &Xname| {
                let i = nodes.binary_search_by_key(xname, |node| node.xname).ok()?;
                nodes[i].name.clone()
            };
            let names: Vec<NodeName> = nodes_of_step.iter().filter_map(name).collect();
            let job = names.iter().filter_map(|name| holding.get(name));
            // One without an end ends last.
            let job = job.max_by_key(|job| (job.end.is_none(), job.end)).cloned();
            reachable = reachable && walk.open().is_some();
            let starts = reachable.then_some(walk.time);
            let soak = strategy.soak_s.filter(|_| (number as usize) < strategy.canary.len());
            let wait_ms = outlook.corrected(*wait_ms).saturating_add(estimate::overhead(limits));
            let takes_ms = wait_ms
                .saturating_add(boots.step_ms(names.len()))
                .saturating_add(soak.map_or(0, |seconds| seconds.get().saturating_mul(1000)));
            walk.time = walk.time + takes_ms;
            listed.push(PlannedStep { number, nodes: nodes_of_step, names, starts, wait_ms, takes_ms, job });
        }
        listed
    }

    /// Jobs that may outlast the patience of their step.
    fn late(&mut self, jobs: &[Job]) {
        let strategy = &self.session.head.spec.strategy;
        let own = strategy.drain_timeout_s.map(|seconds| seconds.get().saturating_mul(1000));
        let Some(timeout) = own.or(self.session.limits.drain_timeout_ms) else { return };
        let then = match self.session.on_drain_timeout() {
            OnDrainTimeout::Wait => "it is waited for all the same",
            OnDrainTimeout::Skip => "the node is given back untouched, and listed as failed",
            OnDrainTimeout::Requeue => "the job is requeued",
            OnDrainTimeout::Cancel => "the job is cancelled",
            OnDrainTimeout::Later => "the node is given back, and tried once more at the end",
        };
        let holding = machine::holding(jobs);
        let mut late = Vec::new();
        for step in &self.plan.steps {
            let Some(starts) = step.starts else { continue };
            let patience = starts + timeout;
            for (xname, name) in step.nodes.iter().zip(&step.names) {
                let Some(job) = holding.get(name) else { continue };
                let ends_ms =
                    |end: crate::time::WlmTime| u64::try_from(end.0).unwrap_or(0).saturating_mul(1000);
                if job.end.is_none_or(|end| ends_ms(end) > patience.0) {
                    late.push(*xname);
                }
            }
        }
        late.sort_unstable();
        let seconds = timeout / 1000;
        self.warn(
            format!("runs a job that may outlast the {seconds} s that a drain may take from its step on: then {then}"),
            late,
        );
    }

    /// What the estimate cannot know.
    fn caveats(&mut self, jobs: &[Job], left: &[(Xname, FreeAt)]) {
        let endless: BTreeSet<Xname> =
            left.iter().filter(|(_, free)| *free == FreeAt::Unknown).map(|(xname, _)| *xname).collect();
        let count = endless.len();
        self.warn(
            "runs a job without a time limit: nobody knows when it is free, and it is taken last",
            endless,
        );
        let mut say = |text: String| self.plan.caveats.push(text);
        if count > 0 {
            say(format!(
                "{count} nodes run jobs without a time limit. The estimate takes these to run as long as the longest \
                 other job; the upgrade waits for them as long as they do run."
            ));
        }
        let head = &self.session.head;
        if head.pace.boots == 0 {
            let Limits { boot_low_ms, boot_high_ms, .. } = self.session.limits;
            let (unit, unit_ms) = if boot_low_ms < 60_000 { ("seconds", 1000) } else { ("minutes", 60_000) };
            say(format!(
                "No session tells how long boots take here: a node is taken to need {} to {} {unit}, as configured \
                 (boot_estimate_low_s, boot_estimate_high_s).",
                boot_low_ms.div_ceil(unit_ms),
                boot_high_ms.div_ceil(unit_ms)
            ));
        }
        if head.outlook.is_some_and(|outlook| outlook.passed_ms == 0) && !jobs.is_empty() {
            say(format!(
                "No session tells how much of their limits jobs use here: they are taken to run {} percent of it, as \
                 configured (job_used_percent).",
                self.session.limits.job_used_percent
            ));
        }
        let (waits, takes) = self
            .plan
            .steps
            .iter()
            .fold((0, 0), |(waits, takes), step| (waits + step.wait_ms, takes + step.takes_ms));
        if waits > takes / 3 * 2 {
            say("Most of this time is spent waiting for jobs: where these run for many hours, every fifth upgrade ends \
                 outside the range."
                .to_owned());
        }
        say("A node that does not boot may cost as much as the Boot Orchestration Service tries: an hour by its defaults."
            .to_owned());
        let wide = |(low, high): (Time, Time)| high.since(self.plan.at) > 2 * low.since(self.plan.at);
        if self.plan.ends.is_some_and(wide) && head.spec.strategy.window.is_some() {
            say("The end may come in one opening of the window or in a later one: the range holds both."
                .to_owned());
        }
        if self.plan.ends.is_none() {
            say("The end is too far away to be told, or the window never opens.".to_owned());
        }
    }
}

/// A range of a factor of two at most: what is wider says little. The middle stays where it is.
fn narrowed(now: Time, low: Time, high: Time) -> (Time, Time) {
    let (low_ms, high_ms) = (low.since(now), high.since(now));
    if high_ms <= low_ms.saturating_mul(2) {
        return (low, high);
    }
    let middle = (low_ms as f64 * high_ms as f64).sqrt();
    let low_ms = (middle * std::f64::consts::FRAC_1_SQRT_2).ceil() as u64;
    (now + low_ms, now + low_ms * 2)
}
