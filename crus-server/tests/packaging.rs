//! What is shipped: the version that it says it is, and the files of `crus-server/packaging`.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/mod.rs"]
#[expect(dead_code, reason = "shared between test binaries; each uses what it needs")]
mod support;

#[path = "packaging/version.rs"]
mod version;
