//! What the site says to strategies.

use std::collections::BTreeMap;

use crus_api::Caps;
use crus_core::Strategy;
use crus_core::names::CheckName;
use toml::Value;

use super::read::{command, integer, must_be, optional, put, seconds, table};
use super::{LONGEST_S, NONE, Setting};

const HEADING: &str = "Strategies";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "check_commands",
        value: "TABLE",
        default: NONE,
        heading: HEADING,
        help: "Programs that may judge a node before it returns to service: a table of names, each with a program and its \
               leading arguments, in the file [check_commands], elsewhere such as '{ smoke = [\"/opt/site/smoke\", \
               \"--quick\"] }'. Behind these come the node's xname and its name in Slurm. Sessions choose one by its name \
               (check_command)",
        set: |c, v| put(&mut c.checks.commands, optional(v, check_commands).map(Option::unwrap_or_default)),
    },
    Setting {
        key: "check_timeout_s",
        value: "SECONDS",
        default: "300",
        heading: HEADING,
        help: "How long the check of one node may take; then it is killed, and the node fails",
        set: |c, v| put(&mut c.checks.timeout_ms, seconds(v, 0.1..=LONGEST_S)),
    },
    Setting {
        key: "max_checks",
        value: "COUNT",
        default: "8",
        heading: HEADING,
        help: "Check commands that run at a time; more wait",
        set: |c, v| put(&mut c.checks.max_checks, integer(v, 1..=1000)),
    },
    Setting {
        key: "strategy",
        value: "TABLE",
        default: NONE,
        heading: HEADING,
        help: "What holds for the options of a strategy that a request leaves out: a table of these options, in the \
               file [strategy], elsewhere such as '{ canary = [1], max_failed = \"2%\" }'",
        set: |c, v| put(&mut c.strategy, optional(v, strategy).map(Option::unwrap_or_default)),
    },
    Setting {
        key: "strategy_caps",
        value: "TABLE",
        default: NONE,
        heading: HEADING,
        help: "What no request may exceed, whatever it asks for: a table, likewise, of any of max_step_size, \
               max_failed, max_retries, max_per_domain (of a domain), min_in_service of partitions (at least), \
               on_drain_timeout (a list of what it may be), and a window that every session keeps to",
        set: |c, v| {
            let caps = optional(v, |v| caps(v, &c.strategy)).map(Option::unwrap_or_default);
            put(&mut c.caps, caps)
        },
    },
];

fn check_commands(value: &Value) -> Result<BTreeMap<CheckName, Vec<String>>, String> {
    let right = "a table of names, each with a program and its leading arguments, such as { smoke = [\"/opt/site/smoke\"] }";
    let table = table(value).ok_or_else(|| must_be(right))?;
    let entry = |(name, value): (String, Value)| {
        let name = CheckName::new(&name).map_err(|error| must_be(&format!("{right}: {error}")))?;
        let words = command(&value).map_err(|rule| must_be(&format!("{right}: {name} {rule}")))?;
        Ok((name, words))
    };
    table.into_iter().map(entry).collect()
}

fn strategy(value: &Value) -> Result<Strategy, String> {
    let right = || must_be("a table of options of a strategy, such as { canary = [1], max_failed = \"2%\" }");
    let table = table(value).ok_or_else(right)?;
    let json = serde_json::to_string(&table).map_err(|_| right())?;
    crus_api::strategy::parse(&json).map_err(|mistakes| {
        let mistakes = mistakes.trim_end_matches('.');
        must_be(&format!("a table of options of a strategy, each of them right: {mistakes}"))
    })
}

fn caps(value: &Value, defaults: &Strategy) -> Result<Caps, String> {
    let table = table(value).ok_or_else(|| must_be("a table of caps, such as { max_failed = \"5%\" }"))?;
    let caps: Caps = table.try_into().map_err(|error: toml::de::Error| {
        let why: Vec<&str> = error.message().lines().collect();
        must_be(&format!("a table of caps, each of them right: {}", why.join("; ")))
    })?;
    match caps.problem(defaults) {
        Some(problem) => Err(must_be(&format!("a table of caps that the defaults keep to: {problem}"))),
        None => Ok(caps),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_commands_are_a_table_of_names_and_programs() {
        let expected: BTreeMap<CheckName, Vec<String>> = [
            ("quick".parse().unwrap(), vec!["/a b".into()]),
            ("smoke".parse().unwrap(), vec!["x".into(), "-y".into()]),
        ]
        .into();
        let line = Value::String("{ smoke = [\"x\", \"-y\"], quick = [\"/a b\"] }".into());
        assert_eq!(check_commands(&line), Ok(expected.clone()));
        let file: toml::Table = toml::from_str("quick = [\"/a b\"]\nsmoke = \"x -y\"").unwrap();
        assert_eq!(check_commands(&Value::Table(file)), Ok(expected));
        for bad in ["x", "[]", "{ smoke = [] }", "{ smoke = 7 }", "{ \"a b\" = [\"x\"] }", "{ smoke = \"\" }"]
        {
            assert!(check_commands(&Value::String(bad.into())).is_err(), "{bad}");
        }
    }
}
