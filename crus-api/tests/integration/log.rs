//! What the log is told.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::body::Body;
use crus_api::access::{Audit, Deed, Open, Role};
use crus_api::{ServiceError, Site};
use crus_core::commands::NotNow;
use crus_core::ports::StoreError;
use http::Method;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber, info};

use crate::access::{Known, documented_role};
use crate::document::DOCUMENT;
use crate::service::{Api, example, request};

/// By their names; the message is one of them.
#[derive(Debug, Clone, Default, PartialEq)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

/// A line with its level, the span that it is in, and its own fields.
type Line = (Level, Fields, Fields);

#[derive(Default)]
struct Seen {
    spans: Vec<Fields>,
    within: Vec<u64>,
    lines: Vec<Line>,
}

/// Keeps each line of this crate and its tests. One thread speaks.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Seen>>);

impl Log {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }
}

impl Subscriber for Log {
    fn enabled(&self, about: &Metadata<'_>) -> bool {
        about.target().starts_with("crus_api") || about.target().starts_with("integration")
    }

    fn event(&self, event: &Event<'_>) {
        let mut own = Fields::default();
        event.record(&mut own);
        let mut seen = self.seen();
        let of_span = seen.within.last().map(|id| seen.spans[*id as usize - 1].clone());
        seen.lines.push((*event.metadata().level(), of_span.unwrap_or_default(), own));
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let mut seen = self.seen();
        seen.spans.push(fields);
        Id::from_u64(seen.spans.len() as u64)
    }

    fn enter(&self, id: &Id) {
        self.seen().within.push(id.into_u64());
    }

    fn exit(&self, _: &Id) {
        self.seen().within.pop();
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
}

/// What is logged meanwhile.
fn logged(act: impl FnOnce()) -> Vec<Line> {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), act);
    std::mem::take(&mut log.seen().lines)
}

/// What the log is told when the service does not do what this path is for.
fn told(path: &str, error: ServiceError) -> (Level, String) {
    let lines = logged(|| {
        let api = Api::new();
        api.fail(error);
        let request = request("POST", path).header("content-type", "application/json");
        let answer = api.call(request.body(example().to_string().into()).unwrap());
        assert!(!answer.status.is_success(), "{}", answer.text());
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    (lines[0].0, lines[0].2.0["message"].clone())
}

/// Who sends it again and again must not fill the log.
#[test]
fn what_a_client_can_have_happen_at_will_is_no_warning() {
    let pause = "/session/c926acf6-b5c6-411e-ba6c-ea0448cab2ee/pause";
    let client = [
        ("/session", ServiceError::Full { limit: 7 }, "failed to create a session"),
        ("/plan", ServiceError::Busy { limit: 1 }, "failed to plan an upgrade"),
        (pause, ServiceError::NotNow { reason: NotNow::Working }, "failed to command a session"),
    ];
    for (path, error, message) in client {
        assert_eq!(told(path, error), (Level::DEBUG, message.to_owned()));
    }
    let store = ServiceError::Store(StoreError::Failed("no space left on device".into()));
    assert_eq!(told("/session", store), (Level::WARN, "failed to create a session".to_owned()));
}

fn store_fails() -> ServiceError {
    ServiceError::Store(StoreError::Failed("no space left on device".into()))
}

/// That of the session of the examples, at work in step 2.
#[track_caller]
fn assert_names_the_session(line: &Line, id: &str) {
    let wanted = BTreeMap::from([("upgrade_id", id.to_owned()), ("step", "2".to_owned())]);
    assert_eq!(line.1.0, wanted, "{line:?}");
}

#[test]
fn what_fails_for_a_session_is_logged_with_its_id_and_step() {
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        if !path.starts_with("/session/{upgrade_id}") {
            continue;
        }
        for method in item.as_object().unwrap().keys().filter(|name| *name != "parameters") {
            let api = Api::new();
            let id = api.add_example();
            api.fail(store_fails());
            let path = path.replace("{upgrade_id}", &id);
            let lines = logged(|| drop(api.send(&method.to_uppercase(), &path).expect(503)));
            assert_eq!(lines.len(), 1, "{method} {path}: {lines:?}");
            assert_eq!(lines[0].0, Level::WARN);
            assert_names_the_session(&lines[0], &id);
        }
    }
}

#[test]
fn a_stream_that_fails_is_logged_with_the_id_and_step_of_its_session() {
    let api = Api::new();
    let id = api.add_example();
    api.end_streams(Err(store_fails()));
    let path = format!("/session/{id}/events");
    let request = request("GET", &path).header("accept", "text/event-stream").body(Body::empty()).unwrap();
    let lines = logged(|| drop(api.call(request).expect(200)));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].2.0["message"], "failed to follow a session for a client");
    assert_names_the_session(&lines[0], &id);
}

#[test]
fn a_session_of_which_nobody_knows_whether_it_is_there_is_named() {
    let id: crus_core::UpgradeId = "c926acf6-b5c6-411e-ba6c-ea0448cab2ee".parse().unwrap();
    let error = StoreError::Failed("no answer".into());
    let lines = logged(|| {
        let api = Api::new();
        api.fail(ServiceError::MayBeCreated { id, error });
        api.post_json(&example()).expect(504);
    });
    assert_eq!(lines[0].1.0, BTreeMap::from([("upgrade_id", id.to_string())]), "its step is not known");
}

/// Notes each deed in the log.
struct Noting;

impl Audit for Noting {
    fn note(&self, _: &Deed<'_>) {
        info!("noted");
    }
}

#[test]
fn what_is_noted_of_a_session_is_logged_with_its_id_and_step() {
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|name| *name != "parameters") {
            let method: Method = method.to_uppercase().parse().unwrap();
            if documented_role(path, &method).is_none() || !path.contains("{upgrade_id}") {
                continue;
            }
            let access = Arc::new(Known::of("ada", Some(Role::Operate)));
            let api = Api::built(Site::default(), access, |api| api.audit(Arc::new(Noting)));
            let id = api.add_example();
            let path = path.replace("{upgrade_id}", &id);
            // Refused: without a token.
            let lines = logged(|| drop(api.send(method.as_str(), &path).expect(401)));
            assert_eq!(lines.len(), 1, "{method} {path}: {lines:?}");
            assert_names_the_session(&lines[0], &id);
        }
    }
    let lines = logged(|| {
        let api = Api::built(Site::default(), Arc::new(Open), |api| api.audit(Arc::new(Noting)));
        api.post_json(&example()).expect(201);
    });
    assert_eq!(lines[0].1.0["step"], "0", "a new one has begun none: {lines:?}");
}
