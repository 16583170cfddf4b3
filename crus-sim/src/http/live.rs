//! A cluster whose virtual time follows real time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crus_core::Time;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::kept::{KeepError, Kept};
use crate::cluster::{self, Cluster, PowerEvent, SharedCluster};

/// The longest sleep: a timer far away is no use, and too far away is none at all.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// While time passes, the file of a kept cluster is no older than this.
const KEPT_AGE: Duration = Duration::from_secs(1);

/// A cluster with a pace, seen by several handlers, tests and a pacer at once. Clones are the same one.
///
/// Its time stands still until [`set_speed`](LiveCluster::set_speed); [`advance`](LiveCluster::advance) moves it in any case.
#[derive(Debug, Clone)]
pub struct LiveCluster(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cluster: SharedCluster,
    pace: Mutex<Pace>,
    /// The time of the next event may have changed.
    changed: Notify,
    watchers: Mutex<Vec<mpsc::UnboundedSender<PowerEvent>>>,
    calls: Mutex<BTreeMap<String, u64>>,
    kept: Option<Kept>,
}

/// How virtual time follows from real time: `virtual_start` was at `real_start`.
#[derive(Debug, Clone, Copy)]
struct Pace {
    speed: f64,
    real_start: Instant,
    virtual_start: Time,
}

impl Pace {
    fn virtual_at(&self, now: Instant) -> Time {
        let real_ms = now.saturating_duration_since(self.real_start).as_secs_f64() * 1000.0;
        // Casting saturates: a speed that overflows 500 million years stops there.
        self.virtual_start + (real_ms * self.speed) as u64
    }

    /// When the virtual time will be `time`; `None` when time stands still.
    fn real_at(&self, time: Time) -> Option<Instant> {
        let seconds = time.since(self.virtual_start) as f64 / 1000.0 / self.speed;
        let wait = Duration::try_from_secs_f64(seconds).ok()?;
        self.real_start.checked_add(wait)
    }
}

impl LiveCluster {
    /// One in which time stands still.
    pub fn new(cluster: SharedCluster) -> Self {
        LiveCluster::with_file(cluster, None)
    }

    fn with_file(cluster: SharedCluster, kept: Option<Kept>) -> Self {
        let virtual_start = cluster::lock(&cluster).now();
        let pace = Pace { speed: 0.0, real_start: Instant::now(), virtual_start };
        LiveCluster(Arc::new(Shared {
            cluster,
            pace: Mutex::new(pace),
            changed: Notify::new(),
            watchers: Mutex::default(),
            calls: Mutex::default(),
            kept,
        }))
    }

    /// One in which a real second is `speed` virtual ones: 1.0 is real time, 0.0 stands still.
    pub fn paced(cluster: SharedCluster, speed: f64) -> Self {
        let live = LiveCluster::new(cluster);
        live.set_speed(speed);
        live
    }

    /// One that outlives its process: it goes on from the file at `path`, from the moment and with the state it
    /// was kept in. If there is no such file, it is this `cluster`. Paced as by [`paced`](Self::paced).
    ///
    /// Over HTTP, nothing is answered before it is kept: whatever somebody changed or was shown is so after a
    /// restart, too, also when the process was killed. What is changed in this process, by [`with`](Self::with), is kept
    /// within a second, or with the next answer. Not kept are the facts, the power events and the counted calls. A
    /// crash of the whole host may lose the file: it is not forced to the disk.
    ///
    /// # Errors
    /// When the file holds no cluster, or cannot be read or written.
    pub fn kept_in(cluster: SharedCluster, path: &Path, speed: f64) -> Result<Self, KeepError> {
        let kept = Kept::open(path, &cluster)?;
        let live = LiveCluster::with_file(cluster, Some(kept));
        live.set_speed(speed);
        Ok(live)
    }

    /// Writes the cluster to its file, if it has one and if it is needed: it is when a caller may have changed
    /// something, or something has happened.
    pub(super) fn keep(&self, may_be_changed: bool) {
        if let Some(kept) = &self.0.kept {
            kept.write(&self.0.cluster, may_be_changed);
        }
    }

    /// Changes the speed from now on. A negative or impossible one is 0.
    pub fn set_speed(&self, speed: f64) {
        let speed = if speed.is_finite() { speed.max(0.0) } else { 0.0 };
        self.with(|cluster| {
            *lock(&self.0.pace) = Pace { speed, real_start: Instant::now(), virtual_start: cluster.now() };
        });
        self.0.changed.notify_one();
    }

    /// Virtual seconds in a real one.
    pub fn speed(&self) -> f64 {
        lock(&self.0.pace).speed
    }

    /// Moves the time on by so much, beyond its pace.
    pub fn advance(&self, ms: u64) {
        self.with(|cluster| {
            let to = cluster.now() + ms;
            cluster.advance_to(to);
            let mut pace = lock(&self.0.pace);
            pace.real_start = Instant::now();
            pace.virtual_start = to;
        });
    }

    /// The virtual time, once everything has happened that is due.
    pub fn now(&self) -> Time {
        self.with(|cluster| cluster.now())
    }

    /// Does something with the cluster as it is now. Whatever is due has happened before.
    pub fn with<T>(&self, act: impl FnOnce(&mut Cluster) -> T) -> T {
        let mut cluster = cluster::lock(&self.0.cluster);
        let before = cluster.next_event();
        self.catch_up(&mut cluster);
        let value = act(&mut cluster);
        self.tell_watchers(&mut cluster);
        if cluster.next_event() != before {
            self.0.changed.notify_one();
        }
        value
    }

    fn catch_up(&self, cluster: &mut Cluster) {
        let now = lock(&self.0.pace).virtual_at(Instant::now());
        cluster.advance_to(now);
    }

    fn tell_watchers(&self, cluster: &mut Cluster) {
        let events = cluster.drain_power_events();
        if !events.is_empty() {
            lock(&self.0.watchers)
                .retain(|watcher| events.iter().all(|event| watcher.send(event.clone()).is_ok()));
        }
    }

    /// From now on, what the hardware does: whose power is cut, whose operating system starts. A test stops and
    /// starts real slurmds by it.
    pub fn power_events(&self) -> mpsc::UnboundedReceiver<PowerEvent> {
        let (watcher, events) = mpsc::unbounded_channel();
        lock(&self.0.watchers).push(watcher);
        events
    }

    /// How often what was called: requests by method and route (`GET /hsm/v2/groups/{label}`), Slurm's programs
    /// by name and command (`scontrol show`, `squeue`).
    pub fn calls(&self) -> BTreeMap<String, u64> {
        lock(&self.0.calls).clone()
    }

    /// Forgets the calls so far.
    pub fn reset_calls(&self) {
        lock(&self.0.calls).clear();
    }

    pub(super) fn count(&self, call: &str) {
        *lock(&self.0.calls).entry(call.to_owned()).or_default() += 1;
    }

    /// Real time for so much virtual time; none when time stands still.
    pub(super) fn real(&self, virtual_ms: u64) -> Duration {
        let speed = self.speed();
        if speed > 0.0 {
            Duration::try_from_secs_f64(virtual_ms as f64 / 1000.0 / speed).unwrap_or(LONGEST_SLEEP)
        } else {
            Duration::ZERO
        }
    }

    /// Lets everything happen when it is due, though nobody asks. Asleep in between; never ends.
    pub(super) async fn keep_pace(self) {
        loop {
            let next = {
                let mut cluster = cluster::lock(&self.0.cluster);
                self.catch_up(&mut cluster);
                self.tell_watchers(&mut cluster);
                cluster.next_event()
            };
            let pace = *lock(&self.0.pace);
            let mut longest = Instant::now() + LONGEST_SLEEP;
            if let Some(kept) = self.0.kept.as_ref().filter(|_| pace.speed > 0.0) {
                if kept.age() >= KEPT_AGE {
                    kept.write(&self.0.cluster, true);
                }
                longest = Instant::now() + KEPT_AGE;
            }
            let wake = next.and_then(|time| pace.real_at(time)).map_or(longest, |at| at.min(longest));
            // Time or a change: either way the next look finds out what it means.
            drop(tokio::time::timeout_at(wake, self.0.changed.notified()).await);
        }
    }
}

/// A panic elsewhere has been reported there; what is behind these locks is whole at any moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
