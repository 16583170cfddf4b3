//! Sessions in memory, kept as a real store keeps them: serialised, in parts, with a revision.
//!
//! What was not among the events of a save is not written, so a machine that forgets to tell a change loses it
//! here as it would in production. A "crash" is to drop everything but the store.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use crus_core::machine::{Changes, Event};
use crus_core::model::{Head, Known, Limits, Node, Session, UpgradeId};
use crus_core::ports::{Revision, SessionStore, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A store that lives as long as the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: BTreeMap<UpgradeId, Stored>,
    failing: Option<String>,
    written: Written,
}

#[derive(Debug, Default)]
struct Stored {
    revision: u64,
    head: String,
    nodes: Vec<String>,
    messages: Vec<String>,
    deletion_ordered: bool,
}

/// What was written since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Transactions.
    pub writes: u64,
    /// Heads, nodes and messages.
    pub parts: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl MemoryStore {
    /// What was written since the start.
    pub fn written(&self) -> Written {
        self.lock().written
    }

    /// Makes every call fail with these words, until called again with `None`. Nothing is written meanwhile.
    pub fn fail(&self, words: Option<&str>) {
        self.lock().failing = words.map(str::to_owned);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.lock();
        match &inner.failing {
            Some(words) => Err(StoreError::Failed(words.clone())),
            None => Ok(inner),
        }
    }
}

/// The parts of a session that an event list names.
struct Parts {
    head: Option<String>,
    nodes: Vec<(usize, String)>,
    messages: Vec<(usize, String)>,
}

impl Parts {
    fn of(session: &Session, changes: Changes) -> Result<Self, StoreError> {
        let Changes { head, nodes, messages } = changes;
        let missing =
            |what: &str, index: usize| StoreError::Failed(format!("the session has no {what} {index}"));
        let node = |index: usize| {
            let node = session.nodes.get(index).ok_or_else(|| missing("node", index))?;
            Ok((index, to_json(node)?))
        };
        let message = |index: usize| {
            let message = session.messages.get(index).ok_or_else(|| missing("message", index))?;
            Ok((index, message.clone()))
        };
        Ok(Parts {
            head: head.then(|| to_json(&session.head)).transpose()?,
            nodes: nodes.into_iter().map(node).collect::<Result<_, StoreError>>()?,
            messages: messages.into_iter().map(message).collect::<Result<_, StoreError>>()?,
        })
    }

    /// Writes all or nothing.
    fn write(self, stored: &mut Stored, written: &mut Written) -> Result<(), StoreError> {
        for (what, parts, there) in
            [("node", &self.nodes, stored.nodes.len()), ("message", &self.messages, stored.messages.len())]
        {
            let new = parts.iter().map(|(index, _)| *index).filter(|index| *index >= there);
            if let Some((index, _)) = new.zip(there..).find(|(index, expected)| index != expected) {
                return Err(StoreError::Failed(format!("{what} {index} would leave a gap")));
            }
        }
        written.writes += 1;
        let texts = self.head.iter().chain(self.nodes.iter().chain(&self.messages).map(|(_, text)| text));
        for text in texts {
            written.parts += 1;
            written.bytes += text.len() as u64;
        }
        if let Some(head) = self.head {
            stored.head = head;
        }
        put(&mut stored.nodes, self.nodes);
        put(&mut stored.messages, self.messages);
        Ok(())
    }
}

/// Replaces or appends.
fn put(stored: &mut Vec<String>, parts: Vec<(usize, String)>) {
    for (index, text) in parts {
        match stored.get_mut(index) {
            Some(place) => *place = text,
            None => stored.push(text),
        }
    }
}

fn to_json(part: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(part).map_err(|error| StoreError::Failed(error.to_string()))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Unreadable(error.to_string()))
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn create(&self, session: &Session) -> Result<Revision, StoreError> {
        let parts = Parts::of(session, Changes::all(session))?;
        let mut inner = self.open()?;
        let id = session.head.id;
        if inner.sessions.contains_key(&id) {
            return Err(StoreError::Conflict(id));
        }
        let mut stored = Stored { revision: 1, ..Stored::default() };
        parts.write(&mut stored, &mut inner.written)?;
        inner.sessions.insert(id, stored);
        Ok(Revision(1))
    }

    async fn ids(&self) -> Result<Vec<UpgradeId>, StoreError> {
        Ok(self.open()?.sessions.keys().copied().collect())
    }

    async fn load(&self, id: UpgradeId) -> Result<Option<(Session, Revision)>, StoreError> {
        let inner = self.open()?;
        let Some(stored) = inner.sessions.get(&id) else { return Ok(None) };
        let session = Session {
            head: from_json::<Head>(&stored.head)?,
            nodes: stored.nodes.iter().map(|text| from_json::<Node>(text)).collect::<Result<_, _>>()?,
            messages: stored.messages.clone(),
            limits: Limits::default(),
            known: Known::default(),
        };
        Ok(Some((session, Revision(stored.revision))))
    }

    async fn save(
        &self,
        session: &Session,
        events: &[Event],
        revision: Revision,
    ) -> Result<Revision, StoreError> {
        let parts = Parts::of(session, Changes::of(session, events))?;
        let mut inner = self.open()?;
        let Inner { sessions, written, .. } = &mut *inner;
        let id = session.head.id;
        let stored = sessions.get_mut(&id).filter(|stored| stored.revision == revision.0);
        let stored = stored.ok_or(StoreError::Conflict(id))?;
        parts.write(stored, written)?;
        stored.revision += 1;
        Ok(Revision(stored.revision))
    }

    async fn remove(&self, id: UpgradeId) -> Result<(), StoreError> {
        let mut inner = self.open()?;
        inner.written.writes += 1;
        inner.sessions.remove(&id);
        Ok(())
    }

    async fn order_deletion(&self, id: UpgradeId) -> Result<(), StoreError> {
        let mut inner = self.open()?;
        inner.written.writes += 1;
        // An order for a session that is gone would stay for ever.
        if let Some(stored) = inner.sessions.get_mut(&id) {
            stored.deletion_ordered = true;
        }
        Ok(())
    }

    async fn deletion_ordered(&self, id: UpgradeId) -> Result<bool, StoreError> {
        Ok(self.open()?.sessions.get(&id).is_some_and(|stored| stored.deletion_ordered))
    }
}
