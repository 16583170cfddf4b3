//! The Compute Rolling Upgrade Service as a process: configuration, store, controller, HTTP, command line.
//!
//! Everything is here, and the binary thin, so that tests can reach it.
//!
//! - [`settings`]: every option, described once; [`config`]: where their values come from.
//! - [`controller`]: runs the sessions and answers for them. [`store`]: where they live.
//! - [`http`]: the accept loop; the routes are those of `crus-api`.

pub mod clock;
pub mod config;
pub mod controller;
pub mod http;
pub mod logging;
pub mod settings;
pub mod store;
