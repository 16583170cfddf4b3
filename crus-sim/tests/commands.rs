//! What operators order of sessions, through the store: it holds whoever runs the session, and survives a crash.

use crate::common::*;
use crus_core::UpgradeId;
use crus_core::history::Happening;
use crus_core::model::{Command, NodeState};
use crus_core::ports::SessionStore as _;
use crus_sim::config::BootBehaviour;
use crus_sim::world::{Stuck, World};

/// What the stored history has of this session.
async fn history(world: &World, id: UpgradeId) -> Vec<Happening> {
    let entries = world.store().history(id, 0, usize::MAX).await.unwrap();
    entries.into_iter().map(|entry| entry.what).collect()
}

#[tokio::test]
async fn a_pause_and_its_end_hold_across_crashes_and_takeovers() {
    let mut world = world(cluster(4));
    let id = world.create(spec(2)).unwrap();
    until_said(&mut world, id, "Began the boot session");
    world.command(id, Command::Pause).unwrap();
    // It may not have been taken in yet.
    world.crash().unwrap();
    let later = world.run_to_end(24 * HOUR).unwrap_err();
    assert!(matches!(later, Stuck::TooLate(_)), "{later}");
    assert_eq!(world.session(id).unwrap().head.counts.pending, 2, "the step in flight ended, no other began");
    world.take_over().unwrap();
    assert!(world.session(id).unwrap().head.pause.is_some());
    world.command(id, Command::Resume).unwrap();
    world.take_over().unwrap();
    world.run_to_end(24 * HOUR).unwrap();
    assert!(states(&world, id).iter().all(|state| *state == NodeState::Upgraded));
    let told = history(&world, id).await;
    assert_eq!(told.iter().filter(|what| matches!(what, Happening::Paused { .. })).count(), 1);
    assert_eq!(told.iter().filter(|what| matches!(what, Happening::Resumed { .. })).count(), 1);
}

/// A session that is done works again, and its end is checked once more.
#[tokio::test]
async fn p4_a_finished_session_takes_its_failed_nodes_once_more_after_a_crash() {
    let mut config = cluster(3);
    config.nodes[1].boot = BootBehaviour::Fails;
    let mut world = world(config);
    let id = world.create(spec(2)).unwrap();
    world.run_to_end(24 * HOUR).unwrap();
    assert_eq!(world.session(id).unwrap().head.counts.failed, 1);
    let checked = world.rounds_and_checks().1;
    world.command(id, Command::Retry).unwrap();
    world.crash().unwrap();
    world.run_to_end(24 * HOUR).unwrap();
    let session = world.session(id).unwrap();
    assert_eq!((session.head.counts.failed, session.head.counts.upgraded), (1, 2));
    assert_eq!(session.nodes[1].attempt, 1);
    assert_eq!(world.reboots(id, xname(2)), 2, "one for each attempt");
    assert!(world.rounds_and_checks().1 > checked);
    assert!(world.store().commands(id).await.unwrap().is_empty(), "it was taken in");
    let told = history(&world, id).await;
    assert_eq!(told.iter().filter(|what| matches!(what, Happening::Finished { .. })).count(), 2);
}
