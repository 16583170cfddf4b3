//! Errors as the contract shows them: RFC 7807, `application/problem+json`.

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use crus_core::ports::StoreError;
use http::header::RETRY_AFTER;
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::events::NoPlace;
use crate::service::ServiceError;

/// What is wrong with each property of a request: from its name to the reasons, each a clause to be read after
/// the name.
pub type Errors = BTreeMap<String, Vec<String>>;

/// An error as the caller sees it. The command-line client prints `Error: {title}: {detail}`, so `detail` says
/// in full sentences what is wrong and what would be right.
///
/// Its properties are serialized in alphabetical order: the fields below must stay so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong, and what would be right.
    pub detail: String,
    /// What is wrong with each property, when the properties are what is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<Errors>,
    /// The HTTP status.
    pub status: u16,
    /// The HTTP status in words.
    pub title: String,
    /// `about:blank`: the status says what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// After so many seconds the same request may be answered otherwise: sent as `Retry-After`, and only when nothing was
    /// done of what was asked.
    #[serde(skip)]
    pub retry_after_s: Option<u32>,
}

/// When what passes by itself may have passed: a place that is free again, a peer that answers.
const SOON_S: u32 = 5;

/// When others may have made room.
const LATER_S: u32 = 30;

impl Problem {
    /// A problem of this status.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem {
            detail: detail.into(),
            errors: None,
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            kind: "about:blank".to_owned(),
            retry_after_s: None,
        }
    }

    /// The same, with the word that nothing was done and when to ask again.
    fn again_after(self, seconds: u32) -> Self {
        Problem { retry_after_s: Some(seconds), ..self }
    }

    /// 503: a token cannot be checked, for this reason.
    pub(crate) fn cannot_tell(reason: impl std::fmt::Display) -> Self {
        let detail = format!("The token cannot be checked now: {reason}. Try again in a few seconds.");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).again_after(SOON_S)
    }

    /// 404 for an id that is malformed or not there.
    pub fn no_such_session() -> Self {
        let detail = "Requested resource does not exist. Re-run request with valid ID.";
        Problem::new(StatusCode::NOT_FOUND, detail)
    }

    /// 404 for a path that is not part of the API.
    pub fn no_such_path() -> Self {
        let detail = "Requested path does not exist. The paths of this service are listed at /openapi.json.";
        Problem::new(StatusCode::NOT_FOUND, detail)
    }

    /// 405: the path has other methods.
    pub(crate) fn method_not_allowed(allow: &str) -> Self {
        let detail = format!("This path does not have the method. It has: {allow}.");
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
    }

    /// 503 for a service that should be started anew.
    pub(crate) fn deaf(why: &str) -> Self {
        let detail =
            format!("The service is alive, but of no use: {why}. Start it anew; its sessions go on then.");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// 413: the body is longer than `limit` bytes.
    pub(crate) fn too_large(limit: usize) -> Self {
        let detail = format!("The body is too long. It may have {limit} bytes.");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// 415: the body is said to be something else than JSON, or nothing is said.
    pub(crate) fn not_json(media_type: &str) -> Self {
        let sent = match media_type {
            "" => "there was none".to_owned(),
            other => format!("it was {:?}", other.chars().take(80).collect::<String>()),
        };
        let detail =
            format!("The body must be JSON, sent with the header 'Content-Type: application/json'; {sent}.");
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
    }

    /// 415: the body is compressed.
    pub(crate) fn encoded() -> Self {
        let detail = "The body must be JSON as it stands, without a Content-Encoding.";
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
    }

    /// 503: as many follow sessions as may.
    pub(crate) fn too_many_streams(none: NoPlace) -> Self {
        let detail = match none {
            NoPlace::All(limit) => format!(
                "{limit} clients follow the events of sessions, as many as may (max_streams). Ask for them as a list, or \
                 try again later."
            ),
            NoPlace::Share(share) => format!(
                "This caller follows the events of sessions {share} times, as often as one may (half of max_streams). End \
                 one, or ask for them as a list."
            ),
        };
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).again_after(LATER_S)
    }

    /// 400: the connection broke while the body was sent.
    pub(crate) fn cut_short() -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "The body ended early. Send the request again.")
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        let again = match error {
            ServiceError::Busy { .. } => Some(SOON_S),
            ServiceError::Full { .. } => Some(LATER_S),
            // Of these nobody can say that nothing was done, or asking again does not help.
            ServiceError::Store(_)
            | ServiceError::MayBeCreated { .. }
            | ServiceError::NotNow { .. }
            | ServiceError::ShuttingDown => None,
        };
        let (status, detail) = match error {
            ServiceError::Store(StoreError::Failed(_)) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The session store could not be read or written. Try again later; the service's log says more."
                    .to_owned(),
            ),
            ServiceError::Store(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "The session store holds something unexpected. The service's log says more.".to_owned(),
            ),
            // A 503 is taken as not done, by gateways too, and the request sent again.
            ServiceError::MayBeCreated { id, .. } => (
                StatusCode::GATEWAY_TIMEOUT,
                format!(
                    "The session store gave no answer: session {id} may have been created. Look whether it is there \
                     before you create another."
                ),
            ),
            ServiceError::Full { limit } => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("There are {limit} sessions, as many as may be. Delete completed ones, then try again."),
            ),
            ServiceError::NotNow { reason } => (StatusCode::CONFLICT, reason.to_string()),
            ServiceError::Busy { limit } => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{limit} plans are being made, as many as may be at a time. Try again in a few seconds."),
            ),
            ServiceError::ShuttingDown => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The service is shutting down. Try again once it is back.".to_owned(),
            ),
        };
        Problem { retry_after_s: again, ..Problem::new(status, detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = crate::routes::answer(
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            "application/problem+json",
            &self,
        );
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
