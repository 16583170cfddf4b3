//! The simulated peers behave as the real ones were seen to: one scenario for each thing that was seen.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails, helpers included")]

mod any_order;
mod bos;
mod checks;
mod determinism;
mod faults;
mod hsm;
mod jobs;
mod ports;
mod slurm;
mod snapshot;
mod store;
mod support;
