//! Reading a JSON object one property at a time, so that everything wrong with it is told at once.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::problem::Errors;

/// So many unknown properties are named in an answer; the others are counted.
const UNKNOWN_NAMED: usize = 8;

/// So many mistakes are told in an answer; the others are counted.
const TOLD: usize = 40;

/// So many characters of a property's name or of a number are repeated in an answer.
const SHOWN: usize = 64;

const TWICE: &str = "is given more than once; it must be given once";

/// What is wrong with a request, as far as it was read.
#[derive(Debug, Default)]
pub(crate) struct Mistakes {
    errors: Errors,
    /// How many properties are unknown.
    unknown: usize,
    /// How many mistakes are not among the errors.
    untold: usize,
}

impl Mistakes {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.errors.values().map(Vec::len).sum::<usize>() + self.unknown + self.untold
    }

    /// Adds one; `reason` is a clause to be read after the name.
    pub(crate) fn add(&mut self, name: &str, reason: impl Into<String>) {
        if self.errors.values().map(Vec::len).sum::<usize>() >= TOLD {
            self.untold += 1;
            return;
        }
        self.errors.entry(shown(name)).or_default().push(reason.into());
    }

    /// Everything in sentences, and by property. `known` tells the names that need no quotes.
    pub(crate) fn told(self, known: impl Fn(&str) -> bool) -> (String, Errors) {
        let mut sentences = Vec::new();
        for (name, reasons) in &self.errors {
            // A name that we do not know may hold anything: control characters stay off a terminal.
            let name = if known(name) { name.clone() } else { format!("{name:?}") };
            sentences.extend(reasons.iter().map(|reason| format!("{name} {reason}.")));
        }
        if self.unknown > UNKNOWN_NAMED {
            sentences.push(format!("{} more properties are unknown.", self.unknown - UNKNOWN_NAMED));
        }
        if self.untold > 0 {
            sentences.push(format!("{} more mistakes are not listed.", self.untold));
        }
        (sentences.join(" "), self.errors)
    }
}

/// An object of which each property is taken out as it is read.
#[derive(Default)]
pub(crate) struct Form<'a> {
    /// What stands before the names of its properties: nothing, or `strategy.`.
    prefix: String,
    /// The properties not read yet. One that is given more than once has several values.
    properties: BTreeMap<String, Vec<&'a RawValue>>,
}

impl<'a> Form<'a> {
    /// `name`: what the object is called in the request; the request itself has none.
    pub(crate) fn new(name: &str, object: Object<'a>) -> Self {
        let prefix = if name.is_empty() { String::new() } else { format!("{name}.") };
        Form { prefix, properties: object.0 }
    }

    /// What a property is called in the request.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Takes a property out. `Some(None)` when it is not given; `None` when it is given more than once, which is noted.
    pub(crate) fn take(&mut self, name: &str, mistakes: &mut Mistakes) -> Option<Option<&'a RawValue>> {
        match self.properties.remove(name).as_deref() {
            None => Some(None),
            Some([raw]) => Some(Some(raw)),
            Some(_) => {
                mistakes.add(&self.path(name), TWICE);
                None
            }
        }
    }

    /// Takes out what is left, with what each is called in the request.
    pub(crate) fn entries(&mut self, mistakes: &mut Mistakes) -> Vec<(String, &'a RawValue)> {
        let mut entries = Vec::new();
        for (name, values) in std::mem::take(&mut self.properties) {
            match values.as_slice() {
                [raw] => entries.push((name, *raw)),
                _ => mistakes.add(&self.path(&name), TWICE),
            }
        }
        entries
    }

    /// How many are left.
    pub(crate) fn left(&self) -> usize {
        self.properties.len()
    }

    /// Notes that what is left is unknown, but for what may be there and is ignored.
    pub(crate) fn refuse_rest(self, ignored: &[&str], reason: &str, mistakes: &mut Mistakes) {
        for (name, values) in &self.properties {
            if !ignored.contains(&name.as_str()) {
                mistakes.unknown += 1;
                if mistakes.unknown <= UNKNOWN_NAMED {
                    mistakes.add(&self.path(name), reason);
                }
            } else if values.len() > 1 {
                mistakes.add(&self.path(name), TWICE);
            }
        }
    }
}

/// The beginning of a text that may be long.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// `a, b and c`.
pub(crate) fn list(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The value of a property. What is in an array or object is not looked at.
pub(crate) enum Value<'a> {
    Missing,
    Null,
    Bool(bool),
    Number(&'a str),
    Text(String),
    Array(&'a RawValue),
    Object(&'a RawValue),
    /// A string with a broken escape, such as half of a surrogate pair.
    Broken,
}

impl<'a> Value<'a> {
    pub(crate) fn of(raw: &'a RawValue) -> Self {
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'n') | None => Value::Null,
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'[') => Value::Array(raw),
            Some(b'{') => Value::Object(raw),
            Some(b'"') => serde_json::from_str(text).map_or(Value::Broken, Value::Text),
            Some(_) => Value::Number(text),
        }
    }

    /// The whole number of this range, however it is written: `100`, `100.0` and `1e2` are the same in JSON.
    pub(crate) fn whole_number(&self, least: u32, most: u32) -> Option<u32> {
        let Value::Number(text) = self else { return None };
        let number: f64 = text.parse().ok()?;
        let is_whole = number.fract() == 0.0 && (f64::from(least)..=f64::from(most)).contains(&number);
        // In range and whole: the cast loses nothing.
        is_whole.then_some(number as u32)
    }

    /// The elements, when it is an array.
    pub(crate) fn elements(&self) -> Option<Vec<&'a RawValue>> {
        let Value::Array(raw) = self else { return None };
        serde_json::from_str(raw.get()).ok()
    }

    /// The properties, when it is an object; none of one that has a name with a broken escape.
    pub(crate) fn object(&self) -> Option<Object<'a>> {
        let Value::Object(raw) = self else { return None };
        serde_json::from_str(raw.get()).ok()
    }
}

/// To be read after "it is".
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Missing => f.write_str("missing"),
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(text) => f.write_str(&shown(text)),
            Value::Text(text) if text.is_empty() => f.write_str("empty"),
            Value::Text(_) => f.write_str("a string"),
            Value::Array(_) => f.write_str("an array"),
            Value::Object(_) => f.write_str("an object"),
            Value::Broken => f.write_str("a string with a broken escape"),
        }
    }
}

/// A JSON object, its values not read yet: however deep they are, that costs no stack.
pub(crate) struct Object<'a>(BTreeMap<String, Vec<&'a RawValue>>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Properties;
        impl<'de> Visitor<'de> for Properties {
            type Value = Object<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut properties = BTreeMap::<String, Vec<&RawValue>>::new();
                while let Some((name, value)) = map.next_entry()? {
                    properties.entry(name).or_default().push(value);
                }
                Ok(Object(properties))
            }
        }
        deserializer.deserialize_map(Properties)
    }
}
