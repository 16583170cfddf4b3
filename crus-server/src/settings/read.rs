//! How values are read. What is wrong with one is said as what would be right: "must be …".

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use crus_clients::http::BaseUrl;
use toml::Value;

use super::NONE;

pub(super) fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    value.map(|value| *place = value)
}

/// "…" is not right; it must be this.
pub(super) fn must_be(what: &str) -> String {
    format!("must be {what}")
}

pub(super) fn text(value: &Value) -> Option<&str> {
    value.as_str().map(str::trim).filter(|text| !text.is_empty())
}

pub(super) fn parsed<T: FromStr>(value: &Value, right: &str) -> Result<T, String> {
    text(value).and_then(|text| text.parse().ok()).ok_or_else(|| must_be(right))
}

pub(super) fn path(value: &Value) -> Result<PathBuf, String> {
    text(value).map(PathBuf::from).ok_or_else(|| must_be("the path of a file"))
}

pub(super) fn optional<T>(
    value: &Value,
    read: impl Fn(&Value) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if text(value) == Some(NONE) {
        return Ok(None);
    }
    read(value).map(Some).map_err(|right| format!("{right}, or {NONE}"))
}

pub(super) fn integer<T>(value: &Value, range: RangeInclusive<T>) -> Result<T, String>
where
    T: TryFrom<i64> + PartialOrd + std::fmt::Display,
{
    let number = match value {
        Value::Integer(number) => Some(*number),
        other => text(other).and_then(|text| text.parse().ok()),
    };
    number
        .and_then(|number| T::try_from(number).ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| must_be(&format!("a whole number from {} to {}", range.start(), range.end())))
}

/// Seconds, fractions allowed, as milliseconds.
pub(super) fn seconds(value: &Value, range: RangeInclusive<f64>) -> Result<u64, String> {
    let number = match value {
        Value::Integer(number) => number.to_string().parse().ok(),
        Value::Float(number) => Some(*number),
        other => text(other).and_then(|text| text.parse::<f64>().ok()),
    };
    number
        .filter(|number| range.contains(number))
        .and_then(|number| std::time::Duration::try_from_secs_f64(number).ok())
        .and_then(|duration| u64::try_from(duration.as_millis()).ok())
        .ok_or_else(|| must_be(&format!("a number of seconds from {} to {}", range.start(), range.end())))
}

pub(super) fn url(value: &Value) -> Result<String, String> {
    let good = text(value).filter(|text| text.parse::<BaseUrl>().is_ok());
    good.map(|text| text.trim_end_matches('/').to_owned()).ok_or_else(|| {
        must_be("a URL of http:// or https://, a host and a path, without a user, a password, '?' and '#'")
    })
}

/// A program and its leading arguments. Nothing here goes through a shell, so nothing is quoted.
pub(super) fn command(value: &Value) -> Result<Vec<String>, String> {
    let words = match value {
        Value::Array(words) => words.iter().map(|word| word.as_str().map(str::to_owned)).collect(),
        other => text(other).and_then(|text| match text.starts_with('[') {
            true => toml::from_str::<toml::Table>(&format!("words = {text}"))
                .ok()
                .and_then(|table| table.get("words")?.clone().try_into::<Vec<String>>().ok()),
            false => Some(text.split_whitespace().map(str::to_owned).collect()),
        }),
    };
    words.filter(|words: &Vec<String>| words.first().is_some_and(|program| !program.is_empty())).ok_or_else(
        || must_be("a program and its leading arguments, divided by spaces or as an array of strings"),
    )
}

/// A table, as it stands in the file or written into one line.
pub(super) fn table(value: &Value) -> Option<toml::Table> {
    match value {
        Value::Table(table) => Some(table.clone()),
        other => {
            text(other).and_then(|text| match toml::from_str::<toml::Table>(&format!("table = {text}")) {
                Ok(mut line) => match line.remove("table") {
                    Some(Value::Table(table)) if line.is_empty() => Some(table),
                    _ => None,
                },
                Err(_) => None,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_may_have_fractions_and_are_bounded() {
        let read = |value: Value| seconds(&value, 0.01..=10.0);
        assert_eq!(read(Value::Float(0.05)), Ok(50));
        assert_eq!(read(Value::Integer(2)), Ok(2000));
        assert_eq!(read(Value::String("1.5".into())), Ok(1500));
        for bad in ["", "0", "-1", "11", "NaN", "inf", "5s", "1e-9"] {
            let error = read(Value::String(bad.into())).unwrap_err();
            assert_eq!(error, "must be a number of seconds from 0.01 to 10", "{bad}");
        }
        assert!(read(Value::Boolean(true)).is_err());
    }

    #[test]
    fn a_command_is_words_or_an_array() {
        let read = |text: &str| command(&Value::String(text.into()));
        assert_eq!(read("nice -n5  scontrol"), Ok(vec!["nice".into(), "-n5".into(), "scontrol".into()]));
        assert_eq!(
            read("['/my tools/scontrol', \"-M\"]"),
            Ok(vec!["/my tools/scontrol".into(), "-M".into()])
        );
        for bad in ["", "  ", "[]", "[1]", "['a'"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_url_is_of_the_web_and_without_secrets() {
        let read = |text: &str| url(&Value::String(text.into()));
        assert_eq!(read("https://api/apis/bos/v2/").unwrap(), "https://api/apis/bos/v2");
        for bad in
            ["", "api/v2", "ftp://api", "https://me:secret@api", "https://api?x=1", "http://api#x", "http://"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
