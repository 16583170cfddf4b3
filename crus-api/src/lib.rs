//! The REST contract of CRUS, to the letter: paths, properties, codes, enumerations, words.
//!
//! - [`service`]: what stands behind the routes; the server implements it.
//! - [`status`]: a session as the contract shows it. [`views`], [`events`]: what operators look at besides.
//! - [`request`]: what a request must hold to become a session; [`strategy`]: how it may say to go about it; [`site`]:
//!   what the site says to that.
//! - [`access`]: who may do what, and who is told of it.
//! - [`health`]: what the service says of itself to who watches it.
//! - [`problem`]: errors as the contract shows them (RFC 7807).
//! - [`pages`]: documentation, which the server brings along.
//! - [`routes`]: the paths and methods. [`Api`] is the way in.
//! - `openapi.json`: the contract as a document, kept by hand and served; the tests hold the routes to it.
//!
//! This crate opens no socket, reads no clock and keeps nothing: it turns requests into calls of
//! [`Sessions`] and their results into answers.

pub mod access;
pub mod events;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod health;
mod json;
pub mod pages;
pub mod plan;
pub mod problem;
mod query;
pub mod request;
pub mod routes;
pub mod service;
pub mod site;
pub mod status;
pub mod strategy;
pub mod views;

pub use pages::{Page, Pages};
pub use problem::Problem;
pub use routes::{Api, ApiLimits};
pub use service::{ServiceError, Sessions};
pub use site::{Caps, Site};
pub use status::{SessionList, SessionState, SessionStatus};

/// The version of this API, noted in each session that it creates.
///
/// The original ended at 1.12. This one answers every request of 1.12 as the contract says, and adds to it,
/// hence the next minor version.
pub const API_VERSION: &str = "1.13.0";
