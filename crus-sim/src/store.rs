//! Sessions in memory, kept as a real store keeps them: serialised, in parts, with a revision, owned by replicas.
//!
//! What was not among the events of a save is not written, so a machine that forgets to tell a change loses it
//! here as it would in production. A "crash" is to drop everything but the store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use crus_core::Actor;
use crus_core::Xname;
use crus_core::claims::{self, Claim, Turn};
use crus_core::history::Entry;
use crus_core::machine::Event;
use crus_core::model::{
    Command, DeletionOrder, Node, NumberedCommand, Ordered, Phase, Session, Summary, UpgradeId,
};
use crus_core::ports::{Change, DriverStore, Revision, SessionStore, StoreChanges, StoreError};
use crus_core::stored::{self, Parts};

/// One replica's handle on a store that lives as long as the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    replica: u64,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: BTreeMap<UpgradeId, Stored>,
    claims: BTreeMap<UpgradeId, Claim>,
    created: u64,
    commanded: u64,
    owners: BTreeMap<UpgradeId, u64>,
    /// The replicas that get no lease.
    cut_off: BTreeSet<u64>,
    replicas: u64,
    failing: Option<String>,
    written: Written,
    followers: Vec<Arc<Mutex<Follower>>>,
    /// Who waits for a session not to be theirs any more.
    disowned: Vec<Waker>,
    /// Whether orders are lost that were answered for.
    loses_orders: bool,
}

#[derive(Debug, Default)]
struct Stored {
    revision: u64,
    head: Vec<u8>,
    nodes: Vec<Vec<u8>>,
    messages: Vec<Vec<u8>>,
    history: BTreeMap<u32, Vec<u8>>,
    deletion: Option<DeletionOrder>,
    commands: BTreeMap<u64, Ordered>,
    delivered: Option<u64>,
}

#[derive(Debug, Default)]
struct Follower {
    changes: VecDeque<Change>,
    waker: Option<Waker>,
}

/// What was written since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Transactions.
    pub writes: u64,
    /// Heads, nodes and messages.
    pub parts: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How often a session asked for its turn.
    pub claims: u64,
}

impl MemoryStore {
    /// Another replica's handle on the same store.
    #[must_use]
    pub fn another_replica(&self) -> Self {
        let mut inner = self.lock();
        inner.replicas += 1;
        MemoryStore { replica: inner.replicas, inner: Arc::clone(&self.inner) }
    }

    /// This replica's lease ends: it loses all of its sessions.
    pub fn expire(&self) {
        let mut inner = self.lock();
        let lost: Vec<UpgradeId> =
            inner.owners.iter().filter(|(_, owner)| **owner == self.replica).map(|(id, _)| *id).collect();
        for id in lost {
            inner.disown(id);
        }
    }

    /// This replica's lease ends, and it gets no other one.
    pub fn cut_off(&self) {
        self.lock().cut_off.insert(self.replica);
        self.expire();
    }

    /// What was written since the start.
    pub fn written(&self) -> Written {
        self.lock().written
    }

    /// Makes every call fail with these words, until called again with `None`. Nothing is written meanwhile.
    pub fn fail(&self, words: Option<&str>) {
        self.lock().failing = words.map(str::to_owned);
    }

    /// From now on orders are answered for, and lost.
    pub fn lose_orders(&self) {
        self.lock().loses_orders = true;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        let inner = self.lock();
        match &inner.failing {
            Some(words) => Err(StoreError::Failed(words.clone())),
            None => Ok(inner),
        }
    }
}

impl Inner {
    fn tell(&self, change: Change) {
        for follower in &self.followers {
            let mut follower = follower.lock().unwrap_or_else(PoisonError::into_inner);
            follower.changes.push_back(change);
            if let Some(waker) = follower.waker.take() {
                waker.wake();
            }
        }
    }

    fn remove(&mut self, id: UpgradeId) {
        self.written.writes += 1;
        self.claims.remove(&id);
        if self.sessions.remove(&id).is_some() {
            self.tell(Change::Removed(id));
        }
        self.disown(id);
    }

    fn disown(&mut self, id: UpgradeId) {
        if self.owners.remove(&id).is_some() {
            self.tell(Change::Unowned(id));
            self.disowned.drain(..).for_each(Waker::wake);
        }
    }
}

impl Stored {
    /// Writes all or nothing.
    fn write(&mut self, parts: Parts, written: &mut Written) -> Result<(), StoreError> {
        for (what, new, there) in
            [("node", &parts.nodes, self.nodes.len()), ("message", &parts.messages, self.messages.len())]
        {
            let beyond = new.iter().map(|(i, _)| *i as usize).filter(|i| *i >= there);
            if let Some((i, _)) = beyond.zip(there..).find(|(i, expected)| i != expected) {
                return Err(StoreError::Failed(format!("{what} {i} would leave a gap")));
            }
        }
        written.writes += 1;
        let values =
            parts.head.iter().chain(parts.nodes.iter().chain(&parts.messages).map(|(_, value)| value));
        for value in values {
            written.parts += 1;
            written.bytes += value.len() as u64;
        }
        if let Some(head) = parts.head {
            self.head = head;
        }
        put(&mut self.nodes, parts.nodes);
        put(&mut self.messages, parts.messages);
        self.history.extend(parts.history);
        if let Some(end) = parts.messages_end {
            self.messages.truncate(end as usize);
        }
        Ok(())
    }
}

/// Replaces or appends.
fn put(stored: &mut Vec<Vec<u8>>, parts: Vec<(u32, Vec<u8>)>) {
    for (i, value) in parts {
        match stored.get_mut(i as usize) {
            Some(place) => *place = value,
            None => stored.push(value),
        }
    }
}

#[async_trait]
impl DriverStore for MemoryStore {
    async fn save(
        &self,
        session: &Session,
        events: &[Event],
        revision: Revision,
    ) -> Result<Revision, StoreError> {
        let parts = Parts::of(session, events)?;
        let mut inner = self.open()?;
        let id = session.head.id;
        let Inner { sessions, written, claims, owners, created, .. } = &mut *inner;
        let stored = sessions.get_mut(&id).ok_or(StoreError::Conflict(id))?;
        if owners.get(&id) != Some(&self.replica) {
            return Err(StoreError::NotOwner(id));
        }
        if stored.revision != revision.0 {
            return Err(StoreError::Conflict(id));
        }
        let tells = parts.head.is_some() || !parts.messages.is_empty();
        stored.write(parts, written)?;
        stored.revision += 1;
        let revision = Revision(stored.revision);
        stored.commands.retain(|number, _| *number > session.head.commands);
        if session.is_done() {
            claims.remove(&id);
        } else if events.contains(&Event::Phase(Phase::Created)) {
            // It begins anew after its end.
            *created += 1;
            claims.insert(id, Claim::of(session, *created));
        }
        if tells {
            inner.tell(Change::Session(id));
        }
        Ok(revision)
    }

    async fn remove(&self, id: UpgradeId) -> Result<(), StoreError> {
        self.open()?.remove(id);
        Ok(())
    }

    async fn claim(&self, id: UpgradeId, nodes: &[Xname]) -> Result<Turn, StoreError> {
        let mut inner = self.open()?;
        let (turn, changed) = claims::claim(id, nodes, &mut inner.claims);
        inner.written.writes += u64::from(changed);
        inner.written.claims += 1;
        Ok(turn)
    }

    fn owns(&self, id: UpgradeId) -> bool {
        self.lock().owners.get(&id) == Some(&self.replica)
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn create(&self, session: &Session) -> Result<Revision, StoreError> {
        let parts = Parts::all(session)?;
        let mut inner = self.open()?;
        let id = session.head.id;
        if inner.sessions.contains_key(&id) {
            return Err(StoreError::Conflict(id));
        }
        let mut stored = Stored { revision: 1, ..Stored::default() };
        stored.write(parts, &mut inner.written)?;
        inner.created += 1;
        if !session.is_done() {
            let claim = Claim::of(session, inner.created);
            inner.claims.insert(id, claim);
        }
        inner.sessions.insert(id, stored);
        inner.tell(Change::Session(id));
        Ok(Revision(1))
    }

    async fn ids(&self) -> Result<Vec<UpgradeId>, StoreError> {
        Ok(self.open()?.sessions.keys().copied().collect())
    }

    async fn summary(&self, id: UpgradeId) -> Result<Option<Summary>, StoreError> {
        let inner = self.open()?;
        let Some(stored) = inner.sessions.get(&id) else { return Ok(None) };
        Ok(Some(Summary {
            head: stored::head(id, &stored.head)?,
            messages: stored::messages(id, (0..).zip(&stored.messages))?,
            deletion_ordered: stored.deletion.is_some(),
            commands: stored.commands.iter().map(|(number, ordered)| (*number, ordered.command)).collect(),
        }))
    }

    async fn load(&self, id: UpgradeId) -> Result<Option<(Session, Revision)>, StoreError> {
        let inner = self.open()?;
        let Some(stored) = inner.sessions.get(&id) else { return Ok(None) };
        let (nodes, messages) = ((0..).zip(&stored.nodes), (0..).zip(&stored.messages));
        let session = stored::session(id, &stored.head, nodes, messages)?;
        Ok(Some((session, Revision(stored.revision))))
    }

    async fn order_deletion(&self, id: UpgradeId, by: Option<&Actor>) -> Result<(), StoreError> {
        let mut inner = self.open()?;
        inner.written.writes += 1;
        if inner.loses_orders {
            return Ok(());
        }
        // An order for a session that is gone would stay for ever.
        if let Some(stored) = inner.sessions.get_mut(&id) {
            stored.deletion.get_or_insert_with(|| DeletionOrder { by: by.cloned() });
            inner.tell(Change::DeletionOrdered(id));
        }
        Ok(())
    }

    async fn deletion(&self, id: UpgradeId) -> Result<Option<DeletionOrder>, StoreError> {
        Ok(self.open()?.sessions.get(&id).and_then(|stored| stored.deletion.clone()))
    }

    async fn command(
        &self,
        id: UpgradeId,
        command: Command,
        by: Option<&Actor>,
    ) -> Result<Option<u64>, StoreError> {
        let mut inner = self.open()?;
        inner.written.writes += 1;
        let Inner { sessions, commanded, loses_orders, .. } = &mut *inner;
        let Some(stored) = sessions.get_mut(&id) else { return Ok(None) };
        if let Some((number, _)) =
            stored.commands.last_key_value().filter(|(_, last)| last.command == command)
        {
            return Ok(Some(*number));
        }
        *commanded += 1;
        let number = *commanded;
        if *loses_orders {
            return Ok(Some(number));
        }
        stored.commands.insert(number, Ordered { command, by: by.cloned() });
        inner.tell(Change::Commanded(id));
        Ok(Some(number))
    }

    async fn commands(&self, id: UpgradeId) -> Result<Vec<NumberedCommand>, StoreError> {
        let inner = self.open()?;
        let commands = inner.sessions.get(&id).into_iter().flat_map(|stored| &stored.commands);
        Ok(commands.map(|(number, ordered)| ordered.clone().numbered(*number)).collect())
    }

    async fn nodes(&self, id: UpgradeId, from: usize, count: usize) -> Result<Vec<Node>, StoreError> {
        let inner = self.open()?;
        let stored = inner.sessions.get(&id).into_iter().flat_map(|stored| &stored.nodes);
        stored.skip(from).take(count).map(|value| stored::node(id, value)).collect()
    }

    async fn history(&self, id: UpgradeId, after: u64, count: usize) -> Result<Vec<Entry>, StoreError> {
        let inner = self.open()?;
        let Some(stored) = inner.sessions.get(&id) else { return Ok(Vec::new()) };
        let latest = stored::head(id, &stored.head)?.entries;
        stored::history(id, latest, after, count, |place| Ok(stored.history.get(&place)))
    }

    async fn delivered(&self, id: UpgradeId) -> Result<Option<u64>, StoreError> {
        Ok(self.open()?.sessions.get(&id).and_then(|stored| stored.delivered))
    }

    async fn set_delivered(&self, id: UpgradeId, number: u64) -> Result<(), StoreError> {
        let mut inner = self.open()?;
        let is_ours = inner.owners.get(&id) == Some(&self.replica);
        let stored = inner.sessions.get_mut(&id).filter(|_| is_ours);
        stored.ok_or(StoreError::NotOwner(id))?.delivered = Some(number);
        inner.written.writes += 1;
        Ok(())
    }

    async fn own(&self, id: UpgradeId) -> Result<bool, StoreError> {
        let mut inner = self.open()?;
        if inner.cut_off.contains(&self.replica) {
            return Err(StoreError::Failed("there is no lease".to_owned()));
        }
        if !inner.sessions.contains_key(&id) {
            return Ok(false);
        }
        Ok(*inner.owners.entry(id).or_insert(self.replica) == self.replica)
    }

    async fn disowned(&self, id: UpgradeId) {
        let lost = |context: &mut Context<'_>| {
            let mut inner = self.lock();
            if inner.owners.get(&id) != Some(&self.replica) {
                return Poll::Ready(());
            }
            if !inner.disowned.iter().any(|waker| waker.will_wake(context.waker())) {
                inner.disowned.push(context.waker().clone());
            }
            Poll::Pending
        };
        poll_fn(lost).await;
    }

    async fn remove_finished(&self, id: UpgradeId) -> Result<bool, StoreError> {
        let mut inner = self.open()?;
        let Some(stored) = inner.sessions.get(&id) else { return Ok(true) };
        let is_anothers = inner.owners.get(&id).is_some_and(|owner| *owner != self.replica);
        let is_ordered = stored.deletion.is_some() || !stored.commands.is_empty();
        if is_anothers || is_ordered || !stored::head(id, &stored.head)?.is_done() {
            return Ok(false);
        }
        inner.remove(id);
        Ok(true)
    }

    async fn disown(&self, id: UpgradeId) -> Result<(), StoreError> {
        let mut inner = self.open()?;
        if inner.owners.get(&id) == Some(&self.replica) {
            inner.disown(id);
        }
        Ok(())
    }

    async fn changes(&self) -> Result<Box<dyn StoreChanges>, StoreError> {
        let follower = Arc::<Mutex<Follower>>::default();
        self.open()?.followers.push(Arc::clone(&follower));
        Ok(Box::new(Following(follower)))
    }
}

struct Following(Arc<Mutex<Follower>>);

#[async_trait]
impl StoreChanges for Following {
    async fn next(&mut self) -> Result<Change, StoreError> {
        let next = |context: &mut Context<'_>| {
            let mut follower = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            follower.waker = Some(context.waker().clone());
            follower.changes.pop_front().map_or(Poll::Pending, |change| Poll::Ready(Ok(change)))
        };
        poll_fn(next).await
    }
}
