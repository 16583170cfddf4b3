//! The disk under the running service is full: it says so, answers what it can, asks nothing more of the world, and
//! goes on once there is room.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::limits;
use crate::support::shortage::Disk;
use crate::support::simulated::{self, Simulated};
use crate::support::{Service, id_of, path_of, spec, until};
use crus_sim::ClusterConfig;
use crus_sim::config::{BosConfig, Span};

const NODES: u32 = 12;
const SEED: u64 = 7;
const SPEED: f64 = 120.0;

/// What a service has logged.
type Log = Arc<Mutex<String>>;

/// A service whose store is on a disk that may be full. Its log goes elsewhere.
fn start(site: &Simulated, store: &Path, log: &Log) -> Service {
    let (from, to) = std::io::pipe().unwrap();
    let mut command = limits::survivor(&site.serve_from(store, "0.05"));
    command.env("CRUS_LOG", "warn").stderr(to);
    let log = Arc::clone(log);
    thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            log.lock().unwrap().push_str(&(line.unwrap() + "\n"));
        }
    });
    Service::start(command)
}

async fn upgrades_on_a_disk_that_is_full_for_a_while(kind: &str, disk: Disk) {
    let config = ClusterConfig {
        bos: BosConfig { boot: Span::new(120_000, 180_000), ..BosConfig::default() },
        ..simulated::nodes(NODES)
    };
    let site = Simulated::start(config, SEED, SPEED).await;
    let (store, log) = (disk.folder().join("crus.redb"), Log::default());
    let mut service = start(&site, &store, &log);
    let upgrade = service.create(&spec(4)).await;
    until("nodes at work", async || site.changes() > 5).await;

    disk.fill(service.pid(), &store);
    // What is free within the file is used first.
    let mut others = Vec::new();
    let refused = loop {
        let (code, answer) = service.post(&spec(4)).await;
        if code != 201 {
            break answer;
        }
        others.push(path_of(&answer));
    };
    let detail = refused["detail"].as_str().unwrap();
    // Where the store cannot even be read any more, nobody can tell whether the session is in it.
    let (status, told) = match refused["status"].as_u64() {
        Some(504) => (504, "The session store gave no answer: session "),
        _ => (503, "The session store could not be read or written."),
    };
    assert_eq!(refused["status"], status, "{kind}: {refused}");
    assert!(detail.contains(told), "{kind}: {detail}");
    // It may be another call that ran into it first.
    let why = ["No space left on device", "File too large"];
    let told = || log.lock().unwrap().clone();
    until("the log says why", async || {
        why.iter().any(|why| told().contains(&format!("crus.redb: I/O error: {why}")))
    })
    .await;

    // Everything can be seen, what was refused is not there.
    let (code, all) = service.get("/session").await;
    assert_eq!((code, all.as_array().unwrap().len()), (200, others.len() + 1), "{kind}");
    assert_eq!(service.get(&upgrade).await.0, 200, "{kind}");
    if disk.stops_every_write() {
        let failures = || told().matches("failed to use the store for the session").count();
        until("the session cannot be stored", async || failures() > 0).await;
        let changes = site.changes();
        until("the session could not be stored, time and again", async || failures() > 5).await;
        assert_eq!(site.changes(), changes, "{kind}: what cannot be stored is not acted upon");
        let (code, answer) = service.delete(&upgrade).await;
        assert_eq!(code, 503, "{kind}: an order that could not be kept is not taken: {answer}");
    }
    if let Disk::Small(_) = disk {
        // A restart needs no room, to show what there is.
        service.kill();
        service = start(&site, &store, &log);
        assert_eq!(service.get("/session").await.1.as_array().unwrap().len(), others.len() + 1, "{kind}");
    }

    disk.free(service.pid());
    for other in &others {
        let (code, answer) = service.delete(other).await;
        assert_eq!(code, 200, "{kind}: {answer}\n{}", told());
    }
    until("the upgrade completed", async || service.is_ready(&upgrade).await).await;
    for other in &others {
        until("the others gone", async || service.get(other).await.0 == 404).await;
    }
    service.signal("TERM");
    assert_eq!(service.end(), Some(0), "{kind}");

    let session = site.stored_in(&store, id_of(&upgrade)).await;
    let audit = site.assert_kept(&session, kind);
    assert!(session.nodes.iter().all(|node| audit.reboots(node.xname) == 1), "{kind}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p3_a_full_disk_holds_an_upgrade_up_and_breaks_nothing() {
    for (kind, disk) in Disk::kinds() {
        println!("{kind}");
        upgrades_on_a_disk_that_is_full_for_a_while(kind, disk).await;
    }
}
