//! What a plan says is what then happens: the order, the outcomes, and the time that it takes.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "shared with tests that need more of it")]
#[path = "../common/mod.rs"]
mod common;

mod conditions;
mod order;
mod range;
mod site;
