//! The strategy of an upgrade as options: one for each of the strategy's, and a file for all.
//!
//! What is given is sent, and nothing else: what is left out is as the site has it, and only the service knows whether
//! all of it together makes sense.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueHint};
use crus_api::request::MAX_STEP_SIZE;
use crus_core::strategy::{Amount, RETRIES_MAX};
use crus_core::window::{Span, TimeOfDay, Weekday, Window};
use crus_core::{CheckName, PartitionName};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::error::ClientError;

/// Switches a default of the site off.
const NONE: &str = "none";

/// How the upgrade goes about its nodes. What is left out is as the site has it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Strategy (what is left out is as the site has it; none switches that off)")]
pub(crate) struct StrategyArgs {
    /// File with a strategy as TOML or JSON, its options named as here with _ for -. Options given beside it win.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    strategy: Option<PathBuf>,
    /// How many nodes may fail, as a number or a percentage of all. With one more the session pauses before another
    /// node is touched.
    #[arg(long, value_name = "AMOUNT", allow_negative_numbers = true, value_parser = one::<Amount>)]
    max_failed: Option<Value>,
    /// Likewise of one step, as a number or a percentage of its nodes.
    #[arg(long, value_name = "AMOUNT", allow_negative_numbers = true, value_parser = one::<Amount>)]
    max_failed_step: Option<Value>,
    /// Sizes of the first steps, such as 1,5; the later ones have the full size.
    #[arg(long, value_name = "SIZES", allow_negative_numbers = true, value_parser = sizes)]
    canary: Option<Value>,
    /// How long the nodes of a canary step must stay up and in service before the session goes on.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = whole)]
    soak_s: Option<Value>,
    /// How long the jobs on a drained node may take to end.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = whole)]
    drain_timeout_s: Option<Value>,
    /// What happens to a node that takes longer: wait says so and waits on; skip gives it back untouched; requeue and
    /// cancel do that to its jobs; later gives it back and tries it once more at the end.
    #[arg(long, value_name = "ACTION", value_parser = ["wait", "skip", "requeue", "cancel", "later"])]
    on_drain_timeout: Option<String>,
    /// Which nodes a step takes first: soonest_free those that Slurm expects to be free first; name by xname; spread no
    /// more than --max-per-domain of a domain at a time; pack whole domains together.
    #[arg(long, value_name = "ORDER", value_parser = ["soonest_free", "name", "spread", "pack"])]
    order: Option<String>,
    /// What shares power or cooling, and may fail together.
    #[arg(long, value_name = "PART", value_parser = ["cabinet", "chassis", "slot", "board"])]
    domain: Option<String>,
    /// How many nodes of one domain may be in flight.
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, value_parser = whole)]
    max_per_domain: Option<Value>,
    /// How many nodes of a partition must stay in service, as a number or a percentage: batch=90%. May be given for
    /// several partitions.
    #[arg(long, value_name = "PARTITION=AMOUNT", value_parser = floor)]
    min_in_service: Vec<Option<(PartitionName, Amount)>>,
    /// When steps may start, by the clocks of a time zone: 'Europe/Zurich mon-fri 22:00-06:00', 'UTC sat,sun
    /// 00:00-24:00', 'UTC 22:00-06:00'. May be given several times, for one zone.
    #[arg(long, value_name = "WINDOW", value_parser = window_or_none)]
    window: Vec<Option<Window>>,
    /// How often a node that failed to boot is tried again, in steps at the end.
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, value_parser = retries)]
    retries: Option<u32>,
    /// Program that judges each node before it returns to service, by its name in the service's configuration.
    #[arg(long, value_name = "NAME", value_parser = one::<CheckName>)]
    check_command: Option<Value>,
}

impl StrategyArgs {
    /// The strategy that was asked for, as the API takes it.
    ///
    /// # Errors
    /// When the file is none, or an option that may be given several times contradicts itself.
    pub(crate) fn read(&self) -> Result<Map<String, Value>, ClientError> {
        let mut strategy = match &self.strategy {
            Some(path) => file(path)?,
            None => Map::new(),
        };
        let word = |word: &Option<String>| word.as_ref().map(|word| json!(word));
        let given = [
            ("max_failed", self.max_failed.clone()),
            ("max_failed_step", self.max_failed_step.clone()),
            ("canary", self.canary.clone()),
            ("soak_s", self.soak_s.clone()),
            ("drain_timeout_s", self.drain_timeout_s.clone()),
            ("on_drain_timeout", word(&self.on_drain_timeout)),
            ("order", word(&self.order)),
            ("domain", word(&self.domain)),
            ("max_per_domain", self.max_per_domain.clone()),
            ("min_in_service", floors(&self.min_in_service)?),
            ("window", windows(&self.window)?),
            ("retries", self.retries.map(|retries| json!(retries))),
            ("check_command", self.check_command.clone()),
        ];
        for (name, value) in given {
            strategy.extend(value.map(|value| (name.to_owned(), value)));
        }
        Ok(strategy)
    }
}

/// The option that a property of the API is given by, and which part of its value.
pub(crate) fn flag(property: &str) -> String {
    let whole = property.strip_prefix("strategy.").unwrap_or(property);
    let (name, part) = whole.split_at(whole.find(['.', '[']).unwrap_or(whole.len()));
    let option = format!("--{}", name.replace('_', "-"));
    if part.is_empty() { option } else { format!("{option}: {}", part.trim_start_matches('.')) }
}

/// What is wrong with a property, in the words of the options: `needs canary: …` is `needs --canary: …` here.
pub(crate) fn in_options(reason: &str) -> String {
    let needed = reason.strip_prefix("needs ").and_then(|rest| rest.split_once(':'));
    match needed {
        Some((name, why)) if !name.contains(' ') => format!("needs {}:{why}", flag(name)),
        _ => reason.to_owned(),
    }
}

/// A window as the options that ask for it.
pub(crate) fn window_words(window: &Window) -> String {
    let spans = window.open.iter().map(|span| {
        let days: Vec<(usize, Weekday)> =
            Weekday::ALL.into_iter().enumerate().filter(|(_, day)| span.days.contains(day)).collect();
        let word = |(_, day): &(usize, Weekday)| day.word().to_ascii_lowercase();
        let runs = days.chunk_by(|(first, _), (second, _)| first + 1 == *second).map(|run| match run {
            [first, .., last] => format!("{}-{}", word(first), word(last)),
            _ => run.iter().map(word).collect(),
        });
        let days = runs.collect::<Vec<_>>().join(",");
        let space = if days.is_empty() { "" } else { " " };
        format!("'{} {days}{space}{}-{}'", window.time_zone, span.from, span.to)
    });
    spans.collect::<Vec<_>>().join(" ")
}

fn file(path: &Path) -> Result<Map<String, Value>, ClientError> {
    let wrong =
        |why: &dyn std::fmt::Display| ClientError::usage(format!("--strategy {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).map_err(|error| wrong(&error))
    } else {
        toml::from_str(&text).map_err(|error| wrong(&error.message()))
    }
}

/// A value as the API has it, or none.
fn one<T>(text: &str) -> Result<Value, String>
where
    T: FromStr<Err: std::fmt::Display> + Serialize,
{
    if text == NONE {
        return Ok(Value::Null);
    }
    let value: T = text.parse().map_err(|error| format!("{error}"))?;
    serde_json::to_value(value).map_err(|error| error.to_string())
}

/// A whole number that is not 0, or none.
fn whole(text: &str) -> Result<Value, String> {
    if text == NONE {
        return Ok(Value::Null);
    }
    match text.parse::<u64>() {
        Ok(number) if number > 0 => Ok(json!(number)),
        _ => Err("must be a whole number from 1".to_owned()),
    }
}

/// How many nodes a step has. Which numbers may be is for the service to say.
pub(crate) fn step_size(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("must be a whole number from 1 to {MAX_STEP_SIZE}"))
}

fn retries(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("must be a whole number from 0 to {RETRIES_MAX}"))
}

fn sizes(text: &str) -> Result<Value, String> {
    if text == NONE {
        return Ok(json!([]));
    }
    text.split(',').map(|size| whole(size.trim())).collect()
}

fn floor(text: &str) -> Result<Option<(PartitionName, Amount)>, String> {
    if text == NONE {
        return Ok(None);
    }
    let (partition, amount) =
        text.rsplit_once('=').ok_or("must be a partition and an amount, such as batch=90%")?;
    let partition = partition.parse().map_err(|error| format!("{error}"))?;
    Ok(Some((partition, amount.parse().map_err(|error| format!("{error}"))?)))
}

fn floors(given: &[Option<(PartitionName, Amount)>]) -> Result<Option<Value>, ClientError> {
    let mut floors = Map::new();
    for (partition, amount) in given.iter().flatten() {
        if floors.insert(partition.to_string(), json!(amount)).is_some() {
            return Err(ClientError::usage(format!(
                "--min-in-service names the partition {partition} twice; name each once"
            )));
        }
    }
    together("--min-in-service", given, json!({}), || Value::Object(floors))
}

fn windows(given: &[Option<Window>]) -> Result<Option<Value>, ClientError> {
    let mut all: Option<Window> = None;
    for window in given.iter().flatten() {
        match &mut all {
            None => all = Some(window.clone()),
            Some(all) if all.time_zone == window.time_zone => all.open.extend(window.open.iter().cloned()),
            Some(all) => {
                return Err(ClientError::usage(format!(
                    "--window names the time zones {} and {}; give all windows in one",
                    all.time_zone, window.time_zone
                )));
            }
        }
    }
    together("--window", given, Value::Null, || json!(all))
}

/// What was given several times as one value; `none` stands alone.
fn together<T>(
    option: &str,
    given: &[Option<T>],
    none: Value,
    value: impl FnOnce() -> Value,
) -> Result<Option<Value>, ClientError> {
    match given {
        [] => Ok(None),
        [None] => Ok(Some(none)),
        given if given.iter().all(Option::is_some) => Ok(Some(value())),
        _ => Err(ClientError::usage(format!("{option} is {NONE} and something else; give one of them"))),
    }
}

fn window_or_none(text: &str) -> Result<Option<Window>, String> {
    if text == NONE { Ok(None) } else { window(text).map(Some) }
}

/// `ZONE [DAYS] FROM-TO`.
fn window(text: &str) -> Result<Window, String> {
    const RIGHT: &str = "must be a time zone, days and times, such as 'Europe/Zurich mon-fri 22:00-06:00'; without days it is each day";
    let words: Vec<&str> = text.split_whitespace().collect();
    let (zone, days, times) = match words.as_slice() {
        [zone, times] => (zone, None, times),
        [zone, days, times] => (zone, Some(*days), times),
        _ => return Err(RIGHT.to_owned()),
    };
    let (from, to) = times.split_once('-').ok_or(RIGHT)?;
    let time = |text: &str| text.parse::<TimeOfDay>().map_err(|error| format!("{text}: {error}"));
    let mut open = Span { days: Default::default(), from: time(from)?, to: time(to)? };
    for range in days.into_iter().flat_map(|days| days.split(',')) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (day(first)?, day(last)?);
        // `fri-mon` goes past the end of the week.
        let count = (last + 7 - first) % 7;
        open.days.extend(Weekday::ALL.into_iter().cycle().skip(first).take(count + 1));
    }
    Ok(Window { time_zone: (*zone).to_owned(), open: vec![open] })
}

fn day(text: &str) -> Result<usize, String> {
    let known = Weekday::ALL.into_iter().position(|day| day.word().eq_ignore_ascii_case(text));
    known.ok_or_else(|| format!("{text} is no day: days are mon, tue, wed, thu, fri, sat and sun"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use crus_core::Strategy;
    use std::io::Write;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        strategy: StrategyArgs,
    }

    fn read(arguments: &[&str]) -> Result<Value, String> {
        let line = Line::try_parse_from(std::iter::once(&"crus").chain(arguments));
        let strategy = line.map_err(|error| error.to_string())?.strategy.read();
        strategy.map(Value::Object).map_err(|error| error.to_string())
    }

    /// Every option that the API has, so that one that is added there is missed here.
    const ALL: &str = r#"{"max_failed":"2%","max_failed_step":1,"canary":[1,5],"soak_s":60,"drain_timeout_s":3600,"on_drain_timeout":"later","order":"spread","domain":"cabinet","max_per_domain":2,"min_in_service":{"batch":"90%","debug":3},"window":{"time_zone":"Europe/Zurich","open":[{"days":["mon","tue","wed","thu","fri"],"from":"22:00","to":"06:00"},{"from":"12:00","to":"13:00"}]},"retries":1,"check_command":"health"}"#;

    #[test]
    fn each_option_of_a_strategy_has_one_here() {
        let given = read(&[
            "--max-failed=2%",
            "--max-failed-step=1",
            "--canary=1,5",
            "--soak-s=60",
            "--drain-timeout-s=3600",
            "--on-drain-timeout=later",
            "--order=spread",
            "--domain=cabinet",
            "--max-per-domain=2",
            "--min-in-service=batch=90%",
            "--min-in-service=debug=3",
            "--window=Europe/Zurich mon-fri 22:00-06:00",
            "--window=Europe/Zurich 12:00-13:00",
            "--retries=1",
            "--check-command=health",
        ])
        .unwrap();
        let strategy: Strategy = serde_json::from_str(ALL).unwrap();
        assert_eq!(given, json!(strategy));
        // Written out in full, so that an option that the strategy gains fails to compile here.
        let Strategy {
            max_failed: _,
            max_failed_step: _,
            canary: _,
            soak_s: _,
            drain_timeout_s: _,
            on_drain_timeout: _,
            order: _,
            domain: _,
            max_per_domain: _,
            min_in_service: _,
            window: _,
            retries: _,
            check_command: _,
        } = strategy;
    }

    #[test]
    fn a_file_holds_all_of_it_and_options_beside_it_win() {
        let all: Strategy = serde_json::from_str(ALL).unwrap();
        for text in [ALL.to_owned(), toml::to_string(&all).unwrap()] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let path = file.path().to_str().unwrap();
            assert_eq!(read(&["--strategy", path]).unwrap(), json!(all), "{text}");
            let other = read(&["--strategy", path, "--max-failed", "0", "--canary", "3"]).unwrap();
            assert_eq!(other["max_failed"], 0);
            assert_eq!(other["canary"], json!([3]));
            assert_eq!(other["retries"], 1);
        }
        let error = read(&["--strategy", "/nowhere/strategy.toml"]).unwrap_err();
        assert!(error.starts_with("--strategy /nowhere/strategy.toml: No such file"), "{error}");
    }

    /// A site has defaults: what is like nothing in particular may be another thing than they are.
    #[test]
    fn what_is_given_is_sent_and_nothing_else() {
        assert_eq!(read(&[]).unwrap(), json!({}));
        let plain = ["--retries", "0", "--on-drain-timeout", "wait", "--domain", "chassis", "--soak-s", "5"];
        let sent = json!({ "retries": 0, "on_drain_timeout": "wait", "domain": "chassis", "soak_s": 5 });
        assert_eq!(read(&plain).unwrap(), sent);
        let none =
            ["--max-failed", "none", "--canary", "none", "--min-in-service", "none", "--window", "none"];
        let off = json!({ "max_failed": null, "canary": [], "min_in_service": {}, "window": null });
        assert_eq!(read(&none).unwrap(), off);
    }

    #[test]
    fn what_contradicts_itself_is_named_as_it_was_given() {
        let error = read(&["--window", "UTC 22:00-06:00", "--window", "CET 22:00-06:00"]).unwrap_err();
        assert_eq!(error, "--window names the time zones UTC and CET; give all windows in one");
        let error = read(&["--min-in-service", "a=1", "--min-in-service", "a=2"]).unwrap_err();
        assert_eq!(error, "--min-in-service names the partition a twice; name each once");
        let error = read(&["--min-in-service", "a=1", "--min-in-service", "none"]).unwrap_err();
        assert!(error.starts_with("--min-in-service is none and something else"), "{error}");
        for wrong in [["--max-failed", "101%"], ["--canary", "1,0"], ["--soak-s", "0"], ["--order", "size"]] {
            let error = read(&wrong).unwrap_err();
            assert!(error.contains(wrong[0]), "{error}");
        }
    }

    #[test]
    fn a_window_is_a_zone_days_and_times() {
        let days = |text: &str| -> String {
            let days = window(text).unwrap().open[0].days.clone();
            serde_json::to_string(&days).unwrap()
        };
        assert_eq!(days("UTC fri-mon 22:00-06:00"), r#"["mon","fri","sat","sun"]"#);
        assert_eq!(days("UTC Sat,wed 00:00-24:00"), r#"["wed","sat"]"#);
        assert_eq!(days("UTC mon 00:00-24:00"), r#"["mon"]"#);
        assert_eq!(days("UTC 00:00-24:00"), "[]");
        for wrong in
            ["", "UTC", "UTC mon", "22:00-06:00", "UTC mon 22-06", "UTC mo 22:00-06:00", "UTC mon 1:00-2:00"]
        {
            assert!(window(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_property_is_named_by_its_option() {
        assert_eq!(flag("upgrade_step_size"), "--upgrade-step-size");
        assert_eq!(flag("strategy.max_failed"), "--max-failed");
        assert_eq!(flag("strategy.window.open[0].from"), "--window: open[0].from");
        assert_eq!(flag("strategy.canary[1]"), "--canary: [1]");
        assert_eq!(in_options("needs drain_timeout_s: why"), "needs --drain-timeout-s: why");
        assert_eq!(in_options("is 0; it must be: 1"), "is 0; it must be: 1");
    }

    #[test]
    fn a_window_is_shown_as_it_is_asked_for() {
        for text in ["Europe/Zurich mon-wed,sat 22:00-06:00", "UTC 00:00-24:00", "UTC sun 01:00-02:00"] {
            assert_eq!(window_words(&window(text).unwrap()), format!("'{text}'"));
        }
    }

    #[test]
    fn a_number_that_is_none_is_named_by_its_option_and_what_it_must_be() {
        for (option, value, must) in [
            ("--retries", "-1", "must be a whole number from 0 to"),
            ("--max-failed", "-1", "must be a whole number of nodes"),
            ("--soak-s", "0", "must be a whole number from 1"),
            ("--canary", "1,x", "must be a whole number from 1"),
            ("--max-per-domain", "-5", "must be a whole number from 1"),
        ] {
            let error = read(&[option, value]).unwrap_err();
            assert!(error.contains(option) && error.contains(must), "{error}");
        }
    }
}
