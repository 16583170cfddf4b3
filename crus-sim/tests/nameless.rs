//! A BOS that takes no names of ours (API v1): each request is another reboot. What came of one whose reply is not known
//! must be found out.

use crate::common::*;
use crus_core::model::{Failure, NodeState};
use crus_core::{Limits, UpgradeId};
use crus_sim::ClusterConfig;
use crus_sim::cluster::bos::{NewSession, Operation};
use crus_sim::config::{BootBehaviour, BosApi, Span};
use crus_sim::faults::{Fault, Plan};
use crus_sim::world::World;

fn nameless(size: u32) -> ClusterConfig {
    let mut config = cluster(size);
    config.bos.api = BosApi::V1;
    config
}

fn all_upgraded(world: &World, id: UpgradeId) -> bool {
    world.session(id).unwrap().nodes.iter().all(|node| node.state == NodeState::Upgraded)
}

/// How often a reboot was asked for.
fn asked(world: &World) -> u64 {
    world.calls().of("bos.reboot")
}

fn theirs(name: &str, limit: &str) -> NewSession {
    NewSession {
        name: name.into(),
        operation: Operation::Reboot,
        template_name: "image".into(),
        limit: limit.into(),
        stage: false,
        include_disabled: false,
    }
}

#[test]
fn p3_a_reply_that_is_lost_leaves_a_session_that_is_found_by_its_nodes() {
    let mut world = world(nameless(4));
    world.bos.set_plan(Plan::none().at("reboot", 1, Fault::ReplyLost).at("reboot", 2, Fault::ReplyLost));
    // Sessions of before, and one of other nodes after it.
    world.cluster().create_boot_session(theirs("old", "x9c0s0b0n0")).unwrap();
    let id = world.create(spec(2)).unwrap();
    world.run_until(HOUR, |world| asked(world) == 1).unwrap();
    world.cluster().create_boot_session(theirs("other", "x9c0s0b0n0")).unwrap();
    world.run_to_end(12 * HOUR).unwrap();
    assert!(all_upgraded(&world, id));
    assert_eq!(asked(&world), 2, "once a step");
}

#[test]
fn p3_what_was_not_asked_for_is_asked_for_once_it_is_certain_that_it_was_not() {
    for fault in [Fault::Unreachable, Fault::Refused] {
        let mut world = world(nameless(2));
        world.bos.set_plan(Plan::none().at("reboot", 1, fault));
        let id = world.create(spec(2)).unwrap();
        world.run_to_end(12 * HOUR).unwrap();
        assert!(all_upgraded(&world, id), "{fault:?}");
    }
}

/// A session of somebody that never shows any node is of no concern once our own request was refused.
#[test]
fn p9_what_is_unclear_about_others_holds_nobody_up_whose_request_was_refused() {
    let mut world = world(nameless(2));
    world.bos.set_plan(Plan::none().at("reboot", 1, Fault::Refused));
    let id = world.create(spec(2)).unwrap();
    world.run_until(HOUR, |world| !world.bos.injected().is_empty()).unwrap();
    world.cluster().create_boot_session(theirs("others", "x9c0s0b0n0")).unwrap();
    world.run_to_end(12 * HOUR).unwrap();
    assert!(all_upgraded(&world, id), "{:?}", world.session(id).unwrap().messages);
    assert_eq!(asked(&world), 1, "the refused one did not arrive");
}

/// Where it cannot be told what came of the request, nothing is done a second time: here two sessions have just the
/// nodes that were asked for.
#[test]
fn p3_in_doubt_the_nodes_fail_with_the_reason_and_are_not_asked_for_again() {
    let mut config = nameless(2);
    // Long enough for both to be there when the nodes are worked out.
    config.bos.pending = Span::exactly(60_000);
    let limits = Limits { boot_timeout_ms: 20 * MINUTE, ..Limits::default() };
    let mut world = World::new(config, SEED, limits);
    world.bos.set_plan(Plan::none().at("reboot", 1, Fault::ReplyLost));
    let id = world.create(spec(2)).unwrap();
    world.run_until(HOUR, |world| asked(world) == 1).unwrap();
    let limit = format!("{},{}", xname(1), xname(2));
    world
        .by_hand(|cluster| cluster.create_boot_session(theirs("theirs", &limit)).map(drop).unwrap())
        .unwrap();
    world.run_to_end(12 * HOUR).unwrap();
    assert_eq!(asked(&world), 1);
    for n in [1, 2] {
        let state = node(&world, id, n).state.clone();
        let NodeState::Failed(Failure::BootSession(why)) = state else { panic!("{state:?}") };
        assert!(
            why.contains("could not be found out in time") && why.contains("both have just the nodes"),
            "{why}"
        );
    }
}

/// The service dies between the request and the moment when the id in the reply is stored.
#[test]
fn p3_a_session_whose_id_died_with_the_service_is_adopted() {
    let mut world = world(nameless(2));
    world.bos.set_plan(Plan::none().at("reboot", 1, Fault::ReplyLost));
    let id = world.create(spec(2)).unwrap();
    world.run_until(HOUR, |world| asked(world) == 1).unwrap();
    assert_eq!(handle(&world, id), None);
    let later = world.now() + 5 * MINUTE;
    world.cluster().advance_to(later);
    world.crash().unwrap();
    // It has ended by now, and is known all the same.
    world.run_until(HOUR, |world| handle(world, id).is_some()).unwrap();
    world.run_to_end(12 * HOUR).unwrap();
    assert!(all_upgraded(&world, id));
    assert_eq!(asked(&world), 1);
}

fn handle(world: &World, id: UpgradeId) -> Option<String> {
    let head = &world.session(id).unwrap().head;
    head.boot.as_ref()?.handle.clone().map(String::from)
}

#[test]
fn p5_what_is_never_said_to_be_complete_is_waited_for_as_long_as_a_boot_may_take() {
    let mut config = nameless(3);
    config.bos.says_complete = false;
    config.nodes[2].boot = BootBehaviour::Hangs;
    let mut world = world(config);
    let id = world.create(spec(3)).unwrap();
    world.run_to_end(12 * HOUR).unwrap();
    assert_eq!(node(&world, id, 1).state, NodeState::Upgraded);
    assert_eq!(node(&world, id, 3).state, NodeState::Failed(Failure::BootTimedOut));
}
