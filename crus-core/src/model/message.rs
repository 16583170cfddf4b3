//! What a session says, for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::Time;

/// Something that was said, for people: once, or so many times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredMessage")]
pub struct Message {
    /// What was said. Where old messages were folded into one, `…` stands for the steps in which they differed.
    pub text: String,
    /// How often.
    #[serde(skip_serializing_if = "is_one")]
    pub times: u32,
    /// When it was said last.
    pub last: Time,
}

impl Message {
    /// Something said once.
    pub fn new(text: impl Into<String>, at: Time) -> Self {
        Message { text: text.into(), times: 1, last: at }
    }
}

/// `text`, or `text (12 times, last 10:31:07)`, in UTC.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Message { text, times, last } = self;
        match times {
            1 => f.write_str(text),
            _ => write!(f, "{text} ({times} times, last {})", last.time_of_day()),
        }
    }
}

/// A message as it is stored: the first format held texts alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum StoredMessage {
    Text(String),
    Message {
        text: String,
        #[serde(default = "one")]
        times: u32,
        last: Time,
    },
}

impl From<StoredMessage> for Message {
    fn from(stored: StoredMessage) -> Self {
        match stored {
            StoredMessage::Text(text) => Message { text, times: 1, last: Time(0) },
            StoredMessage::Message { text, times, last } => Message { text, times, last },
        }
    }
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_one(times: &u32) -> bool {
    *times == 1
}
