//! The simulated cluster, and the upgrades that run on it: the promises as scenarios, at every crash, in random worlds.
//!
//! `bounds` is a program of its own, since it counts what the whole program allocates.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod common;

mod commands;
mod cost;
mod crash_points;
mod hardship;
mod http;
mod model;
mod mutants;
mod nameless;
mod original;
mod plan;
mod scenarios;
mod slurm_lab;
mod stand_in;
mod strategy;
mod worlds;
