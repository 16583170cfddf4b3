//! Slow, forgetful, forbidding and meddled-with peers: what a review of the machine found, each a scenario.

use std::collections::BTreeSet;

use crate::common::*;
use crus_core::Limits;
use crus_core::model::{Failure, NodeState};
use crus_sim::cluster::bos::{NewSession, Operation};
use crus_sim::cluster::slurm::Update;
use crus_sim::config::{BootBehaviour, BosApi, GroupSpec, Held, NodeSpec};
use crus_sim::faults::{Fault, Plan};
use crus_sim::world::World;

fn all_upgraded(world: &World, id: crus_core::UpgradeId) -> bool {
    states(world, id).iter().all(|state| *state == NodeState::Upgraded)
}

fn with_drain_timeout() -> Limits {
    Limits { drain_timeout_ms: Some(HOUR), ..Limits::default() }
}

// ---- P2, P3: reboots ----------------------------------------------------------------------------------------

#[test]
fn p2_a_reboot_that_is_asked_for_again_follows_a_new_last_look() {
    let mut world = world(cluster(2));
    let id = world.create(spec(2)).unwrap();
    world.bos.set_plan(Plan::none().at("reboot", 1, Fault::Unreachable));
    world.run_until(HOUR, |world| !world.bos.injected().is_empty()).unwrap();
    world.run_for(1_000).unwrap();
    world.cluster().update(&[name(1)], &Update::resume()).unwrap();
    world.cluster().submit(job(2, &[1], 120));
    world.run_to_end(12 * HOUR).unwrap();
    assert!(all_upgraded(&world, id));
}

/// A world whose boot session was asked for, and booted its nodes, while the service was dead; then somebody tidied up
/// in BOS.
fn booted_and_forgotten() -> (World, crus_core::UpgradeId) {
    let mut world = world(cluster(2));
    let id = world.create(spec(2)).unwrap();
    world.run_until(HOUR, |world| !world.cluster().boot_sessions().unwrap().is_empty()).unwrap();
    let boot = world.session(id).unwrap().head.boot.clone().unwrap();
    assert_eq!(boot.begun, None, "asked for, not seen");
    let later = world.now() + HOUR / 2;
    world.cluster().advance_to(later);
    world.cluster().delete_boot_session(boot.name.as_str()).unwrap();
    (world, id)
}

/// Somebody else's boot session takes the nodes, so that nothing tells of the one before.
fn taken_by_others(world: &World) {
    let others = NewSession {
        name: "others".into(),
        operation: Operation::Boot,
        template_name: "image".into(),
        limit: String::new(),
        stage: false,
        include_disabled: false,
    };
    let mut cluster = world.cluster();
    cluster.create_boot_session(others).unwrap();
    let later = cluster.now() + 6_000;
    cluster.advance_to(later);
}

#[test]
fn p3_p7_nodes_that_booted_in_a_session_bos_forgot_are_followed_to_their_end() {
    for deleted in [false, true] {
        let (mut world, id) = booted_and_forgotten();
        world.crash().unwrap();
        if deleted {
            world.delete(id).unwrap();
        }
        world.run_to_end(12 * HOUR).unwrap();
        assert_eq!(world.session(id).is_none(), deleted);
        assert!((1..=2).all(|n| world.reboots(id, xname(n)) == 1 && in_service(&world, n)));
        assert!(world.members(&label("failed")).is_empty());
    }
}

#[test]
fn p3_p7_nodes_that_booted_in_a_session_of_which_nothing_is_left_are_neither_rebooted_nor_released() {
    for deleted in [false, true] {
        let (mut world, id) = booted_and_forgotten();
        taken_by_others(&world);
        world.crash().unwrap();
        if deleted {
            world.delete(id).unwrap();
        }
        world.run_to_end(12 * HOUR).unwrap();
        assert_eq!(world.session(id).is_none(), deleted);
        assert_eq!(world.members(&label("failed")), BTreeSet::from([xname(1), xname(2)]));
        assert!((1..=2).all(|n| world.reboots(id, xname(n)) == 1));
        assert!((1..=2).all(|n| reason(&world, n).contains("the boot session was gone before it ended")));
    }
}

#[test]
fn p3_a_reboot_whose_reply_was_lost_is_not_asked_for_again_once_somebody_deleted_its_session() {
    let mut world = world(cluster(2));
    let id = world.create(spec(2)).unwrap();
    world.bos.set_plan(Plan::none().at("reboot", 1, Fault::ReplyLost).at("session", 1, Fault::Unreachable));
    world.run_until(HOUR, |world| !world.cluster().boot_sessions().unwrap().is_empty()).unwrap();
    let boot = world.session(id).unwrap().head.boot.clone().unwrap();
    // BOS has taken the nodes; to delete its session does not stop it from cutting their power.
    let later = world.now() + 6_000;
    world.cluster().advance_to(later);
    world.cluster().delete_boot_session(boot.name.as_str()).unwrap();
    world.cluster().advance_to(later + 40_000);
    world.run_to_end(12 * HOUR).unwrap();
    assert!((1..=2).all(|n| world.reboots(id, xname(n)) == 1));
    assert!(all_upgraded(&world, id));
}

#[test]
fn p3_p7_nodes_on_their_way_through_a_boot_that_bos_forgot_are_neither_rebooted_nor_released() {
    for (deleted, dead) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut config = cluster(2);
        if dead {
            config.nodes.iter_mut().for_each(|node| node.boot = BootBehaviour::NeverRegisters);
        }
        let mut world = world(config);
        let id = world.create(spec(2)).unwrap();
        world.run_until(HOUR, |world| !world.cluster().boot_sessions().unwrap().is_empty()).unwrap();
        let boot = world.session(id).unwrap().head.boot.clone().unwrap();
        assert_eq!(boot.begun, None, "asked for, not seen");
        // The service dies here; the power of the nodes is cut; somebody tidies up in BOS.
        let later = world.now() + 50_000;
        world.cluster().advance_to(later);
        world.cluster().delete_boot_session(boot.name.as_str()).unwrap();
        taken_by_others(&world);
        world.crash().unwrap();
        if deleted {
            world.delete(id).unwrap();
        }
        world.must_end(12 * HOUR).unwrap();
        assert_eq!(world.session(id).is_none(), deleted);
        assert_eq!(world.members(&label("failed")), BTreeSet::from([xname(1), xname(2)]));
        assert!((1..=2).all(|n| world.reboots(id, xname(n)) == 1));
        assert!((1..=2).all(|n| reason(&world, n).contains("the boot session was gone before it ended")));
    }
}

#[test]
fn p3_p9_a_node_that_was_silent_before_keeps_no_step_from_asking_again() {
    let mut world = world(cluster(2));
    world.by_hand(|cluster| assert!(cluster.power_off(xname(1)))).unwrap();
    world.run_for(MINUTE).unwrap();
    let id = world.create(spec(2)).unwrap();
    world.run_until(HOUR, |world| world.session(id).unwrap().head.boot.is_some()).unwrap();
    assert!(world.cluster().boot_sessions().unwrap().is_empty(), "intended, not asked for");
    world.crash().unwrap();
    world.run_until(5 * MINUTE, |world| !world.cluster().boot_sessions().unwrap().is_empty()).unwrap();
}

#[test]
fn p7_an_intent_that_was_never_asked_for_is_released_though_bos_is_down() {
    let mut world = world(cluster(2));
    let id = world.create(spec(2)).unwrap();
    world.run_until(HOUR, |world| world.session(id).unwrap().head.boot.is_some()).unwrap();
    world.cluster().set_bos_down(true);
    world.delete(id).unwrap();
    world.run_for(MINUTE).unwrap();
    assert!(world.session(id).is_none());
    assert!((1..=2).all(|n| in_service(&world, n)));
}

// ---- P9: patience counts only what is the nodes' fault --------------------------------------------------------

#[test]
fn p9_a_slow_controller_is_waited_for_at_the_usual_pace() {
    for ms in [5_000, 11_000, 25_000] {
        let mut world = world(cluster(2));
        let id = world.create(spec(2)).unwrap();
        world.wlm.set_plan(Plan::random(SEED, 1000, &[Fault::Slow { ms }]));
        let start = world.now();
        world.run_to_end(24 * HOUR).unwrap_or_else(|error| panic!("{ms} ms a call: {error}"));
        assert!(all_upgraded(&world, id), "{ms} ms a call");
        let polls = world.now().since(start) / Limits::default().poll_ms;
        let calls = world.calls().to(crus_core::ports::Peer::Wlm);
        assert!(calls <= polls + 10, "{ms} ms a call: {calls} calls in {polls} polls");
    }
}

#[test]
fn p9_drains_that_are_refused_are_not_the_nodes_fault() {
    let mut world = World::new(cluster(4), SEED, with_drain_timeout());
    let id = world.create(spec(2)).unwrap();
    world.cluster().refuse_updates(true);
    world.run_for(3 * HOUR).unwrap();
    world.cluster().refuse_updates(false);
    world.run_to_end(12 * HOUR).unwrap();
    assert!(all_upgraded(&world, id));
}

#[test]
fn p9_a_service_that_was_away_before_it_drained_does_not_time_nodes_out() {
    let mut world = World::new(cluster(2), SEED, with_drain_timeout());
    let id = world.create(spec(2)).unwrap();
    until_said(&mut world, id, "Quiesce requested");
    let later = world.now() + 2 * HOUR;
    world.cluster().advance_to(later);
    world.crash().unwrap();
    world.run_to_end(12 * HOUR).unwrap();
    assert!(all_upgraded(&world, id));
}

#[test]
fn p9_resumes_that_are_refused_or_a_bos_that_is_away_fail_no_healthy_node() {
    type Switch = fn(&World, bool);
    let outages: [(&str, Switch); 2] = [
        ("updates refused", |world, on| world.cluster().refuse_updates(on)),
        ("BOS down", |world, on| world.cluster().set_bos_down(on)),
    ];
    for (what, switch) in outages {
        let mut world = world(cluster(2));
        let id = world.create(spec(2)).unwrap();
        until_said(&mut world, id, "Began the boot session");
        switch(&world, true);
        world.run_for(3 * HOUR).unwrap();
        switch(&world, false);
        world.run_to_end(12 * HOUR).unwrap();
        assert!(all_upgraded(&world, id), "{what}: {:?}", states(&world, id));
    }
}

#[test]
fn p4_a_quiet_rest_goes_on_when_the_busy_one_is_given_back() {
    let mut config = cluster(2);
    config.nodes.push(NodeSpec::new(xname(9), 9));
    let mut world = World::new(config, SEED, with_drain_timeout());
    let id = world.create(spec(2)).unwrap();
    until_said(&mut world, id, "Quiesce requested");
    world.by_hand(|cluster| _ = cluster.add_member("up", &xname(9).to_string()).unwrap()).unwrap();
    until_said(&mut world, id, "holds nodes that are not of");
    world.run_for(5 * MINUTE).unwrap();
    world.cluster().update(&[name(2)], &Update::resume()).unwrap();
    world.cluster().submit(job(2, &[2], 300));
    world.run_for(MINUTE).unwrap();
    world.by_hand(|cluster| cluster.remove_member("up", &xname(9).to_string()).unwrap()).unwrap();
    world.run_to_end(48 * HOUR).unwrap();
    assert_eq!(states(&world, id), [NodeState::Upgraded, NodeState::Failed(Failure::DrainTimedOut)]);
}

// ---- P6: whose reason it is -----------------------------------------------------------------------------------

#[test]
fn p6_words_added_to_our_reason_make_it_theirs() {
    let mut world = world(with_jobs(cluster(2), vec![job(1, &[1, 2], 60)]));
    let id = world.create(spec(2)).unwrap();
    until_said(&mut world, id, "Quiesce requested");
    world.run_for(MINUTE).unwrap();
    let theirs = format!("{}; bad dimm, do not resume, ada", reason(&world, 1));
    world.cluster().update(&[name(1)], &Update::drain(&theirs)).unwrap();
    world.run_to_end(6 * HOUR).unwrap();
    assert!(all_upgraded(&world, id));
    assert_eq!(reason(&world, 1), theirs);
    assert!(!in_service(&world, 1) && in_service(&world, 2));
}

#[test]
fn p6_a_reason_that_only_begins_like_slurms_is_somebodys() {
    let mut config = cluster(1);
    config.held.insert(xname(1), Held::Drained("Not responding to BMC, ticket 4711".into()));
    let mut world = world(config);
    let id = world.create(spec(1)).unwrap();
    world.run_to_end(6 * HOUR).unwrap();
    assert!(all_upgraded(&world, id) && !in_service(&world, 1));
}

#[test]
fn p4_p6_whatever_bos_says_the_mark_is_set_once_and_the_owners_reason_stays_whole() {
    for error in ["e".repeat(300), "cfs failed\n".into(), "no template \"foo\"".into(), " ".into()] {
        let mut config = cluster(2);
        config.held.insert(xname(1), Held::Drained("bad dimm".into()));
        config.nodes.iter_mut().for_each(|n| n.boot = BootBehaviour::OnHold { error: error.clone() });
        let mut world = world(config);
        let id = world.create(spec(2)).unwrap();
        world.run_to_end(48 * HOUR).unwrap_or_else(|stuck| panic!("{error:?}: {stuck}"));
        let mark = format!("upgrading-boot-session-failed {id}");
        assert!(reason(&world, 1).starts_with(&format!("bad dimm; {mark}")), "{error:?}");
        assert!(reason(&world, 2).starts_with(&mark), "{error:?}");
        let calls = world.calls();
        assert_eq!((calls.of("wlm.down"), calls.of("wlm.set_reason")), (1, 1), "{error:?}");
    }
}

// ---- many failures, deletion ----------------------------------------------------------------------------------

#[test]
fn p4_many_nodes_with_reasons_of_their_own_are_marked_at_once_and_told_in_few_words() {
    let mut config = cluster(40);
    for (i, node) in config.nodes.iter_mut().enumerate() {
        node.boot = BootBehaviour::OnHold { error: format!("no such node {i}") };
    }
    let mut world = world(config);
    let id = world.create(spec(40)).unwrap();
    until_said(&mut world, id, "failed: marking the nodes");
    let from = world.now();
    world.run_to_end(HOUR).unwrap();
    assert!(world.now().since(from) <= Limits::default().poll_ms);
    assert!(messages(&world, id).len() < 20, "{:#?}", messages(&world, id));
}

#[test]
fn p7_deletion_ends_though_the_failed_group_will_not_take_a_node() {
    let mut config = cluster(2);
    config.nodes[1].boot = BootBehaviour::OnHold { error: "x".into() };
    config.groups.get_mut(&label("failed")).unwrap().exclusive_group = Some("colours".into());
    let blue = GroupSpec {
        exclusive_group: Some("colours".into()),
        members: vec![xname(2)],
        ..GroupSpec::default()
    };
    config.groups.insert(label("blue"), blue);
    let mut world = world(config);
    let id = world.create(spec(2)).unwrap();
    until_said(&mut world, id, "Began the boot session");
    world.delete(id).unwrap();
    world.run_for(12 * HOUR).unwrap();
    assert!(world.session(id).is_none());
    assert!(reason(&world, 2).starts_with("upgrading-boot-session-failed"));
}

#[test]
fn p9_a_session_that_waited_for_another_says_so_when_its_group_is_gone_instead() {
    let mut world = world(cluster(3));
    let first = world.create(spec(1)).unwrap();
    world.run_for(1_000).unwrap();
    let second = world.create(spec(1)).unwrap();
    until_said(&mut world, second, "Waiting for session");
    world.cluster().delete_group("all").unwrap();
    world.run_until(24 * HOUR, |world| world.session(first).unwrap().is_done()).unwrap();
    until_said(&mut world, second, "there is no group 'all'");
    let head = &world.session(second).unwrap().head;
    assert_eq!(head.condition.as_deref(), Some("there is no group 'all' in the Hardware State Manager"));
    assert!(!head.queued);
}

/// P3: the clock of a replica that takes over may be ahead: a request of the one before may still be on its way.
#[test]
fn p3_p7_a_request_that_another_replica_made_is_waited_for_whatever_its_clock_said() {
    let mut world = world(cluster(2));
    let id = world.create(spec(2)).unwrap();
    world.bos.set_plan(Plan::none().at("reboot", 1, Fault::Unreachable));
    world.run_until(HOUR, |world| world.session(id).unwrap().head.boot.is_some()).unwrap();
    world.set_clock(10 * MINUTE as i64);
    world.crash().unwrap();
    world.delete(id).unwrap();
    let settle_ms = Limits::default().settle_ms;
    world.run_for(settle_ms - 1_000).unwrap();
    assert!(world.session(id).is_some(), "the request may still arrive");
    world.run_to_end(HOUR).unwrap();
    // Slurm takes up to 5 s to hear of a node that it resumed.
    world.run_for(5_000).unwrap();
    assert!(world.session(id).is_none() && (1..=2).all(|n| in_service(&world, n)));
}

#[test]
fn p9_peers_that_take_longer_to_answer_than_they_are_polled_hold_nothing_up() {
    let each_alone_and_all = [[true, false, false], [false, true, false], [false, false, true], [true; 3]];
    for (api, slow) in
        [BosApi::V2, BosApi::V1].into_iter().flat_map(|api| each_alone_and_all.map(|slow| (api, slow)))
    {
        let mut config = cluster(4);
        config.bos.api = api;
        let mut world = world(config);
        let ms = 5 * Limits::default().poll_ms;
        let plan =
            |is_slow| if is_slow { Plan::random(SEED, 1000, &[Fault::Slow { ms }]) } else { Plan::none() };
        world.hsm.set_plan(plan(slow[0]));
        world.bos.set_plan(plan(slow[1]));
        world.wlm.set_plan(plan(slow[2]));
        let id = world.create(spec(2)).unwrap();
        world.run_to_end(2 * HOUR).unwrap_or_else(|error| panic!("{api:?}, slow {slow:?}: {error}"));
        assert!(all_upgraded(&world, id), "{api:?}, slow {slow:?}");
    }
}
