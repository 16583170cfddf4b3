//! Texts that are shown nowhere.

use std::borrow::Cow;
use std::fmt;

use reqwest::header::HeaderValue;

/// What stands for a secret.
const HIDDEN: &str = "[hidden]";

/// A shorter text is not looked for in what others say: it is no secret, and might be part of any word.
const SOUGHT_MIN: usize = 8;

/// A text that is shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Hides a text, without the white space around it.
    pub fn new(text: &str) -> Self {
        Secret(text.trim().into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a bearer token; `None` when it holds what a header cannot.
    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The text without this secret: whoever got it may repeat it.
    pub fn hidden_in<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.0.len() >= SOUGHT_MIN && text.contains(&*self.0) {
            true => text.replace(&*self.0, HIDDEN).into(),
            false => text.into(),
        }
    }

    /// The same for the body of an answer. One that is no UTF-8 is used for nothing, and nothing is taken from it.
    pub fn hidden_in_body(&self, body: Vec<u8>) -> Vec<u8> {
        let without = match std::str::from_utf8(&body) {
            Ok(text) => match self.hidden_in(text) {
                Cow::Owned(without) => Some(without),
                Cow::Borrowed(_) => None,
            },
            Err(_) => None,
        };
        without.map_or(body, String::into_bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_taken_out_of_what_others_say_and_a_short_one_is_none() {
        let secret = Secret::new("tok3n-of-ours");
        assert_eq!(secret.hidden_in("a tok3n-of-ours, tok3n-of-ours"), "a [hidden], [hidden]");
        assert_eq!(secret.hidden_in_body(b"{\"a\":\"tok3n-of-ours\"}".to_vec()), b"{\"a\":\"[hidden]\"}");
        let no_text = [b"\xff tok3n-of-ours".as_slice(), &[0xff]].concat();
        assert_eq!(secret.hidden_in_body(no_text.clone()), no_text);
        for short in ["", "x1000"] {
            assert_eq!(Secret::new(short).hidden_in_body(b"x1000c0s0b0n0".to_vec()), b"x1000c0s0b0n0");
        }
    }
}
