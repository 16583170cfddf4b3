//! What stands behind the routes.

use std::sync::Arc;

use async_trait::async_trait;
use crus_core::commands::NotNow;
use crus_core::model::Command;
use crus_core::ports::StoreError;
use crus_core::{Spec, Strategy, UpgradeId};

use crate::status::SessionStatus;

/// The service behind the routes.
///
/// # Guarantees asked of an implementation
///
/// - Every call ends in bounded time, and waits for no upgrade to proceed.
/// - What a call has answered survives a crash: a created session is found again, an asked-for deletion is
///   not forgotten.
#[async_trait]
pub trait Sessions: Send + Sync + 'static {
    /// Creates a session and sets it to work. Returns it as it is then.
    async fn create(&self, spec: Spec) -> Result<Arc<SessionStatus>, ServiceError>;

    /// All sessions, in progress and completed, in the order of their creation.
    async fn list(&self) -> Result<Vec<Arc<SessionStatus>>, ServiceError>;

    /// One session; `None` when there is none of this id.
    async fn get(&self, id: UpgradeId) -> Result<Option<Arc<SessionStatus>>, ServiceError>;

    /// Asks for a session's deletion, as often as wanted until it is gone. Returns it as it is then, its
    /// state [`Deleting`](crate::SessionState::Deleting); `None` when there is none of this id.
    async fn delete(&self, id: UpgradeId) -> Result<Option<Arc<SessionStatus>>, ServiceError>;

    /// Has a session do something else, as often as wanted. Returns it as it is then: the command is noted, and taken in
    /// a moment later. `None` when there is none of this id.
    ///
    /// # Errors
    /// Besides others, [`ServiceError::NotNow`] when the command [makes no sense](crus_core::commands::why_not).
    async fn command(
        &self,
        id: UpgradeId,
        command: Command,
    ) -> Result<Option<Arc<SessionStatus>>, ServiceError>;

    /// How a session goes about its nodes; `None` when there is none of this id.
    async fn strategy(&self, id: UpgradeId) -> Result<Option<Strategy>, ServiceError>;
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
    /// It is about to end.
    #[error("the service is shutting down")]
    ShuttingDown,
}
