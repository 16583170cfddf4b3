//! The alerts and the dashboard that are shipped use metrics and labels that there are.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::Regex;
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use super::exposition::{Described, family_of};

const RULES: &str = include_str!("../../../packaging/prometheus/crus.rules.yaml");
const DASHBOARD: &str = include_str!("../../../packaging/grafana/crus.json");
const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// What Prometheus itself adds to every sample, and what the buckets of a histogram have.
const ADDED: [&str; 3] = ["instance", "job", "le"];

/// What is wrong with an expression; else the labels that its result may have.
fn labels_of(expression: &str, all: &BTreeMap<String, Described>) -> Result<BTreeSet<String>, String> {
    let selector = Regex::new(r"\b(crus_[a-zA-Z0-9_]*)\s*(?:\{([^}]*)\})?").unwrap();
    let matcher = Regex::new(r#"^\s*([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"\s*$"#).unwrap();
    let mut known: BTreeSet<String> = ADDED.map(str::to_owned).into();
    let mut metrics = 0;
    for found in selector.captures_iter(expression) {
        let family =
            family_of(&found[1], |name| all.contains_key(name)).ok_or(format!("no metric {}", &found[1]))?;
        let described = &all[family];
        if (described.kind == "histogram") != (family != &found[1]) {
            return Err(format!("{} is a {}", &found[1], described.kind));
        }
        metrics += 1;
        for part in
            found.get(2).map_or("", |group| group.as_str()).split(", ").filter(|part| !part.is_empty())
        {
            let parts = matcher.captures(part).ok_or(format!("no matcher: {part}"))?;
            let (label, value) = (&parts[1], &parts[3]);
            if !described.labels.contains(label) && !ADDED.contains(&label) {
                return Err(format!("{family} has no label {label}"));
            }
            let is_word = |word: &str| DOCUMENT.contains(&format!("`{word}`")) || value == "$instance";
            // Operations are not listed.
            if label != "operation" && !value.split('|').all(is_word) {
                return Err(format!("{label} is never {value}"));
            }
        }
        known.extend(described.labels.iter().cloned());
    }
    if metrics == 0 {
        return Err("there is no metric in it".to_owned());
    }
    let grouping = Regex::new(r"\b(by|without|on|ignoring)\s*\(([^)]*)\)").unwrap();
    let mut kept: Option<BTreeSet<String>> = None;
    for found in grouping.captures_iter(expression) {
        let named: BTreeSet<String> = found[2].split(',').map(|label| label.trim().to_owned()).collect();
        if let Some(label) = named.iter().find(|label| !known.contains(*label)) {
            return Err(format!("nothing has the label {label}"));
        }
        kept.get_or_insert_default().extend(named);
    }
    let is_aggregated = Regex::new(r"\b(sum|max|min|count|avg)\s*(by\s*)?\(").unwrap().is_match(expression);
    Ok(match kept {
        Some(kept) => kept,
        None if is_aggregated => BTreeSet::new(),
        None => known,
    })
}

#[track_caller]
fn check(expression: &str, shown: &str, mark: &str, all: &BTreeMap<String, Described>) {
    assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{expression}");
    let labels = labels_of(expression, all).unwrap_or_else(|why| panic!("{expression}: {why}"));
    for found in Regex::new(mark).unwrap().captures_iter(shown) {
        assert!(labels.contains(&found[1]), "{expression} has no {} to show: {shown}", &found[1]);
    }
}

#[test]
fn every_alert_uses_metrics_and_labels_that_there_are_and_says_what_to_do() {
    let all = super::all();
    let document = &YamlLoader::load_from_str(RULES).unwrap()[0];
    let mut names = BTreeSet::new();
    for group in document["groups"].as_vec().unwrap() {
        for rule in group["rules"].as_vec().unwrap() {
            let text = |yaml: &Yaml, what: &str| {
                yaml.as_str().unwrap_or_else(|| panic!("{what} of {rule:?}")).to_owned()
            };
            let name = text(&rule["alert"], "the name");
            let annotations = &rule["annotations"];
            let (summary, description) =
                (text(&annotations["summary"], "summary"), text(&annotations["description"], "description"));
            check(
                &text(&rule["expr"], "the expression"),
                &format!("{summary} {description}"),
                r"\$labels\.([a-z_]+)",
                &all,
            );
            assert!(
                ["critical", "warning", "info"].contains(&&*text(&rule["labels"]["severity"], "severity")),
                "{name}"
            );
            assert!(description.contains("See the guide, \""), "{name}: {description}");
            assert!(name.starts_with("Crus") && names.insert(name.clone()), "{name} is there twice");
        }
    }
    assert!(names.len() >= 15, "{names:?}");
}

#[test]
fn every_panel_of_the_dashboard_uses_metrics_and_labels_that_there_are() {
    let all = super::all();
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut ids = BTreeSet::new();
    let mut used = String::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            check(expression, target["legendFormat"].as_str().unwrap(), r"\{\{([a-z_]+)\}\}", &all);
            used.push_str(expression);
        }
        assert!(
            panel["type"] == "row" || panel["description"].as_str().is_some_and(|text| !text.is_empty()),
            "{panel}"
        );
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(of) = variable["definition"].as_str() {
            assert!(
                all.contains_key(of.trim_start_matches("label_values(").split(',').next().unwrap()),
                "{of}"
            );
        }
    }
    // What is measured is to be seen.
    let unseen: Vec<&String> = all.keys().filter(|name| !used.contains(name.as_str())).collect();
    assert!(unseen.len() < 12, "{unseen:?}");
}

#[test]
fn what_there_is_not_is_found() {
    let all = super::all();
    for (wrong, why) in [
        ("sum(crus_session)", "no metric"),
        ("crus_peer_calls", "no metric"),
        ("crus_poll_lag_seconds > 1", "is a histogram"),
        ("rate(crus_peer_calls_total{status=\"ok\"}[5m])", "no label status"),
        ("crus_peer_calls_total{outcome=\"okay\"}", "never okay"),
        ("sum by (colour) (crus_sessions)", "the label colour"),
        ("up == 0", "no metric"),
    ] {
        let found = labels_of(wrong, &all).unwrap_err();
        assert!(found.contains(why), "{wrong}: {found}");
    }
}
