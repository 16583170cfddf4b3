//! Groups and their members.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::super::answer;
use super::super::live::LiveCluster;
use super::{Answer, BASE, Filters, Problem, Refusal, created, done, no_content, passes, read};
use crate::cluster::hsm::{Group, HsmError};

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

pub(super) async fn list(State(live): State<LiveCluster>, Query(filters): Filters) -> Answer {
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

pub(super) async fn labels(State(live): State<LiveCluster>) -> Answer {
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

pub(super) async fn create(State(live): State<LiveCluster>, body: Bytes) -> Answer {
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

pub(super) async fn one(State(live): State<LiveCluster>, Path(label): Path<String>) -> Answer {
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

pub(super) async fn update(
    State(live): State<LiveCluster>,
    Path(label): Path<String>,
    body: Bytes,
) -> Answer {
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

pub(super) async fn remove(State(live): State<LiveCluster>, Path(label): Path<String>) -> Answer {
    live.with(|cluster| cluster.delete_group(&label)).map_err(no_such_group)?;
    Ok(done("deleted 1 entry"))
}

pub(super) async fn members(State(live): State<LiveCluster>, Path(label): Path<String>) -> Answer {
    let members = live.with(|cluster| cluster.group(&label).map(MembersOut::from))?;
    Ok(answer::json(StatusCode::OK, &members))
}

pub(super) async fn add_member(
    State(live): State<LiveCluster>,
    Path(label): Path<String>,
    body: Bytes,
) -> Answer {
    #[derive(Deserialize)]
    struct Member {
        #[serde(default)]
        id: String,
    }
    let member: Member = read(&body)?;
    let xname = live.with(|cluster| cluster.add_member(&label, &member.id)).map_err(not_stored)?;
    Ok(created(&format!("{BASE}/groups/{}/members/{xname}", label.to_ascii_lowercase())))
}

pub(super) async fn remove_member(
    State(live): State<LiveCluster>,
    Path((label, xname)): Path<(String, String)>,
) -> Answer {
    live.with(|cluster| cluster.remove_member(&label, &xname))?;
    Ok(done("deleted 1 entry"))
}
