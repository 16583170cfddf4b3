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
//! [strategy](crate::strategy) has a module of its own: `again`, `late`, `soak`, `checked`. How a node whose fate is
//! decided is let go is in `settle`.
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
mod effect;
mod event;
mod gate;
mod input;
mod late;
mod look;
mod pace;
mod say;
mod settle;
mod soak;
mod tell;

use std::num::NonZeroU64;

use crate::history::Happening;
use crate::messages;
use crate::model::{Boot, Failure, Known, Node, NodeState, Phase, Said, Session, Stage};
use crate::names::{BootSessionName, Xname};
use crate::time::Time;
use crate::wlm::WlmNode;

pub use agenda::{next_look, next_wake, outstanding};
pub(crate) use begin::candidates;
pub use effect::{Effect, Input};
pub use event::{Changes, Event};
pub(crate) use late::holding;
use look::{LastLook, Way};
use pace::{paced, retry_pause};
pub use say::MESSAGES_MAX;
use settle::release;

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

    /// Takes note of who keeps a node out of service before it is rebooted, and of the boot it has.
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
                let silent = self.note_boots(&batch);
                for &i in &batch {
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
                self.change(i, |node| node.settle(NodeState::Upgraded));
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

impl Session {
    /// The nodes of this step whose state is such.
    fn batch_in(&self, state: impl Fn(&NodeState) -> bool) -> Vec<usize> {
        let nodes = self.head.batch.iter().copied();
        nodes.filter(|&i| self.nodes.get(i).is_some_and(|node| state(&node.state))).collect()
    }
}
