//! Runs every session, and answers for them.
//!
//! Each session that is not done has one task, asleep until there is something to do. After a start the
//! tasks go on with what the store holds; a shutdown lets each finish the call it is in.
//!
//! # Guarantees
//!
//! - A session or an order to delete one is in the store before it is answered for.
//! - A session has at most one task. One that panics, or loses its session to somebody else, begins again
//!   with what is stored.
//! - No answer waits for a peer.

mod board;
mod runner;

use std::sync::Arc;
use std::time::Duration;

use crus_api::{ServiceError, SessionStatus, Sessions};
use crus_core::driver::{Driver, Ports};
use crus_core::model::{Limits, Session, Spec, UpgradeId};
use crus_core::ports::{Bos, Clock, Hsm, SessionStore, StoreError, Wlm};
use tokio::sync::watch;
use tracing::info;
use uuid::Uuid;

use board::Board;

/// What sessions need of the outside.
pub struct Outside {
    /// The Hardware State Manager.
    pub hsm: Arc<dyn Hsm>,
    /// The Boot Orchestration Service.
    pub bos: Arc<dyn Bos>,
    /// The workload manager.
    pub wlm: Arc<dyn Wlm>,
    /// Where sessions are stored.
    pub store: Arc<dyn SessionStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Why the sessions in the store cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The store cannot be read at all.
    #[error("failed to read the sessions")]
    Store(#[from] StoreError),
    /// One session cannot be read. Going on without it would forget nodes that it holds.
    #[error(
        "failed to read session {id}: {error}; nodes may be drained for it, so nothing is done without it: \
         start the version of crus that wrote it, or restore the store from a backup"
    )]
    Session {
        /// Which.
        id: UpgradeId,
        /// Why.
        error: StoreError,
    },
}

/// Runs every session, and answers for them.
#[derive(Clone)]
pub struct Controller {
    shared: Arc<Shared>,
}

struct Shared {
    ports: Ports,
    limits: Limits,
    max_sessions: usize,
    board: Arc<Board>,
    /// Whether to stop. Every task holds a receiver for as long as it lives.
    stop: watch::Sender<bool>,
}

impl Controller {
    /// Takes up the sessions that the store holds; more can be created until there are `max_sessions`, those that
    /// are done included.
    ///
    /// # Errors
    /// See [`RecoveryError`]; no session was taken up then.
    pub async fn start(outside: Outside, limits: Limits, max_sessions: usize) -> Result<Self, RecoveryError> {
        let board = Arc::<Board>::default();
        let Outside { hsm, bos, wlm, store, clock } = outside;
        let ports = Ports { hsm, bos, wlm, store, clock, observer: board.clone() };
        let shared = Shared { ports, limits, max_sessions, board, stop: watch::Sender::new(false) };
        let controller = Controller { shared: Arc::new(shared) };
        controller.recover().await?;
        Ok(controller)
    }

    async fn recover(&self) -> Result<(), RecoveryError> {
        let shared = &self.shared;
        let mut drivers = Vec::new();
        for id in shared.ports.store.ids().await? {
            let read = |error| RecoveryError::Session { id, error };
            let ordered = shared.ports.store.deletion_ordered(id).await.map_err(read)?;
            let Some((mut session, revision)) = shared.ports.store.load(id).await.map_err(read)? else {
                continue;
            };
            session.limits = shared.limits.clone();
            shared.board.enter(&session, ordered);
            if ordered || !session.is_done() {
                runner::span(id).in_scope(|| info!("taking up the session"));
                drivers.push(Driver::new(session, revision, shared.ports.clone()));
            }
        }
        // Only now that each has claimed its nodes may any of them begin.
        drivers.sort_by_key(|driver| (driver.session().head.created, driver.session().head.id));
        for driver in drivers {
            runner::spawn(shared, driver.session().head.id, Some(driver));
        }
        Ok(())
    }

    /// Stops every task after the call it is in, waiting at most `patience`. Returns whether all have ended.
    pub async fn shutdown(&self, patience: Duration) -> bool {
        self.shared.stop.send_replace(true);
        tokio::time::timeout(patience, self.shared.stop.closed()).await.is_ok()
    }

    /// Runs `work` to its end even when the caller, whose connection may break, goes away half-way.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
    ) -> Result<T, ServiceError> {
        // Tasks are cut off only when the process ends.
        tokio::spawn(work).await.unwrap_or(Err(ServiceError::ShuttingDown))
    }
}

impl Shared {
    async fn create(self: Arc<Self>, spec: Spec) -> Result<Arc<SessionStatus>, ServiceError> {
        // Requests side by side may exceed it by their number: it bounds memory, not a quota.
        if self.board.count() >= self.max_sessions {
            return Err(ServiceError::Full { limit: self.max_sessions });
        }
        let id = UpgradeId(Uuid::new_v4());
        let now = self.ports.clock.now();
        let session = Session::new(id, spec, crus_api::API_VERSION, self.limits.clone(), now);
        let revision = self.ports.store.create(&session).await?;
        runner::span(id).in_scope(|| info!("session created"));
        let status = self.board.enter(&session, false);
        runner::spawn(&self, id, Some(Driver::new(session, revision, self.ports.clone())));
        Ok(status)
    }

    async fn delete(self: Arc<Self>, id: UpgradeId) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        let known = self.board.get(id);
        if known.is_none() || self.board.deletion_ordered(id) {
            return Ok(known);
        }
        self.ports.store.order_deletion(id).await?;
        runner::span(id).in_scope(|| info!("deletion ordered"));
        Ok(self.board.order_deletion(id).map(|ordered| {
            if ordered.must_run {
                runner::spawn(&self, id, None);
            }
            ordered.status
        }))
    }
}

#[async_trait::async_trait]
impl Sessions for Controller {
    async fn create(&self, spec: Spec) -> Result<Arc<SessionStatus>, ServiceError> {
        self.to_the_end(Arc::clone(&self.shared).create(spec)).await
    }

    async fn list(&self) -> Result<Vec<Arc<SessionStatus>>, ServiceError> {
        Ok(self.shared.board.all())
    }

    async fn get(&self, id: UpgradeId) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        Ok(self.shared.board.get(id))
    }

    async fn delete(&self, id: UpgradeId) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        self.to_the_end(Arc::clone(&self.shared).delete(id)).await
    }
}
