//! Components: what HSM knows of nodes.

use std::collections::BTreeSet;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use crus_core::Xname;
use serde::{Deserialize, Serialize};

use super::super::answer;
use super::super::live::LiveCluster;
use super::{Answer, Filters, Refusal, done, no_content, passes, read};
use crate::cluster::hsm::{Component, HsmError};

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
pub(super) fn filtered(live: &LiveCluster, filters: &[(String, String)]) -> Result<Vec<Component>, HsmError> {
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

pub(super) async fn list(State(live): State<LiveCluster>, Query(filters): Filters) -> Answer {
    Ok(component_list(filtered(&live, &filters)?))
}

pub(super) async fn query(State(live): State<LiveCluster>, body: Bytes) -> Answer {
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

pub(super) async fn one(State(live): State<LiveCluster>, Path(xname): Path<String>) -> Answer {
    let xname = known_xname(&xname)?;
    let component = live.with(|cluster| cluster.component(xname))?.ok_or_else(no_such_xname)?;
    Ok(answer::json(StatusCode::OK, &ComponentOut::from(component)))
}

pub(super) async fn remove(State(live): State<LiveCluster>, Path(xname): Path<String>) -> Answer {
    let xname = Xname::new(&xname).map_err(|_| Refusal::bad_request("invalid xname"))?;
    live.with(|cluster| cluster.delete_component(xname)).map_err(unknown_component)?;
    Ok(done("deleted 1 entry"))
}

fn missing_enabled() -> Refusal {
    Refusal::bad_request("Missing Enabled field")
}

pub(super) async fn enable(
    State(live): State<LiveCluster>,
    Path(xname): Path<String>,
    body: Bytes,
) -> Answer {
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

pub(super) async fn enable_many(State(live): State<LiveCluster>, body: Bytes) -> Answer {
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
