//! The strategy of an upgrade as options: one for each of the strategy's, and a file for all.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueHint};
use crus_core::batch::Order;
use crus_core::strategy::{Amount, OnDrainTimeout};
use crus_core::window::{Span, TimeOfDay, Weekday, Window};
use crus_core::{CheckName, Domain, PartitionName, Strategy};
use serde::de::DeserializeOwned;

use super::error::ClientError;

/// How the upgrade goes about its nodes. Nothing of it unless it is asked for here, or is a default of the site.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Strategy")]
pub(crate) struct StrategyArgs {
    /// File with a strategy as TOML or JSON, its options named as here with _ for -. Options given beside it win.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) strategy: Option<PathBuf>,
    /// How many nodes may fail, as a number or a percentage of all. With one more the session pauses before another
    /// node is touched.
    #[arg(long, value_name = "AMOUNT")]
    max_failed: Option<Amount>,
    /// Likewise of one step, as a number or a percentage of its nodes.
    #[arg(long, value_name = "AMOUNT")]
    max_failed_step: Option<Amount>,
    /// Sizes of the first steps, such as 1,5; the later ones have the full size.
    #[arg(long, value_name = "SIZES", value_delimiter = ',')]
    canary: Option<Vec<NonZeroU32>>,
    /// How long the nodes of a canary step must stay up and in service before the session goes on.
    #[arg(long, value_name = "SECONDS")]
    soak_s: Option<NonZeroU64>,
    /// How long the jobs on a drained node may take to end.
    #[arg(long, value_name = "SECONDS")]
    drain_timeout_s: Option<NonZeroU64>,
    /// What happens to a node that takes longer: wait says so and waits on; skip gives it back untouched; requeue and
    /// cancel do that to its jobs; later gives it back and tries it once more at the end.
    #[arg(long, value_name = "ACTION", value_parser = words::<OnDrainTimeout>(&["wait", "skip", "requeue", "cancel", "later"]))]
    on_drain_timeout: Option<OnDrainTimeout>,
    /// Which nodes a step takes first: soonest_free those that Slurm expects to be free first; name by xname; spread no
    /// more than --max-per-domain of a domain at a time; pack whole domains together.
    #[arg(long, value_name = "ORDER", value_parser = words::<Order>(&["soonest_free", "name", "spread", "pack"]))]
    order: Option<Order>,
    /// What shares power or cooling, and may fail together.
    #[arg(long, value_name = "PART", value_parser = words::<Domain>(&["cabinet", "chassis", "slot", "board"]))]
    domain: Option<Domain>,
    /// How many nodes of one domain may be in flight.
    #[arg(long, value_name = "COUNT")]
    max_per_domain: Option<NonZeroU32>,
    /// How many nodes of a partition must stay in service, as a number or a percentage: batch=90%. May be given for
    /// several partitions.
    #[arg(long, value_name = "PARTITION=AMOUNT", value_parser = floor)]
    min_in_service: Vec<(PartitionName, Amount)>,
    /// When steps may start, by the clocks of a time zone: 'Europe/Zurich mon-fri 22:00-06:00', 'UTC sat,sun
    /// 00:00-24:00', 'UTC 22:00-06:00'. May be given several times, for one zone.
    #[arg(long, value_name = "WINDOW", value_parser = window)]
    window: Vec<Window>,
    /// How often a node that failed to boot is tried again, in steps at the end.
    #[arg(long, value_name = "COUNT")]
    retries: Option<u32>,
    /// Program that judges each node before it returns to service, by its name in the service's configuration.
    #[arg(long, value_name = "NAME")]
    check_command: Option<CheckName>,
}

impl StrategyArgs {
    /// The strategy that was asked for.
    ///
    /// # Errors
    /// When the file is none, or the options contradict each other; each is named as it is given.
    pub(crate) fn read(&self) -> Result<Strategy, ClientError> {
        let mut strategy = match &self.strategy {
            Some(path) => file(path)?,
            None => Strategy::default(),
        };
        set(&mut strategy.max_failed, self.max_failed);
        set(&mut strategy.max_failed_step, self.max_failed_step);
        set(&mut strategy.soak_s, self.soak_s);
        set(&mut strategy.drain_timeout_s, self.drain_timeout_s);
        set(&mut strategy.order, self.order);
        set(&mut strategy.max_per_domain, self.max_per_domain);
        set(&mut strategy.check_command, self.check_command.clone());
        if let Some(canary) = &self.canary {
            strategy.canary.clone_from(canary);
        }
        strategy.on_drain_timeout = self.on_drain_timeout.unwrap_or(strategy.on_drain_timeout);
        strategy.domain = self.domain.unwrap_or(strategy.domain);
        strategy.retries = self.retries.unwrap_or(strategy.retries);
        if !self.min_in_service.is_empty() {
            let floors: BTreeMap<_, _> = self.min_in_service.iter().cloned().collect();
            if floors.len() < self.min_in_service.len() {
                return Err(ClientError::usage("--min-in-service names a partition twice; name each once"));
            }
            strategy.min_in_service = floors;
        }
        if let Some((first, others)) = self.window.split_first() {
            let mut window = first.clone();
            for other in others {
                if other.time_zone != window.time_zone {
                    return Err(ClientError::usage(format!(
                        "--window names the time zones {} and {}; give all windows in one",
                        window.time_zone, other.time_zone
                    )));
                }
                window.open.extend(other.open.iter().cloned());
            }
            strategy.window = Some(window);
        }
        let problems: Vec<String> = strategy
            .problems()
            .iter()
            .map(|problem| format!("{} {}", flag(problem.option), problem.reason))
            .collect();
        if problems.is_empty() { Ok(strategy) } else { Err(ClientError::usage(problems.join("; "))) }
    }
}

fn set<T>(place: &mut Option<T>, given: Option<T>) {
    if given.is_some() {
        *place = given;
    }
}

/// The option that a property of the API is given by.
pub(crate) fn flag(property: &str) -> String {
    let name = property.strip_prefix("strategy.").unwrap_or(property);
    let name = name.split(['.', '[']).next().unwrap_or(name);
    format!("--{}", name.replace('_', "-"))
}

fn file(path: &Path) -> Result<Strategy, ClientError> {
    let wrong =
        |why: &dyn std::fmt::Display| ClientError::usage(format!("--strategy {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).map_err(|error| wrong(&error))
    } else {
        toml::from_str(&text).map_err(|error| wrong(&error.message()))
    }
}

/// Words of the API, as one of its types.
fn words<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| serde_json::from_value::<T>(word.into()))
}

fn floor(text: &str) -> Result<(PartitionName, Amount), String> {
    let (partition, amount) =
        text.rsplit_once('=').ok_or("must be a partition and an amount, such as batch=90%")?;
    let partition = partition.parse().map_err(|error| format!("{error}"))?;
    Ok((partition, amount.parse().map_err(|error| format!("{error}"))?))
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
        open.days.extend((0..=count).filter_map(|i| DAYS.get((first + i) % 7).map(|(_, day)| *day)));
    }
    Ok(Window { time_zone: (*zone).to_owned(), open: vec![open] })
}

const DAYS: [(&str, Weekday); 7] = [
    ("mon", Weekday::Mon),
    ("tue", Weekday::Tue),
    ("wed", Weekday::Wed),
    ("thu", Weekday::Thu),
    ("fri", Weekday::Fri),
    ("sat", Weekday::Sat),
    ("sun", Weekday::Sun),
];

fn day(text: &str) -> Result<usize, String> {
    let known = DAYS.iter().position(|(word, _)| word.eq_ignore_ascii_case(text));
    known.ok_or_else(|| format!("{text} is no day: days are mon, tue, wed, thu, fri, sat and sun"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::io::Write;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        strategy: StrategyArgs,
    }

    fn read(arguments: &[&str]) -> Result<Strategy, String> {
        let line = Line::try_parse_from(std::iter::once(&"crus").chain(arguments));
        line.map_err(|error| error.to_string())?.strategy.read().map_err(|error| error.to_string())
    }

    /// Every option that the API has, so that one that is added there is missed here.
    const ALL: &str = r#"{"max_failed":"2%","max_failed_step":1,"canary":[1,5],"soak_s":60,"drain_timeout_s":3600,"on_drain_timeout":"later","order":"spread","domain":"cabinet","max_per_domain":2,"min_in_service":{"batch":"90%","debug":3},"window":{"time_zone":"Europe/Zurich","open":[{"days":["mon","tue","wed","thu","fri"],"from":"22:00","to":"06:00"},{"from":"12:00","to":"13:00"}]},"retries":1,"check_command":"health"}"#;

    #[test]
    fn each_option_of_a_strategy_has_one_here() {
        let strategy = read(&[
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
        assert_eq!(serde_json::to_string(&strategy).unwrap(), ALL);
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
            assert_eq!(read(&["--strategy", path]).unwrap(), all, "{text}");
            let other = read(&["--strategy", path, "--max-failed", "0", "--canary", "3"]).unwrap();
            assert_eq!(other.max_failed, Some(Amount::Count(0)));
            assert_eq!(other.canary, [NonZeroU32::new(3).unwrap()]);
            assert_eq!(other.retries, 1);
        }
    }

    #[test]
    fn a_file_with_a_misspelt_option_is_named_with_it() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"max_fail = 1").unwrap();
        let error = read(&["--strategy", file.path().to_str().unwrap()]).unwrap_err();
        assert!(error.contains("unknown field `max_fail`"), "{error}");
        let error = read(&["--strategy", "/nowhere/strategy.toml"]).unwrap_err();
        assert!(error.starts_with("--strategy /nowhere/strategy.toml: No such file"), "{error}");
    }

    #[test]
    fn what_contradicts_is_named_as_it_was_given() {
        assert_eq!(
            read(&["--soak-s", "5", "--on-drain-timeout", "skip"]).unwrap_err(),
            "--soak-s needs canary: only canary steps are soaked; --on-drain-timeout needs drain_timeout_s: without it \
             a drain is never late"
        );
        let error = read(&["--window", "UTC 22:00-06:00", "--window", "CET 22:00-06:00"]).unwrap_err();
        assert_eq!(error, "--window names the time zones UTC and CET; give all windows in one");
        let error = read(&["--min-in-service", "a=1", "--min-in-service", "a=2"]).unwrap_err();
        assert!(error.contains("twice"), "{error}");
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
        assert_eq!(flag("strategy.window.open"), "--window");
    }
}
