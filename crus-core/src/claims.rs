//! Who works on which nodes and groups: sessions that share any run one after the other, in the order of their
//! creation. So do those that keep nodes of the same partition in service.
//!
//! What counts of a session that waits are its groups, and the nodes that it asked for last. Until it has read its
//! starting group for the first time nobody knows its nodes: a later session that shares only nodes with it may come first.
//!
//! A store keeps a [`Claim`] for each session that is not done, and lets [`claim`] decide. Deciding and storing
//! are one step there, so that two sessions on two replicas cannot both get what they share.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::messages;
use crate::model::{Phase, Session, Spec, UpgradeId};
use crate::names::{GroupLabel, PartitionName, Xname};

/// What a session works on, or will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its place in the order of creation, as the store has it.
    #[serde(default)]
    pub order: u64,
    /// Its starting group.
    pub starting: GroupLabel,
    /// Its upgrading group.
    pub upgrading: GroupLabel,
    /// Its failed group.
    pub failed: GroupLabel,
    /// The partitions of which it keeps some nodes in service.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub partitions: BTreeSet<PartitionName>,
    /// Whether its turn has come.
    pub granted: bool,
    /// Its nodes; while it waits, those it asked for last.
    #[serde(with = "folded")]
    pub nodes: BTreeSet<Xname>,
}

impl Claim {
    /// The claim of a session as it is stored: `order` is its place in the order of creation.
    pub fn of(session: &Session, order: u64) -> Self {
        let Spec { starting, upgrading, failed, strategy, .. } = session.head.spec.clone();
        let partitions = strategy.min_in_service.into_keys().collect();
        let granted = session.head.phase == Phase::Rolling;
        let nodes = session.nodes.iter().map(|node| node.xname).collect();
        Claim { order, starting, upgrading, failed, partitions, granted, nodes }
    }

    /// What two sessions share, if anything. They may not share a group that either of them changes.
    fn shared_with(&self, other: &Claim) -> Option<String> {
        let changed = |claim: &Claim| [claim.upgrading.clone(), claim.failed.clone()];
        let used = |claim: &Claim| [claim.starting.clone(), claim.upgrading.clone(), claim.failed.clone()];
        let group = (changed(self).into_iter().find(|label| used(other).contains(label)))
            .or_else(|| changed(other).into_iter().find(|label| used(self).contains(label)));
        if let Some(label) = group {
            return Some(format!("the group '{label}'"));
        }
        // Each looks how many nodes are in service before it takes some: side by side both could take the last.
        if let Some(partition) = self.partitions.intersection(&other.partitions).next() {
            return Some(format!("the partition '{partition}', of which both keep nodes in service"));
        }
        let (few, many) = if self.nodes.len() < other.nodes.len() { (self, other) } else { (other, self) };
        let xname = few.nodes.iter().find(|xname| many.nodes.contains(xname));
        xname.map(|xname| format!("the node {xname}"))
    }
}

/// Whether a session's turn has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It has: its nodes and groups are its own until it is done.
    Granted,
    /// It has not: what the session waits for, in words.
    WaitsFor(String),
}

impl Turn {
    /// What the session waits for, in words; `None` when its turn has come.
    pub fn waits_for(self) -> Option<String> {
        match self {
            Turn::Granted => None,
            Turn::WaitsFor(why) => Some(why),
        }
    }
}

/// Grants a session its nodes, unless another one that works, or was created earlier, shares any of them or a
/// group with it. Whatever comes of it is noted in the session's claim; `true` beside the answer when that changed
/// it, and it must be stored.
pub fn claim(id: UpgradeId, nodes: &[Xname], claims: &mut BTreeMap<UpgradeId, Claim>) -> (Turn, bool) {
    let Some(stored) = claims.get(&id) else {
        return (Turn::WaitsFor(messages::has_no_claim(id)), false);
    };
    let mut own = Claim { nodes: nodes.iter().copied().collect(), ..stored.clone() };
    let ahead = claims.iter().filter(|(other, claim)| {
        **other != id && (claim.granted || (claim.order, **other) < (own.order, id))
    });
    let first = ahead.filter_map(|(other, claim)| Some((claim.order, *other, own.shared_with(claim)?))).min();
    own.granted = first.is_none();
    let changed = own != *stored;
    claims.insert(id, own);
    match first {
        Some((_, other, shared)) => (Turn::WaitsFor(messages::waits_for_session(other, &shared)), changed),
        None => (Turn::Granted, changed),
    }
}

/// What a session to come would share with another one, in words.
pub fn shares(
    spec: &Spec,
    nodes: &BTreeSet<Xname>,
    other: &Spec,
    other_nodes: &BTreeSet<Xname>,
) -> Option<String> {
    let claim = |spec: &Spec, nodes: &BTreeSet<Xname>| {
        let Spec { starting, upgrading, failed, strategy, .. } = spec.clone();
        let partitions = strategy.min_in_service.into_keys().collect();
        Claim { order: 0, starting, upgrading, failed, partitions, granted: false, nodes: nodes.clone() }
    };
    claim(spec, nodes).shared_with(&claim(other, other_nodes))
}

/// What two sessions that both work share, in words: there must be nothing.
pub fn shared(one: &Session, other: &Session) -> Option<String> {
    Claim::of(one, 0).shared_with(&Claim::of(other, 0))
}

/// Nodes as one text, so that 100,000 of them fit into one record of any store: of each xname only what differs
/// from the one before, `x1000c0s0b0n0 n1 b1n0 n1 s1b0n0`.
pub(crate) mod folded {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::names::{InvalidName, Xname};

    pub(super) fn serialize<S: Serializer>(nodes: &BTreeSet<Xname>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&fold(nodes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<Xname>, D::Error> {
        unfold(&String::deserialize(from)?).map_err(D::Error::custom)
    }

    pub(crate) fn fold<'a>(nodes: impl IntoIterator<Item = &'a Xname>) -> String {
        let mut text = String::new();
        let mut before: Option<String> = None;
        for xname in nodes {
            let full = xname.to_string();
            let same = before.as_deref().map_or(0, |before| same_parts(before, &full));
            let space = if text.is_empty() { "" } else { " " };
            // Writing to a string cannot fail.
            _ = write!(text, "{space}{}", &full[same..]);
            before = Some(full);
        }
        text
    }

    /// How many bytes of two xnames are parts that both share.
    fn same_parts(one: &str, two: &str) -> usize {
        let same = one.bytes().zip(two.bytes()).take_while(|(a, b)| a == b).count();
        // A number that goes on in either of them is not the same number.
        let ends = |text: &str| !text.as_bytes().get(same).is_some_and(u8::is_ascii_digit);
        if ends(one) && ends(two) {
            return same;
        }
        two[..same].rfind(|c: char| c.is_ascii_alphabetic()).unwrap_or(0)
    }

    pub(crate) fn unfold(text: &str) -> Result<BTreeSet<Xname>, InvalidName> {
        let mut before = String::new();
        let mut nodes = BTreeSet::new();
        for word in text.split_ascii_whitespace() {
            let letter = word.chars().next().unwrap_or_default();
            let kept = before.find(letter).unwrap_or(before.len());
            before.truncate(kept);
            before.push_str(word);
            nodes.insert(before.parse()?);
        }
        Ok(nodes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(n: u128, order: u64, groups: [&str; 3]) -> (UpgradeId, Claim) {
        let [starting, upgrading, failed] = groups.map(|label| label.parse().unwrap());
        let nodes = BTreeSet::new();
        let partitions = BTreeSet::new();
        let claim = Claim { order, starting, upgrading, failed, partitions, granted: false, nodes };
        (UpgradeId(uuid::Uuid::from_u128(n)), claim)
    }

    fn nodes(names: &[&str]) -> Vec<Xname> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn sessions_that_share_a_group_or_a_node_take_turns_in_order_of_creation() {
        let (first, one) = entry(9, 1, ["a", "up", "failed"]);
        let (second, two) = entry(5, 2, ["b", "up", "failed-b"]);
        let (apart, three) = entry(3, 3, ["c", "up-c", "failed-c"]);
        let (overlapping, four) = entry(2, 4, ["d", "up-d", "failed-d"]);
        let mut claims = BTreeMap::from([(first, one), (second, two), (apart, three), (overlapping, four)]);
        let ab = nodes(&["x1c0s0b0n0", "x1c0s1b0n0"]);
        let c = nodes(&["x1c0s2b0n0"]);
        let why = claim(second, &ab, &mut claims).0.waits_for().unwrap();
        assert_eq!(why, format!("Waiting for session {first}, which uses the group 'up'"));
        assert_eq!(claim(first, &ab, &mut claims), (Turn::Granted, true));
        assert_eq!(claim(first, &ab, &mut claims), (Turn::Granted, false), "asking again changes nothing");
        assert_eq!(claim(apart, &c, &mut claims), (Turn::Granted, true));
        let why = claim(overlapping, &c, &mut claims).0.waits_for().unwrap();
        assert_eq!(why, format!("Waiting for session {apart}, which uses the node x1c0s2b0n0"));
        claims.remove(&first);
        claims.remove(&apart);
        assert_eq!(claim(second, &ab, &mut claims).0, Turn::Granted);
        assert_eq!(claim(overlapping, &c, &mut claims).0, Turn::Granted);
    }

    #[test]
    fn nobody_overtakes_an_earlier_session_that_waits_for_the_same_nodes() {
        let (first, one) = entry(1, 1, ["a", "up", "failed"]);
        let (second, two) = entry(2, 2, ["b", "up", "failed-b"]);
        let (third, three) = entry(3, 3, ["c", "up-c", "failed-c"]);
        let mut claims = BTreeMap::from([(first, one), (second, two), (third, three)]);
        let b = nodes(&["x1c0s1b0n0"]);
        assert_eq!(claim(first, &nodes(&["x1c0s0b0n0"]), &mut claims).0, Turn::Granted);
        assert_ne!(claim(second, &b, &mut claims).0, Turn::Granted);
        let why = claim(third, &b, &mut claims).0.waits_for().unwrap();
        assert_eq!(why, format!("Waiting for session {second}, which uses the node x1c0s1b0n0"));
    }

    #[test]
    fn a_group_that_another_session_empties_cannot_be_a_starting_group() {
        let (first, one) = entry(1, 1, ["a", "up", "failed"]);
        let (rerun, two) = entry(2, 2, ["failed", "up-b", "failed-b"]);
        let mut claims = BTreeMap::from([(first, one), (rerun, two)]);
        assert!(claim(rerun, &[], &mut claims).0.waits_for().unwrap().contains("the group 'failed'"));
    }

    #[test]
    fn sessions_that_keep_nodes_of_one_partition_in_service_take_turns() {
        let (first, one) = entry(1, 1, ["a", "up", "failed"]);
        let (second, two) = entry(2, 2, ["b", "up-b", "failed-b"]);
        let (third, three) = entry(3, 3, ["c", "up-c", "failed-c"]);
        let batch = || BTreeSet::from(["batch".parse().unwrap()]);
        let one = Claim { partitions: batch(), ..one };
        let two = Claim { partitions: batch(), ..two };
        let mut claims = BTreeMap::from([(first, one), (second, two), (third, three)]);
        assert_eq!(claim(first, &[], &mut claims).0, Turn::Granted);
        assert!(claim(second, &[], &mut claims).0.waits_for().unwrap().contains("the partition 'batch'"));
        assert_eq!(claim(third, &[], &mut claims).0, Turn::Granted, "it keeps none in service");
    }

    #[test]
    fn a_hundred_thousand_nodes_fit_into_one_request_to_etcd() {
        let (_, mut claim) = entry(1, 1, ["a", "up", "failed"]);
        for n in 0..100_000 {
            let (cabinet, rest) = (1000 + n / 256, n % 256);
            let text = format!("x{cabinet}c{}s{}b{}n{}", rest / 32, rest / 4 % 8, rest / 2 % 2, rest % 2);
            claim.nodes.insert(text.parse().unwrap());
        }
        assert_eq!(claim.nodes.len(), 100_000);
        let stored = serde_json::to_string(&claim).unwrap();
        assert!(stored.len() < 1 << 20, "{} bytes", stored.len());
        assert_eq!(serde_json::from_str::<Claim>(&stored).unwrap(), claim);
    }

    proptest! {
        #[test]
        fn what_was_folded_unfolds(
            places in proptest::collection::btree_set((0..30u32, 0..12u32, 0..12u32, 0..12u32, 0..12u32), 0..60)
        ) {
            let (_, mut claim) = entry(1, 1, ["a", "up", "failed"]);
            let name = |(x, c, s, b, n)| format!("x{x}c{c}s{s}b{b}n{n}").parse::<Xname>().unwrap();
            claim.nodes = places.into_iter().map(name).collect();
            let stored = serde_json::to_string(&claim).unwrap();
            prop_assert_eq!(serde_json::from_str::<Claim>(&stored).unwrap(), claim);
        }
    }
}
