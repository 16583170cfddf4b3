//! Tools that tests share: `crus serve` as a process that dies with the test, and beside it clusters, peers and conditions.

pub(crate) mod chance;
pub(crate) mod conformance;
#[cfg(feature = "etcd")]
pub(crate) mod etcd;
pub(crate) mod fake;
pub(crate) mod issuer;
pub(crate) mod limits;
pub(crate) mod port;
pub(crate) mod replicas;
pub(crate) mod shortage;
pub(crate) mod simulated;
pub(crate) mod slurm_site;
pub(crate) mod stream;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crus_core::UpgradeId;
use serde_json::{Value, json};

pub(crate) use crus_sim::testing::{PATIENCE, until, until_within};

/// As [`PATIENCE`], for what takes a large part of that on a fast machine.
pub(crate) const MUCH_PATIENCE: Duration = Duration::from_secs(240);

/// Where nobody listens.
pub(crate) const NOWHERE: &str = "http://127.0.0.1:1";

/// The binary under test: that of `CRUS_TEST_BINARY`, such as one of a release build, or else the one that was built
/// with the test.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("CRUS_TEST_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_crus").into(), PathBuf::from)
}

/// The binary, deaf to whatever is configured around the test.
pub(crate) fn crus() -> Command {
    let mut command = Command::new(binary());
    command.stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CRUS_")) {
        command.env_remove(name);
    }
    command
}

/// `crus serve` on a free port, which looks at what it waits for every `poll_s` seconds.
pub(crate) fn serve(store: &Path, hsm_url: &str, bos_url: &str, poll_s: &str) -> Command {
    let mut command = crus();
    command.args(["serve", "--hsm-url", hsm_url, "--bos-url", bos_url]);
    // As variables, so that a test can say otherwise.
    command.env("CRUS_LISTEN", "127.0.0.1:0").env("CRUS_LOG", "error").env("CRUS_AUTH", "off");
    // Calls are counted.
    command.env("CRUS_PROBE_INTERVAL_S", "none");
    command.args(["--poll-interval-s", poll_s, "--retry-max-s", "0.1", "--store"]).arg(store);
    command
}

/// The upgrade of the group `slurm-nodes`, by way of `upgrading-nodes` and `failed-nodes`, into `new-image`.
pub(crate) fn spec(step_size: u32) -> Value {
    json!({
        "failed_label": "failed-nodes",
        "starting_label": "slurm-nodes",
        "upgrade_step_size": step_size,
        "upgrade_template_id": "new-image",
        "upgrading_label": "upgrading-nodes",
        "workload_manager_type": "slurm",
    })
}

/// Where a session that was answered for is found.
pub(crate) fn path_of(session: &Value) -> String {
    format!("/session/{}", session["upgrade_id"].as_str().unwrap())
}

/// The id of the session at this path.
pub(crate) fn id_of(path: &str) -> UpgradeId {
    path.rsplit('/').next().unwrap().parse().unwrap()
}

/// A running service.
pub(crate) struct Service {
    child: Child,
    pub(crate) url: String,
    client: reqwest::Client,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already, as the test wanted.
        if self.child.kill().is_ok() {
            self.child.wait().unwrap();
        }
    }
}

impl Service {
    /// Starts it, and waits for its first line.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let url = first.trim_end().strip_prefix("listening on ").map(str::to_owned);
        let service = Service { url: url.unwrap_or_default(), child, client: reqwest::Client::new() };
        assert!(!service.url.is_empty(), "first line: {first:?}");
        service
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// `kill -9`; it is gone when this returns.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it has ended by itself; its exit code.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "the service does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(self.client.get(format!("{}{path}", self.url))).await
    }

    pub(crate) async fn post(&self, spec: &Value) -> (u16, Value) {
        self.ask(self.client.post(format!("{}/session", self.url)).json(spec)).await
    }

    /// Creates a session; where it is.
    pub(crate) async fn create(&self, spec: &Value) -> String {
        let (code, created) = self.post(spec).await;
        assert_eq!(code, 201, "{created}");
        path_of(&created)
    }

    /// Whether an upgrade has come to its end.
    pub(crate) async fn is_ready(&self, path: &str) -> bool {
        self.get(path).await.1["state"] == "READY"
    }

    pub(crate) async fn delete(&self, path: &str) -> (u16, Value) {
        self.ask(self.client.delete(format!("{}{path}", self.url))).await
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> (u16, Value) {
        let response = request.timeout(PATIENCE).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }
}
