//! Each option of a strategy, each order of an operator, and combinations that could surprise, in virtual time.
//!
//! The world itself checks the promises after every step; a scenario says what else must be so in the end.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

#[expect(dead_code, reason = "shared with tests that need more of it")]
#[path = "../common/mod.rs"]
mod common;

mod checks;
mod drains;
mod limits;
mod mutants;
mod orders;
mod reviewed;
mod soak;
mod support;
