//! The controller in this process: among peers that misbehave, as one of several replicas, with many sessions, and with a webhook.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "../support/replicas.rs"]
mod replicas;

mod commands;
mod peers;
mod together;
mod webhook;
