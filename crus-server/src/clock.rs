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

    fn zone(&self, name: &str, at: Time) -> Option<ZoneOffset> {
        self.zones.at(name, at)
    }
}

fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
