//! The same seed and the same calls give the same trace.

use crus_core::Xname;
use crus_sim::cluster::bos::{NewSession, Operation};
use crus_sim::cluster::slurm::Update;
use crus_sim::config::{DEMO_BROKEN, DEMO_DRAINED, DEMO_REASON};
use crus_sim::{Cluster, ClusterConfig};

/// Runs the demo's cluster for a day with some upgrading in it, in steps of this many milliseconds, and tells
/// everything that happened.
fn trace(seed: u64, step_ms: u64) -> String {
    let mut cluster = Cluster::new(ClusterConfig::demo(), seed);
    let nodes: Vec<Xname> = cluster.config().nodes.iter().take(8).map(|node| node.xname).collect();
    for xname in &nodes {
        cluster.add_member("upgrading-nodes", &xname.to_string()).unwrap();
        let name = cluster.name_of(*xname).unwrap().clone();
        cluster.update(&[name], &Update::drain("r")).unwrap();
    }
    let at = cluster.now() + 600_000;
    while cluster.now() < at {
        cluster.advance_to(cluster.now() + step_ms);
    }
    cluster
        .create_boot_session(NewSession {
            name: "s".to_owned(),
            operation: Operation::Reboot,
            template_name: "new-image".to_owned(),
            limit: String::new(),
            stage: false,
            include_disabled: false,
        })
        .unwrap();
    let end = at + 24 * 3_600_000;
    while cluster.now() < end {
        cluster.advance_to(cluster.now() + step_ms);
    }
    let names: Vec<_> = cluster.node_names().cloned().collect();
    format!("{:#?}\n{:#?}\n{:#?}", cluster.facts(), cluster.show_nodes(&names), cluster.jobs())
}

#[test]
fn the_same_seed_gives_the_same_trace_however_the_time_is_cut() {
    let first = trace(11, 600_000);
    assert!(first == trace(11, 600_000));
    assert!(first == trace(11, 1_000), "a finer clock shows the same");
    assert!(first != trace(12, 600_000), "another seed gives another");
}

#[test]
fn next_event_leads_from_one_thing_to_the_next() {
    let run = |by_events: bool| {
        let mut cluster = Cluster::new(ClusterConfig::demo(), 5);
        let end = cluster.now() + 3_600_000;
        while by_events && cluster.next_event().is_some_and(|at| at <= end) {
            let at = cluster.next_event().unwrap();
            cluster.advance_to(at);
            assert!(cluster.next_event().is_none_or(|next| next > at));
        }
        cluster.advance_to(end);
        format!("{:?}", cluster.jobs())
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn the_demo_is_as_promised() {
    let cluster = Cluster::new(ClusterConfig::demo(), 1);
    let config = cluster.config();
    assert_eq!(config.nodes.len(), 64);
    let cabinets: std::collections::BTreeSet<_> =
        config.nodes.iter().map(|node| node.xname.cabinet()).collect();
    assert_eq!(cabinets.into_iter().collect::<Vec<_>>(), [1000, 1001, 1002, 1003]);
    assert_eq!(cluster.group("slurm-nodes").unwrap().members.len(), 64);
    assert!(cluster.group("upgrading-nodes").unwrap().members.is_empty());
    assert!(cluster.group("failed-nodes").unwrap().members.is_empty());
    assert!(cluster.boot_template("new-image").is_ok());
    let names: Vec<_> = cluster.node_names().cloned().collect();
    let nodes = cluster.show_nodes(&names).unwrap().nodes;
    let busy = nodes.iter().filter(|node| node.cpus_allocated > 0).count();
    assert!(busy > 45, "jobs on {busy}");
    let drained = cluster.name_of(DEMO_DRAINED.parse().unwrap()).unwrap();
    let reason = nodes.iter().find(|node| node.name == *drained).unwrap().reason.clone().unwrap();
    assert_eq!(reason.text, DEMO_REASON);
    assert!(config.nodes.iter().any(|node| node.xname.to_string() == DEMO_BROKEN));
}
