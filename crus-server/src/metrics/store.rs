//! Watches the calls to the store, and changes nothing about them.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use crus_core::claims::Turn;
use crus_core::history::Entry;
use crus_core::machine::Event;
use crus_core::model::{Command, DeletionOrder, Node, NumberedCommand, Session, Summary};
use crus_core::ports::{DriverStore, Revision, SessionStore, StoreChanges, StoreError};
use crus_core::{Actor, UpgradeId, Xname};

use super::labels::{Operation, StoreCall};
use super::{Metrics, lasted};
use crate::health::StoreState;

/// Who is told of calls to the store.
#[derive(Clone)]
pub struct StoreCalls {
    /// Who counts and measures them.
    pub metrics: Arc<Metrics>,
    /// Who goes by what they say of the store.
    pub state: Arc<StoreState>,
}

/// Whether a call needs the store to take something in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// What came of a call, in a word.
fn outcome<T>(result: &Result<T, StoreError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(StoreError::Conflict(_)) => "conflict",
        Err(StoreError::NotOwner(_)) => "not_owner",
        Err(StoreError::Failed(_)) => "failed",
        Err(StoreError::Unreadable(_)) => "unreadable",
    }
}

impl StoreCalls {
    async fn watch<T>(
        &self,
        access: Access,
        operation: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let begun = Instant::now();
        let result = call.await;
        let outcome = outcome(&result);
        self.metrics.store_calls.get_or_create(&StoreCall { operation, outcome }).inc();
        self.metrics.store_call_duration.get_or_create(&Operation { operation }).observe(lasted(begun));
        self.state.called(access == Access::Write, result.as_ref().err());
        result
    }
}

/// A store, watched.
pub struct WatchedStore {
    /// Who is asked.
    pub inner: Arc<dyn SessionStore>,
    /// Who is told.
    pub calls: StoreCalls,
}

#[async_trait]
impl DriverStore for WatchedStore {
    async fn save(
        &self,
        session: &Session,
        events: &[Event],
        revision: Revision,
    ) -> Result<Revision, StoreError> {
        self.calls.watch(Access::Write, "save", self.inner.save(session, events, revision)).await
    }

    async fn remove(&self, id: UpgradeId) -> Result<(), StoreError> {
        self.calls.watch(Access::Write, "remove", self.inner.remove(id)).await
    }

    async fn claim(&self, id: UpgradeId, nodes: &[Xname]) -> Result<Turn, StoreError> {
        self.calls.watch(Access::Write, "claim", self.inner.claim(id, nodes)).await
    }

    fn owns(&self, id: UpgradeId) -> bool {
        self.inner.owns(id)
    }
}

#[async_trait]
impl SessionStore for WatchedStore {
    async fn create(&self, session: &Session) -> Result<Revision, StoreError> {
        self.calls.watch(Access::Write, "create", self.inner.create(session)).await
    }

    async fn ids(&self) -> Result<Vec<UpgradeId>, StoreError> {
        self.calls.watch(Access::Read, "ids", self.inner.ids()).await
    }

    async fn summary(&self, id: UpgradeId) -> Result<Option<Summary>, StoreError> {
        self.calls.watch(Access::Read, "summary", self.inner.summary(id)).await
    }

    async fn load(&self, id: UpgradeId) -> Result<Option<(Session, Revision)>, StoreError> {
        self.calls.watch(Access::Read, "load", self.inner.load(id)).await
    }

    async fn order_deletion(&self, id: UpgradeId, by: Option<&Actor>) -> Result<(), StoreError> {
        self.calls.watch(Access::Write, "order_deletion", self.inner.order_deletion(id, by)).await
    }

    async fn deletion(&self, id: UpgradeId) -> Result<Option<DeletionOrder>, StoreError> {
        self.calls.watch(Access::Read, "deletion", self.inner.deletion(id)).await
    }

    async fn command(
        &self,
        id: UpgradeId,
        command: Command,
        by: Option<&Actor>,
    ) -> Result<Option<u64>, StoreError> {
        self.calls.watch(Access::Write, "command", self.inner.command(id, command, by)).await
    }

    async fn commands(&self, id: UpgradeId) -> Result<Vec<NumberedCommand>, StoreError> {
        self.calls.watch(Access::Read, "commands", self.inner.commands(id)).await
    }

    async fn nodes(&self, id: UpgradeId, from: usize, count: usize) -> Result<Vec<Node>, StoreError> {
        self.calls.watch(Access::Read, "nodes", self.inner.nodes(id, from, count)).await
    }

    async fn history(&self, id: UpgradeId, after: u64, count: usize) -> Result<Vec<Entry>, StoreError> {
        self.calls.watch(Access::Read, "history", self.inner.history(id, after, count)).await
    }

    async fn delivered(&self, id: UpgradeId) -> Result<Option<u64>, StoreError> {
        self.calls.watch(Access::Read, "delivered", self.inner.delivered(id)).await
    }

    async fn set_delivered(&self, id: UpgradeId, number: u64) -> Result<(), StoreError> {
        self.calls.watch(Access::Write, "set_delivered", self.inner.set_delivered(id, number)).await
    }

    async fn own(&self, id: UpgradeId) -> Result<bool, StoreError> {
        self.calls.watch(Access::Write, "own", self.inner.own(id)).await
    }

    async fn remove_finished(&self, id: UpgradeId) -> Result<bool, StoreError> {
        self.calls.watch(Access::Write, "remove_finished", self.inner.remove_finished(id)).await
    }

    async fn disown(&self, id: UpgradeId) -> Result<(), StoreError> {
        self.calls.watch(Access::Write, "disown", self.inner.disown(id)).await
    }

    async fn changes(&self) -> Result<Box<dyn StoreChanges>, StoreError> {
        self.calls.watch(Access::Read, "changes", self.inner.changes()).await
    }

    async fn disowned(&self, id: UpgradeId) {
        self.inner.disowned(id).await;
    }
}
