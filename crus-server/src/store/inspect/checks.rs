//! What must be so of each session that is stored.

use std::fmt;

use crus_core::claims::{self, Claim};
use crus_core::history::ENTRIES_MAX;
use crus_core::model::{Counts, Head, Message, Node, Ordered, Phase, Session, UpgradeId};
use crus_core::stored::{self, place_of};
use serde::de::DeserializeOwned;

use super::Raw;

/// The most things of a kind that are told of a session: a thousand nodes may all be wrong alike.
const MOST: usize = 5;

/// Something that is wrong in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// With which session; `None`: with the store.
    pub session: Option<UpgradeId>,
    /// What.
    pub what: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.session {
            Some(id) => write!(f, "session {id}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// What must be so of all sessions together.
#[derive(Default)]
pub(super) struct Across {
    at_work: Vec<Session>,
}

impl Across {
    /// Those that work must share nothing (P8).
    pub(super) fn wrong(&self) -> Vec<Wrong> {
        let mut wrong = Vec::new();
        for (i, one) in self.at_work.iter().enumerate() {
            for other in &self.at_work[i + 1..] {
                if let Some(shared) = claims::shared(one, other) {
                    let what = format!("works beside session {}, and both use {shared}", other.head.id);
                    wrong.push(Wrong { session: Some(one.head.id), what });
                }
            }
        }
        wrong
    }
}

/// Tells what is wrong with a session.
pub(super) fn session(id: UpgradeId, raw: &Raw, format: u64, across: &mut Across) -> Vec<String> {
    let mut wrong = Vec::new();
    if raw.revision.is_none() {
        wrong.push("parts of it are left, and it is not there any more".to_owned());
        return wrong;
    }
    let head = match &raw.head {
        None => Err("its head is missing".to_owned()),
        Some(head) => stored::head(id, head).map_err(|error| error.to_string()),
    };
    let nodes: Option<Vec<Node>> = in_order("node", id, &raw.nodes, &mut wrong);
    let messages: Option<Vec<Message>> = in_order("message", id, &raw.messages, &mut wrong);
    let commands = commands(id, raw, &mut wrong);
    let head = match head {
        Ok(head) => head,
        Err(what) => {
            wrong.push(what);
            return wrong;
        }
    };
    if head.id != id {
        wrong.push(format!("its head is that of session {}", head.id));
    }
    if commands.iter().any(|number| *number > head.commands) && head.deletion.is_some() && head.is_done() {
        wrong.push("commands are noted for it, and it was deleted".to_owned());
    }
    history(id, &head, raw, &mut wrong);
    claim(id, &head, raw, &mut wrong);
    if let (Some(nodes), Some(messages)) = (nodes, messages) {
        let counts = Counts::of(&nodes);
        // Earlier formats did not count.
        if format > 2 && head.counts != counts {
            wrong.push(format!("its head counts {}, and there are {counts}", head.counts));
        }
        let beyond = head.batch.iter().find(|position| **position >= nodes.len());
        if let Some(position) = beyond {
            wrong.push(format!("its step has node {position}, and there are {} nodes", nodes.len()));
        }
        let limits = crus_core::Limits::default();
        let session = Session { head, nodes, messages, limits, known: crus_core::model::Known::default() };
        let violations = crus_core::promises::session(&session);
        wrong.extend(violations.iter().take(MOST).map(|violation| format!("broken promise {violation}")));
        if session.head.phase == Phase::Rolling {
            across.at_work.push(session);
        }
    }
    wrong
}

/// Reads rows that must be in order and without a gap; `None` when they are not.
fn in_order<T: DeserializeOwned>(
    what: &str,
    id: UpgradeId,
    rows: &[(u32, Vec<u8>)],
    wrong: &mut Vec<String>,
) -> Option<Vec<T>> {
    let mut values = Vec::new();
    let mut told = Vec::new();
    for ((position, value), expected) in rows.iter().zip(0..) {
        if *position != expected && told.is_empty() {
            told.push(format!("{what} {expected} is missing"));
        }
        match stored::decode(&format!("{what} {position}"), id, value) {
            Ok(value) => values.push(value),
            Err(error) => told.push(error.to_string()),
        }
    }
    let is_sound = told.is_empty();
    wrong.extend(told.into_iter().take(MOST));
    is_sound.then_some(values)
}

fn commands(id: UpgradeId, raw: &Raw, wrong: &mut Vec<String>) -> Vec<u64> {
    for (number, value) in &raw.commands {
        if let Err(error) = stored::decode::<Ordered>(&format!("command {number}"), id, value) {
            wrong.push(error.to_string());
        }
    }
    raw.commands.iter().map(|(number, _)| *number).collect()
}

fn history(id: UpgradeId, head: &Head, raw: &Raw, wrong: &mut Vec<String>) {
    let mut told = Vec::new();
    let oldest = head.entries.saturating_sub(ENTRIES_MAX) + 1;
    let mut found = 0;
    for (place, value) in &raw.history {
        match stored::entry(id, value) {
            Err(error) => told.push(format!("place {place} of its history: {error}")),
            Ok(entry) if place_of(entry.number) != *place => {
                told.push(format!("entry {} of its history is at place {place}", entry.number));
            }
            Ok(entry) if entry.number < oldest || entry.number > head.entries => {
                let number = entry.number;
                told.push(format!("its history has entry {number}, and its head knows {}", head.entries));
            }
            Ok(_) => found += 1,
        }
    }
    let expected = head.entries.min(ENTRIES_MAX);
    if found < expected && told.is_empty() {
        told.push(format!("{} of {expected} entries of its history are missing", expected - found));
    }
    wrong.extend(told.into_iter().take(MOST));
    let delivered =
        raw.delivered.as_deref().map(|value| stored::decode::<u64>("what was delivered", id, value));
    match delivered {
        Some(Err(error)) => wrong.push(error.to_string()),
        Some(Ok(number)) if number > head.entries => {
            wrong.push(format!("entry {number} was delivered, and its head knows {}", head.entries));
        }
        _ => {}
    }
}

fn claim(id: UpgradeId, head: &Head, raw: &Raw, wrong: &mut Vec<String>) {
    let claim = raw.claim.as_deref().map(|claim| stored::decode::<Claim>("the claim", id, claim));
    let Some(claim) = claim else {
        if !head.is_done() {
            wrong.push("it is not done, and has no claim: it would wait for ever".to_owned());
        }
        return;
    };
    let claim = match claim {
        Ok(claim) => claim,
        Err(error) => return wrong.push(error.to_string()),
    };
    if head.is_done() {
        wrong.push("it is done, and has a claim: others would wait for it".to_owned());
    }
    let spec = &head.spec;
    if [&claim.starting, &claim.upgrading, &claim.failed] != [&spec.starting, &spec.upgrading, &spec.failed] {
        wrong.push("its claim is to other groups than its own".to_owned());
    }
    if head.phase == Phase::Rolling && !claim.granted {
        wrong.push("it works, and its claim was not granted".to_owned());
    }
}
