//! Holds every answer against the OpenAPI document.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use crus_api::routes::OPENAPI;
use http::Method;
use serde_json::Value;

use crate::schema;
use crate::service::Answer;

/// The document as it is served.
pub(crate) static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(OPENAPI).unwrap());

/// The documented path that a path of a request is one of.
pub(crate) fn documented_path(path: &str) -> Option<&'static str> {
    let path = path.strip_prefix("/apis/crus").unwrap_or(path);
    let fits = |template: &str| {
        let (wanted, given) = (template.split('/'), path.split('/'));
        wanted.clone().count() == given.clone().count()
            && wanted.zip(given).all(|(wanted, given)| match wanted.starts_with('{') {
                true => !given.is_empty(),
                false => wanted == given,
            })
    };
    let mut documented = DOCUMENT["paths"].as_object().unwrap().keys().map(String::as_str);
    documented.find(|template| fits(template))
}

/// The methods that a documented path has, in the form of an `Allow` header.
pub(crate) fn allowed(path: &str) -> String {
    let mut methods = BTreeSet::from(["OPTIONS".to_owned()]);
    for name in DOCUMENT["paths"][path].as_object().unwrap().keys().filter(|name| *name != "parameters") {
        methods.insert(name.to_uppercase());
        if name == "get" {
            methods.insert("HEAD".to_owned());
        }
    }
    methods.into_iter().collect::<Vec<_>>().join(", ")
}

/// The documented answer of this status to an operation.
pub(crate) fn documented_answer(path: &str, method: &Method, status: u16) -> Option<&'static Value> {
    let method = if method == Method::HEAD { "get".to_owned() } else { method.as_str().to_lowercase() };
    let answer = DOCUMENT["paths"][path][method]["responses"].get(status.to_string())?;
    Some(schema::follow(&DOCUMENT, answer))
}

/// Checks an answer of the routes: its status is documented for the operation, its content type and body are
/// what the document says, the properties of each object in alphabetical order.
#[track_caller]
pub(crate) fn check(method: &Method, path: &str, answer: &Answer) {
    let what = format!("{method} {path} answered {}: {}", answer.status, answer.text());
    let status = answer.status.as_u16();
    let Some(known) = documented_path(path) else {
        assert_eq!(status, 404, "{what}");
        check_body(method, answer, "application/problem+json", &schema_named("Problem"), &what);
        return;
    };
    if method == Method::OPTIONS {
        assert_eq!((status, answer.header("allow")), (204, &*allowed(known)), "{what}");
        assert!(answer.body.is_empty(), "{what}");
    } else if let Some(documented) = documented_answer(known, method, status) {
        let Some(content) = documented["content"].as_object() else {
            assert!(answer.body.is_empty() && status == 304, "{what}");
            return;
        };
        let content_type = answer.header("content-type");
        if let Some((kind @ ("text/plain" | "application/openmetrics-text"), _)) =
            content_type.split_once(';')
        {
            // Texts of other standards; whoever writes them holds them to those.
            assert_eq!(content[kind]["schema"]["type"], "string", "{what}");
            return;
        }
        let documented = content.get(content_type).unwrap_or_else(|| panic!("{what} is {content_type}"));
        if content_type == "text/event-stream" {
            return check_stream(method, answer, &what);
        }
        if content_type.starts_with("text/html") {
            return assert_eq!(answer.body.is_empty(), *method == Method::HEAD, "{what}");
        }
        check_body(method, answer, content_type, &documented["schema"], &what);
    } else {
        assert_eq!((status, answer.header("allow")), (405, &*allowed(known)), "{what}");
        let has_it = allowed(known).split(", ").any(|allowed| allowed == method.as_str());
        assert!(!has_it, "{what}");
        check_body(method, answer, "application/problem+json", &schema_named("Problem"), &what);
    }
}

fn schema_named(name: &str) -> Value {
    serde_json::json!({ "$ref": format!("#/components/schemas/{name}") })
}

#[track_caller]
fn check_body(method: &Method, answer: &Answer, content_type: &str, schema: &Value, what: &str) {
    assert_eq!(answer.header("content-type"), content_type, "{what}");
    if method == Method::HEAD {
        assert!(answer.body.is_empty(), "{what}");
        return;
    }
    let body = answer.json();
    if let Err(why) = schema::check(&DOCUMENT, schema, &body) {
        panic!("{what}: {why}");
    }
    if answer.text() != OPENAPI {
        // Values are kept in alphabetical order here, so what was answered in another order differs.
        assert_eq!(answer.text(), body.to_string(), "the order of properties");
    }
    if content_type == "application/problem+json" {
        let status = answer.status;
        assert_eq!(body["status"], status.as_u16(), "{what}");
        assert_eq!(body["title"], status.canonical_reason().unwrap(), "{what}");
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.ends_with('.') && !detail.chars().any(char::is_control), "{what}");
    }
}

/// The events of a stream: each of its kind, with its number and an object as in the list.
#[track_caller]
fn check_stream(method: &Method, answer: &Answer, what: &str) {
    if method == Method::HEAD {
        assert!(answer.body.is_empty(), "{what}");
        return;
    }
    let blocks = answer.text().strip_suffix("\n\n").unwrap_or_else(|| panic!("{what}")).split("\n\n");
    for block in blocks.filter(|block| !block.starts_with(':')) {
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let Some(kind) = field("event") else {
            assert!(block.starts_with("retry: "), "{block}");
            continue;
        };
        let data: Value = serde_json::from_str(field("data").unwrap()).unwrap();
        assert_eq!(field("data"), Some(&*data.to_string()), "the order of properties");
        match kind {
            "deleted" => assert!(data["upgrade_id"].is_string() && field("id").is_none(), "{block}"),
            "gap" => assert_eq!(field("id"), Some(&*data["to"].to_string()), "{block}"),
            kind => {
                assert_eq!((field("id"), &data["kind"]), (Some(&*data["number"].to_string()), &kind.into()));
                if let Err(why) = schema::check(&DOCUMENT, &schema_named("Event"), &data) {
                    panic!("{block}: {why}");
                }
            }
        }
    }
}

#[test]
fn values_are_kept_in_alphabetical_order() {
    let value: Value = serde_json::from_str(r#"{"b":1,"a":2}"#).unwrap();
    assert_eq!(value.to_string(), r#"{"a":2,"b":1}"#);
}
