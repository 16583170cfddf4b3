//! The real process: what it says, does and leaves, on simulated clusters and among peers of other kinds.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "../support/limits.rs"]
mod limits;
#[path = "../../../crus-clients/tests/credentials/pki.rs"]
mod pki;
#[path = "../support/port.rs"]
mod port;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../../../crus-clients/tests/credentials/server.rs"]
mod server;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "../support/simulated.rs"]
mod simulated;
#[path = "../support/stream.rs"]
mod stream;
#[path = "../support/mod.rs"]
mod support;

mod client;
mod credentials;
mod demo;
mod finished;
mod hanging;
mod logs;
mod plan;
mod promtool;
mod secrets;
mod serve;
mod views;
mod watching;
