//! What operators look at, and tell a session to do.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use crus_core::model::{Command, NodeState};
use crus_core::{UpgradeId, Xname};
use http::{HeaderMap, StatusCode, header};

use super::{JSON, Served, answer, one, upgrade_id};
use crate::access::{By, Pass, Role};
use crate::events::{self, EventPage, Place};
use crate::problem::Problem;
use crate::query::Query;
use crate::views::{NodePage, NodesQuery};

/// So many nodes or events are answered, unless said otherwise.
const LIMIT: u64 = 1000;
/// So many may be asked for.
const LIMIT_MAX: u64 = 10_000;

const EVENT_STREAM: &str = "text/event-stream";

type Id = Result<Path<String>, PathRejection>;

pub(super) async fn pause(state: State<Arc<Served>>, by: By, id: Id) -> Result<Response, Problem> {
    command(state, by, id, Command::Pause).await
}

pub(super) async fn resume(state: State<Arc<Served>>, by: By, id: Id) -> Result<Response, Problem> {
    command(state, by, id, Command::Resume).await
}

pub(super) async fn retry(state: State<Arc<Served>>, by: By, id: Id) -> Result<Response, Problem> {
    command(state, by, id, Command::Retry).await
}

async fn command(
    State(api): State<Arc<Served>>,
    By(by): By,
    id: Id,
    command: Command,
) -> Result<Response, Problem> {
    let id = upgrade_id(id)?;
    let found = api.sessions.command(id, command, by).await;
    one(found.map_err(|error| api.failed(id, "command a session", error))?)
}

pub(super) async fn strategy(State(api): State<Arc<Served>>, id: Id) -> Result<Response, Problem> {
    let id = upgrade_id(id)?;
    let head = api.sessions.head(id).await.map_err(|error| api.failed(id, "read a session", error))?;
    let head = head.ok_or_else(Problem::no_such_session)?;
    Ok(answer(StatusCode::OK, JSON, &api.site.in_force(&head.spec.strategy)))
}

pub(super) async fn progress(State(api): State<Arc<Served>>, id: Id) -> Result<Response, Problem> {
    let id = upgrade_id(id)?;
    let progress = api.sessions.progress(id).await;
    let progress = progress.map_err(|error| api.failed(id, "tell how far a session is", error))?;
    Ok(answer(StatusCode::OK, JSON, &progress.ok_or_else(Problem::no_such_session)?))
}

pub(super) async fn nodes(
    State(api): State<Arc<Served>>,
    id: Id,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let id = upgrade_id(id)?;
    let mut query = Query::new(query.as_deref());
    let wanted = NodesQuery {
        after: query.read("after", |text| text.parse::<Xname>().map_err(|error| error.rule().to_owned())),
        limit: limit(&mut query),
        states: query.read("state", states),
    };
    query.finish()?;
    let page = NodePage::read(&api.sessions, id, &wanted).await;
    let page = page.map_err(|error| api.failed(id, "read the nodes of a session", error))?;
    Ok(answer(StatusCode::OK, JSON, &page.ok_or_else(Problem::no_such_session)?))
}

pub(crate) fn states(text: &str) -> Result<Vec<&'static str>, String> {
    let words = text.split(',').map(|word| NodeState::WORDS.into_iter().find(|known| *known == word));
    words
        .collect::<Option<_>>()
        .ok_or_else(|| format!("must be one or more of {}, divided by commas", NodeState::WORDS.join(", ")))
}

fn limit(query: &mut Query) -> usize {
    let limit = query.number("limit", 1, LIMIT_MAX).unwrap_or(LIMIT);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

pub(super) async fn events(
    State(api): State<Arc<Served>>,
    id: Id,
    RawQuery(query): RawQuery,
    By(caller): By,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = upgrade_id(id)?;
    let mut query = Query::new(query.as_deref());
    let after = query.number("after", 0, u64::MAX).unwrap_or_default();
    let limit = limit(&mut query);
    query.finish()?;
    // Of a list it says nothing, but what is wrong is wrong all the same.
    let last_event_id = last_event_id(&headers)?;
    if wants_a_stream(&headers) {
        // What this path needs: see the routes.
        let pass = Pass::of(&api.access, &headers, Role::Read);
        let place = api.streams.take(caller).map_err(Problem::too_many_streams)?;
        return stream(&api, id, last_event_id.unwrap_or(after), pass, place).await;
    }
    let entries = api.sessions.events(id, after, limit).await;
    let entries = entries.map_err(|error| api.failed(id, "read the events of a session", error))?;
    let page = EventPage::of(&entries.ok_or_else(Problem::no_such_session)?, after);
    Ok(answer(StatusCode::OK, JSON, &page))
}

/// A browser, and whoever means to follow, says so.
pub(crate) fn wants_a_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|range| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(EVENT_STREAM))
}

/// The event after which a client that was cut off goes on.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(sent) = headers.get("last-event-id").filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = sent.to_str().ok().map(str::trim).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let number = text.and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        let detail = "The header Last-Event-ID must be the id of an event of this stream, a whole number.";
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })
}

async fn stream(
    api: &Served,
    id: UpgradeId,
    after: u64,
    pass: Pass,
    place: Place,
) -> Result<Response, Problem> {
    let follow = api.sessions.follow(id, after).await;
    let follow = follow.map_err(|error| api.failed(id, "follow a session", error))?;
    let follow = follow.ok_or_else(Problem::no_such_session)?;
    let head = [
        (header::CONTENT_TYPE, EVENT_STREAM),
        (header::CACHE_CONTROL, "no-store"),
        // Some proxies collect an answer before they pass it on, unless told not to.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let body = events::body(Arc::clone(&api.sessions), id, follow, pass, after, api.limits.heartbeat, place);
    Ok((head, body).into_response())
}
