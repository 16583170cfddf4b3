//! Times as integers: the core is given the time, it never asks for it.

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// A moment of the service's own clock: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(pub u64);

impl Time {
    /// The time of day in UTC, as `10:31:07`.
    pub fn time_of_day(self) -> String {
        let seconds = self.0 / 1000 % 86_400;
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }

    /// In UTC, by the form of RFC 3339: `2026-11-24T10:31:07.123Z`.
    pub fn rfc3339(self) -> String {
        // Days since 0000-03-01: with years from March on, the leap day is the last day of a year.
        let day = self.0 / 86_400_000 + 719_468;
        let (era, day) = (day / 146_097, day % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day_of_year = day - (365 * year + year / 4 - year / 100);
        let months = (5 * day_of_year + 2) / 153;
        let day_of_month = day_of_year - (153 * months + 2) / 5 + 1;
        let (month, next_year) = if months < 10 { (months + 3, 0) } else { (months - 9, 1) };
        let year = era * 400 + year + next_year;
        format!("{year:04}-{month:02}-{day_of_month:02}T{}.{:03}Z", self.time_of_day(), self.0 % 1000)
    }

    /// Milliseconds from `earlier` to `self`; 0 when the clock went backwards.
    pub fn since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// `time + ms`, saturating.
impl Add<u64> for Time {
    type Output = Time;
    fn add(self, ms: u64) -> Time {
        Time(self.0.saturating_add(ms))
    }
}

/// `time - ms`, saturating.
impl Sub<u64> for Time {
    type Output = Time;
    fn sub(self, ms: u64) -> Time {
        Time(self.0.saturating_sub(ms))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// A moment of the workload manager's clock, in seconds. Compared only with others of its kind: that clock
/// and ours need not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WlmTime(pub i64);

impl WlmTime {
    /// The same moment if both clocks agree: for people to see.
    pub fn as_time(self) -> Time {
        Time(u64::try_from(self.0).unwrap_or_default().saturating_mul(1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (1_735_689_600, "2025-01-01T00:00:00.000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(Time(seconds * 1000).rfc3339(), date);
        }
        assert_eq!(Time(1_795_516_267_123).rfc3339(), "2026-11-24T10:31:07.123Z");
        assert!(Time(u64::MAX).rfc3339().ends_with('Z'));
    }

    /// Each day is the one after the day before.
    #[test]
    fn no_day_is_left_out_or_said_twice() {
        let mut expected = (1970, 1, 1);
        for day in 0..200_000 {
            let (year, month, date) = expected;
            assert!(
                Time(day * 86_400_000).rfc3339().starts_with(&format!("{year:04}-{month:02}-{date:02}T")),
                "{day}"
            );
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (month, date) {
                (12, 31) => (year + 1, 1, 1),
                (_, date) if date == length => (year, month + 1, 1),
                _ => (year, month, date + 1),
            };
        }
    }
}
