//! How long the rest of an upgrade takes, as a range.
//!
//! A step waits until the last job on its nodes has ended, and until the last of them has booted and returned. When jobs
//! end is known by their limits alone, and only of those that run now:
//!
//! - Jobs end earlier than their limits tell, by how much is learned from the steps that passed.
//! - A node that no step has taken yet gets a new job when its job ends. A machine looks then as it looks now, so a new
//!   job has as long to run as any that runs now.
//! - Where those nodes are taken first that are free soonest, a step of few nodes out of many hardly waits, and the last
//!   step waits for the longest job.
//!
//! `course` lets this happen, on a few hundred nodes that stand for all.

mod course;

use serde::{Deserialize, Serialize};

use crate::batch::FreeAt;
use crate::model::{Head, Limits, Node, NodeState, Pace, Phase, Stage};
use crate::time::Time;
use crate::window::{Opening, Window, ZoneOffset};

use course::longest_ms;
pub(crate) use course::{Course, idle_per_mille, sizes, waits};

/// So often a window is waited for; what takes longer has no expected end.
const OPENINGS_MAX: u32 = 1_000;
/// Once steps have waited for so long, what they did counts as much as what is configured.
const TRUST_MS: u64 = 30 * 60_000;

/// A time that is expected to lie in a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// At least, in milliseconds.
    pub low_ms: u64,
    /// At most, in milliseconds.
    pub high_ms: u64,
}

/// What was expected when a step was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Outlook {
    /// Which step.
    pub step: u32,
    /// When.
    pub at: Time,
    /// How long it is expected to wait for its nodes, by what is configured, in milliseconds.
    pub wait_ms: u64,
    /// How many steps come after it.
    pub steps: u32,
    /// How long these are expected to wait for theirs, together, in milliseconds.
    pub later_ms: u64,
    /// What part of the nodes ran nothing when the session began, in parts of a thousand.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_per_mille: Option<u32>,
    /// How long the steps that passed were expected to wait, together, in milliseconds.
    pub passed_ms: u64,
    /// How long they waited.
    pub took_ms: u64,
}

impl Outlook {
    /// A wait as it is to be expected by what steps did: the more these waited, the more they count.
    pub(crate) fn corrected(&self, wait_ms: u64) -> u64 {
        let by =
            self.took_ms.saturating_add(TRUST_MS) as f64 / self.passed_ms.saturating_add(TRUST_MS) as f64;
        (wait_ms as f64 * by.clamp(0.2, 5.0)) as u64
    }

    /// Takes note of a step whose nodes were all quiet then.
    pub(crate) fn note_wait(&mut self, quiet: Time, limits: &Limits) {
        self.passed_ms = self.passed_ms.saturating_add(self.wait_ms);
        let waited = quiet.since(self.at).saturating_sub(overhead(limits));
        self.took_ms = self.took_ms.saturating_add(waited);
    }
}

/// How long nodes take to boot and return.
#[derive(Debug, Clone, Copy)]
pub struct Boots {
    /// How long steps took.
    pub pace: Pace,
    /// As long as none did: how long a node takes.
    pub node: Range,
}

impl Boots {
    /// As the steps of this session, or of earlier ones, had it; else as it is configured.
    pub fn new(pace: Pace, limits: &Limits) -> Self {
        Boots { pace, node: Range { low_ms: limits.boot_low_ms, high_ms: limits.boot_high_ms } }
    }

    /// How long a step of so many nodes is expected to take: it waits for the slowest.
    pub(crate) fn step_ms(&self, size: usize) -> u64 {
        let Range { low_ms, high_ms } = self.node;
        match u64::from(self.pace.boots) {
            0 => {
                let size = size as u64;
                low_ms.saturating_add(
                    high_ms.saturating_sub(low_ms).saturating_mul(size) / size.saturating_add(1),
                )
            }
            boots => self.pace.total_ms / boots,
        }
    }

    /// How long each of many such steps takes. Of those that passed some may have taken a node that did not boot.
    fn each(&self, size: usize) -> Range {
        let expected = self.step_ms(size);
        // A node that does not boot costs an hour.
        let (less, more) = match u64::from(self.pace.boots) {
            0 => (21, 56),
            boots => (12 + 12 / boots, 25 + 35 / boots),
        };
        Range { low_ms: expected / 100 * (100 - less), high_ms: expected / 100 * (100 + more) }
    }

    /// How long one such step takes.
    fn one(&self, size: usize) -> Range {
        let each = self.each(size);
        if self.pace.boots == 0 {
            return each;
        }
        Range { low_ms: each.low_ms.min(self.pace.least_ms), high_ms: each.high_ms.max(self.pace.most_ms) }
    }
}

impl Range {
    fn plus(self, other: Range) -> Range {
        Range {
            low_ms: self.low_ms.saturating_add(other.low_ms),
            high_ms: self.high_ms.saturating_add(other.high_ms),
        }
    }

    fn times(self, count: u64) -> Range {
        Range { low_ms: self.low_ms.saturating_mul(count), high_ms: self.high_ms.saturating_mul(count) }
    }

    fn exactly(ms: u64) -> Range {
        Range { low_ms: ms, high_ms: ms }
    }

    /// What is left of it after so much time. What takes longer than expected may take longer still.
    fn after(self, ms: u64) -> Range {
        let more = ms / 4;
        Range {
            low_ms: self.low_ms.saturating_sub(ms),
            high_ms: self.high_ms.saturating_sub(ms).max(more.min(self.high_ms / 4)),
        }
    }
}

/// Waits of so many steps that are expected to take so long together: jobs end when they like, and the more there are the
/// better that evens out.
fn wait(expected_ms: u64, steps: u64) -> Range {
    let spread = 0.55 + 1.1 / (steps.max(1) as f64).sqrt();
    let expected = expected_ms as f64;
    Range { low_ms: (expected / (1.0 + spread)) as u64, high_ms: (expected * (1.0 + spread)) as u64 }
}

/// When a session is expected to end, at the earliest and at the latest, by what is stored of it: its head, and the nodes
/// of its step. `zone` are the clocks of its window's zone.
///
/// `None` for one that has not chosen its first nodes yet, is paused, or is to be deleted; and when it is not known, for
/// want of the zone, or too far away.
pub fn expected_end<'a>(
    head: &Head,
    step: impl IntoIterator<Item = &'a Node>,
    limits: &Limits,
    zone: Option<ZoneOffset>,
    now: Time,
) -> Option<(Time, Time)> {
    if head.phase != Phase::Rolling || head.pause.is_some() || head.deletion.is_some() {
        return None;
    }
    let outlook = head.outlook.as_ref()?;
    let boots = Boots::new(head.pace, limits);
    let full = usize::try_from(head.spec.step_size.get()).unwrap_or(usize::MAX);
    let size = full.min(head.counts.total());
    let chosen = outlook.step == head.step;
    let current = if chosen { current(head, outlook, step, &boots, limits, now) } else { Range::default() };
    let later = Later::of(head, outlook, &boots, limits, size, chosen);
    // A step that is under way, or that waits for nothing but its window.
    let begun = chosen && head.stage != Stage::Starting;
    let end = |of: fn(Range) -> u64| {
        let mut walk = Walk::new(head.spec.strategy.window.as_ref().map(|window| (window, zone)), now);
        if chosen && !begun {
            walk.open()?;
        }
        walk.time = walk.time + of(current);
        walk.steps(later.steps, of(later.all))
    };
    Some((end(|range| range.low_ms)?, end(|range| range.high_ms)?))
}

/// What is left of the step at work.
fn current<'a>(
    head: &Head,
    outlook: &Outlook,
    step: impl IntoIterator<Item = &'a Node>,
    boots: &Boots,
    limits: &Limits,
    now: Time,
) -> Range {
    let strategy = &head.spec.strategy;
    let canary = head.canaries < strategy.canary.len();
    let soak = strategy.soak_s.filter(|_| canary).map_or(0, |seconds| seconds.get().saturating_mul(1000));
    let size = match head.batch.len() {
        0 => usize::try_from(head.spec.step_size.get()).unwrap_or(usize::MAX),
        size => size,
    };
    let drain = |waited: u64| {
        let expected = wait(outlook.corrected(outlook.wait_ms).saturating_add(overhead(limits)), 1);
        if waited == 0 {
            return expected;
        }
        let Range { low_ms, high_ms } = expected.after(waited);
        // A job that runs on is the nearer to its limit, if it has one.
        let draining = step.into_iter().filter(|node| node.state == NodeState::Draining);
        let jobs: Vec<_> = draining.filter_map(|node| node.job.as_ref()).collect();
        if jobs.iter().any(|job| job.end.is_none()) {
            return Range { low_ms, high_ms };
        }
        let left = longest_ms(jobs.iter().filter_map(|job| job.end.map(FreeAt::By)), now);
        let left = left.saturating_add(overhead(limits));
        Range { low_ms: low_ms.min(left), high_ms: high_ms.max(left / 2).min(left.max(high_ms / 4)) }
    };
    match head.stage {
        Stage::Starting => drain(0).plus(boots.one(size)).plus(Range::exactly(soak)),
        Stage::Quiescing => {
            let waited = now.since(outlook.at).max(1);
            drain(waited).plus(boots.one(size)).plus(Range::exactly(soak))
        }
        Stage::Quiesced | Stage::Booting | Stage::Booted | Stage::WlmWaiting => {
            if let Some(until) = head.soak_until {
                return Range::exactly(until.since(now));
            }
            let booted = head.boot.as_ref().map_or(0, |boot| now.since(boot.intended));
            boots.one(size).after(booted).plus(Range::exactly(soak))
        }
        Stage::Cleanup => Range::default(),
    }
}

/// Between two steps, and until it is seen that jobs have ended.
pub(crate) fn overhead(limits: &Limits) -> u64 {
    limits.poll_ms.saturating_mul(2)
}

/// The steps after the one at work.
struct Later {
    steps: u32,
    all: Range,
}

impl Later {
    fn of(head: &Head, outlook: &Outlook, boots: &Boots, limits: &Limits, size: usize, chosen: bool) -> Self {
        let strategy = &head.spec.strategy;
        let steps = u64::from(outlook.steps);
        let boot = if steps == 1 { boots.one(size) } else { boots.each(size) };
        let waits = wait(
            outlook.corrected(outlook.later_ms).saturating_add(overhead(limits).saturating_mul(steps)),
            steps,
        );
        let mut all = waits.plus(boot.times(steps));
        // Those that were put off, and those that are tried again.
        let mut again = head.counts.deferred.div_ceil(size.max(1)) as u64;
        if strategy.retries > 0 {
            again += head.counts.failed.div_ceil(size.max(1)) as u64;
        }
        let timeout = strategy.drain_timeout_s.map_or(0, |seconds| seconds.get().saturating_mul(1000));
        let late = Range { low_ms: 0, high_ms: if head.counts.deferred > 0 { timeout } else { 0 } };
        all = all.plus(boots.one(size).times(again)).plus(late);
        let canaries = strategy.canary.len().saturating_sub(head.canaries + usize::from(chosen)) as u64;
        let soak = strategy.soak_s.map_or(0, |seconds| seconds.get().saturating_mul(1000));
        all = all.plus(Range::exactly(soak.saturating_mul(canaries.min(steps))));
        Later { steps: u32::try_from(steps + again).unwrap_or(u32::MAX), all }
    }
}

/// Time as it passes for a session that starts steps in its window alone.
pub(crate) struct Walk<'a> {
    window: Option<(&'a Window, Option<ZoneOffset>)>,
    pub(crate) time: Time,
    /// Until when the window is known to be open.
    open_until: Time,
    openings: u32,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(window: Option<(&'a Window, Option<ZoneOffset>)>, time: Time) -> Self {
        Walk { window, time, open_until: Time(0), openings: 0 }
    }

    /// Waits until a step may start. `None` when nobody knows when that is, or it was waited for too often.
    pub(crate) fn open(&mut self) -> Option<()> {
        let Some((window, zone)) = self.window else { return Some(()) };
        while self.time >= self.open_until {
            self.openings += 1;
            if self.openings > OPENINGS_MAX {
                return None;
            }
            match window.at(self.time, zone?) {
                Opening::Open(until) => self.open_until = until,
                Opening::Closed(until) => self.time = until,
            }
        }
        Some(())
    }

    /// Goes through so many steps that take so long together, each as long as any other. Returns their end.
    fn steps(mut self, steps: u32, ms: u64) -> Option<Time> {
        if self.window.is_none() {
            return Some(self.time + ms);
        }
        let steps = u64::from(steps);
        let mut done = 0;
        while done < steps {
            self.open()?;
            let each = (ms / steps).max(1);
            // As many as start before it closes.
            let fit = (self.open_until.since(self.time).div_ceil(each)).clamp(1, steps - done);
            self.time = self.time + each.saturating_mul(fit);
            done += fit;
        }
        Some(self.time)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::model::{Boot, Pause, PauseReason, Session, UpgradeId};
    use crate::names::BootSessionName;

    const MINUTE: u64 = 60_000;
    /// A Monday, 00:00 UTC.
    const MONDAY: Time = Time(4 * 24 * 60 * MINUTE);

    /// Ten nodes in steps of two; the first step was chosen now, and waits for a quarter of an hour.
    fn head() -> Head {
        let spec = crate::Spec {
            starting: "all".parse().unwrap(),
            upgrading: "up".parse().unwrap(),
            failed: "failed".parse().unwrap(),
            step_size: NonZeroU32::new(2).unwrap(),
            template: "image".parse().unwrap(),
            tenant: None,
            strategy: crate::Strategy::default(),
        };
        let id = UpgradeId(uuid::Uuid::from_u128(1));
        let mut head = Session::new(id, spec, "1", Limits::default(), MONDAY).head;
        head.phase = Phase::Rolling;
        head.stage = Stage::Quiescing;
        head.counts.pending = 8;
        head.counts.draining = 2;
        head.batch = vec![0, 1];
        let (wait_ms, later_ms) = (15 * MINUTE, 60 * MINUTE);
        head.outlook = Some(Outlook { at: MONDAY, wait_ms, steps: 4, later_ms, ..Outlook::default() });
        head
    }

    fn end(head: &Head, now: Time) -> Option<(Time, Time)> {
        expected_end(head, [], &Limits::default(), Some(ZoneOffset::UTC), now)
    }

    fn width((low, high): (Time, Time)) -> u64 {
        high.since(low)
    }

    #[test]
    fn the_range_holds_what_is_expected() {
        let mut head = head();
        head.stage = Stage::Starting;
        let (low, high) = end(&head, MONDAY).unwrap();
        let (low, high) = (low.since(MONDAY), high.since(MONDAY));
        // Waits of 75 minutes, and five boots of 11 minutes and 40 seconds.
        let expected = 75 * MINUTE + 5 * 35 * MINUTE / 3;
        assert!(
            low > expected / 2 && low < expected && high > expected && high < expected * 2,
            "{low} {high}"
        );
    }

    #[test]
    fn it_shrinks_as_steps_pass_and_more_is_known_of_boots() {
        let first = head();
        let mut second = head();
        second.step = 3;
        second.pace.note(12 * MINUTE);
        second.pace.note(13 * MINUTE);
        second.pace.note(12 * MINUTE);
        let outlook = second.outlook.as_mut().unwrap();
        outlook.step = 3;
        outlook.steps = 1;
        outlook.later_ms = 20 * MINUTE;
        let (before, after) = (end(&first, MONDAY).unwrap(), end(&second, MONDAY).unwrap());
        assert!(width(after) * 2 < width(before), "{before:?} {after:?}");
    }

    #[test]
    fn what_is_over_is_not_waited_for_again() {
        let mut head = head();
        head.outlook.as_mut().unwrap().steps = 0;
        head.outlook.as_mut().unwrap().later_ms = 0;
        let quiescing = end(&head, MONDAY).unwrap();
        head.stage = Stage::Booting;
        let name = BootSessionName::of(head.id.0, 0, 0);
        head.boot = Some(Boot {
            name,
            handle: None,
            before: None,
            intended: MONDAY,
            unanswered: None,
            begun: None,
            silent: Vec::new(),
        });
        let booting = end(&head, MONDAY).unwrap();
        assert!(booting.1 < quiescing.1, "{quiescing:?} {booting:?}");
        let later = MONDAY + 5 * MINUTE;
        assert!(end(&head, later).unwrap().0 >= booting.0, "it does not come nearer by waiting");
        assert!(end(&head, later).unwrap().1 <= booting.1 + MINUTE);
        head.soak_until = Some(MONDAY + 7 * MINUTE);
        assert_eq!(end(&head, later), Some((MONDAY + 7 * MINUTE, MONDAY + 7 * MINUTE)));
    }

    #[test]
    fn a_session_that_does_not_go_on_has_no_expected_end() {
        let mut paused = head();
        paused.pause = Some(Pause { since: MONDAY, why: PauseReason::Command, by: None });
        assert_eq!(end(&paused, MONDAY), None);
        let mut deleting = head();
        deleting.deletion = Some(MONDAY);
        assert_eq!(end(&deleting, MONDAY), None);
        let mut new = head();
        new.outlook = None;
        assert_eq!(end(&new, MONDAY), None);
        let mut done = head();
        done.phase = Phase::Done;
        assert_eq!(end(&done, MONDAY), None);
    }

    #[test]
    fn steps_wait_for_their_window() {
        let mut head = head();
        head.spec.strategy.window =
            serde_json::from_str(r#"{"time_zone":"UTC","open":[{"from":"22:00","to":"22:30"}]}"#).unwrap();
        // The step at work goes on; of the others two at most begin in half an hour.
        let (low, high) = end(&head, MONDAY).unwrap();
        let day = 24 * 60 * MINUTE;
        assert!(low > MONDAY + day + 22 * 60 * MINUTE && high < MONDAY + 5 * day, "{low} {high}");
        assert_eq!(expected_end(&head, [], &Limits::default(), None, MONDAY), None, "without the zone");
    }

    #[test]
    fn how_long_steps_wait_is_learned() {
        let mut outlook = Outlook { at: MONDAY, wait_ms: 60 * MINUTE, ..Outlook::default() };
        assert_eq!(outlook.corrected(60 * MINUTE), 60 * MINUTE);
        for _ in 0..5 {
            outlook.note_wait(MONDAY + 20 * MINUTE, &Limits::default());
        }
        assert!(outlook.corrected(60 * MINUTE) < 30 * MINUTE);
    }
}
