//! The demo as a newcomer runs it, and the service on its cluster, killed half-way.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{MUCH_PATIENCE, crus, path_of, spec};

/// `crus serve --demo`, killed with the test.
struct Service {
    process: Child,
    url: String,
    hsm: String,
    control: String,
}

impl Service {
    fn start(store: &Path) -> Self {
        let mut process = crus()
            .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--store"])
            .arg(store)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
        let url = lines.next().unwrap().strip_prefix("listening on ").unwrap().to_owned();
        let hsm = lines.find_map(|line| Some(line.split_once("HSM   curl ")?.1.to_owned())).unwrap();
        let hsm = hsm.strip_suffix("/groups/slurm-nodes").unwrap().to_owned();
        let control = hsm.replace("/hsm/v2", "/sim");
        // Whoever prints must have a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Service { process, url, hsm, control }
    }

    fn kill_9(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may be dead already.
        if self.process.kill().is_ok() {
            self.process.wait().unwrap();
        }
    }
}

async fn get(url: &str) -> Value {
    reqwest::get(url).await.unwrap().error_for_status().unwrap().json().await.unwrap()
}

/// Asks again and again until the session is as wanted.
async fn until(session: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let status = get(session).await;
        if holds(&status) {
            return status;
        }
        assert!(start.elapsed() < MUCH_PATIENCE, "no {what}: {status:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn the_demo_ends_well_and_shows_what_happened_to_which_node() {
    let output = crus().arg("demo").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let (course, end) = text.split_once("GET /session/").unwrap();
    assert!(course.contains("Quiesce requested in step 0: moving to QUIESCING"), "{course}");
    let rows: Vec<&str> = course.lines().filter(|line| line.starts_with('│')).collect();
    assert!(
        rows.iter().any(|row| row.contains("upgraded") && row.contains("bad DIMM, ticket 4711")),
        "{course}"
    );
    assert!(rows.iter().any(|row| row.contains("failed") && row.contains("nid000024")), "{course}");
    let answer = &end[end.find('{').unwrap()..=end.rfind('}').unwrap()];
    let answer: Value = serde_json::from_str(answer).unwrap();
    assert_eq!((&answer["state"], &answer["completed"]), (&json!("READY"), &json!(true)));
    assert_eq!(answer["messages"].as_array().unwrap().last().unwrap(), "Upgrade Session Completed");
}

#[test]
fn p3_a_demo_that_is_killed_goes_on_with_the_same_store() {
    let folder = tempfile::tempdir().unwrap();
    let demo = || {
        let mut command = crus();
        command.args(["demo", "--store"]).arg(folder.path().join("crus.redb"));
        command
    };
    let mut first = demo().stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("Began the boot session for step 1")));
    first.kill().unwrap();
    first.wait().unwrap();
    let output = demo().output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Going on with session"), "{text}");
    assert!(text.contains("Upgrade Session Completed"), "{text}");
}

#[tokio::test]
async fn p3_p4_killed_in_the_middle_the_demo_goes_on_and_ends_right() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("crus.redb");
    let mut service = Service::start(&store);
    let client = reqwest::Client::new();
    let created: Value = client
        .post(format!("{}/session", service.url))
        .json(&spec(8))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let path = path_of(&created);

    // Killed while a step drains, while one boots, and right after that.
    for text in ["Quiesce requested in step 1", "Began the boot session for step 2", "advancing to step 4"] {
        let said = |status: &Value| {
            let messages = status["messages"].as_array().unwrap();
            messages.iter().any(|message| message.as_str().unwrap().contains(text))
        };
        until(&format!("{}{path}", service.url), text, said).await;
        service.kill_9();
        service = Service::start(&store);
    }
    let done = |status: &Value| status["completed"] == true;
    let status = until(&format!("{}{path}", service.url), "end", done).await;
    assert_eq!(status["state"], "READY");
    assert_eq!(status["messages"].as_array().unwrap().last().unwrap(), "Upgrade Session Completed");

    let failed = get(&format!("{}/groups/failed-nodes", service.hsm)).await;
    assert_eq!(failed["members"]["ids"], json!(["x1001c0s3b0n1"]), "only the one that will not boot");
    let upgrading = get(&format!("{}/groups/upgrading-nodes", service.hsm)).await;
    assert_eq!(upgrading["members"]["ids"], json!([]));
    let nodes = get(&format!("{}/nodes", service.control)).await;
    for node in nodes.as_array().unwrap() {
        let slurm = &node["slurm"];
        let reason = slurm["reason"].as_str().unwrap_or_default();
        let (held, why) = match node["xname"].as_str().unwrap() {
            "x1001c0s3b0n1" => (true, "upgrading-boot-session-failed"),
            "x1002c0s5b0n0" => (true, "bad DIMM, ticket 4711"),
            _ => (false, ""),
        };
        assert!(reason.starts_with(why), "{node}");
        let state = slurm["state"].as_str().unwrap();
        assert_eq!(state.contains("DRAIN") || state.contains("DOWN"), held, "{node}");
        assert_eq!(node["image"] == "new-image", node["xname"] != "x1001c0s3b0n1", "{node}");
    }
}
