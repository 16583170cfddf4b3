//! What a review found in the way options, orders and mishaps meet.

use crus_core::model::{Command, Failure, NodeState, PauseReason};
use crus_core::names::CheckName;
use crus_sim::checks::CheckEnd;
use crus_sim::cluster::slurm::Update;
use crus_sim::config::BootBehaviour;

use super::support::*;
use crate::common::*;

/// Nobody asked for the verdict on a node that was not heard of any more, and the session waited for it for ever.
#[test]
fn p4_a_node_that_falls_silent_while_it_is_checked_fails() {
    for end_of_check in [CheckEnd::Hangs, CheckEnd::Passes { after_ms: 5 * MINUTE }] {
        let mut world = world(brisk(2));
        world.checks.inner().add(CheckName::new("health").unwrap());
        world.checks.inner().set_timeout(10 * MINUTE);
        world.checks.inner().set(xname(1), end_of_check.clone());
        let id = world.create(spec_of(2, r#"{"check_command":"health"}"#)).unwrap();
        let checks = world.checks.clone();
        world
            .run_until(DAY, |_| checks.inner().started().iter().any(|check| check.xname == xname(1)))
            .unwrap();
        world.by_hand(|cluster| assert!(cluster.power_off(xname(1)))).unwrap();
        end(&mut world, id);
        let state = node(&world, id, 1).state.clone();
        let lost = matches!(state, NodeState::Failed(Failure::CheckFailed(_) | Failure::ReturnTimedOut(_)));
        assert!(lost, "{end_of_check:?}: {state:?}");
        assert_eq!(counts(&world, id).upgraded, 1);
    }
}

/// It was repaired, and taken from its jobs by us: a deletion gives it back.
#[test]
fn p7_a_node_that_is_tried_again_goes_back_to_work_if_it_was_at_work() {
    let mut config = brisk(2);
    config.nodes[0].boot = BootBehaviour::Fails;
    let mut world = world(config);
    let id = world.create(spec_of(1, r#"{"order":"name","max_failed":0}"#)).unwrap();
    until_paused(&mut world, id);
    world
        .by_hand(|cluster| {
            cluster.set_boot_behaviour(xname(1), BootBehaviour::Normal);
            cluster.power_off(xname(1));
            cluster.power_on(xname(1));
        })
        .unwrap();
    world.run_for(30 * MINUTE).unwrap();
    world.by_hand(|cluster| _ = cluster.update(&[name(1)], &Update::resume())).unwrap();
    world.run_for(MINUTE).unwrap();
    assert!(in_service(&world, 1), "mended by hand");
    order(&mut world, id, Command::Retry);
    // It waits for the group, with its nodes drained.
    world.by_hand(|cluster| cluster.set_hsm_down(true)).unwrap();
    order(&mut world, id, Command::Resume);
    world.by_hand(|cluster| cluster.set_hsm_down(false)).unwrap();
    let draining =
        |world: &crus_sim::world::World| world.session(id).unwrap().nodes[0].state == NodeState::Draining;
    world.run_until(DAY, draining).unwrap();
    world.delete(id).unwrap();
    world.must_end(DAY).unwrap();
    assert!(in_service(&world, 1), "it is {:?}", world.view(&name(1)));
}

/// The pause was the operator's, and its words hid that a limit was exceeded: a resume went on with a bad image.
#[test]
fn failures_beyond_the_limit_are_told_to_who_had_paused_the_session() {
    let mut config = brisk(4);
    config.nodes.iter_mut().for_each(|node| node.boot = BootBehaviour::Fails);
    let mut world = world(config);
    let id = world.create(spec_of(2, r#"{"max_failed":0}"#)).unwrap();
    world.run_for(MINUTE).unwrap();
    order(&mut world, id, Command::Pause);
    let both_failed = |world: &crus_sim::world::World| counts(world, id).failed == 2;
    world.run_until(DAY, both_failed).unwrap();
    assert_eq!(until_paused(&mut world, id), PauseReason::MaxFailed { failed: 2, max: 0 });
    let told = messages(&world, id).iter().any(|text| text.contains("2 nodes failed, and 0 may"));
    assert!(told, "{:#?}", messages(&world, id));
}

/// A pause that is taken back while the step is still in flight must not make its failures known ones.
#[test]
fn a_pause_and_resume_amid_a_step_let_no_failure_pass() {
    let mut config = brisk(4);
    config.nodes.iter_mut().for_each(|node| node.boot = BootBehaviour::Fails);
    // The second node of the step holds it in flight for longer.
    config.nodes[1].boot = BootBehaviour::Hangs;
    let mut world = world(config);
    let id = world.create(spec_of(2, r#"{"max_failed":0,"order":"name"}"#)).unwrap();
    let one_failed = |world: &crus_sim::world::World| {
        let head = &world.session(id).unwrap().head;
        head.counts.failed == 1 && head.stage == crus_core::model::Stage::Booting
    };
    world.run_until(DAY, one_failed).unwrap();
    order(&mut world, id, Command::Pause);
    order(&mut world, id, Command::Resume);
    assert_eq!(until_paused(&mut world, id), PauseReason::MaxFailed { failed: 2, max: 0 });
}

/// A node was quiet for longer than a drain may take when somebody let it go: the job that then began has its time.
#[test]
fn p2_a_job_on_a_node_that_was_quiet_and_let_go_is_not_ended_at_once() {
    let mut world = world(brisk(1));
    let json = r#"{"drain_timeout_s":600,"on_drain_timeout":"cancel"}"#;
    let id = world.create(spec_of(1, json)).unwrap();
    let quiesced = |world: &crus_sim::world::World| {
        world.session(id).unwrap().nodes.iter().any(|n| n.state == NodeState::Quiesced)
    };
    // HSM goes away before the group can be filled: the node stays quiet.
    let draining = |world: &crus_sim::world::World| {
        world.session(id).unwrap().nodes.iter().any(|n| n.state == NodeState::Draining)
    };
    world.run_until(DAY, draining).unwrap();
    world.by_hand(|cluster| cluster.set_hsm_down(true)).unwrap();
    world.run_until(DAY, quiesced).unwrap();
    world.run_for(HOUR).unwrap();
    let (at, submitted) = (world.now(), job(7, &[1], 300));
    world
        .by_hand(|cluster| {
            cluster.update(&[name(1)], &Update::resume()).unwrap();
            assert!(cluster.submit(submitted));
        })
        .unwrap();
    world.by_hand(|cluster| cluster.set_hsm_down(false)).unwrap();
    end(&mut world, id);
    let ended =
        world.facts().iter().find(|fact| matches!(fact.what, crus_core::promises::What::JobEnded { .. }));
    if let Some(ended) = ended {
        assert!(ended.at.since(at) >= 10 * MINUTE, "after {} s", ended.at.since(at) / 1000);
    }
    assert_eq!(counts(&world, id).upgraded, 1);
}
