//! The accept loop: limits, time-outs, and a shutdown that lets answers under way be finished.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use crus_api::Problem;
use crus_api::access::Remote;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tracing::{debug, warn};

/// What a client may take.
#[derive(Debug, Clone)]
pub struct HttpLimits {
    /// Connections served at a time.
    pub max_connections: usize,
    /// From the first byte of a request's body to the answer.
    pub request_timeout: Duration,
    /// Until the head of a request is there; so long an idle connection is kept, too.
    pub head_timeout: Duration,
    /// How long a client may take in nothing of an answer.
    pub stall_timeout: Duration,
    /// How long a shutdown waits for answers under way.
    pub drain_timeout: Duration,
}

/// Pause after the system would not accept a connection (too many open files, say): trying again at once would
/// fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `shutdown` is done, then finishes the answers under way.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: HttpLimits,
    shutdown: impl Future<Output = ()> + Send,
) {
    let free = Arc::new(Semaphore::new(limits.max_connections));
    let graceful = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &free, limits.stall_timeout) => accepted,
        };
        match accepted {
            Ok((stream, remote, place)) => {
                let router = router.clone();
                let answer = service_fn(move |mut request: Request<Incoming>| {
                    request.extensions_mut().insert(Remote(remote));
                    answer(router.clone(), request, limits.request_timeout)
                });
                let connection = http1::Builder::new()
                    // Without a timer the head's time-out would panic.
                    .timer(TokioTimer::new())
                    .header_read_timeout(limits.head_timeout)
                    .serve_connection(TokioIo::new(stream), answer);
                let connection = graceful.watch(connection);
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        debug!(%error, "connection ended early");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(limits.drain_timeout, graceful.shutdown()).await.is_err() {
        warn!(
            "connections were still open {} s after the shutdown began",
            limits.drain_timeout.as_secs_f32()
        );
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
    stall_timeout: Duration,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(free).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, remote) = listener.accept().await?;
    // Answers are written at once: waiting to fill a packet only delays them.
    let set = stream.set_nodelay(true);
    // hyper would wait for ever for a client that reads nothing.
    if let Err(error) = set.and_then(|()| SockRef::from(&stream).set_tcp_user_timeout(Some(stall_timeout))) {
        debug!(%error, "failed to set the options of a connection");
    }
    Ok((stream, remote, place))
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
    patience: Duration,
) -> Result<Response, Infallible> {
    match tokio::time::timeout(patience, router.oneshot(request.map(Body::new))).await {
        Ok(answered) => answered,
        Err(_) => Ok(took_too_long(patience)),
    }
}

fn took_too_long(patience: Duration) -> Response {
    let detail = format!("The request was not finished within {} s. Send it again.", patience.as_secs_f32());
    // What is left of the request may still come: this connection cannot serve another.
    let head = [(header::CONNECTION, "close")];
    (head, Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)).into_response()
}
