//! The Compute Rolling Upgrade Service as a process: configuration, store, controller, HTTP, command line.
//!
//! The binary `crus` is a thin `main` over [`cli`]; everything is here so that tests can reach it.

pub mod config;
pub mod http;
pub mod logging;
pub mod settings;
pub mod store;
