//! As much of JSON Schema as the OpenAPI document uses. Any other word in a schema is an error, so that
//! nothing in the document goes unchecked.

use regex_lite::Regex;
use serde_json::Value;

/// Checks a value against a schema of the document.
///
/// # Errors
/// Where it does not fit, and why.
pub(crate) fn check(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let words = schema.as_object().ok_or("a schema must be an object")?;
    if value.is_null() && words.get("nullable") == Some(&Value::Bool(true)) {
        return Ok(());
    }
    for (word, rule) in words {
        let fits = match word.as_str() {
            "description" | "readOnly" | "nullable" | "default" => true,
            "$ref" => {
                check(document, resolve(document, rule), value)?;
                true
            }
            "type" => is_of_type(value, rule.as_str().ok_or("a type must be a string")?)?,
            "enum" => rule.as_array().is_some_and(|values| values.contains(value)),
            "not" => check(document, rule, value).is_err(),
            "minimum" => value.as_f64().is_none_or(|n| n >= rule.as_f64().unwrap_or(f64::NAN)),
            "maximum" => value.as_f64().is_none_or(|n| n <= rule.as_f64().unwrap_or(f64::NAN)),
            "minItems" => value.as_array().is_none_or(|list| list.len() as u64 >= rule.as_u64().unwrap_or(0)),
            "maxItems" => value.as_array().is_none_or(|list| list.len() as u64 <= rule.as_u64().unwrap_or(0)),
            "maxProperties" => value.as_object().is_none_or(|o| o.len() as u64 <= rule.as_u64().unwrap_or(0)),
            "minLength" => {
                value.as_str().is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().unwrap_or(0))
            }
            "anyOf" => {
                let schemas = rule.as_array().ok_or("anyOf must be a list")?;
                schemas.iter().any(|schema| check(document, schema, value).is_ok())
            }
            "pattern" => {
                let pattern = Regex::new(rule.as_str().unwrap_or("(")).map_err(|error| error.to_string())?;
                value.as_str().is_none_or(|text| pattern.is_match(text))
            }
            "format" if rule == "uuid" => {
                value.as_str().is_none_or(|text| text.len() == 36 && uuid::Uuid::parse_str(text).is_ok())
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    check(document, rule, item)?;
                }
                true
            }
            "required" => {
                let names = rule.as_array().ok_or("required must be a list")?;
                value.as_object().is_none_or(|object| {
                    names.iter().all(|name| name.as_str().is_some_and(|name| object.contains_key(name)))
                })
            }
            "properties" => {
                for (name, schema) in rule.as_object().ok_or("properties must be an object")? {
                    if let Some(value) = value.get(name) {
                        check(document, schema, value).map_err(|why| format!("{name}: {why}"))?;
                    }
                }
                true
            }
            "additionalProperties" => check_additional(document, schema, rule, value)?,
            other => return Err(format!("the schema has a word that is not checked: {other}")),
        };
        if !fits {
            return Err(format!("{value} does not fit {word}: {rule}"));
        }
    }
    Ok(())
}

fn check_additional(document: &Value, schema: &Value, rule: &Value, value: &Value) -> Result<bool, String> {
    let Some(object) = value.as_object() else { return Ok(true) };
    for (name, value) in object.iter().filter(|(name, _)| schema["properties"].get(name).is_none()) {
        match rule {
            Value::Bool(false) => return Err(format!("{name} is not a property")),
            schema => check(document, schema, value).map_err(|why| format!("{name}: {why}"))?,
        }
    }
    Ok(true)
}

fn is_of_type(value: &Value, kind: &str) -> Result<bool, String> {
    Ok(match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => return Err(format!("the schema has a type that is not checked: {other}")),
    })
}

/// What stands at `{"$ref": …}`, or the value itself.
pub(crate) fn follow<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    value.get("$ref").map_or(value, |reference| resolve(document, reference))
}

fn resolve<'a>(document: &'a Value, reference: &Value) -> &'a Value {
    let pointer = reference.as_str().and_then(|text| text.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or_else(|| panic!("nothing at {reference}"))
}

#[test]
fn the_checker_finds_what_does_not_fit() {
    let schema = serde_json::json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["a"],
        "properties": {
            "a": { "type": "integer", "minimum": 1, "maximum": 9 },
            "b": { "type": "array", "minItems": 1, "items": { "type": "string", "pattern": "^x+$" } },
            "c": { "format": "uuid" },
            "d": { "enum": [1, "one"] },
            "e": { "not": { "type": "boolean" } },
            "f": { "anyOf": [{ "type": "integer", "nullable": true }, { "type": "string", "minLength": 2 }] },
            "g": { "type": "array", "maxItems": 1 },
            "h": { "type": "object", "maxProperties": 1 }
        }
    });
    let good = [
        r#"{"a":1}"#,
        r#"{"a":2.0,"b":["x","xx"],"c":"c926acf6-b5c6-411e-ba6c-ea0448cab2ee","d":"one"}"#,
        r#"{"a":1,"f":null,"g":[1],"h":{"x":1}}"#,
        r#"{"a":1,"f":"xx","g":[],"h":{}}"#,
    ];
    let bad = [
        "1",
        "{}",
        r#"{"a":0}"#,
        r#"{"a":10}"#,
        r#"{"a":1.5}"#,
        r#"{"a":"1"}"#,
        r#"{"a":1,"b":[]}"#,
        r#"{"a":1,"b":["x","y"]}"#,
        r#"{"a":1,"c":"c926acf6"}"#,
        r#"{"a":1,"d":2}"#,
        r#"{"a":1,"e":true}"#,
        r#"{"a":1,"z":1}"#,
        r#"{"a":1,"f":"x"}"#,
        r#"{"a":1,"f":true}"#,
        r#"{"a":1,"g":null}"#,
        r#"{"a":1,"g":[1,2]}"#,
        r#"{"a":1,"h":{"x":1,"y":2}}"#,
    ];
    let fits = |text: &str| check(&Value::Null, &schema, &serde_json::from_str(text).unwrap());
    for text in good {
        assert_eq!(fits(text), Ok(()), "{text}");
    }
    for text in bad {
        assert!(fits(text).is_err(), "{text}");
    }
    let unknown = serde_json::json!({ "multipleOf": 3 });
    assert!(check(&Value::Null, &unknown, &Value::Null).is_err());
}
