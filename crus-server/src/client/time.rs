//! Times and durations for people. Times are UTC, as everywhere in the service.

use jiff::Timestamp;

use super::views::Expected;

/// `2 h 5 min`, `12 min`, `45 s`.
pub(crate) fn duration(seconds: f64) -> String {
    // Saturates; a negative one is none.
    let seconds = seconds.round() as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, 0) => format!("{hours} h"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, 0, _) => format!("{days} d"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// Seconds from `now` to a time; negative when it is over.
pub(crate) fn from_now(now: Timestamp, time: &str) -> Option<f64> {
    let time: Timestamp = time.parse().ok()?;
    Some((time.as_millisecond() - now.as_millisecond()) as f64 / 1000.0)
}

/// `10:40:12`, and the date before it unless it is today's.
pub(crate) fn clock(now: Timestamp, time: &str) -> String {
    let Ok(parsed) = time.parse::<Timestamp>() else { return time.to_owned() };
    let (text, today) = (parsed.to_string(), now.to_string());
    let (Some((date, of_day)), Some((this, _))) = (text.split_once('T'), today.split_once('T')) else {
        return text;
    };
    let of_day = of_day.get(..8).unwrap_or(of_day);
    if date == this { of_day.to_owned() } else { format!("{date} {of_day}") }
}

/// `10:40:12 UTC (in 9 min)`.
pub(crate) fn moment(now: Timestamp, time: &str) -> String {
    let away = match from_now(now, time) {
        Some(seconds) if seconds >= 1.0 => format!(" (in {})", duration(seconds)),
        Some(_) => " (now due)".to_owned(),
        None => String::new(),
    };
    format!("{} UTC{away}", clock(now, time))
}

/// When an upgrade is expected to end, with its range.
pub(crate) fn expected(now: Timestamp, expected: &Expected) -> Option<String> {
    match (&expected.low, &expected.high) {
        (None, None) => None,
        (Some(low), None) => Some(format!("not before {}", moment(now, low))),
        (None, Some(high)) => Some(format!("by {}", moment(now, high))),
        (Some(low), Some(high)) => {
            let range = format!("{} to {} UTC", clock(now, low), clock(now, high));
            match (from_now(now, low), from_now(now, high)) {
                (Some(low), Some(high)) if high >= 1.0 => {
                    Some(format!("{range} (in {} to {})", duration(low.max(0.0)), duration(high)))
                }
                (Some(_), Some(_)) => Some(format!("{range} (now due)")),
                _ => Some(range),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-24T10:30:00Z".parse().unwrap()
    }

    #[test]
    fn durations_have_two_parts_at_most() {
        let texts = [(0.0, "0 s"), (59.4, "59 s"), (60.0, "1 min"), (3600.0, "1 h"), (7500.0, "2 h 5 min")];
        for (seconds, text) in [texts.as_slice(), &[(90_000.0, "1 d 1 h"), (172_800.0, "2 d")]].concat() {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn a_moment_is_of_today_unless_it_says_so() {
        assert_eq!(moment(now(), "2026-11-24T10:40:12.500Z"), "10:40:12 UTC (in 10 min)");
        assert_eq!(moment(now(), "2026-11-25T00:00:00Z"), "2026-11-25 00:00:00 UTC (in 13 h 30 min)");
        assert_eq!(moment(now(), "2026-11-24T10:00:00Z"), "10:00:00 UTC (now due)");
        assert_eq!(moment(now(), "soon"), "soon UTC");
    }

    #[test]
    fn an_end_has_a_range() {
        let range = |low: Option<&str>, high: Option<&str>| {
            let end = Expected { low: low.map(str::to_owned), high: high.map(str::to_owned) };
            expected(now(), &end)
        };
        assert_eq!(range(None, None), None);
        let both = range(Some("2026-11-24T10:40:00Z"), Some("2026-11-24T12:30:00Z"));
        assert_eq!(both.as_deref(), Some("10:40:00 to 12:30:00 UTC (in 10 min to 2 h)"));
        let open = range(Some("2026-11-24T10:40:00Z"), None);
        assert_eq!(open.as_deref(), Some("not before 10:40:00 UTC (in 10 min)"));
    }
}
