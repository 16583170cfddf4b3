//! Something of everything that can be recorded, by the ways of the service itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware;
use axum::routing::get;
use crus_core::driver::Observer as _;
use crus_core::history::{Entry, Happening};
use crus_core::machine::Event;
use crus_core::model::{Command, Counts, Failure, Limits, Session, Spec, Stage};
use crus_core::ports::{Hsm, NodeFacts, Peer, PortError, Rejected, SessionStore as _};
use crus_core::promises::Violation;
use crus_core::{GroupLabel, Strategy, Time, UpgradeId, Xname};
use crus_sim::store::MemoryStore;
use tower::ServiceExt as _;
use uuid::Uuid;

use super::super::*;
use crate::clock::SteadyClock;
use crate::health::{PeerStates, StoreState};

/// An HSM that refuses everything.
pub(super) struct Refusing;

impl Refusing {
    fn refuse<T>() -> Result<T, PortError> {
        Err(PortError::Refused { peer: Peer::Hsm, detail: "it is only a test".to_owned() })
    }
}

#[async_trait::async_trait]
impl Hsm for Refusing {
    async fn group(&self, _: &GroupLabel) -> Result<Option<BTreeSet<Xname>>, PortError> {
        Refusing::refuse()
    }
    async fn add_members(&self, _: &GroupLabel, _: &[Xname]) -> Result<Vec<Rejected>, PortError> {
        Refusing::refuse()
    }
    async fn remove_members(&self, _: &GroupLabel, _: &[Xname]) -> Result<(), PortError> {
        Refusing::refuse()
    }
    async fn facts(&self, _: &[Xname]) -> Result<Vec<NodeFacts>, PortError> {
        Refusing::refuse()
    }
}

/// What runs here, in these tests.
pub(super) fn census() -> Census {
    Census { sessions: [1, 2, 3, 4], kept: 5, unmet: 1, nodes: [7; 10], stage_age_ms: [1_000; 7] }
}

pub(super) fn session() -> Session {
    let spec = Spec {
        starting: "all".parse().unwrap(),
        upgrading: "up".parse().unwrap(),
        failed: "failed".parse().unwrap(),
        step_size: std::num::NonZeroU32::MIN,
        template: "image".parse().unwrap(),
        tenant: None,
        strategy: Strategy::default(),
    };
    Session::new(UpgradeId(Uuid::from_u128(1)), spec, "1", Limits::default(), Time(0))
}

/// What happened in a session, each thing a second after the one before.
pub(super) fn story(happenings: Vec<Happening>) -> Vec<Event> {
    let entry = |(number, what)| Entry { number, at: Time(number * 1_000), step: 0, what };
    (1..).zip(happenings).map(entry).map(Event::Entry).collect()
}

/// The way of these nodes into a state.
pub(super) fn moved(state: &str, failure: Option<Failure>, nodes: &[Xname]) -> Happening {
    Happening::Nodes { state: state.to_owned(), failure, nodes: nodes.to_vec() }
}

/// A step of two nodes, one of which fails.
pub(super) fn step() -> Vec<Happening> {
    let [one, two]: [Xname; 2] = ["x1000c0s0b0n0", "x1000c0s0b0n1"].map(|name| name.parse().unwrap());
    let stage = |stage| Happening::Stage { stage };
    vec![
        Happening::Started { nodes: 2 },
        stage(Stage::Starting),
        stage(Stage::Quiescing),
        moved("draining", None, &[one, two]),
        moved("quiesced", None, &[one]),
        moved("quiesced", None, &[two]),
        stage(Stage::Quiesced),
        moved("rebooting", None, &[one, two]),
        stage(Stage::Booting),
        moved("returning", None, &[one]),
        moved("failed", Some(Failure::Boot("it would not".to_owned())), &[two]),
        stage(Stage::Booted),
        stage(Stage::WlmWaiting),
        moved("upgraded", None, &[one]),
        Happening::StepDone { upgraded: 1, failed: 1 },
        stage(Stage::Cleanup),
        Happening::Finished { counts: Counts { upgraded: 1, failed: 1, ..Counts::default() } },
    ]
}

pub(super) fn everything() -> Arc<Metrics> {
    let metrics = Arc::new(Metrics::new());
    let clock = Arc::new(SteadyClock::new());
    let watch = SessionWatch::new(Arc::clone(&metrics), None);
    let session = session();
    watch.taken_up(&session);
    watch.changed(&session, &story(step()));
    watch.broken(&session, &Violation { promise: "P4", what: "only a test".to_owned() });
    metrics.created();
    metrics.commanded(Command::Pause);
    metrics.deletion_ordered();
    metrics.deleted();
    metrics.restarted();
    metrics.taken_over();
    metrics.polled_late(std::time::Duration::from_millis(3));
    metrics.telling(session.head.id, Time(1_000));
    metrics.attempted("started", "delivered");
    metrics.told(250);
    metrics.checked("hsm", Some(true));
    metrics.can_serve(true);
    drop(metrics.connections.accepted());
    metrics.connections.refused();

    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let calls = Calls {
            metrics: Arc::clone(&metrics),
            states: Arc::new(PeerStates::new(clock.clone())),
            tracer: None,
        };
        let hsm = WatchedHsm { inner: Arc::new(Refusing), calls };
        hsm.facts(&[]).await.unwrap_err();
        let calls = StoreCalls { metrics: Arc::clone(&metrics), state: Arc::new(StoreState::new(clock)) };
        let store = WatchedStore { inner: Arc::new(MemoryStore::default()), calls };
        assert!(store.ids().await.unwrap().is_empty());
        let router = Router::new().route("/session/{upgrade_id}", get(async || "here"));
        let router = Router::new().merge(router.clone()).nest("/apis/crus", router);
        let router = router.layer(middleware::from_fn_with_state(Arc::clone(&metrics), watch_requests));
        for path in ["/session/1", "/apis/crus/session/2", "/nowhere"] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            router.clone().oneshot(request).await.unwrap();
        }
    });
    metrics
}
