//! The controller in this process: among peers that misbehave, as one of several replicas, with many sessions, and with a webhook.

mod commands;
mod peers;
mod together;
mod webhook;
