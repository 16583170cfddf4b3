//! The listener against clients that are slow, silent or many, TLS, and its shutdown.

mod limits;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::{any, get};
use crus_server::http::{HttpLimits, Tls, listen, serve};
use crus_server::metrics::Connections;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing here takes that long unless it hangs.
const HANGS: Duration = Duration::from_secs(60);

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: crus\r\n\r\n";
const GET_AND_CLOSE: &[u8] = b"GET / HTTP/1.1\r\nhost: crus\r\nconnection: close\r\n\r\n";

fn limits() -> HttpLimits {
    HttpLimits {
        max_connections: 100,
        max_connections_per_client: None,
        requests_per_second_per_client: None,
        max_header_bytes: 8192,
        head_timeout: HANGS,
        body_timeout: HANGS,
        request_timeout: HANGS,
        stall_timeout: HANGS,
        idle_timeout: HANGS,
        drain_timeout: HANGS,
    }
}

struct Served {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<()>,
}

impl Served {
    async fn new(router: Router, limits: HttpLimits) -> Self {
        Served::over(None, router, limits)
    }

    fn over(tls: Option<Tls>, router: Router, limits: HttpLimits) -> Self {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(serve(listener, tls, router, limits, Connections::default(), async {
            stopped.await.unwrap();
        }));
        Served { address, stop: Some(stop), ended }
    }

    async fn connect(&self, send: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(send).await.unwrap();
        stream
    }

    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

/// All that comes until the other end closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = String::new();
    timeout(HANGS, stream.read_to_string(&mut text)).await.expect("the connection is closed").unwrap();
    text
}

/// Answers once the gate is open, and counts who waits there.
fn gated() -> (Router, Arc<Semaphore>, Arc<AtomicUsize>) {
    let (gate, waiting) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let (at, count) = (gate.clone(), waiting.clone());
    let handler = move || {
        let (at, count) = (at.clone(), count.clone());
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            drop(at.acquire().await.unwrap());
            "done"
        }
    };
    (Router::new().route("/", get(handler)), gate, waiting)
}

async fn until(waiting: &AtomicUsize, count: usize) {
    let reached = async {
        while waiting.load(Ordering::SeqCst) < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(HANGS, reached).await.unwrap();
}

#[tokio::test]
async fn silent_and_half_said_requests_are_not_waited_for() {
    let impatient = HttpLimits { head_timeout: Duration::from_millis(50), ..limits() };
    let served = Served::new(Router::new(), impatient).await;
    assert_eq!(rest(served.connect(b"").await).await, "");
    let half_said = rest(served.connect(b"GET / HTTP/1.1\r\nhost:").await).await;
    assert!(half_said.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{half_said}");
    assert!(half_said.contains("content-type: application/problem+json\r\n"), "{half_said}");
    assert!(half_said.contains("was not there within 0.05 s"), "{half_said}");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_with_a_problem() {
    let (router, _gate, _) = gated();
    let served =
        Served::new(router, HttpLimits { request_timeout: Duration::from_millis(50), ..limits() }).await;
    let answer = rest(served.connect(GET).await).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("content-type: application/problem+json"), "{answer}");
    assert!(answer.contains("was not finished within 0.05 s"), "{answer}");
}

/// A 503 is sent again by gateways and clients, who take it as not done.
#[tokio::test]
async fn an_order_that_takes_too_long_is_not_said_to_be_undone() {
    let never = any(std::future::pending::<()>);
    let router = Router::new().fallback(never);
    let served =
        Served::new(router, HttpLimits { request_timeout: Duration::from_millis(50), ..limits() }).await;
    for (request, status, says) in [
        ("POST /session", 504, "look (GET /session) before you send it again."),
        ("POST /apis/crus/session/x/retry", 504, "It may have been done all the same"),
        ("DELETE /session/plan", 504, "It may have been done all the same"),
        ("POST /plan", 503, "within 0.05 s. Send it again."),
        ("POST /apis/crus/plan/", 503, "within 0.05 s. Send it again."),
        ("GET /session", 503, "within 0.05 s. Send it again."),
    ] {
        let head = format!("{request} HTTP/1.1\r\nhost: crus\r\ncontent-length: 0\r\n\r\n");
        let answer = rest(served.connect(head.as_bytes()).await).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        assert!(answer.contains(says), "{request}: {answer}");
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_not_waited_for() {
    // More than the buffers of both ends can hold.
    let router = Router::new().route("/", get(async || vec![b'.'; 64 << 20]));
    let impatient = HttpLimits { stall_timeout: Duration::from_millis(100), max_connections: 1, ..limits() };
    let served = Served::new(router, impatient).await;
    let _reads_nothing = served.connect(GET).await;
    // The only place is free again once the first connection was given up.
    let mut second = served.connect(GET).await;
    timeout(HANGS, second.read_u8()).await.expect("an answer begins").unwrap();
}

#[tokio::test]
async fn no_more_connections_are_served_at_a_time_than_allowed() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (at, peak) = (now.clone(), most.clone());
    let handler = move || {
        let (at, peak) = (at.clone(), peak.clone());
        async move {
            peak.fetch_max(at.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            at.fetch_sub(1, Ordering::SeqCst);
            "done"
        }
    };
    let router = Router::new().route("/", get(handler));
    let served = Served::new(router, HttpLimits { max_connections: 2, ..limits() }).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(served.connect(GET_AND_CLOSE).await);
    }
    for stream in streams {
        assert!(rest(stream).await.ends_with("done"), "all are served in the end");
    }
    assert!((1..=2).contains(&most.load(Ordering::SeqCst)), "{most:?} at a time");
}

#[tokio::test]
async fn a_shutdown_finishes_the_answers_under_way() {
    let (router, gate, waiting) = gated();
    let mut served = Served::new(router, limits()).await;
    let idle = served.connect(b"").await;
    let busy = served.connect(GET).await;
    until(&waiting, 1).await;
    served.stop();
    assert_eq!(rest(idle).await, "", "an idle connection is closed at once");
    gate.add_permits(1);
    assert!(rest(busy).await.ends_with("done"));
    timeout(HANGS, served.ended).await.unwrap().unwrap();
    assert!(TcpStream::connect(served.address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_shutdown_waits_no_longer_than_allowed() {
    let (router, _gate, waiting) = gated();
    let mut served =
        Served::new(router, HttpLimits { drain_timeout: Duration::from_millis(20), ..limits() }).await;
    let _busy = served.connect(GET).await;
    until(&waiting, 1).await;
    served.stop();
    timeout(HANGS, served.ended).await.unwrap().unwrap();
}
