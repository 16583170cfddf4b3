//! How a session is stored: in parts, each as JSON, so that a change to one node of 100,000 is a small write.
//!
//! A store keeps the head, each node and each message under keys of its own, and puts them together again with
//! [`session`]. What changed is told by the events of a step; nothing else is written.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::machine::{Changes, Event};
use crate::model::{Head, Known, Limits, Message, Session, UpgradeId};
use crate::ports::StoreError;

/// The version of the stored form that this code writes. It changes when older code could not read it.
///
/// 1: messages are texts alone; there are no claims. 2: as here.
pub const FORMAT: u64 = 2;

/// The parts of a session that a write is about. Nodes and messages have their positions with them, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts {
    /// The head, if it changed.
    pub head: Option<Vec<u8>>,
    /// The nodes that changed.
    pub nodes: Vec<(u32, Vec<u8>)>,
    /// The messages that changed.
    pub messages: Vec<(u32, Vec<u8>)>,
    /// What is stored as messages from this position on must be removed.
    pub messages_end: Option<u32>,
}

impl Parts {
    /// All parts of a session.
    ///
    /// # Errors
    /// When it has more nodes than can be counted.
    pub fn all(session: &Session) -> Result<Self, StoreError> {
        Parts::of_changes(session, &Changes::all(session))
    }

    /// The parts that these events say have changed.
    ///
    /// # Errors
    /// When an event names a part that is not there.
    pub fn of(session: &Session, events: &[Event]) -> Result<Self, StoreError> {
        Parts::of_changes(session, &Changes::of(session, events))
    }

    fn of_changes(session: &Session, changes: &Changes) -> Result<Self, StoreError> {
        let missing = |what: &str, i: usize| {
            StoreError::Failed(format!("session {} has no {what} {i} to store", session.head.id))
        };
        let mut parts =
            Parts { head: changes.head.then(|| encode(&session.head)).transpose()?, ..Parts::default() };
        for &i in &changes.nodes {
            let node = session.nodes.get(i).ok_or_else(|| missing("node", i))?;
            parts.nodes.push((position(i)?, encode(node)?));
        }
        for &i in &changes.messages {
            let message = session.messages.get(i).ok_or_else(|| missing("message", i))?;
            parts.messages.push((position(i)?, encode(message)?));
        }
        if changes.messages_folded {
            parts.messages_end = Some(position(session.messages.len())?);
        }
        Ok(parts)
    }
}

/// Reads a head.
///
/// # Errors
/// [`StoreError::Unreadable`] when it is none.
pub fn head(id: UpgradeId, value: &[u8]) -> Result<Head, StoreError> {
    decode("the head", id, value)
}

/// Reads messages, which must be in order and without a gap.
///
/// # Errors
/// [`StoreError::Unreadable`] when they are not.
pub fn messages<V: AsRef<[u8]>>(
    id: UpgradeId,
    rows: impl IntoIterator<Item = (u32, V)>,
) -> Result<Vec<Message>, StoreError> {
    in_order("message", id, rows)
}

/// Puts a session together. Nodes and messages must be in order and without a gap.
///
/// # Errors
/// [`StoreError::Unreadable`] when a part is not what this version writes, or is missing.
pub fn session<N: AsRef<[u8]>, M: AsRef<[u8]>>(
    id: UpgradeId,
    head: &[u8],
    nodes: impl IntoIterator<Item = (u32, N)>,
    messages: impl IntoIterator<Item = (u32, M)>,
) -> Result<Session, StoreError> {
    Ok(Session {
        head: self::head(id, head)?,
        nodes: in_order("node", id, nodes)?,
        messages: self::messages(id, messages)?,
        limits: Limits::default(),
        known: Known::default(),
    })
}

fn in_order<T: DeserializeOwned, V: AsRef<[u8]>>(
    what: &str,
    id: UpgradeId,
    rows: impl IntoIterator<Item = (u32, V)>,
) -> Result<Vec<T>, StoreError> {
    let mut values = Vec::new();
    for (i, value) in rows {
        if usize::try_from(i) != Ok(values.len()) {
            let text = format!("{what} {} of session {id} is missing", values.len());
            return Err(StoreError::Unreadable(text));
        }
        values.push(decode(what, id, value.as_ref())?);
    }
    Ok(values)
}

fn position(i: usize) -> Result<u32, StoreError> {
    u32::try_from(i).map_err(|_| StoreError::Failed(format!("position {i} is too large to store")))
}

/// One part, or another record of a store, as it is stored.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn encode(value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(value).map_err(|error| StoreError::Failed(error.to_string()))
}

/// Reads one part; `what` it is goes into the error.
///
/// # Errors
/// [`StoreError::Unreadable`] when it is something else.
pub fn decode<T: DeserializeOwned>(what: &str, id: UpgradeId, value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value)
        .map_err(|error| StoreError::Unreadable(format!("{what} of session {id}: {error}")))
}
