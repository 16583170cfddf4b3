//! What BOS accepts, and how it words what is wrong. An error is the problem's `detail`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::cluster::bos::{NewSession, Operation};
use crate::config::{BootSet, TemplateSpec};

/// The longest id of a component; a whole list of them must fit too.
pub(super) const ID_MAX: usize = 127;
const NAME_MAX: usize = 127;
const NAME_PATTERN: &str = "^[a-zA-Z0-9](?:[-._a-zA-Z0-9]{0,125}[a-zA-Z0-9])?$";
const LIMIT_MAX: usize = 524_288;
const PAGE_MAX: usize = 1_048_576;

type Object = Map<String, Value>;

/// A value as the validator prints it: text in single quotes.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    }
}

/// Refuses properties that are not in the schema.
fn only(body: &Object, known: &[&str]) -> Result<(), String> {
    let unknown: Vec<String> =
        body.keys().filter(|key| !known.contains(&key.as_str())).map(|key| format!("'{key}'")).collect();
    match unknown.as_slice() {
        [] => Ok(()),
        [one] => Err(format!("Additional properties are not allowed ({one} was unexpected)")),
        many => Err(format!("Additional properties are not allowed ({} were unexpected)", many.join(", "))),
    }
}

fn required(body: &Object, keys: &[&str]) -> Result<(), String> {
    match keys.iter().find(|key| !body.contains_key(**key)) {
        Some(key) => Err(format!("'{key}' is a required property")),
        None => Ok(()),
    }
}

fn not_of_type(value: &Value, kind: &str, key: &str) -> String {
    format!("{} is not of type '{kind}' - '{key}'", shown(value))
}

fn text<'a>(body: &'a Object, key: &str, max: usize) -> Result<Option<&'a str>, String> {
    match body.get(key) {
        None => Ok(None),
        Some(Value::String(text)) if text.chars().count() > max => {
            Err(format!("'{text}' is too long - '{key}'"))
        }
        Some(Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(not_of_type(other, "string", key)),
    }
}

fn name<'a>(body: &'a Object, key: &str) -> Result<Option<&'a str>, String> {
    let Some(text) = text(body, key, NAME_MAX)? else { return Ok(None) };
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    let good = text.chars().all(|c| alphanumeric(c) || "-._".contains(c))
        && text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric);
    match (text, good) {
        ("", _) => Err(format!("'' is too short - '{key}'")),
        (text, false) => Err(format!("'{text}' does not match '{NAME_PATTERN}' - '{key}'")),
        (text, true) => Ok(Some(text)),
    }
}

fn flag(body: &Object, key: &str) -> Result<Option<bool>, String> {
    match body.get(key) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(not_of_type(other, "boolean", key)),
    }
}

/// The body of `POST /sessions`. Without a name of its own the name is empty.
pub(super) fn session(body: &Object) -> Result<NewSession, String> {
    required(body, &["operation", "template_name"])?;
    only(body, &["name", "operation", "template_name", "limit", "stage", "include_disabled"])?;
    let operation = match body.get("operation") {
        Some(Value::String(word)) if word == "boot" => Operation::Boot,
        Some(Value::String(word)) if word == "reboot" => Operation::Reboot,
        Some(Value::String(word)) if word == "shutdown" => Operation::Shutdown,
        other => {
            let other = shown(other.unwrap_or(&Value::Null));
            return Err(format!("{other} is not one of ['boot', 'reboot', 'shutdown'] - 'operation'"));
        }
    };
    let limit = match body.get("limit") {
        Some(Value::Null) => None,
        _ => text(body, "limit", LIMIT_MAX)?,
    };
    Ok(NewSession {
        name: name(body, "name")?.unwrap_or_default().to_owned(),
        operation,
        template_name: name(body, "template_name")?.unwrap_or_default().to_owned(),
        limit: limit.unwrap_or_default().to_owned(),
        stage: flag(body, "stage")?.unwrap_or(false),
        include_disabled: flag(body, "include_disabled")?.unwrap_or(false),
    })
}

/// The body of `PUT /sessiontemplates/T`.
pub(in crate::http) fn template(body: &Object) -> Result<TemplateSpec, String> {
    required(body, &["boot_sets"])?;
    only(body, &["boot_sets", "cfs", "description", "enable_cfs", "links", "name", "tenant"])?;
    let sets = match body.get("boot_sets") {
        Some(Value::Object(sets)) if sets.is_empty() => {
            return Err("{} does not have enough properties - 'boot_sets'".to_owned());
        }
        Some(Value::Object(sets)) => sets,
        other => return Err(not_of_type(other.unwrap_or(&Value::Null), "object", "boot_sets")),
    };
    let mut boot_sets = BTreeMap::new();
    for (name, set) in sets {
        let at = |error: String| match error.strip_suffix('\'').and_then(|e| e.rsplit_once(" - '")) {
            Some((what, key)) => format!("{what} - 'boot_sets.{name}.{key}'"),
            None => format!("{error} - 'boot_sets.{name}'"),
        };
        let Value::Object(set) = set else {
            return Err(not_of_type(set, "object", &format!("boot_sets.{name}")));
        };
        boot_sets.insert(name.clone(), boot_set(set).map_err(at)?);
    }
    Ok(TemplateSpec { boot_sets, broken: None })
}

fn boot_set(set: &Object) -> Result<BootSet, String> {
    required(set, &["path", "type"])?;
    only(
        set,
        &[
            "arch",
            "cfs",
            "etag",
            "kernel_parameters",
            "name",
            "node_groups",
            "node_list",
            "node_roles_groups",
            "path",
            "rootfs_provider",
            "rootfs_provider_passthrough",
            "type",
        ],
    )?;
    let arch = text(set, "arch", NAME_MAX)?.unwrap_or("X86");
    if !["X86", "ARM", "Other", "Unknown"].contains(&arch) {
        return Err(format!("'{arch}' is not one of ['X86', 'ARM', 'Other', 'Unknown'] - 'arch'"));
    }
    Ok(BootSet {
        node_groups: names(set, "node_groups")?,
        node_list: names(set, "node_list")?,
        node_roles_groups: names(set, "node_roles_groups")?,
        arch: arch.to_owned(),
    })
}

fn names(set: &Object, key: &str) -> Result<Vec<String>, String> {
    match set.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) if list.is_empty() => Err(format!("[] is too short - '{key}'")),
        Some(Value::Array(list)) => list
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(text.clone()),
                other => Err(not_of_type(other, "string", key)),
            })
            .collect(),
        Some(other) => Err(not_of_type(other, "array", key)),
    }
}

/// The body of `PATCH /components/X`: `enabled`, when it is given.
///
/// # Errors
/// Also for what the real one could change and the model cannot.
pub(super) fn component_patch(body: &Object) -> Result<Option<bool>, String> {
    const UNCHANGEABLE: [&str; 9] = [
        "actual_state",
        "desired_state",
        "error",
        "event_stats",
        "last_action",
        "retry_policy",
        "session",
        "staged_state",
        "status",
    ];
    if body.is_empty() {
        return Err("{} does not have enough properties".to_owned());
    }
    if let Some(key) = body.keys().find(|key| UNCHANGEABLE.contains(&key.as_str())) {
        return Err(format!(
            "the simulated BOS changes nothing of a component but 'enabled', so not '{key}'"
        ));
    }
    only(body, &["id", "enabled"])?;
    text(body, "id", ID_MAX)?;
    flag(body, "enabled")
}

/// `true` or `false` in a query.
pub(super) fn boolean(key: &str, text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("Wrong type, expected 'boolean' for query parameter '{key}'")),
    }
}

/// `page_size` in a query; 0 is no limit.
pub(super) fn page_size(text: &str) -> Result<usize, String> {
    match text.parse::<i64>() {
        Err(_) => Err("Wrong type, expected 'integer' for query parameter 'page_size'".to_owned()),
        Ok(number) if number < 0 => Err(format!("{number} is less than the minimum of 0")),
        Ok(number) => match usize::try_from(number) {
            Ok(size) if size <= PAGE_MAX => Ok(size),
            _ => Err(format!("{number} is greater than the maximum of {PAGE_MAX}")),
        },
    }
}

/// An age such as `3m`, `5h`, `10d` or `2w`, in milliseconds.
pub(super) fn age_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' does not match '^(0|0[mMhHdDwW]|[1-9][0-9]*[mMhHdDwW])$'");
    if text == "0" {
        return Ok(0);
    }
    let unit = text.chars().last().ok_or_else(wrong)?;
    let minutes = match unit.to_ascii_lowercase() {
        'm' => 1,
        'h' => 60,
        'd' => 24 * 60,
        'w' => 7 * 24 * 60,
        _ => return Err(wrong()),
    };
    let number = &text[..text.len() - unit.len_utf8()];
    if number.len() > 7 || !number.chars().all(|c| c.is_ascii_digit()) {
        return Err(wrong());
    }
    number.parse::<u64>().map(|number| number * minutes * 60_000).map_err(|_| wrong())
}
