//! `cargo xtask fuzz`.

mod api;
mod targets;

use std::num::{NonZeroU32, NonZeroU64};

use anyhow::Result;
use clap::Args;

pub(crate) use api::step as api_step;

/// What to fuzz.
#[derive(Debug, Args)]
pub(crate) struct Fuzz {
    /// The property of foreign input that is tried, such as `host_list`; all of them when not given.
    #[arg(conflicts_with = "api")]
    property: Option<String>,
    /// For how long each property is tried, in seconds.
    #[arg(long, default_value_t = 10, conflicts_with = "api")]
    seconds: u64,
    /// Instead, the API of the service, with schemathesis from PyPI, by the OpenAPI document that it serves.
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
    targets::run(fuzz.property.as_deref(), fuzz.seconds, fuzz.seed)
}
