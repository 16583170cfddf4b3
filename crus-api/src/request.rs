//! What a request must hold to become a session.
//!
//! Every property is looked at, so that all that is wrong with a request is told at once. Nothing is guessed:
//! `"30"`, `3.5` and `true` are not step sizes. Nothing is silently ignored either, but for the read-only
//! properties of a session that was answered before, so that it can be sent back as a new one.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;

use crus_core::names::InvalidName;
use crus_core::{GroupLabel, Spec, TemplateName};
use http::StatusCode;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::problem::{Errors, Problem};

/// The largest `upgrade_step_size`: more nodes than any machine has. A larger one is a slip of the hand, and
/// means "all at once".
pub const MAX_STEP_SIZE: u32 = 100_000;

/// The properties of a request, all of them required.
const PROPERTIES: [&str; 6] = [
    "failed_label",
    "starting_label",
    "upgrade_step_size",
    "upgrade_template_id",
    "upgrading_label",
    "workload_manager_type",
];

/// What a session that was answered has beside them.
const READ_ONLY: [&str; 6] = ["api_version", "completed", "kind", "messages", "state", "upgrade_id"];

/// So many unknown properties are named in an answer; the others are counted.
const UNKNOWN_NAMED: usize = 8;

/// So many characters of a property's name or of a number are repeated in an answer.
const SHOWN: usize = 64;

/// Reads the body of a request for a session.
///
/// # Errors
/// 400 when it is not JSON, 422 when it is not a session.
pub fn spec(body: &[u8]) -> Result<Spec, Problem> {
    let not_json = |why: &dyn fmt::Display| {
        let detail = format!(
            "Input is not JSON: {why}. Send a JSON object with the properties {}.",
            list(&PROPERTIES)
        );
        Problem::new(StatusCode::BAD_REQUEST, detail)
    };
    let text = std::str::from_utf8(body).map_err(|error| not_json(&error))?;
    let document: &RawValue = serde_json::from_str(text).map_err(|error| not_json(&error))?;
    if !document.get().starts_with('{') {
        let reason = format!("must be a JSON object with the properties {}", list(&PROPERTIES));
        let detail = format!("The body {reason}; it is {}.", Value::of(document));
        return Err(invalid(&detail, Errors::from([("body".to_owned(), vec![reason])])));
    }
    let object: Object<'_> = serde_json::from_str(document.get()).map_err(|error| not_json(&error))?;
    Form { properties: object.0, errors: Errors::new(), unknown: 0 }.read()
}

/// A request as far as it is read.
struct Form<'a> {
    /// The properties not read yet. One that is given more than once has several values.
    properties: BTreeMap<String, Vec<&'a RawValue>>,
    errors: Errors,
    /// How many properties are unknown.
    unknown: usize,
}

impl Form<'_> {
    fn read(mut self) -> Result<Spec, Problem> {
        let starting = self.label("starting_label", "of the nodes to upgrade");
        let upgrading = self.label("upgrading_label", "that will hold the nodes in flight");
        let failed = self.label("failed_label", "that will receive the nodes that fail");
        self.check_labels_differ([
            ("starting_label", &starting),
            ("upgrading_label", &upgrading),
            ("failed_label", &failed),
        ]);
        let step_size = self.property("upgrade_step_size", |value| {
            whole_number(value)
                .ok_or_else(|| format!("is {value}; it must be a whole number from 1 to {MAX_STEP_SIZE}"))
        });
        let template = self.text(
            "upgrade_template_id",
            "must be the name of a BOS session template",
            name_of(TemplateName::new),
        );
        let slurm = "must be \"slurm\", the only workload manager supported";
        let wlm = self.text("workload_manager_type", slurm, |text| match text {
            "slurm" => Ok(()),
            _ => Err(slurm.to_owned()),
        });
        self.check_rest();
        match (starting, upgrading, failed, step_size, template, wlm) {
            (Some(starting), Some(upgrading), Some(failed), Some(step_size), Some(template), Some(()))
                if self.errors.is_empty() =>
            {
                let strategy = crus_core::Strategy::default();
                Ok(Spec { starting, upgrading, failed, step_size, template, strategy })
            }
            _ => Err(self.problem()),
        }
    }

    /// Reads a required property. `None` when it is not right, which is noted.
    fn property<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Value<'_>) -> Result<T, String>,
    ) -> Option<T> {
        let value = match self.properties.remove(name).as_deref() {
            None => Value::Missing,
            Some([raw]) => Value::of(raw),
            Some(_) => {
                self.refuse(name, TWICE.to_owned());
                return None;
            }
        };
        match read(&value) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.refuse(name, reason);
                None
            }
        }
    }

    /// Reads a required text; `rule` says what it must be.
    fn text<T>(
        &mut self,
        name: &'static str,
        rule: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.property(name, |value| match value {
            Value::Text(text) if !text.is_empty() => read(text),
            _ => Err(format!("is {value}; it {rule}")),
        })
    }

    fn label(&mut self, name: &'static str, of: &str) -> Option<GroupLabel> {
        self.text(name, &format!("must be the label of the HSM group {of}"), name_of(GroupLabel::new))
    }

    /// A group that were two of the three would be emptied of the nodes that it is there to hold. Labels are
    /// compared in lower case, as HSM does.
    fn check_labels_differ(&mut self, labels: [(&'static str, &Option<GroupLabel>); 3]) {
        for (name, label) in labels {
            let same = |(other, value): &(&str, &Option<GroupLabel>)| *other != name && *value == label;
            let others: Vec<&str> =
                labels.iter().filter(|other| same(other)).map(|(other, _)| *other).collect();
            if label.is_some() && !others.is_empty() {
                self.refuse(name, format!("must differ from {}", list(&others)));
            }
        }
    }

    /// What is left is read-only or unknown.
    fn check_rest(&mut self) {
        for (name, values) in std::mem::take(&mut self.properties) {
            if !READ_ONLY.contains(&name.as_str()) {
                self.unknown += 1;
                if self.unknown <= UNKNOWN_NAMED {
                    self.refuse(&name, "is not a property of a session".to_owned());
                }
            } else if values.len() > 1 {
                self.refuse(&name, TWICE.to_owned());
            }
        }
    }

    fn refuse(&mut self, name: &str, reason: String) {
        self.errors.entry(shown(name)).or_default().push(reason);
    }

    fn problem(self) -> Problem {
        let mut sentences = Vec::new();
        for (name, reasons) in &self.errors {
            // A name that we do not know may hold anything: control characters stay off a terminal.
            let known = PROPERTIES.contains(&name.as_str()) || READ_ONLY.contains(&name.as_str());
            let name = if known { name.clone() } else { format!("{name:?}") };
            sentences.extend(reasons.iter().map(|reason| format!("{name} {reason}.")));
        }
        if self.unknown > UNKNOWN_NAMED {
            sentences.push(format!("{} more properties are unknown.", self.unknown - UNKNOWN_NAMED));
        }
        if self.unknown > 0 {
            sentences.push(format!("The properties of a session are {}.", list(&PROPERTIES)));
        }
        invalid(&sentences.join(" "), self.errors)
    }
}

const TWICE: &str = "is given more than once; it must be given once";

fn invalid(detail: &str, errors: Errors) -> Problem {
    let detail = format!("Input data was understood, but failed validation. {detail}");
    Problem { errors: Some(errors), ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail) }
}

/// Reads a name, telling its rule when it is not one.
fn name_of<T>(new: fn(&str) -> Result<T, InvalidName>) -> impl FnOnce(&str) -> Result<T, String> {
    move |text| new(text).map_err(|error| error.rule().to_owned())
}

/// A number without a fractional part, however it is written: `100`, `100.0` and `1e2` are the same in JSON.
fn whole_number(value: &Value<'_>) -> Option<NonZeroU32> {
    let Value::Number(text) = value else { return None };
    let number: f64 = text.parse().ok()?;
    let is_whole = number.fract() == 0.0 && (1.0..=f64::from(MAX_STEP_SIZE)).contains(&number);
    // In range and whole: the cast loses nothing.
    if is_whole { NonZeroU32::new(number as u32) } else { None }
}

/// `a, b and c`.
fn list(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// The beginning of a text that may be long.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// The value of a property. What is in an array or object is not looked at.
enum Value<'a> {
    Missing,
    Null,
    Bool(bool),
    Number(&'a str),
    Text(String),
    Array,
    Object,
    /// A string with a broken escape, such as half of a surrogate pair.
    Broken,
}

impl<'a> Value<'a> {
    fn of(raw: &'a RawValue) -> Self {
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'n') | None => Value::Null,
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'[') => Value::Array,
            Some(b'{') => Value::Object,
            Some(b'"') => serde_json::from_str(text).map_or(Value::Broken, Value::Text),
            Some(_) => Value::Number(text),
        }
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
            Value::Array => f.write_str("an array"),
            Value::Object => f.write_str("an object"),
            Value::Broken => f.write_str("a string with a broken escape"),
        }
    }
}

/// A JSON object, its values not read yet: however deep they are, that costs no stack.
struct Object<'a>(BTreeMap<String, Vec<&'a RawValue>>);

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
