//! What must hold of the answers of a token endpoint.

use crus_core::fuzzing::check_told;
use reqwest::StatusCode;

use super::{Answer, clean, refusal, renewed_after, said, used_for};

/// A token is good for a header and is shown nowhere; it is renewed before it is used up, and not used when it is no longer
/// good. What else is answered is told in a line.
pub(crate) fn answers(data: &[u8]) {
    match Answer::of(data) {
        Ok(answer) => {
            assert!(answer.token.bearer().is_some_and(|header| header.is_sensitive()));
            let shown = format!("{answer:?} {}", answer.token);
            assert!(answer.token.reveal().len() < 8 || !shown.contains(answer.token.reveal()), "{shown}");
            assert!(renewed_after(answer.lifetime) <= used_for(answer.lifetime));
            assert!(used_for(answer.lifetime) <= answer.lifetime);
        }
        Err(told) => check_told(&told),
    }
    let said = said(data);
    for status in [StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED, StatusCode::BAD_GATEWAY] {
        check_told(&clean(&refusal(status, said.as_deref())));
    }
}
