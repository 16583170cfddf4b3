//! Measures what a session of very many nodes costs the service itself, beyond what its peers cost: CPU for each
//! step, what is written, and the memory of the process.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark reports, and may panic")]

mod in_process;
mod process;

use crus_sim::config::{GroupSpec, TemplateSpec};
use crus_sim::workload::{JobSpec, Wanted, Workload};
use crus_sim::{Cluster, ClusterConfig};

/// The nodes of the session, and of one to compare with.
const NODES: u32 = 100_000;
const FEW: u32 = 1_000;

fn main() {
    for (nodes, step_size, steps) in [(FEW, 50, 4), (NODES, 50, 4), (NODES, 1_000, 3)] {
        in_process::run(nodes, step_size, steps);
    }
    process::run(NODES);
}

/// So many nodes, half of them with jobs that end between ten minutes and a day from the start.
fn cluster(nodes: u32) -> Cluster {
    let specs = ClusterConfig::nodes(nodes);
    let all = GroupSpec { members: specs.iter().map(|node| node.xname).collect(), ..GroupSpec::default() };
    let minute = 60_000;
    let jobs = specs.iter().zip(1..).filter(|(_, id)| id % 2 == 0).map(|(node, id)| {
        let minutes = 10 + u64::from(id) * 7_919 % 1_430;
        JobSpec {
            id,
            user: "ada".to_owned(),
            wanted: Wanted::Nodes(node.name.clone().into_iter().collect()),
            cpus: None,
            start_ms: 0,
            duration_ms: Some(minutes * minute),
            limit_ms: Some(2 * minutes * minute),
            partition: None,
            requeue: true,
        }
    });
    let jobs = jobs.collect();
    let config = ClusterConfig {
        nodes: specs,
        groups: [
            ("slurm-nodes".parse().unwrap(), all),
            ("upgrading-nodes".parse().unwrap(), GroupSpec::default()),
            ("failed-nodes".parse().unwrap(), GroupSpec::default()),
        ]
        .into(),
        templates: [("new-image".parse().unwrap(), TemplateSpec::of_group("upgrading-nodes"))].into(),
        workload: Workload::Listed(jobs),
        record_facts: false,
        ..ClusterConfig::default()
    };
    Cluster::new(config, 1)
}
