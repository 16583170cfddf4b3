//! The JSON in a token: read so that it can mean one thing alone, and looked into by paths.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A value in whose objects no name stands twice: of two, one reader takes the first and another the last.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Strict(pub(super) Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
        Ok(Strict(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Strict, A::Error> {
        let mut values = Vec::new();
        while let Some(Strict(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Strict(Value::Array(values)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Strict, A::Error> {
        let mut values = Map::new();
        while let Some((name, Strict(value))) = object.next_entry::<String, Strict>()? {
            if values.insert(name, value).is_some() {
                return Err(de::Error::custom("a name stands twice"));
            }
        }
        Ok(Strict(Value::Object(values)))
    }
}

/// Where in the claims of a token something is: names of objects, one in the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(Vec<String>);

impl ClaimPath {
    /// The path of these names.
    pub(super) fn dotted(names: &[&str]) -> Self {
        ClaimPath(names.iter().map(|name| (*name).to_owned()).collect())
    }

    /// What is there. Objects alone are gone into, never lists.
    pub(super) fn find<'a>(&self, claims: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(claims, |value, name| value.as_object()?.get(name))
    }
}

impl std::str::FromStr for ClaimPath {
    type Err = ();

    /// `realm_access.roles`, or, for names that hold a dot, as a JSON pointer: `/https:~1~1site.example~1roles`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let names: Vec<String> = match text.strip_prefix('/') {
            Some(pointer) => {
                pointer.split('/').map(|name| name.replace("~1", "/").replace("~0", "~")).collect()
            }
            None => text.split('.').map(str::to_owned).collect(),
        };
        if names.iter().any(String::is_empty) { Err(()) } else { Ok(ClaimPath(names)) }
    }
}

/// The words of a claim: of a list each text, of a text each word between spaces (as the claim `scope` has them).
pub(super) fn words(claim: &Value) -> Vec<&str> {
    match claim {
        Value::String(text) => text.split(' ').filter(|word| !word.is_empty()).collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn no_name_stands_twice_however_deep_or_disguised() {
        let read = |text: &str| serde_json::from_str::<Strict>(text);
        let text = r#"{"a":[1,-2,0.5,null,true,{"b":"x"}],"c":{"b":"y"}}"#;
        assert_eq!(read(text).unwrap().0, serde_json::from_str::<Value>(text).unwrap());
        for bad in [r#"{"a":1,"a":1}"#, r#"{"x":[{"a":1,"a":2}]}"#, r#"{"a":1,"\u0061":2}"#, "{", "", "[1,]"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(&"[".repeat(100_000)).is_err(), "and no depth is a danger");
    }

    #[test]
    fn a_path_goes_into_objects_alone() {
        let claims = json!({
            "realm_access": { "roles": ["a"] },
            "realm_access.roles": ["b"],
            "list": [{ "roles": "c" }],
            "https://site.example/roles": ["d"],
        });
        let find = |path: &str| path.parse::<ClaimPath>().unwrap().find(&claims).cloned();
        assert_eq!(find("realm_access.roles"), Some(json!(["a"])));
        assert_eq!(find("/realm_access.roles"), Some(json!(["b"])));
        assert_eq!(find("/https:~1~1site.example~1roles"), Some(json!(["d"])));
        for none in ["list.roles", "list.0.roles", "realm_access.roles.0", "roles", "/list/0"] {
            assert_eq!(find(none), None, "{none}");
        }
        for bad in ["", ".", "a.", "a..b", "/"] {
            assert!(bad.parse::<ClaimPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn words_are_those_of_a_text_or_the_texts_of_a_list() {
        assert_eq!(words(&json!("openid  crus-read")), ["openid", "crus-read"]);
        assert_eq!(words(&json!(["a b", ["c"], { "d": "e" }, 7, null, "f"])), ["a b", "f"]);
        for none in [json!(null), json!(true), json!({ "crus-read": true }), json!(7)] {
            assert!(words(&none).is_empty(), "{none}");
        }
    }
}
