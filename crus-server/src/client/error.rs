//! Why a command ends with another code than 0, as a sentence with a remedy.

use std::fmt;
use std::io;

use super::exit;

/// Why a command did not do what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientError {
    code: u8,
    text: String,
}

impl ClientError {
    /// What was asked for makes no sense.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        ClientError { code: exit::MISUSED, text: text.into() }
    }

    /// It could not be done.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        ClientError { code: exit::FAILED, text: text.into() }
    }

    /// The output cannot be written. That nobody reads it any more (`… | head`) needs no word.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return ClientError { code: exit::CLOSED, text: String::new() };
        }
        ClientError::failed(format!("failed to write the output: {error}"))
    }

    /// The same, with more to say.
    pub(crate) fn and(mut self, hint: &str) -> Self {
        self.text.push_str(hint);
        self
    }

    /// What the process ends with.
    pub(crate) fn code(&self) -> u8 {
        self.code
    }

    /// Whether there is nothing to say about it.
    pub(crate) fn is_quiet(&self) -> bool {
        self.text.is_empty()
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ClientError {}
