//! `crus session` and `crus plan` as processes, against a service that answers what a test wants.

mod answers;
mod errors;
mod following;
mod manual;
mod secure;

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::fake::{Fake, Held};
use serde_json::{Value, json};

/// How long a test waits for what must come, on the slowest of machines.
const PATIENCE: Duration = Duration::from_secs(60);

const ID: &str = "45a24461-eee3-4b58-b1c2-4c0798e363dd";
const OTHER: &str = "45a2ffff-0000-4000-8000-000000000001";

/// The client, deaf to whatever is configured around the test.
fn crus(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_crus"));
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CRUS_")) {
        command.env_remove(name);
    }
    command.env("XDG_CONFIG_HOME", "/nowhere");
    // Whatever is set around must not come between.
    command.env("http_proxy", "http://127.0.0.1:1").env("HTTP_PROXY", "http://127.0.0.1:1");
    command
}

/// What a command ended with, and what it printed.
#[derive(Debug, PartialEq)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(mut command: Command) -> Ended {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    Ended { code: status.code(), out, err }
}

/// Asks this service.
fn ask(fake: &Fake, arguments: &[&str]) -> Ended {
    let mut command = crus(arguments);
    command.env("CRUS_URL", fake.url());
    run(command)
}

/// What was printed, where nothing went wrong.
fn printed(fake: &Fake, arguments: &[&str]) -> String {
    let Ended { code, out, err } = ask(fake, arguments);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?} printed {out}");
    out
}

fn session(id: &str, state: &str) -> Value {
    json!({
        "api_version": "1.13.0", "completed": state == "READY", "failed_label": "failed-nodes",
        "kind": "ComputeUpgradeSession", "messages": ["one", "Quiesce requested in step 1: moving to QUIESCING"],
        "starting_label": "slurm-nodes", "state": state, "upgrade_id": id, "upgrade_step_size": 8,
        "upgrade_template_id": "new-image", "upgrading_label": "upgrading-nodes", "workload_manager_type": "slurm"
    })
}

/// One session at work on three nodes.
fn at_work() -> Held {
    let counts = json!({ "pending": 1, "draining": 1, "quiesced": 0, "rebooting": 0, "returning": 0, "upgraded": 1,
        "failed": 0, "skipped": 0, "deferred": 0, "released": 0 });
    let node = |name: &str, xname: &str, state: &str, job: Value| {
        json!({ "attempt": 0, "job": job, "name": name, "reason": null, "since": "2020-01-02T10:00:00.000Z",
            "state": state, "step": 1, "xname": xname })
    };
    let mut held = Held {
        sessions: vec![session(ID, "UPDATING")],
        progress: json!({ "boot_s": null, "counts": counts, "elapsed_s": 754, "expected_end": null, "paused": null,
            "percent": 33, "stage": "QUIESCING", "state": "UPDATING", "step": 1, "total": 3, "upgrade_id": ID,
            "waits_for": "the jobs on nid000002" }),
        strategy: json!({ "max_failed": "2%", "canary": [1, 5] }),
        nodes: vec![
            node("nid000001", "x1000c0s0b0n0", "upgraded", json!(null)),
            node(
                "nid000002",
                "x1000c0s0b0n1",
                "draining",
                json!({ "end": "2020-01-02T12:00:00.000Z", "id": "17", "user": "alice" }),
            ),
            node("nid000003", "x1000c0s1b0n0", "pending", json!(null)),
        ],
        page: 2,
        ..Held::default()
    };
    held.happen("started", &json!({ "nodes": 3 }));
    held.happen("stage", &json!({ "stage": "QUIESCING" }));
    held.happen("nodes", &json!({ "state": "draining", "nodes": ["x1000c0s0b0n0", "x1000c0s0b0n1"] }));
    held
}

/// It ends with so many nodes upgraded, failed and skipped.
fn finish(held: &mut Held, upgraded: u64, failed: u64, skipped: u64) {
    let counts = json!({ "upgraded": upgraded, "failed": failed, "skipped": skipped });
    held.progress["counts"] = counts.clone();
    held.set_state("READY", true);
    held.happen("finished", &json!({ "counts": counts }));
}

/// The options of an upgrade that are needed.
const UPGRADE: [&str; 10] = [
    "--starting-label",
    "slurm-nodes",
    "--upgrading-label",
    "upgrading-nodes",
    "--failed-label",
    "failed-nodes",
    "--upgrade-step-size",
    "8",
    "--upgrade-template-id",
    "new-image",
];
