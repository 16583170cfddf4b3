//! The service's answers as far as they are shown to people: what else is in them is let be, and what is not there is
//! empty, so that a newer or older service can be talked to.

use crus_core::Strategy;
use crus_core::model::Counts;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::strategy_args::window_words;

/// A session.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Session {
    pub(crate) upgrade_id: String,
    pub(crate) state: String,
    pub(crate) completed: bool,
    pub(crate) starting_label: String,
    pub(crate) upgrading_label: String,
    pub(crate) failed_label: String,
    pub(crate) upgrade_template_id: String,
    pub(crate) upgrade_step_size: u32,
    pub(crate) workload_manager_type: String,
    pub(crate) messages: Vec<String>,
}

/// How far a session is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Progress {
    pub(crate) counts: Counts,
    pub(crate) created_by: Option<String>,
    pub(crate) deleted_by: Option<String>,
    pub(crate) elapsed_s: f64,
    pub(crate) expected_end: Option<Expected>,
    pub(crate) paused: Option<Paused>,
    pub(crate) paused_by: Option<String>,
    pub(crate) percent: f64,
    pub(crate) stage: Option<String>,
    pub(crate) state: String,
    pub(crate) step: Option<u32>,
    pub(crate) total: usize,
    pub(crate) waits_for: Option<String>,
}

/// When something is expected.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Expected {
    pub(crate) low: Option<String>,
    pub(crate) high: Option<String>,
}

/// Why and since when a session is paused.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Paused {
    pub(crate) reason: String,
    pub(crate) since: String,
}

/// A page of nodes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<Node>,
}

/// A node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub(crate) attempt: u32,
    pub(crate) job: Option<Job>,
    pub(crate) name: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) since: Option<String>,
    pub(crate) state: String,
    pub(crate) step: Option<u32>,
    pub(crate) xname: String,
}

/// The job that a node waits for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Job {
    pub(crate) end: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) user: Option<String>,
}

/// Something that happened.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Event {
    pub(crate) number: u64,
    pub(crate) at: String,
    pub(crate) step: Option<u32>,
    pub(crate) kind: String,
    /// What belongs to the kind.
    #[serde(flatten)]
    pub(crate) fields: Map<String, Value>,
}

impl Event {
    /// What happened, in words, and who ordered it.
    pub(crate) fn words(&self) -> String {
        let what = self.what();
        match self.fields.get("by").and_then(Value::as_str) {
            Some(by) => format!("{what} (by {by})"),
            None => what,
        }
    }

    fn what(&self) -> String {
        let count = |name: &str| self.fields.get(name).and_then(Value::as_u64).unwrap_or_default();
        let text = |name: &str| self.fields.get(name).and_then(Value::as_str).unwrap_or_default();
        match self.kind.as_str() {
            "started" => format!("started: {} to upgrade", nodes(count("nodes"))),
            "stage" => format!("step {}: {}", self.step.unwrap_or_default(), text("stage")),
            "nodes" => {
                let names = self.node_names();
                let why = self.why().map(|why| format!(" ({why})")).unwrap_or_default();
                format!("{} {}{why}: {}", nodes(names.len() as u64), text("state"), fold(&names))
            }
            "message" => text("text").to_owned(),
            "paused" => self.why().unwrap_or_else(|| "paused".to_owned()),
            "gap" => format!("events {} to {} are not kept any more", count("from"), count("to")),
            "resumed" => "resumed".to_owned(),
            "retried" => format!("{} to be tried again", nodes(count("nodes"))),
            "deletion_ordered" => "its deletion was asked for".to_owned(),
            "step_done" => format!(
                "step {} done: {} upgraded, {} failed",
                self.step.unwrap_or_default(),
                count("upgraded"),
                count("failed")
            ),
            "finished" => match self.fields.get("counts").map(Counts::deserialize) {
                Some(Ok(counts)) => format!("finished: {}", counted(&counts)),
                _ => "finished".to_owned(),
            },
            // Of a newer service: whatever it says.
            other => format!("{other} {}", Value::Object(self.fields.clone())),
        }
    }

    fn why(&self) -> Option<String> {
        self.fields.get("reason").and_then(Value::as_str).map(str::to_owned)
    }

    fn node_names(&self) -> Vec<String> {
        let nodes = self.fields.get("nodes").and_then(Value::as_array);
        let name = |node: &Value| {
            let name = node.as_str().or_else(|| node["name"].as_str()).or_else(|| node["xname"].as_str());
            name.unwrap_or_default().to_owned()
        };
        nodes.map(|nodes| nodes.iter().map(name).collect()).unwrap_or_default()
    }
}

/// Finds the message that only repeats why the session is paused, or the pause that repeats a message.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    /// The kind and the words of what may be repeated.
    said: Option<(String, String)>,
}

impl Echo {
    /// Whether this event says what the other kind has said before.
    pub(crate) fn is_one(&mut self, event: &Event) -> bool {
        if !matches!(event.kind.as_str(), "message" | "paused") {
            return false;
        }
        let words = event.words();
        let is_one = self.said.as_ref().is_some_and(|(kind, said)| *kind != event.kind && *said == words);
        self.said = (!is_one).then(|| (event.kind.clone(), words));
        is_one
    }
}

/// Nodes in flight.
pub(crate) fn in_flight(counts: &Counts) -> u64 {
    (counts.draining + counts.quiesced + counts.rebooting + counts.returning) as u64
}

/// What is said while a session finishes its step before it pauses; `None` when nothing is in flight.
pub(crate) fn pausing(progress: &Progress) -> Option<String> {
    let count = in_flight(&progress.counts);
    let step = progress.step.unwrap_or_default();
    (progress.paused.is_some() && count > 0)
        .then(|| format!("pausing: step {step} ({}) is still in flight", nodes(count)))
}

/// How many nodes are in each state, in words.
pub(crate) fn counted(counts: &Counts) -> String {
    if counts.total() == 0 { "no nodes".to_owned() } else { counts.to_string() }
}

/// `1 node`, `2 nodes`.
pub(crate) fn nodes(count: u64) -> String {
    some(count, "node")
}

/// `1 step`, `2 steps`.
pub(crate) fn some(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Names as a host list.
pub(crate) fn fold(names: &[String]) -> String {
    match names.iter().map(|name| name.parse()).collect::<Result<Vec<_>, _>>() {
        Ok(names) => crus_core::hostlist::fold(&names).join(","),
        Err(_) => names.join(","),
    }
}

/// A strategy in words, as the options that ask for it.
pub(crate) fn strategy_words(strategy: &Value) -> String {
    let Ok(strategy) = Strategy::deserialize(strategy) else { return strategy.to_string() };
    let Ok(Value::Object(options)) = serde_json::to_value(&strategy) else { return String::new() };
    let words = options.iter().map(|(name, value)| match value {
        Value::Object(_) if name == "window" => {
            format!("{name} {}", strategy.window.as_ref().map(window_words).unwrap_or_default())
        }
        Value::String(text) => format!("{name} {text}"),
        value => format!("{name} {value}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crus_core::Time;
    use crus_core::history::{Entry, Happening};
    use crus_core::model::{Failure, PauseReason, Stage};

    fn words(what: Happening) -> String {
        let entry = crus_api::events::event(&Entry { number: 7, at: Time(0), step: 3, what });
        serde_json::from_value::<Event>(entry).unwrap().words()
    }

    /// As the API writes them.
    #[test]
    fn every_kind_of_event_has_its_words() {
        let counts = Counts { upgraded: 63, failed: 1, ..Counts::default() };
        let xnames = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>();
        let nodes = |state: &str, failure, names: &[&str]| Happening::Nodes {
            state: state.into(),
            failure,
            nodes: xnames(names),
        };
        let boot = Failure::Boot("no".into());
        assert_eq!(words(Happening::Started { nodes: 64 }), "started: 64 nodes to upgrade");
        assert_eq!(words(Happening::Stage { stage: Stage::Quiescing }), "step 3: QUIESCING");
        assert_eq!(
            words(nodes("draining", None, &["x1000c0s0b0n0", "x1000c0s0b0n1"])),
            "2 nodes draining: x1000c0s0b0n[0-1]"
        );
        assert_eq!(
            words(nodes("failed", Some(boot.clone()), &["x1000c0s0b0n0"])),
            format!("1 node failed ({boot}): x1000c0s0b0n0")
        );
        assert_eq!(
            words(nodes("skipped", Some(Failure::DrainTimedOut), &["x1000c0s0b0n0"])),
            format!("1 node skipped ({}): x1000c0s0b0n0", Failure::DrainTimedOut)
        );
        assert_eq!(words(Happening::Message { text: "said".into() }), "said");
        assert!(
            words(Happening::Paused { why: PauseReason::Command, by: None })
                .starts_with("Paused by an operator")
        );
        assert_eq!(words(Happening::Resumed { by: None }), "resumed");
        assert_eq!(words(Happening::Resumed { by: Some("ada".parse().unwrap()) }), "resumed (by ada)");
        assert_eq!(words(Happening::Retried { nodes: 1, by: None }), "1 node to be tried again");
        assert_eq!(words(Happening::DeletionOrdered { by: None }), "its deletion was asked for");
        assert_eq!(
            words(Happening::StepDone { upgraded: 7, failed: 1 }),
            "step 3 done: 7 upgraded, 1 failed"
        );
        assert_eq!(words(Happening::Finished { counts }), "finished: 63 upgraded, 1 failed");
    }

    #[test]
    fn a_kind_that_is_not_known_is_shown_as_it_came() {
        let event: Event = serde_json::from_str(r#"{"number":1,"kind":"moved","to":"x"}"#).unwrap();
        assert_eq!(event.words(), r#"moved {"to":"x"}"#);
        let gap: Event = serde_json::from_str(r#"{"number":9,"kind":"gap","from":1,"to":9}"#).unwrap();
        assert_eq!(gap.words(), "events 1 to 9 are not kept any more");
    }
}
