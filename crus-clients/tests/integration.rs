//! The clients of HSM, BOS and Slurm: on the simulator's faces, among servers that misbehave, and with credentials.
//!
//! `fidelity_slurm` is a program of its own, since it is also the program that it tests with.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

mod credentials;
mod fidelity_bos_v1;
mod fidelity_http;
mod hostile;
mod misbehaving;
