//! Who tells a receiver what happens in one session, beside the task that runs it.

use std::sync::Arc;
use std::time::Duration;

use crus_core::UpgradeId;
use crus_core::history::Entry;
use crus_core::ports::{Clock, SessionStore, StoreError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{Instrument as _, Span, debug, info, warn};

use super::{Class, NotTaken, Webhook};
use crate::metrics::Metrics;

/// How many entries are read at a time.
const PAGE: usize = 100;

/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// How long the end may take: what was delivered is noted, if the store lets us.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// How often an entry may be refused before it is given up. With the pauses between them that takes minutes, in which a
/// receiver that is being set up, or gets a new secret, comes right.
const REFUSALS: u32 = 12;

/// How often it is said that a receiver takes nothing.
const WARN_EVERY: Duration = Duration::from_secs(3600);

/// What a courier goes by.
pub(crate) struct Start {
    pub(crate) id: UpgradeId,
    pub(crate) webhook: Arc<Webhook>,
    pub(crate) store: Arc<dyn SessionStore>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Who counts what is told.
    pub(crate) metrics: Arc<Metrics>,
    /// The number of the latest entry. When nothing was ever noted of this session, its receiver wants what comes after.
    pub(crate) latest: u64,
}

/// A courier at work. Dropped, it ends at once.
pub(crate) struct Courier {
    latest: watch::Sender<u64>,
    delivered: watch::Receiver<u64>,
    timeout: Duration,
    task: Option<JoinHandle<()>>,
}

impl Drop for Courier {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Courier {
    pub(crate) fn start(start: Start) -> Self {
        let latest = watch::Sender::new(start.latest);
        // Until it has looked it is not known to have delivered anything.
        let (told, delivered) = watch::channel(0);
        let Start { id, webhook, store, clock, metrics, latest: first } = start;
        let timeout = webhook.timeout;
        let task = Task {
            id,
            webhook,
            store,
            clock,
            metrics,
            latest: latest.subscribe(),
            told,
            cursor: 0,
            noted: 0,
            pause: FIRST_PAUSE,
            warned: None,
        };
        let task = tokio::spawn(task.run(first).instrument(Span::current()));
        Courier { latest, delivered, timeout, task: Some(task) }
    }

    /// The history has entries up to this number.
    pub(crate) fn tell(&self, latest: u64) {
        self.latest.send_if_modified(|known| std::mem::replace(known, latest) != latest);
    }

    /// Whether everything was delivered, or nothing will be any more.
    pub(crate) fn is_idle(&self) -> bool {
        let has_ended = self.delivered.has_changed().is_err();
        has_ended || *self.delivered.borrow() >= *self.latest.borrow()
    }

    /// Ready once everything was delivered, or nothing will be any more.
    pub(crate) async fn idle(&self) {
        let latest = *self.latest.borrow();
        // An error: the task has ended, since the session is not ours any more.
        _ = self.delivered.clone().wait_for(|delivered| *delivered >= latest).await;
    }

    /// Likewise, or after one time-out: for who cannot wait longer.
    pub(crate) async fn idle_in_time(&self) {
        if tokio::time::timeout(self.timeout, self.idle()).await.is_err() {
            warn!("the session is deleted, and the webhook was not told of all that happened in it");
        }
    }

    /// Ends it, noting what was delivered.
    pub(crate) async fn end(mut self) {
        let Some(mut task) = self.task.take() else { return };
        // The task hears that nobody tells it anything any more.
        self.latest = watch::Sender::new(0);
        if tokio::time::timeout(LAST_PATIENCE, &mut task).await.is_err() {
            task.abort();
        }
    }
}

struct Task {
    id: UpgradeId,
    webhook: Arc<Webhook>,
    store: Arc<dyn SessionStore>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    latest: watch::Receiver<u64>,
    told: watch::Sender<u64>,
    /// The number of the latest entry that is done with, and what is noted of that in the store.
    cursor: u64,
    noted: u64,
    pause: Duration,
    /// When it was last said that the receiver takes nothing; `None` while it does.
    warned: Option<Instant>,
}

impl Drop for Task {
    fn drop(&mut self) {
        // Who goes on with it, here or elsewhere, tells what is left.
        self.metrics.told_all(self.id);
    }
}

/// The courier is to end.
struct Ended;

impl Task {
    async fn run(mut self, first: u64) {
        let worked = self.work(first).await;
        if let Err(Ended) = worked
            && self.cursor > self.noted
            && let Err(error) = self.store.set_delivered(self.id, self.cursor).await
        {
            debug!("failed to note what the webhook was told last, which it will be told once more: {error}");
        }
    }

    async fn work(&mut self, first: u64) -> Result<(), Ended> {
        let begun = loop {
            match self.begin(first).await {
                Ok(begun) => break begun,
                Err(error) => self.after(&error).await?,
            }
        };
        self.cursor = begun;
        self.noted = begun;
        self.told.send_replace(begun);
        loop {
            let latest = *self.latest.borrow_and_update();
            if latest <= self.cursor {
                self.latest.changed().await.map_err(|_| Ended)?;
                continue;
            }
            let entries = match self.store.history(self.id, self.cursor, PAGE).await {
                Ok(entries) => entries,
                Err(error) => {
                    self.after(&error).await?;
                    continue;
                }
            };
            let Some(last) = entries.last().map(|entry| entry.number) else {
                // They were dropped, or the session is gone.
                self.done_with(latest);
                continue;
            };
            let mut delivered = false;
            for entry in &entries {
                if let Some(class) = self.webhook.wants(entry) {
                    self.metrics.telling(self.id, entry.at);
                    self.deliver(class, entry).await?;
                    self.metrics.told_all(self.id);
                    delivered = true;
                }
                self.cursor = entry.number;
            }
            // What nobody wants to be told of is looked at again after a restart, which costs less than a write each time.
            if delivered || last - self.noted >= PAGE as u64 {
                self.note().await?;
            }
            self.done_with(self.cursor);
        }
    }

    /// From where to go on.
    async fn begin(&self, first: u64) -> Result<u64, StoreError> {
        if let Some(noted) = self.store.delivered(self.id).await? {
            return Ok(noted);
        }
        self.store.set_delivered(self.id, first).await?;
        Ok(first)
    }

    fn done_with(&mut self, number: u64) {
        self.cursor = self.cursor.max(number);
        self.told.send_replace(self.cursor);
    }

    async fn note(&mut self) -> Result<(), Ended> {
        loop {
            match self.store.set_delivered(self.id, self.cursor).await {
                Ok(()) => {
                    self.noted = self.cursor;
                    return Ok(());
                }
                Err(error) => self.after(&error).await?,
            }
        }
    }

    /// Tries until the receiver has taken it, or refused it for good.
    async fn deliver(&mut self, class: Class, entry: &Entry) -> Result<(), Ended> {
        let mut refusals = 0;
        loop {
            let posted = tokio::select! {
                posted = self.webhook.post(self.id, class, entry) => posted,
                () = ended(self.latest.clone()) => return Err(Ended),
            };
            let outcome = match &posted {
                Ok(()) => "delivered",
                Err(NotTaken { refused: true, .. }) if refusals + 1 == REFUSALS => "given_up",
                Err(NotTaken { refused: true, .. }) => "refused",
                Err(_) => "failed",
            };
            self.metrics.attempted(class.name(), outcome);
            let Err(NotTaken { why, refused }) = posted else {
                self.metrics.told(self.clock.now().since(entry.at));
                if self.warned.take().is_some() {
                    info!("the webhook {} takes what it is told again", self.webhook.url);
                }
                self.pause = FIRST_PAUSE;
                return Ok(());
            };
            let url = &self.webhook.url;
            refusals += u32::from(refused);
            if refusals == REFUSALS {
                let (id, number) = (self.id, entry.number);
                warn!(
                    "the webhook {url} refused entry {number} of session {id} {REFUSALS} times, and is not told of it: {why}"
                );
                self.pause = FIRST_PAUSE;
                return Ok(());
            }
            if self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
                self.warned = Some(Instant::now());
                warn!("the webhook {url} does not take what it is told, trying again: {why}");
            }
            self.back_off().await?;
        }
    }

    /// After an error of the store: when the session is not ours any more, somebody else goes on.
    async fn after(&mut self, error: &StoreError) -> Result<(), Ended> {
        match error {
            StoreError::NotOwner(_) | StoreError::Conflict(_) => Err(Ended),
            StoreError::Failed(_) | StoreError::Unreadable(_) => {
                warn!("failed to use the store for the webhook, trying again: {error}");
                self.back_off().await
            }
        }
    }

    async fn back_off(&mut self) -> Result<(), Ended> {
        // Those that failed together do not all come back at once.
        let percent = 60 + u32::from(uuid::Uuid::new_v4().as_bytes()[0]) * 40 / 255;
        let pause = self.pause.min(self.webhook.retry_max) * percent / 100;
        self.pause = self.pause.saturating_mul(2).min(self.webhook.retry_max);
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = ended(self.latest.clone()) => Err(Ended),
        }
    }
}

/// Ready once nobody tells anything any more.
async fn ended(mut latest: watch::Receiver<u64>) {
    while latest.changed().await.is_ok() {}
}
