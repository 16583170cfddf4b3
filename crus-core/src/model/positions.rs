//! Positions as ranges, `0-3,7`: a step of many thousand nodes stays a small record.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// The most positions that a stored list may stand for.
const MAX: usize = 1 << 24;

pub(super) fn serialize<S: Serializer>(positions: &[usize], to: S) -> Result<S::Ok, S::Error> {
    let mut text = String::new();
    for run in positions.chunk_by(|one, next| one + 1 == *next) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        let comma = if text.is_empty() { "" } else { "," };
        text += &match first == last {
            true => format!("{comma}{first}"),
            false => format!("{comma}{first}-{last}"),
        };
    }
    to.serialize_str(&text)
}

/// The first format listed them one by one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Ranges(String),
    Each(Vec<usize>),
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<usize>, D::Error> {
    let text = match Stored::deserialize(from)? {
        Stored::Each(positions) => return Ok(positions),
        Stored::Ranges(text) => text,
    };
    let mut positions = Vec::new();
    for range in text.split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| {
            text.parse::<usize>().map_err(|_| D::Error::custom(format!("{range:?} is no range of positions")))
        };
        let (first, last) = (number(first)?, number(last)?);
        if last.saturating_sub(first) >= MAX - positions.len().min(MAX - 1) {
            return Err(D::Error::custom("more positions than a session can have"));
        }
        positions.extend(first..=last);
    }
    Ok(positions)
}
