//! Time zones, by the IANA database.

use crus_core::Time;
use crus_core::window::ZoneOffset;
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

/// How far ahead the next change of a zone's clocks is looked for.
const AHEAD_MS: u64 = 14 * 24 * 3_600_000;

/// The longest name that is looked up. That of the longest zone has 32 characters.
const NAME_MAX: usize = 64;

/// The time zones that are known here: those of the system, which its administrators keep up to date, and those of the
/// database in this program, for systems that have none, such as small containers.
#[derive(Debug)]
pub(crate) struct Zones {
    system: TimeZoneDatabase,
    bundled: TimeZoneDatabase,
}

impl Zones {
    /// Finds the system's database: where `TZDIR` says, or in the usual places.
    pub(crate) fn new() -> Self {
        Zones { system: TimeZoneDatabase::from_env(), bundled: TimeZoneDatabase::bundled() }
    }

    /// The clocks of a zone at this moment, and their next change within two weeks; `None` when no zone has just this
    /// name.
    pub(crate) fn at(&self, name: &str, at: Time) -> Option<ZoneOffset> {
        if !is_name(name) {
            return None;
        }
        let find = |database: &TimeZoneDatabase| {
            // It takes names in any case, and has one of its own for what nobody knows.
            let is_it = |zone: &TimeZone| zone.iana_name() == Some(name) && !zone.is_unknown();
            database.get(name).ok().filter(is_it)
        };
        let zone = find(&self.system).or_else(|| find(&self.bundled))?;
        let now = Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
        let seconds = zone.to_offset(now).seconds();
        let within = |at_ms: &Time| *at_ms <= at + AHEAD_MS;
        let change = zone
            .following(now)
            .map_while(|transition| {
                let when = u64::try_from(transition.timestamp().as_millisecond()).ok()?;
                Some((Time(when), transition.offset().seconds())).filter(|(when, _)| within(when))
            })
            // Some change only how the clocks' time is called.
            .find(|(_, to)| *to != seconds);
        Some(ZoneOffset { seconds, change })
    }
}

/// Whether it looks like a name of the database: never a path that leads out of it, nor one of the copies of it that
/// count leap seconds or stand for the system's own zone.
fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "_+-".contains(c))
    };
    let alone = ["posix", "right", "localtime", "posixrules", "Factory"];
    name.len() <= NAME_MAX
        && name.split('/').all(is_part)
        && name.split('/').next().is_some_and(|first| !alone.contains(&first))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i32 = 3_600;

    fn time(text: &str) -> Time {
        Time(text.parse::<Timestamp>().unwrap().as_millisecond().unsigned_abs())
    }

    /// Each must hold with the system's database, and without one.
    fn both() -> [Zones; 2] {
        let bundled = TimeZoneDatabase::bundled;
        [Zones::new(), Zones { system: TimeZoneDatabase::none(), bundled: bundled() }]
    }

    #[track_caller]
    fn is(name: &str, at: &str, seconds: i32, change: Option<(&str, i32)>) {
        let change = change.map(|(at, seconds)| (time(at), seconds));
        for zones in both() {
            assert_eq!(zones.at(name, time(at)), Some(ZoneOffset { seconds, change }), "{name} at {at}");
        }
    }

    #[test]
    fn clocks_that_are_set_in_spring_and_autumn_are_told_two_weeks_ahead() {
        let (zurich, spring, autumn) = ("Europe/Zurich", "2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z");
        is(zurich, "2026-03-15T00:59:59Z", HOUR, None);
        is(zurich, "2026-03-15T01:00:00Z", HOUR, Some((spring, 2 * HOUR)));
        is(zurich, "2026-03-29T00:59:59.999Z", HOUR, Some((spring, 2 * HOUR)));
        is(zurich, spring, 2 * HOUR, None);
        is(zurich, "2026-07-01T00:00:00Z", 2 * HOUR, None);
        is(zurich, "2026-10-25T00:59:59Z", 2 * HOUR, Some((autumn, HOUR)));
        is(zurich, autumn, HOUR, None);
        // Long after the last year that a database lists: by its rule.
        is(zurich, "2061-03-20T00:00:00Z", HOUR, Some(("2061-03-27T01:00:00Z", 2 * HOUR)));
    }

    #[test]
    fn in_the_south_summer_is_in_winter() {
        let (sydney, ends, begins) = ("Australia/Sydney", "2026-04-04T16:00:00Z", "2026-10-03T16:00:00Z");
        is(sydney, "2026-01-01T00:00:00Z", 11 * HOUR, None);
        is(sydney, "2026-04-01T00:00:00Z", 11 * HOUR, Some((ends, 10 * HOUR)));
        is(sydney, ends, 10 * HOUR, None);
        is(sydney, "2026-10-03T15:59:59Z", 10 * HOUR, Some((begins, 11 * HOUR)));
        is(sydney, begins, 11 * HOUR, None);
    }

    #[test]
    fn zones_without_summer_time_never_change() {
        is("UTC", "2026-03-29T00:00:00Z", 0, None);
        is("Etc/UTC", "2026-03-29T00:00:00Z", 0, None);
        is("Asia/Kolkata", "2026-03-29T00:00:00Z", 5 * HOUR + 1_800, None);
        is("America/Argentina/Buenos_Aires", "2026-10-20T00:00:00Z", -3 * HOUR, None);
        is("Etc/GMT+7", "2026-10-20T00:00:00Z", -7 * HOUR, None);
    }

    #[test]
    fn what_is_no_name_of_a_zone_is_none() {
        for name in [
            "",
            " ",
            "Europe",
            "Europe/",
            "/Europe/Zurich",
            "Europe//Zurich",
            "europe/zurich",
            "Europe/Zurich ",
            "Europe/Atlantis",
            "..",
            "../Europe/Zurich",
            "Europe/../UTC",
            "/etc/localtime",
            "./UTC",
            "UTC\0",
            "CET-1CEST",
            "posix/Europe/Zurich",
            "right/Europe/Zurich",
            "localtime",
            "posixrules",
            "Factory",
            "Etc/Unknown",
            "tzdata.zi",
            "zone.tab",
            "Ëurope/Zurich",
            &"A".repeat(100_000),
        ] {
            for zones in both() {
                assert_eq!(zones.at(name, time("2026-01-01T00:00:00Z")), None, "{name:?}");
            }
        }
    }

    #[test]
    fn no_moment_is_too_far() {
        for at in [Time(0), Time(u64::MAX), Time(253_402_300_799_999)] {
            for zones in both() {
                // An answer or none, either is well.
                let offset = zones.at("Europe/Zurich", at);
                assert!(offset.is_none_or(|offset| offset.seconds.abs() <= 2 * HOUR), "{offset:?}");
            }
        }
    }
}
