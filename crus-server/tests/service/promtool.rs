//! What is written for Prometheus, in the eyes of its own tool: the alerts, and a scrape of a service that works.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::simulated::{self, Simulated};
use crate::support::{Service, spec, until};

/// Runs promtool in the folder of this package.
#[track_caller]
fn promtool(args: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(args).current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).stdin(Stdio::piped());
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.unwrap_or_else(|error| {
        panic!(
            "failed to run promtool ({error}): install the Debian package prometheus, or set CRUS_NO_PEERS=1"
        )
    });
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {args:?}: {said}\n{input}");
}

#[test]
fn the_alerts_are_right_to_prometheus_and_go_off_when_they_should() {
    if crus_sim::left_out("promtool") {
        return;
    }
    promtool(&["check", "rules", "packaging/prometheus/crus.rules.yaml"], "");
    promtool(&["test", "rules", "tests/service/crus.rules.test.yaml"], "");
}

/// Names, types, units and texts as the conventions of Prometheus have them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_scrape_of_a_service_that_works_is_without_fault_to_prometheus() {
    if crus_sim::left_out("promtool") {
        return;
    }
    let site = Simulated::start(simulated::nodes(4), 1, 250.0).await;
    let service = Service::start(site.serve());
    let path = service.create(&spec(4)).await;
    until("the upgrade completed", async || service.is_ready(&path).await).await;
    let scrape = reqwest::get(format!("{}/metrics", service.url)).await.unwrap().text().await.unwrap();
    assert!(scrape.contains("\ncrus_nodes_done_total{outcome=\"upgraded\"} 4\n"), "{scrape}");
    promtool(&["check", "metrics"], &scrape);
}
