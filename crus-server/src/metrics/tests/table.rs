//! The table of `docs/metrics.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::exposition::Described;

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// How a metric is documented, but for the last column.
fn row(name: &str, described: &Described) -> String {
    let unit = ["seconds", "bytes"].into_iter().find(|unit| name.trim_end_matches("_total").ends_with(unit));
    let labels: Vec<String> = described.labels.iter().map(|label| format!("`{label}`")).collect();
    let help = described.help.trim_end_matches('.');
    format!(
        "| `{name}` | {} | {} | {} | {help} |",
        described.kind,
        unit.unwrap_or_default(),
        labels.join(", ")
    )
}

/// Each metric has its row, and each row its metric. A row goes on with how to aggregate over replicas.
#[track_caller]
pub(super) fn check(all: &BTreeMap<String, Described>) {
    let documented: Vec<&str> = DOCUMENT.lines().filter(|line| line.starts_with("| `crus_")).collect();
    let mut wrong = String::new();
    for (name, described) in all {
        let row = row(name, described);
        let found = documented.iter().find(|line| line.starts_with(&row));
        let says_how = |line: &&str| !line[row.len()..].trim_matches(['|', ' ']).is_empty();
        if !found.is_some_and(says_how) {
            writeln!(wrong, "{row} sum |").unwrap();
        }
    }
    for line in documented {
        let name = line.trim_start_matches("| `").split('`').next().unwrap();
        if !all.contains_key(name) {
            writeln!(wrong, "there is no {name}").unwrap();
        }
    }
    assert!(
        wrong.is_empty(),
        "docs/metrics.md must have these rows, each with how to aggregate over replicas:\n{wrong}"
    );
}
