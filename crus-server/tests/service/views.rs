//! What operators look at and tell sessions to do, over HTTP, on a simulated cluster.

use std::time::Instant;

use crus_core::Time;
use crus_sim::ClusterConfig;
use crus_sim::config::BootBehaviour;
use crus_sim::workload::{JobSpec, Wanted};
use serde_json::{Value, json};

use crate::support::simulated::{self, Simulated};
use crate::support::stream::{Client, Event};
use crate::support::{self, NOWHERE, PATIENCE, Service, spec, until};

const SEED: u64 = 5;
const SPEED: f64 = 250.0;

fn cluster(nodes: u32) -> ClusterConfig {
    ClusterConfig { bos: simulated::quick_bos(), ..simulated::nodes(nodes) }
}

fn with_strategy(step_size: u32, strategy: Value) -> Value {
    let mut spec = spec(step_size);
    spec["strategy"] = strategy;
    spec
}

async fn order(service: &Service, path: &str, order: &str) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("{}{path}/{order}", service.url));
    let response = request.timeout(PATIENCE).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn get(service: &Service, path: &str) -> Value {
    let (code, answer) = service.get(path).await;
    assert_eq!(code, 200, "{path}: {answer}");
    answer
}

/// How far a session is; its counts add up.
async fn progress(service: &Service, path: &str) -> Value {
    let progress = get(service, &format!("{path}/progress")).await;
    let counts = progress["counts"].as_object().unwrap().values();
    assert_eq!(counts.map(|count| count.as_u64().unwrap()).sum::<u64>(), progress["total"].as_u64().unwrap());
    progress
}

/// The nodes of a session in this state.
async fn nodes(service: &Service, path: &str, state: &str) -> Vec<Value> {
    get(service, &format!("{path}/nodes?state={state}")).await["nodes"].as_array().unwrap().clone()
}

async fn is_ready(service: &Service, path: &str) -> bool {
    progress(service, path).await["state"] == "READY"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_show_the_job_that_they_wait_for_and_progress_says_so() {
    let site = Simulated::start(cluster(6), SEED, SPEED).await;
    let job = JobSpec {
        id: 17,
        user: "alice".to_owned(),
        wanted: Wanted::Nodes(["nid000001", "nid000002"].map(|name| name.parse().unwrap()).into()),
        cpus: None,
        start_ms: 0,
        duration_ms: None,
        limit_ms: Some(72_000_000),
        partition: None,
        requeue: true,
    };
    let end = site.live.with(|cluster| {
        assert!(cluster.submit(job));
        cluster.now() + 72_000_000
    });
    let service = Service::start(site.serve());
    let begun = Instant::now();
    let path = service.create(&with_strategy(3, json!({ "order": "name" }))).await;
    until("the jobs are shown", async || {
        let draining = nodes(&service, &path, "draining").await;
        draining.iter().filter(|node| node["job"] != Value::Null).count() == 2
    })
    .await;
    for node in nodes(&service, &path, "draining").await {
        if node["name"] == "nid000003" {
            // It runs nothing, and was not looked at again yet.
            assert_eq!(node["job"], Value::Null, "{node}");
            continue;
        }
        // Slurm's clock counts whole seconds.
        let end_of_job = Time(end.0 / 1000 * 1000).rfc3339();
        assert_eq!(node["job"], json!({ "end": end_of_job, "id": "17", "user": "alice" }));
        assert_eq!((&node["step"], &node["attempt"], &node["reason"]), (&json!(0), &json!(0), &Value::Null));
    }
    let waits = progress(&service, &path).await;
    assert_eq!(waits["waits_for"], "the jobs on nid000001 and 1 more", "{waits}");
    assert_eq!((&waits["stage"], &waits["total"]), (&json!("QUIESCING"), &json!(6)));
    let [low, high] = ["low", "high"].map(|end| waits["expected_end"][end].as_str().unwrap());
    assert!(low < high, "{waits}");
    assert!(site.live.with(|cluster| cluster.end_job(17)));

    let mut percent = 0;
    until("the upgrade completed", async || {
        let progress = progress(&service, &path).await;
        assert!(progress["percent"].as_u64().unwrap() >= percent, "{progress}");
        percent = progress["percent"].as_u64().unwrap();
        progress["state"] == "READY"
    })
    .await;
    assert_eq!(percent, 100);
    let done = progress(&service, &path).await;
    assert_eq!((&done["counts"]["upgraded"], &done["waits_for"]), (&json!(6), &Value::Null));
    assert_eq!(done["expected_end"], Value::Null);
    let boots = &done["boot_s"];
    let [least, average, most] = ["least", "average", "most"].map(|of| boots[of].as_f64().unwrap());
    assert!(0.0 < least && least <= average && average <= most, "{boots}");
    let elapsed = done["elapsed_s"].as_f64().unwrap();
    assert!(most < elapsed && elapsed < begun.elapsed().as_secs_f64(), "{done}");
    assert_eq!(progress(&service, &path).await["elapsed_s"], done["elapsed_s"], "it has ended");
    let all = get(&service, &format!("{path}/nodes")).await;
    assert!(all["nodes"].as_array().unwrap().iter().all(|node| node["job"] == Value::Null), "{all}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_shows_each_event_once_whatever_becomes_of_the_service() {
    let site = Simulated::start(cluster(8), SEED, SPEED).await;
    let mut service = Service::start(site.serve());
    let path = service.create(&spec(2)).await;
    let mut seen: Vec<Event> = Vec::new();
    for (end, upgraded) in [("KILL", 1), ("TERM", 3), ("KILL", 5)] {
        let last = seen.last().map_or(0, |event| event.id.unwrap());
        let client = Client::connect(&service, &path, last).await;
        until("more nodes upgraded", async || {
            progress(&service, &path).await["counts"]["upgraded"].as_u64().unwrap() >= upgraded
        })
        .await;
        until("an event", async || !client.seen().is_empty()).await;
        service.signal(end);
        let code = service.end();
        let (more, in_order) = client.end().await;
        seen.extend(more);
        if end == "TERM" {
            assert_eq!(
                (code, in_order),
                (Some(0), true),
                "a stream ends with the service, and does not hold it up"
            );
        }
        service = Service::start(site.serve());
    }
    let last = seen.last().map_or(0, |event| event.id.unwrap());
    let client = Client::connect(&service, &path, last).await;
    until("the upgrade completed", async || is_ready(&service, &path).await).await;
    until("the last event", async || client.seen().last().is_some_and(|event| event.kind == "finished"))
        .await;
    seen.extend(client.seen());

    let ids: Vec<u64> = seen.iter().map(|event| event.id.unwrap()).collect();
    assert_eq!(ids, (1..=seen.len() as u64).collect::<Vec<_>>(), "each once, and in order");
    let list = get(&service, &format!("{path}/events?limit=10000")).await;
    let listed = list["events"].as_array().unwrap();
    assert_eq!(seen.iter().map(|event| event.data.clone()).collect::<Vec<_>>(), *listed);
    assert!(seen.iter().all(|event| event.data["kind"] == *event.kind));
    for kind in ["started", "stage", "nodes", "message", "step_done", "finished"] {
        assert!(seen.iter().any(|event| event.kind == kind), "{kind}");
    }

    assert_eq!(service.delete(&path).await.0, 200);
    let (all, in_order) = client.end().await;
    assert_eq!((all.last().unwrap().kind.as_str(), in_order), ("deleted", true), "{all:?}");
    assert_eq!(service.get(&format!("{path}/events")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stream_of_a_session_that_is_deleted_shows_how_it_ended() {
    // No boot ends, and so no session, before it was looked at.
    let site = Simulated::start(cluster(6), SEED, 0.0).await;
    let service = Service::start(site.serve());
    let path = service.create(&spec(2)).await;
    let client = Client::connect(&service, &path, 0).await;
    until("the first step", async || progress(&service, &path).await["stage"] == "BOOTING").await;
    assert_eq!(service.delete(&path).await.0, 200);
    assert_eq!(progress(&service, &path).await["state"], "DELETING");
    site.live.set_speed(SPEED);
    let (seen, in_order) = client.end().await;
    assert!(in_order);
    let kinds: Vec<&str> = seen.iter().map(|event| event.kind.as_str()).collect();
    assert!(kinds.contains(&"deletion_ordered"), "{kinds:?}");
    assert_eq!(kinds[kinds.len() - 2..], ["finished", "deleted"], "{seen:?}");
    let ids: Vec<u64> = seen.iter().filter_map(|event| event.id).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_paused_session_finishes_its_step_and_starts_no_other() {
    // Time stands still until the session is paused: nodes without jobs are drained at once, and boots take time.
    let site = Simulated::start(cluster(6), SEED, 0.0).await;
    let service = Service::start(site.serve());
    let path = service.create(&spec(2)).await;
    until("the first step", async || progress(&service, &path).await["stage"] == "BOOTING").await;
    let (code, problem) = order(&service, &path, "retry").await;
    assert_eq!(code, 409, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("at work"), "{problem}");
    for _ in 0..2 {
        let (code, session) = order(&service, &path, "pause").await;
        assert_eq!((code, &session["state"]), (200, &json!("UPDATING")));
    }
    site.live.set_speed(SPEED);
    until("the session paused", async || progress(&service, &path).await["paused"] != Value::Null).await;
    until("the step finished", async || progress(&service, &path).await["counts"]["upgraded"] == 2).await;
    until("the next step begun", async || progress(&service, &path).await["step"] == 1).await;
    let (changes, then) = (site.changes(), site.live.now() + 600_000);
    until("ten minutes later", async || site.live.now() > then).await;
    let paused = progress(&service, &path).await;
    assert_eq!((&paused["counts"]["upgraded"], &paused["counts"]["pending"]), (&json!(2), &json!(4)));
    assert!(paused["paused"]["reason"].as_str().unwrap().starts_with("Paused by an operator"), "{paused}");
    assert_eq!(site.changes(), changes, "nothing is touched");

    for _ in 0..2 {
        assert_eq!(order(&service, &path, "resume").await.0, 200);
    }
    until("the upgrade completed", async || is_ready(&service, &path).await).await;
    let events = get(&service, &format!("{path}/events")).await;
    let of_kind =
        |kind: &str| events["events"].as_array().unwrap().iter().filter(|e| e["kind"] == kind).count();
    assert_eq!((of_kind("paused"), of_kind("resumed")), (1, 1), "{events}");
    for (what, why) in
        [("pause", "nothing to pause"), ("resume", "nothing to resume"), ("retry", "nothing to retry")]
    {
        let (code, problem) = order(&service, &path, what).await;
        assert_eq!((code, problem["title"].as_str()), (409, Some("Conflict")));
        assert!(problem["detail"].as_str().unwrap().contains(why), "{problem}");
    }
}

/// P3: with a bad image one node is lost, not the machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bad_image_costs_the_canary_and_every_node_comes_home_once_it_is_mended() {
    let site = Simulated::start(cluster(8), SEED, SPEED).await;
    let image = |boots: &BootBehaviour| {
        site.live.with(|cluster| {
            let all: Vec<_> = cluster.config().nodes.iter().map(|node| node.xname).collect();
            assert!(all.into_iter().all(|node| cluster.set_boot_behaviour(node, boots.clone())));
        });
    };
    image(&BootBehaviour::Fails);
    let service = Service::start(site.serve());
    let asked = json!({ "canary": [1], "max_failed": 0 });
    let path = service.create(&with_strategy(4, asked)).await;
    let in_force = json!({ "canary": [1], "max_failed": 0, "order": "soonest_free" });
    assert_eq!(get(&service, &format!("{path}/strategy")).await, in_force);
    until("the session paused", async || progress(&service, &path).await["paused"] != Value::Null).await;
    let paused = progress(&service, &path).await;
    let reason = paused["paused"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("Paused: 1 node failed, and 0 may"), "{reason}");
    let lost = nodes(&service, &path, "failed,skipped").await;
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert!(lost[0]["reason"].as_str().unwrap().starts_with("failed to boot"), "{lost:?}");
    assert_eq!(nodes(&service, &path, "pending").await.len(), 7);

    image(&BootBehaviour::Normal);
    until("the failed node may be taken again", async || {
        let (code, answer) = order(&service, &path, "retry").await;
        assert!([200, 409].contains(&code), "{answer}");
        code == 200
    })
    .await;
    until("the failed node was taken again", async || nodes(&service, &path, "pending").await.len() == 8)
        .await;
    assert_eq!(order(&service, &path, "retry").await.0, 200, "asked again, it is the same retry");
    assert_eq!(order(&service, &path, "resume").await.0, 200);
    until("the upgrade completed", async || is_ready(&service, &path).await).await;
    let upgraded = nodes(&service, &path, "upgraded").await;
    assert_eq!(upgraded.len(), 8, "every node came home");
    let tries: Vec<u64> = upgraded.iter().map(|node| node["attempt"].as_u64().unwrap()).collect();
    assert_eq!(tries.iter().sum::<u64>(), 1, "{tries:?}");
    assert_eq!(site.members("failed-nodes"), [].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_site_says_holds_for_every_session() {
    let site = Simulated::start(cluster(2), SEED, 0.0).await;
    let mut command = site.serve();
    command.args(["--strategy", "{ canary = [1], max_failed = 0 }", "--max-streams", "1"]);
    command.args(["--strategy-caps", "{ max_step_size = 4, max_failed = 1 }"]);
    let service = Service::start(command);
    let path = service.create(&spec(4)).await;
    assert_eq!(
        get(&service, &format!("{path}/strategy")).await,
        json!({ "canary": [1], "max_failed": 0, "order": "soonest_free" })
    );
    let mut beyond = with_strategy(5, json!({ "max_failed": 2, "check_command": "health" }));
    beyond["strategy"]["window"] =
        json!({ "time_zone": "Mars/Olympus", "open": [{ "from": "01:00", "to": "02:00" }] });
    let (code, problem) = service.post(&beyond).await;
    assert_eq!(code, 422, "{problem}");
    let errors: Vec<&String> = problem["errors"].as_object().unwrap().keys().collect();
    let wrong =
        ["strategy.check_command", "strategy.max_failed", "strategy.window.time_zone", "upgrade_step_size"];
    assert_eq!(errors, wrong);

    let first = Client::connect(&service, &path, 0).await;
    let request = reqwest::Client::new().get(format!("{}{path}/events", service.url));
    let refused = request.header("accept", "text/event-stream").send().await.unwrap();
    assert_eq!(refused.status(), 503, "as many streams as may be");
    drop(first);
}

#[test]
fn a_site_whose_window_is_in_no_zone_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = support::serve(&folder.path().join("crus.redb"), NOWHERE, NOWHERE, "1");
    let window = "{ window = { time_zone = 'Mars/Olympus', open = [{ from = '01:00', to = '02:00' }] } }";
    let ended = command.args(["--strategy-caps", window]).output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{told}");
    assert!(told.contains("strategy_caps.window has the time zone Mars/Olympus"), "{told}");
}
