//! What [`crate::fuzzing`] reaches of the routes.

use axum::extract::Path;
use crus_core::UpgradeId;
use http::HeaderMap;

use crate::problem::Problem;

pub(crate) use super::views::{last_event_id, states, wants_a_stream};

/// The id that a path holds.
pub(crate) fn upgrade_id(text: &str) -> Result<UpgradeId, Problem> {
    super::upgrade_id(Ok(Path(text.to_owned())))
}

pub(crate) fn check_is_json(headers: &HeaderMap) -> Result<(), Problem> {
    super::check_is_json(headers)
}
