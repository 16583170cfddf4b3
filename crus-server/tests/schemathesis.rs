//! A public fuzzer, schemathesis, on the API of the real service: driven by the document that is served, it must find
//! nothing.
//!
//! `cargo xtask fuzz --api` installs it and runs this.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::simulated::Simulated;
use crate::support::{self, Service, id_of, until};
use aws_lc_rs::digest;
use crus_sim::ClusterConfig;
use crus_sim::config::{BootBehaviour, BootSet, BosConfig, GroupSpec, TemplateSpec};
use serde_json::{Value, json};

/// Where schemathesis is installed: a virtual environment of Python.
const INSTALLED: &str = "CRUS_TEST_SCHEMATHESIS";
/// How many requests are made up for each operation and phase.
const EXAMPLES: &str = "CRUS_TEST_EXAMPLES";
/// The seed of what is made up.
const SEED: &str = "CRUS_TEST_SEED";

/// What the fuzzer may do everything with.
const TOKEN: &str = "of-the-fuzzer-alone";

/// What becomes of the sessions of a kind.
const KINDS: [&str; 5] = ["done", "paused", "queued", "deleting", "waiting"];
/// So many sessions of each kind.
const EACH: usize = 3;

/// The groups of a session; HSM has none for those that wait.
fn labels(kind: &str, number: usize) -> [String; 3] {
    // What is queued waits for what is paused.
    let kind = if kind == "queued" { "paused" } else { kind };
    ["starting", "upgrading", "failed"].map(|role| format!("{kind}-{number}-{role}"))
}

/// For each session but those that wait two nodes, of which the second never boots.
fn cluster() -> ClusterConfig {
    let sets: Vec<_> = ["done", "paused", "deleting"]
        .iter()
        .flat_map(|kind| (0..EACH).map(move |number| (*kind, labels(kind, number))))
        .collect();
    let mut nodes = ClusterConfig::nodes(u32::try_from(2 * sets.len()).unwrap());
    let mut groups = BTreeMap::new();
    for ((kind, [starting, upgrading, failed]), pair) in sets.iter().zip(nodes.chunks_mut(2)) {
        pair[1].boot = if *kind == "deleting" { BootBehaviour::Hangs } else { BootBehaviour::Fails };
        let members = pair.iter().map(|node| node.xname).collect();
        groups.insert(starting.parse().unwrap(), GroupSpec { members, ..GroupSpec::default() });
        groups.insert(upgrading.parse().unwrap(), GroupSpec::default());
        groups.insert(failed.parse().unwrap(), GroupSpec::default());
    }
    let node_groups = sets.iter().map(|(_, [_, upgrading, _])| upgrading.clone()).collect();
    let boot_set = BootSet { node_groups, ..BootSet::of_group("") };
    let template =
        TemplateSpec { boot_sets: BTreeMap::from([("compute".to_owned(), boot_set)]), broken: None };
    ClusterConfig {
        nodes,
        groups,
        templates: BTreeMap::from([("new-image".parse().unwrap(), template)]),
        bos: BosConfig { attempts: 1, attempt_ms: 15 * 60_000, ..BosConfig::default() },
        ..ClusterConfig::default()
    }
}

/// Creates a session, and brings it to where its kind is.
async fn session(service: &Service, kind: &str, number: usize) -> String {
    let [starting, upgrading, failed] = labels(kind, number);
    let spec = json!({
        "failed_label": failed,
        "starting_label": starting,
        "upgrade_step_size": 1,
        "upgrade_template_id": "new-image",
        "upgrading_label": upgrading,
        "workload_manager_type": "slurm",
    });
    let path = service.create(&spec).await;
    let is = async |holds: &dyn Fn(&Value) -> bool| {
        until(&format!("{path} is {kind}"), async || {
            let progress = service.get(&format!("{path}/progress")).await.1;
            holds(&progress)
        })
        .await;
    };
    match kind {
        "done" => is(&|progress| progress["state"] == "READY" && progress["counts"]["failed"] == 1).await,
        "paused" => {
            let client = reqwest::Client::new();
            let paused = client.post(format!("{}{path}/pause", service.url)).send().await.unwrap();
            assert_eq!(paused.status(), 200);
            is(&|progress| !progress["paused"].is_null()).await;
        }
        "queued" => is(&|progress| progress["state"] == "CREATED").await,
        "deleting" => {
            is(&|progress| progress["counts"]["rebooting"] == 1 && progress["step"] == 1).await;
            assert_eq!(service.delete(&path).await.0, 200);
        }
        _ => is(&|progress| !progress["waits_for"].is_null()).await,
    }
    id_of(&path).to_string()
}

/// The same command with longer pauses: hundreds of sessions will wait for groups that are not there.
fn patient(command: &Command) -> Command {
    let arguments: Vec<_> = command.get_args().collect();
    let mut other = support::crus();
    for pair in [&[arguments[0]], &arguments[..]].concat().windows(2) {
        other.arg(if pair[0] == "--retry-max-s" { OsStr::new("5") } else { pair[1] });
    }
    other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    other
}

fn variable(name: &str, default: &str) -> String {
    env::var(name).unwrap_or_else(|_| default.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs schemathesis: `cargo xtask fuzz --api` installs it and runs this"]
async fn a_public_fuzzer_finds_nothing_in_the_api() {
    let programs = PathBuf::from(env::var_os(INSTALLED).unwrap()).join("bin");
    let (seed, examples) = (variable(SEED, "5"), variable(EXAMPLES, "100"));
    println!(
        "seed {seed}, {examples} examples: `cargo xtask fuzz --api --seed {seed} --examples {examples}`"
    );

    let site = Simulated::start(cluster(), 5, 600.0).await;
    let mut command = patient(&site.serve_from(&site.store(), "0.2"));
    command.args(["--check-commands", "{ always = [\"true\"] }", "--max-sessions", "100000"]);
    command.args(["--keep-finished", "50000", "--boot-timeout-s", "600"]);
    let mut strict = patient(&command);
    let mut service = Service::start(command);
    let of_each_kind = async |number| {
        let mut ids = Vec::new();
        for kind in KINDS {
            ids.push(format!("\"{}\"", session(&service, kind, number).await));
        }
        ids
    };
    let ids = futures_util::future::join_all((0..EACH).map(of_each_kind)).await.concat();

    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis");
    for file in ["schemathesis.toml", "hooks.py"] {
        fs::copy(here.join(file), place(file)).unwrap();
    }
    // Over the same store, and it asks who sends a request.
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    let hash = digest::digest(&digest::SHA256, TOKEN.as_bytes());
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(place("tokens"), format!("fuzzer operate sha256:{hash}\n")).unwrap();
    strict.args(["--auth", "on", "--auth-token-file"]).arg(place("tokens"));
    let service = Service::start(strict);

    let (expendable, kept) = ids.split_at(KINDS.len());
    fs::write(place("expendable.txt"), expendable.join("\n")).unwrap();
    fs::write(place("sessions.txt"), kept.join("\n")).unwrap();

    let document = reqwest::get(format!("{}/openapi.json", service.url)).await.unwrap().text().await.unwrap();
    fs::write(place("openapi.json"), &document).unwrap();
    let mut validator = Command::new(programs.join("openapi-spec-validator"));
    assert!(validator.arg(place("openapi.json")).stdin(Stdio::null()).status().unwrap().success());

    let mut fuzzer = Command::new(programs.join("schemathesis"));
    fuzzer.arg("--config-file").arg(place("schemathesis.toml"));
    fuzzer.args(["run", &format!("{}/openapi.json", service.url), "--no-color"]);
    fuzzer.args([
        "--url",
        &format!("{}/apis/crus", service.url),
        "--seed",
        &seed,
        "--max-examples",
        &examples,
    ]);
    fuzzer.args(["--header", &format!("Authorization: Bearer {TOKEN}")]);
    fuzzer.current_dir(folder.path()).env("CRUS_FUZZ_SEEN", place("seen.json")).stdin(Stdio::null());
    let found_nothing =
        tokio::task::spawn_blocking(move || fuzzer.status().unwrap().success()).await.unwrap();

    let seen: BTreeMap<String, u64> = serde_json::from_slice(&fs::read(place("seen.json")).unwrap()).unwrap();
    println!("answered: {}", serde_json::to_string(&seen).unwrap());
    assert!(found_nothing, "the fuzzer found something, see above");
    let document: Value = serde_json::from_str(&document).unwrap();
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|path| path.as_object().unwrap().values());
    for id in operations.filter_map(|operation| operation["operationId"].as_str()) {
        let is_good = |key: &String| key.starts_with(&format!("{id} ")) && key.contains(" 2");
        // What a path allows is known without its answers.
        let done = seen.keys().any(|key| is_good(key) && !key.contains(" OPTIONS "));
        assert!(done, "no request of {id} was a good one: the fuzzer has not seen what it answers");
    }
    assert_eq!(service.get("/healthz").await.0, 200);
}
