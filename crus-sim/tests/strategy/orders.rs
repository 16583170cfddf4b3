//! Orders of operators: pause, resume, retry, and deletion in every new situation.

use std::collections::BTreeSet;

use crus_core::history::Happening;
use crus_core::model::{Command, Failure, NodeState, PauseReason, Stage};
use crus_sim::config::{BootBehaviour, TemplateSpec};
use crus_sim::world::World;

use super::support::*;
use crate::common::*;

/// The image boots again.
fn mend(world: &World, size: u32) {
    for n in 1..=size {
        world.cluster().set_boot_behaviour(xname(n), BootBehaviour::Normal);
    }
}

fn failing(size: u32, nodes: &[u32]) -> World {
    let mut config = brisk(size);
    for &n in nodes {
        config.nodes[n as usize - 1].boot = BootBehaviour::Fails;
    }
    world(config)
}

/// The case that a canary is for.
#[test]
fn a_bad_image_costs_one_node_of_a_thousand_and_none_once_it_is_mended() {
    const SIZE: u32 = 1000;
    let all: Vec<u32> = (1..=SIZE).collect();
    let mut world = failing(SIZE, &all);
    let id = world.create(spec_of(50, r#"{"canary":[1],"max_failed":0}"#)).unwrap();
    assert_eq!(until_paused(&mut world, id), PauseReason::MaxFailed { failed: 1, max: 0 });
    stays(&mut world, id, 2 * DAY);
    let now = counts(&world, id);
    assert_eq!((now.failed, now.pending), (1, 999));
    let lost: Vec<u32> = all.iter().copied().filter(|n| !in_service(&world, *n)).collect();
    assert_eq!(lost.len(), 1, "nothing else was touched: {lost:?}");
    assert_eq!(all.iter().map(|n| world.reboots(id, xname(*n))).sum::<u32>(), 1);
    assert_eq!(world.members(&label("failed")).len(), 1);

    mend(&world, SIZE);
    world.command(id, Command::Retry).unwrap();
    world.command(id, Command::Resume).unwrap();
    end(&mut world, id);
    assert_eq!(counts(&world, id).upgraded, 1000);
    assert_eq!(world.members(&label("failed")), BTreeSet::new());
    assert!(all.iter().all(|n| in_service(&world, *n) && reason(&world, *n).is_empty()));
    let taken = drained(&world, id);
    assert_eq!((taken[&0], taken[&1], taken[&2]), (1, 1, 50), "the canary was tried once more");
    assert!(all.iter().all(|n| world.reboots(id, xname(*n)) == if lost.contains(n) { 2 } else { 1 }));
}

#[test]
fn a_pause_lets_the_step_in_flight_end_whatever_stage_it_is_in() {
    for stage in [Stage::Starting, Stage::Quiescing, Stage::Quiesced, Stage::Booting, Stage::WlmWaiting] {
        let mut world = world(with_jobs(brisk(4), vec![job(1, &[1, 2], 5)]));
        let id = world.create(spec_of(2, r#"{"order":"name","canary":[2],"soak_s":600}"#)).unwrap();
        let there = |world: &World| {
            let session = world.session(id).unwrap();
            !session.nodes.is_empty() && session.head.stage == stage
        };
        world.run_until(DAY, there).unwrap();
        world.command(id, Command::Pause).unwrap();
        world.command(id, Command::Pause).unwrap();
        let _ = until_paused(&mut world, id);
        stays(&mut world, id, DAY);
        let untouched = if stage == Stage::Starting { 4 } else { 2 };
        assert_eq!(counts(&world, id).pending, untouched, "{stage}");
        assert_eq!(messages(&world, id).iter().filter(|text| text.starts_with("Paused")).count(), 1);
        world.command(id, Command::Resume).unwrap();
        world.command(id, Command::Resume).unwrap();
        end(&mut world, id);
        assert_eq!(counts(&world, id).upgraded, 4);
        let resumed = |what: &Happening| matches!(what, Happening::Resumed { .. });
        assert_eq!(history(&world, id).iter().filter(|entry| resumed(&entry.what)).count(), 1);
    }
}

#[test]
fn p4_a_retry_while_the_session_tidies_up_is_not_lost() {
    let mut world = failing(2, &[1]);
    let id = world.create(spec(2)).unwrap();
    let tidies = |world: &World| world.session(id).unwrap().head.stage == Stage::Cleanup;
    world.run_until(DAY, tidies).unwrap();
    world.cluster().set_hsm_down(true);
    mend(&world, 2);
    world.command(id, Command::Pause).unwrap();
    world.command(id, Command::Retry).unwrap();
    world.run_for(MINUTE).unwrap();
    world.cluster().set_hsm_down(false);
    world.command(id, Command::Resume).unwrap();
    end(&mut world, id);
    assert_eq!(counts(&world, id).upgraded, 2);
}

/// The failed node is not marked yet, since Slurm takes no updates.
#[test]
fn a_retry_takes_nodes_too_whose_failure_is_still_to_be_noted_outside() {
    let mut world = failing(3, &[1]);
    let id = world.create(spec_of(2, r#"{"order":"name","max_failed_step":0}"#)).unwrap();
    let paused = |world: &World| world.session(id).unwrap().head.pause.is_some();
    until_said(&mut world, id, "Began the boot session");
    world.run_for(30_000).unwrap();
    world.cluster().set_hsm_down(true);
    world.run_until(DAY, paused).unwrap();
    world.run_for(MINUTE).unwrap();
    mend(&world, 3);
    world.command(id, Command::Retry).unwrap();
    world.run_for(MINUTE).unwrap();
    world.crash().unwrap();
    world.cluster().set_hsm_down(false);
    let _ = until_paused(&mut world, id);
    world.run_for(MINUTE).unwrap();
    assert_eq!((counts(&world, id).failed, counts(&world, id).pending), (0, 2));
    world.command(id, Command::Resume).unwrap();
    end(&mut world, id);
    assert_eq!(counts(&world, id).upgraded, 3);
    assert_eq!(world.members(&label("failed")), BTreeSet::new());
}

#[test]
fn a_finished_session_that_is_retried_waits_for_its_turn() {
    let mut world = failing(3, &[1]);
    let first = world.create(spec(2)).unwrap();
    end(&mut world, first);
    let second = world.create(spec(1)).unwrap();
    until_said(&mut world, second, "Quiesce requested");
    mend(&world, 3);
    world.command(first, Command::Retry).unwrap();
    world.run_for(10_000).unwrap();
    let session = world.session(first).unwrap();
    assert!(session.head.queued, "{:?}", session.head.condition);
    assert!(session.head.condition.as_ref().unwrap().contains(&second.to_string()));
    world.must_end(DAY).unwrap();
    assert_eq!(counts(&world, first).upgraded, 3);
    assert_eq!(world.members(&label("failed")), BTreeSet::new());
    assert!((1..=3).all(|n| in_service(&world, n)));
}

#[test]
fn nodes_without_a_name_are_looked_up_again_when_they_are_retried() {
    let mut config = brisk(3);
    config.nodes[0].nid = None;
    config.nodes[1].role = "Management".into();
    let mut world = world(config);
    let id = world.create(spec(3)).unwrap();
    end(&mut world, id);
    assert_eq!(counts(&world, id).failed, 2);
    world.command(id, Command::Retry).unwrap();
    end(&mut world, id);
    assert_eq!(node(&world, id, 1).state, NodeState::Failed(Failure::NoNid));
    assert_eq!(node(&world, id, 2).state, NodeState::Failed(Failure::NotCompute("Management".into())));
    assert_eq!(world.members(&label("failed")), BTreeSet::from([xname(1), xname(2)]));
    assert_eq!((1..=3).map(|n| world.reboots(id, xname(n))).sum::<u32>(), 1);
}

/// Whatever was about to become of a node that had failed: it has failed.
#[test]
fn p7_deletion_leaves_nodes_that_were_to_be_tried_again_as_they_had_failed() {
    // Paused with the node to come; waiting for its turn; in a step of its own, which drains.
    for case in ["paused", "queued", "draining"] {
        let mut world = failing(2, &[1]);
        let id = world.create(spec_of(1, r#"{"order":"name","max_failed":0}"#)).unwrap();
        let _ = until_paused(&mut world, id);
        let marked = reason(&world, 1);
        assert!(marked.starts_with(&format!("upgrading-boot-session-failed {id}: failed to boot")));
        match case {
            "paused" => world.command(id, Command::Retry).unwrap(),
            "queued" => {
                world.command(id, Command::Resume).unwrap();
                end(&mut world, id);
                let second = world.create(spec(1)).unwrap();
                order(&mut world, second, Command::Pause);
                world.command(id, Command::Retry).unwrap();
            }
            _ => {
                world.command(id, Command::Retry).unwrap();
                world.command(id, Command::Resume).unwrap();
                let drains = |world: &World| reason(world, 1).starts_with("rolling-upgrade");
                world.run_until(DAY, drains).unwrap();
            }
        }
        world.run_for(5_000).unwrap();
        world.delete(id).unwrap();
        if case == "queued" {
            let gone = |world: &World| world.session(id).is_none();
            world.run_until(MINUTE, gone).unwrap();
        } else {
            world.must_end(DAY).unwrap();
        }
        assert_eq!(reason(&world, 1), marked, "{case}");
        assert_eq!(world.members(&label("failed")), BTreeSet::from([xname(1)]), "{case}");
    }
}

/// A session that was let go on with one failed node does not stop for it again; but it does for the next.
#[test]
fn failures_count_anew_once_they_were_tried_again() {
    let mut world = failing(3, &[1, 2, 3]);
    let id = world.create(spec_of(1, r#"{"order":"name","max_failed":0,"retries":1}"#)).unwrap();
    assert_eq!(until_paused(&mut world, id), PauseReason::MaxFailed { failed: 1, max: 0 });
    order(&mut world, id, Command::Resume);
    assert_eq!(until_paused(&mut world, id), PauseReason::MaxFailed { failed: 1, max: 0 });
    order(&mut world, id, Command::Resume);
    // The third fails, and no node is left but those to be tried again.
    assert_eq!(until_paused(&mut world, id), PauseReason::MaxFailed { failed: 1, max: 0 });
    world.command(id, Command::Resume).unwrap();
    let retried = |world: &World| world.session(id).unwrap().nodes.iter().any(|node| node.attempt == 1);
    world.run_until(DAY, retried).unwrap();
    assert_eq!(until_paused(&mut world, id), PauseReason::MaxFailed { failed: 1, max: 0 });
    assert_eq!(counts(&world, id).pending, 2);
}

#[test]
fn the_last_step_may_fail_without_a_pause_that_keeps_nobody_from_anything() {
    let mut world = failing(2, &[2]);
    let id = world.create(spec_of(1, r#"{"order":"name","max_failed_step":0,"max_failed":0}"#)).unwrap();
    end(&mut world, id);
    let paused = |entry: &crus_core::history::Entry| matches!(entry.what, Happening::Paused { .. });
    assert!(!history(&world, id).iter().any(paused), "{:#?}", messages(&world, id));
}

/// A template that names no node of ours: no reboot, and all of a step fails.
#[test]
fn max_failed_step_stops_a_session_whose_failures_are_few_of_all() {
    let mut config = brisk(20);
    config.templates.insert("image".parse().unwrap(), TemplateSpec::of_group("elsewhere"));
    let mut world = world(config);
    let id = world.create(spec_of(2, r#"{"max_failed_step":"50%","max_failed":"50%"}"#)).unwrap();
    assert_eq!(until_paused(&mut world, id), PauseReason::MaxFailedStep { failed: 2, max: 1 });
    stays(&mut world, id, DAY);
    world.cluster().put_boot_template("image", TemplateSpec::of_group("up")).unwrap();
    world.command(id, Command::Retry).unwrap();
    world.command(id, Command::Resume).unwrap();
    end(&mut world, id);
    assert_eq!(counts(&world, id).upgraded, 20);
}
