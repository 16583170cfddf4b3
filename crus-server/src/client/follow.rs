//! The events of a session as they happen, whatever becomes of the connection: none is missed, none comes twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc;

use super::error::ClientError;
use super::views::Event;
use super::wire::{Api, CallError, Events, view};

/// The first pause before the service is tried again; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Events that wait to be shown.
const WAITING: usize = 64;

/// What is heard of a session.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Something happened: as it came, and as it is known.
    Event(Value, Event),
    /// The service cannot be reached; why.
    Lost(String),
    /// It can again.
    Back,
    /// It ended the stream: something may have ended with it.
    Ended,
    /// There are no events of it: the session is gone, or the service tells no events.
    Gone,
    /// It is of no use to try again.
    Failed(ClientError),
}

/// Follows a session from the event after this number on, in a task that ends once nobody listens.
pub(crate) fn follow(api: Arc<Api>, id: String, after: u64, give_up: Duration) -> mpsc::Receiver<Heard> {
    let (tell, heard) = mpsc::channel(WAITING);
    let mut follower = Follower { api, id, last: after, is_lost: false, give_up, tell };
    tokio::spawn(async move { while follower.connect().await.is_some() {} });
    heard
}

struct Follower {
    api: Arc<Api>,
    id: String,
    /// The number of the last event that was told.
    last: u64,
    /// It was told that the service cannot be reached, and not yet that it can again.
    is_lost: bool,
    give_up: Duration,
    tell: mpsc::Sender<Heard>,
}

impl Follower {
    /// One connection, from the first try to its end. `None` once there should be no other.
    async fn connect(&mut self) -> Option<()> {
        let events = self.reach().await?;
        match self.read(events).await? {
            Ok(()) => {
                self.say(Heard::Ended).await?;
                // A service that ends each stream at once is not asked without pause.
                tokio::time::sleep(PAUSE_FIRST).await;
            }
            Err(why) => self.lost(format!("the connection to {} broke{why}", self.api.url())).await?,
        }
        Some(())
    }

    /// Tries until the service answers.
    async fn reach(&mut self) -> Option<Events> {
        let since = Instant::now();
        let mut pause = PAUSE_FIRST;
        loop {
            let error = match self.api.events(&self.id, self.last).await {
                Ok(events) => {
                    self.back().await?;
                    return Some(events);
                }
                Err(error) => error,
            };
            if error.is_missing() {
                // Whoever listens finds out what that means, and whether there is anything to wait for.
                self.back().await?;
                self.say(Heard::Gone).await?;
            } else if !error.passing {
                self.say(Heard::Failed(error.into())).await?;
                return None;
            } else if !self.is_lost {
                self.lost(error.to_string()).await?;
            }
            if since.elapsed() >= self.give_up {
                self.say(Heard::Failed(gave_up(&error, self.give_up))).await?;
                return None;
            }
            tokio::time::sleep(pause.min(self.give_up.saturating_sub(since.elapsed()))).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Tells each event until the stream ends, or breaks.
    async fn read(&mut self, mut events: Events) -> Option<Result<(), String>> {
        loop {
            let next = tokio::select! {
                next = events.next() => next,
                () = self.tell.closed() => return None,
            };
            let sent = match next {
                Ok(Some(sent)) => sent,
                Ok(None) => return Some(Ok(())),
                Err(why) => return Some(Err(why)),
            };
            let Ok(mut raw) = serde_json::from_str::<Value>(&sent.data) else {
                return Some(Err(": an event is not JSON".to_owned()));
            };
            // A gap, in place of events that are not kept any more, is no event itself.
            if let Some(fields) = raw.as_object_mut().filter(|fields| !fields.contains_key("kind")) {
                fields.insert("kind".to_owned(), sent.event.into());
                fields.insert("number".to_owned(), sent.id.parse::<u64>().unwrap_or_default().into());
            }
            let event: Event = match view(&raw) {
                Ok(event) => event,
                Err(error) => {
                    self.say(Heard::Failed(error)).await?;
                    return None;
                }
            };
            // What has no number is about the stream, such as that the session is gone: its end tells that.
            let number = event.number;
            if number > self.last {
                self.last = number;
                self.say(Heard::Event(raw, event)).await?;
            }
        }
    }

    async fn lost(&mut self, why: String) -> Option<()> {
        self.is_lost = true;
        self.say(Heard::Lost(why)).await
    }

    async fn back(&mut self) -> Option<()> {
        if std::mem::take(&mut self.is_lost) { self.say(Heard::Back).await } else { Some(()) }
    }

    async fn say(&self, heard: Heard) -> Option<()> {
        self.tell.send(heard).await.ok()
    }
}

/// The service was away for longer than anybody wants to wait.
pub(crate) fn gave_up(error: &CallError, after: Duration) -> ClientError {
    ClientError::failed(format!(
        "gave up after {} s: {error}. The session goes on in the service; follow it again with crus session watch",
        after.as_secs()
    ))
}
