//! What is shipped: the version that it says it is, and the files of `crus-server/packaging`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "support/mod.rs"]
#[expect(dead_code, reason = "shared between test binaries; each uses what it needs")]
mod support;

#[path = "packaging/version.rs"]
mod version;

#[path = "packaging/sandbox.rs"]
mod sandbox;

#[path = "packaging/unit.rs"]
mod unit;

#[path = "packaging/chart.rs"]
mod chart;
