//! What is logged, and how.

use toml::Value;

use super::Setting;
use super::read::{parsed, put};
use crate::logging::LogFilter;

const HEADING: &str = "Logs";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "log",
        value: "FILTER",
        default: "info",
        heading: HEADING,
        help: "What is logged, to stderr: a level (error, warn, info, debug, trace, off), or levels for parts, \
               such as info,crus_clients=debug",
        set: |c, v| put(&mut c.log, log_filter(v)),
    },
    Setting {
        key: "log_format",
        value: "FORMAT",
        default: "text",
        heading: HEADING,
        help: "text, or json for one object a line",
        set: |c, v| put(&mut c.log_format, parsed(v, "text or json")),
    },
];

fn log_filter(value: &Value) -> Result<LogFilter, String> {
    parsed(value, "a level (error, warn, info, debug, trace, off) or a list such as info,crus_clients=debug")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_does_not_silence_the_log() {
        let read = |text: &str| log_filter(&Value::String(text.into())).is_ok();
        for good in ["info", "OFF", "warn,crus_clients=debug", "crus_core=trace"] {
            assert!(read(good), "{good}");
        }
        for bad in ["inof", "info,crus_clients", "crus_core=loud", ""] {
            assert!(!read(bad), "{bad}");
        }
    }
}
