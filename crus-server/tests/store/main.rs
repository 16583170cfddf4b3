//! The session store: what each kind must do, and what that in a file makes of its file.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "../support/chance.rs"]
mod chance;
#[path = "../support/conformance.rs"]
mod conformance;

mod conforms;
mod files;
mod inspect;
