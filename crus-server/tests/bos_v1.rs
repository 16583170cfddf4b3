//! The real process on a BOS that speaks version 1 of its API: what is asked for twice happens twice there. It is killed
//! whenever it has asked for a reboot, and at other moments, and each node reboots once all the same. And tenants, whom
//! version 1 does not know, through version 2.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::chance::{draw, seed};
use crate::support::simulated::{self, Simulated};
use crate::support::{PATIENCE, Service, id_of, path_of, spec, until};
use crus_core::Xname;
use crus_core::model::NodeState;
use crus_core::promises::What;
use crus_sim::ClusterConfig;
use crus_sim::config::{BosConfig, SlurmConfig, Span, TemplateSpec};
use serde_json::{Value, json};

const NODES: u32 = 9;
/// So many virtual seconds pass in a real one.
const SPEED: f64 = 250.0;
/// How many requests for a reboot there are to be: one for each step of three.
const REBOOTS: u64 = 3;

fn cluster(says_complete: bool) -> ClusterConfig {
    ClusterConfig {
        slurm: SlurmConfig { epilog: Span::new(1_000, 5_000), ..SlurmConfig::default() },
        bos: BosConfig { says_complete, ..simulated::quick_bos() },
        ..simulated::nodes(NODES)
    }
}

fn start(site: &Simulated) -> Service {
    Service::start(site.serve_by("v1", &site.store(), "0.05"))
}

/// How often a reboot was asked for.
fn asked(site: &Simulated) -> u64 {
    site.live.calls().get("POST /v1/session").copied().unwrap_or_default()
}

/// How often each node lost its power.
fn cuts(site: &Simulated) -> BTreeMap<Xname, usize> {
    let mut cuts = BTreeMap::new();
    for fact in site.facts() {
        if let What::PowerCut { xname, .. } = fact.what {
            *cuts.entry(xname).or_default() += 1;
        }
    }
    cuts
}

async fn upgraded_once(says_complete: bool, seed: u64) {
    let mut random = seed;
    let site = Simulated::start(cluster(says_complete), seed, SPEED).await;
    let mut service = start(&site);
    let path = service.create(&spec(3)).await;
    let (mut kills, mut right_after) = (0, 0);
    let begun = Instant::now();
    'run: loop {
        // Until it has asked for a reboot, or until some drawn number of calls.
        let reboots = asked(&site);
        let moment = site.calls() + 5 + draw(&mut random) % 120;
        for look in 0u64.. {
            if asked(&site) > reboots {
                right_after += 1;
                break;
            }
            if site.calls() >= moment && asked(&site) + 1 > REBOOTS {
                break;
            }
            if look % 64 == 0 && service.is_ready(&path).await {
                break 'run;
            }
            assert!(begun.elapsed() < 2 * PATIENCE, "seed {seed}: it does not end, after {kills} kills");
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        service.kill();
        kills += 1;
        service = start(&site);
    }
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    let session = site.stored(id_of(&path)).await;
    println!("seed {seed}: {kills} kills, {right_after} of them right after a request for a reboot");
    let told: Vec<_> = session.messages.iter().map(|message| &message.text).collect();
    for node in &session.nodes {
        assert_eq!(node.state, NodeState::Upgraded, "seed {seed}: {node:?}, {told:?}");
    }
    let cuts = cuts(&site);
    assert_eq!(cuts.len(), NODES as usize, "seed {seed}: {cuts:?}");
    assert!(cuts.values().all(|count| *count == 1), "P3, seed {seed}: {cuts:?}");
    assert_eq!(asked(&site), REBOOTS, "P3, seed {seed}: once for each step");
    assert!(right_after >= 1, "seed {seed}: never killed right after a request");
    assert_eq!(
        site.live.calls().keys().filter(|call| call.contains(" /v2/")).count(),
        0,
        "by version 1 alone"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p3_each_node_reboots_once_by_version_1_though_the_service_is_killed_after_each_request() {
    let mut seeds = seed();
    for says_complete in [true, false, true] {
        upgraded_once(says_complete, draw(&mut seeds)).await;
    }
}

fn tenant(service: &Service, name: &str, body: &Value) -> reqwest::RequestBuilder {
    let client = reqwest::Client::new();
    client.post(format!("{}/session", service.url)).header("Cray-Tenant-Name", name).json(body)
}

#[tokio::test]
async fn version_1_knows_no_tenants_and_says_so() {
    let site = Simulated::start(cluster(true), 1, SPEED).await;
    let service = start(&site);
    let refused = tenant(&service, "blue", &spec(3)).send().await.unwrap();
    assert_eq!(refused.status(), 422);
    let problem: Value = refused.json().await.unwrap();
    assert!(problem["errors"]["Cray-Tenant-Name"].is_array(), "{problem}");
}

/// Every call of version 2 goes out for the tenant: its template and its sessions are visible to nobody else.
#[tokio::test]
async fn an_upgrade_for_a_tenant_uses_the_tenants_template_and_sessions() {
    let mut config = cluster(true);
    config
        .templates
        .insert("blue--owns--their-image".parse().unwrap(), TemplateSpec::of_group("upgrading-nodes"));
    let site = Simulated::start(config, 1, SPEED).await;
    let service = Service::start(site.serve());
    let mut body = spec(NODES);
    body["upgrade_template_id"] = json!("their-image");
    let created: Value = tenant(&service, "blue", &body).send().await.unwrap().json().await.unwrap();
    let path = path_of(&created);
    until("the end of the upgrade", async || service.is_ready(&path).await).await;
    let (_, progress) = service.get(&format!("{path}/progress")).await;
    assert_eq!(progress["tenant"], "blue");
    assert_eq!(progress["counts"]["upgraded"], NODES, "{progress}");
}
