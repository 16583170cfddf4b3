//! A small cluster and a service on it, as every scenario needs them.

pub(crate) mod thousand;

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crus_core::model::{Node, NodeState};
use crus_core::{GroupLabel, Limits, NodeName, Spec, UpgradeId, Xname};
use crus_sim::ClusterConfig;
use crus_sim::config::{BosConfig, GroupSpec, NodeSpec, Span, TemplateSpec};
use crus_sim::workload::{JobSpec, Wanted, Workload};
use crus_sim::world::World;

/// A virtual minute and hour, in milliseconds.
pub(crate) const MINUTE: u64 = 60_000;
pub(crate) const HOUR: u64 = 60 * MINUTE;
/// The seed of every scenario that does not draw its own.
pub(crate) const SEED: u64 = 7;

pub(crate) fn xname(n: u32) -> Xname {
    format!("x1000c0s{n}b0n0").parse().unwrap()
}

pub(crate) fn name(n: u32) -> NodeName {
    format!("nid{n:06}").parse().unwrap()
}

pub(crate) fn label(text: &str) -> GroupLabel {
    text.parse().unwrap()
}

/// Nodes 1 to `size`, idle; the groups `all` (these), `up` and `failed` (empty), the template `image`, which
/// boots `up`.
pub(crate) fn cluster(size: u32) -> ClusterConfig {
    let members = (1..=size).map(xname).collect();
    ClusterConfig {
        nodes: (1..=size).map(|n| NodeSpec::new(xname(n), n)).collect(),
        groups: BTreeMap::from([
            (label("all"), GroupSpec { members, ..GroupSpec::default() }),
            (label("up"), GroupSpec::default()),
            (label("failed"), GroupSpec::default()),
        ]),
        templates: BTreeMap::from([("image".parse().unwrap(), TemplateSpec::of_group("up"))]),
        bos: BosConfig { boot: Span::new(2 * MINUTE, 4 * MINUTE), ..BosConfig::default() },
        ..ClusterConfig::default()
    }
}

pub(crate) fn spec(step_size: u32) -> Spec {
    Spec {
        starting: label("all"),
        upgrading: label("up"),
        failed: label("failed"),
        step_size: NonZeroU32::new(step_size).unwrap(),
        template: "image".parse().unwrap(),
        tenant: None,
        strategy: crus_core::Strategy::default(),
    }
}

/// A job on these nodes from the start.
pub(crate) fn job(id: u32, nodes: &[u32], minutes: u64) -> JobSpec {
    JobSpec {
        id,
        user: "ada".into(),
        wanted: Wanted::Nodes(nodes.iter().map(|n| name(*n)).collect()),
        cpus: None,
        start_ms: 0,
        duration_ms: Some(minutes * MINUTE),
        limit_ms: Some(2 * minutes * MINUTE),
        partition: None,
        requeue: true,
    }
}

pub(crate) fn with_jobs(config: ClusterConfig, jobs: Vec<JobSpec>) -> ClusterConfig {
    ClusterConfig { workload: Workload::Listed(jobs), ..config }
}

pub(crate) fn world(config: ClusterConfig) -> World {
    World::new(config, SEED, Limits::default())
}

/// The states of the nodes, in the order of their numbers.
pub(crate) fn states(world: &World, id: UpgradeId) -> Vec<NodeState> {
    world.session(id).unwrap().nodes.iter().map(|node| node.state.clone()).collect()
}

pub(crate) fn node(world: &World, id: UpgradeId, n: u32) -> &Node {
    world.node(id, xname(n)).unwrap()
}

pub(crate) fn messages(world: &World, id: UpgradeId) -> Vec<String> {
    world.session(id).unwrap().messages.iter().map(ToString::to_string).collect()
}

/// Whether Slurm gives jobs to the node.
pub(crate) fn in_service(world: &World, n: u32) -> bool {
    world.wlm_node(&name(n)).unwrap().is_in_service()
}

pub(crate) fn reason(world: &World, n: u32) -> String {
    world.wlm_node(&name(n)).unwrap().reason.unwrap_or_default()
}

/// Goes on until the session has a message that contains this.
pub(crate) fn until_said(world: &mut World, id: UpgradeId, text: &str) {
    let said = |world: &World| messages(world, id).iter().any(|message| message.contains(text));
    world.run_until(24 * HOUR, said).unwrap_or_else(|error| {
        panic!("never said {text:?}: {error}; messages {:#?}", messages(world, id));
    });
}
