//! What stands behind the routes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use crus_core::commands::NotNow;
use crus_core::history::Entry;
use crus_core::model::{Command, Head, Node};
use crus_core::plan::Plan;
use crus_core::ports::StoreError;
use crus_core::{Actor, Spec, UpgradeId};
use tracing::Span;

use crate::status::{SessionList, SessionStatus};
use crate::views::Progress;

/// The service behind the routes.
///
/// # Guarantees asked of an implementation
///
/// - Every call ends in bounded time, and waits for no upgrade to proceed.
/// - What a call has answered survives a crash: a created session is found again, an asked-for deletion is
///   not forgotten.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// Creates a session on behalf of somebody, and sets it to work. Returns it as it is then.
    async fn create(&self, spec: Spec, by: Option<Actor>) -> Result<Arc<SessionStatus>, ServiceError>;

    /// All sessions, in progress and completed, in the order of their creation.
    async fn list(&self) -> Result<Arc<SessionList>, ServiceError>;

    /// One session; `None` when there is none of this id.
    async fn get(&self, id: UpgradeId) -> Result<Option<Arc<SessionStatus>>, ServiceError>;

    /// Asks for a session's deletion, as often as wanted until it is gone. Returns it as it is then, its
    /// state [`Deleting`](crate::SessionState::Deleting); `None` when there is none of this id.
    async fn delete(
        &self,
        id: UpgradeId,
        by: Option<Actor>,
    ) -> Result<Option<Arc<SessionStatus>>, ServiceError>;

    /// Has a session do something else, as often as wanted. Returns it as it is then: the command is noted, and taken in
    /// a moment later. `None` when there is none of this id. Of an order that is given again the first giver is kept.
    ///
    /// # Errors
    /// Besides others, [`ServiceError::NotNow`] when the command [makes no sense](crus_core::commands::why_not).
    async fn command(
        &self,
        id: UpgradeId,
        command: Command,
        by: Option<Actor>,
    ) -> Result<Option<Arc<SessionStatus>>, ServiceError>;

    /// Everything of a session but its nodes and messages; `None` when there is none of this id.
    async fn head(&self, id: UpgradeId) -> Result<Option<Arc<Head>>, ServiceError>;

    /// So many nodes of a session from this position on, in the order of their xnames; fewer at their end, and none of a
    /// session that is not there.
    async fn nodes(&self, id: UpgradeId, from: usize, count: usize) -> Result<Vec<Node>, ServiceError>;

    /// The nodes of a session's step, in any order; none of a session that has no step at work, or is not there.
    async fn step_nodes(&self, id: UpgradeId) -> Result<Arc<[Node]>, ServiceError>;

    /// How far a session is; `None` when there is none of this id.
    async fn progress(&self, id: UpgradeId) -> Result<Option<Progress>, ServiceError>;

    /// What a session of this specification would come to, if it were created now. Nothing is created or changed.
    ///
    /// # Errors
    /// [`ServiceError::Busy`] when too many plans are being made. What is in the way of the session is no error.
    async fn plan(&self, spec: Spec) -> Result<Plan, ServiceError>;

    /// So many entries of a session's history after the one of this number, the oldest first; `None` when there is no
    /// session of this id.
    async fn events(
        &self,
        id: UpgradeId,
        after: u64,
        count: usize,
    ) -> Result<Option<Vec<Entry>>, ServiceError>;

    /// Follows a session's history from the entry after the one of this number on; `None` when there is no session of this
    /// id.
    async fn follow(&self, id: UpgradeId, after: u64) -> Result<Option<Box<dyn Follow>>, ServiceError>;

    /// What is logged of a session is within this span: it has its `upgrade_id`, and its `step` as far as that is known without
    /// asking anybody.
    fn span(&self, id: UpgradeId) -> Span;
}

/// One who follows the history of a session, on behalf of a client.
#[async_trait]
pub trait Follow: Send + 'static {
    /// What is new. Waits for it, as long as this patience lasts.
    ///
    /// # Errors
    /// When the history cannot be read.
    async fn next(&mut self, patience: Duration) -> Result<News, ServiceError>;
}

/// What is new of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// These entries, in order, none of them told before.
    Entries(Vec<Entry>),
    /// Nothing so far.
    Nothing,
    /// The session is gone.
    Deleted,
    /// The service ends.
    Stopping,
}

/// Why the service did not do it. The texts are for the log; what the caller is told is the business of
/// [`Problem`](crate::Problem).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// The store did not do it.
    #[error("failed to use the session store: {0}")]
    Store(#[from] StoreError),
    /// The store gave no answer, and a session may have been created.
    #[error("failed to learn whether session {id} was created: {error}")]
    MayBeCreated {
        /// Which it would be.
        id: UpgradeId,
        /// What the store said.
        error: StoreError,
    },
    /// It holds as many sessions as it may.
    #[error("failed to create a session: {limit} are there, as many as may be")]
    Full {
        /// How many that is.
        limit: usize,
    },
    /// What was ordered makes no sense for the session as it is.
    #[error("failed to order it: {reason}")]
    NotNow {
        /// Why.
        reason: NotNow,
    },
    /// It makes as many plans as it may.
    #[error("failed to plan: {limit} plans are being made, as many as may be")]
    Busy {
        /// How many that is.
        limit: usize,
    },
    /// It is about to end.
    #[error("the service is shutting down")]
    ShuttingDown,
}
