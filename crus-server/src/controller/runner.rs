//! The task of one session: calls its driver when there is something to do, and mends what can be mended.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use crus_core::Time;
use crus_core::driver::{Driver, Next};
use crus_core::model::{Session, UpgradeId};
use crus_core::ports::StoreError;
use crus_core::progress;
use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tracing::{Instrument, Span, error, error_span, info, warn};

use super::Shared;

/// The pause after the first failure of the store; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Starts the task of a session: with this driver, or with the session as it is stored.
pub(super) fn spawn(shared: &Arc<Shared>, id: UpgradeId, driver: Option<Driver>) {
    let runner = Runner {
        id,
        wake: shared.board.wake(id),
        stop: shared.stop.subscribe(),
        pause: FIRST_PAUSE,
        waits_for: None,
        shared: Arc::clone(shared),
    };
    tokio::spawn(runner.run(driver).instrument(span(id)));
}

/// What belongs to a session is logged within this, so that its story can be filtered out. A span is left out together
/// with its level, and with it the id of every warning inside: hence that of errors.
pub(super) fn span(id: UpgradeId) -> Span {
    error_span!("session", upgrade_id = %id)
}

struct Runner {
    shared: Arc<Shared>,
    id: UpgradeId,
    wake: Arc<Notify>,
    stop: watch::Receiver<bool>,
    pause: Duration,
    /// What was last said to be waited for.
    waits_for: Option<String>,
}

/// Why a driver was left.
enum Left {
    /// There is nothing to do for this session, or the service stops.
    ForGood,
    /// What it holds is not what is stored.
    ToReload(StoreError),
}

impl Runner {
    async fn run(mut self, mut driver: Option<Driver>) {
        loop {
            match AssertUnwindSafe(self.attempt(driver.take())).catch_unwind().await {
                Ok(Left::ForGood) => return,
                Ok(Left::ToReload(reason)) => error!("the session is loaded again: {reason}"),
                Err(panic) => {
                    error!("the session's task panicked, and begins again: {}", text_of(panic.as_ref()));
                }
            }
            self.back_off().await;
        }
    }

    async fn attempt(&mut self, driver: Option<Driver>) -> Left {
        let mut driver = match driver {
            Some(driver) => driver,
            None => match self.load().await {
                Ok(Some(driver)) => driver,
                Ok(None) => {
                    self.shared.board.remove(self.id);
                    return Left::ForGood;
                }
                Err(error) => return Left::ToReload(error),
            },
        };
        while !self.stops() {
            if self.shared.board.deletion_ordered(self.id) {
                driver.order_deletion();
            }
            let next = match driver.advance().await {
                Ok(next) => next,
                Err(StoreError::Failed(error)) => {
                    warn!("failed to store the session, trying again: {error}");
                    self.back_off().await;
                    continue;
                }
                Err(error) => return Left::ToReload(error),
            };
            match next {
                // Others get their turn, however much there is to do.
                Next::Now => tokio::task::yield_now().await,
                Next::At(time) => {
                    // It got as far as it can for now: what failed before is overcome.
                    self.pause = FIRST_PAUSE;
                    self.tell_wait(driver.session());
                    self.sleep_until(time).await;
                }
                Next::Finished if self.shared.board.rest(self.id) => {
                    info!("session done");
                    return Left::ForGood;
                }
                Next::Finished => {}
                Next::Removed => {
                    self.shared.board.remove(self.id);
                    info!("session deleted");
                    return Left::ForGood;
                }
            }
        }
        Left::ForGood
    }

    async fn load(&self) -> Result<Option<Driver>, StoreError> {
        let loaded = self.shared.ports.store.load(self.id).await?;
        Ok(loaded.map(|(mut session, revision)| {
            session.limits = self.shared.limits.clone();
            self.shared.board.update(&session);
            Driver::new(session, revision, self.shared.ports.clone())
        }))
    }

    /// Says what is waited for, once for each thing. What is missing is among the messages already.
    fn tell_wait(&mut self, session: &Session) {
        let head = &session.head;
        let waits_for = progress::waits_for(session).filter(|_| head.condition.is_none());
        if let Some(what) = waits_for.as_ref().filter(|_| waits_for != self.waits_for) {
            info!(step = head.step, stage = %head.stage, "waiting for {what}");
        }
        self.waits_for = waits_for;
    }

    fn stops(&self) -> bool {
        *self.stop.borrow()
    }

    async fn sleep_until(&mut self, time: Time) {
        let pause = Duration::from_millis(time.since(self.shared.ports.clock.now()));
        let Runner { wake, stop, .. } = self;
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = wake.notified() => {}
            // An error would mean that nobody can say so any more: the sender lives in `shared`.
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    async fn back_off(&mut self) {
        let pause = self.pause;
        let longest = Duration::from_millis(self.shared.limits.retry_max_ms);
        self.pause = (pause * 2).min(longest).max(FIRST_PAUSE);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
