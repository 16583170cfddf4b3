//! Is told what happens in the sessions that run here.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crus_core::driver::Observer;
use crus_core::history::{Entry, Happening};
use crus_core::machine::Event;
use crus_core::model::{Command, Counts, Failure, Head, NodeState, Phase, Session, Stage};
use crus_core::promises::Violation;
use crus_core::{Time, UpgradeId, Xname};

use super::labels::{CommandLabel, FailureLabel, OutcomeLabel, PromiseLabel, StageLabel, StateLabel};
use super::{Metrics, seconds};
#[cfg(feature = "otlp")]
use crate::otlp;
use crate::otlp::Tracer;

/// What runs on this replica at a moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// How many sessions that run here are in each of [`Census::STATES`].
    pub sessions: [u64; Census::STATES.len()],
    /// How many finished ones are kept, wherever they ran.
    pub kept: u64,
    /// How many that run here wait for a condition to be met.
    pub unmet: u64,
    /// How many nodes of those that run here are in each of [`NodeState::WORDS`].
    pub nodes: [u64; NodeState::WORDS.len()],
    /// By the place of a stage among [`Census::STAGES`]: how long the longest has been in it, in milliseconds. What is to be
    /// waited for is left out: a session without nodes at work, a pause, and a soak until it is over.
    pub stage_age_ms: [u64; Census::STAGES.len()],
}

impl Census {
    /// The states of a session that runs here. `waiting`: it works on no node yet, for want of its turn, its groups or its
    /// template.
    pub const STATES: [&'static str; 4] = ["waiting", "rolling", "paused", "deleting"];

    /// All stages of a step.
    pub const STAGES: [Stage; 7] = [
        Stage::Starting,
        Stage::Quiescing,
        Stage::Quiesced,
        Stage::Booting,
        Stage::Booted,
        Stage::WlmWaiting,
        Stage::Cleanup,
    ];
}

impl Census {
    /// Counts a session that runs here, with its nodes, as it is now.
    pub(crate) fn count(&mut self, head: &Head, deletion_ordered: bool, now: Time) {
        let state = match head {
            _ if deletion_ordered || head.deletion.is_some() => 3,
            Head { pause: Some(_), .. } => 2,
            Head { phase: Phase::Created, .. } => 0,
            Head { .. } => 1,
        };
        self.sessions[state] += 1;
        for (count, (_, more)) in self.nodes.iter_mut().zip(head.counts.named()) {
            *count += more as u64;
        }
        if head.phase != Phase::Created && head.pause.is_none() {
            self.age(head.stage, now.since(head.soak_until.unwrap_or(head.stage_since)));
        }
    }

    fn age(&mut self, stage: Stage, ms: u64) {
        for (age, of) in self.stage_age_ms.iter_mut().zip(Census::STAGES) {
            if of == stage {
                *age = ms.max(*age);
            }
        }
    }
}

fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Starting => "STARTING",
        Stage::Quiescing => "QUIESCING",
        Stage::Quiesced => "QUIESCED",
        Stage::Booting => "BOOTING",
        Stage::Booted => "BOOTED",
        Stage::WlmWaiting => "WLM_WAITING",
        Stage::Cleanup => "CLEANUP",
    }
}

fn failure(why: &Failure) -> &'static str {
    match why {
        Failure::UnknownToHsm => "unknown_to_hsm",
        Failure::NoNid => "no_nid",
        Failure::NotCompute(_) => "not_compute",
        Failure::UnknownToWlm => "unknown_to_slurm",
        Failure::DrainTimedOut => "drain_timed_out",
        Failure::LeftOut(_) => "left_out",
        Failure::Boot(_) => "boot",
        Failure::BootSession(_) => "boot_session",
        Failure::BootSessionLost => "boot_session_lost",
        Failure::TakenOver => "taken_over",
        Failure::BootTimedOut => "boot_timed_out",
        Failure::ReturnTimedOut(_) => "return_timed_out",
        Failure::CheckFailed(_) => "check_failed",
        Failure::SoakFailed(_) => "soak_failed",
    }
}

impl Metrics {
    pub(super) fn take_in(&self, census: &Census) {
        let set = |gauge: &prometheus_client::metrics::gauge::Gauge, count: u64| {
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        for (state, count) in Census::STATES.into_iter().zip(census.sessions) {
            set(&self.sessions.get_or_create(&StateLabel { state }), count);
        }
        for (state, count) in NodeState::WORDS.into_iter().zip(census.nodes) {
            set(&self.nodes.get_or_create(&StateLabel { state }), count);
        }
        for (stage, age) in Census::STAGES.into_iter().zip(census.stage_age_ms) {
            self.stage_age.get_or_create(&StageLabel { stage: word(stage) }).set(seconds(age));
        }
        set(&self.sessions_kept, census.kept);
        set(&self.sessions_unmet, census.unmet);
    }

    /// A session was created here.
    pub fn created(&self) {
        self.sessions_created.inc();
    }

    /// An operator ordered something.
    pub fn commanded(&self, command: Command) {
        let command = match command {
            Command::Pause => "pause",
            Command::Resume => "resume",
            Command::Retry => "retry",
        };
        self.sessions_commanded.get_or_create(&CommandLabel { command }).inc();
    }

    /// An operator ordered a session's deletion.
    pub fn deletion_ordered(&self) {
        self.sessions_commanded.get_or_create(&CommandLabel { command: "delete" }).inc();
    }

    /// A session is gone, as it was ordered.
    pub fn deleted(&self) {
        self.sessions_deleted.inc();
    }

    /// A session is loaded again.
    pub fn restarted(&self) {
        self.sessions_restarted.inc();
    }
}

/// What is known of a session that runs here, to measure by.
#[derive(Debug)]
struct Course {
    /// The stage, of which step, and since when; `None` while it works on no node.
    stage: Option<(Stage, u32, Time)>,
    /// When the session was created.
    created: Time,
    /// When the nodes of the step were chosen; `None` while none are.
    chosen: Option<Time>,
    /// The nodes of the step that are on their way, and since when they are in their state.
    nodes: HashMap<Xname, (On, Time)>,
}

/// A part of a session that a trace shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Session,
    Step,
    Stage(Stage),
}

/// The stretches of a node's way that are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    Draining,
    Quiet,
    Rebooting,
    Returning,
}

fn on(state: &str) -> Option<On> {
    match state {
        "draining" => Some(On::Draining),
        "quiesced" => Some(On::Quiet),
        "rebooting" => Some(On::Rebooting),
        "returning" => Some(On::Returning),
        _ => None,
    }
}

/// Counts what happens in sessions, and measures how long it took. A session is known from the moment that it is
/// [taken up](SessionWatch::taken_up) until it is [left](SessionWatch::left).
pub struct SessionWatch {
    metrics: Arc<Metrics>,
    tracer: Option<Tracer>,
    courses: Mutex<BTreeMap<UpgradeId, Course>>,
}

impl SessionWatch {
    /// Nothing runs yet.
    pub fn new(metrics: Arc<Metrics>, tracer: Option<Tracer>) -> Self {
        SessionWatch { metrics, tracer, courses: Mutex::default() }
    }

    /// All that is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// A session runs here from now on.
    pub fn taken_up(&self, session: &Session) {
        let way = |state: &NodeState| on(state.word());
        let nodes = session.batch().filter_map(|node| Some((node.xname, (way(&node.state)?, node.since))));
        let head = &session.head;
        let is_rolling = head.phase == Phase::Rolling;
        let is_chosen = is_rolling && !matches!(head.stage, Stage::Starting | Stage::Cleanup);
        let outlook = head.outlook.filter(|outlook| is_chosen && outlook.step == head.step);
        let course = Course {
            stage: is_rolling.then_some((head.stage, head.step, head.stage_since)),
            created: head.created,
            chosen: outlook.map(|outlook| outlook.at),
            nodes: nodes.collect(),
        };
        self.courses().insert(head.id, course);
    }

    /// A session does not run here any more.
    pub fn left(&self, id: UpgradeId) {
        self.courses().remove(&id);
    }

    fn courses(&self) -> MutexGuard<'_, BTreeMap<UpgradeId, Course>> {
        self.courses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_in(&self, id: UpgradeId, course: &mut Course, entry: &Entry) {
        let metrics = &self.metrics;
        match &entry.what {
            Happening::Stage { stage } => {
                self.stage_ended(id, course, entry.at);
                match stage {
                    // It is entered again when a node is found not to be quiet after all.
                    Stage::Quiescing => _ = course.chosen.get_or_insert(entry.at),
                    Stage::Starting | Stage::Cleanup => course.chosen = None,
                    _ => {}
                }
                course.stage = Some((*stage, entry.step, entry.at));
            }
            Happening::Nodes { state, failure: why, nodes } => {
                self.moved(course, entry.at, state, why.as_ref(), nodes);
            }
            Happening::StepDone { .. } => {
                metrics.steps.inc();
                if let Some(chosen) = course.chosen.take() {
                    self.trace(id, entry.step, Part::Step, chosen, entry.at);
                    metrics.step_duration.observe(seconds(entry.at.since(chosen)));
                }
                course.nodes.clear();
            }
            Happening::Finished { counts } => {
                self.stage_ended(id, course, entry.at);
                let outcome = match counts {
                    Counts { failed: 0, skipped: 0, released: 0, .. } => "upgraded",
                    Counts { upgraded: 0, .. } => "none_upgraded",
                    _ => "some_upgraded",
                };
                self.trace(id, entry.step, Part::Session, course.created, entry.at);
                metrics.sessions_finished.get_or_create(&OutcomeLabel { outcome }).inc();
            }
            Happening::Started { .. }
            | Happening::Message { .. }
            | Happening::Paused { .. }
            | Happening::Resumed { .. }
            | Happening::Retried { .. }
            | Happening::DeletionOrdered { .. } => {}
        }
    }

    fn stage_ended(&self, id: UpgradeId, course: &mut Course, at: Time) {
        let Some((stage, step, since)) = course.stage.take() else { return };
        self.trace(id, step, Part::Stage(stage), since, at);
        let label = StageLabel { stage: word(stage) };
        self.metrics.stage_duration.get_or_create(&label).observe(seconds(at.since(since)));
    }

    /// Tells a collector of traces of a part of a session that is over.
    #[cfg(feature = "otlp")]
    fn trace(&self, session: UpgradeId, step: u32, part: Part, start: Time, end: Time) {
        let Some(tracer) = &self.tracer else { return };
        let (root, of_step) = (otlp::session_span(session), otlp::step_span(session, step));
        let (id, parent, name) = match part {
            Part::Session => (root, None, "session".to_owned()),
            Part::Step => (of_step, Some(root), "step".to_owned()),
            // Before the nodes of a step are chosen, and after the last step, there is none.
            Part::Stage(stage @ (Stage::Starting | Stage::Cleanup)) => {
                (otlp::stage_span(session, step, stage, start), Some(root), format!("stage {}", word(stage)))
            }
            Part::Stage(stage) => (
                otlp::stage_span(session, step, stage, start),
                Some(of_step),
                format!("stage {}", word(stage)),
            ),
        };
        tracer.send(otlp::Span {
            session,
            id,
            parent,
            name,
            is_call: false,
            start,
            end,
            step,
            outcome: None,
        });
    }

    #[cfg(not(feature = "otlp"))]
    fn trace(&self, _: UpgradeId, _: u32, part: Part, _: Time, _: Time) {
        // There is no tracer without the feature.
        let (Part::Session | Part::Step | Part::Stage(_)) = part;
        debug_assert!(self.tracer.is_none());
    }

    /// Nodes entered a state.
    fn moved(&self, course: &mut Course, at: Time, state: &str, why: Option<&Failure>, nodes: &[Xname]) {
        let metrics = &self.metrics;
        let count = nodes.len() as u64;
        let outcome = ["upgraded", "failed", "skipped", "released"].into_iter().find(|word| *word == state);
        if let Some(outcome) = outcome {
            metrics.nodes_done.get_or_create(&OutcomeLabel { outcome }).inc_by(count);
        }
        if outcome == Some("failed") {
            let failure = why.map_or("various", failure);
            metrics.node_failures.get_or_create(&FailureLabel { failure }).inc_by(count);
        }
        for xname in nodes {
            let before = match on(state) {
                Some(now) => course.nodes.insert(*xname, (now, at)),
                None => course.nodes.remove(xname),
            };
            let Some((before, since)) = before else { continue };
            let histogram = match (before, state) {
                (On::Draining, "quiesced" | "rebooting") => &metrics.drain_duration,
                // One whose boot BOS and Slurm tell of at once is seen returned right away.
                (On::Rebooting, "returning" | "upgraded") => &metrics.boot_duration,
                (On::Returning, "upgraded") => &metrics.return_duration,
                _ => continue,
            };
            histogram.observe(seconds(at.since(since)));
        }
    }
}

impl Observer for SessionWatch {
    fn changed(&self, session: &Session, events: &[Event]) {
        let mut courses = self.courses();
        let Some(course) = courses.get_mut(&session.head.id) else { return };
        for event in events {
            if let Event::Entry(entry) = event {
                self.take_in(session.head.id, course, entry);
            }
        }
    }

    fn broken(&self, _: &Session, violation: &Violation) {
        self.metrics.broken_promises.get_or_create(&PromiseLabel { promise: violation.promise }).inc();
    }
}
