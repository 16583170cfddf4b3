//! Texts that are shown nowhere.

use std::borrow::Cow;
use std::fmt;

use reqwest::header::HeaderValue;

/// What stands for a secret.
const HIDDEN: &str = "[hidden]";

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
    pub(super) fn hidden_in<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match !self.0.is_empty() && text.contains(&*self.0) {
            true => text.replace(&*self.0, HIDDEN).into(),
            false => text.into(),
        }
    }

    /// The same for the body of an answer. One that is no UTF-8 is used for nothing, and nothing is taken from it.
    pub(super) fn hidden_in_body(&self, body: Vec<u8>) -> Vec<u8> {
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
