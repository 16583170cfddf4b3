//! The order of nodes, and what becomes of each.

use std::collections::{BTreeMap, BTreeSet};

use crus_core::model::NodeState;
use crus_core::plan::{Experience, Plan};
use crus_core::{Limits, Spec, Strategy, Xname};
use crus_sim::ClusterConfig;
use crus_sim::config::{BootBehaviour, BosConfig, GroupSpec, Held, NodeSpec, Span};
use crus_sim::workload::{JobSpec, Wanted, Workload};
use crus_sim::world::World;

use crate::common::{HOUR, MINUTE, SEED, cluster, label, spec};

/// 64 nodes in four chassis. Jobs of some hours run on ten of them, one without a limit.
fn machine() -> ClusterConfig {
    let nodes: Vec<NodeSpec> = ClusterConfig::nodes(64);
    let members = nodes.iter().map(|node| node.xname).collect();
    let base = cluster(0);
    let mut groups = base.groups.clone();
    groups.insert(label("all"), GroupSpec { members, ..GroupSpec::default() });
    let job = |id: u32, first: usize, count: usize, hours: u64, limit: Option<u64>| JobSpec {
        id,
        user: "ada".into(),
        wanted: Wanted::Nodes(nodes[first..first + count].iter().filter_map(|n| n.name.clone()).collect()),
        cpus: None,
        start_ms: 0,
        duration_ms: Some(hours * HOUR),
        limit_ms: limit.map(|hours| hours * HOUR),
        partition: None,
        requeue: true,
    };
    let jobs = vec![job(1, 3, 4, 8, Some(9)), job(2, 20, 5, 10, Some(12)), job(3, 40, 1, 14, None)];
    let bos =
        BosConfig { boot: Span::new(MINUTE, 2 * MINUTE), attempts: 1, attempt_ms: 5 * MINUTE, ..base.bos };
    ClusterConfig { workload: Workload::Listed(jobs), nodes, groups, bos, ..base }
}

/// The same with everything that may be wrong with a node.
fn troubled() -> ClusterConfig {
    let mut config = machine();
    config.nodes[0].in_hsm = false;
    config.nodes[1].nid = None;
    config.nodes[9].role = "Management".to_owned();
    config.nodes[10].name = None;
    config.nodes[11].locked = true;
    config.nodes[12].enabled = false;
    config.nodes[13].boot = BootBehaviour::Fails;
    config.held.insert(config.nodes[14].xname, Held::Drained("bad dimm".to_owned()));
    config.held.insert(config.nodes[15].xname, Held::Down("bad cable".to_owned()));
    config
}

fn strategy(json: &str) -> Strategy {
    let strategy: Strategy = serde_json::from_str(json).unwrap();
    assert_eq!(strategy.problems(), []);
    strategy
}

/// Plans an upgrade, does it, and holds the nodes of each step to the plan. Returns both.
fn plan_and_do(config: ClusterConfig, spec: Spec) -> (Plan, World) {
    let mut world = World::new(config, SEED, Limits::default());
    let plan = world.plan(spec.clone(), Experience::default()).unwrap();
    assert!(plan.is_feasible(), "{:?}", plan.conditions);
    let id = world.create(spec).unwrap();
    world.run_to_end(2_000 * HOUR).unwrap();
    let mut done: BTreeMap<u32, Vec<Xname>> = BTreeMap::new();
    for node in &world.session(id).unwrap().nodes {
        if let Some(step) = node.step {
            done.entry(step).or_default().push(node.xname);
        }
    }
    let planned: BTreeMap<u32, Vec<Xname>> =
        plan.steps.iter().map(|step| (step.number, step.nodes.clone())).collect();
    assert_eq!(done, planned);
    assert_eq!(plan.steps.len(), plan.steps_total);
    (plan, world)
}

#[test]
fn every_order_and_rule_chooses_as_planned() {
    for json in [
        "{}",
        r#"{"order":"name"}"#,
        r#"{"order":"pack","domain":"chassis"}"#,
        r#"{"order":"spread","domain":"slot"}"#,
        r#"{"max_per_domain":2,"domain":"chassis"}"#,
        r#"{"canary":[1,5],"soak_s":300}"#,
        r#"{"min_in_service":{"batch":58}}"#,
        r#"{"canary":[2],"order":"pack","domain":"slot","min_in_service":{"batch":"50%"}}"#,
    ] {
        println!("{json}");
        let (plan, world) = plan_and_do(machine(), Spec { strategy: strategy(json), ..spec(10) });
        let id = world.sessions().next().unwrap();
        assert_eq!(world.session(id).unwrap().head.counts.upgraded, 64, "{json}");
        assert_eq!((plan.lost.len(), plan.nodes.len()), (0, 64), "{json}");
    }
}

#[test]
fn who_will_not_make_it_does_not_and_why() {
    let (plan, world) = plan_and_do(troubled(), spec(8));
    let id = world.sessions().next().unwrap();
    let session = world.session(id).unwrap();
    let failed: BTreeMap<Xname, String> = session
        .nodes
        .iter()
        .filter_map(|node| match &node.state {
            NodeState::Failed(failure) => Some((node.xname, failure.to_string())),
            _ => None,
        })
        .collect();
    let lost: BTreeMap<Xname, String> = plan
        .lost
        .iter()
        .flat_map(|finding| finding.nodes.iter().map(|xname| (*xname, finding.reason.clone())))
        .collect();
    assert_eq!(lost.len(), 6);
    // Why it leaves a node out BOS does not tell a session.
    let left_out = |reason: &String| reason.contains("will leave it out");
    for (xname, reason) in lost.iter().filter(|(_, reason)| !left_out(reason)) {
        assert_eq!(failed.get(xname), Some(reason));
    }
    // What fails beside them could not be known: one does not boot.
    let node = |i: usize| session.nodes[i].xname;
    let warned = |words: &str| -> BTreeSet<Xname> {
        let such = plan.warnings.iter().filter(|finding| finding.reason.contains(words));
        such.flat_map(|finding| finding.nodes.iter().copied()).collect()
    };
    assert!(lost[&node(11)].starts_with("locked") && lost[&node(12)].starts_with("disabled"), "{lost:?}");
    assert_eq!(warned("bad dimm"), [node(14)].into());
    assert_eq!(warned("bad cable"), [node(15)].into());
    assert_eq!(warned("without a time limit"), [node(40)].into());
    let expected: BTreeSet<Xname> = lost.keys().copied().chain([node(13)]).collect();
    assert_eq!(failed.keys().copied().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn steps_start_in_their_window_and_end_when_it_says() {
    let window = r#"{"window":{"time_zone":"UTC","open":[{"from":"22:00","to":"22:20"}]}}"#;
    let config = ClusterConfig { workload: Workload::None, ..machine() };
    let mut world =
        World::new(config, SEED, Limits { boot_low_ms: 90_000, boot_high_ms: 240_000, ..Limits::default() });
    let spec = Spec { strategy: strategy(window), ..spec(4) };
    let plan = world.plan(spec.clone(), Experience::default()).unwrap();
    let day = 24 * 60 * MINUTE;
    for step in &plan.steps {
        let at = step.starts.unwrap().0 % day;
        assert!((22 * HOUR..22 * HOUR + 20 * MINUTE).contains(&at), "{step:?}");
    }
    world.create(spec).unwrap();
    world.run_to_end(2_000 * HOUR).unwrap();
    let (low, high) = plan.ends.unwrap();
    assert!(low <= world.now() && world.now() <= high, "{low} {} {high}", world.now());
    let nights = |time: crus_core::Time| time.0 / day - plan.at.0 / day;
    assert!(nights(low) >= 2, "several nights are needed: {}", nights(low));
}

#[test]
fn jobs_that_outlast_a_drain_are_warned_of_with_what_happens_then() {
    let json = r#"{"drain_timeout_s":3600,"on_drain_timeout":"skip"}"#;
    let spec = Spec { strategy: strategy(json), ..spec(8) };
    let mut world = World::new(machine(), SEED, Limits::default());
    let plan = world.plan(spec.clone(), Experience::default()).unwrap();
    let late = plan.warnings.iter().find(|finding| finding.reason.contains("3600 s")).unwrap();
    assert!(late.reason.contains("given back untouched"), "{}", late.reason);
    let id = world.create(spec).unwrap();
    world.run_to_end(200 * HOUR).unwrap();
    let skipped = world.session(id).unwrap().nodes.iter().filter(|node| node.state.word() == "skipped");
    let skipped: Vec<Xname> = skipped.map(|node| node.xname).collect();
    assert!(!skipped.is_empty() && skipped.iter().all(|xname| late.nodes.contains(xname)), "{skipped:?}");
}
