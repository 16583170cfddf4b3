//! A span, and how it is written.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use crus_core::model::Stage;
use crus_core::{Time, UpgradeId};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Place;

/// Something that began and ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// In which session: the trace.
    pub session: UpgradeId,
    /// Its id within that.
    pub id: u64,
    /// What it is a part of.
    pub parent: Option<u64>,
    /// What it is, in a word or two.
    pub name: String,
    /// Whether it is a call to somebody else.
    pub is_call: bool,
    /// When it began.
    pub start: Time,
    /// When it ended.
    pub end: Time,
    /// In which step.
    pub step: u32,
    /// What came of it, where that is not plain; an error, if it is not `ok`.
    pub outcome: Option<&'static str>,
}

impl Span {
    /// A call that began then, and has just ended.
    pub fn of_call(place: Place, name: String, begun: Instant, outcome: &'static str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let end = Time(u64::try_from(now).unwrap_or_default());
        let lasted = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (_, id) = Uuid::new_v4().as_u64_pair();
        Span {
            session: place.session,
            id: id.max(1),
            parent: Some(place.parent),
            name,
            is_call: true,
            start: end - lasted,
            end,
            step: place.step,
            outcome: Some(outcome),
        }
    }
}

/// An id that follows from what it is of.
fn id_of(session: UpgradeId, parts: &[u64]) -> u64 {
    let mut bytes = session.0.as_bytes().to_vec();
    parts.iter().for_each(|part| bytes.extend(part.to_be_bytes()));
    let digest = digest::digest(&digest::SHA256, &bytes);
    let mut id = [0; 8];
    id.copy_from_slice(&digest.as_ref()[..8]);
    // 0 is no id.
    u64::from_be_bytes(id).max(1)
}

/// The id of the root of a session's trace.
pub fn session_span(session: UpgradeId) -> u64 {
    id_of(session, &[])
}

/// The id of a step.
pub fn step_span(session: UpgradeId, step: u32) -> u64 {
    id_of(session, &[u64::from(step)])
}

/// The id of a stage of a step that was entered then.
pub fn stage_span(session: UpgradeId, step: u32, stage: Stage, since: Time) -> u64 {
    id_of(session, &[u64::from(step), stage as u64, since.0])
}

/// What is sent for some spans.
pub(super) fn request(spans: &[Span]) -> Value {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    json!({ "resourceSpans": [{
        "resource": { "attributes": [
            text("service.name", "crus"),
            text("service.version", crate::VERSION),
            text("service.instance.id", &std::process::id().to_string()),
        ]},
        "scopeSpans": [{
            "scope": { "name": "crus", "version": crate::VERSION },
            "spans": spans.iter().map(written).collect::<Vec<_>>(),
        }],
    }]})
}

fn written(span: &Span) -> Value {
    // Nanoseconds do not fit into the numbers of JSON: they are texts there.
    let nanos = |time: Time| (u128::from(time.0) * 1_000_000).to_string();
    let id = |id: u64| format!("{id:016x}");
    let mut attributes = vec![
        json!({ "key": "upgrade_id", "value": { "stringValue": span.session.to_string() } }),
        json!({ "key": "step", "value": { "intValue": span.step.to_string() } }),
    ];
    if let Some(outcome) = span.outcome {
        attributes.push(json!({ "key": "outcome", "value": { "stringValue": outcome } }));
    }
    let failed = span.is_call && span.outcome.is_some_and(|outcome| outcome != "ok");
    let mut written = json!({
        "traceId": span.session.0.simple().to_string(),
        "spanId": id(span.id),
        "name": span.name,
        // Internal; client.
        "kind": if span.is_call { 3 } else { 1 },
        "startTimeUnixNano": nanos(span.start),
        "endTimeUnixNano": nanos(span.end),
        "attributes": attributes,
        // Unset; error.
        "status": { "code": if failed { 2 } else { 0 } },
    });
    if let Some(parent) = span.parent {
        written["parentSpanId"] = json!(id(parent));
    }
    written
}
