//! The upgrade whose cost the original was measured by: 1000 nodes in steps of 50, each step with 30 polls to
//! drain and 30 to return.

use std::collections::BTreeMap;

use crus_core::model::{NodeState, Stage};
use crus_core::ports::Peer;
use crus_core::{Limits, Time, UpgradeId};
use crus_sim::config::{BosConfig, SlurmConfig, Span};
use crus_sim::workload::{JobSpec, Wanted};
use crus_sim::world::{Stuck, World};

use crate::common::{HOUR, SEED, cluster, name, spec, with_jobs, xname};

/// The nodes, the size of a step, and the polls that draining and returning take.
pub(crate) const NODES: u32 = 1000;
pub(crate) const STEP_SIZE: u32 = 50;
pub(crate) const POLLS: u64 = 30;

/// What it cost.
pub(crate) struct Cost {
    /// Calls by port and method.
    pub(crate) calls: BTreeMap<&'static str, u64>,
    /// `scontrol` and `squeue` processes.
    pub(crate) wlm: u64,
    /// Requests to HSM.
    pub(crate) hsm: u64,
    /// Requests to BOS.
    pub(crate) bos: u64,
    /// Virtual milliseconds from the request to the end.
    pub(crate) took_ms: u64,
    /// Of these, milliseconds in which nothing that the service waits for was under way: neither a job, nor a
    /// boot, nor a registration.
    pub(crate) own_ms: u64,
}

/// Runs it.
pub(crate) fn run() -> Result<Cost, Stuck> {
    let limits = Limits::default();
    let wait_ms = POLLS * limits.poll_ms - limits.poll_ms / 2;
    let boot_ms = 5 * 60_000;
    let mut config = cluster(NODES);
    let at_once = Span::exactly(0);
    config.bos = BosConfig {
        pending: at_once,
        setup: at_once,
        power_off_call: at_once,
        power_off: at_once,
        power_on_call: at_once,
        boot: Span::exactly(boot_ms),
        configure: at_once,
        ..BosConfig::default()
    };
    config.slurm =
        SlurmConfig { register: Span::exactly(wait_ms), resume: Span::exactly(1), ..SlurmConfig::default() };
    let jobs = (1..=NODES).map(|n| JobSpec {
        id: n,
        user: "ada".into(),
        wanted: Wanted::Nodes(vec![name(n)]),
        cpus: None,
        start_ms: 0,
        duration_ms: None,
        limit_ms: None,
        partition: None,
        requeue: true,
    });
    let mut world = World::new(with_jobs(config, jobs.collect()), SEED, limits);
    let start = world.now();
    let id = world.create(spec(STEP_SIZE))?;
    for step in 0..NODES / STEP_SIZE {
        world.run_until(HOUR, |world| drains(world, id, step))?;
        world.run_for(wait_ms)?;
        let draining: Vec<u32> =
            (1..=NODES).filter(|n| world.node(id, xname(*n)).is_some_and(is_draining)).collect();
        for n in draining {
            world.cluster().end_job(n);
        }
    }
    world.run_to_end(HOUR)?;
    let took_ms = world.now().since(start);
    let calls = world.calls();
    Ok(Cost {
        calls: calls.all(),
        wlm: calls.to(Peer::Wlm),
        hsm: calls.to(Peer::Hsm),
        bos: calls.to(Peer::Bos),
        took_ms,
        own_ms: Time(took_ms).since(Time(u64::from(NODES / STEP_SIZE) * (2 * wait_ms + boot_ms))),
    })
}

fn drains(world: &World, id: UpgradeId, step: u32) -> bool {
    world.session(id).is_some_and(|s| s.head.step == step && s.head.stage == Stage::Quiescing)
}

fn is_draining(node: &crus_core::model::Node) -> bool {
    node.state == NodeState::Draining
}
