//! What changes in etcd, told as it comes.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use crus_core::ports::{Change, StoreChanges, StoreError};
use etcd_client::{Event, EventType, WatchOptions, WatchStream};

use super::connection::{Connection, Trouble, read};
use super::keys::{Keys, Live};

/// The most bytes of one answer: what came together may be told together.
const ANSWER_BYTES: usize = 64 << 20;

/// How often etcd is asked for a sign of life for each that must come.
const ASKED_PER_SIGN: u32 = 3;

/// Follows a range of keys. A connection that is dead without a word is noticed: etcd is asked for a sign of life
/// again and again.
pub(super) struct Watching {
    keys: Keys,
    stream: WatchStream,
    told: VecDeque<Change>,
    /// When anything came last.
    heard: Instant,
    /// When a sign of life was asked for last.
    asked: Instant,
    /// How long the silence may last.
    silence: Duration,
}

impl Watching {
    /// Follows what changes from now on. Fails when nothing is heard for `silence`.
    pub(super) async fn begin(
        connection: &Connection,
        keys: Keys,
        silence: Duration,
    ) -> Result<Watching, Trouble> {
        let range = keys.live();
        let begun = connection.attempt(silence, |client| async move {
            let options = WatchOptions::new().with_prefix().with_fragment();
            let watch = client.watch_client().max_decoding_message_size(ANSWER_BYTES);
            let mut stream = { watch }.watch(range, Some(options)).await?;
            // What changes before this answer is not told.
            let first = stream.message().await?;
            Ok((stream, first.is_some_and(|first| first.created() && !first.canceled())))
        });
        match begun.await? {
            (stream, true) => {
                let now = Instant::now();
                Ok(Watching { keys, stream, told: VecDeque::new(), heard: now, asked: now, silence })
            }
            (_, false) => Err(Trouble::Refused("the keys cannot be watched".to_owned())),
        }
    }

    /// Takes in events that came together.
    fn take_in(&mut self, events: &[Event]) {
        let mut told = BTreeSet::new();
        for event in events {
            let Some(live) = event.kv().and_then(|kv| self.keys.read_live(kv.key())) else { continue };
            let is_put = event.event_type() == EventType::Put;
            let change = match live {
                Live::Head(id) if is_put => Change::Session(id),
                Live::Head(id) => {
                    // It may be there again under the same id.
                    told.remove(&id);
                    Change::Removed(id)
                }
                Live::Order(id) if is_put => Change::DeletionOrdered(id),
                Live::Command(id) if is_put => Change::Commanded(id),
                Live::Owner(id) if !is_put => Change::Unowned(id),
                Live::Order(_) | Live::Command(_) | Live::Owner(_) => continue,
            };
            match change {
                Change::Session(id) if !told.insert(id) => {}
                change => self.told.push_back(change),
            }
        }
    }
}

#[async_trait]
impl StoreChanges for Watching {
    async fn next(&mut self) -> Result<Change, StoreError> {
        loop {
            if let Some(change) = self.told.pop_front() {
                return Ok(change);
            }
            let ask_at = self.asked + self.silence / ASKED_PER_SIGN;
            tokio::select! {
                biased;
                answer = self.stream.message() => {
                    let answer = answer.map_err(|error| StoreError::from(read(&error)))?;
                    let answer = answer.ok_or_else(|| failed("etcd ended the watch"))?;
                    self.heard = Instant::now();
                    if answer.canceled() {
                        return Err(failed(match answer.compact_revision() {
                            0 => "etcd ended the watch",
                            _ => "etcd removed changes before they were told",
                        }));
                    }
                    self.take_in(answer.events());
                }
                () = tokio::time::sleep_until(ask_at.into()) => {
                    if self.heard.elapsed() > self.silence && self.asked.duration_since(self.heard) > self.silence / 2 {
                        return Err(failed("etcd cannot be reached: it does not answer"));
                    }
                    self.asked = Instant::now();
                    // An answer must come; what is asked for is nothing but that.
                    let asked = self.stream.request_progress();
                    let asked = tokio::time::timeout(self.silence, asked).await;
                    asked.map_or_else(|_| Err(failed("etcd cannot be reached: it does not answer")), |asked| {
                        asked.map_err(|error| StoreError::from(read(&error)))
                    })?;
                }
            }
        }
    }
}

fn failed(why: &str) -> StoreError {
    StoreError::Failed(why.to_owned())
}
