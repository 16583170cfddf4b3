//! Logs: to stderr, as text or as JSON, one event a line, whatever it says.
//!
//! What belongs to a session is within the span `session{upgrade_id, step}`, so that the story of one session, or of one of
//! its steps, can be filtered out. In JSON the fields of all spans around an event are fields of its line.

mod lines;

use std::io::{self, IsTerminal, Write as _};
use std::str::FromStr;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use lines::Lines;

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

impl FromStr for LogFormat {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(()),
        }
    }
}

/// What is logged: a level, or levels for parts.
#[derive(Debug, Clone, PartialEq)]
pub struct LogFilter(Targets);

impl Default for LogFilter {
    fn default() -> Self {
        LogFilter(Targets::new().with_default(tracing::Level::INFO))
    }
}

impl FromStr for LogFilter {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        // To `Targets` a word alone that is no level is a part: all of it would be logged, and nothing else.
        let is_clear = |part: &str| part.contains('=') || part.trim().parse::<LevelFilter>().is_ok();
        if !text.split(',').all(is_clear) {
            return Err(());
        }
        text.parse().map(LogFilter).map_err(|_| ())
    }
}

/// Starts logging for the whole process. A log that cannot be written is lost: stderr may be closed, and the service
/// must go on.
///
/// # Errors
/// When it was started already.
pub fn start(format: LogFormat, filter: &LogFilter) -> Result<(), TryInitError> {
    let colours = format == LogFormat::Text && io::stderr().is_terminal();
    let layer = Lines { format, colours, write };
    tracing_subscriber::registry().with(layer.with_filter(filter.0.clone())).try_init()
}

/// In one go, so that the lines of several threads do not mix.
fn write(line: &str) {
    // There is no other place to say so.
    _ = io::stderr().lock().write_all(line.as_bytes());
}
