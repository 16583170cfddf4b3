//! Measures how soon the service acts after it was killed: from the start of its process to the first call that reaches
//! a peer. It looks once in an hour, so that nothing but the restart makes it act.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark reports, and may panic")]

#[expect(dead_code, unused_imports, clippy::panic, clippy::expect_used, reason = "tests use the rest")]
mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use crus_sim::workload::{Drawn, Workload};
use support::simulated::{self, Simulated};
use support::{Service, spec, until};

/// How often it is killed and started.
const RESTARTS: usize = 20;
/// The sizes of the session.
const NODES: [u32; 3] = [64, 1_000, 10_000];
/// So long no call is made before it is said to do nothing.
const QUIET: Duration = Duration::from_millis(200);

/// Waits until no call was made for a while.
async fn quiet(site: &Simulated) {
    loop {
        let before = site.calls();
        tokio::time::sleep(QUIET).await;
        if site.calls() == before {
            return;
        }
    }
}

async fn restarts(nodes: u32) -> Vec<Duration> {
    // Jobs that do not end, as time stands still: the session drains its first nodes, and waits.
    let workload = Workload::Drawn(Drawn { busy_per_mille: 1000, ..Drawn::default() });
    let site =
        Simulated::start(crus_sim::ClusterConfig { workload, ..simulated::nodes(nodes) }, 1, 0.0).await;
    let serve = || site.serve_from(&site.store(), "3600");
    let service = Service::start(serve());
    let path = service.create(&spec(50)).await;
    until("nodes drained", async || site.changes() > 0).await;
    quiet(&site).await;
    assert_eq!(service.get(&path).await.1["state"], "UPDATING");
    service.kill();

    let mut times = Vec::new();
    for _ in 0..RESTARTS {
        let before = site.calls();
        let mut command = serve();
        let begun = Instant::now();
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        while site.calls() == before {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        times.push(begun.elapsed());
        quiet(&site).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    times.sort_unstable();
    times
}

#[tokio::main]
async fn main() {
    println!("{RESTARTS} restarts after kill -9, in the middle of an upgrade:\n");
    println!("{:<44}{:>10}{:>10}{:>10}", "first call to a peer", "median", "worst", "limit");
    for nodes in NODES {
        let times = restarts(nodes).await;
        let [median, worst] = [times[RESTARTS / 2], times[RESTARTS - 1]].map(|time| time.as_millis());
        println!("{:<44}{median:>7} ms{worst:>7} ms{:>7} ms", format!("session of {nodes} nodes"), 1000);
    }
}
