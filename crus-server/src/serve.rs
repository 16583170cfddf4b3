//! The service: puts the parts together, runs them, and ends them in order.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::middleware;
use crus_api::{Api, ApiLimits, Site};
use crus_core::ports::{Clock, SessionStore};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::LONG_VERSION;
use crate::auth::Auth;
use crate::checks::CommandChecks;
use crate::clock::SteadyClock;
use crate::config::Misconfigured;
use crate::controller::{Controller, Outside, Retention, Told};
use crate::docs::Guide;
use crate::health::{Probe, ProbeOptions, Watched, Watching};
use crate::http::{self, HttpLimits, Tls, TlsError};
use crate::logging;
use crate::metrics::{Metrics, watch_requests};
use crate::notify::{self, State};
use crate::otlp::Tracer;
use crate::peers::{BosApi, Peers};
use crate::settings::Config;
use crate::store::Store;
use crate::webhook::Webhook;

/// Answers come from memory and calls to peers only wait: one thread works while the other is busy decoding.
const WORKERS: usize = 2;

/// Threads that wait for the disk, or for the resolver of host names.
const WAITING_THREADS: usize = 32;

/// How long answers under way may take at a shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long killed check commands may take to be gone.
const CHECKS_PATIENCE: Duration = Duration::from_secs(1);

/// How long the last lines of the audit log may take.
const AUDIT_PATIENCE: Duration = Duration::from_secs(2);

/// How long a collector of traces may take to take in the last of them.
#[cfg(feature = "otlp")]
const TRACES_PATIENCE: Duration = Duration::from_secs(2);

/// How long threads that wait for the system may hold up the end of the process.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Runs the service until it is told to stop.
///
/// # Errors
/// When it cannot start: each says what to do about it.
pub fn run(config: &Config) -> anyhow::Result<()> {
    on_runtime(config, async {
        let stop = stop_signals()?;
        let service = Service::start(config).await?;
        announce(&service.url());
        service.run(until(stop)).await;
        Ok(())
    })
}

/// Starts logging and a runtime, and runs `work` on it.
pub(crate) fn on_runtime(
    config: &Config,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    logging::start(config.log_format, &config.log).context("failed to start logging")?;
    info!("crus {LONG_VERSION} starts");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(WAITING_THREADS)
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(LAST_PATIENCE);
    result
}

/// The service, its sessions at work, listening.
pub(crate) struct Service {
    listener: TcpListener,
    address: SocketAddr,
    auth: Auth,
    controller: Controller,
    checks: Arc<CommandChecks>,
    store: Store,
    site: Site,
    api_limits: ApiLimits,
    tls: Option<Tls>,
    limits: HttpLimits,
    patience: Duration,
    metrics: Arc<Metrics>,
    #[cfg_attr(not(feature = "otlp"), expect(dead_code, reason = "without the feature there is none"))]
    tracer: Option<Tracer>,
    health: Arc<Watched>,
    probe: (Probe, ProbeOptions),
}

impl Service {
    /// Opens the store, takes up the sessions in it, and listens.
    pub(crate) async fn start(config: &Config) -> anyhow::Result<Self> {
        let Retention { max_sessions, count, .. } = config.retention;
        if count >= max_sessions {
            return Err(Misconfigured::error(format!(
                "keep_finished is {count}: it must be less than max_sessions, which is {max_sessions}, or finished \
                 sessions leave no room for new ones"
            )));
        }
        if config.max_streams >= config.http.max_connections {
            return Err(Misconfigured::error(format!(
                "max_streams is {}: it must be less than max_connections, which is {}, or those who follow sessions leave \
                 no connection for others",
                config.max_streams, config.http.max_connections
            )));
        }
        let clock = Arc::new(SteadyClock::new());
        let site = site_of(config, clock.clone())?;
        let metrics = Arc::new(Metrics::new());
        // Before the store is touched: what is missing here is soon mended.
        let auth = Auth::start(&config.auth).await?;
        let tracer = Tracer::start(&config.otlp)?;
        let store = Store::open(config, metrics.lease.clone()).await?;
        let watched = Watching::new(clock.clone(), Arc::clone(&metrics), tracer.clone());
        let Peers { hsm, bos, wlm } = watched.peers(Peers::new(config)?);
        let tls = Tls::start(&config.http.tls).map_err(wrong_files)?;
        let listener = http::listen(config.listen).with_context(|| cannot_listen(config.listen))?;
        let address = listener.local_addr().context("failed to tell the address in use")?;
        if !address.ip().is_loopback() && tls.is_none() {
            warn!(
                "whoever is on the way to {address} reads and changes what is said there, tokens included: set tls_cert_file \
                 and tls_key_file, or let only a gateway on this host reach it"
            );
        }
        let checks = Arc::new(CommandChecks::new(config.checks.clone()));
        let outside = Outside {
            hsm,
            bos,
            wlm,
            store: watched.store(store.sessions()),
            clock,
            checks: watched.checks(checks.clone()),
        };
        let told = Told {
            webhook: Webhook::new(&config.webhook)?,
            metrics: Arc::clone(&metrics),
            tracer: tracer.clone(),
        };
        let (limits, retention) = (config.limits.clone(), config.retention.clone());
        let controller = Controller::start_telling(told, outside.clone(), limits, retention).await?;
        let probe = (watched.probe(&outside), config.probe.clone());
        let health = Arc::new(watched.health(controller.clone(), store.lease()));
        let mut limits = HttpLimits::new(&config.http, DRAIN_TIMEOUT);
        limits.max_connections = http::fit(limits.max_connections);
        controller.limit_plans(limits.request_timeout * 2 / 3);
        let patience = Duration::from_millis(config.shutdown_timeout_ms);
        let api_limits = ApiLimits {
            max_body_bytes: config.http.max_body_bytes,
            max_streams: http::fit_streams(config.max_streams, limits.max_connections),
            ..ApiLimits::default()
        };
        Ok(Service {
            listener,
            address,
            auth,
            controller,
            checks,
            store,
            site,
            api_limits,
            tls,
            limits,
            patience,
            metrics,
            tracer,
            health,
            probe,
        })
    }

    /// The address in use.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is found.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Where the sessions live.
    pub(crate) fn store(&self) -> Arc<dyn SessionStore> {
        self.store.sessions()
    }

    /// Answers requests until `stop` is ready, then ends in order.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>) {
        let Service {
            listener,
            auth,
            controller,
            checks,
            store,
            site,
            api_limits,
            tls,
            limits,
            patience,
            ..
        } = self;
        let audit = auth.audit.clone();
        let router = Api::new(Arc::new(controller.clone()), site, auth.access)
            .audit(auth.audit)
            .health(self.health)
            .limits(api_limits)
            .pages(Arc::new(Guide))
            .router()
            .layer(middleware::from_fn_with_state(Arc::clone(&self.metrics), watch_requests));
        let connections = self.metrics.connections.clone();
        let (tell, stopped) = watch::channel(false);
        let (probe, options) = self.probe;
        tokio::spawn(probe.run(options, tell.subscribe()));
        let sessions = async {
            stop.await;
            notify::tell(State::Stopping);
            tell.send_replace(true);
            if controller.shutdown(patience).await {
                info!("all sessions stopped; they go on with the next start");
            } else {
                warn!(
                    "calls were still under way {} s after the shutdown began; what came of them is found out \
                     at the next start",
                    patience.as_secs_f32()
                );
            }
            if !checks.stop(CHECKS_PATIENCE).await {
                warn!("check commands that were killed are not gone yet");
            }
            store.close().await;
            #[cfg(feature = "otlp")]
            if let Some(tracer) = self.tracer {
                tracer.close(TRACES_PATIENCE).await;
            }
        };
        tokio::join!(http::serve(listener, tls, router, limits, connections, until(stopped)), sessions);
        audit.close(AUDIT_PATIENCE).await;
    }
}

/// What the site adds to every session.
///
/// # Errors
/// When its defaults or caps need something that is not there.
fn site_of(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Site> {
    let site = Site {
        defaults: config.strategy.clone(),
        caps: config.caps.clone(),
        check_commands: Some(config.checks.commands.keys().cloned().collect()),
        drain_timeout_ms: config.limits.drain_timeout_ms,
        order: Some(config.limits.order),
        tenants: config.bos_api == BosApi::V2,
        knows_zone: Arc::new(move |zone| clock.zone(zone, clock.now()).is_some()),
    };
    for (table, window) in [("strategy", &site.defaults.window), ("strategy_caps", &site.caps.window)] {
        let unknown = window.as_ref().map(|window| &window.time_zone).filter(|zone| !(site.knows_zone)(zone));
        if let Some(zone) = unknown {
            return Err(Misconfigured::error(format!(
                "{table}.window has the time zone {zone}, which is not known here: it must be a name of the IANA time \
                 zone database, such as Europe/Zurich or UTC"
            )));
        }
    }
    if let (Some(check), Some(known)) = (&site.defaults.check_command, &site.check_commands)
        && !known.contains(check)
    {
        return Err(Misconfigured::error(format!(
            "strategy.check_command is {check}, and there is no check command of this name"
        )));
    }
    Ok(site)
}

/// Ready once the channel says so; never when nobody can say so any more.
pub(crate) async fn until(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Files that cannot be used are a mistake of the configuration.
fn wrong_files(error: TlsError) -> anyhow::Error {
    Misconfigured::error(format!("{:#}", anyhow::Error::from(error)))
}

fn cannot_listen(address: SocketAddr) -> String {
    format!("failed to listen on {address} (choose another address with --listen; port 0 picks a free one)")
}

/// The first line of the output, for people and for whoever started us with port 0.
pub(crate) fn announce(url: &str) {
    print(&format!("listening on {url}"));
    info!(url, "listening");
    notify::tell(State::Ready);
}

/// Prints a line. Nobody needs to read it: a closed pipe stops nothing.
pub(crate) fn print(line: &str) {
    let mut out = io::stdout().lock();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        warn!(%error, "failed to print: {line}");
    }
}

/// Becomes `true` with the first SIGTERM or SIGINT. The second ends the process at once.
pub(crate) fn stop_signals() -> anyhow::Result<watch::Receiver<bool>> {
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
