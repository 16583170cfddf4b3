//! What these scenarios share.

use std::collections::BTreeMap;

use crus_core::history::{Entry, Happening};
use crus_core::model::{Command, Counts, PauseReason, Stage};
use crus_core::{Spec, Strategy, UpgradeId};
use crus_sim::ClusterConfig;
use crus_sim::config::{BosConfig, Span};
use crus_sim::world::{Stuck, World};

use crate::common::*;

pub(crate) const DAY: u64 = 24 * HOUR;

/// A strategy as operators write it.
pub(crate) fn strategy(json: &str) -> Strategy {
    let strategy: Strategy = serde_json::from_str(json).unwrap();
    assert_eq!(strategy.problems(), []);
    strategy
}

pub(crate) fn spec_of(step_size: u32, json: &str) -> Spec {
    Spec { strategy: strategy(json), ..spec(step_size) }
}

/// A cluster whose BOS tries each boot once and briefly.
pub(crate) fn brisk(size: u32) -> ClusterConfig {
    let config = cluster(size);
    let bos = BosConfig { attempts: 1, attempt_ms: 10 * MINUTE, ..config.bos };
    ClusterConfig { bos: BosConfig { boot: Span::new(MINUTE, 2 * MINUTE), ..bos }, ..config }
}

/// Goes on until the session is paused, all its nodes are settled, and it stands before a step.
pub(crate) fn until_paused(world: &mut World, id: UpgradeId) -> PauseReason {
    let paused = |world: &World| {
        let session = world.session(id).unwrap();
        session.head.pause.is_some()
            && session.head.stage == Stage::Starting
            && session.batch().all(|node| node.is_settled())
    };
    world.run_until(30 * DAY, paused).unwrap_or_else(|error| {
        panic!("never paused: {error}; messages {:#?}", messages(world, id));
    });
    world.session(id).unwrap().head.pause.clone().unwrap().why
}

/// Orders it, and lets the session take it in.
pub(crate) fn order(world: &mut World, id: UpgradeId, command: Command) {
    world.command(id, command).unwrap();
    world.run_for(1).unwrap();
}

/// The world goes on for so long and the session does not.
pub(crate) fn stays(world: &mut World, id: UpgradeId, ms: u64) {
    let before = world.session(id).unwrap().head.counts;
    let end = world.run_to_end(ms);
    assert!(matches!(end, Err(Stuck::TooLate(_))), "{end:?}");
    assert_eq!(counts(world, id), before);
}

pub(crate) fn counts(world: &World, id: UpgradeId) -> Counts {
    world.session(id).unwrap().head.counts
}

pub(crate) fn end(world: &mut World, id: UpgradeId) {
    world.must_end(30 * DAY).unwrap_or_else(|error| {
        let session = world.session(id);
        let said =
            session.map(|session| session.messages.iter().map(ToString::to_string).collect::<Vec<_>>());
        panic!("{error}; messages {said:#?}");
    });
}

/// What the stored history has.
pub(crate) fn history(world: &World, id: UpgradeId) -> Vec<Entry> {
    world.history(id).unwrap()
}

/// The nodes of each step, in order, as the history has them: each entry of nodes that drain begins one, or goes on
/// with it.
pub(crate) fn drained(world: &World, id: UpgradeId) -> BTreeMap<u32, usize> {
    let mut steps = BTreeMap::new();
    for entry in history(world, id) {
        if let Happening::Nodes { state, nodes, .. } = &entry.what
            && state == "draining"
        {
            *steps.entry(entry.step).or_default() += nodes.len();
        }
    }
    steps
}
