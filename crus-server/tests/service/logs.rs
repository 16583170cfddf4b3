//! The log of the real binary: the story of a session can be filtered out of it, down to the calls to peers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::simulated::{self, Simulated};
use crate::support::{NOWHERE, Service, id_of, spec, until};

const SEED: u64 = 5;
const SPEED: f64 = 250.0;

/// Runs an upgrade with everything that logs, deletes it, and ends the service. What was logged, and the session's id.
async fn story(format: &str, log: &Path) -> (String, String) {
    let site = Simulated::start(simulated::nodes_one_broken(6), SEED, SPEED).await;
    let secret = site.folder().join("secret");
    fs::write(&secret, "secret").unwrap();
    let mut command = site.serve();
    // Nobody takes what the webhook tells.
    command.args(["--webhook-url", NOWHERE, "--webhook-timeout-s", "0.2", "--webhook-secret-file"]);
    command.arg(&secret).args(["--check-commands", "{ health = ['/bin/true'] }"]);
    command.args(["--log-format", format]).env("CRUS_LOG", "debug");
    command.stderr(fs::File::create(log).unwrap());
    let mut service = Service::start(command);
    let mut spec = spec(3);
    spec["strategy"] = json!({ "check_command": "health" });
    let path = service.create(&spec).await;
    until("the upgrade completed", async || service.is_ready(&path).await).await;
    service.delete(&path).await;
    until("the session gone", async || service.get(&path).await.0 == 404).await;
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    (fs::read_to_string(log).unwrap(), id_of(&path).to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_line_of_a_session_has_its_id_and_step_as_fields() {
    let folder = tempfile::tempdir().unwrap();
    let (text, id) = story("json", &folder.path().join("log")).await;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names_it = |line: &Value| line.to_string().contains(&id);
    let first = lines.iter().position(names_it).unwrap();
    let last = lines.iter().rposition(names_it).unwrap();
    let mut steps = BTreeSet::new();
    // There is no other session, and nobody probes peers: all that our own code logs meanwhile is of this one. Libraries know
    // no sessions.
    for line in &lines[first..=last] {
        let target = line["target"].as_str().unwrap();
        if target.starts_with("crus") || names_it(line) {
            assert_eq!(line["upgrade_id"], id, "{line}");
            steps.insert(line["step"].as_u64().unwrap_or_else(|| panic!("{line}")));
        }
    }
    let is_told = |what: &str| lines.iter().any(|line| line["message"].as_str().unwrap().contains(what));
    for what in [
        "session created",
        "taking up the session",
        "asking",
        "Quiesce requested",
        "the node passed its check",
        "the webhook ",
    ] {
        assert!(is_told(what), "nothing is logged of: {what}");
    }
    // Calls to peers over HTTP, and to Slurm's programs.
    for field in ["peer", "program"] {
        assert!(lines.iter().any(|line| line.get(field).is_some()), "no {field} is logged");
    }
    assert!(steps.is_superset(&BTreeSet::from([0, 1])), "{steps:?}");
    let of_step = |step: u64, what: &str| {
        let of = |line: &&Value| line["step"] == step && line.to_string().contains(what);
        lines.iter().filter(of).count()
    };
    // What is said in passing to the next step counts to the one at whose end it is said.
    assert!(of_step(0, "/v2/sessions") > 0 && of_step(1, "/v2/sessions") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_text_each_line_begins_with_its_time_and_names_its_session() {
    let folder = tempfile::tempdir().unwrap();
    let (text, id) = story("text", &folder.path().join("log")).await;
    let mut calls = 0;
    for line in text.lines() {
        let time = line.split(' ').next().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z') && time.len() == 27, "{line:?}");
        if line.contains(" peer=") || line.contains(" program=") {
            assert!(line.contains(&format!("session{{upgrade_id={id} step=")), "{line}");
            calls += 1;
        }
    }
    assert!(calls > 20, "{calls}");
}
