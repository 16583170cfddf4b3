//! Times of day and week in which steps may start.
//!
//! The core knows no time zones: a [`Clock`](crate::ports::Clock) tells by how much the clocks of a zone are ahead of
//! UTC, and when that changes next. What follows from it is worked out here.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::time::Time;

const DAY_MIN: u32 = 24 * 60;
const WEEK_MIN: u32 = 7 * DAY_MIN;
/// The most spans of a window.
pub const SPANS_MAX: usize = 16;

/// The times in which steps may start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// By the clocks of which zone: a name of the IANA time zone database, such as `Europe/Zurich` or `UTC`.
    pub time_zone: String,
    /// When it is open.
    pub open: Vec<Span>,
}

/// A span of the day, on some days of the week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// On which days it begins; none: on each.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub days: BTreeSet<Weekday>,
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends; not later than `from`: on the next day.
    pub to: TimeOfDay,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the days of the week")]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Weekday {
    /// All of them, from Monday on.
    pub const ALL: [Weekday; 7] =
        [Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri, Weekday::Sat, Weekday::Sun];

    /// Its English name, cut short: `Mon`.
    pub fn word(self) -> &'static str {
        match self {
            Weekday::Mon => "Mon",
            Weekday::Tue => "Tue",
            Weekday::Wed => "Wed",
            Weekday::Thu => "Thu",
            Weekday::Fri => "Fri",
            Weekday::Sat => "Sat",
            Weekday::Sun => "Sun",
        }
    }
}

/// A time of day, `00:00` to `24:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    minutes: u32,
}

/// Not a time of day.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a time of day from 00:00 to 24:00, such as 06:30")]
pub struct InvalidTimeOfDay;

impl FromStr for TimeOfDay {
    type Err = InvalidTimeOfDay;

    fn from_str(text: &str) -> Result<Self, InvalidTimeOfDay> {
        let number = |digits: &str| {
            let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u32>().ok()).flatten().ok_or(InvalidTimeOfDay)
        };
        let (hours, minutes) = text.split_once(':').ok_or(InvalidTimeOfDay)?;
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        if minutes >= 60 || hours * 60 + minutes > DAY_MIN {
            return Err(InvalidTimeOfDay);
        }
        Ok(TimeOfDay { minutes: hours * 60 + minutes })
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = InvalidTimeOfDay;
    fn try_from(text: String) -> Result<Self, InvalidTimeOfDay> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> String {
        time.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minutes / 60, self.minutes % 60)
    }
}

/// By how much the clocks of a zone are ahead of UTC, from some moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneOffset {
    /// In seconds; behind UTC it is negative.
    pub seconds: i32,
    /// When that changes next, and to what; `None`: not within two weeks.
    pub change: Option<(Time, i32)>,
}

impl ZoneOffset {
    /// Always the same.
    pub const UTC: ZoneOffset = ZoneOffset { seconds: 0, change: None };

    fn at(&self, time: Time) -> i32 {
        self.change.filter(|(change, _)| time >= *change).map_or(self.seconds, |(_, seconds)| seconds)
    }
}

/// Whether steps may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// They may, until then.
    Open(Time),
    /// They may not, until then.
    Closed(Time),
}

impl Window {
    /// What is wrong with it, as a clause.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.open.is_empty() {
            return Some(
                "must list at least one span in open, such as {\"from\": \"22:00\", \"to\": \"06:00\"}"
                    .into(),
            );
        }
        if self.open.len() > SPANS_MAX {
            return Some(format!("lists {} spans in open; it may list {SPANS_MAX}", self.open.len()));
        }
        let midnight = TimeOfDay { minutes: DAY_MIN };
        let begins_late = self.open.iter().any(|span| span.from == midnight);
        begins_late.then(|| "has a span from 24:00: write 00:00 of the next day".to_owned())
    }

    /// Whether the other one is open whenever this one is, by the clocks of the same zone.
    pub fn is_within(&self, other: &Window) -> bool {
        (0..WEEK_MIN).all(|minute| other.holds(minute) || !self.holds(minute))
    }

    /// Whether it is open at this moment, and until when that stays so: for a week at most. `zone` must hold at `now`.
    pub fn at(&self, now: Time, zone: ZoneOffset) -> Opening {
        let is_open = self.is_open(now, zone);
        let changes =
            self.moments_after(now, zone).into_iter().find(|then| self.is_open(*then, zone) != is_open);
        let until = changes.unwrap_or(now + u64::from(WEEK_MIN) * 60_000);
        if is_open { Opening::Open(until) } else { Opening::Closed(until) }
    }

    /// The moments of the next week at which anything can change, in order: a span begins or ends, or the zone's clocks
    /// are set.
    fn moments_after(&self, now: Time, zone: ZoneOffset) -> Vec<Time> {
        let set = zone.change.filter(|(change, _)| *change > now);
        let mut moments: Vec<Time> = set.iter().map(|(change, _)| *change).collect();
        let change = set.map_or(Time(u64::MAX), |(change, _)| change);
        let seconds_after = set.map_or(zone.at(now), |(_, seconds)| seconds);
        for span in &self.open {
            for edge in span.edges() {
                moments.push(next(edge, now, zone.at(now)));
                let later = next(edge, change.min(now + u64::from(WEEK_MIN) * 60_000), seconds_after);
                moments.push(later);
            }
        }
        moments.sort_unstable();
        moments.dedup();
        moments
    }

    fn is_open(&self, time: Time, zone: ZoneOffset) -> bool {
        let utc = i64::try_from(time.0 / 1000).unwrap_or(i64::MAX);
        let local = utc.saturating_add(i64::from(zone.at(time)));
        // 1970-01-01 was a Thursday; weeks begin on Monday here.
        let minute = (local.div_euclid(60) + i64::from(3 * DAY_MIN)).rem_euclid(i64::from(WEEK_MIN));
        let minute = u32::try_from(minute).unwrap_or_default();
        self.holds(minute)
    }

    /// Whether it is open in a minute of the week.
    fn holds(&self, minute: u32) -> bool {
        self.open.iter().any(|span| span.holds(minute))
    }
}

impl Span {
    /// The minutes of the week at which it begins or ends.
    fn edges(&self) -> impl Iterator<Item = u32> + '_ {
        let on_that_day = |(_, weekday): &(u32, Weekday)| self.days.is_empty() || self.days.contains(weekday);
        let days = (0..).zip(Weekday::ALL).filter(on_that_day);
        days.flat_map(|(day, _)| {
            let from = day * DAY_MIN + self.from.minutes;
            [from % WEEK_MIN, (from + self.length()) % WEEK_MIN]
        })
    }

    /// In minutes.
    fn length(&self) -> u32 {
        let (from, to) = (self.from.minutes, self.to.minutes);
        if to > from { to - from } else { to + DAY_MIN - from }
    }

    /// Whether a minute of the week is within it.
    fn holds(&self, minute: u32) -> bool {
        (0..).zip(Weekday::ALL).any(|(day, weekday)| {
            let on_that_day = self.days.is_empty() || self.days.contains(&weekday);
            on_that_day
                && (minute + 2 * WEEK_MIN - day * DAY_MIN - self.from.minutes) % WEEK_MIN < self.length()
        })
    }
}

/// When a minute of the week comes next by clocks that are so many seconds ahead of UTC.
fn next(minute: u32, after: Time, seconds: i32) -> Time {
    let local = i64::try_from(after.0 / 1000).unwrap_or(i64::MAX).saturating_add(i64::from(seconds));
    // 1970-01-01 was a Thursday; weeks begin on Monday here.
    let now = local.div_euclid(60).saturating_add(i64::from(3 * DAY_MIN));
    let ahead = (i64::from(minute) - now - 1).rem_euclid(i64::from(WEEK_MIN)) + 1;
    let then =
        local.div_euclid(60).saturating_add(ahead).saturating_mul(60).saturating_sub(i64::from(seconds));
    Time(u64::try_from(then).unwrap_or_default().saturating_mul(1000))
}

/// A moment by the clocks of a zone, as `Tue 22:00`.
pub(crate) fn local(time: Time, zone: ZoneOffset) -> String {
    let utc = i64::try_from(time.0 / 1000).unwrap_or(i64::MAX);
    let minutes = utc.saturating_add(i64::from(zone.at(time))).div_euclid(60);
    let day = (minutes.div_euclid(i64::from(DAY_MIN)) + 3).rem_euclid(7);
    let weekday = usize::try_from(day).ok().and_then(|day| Weekday::ALL.get(day).copied());
    let minute = minutes.rem_euclid(i64::from(DAY_MIN));
    format!("{} {:02}:{:02}", weekday.map_or("", Weekday::word), minute / 60, minute % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(open: &str) -> Window {
        serde_json::from_str(&format!(r#"{{"time_zone":"UTC","open":{open}}}"#)).unwrap()
    }

    /// Minutes after Monday, 1970-01-05, 00:00 UTC.
    fn monday(minutes: u64) -> Time {
        Time((4 * 24 * 60 + minutes) * 60_000)
    }

    #[test]
    fn a_span_goes_past_midnight_and_past_the_week() {
        let night = window(r#"[{"days":["sun"],"from":"22:00","to":"06:00"}]"#);
        assert_eq!(night.at(monday(0), ZoneOffset::UTC), Opening::Open(monday(360)));
        assert_eq!(night.at(monday(360), ZoneOffset::UTC), Opening::Closed(monday(6 * 1440 + 22 * 60)));
        assert_eq!(local(monday(6 * 1440 + 22 * 60), ZoneOffset::UTC), "Sun 22:00");
    }

    #[test]
    fn a_span_from_and_to_the_same_time_is_a_whole_day() {
        let always = window(r#"[{"from":"08:00","to":"08:00"}]"#);
        let Opening::Open(until) = always.at(monday(77), ZoneOffset::UTC) else { panic!() };
        assert!(until >= monday(77 + u64::from(WEEK_MIN)), "looked a week ahead");
        let day = window(r#"[{"days":["tue"],"from":"00:00","to":"24:00"}]"#);
        assert_eq!(day.at(monday(3), ZoneOffset::UTC), Opening::Closed(monday(1440)));
        assert_eq!(day.at(monday(1440), ZoneOffset::UTC), Opening::Open(monday(2880)));
    }

    #[test]
    fn the_clocks_of_the_zone_count_and_may_be_set_on_the_way() {
        let morning = window(r#"[{"from":"08:00","to":"09:00"}]"#);
        let east = ZoneOffset { seconds: 3600, change: None };
        assert_eq!(morning.at(monday(0), east), Opening::Closed(monday(7 * 60)));
        let summer = ZoneOffset { seconds: 3600, change: Some((monday(60), 7200)) };
        assert_eq!(morning.at(monday(0), summer), Opening::Closed(monday(6 * 60)));
        assert_eq!(local(monday(6 * 60), summer), "Mon 08:00");
    }

    /// Against going through the week minute by minute.
    #[test]
    fn the_next_change_is_the_first_minute_at_which_it_is_otherwise() {
        let windows = [
            r#"[{"days":["sun"],"from":"22:00","to":"06:00"}]"#,
            r#"[{"days":["mon","wed"],"from":"08:00","to":"09:30"},{"from":"09:00","to":"10:00"}]"#,
            r#"[{"from":"23:30","to":"00:30"},{"days":["sat"],"from":"00:00","to":"24:00"}]"#,
        ];
        for window in windows.map(window) {
            for start in (0..2 * u64::from(WEEK_MIN)).step_by(97) {
                for change in [None, Some((monday(start + 500), 7200)), Some((monday(start + 7), -3600))] {
                    let zone = ZoneOffset { seconds: 3600, change };
                    let (now, is_open) = (monday(start), window.is_open(monday(start), zone));
                    let minutes = (1..=u64::from(WEEK_MIN)).map(|minute| monday(start + minute));
                    let changes = minutes.into_iter().find(|then| window.is_open(*then, zone) != is_open);
                    let until = changes.unwrap();
                    let opening = if is_open { Opening::Open(until) } else { Opening::Closed(until) };
                    assert_eq!(window.at(now, zone), opening, "{window:?} at {start}, {zone:?}");
                }
            }
        }
    }

    #[test]
    fn a_window_lies_within_another_when_it_is_open_at_no_other_time() {
        let night = window(r#"[{"from":"22:00","to":"06:00"}]"#);
        for (open, is_within) in [
            (r#"[{"from":"22:00","to":"06:00"}]"#, true),
            (r#"[{"days":["sun"],"from":"23:00","to":"24:00"},{"from":"00:00","to":"05:00"}]"#, true),
            (r#"[{"days":["sun"],"from":"22:00","to":"06:01"}]"#, false),
            (r#"[{"from":"21:59","to":"22:30"}]"#, false),
            (r#"[{"from":"00:00","to":"00:00"}]"#, false),
        ] {
            assert_eq!(window(open).is_within(&night), is_within, "{open}");
        }
    }

    #[test]
    fn times_of_day_are_written_in_one_way() {
        for wrong in ["6:00", "06:60", "24:01", "25:00", "0600", "06:00:00", "+1:00", ""] {
            assert!(wrong.parse::<TimeOfDay>().is_err(), "{wrong}");
        }
        assert_eq!("24:00".parse::<TimeOfDay>().unwrap().to_string(), "24:00");
    }
}
