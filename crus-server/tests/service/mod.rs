//! The real process: what it says, does and leaves, on simulated clusters and among peers of other kinds.

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
