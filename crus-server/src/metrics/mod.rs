//! What the service counts and measures, for Prometheus.
//!
//! - [`Metrics`]: all of it, registered once, in no global. [`Metrics::expose`] writes it down for a scrape.
//! - `ports` and `store`: decorators that watch the calls to peers and to the store. `sessions`: who is told what happens in
//!   sessions. `http`: who watches requests. The parts that are watched know nothing of it.
//!
//! # Guarantees
//!
//! - The values of labels are words of enums and templates of routes: never an id, the name of a node or a group, or the text
//!   of an error. All but the routes are `&'static str`.
//! - A scrape reads no store and asks no peer. It looks at the board once.
//!
//! `docs/metrics.md` describes each metric; a test holds it to what is registered here.

mod http;
mod labels;
mod ports;
mod process;
mod sessions;
mod store;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crus_api::health::Exposition;
use crus_core::{Time, UpgradeId};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

pub use self::http::{Connections, watch_requests};
pub(crate) use self::ports::word_of;
pub use self::ports::{Calls, WatchedBos, WatchedChecks, WatchedHsm, WatchedWlm};
pub use self::sessions::{Census, SessionWatch};
pub use self::store::{StoreCalls, WatchedStore};

use self::labels::{
    Build, CheckLabel, CommandLabel, Delivery, FailureLabel, Operation, OutcomeLabel, PeerCall, PeerLabel,
    PeerOperation, PromiseLabel, Request, RouteLabel, StageLabel, StateLabel, StoreCall,
};

/// A gauge of seconds, or of anything else that is no whole number.
type Measure = Gauge<f64, std::sync::atomic::AtomicU64>;

/// A family of histograms with buckets of its own.
type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// Calls over the network and of programs: from a quick answer to a time-out of a minute.
fn of_calls() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

/// The store: a commit to a disk takes milliseconds.
fn of_store() -> Histogram {
    Histogram::new([0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0])
}

/// Answers of the API: from memory, hence well below a millisecond.
fn of_requests() -> Histogram {
    Histogram::new([0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0])
}

/// Steps, stages, drains and boots: seconds when nothing is in the way, days when jobs are waited for.
fn of_upgrades() -> Histogram {
    Histogram::new([
        1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0,
        28_800.0, 86_400.0, 172_800.0, 604_800.0,
    ])
}

/// How late something is that should be at once.
fn of_lags() -> Histogram {
    Histogram::new([0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0])
}

/// How late a receiver is told: it may have been away for hours.
fn of_deliveries() -> Histogram {
    Histogram::new([0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0])
}

/// All that is counted and measured.
pub struct Metrics {
    registry: Registry,

    // ---- what runs here, looked at with each scrape
    sessions: Family<StateLabel, Gauge>,
    sessions_kept: Gauge,
    sessions_unmet: Gauge,
    nodes: Family<StateLabel, Gauge>,
    stage_age: Family<StageLabel, Measure>,

    // ---- what happened in sessions that run here
    sessions_created: Counter,
    sessions_finished: Family<OutcomeLabel, Counter>,
    sessions_deleted: Counter,
    sessions_commanded: Family<CommandLabel, Counter>,
    sessions_restarted: Counter,
    nodes_done: Family<OutcomeLabel, Counter>,
    node_failures: Family<FailureLabel, Counter>,
    steps: Counter,
    step_duration: Histogram,
    stage_duration: Durations<StageLabel>,
    drain_duration: Histogram,
    boot_duration: Histogram,
    return_duration: Histogram,
    broken_promises: Family<PromiseLabel, Counter>,
    poll_lag: Histogram,

    // ---- peers
    peer_calls: Family<PeerCall, Counter>,
    peer_call_duration: Durations<PeerOperation>,
    peer_calls_in_flight: Family<PeerLabel, Gauge>,
    check_up: Family<CheckLabel, Gauge>,
    ready: Gauge,

    // ---- store and replicas
    store_calls: Family<StoreCall, Counter>,
    store_call_duration: Durations<Operation>,
    /// Of the lease, as the store counts it.
    pub lease: LeaseMetrics,
    takeovers: Counter,

    // ---- webhook
    webhook_attempts: Family<Delivery, Counter>,
    webhook_lag: Histogram,
    webhook_undelivered: Gauge,
    webhook_oldest: Measure,
    /// The entry of each session that is being told, and when it happened.
    undelivered: Mutex<BTreeMap<UpgradeId, Time>>,

    // ---- the API
    requests: Family<Request, Counter>,
    request_duration: Durations<RouteLabel>,
    requests_in_flight: Gauge,
    /// Of the listener, which counts them itself.
    pub connections: Connections,
    streams: Gauge,

    // ---- the process
    resident_memory: Gauge,
    open_fds: Gauge,
}

/// What a store counts that is owned by a lease. Of a store in a file all of it stays 0.
#[derive(Debug, Clone, Default)]
pub struct LeaseMetrics {
    /// 1 while there is a lease, 0 while there is none.
    pub held: Gauge,
    /// How many leases were had.
    pub granted: Counter,
    /// How often a lease was renewed.
    pub renewals: Counter,
    /// How often that failed.
    pub renewals_failed: Counter,
    /// How many leases ended before they were given up.
    pub lost: Counter,
    /// How many sessions are owned by it.
    pub sessions: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers everything.
    pub fn new() -> Self {
        let mut to = Registration(Registry::with_prefix("crus"));
        let build = Build { version: crate::VERSION, commit: crate::COMMIT, features: FEATURES };
        to.0.register("build", "What runs here: always 1", Info::new(build));
        let started: Measure =
            to.seconds("process_start_time", "When the process began, since 1970-01-01", Gauge::default());
        started.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        let lease = LeaseMetrics::default();
        to.put(
            "lease_held",
            "Whether this replica has a lease in etcd: 1 or 0; always 0 with a store in a file",
            lease.held.clone(),
        );
        to.put("lease_sessions", "Sessions that this replica owns by its lease", lease.sessions.clone());
        to.put("leases_granted", "Leases that were had", lease.granted.clone());
        to.put(
            "leases_lost",
            "Leases that ended before they were given up: what ran here was stopped, and is taken over",
            lease.lost.clone(),
        );
        to.put("lease_renewals", "Renewals of the lease", lease.renewals.clone());
        to.put(
            "lease_renewal_failures",
            "Attempts to renew the lease that failed",
            lease.renewals_failed.clone(),
        );
        let connections = Connections::default();
        to.put("api_connections", "Connections that are open", connections.open.clone());
        to.put("api_connections_accepted", "Connections that were accepted", connections.accepted.clone());
        to.put(
            "api_connections_turned_away",
            "Connections that were closed while they waited for their client, to make room, or refused since their client has as many as it may",
            connections.turned_away.clone(),
        );
        Metrics {
            sessions: to.put("sessions", "Sessions that run on this replica, by state", Family::default()),
            sessions_kept: to.put("sessions_kept", "Finished sessions that are kept, as this replica knows of them", Gauge::default()),
            sessions_unmet: to.put(
                "sessions_condition_unmet",
                "Sessions that run on this replica and wait for a condition to be met, such as a missing group or a peer that is away",
                Gauge::default(),
            ),
            nodes: to.put("nodes", "Nodes of the sessions that run on this replica, by state", Family::default()),
            stage_age: to.seconds(
                "stage_age",
                "For how long a step has been in its stage, or, where it is soaked, over its soak: of the sessions that run on this replica and are not paused, that of the longest",
                Family::default(),
            ),
            sessions_created: to.put("sessions_created", "Sessions that were created at this replica", Counter::default()),
            sessions_finished: to.put("sessions_finished", "Sessions that finished on this replica, by what came of them", Family::default()),
            sessions_deleted: to.put("sessions_deleted", "Sessions that were deleted on this replica", Counter::default()),
            sessions_commanded: to.put("session_commands", "Orders of operators that this replica took", Family::default()),
            sessions_restarted: to.put(
                "session_restarts",
                "How often a session was loaded again, since its task failed or it was lost to another replica",
                Counter::default(),
            ),
            nodes_done: to.put("nodes_done", "Nodes whose fate was decided on this replica, by what came of them", Family::default()),
            node_failures: to.put("node_failures", "Nodes that failed on this replica, by why", Family::default()),
            steps: to.put("steps", "Steps that ended on this replica", Counter::default()),
            step_duration: to.seconds(
                "step_duration",
                "How long a step took, from the choice of its nodes to its end",
                of_upgrades(),
            ),
            stage_duration: to.seconds("stage_duration", "How long a step was in a stage", Family::new_with_constructor(of_upgrades as _)),
            drain_duration: to.seconds("node_drain_duration", "How long a node took to run nothing, once it was chosen", of_upgrades()),
            boot_duration: to.seconds("node_boot_duration", "How long a node took to boot, from the request to the word of BOS", of_upgrades()),
            return_duration: to.seconds(
                "node_return_duration",
                "How long a node took to be back in service, once BOS was done with it",
                of_upgrades(),
            ),
            broken_promises: to.put(
                "broken_promises",
                "How often a session was seen to break a promise: of every increase the log says more. It must stay 0",
                Family::default(),
            ),
            poll_lag: to.seconds("poll_lag", "How much later than intended a session was looked at", of_lags()),
            peer_calls: to.put("peer_calls", "Calls to peers that ended", Family::default()),
            peer_call_duration: to.seconds("peer_call_duration", "How long a call to a peer took", Family::new_with_constructor(of_calls as _)),
            peer_calls_in_flight: to.put("peer_calls_in_flight", "Calls to peers that are under way", Family::default()),
            check_up: to.put("check_up", "What /readyz shows: 1 ok, 0 failing; absent while it is unknown", Family::default()),
            ready: to.put("ready", "Whether /readyz says that this replica can serve: 1 or 0", Gauge::default()),
            store_calls: to.put("store_calls", "Calls to the store that ended", Family::default()),
            store_call_duration: to.seconds("store_call_duration", "How long a call to the store took", Family::new_with_constructor(of_store as _)),
            takeovers: to.put("takeovers", "Sessions that this replica took over from another one", Counter::default()),
            webhook_attempts: to.put("webhook_attempts", "Attempts to tell the receiver of the webhook", Family::default()),
            webhook_lag: to.seconds("webhook_lag", "How long after it happened the receiver of the webhook was told", of_deliveries()),
            webhook_undelivered: to.put("webhook_sessions_behind", "Sessions of which the receiver of the webhook is being told something", Gauge::default()),
            webhook_oldest: to.seconds("webhook_oldest", "How long ago the oldest of that happened", Gauge::default()),
            undelivered: Mutex::default(),
            requests: to.put("api_requests", "Requests to the API that were answered", Family::default()),
            request_duration: to.seconds("api_request_duration", "How long it took until the head of an answer was there", Family::new_with_constructor(of_requests as _)),
            requests_in_flight: to.put("api_requests_in_flight", "Requests to the API that are under way, streams included", Gauge::default()),
            connections,
            streams: to.put("api_streams", "Clients that follow the events of a session", Gauge::default()),
            resident_memory: to.bytes("process_resident_memory", "Memory in use", Gauge::default()),
            open_fds: to.put("process_open_fds", "Open file descriptors", Gauge::default()),
            lease,
            registry: to.0,
        }
    }

    /// All of it, as a scrape wants it. `census`: what runs here, of the moment.
    pub fn expose(&self, form: Exposition, census: &Census, now: Time) -> String {
        self.take_in(census);
        let undelivered = self.undelivered.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = undelivered.values().min().map_or(0, |at| now.since(*at));
        self.webhook_undelivered.set(i64::try_from(undelivered.len()).unwrap_or(i64::MAX));
        drop(undelivered);
        self.webhook_oldest.set(seconds(oldest));
        if let Some(usage) = process::Usage::read() {
            self.resident_memory.set(usage.resident_bytes);
            self.open_fds.set(usage.open_fds);
        }
        let mut written = String::with_capacity(64 * 1024);
        let result = match form {
            Exposition::OpenMetrics => text::encode(&mut written, &self.registry),
            Exposition::Prometheus => prometheus_text::encode(&mut written, &self.registry),
        };
        // To write into a `String` never fails.
        result.map_or_else(|_| String::new(), |()| written)
    }
}

/// Puts metrics into a registry, and hands them on.
struct Registration(Registry);

impl Registration {
    fn put<M: Registered>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn seconds<M: Registered>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register_with_unit(name, help, Unit::Seconds, metric.clone());
        metric
    }

    fn bytes<M: Registered>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register_with_unit(name, help, Unit::Bytes, metric.clone());
        metric
    }
}

/// What a registry takes.
trait Registered: Clone + prometheus_client::registry::Metric {}

impl<M: Clone + prometheus_client::registry::Metric> Registered for M {}

/// What this was built with.
const FEATURES: &str = match (cfg!(feature = "etcd"), cfg!(feature = "otlp")) {
    (false, false) => "",
    (true, false) => "etcd",
    (false, true) => "otlp",
    (true, true) => "etcd,otlp",
};

/// Milliseconds as seconds.
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// Measures a time that is over with its own end.
fn lasted(since: std::time::Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

impl Metrics {
    /// A session was looked at so much later than intended.
    pub fn polled_late(&self, by: Duration) {
        self.poll_lag.observe(by.as_secs_f64());
    }

    /// A session was taken over from another replica.
    pub fn taken_over(&self) {
        self.takeovers.inc();
    }

    /// A receiver is being told of something that happened then.
    pub fn telling(&self, id: UpgradeId, at: Time) {
        self.undelivered.lock().unwrap_or_else(PoisonError::into_inner).insert(id, at);
    }

    /// An attempt at it was made.
    pub fn attempted(&self, event: &'static str, outcome: &'static str) {
        self.webhook_attempts.get_or_create(&Delivery { event, outcome }).inc();
    }

    /// It was told, after so long.
    pub fn told(&self, after_ms: u64) {
        self.webhook_lag.observe(seconds(after_ms));
    }

    /// Nothing is being told of a session.
    pub fn told_all(&self, id: UpgradeId) {
        self.undelivered.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// How something that `/readyz` shows stands; `None` while it is unknown.
    pub fn checked(&self, check: &'static str, up: Option<bool>) {
        match up {
            Some(up) => _ = self.check_up.get_or_create(&CheckLabel { check }).set(i64::from(up)),
            None => _ = self.check_up.remove(&CheckLabel { check }),
        }
    }

    /// Whether this replica can serve.
    pub fn can_serve(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }
}

#[cfg(test)]
mod tests;
