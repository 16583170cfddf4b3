//! Reads what a scrape gets.

use std::collections::{BTreeMap, BTreeSet};

/// A metric as it says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) kind: String,
    pub(super) help: String,
    /// Those of its samples, `le` left out.
    pub(super) labels: BTreeSet<String>,
    pub(super) samples: usize,
}

/// The metrics in the text format of Prometheus, by their names.
pub(super) fn described(text: &str) -> BTreeMap<String, Described> {
    let mut all: BTreeMap<String, Described> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!all.contains_key(name), "{name} is described twice");
            all.entry(name.to_owned()).or_default().help = help.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            all.get_mut(name).unwrap().kind = kind.to_owned();
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = family_of(name, |name| all.contains_key(name)).unwrap_or_else(|| panic!("{line}"));
            let described = all.get_mut(family).unwrap();
            described.samples += 1;
            described
                .labels
                .extend(labels(line).into_iter().map(|(label, _)| label).filter(|label| label != "le"));
        }
    }
    all
}

/// The metric that a series of this name belongs to: histograms have several.
pub(super) fn family_of(series: &str, is_known: impl Fn(&str) -> bool) -> Option<&str> {
    let parts = ["", "_bucket", "_sum", "_count"].into_iter().filter_map(|end| series.strip_suffix(end));
    parts.into_iter().find(|name| is_known(name))
}

/// The labels of a sample, with their values.
pub(super) fn labels(line: &str) -> Vec<(String, String)> {
    let Some((_, rest)) = line.split_once('{') else { return Vec::new() };
    let inner = rest.rsplit_once('}').unwrap().0;
    let pairs = inner.split("\",").filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (label, value) = pair.split_once("=\"").unwrap();
        (label.to_owned(), value.trim_end_matches('"').to_owned())
    };
    pairs.map(pair).collect()
}
