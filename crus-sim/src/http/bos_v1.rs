//! BOS v1, of older systems: session templates, sessions, the status of their boot sets.
//!
//! # Oddities of the real one, kept
//!
//! - A session has an id of BOS's own; what is asked for twice happens twice.
//! - `GET /session` lists ids only. A session that has just begun has no status yet.
//! - The session's `error_count` stays 0 whatever happens; that of a boot set counts.
//! - A boot set has the phases of the session's operation, with all its nodes in them from the beginning.
//! - An unknown template is a 404 with a bare JSON string.
//! - A tenant's header is a 400.
//! - The status of a phase that is none is never answered.
//! - Old versions never say that a session is complete: [`BosConfig::says_complete`](crate::config::BosConfig).

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Map, Value, json};

use super::answer;
use super::bos::schema;
use super::bos::{Answer, Refusal, no_content, ok, read, time};
use super::live::LiveCluster;
use crate::cluster::bos::{BosError, NewSession, Operation, Session, SessionStatus, SetStatus};

pub(super) fn router(live: LiveCluster) -> Router {
    Router::new()
        .route("/", get(version))
        .route("/version", get(version))
        .route("/healthz", get(healthz))
        .route("/sessiontemplate", get(templates).post(create_template))
        .route("/sessiontemplate/{name}", get(template).delete(delete_template))
        .route("/session", get(sessions).post(create_session))
        .route("/session/{id}", get(session).delete(delete_session))
        .route("/session/{id}/status", get(session_status))
        .route("/session/{id}/status/{set}", get(set_status))
        .route("/session/{id}/status/{set}/{phase}", get(phase_status))
        .fallback(async || {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "Not Found",
                "The requested URL was not found on the server. If you entered the URL manually please check your \
                 spelling and try again.",
            )
        })
        .method_not_allowed_fallback(async || {
            let detail = "The method is not allowed for the requested URL.";
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed", detail)
        })
        .layer(middleware::from_fn(no_tenants))
        .with_state(live)
}

async fn no_tenants(request: Request, next: Next) -> Response {
    if request.headers().contains_key("cray-tenant-name") {
        return Refusal::bad_request("Tenants are not supported in v1").into_response();
    }
    next.run(request).await
}

async fn version() -> Response {
    let links = [json!({"href": "/v1", "rel": "self"})];
    ok(&json!({"links": links, "major": 1, "minor": 17, "patch": 0}))
}

async fn healthz(State(live): State<LiveCluster>) -> Response {
    let up = live.with(|cluster| cluster.boot_templates().is_ok());
    ok(&json!({"apiStatus": "ok", "etcdStatus": if up { "ok" } else { "not_available" }}))
}

/// No problem, but a bare text.
fn bare_404(text: &str) -> Response {
    answer::json(StatusCode::NOT_FOUND, &text)
}

// Session templates

fn template_out(name: &str, sets: &[String]) -> Value {
    let boot_sets: Map<String, Value> = sets
        .iter()
        .map(|set| {
            let path = format!("s3://boot-images/{name}/manifest.json");
            (
                set.clone(),
                json!({"name": set, "path": path, "type": "s3", "network": "nmn", "boot_ordinal": 1}),
            )
        })
        .collect();
    let links = [json!({"href": format!("/v1/sessiontemplate/{name}"), "rel": "self"})];
    json!({"boot_sets": boot_sets, "enable_cfs": true, "links": links, "name": name})
}

fn sets_of(live: &LiveCluster, name: &str) -> Result<Vec<String>, BosError> {
    live.with(|cluster| cluster.boot_template(name).map(|spec| spec.boot_sets.keys().cloned().collect()))
}

async fn templates(State(live): State<LiveCluster>) -> Answer {
    let names: Vec<String> = live.with(|cluster| {
        cluster.boot_templates().map(|names| names.into_iter().map(str::to_owned).collect())
    })?;
    let all = names
        .iter()
        .map(|name| sets_of(&live, name).map(|sets| template_out(name, &sets)))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(ok(&all))
}

async fn create_template(State(live): State<LiveCluster>, headers: HeaderMap, body: Bytes) -> Answer {
    let body = read(&headers, &body)?;
    let name = body.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let template = schema::template(&body).map_err(Refusal::bad_request)?;
    live.with(|cluster| cluster.put_boot_template(&name, template))?;
    Ok(answer::json(StatusCode::CREATED, &format!("/sessionTemplate/{name}")))
}

async fn template(State(live): State<LiveCluster>, Path(name): Path<String>) -> Answer {
    match sets_of(&live, &name) {
        Ok(sets) => Ok(ok(&template_out(&name, &sets))),
        Err(BosError::NoSuchTemplate(_)) => Ok(bare_404(&format!("Session template not found: {name}"))),
        Err(error) => Err(error.into()),
    }
}

async fn delete_template(State(live): State<LiveCluster>, Path(name): Path<String>) -> Answer {
    match live.with(|cluster| cluster.delete_boot_template(&name)) {
        Ok(()) => Ok(no_content()),
        Err(BosError::NoSuchTemplate(_)) => Ok(bare_404(&format!("Session template not found: {name}"))),
        Err(error) => Err(error.into()),
    }
}

// Sessions

async fn sessions(State(live): State<LiveCluster>) -> Answer {
    let ids: Vec<String> = live.with(|cluster| {
        let sessions = cluster.boot_sessions()?;
        Ok::<_, BosError>(sessions.iter().map(|session| session.request.name.clone()).collect())
    })?;
    Ok(ok(&ids))
}

async fn create_session(State(live): State<LiveCluster>, headers: HeaderMap, body: Bytes) -> Answer {
    let body = read(&headers, &body)?;
    let known = ["operation", "templateName", "templateUuid", "limit"];
    if let Some(odd) = body.keys().find(|key| !known.contains(&key.as_str())) {
        let detail = format!("Additional properties are not allowed ('{odd}' was unexpected)");
        return Err(Refusal::bad_request(detail));
    }
    let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
    let word = text("operation").unwrap_or_default();
    let operation = match word.to_ascii_lowercase().as_str() {
        "boot" => Operation::Boot,
        "reboot" => Operation::Reboot,
        "shutdown" => Operation::Shutdown,
        _ => return Err(Refusal::bad_request(format!("'{word}' does not match the operations"))),
    };
    let Some(template_name) = text("templateName").or_else(|| text("templateUuid")) else {
        return Err(Refusal::bad_request("templateName is a required property"));
    };
    let limit = text("limit").unwrap_or_default();
    let created = live.with(|cluster| {
        let id = format!("00000000-0000-4000-9000-{:012x}", cluster.next_boot_session());
        let request = NewSession {
            name: id.clone(),
            operation,
            template_name: template_name.clone(),
            limit: limit.clone(),
            stage: false,
            include_disabled: false,
        };
        cluster.create_boot_session(request).map(|_| id)
    });
    let id = match created {
        Ok(id) => id,
        Err(BosError::UnknownTemplate(name)) => {
            return Ok(bare_404(&format!("Session template not found: {name}")));
        }
        Err(error) => return Err(error.into()),
    };
    let links = json!([
        {"href": format!("/v1/session/{id}"), "rel": "session"},
        {"href": format!("/v1/session/{id}/status"), "rel": "status"},
    ]);
    let mut answer = json!({"job": format!("boa-{id}"), "links": links, "operation": word});
    answer["templateName"] = json!(template_name);
    answer["limit"] = json!(limit);
    Ok(answer::json(StatusCode::CREATED, &answer))
}

fn times(session: &Session) -> (String, Option<String>) {
    (time(session.start_time), session.end_time.map(time))
}

async fn session(State(live): State<LiveCluster>, Path(id): Path<String>) -> Answer {
    let shown = live.with(|cluster| {
        let session = cluster.boot_session(&id)?;
        let complete = session.status == SessionStatus::Complete && cluster.config().bos.says_complete;
        let (start, stop) = times(session);
        Ok::<_, BosError>(json!({
            "complete": complete,
            "error_count": 0,
            "in_progress": !complete,
            "start_time": start,
            "stop_time": stop.filter(|_| complete),
            "templateName": session.request.template_name,
        }))
    })?;
    Ok(ok(&shown))
}

/// Forgets the session, and stops nothing.
async fn delete_session(State(live): State<LiveCluster>, Path(id): Path<String>) -> Answer {
    live.with(|cluster| cluster.delete_boot_session(&id))?;
    Ok(no_content())
}

// Status

fn statuses(live: &LiveCluster, id: &str) -> Result<BTreeMap<String, SetStatus>, Refusal> {
    let sets = live.with(|cluster| cluster.boot_set_statuses(id))?;
    if sets.is_empty() {
        let detail = format!("Status for session {id} does not exist");
        return Err(Refusal::new(StatusCode::NOT_FOUND, "The resource was not found", detail));
    }
    Ok(sets)
}

fn phase_out(name: &str, status: &SetStatus) -> Value {
    let nodes = status.phases.get(name);
    let category = |category: &str| {
        let list = nodes.and_then(|nodes| nodes.get(category)).into_iter().flatten();
        let list: Vec<String> = list.map(ToString::to_string).collect();
        json!({"name": category, "node_list": list})
    };
    let categories = ["not_started", "in_progress", "succeeded", "failed", "excluded"].map(category);
    let errors: Map<String, Value> = status
        .errors
        .iter()
        .filter_map(|(error, xnames)| {
            let failed = nodes?.get("failed")?;
            let here: Vec<String> = xnames.intersection(failed).map(ToString::to_string).collect();
            (!here.is_empty()).then(|| (error.clone(), json!(here)))
        })
        .collect();
    json!({"name": name, "categories": categories, "errors": errors, "metadata": {}})
}

async fn session_status(State(live): State<LiveCluster>, Path(id): Path<String>) -> Answer {
    let sets = statuses(&live, &id)?;
    let names: Vec<&String> = sets.keys().collect();
    let links = [json!({"href": format!("/v1/session/{id}"), "rel": "self"})];
    // Whatever happened.
    Ok(ok(&json!({"id": id, "boot_sets": names, "links": links, "metadata": {"error_count": 0}})))
}

/// The status of one boot set.
fn set_of(live: &LiveCluster, id: &str, set: &str) -> Result<SetStatus, Refusal> {
    let mut sets = statuses(live, id)?;
    sets.remove(set).ok_or_else(|| {
        let detail = format!("Boot set {set} of session {id} does not exist");
        Refusal::new(StatusCode::NOT_FOUND, "The resource was not found", detail)
    })
}

fn phases_of(operation: Operation) -> &'static [&'static str] {
    match operation {
        Operation::Boot => &["boot", "configure"],
        Operation::Reboot => &["shutdown", "boot", "configure"],
        Operation::Shutdown => &["shutdown"],
    }
}

async fn set_status(State(live): State<LiveCluster>, Path((id, set)): Path<(String, String)>) -> Answer {
    let status = set_of(&live, &id, &set)?;
    let failed = status.phases.values().filter_map(|nodes| nodes.get("failed")).map(|failed| failed.len());
    let metadata = json!({"error_count": failed.sum::<usize>()});
    let operation =
        live.with(|cluster| cluster.boot_session(&id).map(|session| session.request.operation))?;
    let phases: Vec<Value> = phases_of(operation).iter().map(|phase| phase_out(phase, &status)).collect();
    Ok(ok(&json!({"name": set, "session": id, "metadata": metadata, "phases": phases, "links": []})))
}

async fn phase_status(
    State(live): State<LiveCluster>,
    Path((id, set, phase)): Path<(String, String, String)>,
) -> Answer {
    if !["shutdown", "boot", "configure"].contains(&phase.as_str()) {
        std::future::pending::<()>().await;
    }
    Ok(ok(&phase_out(&phase, &set_of(&live, &id, &set)?)))
}
