//! What one round and one change cost does not grow with the number of a session's nodes. Counted, so the same on
//! every machine.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[expect(dead_code, clippy::panic, reason = "the scenarios use the rest, and may panic")]
mod common;

use std::alloc::System;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;

use common::{HOUR, SEED, cluster, job, spec, with_jobs};
use crus_core::machine::{self, Input};
use crus_core::model::Phase;
use crus_core::{Limits, Session, Time};
use crus_sim::world::World;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One test, since others beside it would be counted with it.
#[test]
fn the_cost_of_a_round_and_of_a_change_does_not_grow_with_the_nodes() {
    let (few, many) = (costs(40), costs(4_000));
    assert_eq!(few.len(), 4, "the stages in which something is waited for: {few:?}");
    for (stage, few) in &few {
        let many = many.get(stage).unwrap();
        assert!(*few > 0, "nothing was counted in {stage}");
        // The names of some hundred nodes more are longer by a digit or two.
        let bound = few + few / 10;
        assert!(*many <= bound, "{stage}: {few} bytes, then {many}");
    }
}

/// Two steps of a session of so many nodes, four at a time: the bytes that an idle round allocates at most, by stage.
/// Checks on the way what each write writes.
fn costs(nodes: u32) -> BTreeMap<String, usize> {
    // Somebody works on the first nodes: the step waits for their jobs.
    let jobs = (1..=nodes).map(|n| job(n, &[n], 90)).collect();
    let mut world = World::new(with_jobs(cluster(nodes), jobs), SEED, Limits::default());
    let id = world.create(spec(4)).unwrap();
    world.run_until(HOUR, |world| world.session(id).unwrap().head.phase == Phase::Rolling).unwrap();

    let costs = RefCell::new(BTreeMap::<String, usize>::new());
    let before = RefCell::new((world.store().written(), world.session(id).unwrap().clone()));
    world
        .run_until(100 * HOUR, |world| {
            let session = world.session(id).unwrap();
            let (written, last) = &mut *before.borrow_mut();
            let now = world.store().written();
            if now.writes > written.writes {
                assert_eq!(now.writes, written.writes + 1, "it is looked at after every round");
                assert_changes_only(last, session, now.parts - written.parts, now.bytes - written.bytes);
                (*written, *last) = (now, session.clone());
            }
            if machine::outstanding(session, world.now()).is_empty() {
                let cost = idle_round(session.clone(), world.now());
                let mut costs = costs.borrow_mut();
                let most = costs.entry(session.head.stage.to_string()).or_default();
                *most = cost.max(*most);
            }
            session.head.step == 2
        })
        .unwrap();
    costs.into_inner()
}

/// As the driver does it: takes note of the time, works out what is outstanding, and when there will be something.
fn idle_round(mut session: Session, now: Time) -> usize {
    let region = Region::new(ALLOCATOR);
    black_box(machine::step(&mut session, now, Input::Tick));
    black_box(machine::outstanding(&session, now));
    black_box(machine::next_wake(&session, now));
    region.change().bytes_allocated
}

/// A write holds the nodes that changed, each once, the head at most once, and what was said.
fn assert_changes_only(before: &Session, after: &Session, parts: u64, bytes: u64) {
    let changed = before.nodes.iter().zip(&after.nodes).filter(|(before, after)| before != after).count();
    let said = after.messages.len() - before.messages.len();
    let bound = (changed + said + 1) as u64;
    let told = (before.head.stage, after.head.stage);
    assert!(parts <= bound, "{parts} parts for {changed} nodes and {said} messages, {told:?}");
    assert!(bytes <= 1_000 * bound, "{bytes} bytes in {parts} parts, {told:?}");
}
