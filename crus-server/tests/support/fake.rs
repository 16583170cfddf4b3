//! A service that answers what a test wants, and remembers what it was asked: on loopback, in a runtime of its own, so
//! that it dies like a process, with all of its connections.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use crus_server::http::{HttpLimits, HttpOptions};
use crus_server::metrics::Connections;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::PATIENCE;
use super::port::Port;

/// What it holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    pub(crate) sessions: Vec<Value>,
    pub(crate) progress: Value,
    pub(crate) strategy: Value,
    pub(crate) plan: Value,
    pub(crate) nodes: Vec<Value>,
    pub(crate) events: Vec<Value>,
    /// The most events of an answer.
    pub(crate) page: usize,
    /// Answers this instead, whatever is asked for: code, headers, body.
    pub(crate) instead: Option<Instead>,
    /// Knows the paths of the original alone.
    pub(crate) is_original: bool,
    /// Sends all events anew to whoever comes again.
    pub(crate) is_forgetful: bool,
    /// Breaks each stream of events once it has begun.
    pub(crate) is_cut: bool,
    /// All places for streams are taken.
    pub(crate) is_full: bool,
    /// Answers nothing.
    pub(crate) is_silent: bool,
    /// What it was asked.
    pub(crate) asked: Vec<Asked>,
}

/// Code, headers and body of an answer.
pub(crate) type Instead = (u16, Vec<(&'static str, String)>, String);

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) what: String,
    pub(crate) authorization: Option<String>,
    pub(crate) last_event_id: Option<String>,
    pub(crate) body: Value,
}

impl Held {
    /// Changes the state of the only session.
    pub(crate) fn set_state(&mut self, state: &str, completed: bool) {
        self.sessions[0]["state"] = json!(state);
        self.sessions[0]["completed"] = json!(completed);
        self.progress["state"] = json!(state);
    }

    /// Takes up an order for the only session.
    fn order(&mut self, order: &str) {
        match order {
            "pause" => {
                self.progress["paused"] = json!({ "reason": "Paused", "since": "2020-01-02T10:00:00.000Z" });
            }
            "resume" => self.progress["paused"] = json!(null),
            _ => {
                self.progress["counts"]["failed"] = json!(0);
                self.progress["counts"]["skipped"] = json!(0);
                self.set_state("UPDATING", false);
            }
        }
    }

    /// Adds an event with the next number.
    pub(crate) fn happen(&mut self, kind: &str, fields: &Value) {
        let mut event = json!({ "at": "2026-11-24T10:31:07.123Z", "kind": kind, "number": self.events.len() + 1, "step": 1 });
        event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.events.push(event);
    }
}

pub(crate) struct Fake {
    port: Port,
    held: Arc<Mutex<Held>>,
    runtime: Option<Runtime>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.die();
    }
}

impl Fake {
    pub(crate) fn start(held: Held) -> Fake {
        let held = Arc::new(Mutex::new(held));
        let mut fake = Fake { port: Port::new(), held, runtime: None };
        fake.start_again();
        fake
    }

    /// On the same port as before.
    pub(crate) fn start_again(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(self.port.address)).unwrap();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&self.held));
        let limits = HttpLimits {
            head_timeout: PATIENCE,
            request_timeout: PATIENCE,
            stall_timeout: PATIENCE,
            ..HttpLimits::new(&HttpOptions::default(), PATIENCE)
        };
        runtime.spawn(crus_server::http::serve(
            listener,
            None,
            router,
            limits,
            Connections::default(),
            std::future::pending(),
        ));
        self.runtime = Some(runtime);
    }

    /// Ends at once, and breaks all connections.
    pub(crate) fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.port.address)
    }

    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        change(&mut self.held.lock().unwrap())
    }

    /// What it was asked with this method and path.
    pub(crate) fn asked(&self, what: &str) -> Vec<Asked> {
        self.with(|held| held.asked.iter().filter(|asked| asked.what == what).cloned().collect())
    }
}

type Shared = Arc<Mutex<Held>>;

async fn answer(
    State(held): State<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let what = format!("{method} {uri}");
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    let (instead, is_silent) = {
        let mut held = held.lock().unwrap();
        let (authorization, last_event_id) = (header("authorization"), header("last-event-id"));
        held.asked.push(Asked { what, authorization, last_event_id, body: body.clone() });
        (held.instead.clone(), held.is_silent)
    };
    if is_silent {
        std::future::pending::<()>().await;
    }
    if let Some((code, headers, body)) = instead {
        let mut response = (StatusCode::from_u16(code).unwrap(), body).into_response();
        response.headers_mut().clear();
        for (name, value) in headers {
            response.headers_mut().insert(name, value.parse().unwrap());
        }
        return response;
    }
    let path: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    let query = |name: &str| {
        let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| value.replace("%2C", ",")).next()
    };
    let mut now = held.lock().unwrap();
    match (method.as_str(), path.as_slice()) {
        ("GET", ["session"]) => json(200, &json!(now.sessions)),
        ("POST", ["session"]) => json(201, &now.sessions[0]),
        ("POST", ["plan"]) => json(200, &now.plan),
        (_, ["session", id, rest @ ..]) => {
            let Some(at) = now.sessions.iter().position(|session| session["upgrade_id"] == *id) else {
                return problem(404, "Requested resource does not exist. Re-run request with valid ID.");
            };
            match (method.as_str(), rest) {
                (_, [_, ..]) if now.is_original => problem(404, "Requested path does not exist."),
                ("GET", []) => json(200, &now.sessions[at]),
                ("POST", [order @ ("pause" | "resume" | "retry")]) => {
                    let noted = json(200, &now.sessions[at]);
                    now.order(order);
                    noted
                }
                ("DELETE", []) => {
                    now.sessions[at]["state"] = json!("DELETING");
                    json(200, &now.sessions[at])
                }
                ("GET", ["progress"]) => json(200, &now.progress),
                ("GET", ["strategy"]) => json(200, &now.strategy),
                ("GET", ["nodes"]) => {
                    let states = query("state");
                    let is_wanted = |node: &&Value| {
                        states
                            .as_ref()
                            .is_none_or(|states| states.split(',').any(|state| node["state"] == *state))
                    };
                    let after = query("after").unwrap_or_default();
                    let wanted = now.nodes.iter().filter(is_wanted);
                    let mut wanted = wanted.filter(|node| node["xname"].as_str().unwrap() > after.as_str());
                    let limit: usize = query("limit").unwrap().parse().unwrap();
                    let page: Vec<_> = wanted.by_ref().take(limit.min(now.page)).collect();
                    let next = wanted.next().and(page.last()).map(|node| &node["xname"]);
                    json(200, &json!({ "next": next, "nodes": page }))
                }
                ("GET", ["events"]) if header("accept").as_deref() == Some("text/event-stream") => {
                    if now.is_full {
                        return problem(503, "All places for streams are taken.");
                    }
                    if now.is_cut {
                        let first = now.events.first().filter(|_| now.is_forgetful);
                        let first = first.map(|event| Ok(format!("id: 1\ndata: {event}\n\n")));
                        let end = futures_util::stream::once(async {
                            // What was written is on its way before the connection breaks.
                            tokio::time::sleep(Duration::from_millis(20)).await;
                            Err::<String, _>(std::io::Error::other("cut"))
                        });
                        let broken = futures_util::StreamExt::chain(futures_util::stream::iter(first), end);
                        return ([("content-type", "text/event-stream")], Body::from_stream(broken))
                            .into_response();
                    }
                    let after = header("last-event-id").map_or(0, |id| id.parse().unwrap());
                    let after = if now.is_forgetful { 0 } else { after };
                    drop(now);
                    stream(held, after)
                }
                ("GET", ["events"]) => {
                    let after: u64 = query("after").map_or(0, |after| after.parse().unwrap());
                    let limit: usize = query("limit").unwrap().parse().unwrap();
                    let later = now.events.iter().filter(|event| event["number"].as_u64().unwrap() > after);
                    let page: Vec<_> = later.take(limit.min(now.page)).collect();
                    let next = page.last().map_or(json!(after), |event| event["number"].clone());
                    json(200, &json!({ "events": page, "next": next }))
                }
                _ => problem(404, "Requested path does not exist."),
            }
        }
        _ => problem(
            404,
            "Requested path does not exist. The paths of this service are listed at /openapi.json.",
        ),
    }
}

fn json(code: u16, body: &Value) -> Response {
    let head = [("content-type", "application/json")];
    (StatusCode::from_u16(code).unwrap(), head, body.to_string()).into_response()
}

/// A problem's text.
pub(crate) fn problem_text(code: u16, detail: &str, errors: Option<Value>) -> String {
    let mut problem = json!({ "detail": detail, "status": code, "title": "Title", "type": "about:blank" });
    if let Some(errors) = errors {
        problem["errors"] = errors;
    }
    problem.to_string()
}

fn problem(code: u16, detail: &str) -> Response {
    let head = [("content-type", "application/problem+json")];
    (StatusCode::from_u16(code).unwrap(), head, problem_text(code, detail, None)).into_response()
}

/// Events as they are added, until the session is gone; in the words of the service.
fn stream(held: Shared, after: u64) -> Response {
    let events = futures_util::stream::unfold((held, after, false), |(held, after, is_over)| async move {
        loop {
            {
                let now = held.lock().unwrap();
                let number = |event: &Value| event["number"].as_u64().unwrap();
                if is_over {
                    return None;
                }
                if let Some(event) = now.events.iter().find(|event| number(event) > after) {
                    let number = number(event);
                    let mut text = String::new();
                    if number > after + 1 {
                        let (from, to) = (after + 1, number - 1);
                        text = format!("id: {to}\nevent: gap\ndata: {{\"from\":{from},\"to\":{to}}}\n\n");
                    }
                    let kind = event["kind"].as_str().unwrap();
                    text += &format!("id: {number}\nevent: {kind}\ndata: {event}\n\n");
                    drop(now);
                    return Some((Ok::<_, Infallible>(text), (held, number, false)));
                }
                if now.sessions.is_empty() {
                    drop(now);
                    let text = "event: deleted\ndata: {\"upgrade_id\":\"\"}\n\n".to_owned();
                    return Some((Ok(text), (held, after, true)));
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
}
