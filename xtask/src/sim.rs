//! `cargo xtask sim`.

use std::num::NonZeroU64;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::cargo;

/// Which worlds.
#[derive(Debug, Args)]
pub(crate) struct Sim {
    /// How many worlds; each follows from its seed.
    #[arg(long, default_value_t = 1000, conflicts_with = "seed")]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0, conflicts_with = "seed")]
    first: u64,
    /// Only the world of this seed, and everything that happens in it: the same text each time.
    #[arg(long)]
    seed: Option<u64>,
    /// How many worlds at a time; as many as there are processors when not given.
    #[arg(long)]
    jobs: Option<NonZeroU64>,
}

/// Runs random worlds, each checked against the promises at every event, and reports. A world that breaks one is told
/// by its seed.
pub(crate) fn run(sim: &Sim) -> Result<()> {
    let numbers = match sim.seed {
        Some(seed) => vec![seed],
        None => vec![sim.first, sim.seeds, sim.jobs.map_or_else(processors, NonZeroU64::get)],
    };
    let program = ["run", "--quiet", "--release", "--package", "crus-sim", "--bin", "crus-sim-worlds", "--"];
    let status = cargo::command(&program)
        .args(numbers.iter().map(u64::to_string))
        .status()
        .context("failed to run the simulated worlds")?;
    if !status.success() {
        bail!("a world did not end clean ({status})");
    }
    Ok(())
}

fn processors() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u64)
}
