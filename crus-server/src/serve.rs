//! The service: puts the parts together, runs them, and ends them in order.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use crus_api::ApiLimits;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::clock::SteadyClock;
use crate::controller::{Controller, Outside};
use crate::http::{self, HttpLimits};
use crate::logging;
use crate::peers::Peers;
use crate::settings::Config;
use crate::store::RedbStore;

/// Answers come from memory and calls to peers only wait: one thread works while the other is busy decoding.
const WORKERS: usize = 2;

/// Threads that wait for the disk, or for the resolver of host names.
const WAITING_THREADS: usize = 32;

/// How long an idle connection is kept, and how long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a client may take in nothing of its answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long answers under way may take at a shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long threads that wait for the system may hold up the end of the process.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Runs the service until it is told to stop.
///
/// # Errors
/// When it cannot start: each says what to do about it.
pub fn run(config: &Config) -> anyhow::Result<()> {
    logging::start(config.log_format, &config.log).context("failed to start logging")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(WAITING_THREADS)
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let result = runtime.block_on(serve(config));
    runtime.shutdown_timeout(LAST_PATIENCE);
    result
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let stop = stop_signals()?;
    let store = Arc::new(RedbStore::open(&config.store)?);
    let Peers { hsm, bos, wlm } = Peers::new(config)?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| cannot_listen(config.listen))?;
    let outside = Outside { hsm, bos, wlm, store, clock: Arc::new(SteadyClock::new()) };
    let controller = Controller::start(outside, config.limits.clone(), config.max_sessions).await?;

    let address = listener.local_addr().context("failed to tell the address in use")?;
    announce(address);
    let limits = HttpLimits {
        max_connections: config.max_connections,
        request_timeout: Duration::from_millis(config.request_timeout_ms),
        head_timeout: HEAD_TIMEOUT,
        stall_timeout: STALL_TIMEOUT,
        drain_timeout: DRAIN_TIMEOUT,
    };
    let router = crus_api::router(Arc::new(controller.clone()), ApiLimits::default());
    let patience = Duration::from_millis(config.shutdown_timeout_ms);
    let stopped = |mut stop: watch::Receiver<bool>| async move {
        // An error means that no signal can come any more.
        if stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let sessions = async {
        stopped(stop.clone()).await;
        if controller.shutdown(patience).await {
            info!("all sessions stopped; they go on with the next start");
        } else {
            warn!(
                "calls were still under way {} s after the shutdown began; what came of them is found out at the \
                 next start",
                patience.as_secs_f32()
            );
        }
    };
    tokio::join!(http::serve(listener, router, limits, stopped(stop.clone())), sessions);
    Ok(())
}

fn cannot_listen(address: SocketAddr) -> String {
    format!("failed to listen on {address} (choose another address with --listen; port 0 picks a free one)")
}

/// The first line of the output, for people and for whoever started us with port 0.
fn announce(address: SocketAddr) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "listening on http://{address}").and_then(|()| out.flush()) {
        warn!(%error, "failed to print the address");
    }
    info!(%address, "listening");
}

/// Becomes `true` with the first SIGTERM or SIGINT. The second ends the process at once.
fn stop_signals() -> anyhow::Result<watch::Receiver<bool>> {
    let listen = |kind| signal(kind).context("failed to listen for signals");
    let (mut term, mut int) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        let first = either(&mut term, &mut int).await;
        info!("stopping once the calls under way are done; another signal stops at once");
        stop.send_replace(true);
        let second = either(&mut term, &mut int).await;
        warn!(first, second, "stopping at once");
        process::exit(128 + second);
    });
    Ok(stopped)
}

/// The number of the signal that came.
async fn either(term: &mut Signal, int: &mut Signal) -> i32 {
    tokio::select! {
        _ = term.recv() => SignalKind::terminate().as_raw_value(),
        _ = int.recv() => SignalKind::interrupt().as_raw_value(),
    }
}
