//! A service behind the routes that keeps its sessions in memory, and a way to call the routes.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, Bytes};
use crus_api::{API_VERSION, ApiLimits, ServiceError, SessionStatus, Sessions, Site, router};
use crus_core::commands;
use crus_core::machine::{self, Input};
use crus_core::model::{Command, Summary};
use crus_core::{Limits, Session, Spec, Strategy, Time, UpgradeId};
use http::request::Builder;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::document;

/// The contract's own example of a request.
pub(crate) fn example() -> Value {
    json!({
        "failed_label": "nodes-that-failed",
        "starting_label": "nodes-to-upgrade",
        "upgrade_step_size": 30,
        "upgrade_template_id": "my-bos-session-template",
        "upgrading_label": "nodes-currently-upgrading",
        "workload_manager_type": "slurm"
    })
}

/// The example with one property set.
pub(crate) fn example_with(name: &str, value: Value) -> Value {
    let mut body = example();
    body[name] = value;
    body
}

/// The example without one property.
pub(crate) fn example_without(name: &str) -> Value {
    let mut body = example();
    body.as_object_mut().unwrap().remove(name);
    body
}

/// Sessions that nobody works on.
#[derive(Default)]
pub(crate) struct Memory {
    sessions: Mutex<Vec<Session>>,
    error: Mutex<Option<ServiceError>>,
}

impl Memory {
    fn with<T>(&self, look: impl FnOnce(&mut Vec<Session>) -> T) -> Result<T, ServiceError> {
        match &*self.error.lock().unwrap() {
            Some(error) => Err(error.clone()),
            None => Ok(look(&mut self.sessions.lock().unwrap())),
        }
    }
}

fn status(session: &Session) -> Arc<SessionStatus> {
    Arc::new(SessionStatus::of(&session.head, &session.messages))
}

#[async_trait]
impl Sessions for Memory {
    async fn create(&self, spec: Spec) -> Result<Arc<SessionStatus>, ServiceError> {
        self.with(|sessions| {
            // Ids fall, so that the order of creation is not theirs.
            let id = UpgradeId(uuid::Uuid::from_u128(u128::MAX - sessions.len() as u128));
            sessions.push(Session::new(id, spec, API_VERSION, Limits::default(), Time(0)));
            status(&sessions[sessions.len() - 1])
        })
    }

    async fn list(&self) -> Result<Vec<Arc<SessionStatus>>, ServiceError> {
        self.with(|sessions| sessions.iter().map(status).collect())
    }

    async fn get(&self, id: UpgradeId) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        self.with(|sessions| sessions.iter().find(|session| session.head.id == id).map(status))
    }

    async fn delete(&self, id: UpgradeId) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        self.with(|sessions| {
            let session = sessions.iter_mut().find(|session| session.head.id == id)?;
            session.head.deletion = Some(Time(1));
            Some(status(session))
        })
    }

    async fn command(
        &self,
        id: UpgradeId,
        command: Command,
    ) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        let taken = self.with(|sessions| {
            let session = sessions.iter_mut().find(|session| session.head.id == id)?;
            let Session { head, messages, .. } = session.clone();
            let summary = Summary { head, messages, deletion_ordered: false, commands: Vec::new() };
            if let Some(reason) = commands::why_not(&summary, command) {
                return Some(Err(ServiceError::NotNow { reason }));
            }
            let number = session.head.commands + 1;
            machine::step(session, Time(2), Input::Command { number, command });
            Some(Ok(status(session)))
        });
        taken?.transpose()
    }

    async fn strategy(&self, id: UpgradeId) -> Result<Option<Strategy>, ServiceError> {
        self.with(|sessions| Some(found(sessions, id)?.head.spec.strategy.clone()))
    }
}

fn found(sessions: &[Session], id: UpgradeId) -> Option<&Session> {
    sessions.iter().find(|session| session.head.id == id)
}

/// The routes with a service of memory behind them.
pub(crate) struct Api {
    router: Router,
    memory: Arc<Memory>,
}

impl Api {
    pub(crate) fn new() -> Self {
        Api::of(Site::default())
    }

    /// The same at a site of its own.
    pub(crate) fn of(site: Site) -> Self {
        let memory = Arc::new(Memory::default());
        let sessions = Arc::clone(&memory) as Arc<dyn Sessions>;
        Api { router: router(sessions, site, ApiLimits::default()), memory }
    }

    /// From now on the service fails.
    pub(crate) fn fail(&self, error: ServiceError) {
        *self.memory.error.lock().unwrap() = Some(error);
    }

    /// The deletion of all sessions comes to its end.
    pub(crate) fn forget(&self) {
        self.memory.sessions.lock().unwrap().clear();
    }

    /// Sends a request. The answer is what the document says.
    pub(crate) fn call(&self, request: Request<Body>) -> Answer {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let (head, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Answer { status: head.status, headers: head.headers, body }
        });
        document::check(&method, &path, &answer);
        answer
    }

    pub(crate) fn send(&self, method: &str, path: &str) -> Answer {
        self.call(request(method, path).body(Body::empty()).unwrap())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path)
    }

    /// Posts a body as JSON.
    pub(crate) fn post(&self, body: impl Into<Body>) -> Answer {
        let request = request("POST", "/session").header("content-type", "application/json");
        self.call(request.body(body.into()).unwrap())
    }

    pub(crate) fn post_json(&self, body: &Value) -> Answer {
        self.post(body.to_string())
    }
}

pub(crate) fn request(method: &str, path: &str) -> Builder {
    Request::builder().method(method).uri(path)
}

/// An answer, complete.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }

    /// Checks the status; the answer goes on.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }
}
