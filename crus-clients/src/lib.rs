//! The ports of `crus-core` over the wire. The wire format of a peer is known to its module here and to nobody else.
//!
//! - [`hsm`]: the Hardware State Manager, API v2.
//! - [`bos`]: the Boot Orchestration Service, API v2; [`bos::v1`]: API v1.
//! - [`http`]: what these two share: settings, time-outs, credentials, the classes of errors.
//! - [`slurm`]: the workload manager Slurm, by `scontrol` and `squeue`.

pub mod bos;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod hsm;
pub mod http;
#[cfg(test)]
mod json;
mod places;
pub mod slurm;
