//! BOS v2: session templates, sessions, components.
//!
//! # Oddities of the real one, kept
//!
//! - Times are in the server's zone, without saying so (here: UTC).
//! - `/healthz` is 200 while the store is down and everything else 503.
//! - A body of another type than JSON is 415, a property that is not in the schema 400.
//! - `ids=` takes 127 characters in all.
//! - `DELETE /sessions` without a filter deletes them all.
//!
//! A tenant's header selects the templates and sessions of that tenant: names of one are not those of another, nor of
//! none. The image that a node runs goes by the template's name in the model.

pub(super) mod schema;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use crus_core::{Time, Xname};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::answer;
use super::live::LiveCluster;
use crate::cluster::bos::{
    BootComponent, BosError, ExtendedStatus, NewSession, Operation, Session, SessionStatus,
};
use crate::config::TemplateSpec;

pub(super) fn router(live: LiveCluster) -> Router {
    Router::new()
        .route("/", get(version))
        .route("/version", get(version))
        .route("/healthz", get(healthz))
        .route("/sessiontemplates", get(templates))
        .route("/sessiontemplates/{name}", get(template).put(put_template).delete(delete_template))
        .route("/sessions", get(sessions).post(create_session).delete(delete_sessions))
        .route("/sessions/{name}", get(session).delete(delete_session))
        .route("/sessions/{name}/status", get(session_status))
        .route("/components", get(components))
        .route("/components/{id}", get(component).patch(patch_component))
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
        .with_state(live)
}

/// A problem.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    title: &'static str,
    detail: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Refusal { status, title, detail: detail.into() }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, "Bad Request", detail)
    }
}

impl From<BosError> for Refusal {
    fn from(error: BosError) -> Self {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let title = match status {
            StatusCode::BAD_REQUEST => "Bad Request",
            StatusCode::NOT_FOUND => "The resource was not found",
            StatusCode::CONFLICT => "The resource to be created already exists",
            _ => "Service Unavailable",
        };
        Refusal { status, title, detail: error.to_string() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Problem<'a> {
            detail: &'a str,
            status: u16,
            title: &'a str,
            r#type: &'a str,
        }
        let body = Problem {
            detail: &self.detail,
            status: self.status.as_u16(),
            title: self.title,
            r#type: "about:blank",
        };
        answer::problem(self.status, &body)
    }
}

pub(super) type Answer = Result<Response, Refusal>;

pub(super) fn ok(body: &impl Serialize) -> Response {
    answer::json(StatusCode::OK, body)
}

pub(super) fn no_content() -> Response {
    answer::empty(StatusCode::NO_CONTENT)
}

/// Reads a JSON object.
pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    let content_type = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Unsupported Media Type",
            format!("Invalid Content-type ({content_type}), expected JSON data"),
        ));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(Refusal::bad_request(format!("{} is not of type 'object'", schema::shown(&other)))),
        Err(_) => Err(Refusal::bad_request("Request body is not valid JSON")),
    }
}

/// A moment as BOS writes it: no zone.
pub(super) fn time(at: Time) -> String {
    let at = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map(|at| at.strftime("%Y-%m-%dT%H:%M:%S").to_string()).unwrap_or_default()
}

async fn version() -> Response {
    let link = |href: &str, rel: &str| json!({"href": href, "rel": rel});
    let links = [link("/v2", "self"), link("/v2/sessions", "sessions")];
    ok(&json!({"links": links, "major": "2", "minor": "50", "patch": "0"}))
}

async fn healthz(State(live): State<LiveCluster>) -> Response {
    let up = live.with(|cluster| cluster.boot_templates().is_ok());
    ok(&json!({"apiStatus": "ok", "dbStatus": if up { "ok" } else { "not_available" }}))
}

// Tenants

/// Between a tenant and a name of theirs in the model: each tenant has names of its own.
const OF_TENANT: &str = "--owns--";

/// For whom a request is.
#[derive(Debug, Clone)]
struct Tenant(Option<String>);

impl Tenant {
    fn of(headers: &HeaderMap) -> Tenant {
        let name = headers.get("cray-tenant-name").and_then(|value| value.to_str().ok());
        Tenant(name.filter(|name| !name.is_empty()).map(str::to_owned))
    }

    /// What the model calls a name of theirs.
    fn inner(&self, name: &str) -> String {
        match &self.0 {
            Some(tenant) if !name.is_empty() => format!("{tenant}{OF_TENANT}{name}"),
            _ => name.to_owned(),
        }
    }

    /// What they call what the model calls so; `None` when it is not theirs.
    fn outer<'a>(&self, name: &'a str) -> Option<&'a str> {
        match (&self.0, name.split_once(OF_TENANT)) {
            (None, None) => Some(name),
            (Some(tenant), Some((owner, name))) if tenant == owner => Some(name),
            _ => None,
        }
    }

    fn word(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

// Session templates

/// A template as BOS shows it. The model keeps which nodes a boot set names; where its image lies follows from the
/// template's name.
fn template_out(tenant: &Tenant, name: &str, template: &TemplateSpec) -> Value {
    let boot_sets: Map<String, Value> = template
        .boot_sets
        .iter()
        .map(|(set_name, set)| {
            let mut out = json!({
                "arch": set.arch,
                "kernel_parameters": "",
                "name": set_name,
                "path": format!("s3://boot-images/{name}/manifest.json"),
                "type": "s3",
            });
            for (key, list) in [
                ("node_groups", &set.node_groups),
                ("node_list", &set.node_list),
                ("node_roles_groups", &set.node_roles_groups),
            ] {
                if !list.is_empty() {
                    out[key] = json!(list);
                }
            }
            (set_name.clone(), out)
        })
        .collect();
    let links = [json!({"href": format!("/v2/sessiontemplates/{name}"), "rel": "self"})];
    json!({"boot_sets": boot_sets, "enable_cfs": true, "links": links, "name": name, "tenant": tenant.word()})
}

async fn templates(State(live): State<LiveCluster>, headers: HeaderMap) -> Answer {
    let tenant = Tenant::of(&headers);
    let all = live.with(|cluster| {
        let names = cluster.boot_templates()?;
        names
            .into_iter()
            .filter_map(|name| Some((name, tenant.outer(name)?)))
            .map(|(name, outer)| Ok(template_out(&tenant, outer, cluster.boot_template(name)?)))
            .collect::<Result<Vec<_>, BosError>>()
    })?;
    Ok(ok(&all))
}

async fn template(State(live): State<LiveCluster>, Path(name): Path<String>, headers: HeaderMap) -> Answer {
    let tenant = Tenant::of(&headers);
    let found = live.with(|cluster| {
        cluster.boot_template(&tenant.inner(&name)).map(|spec| template_out(&tenant, &name, spec))
    })?;
    Ok(ok(&found))
}

async fn put_template(
    State(live): State<LiveCluster>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let body = read(&headers, &body)?;
    let template = schema::template(&body).map_err(Refusal::bad_request)?;
    let tenant = Tenant::of(&headers);
    let stored = template_out(&tenant, &name, &template);
    live.with(|cluster| cluster.put_boot_template(&tenant.inner(&name), template))?;
    Ok(ok(&stored))
}

async fn delete_template(
    State(live): State<LiveCluster>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Answer {
    live.with(|cluster| cluster.delete_boot_template(&Tenant::of(&headers).inner(&name)))?;
    Ok(no_content())
}

// Sessions

fn session_out(tenant: &Tenant, session: &Session) -> Value {
    let NewSession { name, operation, template_name, limit, stage, include_disabled } = &session.request;
    let (name, template_name) = (tenant.outer(name), tenant.outer(template_name));
    let components: Vec<String> = session.components.iter().map(ToString::to_string).collect();
    json!({
        "components": components.join(","),
        "include_disabled": include_disabled,
        "limit": limit,
        "name": name,
        "operation": match operation {
            Operation::Boot => "boot",
            Operation::Reboot => "reboot",
            Operation::Shutdown => "shutdown",
        },
        "stage": stage,
        "status": {
            "end_time": session.end_time.map(time),
            "error": session.error,
            "start_time": time(session.start_time),
            "status": status_word(session.status),
        },
        "template_name": template_name,
        "tenant": tenant.word(),
    })
}

fn status_word(status: SessionStatus) -> &'static str {
    match status {
        SessionStatus::Pending => "pending",
        SessionStatus::Running => "running",
        SessionStatus::Complete => "complete",
    }
}

async fn create_session(State(live): State<LiveCluster>, headers: HeaderMap, body: Bytes) -> Answer {
    let body = read(&headers, &body)?;
    let mut request = schema::session(&body).map_err(Refusal::bad_request)?;
    let tenant = Tenant::of(&headers);
    let created = live.with(|cluster| {
        if request.name.is_empty() {
            let taken = cluster.boot_sessions()?;
            let is_free = |name: &String| !taken.iter().any(|session| session.request.name == *name);
            request.name = (1u64..)
                .map(|number| format!("00000000-0000-4000-8000-{number:012x}"))
                .find(is_free)
                .unwrap_or_default();
        }
        request.name = tenant.inner(&request.name);
        request.template_name = tenant.inner(&request.template_name);
        cluster.create_boot_session(request).map(|session| session_out(&tenant, session))
    })?;
    Ok(answer::json(StatusCode::CREATED, &created))
}

type Filters = Query<Vec<(String, String)>>;

/// The first value of a key, as BOS takes it.
fn first<'a>(filters: &'a [(String, String)], key: &str) -> Option<&'a str> {
    filters.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

/// Whether a session passes `status`, `min_age` and `max_age`.
fn wanted(session: &Session, filters: &[(String, String)], now: Time) -> Result<bool, Refusal> {
    let age_ms = now.since(session.start_time);
    let bound = |key| first(filters, key).map(schema::age_ms).transpose().map_err(Refusal::bad_request);
    let min = bound("min_age")?.is_none_or(|min| age_ms >= min);
    let max = bound("max_age")?.is_none_or(|max| age_ms <= max);
    Ok(min && max && first(filters, "status").is_none_or(|status| status == status_word(session.status)))
}

async fn sessions(State(live): State<LiveCluster>, Query(filters): Filters, headers: HeaderMap) -> Answer {
    let tenant = Tenant::of(&headers);
    let found = live.with(|cluster| {
        let now = cluster.now();
        let mut found = Vec::new();
        for session in cluster.boot_sessions()? {
            if tenant.outer(&session.request.name).is_some() && wanted(session, &filters, now)? {
                found.push(session_out(&tenant, session));
            }
        }
        Ok::<_, Refusal>(found)
    })?;
    Ok(ok(&found))
}

async fn delete_sessions(
    State(live): State<LiveCluster>,
    Query(filters): Filters,
    headers: HeaderMap,
) -> Answer {
    let tenant = Tenant::of(&headers);
    live.with(|cluster| {
        let now = cluster.now();
        let mut names = Vec::new();
        for session in cluster.boot_sessions()? {
            if tenant.outer(&session.request.name).is_some() && wanted(session, &filters, now)? {
                names.push(session.request.name.clone());
            }
        }
        for name in names {
            cluster.delete_boot_session(&name)?;
        }
        Ok(no_content())
    })
}

async fn session(State(live): State<LiveCluster>, Path(name): Path<String>, headers: HeaderMap) -> Answer {
    let tenant = Tenant::of(&headers);
    let found = live.with(|cluster| {
        cluster.boot_session(&tenant.inner(&name)).map(|session| session_out(&tenant, session))
    })?;
    Ok(ok(&found))
}

async fn delete_session(
    State(live): State<LiveCluster>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Answer {
    live.with(|cluster| cluster.delete_boot_session(&Tenant::of(&headers).inner(&name)))?;
    Ok(no_content())
}

async fn session_status(
    State(live): State<LiveCluster>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let name = Tenant::of(&headers).inner(&name);
    let found = live.with(|cluster| {
        let totals = cluster.boot_session_status(&name)?;
        let now = cluster.now();
        cluster.boot_session(&name).map(|session| status_out(session, &totals, now))
    })?;
    Ok(ok(&found))
}

fn status_out(session: &Session, totals: &ExtendedStatus, now: Time) -> Value {
    // Two digits; no components are zero percent of everything.
    let percent = |count: usize| {
        let share = if totals.managed == 0 { 0.0 } else { count as f64 * 100.0 / totals.managed as f64 };
        (share * 100.0).round() / 100.0
    };
    let errors: Map<String, Value> = totals
        .errors
        .iter()
        .map(|(error, xnames)| {
            let shown: Vec<String> = xnames.iter().take(10).map(ToString::to_string).collect();
            let more = if xnames.len() > 10 { "..." } else { "" };
            (error.clone(), json!({"count": xnames.len(), "list": format!("{}{more}", shown.join(","))}))
        })
        .collect();
    let seconds = session.end_time.unwrap_or(now).since(session.start_time) / 1000;
    let (days, h, m, s) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let duration = match days {
        0 => format!("{h}:{m:02}:{s:02}"),
        1 => format!("1 day, {h}:{m:02}:{s:02}"),
        days => format!("{days} days, {h}:{m:02}:{s:02}"),
    };
    json!({
        "error_summary": errors,
        "managed_components_count": totals.managed,
        "percent_failed": percent(totals.failed),
        "percent_staged": 0.0,
        "percent_successful": percent(totals.successful),
        "phases": {
            "percent_complete": percent(totals.complete),
            "percent_configuring": percent(totals.configuring),
            "percent_powering_off": percent(totals.powering_off),
            "percent_powering_on": percent(totals.powering_on),
        },
        "status": status_word(session.status),
        "timing": {
            "duration": duration,
            "end_time": session.end_time.map(time),
            "start_time": time(session.start_time),
        },
    })
}

// Components

fn component_out(component: &BootComponent) -> Value {
    let updated = time(component.last_updated);
    let artifacts = |template: &str| match template {
        "" => json!({"initrd": "", "kernel": "", "kernel_parameters": ""}),
        name => json!({
            "initrd": format!("s3://boot-images/{name}/initrd"),
            "kernel": format!("s3://boot-images/{name}/kernel"),
            "kernel_parameters": "",
        }),
    };
    let overridden = matches!(component.status, "failed" | "on_hold");
    json!({
        "actual_state": {
            "boot_artifacts": artifacts(&component.actual),
            "bss_token": "",
            "last_updated": updated,
        },
        "desired_state": {
            "boot_artifacts": artifacts(&component.desired),
            "bss_token": "",
            "configuration": "",
            "last_updated": updated,
        },
        "enabled": component.enabled,
        "error": component.error,
        "event_stats": {
            "power_off_forceful_attempts": 0,
            "power_off_graceful_attempts": component.power_off_attempts,
            "power_on_attempts": component.power_on_attempts,
        },
        "id": component.xname.to_string(),
        "last_action": {"action": last_action(component), "failed": false, "last_updated": updated},
        "session": component.session,
        "staged_state": {},
        "status": {
            "phase": component.phase,
            "status": component.status,
            "status_override": if overridden { component.status } else { "" },
        },
    })
}

fn last_action(component: &BootComponent) -> &'static str {
    match component.status {
        "power_off_gracefully_called" => "powering_off_gracefully",
        "power_off_forcefully_called" => "powering_off_forcefully",
        "power_on_called" | "configuring" => "powering_on",
        _ if component.session.is_empty() => "newly_discovered",
        "stable" | "failed" if component.power_on_attempts > 0 => "powering_on",
        _ => "session_setup",
    }
}

async fn components(State(live): State<LiveCluster>, Query(filters): Filters, headers: HeaderMap) -> Answer {
    let tenant = Tenant::of(&headers);
    let ids = first(&filters, "ids");
    if ids.is_some_and(|ids| ids.chars().count() > schema::ID_MAX) {
        let ids = ids.unwrap_or_default();
        return Err(Refusal::bad_request(format!("'{ids}' is too long")));
    }
    let enabled = first(&filters, "enabled").map(|text| schema::boolean("enabled", text)).transpose();
    let enabled = enabled.map_err(Refusal::bad_request)?;
    let page_size = first(&filters, "page_size").map(schema::page_size).transpose();
    let page_size = page_size.map_err(Refusal::bad_request)?.filter(|size| *size > 0);
    let after = first(&filters, "start_after_id");
    let mut found = live.with(|cluster| match first(&filters, "session") {
        Some(session) if !session.is_empty() => cluster.boot_components_of(&tenant.inner(session)),
        _ => cluster.boot_components(),
    })?;
    found.retain(|component| {
        let id = component.xname.to_string();
        ids.is_none_or(|ids| ids.split(',').any(|wanted| wanted == id))
            && enabled.is_none_or(|enabled| enabled == component.enabled)
            && first(&filters, "phase").is_none_or(|phase| phase.is_empty() || phase == component.phase)
            && first(&filters, "status")
                .is_none_or(|status| status.is_empty() || status.split(',').any(|one| one == component.status))
            // Nothing is staged here.
            && first(&filters, "staged_session").is_none_or(str::is_empty)
    });
    for component in &mut found {
        if let Some(name) = tenant.outer(&component.session) {
            component.session = name.to_owned();
        }
    }
    // Pages follow the order of the ids as text.
    found.sort_by_cached_key(|component| component.xname.to_string());
    let page: Vec<Value> = found
        .iter()
        .filter(|component| after.is_none_or(|after| component.xname.to_string().as_str() > after))
        .take(page_size.unwrap_or(usize::MAX))
        .map(component_out)
        .collect();
    Ok(ok(&page))
}

fn xname(id: &str) -> Result<Xname, Refusal> {
    Xname::new(id).map_err(|_| BosError::NoSuchComponent(id.to_owned()).into())
}

async fn component(State(live): State<LiveCluster>, Path(id): Path<String>) -> Answer {
    let xname = xname(&id)?;
    let found = live.with(|cluster| cluster.boot_component(xname))?;
    Ok(ok(&component_out(&found)))
}

async fn patch_component(
    State(live): State<LiveCluster>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let body = read(&headers, &body)?;
    let enabled = schema::component_patch(&body).map_err(Refusal::bad_request)?;
    let xname = xname(&id)?;
    let patched = live.with(|cluster| match enabled {
        Some(enabled) => cluster.enable_boot_component(xname, enabled),
        None => cluster.boot_component(xname),
    })?;
    Ok(ok(&component_out(&patched)))
}
