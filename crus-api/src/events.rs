//! What happened in a session: as a list, and as a stream of server-sent events.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use crus_core::history::{Entry, Happening};
use crus_core::{Actor, UpgradeId, messages};
use futures_util::stream;
use serde::Serialize;
use serde_json::{Value, json};
use tracing::{debug, warn};

use crate::access::Pass;
use crate::service::{Follow, News, Sessions};
use crate::views::{CountsView, Stamp};

/// Some entries of a history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventPage {
    /// The entries, the oldest first.
    pub events: Vec<Value>,
    /// The number of the last of them: what to ask for next.
    pub next: u64,
}

impl EventPage {
    /// The entries after the one of number `after`.
    pub fn of(entries: &[Entry], after: u64) -> Self {
        let next = entries.last().map_or(after, |entry| entry.number);
        EventPage { events: entries.iter().map(event).collect(), next }
    }
}

/// An entry as it is shown: its kind, and what belongs to that.
pub fn event(entry: &Entry) -> Value {
    let mut value = match &entry.what {
        Happening::Started { nodes } | Happening::Retried { nodes, .. } => json!({ "nodes": nodes }),
        Happening::Stage { stage } => json!({ "stage": stage }),
        Happening::Nodes { state, failure, nodes } => {
            let mut value = json!({ "nodes": nodes, "state": state });
            if let Some(failure) = failure {
                value["reason"] = json!(failure.to_string());
            }
            value
        }
        Happening::Message { text } => json!({ "text": text }),
        Happening::Paused { why, .. } => json!({ "reason": messages::paused(why) }),
        Happening::Resumed { .. } | Happening::DeletionOrdered { .. } => json!({}),
        Happening::StepDone { upgraded, failed } => json!({ "failed": failed, "upgraded": upgraded }),
        Happening::Finished { counts } => json!({ "counts": CountsView::of(counts) }),
    };
    if let Some(by) = by(&entry.what) {
        value["by"] = json!(by);
    }
    value["at"] = json!(Stamp(entry.at));
    value["kind"] = json!(kind(&entry.what));
    value["number"] = json!(entry.number);
    value["step"] = json!(entry.step);
    value
}

/// Who ordered it, when somebody did and is known.
pub fn by(what: &Happening) -> Option<&Actor> {
    match what {
        Happening::Paused { by, .. }
        | Happening::Resumed { by }
        | Happening::Retried { by, .. }
        | Happening::DeletionOrdered { by } => by.as_ref(),
        _ => None,
    }
}

fn kind(what: &Happening) -> &'static str {
    match what {
        Happening::Started { .. } => "started",
        Happening::Stage { .. } => "stage",
        Happening::Nodes { .. } => "nodes",
        Happening::Message { .. } => "message",
        Happening::Paused { .. } => "paused",
        Happening::Resumed { .. } => "resumed",
        Happening::Retried { .. } => "retried",
        Happening::DeletionOrdered { .. } => "deletion_ordered",
        Happening::StepDone { .. } => "step_done",
        Happening::Finished { .. } => "finished",
    }
}

// ---- the stream -------------------------------------------------------------------------------------------

/// How soon a client that lost its connection comes again.
const COME_AGAIN_MS: u32 = 1000;

/// How many streams there may be. Each holds a [`Place`].
#[derive(Debug, Clone)]
pub(crate) struct Places {
    limit: usize,
    /// How many each caller has. Where nobody is asked who they are, all are nobody's.
    taken: Arc<Mutex<HashMap<Option<Actor>, usize>>>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// So many are taken, as many as may be.
    All(usize),
    /// This caller has so many, half of all.
    Share(usize),
}

impl Places {
    pub(crate) fn new(limit: usize) -> Self {
        Places { limit, taken: Arc::default() }
    }

    /// One of them. No caller who is known has more than half, so that others can follow, too.
    pub(crate) fn take(&self, caller: Option<Actor>) -> Result<Place, NoPlace> {
        let mut taken = lock(&self.taken);
        if taken.values().sum::<usize>() >= self.limit {
            return Err(NoPlace::All(self.limit));
        }
        let share = if caller.is_some() { self.limit.div_ceil(2) } else { self.limit };
        let of_caller = taken.entry(caller.clone()).or_default();
        if *of_caller >= share {
            return Err(NoPlace::Share(share));
        }
        *of_caller += 1;
        Ok(Place { caller, taken: Arc::clone(&self.taken) })
    }
}

/// A place that is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    caller: Option<Actor>,
    taken: Arc<Mutex<HashMap<Option<Actor>, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(of_caller) = taken.get_mut(&self.caller) {
            *of_caller -= 1;
            if *of_caller == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream of the events of one session.
struct Stream {
    sessions: Arc<dyn Sessions>,
    id: UpgradeId,
    follow: Box<dyn Follow>,
    pass: Pass,
    heartbeat: Duration,
    /// The number of the latest entry that was sent.
    sent: u64,
    begun: bool,
    ended: bool,
    _place: Place,
}

/// The entries after the one of number `after`, then those to come, as they are asked for: nothing is kept for a client
/// that does not read.
pub(crate) fn body(
    sessions: Arc<dyn Sessions>,
    id: UpgradeId,
    follow: Box<dyn Follow>,
    pass: Pass,
    after: u64,
    heartbeat: Duration,
    place: Place,
) -> Body {
    let stream = Stream {
        sessions,
        id,
        follow,
        pass,
        heartbeat,
        sent: after,
        begun: false,
        ended: false,
        _place: place,
    };
    Body::from_stream(stream::unfold(stream, async |mut stream| {
        let text = stream.next().await?;
        Some((Ok::<_, Infallible>(text), stream))
    }))
}

impl Stream {
    async fn next(&mut self) -> Option<String> {
        if self.ended {
            return None;
        }
        if !std::mem::replace(&mut self.begun, true) {
            return Some(format!("retry: {COME_AGAIN_MS}\n\n"));
        }
        let news = self.follow.next(self.heartbeat).await;
        if !self.pass.is_good().await {
            // The client comes again, and is told why not.
            self.sessions
                .span(self.id)
                .in_scope(|| debug!("the token of a client that follows a session is not good any more"));
            return None;
        }
        match news {
            Ok(News::Entries(entries)) => Some(entries.iter().map(|entry| self.tell(entry)).collect()),
            Ok(News::Nothing) => Some(": still here\n\n".to_owned()),
            Ok(News::Deleted) => {
                self.ended = true;
                Some(format!("event: deleted\ndata: {}\n\n", json!({ "upgrade_id": self.id })))
            }
            Ok(News::Stopping) => None,
            Err(error) => {
                // The client comes again.
                self.sessions
                    .span(self.id)
                    .in_scope(|| warn!(%error, "failed to follow a session for a client"));
                None
            }
        }
    }

    fn tell(&mut self, entry: &Entry) -> String {
        let mut text = String::new();
        let before = entry.number.saturating_sub(1);
        if before > self.sent {
            let gap = json!({ "from": self.sent + 1, "to": before });
            text = format!("id: {before}\nevent: gap\ndata: {gap}\n\n");
        }
        self.sent = entry.number;
        text + &format!("id: {}\nevent: {}\ndata: {}\n\n", entry.number, kind(&entry.what), event(entry))
    }
}
