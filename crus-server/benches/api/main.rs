//! Measures how fast the API answers, and whether the upgrades suffer from it: the real service, with a hundred finished
//! sessions, each with the messages of an upgrade in twelve steps, and one running session, which polls Slurm twice a second.
//!
//! The service, the simulated cluster and the load generator share the machine's processors. Each load uses 32 connections,
//! and sends requests as fast as the answers come, or at a rate. At a rate, the time from the moment when a request was due
//! is reported beside the time from its send: the former includes the generator's own delay, and tokio's timer, which is
//! only accurate to 1 ms. The generator's and the server's wait on a run queue and the stolen time show how much of either
//! is due to the machine.
//!
//! Therefore, the p99 at a rate is judged as a ratio to that of a trivial hyper server of the same number of threads, which
//! answers with as many bytes. Loads on the two alternate, so that both see the same machine: [`PAIRS`] pairs, of which the
//! median ratio may be [`report::MAX_RATIO`]. To keep the whole run at about six minutes, only the service without
//! authentication is compared for both targets: with a token, only `GET /session/{id}` is compared. TLS has no target: the
//! generator spends as much processor time on it as the service.
//!
//! Missed targets are printed at the end, and the benchmark fails.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark reports, and may panic")]

mod load;
mod report;
mod subject;
#[expect(dead_code, unused_imports, clippy::panic, clippy::expect_used, reason = "tests use the rest")]
mod support;
mod trivial;
mod waits;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use crus_core::model::{Message, Phase};
use crus_core::ports::SessionStore as _;
use crus_core::{Limits, Session, Spec, Time, UpgradeId};
use crus_server::store::RedbStore;
use crus_sim::workload::{Drawn, Workload};
use load::CONNECTIONS;
use subject::Subject;
use support::simulated::{self, Simulated};
use support::{Service, issuer, spec};

/// The number of finished sessions.
const SESSIONS: u64 = 100;
/// The number of steps of each.
const STEPS: u32 = 12;
/// The interval at which the running session polls Slurm, in seconds.
const POLL_S: &str = "0.5";
/// The length of a load.
const TIME: Duration = Duration::from_secs(5);
/// The length of the load that shows whether memory grows.
const LONG: Duration = Duration::from_secs(10);
/// The number of pairs of loads, on the service and on the trivial server, of a comparison.
const PAIRS: usize = 5;
/// The kinds of requests, and the rate of each that the service must answer.
const TARGETS: [(&str, u32); 2] = [("GET /session/{id}", 20_000), ("GET /session", 2_000)];

/// The messages of an upgrade that succeeded.
fn messages() -> Vec<Message> {
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

/// Puts the finished sessions into a store.
async fn fill(store: &Path) {
    let store = RedbStore::open(store).unwrap();
    let spec: Spec = serde_json::from_value(serde_json::json!({
        "starting": "slurm-nodes", "upgrading": "upgrading-nodes", "failed": "failed-nodes",
        "step_size": 50, "template": "new-image",
    }))
    .unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let now = u64::try_from(now).unwrap();
    for n in 0..SESSIONS {
        let (id, at) = (UpgradeId(uuid::Uuid::new_v4()), Time(now - (SESSIONS - n) * 60_000));
        let mut session = Session::new(id, spec.clone(), crus_api::API_VERSION, Limits::default(), at);
        session.messages = messages();
        session.head.phase = Phase::Done;
        session.head.ended = Some(at);
        store.create(&session).await.unwrap();
    }
}

/// A way to configure the service, and to send requests to it.
struct Way {
    name: &'static str,
    command: Command,
    token: Option<String>,
    tls: bool,
    /// The number of [`TARGETS`], from the first, for which the service is compared with the trivial server.
    compared: usize,
}

/// Measures the service in one way. Returns the targets that it missed.
async fn measure(site: &Simulated, way: Way) -> Vec<String> {
    let Way { name, command, token, tls: is_tls, compared } = way;
    println!("{name}:");
    let subject = Subject::start(site, command, token, is_tls).await;
    subject.idle().await;
    let (one, list) = (subject.sessions.clone(), vec!["/session".to_owned()]);
    subject.warm(&one).await;
    subject.warm(&list).await;
    report::heads();
    let mut misses = Vec::new();
    for (number, ((target, rate), paths)) in TARGETS.into_iter().zip([&one, &list]).enumerate() {
        let fast = subject.load(&format!("{target} at full speed"), paths, None).await;
        if !is_tls {
            misses.extend(report::judge_throughput(&format!("{name}: {target} at full speed"), &fast, rate));
        }
        let at_rate = format!("{target} at {rate}/s");
        subject.load(&at_rate, paths, Some(rate)).await;
        if number < compared {
            let ratios = subject.compare(paths, rate).await;
            misses.extend(report::judge_ratios(&format!("{name}: {at_rate}"), ratios));
        }
    }
    subject.grow(&[one, list].concat()).await;
    misses
}

/// A token of a token file, and the arguments of a service that accepts it.
fn own_token(site: &Simulated) -> (String, Vec<String>) {
    let made = support::crus().args(["token", "new", "--name", "bench", "--role", "read"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let made = String::from_utf8(made.stdout).unwrap();
    let (token, line) = made.split_once('\n').unwrap();
    let tokens = site.folder().join("tokens");
    std::fs::write(&tokens, line).unwrap();
    (token.to_owned(), vec!["--auth-token-file".to_owned(), tokens.display().to_string()])
}

/// A JWT, and the arguments of a service that reads the keys of its issuer from a file.
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

/// Prints the machine's state, which shows in every figure.
fn report_machine() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    let processors = std::thread::available_parallelism().unwrap();
    println!("load average {} at the start, {processors} processors", load.split(' ').next().unwrap());
    if waits::are_counted() {
        println!(
            "run queue: the time that the threads of a process waited for a processor, summed over them"
        );
        println!("generator: the process of the load generator and the simulated cluster");
    } else {
        println!("run queue: unknown, because this kernel does not count it (/proc/PID/task/*/schedstat)");
    }
    println!("stolen: the share of the processors' time that the hypervisor gave to other machines");
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, argument, body_bytes] = &*arguments
        && argument == trivial::ARGUMENT
    {
        trivial::run(body_bytes.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    // One thread generates load, so that the server has the other processor.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let misses = runtime.worker_threads(1).enable_all().build().unwrap().block_on(measure_all());
    for miss in &misses {
        println!("missed: {miss}");
    }
    if misses.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Measures the service in every way. Returns the targets that it missed.
async fn measure_all() -> Vec<String> {
    report_machine();
    // Jobs that do not end, as time stands still: the running session drains its first nodes, and polls them.
    let workload = Workload::Drawn(Drawn { busy_per_mille: 1000, ..Drawn::default() });
    let config = crus_sim::ClusterConfig { workload, ..simulated::nodes(64) };
    let site = Simulated::start(config, 1, 0.0).await;
    fill(&site.store()).await;
    let serve = || {
        let mut command = site.serve_from(&site.store(), POLL_S);
        // On, but never reached.
        command.args(["--requests-per-second-per-client", "1000000"]);
        command
    };
    let service = Service::start(serve());
    service.create(&spec(8)).await;
    service.kill();

    println!("{SESSIONS} finished sessions and a running one, {CONNECTIONS} connections\n");
    let with_token = |name, (token, arguments): (String, Vec<String>), tls| {
        let mut command = serve();
        command.env("CRUS_AUTH", "on").args(arguments);
        Way { name, command, token: Some(token), tls, compared: usize::from(!tls) }
    };
    let jwt = jwt(&site);
    let ways = [
        Way { name: "without authentication", command: serve(), token: None, tls: false, compared: 2 },
        with_token("with a token of a file", own_token(&site), false),
        with_token("with a JWT", jwt.clone(), false),
        with_token("with a JWT, over TLS", jwt, true),
    ];
    let mut misses = Vec::new();
    for way in ways {
        misses.extend(measure(&site, way).await);
    }
    misses
}
