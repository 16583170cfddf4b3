//! What must hold of tokens, of files of them, and of sets of keys.
#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a panic is how a property fails")]

use hyper::header::HeaderValue;

use super::jwt::Policy;
use super::{Audience, AuthOptions, bearer, jwks, tokens};

fn policy() -> Policy {
    let options = AuthOptions {
        issuer: Some("https://issuer.example/realms/site".to_owned()),
        audience: Audience::OneOf(vec!["crus".to_owned()]),
        ..AuthOptions::default()
    };
    Policy::of(&options).unwrap()
}

/// A token file is one that means the same when it is written again, or is refused without a word of what it holds.
pub(crate) fn token_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match tokens::fuzzing::rewritten(&text) {
        Ok(written) => {
            let again =
                tokens::fuzzing::rewritten(&written).expect("what was read can be written and read again");
            assert_eq!(again, written);
        }
        Err(told) => crus_core::fuzzing::check_told(&told),
    }
}

/// A header holds a token, and nothing else; what is a token by chance is none of the issuer's. The lines: what is sent, and
/// a set of keys.
pub(crate) fn token(data: &[u8]) {
    let (sent, keys) = match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[][..]),
    };
    let Ok(header) = HeaderValue::from_bytes(sent) else { return };
    let token = match bearer(Some(&header)) {
        Ok(token) => token,
        Err(refused) => return crus_core::fuzzing::check_told(&refused.to_string()),
    };
    assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b)), "{token:?}");
    assert!(!token.is_empty() && sent.len() > token.len());
    let found = jwks::fuzzing::checked(keys, token, &policy());
    assert!(!found, "nobody signed {token:?} for us");
}
