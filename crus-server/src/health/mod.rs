//! How the service and what it needs stand: `/healthz` and `/readyz`.
//!
//! The states come from the calls that are made anyway. Only where nothing was asked for a while something is, by
//! a [`Probe`]: of a peer in the way a session asks, so that bad credentials are seen as well.

mod probe;
mod states;

use std::sync::Arc;

use crus_api::health::{Check, Exposition, Health, Readiness};
use crus_core::ports::{Checks, Clock, Peer, SessionStore};

use crate::controller::{Controller, Outside};
use crate::metrics::{
    Calls, Metrics, StoreCalls, WatchedBos, WatchedChecks, WatchedHsm, WatchedStore, WatchedWlm,
};
use crate::otlp::Tracer;
use crate::peers::Peers;
use crate::store::Lease;

pub use probe::{Probe, ProbeOptions};
pub use states::{LeaseState, PeerStates, StoreState};

/// What is told to who watches the service.
pub struct Watched {
    controller: Controller,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    store: Arc<StoreState>,
    peers: Arc<PeerStates>,
    lease: Option<LeaseState>,
}

impl Watched {
    fn checks(&self) -> Vec<Check> {
        let mut checks = vec![self.store.check()];
        checks.extend(self.lease.as_ref().map(LeaseState::check));
        checks.extend([Peer::Hsm, Peer::Bos, Peer::Wlm].map(|peer| self.peers.check(peer)));
        checks
    }
}

impl Health for Watched {
    fn deaf(&self) -> Option<String> {
        self.controller.deaf()
    }

    fn readiness(&self) -> Readiness {
        let ready = self.store.is_usable() && !self.controller.is_stopping();
        Readiness { checks: self.checks(), ready }
    }

    fn metrics(&self, form: Exposition) -> String {
        use crus_api::health::CheckState as State;
        let Readiness { checks, ready } = self.readiness();
        for Check { name, state, .. } in checks {
            let up = match state {
                State::Ok => Some(true),
                State::Failing => Some(false),
                State::Unknown => None,
            };
            self.metrics.checked(name, up);
        }
        self.metrics.can_serve(ready);
        if let Some((check, sessions)) = self.lease.as_ref().map(LeaseState::look) {
            self.metrics.lease.held.set(i64::from(check.state == State::Ok));
            self.metrics.lease.sessions.set(i64::try_from(sessions).unwrap_or(i64::MAX));
        }
        let now = self.clock.now();
        self.metrics.expose(form, &self.controller.census(now), now)
    }
}

/// Puts watches around what the service works with.
pub struct Watching {
    clock: Arc<dyn Clock>,
    calls: Calls,
    store: StoreCalls,
}

impl Watching {
    /// Nothing is watched yet.
    pub fn new(clock: Arc<dyn Clock>, metrics: Arc<Metrics>, tracer: Option<Tracer>) -> Self {
        let states = Arc::new(PeerStates::new(Arc::clone(&clock)));
        let state = Arc::new(StoreState::new(Arc::clone(&clock)));
        let calls = Calls { metrics: Arc::clone(&metrics), states, tracer };
        Watching { clock, calls, store: StoreCalls { metrics, state } }
    }

    /// The peers, watched.
    #[must_use]
    pub fn peers(&self, peers: Peers) -> Peers {
        let calls = || self.calls.clone();
        Peers {
            hsm: Arc::new(WatchedHsm { inner: peers.hsm, calls: calls() }),
            bos: Arc::new(WatchedBos { inner: peers.bos, calls: calls() }),
            wlm: Arc::new(WatchedWlm { inner: peers.wlm, calls: calls() }),
        }
    }

    /// The check commands, watched.
    pub fn checks(&self, inner: Arc<dyn Checks>) -> Arc<dyn Checks> {
        Arc::new(WatchedChecks { inner, calls: self.calls.clone() })
    }

    /// The store, watched.
    pub fn store(&self, inner: Arc<dyn SessionStore>) -> Arc<dyn SessionStore> {
        Arc::new(WatchedStore { inner, calls: self.store.clone() })
    }

    /// Who probes these, which are watched already.
    pub fn probe(&self, outside: &Outside) -> Probe {
        let Outside { hsm, bos, wlm, store, .. } = outside.clone();
        let (peers, state) = (Arc::clone(&self.calls.states), Arc::clone(&self.store.state));
        Probe { hsm, bos, wlm, store, peers, state }
    }

    /// What is told of all that. `lease`: how to look at the lease, where there is one.
    pub fn health(
        self,
        controller: Controller,
        lease: Option<impl Fn() -> Lease + Send + Sync + 'static>,
    ) -> Watched {
        let Watching { clock, calls, store } = self;
        let lease = lease.map(|look| LeaseState::new(Arc::clone(&clock), look));
        Watched { controller, clock, metrics: calls.metrics, store: store.state, peers: calls.states, lease }
    }
}
