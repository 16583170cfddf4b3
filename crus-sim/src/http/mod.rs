//! The model over HTTP: HSM v2 under `/hsm/v2`, BOS v2 under `/v2` and v1 under `/v1`, and a control face under `/sim`.
//!
//! - [`LiveCluster`]: the cluster with a pace: its virtual time follows real time. Tests without a socket use it with
//!   [`router`]; everybody else calls [`serve`].
//! - `hsm`, `bos` and `bos_v1`: the services as they were seen to answer, with their codes, bodies and oddities.
//! - `control`: what no real service offers: operators' actions, what really happened, how often what was called.
//!
//! HSM is served under `/apis/smd/hsm/v2` as well and BOS under `/apis/bos/v2` and `/apis/bos/v1`, as behind the gateway of a real
//! system. Nobody has to prove who they are: this listens where it is told to, and is meant for the loopback.

mod answer;
mod bos;
mod bos_v1;
mod control;
mod hsm;
mod kept;
mod live;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use self::kept::KeepError;
pub use self::live::LiveCluster;

/// How long [`Server::stop`] waits for answers that are under way.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// All routes. Usable without a socket, as a `tower` service.
pub fn router(live: &LiveCluster) -> Router {
    let hsm = hsm::router(live.clone());
    let bos = bos::router(live.clone());
    let bos_v1 = bos_v1::router(live.clone());
    Router::new()
        .nest("/hsm/v2", hsm.clone())
        .nest("/apis/smd/hsm/v2", hsm)
        .nest("/v2", bos.clone())
        .nest("/apis/bos/v2", bos)
        .nest("/v1", bos_v1.clone())
        .nest("/apis/bos/v1", bos_v1)
        .nest("/sim", control::router(live.clone()))
        .layer(middleware::from_fn_with_state(live.clone(), keep))
        .layer(middleware::from_fn_with_state(live.clone(), count))
}

/// Counts a request under its method and route, such as `GET /hsm/v2/groups/{label}`: the same one whether it
/// came through the gateway's path or directly.
async fn count(State(live): State<LiveCluster>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("(no such route)", MatchedPath::as_str);
    let route = ["/apis/smd", "/apis/bos"].iter().find_map(|gate| route.strip_prefix(gate)).unwrap_or(route);
    // Slurm's commands are counted one by one where they are carried out.
    if !route.starts_with("/sim/") {
        live.count(&format!("{} {route}", request.method()));
    }
    next.run(request).await
}

/// Sees to it that a kept cluster is in its file before anybody hears what was done to it, or what happened.
async fn keep(State(live): State<LiveCluster>, request: Request, next: Next) -> Response {
    let may_change = !request.method().is_safe();
    let response = next.run(request).await;
    live.keep(may_change);
    response
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on {address}")]
pub struct ServeError {
    address: SocketAddr,
    source: io::Error,
}

/// A running server. It stops when this is dropped: nothing new is accepted, idle connections close, and the
/// cluster's time stands still.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    live: LiveCluster,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
    pacer: JoinHandle<()>,
}

/// Serves the cluster at `address` (port 0 picks one) and lets its time pass at its speed.
///
/// Must be called within a tokio runtime with time and I/O.
///
/// # Errors
/// When nothing can listen there.
pub async fn serve(live: LiveCluster, address: SocketAddr) -> Result<Server, ServeError> {
    let failed = |source| ServeError { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let routes = router(&live);
    let serving = tokio::spawn(async move {
        let until = async move {
            // Told to stop, or nobody is left who could: the same.
            drop(stopped.await);
        };
        if let Err(error) = axum::serve(listener, routes).with_graceful_shutdown(until).await {
            tracing::error!(%error, "the simulated cluster's server failed");
        }
    });
    let pacer = tokio::spawn(live.clone().keep_pace());
    Ok(Server { address, live, stop: Some(stop), serving: Some(serving), pacer })
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS`, to put a path behind.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it serves.
    pub fn live(&self) -> &LiveCluster {
        &self.live
    }

    /// Stops it and waits until what is under way has been answered, for five seconds at most.
    pub async fn stop(mut self) {
        self.stop = None;
        if let Some(serving) = self.serving.take() {
            let abort = serving.abort_handle();
            if tokio::time::timeout(STOP_TIMEOUT, serving).await.is_err() {
                abort.abort();
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        self.pacer.abort();
    }
}
