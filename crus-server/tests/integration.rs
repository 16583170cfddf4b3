//! The tests of the service, a module for each subject: in this process where that is enough, and on the real process,
//! real peers and real files where it is not.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod support;

mod auth;
mod bos_v1;
mod client;
mod controller;
mod docs;
mod full_disk;
mod guide;
mod hostile;
mod http;
mod image;
mod installed;
mod kill;
#[cfg(feature = "otlp")]
mod otlp;
mod packaging;
#[cfg(feature = "fuzzing")]
mod properties;
#[cfg(feature = "etcd")]
mod real_etcd;
#[cfg(feature = "etcd")]
mod real_replicas;
mod real_slurm;
mod real_strategy;
mod schemathesis;
mod service;
mod store;
mod store_hardship;
