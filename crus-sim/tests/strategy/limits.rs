//! Which nodes a step may take, and when one may begin: `order`, `max_per_domain`, `min_in_service`, `window`, `retries`.

use std::collections::BTreeMap;

use crus_core::model::{Command, NodeState, PauseReason, Stage};
use crus_core::{NodeName, UpgradeId};
use crus_sim::ClusterConfig;
use crus_sim::cluster::slurm::Update;
use crus_sim::config::BootBehaviour;
use crus_sim::world::World;

use super::support::*;
use crate::common::*;

/// Nodes 1 to 12: four in each of the slots 1 to 3, two of which are on each board.
fn blades() -> ClusterConfig {
    let mut config = brisk(12);
    let place = |n: u32| format!("x1000c0s{}b{}n{}", 1 + (n - 1) / 4, (n - 1) / 2 % 2, (n - 1) % 2);
    for (n, node) in (1..).zip(&mut config.nodes) {
        node.xname = place(n).parse().unwrap();
    }
    let members = config.nodes.iter().map(|node| node.xname).collect();
    config.groups.get_mut(&label("all")).unwrap().members = members;
    config
}

/// How many nodes of each slot each step took.
fn by_slot(world: &World, id: UpgradeId) -> Vec<Vec<usize>> {
    let mut steps: BTreeMap<u32, BTreeMap<String, usize>> = BTreeMap::new();
    for node in &world.session(id).unwrap().nodes {
        let slot = node.xname.to_string()[..9].to_owned();
        *steps.entry(node.step.unwrap()).or_default().entry(slot).or_default() += 1;
    }
    steps.into_values().map(|slots| slots.into_values().collect()).collect()
}

#[test]
fn spreading_takes_one_node_of_each_domain_and_packing_all_of_it() {
    for (json, taken) in [
        (r#"{"order":"spread","domain":"slot"}"#, vec![vec![1, 1, 1]; 4]),
        (r#"{"order":"name","domain":"slot","max_per_domain":2}"#, vec![vec![2, 2, 2]; 2]),
        (r#"{"order":"pack","domain":"slot"}"#, vec![vec![4]; 3]),
    ] {
        let mut world = world(blades());
        let id = world.create(spec_of(7, json)).unwrap();
        end(&mut world, id);
        assert_eq!(by_slot(&world, id), taken, "{json}");
        assert_eq!(counts(&world, id).upgraded, 12);
    }
}

#[test]
fn a_step_shrinks_rather_than_take_too_many_out_of_service() {
    let mut world = world(blades());
    let json = r#"{"min_in_service":{"batch":"75%"},"order":"pack","domain":"slot"}"#;
    let id = world.create(spec_of(10, json)).unwrap();
    end(&mut world, id);
    assert_eq!(drained(&world, id).into_values().collect::<Vec<_>>(), [3, 3, 3, 3]);
}

fn partitions(config: &mut ClusterConfig, of: &[(&str, &[u32])]) {
    let named = of.iter().map(|(partition, nodes)| {
        let nodes: Vec<NodeName> = nodes.iter().map(|n| name(*n)).collect();
        (partition.parse().unwrap(), nodes)
    });
    config.partitions = named.collect();
}

/// Nodes that are down for other reasons count; it goes on as soon as enough are back.
#[test]
fn p9_a_step_that_may_take_no_node_waits_and_says_so() {
    let mut config = brisk(6);
    partitions(&mut config, &[("batch", &[1, 2, 3]), ("debug", &[4, 5, 6])]);
    let mut world = world(config);
    for n in [1, 2] {
        world.cluster().update(&[name(n)], &Update::drain("hot, ada")).unwrap();
    }
    let id = world.create(spec_of(4, r#"{"min_in_service":{"batch":1},"order":"name"}"#)).unwrap();
    // Those that are out of service are taken, and those of the other partition.
    let waits = |world: &World| {
        let condition = world.session(id).unwrap().head.condition.as_ref();
        condition.is_some_and(|why| why.contains("partition 'batch' has 1 node in service, and 1 must stay"))
    };
    world.run_until(DAY, waits).unwrap();
    assert_eq!((counts(&world, id).upgraded, counts(&world, id).pending), (5, 1));
    stays(&mut world, id, DAY);
    let waiting = |text: &&String| text.contains("must stay");
    assert_eq!(messages(&world, id).iter().filter(waiting).count(), 1, "said once");
    world.by_hand(|cluster| _ = cluster.update(&[name(1)], &Update::resume())).unwrap();
    end(&mut world, id);
    assert_eq!(counts(&world, id).upgraded, 6);
}

#[test]
fn p9_a_partition_that_nobody_knows_is_said_and_a_session_for_it_deleted() {
    let mut world = world(brisk(3));
    let id = world.create(spec_of(2, r#"{"min_in_service":{"batcj":1}}"#)).unwrap();
    until_said(&mut world, id, "there is no partition 'batcj'");
    stays(&mut world, id, DAY);
    world.delete(id).unwrap();
    world.must_end(MINUTE).unwrap();
}

/// From the midnight between Wednesday and Thursday, when worlds begin.
#[test]
fn steps_begin_in_the_window_only_and_the_one_that_has_begun_ends() {
    let mut world = world(brisk(4));
    let start = world.now();
    let json = r#"{"window":{"time_zone":"Europe/Zurich","open":[{"days":["thu"],"from":"20:00","to":"20:02"},
        {"days":["sat"],"from":"23:00","to":"06:00"}]},"order":"name"}"#;
    let id = world.create(spec_of(2, json)).unwrap();
    until_said(&mut world, id, "Quiesce requested in step 0");
    assert_eq!(world.now().since(start), 19 * HOUR, "20:00 in Zurich");
    world.crash().unwrap();
    let next = |world: &World| {
        let head = &world.session(id).unwrap().head;
        head.step == 1 && head.stage == Stage::Quiescing
    };
    world.run_until(7 * DAY, next).unwrap();
    assert_eq!(world.now().since(start), (2 * 24 + 22) * HOUR, "23:00 on Saturday");
    end(&mut world, id);
    assert_eq!(counts(&world, id).upgraded, 4);
}

#[test]
fn p7_a_session_that_waits_for_its_window_can_be_paused_and_deleted() {
    let mut world = world(brisk(2));
    let json = r#"{"window":{"time_zone":"UTC","open":[{"from":"20:00","to":"21:00"}]}}"#;
    let id = world.create(spec_of(2, json)).unwrap();
    world.run_for(HOUR).unwrap();
    order(&mut world, id, Command::Pause);
    stays(&mut world, id, 2 * DAY);
    order(&mut world, id, Command::Resume);
    stays(&mut world, id, HOUR);
    world.delete(id).unwrap();
    world.must_end(MINUTE).unwrap();
    assert!((1..=2).all(|n| in_service(&world, n)));
}

#[test]
fn p9_a_zone_that_nobody_knows_is_said() {
    let mut world = world(brisk(2));
    let json = r#"{"window":{"time_zone":"Mars/Olympus","open":[{"from":"00:00","to":"24:00"}]}}"#;
    let id = world.create(spec_of(2, json)).unwrap();
    until_said(&mut world, id, "Mars/Olympus");
    stays(&mut world, id, DAY);
    world.delete(id).unwrap();
    world.must_end(MINUTE).unwrap();
}

/// P3: each attempt is one reboot, in a step of its own at the end.
#[test]
fn p3_nodes_that_failed_are_retried_at_the_end_as_often_as_asked_for() {
    let mut config = brisk(5);
    config.nodes[0].boot = BootBehaviour::Fails;
    config.nodes[1].boot = BootBehaviour::Fails;
    let mut world = world(config);
    let id = world.create(spec_of(2, r#"{"retries":2,"order":"name"}"#)).unwrap();
    let retried = |world: &World| world.node(id, xname(1)).is_some_and(|node| node.attempt == 1);
    world.run_until(DAY, retried).unwrap();
    assert_eq!(counts(&world, id).upgraded, 3, "the others went first");
    world.cluster().set_boot_behaviour(xname(1), BootBehaviour::Normal);
    end(&mut world, id);
    assert_eq!((node(&world, id, 1).attempt, node(&world, id, 2).attempt), (1, 2));
    assert_eq!((world.reboots(id, xname(1)), world.reboots(id, xname(2))), (2, 3));
    assert!(matches!(node(&world, id, 2).state, NodeState::Failed(_)));
    assert!(in_service(&world, 1) && !in_service(&world, 2));
    assert_eq!(world.members(&label("failed")), [xname(2)].into());
}

/// What is to be tried again does not count as failed meanwhile.
#[test]
fn retries_and_max_failed_count_each_failure_once() {
    let mut config = brisk(4);
    for n in 0..3 {
        config.nodes[n].boot = BootBehaviour::Fails;
    }
    let mut world = world(config);
    let id = world.create(spec_of(1, r#"{"retries":1,"max_failed":1,"order":"name"}"#)).unwrap();
    assert_eq!(until_paused(&mut world, id), PauseReason::MaxFailed { failed: 2, max: 1 });
    assert_eq!(counts(&world, id).pending, 2);
    order(&mut world, id, Command::Resume);
    // The third fails: one more than was let pass, which may be. Then two of them again.
    assert_eq!(until_paused(&mut world, id), PauseReason::MaxFailed { failed: 2, max: 1 });
    assert_eq!(counts(&world, id).pending, 1);
    world.delete(id).unwrap();
    world.must_end(DAY).unwrap();
}

/// All options that hold back together, on a busy cluster; the world checks each of them.
#[test]
fn everything_at_once() {
    for seed in 0..10 {
        let mut config = blades();
        config.workload = crus_sim::workload::Workload::Drawn(crus_sim::workload::Drawn {
            length: crus_sim::config::Span::new(MINUTE, HOUR),
            ..Default::default()
        });
        config.nodes[4].boot = BootBehaviour::Fails;
        let mut world = World::new(config, seed, crus_core::Limits::default());
        let json = r#"{"max_failed":1,"max_failed_step":"50%","canary":[1,2],"soak_s":300,"drain_timeout_s":1800,
            "on_drain_timeout":"later","order":"spread","domain":"slot","max_per_domain":2,
            "min_in_service":{"batch":"50%"},"retries":1,"check_command":"health",
            "window":{"time_zone":"UTC","open":[{"from":"22:00","to":"06:00"}]}}"#;
        world.checks.inner().add("health".parse().unwrap());
        let id = world.create(spec_of(6, json)).unwrap();
        for _ in 0..400 {
            if world.run_for(HOUR).is_err() || world.session(id).unwrap().is_done() {
                break;
            }
            if world.session(id).unwrap().head.pause.is_some() {
                order(&mut world, id, Command::Resume);
            }
        }
        world.must_end(DAY).unwrap_or_else(|error| {
            panic!("seed {seed}: {error} {:#?}", messages(&world, id));
        });
        assert_ne!(world.session(id).unwrap().head.stage, Stage::Starting);
        let now = counts(&world, id);
        assert_eq!(now.upgraded + now.failed + now.skipped, 12, "seed {seed}");
    }
}
