//! The real service as a process, on the simulator's HTTP faces and stand-ins for Slurm's programs.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crus_sim::http::LiveCluster;
use crus_sim::stand_in;
use serde_json::{Value, json};

/// Virtual seconds in a real one.
const SPEED: f64 = 600.0;
const STEP_SIZE: u32 = 50;
/// The steps whose CPU is measured, after the first one.
const STEPS: u32 = 4;

const BINARY: &str = env!("CARGO_BIN_EXE_crus");

/// Runs some steps, starts the service anew, deletes the session, and reports.
pub(crate) fn run(nodes: u32) {
    tokio::runtime::Runtime::new().unwrap().block_on(measure(nodes));
}

async fn measure(nodes: u32) {
    println!("the process, {nodes} nodes in steps of {STEP_SIZE}:");
    let live = LiveCluster::paced(super::cluster(nodes).shared(), SPEED);
    let server = crus_sim::http::serve(live, SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let address = server.address().to_string();
    stand_in::write_programs(folder.path(), Path::new(BINARY), &["slurm-stand-in"], &address).unwrap();

    let service = Service::start(folder.path(), &server.url());
    println!("{:<44}{:>8.1} MiB", "resident when idle, at most", service.memory_mib("VmHWM:"));
    let spec = json!({
        "failed_label": "failed-nodes",
        "starting_label": "slurm-nodes",
        "upgrade_step_size": STEP_SIZE,
        "upgrade_template_id": "new-image",
        "upgrading_label": "upgrading-nodes",
        "workload_manager_type": "slurm",
    });
    let begun = Instant::now();
    let created: Value =
        service.client.post(service.url("")).json(&spec).send().await.unwrap().json().await.unwrap();
    let id = created["upgrade_id"].as_str().unwrap();

    service.until_said(id, "Quiesce requested in step 0").await;
    println!("{:<44}{:>8.1} s", "until step 0 began, mostly simulated HSM", begun.elapsed().as_secs_f64());
    println!("{:<44}{:>8.1} MiB", "resident by then, at most", service.memory_mib("VmHWM:"));
    service.until_said(id, "Quiesce requested in step 1").await;
    let before = service.cpu_ms();
    service.until_said(id, &format!("Quiesce requested in step {}", 1 + STEPS)).await;
    let cpu = (service.cpu_ms() - before) / f64::from(STEPS);
    println!("{:<44}{:>8.1} ms", "CPU of the process for a step, clients included", cpu);
    println!("{:<44}{:>8.1} MiB", "resident after some steps", service.memory_mib("VmRSS:"));
    println!("{:<44}{:>8.1} MiB", "resident, at most", service.memory_mib("VmHWM:"));
    let stored = std::fs::metadata(folder.path().join("crus.redb")).unwrap().len();
    println!("{:<44}{:>8.1} MiB", "the store's file", stored as f64 / f64::from(1 << 20));
    drop(service);

    let begun = Instant::now();
    let service = Service::start(folder.path(), &server.url());
    println!("{:<44}{:>8.2} s", "killed and started again, until it listens", begun.elapsed().as_secs_f64());
    service.answer(id).await;
    println!("{:<44}{:>8.2} s", "and until it answers for the session", begun.elapsed().as_secs_f64());
    let begun = Instant::now();
    service.client.delete(service.url(id)).send().await.unwrap();
    while service.answer(id).await.is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("{:<44}{:>8.2} s", "deletion, until the session is gone", begun.elapsed().as_secs_f64());
    println!(
        "{:<44}{:>8.1} MiB (limit 300)\n",
        "resident since the start, at most",
        service.memory_mib("VmHWM:")
    );
}

/// `crus serve`; killed when dropped.
struct Service {
    child: Child,
    base: String,
    client: reqwest::Client,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Service {
    fn start(folder: &Path, peers: &str) -> Self {
        let mut command = Command::new(BINARY);
        command.args(["serve", "--listen", "127.0.0.1:0", "--auth", "off", "--log", "error"]);
        command.arg("--hsm-url").arg(format!("{peers}/hsm/v2")).arg("--bos-url").arg(format!("{peers}/v2"));
        for program in ["scontrol", "squeue"] {
            command.arg(format!("--{program}")).arg(folder.join(program));
        }
        command.args(["--poll-interval-s", "0.2", "--retry-max-s", "1", "--settle-s", "1", "--store"]);
        let mut child = command.arg(folder.join("crus.redb")).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let base = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Service { child, base, client: reqwest::Client::new() }
    }

    fn url(&self, id: &str) -> String {
        format!("{}/session/{id}", self.base).trim_end_matches('/').to_owned()
    }

    async fn answer(&self, id: &str) -> Option<Value> {
        let answer = self.client.get(self.url(id)).send().await.unwrap();
        if answer.status().is_success() { Some(answer.json().await.unwrap()) } else { None }
    }

    async fn until_said(&self, id: &str, text: &str) {
        while !self.answer(id).await.unwrap().to_string().contains(text) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn memory_mib(&self, what: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let kib = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        kib.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }

    /// User and system time of the process itself, without the programs that it started.
    fn cpu_ms(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let after_name = stat.rsplit(") ").next().unwrap();
        let ticks: f64 = after_name.split(' ').skip(11).take(2).map(|n| n.parse::<f64>().unwrap()).sum();
        ticks * 1000.0 / rustix::param::clock_ticks_per_second() as f64
    }
}
