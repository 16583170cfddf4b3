//! Ten thousand connections that are idle or mean harm, and one client that only wants to be served.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::chance::{draw, seed};
use crate::support::simulated::{Simulated, nodes};
use crate::support::{self, PATIENCE, Service, spec, until};
use reqwest::Client;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Clients that mean harm, each with one connection at a time.
const HOSTILE: usize = 10_000;

/// The addresses that these come from.
const ADDRESSES: usize = 50;

/// How soon one that was thrown out comes again, at least; at most twice that.
const AGAIN: Duration = Duration::from_secs(4);

/// So many connections are there at some time, at least: twice as many as the service lets in, so that it must choose.
const OPEN_AT_ONCE: usize = 2 * 1024;

/// Virtual seconds in a real one.
const SPEED: f64 = 150.0;

const NODES: u32 = 16;

/// What the service may hold in memory at most, whoever comes. In a debug build it takes 40 without a visitor.
const MEMORY_MIB: u64 = 200;

/// What a client does once it is connected.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Silent,
    /// A head byte by byte.
    SlowHead,
    /// A body byte by byte.
    SlowBody,
    /// Asks for much, and reads nothing.
    NeverReads,
    /// Follows a session, and reads nothing.
    StallsAsStream,
    /// The beginning of a handshake, and no more of it.
    HalfHandshake,
    ClosesAtOnce,
    Garbage,
    /// Asks once, and holds the connection.
    Idle,
}

const KINDS: [Kind; 9] = [
    Kind::Silent,
    Kind::SlowHead,
    Kind::SlowBody,
    Kind::NeverReads,
    Kind::StallsAsStream,
    Kind::HalfHandshake,
    Kind::ClosesAtOnce,
    Kind::Garbage,
    Kind::Idle,
];

/// All of them, and what they came to.
struct Siege {
    to: SocketAddr,
    path: String,
    over: AtomicBool,
    connected: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl Siege {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    async fn connect(&self, from: usize) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        let last = u8::try_from(from % ADDRESSES).unwrap();
        socket.bind(SocketAddr::from((Ipv4Addr::new(127, 66, 0, last + 1), 0)))?;
        timeout(Duration::from_secs(20), socket.connect(self.to)).await?
    }

    /// Comes again and again until it is over.
    async fn harm(self: Arc<Self>, number: usize, mut chance: u64) {
        while !self.is_over() {
            let kind = KINDS[(draw(&mut chance) % KINDS.len() as u64) as usize];
            if let Ok(stream) = self.connect(number).await {
                self.connected.fetch_add(1, Ordering::Relaxed);
                let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
                self.most_open.fetch_max(open, Ordering::Relaxed);
                // Whatever comes of it: it was thrown out, or went.
                self.misbehave(stream, kind, &mut chance).await.ok();
                self.open.fetch_sub(1, Ordering::Relaxed);
            }
            let pause = AGAIN + AGAIN.mul_f64((draw(&mut chance) % 1000) as f64 / 1000.0);
            tokio::time::sleep(pause).await;
        }
    }

    /// Ends once the connection does, or all is over.
    async fn misbehave(&self, mut stream: TcpStream, kind: Kind, chance: &mut u64) -> std::io::Result<()> {
        let path = &self.path;
        match kind {
            Kind::Silent => {}
            Kind::ClosesAtOnce => return Ok(()),
            Kind::HalfHandshake => stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await?,
            Kind::Garbage => {
                let garbage: Vec<u8> = (0..64).flat_map(|_| draw(chance).to_le_bytes()).collect();
                stream.write_all(&garbage).await?;
            }
            Kind::Idle => {
                stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await?;
            }
            Kind::NeverReads => {
                let request = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50);
                stream.write_all(request.as_bytes()).await?;
                return self.hold_without_reading(&stream).await;
            }
            Kind::StallsAsStream => {
                let accept = "accept: text/event-stream";
                let request = format!("GET {path}/events HTTP/1.1\r\nhost: x\r\n{accept}\r\n\r\n");
                stream.write_all(request.as_bytes()).await?;
                return self.hold_without_reading(&stream).await;
            }
            Kind::SlowHead => {
                stream.write_all(b"GET /session HTTP/1.1\r\nhost: x\r\nx: ").await?;
                return self.drip(&mut stream).await;
            }
            Kind::SlowBody => {
                let head = "POST /session HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
                stream.write_all(format!("{head}content-length: 60000\r\n\r\n").as_bytes()).await?;
                return self.drip(&mut stream).await;
            }
        }
        let mut buffer = [0; 1024];
        while !self.is_over() {
            if let Ok(read) = timeout(Duration::from_secs(1), stream.read(&mut buffer)).await
                && read? == 0
            {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn drip(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        while !self.is_over() {
            stream.write_all(b" ").await?;
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        Ok(())
    }

    /// Until it is reset: that can be seen without reading.
    async fn hold_without_reading(&self, stream: &TcpStream) -> std::io::Result<()> {
        while !self.is_over() {
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }
}

/// A connection is a file at either end.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = HOSTILE as u64 + 1000;
    if limit.current.is_some_and(|now| now < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).unwrap();
    }
}

fn memory_mib(service: &Service, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.pid())).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    kib.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

fn certificate(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/certificates")).join(name)
}

/// A client as anybody would write it.
fn ordinary(tls: bool) -> Client {
    let builder = Client::builder().timeout(PATIENCE);
    if !tls {
        return builder.build().unwrap();
    }
    let trusted = std::fs::read(certificate("first.pem")).unwrap();
    let trusted = reqwest::Certificate::from_pem(&trusted).unwrap();
    builder.tls_certs_only([trusted]).build().unwrap()
}

async fn besieged(tls: bool) {
    // One siege at a time: the limit of files is that of all tests here.
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _alone = ALONE.lock().await;
    raise_file_limit();
    let chance = seed();
    let cluster = Simulated::start(nodes(NODES), chance, SPEED).await;
    let mut command = cluster.serve();
    // As it is delivered, but for those who must be given up while the test lasts.
    command.args(["--head-timeout-s", "3", "--body-timeout-s", "3", "--stall-timeout-s", "3"]);
    if tls {
        command.arg("--tls-cert-file").arg(certificate("first.pem"));
        command.arg("--tls-key-file").arg(certificate("first.key"));
    }
    let service = Service::start(command);
    assert_eq!(service.url.starts_with("https://"), tls, "{}", service.url);
    let client = ordinary(tls);
    let created = client.post(format!("{}/session", service.url)).json(&spec(8)).send().await.unwrap();
    assert_eq!(created.status(), 201);
    let created: Value = created.json().await.unwrap();
    let path = support::path_of(&created);
    let idle_mib = memory_mib(&service, "VmRSS:");

    let siege = Arc::new(Siege {
        to: service.url.rsplit('/').next().unwrap().parse().unwrap(),
        path: path.clone(),
        over: AtomicBool::new(false),
        connected: AtomicUsize::new(0),
        open: AtomicUsize::new(0),
        most_open: AtomicUsize::new(0),
    });
    let mut hostile = JoinSet::new();
    for number in 0..HOSTILE {
        hostile.spawn(Arc::clone(&siege).harm(number, chance.wrapping_add(number as u64)));
    }

    // One that holds its connection, and one that never does.
    let (mut answers, mut slowest) = (0, Duration::ZERO);
    let (mut completed, mut done) = (false, None);
    let begun = Instant::now();
    while !completed || siege.connected.load(Ordering::Relaxed) < 2 * HOSTILE {
        assert!(begun.elapsed() < 5 * PATIENCE, "{:?} of {:?}", siege.connected, 2 * HOSTILE);
        for client in [&client, &ordinary(tls)] {
            let asked = Instant::now();
            let answer = client.get(format!("{}{path}", service.url)).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
            let session: Value = answer.json().await.unwrap();
            slowest = slowest.max(asked.elapsed());
            answers += 1;
            completed = session["state"] == "READY";
            if completed {
                done.get_or_insert(begun.elapsed());
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let most = memory_mib(&service, "VmHWM:");
    println!(
        "{answers} answers, the slowest after {slowest:?}; the session was done after {done:?}; {:?} connections, {:?} at \
         once; resident {idle_mib} MiB before, {most} at most",
        siege.connected, siege.most_open
    );
    assert!(most < MEMORY_MIB, "{most} MiB");
    let most_open = siege.most_open.load(Ordering::Relaxed);
    assert!(most_open >= OPEN_AT_ONCE, "{most_open} connections at once besieged nobody");
    assert!(cluster.members("failed-nodes").is_empty());

    siege.over.store(true, Ordering::Relaxed);
    hostile.join_all().await;
    // Nothing is left of it.
    let files = format!("/proc/{}/fd", service.pid());
    until("the connections are gone", async || std::fs::read_dir(&files).unwrap().count() < 100).await;
    println!("resident afterwards: {} MiB", memory_mib(&service, "VmRSS:"));
    let mut service = service;
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_hostile_connections_stop_nobody() {
    besieged(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_hostile_connections_stop_nobody_over_tls() {
    besieged(true).await;
}
