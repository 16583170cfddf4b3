//! The time zones of the simulated world: a few, by rules that are written here, so that a world is the same on every
//! system.

use crus_core::Time;
use crus_core::window::ZoneOffset;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The zones that are known, by their names in the IANA database, each with its rule as POSIX writes it.
pub const ZONES: [(&str, &str); 5] = [
    ("UTC", "UTC0"),
    ("America/New_York", "EST5EDT,M3.2.0,M11.1.0"),
    ("Asia/Kolkata", "IST-5:30"),
    ("Australia/Sydney", "AEST-10AEDT,M10.1.0,M4.1.0/3"),
    ("Europe/Zurich", "CET-1CEST,M3.5.0,M10.5.0/3"),
];

/// How far ahead the next change of a zone's clocks is looked for.
const AHEAD_MS: u64 = 14 * 24 * 3_600_000;

/// The clocks of one of the [`ZONES`] at this moment, and their next change within two weeks; `None` for another name.
pub fn zone(name: &str, at: Time) -> Option<ZoneOffset> {
    let (_, rule) = ZONES.iter().find(|(known, _)| *known == name)?;
    let zone = TimeZone::posix(rule).ok()?;
    let now = Timestamp::from_millisecond(i64::try_from(at.0).ok()?).ok()?;
    let next = zone.following(now).next().and_then(|change| {
        let when = u64::try_from(change.timestamp().as_millisecond()).ok()?;
        Some((Time(when), change.offset().seconds()))
    });
    let change = next.filter(|(when, _)| *when <= at + AHEAD_MS);
    Some(ZoneOffset { seconds: zone.to_offset(now).seconds(), change })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> Time {
        Time(text.parse::<Timestamp>().unwrap().as_millisecond().unsigned_abs())
    }

    #[test]
    fn clocks_are_set_when_the_rule_says_so() {
        for (name, at, seconds, change) in [
            ("UTC", "2026-03-29T00:00:00Z", 0, None),
            ("Asia/Kolkata", "2026-03-29T00:00:00Z", 19_800, None),
            ("Europe/Zurich", "2026-03-15T00:59:59Z", 3_600, None),
            ("Europe/Zurich", "2026-03-15T01:00:00Z", 3_600, Some(("2026-03-29T01:00:00Z", 7_200))),
            ("Europe/Zurich", "2026-03-29T01:00:00Z", 7_200, None),
            ("Australia/Sydney", "2026-04-01T00:00:00Z", 39_600, Some(("2026-04-04T16:00:00Z", 36_000))),
            ("America/New_York", "2026-10-25T00:00:00Z", -14_400, Some(("2026-11-01T06:00:00Z", -18_000))),
        ] {
            let change = change.map(|(at, seconds)| (time(at), seconds));
            assert_eq!(zone(name, time(at)), Some(ZoneOffset { seconds, change }), "{name} at {at}");
        }
        assert_eq!(zone("Europe/Berlin", time("2026-03-29T00:00:00Z")), None);
    }
}
