//! Random worlds: any cluster, any workload, any faults, crashes and operators, and the promises hold all the same.
//!
//! A world follows from its seed alone. It is drawn (nodes of every kind, jobs, groups, one to three sessions that may
//! share groups or nodes, limits), then lives for some dozens of turns in each of which time passes and something
//! befalls it: the service crashes, is stopped past its lease or has its clock set, its store fails, a peer goes away,
//! an operator meddles. Meanwhile calls fail in every way that [`Fault`] has. Then all that is
//! mended, and it must come to a good end.
//!
//! # What is checked
//!
//! After every event the promises P1–P8, by [`World`]. What an operator did is theirs: see
//! [`Audit`](crus_core::promises::Audit). Once faults stop:
//!
//! - Progress (P9): all sessions end within [`Bound`], given an operator who clears a group of what a session says that
//!   it waits for.
//! - A clean end: P1–P8 as each session ends; no node carries our drain; no node of a completed session is in its
//!   upgrading group; a deleted
//!   session is gone from the store.
//!
//! # Events
//!
//! An event is a thing that happens in the world or the service and is followed by the checker: [`Kind`] lists them.
//! What changes nothing is none.
//!
//! # Replay
//!
//! [`run`] with `trace` gives a line for each thing that happened; for the same seed it is the same text, byte for byte.

mod draw;
mod fate;
mod report;

use std::collections::{BTreeMap, BTreeSet};

use crus_core::batch::Order;
use crus_core::model::{Failure, NodeState};
use crus_core::names::CheckName;
use crus_core::ports::Peer;
use crus_core::strategy::OnDrainTimeout;
use crus_core::{Limits, Spec, Strategy, Time, UpgradeId, Xname};

use self::draw::{CHECK, CLOSED_MAX, Drawing, HOUR, MINUTE, SECOND, drawing};
use self::fate::Mend;
pub use self::report::Report;
use crate::config::TemplateSpec;
use crate::faults::{Fault, Faulty, Plan};
use crate::journal::{Counts, Kind};
use crate::rng::Rng;
use crate::world::{Stuck, World};

/// Something that an operator did, or that befell the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// The service died and started again.
    Crash,
    /// It died between a call and the storing of what came of it.
    CrashBeforeStoring,
    /// It was stopped past its lease, and another replica took over.
    TakenOver,
    /// Replicas that were stopped went on.
    WokenUp,
    /// Its clock was set.
    ClockSet,
    /// Its store failed for a while.
    StoreFails,
    /// HSM's database went away.
    HsmDown,
    /// BOS's store went away.
    BosDown,
    /// slurmctld was stopped.
    SlurmctldStopped,
    /// slurmctld was restarted.
    SlurmctldRestarted,
    /// Slurm refused updates.
    UpdatesRefused,
    /// A session was created.
    SessionCreated,
    /// A session was deleted.
    SessionDeleted,
    /// A session was paused.
    SessionPaused,
    /// A session was let go on.
    SessionResumed,
    /// A session's failed and skipped nodes were to be tried again.
    SessionRetried,
    /// An operator gave up on a session that waits for what will not come.
    GivenUp,
    /// A node was resumed.
    Resumed,
    /// A node was drained.
    Drained,
    /// A node was undrained.
    Undrained,
    /// A node was set down.
    SetDown,
    /// A node was given a reason.
    ReasonSet,
    /// A node was put into a group.
    MemberAdded,
    /// A node was taken out of a group.
    MemberRemoved,
    /// A node was locked or unlocked.
    Locked,
    /// A node was disabled or enabled.
    Disabled,
    /// A group was deleted.
    GroupDeleted,
    /// A session template was deleted.
    TemplateDeleted,
    /// A node was switched off and on again.
    PowerCycled,
    /// A boot session was deleted.
    BootSessionForgotten,
    /// A node was booted by somebody else's boot session.
    BootedBySomebody,
    /// A job was cancelled.
    JobCancelled,
    /// Something was put right again.
    Mended,
}

impl Deed {
    /// What it is called in reports.
    pub fn name(self) -> &'static str {
        match self {
            Deed::Crash => "crash",
            Deed::CrashBeforeStoring => "crash before storing",
            Deed::TakenOver => "stopped past the lease",
            Deed::WokenUp => "stopped ones go on",
            Deed::ClockSet => "clock set",
            Deed::StoreFails => "store fails",
            Deed::HsmDown => "HSM down",
            Deed::BosDown => "BOS down",
            Deed::SlurmctldStopped => "slurmctld stopped",
            Deed::SlurmctldRestarted => "slurmctld restarted",
            Deed::UpdatesRefused => "updates refused",
            Deed::SessionCreated => "session created",
            Deed::SessionDeleted => "session deleted",
            Deed::SessionPaused => "session paused",
            Deed::SessionResumed => "session resumed",
            Deed::SessionRetried => "session retried",
            Deed::GivenUp => "session given up",
            Deed::Resumed => "node resumed",
            Deed::Drained => "node drained",
            Deed::Undrained => "node undrained",
            Deed::SetDown => "node set down",
            Deed::ReasonSet => "reason set",
            Deed::MemberAdded => "member added",
            Deed::MemberRemoved => "member removed",
            Deed::Locked => "node locked or unlocked",
            Deed::Disabled => "node disabled or enabled",
            Deed::GroupDeleted => "group deleted",
            Deed::TemplateDeleted => "template deleted",
            Deed::PowerCycled => "node power-cycled",
            Deed::BootSessionForgotten => "boot session deleted",
            Deed::BootedBySomebody => "node booted by somebody else",
            Deed::JobCancelled => "job cancelled",
            Deed::Mended => "mended",
        }
    }
}

/// How long the sessions of a world may take to end once faults stopped.
///
/// In virtual time: for each session, for each of its nodes and twice more, the longest job, the patience with a boot
/// and with a return, and a quarter of an hour; with a strategy, the longest soak and check, and the time until its window
/// opens. Each step decides at least one node, or puts it off, and takes no longer than that; each node comes once more
/// for each attempt at it.
///
/// In rounds (each is at most one call): for each session one in a fifth of a poll interval, in that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Virtual milliseconds.
    pub ms: u64,
    /// Rounds of all sessions together.
    pub rounds: u64,
}

impl Bound {
    fn of(nodes: u64, specs: &[Spec], longest_job_ms: u64, limits: &Limits) -> Self {
        let step = longest_job_ms + limits.boot_timeout_ms + limits.return_timeout_ms + 15 * MINUTE;
        let session = |spec: &Spec| {
            let strategy = &spec.strategy;
            let soak = strategy.soak_s.map_or(0, |seconds| seconds.get() * SECOND);
            let closed = strategy.window.as_ref().map_or(0, |_| CLOSED_MAX);
            let check = strategy.check_command.as_ref().map_or(0, |_| MINUTE);
            // Whoever mends a world retries each session once more at most.
            let attempts = 2 + u64::from(strategy.retries);
            let turns = match strategy.on_drain_timeout {
                OnDrainTimeout::Later => 2 * attempts,
                _ => attempts,
            };
            (turns * nodes + 2) * (step + soak + closed + check)
        };
        let ms = specs.iter().map(session).sum();
        Bound { ms, rounds: 5 * specs.len() as u64 * (ms / limits.poll_ms + 1) }
    }
}

/// A world that came to a good end.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// How often each kind of thing happened.
    pub counts: Counts,
    /// Faults by port and kind.
    pub faults: BTreeMap<(Peer, &'static str), u64>,
    /// What operators did, and what befell the service.
    pub deeds: BTreeMap<Deed, u64>,
    /// Sessions by how they ended.
    pub sessions: BTreeMap<&'static str, u64>,
    /// Sessions by what their strategies ask for.
    pub options: BTreeMap<&'static str, u64>,
    /// Nodes of sessions by how they ended.
    pub nodes: BTreeMap<&'static str, u64>,
    /// How many times something was checked.
    pub checks: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Rounds and virtual milliseconds from the end of faults to the end of the sessions.
    pub settling: (u64, u64),
    /// What happened, line by line; empty without `trace`.
    pub trace: String,
}

/// A world that did not.
#[derive(Debug, Clone, thiserror::Error)]
#[error("seed {seed}: {stuck}")]
pub struct Failed {
    /// Its seed.
    pub seed: u64,
    /// What is wrong.
    pub stuck: Stuck,
    /// What happened, line by line; empty without `trace`.
    pub trace: String,
}

/// How a world goes on after it was drawn.
struct Life {
    rng: Rng,
    specs: Vec<Spec>,
    xnames: Vec<Xname>,
    /// The members of the starting groups.
    members: BTreeMap<String, Vec<Xname>>,
    templates: BTreeMap<String, TemplateSpec>,
    ids: Vec<UpgradeId>,
    deleted: BTreeSet<UpgradeId>,
    mends: Vec<Mend>,
    deeds: BTreeMap<Deed, u64>,
    /// Boot sessions of somebody else.
    others: u32,
    /// How often somebody looked at a session that waits for what it may not get.
    looked: BTreeMap<UpgradeId, u32>,
}

impl Life {
    fn did(&mut self, deed: Deed) {
        *self.deeds.entry(deed).or_default() += 1;
    }
}

/// Lets the world of a seed live, and come to its end. With `trace` it is written down.
///
/// # Errors
/// When it does not come to a good end.
pub fn run(seed: u64, trace: bool) -> Result<Outcome, Box<Failed>> {
    run_prepared(seed, trace, |_| {})
}

/// Likewise, of a world to which something was done before it begins: a service that is broken on purpose shows whether
/// that is seen.
///
/// # Errors
/// When it does not come to a good end.
pub fn run_prepared(
    seed: u64,
    trace: bool,
    prepare: impl FnOnce(&mut World),
) -> Result<Outcome, Box<Failed>> {
    let failed = |stuck, trace| Box::new(Failed { seed, stuck, trace });
    let Some(drawing) = drawing(seed) else {
        return Err(failed(Stuck::Failed("this seed draws no world".to_owned()), String::new()));
    };
    let mut world = World::new(drawing.config.clone(), seed, drawing.limits.clone());
    world.forget_facts();
    prepare(&mut world);
    if trace {
        world.cluster().journal_mut().write_down();
        let at = world.now();
        world.cluster().journal_mut().remark(at, || format!("{drawing:?}"));
    }
    let lived = live(&mut world, seed, drawing);
    let trace = world.cluster().journal().text().to_owned();
    match lived {
        Ok(outcome) => Ok(Outcome { trace, ..outcome }),
        Err(stuck) => Err(failed(stuck, trace)),
    }
}

fn live(world: &mut World, seed: u64, drawing: Drawing) -> Result<Outcome, Stuck> {
    let Drawing { config, limits, specs, per_mille, faults, turns, longest_job_ms, checks } = drawing;
    world.checks.inner().add(CheckName::new(CHECK).map_err(|error| Stuck::Failed(error.to_string()))?);
    for (xname, end) in checks {
        world.checks.inner().set(xname, end);
    }
    let mut life = Life {
        rng: Rng::new(seed, 11),
        xnames: config.nodes.iter().map(|node| node.xname).collect(),
        members: specs
            .iter()
            .filter_map(|spec| {
                Some((spec.starting.to_string(), config.groups.get(&spec.starting)?.members.clone()))
            })
            .collect(),
        templates: config.templates.iter().map(|(name, spec)| (name.to_string(), spec.clone())).collect(),
        specs,
        ids: Vec::new(),
        deleted: BTreeSet::new(),
        mends: Vec::new(),
        deeds: BTreeMap::new(),
        others: 0,
        looked: BTreeMap::new(),
    };
    let start = world.now();
    world.hsm.set_plan(Plan::random(seed, per_mille, &faults));
    world.bos.set_plan(Plan::random(seed ^ 1 << 62, per_mille, &faults));
    world.wlm.set_plan(Plan::random(seed ^ 1 << 63, per_mille, &faults));
    world.checks.set_plan(Plan::random(seed ^ 3 << 62, per_mille, &faults));
    for turn in 0..turns {
        if life.ids.len() < life.specs.len() && life.rng.chance(if turn == 0 { 1000 } else { 300 }) {
            create(world, &mut life)?;
        }
        let most = life.rng.pick(&[2 * SECOND, 30 * SECOND, 10 * MINUTE]).unwrap_or(SECOND);
        let ms = life.rng.between(0, most);
        world.run_for(ms)?;
        life.deed(world)?;
    }
    while life.ids.len() < life.specs.len() {
        create(world, &mut life)?;
    }
    // From here on nothing fails any more.
    world.hsm.set_plan(Plan::none());
    world.bos.set_plan(Plan::none());
    world.wlm.set_plan(Plan::none());
    world.checks.set_plan(Plan::none());
    life.mend_all(world)?;
    let (calm, (rounds, _)) = (world.now(), world.rounds_and_checks());
    let bound = Bound::of(life.xnames.len() as u64, &life.specs, longest_job_ms, &limits);
    settle(world, &mut life, calm + bound.ms)?;
    world.wake_stopped()?;
    let settling = (world.rounds_and_checks().0 - rounds, world.now().since(calm));
    if settling.0 > bound.rounds {
        let text = format!("{} rounds after the last fault, of {} at most", settling.0, bound.rounds);
        return Err(Stuck::Failed(text));
    }
    finish(world, &mut life, start, settling)
}

/// Until all sessions are done. Who reads what they wait for puts it right.
fn settle(world: &mut World, life: &mut Life, by: Time) -> Result<(), Stuck> {
    loop {
        match world.run_to_end(5 * MINUTE) {
            Err(Stuck::TooLate(now)) if now < by => {
                // Whoever waits for longer has not let the time pass.
                world.run_for(now.since(world.now()))?;
                life.tidy(world)?;
            }
            other => return other,
        }
    }
}

fn create(world: &mut World, life: &mut Life) -> Result<(), Stuck> {
    let Some(spec) = life.specs.get(life.ids.len()).cloned() else { return Ok(()) };
    life.did(Deed::SessionCreated);
    let id = world.create(spec)?;
    life.ids.push(id);
    Ok(())
}

/// Compares the world with what was promised, and adds up what happened.
fn finish(world: &mut World, life: &mut Life, start: Time, settling: (u64, u64)) -> Result<Outcome, Stuck> {
    let mut outcome = Outcome { settling, ..Outcome::default() };
    let unclean = |what: String| Stuck::Failed(format!("not a clean end: {what}"));
    for &id in &life.ids {
        let Some(session) = world.session(id) else {
            if !life.deleted.contains(&id) {
                return Err(unclean(format!("session {id} is gone, and nobody deleted it")));
            }
            *outcome.sessions.entry("deleted").or_default() += 1;
            continue;
        };
        if life.deleted.contains(&id) {
            return Err(unclean(format!("session {id} was deleted, and is there")));
        }
        *outcome.sessions.entry("completed").or_default() += 1;
        for node in &session.nodes {
            let state = match node.state {
                NodeState::Upgraded => "upgraded",
                NodeState::Failed(Failure::DrainTimedOut) => "skipped",
                NodeState::Failed(_) => "failed",
                _ => return Err(unclean(format!("{} ended as {:?}", node.xname, node.state))),
            };
            *outcome.nodes.entry(state).or_default() += 1;
        }
        let label = &session.head.spec.upgrading;
        if let Some(left) = world.members(label).into_iter().find(|xname| session.has_node(*xname)) {
            return Err(unclean(format!("{left} is left in '{label}'")));
        }
    }
    let names: Vec<_> = world.cluster().node_names().cloned().collect();
    for name in names {
        let reason = world.view(&name).filter(|view| view.held).and_then(|view| view.reason);
        if reason.as_ref().is_some_and(|reason| reason.starts_with("rolling-upgrade")) {
            return Err(unclean(format!("{name} is left drained by us")));
        }
    }
    // A finished session is kept until somebody deletes it, and that changes nothing else.
    let before: Vec<_> = life.specs.iter().map(|spec| world.members(&spec.failed)).collect();
    let kept: Vec<UpgradeId> = life.ids.iter().copied().filter(|id| world.session(*id).is_some()).collect();
    for id in kept {
        life.did(Deed::SessionDeleted);
        world.delete(id)?;
    }
    world.run_to_end(MINUTE)?;
    let after: Vec<_> = life.specs.iter().map(|spec| world.members(&spec.failed)).collect();
    if let Some(id) = life.ids.iter().find(|id| world.session(**id).is_some()) {
        return Err(unclean(format!("session {id} does not go")));
    }
    if before != after {
        return Err(unclean(format!("deletion changed {before:?} to {after:?}")));
    }
    outcome.counts = world.counts();
    outcome.checks = world.rounds_and_checks().1;
    outcome.virtual_ms = world.now().since(start);
    outcome.deeds = std::mem::take(&mut life.deeds);
    note_faults(&mut outcome, Peer::Hsm, &world.hsm);
    note_faults(&mut outcome, Peer::Bos, &world.bos);
    note_faults(&mut outcome, Peer::Wlm, &world.wlm);
    note_faults(&mut outcome, Peer::Check, &world.checks);
    life.specs.iter().for_each(|spec| note_options(&mut outcome, &spec.strategy));
    Ok(outcome)
}

/// Which options the strategy has.
fn note_options(outcome: &mut Outcome, strategy: &Strategy) {
    let Strategy { max_failed, max_failed_step, canary, soak_s, drain_timeout_s, on_drain_timeout, .. } =
        strategy;
    let Strategy { order, max_per_domain, min_in_service, window, retries, check_command, .. } = strategy;
    for (option, is_there) in [
        ("none", strategy.is_default()),
        ("max_failed", max_failed.is_some()),
        ("max_failed_step", max_failed_step.is_some()),
        ("canary", !canary.is_empty()),
        ("soak_s", soak_s.is_some()),
        ("drain_timeout_s: wait", drain_timeout_s.is_some() && *on_drain_timeout == OnDrainTimeout::Wait),
        ("drain_timeout_s: skip", *on_drain_timeout == OnDrainTimeout::Skip),
        ("drain_timeout_s: requeue", *on_drain_timeout == OnDrainTimeout::Requeue),
        ("drain_timeout_s: cancel", *on_drain_timeout == OnDrainTimeout::Cancel),
        ("drain_timeout_s: later", *on_drain_timeout == OnDrainTimeout::Later),
        ("order: name", *order == Some(Order::Name)),
        ("order: spread", *order == Some(Order::Spread)),
        ("order: pack", *order == Some(Order::Pack)),
        ("max_per_domain", max_per_domain.is_some()),
        ("min_in_service", !min_in_service.is_empty()),
        ("window", window.is_some()),
        ("retries", *retries > 0),
        ("check_command", check_command.is_some()),
    ] {
        *outcome.options.entry(option).or_default() += u64::from(is_there);
    }
}

fn note_faults<P>(outcome: &mut Outcome, peer: Peer, port: &Faulty<P>) {
    for injected in port.injected() {
        let kind = match injected.fault {
            Fault::Refused => "refused",
            Fault::Unreachable => "unreachable",
            Fault::Slow { .. } => "slow",
            Fault::ReplyLost => "reply lost",
            Fault::Stale => "stale",
            Fault::Restarted { .. } => "restarted",
        };
        *outcome.faults.entry((peer, kind)).or_default() += 1;
    }
}

/// What a run of many worlds wants to know of one of them.
impl Outcome {
    /// All events.
    pub fn events(&self) -> u64 {
        self.counts.total()
    }

    /// The events of one kind.
    pub fn events_of(&self, kind: Kind) -> u64 {
        self.counts.of(kind)
    }
}

/// How long, in hours, minutes and seconds.
fn hours(ms: u64) -> String {
    format!("{} h {:02} min", ms / HOUR, ms / MINUTE % 60)
}
