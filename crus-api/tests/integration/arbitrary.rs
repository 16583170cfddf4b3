//! Whatever is sent, the answer is what the document says, and never that the service failed. (proptest
//! prints the case and its seed when one fails.)

use axum::body::Body;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::document::DOCUMENT;
use crate::schema;
use crate::service::{Api, example, request};

/// A value that may be anything.
pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A value near to what the properties of a session may hold.
fn near_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => "[-A-Za-z0-9:._]{0,5}".prop_map(Value::from),
        1 => "[-a-z0-9:._]{120,260}".prop_map(Value::from),
        2 => (-2i64..100_003).prop_map(Value::from),
        1 => (-2i64..9).prop_map(|n| json!(n as f64 / 2.0)),
        1 => Just(json!("slurm")),
        1 => any_value(),
    ]
}

/// A request for a session with a few properties changed, added or taken away.
fn near_session() -> impl Strategy<Value = Value> {
    let known = DOCUMENT["components"]["schemas"]["Session"]["properties"].as_object().unwrap();
    let names: Vec<String> = known.keys().cloned().chain(["strategy".into(), "State".into()]).collect();
    let change = (prop::sample::select(names), prop::option::weighted(0.8, near_value()));
    prop::collection::vec(change, 0..4).prop_map(|changes| {
        let mut body: Map<String, Value> = example().as_object().unwrap().clone();
        for (name, value) in changes {
            match value {
                Some(value) => body.insert(name, value),
                None => body.remove(&name),
            };
        }
        Value::Object(body)
    })
}

/// Whether the document takes the body for a session. That labels differ is beyond a schema.
fn is_session(body: &Value) -> bool {
    let session = json!({ "$ref": "#/components/schemas/Session" });
    let label = |name: &str| body[name].as_str().map(str::to_ascii_lowercase);
    let [a, b, c] = ["failed_label", "starting_label", "upgrading_label"].map(label);
    schema::check(&DOCUMENT, &session, body).is_ok() && a != b && b != c && c != a
}

proptest! {
    #[test]
    fn the_service_takes_what_the_document_takes(body in near_session()) {
        let answer = Api::new().post_json(&body);
        prop_assert_eq!(answer.status.as_u16(), if is_session(&body) { 201 } else { 422 }, "{}", answer.text());
    }

    #[test]
    fn any_json_is_a_session_or_told_why_not(body in any_value()) {
        prop_assert_eq!(Api::new().post_json(&body).status.as_u16(), 422);
    }

    #[test]
    fn any_bytes_are_told_what_they_are_not(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let status = Api::new().post(body).status.as_u16();
        prop_assert!(status == 400 || status == 422, "{}", status);
    }

    #[test]
    fn a_damaged_request_is_refused_or_taken(at in 0usize..200, with in any::<u8>(), drop in any::<bool>()) {
        let mut body = example().to_string().into_bytes();
        let at = at % body.len();
        if drop {
            body.truncate(at);
        } else {
            body[at] = with;
        }
        let status = Api::new().post(body).status.as_u16();
        prop_assert!(matches!(status, 201 | 400 | 422), "{}", status);
    }

    #[test]
    fn any_request_is_answered(
        method in prop_oneof!["GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS|TRACE|CONNECT", "[A-Z]{1,9}"],
        prefix in "(/apis/crus)?",
        path in prop_oneof![
            Just("/session".to_owned()),
            "/session/(x|%[0-9a-f]{2}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})",
            "/session/(c926acf6-b5c6-411e-ba6c-ea0448cab2ee|x)/(pause|resume|retry|strategy|progress|nodes|events)",
            "(/[-a-z0-9%._~{}*:]{0,9}){1,4}",
        ],
        query in prop_oneof!["(\\?[a-z=&%]{0,9})?", "\\?(limit|after|state)=[a-z0-9,%]{0,9}"],
        accept in "(text/event-stream|application/json)",
        content_type in prop_oneof!["application/json", "[ -~]{0,40}"],
        body in prop_oneof![Just(example().to_string()), any::<String>()],
    ) {
        let uri = format!("{prefix}{path}{query}");
        prop_assume!(uri.parse::<http::Uri>().is_ok());
        let request = request(&method, &uri).header("content-type", content_type).header("accept", accept);
        let api = Api::new();
        api.add_example();
        let status = api.call(request.body(Body::from(body)).unwrap()).status.as_u16();
        prop_assert!(status < 500, "{}", status);
    }
}
