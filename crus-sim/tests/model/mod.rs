//! The simulated peers behave as the real ones were seen to: one scenario for each thing that was seen.

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
