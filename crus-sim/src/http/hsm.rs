//! HSM v2: groups, members, components, locks.
//!
//! # Oddities of the real one, kept
//!
//! - A body that is not JSON is answered with 500.
//! - A wrong method is 404, not 405: `PUT …/members` looks like a service without that path.
//! - Members come in no order that may be relied upon: here the last is first.
//! - `Locked` is shown only when it is true.
//! - A PATCH of a group without fields answers two objects in one body.

use std::collections::BTreeSet;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, patch, post};
use crus_core::Xname;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::answer;
use super::live::LiveCluster;
use crate::cluster::hsm::{Component, Group, HsmError};

/// Where HSM says that things are.
const BASE: &str = "/hsm/v2";

pub(super) fn router(live: LiveCluster) -> Router {
    Router::new()
        .route("/service/ready", get(ready))
        .route("/service/liveness", get(async || answer::empty(StatusCode::NO_CONTENT)))
        .route("/groups", get(groups).post(create_group))
        .route("/groups/labels", get(labels))
        .route("/groups/{label}", get(group).patch(patch_group).delete(delete_group))
        .route("/groups/{label}/members", get(members).post(add_member))
        .route("/groups/{label}/members/{xname}", axum::routing::delete(remove_member))
        .route("/State/Components", get(components))
        .route("/State/Components/Query", post(query_components))
        .route("/State/Components/BulkEnabled", patch(patch_enabled_bulk))
        .route("/State/Components/{xname}", get(component).delete(delete_component))
        .route("/State/Components/{xname}/Enabled", patch(patch_enabled))
        .route("/locks/lock", post(lock))
        .route("/locks/unlock", post(unlock))
        .route("/locks/status", get(all_locks).post(locks))
        .fallback(no_such_page)
        .method_not_allowed_fallback(no_such_page)
        .with_state(live)
}

async fn no_such_page() -> Response {
    answer::raw(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n")
}

/// An answer that is not what was hoped for: a code and a problem's `detail`.
struct Refusal {
    status: StatusCode,
    detail: String,
}

impl Refusal {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Refusal { status, detail: detail.into() }
    }

    fn bad_request(detail: impl Into<String>) -> Self {
        Refusal::new(StatusCode::BAD_REQUEST, detail)
    }
}

impl From<HsmError> for Refusal {
    fn from(error: HsmError) -> Self {
        let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Refusal { status, detail: error.to_string() }
    }
}

/// RFC 7807, in the order of HSM's own keys.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'a str,
    title: &'a str,
    detail: &'a str,
    status: u16,
}

impl axum::response::IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = Problem {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or_default(),
            detail: &self.detail,
            status: self.status.as_u16(),
        };
        answer::problem(self.status, &body)
    }
}

type Answer = Result<Response, Refusal>;

/// `{"code":0,"message":…}`
fn done(message: &str) -> Response {
    #[derive(Serialize)]
    struct Done<'a> {
        code: u32,
        message: &'a str,
    }
    answer::json(StatusCode::OK, &Done { code: 0, message })
}

fn no_content() -> Response {
    answer::empty(StatusCode::NO_CONTENT)
}

/// 201 with where the new thing is.
fn created(uri: &str) -> Response {
    #[derive(Serialize)]
    struct Created<'a> {
        #[serde(rename = "URI")]
        uri: &'a str,
    }
    let mut response = answer::json(StatusCode::CREATED, &[Created { uri }]);
    if let Ok(value) = HeaderValue::from_str(uri) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("error decoding JSON {e}")))
}

async fn ready(State(live): State<LiveCluster>) -> Answer {
    if live.with(|cluster| cluster.hsm_ready()) {
        Ok(done("HSM is healthy"))
    } else {
        let detail = "HSM's database is unhealthy: dial tcp: connect: connection refused";
        Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, detail))
    }
}

// Groups

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupOut {
    label: String,
    description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exclusive_group: Option<String>,
    members: MembersOut,
}

#[derive(Serialize)]
struct MembersOut {
    ids: Vec<String>,
}

impl From<&Group> for MembersOut {
    fn from(group: &Group) -> Self {
        MembersOut { ids: group.members.iter().rev().map(ToString::to_string).collect() }
    }
}

impl From<&Group> for GroupOut {
    fn from(group: &Group) -> Self {
        GroupOut {
            label: group.label.clone(),
            description: group.description.clone(),
            tags: group.tags.clone(),
            exclusive_group: group.exclusive_group.clone(),
            members: group.into(),
        }
    }
}

/// The filters of a query string: a key given more than once means any of its values.
type Filters = Query<Vec<(String, String)>>;

fn passes(filters: &[(String, String)], key: &str, test: impl Fn(&str) -> bool) -> bool {
    let mut wanted = filters.iter().filter(|(name, _)| name == key).peekable();
    wanted.peek().is_none() || wanted.any(|(_, value)| test(value))
}

async fn groups(State(live): State<LiveCluster>, Query(filters): Filters) -> Answer {
    let found = live.with(|cluster| {
        let all = cluster.groups()?;
        let wanted = all.into_iter().filter(|group| {
            passes(&filters, "group", |label| label.eq_ignore_ascii_case(&group.label))
                && passes(&filters, "tag", |tag| group.tags.iter().any(|own| own.eq_ignore_ascii_case(tag)))
        });
        Ok::<_, HsmError>(wanted.map(GroupOut::from).collect::<Vec<_>>())
    })?;
    Ok(answer::json(StatusCode::OK, &found))
}

async fn labels(State(live): State<LiveCluster>) -> Answer {
    let labels = live.with(|cluster| {
        Ok::<_, HsmError>(cluster.groups()?.into_iter().map(|group| group.label.clone()).collect::<Vec<_>>())
    })?;
    Ok(answer::json(StatusCode::OK, &labels))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupIn {
    #[serde(default)]
    label: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    exclusive_group: Option<String>,
    #[serde(default)]
    members: Option<MembersIn>,
}

#[derive(Deserialize)]
struct MembersIn {
    #[serde(default)]
    ids: Option<Vec<String>>,
}

/// What a call that stores says of a database that does not take it.
fn not_stored(error: HsmError) -> Refusal {
    match error {
        HsmError::DatabaseDown | HsmError::LabelTooLong => {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "operation 'POST' failed during store.")
        }
        other => other.into(),
    }
}

async fn create_group(State(live): State<LiveCluster>, body: Bytes) -> Answer {
    let group: GroupIn = read(&body)?;
    let members = group.members.and_then(|members| members.ids).unwrap_or_default();
    let exclusive = group.exclusive_group.filter(|name| !name.is_empty());
    let tags = group.tags.unwrap_or_default();
    live.with(|cluster| cluster.create_group(&group.label, &group.description, tags, exclusive, &members))
        .map_err(|error| match error {
            HsmError::BadLabel => Refusal::bad_request(
                "couldn't validate group: group or partition field has invalid characters",
            ),
            HsmError::MalformedXname => Refusal::bad_request("couldn't validate group: invalid xname ID"),
            other => not_stored(other),
        })?;
    Ok(created(&format!("{BASE}/groups/{}", group.label.to_ascii_lowercase())))
}

async fn group(State(live): State<LiveCluster>, Path(label): Path<String>) -> Answer {
    let group = live.with(|cluster| cluster.group(&label).map(GroupOut::from))?;
    Ok(answer::json(StatusCode::OK, &group))
}

/// What a call says of a group that is not there, in the words of the calls that change one.
fn no_such_group(error: HsmError) -> Refusal {
    match error {
        HsmError::NoSuchGroup(_) => Refusal::new(StatusCode::NOT_FOUND, "no such group."),
        other => other.into(),
    }
}

async fn patch_group(State(live): State<LiveCluster>, Path(label): Path<String>, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    struct Patch {
        description: Option<String>,
        tags: Option<Vec<String>>,
    }
    let patch: Patch = read(&body)?;
    if patch.description.is_none() && patch.tags.is_none() {
        // The real one says so and goes on.
        let object = |detail, status: StatusCode| {
            let title = status.canonical_reason().unwrap_or_default();
            let problem = Problem { r#type: "about:blank", title, detail, status: status.as_u16() };
            serde_json::to_string(&problem).unwrap_or_default()
        };
        let first = object("Request must have at least one patch field.", StatusCode::BAD_REQUEST);
        let second = object("failed to query DB.", StatusCode::INTERNAL_SERVER_ERROR);
        let body = format!("{first}\n{second}\n");
        return Ok(answer::raw(StatusCode::BAD_REQUEST, "application/problem+json", body));
    }
    live.with(|cluster| cluster.patch_group(&label, patch.description, patch.tags)).map_err(no_such_group)?;
    Ok(no_content())
}

async fn delete_group(State(live): State<LiveCluster>, Path(label): Path<String>) -> Answer {
    live.with(|cluster| cluster.delete_group(&label)).map_err(no_such_group)?;
    Ok(done("deleted 1 entry"))
}

async fn members(State(live): State<LiveCluster>, Path(label): Path<String>) -> Answer {
    let members = live.with(|cluster| cluster.group(&label).map(MembersOut::from))?;
    Ok(answer::json(StatusCode::OK, &members))
}

async fn add_member(State(live): State<LiveCluster>, Path(label): Path<String>, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    struct Member {
        #[serde(default)]
        id: String,
    }
    let member: Member = read(&body)?;
    let xname = live.with(|cluster| cluster.add_member(&label, &member.id)).map_err(not_stored)?;
    Ok(created(&format!("{BASE}/groups/{}/members/{xname}", label.to_ascii_lowercase())))
}

async fn remove_member(
    State(live): State<LiveCluster>,
    Path((label, xname)): Path<(String, String)>,
) -> Answer {
    live.with(|cluster| cluster.remove_member(&label, &xname))?;
    Ok(done("deleted 1 entry"))
}

// Components

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ComponentOut {
    #[serde(rename = "ID")]
    id: String,
    r#type: &'static str,
    state: &'static str,
    flag: &'static str,
    enabled: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    role: String,
    #[serde(rename = "NID", skip_serializing_if = "Option::is_none")]
    nid: Option<u32>,
    net_type: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    arch: String,
    class: &'static str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    locked: bool,
}

impl From<Component> for ComponentOut {
    fn from(component: Component) -> Self {
        ComponentOut {
            id: component.xname.to_string(),
            r#type: "Node",
            state: component.state,
            flag: "OK",
            enabled: component.enabled,
            role: component.role,
            nid: component.nid,
            net_type: "Sling",
            arch: component.arch,
            class: "Mountain",
            locked: component.locked,
        }
    }
}

fn component_list(components: Vec<Component>) -> Response {
    #[derive(Serialize)]
    struct List {
        #[serde(rename = "Components")]
        components: Vec<ComponentOut>,
    }
    let components = components.into_iter().map(ComponentOut::from).collect();
    answer::json(StatusCode::OK, &List { components })
}

/// The components that pass the filters of HSM's own names; filters that HSM does not know change nothing.
fn filtered(live: &LiveCluster, filters: &[(String, String)]) -> Result<Vec<Component>, HsmError> {
    live.with(|cluster| {
        let mut found = cluster.components()?;
        found.retain(|component| {
            let id = component.xname.to_string();
            let enabled = component.enabled.to_string();
            let nid = component.nid.map(|nid| nid.to_string()).unwrap_or_default();
            let is = |own: &str, key: &str| passes(filters, key, |value| value.eq_ignore_ascii_case(own));
            is("Node", "type")
                && is(&id, "id")
                && is(component.state, "state")
                && is("OK", "flag")
                && is(&enabled, "enabled")
                && is(&component.role, "role")
                && is(&component.arch, "arch")
                && is("Mountain", "class")
                && is(&nid, "nid")
        });
        if filters.iter().any(|(key, _)| key == "group") {
            let mut members = BTreeSet::new();
            for (_, label) in filters.iter().filter(|(key, _)| key == "group") {
                match cluster.group(label) {
                    Ok(group) => members.extend(group.members.iter().copied()),
                    Err(HsmError::NoSuchGroup(_)) => {}
                    Err(other) => return Err(other),
                }
            }
            found.retain(|component| members.contains(&component.xname));
        }
        Ok(found)
    })
}

async fn components(State(live): State<LiveCluster>, Query(filters): Filters) -> Answer {
    Ok(component_list(filtered(&live, &filters)?))
}

async fn query_components(State(live): State<LiveCluster>, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    struct Asked {
        #[serde(rename = "ComponentIDs", default)]
        ids: Vec<String>,
        #[serde(default)]
        group: Option<String>,
        #[serde(default)]
        r#type: Vec<String>,
        #[serde(default)]
        role: Vec<String>,
        #[serde(default)]
        state: Vec<String>,
        #[serde(default)]
        arch: Vec<String>,
        #[serde(default)]
        enabled: Vec<String>,
    }
    let asked: Asked = read(&body)?;
    if asked.ids.is_empty() {
        return Err(Refusal::bad_request("Missing IDs"));
    }
    let lists = [
        ("id", asked.ids),
        ("type", asked.r#type),
        ("role", asked.role),
        ("state", asked.state),
        ("arch", asked.arch),
        ("enabled", asked.enabled),
        ("group", asked.group.into_iter().collect()),
    ];
    let filters: Vec<(String, String)> = lists
        .into_iter()
        .flat_map(|(key, values)| values.into_iter().map(move |value| (key.to_owned(), value)))
        .collect();
    Ok(component_list(filtered(&live, &filters)?))
}

/// The node of a path. What is no xname is no node of anybody's: as good as unknown.
fn known_xname(text: &str) -> Result<Xname, Refusal> {
    Xname::new(text).map_err(|_| no_such_xname())
}

fn no_such_xname() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "no such xname.")
}

fn unknown_component(error: HsmError) -> Refusal {
    if error == HsmError::UnknownComponent { no_such_xname() } else { error.into() }
}

async fn component(State(live): State<LiveCluster>, Path(xname): Path<String>) -> Answer {
    let xname = known_xname(&xname)?;
    let component = live.with(|cluster| cluster.component(xname))?.ok_or_else(no_such_xname)?;
    Ok(answer::json(StatusCode::OK, &ComponentOut::from(component)))
}

async fn delete_component(State(live): State<LiveCluster>, Path(xname): Path<String>) -> Answer {
    let xname = Xname::new(&xname).map_err(|_| Refusal::bad_request("invalid xname"))?;
    live.with(|cluster| cluster.delete_component(xname)).map_err(unknown_component)?;
    Ok(done("deleted 1 entry"))
}

fn missing_enabled() -> Refusal {
    Refusal::bad_request("Missing Enabled field")
}

async fn patch_enabled(State(live): State<LiveCluster>, Path(xname): Path<String>, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Patch {
        enabled: Option<bool>,
    }
    let enabled = read::<Patch>(&body)?.enabled.ok_or_else(missing_enabled)?;
    let xname = known_xname(&xname)?;
    live.with(|cluster| cluster.set_enabled(xname, enabled)).map_err(unknown_component)?;
    Ok(no_content())
}

async fn patch_enabled_bulk(State(live): State<LiveCluster>, body: Bytes) -> Answer {
    #[derive(Deserialize)]
    struct Patch {
        #[serde(rename = "ComponentIDs", default)]
        ids: Vec<String>,
        #[serde(rename = "Enabled")]
        enabled: Option<bool>,
    }
    let patch: Patch = read(&body)?;
    let enabled = patch.enabled.ok_or_else(missing_enabled)?;
    if patch.ids.is_empty() {
        return Err(Refusal::bad_request("Missing IDs"));
    }
    let xnames = patch.ids.iter().map(|id| known_xname(id)).collect::<Result<Vec<_>, _>>()?;
    live.with(|cluster| xnames.into_iter().try_for_each(|xname| cluster.set_enabled(xname, enabled)))
        .map_err(unknown_component)?;
    Ok(no_content())
}

// Locks

/// A request about the locks of components. *Rigid*, which is the default, does all or nothing.
#[derive(Deserialize)]
struct Locking {
    #[serde(rename = "ComponentIDs", default)]
    ids: Vec<String>,
    #[serde(rename = "ProcessingModel", default)]
    model: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LockingDone {
    counts: Counts,
    success: Changed,
    failure: Vec<Unchanged>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Counts {
    total: usize,
    success: usize,
    failure: usize,
}

#[derive(Serialize)]
struct Changed {
    #[serde(rename = "ComponentIDs")]
    ids: Vec<String>,
}

#[derive(Serialize)]
struct Unchanged {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Reason")]
    reason: &'static str,
}

async fn lock(State(live): State<LiveCluster>, body: Bytes) -> Answer {
    set_locks(&live, &body, true)
}

async fn unlock(State(live): State<LiveCluster>, body: Bytes) -> Answer {
    set_locks(&live, &body, false)
}

fn set_locks(live: &LiveCluster, body: &[u8], locked: bool) -> Answer {
    let Locking { ids, model } = read(body)?;
    let flexible = model.eq_ignore_ascii_case("flexible");
    if !flexible && !model.is_empty() && !model.eq_ignore_ascii_case("rigid") {
        return Err(Refusal::bad_request("Invalid Processing Model"));
    }
    live.with(|cluster| {
        let mut done = Vec::new();
        let mut failure = Vec::new();
        for id in &ids {
            let component = match Xname::new(id) {
                Ok(xname) => cluster.component(xname)?,
                Err(_) => None,
            };
            match component {
                Some(component) if component.locked != locked => done.push(component.xname),
                Some(_) => failure
                    .push(Unchanged { id: id.clone(), reason: if locked { "Locked" } else { "Unlocked" } }),
                None => failure.push(Unchanged { id: id.clone(), reason: "NotFound" }),
            }
        }
        if let (false, Some(first)) = (flexible, failure.first()) {
            return Err(Refusal::bad_request(match first.reason {
                "NotFound" => "Component not found",
                "Locked" => "Component is Locked",
                _ => "Component is Unlocked",
            }));
        }
        for xname in &done {
            cluster.set_locked(*xname, locked)?;
        }
        let counts = Counts { total: ids.len(), success: done.len(), failure: failure.len() };
        let success = Changed { ids: done.iter().map(ToString::to_string).collect() };
        Ok(answer::json(StatusCode::OK, &LockingDone { counts, success, failure }))
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LockOut {
    #[serde(rename = "ID")]
    id: String,
    locked: bool,
    reserved: bool,
    reservation_disabled: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LocksOut {
    components: Vec<LockOut>,
    not_found: Option<Vec<String>>,
}

fn lock_out(component: &Component) -> LockOut {
    LockOut {
        id: component.xname.to_string(),
        locked: component.locked,
        reserved: false,
        reservation_disabled: false,
    }
}

async fn all_locks(State(live): State<LiveCluster>, Query(filters): Filters) -> Answer {
    let components = filtered(&live, &filters)?;
    let components = components
        .iter()
        .filter(|component| passes(&filters, "locked", |value| value == component.locked.to_string()))
        .map(lock_out)
        .collect();
    Ok(answer::json(StatusCode::OK, &LocksOut { components, not_found: None }))
}

async fn locks(State(live): State<LiveCluster>, body: Bytes) -> Answer {
    let asked: Locking = read(&body)?;
    live.with(|cluster| {
        let mut components = Vec::new();
        let mut not_found = Vec::new();
        for id in asked.ids {
            let component = match Xname::new(&id) {
                Ok(xname) => cluster.component(xname)?,
                Err(_) => None,
            };
            match component {
                Some(component) => components.push(lock_out(&component)),
                None => not_found.push(id),
            }
        }
        Ok(answer::json(StatusCode::OK, &LocksOut { components, not_found: Some(not_found) }))
    })
}
