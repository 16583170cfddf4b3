//! The load generator: connections that send requests and time the answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::waits::{Counters, Waits};

/// The number of connections of a load.
pub(crate) const CONNECTIONS: u32 = 32;

/// The server that a load is for, and the credentials to use.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
    pub(crate) tls: Option<TlsConnector>,
    pub(crate) token: Option<String>,
}

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

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

    fn request(&self, path: &str) -> Vec<u8> {
        let token = self.token.as_ref().map(|token| format!("authorization: Bearer {token}\r\n"));
        format!("GET {path} HTTP/1.1\r\nhost: crus\r\n{}\r\n", token.unwrap_or_default()).into_bytes()
    }
}

/// Durations, sorted, in microseconds.
pub(crate) struct Durations(Vec<u32>);

impl Durations {
    fn new(durations: impl Iterator<Item = Duration>) -> Durations {
        let mut all: Vec<u32> = durations.map(|each| u32::try_from(each.as_micros()).unwrap()).collect();
        all.sort_unstable();
        Durations(all)
    }

    pub(crate) fn percentile_ms(&self, per_mille: usize) -> f64 {
        f64::from(self.0[(self.0.len() - 1) * per_mille / 1000]) / 1000.0
    }
}

/// The result of a load.
pub(crate) struct Load {
    pub(crate) answers: usize,
    pub(crate) bytes: usize,
    pub(crate) per_second: f64,
    /// From the moment a request was due to the end of its answer, at a rate. The generator's own delay is part of it.
    pub(crate) from_due: Option<Durations>,
    /// From just before a request was written to the end of its answer.
    pub(crate) from_send: Durations,
    pub(crate) waits: Waits,
}

/// One request and its answer.
struct Exchange {
    due: Instant,
    sent: Instant,
    answered: Instant,
    bytes: usize,
}

/// Requests these paths in turn for `time`, on connections of its own. At a rate, which is that of all connections together,
/// requests are due at fixed moments: a slow answer delays those after it on its connection, and all of their delay counts.
/// Without one, each connection sends the next request as soon as it has an answer.
pub(crate) async fn run(peer: &Peer, paths: &[String], time: Duration, rate: Option<u32>) -> Load {
    let requests: Arc<[Vec<u8>]> = paths.iter().map(|path| peer.request(path)).collect();
    let before = Counters::read(peer.pid);
    let begun = Instant::now();
    let interval = rate.map(|rate| Duration::from_secs(1) * CONNECTIONS / rate);
    let mut clients = JoinSet::new();
    for number in 0..CONNECTIONS {
        let schedule = Schedule {
            end: begun + time,
            first: begun + interval.unwrap_or_default() * number / CONNECTIONS,
            interval,
        };
        clients.spawn(client(peer.clone(), Arc::clone(&requests), number as usize * 7, schedule));
    }
    let exchanges: Vec<Exchange> = clients.join_all().await.into_iter().flatten().collect();
    let took = begun.elapsed();
    Load {
        answers: exchanges.len(),
        bytes: exchanges.iter().map(|each| each.bytes).sum(),
        per_second: exchanges.len() as f64 / took.as_secs_f64(),
        from_due: rate.map(|_| Durations::new(exchanges.iter().map(|each| each.answered - each.due))),
        from_send: Durations::new(exchanges.iter().map(|each| each.answered - each.sent)),
        waits: Counters::read(peer.pid).since(&before),
    }
}

/// The times at which a connection sends its requests.
struct Schedule {
    first: Instant,
    interval: Option<Duration>,
    end: Instant,
}

/// Sends requests on one connection until the schedule ends.
async fn client(peer: Peer, requests: Arc<[Vec<u8>]>, first: usize, schedule: Schedule) -> Vec<Exchange> {
    let mut stream = peer.connect().await;
    let mut buffer = vec![0; 1 << 20];
    let mut exchanges = Vec::new();
    let mut next_due = schedule.first;
    for request in requests.iter().cycle().skip(first) {
        if Instant::now() >= schedule.end {
            break;
        }
        if let Some(interval) = schedule.interval {
            tokio::time::sleep_until(next_due.into()).await;
            next_due += interval;
        }
        let sent = Instant::now();
        let due = schedule.interval.map_or(sent, |interval| next_due - interval);
        stream.write_all(request).await.unwrap();
        stream.flush().await.unwrap();
        let bytes = read_answer(&mut *stream, &mut buffer).await;
        exchanges.push(Exchange { due, sent, answered: Instant::now(), bytes });
    }
    exchanges
}

/// Reads one answer to its end, and returns its length.
async fn read_answer(stream: &mut dyn Stream, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    loop {
        let more = stream.read(&mut buffer[filled..]).await.unwrap();
        assert!(more > 0, "closed by the server");
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
            assert!(more > 0, "closed by the server");
            filled += more;
        }
        return whole;
    }
}
