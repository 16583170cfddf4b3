//! A finished session keeps what came of it, whatever becomes of the service, and goes without a trace.

use crus_sim::ClusterConfig;
use crus_sim::config::GroupSpec;
use serde_json::json;

use crate::support::simulated::{self, Simulated};
use crate::support::{Service, id_of, spec, until};

const SEED: u64 = 3;
const SPEED: f64 = 250.0;

/// Eight nodes for one upgrade, of which one will not boot, and four for another one.
fn cluster() -> ClusterConfig {
    let mut config = simulated::nodes_one_broken(12);
    let mut all: Vec<_> = config.nodes.iter().map(|node| node.xname).collect();
    let others = all.split_off(8);
    for (label, members) in [("slurm-nodes", all), ("other-nodes", others), ("failed-others", Vec::new())] {
        config.groups.insert(label.parse().unwrap(), GroupSpec { members, ..GroupSpec::default() });
    }
    config
}

/// An answer, byte for byte.
async fn text(service: &Service, path: &str) -> String {
    reqwest::get(format!("{}{path}", service.url)).await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p4_a_finished_session_is_told_alike_after_every_restart_and_deleted_without_a_call() {
    let site = Simulated::start(cluster(), SEED, SPEED).await;
    let mut service = Service::start(site.serve());
    let path = service.create(&spec(4)).await;
    until("the upgrade completed", async || service.is_ready(&path).await).await;

    let paths = [path.clone(), format!("/apis/crus{path}"), "/session".to_owned()];
    let mut told = Vec::new();
    for path in &paths {
        told.push(text(&service, path).await);
    }
    assert!(
        told[0].contains("\"state\":\"READY\"") && told[0].contains("Upgrade Session Completed"),
        "{}",
        told[0]
    );
    for end in ["KILL", "TERM", "KILL"] {
        site.live.reset_calls();
        service.signal(end);
        service.end();
        service = Service::start(site.serve());
        for (path, told) in paths.iter().zip(&told) {
            assert_eq!(text(&service, path).await, *told, "{path} after SIG{end}");
        }
        assert_eq!(site.calls(), 0, "there is nothing to ask for");
    }

    let (code, deleted) = service.delete(&path).await;
    assert_eq!((code, &deleted["state"], &deleted["completed"]), (200, &json!("DELETING"), &json!(false)));
    until("the session gone", async || service.get(&path).await.0 == 404).await;
    assert_eq!(site.live.calls(), [].into(), "deleting what is done touches nothing");
    service.kill();
    let service = Service::start(site.serve());
    assert_eq!(service.get(&path).await.0, 404, "it does not come back");
    assert_eq!(text(&service, "/session").await, "[]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p8_deleting_a_finished_session_leaves_the_groups_of_a_running_one_alone() {
    let site = Simulated::start(cluster(), SEED, SPEED).await;
    let mut service = Service::start(site.serve());
    let finished = service.create(&spec(4)).await;
    until("the first upgrade completed", async || service.is_ready(&finished).await).await;

    let mut other = spec(4);
    other["starting_label"] = json!("other-nodes");
    other["failed_label"] = json!("failed-others");
    let running = service.create(&other).await;
    until("nodes in the upgrading group", async || site.members("upgrading-nodes").len() == 4).await;
    // No boot ends meanwhile.
    site.live.set_speed(0.0);
    let in_flight = site.members("upgrading-nodes");
    assert_eq!(service.delete(&finished).await.0, 200);
    until("the first session gone", async || service.get(&finished).await.0 == 404).await;
    assert_eq!(site.members("upgrading-nodes"), in_flight);
    assert_eq!(site.members("failed-nodes").len(), 1, "what failed stays listed");
    site.live.set_speed(SPEED);

    until("the second upgrade completed", async || service.is_ready(&running).await).await;
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    let session = site.stored(id_of(&running)).await;
    let audit = site.assert_kept(&session, "beside another session");
    assert!(session.nodes.iter().all(|node| audit.reboots(node.xname) == 1));
}
