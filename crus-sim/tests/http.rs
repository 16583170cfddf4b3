//! HSM v2, BOS v2 and the control face over HTTP: each route's codes and bodies as the real ones were seen to
//! answer.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use crus_sim::cluster::PowerEvent;
use crus_sim::config::{BootBehaviour, BosConfig, GroupSpec, Held, NodeSpec, Span, TemplateSpec};
use crus_sim::http::{LiveCluster, router, serve};
use crus_sim::workload::{JobSpec, Wanted, Workload};
use crus_sim::{Cluster, ClusterConfig};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// Twelve nodes, `x1000c0s1b0n0` to `x1000c0s12b0n0`; the second locked, the third disabled, the fourth of another
/// architecture, the fifth drained by an admin, the twelfth not for computing. A job without an end on the sixth.
/// A boot takes ten seconds, everything around it one each.
fn config() -> ClusterConfig {
    let mut nodes: Vec<NodeSpec> =
        (1..=12).map(|nid| NodeSpec::new(xname(nid).parse().unwrap(), nid)).collect();
    nodes[1].locked = true;
    nodes[2].enabled = false;
    nodes[3].arch = "ARM".to_owned();
    nodes[11].role = "Application".to_owned();
    let second = Span::exactly(1_000);
    ClusterConfig {
        held: [(nodes[4].xname, Held::Drained("bad fan".to_owned()))].into(),
        groups: [
            (
                "all",
                GroupSpec { members: nodes.iter().map(|node| node.xname).collect(), ..Default::default() },
            ),
            ("upgrading", GroupSpec::default()),
            ("blue", GroupSpec { exclusive_group: Some("colours".to_owned()), ..Default::default() }),
            ("red", GroupSpec { exclusive_group: Some("colours".to_owned()), ..Default::default() }),
        ]
        .map(|(label, group)| (label.parse().unwrap(), group))
        .into(),
        templates: [
            ("new-image", TemplateSpec::of_group("all")),
            (
                "broken",
                TemplateSpec { broken: Some("no kernel".to_owned()), ..TemplateSpec::of_group("all") },
            ),
        ]
        .map(|(name, template)| (name.parse().unwrap(), template))
        .into(),
        workload: Workload::Listed(vec![JobSpec {
            id: 1,
            user: "ada".to_owned(),
            wanted: Wanted::Nodes(vec!["nid000006".parse().unwrap()]),
            cpus: None,
            start_ms: 0,
            duration_ms: None,
            limit_ms: None,
        }]),
        bos: BosConfig {
            pending: second,
            setup: Span::exactly(0),
            power_off_call: second,
            power_off: second,
            power_on_call: second,
            boot: Span::exactly(10_000),
            configure: second,
            attempts: 1,
            attempt_ms: 20_000,
            ..Default::default()
        },
        nodes,
        ..Default::default()
    }
}

fn xname(nid: u32) -> String {
    format!("x1000c0s{nid}b0n0")
}

fn still() -> LiveCluster {
    LiveCluster::new(Cluster::new(config(), 1).shared())
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: u16,
    content_type: String,
    text: String,
}

impl Reply {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A request to the routes, without a socket. A body that is text is sent as it is, another one as JSON.
async fn ask(routes: &Router, method: &str, path: &str, body: Value) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    let body = match body {
        Value::Null => Body::empty(),
        Value::String(text) => {
            request = request.header("content-type", "application/json");
            Body::from(text)
        }
        other => {
            request = request.header("content-type", "application/json");
            Body::from(other.to_string())
        }
    };
    let response = routes.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let content_type = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Reply {
        status,
        content_type: content_type.unwrap_or_default(),
        text: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

async fn get(routes: &Router, path: &str) -> Reply {
    ask(routes, "GET", path, Value::Null).await
}

async fn post(routes: &Router, path: &str, body: Value) -> Reply {
    ask(routes, "POST", path, body).await
}

async fn delete(routes: &Router, path: &str) -> Reply {
    ask(routes, "DELETE", path, Value::Null).await
}

/// The reply is an RFC 7807 problem with this code and detail.
#[track_caller]
fn is_problem(reply: &Reply, status: u16, detail: &str) {
    assert_eq!(reply.content_type, "application/problem+json", "{reply:?}");
    let problem = reply.json();
    assert_eq!((reply.status, &problem["status"]), (status, &json!(status)), "{reply:?}");
    assert_eq!((&problem["detail"], &problem["type"]), (&json!(detail), &json!("about:blank")), "{reply:?}");
}

mod hsm {
    use super::*;

    #[tokio::test]
    async fn a_group_is_shown_with_what_it_has() {
        let routes = router(&still());
        let empty = get(&routes, "/hsm/v2/groups/upgrading").await;
        assert_eq!((empty.status, empty.content_type.as_str()), (200, "application/json"));
        assert_eq!(empty.text, "{\"label\":\"upgrading\",\"description\":\"\",\"members\":{\"ids\":[]}}\n");
        let blue = get(&routes, "/hsm/v2/groups/BLUE").await.json();
        assert_eq!(blue["exclusiveGroup"], "colours", "upper case in a label is lowered");
        is_problem(&get(&routes, "/hsm/v2/groups/none").await, 404, "No such group: none");
        is_problem(&get(&routes, "/hsm/v2/groups/a%20b").await, 400, "Invalid group label.");
        let labels = get(&routes, "/hsm/v2/groups/labels").await.json();
        assert_eq!(labels, json!(["all", "blue", "red", "upgrading"]));
        let some = get(&routes, "/apis/smd/hsm/v2/groups?group=red&group=blue").await.json();
        assert_eq!(some.as_array().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_member_is_added_once() {
        let routes = router(&still());
        let path = "/hsm/v2/groups/upgrading/members";
        let added = post(&routes, path, json!({"id": "X1000C0S1B0N0"})).await;
        assert_eq!(added.status, 201, "{added:?}");
        assert_eq!(added.json(), json!([{"URI": "/hsm/v2/groups/upgrading/members/x1000c0s1b0n0"}]));
        assert_eq!(get(&routes, path).await.json(), json!({"ids": ["x1000c0s1b0n0"]}));
        let again = post(&routes, path, json!({"id": "x1000c0s1b0n0"})).await;
        is_problem(&again, 409, "operation would conflict with an existing member in the same group.");
        let unknown = post(&routes, path, json!({"id": "x9c0s0b0n0"})).await;
        is_problem(&unknown, 400, "linked component does not exist");
        is_problem(&post(&routes, path, json!({"id": "nid000001"})).await, 400, "invalid xname ID");
        let nowhere = post(&routes, "/hsm/v2/groups/none/members", json!({"id": "x1000c0s1b0n0"})).await;
        is_problem(&nowhere, 404, "No such group: none");
        let garbage = post(&routes, path, json!("{")).await;
        assert_eq!(garbage.status, 500);
        assert!(garbage.json()["detail"].as_str().unwrap().starts_with("error decoding JSON "));
    }

    #[tokio::test]
    async fn a_node_is_in_one_group_of_an_exclusive_one_at_most() {
        let routes = router(&still());
        assert_eq!(post(&routes, "/hsm/v2/groups/red/members", json!({"id": xname(1)})).await.status, 201);
        let other = post(&routes, "/hsm/v2/groups/blue/members", json!({"id": xname(1)})).await;
        is_problem(
            &other,
            409,
            "operation would conflict with an existing member in another exclusive group.",
        );
    }

    #[tokio::test]
    async fn a_member_is_removed_once() {
        let routes = router(&still());
        let removed = delete(&routes, "/hsm/v2/groups/all/members/x1000c0s1b0n0").await;
        assert_eq!(
            (removed.status, removed.text.as_str()),
            (200, "{\"code\":0,\"message\":\"deleted 1 entry\"}\n")
        );
        let again = delete(&routes, "/hsm/v2/groups/all/members/x1000c0s1b0n0").await;
        is_problem(&again, 404, "group has no such member.");
        let nowhere = delete(&routes, "/hsm/v2/groups/none/members/x1000c0s1b0n0").await;
        is_problem(&nowhere, 404, "No such group: none");
    }

    #[tokio::test]
    async fn there_is_no_call_that_sets_all_members() {
        let routes = router(&still());
        let put = ask(&routes, "PUT", "/hsm/v2/groups/all/members", json!({"ids": []})).await;
        assert_eq!((put.status, put.text.as_str()), (404, "404 page not found\n"));
    }

    #[tokio::test]
    async fn a_group_is_created_with_its_members_patched_and_deleted() {
        let routes = router(&still());
        let group = json!({"label": "New", "description": "d", "tags": ["t"], "members": {"ids": [xname(1), xname(2)]}});
        let created = post(&routes, "/hsm/v2/groups", group.clone()).await;
        assert_eq!((created.status, created.json()), (201, json!([{"URI": "/hsm/v2/groups/new"}])));
        let again = post(&routes, "/hsm/v2/groups", group).await;
        is_problem(&again, 409, "operation would conflict with an existing group that has the same label.");
        let bad = post(&routes, "/hsm/v2/groups", json!({"label": "a b"})).await;
        is_problem(&bad, 400, "couldn't validate group: group or partition field has invalid characters");
        let long = post(&routes, "/hsm/v2/groups", json!({"label": "a".repeat(300)})).await;
        is_problem(&long, 500, "operation 'POST' failed during store.");

        let patched = ask(&routes, "PATCH", "/hsm/v2/groups/new", json!({"description": "e"})).await;
        assert_eq!((patched.status, patched.text.as_str()), (204, ""));
        let shown = get(&routes, "/hsm/v2/groups/new").await.json();
        assert_eq!((&shown["description"], &shown["tags"]), (&json!("e"), &json!(["t"])));
        let nothing = ask(&routes, "PATCH", "/hsm/v2/groups/new", json!({})).await;
        assert_eq!((nothing.status, nothing.text.lines().count()), (400, 2), "two objects in one body");

        assert_eq!(delete(&routes, "/hsm/v2/groups/new").await.json()["message"], "deleted 1 entry");
        is_problem(&delete(&routes, "/hsm/v2/groups/new").await, 404, "no such group.");
    }

    #[tokio::test]
    async fn components_are_found_by_type_role_group_and_id() {
        let routes = router(&still());
        let count = async |query: &str| {
            let found = get(&routes, &format!("/hsm/v2/State/Components{query}")).await.json();
            found["Components"].as_array().unwrap().len()
        };
        assert_eq!(count("").await, 12);
        assert_eq!(count("?type=Node&role=Compute").await, 11);
        assert_eq!(count("?type=node&role=compute&role=application").await, 12);
        assert_eq!(count("?type=NodeBMC").await, 0);
        assert_eq!(count("?group=all&arch=ARM").await, 1);
        assert_eq!(count("?group=upgrading").await, 0);
        assert_eq!(count("?group=none").await, 0);
        assert_eq!(count("?enabled=false").await, 1);

        let asked = json!({"ComponentIDs": [xname(1), xname(2), "x9c0s0b0n0"]});
        let found = post(&routes, "/hsm/v2/State/Components/Query", asked).await;
        assert_eq!(
            found.text,
            "{\"Components\":[{\"ID\":\"x1000c0s1b0n0\",\"Type\":\"Node\",\"State\":\"Ready\",\"Flag\":\"OK\",\
             \"Enabled\":true,\"Role\":\"Compute\",\"NID\":1,\"NetType\":\"Sling\",\"Arch\":\"X86\",\
             \"Class\":\"Mountain\"},{\"ID\":\"x1000c0s2b0n0\",\"Type\":\"Node\",\"State\":\"Ready\",\"Flag\":\"OK\",\
             \"Enabled\":true,\"Role\":\"Compute\",\"NID\":2,\"NetType\":\"Sling\",\"Arch\":\"X86\",\
             \"Class\":\"Mountain\",\"Locked\":true}]}\n",
            "unknown ids are left out without an error"
        );
        let none = post(&routes, "/hsm/v2/State/Components/Query", json!({"ComponentIDs": []})).await;
        is_problem(&none, 400, "Missing IDs");
        assert_eq!(get(&routes, "/hsm/v2/State/Components/X1000C0S4B0N0").await.json()["Arch"], "ARM");
        is_problem(&get(&routes, "/hsm/v2/State/Components/x9c0s0b0n0").await, 404, "no such xname.");
        assert_eq!(delete(&routes, "/hsm/v2/State/Components/x1000c0s1b0n0").await.status, 200);
        assert_eq!(count("?group=all").await, 11);
    }

    #[tokio::test]
    async fn components_are_disabled_and_locked() {
        let routes = router(&still());
        let path = format!("/hsm/v2/State/Components/{}/Enabled", xname(1));
        assert_eq!(ask(&routes, "PATCH", &path, json!({"Enabled": false})).await.status, 204);
        is_problem(&ask(&routes, "PATCH", &path, json!({})).await, 400, "Missing Enabled field");
        let bulk = json!({"ComponentIDs": [xname(1), xname(3)], "Enabled": true});
        let bulk = ask(&routes, "PATCH", "/hsm/v2/State/Components/BulkEnabled", bulk).await;
        assert_eq!(bulk.status, 204);
        let disabled = get(&routes, "/hsm/v2/State/Components?enabled=false").await.json();
        assert_eq!(disabled["Components"], json!([]));

        let locked = post(&routes, "/hsm/v2/locks/lock", json!({"ComponentIDs": [xname(1)]})).await;
        assert_eq!(
            (locked.status, locked.json()),
            (
                200,
                json!({
                    "Counts": {"Total": 1, "Success": 1, "Failure": 0},
                    "Success": {"ComponentIDs": [xname(1)]},
                    "Failure": [],
                })
            )
        );
        let both = json!({"ComponentIDs": [xname(1), xname(4)]});
        is_problem(&post(&routes, "/hsm/v2/locks/lock", both).await, 400, "Component is Locked");
        let flexible = json!({"ComponentIDs": [xname(1), xname(4), "x9"], "ProcessingModel": "flexible"});
        let flexible = post(&routes, "/hsm/v2/locks/lock", flexible).await.json();
        assert_eq!(flexible["Success"]["ComponentIDs"], json!([xname(4)]));
        assert_eq!(
            flexible["Failure"],
            json!([{"ID": xname(1), "Reason": "Locked"}, {"ID": "x9", "Reason": "NotFound"}])
        );
        let unlocked = post(&routes, "/hsm/v2/locks/unlock", json!({"ComponentIDs": [xname(4)]})).await;
        assert_eq!(unlocked.status, 200);
        let status =
            post(&routes, "/hsm/v2/locks/status", json!({"ComponentIDs": [xname(1), "x9"]})).await.json();
        assert_eq!((&status["Components"][0]["Locked"], &status["NotFound"]), (&json!(true), &json!(["x9"])));
        let all = get(&routes, "/hsm/v2/locks/status?locked=true").await.json();
        assert_eq!(all["Components"].as_array().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn without_its_database_every_call_fails_and_ready_says_why() {
        let live = still();
        let routes = router(&live);
        let ready = get(&routes, "/hsm/v2/service/ready").await;
        assert_eq!(
            (ready.status, ready.text.as_str()),
            (200, "{\"code\":0,\"message\":\"HSM is healthy\"}\n")
        );
        assert_eq!(post(&routes, "/sim/hsm/down", Value::Null).await.status, 204);
        assert_eq!(get(&routes, "/hsm/v2/service/ready").await.status, 503);
        assert_eq!(get(&routes, "/hsm/v2/service/liveness").await.status, 204);
        is_problem(&get(&routes, "/hsm/v2/groups/all").await, 500, "failed to query DB.");
        is_problem(&get(&routes, "/hsm/v2/State/Components").await, 500, "failed to query DB.");
        assert_eq!(post(&routes, "/sim/hsm/up", Value::Null).await.status, 204);
        assert_eq!(get(&routes, "/hsm/v2/groups/all").await.status, 200);
    }
}

mod bos {
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
        let request =
            Request::post("/v2/sessions").header("content-type", "text/plain").body(Body::from("{}"));
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
}

mod control {
    use super::*;

    #[tokio::test]
    async fn operators_act_on_nodes_by_either_name() {
        let routes = router(&still());
        assert!(get(&routes, "/sim").await.text.contains("/sim/nodes"));
        let drained = post(&routes, "/sim/nodes/nid000001/drain", json!({"reason": "memory"})).await;
        assert_eq!(drained.status, 204, "{drained:?}");
        let node = get(&routes, "/sim/nodes/x1000c0s1b0n0").await.json();
        assert_eq!(
            (&node["slurm"]["state"], &node["slurm"]["reason"]),
            (&json!("IDLE+DRAIN"), &json!("memory"))
        );
        assert_eq!((&node["name"], &node["hsm"]["nid"]), (&json!("nid000001"), &json!(1)));
        assert_eq!(post(&routes, "/sim/nodes/x1000c0s1b0n0/resume", Value::Null).await.status, 204);
        let again = post(&routes, "/sim/nodes/x1000c0s7b0n0/resume", Value::Null).await;
        assert_eq!(
            (again.status, &again.json()["error"]),
            (409, &json!("slurm_update error: Invalid node state specified"))
        );
        for action in ["lock", "unlock", "disable", "enable", "power-off", "power-on"] {
            assert_eq!(
                post(&routes, &format!("/sim/nodes/nid000002/{action}"), Value::Null).await.status,
                204
            );
        }
        for path in ["/sim/nodes/nid009999/lock", "/sim/nodes/nid000001/dance"] {
            assert_eq!(post(&routes, path, Value::Null).await.status, 404);
        }
        assert_eq!(
            post(&routes, "/sim/nodes/nid000001/drain", json!({})).await.status,
            400,
            "without a reason"
        );
        assert_eq!(get(&routes, "/sim/nodes").await.json().as_array().unwrap().len(), 12);
    }

    #[tokio::test]
    async fn jobs_are_submitted_and_ended() {
        let routes = router(&still());
        let job = json!({"user": "bob", "nodes": ["nid000007"], "limit_s": 60});
        let id = post(&routes, "/sim/jobs", job).await.json()["id"].as_u64().unwrap();
        let jobs = get(&routes, "/sim/jobs").await.json();
        let mine = jobs.as_array().unwrap().iter().find(|job| job["id"] == id).unwrap();
        assert_eq!((&mine["user"], &mine["state"]), (&json!("bob"), &json!("RUNNING")), "{mine}");
        assert_eq!(post(&routes, "/sim/jobs", json!({"nodes": ["nid009999"]})).await.status, 404);
        assert_eq!(post(&routes, "/sim/jobs", json!({"count": 0})).await.status, 400);
        assert_eq!(delete(&routes, &format!("/sim/jobs/{id}")).await.status, 204);
        assert_eq!(delete(&routes, &format!("/sim/jobs/{id}")).await.status, 404);
    }

    #[tokio::test]
    async fn what_really_happened_and_who_asked_is_told() {
        let live = still();
        let routes = router(&live);
        let behaviour =
            ask(&routes, "PUT", "/sim/nodes/nid000006/boot", json!({"takes": {"ms": 2_000}})).await;
        assert_eq!(behaviour.status, 204, "{behaviour:?}");
        let known = get(&routes, "/sim/facts").await.json().as_array().unwrap().len();
        let body =
            json!({"name": "mine", "operation": "reboot", "template_name": "new-image", "limit": xname(6)});
        post(&routes, "/v2/sessions", body).await;
        live.advance(60_000);
        let facts = get(&routes, &format!("/sim/facts?after={known}")).await.json();
        let cut = facts.as_array().unwrap().iter().find(|fact| fact["what"] == "power-cut").unwrap();
        assert_eq!((&cut["xname"], &cut["boot_session"]), (&json!(xname(6)), &json!("mine")));
        assert_eq!(
            (&cut["jobs"], &cut["held"]),
            (&json!(["1"]), &json!(false)),
            "a job was killed by this reboot"
        );

        get(&routes, "/apis/smd/hsm/v2/groups/all").await;
        get(&routes, "/hsm/v2/groups/red").await;
        let calls = get(&routes, "/sim/calls").await.json();
        assert_eq!(calls, json!({"GET /hsm/v2/groups/{label}": 2, "POST /v2/sessions": 1}));
        assert_eq!(delete(&routes, "/sim/calls").await.status, 204);
        assert!(live.calls().is_empty());
    }

    #[tokio::test]
    async fn time_stands_still_until_it_is_told_to_pass() {
        let live = still();
        let routes = router(&live);
        let before = get(&routes, "/sim/time").await.json();
        assert_eq!((&before["speed"], &before["now"]), (&json!(0.0), &json!("2026-01-01T00:00:00Z")));
        let after = post(&routes, "/sim/time", json!({"advance_ms": 1_500})).await.json();
        assert_eq!(after["now"], "2026-01-01T00:00:01.5Z");
        assert_eq!(post(&routes, "/sim/time", json!({"pace": 1})).await.status, 400);
    }

    #[tokio::test(start_paused = true)]
    async fn time_follows_real_time_at_its_speed() {
        let live = still();
        live.set_speed(60.0);
        let start = live.now();
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(live.now().since(start), 120_000);
        live.advance(1_000);
        assert_eq!(live.now().since(start), 121_000);
        live.set_speed(0.5);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(live.now().since(start), 122_000);
        live.set_speed(f64::NAN);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(live.now().since(start), 122_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_waits_for_slurmctld_as_long_as_the_real_one() {
        let live = LiveCluster::paced(Cluster::new(config(), 1).shared(), 3.0);
        let routes = router(&live);
        post(&routes, "/sim/slurmctld/stop", Value::Null).await;
        let call = json!({"program": "scontrol", "args": ["show", "node", "nid000001"]});
        let began = tokio::time::Instant::now();
        let output = post(&routes, "/sim/slurm", call.clone()).await.json();
        assert_eq!(began.elapsed(), Duration::from_secs(3), "nine virtual seconds at three times the speed");
        assert_eq!(output["exit_code"], 1);
        let error = "slurm_load_node error: Unable to contact slurm controller (connect failure)\n";
        assert_eq!(output["stderr"], error);
        post(&routes, "/sim/slurmctld/start", Value::Null).await;
        assert_eq!(post(&routes, "/sim/slurm", call).await.json()["exit_code"], 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn power_is_told_when_it_is_due_though_nobody_asks() {
    let live = LiveCluster::paced(Cluster::new(config(), 1).shared(), 1_000.0);
    let mut events = live.power_events();
    let server = serve(live.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let routes = router(&live);
    let body =
        json!({"name": "mine", "operation": "reboot", "template_name": "new-image", "limit": xname(1)});
    assert_eq!(post(&routes, "/v2/sessions", body).await.status, 201);
    let mut next =
        async || tokio::time::timeout(Duration::from_secs(20), events.recv()).await.unwrap().unwrap();
    let node = xname(1).parse().unwrap();
    assert!(matches!(next().await, PowerEvent::Cut { xname, .. } if xname == node));
    assert!(matches!(next().await, PowerEvent::Boot { xname, .. } if xname == node));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_is_gone_and_another_can_take_its_place() {
    let server = serve(still(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.address();
    assert_eq!(server.url(), format!("http://{address}"));
    // An idle connection must not keep it up.
    let idle = tokio::net::TcpStream::connect(address).await.unwrap();
    let taken = serve(still(), address).await.unwrap_err();
    assert_eq!(taken.to_string(), format!("failed to listen on {address}"));
    server.stop().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    drop(idle);
    let again = serve(still(), address).await.unwrap();
    assert_eq!(again.address(), address);
}
