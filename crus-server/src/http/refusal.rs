//! Answers that no handler gives: to what is no request, to what comes too slowly, and to whom there is no place for.

use crus_api::Problem;
use hyper::StatusCode;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use super::{HttpLimits, MAX_HEADERS, MAX_URI_BYTES};

/// After so many seconds a place may be free.
pub(super) const RETRY_AFTER_S: u32 = 5;

/// Writes such answers.
#[derive(Debug)]
pub(super) struct Refusals {
    max_header_bytes: usize,
    head_timeout_s: f32,
}

impl Refusals {
    pub(super) fn new(limits: &HttpLimits) -> Self {
        Refusals {
            max_header_bytes: limits.max_header_bytes,
            head_timeout_s: limits.head_timeout.as_secs_f32(),
        }
    }

    /// What is said instead of this, if it is what hyper says by itself: the head of an answer that has no body.
    pub(super) fn instead_of(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let head = bytes.strip_prefix(b"HTTP/1.1 ")?.strip_suffix(b"\r\n\r\n")?;
        let (status, head) = (head.get(..3)?, head.to_ascii_lowercase());
        if head.windows(13).any(|name| name == b"content-type:") {
            return None;
        }
        let (status, detail) = match status {
            b"400" => (
                StatusCode::BAD_REQUEST,
                "This is not a request of HTTP/1.1: its first line or one of its headers is malformed."
                    .to_owned(),
            ),
            b"414" => (
                StatusCode::URI_TOO_LONG,
                format!("The path and its query are too long. They may have {MAX_URI_BYTES} bytes."),
            ),
            b"431" => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                format!(
                    "The head of the request is too long. It may have {} bytes, and {MAX_HEADERS} headers.",
                    self.max_header_bytes
                ),
            ),
            _ => return None,
        };
        Some(written(status, &detail, None))
    }

    /// To whom the head of a request took too long.
    pub(super) fn slow_head(&self) -> Vec<u8> {
        let detail = format!(
            "The head of the request was not there within {} s. Send it again, at once.",
            self.head_timeout_s
        );
        written(StatusCode::REQUEST_TIMEOUT, &detail, None)
    }
}

/// To whom there is no place for.
pub(super) fn no_place(detail: &str) -> Vec<u8> {
    written(StatusCode::SERVICE_UNAVAILABLE, detail, Some(RETRY_AFTER_S))
}

/// To whom speaks in the clear where TLS is spoken.
pub(super) fn not_tls() -> Vec<u8> {
    let detail = "TLS is spoken here. Use https:// instead of http://.";
    written(StatusCode::BAD_REQUEST, detail, None)
}

/// A whole answer, the last on its connection.
fn written(status: StatusCode, detail: &str, retry_after_s: Option<u32>) -> Vec<u8> {
    let problem = Problem::new(status, detail);
    // Texts and a number: this cannot fail.
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now()).unwrap_or_default();
    let retry = retry_after_s.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
    format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n{retry}connection: close\r\n\
         date: {date}\r\n\r\n{body}",
        problem.status,
        problem.title,
        body.len(),
    )
    .into_bytes()
}
