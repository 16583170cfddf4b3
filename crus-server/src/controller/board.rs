//! What is told about each session, and how to reach the one who runs it.
//!
//! Questions are answered from here and never wait for a session that is in the middle of a call. A session
//! that is done is kept as its answer alone: the nodes stay in the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crus_api::{SessionState, SessionStatus};
use crus_core::Time;
use crus_core::driver::Observer;
use crus_core::machine::Event;
use crus_core::model::{Session, UpgradeId};
use tokio::sync::Notify;

/// All sessions of the service.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<BTreeMap<UpgradeId, Entry>>);

#[derive(Debug)]
struct Entry {
    created: Time,
    status: Arc<SessionStatus>,
    /// The order is in the store already.
    deletion_ordered: bool,
    /// Somebody runs it, or is about to.
    running: bool,
    wake: Arc<Notify>,
}

/// What came of ordering a deletion.
pub(super) struct Ordered {
    pub(super) status: Arc<SessionStatus>,
    /// Nobody runs the session: the caller must have it run.
    pub(super) must_run: bool,
}

impl Board {
    /// How many sessions there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Enters a session. One that is done is run only to be deleted.
    pub(super) fn enter(&self, session: &Session, deletion_ordered: bool) -> Arc<SessionStatus> {
        let status = Arc::new(status(session, deletion_ordered));
        let entry = Entry {
            created: session.head.created,
            status: Arc::clone(&status),
            deletion_ordered,
            running: deletion_ordered || !session.is_done(),
            wake: Arc::default(),
        };
        self.lock().insert(session.head.id, entry);
        status
    }

    /// All answers, in the order of creation.
    pub(super) fn all(&self) -> Vec<Arc<SessionStatus>> {
        let entries = self.lock();
        let mut all: Vec<_> = entries.iter().map(|(id, e)| (e.created, *id, Arc::clone(&e.status))).collect();
        drop(entries);
        all.sort_by_key(|(created, id, _)| (*created, *id));
        all.into_iter().map(|(_, _, status)| status).collect()
    }

    /// The answer for one session.
    pub(super) fn get(&self, id: UpgradeId) -> Option<Arc<SessionStatus>> {
        self.lock().get(&id).map(|entry| Arc::clone(&entry.status))
    }

    /// Takes in that the session's deletion is ordered, and wakes who runs it. `None` when it is gone.
    pub(super) fn order_deletion(&self, id: UpgradeId) -> Option<Ordered> {
        let mut entries = self.lock();
        let entry = entries.get_mut(&id)?;
        entry.deletion_ordered = true;
        Arc::make_mut(&mut entry.status).state = SessionState::Deleting;
        entry.wake.notify_one();
        let must_run = !std::mem::replace(&mut entry.running, true);
        Some(Ordered { status: Arc::clone(&entry.status), must_run })
    }

    /// Whether the session's deletion is ordered.
    pub(super) fn deletion_ordered(&self, id: UpgradeId) -> bool {
        self.lock().get(&id).is_some_and(|entry| entry.deletion_ordered)
    }

    /// What wakes the one who runs the session. A wake-up that comes before anybody waits is not lost.
    pub(super) fn wake(&self, id: UpgradeId) -> Arc<Notify> {
        self.lock().get(&id).map(|entry| Arc::clone(&entry.wake)).unwrap_or_default()
    }

    /// Nobody runs the session any more. `false`, and nothing changes, when its deletion was ordered
    /// meanwhile: then it must be run on.
    pub(super) fn rest(&self, id: UpgradeId) -> bool {
        match self.lock().get_mut(&id) {
            Some(entry) if entry.deletion_ordered => false,
            Some(entry) => {
                entry.running = false;
                true
            }
            None => true,
        }
    }

    /// Takes in that the session is gone.
    pub(super) fn remove(&self, id: UpgradeId) {
        self.lock().remove(&id);
    }

    /// Replaces the answer for a session.
    pub(super) fn update(&self, session: &Session) {
        if let Some(entry) = self.lock().get_mut(&session.head.id) {
            entry.status = Arc::new(status(session, entry.deletion_ordered));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<UpgradeId, Entry>> {
        // Every change leaves the map whole, whoever panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn status(session: &Session, deletion_ordered: bool) -> SessionStatus {
    let status = SessionStatus::of(&session.head, &session.messages);
    if deletion_ordered { SessionStatus { state: SessionState::Deleting, ..status } } else { status }
}

impl Observer for Board {
    fn changed(&self, session: &Session, events: &[Event]) {
        // The answer does not show single nodes.
        if events.iter().any(|event| !matches!(event, Event::Node(_))) {
            self.update(session);
        }
    }
}
