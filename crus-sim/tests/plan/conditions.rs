//! What is in the way, and what a plan costs.

use std::collections::BTreeMap;

use crus_core::plan::{Experience, Plan, STEPS_MAX};
use crus_core::{Limits, Spec, Xname};
use crus_sim::ClusterConfig;
use crus_sim::config::{GroupSpec, NodeSpec};
use crus_sim::workload::Workload;
use crus_sim::world::World;

use crate::common::{SEED, cluster, job, label, spec, with_jobs, xname};

fn plan(config: ClusterConfig, spec: Spec) -> Plan {
    World::new(config, SEED, Limits::default()).plan(spec, Experience::default()).unwrap()
}

/// The conditions that are not met, by name.
fn unmet(plan: &Plan) -> BTreeMap<&'static str, String> {
    let unmet = plan.conditions.iter().filter(|condition| !condition.met);
    unmet.map(|condition| (condition.name, condition.detail.clone())).collect()
}

#[test]
fn every_condition_is_met_or_not_and_says_how_it_is() {
    let fine = plan(cluster(6), spec(2));
    assert_eq!((unmet(&fine), fine.steps.len()), (BTreeMap::new(), 3));

    let mut bare = cluster(6);
    bare.groups.remove(&label("failed"));
    bare.templates.clear();
    let bystander = NodeSpec::new(xname(7), 7);
    bare.groups.get_mut(&label("up")).unwrap().members = vec![bystander.xname];
    bare.nodes.push(bystander);
    let json = r#"{"min_in_service":{"debug":1},"window":{"time_zone":"Mars/Base","open":[{"from":"22:00","to":"06:00"}]}}"#;
    let strategy = serde_json::from_str(json).unwrap();
    let bare = plan(bare, Spec { strategy, ..spec(2) });
    let what = unmet(&bare);
    let names: Vec<&str> = what.keys().copied().collect();
    assert_eq!(names, ["failed_group", "partitions", "template", "upgrading_group", "window"]);
    assert!(what["upgrading_group"].contains("x1000c0s7b0n0"), "{what:?}");
    assert_eq!(bare.steps.len(), 3, "what would happen is told all the same");
    assert!(!bare.is_feasible());

    let mut empty = cluster(2);
    empty.groups.insert(label("all"), GroupSpec::default());
    assert!(unmet(&plan(empty, spec(2)))["starting_group"].contains("empty"));
}

#[test]
fn a_peer_that_is_away_is_a_condition_and_is_not_asked_again() {
    let world = World::new(cluster(6), SEED, Limits::default());
    world.cluster().set_hsm_down(true);
    let plan = world.plan(spec(2), Experience::default()).unwrap();
    assert_eq!(unmet(&plan).keys().copied().collect::<Vec<_>>(), ["starting_group"]);
    assert_eq!(world.calls().all(), [("bos.has_template", 1), ("hsm.group", 1)].into());
}

#[test]
fn a_floor_that_leaves_no_node_to_take_is_said() {
    let strategy = serde_json::from_str(r#"{"min_in_service":{"batch":"100%"}}"#).unwrap();
    let plan = plan(cluster(6), Spec { strategy, ..spec(2) });
    assert!(unmet(&plan)["min_in_service"].contains("batch"));
    assert_eq!((plan.steps.len(), plan.ends), (0, None));
}

/// What a plan asks, whatever the number of nodes. Nothing of it changes anything.
const ASKED: [(&str, u64); 5] =
    [("bos.has_template", 1), ("hsm.facts", 1), ("hsm.group", 3), ("wlm.jobs", 1), ("wlm.nodes", 1)];

#[test]
fn a_plan_only_looks() {
    let world = World::new(with_jobs(cluster(9), vec![job(1, &[1, 2], 60)]), SEED, Limits::default());
    let before = format!("{:?}", world.facts());
    for _ in 0..3 {
        world.plan(spec(2), Experience::default()).unwrap();
    }
    let asked: BTreeMap<&str, u64> = ASKED.iter().map(|(method, calls)| (*method, calls * 3)).collect();
    assert_eq!(world.calls().all(), asked);
    assert_eq!(format!("{:?}", world.facts()), before);
    assert_eq!(world.sessions().count(), 0);
}

#[test]
fn a_plan_of_100_000_nodes_asks_no_more_and_lists_a_hundred_steps() {
    let place = |n: u32| -> Xname {
        format!("x{}c{}s{}b{}n0", 1000 + n / 1024, n / 128 % 8, n / 2 % 64, n % 2).parse().unwrap()
    };
    let nodes: Vec<NodeSpec> = (0..100_000).map(|n| NodeSpec::new(place(n), n + 1)).collect();
    let mut config = cluster(0);
    let members = nodes.iter().map(|node| node.xname).collect();
    config.groups.insert(label("all"), GroupSpec { members, ..GroupSpec::default() });
    let config = ClusterConfig { nodes, workload: Workload::None, ..config };
    let world = World::new(config, SEED, Limits::default());
    let plan = world.plan(spec(50), Experience::default()).unwrap();
    assert_eq!(world.calls().all(), ASKED.into_iter().collect());
    assert_eq!((plan.nodes.len(), plan.steps.len(), plan.steps_total), (100_000, STEPS_MAX, 2_000));
    assert!(plan.is_feasible() && plan.takes().is_some());
}

#[test]
fn what_the_estimate_does_not_know_is_said() {
    let told = |plan: &Plan, words: &str| plan.caveats.iter().any(|caveat| caveat.contains(words));
    let idle = plan(cluster(4), spec(2));
    assert!(told(&idle, "boot_estimate_low_s") && !told(&idle, "waiting for jobs"), "{:?}", idle.caveats);
    let busy = plan(with_jobs(cluster(4), vec![job(1, &[1, 2, 3, 4], 600)]), spec(2));
    assert!(told(&busy, "waiting for jobs") && told(&busy, "job_used_percent"), "{:?}", busy.caveats);
}
