//! `canary` and `soak_s`.

use crus_core::model::{Command, Failure, NodeState, PauseReason};
use crus_sim::cluster::slurm::Update;
use crus_sim::world::World;

use super::support::*;
use crate::common::*;

#[test]
fn canaries_grow_only_with_success() {
    let mut config = brisk(14);
    config.nodes[0].boot = crus_sim::config::BootBehaviour::Fails;
    let mut world = world(config);
    let id = world.create(spec_of(4, r#"{"canary":[1,3,9],"order":"name"}"#)).unwrap();
    end(&mut world, id);
    // The first is lost, and the first size tried once more; the last is larger than a step.
    let sizes: Vec<usize> = drained(&world, id).into_values().collect();
    assert_eq!(sizes, [1, 1, 3, 4, 4, 1]);
    assert_eq!(counts(&world, id).upgraded, 13);
}

/// All of them run a job for hours.
#[test]
fn a_canary_of_nodes_that_are_all_skipped_is_tried_with_others() {
    let config = with_jobs(brisk(6), vec![job(1, &[1, 2, 3], 500)]);
    let mut world = world(config);
    let json =
        r#"{"canary":[2],"order":"name","drain_timeout_s":600,"on_drain_timeout":"skip","max_failed":0}"#;
    let id = world.create(spec_of(4, json)).unwrap();
    end(&mut world, id);
    let sizes: Vec<usize> = drained(&world, id).into_values().collect();
    assert_eq!(sizes, [2, 2, 2], "two are skipped, then one of two, then the rest");
    assert_eq!((counts(&world, id).skipped, counts(&world, id).upgraded), (3, 3));
}

fn soaking(world: &World, id: crus_core::UpgradeId) -> bool {
    world.session(id).unwrap().head.soak_until.is_some()
}

#[test]
fn a_canary_soaks_and_the_rest_waits() {
    let mut world = world(brisk(5));
    let id = world.create(spec_of(4, r#"{"canary":[1],"soak_s":7200}"#)).unwrap();
    world.run_until(DAY, |world| soaking(world, id)).unwrap();
    let since = world.now();
    world.crash().unwrap();
    world.run_until(DAY, |world| world.session(id).unwrap().head.step == 1).unwrap();
    let soaked = world.now().since(since);
    assert!((2 * HOUR..2 * HOUR + MINUTE).contains(&soaked), "{soaked} ms");
    end(&mut world, id);
    assert_eq!(counts(&world, id).upgraded, 5);
}

#[test]
fn a_canary_that_does_not_stay_up_stops_the_session() {
    let mut world = world(brisk(5));
    let id =
        world.create(spec_of(4, r#"{"canary":[1],"soak_s":3600,"max_failed":0,"order":"name"}"#)).unwrap();
    world.run_until(DAY, |world| soaking(world, id)).unwrap();
    world.by_hand(|cluster| _ = cluster.power_off(xname(1))).unwrap();
    assert_eq!(until_paused(&mut world, id), PauseReason::MaxFailed { failed: 1, max: 0 });
    let state = &node(&world, id, 1).state;
    assert!(matches!(state, NodeState::Failed(Failure::SoakFailed(_))), "{state:?}");
    assert_eq!(counts(&world, id).pending, 4);
    world.by_hand(|cluster| _ = cluster.power_on(xname(1))).unwrap();
    order(&mut world, id, Command::Retry);
    order(&mut world, id, Command::Resume);
    end(&mut world, id);
    assert_eq!(counts(&world, id).upgraded, 5);
    assert_eq!(drained(&world, id).into_values().collect::<Vec<_>>(), [1, 1, 4]);
}

/// Nothing of a soak is longer than it was asked for, however far back the clock goes.
#[test]
fn a_clock_that_is_set_back_prolongs_no_soak() {
    let mut world = world(brisk(3));
    let id = world.create(spec_of(2, r#"{"canary":[1],"soak_s":600}"#)).unwrap();
    world.run_until(DAY, |world| soaking(world, id)).unwrap();
    let since = world.now();
    world.set_clock(-i64::try_from(DAY).unwrap());
    world.run_until(DAY, |world| world.session(id).unwrap().head.step == 1).unwrap();
    assert!(world.now().since(since) <= 30 * MINUTE, "{} ms", world.now().since(since));
}

#[test]
fn p7_a_session_that_soaks_can_be_deleted_at_once() {
    let mut world = world(brisk(3));
    let id = world.create(spec_of(2, r#"{"canary":[1],"soak_s":86400}"#)).unwrap();
    world.run_until(DAY, |world| soaking(world, id)).unwrap();
    world.delete(id).unwrap();
    world.must_end(MINUTE).unwrap();
    assert!((1..=3).all(|n| in_service(&world, n)));
}

/// P6: it is theirs, and no reason to go on as if nothing was.
#[test]
fn a_canary_that_an_operator_drains_did_not_stay_in_service() {
    let mut world = world(brisk(3));
    let id = world.create(spec_of(2, r#"{"canary":[1],"soak_s":600,"order":"name"}"#)).unwrap();
    world.run_until(DAY, |world| soaking(world, id)).unwrap();
    world.by_hand(|cluster| _ = cluster.update(&[name(1)], &Update::drain("hot, ada"))).unwrap();
    end(&mut world, id);
    assert!(matches!(node(&world, id, 1).state, NodeState::Failed(Failure::SoakFailed(_))));
    assert!(reason(&world, 1).starts_with("hot, ada; "), "{}", reason(&world, 1));
    assert_eq!(counts(&world, id).upgraded, 2);
}
