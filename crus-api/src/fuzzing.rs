//! What must hold of requests, for fuzz targets and for tests: see [`crus_core::fuzzing`].
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a panic is how a property fails")]

use std::sync::Arc;

use crus_core::fuzzing::Property;
use crus_core::model::NodeState;
use crus_core::{Spec, Strategy, Xname};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::json::{Mistakes, Value as Read};
use crate::problem::Problem;
use crate::query::Query;
use crate::request::{self, MAX_STEP_SIZE};
use crate::routes::fuzzing::{last_event_id, states, upgrade_id, wants_a_stream};
use crate::site::Site;
use crate::strategy;

/// Those of this crate.
pub const PROPERTIES: &[Property] = &[
    ("session_request", session_request),
    ("strategy", strategy_alone),
    ("query", query),
    ("headers", headers),
];

/// The longest text of a problem, in characters: what is told of a request is bounded, however long the request is.
const DETAIL_MAX: usize = 32_000;

fn check_problem(problem: &Problem, statuses: &[StatusCode]) {
    assert!(statuses.iter().any(|status| status.as_u16() == problem.status), "{problem:?}");
    assert!(problem.detail.ends_with('.'), "{problem:?}");
    assert!(problem.detail.chars().count() <= DETAIL_MAX, "{} bytes", problem.detail.len());
    assert!(!problem.detail.chars().any(char::is_control), "{problem:?}");
    let body = serde_json::to_string(problem).unwrap();
    assert_eq!(serde_json::from_str::<Problem>(&body).unwrap(), *problem);
}

/// A site with nothing of its own, which knows two time zones.
fn site() -> Site {
    Site {
        check_commands: Some(["smoke".parse().unwrap()].into()),
        knows_zone: Arc::new(|zone| ["UTC", "Europe/Zurich"].contains(&zone)),
        ..Site::default()
    }
}

/// A body is a session, written down again it is the same session; or all that is wrong with it is told.
fn session_request(data: &[u8]) {
    let site = site();
    let spec = match request::spec(data, &site) {
        Ok(spec) => spec,
        Err(problem) => {
            check_problem(&problem, &[StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY]);
            let is_json = serde_json::from_slice::<Value>(data).is_ok();
            assert!(problem.status != 400 || !is_json || deep_or_broken(data), "{problem:?}");
            return;
        }
    };
    check_spec(&spec);
    let Value::Object(mut body) = written(&spec) else { return };
    assert_eq!(request::spec(&body_of(&body), &site).as_ref(), Ok(&spec));
    // What is not a property is refused, whatever else is right.
    body.insert("Upgrade_Id".to_owned(), json!(1));
    let problem = request::spec(&body_of(&body), &site).expect_err("an unknown property");
    assert!(problem.errors.unwrap().contains_key("Upgrade_Id"));
}

fn body_of(body: &serde_json::Map<String, Value>) -> Vec<u8> {
    serde_json::to_vec(body).unwrap()
}

/// JSON that serde reads as a value and this does not: with names that have a broken escape, or in another coding.
fn deep_or_broken(data: &[u8]) -> bool {
    std::str::from_utf8(data).is_err() || data.contains(&b'\\')
}

fn check_spec(spec: &Spec) {
    let labels = [&spec.starting, &spec.upgrading, &spec.failed];
    assert!(labels[0] != labels[1] && labels[1] != labels[2] && labels[0] != labels[2]);
    assert!((1..=MAX_STEP_SIZE).contains(&spec.step_size.get()));
    assert_eq!(spec.strategy.problems(), []);
}

fn written(spec: &Spec) -> Value {
    json!({
        "failed_label": spec.failed,
        "starting_label": spec.starting,
        "strategy": spec.strategy,
        "upgrade_step_size": spec.step_size,
        "upgrade_template_id": spec.template,
        "upgrading_label": spec.upgrading,
        "workload_manager_type": "slurm",
    })
}

/// The same of the strategy alone, as the configuration and the command line read it.
fn strategy_alone(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match strategy::parse(&text) {
        Ok(strategy) => {
            assert_eq!(strategy.problems(), []);
            let written = serde_json::to_string(&strategy).unwrap();
            assert_eq!(strategy::parse(&written), Ok(strategy.clone()));
            let stored: Strategy = serde_json::from_str(&written).expect("it is stored like this");
            assert_eq!(stored, strategy);
        }
        Err(told) => assert!(told.chars().count() <= DETAIL_MAX && !told.is_empty()),
    }
    _ = Mistakes::default();
    if let Ok(raw) = serde_json::from_slice::<&serde_json::value::RawValue>(data) {
        let value = Read::of(raw);
        assert!(value.to_string().len() <= 300);
        if let Some(number) = value.whole_number(1, 1000) {
            assert!((1..=1000).contains(&number));
        }
    }
}

/// A query is read, or all that is wrong with it is told; nothing in it is passed over.
fn query(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut query = Query::new(Some(&text));
    let after = query.number("after", 0, u64::MAX);
    let limit = query.number("limit", 1, 10_000);
    let node = query.read("node", |text| text.parse::<Xname>().map_err(|error| error.rule().to_owned()));
    let chosen = query.read("state", states);
    match query.finish() {
        Ok(()) => {
            assert!(limit.is_none_or(|limit| (1..=10_000).contains(&limit)));
            assert!(chosen.iter().flatten().all(|state| NodeState::WORDS.contains(state)));
            let given = text.split('&').filter(|pair| !pair.is_empty()).count();
            let read = [after.is_some(), limit.is_some(), node.is_some(), chosen.is_some()];
            assert_eq!(read.into_iter().filter(|read| *read).count(), given, "{text:?}");
        }
        Err(problem) => check_problem(&problem, &[StatusCode::BAD_REQUEST]),
    }
}

/// The id in a path, and headers that mean something.
fn headers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match upgrade_id(&text) {
        Ok(id) => assert_eq!(id.to_string(), text.to_ascii_lowercase(), "one way to write it"),
        Err(problem) => check_problem(&problem, &[StatusCode::NOT_FOUND]),
    }
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    let mut headers = HeaderMap::new();
    headers.insert("last-event-id", value.clone());
    match last_event_id(&headers) {
        Ok(None) => assert!(data.is_empty()),
        Ok(Some(number)) => {
            let digits = text.trim().trim_start_matches('0');
            assert_eq!(number.to_string().trim_start_matches('0'), digits);
        }
        Err(problem) => check_problem(&problem, &[StatusCode::BAD_REQUEST]),
    }
    headers.append("accept", value.clone());
    if wants_a_stream(&headers) {
        assert!(text.to_ascii_lowercase().contains("text/event-stream"));
    }
    headers.insert("content-type", value.clone());
    headers.append("content-encoding", value);
    if let Err(problem) = crate::routes::fuzzing::check_is_json(&headers) {
        check_problem(&problem, &[StatusCode::UNSUPPORTED_MEDIA_TYPE]);
    }
}
