//! What happens to a node, and when.
//!
//! The machine is two pure functions. [`outstanding`] says what should be asked of the world now, as a
//! function of the state: nothing is queued, so that a session loaded after a crash asks for what is missing
//! and for nothing else. [`step`] takes in what was seen, and never assumes that a request worked: it looks.
//!
//! # The way of a node
//!
//! ```text
//! Pending ─▶ Draining ─▶ Quiesced ─▶ Rebooting ─▶ Returning ─▶ Upgraded
//!    │         │  ▲          │           │            │
//!    │         │  └──────────┘           └────────────┴──────▶ Failed
//!    └─────────┴─▶ Released (deletion)
//! ```
//!
//! A failed node may be taken again, and then begins as `Pending`; one that is late with its jobs may be put off
//! (`Deferred`) until the end. What may keep a step from starting is in `gate`; each further option of a
//! [strategy](crate::strategy) has a module of its own: `again`, `late`, `soak`, `checked`.
//!
//! The nodes of a step go that way side by side; the stage of the step tells how far the slowest is:
//!
//! 1. `STARTING`: the conditions are checked (groups, template), then the step's nodes are chosen.
//! 2. `QUIESCING`: they are drained, and the upgrading group is filled with them, until all are quiet.
//! 3. `QUIESCED`: a last look; then the intent to reboot is noted, stored, and the reboot asked for.
//! 4. `BOOTING`: BOS reports on each node. Those that booted are put back to work at once.
//! 5. `BOOTED`, `WLM_WAITING`: the rest are waited for.
//! 6. `CLEANUP`, once no node is pending.
//!
//! A failed node is put into the failed group and marked in the workload manager before the next step
//! begins.
//!
//! # Guarantees
//!
//! - The same session, time and input give the same result.
//! - Late, repeated or unknown input changes nothing.
//! - Every durable change is told by an [`Event`], so that a store can write just that.
//! - [`outstanding`] asks for a reboot only when its intent was among the events of an earlier [`step`], which
//!   the driver stores first.

mod again;
mod agenda;
mod begin;
mod boot;
mod checked;
mod gate;
mod input;
mod late;
mod look;
mod say;
mod soak;
mod tell;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroU64;

use crate::actor::Actor;
use crate::boots::BootIds;
use crate::claims::Turn;
use crate::history::{Entry, Happening};
use crate::messages;
use crate::model::{
    Boot, CallKind, Failure, Group, Holder, Known, Limits, Node, NodeState, NumberedCommand, Phase, Said,
    SeenGroup, Session, Stage,
};
use crate::names::{BootHandle, BootSessionName, NodeName, PartitionName, Xname};
use crate::ports::{
    BootKey, BootSession, CheckRequest, NodeFacts, PortError, RebootRequest, Rejected, TemplateKey, Verdict,
};
use crate::time::Time;
use crate::window::ZoneOffset;
use crate::wlm::{Job, Partition, WlmNode};

pub use agenda::{next_look, next_wake, outstanding};
pub(crate) use begin::candidates;
pub(crate) use late::holding;
use look::{LastLook, Mark, Way};
pub use say::MESSAGES_MAX;

/// A durable change of a session: what must be stored, and what can be told to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The head changed.
    Head,
    /// The session entered a phase.
    Phase(Phase),
    /// The step entered a stage.
    Stage {
        /// The step.
        step: u32,
        /// The stage it entered.
        stage: Stage,
    },
    /// The nodes were frozen: all of them are new.
    Frozen,
    /// The node at this position changed.
    Node(usize),
    /// The message at this position, the last one, is new, or was said again.
    Message(usize),
    /// Old messages were folded: none is where it was.
    MessagesFolded,
    /// The history has a new entry. The head changed with it.
    Entry(Entry),
}

/// Which parts of a session must be stored: what some events say has changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Whether the head changed.
    pub head: bool,
    /// The positions of the nodes that changed.
    pub nodes: BTreeSet<usize>,
    /// The positions of the messages that changed or are new.
    pub messages: BTreeSet<usize>,
    /// Whether messages that are stored beyond the last one must be removed.
    pub messages_folded: bool,
    /// New entries of the history.
    pub entries: Vec<Entry>,
}

impl Changes {
    /// Everything of a session but its history.
    pub fn all(session: &Session) -> Self {
        let messages = (0..session.messages.len()).collect();
        let nodes = (0..session.nodes.len()).collect();
        Changes { head: true, nodes, messages, ..Changes::default() }
    }

    /// What these events say.
    pub fn of(session: &Session, events: &[Event]) -> Self {
        let mut changes = Changes::default();
        for event in events {
            match event {
                Event::Head | Event::Phase(_) | Event::Stage { .. } => changes.head = true,
                Event::Frozen => changes.nodes.extend(0..session.nodes.len()),
                Event::Node(i) => _ = changes.nodes.insert(*i),
                Event::Message(i) => _ = changes.messages.insert(*i),
                Event::MessagesFolded => {
                    changes.messages = (0..session.messages.len()).collect();
                    changes.messages_folded = true;
                }
                Event::Entry(entry) => {
                    changes.head = true;
                    changes.entries.push(entry.clone());
                }
            }
        }
        changes
    }
}

/// Something to be asked of the world. Asking again is harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Read a group.
    ReadGroup(Group),
    /// Read HSM's facts about nodes.
    ReadFacts(Vec<Xname>),
    /// Look whether the session template is there.
    ReadTemplate(TemplateKey),
    /// Ask whether the session's turn has come to work on the [members](Session::members) of its starting group.
    Claim,
    /// Look at nodes in the workload manager.
    ReadNodes(Vec<NodeName>),
    /// Look at the jobs that hold any of these nodes.
    ReadJobs(Vec<NodeName>),
    /// Look at the jobs that hold any of the [pending](Session::pending) nodes, to choose those of a step. It does not
    /// list them: they may be very many.
    ReadPendingJobs,
    /// Look which boot sessions there are, where BOS takes no names of ours.
    ReadBootIds,
    /// Look at a boot session.
    ReadBoot(BootKey),
    /// Drain nodes.
    Drain(Vec<NodeName>),
    /// Put nodes back to work.
    Resume(Vec<NodeName>),
    /// Take failed nodes, which run nothing, out of service with this reason.
    MarkDown(Vec<NodeName>, String),
    /// Give failed nodes, which somebody else holds, this reason.
    MarkReason(Vec<NodeName>, String),
    /// Put nodes into a group.
    AddMembers(Group, Vec<Xname>),
    /// Take nodes out of a group.
    RemoveMembers(Group, Vec<Xname>),
    /// Reboot nodes.
    Reboot(RebootRequest),
    /// Look at partitions.
    ReadPartitions(Vec<PartitionName>),
    /// Ask for the clocks of a time zone.
    ReadZone(String),
    /// Put jobs back into the queue.
    Requeue(Vec<String>),
    /// End jobs for good.
    Cancel(Vec<String>),
    /// Have nodes checked.
    Check(CheckRequest),
}

impl Effect {
    /// Which kind of call it is.
    pub fn kind(&self) -> CallKind {
        match self {
            Effect::ReadGroup(group) => CallKind::ReadGroup(*group),
            Effect::ReadFacts(_) => CallKind::ReadFacts,
            Effect::ReadTemplate(_) => CallKind::ReadTemplate,
            Effect::Claim => CallKind::Claim,
            Effect::ReadNodes(_) => CallKind::ReadNodes,
            Effect::ReadJobs(_) | Effect::ReadPendingJobs => CallKind::ReadJobs,
            Effect::ReadBootIds => CallKind::ReadBootIds,
            Effect::ReadBoot(_) => CallKind::ReadBoot,
            Effect::Drain(_) => CallKind::Drain,
            Effect::Resume(_) => CallKind::Resume,
            Effect::MarkDown(..) | Effect::MarkReason(..) => CallKind::Mark,
            Effect::AddMembers(group, _) | Effect::RemoveMembers(group, _) => CallKind::Change(*group),
            Effect::Reboot(_) => CallKind::Reboot,
            Effect::ReadPartitions(_) => CallKind::ReadPartitions,
            Effect::ReadZone(_) => CallKind::ReadZone,
            Effect::Requeue(_) | Effect::Cancel(_) => CallKind::EndJobs,
            Effect::Check(_) => CallKind::Check,
        }
    }
}

/// What was seen. `at` is when the look began: what happened later may not be in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Nothing but time passed.
    Tick,
    /// The operator wants the session deleted.
    Delete {
        /// Who does.
        by: Option<Actor>,
    },
    /// An operator orders something else. A command whose number is not greater than that of an earlier one was taken in
    /// before.
    Command(NumberedCommand),
    /// A group as it is.
    Group(Group, SeenGroup),
    /// HSM's facts about nodes that were asked for; unknown ones are left out.
    Facts {
        /// When the look began.
        at: Time,
        /// The nodes that were asked for.
        asked: Vec<Xname>,
        /// What HSM knows.
        facts: Vec<NodeFacts>,
    },
    /// Whether the session template is there.
    Template {
        /// When the look began.
        at: Time,
        /// Whether it is.
        exists: bool,
    },
    /// Whether the session's turn has come.
    Claim {
        /// When it was asked.
        at: Time,
        /// The answer.
        turn: Turn,
    },
    /// Nodes as the workload manager reports them.
    Nodes {
        /// When the look began.
        at: Time,
        /// The nodes that were asked for.
        asked: Vec<NodeName>,
        /// Those it knows.
        nodes: Vec<WlmNode>,
    },
    /// The jobs that hold nodes of this session.
    Jobs {
        /// When the look began.
        at: Time,
        /// The nodes that were asked about.
        asked: Vec<NodeName>,
        /// The jobs that hold any of them.
        jobs: Vec<Job>,
    },
    /// The jobs that hold pending nodes. Those of other nodes do no harm.
    PendingJobs(Vec<Job>),
    /// The boot sessions that there are, where BOS takes no names of ours.
    BootIds {
        /// When the look began.
        at: Time,
        /// Their ids.
        ids: BootIds,
    },
    /// The boot session of this name, if BOS knows one.
    Boot {
        /// When the look began.
        at: Time,
        /// Its name.
        name: BootSessionName,
        /// The session.
        session: Option<BootSession>,
    },
    /// Partitions as the workload manager reports them; unknown ones are left out.
    Partitions {
        /// When the look began.
        at: Time,
        /// The partitions.
        partitions: Vec<Partition>,
    },
    /// The clocks of the time zone that was asked for; `None`: there is no such zone.
    Zone {
        /// When that was so.
        at: Time,
        /// The zone's clocks.
        offset: Option<ZoneOffset>,
    },
    /// How nodes are judged.
    Checked {
        /// In which step.
        step: u32,
        /// The nodes and their verdicts.
        verdicts: Vec<(Xname, Verdict)>,
    },
    /// A request was made. Whether it worked is seen, not told.
    Asked {
        /// What was asked for.
        effect: Effect,
        /// Nodes that HSM would not put into the group.
        rejected: Vec<Rejected>,
        /// What the peer said; of a reboot that it took, what it calls the boot session where it takes no name of ours.
        result: Result<Option<BootHandle>, PortError>,
    },
    /// A look failed.
    Failed {
        /// What was looked for.
        effect: Effect,
        /// Why.
        error: PortError,
    },
}

/// Takes in what was seen and goes as far as that allows. Returns what changed durably.
pub fn step(session: &mut Session, now: Time, input: Input) -> Vec<Event> {
    let mut m = Machine { s: session, now, events: Vec::new(), moved: Vec::new() };
    m.mend_clock();
    m.take_in(input);
    while !m.s.is_done() && m.go_on() {}
    m.note_condition();
    m.tell_moved();
    m.events
}

/// How many reasons for which nodes failed are told at a time.
const REASONS_MAX: usize = 8;

/// A session on its way through one [`step`].
struct Machine<'a> {
    s: &'a mut Session,
    now: Time,
    events: Vec<Event>,
    /// Nodes whose state changed, and of which the history does not know yet.
    moved: Vec<usize>,
}

impl Machine<'_> {
    /// Does the next thing that can be done now. `false` when nothing can.
    fn go_on(&mut self) -> bool {
        if self.s.head.phase == Phase::Created {
            return self.created();
        }
        self.pay_debts();
        match self.s.head.stage {
            Stage::Starting => self.starting(),
            Stage::Quiescing => self.quiescing(),
            Stage::Quiesced => self.quiesced(),
            Stage::Booting => self.booting(),
            Stage::Booted => self.booted(),
            Stage::WlmWaiting => self.wlm_waiting(),
            Stage::Cleanup => self.cleanup(),
        }
    }

    /// A clock that was set back, or another one than the session was stored by, must not make what was seen wait
    /// for a time that is past, nor old looks count as new.
    fn mend_clock(&mut self) {
        let now = self.now;
        if now < self.s.known.stepped {
            self.s.known = Known::default();
        }
        if self.s.known.stepped == Time(0) {
            self.s.known.taken_up = now;
        }
        self.s.known.stepped = now;
        let head = &mut self.s.head;
        if head.stage_since > now {
            head.stage_since = now;
            self.events.push(Event::Head);
        }
        if let Some(boot) = &mut head.boot
            && boot.unanswered.is_some_and(|at| at > now)
        {
            boot.unanswered = Some(now);
            self.events.push(Event::Head);
        }
        let soak_s = head.spec.strategy.soak_s.map_or(0, NonZeroU64::get);
        let latest = now + soak_s.saturating_mul(1000);
        if head.soak_until.is_some_and(|until| until > latest) {
            head.soak_until = Some(latest);
            self.events.push(Event::Head);
        }
        for position in 0..self.s.head.batch.len() {
            let i = self.s.head.batch[position];
            if self.s.nodes.get(i).is_some_and(|node| node.since > now) {
                self.change(i, |_| {});
            }
        }
    }

    // ---- STARTING -----------------------------------------------------------------------------------

    /// The nodes of the step before are settled, the conditions are met: the next nodes are chosen. Their
    /// state is read before they are drained, since draining replaces what was there.
    fn starting(&mut self) -> bool {
        if self.s.head.deletion.is_some() {
            self.enter(Stage::Cleanup);
            return true;
        }
        if !self.s.batch().all(Node::is_settled) {
            return false;
        }
        if self.s.head.retry {
            self.take_failed_again();
        }
        if !self.s.has_more_to_do() {
            self.say(messages::no_nodes(self.s.head.step));
            self.enter(Stage::Cleanup);
            return true;
        }
        self.pause_when_too_many_failed();
        if !self.may_start() {
            return false;
        }
        if !self.s.has_pending() {
            self.take_again();
            return true;
        }
        self.s.known.named = self.s.unnamed().is_empty();
        if self.s.unmet_condition().is_some() || !self.s.is_ready_to_start(self.now) {
            return false;
        }
        let Some((_, chosen)) = self.s.known.chosen.clone().filter(|(_, chosen)| !chosen.is_empty()) else {
            return false;
        };
        let known = &self.s.known;
        let name = |i: &usize| self.s.nodes[*i].name.as_ref();
        let gone: Vec<usize> = chosen.iter().copied().filter(|i| self.s.is_gone(*i)).collect();
        if !gone.is_empty() {
            self.s.head.batch.clone_from(&gone);
            self.events.push(Event::Head);
            self.give_up_gone(&gone);
            self.s.known.chosen = None;
            return true;
        }
        let looks: Option<Vec<(usize, WlmNode)>> = chosen
            .iter()
            .map(|&i| {
                let (at, seen) = known.wlm.get(name(&i)?)?;
                (*at >= self.s.head.stage_since).then_some((i, seen.clone()?))
            })
            .collect();
        let Some(looks) = looks else { return false };
        let step = self.s.head.step;
        for (i, seen) in looks {
            let holder = self.s.holder_of(&seen);
            let job = self.s.known.holding.get(&seen.name).cloned();
            let in_service = !seen.is_held();
            self.change(i, |node| {
                node.state = NodeState::Draining;
                node.job = job;
                node.was_mended = in_service && node.failure_before.is_some();
                node.step = Some(step);
                node.holder = holder;
                node.boot_before = seen.boot_time;
            });
        }
        self.s.forget_other_nodes(&chosen);
        self.s.head.outlook = self.s.known.outlook.take().or(self.s.head.outlook);
        self.s.head.batch = chosen;
        self.s.head.retried = false;
        self.say(messages::quiesce_requested(step));
        self.enter(Stage::Quiescing);
        true
    }

    // ---- QUIESCING ----------------------------------------------------------------------------------

    /// The nodes drain. They go on together, when all of them are seen to run nothing.
    fn quiescing(&mut self) -> bool {
        let draining = self.s.batch_in(|state| *state == NodeState::Draining);
        let mut gone = Vec::new();
        for &i in &draining {
            self.follow_holder(i);
            if self.s.is_gone(i) {
                gone.push(i);
            }
        }
        if !gone.is_empty() {
            self.give_up_gone(&gone);
            return true;
        }
        if self.give_up_late() {
            return true;
        }
        if draining.is_empty() && self.s.batch_in(|state| *state == NodeState::Quiesced).is_empty() {
            if self.s.head.deletion.is_none() {
                self.say(messages::nothing_quiesced(self.s.head.step));
            }
            self.next_step();
            return true;
        }
        if !draining.is_empty() && self.s.last_look(&draining, self.now) != LastLook::Quiet {
            return false;
        }
        for i in draining {
            self.change(i, |node| {
                node.state = NodeState::Quiesced;
                node.job = None;
            });
        }
        self.say(messages::all_quiesced(self.s.head.step));
        self.enter(Stage::Quiesced);
        true
    }

    /// Takes note of who keeps a draining node out of service, and of the boot it has.
    fn follow_holder(&mut self, i: usize) {
        let Some(seen) = self.s.seen(i) else { return };
        let holder = self.s.holder_of(seen);
        let boot = seen.boot_time;
        let node = &self.s.nodes[i];
        let margin = self.s.limits.boot_margin_s;
        let another_boot = match (node.boot_before, boot) {
            (Some(before), Some(boot)) => (boot.0 - before.0).abs() > margin,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if node.holder != holder || another_boot {
            self.change_quietly(i, |node| {
                node.holder = holder;
                node.boot_before = boot.or(node.boot_before);
            });
        }
    }

    // ---- QUIESCED -----------------------------------------------------------------------------------

    /// Everything is ready for the reboot, and one last look says so. The intent is noted here; only once
    /// it is stored is the reboot asked for.
    fn quiesced(&mut self) -> bool {
        if self.s.head.boot.is_some() {
            return self.intended();
        }
        let batch = self.s.batch_in(|state| *state == NodeState::Quiesced);
        let gone: Vec<usize> = batch.iter().copied().filter(|i| self.s.is_gone(*i)).collect();
        if !gone.is_empty() {
            self.give_up_gone(&gone);
            self.enter(Stage::Quiescing);
            return true;
        }
        match self.s.last_look(&batch, self.now) {
            LastLook::Busy(busy) => {
                self.back_to_draining(&busy);
                true
            }
            LastLook::Quiet if self.s.is_upgrading_group_filled() && self.s.knows_boots(self.now) => {
                let is_silent = |i: &usize| self.s.seen(*i).is_none_or(|seen| !seen.shows_its_boot());
                let silent = batch.iter().copied().filter(is_silent).collect();
                for &i in &batch {
                    self.follow_holder(i);
                    self.change(i, |node| node.state = NodeState::Rebooting);
                }
                let before = self.s.boot_ids(self.now).cloned();
                let head = &mut self.s.head;
                let name = BootSessionName::of(head.id.0, head.step, 0);
                let intended = self.now;
                head.boot = Some(Boot {
                    name,
                    handle: None,
                    before,
                    intended,
                    unanswered: None,
                    begun: None,
                    silent,
                });
                self.s.known.boot = None;
                self.note_intent();
                true
            }
            LastLook::Quiet | LastLook::Stale => false,
        }
    }

    fn back_to_draining(&mut self, busy: &[usize]) {
        let names: Vec<Xname> = busy.iter().map(|&i| self.s.nodes[i].xname).collect();
        for &i in busy {
            if let Some(name) = self.s.nodes[i].name.clone()
                && self.s.seen(i).is_some_and(|seen| self.s.wants_drain(i, seen))
            {
                // Somebody let it go: patience with it begins anew.
                self.s.known.drained.remove(&name);
            }
            self.change(i, |node| node.state = NodeState::Draining);
        }
        self.say(messages::no_longer_quiet(self.s.head.step, &names));
        self.enter(Stage::Quiescing);
    }

    // ---- BOOTED, WLM_WAITING ------------------------------------------------------------------------

    fn booted(&mut self) -> bool {
        let step = self.s.head.step;
        let came_up = |node: &Node| matches!(node.state, NodeState::Returning | NodeState::Upgraded);
        if self.s.batch().any(came_up) {
            self.say(messages::boot_succeeded(step));
            self.enter(Stage::WlmWaiting);
        } else {
            if self.s.head.deletion.is_none() {
                self.say(messages::boot_failed(step));
            }
            self.next_step();
        }
        true
    }

    /// The nodes that booted are waited for, until they are in service or their time is up.
    fn wlm_waiting(&mut self) -> bool {
        self.welcome_back();
        let late = self.s.batch_in(|state| *state == NodeState::Returning);
        if !late.is_empty() {
            let waited = self.s.known.waited.map_or(0, |(_, waited)| waited);
            if waited < self.s.limits.return_timeout_ms {
                return false;
            }
            let failed =
                late.iter().map(|&i| (i, Failure::ReturnTimedOut(self.s.describe_return(i)))).collect();
            self.fail_each(failed);
            self.tell_failures(&late);
        }
        if self.s.head.soak_until.is_none()
            && let Some(boot) = &self.s.head.boot
        {
            let took = self.now.since(boot.intended);
            self.s.head.pace.note(took);
        }
        if !self.soaked() {
            return false;
        }
        if self.s.head.deletion.is_none() {
            let step = self.s.head.step;
            let timed_out =
                self.s.batch().any(|n| matches!(n.state, NodeState::Failed(Failure::ReturnTimedOut(_))));
            self.say(if timed_out { messages::return_timed_out(step) } else { messages::returned(step) });
        }
        self.next_step();
        true
    }

    /// A node is upgraded when the workload manager shows a newer boot *and* it takes jobs again, or
    /// somebody else keeps it from them (P5, P6).
    fn welcome_back(&mut self) {
        self.judge_checked();
        for i in self.s.batch_in(|state| *state == NodeState::Returning) {
            let Some(seen) = self.s.seen(i) else { continue };
            let way = self.s.way_back(i, seen);
            if !self.s.nodes[i].rebooted && self.s.shows_newer_boot(i, seen) {
                self.change_quietly(i, |node| node.rebooted = true);
            }
            if self.s.nodes[i].rebooted && way == Way::Arrived && self.s.is_checked(i) {
                self.change(i, |node| {
                    node.state = NodeState::Upgraded;
                    node.failure_before = None;
                    node.was_mended = false;
                });
            }
        }
    }

    // ---- CLEANUP ------------------------------------------------------------------------------------

    fn cleanup(&mut self) -> bool {
        if !self.s.batch().all(Node::is_settled) || !self.s.are_groups_clean() {
            return false;
        }
        if self.s.head.deletion.is_none() {
            self.say(messages::completed());
        }
        self.finish();
        true
    }

    fn finish(&mut self) {
        self.s.head.phase = Phase::Done;
        self.s.head.ended = Some(self.now);
        self.s.head.condition = None;
        self.s.head.queued = false;
        self.s.head.pause = None;
        self.events.push(Event::Phase(Phase::Done));
        let counts = self.s.head.counts;
        self.tell(Happening::Finished { counts });
    }

    // ---- debts --------------------------------------------------------------------------------------

    /// Strikes off what is seen to be done for the nodes whose fate is decided.
    fn pay_debts(&mut self) {
        for position in 0..self.s.head.batch.len() {
            let i = self.s.head.batch[position];
            let Some(node) = self.s.nodes.get(i) else { continue };
            let mut owed = node.owed;
            if owed.is_nothing() {
                continue;
            }
            if owed.listing && self.s.is_listed_or_cannot_be(node.xname) {
                owed.listing = false;
            }
            let missing = self.s.is_gone(i);
            if owed.marking && (missing || self.s.mark_due(i, self.now) == Some(Mark::Done)) {
                owed.marking = false;
            }
            if owed.resuming && (missing || self.s.is_given_back(i)) {
                owed.resuming = false;
            }
            if owed != node.owed {
                self.change_quietly(i, |node| node.owed = owed);
            }
        }
    }

    // ---- shared by the stages -----------------------------------------------------------------------

    fn enter(&mut self, stage: Stage) {
        self.s.head.stage = stage;
        self.s.head.stage_since = self.now;
        self.s.known.waited = None;
        self.s.known.told.clear();
        self.events.push(Event::Stage { step: self.s.head.step, stage });
        self.tell(Happening::Stage { stage });
    }

    fn next_step(&mut self) {
        self.close_step();
        self.s.head.step += 1;
        self.s.head.boot = None;
        self.s.known.boot = None;
        self.s.known.boot_gone_since = None;
        self.s.known.left_out.clear();
        self.enter(Stage::Starting);
    }

    /// What is to be learned of a step that ends.
    fn close_step(&mut self) {
        let step = self.s.head.step;
        let such = |state: fn(&NodeState) -> bool| {
            self.s.batch().filter(|node| node.step == Some(step) && state(&node.state)).count()
        };
        let upgraded = such(|state| *state == NodeState::Upgraded);
        let skipped = such(|state| *state == NodeState::Failed(Failure::DrainTimedOut));
        let failed = such(|state| matches!(state, NodeState::Failed(_)));
        self.tell(Happening::StepDone { upgraded, failed });
        if upgraded > 0 && self.s.is_canary() {
            self.s.head.canaries += 1;
        }
        self.s.head.soak_until = None;
        if let (Some(outlook), Some(boot)) = (&mut self.s.head.outlook, &self.s.head.boot) {
            outlook.note_wait(boot.intended, &self.s.limits);
        }
        self.pause_when_step_failed(failed - skipped);
    }

    /// Changes a node's state: the time of it is noted.
    fn change(&mut self, i: usize, change: impl FnOnce(&mut Node)) {
        let now = self.now;
        let Some(before) = self.s.nodes.get(i).map(|node| node.state.clone()) else { return };
        self.change_quietly(i, |node| {
            node.since = now;
            change(node);
        });
        self.note_move(i, &before);
    }

    /// Changes something of a node that is not its state.
    fn change_quietly(&mut self, i: usize, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.s.nodes.get_mut(i) {
            change(node);
            if self.events.last() != Some(&Event::Node(i)) {
                self.events.push(Event::Node(i));
            }
        }
    }

    /// Fails nodes of the step, and notes what that obliges us to.
    fn fail_each(&mut self, failed: Vec<(usize, Failure)>) {
        for (i, failure) in failed {
            self.change(i, |node| {
                node.owed.listing = true;
                if failure == Failure::DrainTimedOut {
                    // Its jobs run on: it is given back, not marked.
                    node.owed.resuming = node.holder == Holder::Us;
                }
                node.owed.marking |= failure.is_marked();
                node.job = None;
                node.failure_before = None;
                node.was_mended = false;
                node.state = NodeState::Failed(failure.bounded());
            });
        }
    }

    fn give_up_gone(&mut self, nodes: &[usize]) {
        self.fail_each(nodes.iter().map(|&i| (i, Failure::UnknownToWlm)).collect());
        self.tell_failures(nodes);
    }

    /// One message for all nodes that failed for the same reason, so that messages grow with what happens
    /// and not with the number of nodes.
    fn tell_failures(&mut self, nodes: &[usize]) {
        let mut reasons: Vec<(Failure, Vec<Xname>)> = Vec::new();
        let mut others: Vec<Xname> = Vec::new();
        for &i in nodes {
            let node = &self.s.nodes[i];
            let NodeState::Failed(failure) = &node.state else { continue };
            match reasons.iter().position(|(known, _)| known == failure) {
                Some(place) => reasons[place].1.push(node.xname),
                None if reasons.len() < REASONS_MAX => reasons.push((failure.clone(), vec![node.xname])),
                None => others.push(node.xname),
            }
        }
        for (failure, xnames) in reasons {
            self.say(messages::failed(self.s.head.step, &xnames, &failure));
        }
        if !others.is_empty() {
            self.say(messages::more_failed(self.s.head.step, &others));
        }
    }

    /// Says what is missing, once, when something is (P9).
    fn note_condition(&mut self) {
        // A call that failed may turn out to have worked: its trouble is over once everything was looked at
        // and nobody needs the call any more.
        if !self.s.known.troubles.is_empty() && outstanding(self.s, self.now).is_empty() {
            let needed = agenda::needed_kinds(self.s, self.now);
            self.s.known.troubles.retain(|kind, _| needed.contains(kind));
        }
        let held_back = self.s.held_back(self.now);
        let unmet = if self.s.is_done() || held_back.is_some() { None } else { self.s.unmet() };
        let queued = self.s.is_queued();
        let condition = held_back
            .clone()
            .or_else(|| unmet.as_ref().map(|(_, why)| messages::bounded(why.clone(), messages::TEXT_MAX)));
        if condition == self.s.head.condition {
            return;
        }
        // That it is paused was said when it was.
        if let Some(why) = held_back.filter(|_| self.s.head.pause.is_none())
            && self.s.known.told.insert(Said::HeldBack)
        {
            self.say(why);
        }
        if let Some((what, why)) = unmet {
            let head = &self.s.head;
            let message = match head.phase {
                Phase::Created if queued => why,
                _ => messages::processing_failed(head.step, head.stage, &why),
            };
            // A condition that comes and goes, or whose words change with every attempt, is told once a stage.
            if self.s.known.told.insert(what)
                && self.s.messages.last().is_none_or(|last| last.text != message)
            {
                self.say(message);
            }
        }
        self.s.head.condition = condition;
        self.s.head.queued = queued;
        self.events.push(Event::Head);
    }
}

/// Given back before their reboot was asked for: nodes that nobody else holds are put back to work (P7). One that was
/// tried again has failed as before.
fn release(machine: &mut Machine<'_>, nodes: &[usize]) {
    let begun = machine.s.head.phase == Phase::Rolling;
    for &i in nodes {
        let Some(node) = machine.s.nodes.get(i) else { continue };
        let drained = matches!(node.state, NodeState::Draining | NodeState::Quiesced | NodeState::Rebooting);
        match node.failure_before.clone() {
            // It is marked once more: our drain has replaced its mark.
            Some(failure) if drained && failure.is_marked() && !node.was_mended => {
                machine.fail_each(vec![(i, failure)]);
            }
            // It was at work when it was taken, and goes back.
            Some(failure) if drained => machine.change(i, |node| {
                node.owed.listing = true;
                node.owed.resuming = node.holder == Holder::Us;
                node.job = None;
                node.failure_before = None;
                node.was_mended = false;
                node.state = NodeState::Failed(failure);
            }),
            Some(failure) => machine.change(i, |node| {
                // Its mark stands, but it may have left its group.
                node.owed.listing = begun;
                node.job = None;
                node.failure_before = None;
                node.was_mended = false;
                node.state = NodeState::Failed(failure);
            }),
            None => machine.change(i, |node| {
                // One that was put off may still be on its way back.
                node.owed.resuming |= drained && node.holder == Holder::Us;
                node.job = None;
                node.state = NodeState::Released;
            }),
        }
    }
    let owed = nodes.iter().copied().filter(|&i| machine.s.nodes[i].owed.listing);
    machine.s.head.batch.extend(owed);
    machine.s.head.batch.sort_unstable();
    machine.s.head.batch.dedup();
    machine.events.push(Event::Head);
}

/// When a request of this kind may be made again.
fn paced(session: &Session, kind: CallKind) -> Time {
    let asked = session.known.asked.get(&kind).map_or(Time(0), |&at| at + session.limits.poll_ms);
    let trouble = session.known.troubles.get(&kind).map_or(Time(0), |trouble| trouble.until);
    asked.max(trouble)
}

/// The pause before a call that failed so many times in a row is made again. It doubles with each failure, and is up
/// to a fifth longer than that, by a hash of what it is about: sessions that fail together do not all come back at
/// the same moment. Never shorter than a poll interval nor longer than the bound.
fn retry_pause(session: &Session, kind: CallKind, failures: u32) -> u64 {
    let Limits { poll_ms, retry_max_ms, .. } = session.limits;
    let doubled = poll_ms.saturating_mul(1 << failures.saturating_sub(1).min(16));
    // The longest pauses differ as well.
    let pause = doubled.min(retry_max_ms - retry_max_ms / 6);
    let mut hash = DefaultHasher::new();
    (session.head.id, kind, failures).hash(&mut hash);
    let jitter = (pause / 5).checked_add(1).map_or(0, |range| hash.finish() % range);
    pause.saturating_add(jitter).max(poll_ms).min(retry_max_ms)
}

impl Session {
    /// The nodes of this step whose state is such.
    fn batch_in(&self, state: impl Fn(&NodeState) -> bool) -> Vec<usize> {
        let nodes = self.head.batch.iter().copied();
        nodes.filter(|&i| self.nodes.get(i).is_some_and(|node| state(&node.state))).collect()
    }
}
