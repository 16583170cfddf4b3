//! The OpenAPI document and the routes agree, in both directions. That no answer departs from the document is
//! seen to in every other test; here, that nothing in the document is made up.

use std::collections::BTreeSet;

use axum::body::Body;
use crus_api::routes::OPENAPI;
use crus_api::{API_VERSION, ServiceError};
use crus_core::ports::StoreError;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::document::{DOCUMENT, allowed, documented_answer, documented_path};
use crate::schema;
use crate::service::{Api, example, example_with, request};

/// Every operation of the document with the statuses that it has there.
fn operations() -> Vec<(&'static str, Method, u16)> {
    let mut operations = Vec::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            let method: Method = method.to_uppercase().parse().unwrap();
            let statuses = operation["responses"].as_object().unwrap().keys();
            operations
                .extend(statuses.map(|status| (path.as_str(), method.clone(), status.parse().unwrap())));
        }
    }
    operations
}

/// The request that the example of this answer is about, and the service that it meets.
fn provoke(path: &str, method: &Method, status: u16) -> (Api, Request<Body>) {
    let api = Api::new();
    let strategy = documented_answer("/session/{upgrade_id}/strategy", &Method::GET, 200).unwrap();
    let strategy = strategy["content"]["application/json"]["example"].clone();
    let created = api.post_json(&example_with("strategy", strategy)).expect(201).json();
    let id = if status == 404 { "unknown" } else { created["upgrade_id"].as_str().unwrap() };
    let body = match status {
        400 => "starting_label=nodes-that-failed".to_owned(),
        413 => " ".repeat(65537),
        422 => {
            let mut body = example();
            body.as_object_mut().unwrap().remove("starting_label");
            body["upgrade_step_size"] = json!(0);
            body["workload_manager_type"] = json!("pbs");
            body.to_string()
        }
        _ => DOCUMENT["paths"]["/session"]["post"]["requestBody"]["content"]["application/json"]["example"]
            .to_string(),
    };
    match status {
        500 => api.fail(ServiceError::Store(StoreError::Unreadable("x".into()))),
        503 => api.fail(ServiceError::Store(StoreError::Failed("x".into()))),
        _ => {}
    }
    let content_type = if status == 415 { "application/x-www-form-urlencoded" } else { "application/json" };
    let request =
        request(method.as_str(), &path.replace("{upgrade_id}", id)).header("content-type", content_type);
    let body = if method == Method::POST { body.into() } else { Body::empty() };
    (api, request.body(body).unwrap())
}

#[test]
fn every_documented_answer_is_given_and_its_example_is_true() {
    for (path, method, status) in operations() {
        let (api, request) = provoke(path, &method, status);
        let answer = api.call(request).expect(status);
        let documented = documented_answer(path, &method, status).unwrap();
        assert!(documented["description"].is_string(), "{method} {path} {status}");
        let content = documented["content"].as_object().unwrap();
        assert_eq!(content.len(), 1, "{method} {path} {status}");
        let content = content.values().next().unwrap();
        let Some(example) = content.get("example") else { continue };
        assert_eq!(schema::check(&DOCUMENT, &content["schema"], example), Ok(()), "{method} {path} {status}");
        if example.get("upgrade_id").is_none() {
            assert_eq!(&answer.json(), example, "{method} {path} {status}");
        }
    }
}

#[test]
fn the_example_of_a_session_is_what_comes_of_the_example_of_a_request() {
    let operation = &DOCUMENT["paths"]["/session"]["post"];
    let request = &operation["requestBody"]["content"]["application/json"]["example"];
    assert_eq!(request, &example());
    let mut example = operation["responses"]["201"]["content"]["application/json"]["example"].clone();
    let created = Api::new().post_json(request).expect(201).json();
    example["upgrade_id"] = created["upgrade_id"].clone();
    assert_eq!(created, example);
}

#[test]
fn the_document_is_served_under_both_prefixes() {
    let api = Api::new();
    for path in ["/openapi.json", "/apis/crus/openapi.json"] {
        assert_eq!(api.get(path).expect(200).text(), OPENAPI);
    }
    assert_eq!(DOCUMENT["info"]["version"], API_VERSION);
    let servers: Vec<&Value> = DOCUMENT["servers"].as_array().unwrap().iter().map(|s| &s["url"]).collect();
    assert_eq!(servers, ["/apis/crus", "/"]);
}

/// A method that the document has not is answered by 405, one that it has is not: so it has every one.
#[test]
fn every_method_of_every_path_is_documented() {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    for path in paths.keys() {
        for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"] {
            let status = Api::new().send(method, &path.replace("{upgrade_id}", "x")).status;
            let has_it = allowed(path).split(", ").any(|allowed| allowed == method);
            assert_eq!(status != 405, has_it, "{method} {path}");
        }
    }
}

/// The contract of the original, `specs/crus-api.md`: its operations with their statuses.
#[test]
fn the_operations_of_the_original_are_there() {
    let operations: BTreeSet<(String, u16)> =
        operations().into_iter().map(|(path, method, status)| (format!("{method} {path}"), status)).collect();
    for (operation, statuses) in [
        ("POST /session", &[201, 400, 422][..]),
        ("GET /session", &[200]),
        ("GET /session/{upgrade_id}", &[200, 404]),
        ("DELETE /session/{upgrade_id}", &[200, 404]),
    ] {
        for status in statuses {
            assert!(operations.contains(&(operation.to_owned(), *status)), "{operation} {status}");
        }
    }
    assert_eq!(documented_path("/apis/crus/session/x"), Some("/session/{upgrade_id}"));
}

/// Every schema and answer in the document's components is used, and every object that is not open says what
/// it may hold.
#[test]
fn nothing_in_the_document_is_left_over() {
    for kind in ["schemas", "responses", "parameters"] {
        for name in DOCUMENT["components"][kind].as_object().unwrap().keys() {
            assert!(OPENAPI.contains(&format!("\"#/components/{kind}/{name}\"")), "{name} is not used");
        }
    }
    let session = &DOCUMENT["components"]["schemas"]["Session"]["properties"];
    let status = &DOCUMENT["components"]["schemas"]["SessionStatus"]["properties"];
    let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let mut sendable = names(session);
    sendable.retain(|name| name != "strategy");
    assert_eq!(sendable, names(status), "a returned session can be sent");
}
