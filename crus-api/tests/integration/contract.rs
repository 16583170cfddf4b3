//! The operations, line by line, and what every path has in common.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use crus_api::ServiceError;
use crus_core::UpgradeId;
use crus_core::ports::StoreError;
use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use crate::service::{Api, example, example_with, request};

const PREFIXES: [&str; 2] = ["", "/apis/crus"];
const UNKNOWN: &str = "c926acf6-b5c6-411e-ba6c-ea0448cab2ee";
const NO_SUCH_SESSION: &str = "Requested resource does not exist. Re-run request with valid ID.";

fn create(api: &Api) -> String {
    let created = api.post_json(&example()).expect(201).json();
    created["upgrade_id"].as_str().unwrap().to_owned()
}

// ---- the four operations ----------------------------------------------------------------------------------

#[test]
fn a_created_session_is_answered_whole_and_in_alphabetical_order() {
    let answer = Api::new().post_json(&example()).expect(201);
    let whole = concat!(
        r#"{"api_version":"1.13.0","completed":false,"failed_label":"nodes-that-failed","#,
        r#""kind":"ComputeUpgradeSession","messages":[],"starting_label":"nodes-to-upgrade","#,
        r#""state":"UPDATING","upgrade_id":"ffffffff-ffff-ffff-ffff-ffffffffffff","upgrade_step_size":30,"#,
        r#""upgrade_template_id":"my-bos-session-template","upgrading_label":"nodes-currently-upgrading","#,
        r#""workload_manager_type":"slurm"}"#,
    );
    assert_eq!(answer.text(), whole);
    assert_eq!(answer.header("content-type"), "application/json");
}

#[test]
fn the_list_is_in_the_order_of_creation() {
    let api = Api::new();
    assert_eq!(api.get("/session").expect(200).text(), "[]");
    let ids = [create(&api), create(&api), create(&api)];
    for prefix in PREFIXES {
        let list = api.get(&format!("{prefix}/session")).expect(200).json();
        let listed: Vec<&str> =
            list.as_array().unwrap().iter().map(|s| s["upgrade_id"].as_str().unwrap()).collect();
        assert_eq!(listed, ids);
    }
}

#[test]
fn a_session_is_found_by_its_id() {
    let api = Api::new();
    let created = api.post_json(&example()).expect(201).json();
    let id = created["upgrade_id"].as_str().unwrap();
    for prefix in PREFIXES {
        assert_eq!(api.get(&format!("{prefix}/session/{id}")).expect(200).json(), created);
        assert_eq!(api.get(&format!("{prefix}/session/{}", id.to_uppercase())).expect(200).json(), created);
    }
}

#[test]
fn a_session_can_be_deleted_as_often_as_wanted_until_it_is_gone() {
    let api = Api::new();
    let mut session = api.post_json(&example()).expect(201).json();
    session["state"] = json!("DELETING");
    let path = format!("/session/{}", session["upgrade_id"].as_str().unwrap());
    for prefix in PREFIXES {
        assert_eq!(api.send("DELETE", &format!("{prefix}{path}")).expect(200).json(), session);
    }
    assert_eq!(api.get(&path).expect(200).json(), session);
    api.forget();
    assert_eq!(api.send("DELETE", &path).expect(404).detail(), NO_SUCH_SESSION);
    assert_eq!(api.get(&path).expect(404).detail(), NO_SUCH_SESSION);
}

#[test]
fn a_session_is_created_under_either_prefix() {
    let api = Api::new();
    for prefix in PREFIXES {
        let request =
            request("POST", &format!("{prefix}/session")).header("content-type", "application/json");
        api.call(request.body(example().to_string().into()).unwrap()).expect(201);
    }
}

#[test]
fn an_unknown_or_malformed_id_is_not_there() {
    let api = Api::new();
    let id: UpgradeId = create(&api).parse().unwrap();
    let other_ways_to_write_it =
        [id.0.simple().to_string(), id.0.urn().to_string(), format!("%7B{id}%7D"), format!("{id}%20")];
    let malformed = ["x", "1", "null", "%ff", "%00", "..%2f", "-", &"f".repeat(36), &"f".repeat(4000)];
    let ids = other_ways_to_write_it.iter().map(String::as_str).chain(malformed).chain([UNKNOWN]);
    for id in ids {
        for prefix in PREFIXES {
            for method in ["GET", "DELETE"] {
                let answer = api.send(method, &format!("{prefix}/session/{id}")).expect(404);
                assert_eq!(answer.detail(), NO_SUCH_SESSION, "{id}");
            }
        }
    }
}

// ---- methods and paths ------------------------------------------------------------------------------------

#[test]
fn head_answers_as_get_does_without_the_body() {
    let api = Api::new();
    let id = create(&api);
    for path in ["/session", &format!("/session/{id}"), "/healthz", "/openapi.json", "/session/x", "/x"] {
        for prefix in PREFIXES {
            let get = api.get(&format!("{prefix}{path}"));
            let head = api.send("HEAD", &format!("{prefix}{path}"));
            assert_eq!((head.status, head.header("content-type")), (get.status, get.header("content-type")));
            assert_eq!(head.header("content-length"), get.body.len().to_string());
            assert!(head.body.is_empty());
        }
    }
}

#[test]
fn options_tells_the_methods_of_a_path() {
    let api = Api::new();
    let paths = [
        ("/session", "GET, HEAD, OPTIONS, POST"),
        (&*format!("/session/{UNKNOWN}"), "DELETE, GET, HEAD, OPTIONS"),
        (&*format!("/session/{UNKNOWN}/nodes"), "GET, HEAD, OPTIONS"),
        (&*format!("/session/{UNKNOWN}/events"), "GET, HEAD, OPTIONS"),
        (&*format!("/session/{UNKNOWN}/pause"), "OPTIONS, POST"),
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/readyz", "GET, HEAD, OPTIONS"),
        ("/metrics", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
    ];
    for (path, allow) in paths {
        for prefix in PREFIXES {
            assert_eq!(api.send("OPTIONS", &format!("{prefix}{path}")).expect(204).header("allow"), allow);
        }
    }
}

#[test]
fn a_method_that_a_path_does_not_have_is_answered_with_those_it_has() {
    let api = Api::new();
    let id = create(&api);
    for method in ["PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "BREW"] {
        let answer = api.send(method, "/session").expect(405);
        assert_eq!(answer.header("allow"), "GET, HEAD, OPTIONS, POST");
        assert_eq!(answer.detail(), "This path does not have the method. It has: GET, HEAD, OPTIONS, POST.");
    }
    for method in ["POST", "PUT", "PATCH"] {
        let answer = api.send(method, &format!("/apis/crus/session/{id}")).expect(405);
        assert_eq!(answer.header("allow"), "DELETE, GET, HEAD, OPTIONS");
    }
    api.send("POST", "/openapi.json").expect(405);
    api.send("DELETE", "/healthz").expect(405);
}

#[test]
fn any_other_path_is_not_there() {
    let api = Api::new();
    let id = create(&api);
    let paths = [
        "/",
        "/sessions",
        "/session/",
        "//session",
        "/SESSION",
        "/apis",
        "/apis/crus",
        "/apis/crus/",
        "/apis/crus/session/",
        "/apis/crus/apis/crus/session",
        "/v1/session",
        &format!("/session/{id}/"),
        &format!("/session/{id}/x"),
    ];
    for path in paths {
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            let detail = api.send(method, path).expect(404).detail();
            assert!(detail.contains("/openapi.json"), "{detail}");
        }
    }
    assert_eq!(api.get("/session").json().as_array().unwrap().len(), 1);
}

#[test]
fn what_a_client_accepts_and_asks_beside_the_path_changes_nothing() {
    let api = Api::new();
    for accept in ["text/html", "application/xml;q=1", "*/*", ""] {
        let request = request("GET", "/session?state=READY&x=%ff").header("accept", accept);
        assert_eq!(api.call(request.body(Body::empty()).unwrap()).expect(200).text(), "[]");
    }
}

#[test]
fn the_service_says_that_it_is_alive_whatever_its_store_does() {
    let api = Api::new();
    api.fail(ServiceError::ShuttingDown);
    assert_eq!(api.get("/healthz").expect(200).json(), json!({ "status": "ok" }));
}

/// P9: to take every replica out of service because a peer is away would help nobody.
#[test]
fn p9_a_peer_that_is_away_is_shown_and_makes_the_service_no_less_ready() {
    let api = Api::new();
    for prefix in PREFIXES {
        let readiness = api.get(&format!("{prefix}/readyz")).expect(200).json();
        assert_eq!(
            (&readiness["ready"], &readiness["checks"][1]["state"]),
            (&json!(true), &json!("failing"))
        );
    }
    api.health.set_ready(false);
    api.get("/readyz").expect(503);
    api.get("/healthz").expect(200);
}

#[test]
fn metrics_come_in_the_form_that_is_asked_for() {
    let api = Api::new();
    for (accept, kind, text) in [
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text", "# OpenMetrics\n"),
        ("text/plain", "text/plain", "# Prometheus\n"),
    ] {
        let request = request("GET", "/metrics").header("accept", accept).body(Body::empty()).unwrap();
        let answer = api.call(request).expect(200);
        assert!(answer.header("content-type").starts_with(kind));
        assert_eq!(answer.text(), text);
    }
}

// ---- what a body may be -----------------------------------------------------------------------------------

fn post_as(api: &Api, headers: &[(&str, &str)], body: impl Into<Body>) -> crate::service::Answer {
    let mut request = request("POST", "/session");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    api.call(request.body(body.into()).unwrap())
}

#[test]
fn a_body_must_be_said_to_be_json() {
    let api = Api::new();
    let body = || example().to_string();
    for good in
        ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json ;x"]
    {
        post_as(&api, &[("content-type", good)], body()).expect(201);
    }
    let bad = [
        "application/x-www-form-urlencoded",
        "text/plain",
        "application/jsonp",
        "application/problem+json",
        "",
    ];
    for bad in bad {
        let detail = post_as(&api, &[("content-type", bad)], body()).expect(415).detail();
        assert!(detail.contains("'Content-Type: application/json'") && detail.contains(bad), "{detail}");
    }
    let detail = post_as(&api, &[], body()).expect(415).detail();
    assert!(detail.ends_with("there was none."), "{detail}");
}

#[test]
fn a_body_must_not_be_compressed() {
    let api = Api::new();
    let json = ("content-type", "application/json");
    post_as(&api, &[json, ("content-encoding", "identity")], example().to_string()).expect(201);
    let detail = post_as(&api, &[json, ("content-encoding", "gzip")], "\x1f").expect(415).detail();
    assert!(detail.contains("Content-Encoding"), "{detail}");
}

/// The example, with spaces up to this length.
fn long_body(length: usize) -> Vec<u8> {
    let mut body = example().to_string().into_bytes();
    body.resize(length, b' ');
    body
}

/// A body whose length is not told beforehand.
fn chunked(body: &[u8]) -> Body {
    let chunks: Vec<_> = body.chunks(1000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
    Body::from_stream(stream::iter(chunks))
}

#[test]
fn a_body_may_be_64_kib_long_and_no_longer() {
    const LIMIT: usize = 64 * 1024;
    let api = Api::new();
    api.post(long_body(LIMIT)).expect(201);
    api.post(chunked(&long_body(LIMIT))).expect(201);
    for answer in [api.post(long_body(LIMIT + 1)), api.post(chunked(&long_body(LIMIT + 1)))] {
        assert_eq!(answer.expect(413).detail(), "The body is too long. It may have 65536 bytes.");
    }
}

/// Read to its end, so that the client comes to see the answer; but not for ever.
#[test]
fn a_body_that_is_too_long_is_read_on_within_reason() {
    let api = Api::new();
    let read = Arc::new(AtomicUsize::new(0));
    let of_mib = |mib: usize| {
        let read = Arc::clone(&read);
        let chunks = stream::iter(0..mib).map(move |_| {
            read.fetch_add(1, Ordering::Relaxed);
            Ok::<_, std::io::Error>(vec![b' '; 1 << 20])
        });
        Body::from_stream(chunks)
    };
    api.post(of_mib(3)).expect(413);
    assert_eq!(read.swap(0, Ordering::Relaxed), 3);
    api.post(of_mib(usize::MAX)).expect(413);
    assert_eq!(read.load(Ordering::Relaxed), 5);
    api.post(long_body(5 << 20)).expect(413);
}

#[test]
fn a_body_that_breaks_off_is_told_so() {
    let chunks = [Ok("{"), Err(std::io::Error::other("reset"))];
    let body = Body::from_stream(stream::iter(chunks));
    let detail = Api::new().post(body).expect(400).detail();
    assert_eq!(detail, "The body ended early. Send the request again.");
}

#[test]
fn what_is_not_json_is_told_where_it_is_not() {
    let api = Api::new();
    let bodies: [&[u8]; 16] = [
        b"",
        b" ",
        b"{",
        b"{]",
        b"nul",
        b"Infinity",
        b"{\"upgrade_step_size\": Infinity}",
        b"{\"upgrade_step_size\": NaN}",
        b"{\"upgrade_step_size\": 030}",
        b"{'failed_label': 'x'}",
        b"{} {}",
        b"{\"a\": 1,}",
        b"{\"\\ud800\": 1}",
        b"{\"a\": \"\xff\"}",
        b"\xef\xbb\xbf{}",
        b"failed_label=x",
    ];
    for body in bodies {
        let detail = api.post(body).expect(400).detail();
        assert!(detail.starts_with("Input is not JSON: "), "{detail}");
    }
    let detail = api.post("{\n  \"a\" 1}").expect(400).detail();
    assert!(detail.contains("line 2 column 7"), "{detail}");
}

// ---- when the service cannot ------------------------------------------------------------------------------

#[test]
fn a_service_that_cannot_says_what_to_do_and_keeps_its_secrets() {
    let id = UpgradeId(uuid::Uuid::nil());
    let secret = "/var/lib/secret".to_owned();
    let errors = [
        (ServiceError::Store(StoreError::Failed(secret.clone())), 503, "Try again later"),
        (ServiceError::Store(StoreError::Unreadable(secret.clone())), 500, "log"),
        (ServiceError::Store(StoreError::Conflict(id)), 500, "log"),
        (ServiceError::Full { limit: 1000 }, 503, "There are 1000 sessions"),
        (ServiceError::ShuttingDown, 503, "Try again once it is back"),
    ];
    for (error, status, hint) in errors {
        let api = Api::new();
        api.fail(error);
        let path = format!("/session/{id}");
        let mut answers =
            vec![api.post_json(&example()), api.get("/session"), api.get(&path), api.send("DELETE", &path)];
        answers.extend(
            ["nodes", "progress", "events", "strategy"].map(|view| api.get(&format!("{path}/{view}"))),
        );
        answers
            .extend(["pause", "resume", "retry"].map(|order| api.send("POST", &format!("{path}/{order}"))));
        for answer in answers {
            let detail = answer.expect(status).detail();
            assert!(detail.contains(hint) && !detail.contains(&secret), "{detail}");
        }
    }
}

/// Gateways and clients send again what is answered by 503.
#[test]
fn a_session_that_may_have_been_created_is_not_said_to_be_refused() {
    let id = UpgradeId(uuid::Uuid::from_u128(7));
    let api = Api::new();
    api.fail(ServiceError::MayBeCreated { id, error: StoreError::Failed("/var/lib/secret".to_owned()) });
    let detail = api.post_json(&example()).expect(504).detail();
    assert!(detail.contains(&format!("session {id} may have been created. Look")), "{detail}");
    assert!(!detail.contains("secret"), "{detail}");
}

// ---- what the real client does ----------------------------------------------------------------------------

/// `cray crus session …`: any status under 400 is success, and its body is read as JSON.
#[test]
fn the_command_line_client_of_these_systems_is_understood() {
    let api = Api::new();
    let client = |method: &str, path: &str, body: Option<&Value>| {
        let request = request(method, &format!("/apis/crus{path}"))
            .header("accept", "application/json")
            .header("authorization", "Bearer abc");
        let request = match body {
            None => request.body(Body::empty()),
            Some(body) => request.header("content-type", "application/json").body(body.to_string().into()),
        };
        let answer = api.call(request.unwrap());
        let value = answer.json();
        if answer.status.as_u16() < 400 {
            Ok(value)
        } else {
            Err(format!("Error: {}: {}", value["title"].as_str().unwrap(), value["detail"].as_str().unwrap()))
        }
    };
    let session = client("POST", "/session", Some(&example())).unwrap();
    let path = format!("/session/{}", session["upgrade_id"].as_str().unwrap());
    assert_eq!(client("GET", "/session", None).unwrap(), json!([session]));
    assert_eq!(client("GET", &path, None).unwrap(), session);
    assert_eq!(client("DELETE", &path, None).unwrap()["state"], "DELETING");
    assert_eq!(
        client("POST", "/session", Some(&example_with("upgrade_step_size", json!(0)))).unwrap_err(),
        "Error: Unprocessable Entity: Input data was understood, but failed validation. \
         upgrade_step_size is 0; it must be a whole number from 1 to 100000."
    );
    assert_eq!(
        client("GET", "/session/x", None).unwrap_err(),
        "Error: Not Found: Requested resource does not exist. Re-run request with valid ID."
    );
}
