//! The service's clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crus_core::Time;
use crus_core::ports::Clock;
use crus_core::window::ZoneOffset;

use crate::zones::Zones;

/// The system's time at the start, and from then on a clock that nobody can set: a step of the system's time
/// neither ends a time-out early nor puts it off.
#[derive(Debug)]
pub struct SteadyClock {
    start: Time,
    since: Instant,
    zones: Zones,
}

impl SteadyClock {
    /// Reads the system's time.
    pub fn new() -> Self {
        // A system that thinks it is before 1970 has no time to tell.
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        SteadyClock { start: Time(milliseconds(since_1970)), since: Instant::now(), zones: Zones::new() }
    }
}

impl Default for SteadyClock {
    fn default() -> Self {
        SteadyClock::new()
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Time {
        self.start + milliseconds(self.since.elapsed())
    }

    /// A window is opened by the clocks on the wall, not by this one: where the system's time was set since the start,
    /// the zone is ahead by as much more.
    fn zone(&self, name: &str, at: Time) -> Option<ZoneOffset> {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(at, |since| Time(milliseconds(since)));
        let ahead_ms = i128::from(wall.0) - i128::from(self.now().0);
        zone_by(at, ahead_ms, |then| self.zones.at(name, then))
    }
}

/// The clocks of a zone as seen by a clock that the system's time is ahead of by so much.
fn zone_by(at: Time, ahead_ms: i128, zone: impl FnOnce(Time) -> Option<ZoneOffset>) -> Option<ZoneOffset> {
    // Less than that is the pace at which clocks are kept right.
    let ahead_ms = if ahead_ms.unsigned_abs() < 2_000 { 0 } else { ahead_ms };
    let wall =
        |time: Time, by: i128| Time(u64::try_from((i128::from(time.0) + by).max(0)).unwrap_or(u64::MAX));
    let seconds = i32::try_from(ahead_ms / 1000).ok()?;
    let zone = zone(wall(at, ahead_ms))?;
    Some(ZoneOffset {
        seconds: zone.seconds.saturating_add(seconds),
        change: zone.change.map(|(when, to)| (wall(when, -ahead_ms), to.saturating_add(seconds))),
    })
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_follows_the_clock_on_the_wall_when_that_was_set() {
        let zone = |at: Time| {
            assert_eq!(at, Time(1_000_000 + 3_600_000));
            Some(ZoneOffset { seconds: 7_200, change: Some((Time(9_000_000), 3_600)) })
        };
        let seen = zone_by(Time(1_000_000), 3_600_000, zone).unwrap();
        assert_eq!(seen, ZoneOffset { seconds: 10_800, change: Some((Time(5_400_000), 7_200)) });
        let right =
            zone_by(Time(5), -900, |at| Some(ZoneOffset { seconds: i32::from(at == Time(5)), change: None }));
        assert_eq!(right.map(|zone| zone.seconds), Some(1), "small steps are nothing");
    }
}
