//! The events of a session as they happen, whatever becomes of the connection: none is missed, none comes twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc;

use super::error::ClientError;
use super::session::pages;
use super::views::Event;
use super::wire::{Api, CallError, Events, view};

/// The first pause before the service is tried again; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A connection that lives so long without an event is one; one that breaks before is a try.
const LIFE: Duration = Duration::from_secs(3);
/// How often it is asked for events when the service streams to as many as it may already.
const POLL: Duration = Duration::from_secs(3);
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
    /// It was asked for its events, since it has no stream to spare.
    Asked,
    /// There are no events of it: the session is gone, or the service tells no events.
    Gone,
    /// It is of no use to try again.
    Failed(ClientError),
}

/// Follows a session from the event after this number on, in a task that ends once nobody listens.
pub(crate) fn follow(api: Arc<Api>, id: String, after: u64, give_up: Duration) -> mpsc::Receiver<Heard> {
    let (tell, heard) = mpsc::channel(WAITING);
    let mut follower = Follower { api, id, last: after, lost_at: None, pause: PAUSE_FIRST, give_up, tell };
    tokio::spawn(async move { while follower.connect().await.is_some() {} });
    heard
}

struct Follower {
    api: Arc<Api>,
    id: String,
    /// The number of the last event that was told.
    last: u64,
    /// When it was told that the service cannot be reached, until it is told that it can again.
    lost_at: Option<Instant>,
    /// How long to wait before the next try.
    pause: Duration,
    give_up: Duration,
    tell: mpsc::Sender<Heard>,
}

impl Follower {
    /// One try: a connection from its beginning to its end, and a pause after it. `None` once there should be no other.
    async fn connect(&mut self) -> Option<()> {
        let why = match self.api.events(&self.id, self.last).await {
            Ok(events) => match self.read(events).await? {
                Ok(()) => {
                    self.back().await?;
                    self.say(Heard::Ended).await?;
                    return self.rest().await;
                }
                Err(why) => CallError::passing(format!("the connection to {} broke{why}", self.api.url())),
            },
            Err(error) if error.is_unavailable() => match self.ask().await? {
                Ok(()) => {
                    self.alive().await?;
                    self.say(Heard::Asked).await?;
                    return self.sleep(POLL).await;
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        if why.is_missing() {
            // Whoever listens finds out what that means, and whether there is anything to wait for.
            self.back().await?;
            self.say(Heard::Gone).await?;
            return self.rest().await;
        }
        if !why.passing {
            self.say(Heard::Failed(why.into())).await?;
            return None;
        }
        let lost_at = match self.lost_at {
            Some(lost_at) => lost_at,
            None => {
                self.say(Heard::Lost(why.to_string())).await?;
                *self.lost_at.insert(Instant::now())
            }
        };
        let left = self.give_up.saturating_sub(lost_at.elapsed());
        if left.is_zero() {
            self.say(Heard::Failed(gave_up(&why, self.give_up))).await?;
            return None;
        }
        self.pause = self.pause.min(left);
        self.rest().await
    }

    /// Waits before the next try, and longer each time until one was of use.
    async fn rest(&mut self) -> Option<()> {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        self.sleep(pause).await
    }

    async fn sleep(&self, pause: Duration) -> Option<()> {
        tokio::select! {
            () = tokio::time::sleep(pause) => Some(()),
            () = self.tell.closed() => None,
        }
    }

    /// The connection is of use.
    async fn alive(&mut self) -> Option<()> {
        self.pause = PAUSE_FIRST;
        self.back().await
    }

    /// Tells the events up to now, without a stream.
    async fn ask(&mut self) -> Option<Result<(), CallError>> {
        let events = match pages(&self.api, &self.id, "events", &[], self.last.to_string(), None).await {
            Ok(events) => events,
            Err(error) => return Some(Err(error)),
        };
        for raw in events {
            self.tell(raw).await?;
        }
        Some(Ok(()))
    }

    /// Tells each event until the stream ends, or breaks.
    async fn read(&mut self, mut events: Events) -> Option<Result<(), String>> {
        let mut lives_at = Some(tokio::time::Instant::now() + LIFE);
        loop {
            let until = lives_at.unwrap_or_else(tokio::time::Instant::now);
            let next = tokio::select! {
                next = events.next() => next,
                () = tokio::time::sleep_until(until), if lives_at.is_some() => {
                    lives_at = None;
                    self.alive().await?;
                    continue;
                }
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
            self.tell(raw).await?;
        }
    }

    /// Tells an event, unless it was told before.
    async fn tell(&mut self, raw: Value) -> Option<()> {
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
            // What comes again shows no life: who sends just that, and breaks, would be asked without pause.
            self.alive().await?;
            self.last = number;
            self.say(Heard::Event(raw, event)).await?;
        }
        Some(())
    }

    async fn back(&mut self) -> Option<()> {
        if self.lost_at.take().is_some() { self.say(Heard::Back).await } else { Some(()) }
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
