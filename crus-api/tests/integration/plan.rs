//! Plans: read like a request for a session, and nothing is created.

use crus_api::ServiceError;
use http::Request;

use crate::service::{Answer, Api, example, example_with};

fn plan(api: &Api, path: &str, body: String) -> Answer {
    let request = Request::post(path).header("content-type", "application/json");
    api.call(request.body(body.into()).unwrap())
}

#[test]
fn a_plan_is_answered_under_both_prefixes_and_creates_nothing() {
    let api = Api::new();
    for path in ["/plan", "/apis/crus/plan"] {
        let told = plan(&api, path, example().to_string()).expect(200).json();
        assert_eq!(
            (told["feasible"].as_bool(), told["steps"].as_array().map(Vec::len)),
            (Some(false), Some(2))
        );
    }
    assert_eq!(api.get("/session").json().as_array().map(Vec::len), Some(0));
}

#[test]
fn what_is_wrong_with_a_session_is_wrong_with_a_plan_in_the_same_words() {
    let api = Api::new();
    for body in [
        example_with("upgrade_step_size", 0.into()),
        example_with("strategy", serde_json::json!({ "max_failed": "many" })),
        example_with("colour", "red".into()),
    ] {
        let of_session = api.post_json(&body).expect(422).json();
        assert_eq!(plan(&api, "/plan", body.to_string()).expect(422).json(), of_session);
    }
}

#[test]
fn one_plan_too_many_is_told_when_to_come_again() {
    let api = Api::new();
    api.fail(ServiceError::Busy { limit: 2 });
    let answer = plan(&api, "/plan", example().to_string()).expect(503);
    assert_eq!(answer.header("retry-after"), "5");
    assert!(answer.detail().contains("2 plans"), "{}", answer.detail());
}
