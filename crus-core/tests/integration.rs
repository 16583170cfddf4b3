//! The machine as a pure value, and what is stored of it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

mod machine;
mod stored;
