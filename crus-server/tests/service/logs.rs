//! The log of the real binary: the story of a session can be filtered out of it, down to the calls to peers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crus_sim::ClusterConfig;
use crus_sim::config::{BootBehaviour, BosConfig, Span};
use serde_json::{Value, json};

use crate::simulated::{self, Simulated};
use crate::support::{Service, path_of, spec, until};

const SEED: u64 = 5;
const SPEED: f64 = 250.0;

/// Six nodes, of which one will not boot.
fn cluster() -> ClusterConfig {
    let bos = BosConfig {
        boot: Span::new(120_000, 180_000),
        attempts: 1,
        attempt_ms: 300_000,
        ..BosConfig::default()
    };
    let mut config = ClusterConfig { bos, ..simulated::nodes(6) };
    config.nodes[1].boot = BootBehaviour::Fails;
    config
}

/// Runs an upgrade with everything that logs, deletes it, and ends the service. What was logged, and the session's id.
async fn story(format: &str, log: &Path) -> (String, String) {
    let site = Simulated::start(cluster(), SEED, SPEED).await;
    let secret = site.folder().join("secret");
    fs::write(&secret, "secret").unwrap();
    let mut command = site.serve();
    // Nobody takes what the webhook tells.
    command.args([
        "--webhook-url",
        "http://127.0.0.1:1/",
        "--webhook-timeout-s",
        "0.2",
        "--webhook-secret-file",
    ]);
    command.arg(&secret).args(["--check-commands", "{ health = ['/bin/true'] }"]);
    command.args(["--log-format", format]).env("CRUS_LOG", "debug");
    command.stderr(fs::File::create(log).unwrap());
    let mut service = Service::start(command);
    let mut spec = spec(3);
    spec["strategy"] = json!({ "check_command": "health" });
    let (code, created) = service.post(&spec).await;
    assert_eq!(code, 201, "{created}");
    let path = path_of(&created);
    until("the upgrade completed", async || service.get(&path).await.1["state"] == "READY").await;
    service.delete(&path).await;
    until("the session gone", async || service.get(&path).await.0 == 404).await;
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    (fs::read_to_string(log).unwrap(), created["upgrade_id"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_line_of_a_session_has_its_id_and_step_as_fields() {
    let folder = tempfile::tempdir().unwrap();
    let (text, id) = story("json", &folder.path().join("log")).await;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut targets = BTreeSet::new();
    let mut steps = BTreeSet::new();
    for line in &lines {
        let target = line["target"].as_str().unwrap();
        // Nothing else runs here that calls a peer, judges a node or tells anybody.
        let is_of_session = ["crus_core", "crus_clients", "crus_server::checks", "crus_server::webhook"]
            .iter()
            .any(|part| target.starts_with(part))
            || target == "crus_server::controller::runner"
            || line.to_string().contains(&id);
        if is_of_session {
            assert_eq!(line["upgrade_id"], id, "{line}");
            steps.insert(line["step"].as_u64().unwrap_or_else(|| panic!("{line}")));
            targets.insert(target);
        }
    }
    for part in [
        "crus_core::driver",
        "crus_clients::http",
        "crus_clients::slurm::process",
        "crus_server::checks",
        "crus_server::webhook::courier",
        "crus_server::controller::runner",
        "crus_server::controller",
    ] {
        assert!(targets.contains(part), "nothing of {part} is logged: {targets:?}");
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
    let mut of_clients = 0;
    for line in text.lines() {
        let time = line.split(' ').next().unwrap();
        assert!(time.starts_with("20") && time.ends_with('Z') && time.len() == 27, "{line:?}");
        if line.contains(" crus_clients::") {
            assert!(line.contains(&format!("session{{upgrade_id={id} step=")), "{line}");
            of_clients += 1;
        }
    }
    assert!(of_clients > 20, "{of_clients}");
}
