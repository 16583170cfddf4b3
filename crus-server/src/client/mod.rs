//! The client: what can be asked of a running service on the command line.
//!
//! - `args`: the commands and their options, from which help, manual pages and completions are made;
//!   `strategy_args`: those of a strategy. `exit`: what the process ends with.
//! - `profile`: where the service is and who we are; `wire`: requests, and what their answers mean to people;
//!   `sse` and `follow`: events as they happen, through restarts of the service.
//! - `session` and `plan`: what each command does; `watch` and `picture`: following one.
//! - `views`, `output` and `time`: how answers are shown.
//! - `store`: looking into a store, which asks no service. `manual`: manual pages and completions.
//!
//! # Decisions
//!
//! There is no `--last`: the latest session may be somebody else's, created a moment ago, and what is asked for may stop
//! it. The beginning of an id names one session or none.

pub(crate) mod args;
pub(crate) mod error;
pub(crate) mod exit;
mod follow;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub(crate) mod manual;
pub(crate) mod output;
mod picture;
mod plan;
mod profile;
mod session;
mod sse;
pub(crate) mod store;
pub(crate) mod strategy_args;
mod time;
mod views;
mod watch;
mod wire;

use args::{PlanArgs, SessionArgs};
use error::ClientError;

/// Runs `crus session`; returns what the process ends with.
///
/// # Errors
/// When it was not done: each says why, and what to do.
pub(crate) fn session(args: SessionArgs) -> Result<u8, ClientError> {
    on_runtime(session::run(args))
}

/// Runs `crus plan`; returns what the process ends with.
///
/// # Errors
/// When it was not done: each says why, and what to do.
pub(crate) fn plan(args: PlanArgs) -> Result<u8, ClientError> {
    on_runtime(session::run_plan(args))
}

fn on_runtime(work: impl Future<Output = Result<u8, ClientError>>) -> Result<u8, ClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| ClientError::failed(format!("failed to start: {error}")))?;
    let result = runtime.block_on(work);
    // A name that is still looked up does not hold up the end.
    runtime.shutdown_background();
    result
}
