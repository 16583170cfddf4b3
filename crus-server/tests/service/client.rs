//! `crus session` against the real service, on a simulated cluster.

use std::io::{BufRead, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use crus_sim::config::BootBehaviour;
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::support::port::Port;
use crate::support::simulated::{self, Simulated};
use crate::support::{Service, crus, until};

/// Virtual seconds in a real one: an upgrade of minutes takes seconds.
const SPEED: f64 = 300.0;

/// The client, asking this service.
fn client(url: &str, arguments: &[&str]) -> Command {
    let mut command = crus();
    command.args(arguments).env("CRUS_URL", url).env("XDG_CONFIG_HOME", "/nowhere");
    command
}

/// What it ended with, and what it printed to stdout and stderr.
async fn ask(url: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut command = client(url, arguments);
    // The simulated cluster lives in this process, and must go on meanwhile.
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let Output { status, stdout, stderr } = output;
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// The JSON that it printed, where nothing went wrong.
async fn answer(url: &str, arguments: &[&str]) -> Value {
    let (code, out, err) = ask(url, arguments).await;
    assert_eq!((code, err.as_str()), (0, ""), "{arguments:?} printed {out}");
    serde_json::from_str(&out).unwrap()
}

const UPGRADE: [&str; 8] = [
    "--starting-label",
    "slurm-nodes",
    "--upgrading-label",
    "upgrading-nodes",
    "--failed-label",
    "failed-nodes",
    "--upgrade-template-id",
    "new-image",
];

fn create<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["session", "create"], UPGRADE.as_slice(), more].concat()
}

/// Numbers of events, one a line.
fn numbers(text: &str) -> Vec<u64> {
    text.lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["number"].as_u64().unwrap())
        .collect()
}

/// A watch that sees its session: it has printed something.
struct Watch {
    child: Child,
    stdout: BufReader<ChildStdout>,
    out: String,
}

impl Watch {
    fn begin(mut command: Command) -> Watch {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (mut stdout, mut out) = (BufReader::new(child.stdout.take().unwrap()), String::new());
        block_in_place(|| stdout.read_line(&mut out)).unwrap();
        Watch { child, stdout, out }
    }

    /// What it ended with, and all that it printed to stdout, and to stderr unless that was taken.
    fn end(mut self) -> (i32, String, String) {
        block_in_place(|| {
            self.stdout.read_to_string(&mut self.out).unwrap();
            let Output { status, stderr, .. } = self.child.wait_with_output().unwrap();
            (status.code().unwrap(), self.out, String::from_utf8(stderr).unwrap())
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_waited_for_and_every_node_accounted_for() {
    let cluster = Simulated::start(simulated::nodes(12), 1, SPEED).await;
    let service = Service::start(cluster.serve());
    let url = service.url.as_str();
    let (code, out, err) = ask(url, &create(&["--upgrade-step-size", "4", "--canary", "1", "--wait"])).await;
    assert_eq!(code, 0, "{out}\n{err}");
    let id = out.lines().next().unwrap().strip_prefix("created session ").unwrap();
    assert!(err.ends_with(&format!("crus: session {id} is done: 12 upgraded\n")), "{err}");
    assert!(out.contains("  step 0 done: 1 upgraded, 0 failed\n"), "the canary: {out}");
    assert!(out.ends_with("  finished: 12 upgraded\n"), "{out}");
    let nodes = answer(url, &["session", "nodes", &id[..8], "--state", "upgraded"]).await;
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 12);
    let events = answer(url, &["session", "events", id]).await;
    let (_, lines, _) = ask(url, &["session", "watch", id, "--format", "json"]).await;
    let watched: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events["events"], json!(watched), "the same events, as a list and as a stream");
    let (_, described, _) = ask(url, &["session", "describe", id, "--format", "table"]).await;
    assert!(described.contains("Nodes            12 upgraded (100 % done)\n"), "{described}");
    assert!(described.contains("Strategy         canary [1], order soonest_free\n"), "{described}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fails_is_told_by_code_and_reason_and_retried_once_it_is_mended() {
    let mut config = simulated::nodes(4);
    let broken = &mut config.nodes[2];
    broken.boot = BootBehaviour::Fails;
    let xname = broken.xname;
    let cluster = Simulated::start(config, 2, SPEED).await;
    let mut command = cluster.serve();
    command.args(["--boot-timeout-s", "3600"]);
    let service = Service::start(command);
    let url = service.url.as_str();
    let (code, out, err) = ask(url, &create(&["--upgrade-step-size", "4", "--wait"])).await;
    assert_eq!(code, 3, "{out}\n{err}");
    assert!(out.ends_with("  finished: 3 upgraded, 1 failed\n"), "{out}");
    let id = out.lines().next().unwrap().strip_prefix("created session ").unwrap().to_owned();
    let (_, failed, _) = ask(url, &["session", "nodes", &id, "--state", "failed", "-o", "table"]).await;
    assert!(failed.lines().count() == 2 && failed.contains("failed to boot"), "{failed}");
    assert_eq!(ask(url, &["session", "watch", &id]).await.0, 3);
    let (code, _, err) = ask(url, &["session", "pause", &id]).await;
    assert_eq!(code, 1);
    assert!(err.starts_with("crus: refused (409): The session is done"), "{err}");
    cluster.live.with(|cluster| assert!(cluster.set_boot_behaviour(xname, BootBehaviour::Normal)));
    answer(url, &["session", "retry", &id]).await;
    let (code, out, err) = ask(url, &["session", "watch", &id]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("1 node to be tried again"), "{out}");
    assert!(out.ends_with("  finished: 4 upgraded\n"), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_paused_resumed_and_deleted() {
    let cluster = Simulated::start(simulated::nodes(16), 3, SPEED).await;
    let service = Service::start(cluster.serve());
    let url = service.url.as_str();
    let created = answer(url, &create(&["--upgrade-step-size", "1"])).await;
    let id = created["upgrade_id"].as_str().unwrap();
    answer(url, &["session", "pause", id]).await;
    let (code, out, err) = ask(url, &["session", "watch", id, "--exit-on-pause"]).await;
    assert_eq!(code, 5, "{out}\n{err}");
    assert!(err.contains("Paused by an operator"), "{err}");
    let (_, described, _) = ask(url, &["session", "describe", id, "-o", "table"]).await;
    assert!(described.contains("Paused           Paused by an operator"), "{described}");
    answer(url, &["session", "resume", id]).await;
    let watching = Watch::begin(client(url, &["session", "watch", id]));
    let (code, out, err) = ask(url, &["session", "delete", id, "--yes", "--wait"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let (code, _, err) = watching.end();
    assert_eq!(code, 4, "{err}");
    assert!(err.ends_with("is gone: it was deleted\n"), "{err}");
    assert_eq!(answer(url, &["session", "list"]).await, json!([]));
}

/// Killed and started again, several times: the watcher sees each event once.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_survives_kills_of_the_service_and_misses_and_repeats_nothing() {
    let cluster = Simulated::start(simulated::nodes(24), 4, SPEED).await;
    let port = Port::new();
    let start = || {
        let mut command = cluster.serve();
        command.env("CRUS_LISTEN", port.address.to_string());
        Service::start(command)
    };
    let mut service = start();
    let url = service.url.clone();
    let created = answer(&url, &create(&["--upgrade-step-size", "3"])).await;
    let id = created["upgrade_id"].as_str().unwrap().to_owned();
    let mut watch = Watch::begin(client(&url, &["session", "watch", &id, "--format", "json"]));
    let mut notes = BufReader::new(watch.child.stderr.take().unwrap()).lines();
    for round in 0..3 {
        let done = async || {
            let progress = service.get(&format!("/session/{id}/progress")).await.1;
            progress["counts"]["upgraded"].as_u64().unwrap() > 4 * round
        };
        until("progress", done).await;
        service.kill();
        let lost = block_in_place(|| notes.next().unwrap().unwrap());
        assert!(lost.ends_with("trying again until the service is back"), "{lost}");
        service = start();
        let back = block_in_place(|| notes.next().unwrap().unwrap());
        assert_eq!(back, format!("crus: connected to {url} again"));
    }
    let (code, out, _) = watch.end();
    assert_eq!(code, 0, "{out}");
    let events = answer(&url, &["session", "events", &id]).await;
    let all: Vec<u64> = (1..=events["events"].as_array().unwrap().len() as u64).collect();
    assert_eq!(numbers(&out), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_service_finds_wrong_is_named_by_the_options() {
    let cluster = Simulated::start(simulated::nodes(1), 5, SPEED).await;
    let service = Service::start(cluster.serve());
    let more = [
        "--upgrade-step-size",
        "0",
        "--soak-s",
        "5",
        "--check-command",
        "nobody",
        "--window",
        "Mars 1:00-2:00",
    ];
    let (code, _, err) = ask(&service.url, &create(&more)).await;
    assert_eq!(code, 2);
    assert!(err.contains("--window") && err.contains("1:00"), "what is no time is not sent: {err}");
    let more = [
        "--upgrade-step-size",
        "0",
        "--soak-s",
        "5",
        "--check-command",
        "nobody",
        "--window",
        "Mars 01:00-02:00",
    ];
    let (code, out, err) = ask(&service.url, &create(&more)).await;
    assert_eq!((code, out.as_str()), (2, ""));
    for option in [
        "--upgrade-step-size is 0",
        "--soak-s needs --canary: ",
        "--check-command ",
        "--window: time_zone is not a time zone",
    ] {
        assert!(err.contains(&format!("\n  {option}")), "{option:?} is not in {err}");
    }
    assert_eq!(answer(&service.url, &["session", "list"]).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_looked_into_once_no_service_has_it_open() {
    let cluster = Simulated::start(simulated::nodes(3), 6, SPEED).await;
    let service = Service::start(cluster.serve());
    let url = service.url.clone();
    let created = answer(&url, &create(&["--upgrade-step-size", "3"])).await;
    let store = cluster.store();
    let look = async |verb: &str| ask(&url, &["store", verb, "--store", store.to_str().unwrap()]).await;
    let (code, out, err) = look("dump").await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("a service has it open; stop the service first"), "{err}");
    service.kill();
    let (code, out, err) = look("dump").await;
    assert_eq!((code, err.as_str()), (0, ""));
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[1]["id"], created["upgrade_id"]);
    assert_eq!(lines.last().unwrap(), &json!({ "type": "end", "lines": lines.len() - 1 }));
    let sound = look("check").await;
    assert_eq!((sound.0, sound.2.as_str()), (0, ""));
    assert!(
        sound.1.starts_with("1 session with ") && sound.1.ends_with(": nothing is wrong\n"),
        "{}",
        sound.1
    );
    std::fs::write(&store, "no store").unwrap();
    let (code, out, err) = look("check").await;
    assert_eq!(code, 3, "{out}{err}");
    assert!(out.contains("is no store, or is damaged"), "{out}");
    assert!(err.contains("1 thing that should not be; keep a copy"), "{err}");
    std::fs::remove_file(&store).unwrap();
    let (code, _, err) = look("check").await;
    assert_eq!(code, 1);
    assert!(err.contains("there is no such file; name the right one with --store"), "{err}");
}

/// The steps of a plan are those that the session then takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_plan_is_what_then_happens_and_starts_nothing() {
    let cluster = Simulated::start(simulated::nodes(10), 7, SPEED).await;
    let service = Service::start(cluster.serve());
    let url = service.url.as_str();
    let size = ["--upgrade-step-size", "4", "--canary", "1"];
    let asked = [&["plan"], UPGRADE.as_slice(), &size].concat();
    let plan = answer(url, &asked).await;
    let counts: Vec<u64> =
        plan["steps"].as_array().unwrap().iter().map(|step| step["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 4, 4, 1]);
    let (code, table, err) = ask(url, &[asked.as_slice(), &["--format", "table"]].concat()).await;
    assert_eq!((code, err.as_str()), (0, ""), "{table}");
    assert!(table.starts_with("Could begin  yes\nNodes        10 nodes, in 4 steps\n"), "{table}");
    assert_eq!(answer(url, &["session", "list"]).await, json!([]), "nothing was started");
    let (code, out, err) = ask(url, &create(&[size.as_slice(), &["--wait"]].concat())).await;
    assert_eq!(code, 0, "{err}");
    for (step, count) in counts.iter().enumerate() {
        assert!(out.contains(&format!("  step {step} done: {count} upgraded, 0 failed\n")), "{out}");
    }
    let nobody = [
        "--starting-label",
        "nobody",
        "--upgrading-label",
        "upgrading-nodes",
        "--failed-label",
        "failed-nodes",
    ];
    let image = ["--upgrade-template-id", "new-image", "--upgrade-step-size", "4", "--format", "table"];
    let (code, table, _) = ask(url, &[&["plan"], nobody.as_slice(), &image].concat()).await;
    assert_eq!(code, 3, "{table}");
    assert!(table.starts_with("Could begin  no: ") && table.contains("NOT MET"), "{table}");
}
