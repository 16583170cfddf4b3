//! When a step may start: not while the session is paused, too many nodes failed, or the window is closed.

use super::{Event, Machine};
use crate::actor::Actor;
use crate::history::Happening;
use crate::messages;
use crate::model::{Command, NumberedCommand, Pause, PauseReason, Phase, Session, Stage};
use crate::time::Time;
use crate::window::{self, Opening, ZoneOffset};

/// Whether a step may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Gate {
    /// It may.
    Open,
    /// The session is paused.
    Paused,
    /// The window is closed, until then.
    Closed(Time),
    /// The clocks of the window's zone must be asked for first.
    ZoneNeeded,
    /// Nobody knows the zone.
    ZoneUnknown,
}

impl Machine<'_> {
    pub(super) fn pause(&mut self, why: PauseReason, by: Option<Actor>) {
        let text = messages::paused(&why);
        self.s.head.pause = Some(Pause { since: self.now, why: why.clone(), by: by.clone() });
        self.events.push(Event::Head);
        self.say(text);
        self.tell(Happening::Paused { why, by });
    }

    /// Takes in what an operator ordered. What makes no sense any more by now changes nothing.
    pub(super) fn command(&mut self, NumberedCommand { number, command, by }: NumberedCommand) {
        if number <= self.s.head.commands {
            return;
        }
        self.s.head.commands = number;
        self.events.push(Event::Head);
        if self.s.head.deletion.is_some() {
            return;
        }
        match command {
            // Whoever pauses what failures have paused wants it to stay so: nothing changes.
            Command::Pause => {
                if self.s.head.pause.is_none() && !self.s.is_done() {
                    self.pause(PauseReason::Command, by);
                }
            }
            Command::Resume => self.resume(by),
            Command::Retry => self.retry(by),
        }
    }

    /// The failures that paused the session are known to the operator, and do not count any more. Those of a step in
    /// flight that an operator had paused are not: they were never told as too many.
    fn resume(&mut self, by: Option<Actor>) {
        let Some(pause) = self.s.head.pause.take() else { return };
        if pause.why != PauseReason::Command {
            self.s.head.accepted = self.s.head.counts.failed;
        }
        self.say(messages::resumed(self.s.head.step));
        self.tell(Happening::Resumed { by });
    }

    /// Pauses when more nodes failed than may, before another one is touched.
    pub(super) fn pause_when_too_many_failed(&mut self) {
        let head = &mut self.s.head;
        // What was tried again and failed again counts anew.
        if head.accepted > head.counts.failed {
            head.accepted = head.counts.failed;
            self.events.push(Event::Head);
        }
        let Some(limit) = head.spec.strategy.max_failed else { return };
        let max = limit.at_most(self.s.nodes.len());
        let failed = head.counts.failed - head.accepted;
        if self.is_unpaused_by_failures() && failed > max {
            self.pause(PauseReason::MaxFailed { failed, max }, None);
        }
    }

    /// Likewise at the end of a step.
    pub(super) fn pause_when_step_failed(&mut self, failed: usize) {
        let head = &self.s.head;
        let Some(limit) = head.spec.strategy.max_failed_step else { return };
        let max = limit.at_most(head.batch.len());
        // With no node left there is nothing to keep from being touched.
        let keeps = self.is_unpaused_by_failures() && head.deletion.is_none() && self.s.has_more_to_do();
        if failed > max && keeps {
            self.pause(PauseReason::MaxFailedStep { failed, max }, None);
        }
    }

    /// An operator who paused the session must learn of failures that would have paused it, before it is resumed.
    fn is_unpaused_by_failures(&self) -> bool {
        self.s.head.pause.as_ref().is_none_or(|pause| pause.why == PauseReason::Command)
    }

    /// Whether a step may start now. What was looked at while it might not is looked at again then.
    pub(super) fn may_start(&mut self) -> bool {
        if self.s.gate(self.now) != Gate::Open {
            self.s.known.held_back = true;
            return false;
        }
        if std::mem::take(&mut self.s.known.held_back) {
            self.s.head.stage_since = self.now;
            self.s.known.told.clear();
            self.events.push(Event::Head);
        }
        true
    }
}

impl Session {
    /// Whether the session stands before a step, with nodes left to take.
    fn stands_before_a_step(&self) -> bool {
        self.head.phase == Phase::Rolling
            && self.head.stage == Stage::Starting
            && self.head.deletion.is_none()
            && self.batch().all(|node| node.is_settled())
            && self.has_more_to_do()
    }

    pub(super) fn gate(&self, now: Time) -> Gate {
        if self.head.pause.is_some() {
            return Gate::Paused;
        }
        let Some(window) = &self.head.spec.strategy.window else { return Gate::Open };
        match self.zone(now) {
            None => Gate::ZoneNeeded,
            Some(None) => Gate::ZoneUnknown,
            Some(Some(zone)) => match window.at(now, zone) {
                Opening::Open(_) => Gate::Open,
                Opening::Closed(until) => Gate::Closed(until),
            },
        }
    }

    /// The clocks of the window's zone, as long as they are as they were when they were asked for.
    fn zone(&self, now: Time) -> Option<Option<ZoneOffset>> {
        // A change is told two weeks ahead, and a window looks one week ahead; but the system's clock may be set.
        const HOLDS_MS: u64 = 600_000;
        let (at, zone) = self.known.zone?;
        let change = zone.and_then(|zone| zone.change).map(|(change, _)| change);
        let holds = now.since(at) < HOLDS_MS && now >= at && change.is_none_or(|change| now < change);
        holds.then_some(zone)
    }

    /// When the window opens, while the session waits for that.
    pub(super) fn window_opens(&self, now: Time) -> Option<Time> {
        match self.stands_before_a_step().then(|| self.gate(now))? {
            Gate::Closed(until) => Some(until),
            _ => None,
        }
    }

    /// What a step that could start waits for, in words: it is nobody's fault.
    pub(super) fn held_back(&self, now: Time) -> Option<String> {
        if !self.stands_before_a_step() {
            return None;
        }
        let strategy = &self.head.spec.strategy;
        match self.gate(now) {
            Gate::Paused => self.head.pause.as_ref().map(|pause| messages::paused(&pause.why)),
            Gate::Closed(until) => {
                let (_, zone) = self.known.zone?;
                let zone_name = strategy.window.as_ref().map_or("", |window| &window.time_zone);
                Some(messages::window_closed(self.head.step, &window::local(until, zone?), zone_name))
            }
            Gate::Open => self.floor_reached(),
            Gate::ZoneNeeded | Gate::ZoneUnknown => None,
        }
    }

    /// The partition that keeps the step from taking any node, in words.
    fn floor_reached(&self) -> Option<String> {
        let (_, chosen) = self.known.chosen.as_ref().filter(|(at, _)| *at >= self.head.stage_since)?;
        let (_, partitions) = self.known.partitions.as_ref()?;
        if !chosen.is_empty() || !self.has_pending() {
            return None;
        }
        let floors = &self.head.spec.strategy.min_in_service;
        let reached = partitions.iter().find_map(|partition| {
            let floor = floors.get(&partition.name)?.at_least(partition.total);
            let in_service = partition.in_service.len();
            (in_service <= floor)
                .then(|| messages::service_floor(self.head.step, &partition.name, in_service, floor))
        });
        Some(reached.unwrap_or_else(|| messages::no_node_fits(self.head.step)))
    }
}
