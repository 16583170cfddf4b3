//! A cluster with a file outlives its process: the world persists, memory does not.

use std::error::Error as _;
use std::path::Path;

use crus_sim::http::KeepError;

use super::*;

/// As a new process would find it: if the file is not read, this cluster is empty.
fn found(path: &Path, speed: f64) -> LiveCluster {
    LiveCluster::kept_in(Cluster::new(ClusterConfig::default(), 2).shared(), path, speed).unwrap()
}

fn kept_new(path: &Path, speed: f64) -> LiveCluster {
    LiveCluster::kept_in(Cluster::new(config(), 1).shared(), path, speed).unwrap()
}

/// Some of an upgrade: the groups, the drains and a reboot under way.
async fn upgrade_somewhat(routes: &Router) {
    let slurm = async |args: &[&str]| {
        let output = post(routes, "/sim/slurm", json!({"program": "scontrol", "args": args})).await.json();
        assert_eq!(output["exit_code"], 0, "{output}");
    };
    slurm(&["update", "NodeName=nid000001,nid000007", "State=DRAIN", "Reason=rolling-upgrade"]).await;
    for nid in [1, 7] {
        let member = json!({"id": xname(nid)});
        assert_eq!(post(routes, "/hsm/v2/groups/upgrading/members", member).await.status, 201);
    }
    let body = json!({"name": "mine", "operation": "reboot", "template_name": "new-image",
        "limit": format!("{},{}", xname(1), xname(7))});
    assert_eq!(post(routes, "/v2/sessions", body).await.status, 201);
    assert_eq!(post(routes, "/sim/time", json!({"advance_ms": 4_500})).await.status, 200);
    assert_eq!(post(routes, "/sim/nodes/nid000008/lock", Value::Null).await.status, 204);
    assert_eq!(delete(routes, "/sim/jobs/1").await.status, 204);
}

/// What there is to be seen of it.
async fn answers(routes: &Router) -> Vec<String> {
    let mut answers = Vec::new();
    for path in [
        "/sim/time",
        "/sim/nodes",
        "/sim/jobs",
        "/hsm/v2/groups",
        "/hsm/v2/State/Components",
        "/v2/sessiontemplates",
        "/v2/sessions",
        "/v2/sessions/mine/status",
        "/v2/components",
    ] {
        let reply = get(routes, path).await;
        assert_eq!(reply.status, 200, "{path}");
        answers.push(format!("{path} {}", reply.text));
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn a_kept_cluster_gives_the_same_answers_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster");
    let live = kept_new(&path, 0.0);
    let routes = router(&live);
    upgrade_somewhat(&routes).await;
    let before = answers(&routes).await;
    drop((live, routes));
    let again = router(&found(&path, 0.0));
    assert_eq!(answers(&again).await, before);
    // It goes on as one that was never restarted.
    let twin = router(&still());
    upgrade_somewhat(&twin).await;
    for routes in [&again, &twin] {
        post(routes, "/sim/time", json!({"advance_ms": 60_000})).await;
    }
    let (again, twin) = (answers(&again).await, answers(&twin).await);
    assert_eq!(again, twin);
    assert!(
        twin.iter().any(|answer| answer.contains("\"complete\"")),
        "the reboot came to its end: {twin:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_to_happen_stays_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster");
    let live = kept_new(&path, 0.0);
    let routes = router(&live);
    upgrade_somewhat(&routes).await;
    let old = std::fs::read_to_string(&path).unwrap();
    // Time passes and nobody changes anything; somebody looks.
    live.set_speed(1.0);
    tokio::time::advance(Duration::from_secs(60)).await;
    let seen = get(&routes, "/v2/sessions/mine/status").await.text;
    assert_ne!(std::fs::read_to_string(&path).unwrap(), old);
    let again = router(&found(&path, 0.0));
    assert_eq!(get(&again, "/v2/sessions/mine/status").await.text, seen);
    // Looking again writes nothing: nothing has happened since.
    std::fs::remove_file(&path).unwrap();
    get(&routes, "/v2/sessions/mine/status").await;
    assert!(!path.exists());
}

#[tokio::test(start_paused = true)]
async fn while_time_passes_the_file_is_no_older_than_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster");
    let kept = || Cluster::restore(&std::fs::read_to_string(&path).unwrap()).unwrap().now();
    let live = kept_new(&path, 10.0);
    let start = live.now();
    let server = serve(live, "127.0.0.1:0".parse().unwrap()).await.unwrap();
    // On the paused clock: nobody asks for anything.
    tokio::time::sleep(Duration::from_millis(30_500)).await;
    assert!((295_000..=305_000).contains(&kept().since(start)), "{} of 305000 ms", kept().since(start));
    drop(server);
    let again = found(&path, 10.0);
    assert_eq!(again.now(), kept(), "it goes on from the moment it was kept at");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(again.now(), kept() + 10_000);
}

#[tokio::test]
async fn a_file_that_holds_no_cluster_is_left_alone_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster");
    let open = || LiveCluster::kept_in(Cluster::new(config(), 1).shared(), &path, 0.0).unwrap_err();
    std::fs::write(&path, "my thesis").unwrap();
    let error = open();
    let said = format!("{error}: {}", error.source().unwrap());
    assert!(said.starts_with(&format!("failed to restore the simulated cluster kept in {}", path.display())));
    assert!(
        said.contains("move that file away") && said.ends_with("not the snapshot of a simulated cluster"),
        "{said}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "my thesis");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(matches!(open(), KeepError::Read { .. }));
    let nowhere = folder.path().join("no such folder").join("cluster");
    let error = LiveCluster::kept_in(Cluster::new(config(), 1).shared(), &nowhere, 0.0).unwrap_err();
    assert!(matches!(error, KeepError::Write { .. }), "{error:?}");
}
