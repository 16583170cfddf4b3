//! Follows the store: what other replicas do, which sessions nobody runs, and which finished ones are to go.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crus_core::model::UpgradeId;
use crus_core::ports::{Change, Changes, StoreError};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::{RecoveryError, Shared, runner};
use crate::serve::until;

/// How often it is looked whether a session with work to do has no owner, in case nobody told, and whether finished
/// sessions are to go.
const SWEEP: Duration = Duration::from_secs(10);

/// The pause before a store that cannot be followed is followed again.
const PAUSE: Duration = Duration::from_millis(500);

/// Reads all sessions, takes up those with work to do, and follows the store from then on.
pub(super) async fn start(shared: &Arc<Shared>) -> Result<(), RecoveryError> {
    // Followed first, so that no change falls between.
    let changes = shared.ports.store.changes().await?;
    for id in shared.ports.store.ids().await? {
        let summary = shared.ports.store.summary(id).await;
        if let Some(summary) = summary.map_err(|error| RecoveryError::Session { id, error })? {
            shared.board.take_in(&summary);
        }
    }
    take_up_idle(shared);
    tokio::spawn(follow(Arc::clone(shared), changes, shared.stop.subscribe()));
    Ok(())
}

async fn follow(shared: Arc<Shared>, changes: Box<dyn Changes>, stop: watch::Receiver<bool>) {
    let mut changes = Some(changes);
    let mut stopped = pin!(until(stop));
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            _ = sweep.tick() => {
                take_up_idle(&shared);
                remove_outdated(&shared).await;
            }
            change = next(&shared, &mut changes) => match change {
                Ok(change) => take_in(&shared, change).await,
                Err(error) => {
                    warn!("failed to follow the store, beginning again: {error}");
                    changes = None;
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

/// The next change. After the store could not be followed, everything is looked at again first.
async fn next(shared: &Arc<Shared>, changes: &mut Option<Box<dyn Changes>>) -> Result<Change, StoreError> {
    let following = match changes {
        Some(following) => following,
        None => {
            let following = shared.ports.store.changes().await?;
            look_at_everything(shared).await?;
            info!("following the store again");
            changes.insert(following)
        }
    };
    following.next().await
}

async fn take_in(shared: &Arc<Shared>, change: Change) {
    match change {
        Change::Session(id) => look_at(shared, id).await,
        Change::DeletionOrdered(id) => {
            if shared.board.order_deletion(id).is_none() {
                look_at(shared, id).await;
            }
        }
        Change::Unowned(id) => runner::take_up(shared, id),
        Change::Removed(id) => shared.board.forget(id),
    }
}

/// Takes in what the store tells of a session. Should that fail, the next change or sweep tells it.
pub(super) async fn look_at(shared: &Arc<Shared>, id: UpgradeId) {
    match shared.ports.store.summary(id).await {
        Ok(Some(summary)) => _ = shared.board.take_in(&summary),
        Ok(None) => shared.board.forget(id),
        Err(error) => runner::span(id).in_scope(|| warn!("failed to read the session: {error}")),
    }
}

async fn look_at_everything(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let stored: BTreeSet<UpgradeId> = shared.ports.store.ids().await?.into_iter().collect();
    for id in &stored {
        if let Some(summary) = shared.ports.store.summary(*id).await? {
            shared.board.take_in(&summary);
        }
    }
    shared.board.keep(&stored);
    take_up_idle(shared);
    Ok(())
}

fn take_up_idle(shared: &Arc<Shared>) {
    for id in shared.board.idle() {
        runner::take_up(shared, id);
    }
}

async fn remove_outdated(shared: &Arc<Shared>) {
    for id in shared.board.outdated(&shared.retention, shared.ports.clock.now()) {
        match shared.ports.store.remove(id).await {
            Ok(()) => {
                shared.board.forget(id);
                runner::span(id)
                    .in_scope(|| info!("finished session removed, as it is not to be kept longer"));
            }
            Err(error) => {
                runner::span(id).in_scope(|| warn!("failed to remove the finished session: {error}"));
            }
        }
    }
}
