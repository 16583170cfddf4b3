//! Tools that the tests of several crates share (feature `testing`): certificates, a TLS server that answers as a test
//! wants, and waiting for what must come.
//!
//! # Panics
//!
//! All of it panics where anything fails: a panic is how a test fails.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod patience;
pub mod pki;
pub mod server;

pub use patience::{PATIENCE, until, until_within};
