//! The Compute Rolling Upgrade Service as a process: configuration, store, controller, HTTP, command line.
//!
//! The binary `crus` is a thin `main` over [`cli`]; everything is here so that tests can reach it.
//!
//! - [`settings`]: every option, described once; [`config`]: where their values come from.
//! - [`serve`]: the parts put together, from the first line printed to the last call awaited; [`peers`]: the clients.
//! - [`auth`]: who may use it, and what is noted of those who do.
//! - [`controller`]: runs the sessions and answers for them. [`store`]: where they live.
//! - [`webhook`]: who is told what happens.
//! - [`demo`]: a simulated cluster, and the service on it.
//! - `client`: what can be asked of a running service on the command line.
//! - [`metrics`]: what is counted and measured; [`health`]: how it and its peers stand.
//! - [`otlp`]: traces, for who wants them.
//! - [`http`]: the accept loop; the routes are those of `crus-api`.

pub mod auth;
pub mod checks;
pub mod cli;
mod client;
pub mod clock;
pub mod config;
pub mod controller;
pub mod demo;
pub mod docs;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
mod notify;
pub mod otlp;
pub mod peers;
pub mod serve;
pub mod settings;
pub mod store;
mod version;
pub mod webhook;
mod zones;

pub use version::{COMMIT, IS_MODIFIED, LONG_VERSION, VERSION};
