//! A real etcd on loopback, with ports and data of its own, that dies with the test however the test ends.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crus_server::settings::EtcdOptions;
use etcd_client::{Client, ConnectOptions};

/// Starts etcd, tells its pid, and waits at a pipe from the test. The pipe closes when the test ends it, and as surely
/// when the test dies: then etcd is killed, and its folder removed unless the test wants it kept.
const WARDEN: &str = r#"
dir=$1
shift
trap '' HUP INT TERM
"$@" </dev/null >"$dir/log" 2>&1 &
pid=$!
echo "$pid"
read -r word || :
kill -KILL "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
[ "$word" = keep ] || rm -rf "$dir"
"#;

const REMEDY: &str = "apt-get install -y --no-install-recommends etcd-server";

/// How long etcd may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// As [`crus_sim::left_out`], for tests that need etcd.
pub(crate) fn left_out() -> bool {
    crus_sim::left_out("a real etcd")
}

/// A real etcd of one member. Dropping it ends it and removes its data.
pub(crate) struct Etcd {
    folder: PathBuf,
    ports: [u16; 2],
    /// Whether it is reached by TLS, and what is needed for that.
    tls: Option<Tls>,
    running: Option<Running>,
}

/// A CA, and a certificate by it for servers and clients on loopback.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

struct Running {
    warden: Child,
    pid: u32,
}

impl Etcd {
    pub(crate) async fn start() -> Etcd {
        Etcd::start_with(None).await
    }

    /// With TLS: only who shows a certificate of that CA is let in.
    pub(crate) async fn start_with(tls: Option<Tls>) -> Etcd {
        let folder = tempfile::tempdir().unwrap().keep();
        // Ports were free when looked at; somebody may have been faster. Then etcd ends at once.
        for _ in 0..3 {
            let mut etcd =
                Etcd { folder: folder.clone(), ports: free_ports(), tls: tls.clone(), running: None };
            etcd.launch();
            if etcd.answers().await {
                return etcd;
            }
            etcd.stop();
        }
        panic!("etcd does not start: {}", log(&folder));
    }

    fn url(&self, port: usize) -> String {
        let scheme = if self.tls.is_some() && port == 0 { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.ports[port])
    }

    /// Where clients find it.
    pub(crate) fn endpoint(&self) -> String {
        self.url(0)
    }

    /// How the service is told to use it.
    pub(crate) fn options(&self, lease_s: u64) -> EtcdOptions {
        EtcdOptions { endpoints: vec![self.endpoint()], lease_s, ..EtcdOptions::default() }
    }

    /// A client of its own, without users and TLS.
    pub(crate) async fn client(&self) -> Client {
        let options = ConnectOptions::new().with_timeout(Duration::from_secs(5));
        Client::connect([self.endpoint()], Some(options)).await.unwrap()
    }

    fn launch(&mut self) {
        let [client, peer] = [self.url(0), self.url(1)];
        let mut warden = Command::new("sh");
        warden.args(["-c", WARDEN, "etcd-warden"]).arg(&self.folder).arg("etcd");
        warden.args(["--name", "lab", "--logger", "zap", "--data-dir"]).arg(self.folder.join("data"));
        warden.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        warden.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        warden.args(["--initial-cluster", &format!("lab={peer}")]);
        // So that leases of a second are kept as they are asked for.
        warden.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        if let Some(Tls { ca, cert, key }) = &self.tls {
            warden.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            warden.arg("--cert-file").arg(cert).arg("--key-file").arg(key);
        }
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ETCD")) {
            warden.env_remove(name);
        }
        // Nothing here outlives the host, and a lease need not wait for a busy disk. As a variable, since not every version
        // has it.
        warden.env("ETCD_UNSAFE_NO_FSYNC", "true");
        let mut warden =
            warden.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(warden.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        self.running = Some(Running { warden, pid: pid.trim().parse().unwrap() });
    }

    /// Waits until it answers; `false` when it has ended instead.
    async fn answers(&self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if !Path::new(&format!("/proc/{}", self.pid())).exists() || self.has_ended() {
                let log = log(&self.folder);
                assert!(!log.contains("etcd: not found"), "there is no etcd; get it with: {REMEDY}");
                return false;
            }
            let shown = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[0]));
            if shown.contains("serving client traffic")
                && tokio::net::TcpStream::connect(address).await.is_ok()
            {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("etcd does not answer: {}", log(&self.folder));
    }

    /// Whether the process is a zombie that its warden has not looked at.
    fn has_ended(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
    }

    fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().pid
    }

    /// Kills it; its data and ports stay.
    pub(crate) fn stop(&mut self) {
        let Some(Running { mut warden, .. }) = self.running.take() else { return };
        warden.stdin.take().unwrap().write_all(b"keep\n").unwrap();
        warden.wait().unwrap();
    }

    /// Starts it again on its data, and waits until it answers.
    pub(crate) async fn start_again(&mut self) {
        self.launch();
        assert!(self.answers().await, "etcd does not start again: {}", log(&self.folder));
    }

    /// It falls silent, with all connections open.
    pub(crate) fn pause(&self) {
        signal(self.pid(), "STOP");
        // Its threads stop one by one, and on a busy machine some of them answer meanwhile.
        let begun = Instant::now();
        while !self.is_stopped() {
            assert!(begun.elapsed() < PATIENCE, "etcd does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn is_stopped(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        threads.map(|thread| thread.unwrap().path().join("stat")).all(|stat| {
            // A thread may have ended meanwhile.
            let stat = fs::read_to_string(stat).unwrap_or_default();
            stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('T'))
        })
    }

    pub(crate) fn go_on(&self) {
        signal(self.pid(), "CONT");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        match self.running.take() {
            Some(Running { mut warden, .. }) => {
                drop(warden.stdin.take());
                warden.wait().unwrap();
            }
            None => _ = fs::remove_dir_all(&self.folder),
        }
    }
}

pub(crate) fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

fn free_ports() -> [u16; 2] {
    let listeners = [0, 0].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn log(folder: &Path) -> String {
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
