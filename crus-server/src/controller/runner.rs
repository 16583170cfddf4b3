//! The task of one session: calls its driver when there is something to do, and mends what can be mended.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use crus_core::Time;
use crus_core::driver::{Driver, Next};
use crus_core::machine;
#[cfg(feature = "otlp")]
use crus_core::model::Phase;
use crus_core::model::{Session, UpgradeId};
use crus_core::ports::StoreError;
use crus_core::progress;
use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{Instrument, Span, error, error_span, info, warn};

use super::Shared;
use super::looks::Look;
#[cfg(feature = "otlp")]
use crate::otlp;
use crate::otlp::{PLACES, Place};
use crate::webhook::{Courier, Start};

/// The pause after the first failure of the store; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Starts the task of a session, unless there is nothing to do for it or it has one. The task ends at once when
/// another replica owns the session.
pub(super) fn take_up(shared: &Arc<Shared>, id: UpgradeId, why: Why) {
    if !shared.board.begin(id) {
        return;
    }
    let runner = Runner {
        id,
        wake: shared.board.wake(id),
        stop: shared.stop.subscribe(),
        pause: FIRST_PAUSE,
        waits_for: None,
        span: shared.span(id),
        why: Some(why),
        shared: Arc::clone(shared),
    };
    let span = runner.span.clone();
    tokio::spawn(runner.run().instrument(span));
}

/// Why a session is taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// This process began, and found it.
    Started,
    /// Nobody runs it: another replica did.
    Unowned,
    /// It is new, or something was ordered for it.
    Ordered,
}

impl Shared {
    /// What belongs to a session is logged within this, so that its story can be filtered out. A span is left out together
    /// with its level, and with it the id of every warning inside: hence that of errors. The step is left out of one that is
    /// not on the board.
    pub(super) fn span(&self, id: UpgradeId) -> Span {
        let step = self.board.head(id).map(|head| head.step);
        error_span!("session", upgrade_id = %id, step)
    }
}

struct Runner {
    shared: Arc<Shared>,
    id: UpgradeId,
    wake: Arc<Notify>,
    stop: watch::Receiver<bool>,
    pause: Duration,
    /// What was last said to be waited for.
    waits_for: Option<String>,
    /// What is logged of it is within this.
    span: Span,
    /// Why it was taken up, until it was.
    why: Option<Why>,
}

/// Why a session was left.
enum Left {
    /// It is gone, or the service stops.
    ForGood,
    /// It is done.
    Done,
    /// Another replica owns it.
    ToAnother,
    /// What we hold is not what is stored, or it is not ours to run any more.
    ToReload(StoreError),
}

impl Runner {
    async fn run(mut self) {
        loop {
            match AssertUnwindSafe(self.attempt()).catch_unwind().await {
                Ok(Left::ForGood) => return,
                Ok(Left::Done) if self.shared.board.rest(self.id) => {
                    info!("session done");
                    return;
                }
                Ok(Left::ToAnother) if self.shared.board.leave(self.id) => {
                    // What it did meanwhile was not taken in while the session was ours.
                    self.shared.ask_follower(self.id);
                    return;
                }
                // Something was ordered meanwhile, or its owner went.
                Ok(Left::Done | Left::ToAnother) => continue,
                Ok(Left::ToReload(reason @ (StoreError::NotOwner(_) | StoreError::Failed(_)))) => {
                    warn!("the session is not run for the moment: {reason}");
                }
                Ok(Left::ToReload(reason)) => error!("the session is loaded again: {reason}"),
                Err(panic) => {
                    error!("the session's task panicked, and begins again: {}", text_of(panic.as_ref()));
                }
            }
            self.shared.watch.metrics().restarted();
            self.back_off().await;
        }
    }

    /// Owns the session, and runs it until it is left.
    async fn attempt(&mut self) -> Left {
        if self.stops() {
            return Left::ForGood;
        }
        let shared = Arc::clone(&self.shared);
        let driver = match shared.store.own(self.id).await {
            Ok(true) => self.load().await,
            Ok(false) => self.not_ours().await,
            Err(error) => Err(error),
        };
        let left = match driver {
            Ok(Ok(driver)) => {
                tokio::select! {
                    biased;
                    () = shared.store.disowned(self.id) => {
                        // Whatever call was under way is dropped: it is found out as after a crash.
                        Left::ToReload(StoreError::NotOwner(self.id))
                    }
                    left = self.drive(driver) => left,
                }
            }
            Ok(Err(left)) => left,
            Err(error) => Left::ToReload(error),
        };
        shared.watch.left(self.id);
        shared.ports.checks.forget(self.id);
        if matches!(left, Left::ForGood | Left::Done)
            && let Err(error) = shared.store.disown(self.id).await
        {
            warn!(
                "failed to give the session up, so that another replica waits for our lease to end: {error}"
            );
        }
        left
    }

    async fn drive(&mut self, driver: Driver) -> Left {
        let courier = self.shared.webhook.clone().map(|webhook| {
            let (store, clock) = (Arc::clone(&self.shared.store), Arc::clone(&self.shared.ports.clock));
            let metrics = Arc::clone(self.shared.watch.metrics());
            let latest = driver.session().head.entries;
            Courier::start(Start { id: self.id, webhook, store, clock, metrics, latest })
        });
        let left = self.rounds(driver, courier.as_ref()).await;
        if let Some(courier) = courier {
            courier.end().await;
        }
        left
    }

    async fn rounds(&mut self, mut driver: Driver, courier: Option<&Courier>) -> Left {
        while !self.stops() {
            if let Some(courier) = courier
                && driver.session().is_done()
                && self.shared.board.deletion_ordered(self.id)
            {
                // It goes now, and its history with it.
                self.unless_stopped(courier.idle_in_time()).await;
            }
            self.span.record("step", driver.session().head.step);
            let places = [place(driver.session())].into();
            let round = async {
                self.hand_over_deletion(&mut driver).await?;
                self.hand_over_commands(&mut driver).await?;
                driver.advance().await
            };
            let next = match PLACES.scope(places, round).await {
                Ok(next) => next,
                Err(StoreError::Failed(error)) => {
                    warn!("failed to use the store for the session, trying again: {error}");
                    self.back_off().await;
                    continue;
                }
                Err(error) => return Left::ToReload(error),
            };
            if let Some(courier) = courier {
                courier.tell(driver.session().head.entries);
            }
            match next {
                // Others get their turn, however much there is to do.
                Next::Now => tokio::task::yield_now().await,
                Next::At(time) => {
                    // It got as far as it can for now: what failed before is overcome.
                    self.pause = FIRST_PAUSE;
                    self.tell_wait(driver.session());
                    if let Some(Look { begun, asked, nodes }) = self.sleep_until(time, driver.session()).await
                    {
                        driver.looked(begun, asked, nodes);
                    }
                }
                Next::Finished if self.is_ordered() => {}
                Next::Finished => match courier.filter(|courier| !courier.is_idle()) {
                    Some(courier) => self.linger(courier).await,
                    None => return Left::Done,
                },
                Next::Removed => {
                    self.shared.board.remove(self.id);
                    self.shared.watch.metrics().deleted();
                    info!("session deleted");
                    return Left::ForGood;
                }
            }
        }
        Left::ForGood
    }

    /// The session is done, and who wants to be told of it was not yet. It may be retried or removed meanwhile.
    async fn linger(&self, courier: &Courier) {
        self.shared.board.linger(self.id, true);
        self.unless_stopped(async {
            tokio::select! {
                () = courier.idle() => {}
                () = self.wake.notified() => {}
            }
        })
        .await;
        self.shared.board.linger(self.id, false);
    }

    async fn unless_stopped(&self, work: impl Future<Output = ()>) {
        let mut stop = self.stop.clone();
        tokio::select! {
            () = work => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
    }

    /// Tells the driver that deletion is ordered, and by whom.
    async fn hand_over_deletion(&self, driver: &mut Driver) -> Result<(), StoreError> {
        if self.shared.board.deletion_ordered(self.id) && !driver.deletion_ordered() {
            let order = self.shared.store.deletion(self.id).await?;
            driver.order_deletion(order.and_then(|order| order.by));
        }
        Ok(())
    }

    /// Gives the driver what is noted for the session.
    async fn hand_over_commands(&self, driver: &mut Driver) -> Result<(), StoreError> {
        let Some(latest) = self.shared.board.commanded(self.id) else { return Ok(()) };
        let commands = self.shared.store.commands(self.id).await?;
        if commands.is_empty() {
            self.shared.board.none_is_noted(self.id, latest);
        }
        for command in commands {
            driver.command(command);
        }
        Ok(())
    }

    /// Whether anything is ordered that the session has not taken in.
    fn is_ordered(&self) -> bool {
        let board = &self.shared.board;
        board.deletion_ordered(self.id) || board.commanded(self.id).is_some()
    }

    /// The session as it is stored; why it was left when it is not there.
    async fn load(&mut self) -> Result<Result<Driver, Left>, StoreError> {
        let store = Arc::clone(&self.shared.store);
        let Some((mut session, revision)) = store.load(self.id).await? else { return Ok(Err(self.gone())) };
        // It may have been ordered of another replica a moment ago.
        if store.deletion(self.id).await?.is_some() {
            self.shared.board.order_deletion(self.id);
        }
        if let Some(latest) = store.commands(self.id).await?.last() {
            self.shared.board.command(self.id, latest.number);
        }
        session.limits = self.shared.limits.clone();
        self.shared.board.update(&session);
        self.shared.watch.taken_up(&session);
        if self.why.take() == Some(Why::Unowned) {
            self.shared.watch.metrics().taken_over();
        }
        self.span.record("step", session.head.step);
        info!("taking up the session");
        Ok(Ok(Driver::new(session, revision, self.shared.ports.clone())))
    }

    /// Another replica owns the session, or it is gone.
    async fn not_ours(&self) -> Result<Result<Driver, Left>, StoreError> {
        let there = self.shared.store.summary(self.id).await?.is_some();
        Ok(Err(if there { Left::ToAnother } else { self.gone() }))
    }

    /// The session is not stored any more: another replica has brought its deletion to its end, or kept it no longer.
    fn gone(&self) -> Left {
        match self.shared.board.deletion_ordered(self.id) {
            true => info!("session deleted by another replica"),
            false => warn!("the session is not in the store any more, and nobody here was told to delete it"),
        }
        self.shared.board.remove(self.id);
        Left::ForGood
    }

    /// Says what is waited for, once for each thing. What is missing is among the messages already.
    fn tell_wait(&mut self, session: &Session) {
        let head = &session.head;
        let waits_for = progress::waits_for(head, session.batch()).filter(|_| head.condition.is_none());
        if let Some(what) = waits_for.as_ref().filter(|_| waits_for != self.waits_for) {
            info!(step = head.step, stage = %head.stage, "waiting for {what}");
        }
        self.waits_for = waits_for;
    }

    fn stops(&self) -> bool {
        *self.stop.borrow()
    }

    /// Sleeps until there is something to do. When that is a look at nodes, it is made together with those of other sessions.
    async fn sleep_until(&mut self, time: Time, session: &Session) -> Option<Look> {
        let now = self.shared.ports.clock.now();
        let due = Instant::now() + Duration::from_millis(time.since(now));
        let Runner { wake, stop, shared, span, .. } = self;
        let planned = machine::next_look(session, now)
            .map(|(due, names)| (due, shared.looks.plan(due, names, place(session), span.clone())));
        let is_for_a_look = planned.as_ref().is_some_and(|(due, _)| *due <= time);
        let look = async {
            let Some((_, look)) = planned else { return std::future::pending().await };
            match look.await {
                Ok(look) => Some(look),
                // It is made by the session itself, at its time.
                Err(_) => {
                    tokio::time::sleep_until(due).await;
                    None
                }
            }
        };
        tokio::select! {
            look = look => look,
            () = tokio::time::sleep_until(due), if !is_for_a_look => {
                shared.watch.metrics().polled_late(due.elapsed());
                None
            }
            () = wake.notified() => None,
            // An error would mean that nobody can say so any more: the sender lives in `shared`.
            _ = stop.wait_for(|stop| *stop) => None,
        }
    }

    async fn back_off(&mut self) {
        let longest = Duration::from_millis(self.shared.limits.retry_max_ms);
        // Sessions that failed together do not all come back at once.
        let percent = u32::try_from(self.id.0.as_u128() % 41).unwrap_or_default() + 60;
        let pause = self.pause * percent / 100;
        self.pause = (self.pause * 2).min(longest).max(FIRST_PAUSE);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.wake.notified() => self.pause = FIRST_PAUSE,
            _ = self.stop.wait_for(|stop| *stop) => {}
        }
    }
}

/// Where in the session what comes next is done.
fn place(session: &Session) -> Place {
    let head = &session.head;
    #[cfg(feature = "otlp")]
    let parent = match head.phase {
        Phase::Rolling => otlp::stage_span(head.id, head.step, head.stage, head.stage_since),
        _ => otlp::session_span(head.id),
    };
    #[cfg(not(feature = "otlp"))]
    let parent = 0;
    Place { session: head.id, step: head.step, parent }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
