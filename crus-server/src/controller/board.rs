//! What is told about each session, and how to reach the one who runs it.
//!
//! Questions are answered from here and never wait for a session that is in the middle of a call, nor for the store.
//! A session that is run here tells of itself; of one that another replica runs, or that is done, the store tells.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crus_api::{SessionList, SessionStatus};
use crus_core::driver::Observer;
use crus_core::machine::Event;
use crus_core::model::{Head, Message, Node, Session, Summary, UpgradeId};
use crus_core::promises::Violation;
use crus_core::{Time, history};
use tokio::sync::{Notify, watch};

use super::Retention;
use crate::metrics::Census;

/// A stretch of time in which a session did not run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn(u64);

/// All sessions of the service.
#[derive(Debug, Default)]
pub(super) struct Board {
    entries: Mutex<BTreeMap<UpgradeId, Entry>>,
    /// All answers, as they were when they were last asked for.
    listed: Mutex<Arc<SessionList>>,
    /// Told whenever something is otherwise for one who follows a session, of whichever.
    changed: watch::Sender<()>,
}

/// How many entries of a history are kept of a session that is about to be removed.
const TAIL: usize = 32;

/// What happened last in a session whose deletion was ordered: the store forgets it with the session, and who follows it may
/// not have read it by then.
#[derive(Debug, Clone, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<history::Entry>>>);

impl Tail {
    fn add(&self, entry: &history::Entry) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == TAIL {
            entries.pop_front();
        }
        entries.push_back(entry.clone());
    }

    /// The entries after the one of this number.
    pub(super) fn after(&self, number: u64) -> Vec<history::Entry> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().filter(|entry| entry.number > number).cloned().collect()
    }
}

/// How a session stands.
#[derive(Debug)]
pub(super) struct Outlook {
    pub(super) head: Arc<Head>,
    pub(super) deletion_ordered: bool,
    /// The nodes of its step; `None` when it does not run here.
    pub(super) step: Option<Arc<[Node]>>,
}

#[derive(Debug)]
struct Entry {
    head: Arc<Head>,
    status: Arc<SessionStatus>,
    /// The order is in the store already.
    deletion_ordered: bool,
    /// The number of the latest command that is noted for it, as far as is known here.
    commanded: u64,
    /// The number of the latest that it has taken in.
    taken_in: u64,
    /// Runs here, or is about to.
    running: bool,
    /// It runs here only until who wants to be told of it was.
    lingers: bool,
    /// It is done, and not all that happened in it was delivered.
    undelivered: bool,
    /// Somebody wanted it run while it did: before it is left it is tried once more.
    again: bool,
    /// How often it began to run here. What was read before that is old.
    turns: u64,
    wake: Arc<Notify>,
    /// The nodes of its step, while it runs here.
    step: Option<Arc<[Node]>>,
    tail: Tail,
}

impl Entry {
    fn of(summary: &Summary) -> Self {
        Entry {
            head: Arc::new(summary.head.clone()),
            status: status_of(summary),
            deletion_ordered: summary.deletion_ordered,
            commanded: latest_of(summary),
            taken_in: summary.head.commands,
            running: false,
            lingers: false,
            undelivered: false,
            again: false,
            turns: 0,
            wake: Arc::default(),
            step: None,
            tail: Tail::default(),
        }
    }

    fn tell(&mut self, head: &Head, messages: &[Message]) {
        let status = status(head, messages, self.deletion_ordered);
        // What does not show is not written anew.
        if *self.status != status {
            self.status = Arc::new(status);
        }
        self.taken_in = head.commands;
        self.head = Arc::new(head.clone());
    }

    /// A session that is done is run only to be deleted, to take in a command, or to tell of it.
    fn has_work(&self) -> bool {
        !self.is_over() || self.undelivered
    }

    /// Whether it is done, and nothing else is ordered.
    fn is_over(&self) -> bool {
        self.head.ended.is_some() && !self.deletion_ordered && !self.has_commands()
    }

    fn has_commands(&self) -> bool {
        self.commanded > self.taken_in
    }

    fn command(&mut self, number: u64) {
        if number > self.commanded {
            self.commanded = number;
            self.wake.notify_one();
        }
    }

    fn order_deletion(&mut self) {
        if !std::mem::replace(&mut self.deletion_ordered, true) {
            self.status = Arc::new(SessionStatus::clone(&self.status).deleting());
            self.wake.notify_one();
        }
    }
}

impl Board {
    /// How many sessions there are.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Takes in what the store tells of a session, as it was read after [`Board::turn`] said this. What runs here, or
    /// did meanwhile, knows better, but for orders.
    pub(super) fn take_in(&self, summary: &Summary, turn: Turn) {
        let mut entries = self.lock();
        let entry = entries.entry(summary.head.id).or_insert_with(|| Entry::of(summary));
        if summary.deletion_ordered {
            entry.order_deletion();
        }
        entry.command(latest_of(summary));
        if !entry.running && Turn(entry.turns) == turn {
            entry.tell(&summary.head, &summary.messages);
            entry.step = None;
        }
        self.tell_changed();
    }

    /// To be told whenever something may be otherwise for one who follows a session.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Something may be.
    pub(super) fn tell_changed(&self) {
        self.changed.send_replace(());
    }

    /// How one session stands.
    pub(super) fn outlook(&self, id: UpgradeId) -> Option<Outlook> {
        self.lock().get(&id).map(|entry| Outlook {
            head: Arc::clone(&entry.head),
            deletion_ordered: entry.deletion_ordered,
            step: entry.step.clone(),
        })
    }

    /// What happens at the end of a session, as far as it runs here.
    pub(super) fn tail(&self, id: UpgradeId) -> Option<Tail> {
        self.lock().get(&id).map(|entry| entry.tail.clone())
    }

    /// To be asked before the store is asked about a session. `None` while it runs here: nothing need be asked.
    pub(super) fn turn(&self, id: UpgradeId) -> Option<Turn> {
        match self.lock().get(&id) {
            Some(entry) if entry.running => None,
            entry => Some(Turn(entry.map_or(0, |entry| entry.turns))),
        }
    }

    /// Forgets the sessions that the store does not hold any more, but for those that run here.
    pub(super) fn keep(&self, stored: &BTreeSet<UpgradeId>) {
        self.lock().retain(|id, entry| entry.running || stored.contains(id));
        self.tell_changed();
    }

    /// All answers, in the order of creation. As long as none changes it is the same list, which is written once.
    pub(super) fn all(&self) -> Arc<SessionList> {
        let entries = self.lock();
        let mut all: Vec<_> =
            entries.iter().map(|(id, e)| (e.head.created, *id, Arc::clone(&e.status))).collect();
        drop(entries);
        all.sort_by_key(|(created, id, _)| (*created, *id));
        let all: Vec<_> = all.into_iter().map(|(_, _, status)| status).collect();
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if !listed.is_of(&all) {
            *listed = Arc::new(SessionList::new(all));
        }
        Arc::clone(&listed)
    }

    /// The answer for one session.
    pub(super) fn get(&self, id: UpgradeId) -> Option<Arc<SessionStatus>> {
        self.lock().get(&id).map(|entry| Arc::clone(&entry.status))
    }

    /// The head of one session.
    pub(super) fn head(&self, id: UpgradeId) -> Option<Arc<Head>> {
        self.lock().get(&id).map(|entry| Arc::clone(&entry.head))
    }

    /// Takes in that the session's deletion is ordered, and wakes who runs it here. `None` when it is gone.
    pub(super) fn order_deletion(&self, id: UpgradeId) -> Option<Arc<SessionStatus>> {
        let mut entries = self.lock();
        let entry = entries.get_mut(&id)?;
        entry.order_deletion();
        Some(Arc::clone(&entry.status))
    }

    /// Whether the session's deletion is ordered.
    pub(super) fn deletion_ordered(&self, id: UpgradeId) -> bool {
        self.lock().get(&id).is_some_and(|entry| entry.deletion_ordered)
    }

    /// Takes in that a command of this number is noted for a session, and wakes who runs it here. `false` when it is not
    /// known here.
    pub(super) fn command(&self, id: UpgradeId, number: u64) -> bool {
        self.lock().get_mut(&id).map(|entry| entry.command(number)).is_some()
    }

    /// The number of the latest command that is noted for a session and was not taken in.
    pub(super) fn commanded(&self, id: UpgradeId) -> Option<u64> {
        self.lock().get(&id).filter(|entry| entry.has_commands()).map(|entry| entry.commanded)
    }

    /// The store, asked after this was the latest command that is known, holds none that was not taken in.
    pub(super) fn none_is_noted(&self, id: UpgradeId, latest: u64) {
        if let Some(entry) = self.lock().get_mut(&id).filter(|entry| entry.commanded == latest) {
            entry.commanded = entry.taken_in;
        }
    }

    /// Takes in whether not all that happened in a finished session was delivered.
    pub(super) fn undelivered(&self, id: UpgradeId, undelivered: bool) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.undelivered = undelivered;
        }
    }

    /// Takes in whether a session runs here only until who wants to be told of it was.
    pub(super) fn linger(&self, id: UpgradeId, lingers: bool) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.lingers = lingers;
        }
    }

    /// What wakes the one who runs the session. A wake-up that comes before anybody waits is not lost.
    pub(super) fn wake(&self, id: UpgradeId) -> Arc<Notify> {
        self.lock().get(&id).map(|entry| Arc::clone(&entry.wake)).unwrap_or_default()
    }

    /// The sessions that have work to do and do not run here, in the order of creation.
    pub(super) fn idle(&self) -> Vec<UpgradeId> {
        let entries = self.lock();
        let idle = entries.iter().filter(|(_, entry)| entry.has_work() && !entry.running);
        let mut idle: Vec<_> = idle.map(|(id, entry)| (entry.head.created, *id)).collect();
        drop(entries);
        idle.sort_unstable();
        idle.into_iter().map(|(_, id)| id).collect()
    }

    /// Takes a session to be run here. `false` when there is nothing to do, or somebody here is at it: who is waits no
    /// longer for anything.
    pub(super) fn begin(&self, id: UpgradeId) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&id).filter(|entry| entry.has_work()) else { return false };
        if entry.running {
            entry.again = true;
            entry.wake.notify_one();
            return false;
        }
        entry.running = true;
        entry.turns += 1;
        true
    }

    /// Nobody here runs the session any more: it is done. `false`, and nothing changes, when its deletion or something
    /// else was ordered meanwhile: then it must be run on.
    pub(super) fn rest(&self, id: UpgradeId) -> bool {
        match self.lock().get_mut(&id) {
            Some(entry) if entry.deletion_ordered || entry.has_commands() => false,
            Some(entry) => {
                entry.running = false;
                entry.undelivered = false;
                true
            }
            None => true,
        }
    }

    /// Somebody else runs the session. `false`, and nothing changes, when it was to be run here meanwhile: then that is
    /// tried once more.
    pub(super) fn leave(&self, id: UpgradeId) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&id) else { return true };
        entry.running = std::mem::take(&mut entry.again);
        entry.step = None;
        !entry.running
    }

    /// Nobody who runs a session waits any longer for anything.
    pub(super) fn wake_all(&self) {
        self.lock().values().filter(|entry| entry.running).for_each(|entry| entry.wake.notify_one());
    }

    /// Takes in that the session is gone.
    pub(super) fn remove(&self, id: UpgradeId) {
        self.lock().remove(&id);
        self.tell_changed();
    }

    /// Takes in that the session is gone, unless it runs here: then it finds out by itself.
    pub(super) fn forget(&self, id: UpgradeId) {
        let mut entries = self.lock();
        if entries.get(&id).is_some_and(|entry| !entry.running) {
            entries.remove(&id);
        }
        self.tell_changed();
    }

    /// The finished sessions that are not to be kept any longer.
    pub(super) fn outdated(&self, retention: &Retention, now: Time) -> Vec<UpgradeId> {
        let entries = self.lock();
        let finished =
            entries.iter().filter(|(_, entry)| entry.is_over() && (!entry.running || entry.lingers));
        let mut finished: Vec<_> =
            finished.filter_map(|(id, entry)| Some((entry.head.ended?, *id))).collect();
        drop(entries);
        finished.sort_unstable_by_key(|finished| Reverse(*finished));
        let too_old = |ended: Time| retention.max_age_ms.is_some_and(|age| now.since(ended) > age);
        let outdated = (0..).zip(finished).filter(|(i, (ended, _))| *i >= retention.count || too_old(*ended));
        outdated.map(|(_, (_, id))| id).collect()
    }

    /// Replaces the answer for a session that runs here.
    pub(super) fn update(&self, session: &Session) {
        if let Some(entry) = self.lock().get_mut(&session.head.id) {
            entry.tell(&session.head, &session.messages);
            entry.step = Some(session.batch().cloned().collect());
        }
        self.tell_changed();
    }

    /// Takes in how single nodes of a session that runs here changed.
    fn update_nodes(&self, session: &Session) {
        if let Some(entry) = self.lock().get_mut(&session.head.id) {
            entry.step = Some(session.batch().cloned().collect());
        }
    }

    /// Keeps what happens in a session that is about to be removed.
    fn keep_tail(&self, id: UpgradeId, events: &[Event]) {
        let tail =
            self.lock().get(&id).filter(|entry| entry.deletion_ordered).map(|entry| entry.tail.clone());
        for event in events {
            if let (Event::Entry(entry), Some(tail)) = (event, &tail) {
                tail.add(entry);
            }
        }
    }

    /// What runs here.
    pub(super) fn census(&self, now: Time) -> Census {
        let mut census = Census::default();
        for entry in self.lock().values() {
            let head = &entry.head;
            if head.is_done() && !entry.deletion_ordered {
                census.kept += 1;
                continue;
            }
            if !entry.running {
                continue;
            }
            census.count(head, entry.deletion_ordered, now);
            census.unmet += u64::from(head.condition.is_some() && !head.queued);
        }
        census
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<UpgradeId, Entry>> {
        // Every change leaves the map whole, whoever panics.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of the latest command that is noted for a session; 0 when there is none.
fn latest_of(summary: &Summary) -> u64 {
    summary.commands.last().map_or(0, |(number, _)| *number)
}

pub(super) fn status_of(summary: &Summary) -> Arc<SessionStatus> {
    Arc::new(status(&summary.head, &summary.messages, summary.deletion_ordered))
}

fn status(head: &Head, messages: &[Message], deletion_ordered: bool) -> SessionStatus {
    let status = SessionStatus::of(head, messages);
    if deletion_ordered { status.deleting() } else { status }
}

impl Observer for Board {
    fn changed(&self, session: &Session, events: &[Event]) {
        self.keep_tail(session.head.id, events);
        // The answer does not show single nodes.
        if events.iter().any(|event| !matches!(event, Event::Node(_))) {
            self.update(session);
        } else {
            self.update_nodes(session);
        }
    }

    /// It shows no promises.
    fn broken(&self, _: &Session, _: &Violation) {}
}
