//! What an upgrade would come to, as the service sees it.

use serde_json::Value;

use super::error::ClientError;
use super::exit;
use super::output::{Output, pairs};

/// Lists of a plan, in the order in which they are shown; others come after them.
const LISTS: [&str; 4] = ["conditions", "steps", "lost", "warnings"];
/// So many names of nodes are shown.
const NAMES_MAX: usize = 8;

/// A plan for people: what is one value as a pair, what is a list of objects as a table.
pub(crate) fn table(output: Output, plan: &Value) -> Result<String, ClientError> {
    let Value::Object(fields) = plan else {
        return Err(ClientError::failed(
            "the service's plan is not understood; look at it with --format json",
        ));
    };
    let is_table = |value: &Value| value.as_array().is_some_and(|rows| rows.iter().any(Value::is_object));
    let single: Vec<(&str, String)> = fields
        .iter()
        .filter(|(_, value)| !is_table(value))
        .map(|(name, value)| (name.as_str(), words(value)))
        .collect();
    let mut text = pairs(&single);
    let others = fields.keys().map(String::as_str).filter(|name| !LISTS.contains(name));
    for name in LISTS.into_iter().chain(others) {
        let Some(rows) = fields.get(name).filter(|value| is_table(value)).and_then(Value::as_array) else {
            continue;
        };
        let mut head: Vec<&str> = Vec::new();
        for name in rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys()) {
            if !head.contains(&name.as_str()) {
                head.push(name);
            }
        }
        let titles: Vec<String> = head.iter().map(|name| name.replace('_', " ").to_uppercase()).collect();
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        let rows = rows.iter().map(|row| head.iter().map(|name| words(&row[*name])).collect());
        text += &format!("\n{name}\n{}", output.table(&titles, rows));
    }
    Ok(text)
}

fn words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let first: Vec<String> = values.iter().take(NAMES_MAX).map(words).collect();
            match values.len().saturating_sub(NAMES_MAX) {
                0 => first.join(", "),
                more => format!("{} and {more} more", first.join(", ")),
            }
        }
        Value::Object(fields) => {
            let told = fields.iter().filter(|(_, value)| !value.is_null());
            told.map(|(name, value)| format!("{name} {}", words(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// What a script is told: whether the upgrade could begin, and every node would make it.
pub(crate) fn code(plan: &Value) -> u8 {
    let list = |name: &str| plan[name].as_array().cloned().unwrap_or_default();
    let unmet = list("conditions").iter().any(|condition| condition["met"] == false);
    if unmet || plan["feasible"] == false || !list("lost").is_empty() { exit::NOT_ALL } else { exit::OK }
}
