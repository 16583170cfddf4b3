//! The control face, and the pace of time.

use super::*;

#[tokio::test]
async fn operators_act_on_nodes_by_either_name() {
    let routes = router(&still());
    assert!(get(&routes, "/sim").await.text.contains("/sim/nodes"));
    let drained = post(&routes, "/sim/nodes/nid000001/drain", json!({"reason": "memory"})).await;
    assert_eq!(drained.status, 204, "{drained:?}");
    let node = get(&routes, "/sim/nodes/x1000c0s1b0n0").await.json();
    assert_eq!((&node["slurm"]["state"], &node["slurm"]["reason"]), (&json!("IDLE+DRAIN"), &json!("memory")));
    assert_eq!((&node["name"], &node["hsm"]["nid"]), (&json!("nid000001"), &json!(1)));
    assert_eq!(post(&routes, "/sim/nodes/x1000c0s1b0n0/resume", Value::Null).await.status, 204);
    let again = post(&routes, "/sim/nodes/x1000c0s7b0n0/resume", Value::Null).await;
    assert_eq!(
        (again.status, &again.json()["error"]),
        (409, &json!("slurm_update error: Invalid node state specified"))
    );
    for action in ["lock", "unlock", "disable", "enable", "power-off", "power-on"] {
        assert_eq!(post(&routes, &format!("/sim/nodes/nid000002/{action}"), Value::Null).await.status, 204);
    }
    for path in ["/sim/nodes/nid009999/lock", "/sim/nodes/nid000001/dance"] {
        assert_eq!(post(&routes, path, Value::Null).await.status, 404);
    }
    assert_eq!(post(&routes, "/sim/nodes/nid000001/drain", json!({})).await.status, 400, "without a reason");
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
    let behaviour = ask(&routes, "PUT", "/sim/nodes/nid000006/boot", json!({"takes": {"ms": 2_000}})).await;
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

#[tokio::test]
async fn jobs_are_requeued_and_cancelled_and_partitions_told() {
    let routes = router(&still());
    let job = json!({"nodes": ["nid000007"], "partition": "batch", "requeue": false});
    let id = post(&routes, "/sim/jobs", job).await.json()["id"].as_u64().unwrap();
    let path = |action: &str| format!("/sim/jobs/{id}/{action}");
    let refused = post(&routes, &path("requeue"), Value::Null).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]),
        (409, &json!("Requested operation is presently disabled"))
    );
    let elsewhere = json!({"count": 1, "partition": "nope"});
    assert_eq!(post(&routes, "/sim/jobs", elsewhere).await.status, 404);
    assert_eq!(post(&routes, &path("dance"), Value::Null).await.status, 404);
    assert_eq!(post(&routes, &path("cancel"), Value::Null).await.status, 204);
    assert_eq!(post(&routes, &path("cancel"), Value::Null).await.status, 404);
    let id = post(&routes, "/sim/jobs", json!({"nodes": ["nid000007"]})).await.json()["id"].as_u64().unwrap();
    assert_eq!(post(&routes, &format!("/sim/jobs/{id}/requeue"), Value::Null).await.status, 204);
    let jobs = get(&routes, "/sim/jobs").await.json();
    let mine = jobs.as_array().unwrap().iter().find(|job| job["id"] == id).unwrap();
    assert_eq!((&mine["state"], &mine["restarts"]), (&json!("PENDING"), &json!(1)), "{mine}");
    let facts = get(&routes, "/sim/facts").await.json();
    let ended = facts.as_array().unwrap().iter().filter(|fact| fact["what"] == "job-ended");
    assert_eq!(ended.map(|fact| &fact["requeued"]).collect::<Vec<_>>(), [false, true]);
    let partitions = get(&routes, "/sim/partitions").await.json();
    assert_eq!((&partitions[0]["name"], &partitions[0]["total"]), (&json!("batch"), &json!(12)));
}
