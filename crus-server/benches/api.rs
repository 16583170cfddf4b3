//! Measures how fast the API answers, and whether the upgrades suffer from it: the real service, with a hundred sessions that
//! are done, each with the messages of an upgrade in twelve steps, and one at work, which looks at Slurm twice in a second.
//!
//! The service, the simulated cluster and whoever asks share the machine's processors. 32 connections are kept open; each
//! asks for the next thing once it has its answer, and reads that to its end; then at the rate that is wanted. What is not
//! reached is said at the end, and the benchmark fails. Of TLS there is no target: whoever asks takes as much of the same
//! processors for it as the service does.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark reports, and may panic")]

#[expect(dead_code, unused_imports, clippy::panic, clippy::expect_used, reason = "tests use the rest")]
mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crus_core::model::{Message, Phase};
use crus_core::ports::SessionStore as _;
use crus_core::{Limits, Session, Spec, Time, UpgradeId};
use crus_server::store::RedbStore;
use crus_sim::workload::{Drawn, Workload};
use serde_json::Value;
use support::issuer;
use support::simulated::{self, Simulated};
use support::{Service, path_of, spec, until};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const SESSIONS: u64 = 100;
const STEPS: u32 = 12;
const CONNECTIONS: usize = 32;
/// How often the session at work looks at Slurm, in seconds.
const POLL_S: &str = "0.5";
/// How long is measured.
const TIME: Duration = Duration::from_secs(10);
/// How long to see whether memory grows.
const LONG: Duration = Duration::from_secs(30);
/// What is asked for, and how often in a second at least.
const TARGETS: [(&str, u32); 2] = [("GET /session/{id}", 20_000), ("GET /session", 2_000)];
/// How long an answer may take at that rate, in milliseconds, for 99 of 100.
const P99_MS: f64 = 10.0;

/// What an upgrade says that came to a good end.
fn said() -> Vec<Message> {
    let step = |n: u32| {
        [
            format!("Quiesce requested in step {n}: moving to QUIESCING"),
            format!("All nodes quiesced in step {n}: moving to QUIESCED"),
            format!("Began the boot session for step {n}: moving to BOOTING"),
            format!("The boot session for step {n} completed: moving to BOOTED"),
            format!("Step {n} boot session succeeded: moving to WLM_WAITING"),
            format!(
                "All WLM returned to ready in step {n}: advancing to step {} and moving to STARTING",
                n + 1
            ),
        ]
    };
    let ends =
        [format!("No nodes in step {STEPS}: moving to CLEANUP"), "Upgrade Session Completed".to_owned()];
    (0..STEPS).flat_map(step).chain(ends).map(|text| Message::new(text, Time(1))).collect()
}

/// Puts the sessions that are done into a store.
async fn fill(store: &Path) -> Vec<String> {
    let store = RedbStore::open(store).unwrap();
    let spec: Spec = serde_json::from_value(serde_json::json!({
        "starting": "slurm-nodes", "upgrading": "upgrading-nodes", "failed": "failed-nodes",
        "step_size": 50, "template": "new-image",
    }))
    .unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let now = u64::try_from(now).unwrap();
    let mut ids = Vec::new();
    for n in 0..SESSIONS {
        let (id, at) = (UpgradeId(uuid::Uuid::new_v4()), Time(now - (SESSIONS - n) * 60_000));
        let mut session = Session::new(id, spec.clone(), crus_api::API_VERSION, Limits::default(), at);
        session.messages = said();
        session.head.phase = Phase::Done;
        session.head.ended = Some(at);
        store.create(&session).await.unwrap();
        ids.push(format!("/session/{id}"));
    }
    ids
}

/// What came of asking for a while.
struct Load {
    answers: usize,
    bytes: u64,
    per_second: f64,
    /// Sorted, in microseconds.
    took: Vec<u32>,
}

impl Load {
    fn percentile_ms(&self, per_mille: usize) -> f64 {
        let at = (self.took.len() - 1) * per_mille / 1000;
        f64::from(self.took[at]) / 1000.0
    }
}

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Where to ask, and as whom.
#[derive(Clone)]
struct Peer {
    address: SocketAddr,
    tls: Option<TlsConnector>,
    token: Option<String>,
}

impl Peer {
    async fn connect(&self) -> Box<dyn Stream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        match &self.tls {
            None => Box::new(stream),
            Some(tls) => {
                let name = ServerName::try_from("localhost").unwrap();
                Box::new(tls.connect(name, stream).await.unwrap())
            }
        }
    }
}

fn certificate(name: &str) -> String {
    format!("{}/tests/http/certificates/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn tls() -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate("first.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

/// Asks for these paths in turn for so long, on connections of its own: at this rate in all, whatever the answers take, or
/// else as fast as they come. At a rate an answer is waited for from when it was to be asked for: what holds up one holds up
/// those after it, and all of that counts.
async fn ask(peer: &Peer, paths: &[String], time: Duration, rate: Option<u32>) -> Load {
    let token =
        peer.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let requests: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| format!("GET {path} HTTP/1.1\r\nhost: crus\r\n{token}\r\n").into_bytes())
        .collect();
    let requests = Arc::new(requests);
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for first in 0..CONNECTIONS {
        let (requests, peer) = (Arc::clone(&requests), peer.clone());
        clients.spawn(async move {
            let mut stream = peer.connect().await;
            let mut buffer = vec![0; 1 << 20];
            let (mut took, mut bytes, mut next) = (Vec::new(), 0, first * 7);
            let apart = rate.map(|rate| Duration::from_secs(1) * u32::try_from(CONNECTIONS).unwrap() / rate);
            let mut due = begun + apart.unwrap_or_default().mul_f64(first as f64 / CONNECTIONS as f64);
            while begun.elapsed() < time {
                let asked = match apart {
                    None => Instant::now(),
                    Some(apart) => {
                        tokio::time::sleep_until(due.into()).await;
                        due += apart;
                        due - apart
                    }
                };
                stream.write_all(&requests[next % requests.len()]).await.unwrap();
                next += 1;
                stream.flush().await.unwrap();
                bytes += answer(&mut *stream, &mut buffer).await as u64;
                took.push(u32::try_from(asked.elapsed().as_micros()).unwrap());
            }
            (took, bytes)
        });
    }
    let (mut took, mut bytes) = (Vec::new(), 0);
    for (some, more) in clients.join_all().await {
        took.extend(some);
        bytes += more;
    }
    let per_second = took.len() as f64 / begun.elapsed().as_secs_f64();
    took.sort_unstable();
    Load { answers: took.len(), bytes, per_second, took }
}

/// Reads one answer to its end; how long it was.
async fn answer(stream: &mut dyn Stream, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    loop {
        let more = stream.read(&mut buffer[filled..]).await.unwrap();
        assert!(more > 0, "closed by the service");
        filled += more;
        let head = &buffer[..filled.min(1024)];
        let Some(end) = head.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&head[..end]).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let (_, length) = head.split_once("content-length: ").unwrap();
        let length: usize = length.lines().next().unwrap().parse().unwrap();
        let whole = end + 4 + length;
        while filled < whole {
            let more = stream.read(&mut buffer[filled..whole]).await.unwrap();
            assert!(more > 0, "closed by the service");
            filled += more;
        }
        return whole;
    }
}

fn resident_mib(service: &Service) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    kib.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Notes when the session at work looks at Slurm, for so long; how far apart that was, in milliseconds.
async fn looks(site: &Simulated, time: Duration) -> Vec<u128> {
    let count = || site.live.calls().get("scontrol show").copied().unwrap_or_default();
    let begun = Instant::now();
    let (mut seen, mut last, mut apart) = (count(), None, Vec::new());
    while begun.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let now = count();
        if now != seen {
            seen = now;
            if let Some(last) = last.replace(Instant::now()) {
                apart.push(last.elapsed().as_millis());
            }
        }
    }
    apart.sort_unstable();
    apart
}

/// What the service itself says: how often it looked, and how much later than intended in all, in seconds.
async fn lag(service: &Service, client: &reqwest::Client) -> (f64, f64) {
    let answer = client.get(format!("{}/metrics", service.url)).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let value = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or_default()
    };
    (value("crus_poll_lag_seconds_count "), value("crus_poll_lag_seconds_sum "))
}

fn report(what: &str, load: &Load) {
    println!(
        "{what:<34}{:>9.0} /s{:>9.2} ms median{:>8.2} ms p99{:>9.2} ms worst{:>8.0} B each",
        load.per_second,
        load.percentile_ms(500),
        load.percentile_ms(990),
        load.percentile_ms(1000),
        load.bytes as f64 / load.answers as f64,
    );
}

/// What of its target a load missed. At a rate its answers are waited for; otherwise the rate is what is looked for.
fn missed(what: &str, load: &Load, per_second: u32, at_rate: bool) -> Option<String> {
    let p99_ms = load.percentile_ms(990);
    match at_rate {
        false if load.per_second < f64::from(per_second) => {
            Some(format!("{what}: {:.0} answers a second, and not {per_second}", load.per_second))
        }
        true if p99_ms > P99_MS => {
            Some(format!("{what} at {per_second} a second: {p99_ms:.1} ms for 99 of 100, and not {P99_MS}"))
        }
        _ => None,
    }
}

fn tell_looks(what: &str, apart: &[u128], before: (f64, f64), after: (f64, f64)) {
    assert!(!apart.is_empty(), "the session at work looks at Slurm");
    let (median, worst) = (apart[apart.len() / 2], apart[apart.len() - 1]);
    let count = after.0 - before.0;
    let late_ms = (after.1 - before.1) / count * 1000.0;
    println!(
        "{what:<34}{:>4} looks, {median} ms apart in the median, {worst} ms at worst; by the service's own measure {late_ms:.1} \
         ms late on average of {count}",
        apart.len() + 1
    );
}

/// How the service is asked.
struct Way {
    name: &'static str,
    command: Command,
    token: Option<String>,
    tls: bool,
}

/// What was missed.
async fn measure(site: &Simulated, way: Way) -> Vec<String> {
    let Way { name, mut command, token, tls: is_tls } = way;
    println!("{name}:");
    // A connection of its own for each: the service closes what is idle for as long as a load lasts.
    let mut builder = reqwest::Client::builder().pool_max_idle_per_host(0);
    if is_tls {
        command.args([
            "--tls-cert-file",
            &certificate("first.pem"),
            "--tls-key-file",
            &certificate("first.key"),
        ]);
        let trusted = std::fs::read(certificate("first.pem")).unwrap();
        builder = builder.tls_certs_only([reqwest::Certificate::from_pem(&trusted).unwrap()]);
    }
    let client = builder.build().unwrap();
    let service = Service::start(command);
    let address: SocketAddr = service.url.rsplit('/').next().unwrap().parse().unwrap();
    let list = client.get(format!("{}/session", service.url));
    let list = if let Some(token) = &token { list.bearer_auth(token) } else { list };
    let list: Vec<Value> = list.send().await.unwrap().json().await.unwrap();
    assert_eq!(list.len() as u64, SESSIONS + 1);
    let paths: Vec<String> = list.iter().map(path_of).collect();
    until("nodes drained", async || site.changes() > 0).await;

    let before = lag(&service, &client).await;
    let apart = looks(site, TIME).await;
    let after = lag(&service, &client).await;
    tell_looks("without load", &apart, before, after);

    let peer = Peer { address, tls: is_tls.then(tls), token };
    // Warm, so that what is kept for the first time is not taken for growth.
    ask(&peer, &paths, Duration::from_secs(1), None).await;
    let every = ["/session".to_owned()];
    ask(&peer, &every, Duration::from_secs(1), None).await;
    let mut misses = Vec::new();
    for ((what, per_second), paths) in TARGETS.into_iter().zip([&paths[..], &every]) {
        for rate in [None, Some(per_second)] {
            let before = lag(&service, &client).await;
            let (load, apart) = tokio::join!(ask(&peer, paths, TIME, rate), looks(site, TIME));
            report(&rate.map_or_else(|| what.to_owned(), |rate| format!("{what}, at {rate} /s")), &load);
            tell_looks(" meanwhile", &apart, before, lag(&service, &client).await);
            misses.extend(missed(&format!("{name}: {what}"), &load, per_second, rate.is_some()));
        }
    }
    let begun = resident_mib(&service);
    let both: Vec<String> = paths.iter().cloned().chain(every).collect();
    let load = ask(&peer, &both, LONG, None).await;
    println!(
        "{:<34}{begun:>9.1} MiB before, {:.1} after {} answers more\n",
        "resident",
        resident_mib(&service),
        load.answers
    );
    if is_tls { Vec::new() } else { misses }
}

/// A token of a file, and the arguments of a service that takes it.
fn own_token(site: &Simulated) -> (String, Vec<String>) {
    let made = support::crus().args(["token", "new", "--name", "bench", "--role", "read"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made = String::from_utf8(made.stdout).unwrap();
    let (token, line) = made.split_once('\n').unwrap();
    let tokens = site.folder().join("tokens");
    std::fs::write(&tokens, line).unwrap();
    (token.to_owned(), vec!["--auth-token-file".to_owned(), tokens.display().to_string()])
}

/// A JWT, and the arguments of a service that knows the keys of its issuer from a file.
fn jwt(site: &Simulated) -> (String, Vec<String>) {
    let key = issuer::Key::rsa("bench");
    let keys = site.folder().join("keys.json");
    std::fs::write(&keys, serde_json::json!({ "keys": [key.public()] }).to_string()).unwrap();
    let mut claims = issuer::claims("bench", &["crus-read"]);
    claims["exp"] = issuer::in_s(3600).into();
    let keys = keys.display().to_string();
    let arguments =
        ["--auth-jwks", &keys, "--auth-issuer", issuer::ISSUER, "--auth-audience", issuer::AUDIENCE];
    (key.token(&claims), arguments.map(str::to_owned).to_vec())
}

/// What else the machine does tells in every figure.
fn tell_load() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let processors = std::thread::available_parallelism().unwrap();
    println!("load average {}, of {processors} processors", load.split(' ').next().unwrap());
}

/// One thread asks, so that the service has the other.
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() -> ExitCode {
    tell_load();
    // Jobs that do not end, as time stands still: the session at work drains its first nodes, and looks at them.
    let workload = Workload::Drawn(Drawn { busy_per_mille: 1000, ..Drawn::default() });
    let config = crus_sim::ClusterConfig { workload, ..simulated::nodes(64) };
    let site = Simulated::start(config, 1, 0.0).await;
    fill(&site.store()).await;
    // On, and never reached: nobody here is to be refused.
    let limit = ["--requests-per-second-per-client", "1000000"];
    let serve = || {
        let mut command = site.serve_from(&site.store(), POLL_S);
        command.args(limit);
        command
    };
    let service = Service::start(serve());
    service.create(&spec(8)).await;
    service.kill();

    println!("{SESSIONS} sessions that are done and one at work, {CONNECTIONS} connections\n");
    let asking = |name, (token, arguments): (String, Vec<String>), tls| {
        let mut command = serve();
        command.env("CRUS_AUTH", "on").args(arguments);
        Way { name, command, token: Some(token), tls }
    };
    let jwt = jwt(&site);
    let ways = [
        Way { name: "without authentication", command: serve(), token: None, tls: false },
        asking("with a token of a file", own_token(&site), false),
        asking("with a JWT", jwt.clone(), false),
        asking("with a JWT, over TLS", jwt, true),
    ];
    let mut misses = Vec::new();
    for way in ways {
        misses.extend(measure(&site, way).await);
    }
    for miss in &misses {
        println!("missed: {miss}");
    }
    if misses.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
