//! What must hold of every input that comes from elsewhere, as functions of any bytes, for fuzz targets and for tests. The
//! other crates have such a module of their own.
//!
//! Each panics when its property does not hold. Beside that, none of what it calls may panic.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a panic is how a property fails")]

use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::claims::{Claim, folded};
use crate::hostlist::{self, NAMES_MAX, TEXT_MAX};
use crate::machine::{self, Changes};
use crate::model::{Command, Head, Message, Node, Session};
use crate::names::{
    BootHandle, BootSessionName, CheckName, Domain, GroupLabel, InvalidName, NodeName, NodeNameFormat,
    PartitionName, TemplateName, Xname,
};
use crate::stored::{self, Parts};
use crate::strategy::Amount;
use crate::time::{Time, WlmTime};
use crate::window::TimeOfDay;
use crate::{Actor, UpgradeId, progress};

/// A property: its name, which is that of the folder of its seeds, and what checks it.
pub type Property = (&'static str, fn(&[u8]));

/// Those of this crate.
pub const PROPERTIES: &[Property] = &[
    ("host_list", host_list),
    ("xname", xname),
    ("names", names),
    ("stored_head", stored_head),
    ("stored_node", stored_node),
    ("stored_message", stored_message),
    ("stored_entry", stored_entry),
    ("stored_command", stored_command),
    ("stored_claim", stored_claim),
    ("stored_session", stored_session),
];

/// What is bad is told in a text of bounded length, on one line, whatever was bad.
///
/// # Panics
/// When it is not so.
pub fn check_told(text: &str) {
    const MAX: usize = 2000;
    assert!(text.len() <= MAX, "{} bytes", text.len());
    assert!(!text.contains(['\n', '\r', '\0', '\u{1b}']), "{text:?}");
}

/// So many names are looked at in turn; that the list is longer is seen before.
const NAMES_LOOKED_AT: usize = 5_000;

/// A host list stands for a bounded number of names, and what was folded unfolds to the same.
fn host_list(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match hostlist::expand(&text) {
        Ok(names) => {
            assert!(names.len() <= NAMES_MAX);
            if names.len() <= NAMES_LOOKED_AT {
                check_folds(&names);
            }
        }
        Err(error) => check_told(&error.to_string()),
    }
    // The same bytes as names.
    let names: Vec<NodeName> =
        text.split(|c| ", \n".contains(c)).filter_map(|name| name.parse().ok()).collect();
    if names.len() <= NAMES_LOOKED_AT {
        check_folds(&names);
    }
}

fn check_folds(names: &[NodeName]) {
    let lists = hostlist::fold(names);
    let mut back: Vec<NodeName> = Vec::new();
    for list in &lists {
        assert!(!list.is_empty() && list.len() <= TEXT_MAX);
        back.extend(hostlist::expand(list).expect("what was folded unfolds"));
    }
    let set: BTreeSet<&NodeName> = back.iter().collect();
    assert_eq!(set.len(), back.len(), "none is named twice: {lists:?}");
    assert_eq!(set, names.iter().collect::<BTreeSet<_>>(), "{lists:?}");
    assert_eq!(hostlist::fold(&back), lists, "folding what was unfolded changes nothing");
}

/// An xname is written as it is read, in lower case; the order of two is that of their places.
fn xname(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut read: Vec<(Xname, Vec<u32>)> = Vec::new();
    for text in text.lines().take(8) {
        let xname = match Xname::new(text) {
            Ok(xname) => xname,
            Err(error) => {
                check_told(&error.to_string());
                continue;
            }
        };
        let written = xname.to_string();
        assert_eq!(written, text.to_ascii_lowercase(), "one text for each node");
        check_name::<Xname>(text, &written, |c| c.is_ascii_digit() || "xcsbn".contains(c));
        for domain in [Domain::Cabinet, Domain::Chassis, Domain::Slot, Domain::Board] {
            let first = xname.domain(domain);
            assert!(first <= xname && first.domain(domain) == first && first.cabinet() == xname.cabinet());
        }
        let place = written.split(|c: char| c.is_ascii_alphabetic()).skip(1);
        read.push((xname, place.map(|number| number.parse().unwrap()).collect()));
    }
    for (one, place_of_one) in &read {
        for (other, place_of_other) in &read {
            assert_eq!(one.cmp(other), place_of_one.cmp(place_of_other), "{one} and {other}");
        }
    }
    // Stored among the nodes of a claim.
    let nodes: BTreeSet<Xname> = read.iter().map(|(xname, _)| *xname).collect();
    assert_eq!(folded::unfold(&folded::fold(&nodes)).expect("what was folded unfolds"), nodes);
    if let Ok(nodes) = folded::unfold(&text) {
        assert!(nodes.len() <= data.len());
    }
}

/// What is a name holds nothing that means anything in a command line, a host list or the path of a URL.
fn names(data: &[u8]) {
    let text = &*String::from_utf8_lossy(data);
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if let Some(name) = named::<NodeName>(text, plain) {
        assert!(!name.as_str().eq_ignore_ascii_case("all") && !name.as_str().starts_with(['-', '.']));
    }
    if let Some(label) = named::<GroupLabel>(text, |c| plain(c) || c == ':') {
        assert!(!["", ".", ".."].contains(&label.as_str()));
        assert!(!label.as_str().contains(|c: char| c.is_ascii_uppercase()));
    }
    for name in [
        named::<TemplateName>(text, plain).map(|name| name.as_str().to_owned()),
        named::<BootSessionName>(text, plain).map(|name| name.as_str().to_owned()),
        named::<BootHandle>(text, plain).map(|name| name.as_str().to_owned()),
    ]
    .into_iter()
    .flatten()
    {
        assert!(name.starts_with(|c: char| c.is_ascii_alphanumeric()));
        assert!(name.ends_with(|c: char| c.is_ascii_alphanumeric()));
    }
    named::<PartitionName>(text, plain);
    named::<CheckName>(text, plain);
    if let Some(format) = named::<NodeNameFormat>(text, |c| plain(c) || c == '%') {
        for nid in [0, 1, 999_999, 1_000_000, u32::MAX] {
            let Some(name) = format.name(nid) else { continue };
            let digits = name.as_str().trim_end_matches(|c: char| c.is_ascii_digit()).len();
            let digits = &name.as_str()[digits..];
            // A prefix may end in digits, too.
            assert!(digits.ends_with(&nid.to_string()), "{name} of {nid}");
        }
    }
    if let Some(actor) = Actor::cleaned(text) {
        check_told(actor.as_str());
        assert_eq!(Actor::new(actor.as_str()).as_ref(), Ok(&actor));
        let stored = serde_json::to_value(&actor).unwrap();
        assert_eq!(serde_json::from_value::<Actor>(stored).unwrap(), actor);
    }
    assert!(Actor::new(text).is_err() || Actor::cleaned(text).is_some_and(|actor| actor.as_str() == text));
    if let Ok(amount) = text.parse::<Amount>() {
        let stored = serde_json::to_string(&amount).unwrap();
        assert_eq!(serde_json::from_str::<Amount>(&stored).unwrap(), amount);
        assert!(amount.at_most(1000) <= amount.at_least(1000));
    }
    if let Ok(time) = text.parse::<TimeOfDay>() {
        assert_eq!(time.to_string().parse::<TimeOfDay>(), Ok(time));
    }
    if let Ok(id) = text.parse::<UpgradeId>() {
        assert_eq!(id.to_string().parse::<UpgradeId>(), Ok(id));
    }
}

fn named<T>(text: &str, may_hold: impl Fn(char) -> bool) -> Option<T>
where
    T: FromStr<Err = InvalidName> + Display + Serialize + DeserializeOwned + PartialEq + Debug,
{
    match text.parse::<T>() {
        Ok(name) => {
            check_name::<T>(text, &name.to_string(), may_hold);
            Some(name)
        }
        Err(error) => {
            check_told(&error.to_string());
            check_told(error.rule());
            None
        }
    }
}

/// A name is read as it was written, stored as text, and holds nothing else.
fn check_name<T>(text: &str, written: &str, may_hold: impl Fn(char) -> bool)
where
    T: FromStr<Err = InvalidName> + Display + Serialize + DeserializeOwned + PartialEq + Debug,
{
    let name: T = text.parse().unwrap();
    assert!(written.chars().all(may_hold), "{written:?}");
    assert_eq!(written.parse::<T>().as_ref(), Ok(&name));
    let stored = serde_json::to_value(&name).unwrap();
    assert_eq!(stored, serde_json::Value::from(written));
    assert_eq!(serde_json::from_value::<T>(stored).unwrap(), name);
}

// ---- what a store holds ----------------------------------------------------------------------------------------

fn id() -> UpgradeId {
    UpgradeId(uuid::Uuid::from_u128(0x5eed))
}

/// What can be read at all is the same once it was written and read again.
fn check_stored<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) -> Option<T> {
    let value: T = match stored::decode("a record", id(), data) {
        Ok(value) => value,
        Err(error) => {
            assert!(error.to_string().len() <= 500 + 8 * data.len());
            return None;
        }
    };
    let written = stored::encode(&value).unwrap();
    let again: T = stored::decode("a record", id(), &written).expect("what was written can be read");
    assert_eq!(again, value);
    assert_eq!(stored::encode(&again).unwrap(), written);
    Some(value)
}

fn stored_head(data: &[u8]) {
    if let Some(head) = check_stored::<Head>(data) {
        assert_eq!(stored::head(id(), data).unwrap(), head);
        _ = progress::waits_for(&head, []);
        _ = head.spec.strategy.problems();
    }
}

fn stored_node(data: &[u8]) {
    if let Some(node) = check_stored::<Node>(data) {
        assert_eq!(stored::node(id(), data).unwrap(), node);
    }
}

fn stored_message(data: &[u8]) {
    check_stored::<Message>(data);
}

fn stored_command(data: &[u8]) {
    check_stored::<Command>(data);
}

fn stored_claim(data: &[u8]) {
    check_stored::<Claim>(data);
}

/// As above; entries have a form of their own in a store.
fn stored_entry(data: &[u8]) {
    let Ok(entry) = stored::entry(id(), data) else { return };
    let written = stored::encode_entry(&entry).unwrap();
    assert_eq!(stored::entry(id(), &written).expect("what was written can be read"), entry);
}

/// A whole session, one record a line: its head, then nodes and messages. What can be put together can be taken apart, and
/// the machine can tell what to do with it, whatever it holds.
fn stored_session(data: &[u8]) {
    let mut lines = data.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let Some(head) = lines.next() else { return };
    let is_node = |line: &&[u8]| stored::node(id(), line).is_ok();
    let (nodes, messages): (Vec<_>, Vec<_>) = lines.partition(is_node);
    let rows = |lines: Vec<&[u8]>| (0..).zip(lines.into_iter().map(<[u8]>::to_vec)).collect::<Vec<_>>();
    let Ok(session) = stored::session(id(), head, rows(nodes), rows(messages)) else { return };
    let parts = Parts::all(&session).unwrap();
    let again: Session =
        stored::session(id(), &parts.head.unwrap(), parts.nodes, parts.messages).expect("it can be read");
    assert_eq!(again, session);
    assert_eq!(Changes::all(&session).nodes.len(), session.nodes.len());
    for now in [Time(0), session.head.created, session.head.created + 86_400_000, Time(u64::MAX)] {
        _ = machine::outstanding(&session, now);
        _ = machine::next_wake(&session, now);
        _ = now.rfc3339();
    }
    _ = WlmTime(i64::MAX).as_time();
    _ = progress::waits_for(&session.head, &session.nodes);
}
