//! BOS v2: session templates, sessions, components.

use super::*;

fn reboot(name: &str, limit: &str) -> Value {
    json!({"name": name, "operation": "reboot", "template_name": "new-image", "limit": limit})
}

#[tokio::test]
async fn a_session_is_created_once() {
    let routes = router(&still());
    let created = post(&routes, "/v2/sessions", reboot("mine", &xname(1))).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(
        created.json(),
        json!({
            "components": "",
            "include_disabled": false,
            "limit": "x1000c0s1b0n0",
            "name": "mine",
            "operation": "reboot",
            "stage": false,
            "status": {"end_time": null, "error": null, "start_time": "2026-01-01T00:00:00", "status": "pending"},
            "template_name": "new-image",
            "tenant": "",
        })
    );
    let again = post(&routes, "/apis/bos/v2/sessions", reboot("mine", &xname(2))).await;
    is_problem(&again, 409, "Session 'mine' already exists");
    assert_eq!(again.json()["title"], "The resource to be created already exists");
    let named_by_bos = json!({"operation": "reboot", "template_name": "new-image", "limit": xname(2)});
    let named_by_bos = post(&routes, "/v2/sessions", named_by_bos).await.json();
    assert_eq!(named_by_bos["name"].as_str().unwrap().len(), 36);
    assert_eq!(get(&routes, "/v2/sessions").await.json().as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_request_that_is_not_one_is_refused_in_boss_words() {
    let routes = router(&still());
    let with = |key: &str, value: Value| {
        let mut body = reboot("mine", "");
        body[key] = value;
        body
    };
    for (body, detail) in [
        (with("template_name", json!("none")), "Session Template Name invalid: none"),
        (with("template_name", json!("broken")), "Session template fails check: no kernel"),
        (json!({"template_name": "new-image"}), "'operation' is a required property"),
        (
            with("operation", json!("restart")),
            "'restart' is not one of ['boot', 'reboot', 'shutdown'] - 'operation'",
        ),
        (with("colour", json!("red")), "Additional properties are not allowed ('colour' was unexpected)"),
        (
            with("name", json!("-x")),
            "'-x' does not match '^[a-zA-Z0-9](?:[-._a-zA-Z0-9]{0,125}[a-zA-Z0-9])?$' - 'name'",
        ),
        (with("limit", json!(7)), "7 is not of type 'string' - 'limit'"),
        (json!([]), "[] is not of type 'object'"),
        (json!("{"), "Request body is not valid JSON"),
    ] {
        is_problem(&post(&routes, "/v2/sessions", body).await, 400, detail);
    }
    let too_long = post(&routes, "/v2/sessions", with("limit", json!("x".repeat(524_289)))).await;
    assert_eq!(too_long.status, 400);
    let request = Request::post("/v2/sessions").header("content-type", "text/plain").body(Body::from("{}"));
    let other_type = routes.clone().oneshot(request.unwrap()).await.unwrap();
    assert_eq!(other_type.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    is_problem(
        &ask(&routes, "PUT", "/v2/sessions", json!({})).await,
        405,
        "The method is not allowed for the requested URL.",
    );
    is_problem(&get(&routes, "/v2/sessions/none").await, 404, "Session 'none' does not exist");
    is_problem(&get(&routes, "/v2/sessions/none/status").await, 404, "Session 'none' does not exist");
    assert_eq!(get(&routes, "/v2/nothing").await.status, 404);
}

#[tokio::test]
async fn a_reboot_goes_from_pending_to_complete_and_leaves_nodes_out_without_a_word() {
    let live = still();
    let routes = router(&live);
    // The second is locked, the third disabled, the fourth of another architecture.
    let limit = (1..=5).map(xname).collect::<Vec<_>>().join(",");
    assert_eq!(post(&routes, "/v2/sessions", reboot("mine", &limit)).await.status, 201);
    live.advance(1_000);
    let running = get(&routes, "/v2/sessions/mine").await.json();
    assert_eq!(running["status"]["status"], "running");
    assert_eq!(running["components"], "x1000c0s1b0n0,x1000c0s5b0n0");
    let status = get(&routes, "/v2/sessions/mine/status").await.json();
    assert_eq!((&status["managed_components_count"], &status["status"]), (&json!(2), &json!("running")));
    assert_eq!(status["phases"]["percent_powering_off"], 100.0);
    let mine = get(&routes, "/v2/components?session=mine").await.json();
    assert_eq!(mine[0]["status"]["status"], "power_off_pending");
    assert_eq!((&mine[0]["session"], &mine[0]["enabled"]), (&json!("mine"), &json!(true)));

    live.advance(60_000);
    let complete = get(&routes, "/v2/sessions/mine").await.json();
    assert_eq!(
        (&complete["status"]["status"], &complete["status"]["error"]),
        (&json!("complete"), &Value::Null)
    );
    assert!(complete["status"]["end_time"].as_str().unwrap().starts_with("2026-01-01T00:00:"));
    let status = get(&routes, "/v2/sessions/mine/status").await.json();
    assert_eq!(
        (&status["percent_successful"], &status["percent_failed"], &status["error_summary"]),
        (&json!(100.0), &json!(0.0), &json!({}))
    );
    let mine = get(&routes, "/v2/components?session=mine").await.json();
    for component in mine.as_array().unwrap() {
        assert_eq!(component["status"]["status"], "stable");
        assert_eq!((&component["enabled"], &component["error"]), (&json!(false), &json!("")));
    }
}

#[tokio::test]
async fn complete_does_not_mean_success() {
    let live = still();
    let routes = router(&live);
    live.with(|cluster| cluster.set_boot_behaviour(xname(1).parse().unwrap(), BootBehaviour::Fails));
    post(&routes, "/v2/sessions", reboot("mine", &xname(1))).await;
    live.advance(120_000);
    let session = get(&routes, "/v2/sessions/mine").await.json();
    assert_eq!(
        (&session["status"]["status"], &session["status"]["error"]),
        (&json!("complete"), &Value::Null)
    );
    let component = get(&routes, &format!("/v2/components/{}", xname(1))).await.json();
    let error =
        "The retry limit has been hit for this component, but no services have reported specific errors";
    assert_eq!((&component["error"], &component["status"]["status"]), (&json!(error), &json!("failed")));
    let status = get(&routes, "/v2/sessions/mine/status").await.json();
    assert_eq!(status["error_summary"][error], json!({"count": 1, "list": "x1000c0s1b0n0"}));
}

#[tokio::test]
async fn a_limit_that_names_nothing_completes_with_an_error_and_no_limit_means_everything() {
    let live = still();
    let routes = router(&live);
    post(&routes, "/v2/sessions", reboot("nothing", "upgrading")).await;
    post(&routes, "/v2/sessions", reboot("everything", "")).await;
    live.advance(1_000);
    let nothing = get(&routes, "/v2/sessions/nothing").await.json();
    assert_eq!(nothing["status"]["error"], "No nodes were found to act upon.");
    let everything = get(&routes, "/v2/sessions/everything").await.json();
    assert_eq!(everything["components"].as_str().unwrap().split(',').count(), 9);
}

#[tokio::test]
async fn deleting_a_session_stops_nothing() {
    let live = still();
    let routes = router(&live);
    post(&routes, "/v2/sessions", reboot("mine", &xname(1))).await;
    live.advance(1_500);
    let deleted = delete(&routes, "/v2/sessions/mine").await;
    assert_eq!((deleted.status, deleted.text.as_str()), (204, ""));
    assert_eq!(delete(&routes, "/v2/sessions/mine").await.status, 404);
    live.advance(60_000);
    let image = live.with(|cluster| cluster.image_of(xname(1).parse().unwrap()).map(str::to_owned));
    assert_eq!(image.as_deref(), Some("new-image"));
}

#[tokio::test]
async fn sessions_are_listed_and_deleted_by_status_and_age() {
    let live = still();
    let routes = router(&live);
    post(&routes, "/v2/sessions", reboot("old", &xname(1))).await;
    live.advance(300_000);
    post(&routes, "/v2/sessions", reboot("new", &xname(5))).await;
    let names = async |query: &str| {
        let found = get(&routes, &format!("/v2/sessions{query}")).await.json();
        let name = |session: &Value| session["name"].as_str().unwrap().to_owned();
        found.as_array().unwrap().iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names("?status=complete").await, ["old"]);
    assert_eq!(names("?max_age=3m").await, ["new"]);
    assert_eq!(names("?min_age=3m&status=pending").await, [""; 0]);
    assert_eq!(get(&routes, "/v2/sessions?min_age=soon").await.status, 400);
    assert_eq!(delete(&routes, "/v2/sessions?status=complete").await.status, 204);
    assert_eq!(names("").await, ["new"]);
}

#[tokio::test]
async fn components_come_in_pages_and_by_id() {
    let routes = router(&still());
    let ids = async |query: &str| {
        let found = get(&routes, &format!("/v2/components{query}")).await.json();
        let id = |component: &Value| component["id"].as_str().unwrap().to_owned();
        found.as_array().unwrap().iter().map(id).collect::<Vec<_>>()
    };
    let all = ids("").await;
    assert_eq!((all.len(), all[1].as_str()), (12, "x1000c0s11b0n0"), "in the order of their text");
    let mut paged = ids("?page_size=5").await;
    while paged.len() < 12 {
        let more = ids(&format!("?page_size=5&start_after_id={}", paged.last().unwrap())).await;
        assert!(!more.is_empty() && more.len() <= 5);
        paged.extend(more);
    }
    assert_eq!(paged, all);
    assert_eq!(ids("?ids=x1000c0s1b0n0,x1000c0s2b0n0,x9").await, ["x1000c0s1b0n0", "x1000c0s2b0n0"]);
    assert_eq!(ids("?session=none").await, [""; 0]);
    let ten: Vec<String> = (1..=10).map(xname).collect();
    assert_eq!(get(&routes, &format!("/v2/components?ids={}", ten.join(","))).await.status, 400);
    assert_eq!(get(&routes, "/v2/components?page_size=many").await.status, 400);
    is_problem(&get(&routes, "/v2/components/x9").await, 404, "Component 'x9' does not exist");
}

#[tokio::test]
async fn a_component_that_is_disabled_by_hand_ends_its_session() {
    let live = still();
    let routes = router(&live);
    post(&routes, "/v2/sessions", reboot("mine", &xname(1))).await;
    live.advance(1_000);
    let path = format!("/v2/components/{}", xname(1));
    let patched = ask(&routes, "PATCH", &path, json!({"id": xname(1), "enabled": false})).await;
    assert_eq!((patched.status, &patched.json()["enabled"]), (200, &json!(false)));
    let refused = ask(&routes, "PATCH", &path, json!({"desired_state": {}})).await;
    assert_eq!(refused.status, 400, "what the model cannot do is not pretended: {refused:?}");
    live.advance(10_000);
    let session = get(&routes, "/v2/sessions/mine").await.json();
    assert_eq!(session["status"]["status"], "complete");
    let status = get(&routes, "/v2/sessions/mine/status").await.json();
    assert_eq!(status["percent_failed"], 0.0);
}

#[tokio::test]
async fn templates_are_kept_by_name() {
    let routes = router(&still());
    let shown = get(&routes, "/v2/sessiontemplates/new-image").await.json();
    assert_eq!(shown["boot_sets"]["compute"]["node_groups"], json!(["all"]));
    let set = json!({"path": "s3://x", "type": "s3", "node_list": [xname(1)], "arch": "ARM"});
    let put = ask(&routes, "PUT", "/v2/sessiontemplates/mine", json!({"boot_sets": {"a": set}})).await;
    assert_eq!((put.status, &put.json()["boot_sets"]["a"]["arch"]), (200, &json!("ARM")));
    assert_eq!(get(&routes, "/v2/sessiontemplates").await.json().as_array().unwrap().len(), 3);
    assert_eq!(delete(&routes, "/v2/sessiontemplates/mine").await.status, 204);
    let gone = get(&routes, "/v2/sessiontemplates/mine").await;
    is_problem(&gone, 404, "Session template 'mine' does not exist");
    let no_path = json!({"boot_sets": {"a": {"type": "s3"}}});
    let no_path = ask(&routes, "PUT", "/v2/sessiontemplates/mine", no_path).await;
    is_problem(&no_path, 400, "'path' is a required property - 'boot_sets.a'");
}

#[tokio::test]
async fn without_its_store_it_is_healthy_and_of_no_use() {
    let routes = router(&still());
    assert_eq!(get(&routes, "/v2/version").await.json()["major"], "2");
    post(&routes, "/sim/bos/down", Value::Null).await;
    let healthz = get(&routes, "/v2/healthz").await;
    assert_eq!((healthz.status, &healthz.json()["dbStatus"]), (200, &json!("not_available")));
    is_problem(&get(&routes, "/v2/sessions").await, 503, "Unable to connect to the Redis database");
    post(&routes, "/sim/bos/up", Value::Null).await;
    assert_eq!(get(&routes, "/v2/sessions").await.json(), json!([]));
}
