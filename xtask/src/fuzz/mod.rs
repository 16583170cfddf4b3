//! `cargo xtask fuzz`.

mod api;

use std::num::{NonZeroU32, NonZeroU64};

use anyhow::{Result, bail};
use clap::Args;

pub(crate) use api::step as api_step;

/// What to fuzz.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// The API of the service, with schemathesis from PyPI, by the OpenAPI document that it serves.
    #[arg(long)]
    api: bool,
    /// How many requests are made up for each operation of the API, in each phase.
    #[arg(long, requires = "api", default_value_t = api::EXAMPLES)]
    examples: NonZeroU32,
    /// The seed of what is made up: the same one makes up the same.
    #[arg(long)]
    seed: Option<NonZeroU64>,
}

/// Looks for input that breaks something.
pub(crate) fn run(fuzz: &Fuzz) -> Result<()> {
    if fuzz.api {
        return api::run(fuzz.examples, fuzz.seed, &[]);
    }
    bail!("say what to fuzz: --api")
}
