//! Runs sessions, and answers for all of them.
//!
//! Each session that has work to do is run by the replica that owns it, in one task, asleep until there is something
//! to do. After a start the tasks go on with what the store holds; a shutdown lets each finish the call it is in.
//! What other replicas do is followed in the store: every replica answers for every session, and takes up one whose
//! owner is gone.
//!
//! # Guarantees
//!
//! - A session, or an order for one, is in the store before it is answered for.
//! - A session has at most one task. One that panics, or loses its session to somebody else, begins again
//!   with what is stored, if the session can be owned again.
//! - No answer waits for a peer.

mod board;
mod follower;
mod looks;
mod plan;
mod runner;
mod views;

use std::sync::Arc;
use std::time::Duration;

use crus_api::service::Follow;
use crus_api::views::Progress;
use crus_api::{ServiceError, SessionList, SessionStatus, Sessions};
use crus_core::driver::{Observer, Ports};
use crus_core::history::Entry;
use crus_core::machine::Event;
use crus_core::model::{Command, Head, Limits, Node, Session, Spec, Summary, UpgradeId};
use crus_core::plan::Plan;
use crus_core::ports::{Bos, Checks, Clock, Hsm, SessionStore, StoreError, Wlm};
use crus_core::promises::Violation;
use crus_core::{Actor, Time, commands};
use tokio::sync::{mpsc, watch};
use tracing::{Span, info};
use uuid::Uuid;

use crate::metrics::{Census, Metrics, SessionWatch};
use crate::otlp::Tracer;
use crate::webhook::Webhook;
use board::Board;
use looks::Looks;
use runner::Why;
use views::Following;

/// What sessions need of the outside.
#[derive(Clone)]
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
    /// Programs that judge a node before it returns to service.
    pub checks: Arc<dyn Checks>,
}

/// How many sessions there may be, and for how long those that are done are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// How many sessions there may be, finished ones included, before no more can be created.
    pub max_sessions: usize,
    /// How many finished sessions are kept: the latest.
    pub count: usize,
    /// For how long a finished session is kept, in milliseconds; `None`: for ever.
    pub max_age_ms: Option<u64>,
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

/// Runs sessions, and answers for all of them.
#[derive(Clone)]
pub struct Controller {
    shared: Arc<Shared>,
}

struct Shared {
    ports: Ports,
    store: Arc<dyn SessionStore>,
    limits: Limits,
    retention: Retention,
    board: Arc<Board>,
    planning: plan::Planning,
    /// Whether to stop. Every task holds a receiver for as long as it lives.
    stop: watch::Sender<bool>,
    /// Sessions that the follower is asked to look at: one for each task that ends.
    to_follower: mpsc::UnboundedSender<UpgradeId>,
    /// Who is told what happens.
    webhook: Option<Arc<Webhook>>,
    /// Who counts and measures it.
    watch: Arc<SessionWatch>,
    /// What follows the store.
    follower: follower::Pulse,
    /// Who makes the looks at nodes that sessions wait for.
    looks: Looks,
}

/// Who is told what happens in sessions, besides those who ask.
#[derive(Default)]
pub struct Told {
    /// Somebody elsewhere.
    pub webhook: Option<Webhook>,
    /// Who counts and measures.
    pub metrics: Arc<Metrics>,
    /// A collector of traces.
    pub tracer: Option<Tracer>,
}

/// The board, and who counts beside it.
struct Observers {
    board: Arc<Board>,
    watch: Arc<SessionWatch>,
}

impl Observer for Observers {
    fn changed(&self, session: &Session, events: &[Event]) {
        self.board.changed(session, events);
        self.watch.changed(session, events);
    }

    fn broken(&self, session: &Session, violation: &Violation) {
        self.watch.broken(session, violation);
    }
}

impl Controller {
    /// Takes up the sessions that the store holds.
    ///
    /// # Errors
    /// See [`RecoveryError`]; no session was taken up then.
    pub async fn start(
        outside: Outside,
        limits: Limits,
        retention: Retention,
    ) -> Result<Self, RecoveryError> {
        Controller::start_telling(Told::default(), outside, limits, retention).await
    }

    /// Likewise, telling these what happens in the sessions from now on.
    ///
    /// # Errors
    /// As of [`Controller::start`].
    pub async fn start_telling(
        told: Told,
        outside: Outside,
        limits: Limits,
        retention: Retention,
    ) -> Result<Self, RecoveryError> {
        let webhook = told.webhook.map(Arc::new);
        let watch = Arc::new(SessionWatch::new(told.metrics, told.tracer));
        let board = Arc::<Board>::default();
        let Outside { hsm, bos, wlm, store, clock, checks } = outside;
        let observer = Arc::new(Observers { board: Arc::clone(&board), watch: Arc::clone(&watch) });
        let ports = Ports { hsm, bos, wlm, store: Arc::clone(&store) as _, clock, checks, observer };
        let metrics = Arc::clone(watch.metrics());
        let looks = Looks::start(Arc::clone(&ports.wlm), Arc::clone(&ports.clock), limits.poll_ms, metrics);
        let (to_follower, asked) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            ports,
            store,
            limits,
            retention,
            board,
            planning: plan::Planning::default(),
            stop: watch::Sender::new(false),
            to_follower,
            webhook,
            watch,
            follower: follower::Pulse::default(),
            looks,
        });
        follower::start(&shared, asked).await?;
        Ok(Controller { shared })
    }

    /// What runs here at this moment.
    pub fn census(&self, now: Time) -> Census {
        self.shared.board.census(now)
    }

    /// Whether it is stopping, or has stopped.
    pub fn is_stopping(&self) -> bool {
        *self.shared.stop.borrow()
    }

    /// What it does not hear any more, in words; `None` while it hears everything, and once it is told to stop.
    pub fn deaf(&self) -> Option<String> {
        if self.is_stopping() { None } else { self.shared.follower.deaf() }
    }

    /// From now on a plan may take so long: less than the request for it may.
    pub fn limit_plans(&self, time: Duration) {
        self.shared.planning.limit(time);
    }

    /// Stops every task after the call it is in, waiting at most `patience`. Returns whether all have ended.
    pub async fn shutdown(&self, patience: Duration) -> bool {
        self.shared.stop.send_replace(true);
        // Who follows a session for a client looks whether to stop.
        self.shared.board.tell_changed();
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
    /// All that is read of other replicas' sessions is taken in by one task, so that nothing older comes later.
    fn ask_follower(&self, id: UpgradeId) {
        // Nobody listens any more only when the service stops.
        _ = self.to_follower.send(id);
    }

    async fn create(
        self: Arc<Self>,
        spec: Spec,
        by: Option<Actor>,
    ) -> Result<Arc<SessionStatus>, ServiceError> {
        // Requests side by side may exceed it by their number: it bounds memory, not a quota.
        let limit = self.retention.max_sessions;
        if self.board.count() >= limit {
            return Err(ServiceError::Full { limit });
        }
        let id = UpgradeId(Uuid::new_v4());
        let now = self.ports.clock.now();
        let mut session = Session::new(id, spec, crus_api::API_VERSION, self.limits.clone(), now);
        session.head.created_by = by;
        if let Err(error) = self.store.create(&session).await {
            // Its answer may have been lost alone: then the caller must not be told to try again.
            match self.store.summary(id).await {
                Ok(Some(_)) => {}
                Ok(None) => return Err(error.into()),
                Err(_) => return Err(ServiceError::MayBeCreated { id, error }),
            }
        }
        let Session { head, messages, .. } = session;
        let summary = Summary { head, messages, deletion_ordered: false, commands: Vec::new() };
        if let Some(turn) = self.board.turn(id) {
            self.board.take_in(&summary, turn);
        }
        self.span(id).in_scope(|| info!("session created"));
        self.watch.metrics().created();
        runner::take_up(&self, id, Why::Ordered);
        Ok(self.board.get(id).unwrap_or_else(|| board::status_of(&summary)))
    }

    async fn delete(
        self: Arc<Self>,
        id: UpgradeId,
        by: Option<Actor>,
    ) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        if self.board.deletion_ordered(id) {
            return Ok(self.board.get(id));
        }
        // It may be one that nobody here has heard of yet: the store knows.
        self.store.order_deletion(id, by.as_ref()).await?;
        let Some(status) = self.board.order_deletion(id) else { return self.stored(id).await };
        self.span(id).in_scope(|| info!("deletion ordered"));
        self.watch.metrics().deletion_ordered();
        // Whoever runs it elsewhere hears of it from the store.
        runner::take_up(&self, id, Why::Ordered);
        Ok(Some(status))
    }

    /// Whether it makes sense is decided on what is stored: the session may run elsewhere. Where it has gone on since, the
    /// command changes nothing.
    async fn command(
        self: Arc<Self>,
        id: UpgradeId,
        command: Command,
        by: Option<Actor>,
    ) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        let Some(summary) = self.store.summary(id).await? else { return Ok(None) };
        if let Some(reason) = commands::why_not(&summary, command) {
            return Err(ServiceError::NotNow { reason });
        }
        let Some(number) = self.store.command(id, command, by.as_ref()).await? else { return Ok(None) };
        self.span(id).in_scope(|| info!(?command, number, "command noted"));
        self.watch.metrics().commanded(command);
        if !self.board.command(id, number) {
            self.ask_follower(id);
        }
        // Whoever runs it elsewhere hears of it from the store.
        runner::take_up(&self, id, Why::Ordered);
        Ok(Some(self.board.get(id).unwrap_or_else(|| board::status_of(&summary))))
    }

    /// A session that is not on the board, as the store has it: another replica created it a moment ago, or it is not
    /// there.
    async fn stored(&self, id: UpgradeId) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        Ok(self.store.summary(id).await?.as_ref().map(board::status_of))
    }
}

#[async_trait::async_trait]
impl Sessions for Controller {
    async fn create(&self, spec: Spec, by: Option<Actor>) -> Result<Arc<SessionStatus>, ServiceError> {
        self.to_the_end(Arc::clone(&self.shared).create(spec, by)).await
    }

    async fn list(&self) -> Result<Arc<SessionList>, ServiceError> {
        Ok(self.shared.board.all())
    }

    async fn get(&self, id: UpgradeId) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        match self.shared.board.get(id) {
            Some(status) => Ok(Some(status)),
            None => self.shared.stored(id).await,
        }
    }

    async fn delete(
        &self,
        id: UpgradeId,
        by: Option<Actor>,
    ) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        self.to_the_end(Arc::clone(&self.shared).delete(id, by)).await
    }

    async fn command(
        &self,
        id: UpgradeId,
        command: Command,
        by: Option<Actor>,
    ) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        self.to_the_end(Arc::clone(&self.shared).command(id, command, by)).await
    }

    async fn head(&self, id: UpgradeId) -> Result<Option<Arc<Head>>, ServiceError> {
        self.shared.head(id).await
    }

    async fn nodes(&self, id: UpgradeId, from: usize, count: usize) -> Result<Vec<Node>, ServiceError> {
        Ok(self.shared.store.nodes(id, from, count).await?)
    }

    async fn step_nodes(&self, id: UpgradeId) -> Result<Arc<[Node]>, ServiceError> {
        self.shared.nodes_of_step(id).await
    }

    async fn plan(&self, spec: Spec) -> Result<Plan, ServiceError> {
        Arc::clone(&self.shared).plan(spec).await
    }

    async fn progress(&self, id: UpgradeId) -> Result<Option<Progress>, ServiceError> {
        self.shared.progress(id).await
    }

    async fn events(
        &self,
        id: UpgradeId,
        after: u64,
        count: usize,
    ) -> Result<Option<Vec<Entry>>, ServiceError> {
        self.shared.events(id, after, count).await
    }

    async fn follow(&self, id: UpgradeId, after: u64) -> Result<Option<Box<dyn Follow>>, ServiceError> {
        let following = Following::new(self.clone(), id, after).await?;
        Ok(following.map(|following| Box::new(following) as Box<dyn Follow>))
    }

    fn span(&self, id: UpgradeId) -> Span {
        self.shared.span(id)
    }
}
