//! Traces: a collector over HTTP is told what a session did, and is never waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex};

use crate::support::simulated::{self, Simulated};
use crate::support::{NOWHERE, Service, id_of, spec, until};
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use crus_core::GroupLabel;
use crus_sim::ClusterConfig;
use crus_sim::config::{GroupSpec, TemplateSpec};
use crus_sim::workload::{JobSpec, Wanted, Workload};
use serde_json::Value;

const SECRET: &str = "a-secret-of-the-collector";

/// What came, and how it is answered.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Value>>>,
    services: Arc<Mutex<BTreeSet<String>>>,
    answers: Arc<Mutex<u16>>,
}

async fn collect(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert_eq!(headers["content-type"], "application/json");
    if headers.get("x-key").is_none_or(|key| key != SECRET) {
        return StatusCode::UNAUTHORIZED;
    }
    let answer = StatusCode::from_u16(*collector.answers.lock().unwrap()).unwrap();
    if answer.is_success() {
        let request: Value = serde_json::from_slice(&body).unwrap();
        for resource in request["resourceSpans"].as_array().unwrap() {
            let attributes = resource["resource"]["attributes"].as_array().unwrap();
            let name = attributes.iter().find(|attribute| attribute["key"] == "service.name").unwrap();
            collector
                .services
                .lock()
                .unwrap()
                .insert(name["value"]["stringValue"].as_str().unwrap().to_owned());
            for scope in resource["scopeSpans"].as_array().unwrap() {
                collector.spans.lock().unwrap().extend(scope["spans"].as_array().unwrap().iter().cloned());
            }
        }
    }
    answer
}

impl Collector {
    async fn start(answer: u16) -> (Self, String) {
        let collector = Collector { answers: Arc::new(Mutex::new(answer)), ..Collector::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().route("/v1/traces", post(collect)).with_state(collector.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper_util::service::TowerToHyperService::new(router.clone());
                let stream = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
            }
        });
        (collector, url)
    }
}

fn attribute(span: &Value, key: &str) -> String {
    let attributes = span["attributes"].as_array().unwrap();
    let found =
        attributes.iter().find(|attribute| attribute["key"] == key).unwrap_or_else(|| panic!("{span}"));
    let value = found["value"].as_object().unwrap().values().next().unwrap();
    value.as_str().unwrap().to_owned()
}

/// Runs an upgrade of four nodes in two steps to its end, and ends the service. Its id, and what it logged.
async fn upgrade(url: &str) -> (String, String) {
    let site = Simulated::start(simulated::nodes(4), 7, 250.0).await;
    let (file, log) = (site.folder().join("headers"), site.folder().join("log"));
    fs::write(&file, format!("\nX-Key: {SECRET}\n")).unwrap();
    let mut command = site.serve();
    command.args(["--otlp-endpoint", url, "--otlp-headers-file"]).arg(&file).env("CRUS_LOG", "debug");
    command.stderr(fs::File::create(&log).unwrap());
    let mut service = Service::start(command);
    let path = service.create(&spec(2)).await;
    until("the upgrade completed", async || service.is_ready(&path).await).await;
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    (id_of(&path).to_string(), fs::read_to_string(log).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_collector_is_told_of_steps_stages_and_calls_in_one_trace_for_each_session() {
    let (collector, url) = Collector::start(200).await;
    let (id, log) = upgrade(&url).await;
    assert!(!log.contains(SECRET));
    assert_eq!(*collector.services.lock().unwrap(), BTreeSet::from(["crus".to_owned()]));
    let spans = collector.spans.lock().unwrap().clone();
    let by_id: BTreeMap<&str, &Value> =
        spans.iter().map(|span| (span["spanId"].as_str().unwrap(), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "no span is told twice");
    let number = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
    let mut names = BTreeMap::new();
    for span in &spans {
        assert_eq!(span["traceId"], id.replace('-', ""), "{span}");
        assert_eq!(attribute(span, "upgrade_id"), id);
        assert!(["0", "1", "2"].contains(&&*attribute(span, "step")), "{span}");
        assert!(number(span, "startTimeUnixNano") <= number(span, "endTimeUnixNano"), "{span}");
        *names.entry(span["name"].as_str().unwrap()).or_insert(0) += 1;
        let Some(parent) = span["parentSpanId"].as_str() else {
            assert_eq!(span["name"], "session", "{span}");
            continue;
        };
        let parent = by_id.get(parent).unwrap_or_else(|| panic!("nobody is the parent of {span}"));
        let above = match span["name"].as_str().unwrap() {
            "step" => "session",
            name if name.starts_with("stage ") => "step",
            _ => "stage ",
        };
        let is_above = parent["name"].as_str().unwrap().starts_with(above);
        // What comes before the first step, and after the last one, is of the session itself.
        assert!(is_above || parent["name"] == "session", "{span} in {parent}");
    }
    assert_eq!((names["session"], names["step"], names["stage BOOTING"]), (1, 2, 2), "{names:?}");
    assert_eq!(names["bos reboot"], 2, "{names:?}");
    assert!(names["slurm drain"] >= 2 && names["hsm group"] > 0, "{names:?}");
    let reboot = spans.iter().find(|span| span["name"] == "bos reboot").unwrap();
    assert_eq!((attribute(reboot, "outcome"), &reboot["kind"]), ("ok".to_owned(), &3.into()));
}

/// Two pairs of nodes, each with groups and a template of its own, and a job on all of them that does not end.
fn two_sites() -> ClusterConfig {
    let mut config = simulated::nodes(4);
    let others = config.groups.get_mut(&label("slurm-nodes")).unwrap().members.split_off(2);
    let others = GroupSpec { members: others, ..GroupSpec::default() };
    config.groups.insert(label("other-nodes"), others);
    config.groups.insert(label("other-upgrading"), GroupSpec::default());
    config.groups.insert(label("other-failed"), GroupSpec::default());
    config.templates.insert("other-image".parse().unwrap(), TemplateSpec::of_group("other-upgrading"));
    let job = JobSpec {
        id: 1,
        user: "ada".to_owned(),
        wanted: Wanted::Nodes(config.nodes.iter().filter_map(|node| node.name.clone()).collect()),
        cpus: None,
        start_ms: 0,
        duration_ms: None,
        limit_ms: None,
        partition: None,
        requeue: false,
    };
    ClusterConfig { workload: Workload::Listed(vec![job]), ..config }
}

fn label(label: &str) -> GroupLabel {
    label.parse().unwrap()
}

/// However many sessions a look is made for, the trace of each holds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_look_that_two_sessions_share_is_in_both_traces() {
    let (collector, url) = Collector::start(200).await;
    let site = Simulated::start(two_sites(), 7, 250.0).await;
    let file = site.folder().join("headers");
    fs::write(&file, format!("X-Key: {SECRET}\n")).unwrap();
    // Long enough for two sessions to come together, however slowly a program starts.
    let mut command = site.serve_from(&site.store(), "0.5");
    command.args(["--otlp-endpoint", &url, "--otlp-headers-file"]).arg(&file);
    let service = Service::start(command);
    let mut other = spec(2);
    for (key, value) in [
        ("starting_label", "other-nodes"),
        ("upgrading_label", "other-upgrading"),
        ("failed_label", "other-failed"),
        ("upgrade_template_id", "other-image"),
    ] {
        other[key] = value.into();
    }
    let ids = [service.create(&spec(2)).await, service.create(&other).await].map(|path| id_of(&path));
    until("there are more looks in the traces than there were calls", async || {
        let looks = ids.map(|id| {
            let spans = collector.spans.lock().unwrap();
            let looks = spans.iter().filter(|span| span["name"] == "slurm nodes");
            looks.filter(|look| attribute(look, "upgrade_id") == id.to_string()).count() as u64
        });
        let calls = site.live.calls().get("scontrol show").copied().unwrap_or_default();
        looks.iter().sum::<u64>() > calls && looks.iter().all(|looks| *looks > 0)
    })
    .await;
}

/// Refused for good, or away: the upgrade goes on, and the log tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_collector_that_takes_nothing_stops_nothing() {
    let (refusing, url) = Collector::start(400).await;
    for url in [&*url, NOWHERE] {
        let (_, log) = upgrade(url).await;
        assert!(log.contains("the collector of traces"), "{log}");
    }
    assert!(refusing.spans.lock().unwrap().is_empty());
}
