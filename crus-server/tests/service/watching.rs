//! What the service says of itself: `/healthz`, `/readyz` and `/metrics` of the real binary.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::limits;
use crate::support::simulated::{self, Simulated};
use crate::support::{self, NOWHERE, Service, id_of, spec, until};

const SEED: u64 = 11;
const SPEED: f64 = 250.0;

fn probing(mut command: Command, every_s: &str) -> Command {
    command.env("CRUS_PROBE_INTERVAL_S", every_s);
    command
}

/// What a scrape gets: each series with its value.
async fn scrape(service: &Service) -> BTreeMap<String, f64> {
    let answer = reqwest::get(format!("{}/metrics", service.url)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = answer.text().await.unwrap();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap())
    };
    samples.map(sample).collect()
}

/// The checks of `/readyz` by their names.
async fn checks(service: &Service) -> (u16, bool, BTreeMap<String, Value>) {
    let (code, readiness) = service.get("/readyz").await;
    let checks = readiness["checks"].as_array().unwrap().iter();
    let named = checks.map(|check| (check["name"].as_str().unwrap().to_owned(), check.clone())).collect();
    (code, readiness["ready"].as_bool().unwrap(), named)
}

async fn state(service: &Service, name: &str) -> Value {
    checks(service).await.2[name]["state"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upgrade_is_counted_and_measured_to_its_end() {
    let site = Simulated::start(simulated::nodes_one_broken(8), SEED, SPEED).await;
    let service = Service::start(site.serve());
    let path = service.create(&spec(4)).await;
    let mut most_in_flight: f64 = 0.0;
    until("the upgrade completed", async || {
        let seen = scrape(&service).await;
        let of = |state: &str| seen[&format!("crus_nodes{{state=\"{state}\"}}")];
        let in_flight = of("draining") + of("quiesced") + of("rebooting") + of("returning");
        assert!(in_flight <= 4.0, "{in_flight}");
        most_in_flight = most_in_flight.max(in_flight);
        service.is_ready(&path).await
    })
    .await;
    assert!(most_in_flight > 0.0);

    until("nothing runs any more", async || scrape(&service).await["crus_sessions_kept"] == 1.0).await;
    let seen = scrape(&service).await;
    let is = |series: &str, value: f64| assert_eq!(seen.get(series), Some(&value), "{series}");
    is("crus_sessions{state=\"rolling\"}", 0.0);
    is("crus_sessions_created_total", 1.0);
    is("crus_sessions_finished_total{outcome=\"some_upgraded\"}", 1.0);
    is("crus_nodes_done_total{outcome=\"upgraded\"}", 7.0);
    is("crus_nodes_done_total{outcome=\"failed\"}", 1.0);
    is("crus_node_failures_total{failure=\"boot\"}", 1.0);
    is("crus_steps_total", 2.0);
    is("crus_step_duration_seconds_count", 2.0);
    is("crus_stage_duration_seconds_count{stage=\"BOOTING\"}", 2.0);
    is("crus_node_drain_duration_seconds_count", 8.0);
    is("crus_node_boot_duration_seconds_count", 7.0);
    // One for each step.
    is("crus_peer_calls_total{peer=\"bos\",operation=\"reboot\",outcome=\"ok\"}", 2.0);
    is("crus_peer_call_duration_seconds_count{peer=\"bos\",operation=\"reboot\"}", 2.0);
    is("crus_peer_calls_in_flight{peer=\"bos\"}", 0.0);
    is("crus_check_up{check=\"hsm\"}", 1.0);
    is("crus_ready", 1.0);
    is("crus_api_requests_total{route=\"/session\",method=\"POST\",status=\"2xx\"}", 1.0);
    is("crus_api_requests_in_flight", 1.0);
    assert!(!seen.keys().any(|series| series.starts_with("crus_broken_promises_total")));
    assert!(seen["crus_store_calls_total{operation=\"save\",outcome=\"ok\"}"] > 10.0);
    assert!(seen["crus_poll_lag_seconds_count"] > 0.0);
    assert!(seen["crus_process_resident_memory_bytes"] > 1e6 && seen["crus_process_open_fds"] > 5.0);
    // Boots of two to three minutes, of a cluster that is so much faster.
    let boots = seen["crus_node_boot_duration_seconds_sum"] / 7.0;
    assert!(boots > 120.0 / SPEED * 0.9, "{boots} s");
    let id = id_of(&path).to_string();
    assert!(!seen.keys().any(|series| series.contains(&id) || series.contains("slurm-nodes")));
}

/// P9: a peer that is away is shown, once it was called or probed, and makes nobody send requests elsewhere.
#[tokio::test]
async fn p9_peers_that_are_away_are_shown_and_the_service_is_ready_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let command = support::serve(&directory.path().join("crus.redb"), NOWHERE, NOWHERE, "0.05");
    let service = Service::start(probing(command, "0.05"));
    for name in ["hsm", "bos"] {
        until("the peer seen away", async || state(&service, name).await == "failing").await;
    }
    until("the store seen well", async || state(&service, "store").await == "ok").await;
    let (code, ready, checks) = checks(&service).await;
    assert_eq!((code, ready), (200, true));
    let detail = checks["hsm"]["detail"].as_str().unwrap();
    assert!(detail.starts_with("the Hardware State Manager is unreachable: "), "{detail}");
    assert!(!checks.contains_key("lease"), "a file has none");
    let prefixed = service.get("/apis/crus/readyz").await;
    assert_eq!((prefixed.0, &prefixed.1["ready"]), (200, &json!(true)));
    assert_eq!(service.get("/healthz").await, (200, json!({ "status": "ok" })));
    let seen = scrape(&service).await;
    assert_eq!(seen["crus_check_up{check=\"bos\"}"], 0.0);
    assert!(
        seen["crus_peer_calls_total{peer=\"bos\",operation=\"has_template\",outcome=\"unreachable\"}"] > 0.0
    );
}

/// However often `/readyz` is asked, the peers are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn peers_are_probed_at_their_pace_and_not_at_that_of_requests() {
    let site = Simulated::start(simulated::nodes(2), SEED, SPEED).await;
    let service = Service::start(probing(site.serve(), "3600"));
    for name in ["hsm", "bos", "slurm", "store"] {
        until("the peer seen well", async || state(&service, name).await == "ok").await;
    }
    let calls = site.calls();
    for _ in 0..100 {
        service.get("/readyz").await;
        scrape(&service).await;
    }
    assert_eq!(site.calls(), calls);
    assert!(calls <= 4, "{calls}");
}

/// Whether a session is created and its upgrade begun does not depend on probes.
#[tokio::test]
async fn what_was_never_asked_is_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let service =
        Service::start(support::serve(&directory.path().join("crus.redb"), NOWHERE, NOWHERE, "0.05"));
    assert_eq!(state(&service, "bos").await, "unknown");
    assert!(!scrape(&service).await.contains_key("crus_check_up{check=\"bos\"}"));
}

/// P9: a full disk takes the service out of the load balancer, so nothing is written by requests any more: it must come back
/// all the same.
#[tokio::test]
async fn p9_a_store_that_cannot_be_written_makes_the_service_unready_until_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let inner = support::serve(&directory.path().join("crus.redb"), NOWHERE, NOWHERE, "0.05");
    let service = Service::start(probing(limits::survivor(&inner), "0.1"));
    until("the store seen well", async || state(&service, "store").await == "ok").await;
    limits::file_size(service.pid(), "1");
    assert_eq!(service.post(&spec(8)).await.0, 504, "nor can the store be read");
    assert_eq!(service.get("/session").await, (200, json!([])));
    let (code, ready, checks) = checks(&service).await;
    assert_eq!((code, ready, &checks["store"]["state"]), (503, false, &json!("failing")));
    assert!(checks["store"]["detail"].as_str().unwrap().starts_with("the store failed: "), "{checks:?}");
    let seen = scrape(&service).await;
    assert_eq!(seen["crus_ready"], 0.0);
    assert!(seen["crus_store_calls_total{operation=\"create\",outcome=\"failed\"}"] >= 1.0);
    assert_eq!(service.get("/healthz").await.0, 200, "a new start would not mend the disk");
    limits::file_size(service.pid(), "unlimited");
    until("ready again", async || service.get("/readyz").await.0 == 200).await;
    let path = service.create(&spec(8)).await;
    assert_eq!(service.get(&path).await.0, 200);
}
