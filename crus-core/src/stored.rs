//! How a session is stored: in parts, each as JSON, so that a change to one node of 100,000 is a small write.
//!
//! A store keeps the head, each node and each message under keys of its own, and puts them together again with
//! [`session`]. What changed is told by the events of a step; nothing else is written.

use std::ops::{Range, RangeInclusive};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::claims::folded;
use crate::history::{ENTRIES_MAX, Entry, Happening};
use crate::machine::{Changes, Event};
use crate::model::{Counts, Head, Known, Limits, Message, Node, Session, UpgradeId};
use crate::ports::StoreError;

/// The version of the stored form that this code writes. It changes when older code could not read it.
///
/// 1: messages are texts alone; there are no claims. 2: there is no history, and there are no orders but that of
/// deletion. 3: as here.
pub const FORMAT: u64 = 3;

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
    /// New entries of the history, under their [places](place_of).
    pub history: Vec<(u32, Vec<u8>)>,
}

/// Where an entry of this number is kept: the latest [`ENTRIES_MAX`] have a place each, and a new one replaces the
/// oldest.
pub fn place_of(number: u64) -> u32 {
    u32::try_from(number % ENTRIES_MAX).unwrap_or_default()
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
        for entry in &changes.entries {
            parts.history.push((place_of(entry.number), encode_entry(entry)?));
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
    let mut head = self::head(id, head)?;
    let nodes: Vec<Node> = in_order("node", id, nodes)?;
    // The machine takes them for granted.
    let named = head.batch.iter().chain(head.boot.iter().flat_map(|boot| &boot.silent));
    if let Some(beyond) = named.max().filter(|position| **position >= nodes.len()) {
        let count = nodes.len();
        let text = format!("the head of session {id} names node {beyond}, and there are {count}");
        return Err(StoreError::Unreadable(text));
    }
    // Earlier versions did not count.
    head.counts = Counts::of(&nodes);
    Ok(Session {
        head,
        nodes,
        messages: self::messages(id, messages)?,
        limits: Limits::default(),
        known: Known::default(),
    })
}

/// Reads one node.
///
/// # Errors
/// [`StoreError::Unreadable`] when it is none.
pub fn node(id: UpgradeId, value: &[u8]) -> Result<Node, StoreError> {
    decode("a node", id, value)
}

/// Puts a history together: so many entries after the one of this number, the oldest first. `latest` is the number of
/// the latest ([`Head::entries`]); `read` gives the value at a [place](place_of).
///
/// # Errors
/// Those of `read`, and [`StoreError::Unreadable`] when a value is no entry.
pub fn history<V: AsRef<[u8]>>(
    id: UpgradeId,
    latest: u64,
    after: u64,
    count: usize,
    mut read: impl FnMut(u32) -> Result<Option<V>, StoreError>,
) -> Result<Vec<Entry>, StoreError> {
    let mut entries: Vec<Entry> = Vec::new();
    for number in numbers(latest, after, count) {
        let Some(value) = read(place_of(number))? else { continue };
        entries.push(entry(id, value.as_ref())?);
    }
    Ok(entries)
}

/// The [places](place_of) of such a history, as one run or two.
pub fn places(latest: u64, after: u64, count: usize) -> Vec<RangeInclusive<u32>> {
    let numbers = numbers(latest, after, count);
    if numbers.is_empty() {
        return Vec::new();
    }
    let (first, last) = (place_of(numbers.start), place_of(numbers.end - 1));
    match first <= last {
        true => vec![first..=last],
        false => vec![first..=place_of(ENTRIES_MAX - 1), 0..=last],
    }
}

fn numbers(latest: u64, after: u64, count: usize) -> Range<u64> {
    let first = after.max(latest.saturating_sub(ENTRIES_MAX)).saturating_add(1);
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    first..first.saturating_add(count).min(latest.saturating_add(1))
}

/// Reads one entry of a history.
///
/// # Errors
/// [`StoreError::Unreadable`] when it is none.
pub fn entry(id: UpgradeId, value: &[u8]) -> Result<Entry, StoreError> {
    const WHAT: &str = "an entry of the history";
    let StoredEntry { mut entry, names } = decode(WHAT, id, value)?;
    if let (Happening::Nodes { nodes, .. }, Some(names)) = (&mut entry.what, names) {
        let names = folded::unfold(&names);
        let names =
            names.map_err(|error| StoreError::Unreadable(format!("{WHAT} of session {id}: {error}")))?;
        nodes.extend(names);
    }
    Ok(entry)
}

/// An entry as it is stored: its nodes, which may be all of a session, are folded beside it, so that they fit into one
/// record of any store.
#[derive(Serialize, Deserialize)]
struct StoredEntry {
    #[serde(flatten)]
    entry: Entry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    names: Option<String>,
}

pub(crate) fn encode_entry(entry: &Entry) -> Result<Vec<u8>, StoreError> {
    let Happening::Nodes { state, failure, nodes } = &entry.what else { return encode(entry) };
    let names = Some(folded::fold(nodes));
    let bare = Happening::Nodes { state: state.clone(), failure: failure.clone(), nodes: Vec::new() };
    encode(&StoredEntry { entry: Entry { what: bare, ..*entry }, names })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Failure;
    use crate::time::Time;

    #[test]
    fn an_entry_of_a_hundred_thousand_nodes_fits_into_one_request_to_etcd() {
        let id = UpgradeId(uuid::Uuid::from_u128(1));
        let name =
            |n: u32| format!("x{}c{}s{}b0n{}", 1000 + n / 256, n / 32 % 8, n / 4 % 8, n % 4).parse().unwrap();
        let nodes = (0..100_000).map(name).collect();
        let failure = Some(Failure::Boot("no link".to_owned()));
        let what = Happening::Nodes { state: "failed".to_owned(), failure, nodes };
        let whole = Entry { number: 7, at: Time(9), step: 3, what };
        let value = encode_entry(&whole).unwrap();
        assert!(value.len() < 1 << 20, "{} bytes", value.len());
        assert_eq!(entry(id, &value).unwrap(), whole);
    }

    #[test]
    fn a_history_is_read_in_order_from_where_it_is_asked_for_and_holds_no_more_than_the_ring() {
        let id = UpgradeId(uuid::Uuid::from_u128(1));
        let latest = ENTRIES_MAX + 5;
        let values: std::collections::BTreeMap<u32, Vec<u8>> = (1..=latest)
            .map(|number| Entry { number, at: Time(number), step: 0, what: Happening::Resumed { by: None } })
            .map(|entry| (place_of(entry.number), encode_entry(&entry).unwrap()))
            .collect();
        assert_eq!(values.len() as u64, ENTRIES_MAX);
        let numbers = |after, count| -> Vec<u64> {
            let read = history(id, latest, after, count, |place| Ok(values.get(&place)));
            read.unwrap().iter().map(|entry| entry.number).collect()
        };
        assert_eq!(numbers(0, 3), [6, 7, 8], "older ones were replaced");
        assert_eq!(numbers(ENTRIES_MAX - 1, 3), [ENTRIES_MAX, ENTRIES_MAX + 1, ENTRIES_MAX + 2]);
        assert_eq!(numbers(latest - 1, usize::MAX), [latest]);
        assert_eq!(numbers(latest, 5), [0u64; 0]);
        assert_eq!(numbers(u64::MAX, 5), [0u64; 0]);
        let places = |after, count| places(latest, after, count);
        assert_eq!(places(0, usize::MAX), [6..=9_999, 0..=5], "the whole ring");
        assert_eq!(places(latest - 5, 5), [1..=5]);
        assert_eq!(places(latest - 5, 0), []);
        assert_eq!(places(u64::MAX, 5), []);
    }
}
