//! What the log is told.

use std::fmt;
use std::sync::{Arc, Mutex};

use crus_api::ServiceError;
use crus_core::commands::NotNow;
use crus_core::ports::StoreError;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::service::{Api, example, request};

/// Keeps the level and the message of each line of this crate.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, String)>>>);

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, about: &Metadata<'_>) -> bool {
        about.target().starts_with("crus_api")
    }

    fn event(&self, event: &Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().unwrap().push((*event.metadata().level(), message.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// What the log is told when the service does not do what this path is for.
fn told(path: &str, error: ServiceError) -> (Level, String) {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || {
        let api = Api::new();
        api.fail(error);
        let request = request("POST", path).header("content-type", "application/json");
        let answer = api.call(request.body(example().to_string().into()).unwrap());
        assert!(!answer.status.is_success(), "{}", answer.text());
    });
    let lines = log.0.lock().unwrap().clone();
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].clone()
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
