//! The listener: TLS, limits, and what becomes of clients that are slow, silent, hostile or many.
//!
//! # Guarantees
//!
//! - Whatever a client does or leaves undone, what it holds is given back in bounded time. It is waited for, no longer than
//!   its own time-out, to shake hands, to send the head of a request, to send a body, to take in an answer, or to ask again.
//!   Time-outs of heads and bodies run for the whole, so that a byte now and then does not help; an answer must be taken at
//!   4 KiB/s on average, in which an event stream that has nothing to tell costs nothing.
//! - A client that sends a request at once is served, however many others hold connections and do nothing. Connections are
//!   accepted always. When all places are taken (`max_connections`), those make room that have waited longest for their
//!   clients, in whatever phase; none that is being served ever does. They are taken from the clients with the most
//!   connections, never from one that has fewer than who comes, and each is given a quarter of a second first; when too many
//!   come for that, the client with the most makes room for one with fewer, and is itself refused more. When all are being
//!   served, new ones wait in the system's queue until one is not.
//! - One client (an IPv4 address, or the 64 bits of an IPv6 one) has no more than its share of the connections
//!   (`max_connections_per_client`), and of the requests (`requests_per_second_per_client`), with two seconds' worth at once
//!   after it was silent. A client with too many connections makes room for itself first. A TLS handshake counts as the first
//!   request of its connection, and is kept waiting when there are too many.
//! - Memory is bounded: by `max_connections`, each with two buffers of 32 KiB at most (or of
//!   `max_header_bytes`) besides its answer, which all share; those that were closed to make room count until they are gone; the
//!   system is let keep 128 KiB of an answer that is not taken in.
//! - What is refused is told so, as a problem, wherever HTTP still allows: malformed requests (400), heads that are slow
//!   (408) or too long (431, 414), slow bodies (408), too many requests (429) or connections (503). TLS connections that there
//!   is no place for are closed without a word, and so are idle ones.
//! - A shutdown finishes the answers under way, and waits for nobody else.
//!
//! # Caveats
//!
//! - `X-Forwarded-For` and the like are not looked at: anybody can send them. Behind a gateway all clients share its address:
//!   switch the limits for a client off there (`none`), and let the gateway have some.
//! - A client that is idle may find its connection closed when it asks again; HTTP allows that, and clients try again.

mod answer;
mod connection;
mod files;
mod places;
mod refusal;
mod state;
mod tls;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::metrics::Connections;
use connection::Service;
use places::{Evicted, Places, Refusal};
use refusal::Refusals;
use state::Phase;

pub use files::{fit, fit_streams};
pub use tls::{Tls, TlsError, TlsFiles};

/// Options of the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpOptions {
    /// Certificate and key; none: plain HTTP.
    pub tls: TlsFiles,
    /// Connections served at a time.
    pub max_connections: usize,
    /// Connections of one client at a time; `None`: as many as there may be.
    pub max_connections_per_client: Option<usize>,
    /// Requests of one client in a second; `None`: as many as it likes.
    pub requests_per_second_per_client: Option<u32>,
    /// The longest head of a request, in bytes.
    pub max_header_bytes: usize,
    /// The longest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// How long a TLS handshake may take, and then the head of the first request, in milliseconds; and the head of any other
    /// from its first byte on.
    pub head_timeout_ms: u64,
    /// How long the body of a request may take, in milliseconds.
    pub body_timeout_ms: u64,
    /// How long one request may take, its body included, in milliseconds.
    pub request_timeout_ms: u64,
    /// How long a client may take in nothing of an answer, in milliseconds.
    pub stall_timeout_ms: u64,
    /// How long a connection is kept between two requests, in milliseconds.
    pub idle_timeout_ms: u64,
}

impl Default for HttpOptions {
    fn default() -> Self {
        HttpOptions {
            tls: TlsFiles::default(),
            max_connections: 1024,
            max_connections_per_client: Some(256),
            requests_per_second_per_client: Some(1000),
            max_header_bytes: 16 * 1024,
            max_body_bytes: 64 * 1024,
            head_timeout_ms: 10_000,
            body_timeout_ms: 10_000,
            request_timeout_ms: 30_000,
            stall_timeout_ms: 30_000,
            idle_timeout_ms: 60_000,
        }
    }
}

/// What clients may take.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Connections served at a time.
    pub max_connections: usize,
    /// Connections of one client at a time.
    pub max_connections_per_client: Option<usize>,
    /// Requests of one client in a second.
    pub requests_per_second_per_client: Option<u32>,
    /// The longest head of a request, in bytes.
    pub max_header_bytes: usize,
    /// For a TLS handshake, for the first request's head after that, and for each later one from its first byte on.
    pub head_timeout: Duration,
    /// For a request's body, from its head on.
    pub body_timeout: Duration,
    /// From a request's head to the answer.
    pub request_timeout: Duration,
    /// How long a client may take in nothing of an answer.
    pub stall_timeout: Duration,
    /// How long a connection is kept between two requests.
    pub idle_timeout: Duration,
    /// How long a shutdown waits for answers under way.
    pub drain_timeout: Duration,
}

impl HttpLimits {
    /// Those that these options say.
    pub fn new(options: &HttpOptions, drain_timeout: Duration) -> Self {
        HttpLimits {
            max_connections: options.max_connections,
            max_connections_per_client: options.max_connections_per_client,
            requests_per_second_per_client: options.requests_per_second_per_client,
            max_header_bytes: options.max_header_bytes,
            head_timeout: Duration::from_millis(options.head_timeout_ms),
            body_timeout: Duration::from_millis(options.body_timeout_ms),
            request_timeout: Duration::from_millis(options.request_timeout_ms),
            stall_timeout: Duration::from_millis(options.stall_timeout_ms),
            idle_timeout: Duration::from_millis(options.idle_timeout_ms),
            drain_timeout,
        }
    }
}

/// The most headers of a request. What hyper has room for on the stack: more would cost every request.
const MAX_HEADERS: usize = 100;

/// The longest path and query, in bytes: hyper's.
const MAX_URI_BYTES: usize = 65_534;

/// What hyper may buffer of a request, or of the answer, in bytes.
const MAX_BUFFER_BYTES: usize = 32 * 1024;

/// What the system may keep of an answer that was not sent yet, in bytes: beyond what is under way, which a client that takes
/// it in at once never waits for.
const UNSENT_BYTES: u32 = 128 * 1024;

/// Connections that the system holds until they are accepted. They come by the thousand at worst; a queue that is full costs
/// a client a second, until it tries again.
const BACKLOG: i32 = 4096;

/// Pause after the system would not accept a connection (too many open files, say): trying again at once would
/// fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// It is told that connections had to be closed or refused, and how many, no more often than this.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// A listener on this address; port 0 picks a free one.
///
/// # Errors
/// Those of the system.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // What is left of connections of an earlier process holds up nobody.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves `router` until `shutdown` is done, then finishes the answers under way.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
    limits: HttpLimits,
    connections: Connections,
    shutdown: impl Future<Output = ()> + Send,
) {
    let places = Places::new(limits.max_connections, limits.max_connections_per_client);
    let limits = Arc::new(limits);
    let service =
        Service { answers: router, refusals: Arc::new(Refusals::new(&limits)), limits: Arc::clone(&limits) };
    let mut shutdown = pin!(shutdown);
    let mut crowd = Crowd { connections: connections.clone(), ..Crowd::default() };
    loop {
        let next = async {
            let (stream, client) = listener.accept().await?;
            // Until there is a place for it, the others wait in the system's queue.
            Ok::<_, io::Error>((place(&places, &client, tls.is_some(), &mut crowd).await, stream))
        };
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok((Some(place), stream)) => {
                set_options(&stream, limits.stall_timeout);
                let served = service.clone().serve(place, stream, tls.as_ref().map(Tls::current));
                let open = connections.accepted();
                tokio::spawn(async move {
                    served.await;
                    drop(open);
                });
            }
            Ok((None, stream)) => refuse(&stream, tls.is_some()),
            Err(error) if is_of_a_client(&error) => debug!(%error, "a client went before it was accepted"),
            Err(error) => {
                warn!(%error, "failed to accept a connection");
                crowd.evicted(places.make_room());
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        crowd.tell(&places);
    }
    drop(listener);
    places.stop();
    if tokio::time::timeout(limits.drain_timeout, places.ended()).await.is_err() {
        warn!(
            "connections were still open {} s after the shutdown began",
            limits.drain_timeout.as_secs_f32()
        );
    }
}

/// A place for this client, once there is one; `None` when it has as many as it may.
async fn place(
    places: &Arc<Places>,
    client: &SocketAddr,
    tls: bool,
    crowd: &mut Crowd,
) -> Option<places::Place> {
    let phase = if tls { Phase::Handshake } else { Phase::New };
    if places.are_taken() {
        // Whoever has sent something by now is served, and makes no room.
        tokio::task::yield_now().await;
    }
    loop {
        let (taken, Evicted(evicted)) = places.take(*client, phase);
        crowd.evicted(evicted);
        match taken {
            Ok(place) => return Some(place),
            Err(Refusal::Client) => {
                crowd.refused();
                return None;
            }
            Err(Refusal::Full) => places.freed().await,
        }
    }
}

fn set_options(stream: &TcpStream, stall_timeout: Duration) {
    let socket = SockRef::from(stream);
    // Answers are written at once: waiting to fill a packet only delays them.
    let set = stream.set_nodelay(true);
    // What was handed to the system before a client was gone is its to give up.
    let set = set.and_then(|()| socket.set_tcp_user_timeout(Some(stall_timeout)));
    if let Err(error) = set.and_then(|()| socket.set_tcp_notsent_lowat(UNSENT_BYTES)) {
        debug!(%error, "failed to set the options of a connection");
    }
}

/// Says why, as far as that can be done without waiting.
fn refuse(stream: &TcpStream, tls: bool) {
    if !tls {
        let detail = "This client has its share of the connections. Close some, or use those that there are.";
        // It may have gone.
        _ = stream.try_write(&refusal::no_place(detail));
        _ = SockRef::from(stream).shutdown(std::net::Shutdown::Write);
    }
}

/// Whether accepting failed for what a client did: the next one may be accepted.
fn is_of_a_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// What too many connections made necessary, since it was told last.
#[derive(Debug, Default)]
struct Crowd {
    evicted: usize,
    refused: usize,
    told: Option<Instant>,
    /// Who counts them.
    connections: Connections,
}

impl Crowd {
    fn evicted(&mut self, count: usize) {
        self.evicted += count;
        self.connections.evicted(count);
    }

    fn refused(&mut self) {
        self.refused += 1;
        self.connections.refused();
    }

    fn tell(&mut self, places: &Places) {
        if self.evicted + self.refused == 0 || self.told.is_some_and(|told| told.elapsed() < TELL_AGAIN) {
            return;
        }
        warn!(
            closed = self.evicted,
            refused = self.refused,
            open = places.count(),
            "there are more connections than may be: those that waited longest for their clients were closed, and new ones \
             of clients with too many refused (max_connections, max_connections_per_client)"
        );
        *self = Crowd {
            evicted: 0,
            refused: 0,
            told: Some(Instant::now()),
            connections: self.connections.clone(),
        };
    }
}
