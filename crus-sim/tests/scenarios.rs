//! Upgrades of a simulated cluster in virtual time, each a promise or a decision of the design.
//!
//! The world itself checks P1–P8 against what really happened after every step; a scenario says what else must be
//! so in the end.

use std::collections::BTreeSet;

use crate::common::*;
use crus_core::Limits;
use crus_core::model::{Failure, NodeState, Phase, Stage};
use crus_core::promises::What;
use crus_sim::cluster::bos::{NewSession, Operation};
use crus_sim::cluster::slurm::Update;
use crus_sim::config::{BootBehaviour, GroupSpec, Held, Span, TemplateSpec};
use crus_sim::workload::{Drawn, Workload};
use crus_sim::world::World;

fn all_upgraded(world: &World, id: crus_core::UpgradeId) -> bool {
    states(world, id).iter().all(|state| *state == NodeState::Upgraded)
}

// ---- the course of an upgrade -------------------------------------------------------------------------------

#[test]
fn p1_p2_p4_a_busy_cluster_is_upgraded_without_harming_a_job() {
    for seed in 0..20 {
        let mut config = cluster(40);
        config.workload = Workload::Drawn(Drawn::default());
        config.slurm.epilog = Span::new(0, 30_000);
        let mut world = World::new(config, seed, Limits::default());
        let id = world.create(spec(7)).unwrap();
        world.run_to_end(14 * 24 * HOUR).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(all_upgraded(&world, id), "seed {seed}: {:?}", states(&world, id));
        assert!((1..=40).all(|n| world.cluster().image_of(xname(n)) == Some("image")), "seed {seed}");
    }
}

#[test]
fn p1_nodes_that_are_free_soonest_go_first() {
    let config = with_jobs(cluster(4), vec![job(1, &[1], 300), job(2, &[2], 60)]);
    let mut world = world(config);
    let id = world.create(spec(1)).unwrap();
    world.run_to_end(24 * HOUR).unwrap();
    let steps: Vec<_> = (1..=4).map(|n| node(&world, id, n).step.unwrap()).collect();
    assert_eq!(steps, [3, 2, 0, 1], "idle by name, then by the end of their jobs");
}

#[test]
fn a_stage_is_left_within_one_poll_of_the_fact_it_waits_for() {
    let config = with_jobs(cluster(2), vec![job(1, &[1, 2], 47)]);
    let start = config.start;
    let mut world = world(config);
    let id = world.create(spec(2)).unwrap();
    let poll = world.session(id).unwrap().limits.poll_ms;
    until_said(&mut world, id, "Began the boot session");
    assert!(world.now().since(start + 47 * MINUTE) <= poll, "left QUIESCING at {}", world.now());

    let booted = |world: &World| (1..=2).all(|n| world.cluster().image_of(xname(n)) == Some("image"));
    world.run_until(HOUR, booted).unwrap();
    // BOS configures the nodes for at most a minute, slurmd registers within seconds, Slurm takes up to 5 s to
    // see a resumed node: two polls see all of it.
    let up = world.now();
    world.run_to_end(HOUR).unwrap();
    assert!(world.now().since(up) <= MINUTE + 5_000 + 2 * poll, "took {}", world.now().since(up));
}

#[test]
fn an_empty_starting_group_is_an_upgrade_of_nothing() {
    let mut world = world(cluster(0));
    let id = world.create(spec(3)).unwrap();
    world.run_to_end(MINUTE).unwrap();
    assert_eq!(messages(&world, id), ["No nodes in step 0: moving to CLEANUP", "Upgrade Session Completed"]);
}

// ---- nodes that do not make it ------------------------------------------------------------------------------

#[test]
fn p4_a_node_that_bos_gives_up_is_down_with_its_reason_and_listed() {
    let mut config = cluster(4);
    config.nodes[1].boot = BootBehaviour::Fails;
    let mut world = world(config);
    let id = world.create(spec(2)).unwrap();
    world.run_to_end(12 * HOUR).unwrap();
    let why =
        "The retry limit has been hit for this component, but no services have reported specific errors";
    assert_eq!(node(&world, id, 2).state, NodeState::Failed(Failure::Boot(why.into())));
    assert_eq!(reason(&world, 2), format!("upgrading-boot-session-failed {id}: failed to boot: {why}"));
    assert!(world.wlm_node(&name(2)).unwrap().state().starts_with("DOWN"));
    assert_eq!(world.members(&label("failed")), BTreeSet::from([xname(2)]));
    assert!([1, 3, 4].iter().all(|n| in_service(&world, *n)));
}

#[test]
fn p5_nodes_that_bos_left_out_fail_and_say_why() {
    let mut config = cluster(4);
    config.nodes[0].locked = true;
    config.nodes[1].enabled = false;
    config.nodes[2].arch = "ARM".into();
    let mut world = world(config);
    let id = world.create(spec(4)).unwrap();
    world.run_to_end(12 * HOUR).unwrap();
    let why = |n: u32| match &node(&world, id, n).state {
        NodeState::Failed(Failure::LeftOut(why)) => why.clone(),
        state => panic!("node {n} is {state:?}"),
    };
    assert_eq!(why(1), "locked in the Hardware State Manager");
    assert_eq!(why(2), "disabled in the Hardware State Manager");
    assert_eq!(why(3), "no boot set of template 'image' takes it (its architecture is ARM)");
    assert_eq!(node(&world, id, 4).state, NodeState::Upgraded);
    assert!((1..=3).all(|n| world.reboots(id, xname(n)) == 0));
}

#[test]
fn p4_a_boot_session_that_fails_altogether_fails_its_step_and_the_next_goes_on() {
    let mut config = cluster(4);
    config.templates.insert("image".parse().unwrap(), TemplateSpec::of_group("elsewhere"));
    let mut world = world(config);
    let id = world.create(spec(2)).unwrap();
    until_said(&mut world, id, "The boot session for step 0 failed");
    world.cluster().put_boot_template("image", TemplateSpec::of_group("up")).unwrap();
    world.run_to_end(12 * HOUR).unwrap();
    let error = Failure::BootSession("No nodes were found to act upon.".into());
    assert_eq!(states(&world, id)[..2], [NodeState::Failed(error.clone()), NodeState::Failed(error)]);
    assert!(states(&world, id)[2..].iter().all(|state| *state == NodeState::Upgraded));
}

#[test]
fn p5_a_node_that_another_boot_session_took_over_is_not_ours_to_call_upgraded() {
    let mut world = world(cluster(2));
    let id = world.create(spec(2)).unwrap();
    let booting = |world: &World| {
        let cuts = world.facts().iter().filter(|fact| matches!(fact.what, What::PowerCut { .. })).count();
        cuts == 2
    };
    world.run_until(HOUR, booting).unwrap();
    world
        .cluster()
        .create_boot_session(NewSession {
            name: "somebody-else".into(),
            operation: Operation::Reboot,
            template_name: "image".into(),
            limit: xname(1).to_string(),
            stage: false,
            include_disabled: false,
        })
        .unwrap();
    world.run_to_end(12 * HOUR).unwrap();
    assert_eq!(node(&world, id, 1).state, NodeState::Failed(Failure::TakenOver));
    assert_eq!(node(&world, id, 2).state, NodeState::Upgraded);
}

// ---- other people -------------------------------------------------------------------------------------------

#[test]
fn p6_what_slurm_did_by_itself_is_nobodys_wish() {
    let mut config = cluster(3);
    config.held.insert(xname(1), Held::Down("Not responding".into()));
    config.held.insert(xname(2), Held::Down("Node unexpectedly rebooted".into()));
    config.held.insert(
        xname(3),
        Held::Down(
            "upgrading-boot-session-failed 6a7e55e0-0000-4000-8000-000000000000: failed to boot: x".into(),
        ),
    );
    let mut world = world(config);
    let id = world.create(spec(3)).unwrap();
    world.run_to_end(4 * HOUR).unwrap();
    assert!(all_upgraded(&world, id));
    assert!((1..=3).all(|n| in_service(&world, n)), "what an earlier upgrade failed returns as well");
}

#[test]
fn p6_a_node_whose_reason_an_operator_changes_is_left_to_them() {
    let config = with_jobs(cluster(2), vec![job(1, &[1, 2], 60)]);
    let mut world = world(config);
    let id = world.create(spec(2)).unwrap();
    until_said(&mut world, id, "Quiesce requested");
    world.run_for(MINUTE).unwrap();
    world.cluster().update(&[name(1)], &Update::drain("mine now, ada")).unwrap();
    world.run_to_end(6 * HOUR).unwrap();
    assert!(all_upgraded(&world, id));
    assert_eq!(reason(&world, 1), "mine now, ada");
    assert!(!in_service(&world, 1) && in_service(&world, 2));
}

#[test]
fn p6_a_node_that_somebody_holds_and_that_fails_keeps_their_reason_before_ours() {
    let mut config = cluster(1);
    config.held.insert(xname(1), Held::Drained("bad dimm".into()));
    config.nodes[0].boot = BootBehaviour::Fails;
    let mut world = world(config);
    let id = world.create(spec(1)).unwrap();
    world.run_to_end(12 * HOUR).unwrap();
    assert!(reason(&world, 1).starts_with(&format!("bad dimm; upgrading-boot-session-failed {id}")));
}

#[test]
fn p2_a_node_that_is_resumed_before_its_reboot_is_drained_again() {
    let config = with_jobs(cluster(2), vec![job(1, &[2], 60)]);
    let mut world = world(config);
    let id = world.create(spec(2)).unwrap();
    until_said(&mut world, id, "Quiesce requested");
    world.run_for(10 * MINUTE).unwrap();
    world.cluster().update(&[name(1)], &Update::resume()).unwrap();
    let mut later = job(2, &[1], 120);
    later.start_ms = 10 * MINUTE;
    world.cluster().submit(later);
    world.run_to_end(6 * HOUR).unwrap();
    assert!(all_upgraded(&world, id));
}

#[test]
fn p2_a_restart_of_slurmctld_does_not_make_busy_nodes_look_quiet() {
    let config = with_jobs(cluster(3), vec![job(1, &[1, 2, 3], 90)]);
    let mut world = world(config);
    let id = world.create(spec(3)).unwrap();
    until_said(&mut world, id, "Quiesce requested");
    for _ in 0..60 {
        world.cluster().stop_slurmctld();
        world.run_for(5_000).unwrap();
        world.cluster().start_slurmctld();
        world.run_for(55_000).unwrap();
    }
    world.run_to_end(6 * HOUR).unwrap();
    assert!(all_upgraded(&world, id));
}

// ---- conditions ---------------------------------------------------------------------------------------------

/// A condition that is not met: what breaks it, what the session says, what mends it.
type Condition = (&'static str, fn(&World), &'static str, fn(&World));

const CONDITIONS: [Condition; 7] = [
    (
        "upgrading group missing",
        |world| world.cluster().delete_group("up").unwrap(),
        "there is no group 'up'",
        |world| world.cluster().create_group("up", "", Vec::new(), None, &[]).unwrap(),
    ),
    (
        "failed group missing",
        |world| world.cluster().delete_group("failed").unwrap(),
        "there is no group 'failed'",
        |world| world.cluster().create_group("failed", "", Vec::new(), None, &[]).unwrap(),
    ),
    (
        "template missing",
        |world| world.cluster().delete_boot_template("image").unwrap(),
        "there is no session template 'image'",
        |world| world.cluster().put_boot_template("image", TemplateSpec::of_group("up")).unwrap(),
    ),
    (
        "HSM down",
        |world| world.cluster().set_hsm_down(true),
        "Hardware State Manager",
        |world| {
            world.cluster().set_hsm_down(false);
        },
    ),
    (
        "BOS down",
        |world| world.cluster().set_bos_down(true),
        "Boot Orchestration Service",
        |world| {
            world.cluster().set_bos_down(false);
        },
    ),
    (
        "slurmctld down",
        |world| world.cluster().stop_slurmctld(),
        "Unable to contact slurm controller",
        |world| world.cluster().start_slurmctld(),
    ),
    (
        "not allowed to change nodes",
        |world| world.cluster().refuse_updates(true),
        "Invalid user id",
        |world| world.cluster().refuse_updates(false),
    ),
];

#[test]
fn p9_every_unmet_condition_is_said_and_waited_for_and_then_it_goes_on() {
    for (what, break_it, says, mend_it) in CONDITIONS {
        let mut world = world(cluster(4));
        break_it(&world);
        let id = world.create(spec(2)).unwrap();
        until_said(&mut world, id, says);
        world.run_for(3 * HOUR).unwrap();
        let said = messages(&world, id).iter().filter(|message| message.contains(says)).count();
        assert_eq!(said, 1, "{what}: once is enough: {:#?}", messages(&world, id));
        mend_it(&world);
        world.run_to_end(6 * HOUR).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(all_upgraded(&world, id), "{what}");
    }
}

#[test]
fn p9_a_condition_that_breaks_in_the_middle_is_waited_for_as_well() {
    for stage in
        ["Quiesce requested in step 1", "Began the boot session for step 0", "Step 0 boot session succeeded"]
    {
        for (what, break_it, _, mend_it) in CONDITIONS {
            // BOS works out the nodes late, from its template and that group: gone by then, they make the
            // boot session fail, which is another scenario.
            let boot_needs_it = ["upgrading group missing", "template missing"].contains(&what);
            if boot_needs_it && stage.starts_with("Began") {
                continue;
            }
            let mut world = world(cluster(4));
            let id = world.create(spec(2)).unwrap();
            until_said(&mut world, id, stage);
            break_it(&world);
            world.run_for(3 * MINUTE).unwrap();
            mend_it(&world);
            world.run_to_end(6 * HOUR).unwrap_or_else(|error| panic!("{what} at {stage}: {error}"));
            assert!(all_upgraded(&world, id), "{what} at {stage}: {:?}", states(&world, id));
        }
    }
}

#[test]
fn p9_a_node_that_hsm_cannot_take_into_the_group_is_waited_for() {
    let mut config = cluster(2);
    config.groups.get_mut(&label("up")).unwrap().exclusive_group = Some("colours".into());
    let blue = GroupSpec {
        exclusive_group: Some("colours".into()),
        members: vec![xname(2)],
        ..GroupSpec::default()
    };
    config.groups.insert(label("blue"), blue);
    let mut world = world(config);
    let id = world.create(spec(2)).unwrap();
    until_said(&mut world, id, "does not take x1000c0s2b0n0 into group 'up'");
    world.cluster().remove_member("blue", &xname(2).to_string()).unwrap();
    world.run_to_end(6 * HOUR).unwrap();
    assert!(all_upgraded(&world, id));
}

// ---- deletion -----------------------------------------------------------------------------------------------

#[test]
fn p7_deletion_in_every_stage_leaves_no_node_half_way() {
    let stages = [
        Stage::Starting,
        Stage::Quiescing,
        Stage::Quiesced,
        Stage::Booting,
        Stage::WlmWaiting,
        Stage::Cleanup,
    ];
    for crash in [false, true] {
        for stage in stages {
            let mut config = with_jobs(cluster(5), vec![job(1, &[2], 30), job(2, &[5], 500)]);
            config.held.insert(xname(1), Held::Drained("bad dimm".into()));
            let mut world = world(config);
            let id = world.create(spec(3)).unwrap();
            let there = |world: &World| {
                let head = &world.session(id).unwrap().head;
                head.stage == stage && (stage == Stage::Starting || head.phase == Phase::Rolling)
            };
            world.run_until(24 * HOUR, there).unwrap();
            world.delete(id).unwrap();
            if crash {
                world.crash().unwrap();
            }
            world.run_to_end(4 * HOUR).unwrap_or_else(|error| panic!("{stage}: {error}"));
            assert!(world.session(id).is_none(), "{stage}");
            // Slurm takes up to 5 s to hear of a node that it resumed.
            world.run_for(5_000).unwrap();
            assert_eq!(reason(&world, 1), "bad dimm", "{stage}");
            assert!((2..=5).all(|n| in_service(&world, n)), "{stage}");
            assert_eq!(world.members(&label("up")), BTreeSet::new(), "{stage}");
        }
    }
}

#[test]
fn p7_nodes_that_do_not_come_back_after_deletion_are_failed_with_the_reason() {
    let mut config = cluster(2);
    config.nodes[0].boot = BootBehaviour::Fails;
    let mut world = world(config);
    let id = world.create(spec(2)).unwrap();
    until_said(&mut world, id, "Began the boot session");
    world.delete(id).unwrap();
    world.run_to_end(12 * HOUR).unwrap();
    assert!(reason(&world, 1).starts_with("upgrading-boot-session-failed"));
    assert_eq!(world.members(&label("failed")), BTreeSet::from([xname(1)]));
    assert!(in_service(&world, 2));
}

#[test]
fn p7_a_session_that_waits_for_its_turn_can_be_deleted() {
    let mut world = world(cluster(3));
    let first = world.create(spec(1)).unwrap();
    world.run_for(1_000).unwrap();
    let second = world.create(spec(1)).unwrap();
    until_said(&mut world, second, "Waiting for session");
    world.delete(second).unwrap();
    world.run_for(1_000).unwrap();
    assert!(world.session(second).is_none());
    world.run_to_end(6 * HOUR).unwrap();
    assert!(all_upgraded(&world, first));
}

// ---- crashes ------------------------------------------------------------------------------------------------

#[test]
fn p3_crashes_at_any_moment_change_neither_the_end_nor_the_number_of_reboots() {
    for every_ms in [700, 3_000, 11_000, 45_000, 200_000] {
        let mut config = with_jobs(cluster(6), vec![job(1, &[2], 10), job(2, &[5], 25)]);
        config.nodes[3].boot = BootBehaviour::Fails;
        let mut world = world(config);
        let id = world.create(spec(3)).unwrap();
        let done = |world: &World| world.session(id).is_some_and(crus_core::Session::is_done);
        for _ in 0..20_000 {
            if done(&world) {
                break;
            }
            world.run_for(every_ms).unwrap_or_else(|error| panic!("every {every_ms} ms: {error}"));
            world.crash().unwrap();
        }
        assert!(done(&world), "every {every_ms} ms");
        for (i, state) in (1..).zip(states(&world, id)) {
            assert_eq!(
                matches!(state, NodeState::Failed(Failure::Boot(_))),
                i == 4,
                "every {every_ms} ms: {i} {state:?}"
            );
            assert_eq!(world.reboots(id, xname(i)), 1, "every {every_ms} ms");
        }
    }
}
