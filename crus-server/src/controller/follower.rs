//! Follows the store: what other replicas do, which sessions nobody runs, and which finished ones are to go.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crus_core::model::UpgradeId;
use crus_core::ports::{Change, StoreChanges, StoreError};
use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

use super::runner::{self, Why};
use super::{RecoveryError, Shared};
use crate::serve::until;

/// How often it is looked whether a session with work to do has no owner, in case nobody told, and whether finished
/// sessions are to go.
const SWEEP: Duration = Duration::from_secs(10);

/// A sweep that does nothing for so long hangs: each of its calls ends within seconds.
const SILENCE: Duration = Duration::from_secs(300);

/// The pause before a store that cannot be followed is followed again.
const PAUSE: Duration = Duration::from_millis(500);

/// Reads all sessions, takes up those with work to do, and follows the store from then on. `asked`: sessions that are
/// to be looked at besides.
pub(super) async fn start(
    shared: &Arc<Shared>,
    asked: mpsc::UnboundedReceiver<UpgradeId>,
) -> Result<(), RecoveryError> {
    // Followed first, so that no change falls between.
    let changes = shared.store.changes().await?;
    for id in shared.store.ids().await? {
        look_at(shared, id).await.map_err(|error| RecoveryError::Session { id, error })?;
    }
    take_up_idle(shared, Why::Started);
    let following = tokio::spawn(keep_following(Arc::clone(shared), changes, asked, shared.stop.subscribe()));
    let sweeping = tokio::spawn(sweep(Arc::clone(shared), shared.stop.subscribe()));
    shared.follower.watch(following.abort_handle(), sweeping.abort_handle());
    Ok(())
}

/// Whether the tasks below are alive.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    tasks: OnceLock<[AbortHandle; 2]>,
    beat: Mutex<Option<Instant>>,
}

impl Pulse {
    fn watch(&self, following: AbortHandle, sweeping: AbortHandle) {
        // They are started once.
        self.tasks.get_or_init(|| [following, sweeping]);
        self.beat();
    }

    /// The sweep goes on.
    fn beat(&self) {
        *self.beat.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Which of them is not, in words.
    pub(super) fn deaf(&self) -> Option<String> {
        let names = ["what follows the store", "what takes up sessions that nobody runs"];
        let mut tasks = names.into_iter().zip(self.tasks.get()?);
        if let Some((name, _)) = tasks.find(|(_, task)| task.is_finished()) {
            return Some(format!("{name} has ended"));
        }
        let beat = (*self.beat.lock().unwrap_or_else(PoisonError::into_inner))?;
        let silent = beat.elapsed();
        (silent > SILENCE).then(|| format!("{} hangs since {} s", names[1], silent.as_secs()))
    }
}

async fn keep_following(
    shared: Arc<Shared>,
    changes: Box<dyn StoreChanges>,
    mut asked: mpsc::UnboundedReceiver<UpgradeId>,
    stop: watch::Receiver<bool>,
) {
    let mut stopped = pin!(until(stop));
    let mut changes = Some(changes);
    loop {
        let following = AssertUnwindSafe(follow(&shared, changes.take(), &mut asked)).catch_unwind();
        tokio::select! {
            () = &mut stopped => return,
            ended = following => match ended {
                Ok(Err(error)) => warn!("failed to follow the store, beginning again: {error}"),
                Ok(Ok(never)) => match never {},
                Err(_) => error!("following the store panicked, and begins again"),
            },
        }
        tokio::select! {
            () = &mut stopped => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Follows the store for ever. Without `changes` to go on with everything is looked at first.
async fn follow(
    shared: &Arc<Shared>,
    changes: Option<Box<dyn StoreChanges>>,
    asked: &mut mpsc::UnboundedReceiver<UpgradeId>,
) -> Result<Infallible, StoreError> {
    let mut changes = match changes {
        Some(changes) => changes,
        None => {
            let changes = shared.store.changes().await?;
            look_at_everything(shared).await?;
            info!("following the store again");
            changes
        }
    };
    loop {
        tokio::select! {
            change = changes.next() => take_in(shared, change?).await?,
            Some(id) = asked.recv() => look_at(shared, id).await?,
        }
    }
}

async fn take_in(shared: &Arc<Shared>, change: Change) -> Result<(), StoreError> {
    match change {
        Change::Session(id) => look_at(shared, id).await?,
        Change::DeletionOrdered(id) => {
            if shared.board.order_deletion(id).is_none() {
                look_at(shared, id).await?;
            }
        }
        Change::Commanded(id) => {
            look_at_commands(shared, id).await?;
            runner::take_up(shared, id, Why::Ordered);
        }
        Change::Unowned(id) => {
            // Whoever ran it may have delivered the rest of it since this was last looked at.
            if shared.board.get(id).is_none() || shared.webhook.is_some() {
                look_at(shared, id).await?;
            }
            runner::take_up(shared, id, Why::Unowned);
        }
        Change::Removed(id) => shared.board.forget(id),
    }
    Ok(())
}

/// Takes in what the store tells of a session, unless it runs here.
async fn look_at(shared: &Arc<Shared>, id: UpgradeId) -> Result<(), StoreError> {
    let Some(turn) = shared.board.turn(id) else { return Ok(()) };
    match shared.store.summary(id).await? {
        Some(summary) => {
            shared.board.take_in(&summary, turn);
            if shared.webhook.is_some() && summary.head.is_done() {
                let delivered = shared.store.delivered(id).await?;
                // Of one that nobody was ever told of nobody wants to be told now.
                let undelivered = delivered.is_some_and(|number| number < summary.head.entries);
                shared.board.undelivered(id, undelivered);
            }
        }
        None => shared.board.forget(id),
    }
    Ok(())
}

/// Takes in which commands are noted for a session, whoever runs it.
async fn look_at_commands(shared: &Arc<Shared>, id: UpgradeId) -> Result<(), StoreError> {
    let commands = shared.store.commands(id).await?;
    let Some(latest) = commands.last() else { return Ok(()) };
    if !shared.board.command(id, latest.number) {
        look_at(shared, id).await?;
    }
    Ok(())
}

/// Likewise of all sessions: what could have been missed. Whoever waits for the store need not any longer.
async fn look_at_everything(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let stored: BTreeSet<UpgradeId> = shared.store.ids().await?.into_iter().collect();
    for id in &stored {
        // Orders for one that runs here may have been missed, too.
        if shared.store.deletion(*id).await?.is_some() {
            shared.board.order_deletion(*id);
        }
        if shared.board.turn(*id).is_none() {
            look_at_commands(shared, *id).await?;
        }
        match look_at(shared, *id).await {
            Err(error @ StoreError::Unreadable(_)) => {
                shared.span(*id).in_scope(|| error!("failed to read the session: {error}"));
            }
            looked => looked?,
        }
    }
    shared.board.keep(&stored);
    shared.board.wake_all();
    take_up_idle(shared, Why::Unowned);
    Ok(())
}

/// Now and then does what nobody tells.
async fn sweep(shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let mut stopped = pin!(until(stop));
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let work = async {
            sweep.tick().await;
            shared.follower.beat();
            take_up_idle(&shared, Why::Unowned);
            remove_outdated(&shared).await;
        };
        tokio::select! {
            () = &mut stopped => return,
            () = work => {}
        }
    }
}

fn take_up_idle(shared: &Arc<Shared>, why: Why) {
    for id in shared.board.idle() {
        runner::take_up(shared, id, why);
    }
}

async fn remove_outdated(shared: &Arc<Shared>) {
    for id in shared.board.outdated(&shared.retention, shared.ports.clock.now()) {
        shared.follower.beat();
        let span = shared.span(id);
        match shared.store.remove_finished(id).await {
            Ok(true) => {
                shared.board.remove(id);
                span.in_scope(|| info!("finished session removed, as it is not to be kept longer"));
            }
            // It is not what the board shows: it was retried since, or another replica has still to tell of it.
            Ok(false) => shared.ask_follower(id),
            Err(error) => {
                span.in_scope(|| warn!("failed to remove the finished session: {error}"));
            }
        }
    }
}
