//! The OpenAPI document and the routes agree, in both directions. That no answer departs from the document is
//! seen to in every other test; here, that nothing in the document is made up.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use crus_api::access::Role;
use crus_api::routes::OPENAPI;
use crus_api::{API_VERSION, ServiceError, Site};
use crus_core::ports::StoreError;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::access::{Known, documented_role};
use crate::document::{DOCUMENT, allowed, documented_answer, documented_path};
use crate::schema;
use crate::service::{Api, example, example_with, request, session_of_examples};

/// Answers that are not the routes': who listens gives them, before a request is read as a whole or when it takes too long.
const OF_THE_LISTENER: [u16; 4] = [408, 429, 431, 504];

/// Every operation of the document with the statuses that it has there, but for those.
fn operations() -> Vec<(&'static str, Method, u16)> {
    let mut operations = Vec::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            let method: Method = method.to_uppercase().parse().unwrap();
            let statuses = operation["responses"].as_object().unwrap().keys();
            let statuses = statuses.map(|status| status.parse().unwrap());
            let statuses = statuses.filter(|status| !OF_THE_LISTENER.contains(status));
            operations.extend(statuses.map(|status| (path.as_str(), method.clone(), status)));
        }
    }
    operations
}

/// The request that the example of this answer is about, and the service that it meets.
fn provoke(path: &str, method: &Method, status: u16, content_type: &str) -> (Api, Request<Body>) {
    if matches!(status, 401 | 403) {
        let role = documented_role(path, method).unwrap();
        let known = Known::of("alice", Role::ALL.into_iter().rfind(|known| *known < role));
        let api = Api::built(Site::default(), Arc::new(known), |api| api);
        let request = request(method.as_str(), &path.replace("{upgrade_id}", "x"));
        let request = if status == 403 { request.header("authorization", "Bearer good") } else { request };
        return (api, request.body(Body::empty()).unwrap());
    }
    let api = Api::new();
    let is_view = ["/nodes", "/progress", "/events"].iter().any(|view| path.ends_with(view));
    let id = match status {
        404 => "unknown".to_owned(),
        _ if is_view => api.add_example(),
        _ => {
            let strategy = documented_answer("/session/{upgrade_id}/strategy", &Method::GET, 200).unwrap();
            let strategy = strategy["content"]["application/json"]["example"].clone();
            let created = api.post_json(&example_with("strategy", strategy)).expect(201).json();
            created["upgrade_id"].as_str().unwrap().to_owned()
        }
    };
    if path.ends_with("/retry") && status == 200 {
        api.change(|session| {
            session.head.pause = session_of_examples().0.head.pause;
            session.head.counts.failed = 1;
        });
    }
    if status == 409 {
        api.send("DELETE", &format!("/session/{id}"));
    }
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
        503 if path == "/healthz" => api.health.set_deaf("what follows the store has ended"),
        503 if path == "/readyz" => api.health.set_ready(false),
        503 => api.fail(ServiceError::Store(StoreError::Failed("x".into()))),
        _ => {}
    }
    let query = match (status, content_type) {
        (400, _) if path.ends_with("/events") => "?limit=0&colour=red".to_owned(),
        (400, _) => "?limit=0".to_owned(),
        (_, "text/event-stream") => String::new(),
        _ => query_of_examples(path, method),
    };
    let page = if status == 404 { "unknown" } else { "api" };
    let sent_as = if status == 415 { "application/x-www-form-urlencoded" } else { "application/json" };
    let request =
        request(method.as_str(), &(path.replace("{upgrade_id}", &id).replace("{page}", page) + &query))
            .header("content-type", sent_as)
            .header("accept", content_type);
    let body = if method == Method::POST { body.into() } else { Body::empty() };
    (api, request.body(body).unwrap())
}

/// The parameters of an operation's query.
fn parameters(path: &str, method: &Method) -> Vec<&'static Value> {
    let operation = &DOCUMENT["paths"][path][method.as_str().to_lowercase()];
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    parameters.map(|given| schema::follow(&DOCUMENT, given)).filter(|given| given["in"] == "query").collect()
}

/// A query of the examples of all parameters.
fn query_of_examples(path: &str, method: &Method) -> String {
    let pairs = parameters(path, method).into_iter().map(|parameter| {
        let example = &parameter["example"];
        assert_eq!(schema::check(&DOCUMENT, &parameter["schema"], example), Ok(()), "{parameter}");
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let value = match example.as_array() {
            Some(values) => values.iter().map(text).collect::<Vec<_>>().join("%2C"),
            None => text(example),
        };
        format!("{}={value}", parameter["name"].as_str().unwrap())
    });
    let query = pairs.collect::<Vec<_>>().join("&");
    if query.is_empty() { query } else { format!("?{query}") }
}

#[test]
fn every_operation_on_sessions_says_that_it_is_behind_a_bearer_token() {
    let scheme = &DOCUMENT["components"]["securitySchemes"]["bearerAuth"];
    assert_eq!((&scheme["type"], &scheme["scheme"]), (&json!("http"), &json!("bearer")));
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        let wanted = match path.as_str() {
            "/openapi.json" | "/healthz" | "/metrics" | "/docs" | "/docs/{page}" => Value::Null,
            // It says more to who has a token.
            "/readyz" => json!([{}, { "bearerAuth": [] }]),
            _ => json!([{ "bearerAuth": [] }]),
        };
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            assert_eq!(operation["security"], wanted, "{method} {path}");
        }
    }
}

#[test]
fn every_documented_answer_is_given_and_its_example_is_true() {
    for (path, method, status) in operations() {
        let documented = documented_answer(path, &method, status).unwrap();
        assert!(documented["description"].is_string(), "{method} {path} {status}");
        if status == 304 {
            let same =
                request(method.as_str(), &path.replace("{page}", "api")).header("if-none-match", "\"1\"");
            assert!(Api::new().call(same.body(Body::empty()).unwrap()).expect(304).body.is_empty());
            continue;
        }
        let contents = documented["content"].as_object().unwrap();
        let has_two = (path.ends_with("/events") || path == "/metrics") && status == 200;
        assert_eq!(contents.len(), 1 + usize::from(has_two));
        for (content_type, content) in contents {
            let (api, request) = provoke(path, &method, status, content_type);
            let answer = api.call(request).expect(status);
            let what = format!("{method} {path} {status} {content_type}");
            let answered_type = answer.header("content-type");
            match path {
                "/metrics" => assert!(answered_type.starts_with(&format!("{content_type};")), "{what}"),
                _ => assert_eq!(answered_type, content_type, "{what}"),
            }
            // With a 503 it says something that the header is there, or is not.
            let headers = documented["headers"].as_object().filter(|_| status != 503);
            for (name, header) in headers.into_iter().flatten() {
                assert_eq!(answer.header(name), header["example"], "{what}");
            }
            let Some(example) = content.get("example") else { continue };
            assert_eq!(schema::check(&DOCUMENT, &content["schema"], example), Ok(()), "{what}");
            if content_type == "text/event-stream" {
                let told = answer.text().replace(": still here\n\n", "");
                assert_eq!(told, example.as_str().unwrap(), "{what}");
            } else if content["schema"]["$ref"] != "#/components/schemas/SessionStatus"
                && (status != 400 || path.ends_with("/events") || path == "/session")
            {
                assert_eq!(&answer.json(), example, "{what}");
            }
        }
    }
}

/// Any request may come too often or with too long a head, any body too slowly, and any order take too long.
#[test]
fn every_operation_has_the_answers_of_who_listens() {
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters")
        {
            for status in OF_THE_LISTENER {
                let method: Method = method.to_uppercase().parse().unwrap();
                let answer = documented_answer(path, &method, status);
                let may_be = match status {
                    408 => operation.get("requestBody").is_some(),
                    // Of what changes nothing it does not matter whether it was done.
                    504 => method != Method::GET && path != "/plan",
                    _ => true,
                };
                assert_eq!(answer.is_some(), may_be, "{method} {path} {status}");
                let Some(answer) = answer else { continue };
                let content = &answer["content"]["application/problem+json"];
                assert_eq!(schema::check(&DOCUMENT, &content["schema"], &content["example"]), Ok(()));
                assert_eq!(content["example"]["status"], status);
            }
        }
    }
}

/// What a query may hold is what the document says.
#[test]
fn every_parameter_of_a_query_is_documented() {
    let api = Api::new();
    let id = api.add_example();
    for path in ["/session/{upgrade_id}/nodes", "/session/{upgrade_id}/events"] {
        let known: Vec<&str> = parameters(path, &Method::GET)
            .iter()
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let problem = api.get(&format!("{}?colour=red", path.replace("{upgrade_id}", &id))).expect(400);
        let told = problem.detail();
        let (_, has) = told.split_once("it has ").unwrap();
        let mut accepted: Vec<&str> = has.trim_end_matches('.').split([',', ' ']).collect();
        accepted.retain(|word| !word.is_empty() && *word != "and");
        let sorted = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(sorted(&known), sorted(&accepted), "{path}");
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
            let status =
                Api::new().send(method, &path.replace("{upgrade_id}", "x").replace("{page}", "api")).status;
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
