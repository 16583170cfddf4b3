//! The contract, as scenarios. The router is called without a socket, and every answer, whatever the scenario
//! is about, is held against the OpenAPI document (see [`document`]).

#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

mod access;
mod agreement;
mod arbitrary;
mod contract;
mod document;
mod log;
mod pages;
mod plan;
mod schema;
mod service;
mod strategy;
mod validation;
mod views;
