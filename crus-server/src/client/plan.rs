//! What an upgrade would come to, as the service sees it.

use serde_json::Value;

use super::error::ClientError;
use super::exit;
use super::output::{Output, pairs};

/// A plan for people: what is one value as a pair, what is a list of objects as a table.
pub(crate) fn table(output: Output, plan: &Value) -> Result<String, ClientError> {
    let mut text = String::new();
    let mut single = Vec::new();
    let mut tables = Vec::new();
    for (name, value) in plan.as_object().into_iter().flatten() {
        match value {
            Value::Array(rows) if rows.iter().any(Value::is_object) => tables.push((name, rows)),
            value => single.push((name.as_str(), words(value))),
        }
    }
    text += &pairs(&single);
    for (name, rows) in tables {
        let mut head: Vec<&str> = Vec::new();
        for name in rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys()) {
            if !head.contains(&name.as_str()) {
                head.push(name);
            }
        }
        let rows = rows.iter().map(|row| head.iter().map(|name| words(&row[*name])).collect());
        text += &format!("\n{name}\n{}", output.table(&head, rows));
    }
    Ok(text)
}

fn words(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{name} {}", words(value)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}

/// Whether it could be done: what a script is told.
pub(crate) fn code(plan: &Value) -> u8 {
    match plan["feasible"].as_bool() {
        Some(false) => exit::NOT_ALL,
        _ => exit::OK,
    }
}
