//! Runs one session against the ports.
//!
//! The driver makes no choices. One round is: take note of the time, work out what is outstanding, make the
//! first of these calls, take in what came back, store what changed. What is outstanding is worked out anew
//! for each call, so no call is made on grounds that an earlier answer removed.
//!
//! # Guarantees
//!
//! - What a call relies on is stored before the call is made: a change that could not be stored stops the
//!   driver from doing anything else.
//! - Nothing is asked of the world for a session that this process does not own.
//! - To recover is to load the session and go on. There is no other recovery code.
//!
//! # Caveats
//!
//! The driver neither sleeps nor spawns: whoever runs it calls [`Driver::advance`] again when [`Next`] says
//! so, on any runtime or none.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{debug, info, warn};

use crate::actor::Actor;
use crate::machine::{self, Effect, Event, Input};
use crate::messages;
use crate::model::{Ordered, SeenGroup, Session};
use crate::names::{NodeName, Xname};
use crate::ports::{Bos, Checks, Clock, Hsm, PortError, Rejected, Revision, SessionStore, StoreError, Wlm};
use crate::promises::{self, Violation};
use crate::time::Time;
use crate::wlm::WlmNode;

/// Everything that a session needs of the outside.
#[derive(Clone)]
pub struct Ports {
    /// The Hardware State Manager.
    pub hsm: Arc<dyn Hsm>,
    /// The Boot Orchestration Service.
    pub bos: Arc<dyn Bos>,
    /// The workload manager.
    pub wlm: Arc<dyn Wlm>,
    /// Where sessions are stored.
    pub store: Arc<dyn SessionStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The programs that judge nodes.
    pub checks: Arc<dyn Checks>,
    /// Who is told of changes.
    pub observer: Arc<dyn Observer>,
}

/// Is told of every change once it is stored.
pub trait Observer: Send + Sync + 'static {
    /// The session as it is now, and what changed. Called from the driver: must be quick.
    fn changed(&self, session: &Session, events: &[Event]);

    /// The session breaks a promise, by what it says of itself. Told after every input for as long as that is so.
    fn broken(&self, session: &Session, violation: &Violation);
}

/// Tells nobody.
impl Observer for () {
    fn changed(&self, _: &Session, _: &[Event]) {}
    fn broken(&self, _: &Session, _: &Violation) {}
}

/// When to call [`Driver::advance`] again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// At once: there is more to do.
    Now,
    /// At this time, or when deletion is ordered.
    At(Time),
    /// Never: the session is done, and stays stored.
    Finished,
    /// Never: the session was deleted and is stored no more.
    Removed,
}

/// One session on its way.
pub struct Driver {
    session: Session,
    revision: Revision,
    ports: Ports,
    deletion_ordered: bool,
    /// By whom.
    deleted_by: Option<Actor>,
    /// Commands that are not taken in yet, with their numbers.
    commands: BTreeMap<u64, Ordered>,
    /// Changes that are not stored yet.
    unsaved: Vec<Event>,
}

impl Driver {
    /// A driver for a session as it is stored, which this process [owns](SessionStore::own).
    pub fn new(session: Session, revision: Revision, ports: Ports) -> Self {
        Driver {
            session,
            revision,
            ports,
            deletion_ordered: false,
            deleted_by: None,
            commands: BTreeMap::new(),
            unsaved: Vec::new(),
        }
    }

    /// The session as it is now.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Deletion was asked for: it takes effect with the next round. Asking again changes nothing.
    pub fn order_deletion(&mut self, by: Option<Actor>) {
        if !std::mem::replace(&mut self.deletion_ordered, true) {
            self.deleted_by = by;
        }
    }

    /// Whether it was told that deletion was asked for.
    pub fn deletion_ordered(&self) -> bool {
        self.deletion_ordered
    }

    /// An operator's command, with the number that the store gave it: it takes effect with the next round. Giving it again
    /// changes nothing.
    pub fn command(&mut self, number: u64, ordered: Ordered) {
        self.commands.insert(number, ordered);
    }

    /// Takes in a look at nodes that [`machine::next_look`] announced and the host made: it began at `begun`, when
    /// [`advance`](Self::advance) had told to wait, and nothing was done for the session since. It is stored with the next
    /// round.
    pub fn looked(&mut self, begun: Time, asked: Vec<NodeName>, nodes: Result<Vec<WlmNode>, PortError>) {
        let input = match nodes {
            Ok(nodes) => Input::Nodes { at: begun, asked, nodes },
            Err(error) => self.look_failed(Effect::ReadNodes(asked), error),
        };
        self.take(self.ports.clock.now(), input);
    }

    /// Does one round: at most one call to a peer.
    ///
    /// The future may be dropped: what was asked of a peer by then is found out at the next start, as after
    /// a crash.
    ///
    /// # Errors
    /// When the session could not be stored, or its turn not be asked for. After [`StoreError::Conflict`] and
    /// [`StoreError::NotOwner`] somebody else may run the session and this driver must be dropped; otherwise
    /// call again after a pause.
    pub async fn advance(&mut self) -> Result<Next, StoreError> {
        self.save().await?;
        let deleting = self.deletion_ordered || self.session.head.deletion.is_some();
        if deleting && self.session.is_done() {
            self.ports.store.remove(self.session.head.id).await?;
            return Ok(Next::Removed);
        }
        let now = self.ports.clock.now();
        if let Some((number, Ordered { command, by })) = self.commands.pop_first() {
            self.take(now, Input::Command { number, command, by });
            self.save().await?;
            return Ok(Next::Now);
        }
        if self.session.is_done() {
            return Ok(Next::Finished);
        }
        let delete = self.deletion_ordered && self.session.head.deletion.is_none();
        if self.take(now, if delete { Input::Delete { by: self.deleted_by.clone() } } else { Input::Tick }) {
            self.save().await?;
            return Ok(Next::Now);
        }
        let Some(effect) = machine::outstanding(&self.session, now).into_iter().next() else {
            return Ok(machine::next_wake(&self.session, now).map_or(Next::Now, Next::At));
        };
        // Right before anything is asked of the world: whoever was stopped for long enough to lose the session
        // must notice before it acts.
        if !self.ports.store.owns(self.session.head.id) {
            return Err(StoreError::NotOwner(self.session.head.id));
        }
        let input = self.perform(effect).await?;
        self.take(self.ports.clock.now(), input);
        self.save().await?;
        Ok(Next::Now)
    }

    /// Takes in an input; tells whether anything changed durably.
    fn take(&mut self, now: Time, input: Input) -> bool {
        let events = machine::step(&mut self.session, now, input);
        let head = &self.session.head;
        for event in &events {
            match event {
                Event::Message(i) => {
                    info!(step = head.step, stage = %head.stage, "{}", self.session.messages[*i].text);
                }
                Event::Node(i) => {
                    let node = &self.session.nodes[*i];
                    debug!(step = head.step, node = %node.xname, state = ?node.state, "node changed");
                }
                _ => {}
            }
        }
        for violation in promises::session(&self.session) {
            tracing::error!(step = head.step, "broken promise: {violation}");
            self.ports.observer.broken(&self.session, &violation);
        }
        let changed = !events.is_empty();
        self.unsaved.extend(events);
        changed
    }

    async fn save(&mut self) -> Result<(), StoreError> {
        if self.unsaved.is_empty() {
            return Ok(());
        }
        self.revision = self.ports.store.save(&self.session, &self.unsaved, self.revision).await?;
        let events = std::mem::take(&mut self.unsaved);
        self.ports.observer.changed(&self.session, &events);
        Ok(())
    }

    /// Makes a call, and tells what came of it.
    async fn perform(&self, effect: Effect) -> Result<Input, StoreError> {
        let at = self.ports.clock.now();
        debug!(step = self.session.head.step, kind = ?effect.kind(), "asking");
        let seen = match &effect {
            Effect::ReadGroup(group) => self
                .ports
                .hsm
                .group(self.session.label(*group))
                .await
                .map(|members| Input::Group(*group, SeenGroup { at, members })),
            Effect::ReadFacts(nodes) => {
                let facts = self.ports.hsm.facts(nodes).await;
                facts.map(|facts| Input::Facts { at, asked: nodes.clone(), facts })
            }
            Effect::ReadTemplate(key) => {
                self.ports.bos.has_template(key).await.map(|exists| Input::Template { at, exists })
            }
            Effect::Claim => {
                let nodes: Vec<Xname> = self.session.members().collect();
                let result = self.ports.store.claim(self.session.head.id, &nodes).await?;
                Ok(Input::Claim { at, result })
            }
            Effect::ReadNodes(names) => {
                let nodes = self.ports.wlm.nodes(names).await;
                nodes.map(|nodes| Input::Nodes { at, asked: names.clone(), nodes })
            }
            Effect::ReadJobs(names) => {
                let jobs = self.ports.wlm.jobs(names).await;
                jobs.map(|jobs| Input::Jobs { at, asked: names.clone(), jobs })
            }
            Effect::ReadPendingJobs => {
                let names: Vec<NodeName> =
                    self.session.pending().filter_map(|node| node.name.clone()).collect();
                self.ports.wlm.jobs(&names).await.map(Input::PendingJobs)
            }
            Effect::ReadBootIds => self.ports.bos.boot_ids().await.map(|ids| Input::BootIds { at, ids }),
            Effect::ReadBoot(key) => {
                let session = self.ports.bos.session(key).await;
                session.map(|session| Input::Boot { at, name: key.request.name.clone(), session })
            }
            Effect::ReadPartitions(names) => {
                let partitions = self.ports.wlm.partitions(names).await;
                partitions.map(|partitions| Input::Partitions { at, partitions })
            }
            Effect::ReadZone(name) => Ok(Input::Zone { at, offset: self.ports.clock.zone(name, at) }),
            Effect::Check(request) => {
                let verdicts = self.ports.checks.judge(request).await;
                verdicts.map(|verdicts| Input::Checked { step: request.step, verdicts })
            }
            _ => return Ok(self.request(effect).await),
        };
        Ok(seen.unwrap_or_else(|error| self.look_failed(effect, error)))
    }

    fn look_failed(&self, effect: Effect, error: PortError) -> Input {
        warn!(step = self.session.head.step, kind = ?effect.kind(), "a look failed: {error}");
        Input::Failed { effect, error }
    }

    /// Makes a call that changes the world.
    async fn request(&self, effect: Effect) -> Input {
        let Ports { hsm, bos, wlm, .. } = &self.ports;
        let mut rejected: Vec<Rejected> = Vec::new();
        let mut handle = None;
        let result: Result<(), PortError> = match &effect {
            Effect::Drain(names) => wlm.drain(names, &messages::drain_reason(self.session.head.id)).await,
            Effect::Resume(names) => wlm.resume(names).await,
            Effect::MarkDown(names, reason) => wlm.down(names, reason).await,
            Effect::MarkReason(names, reason) => wlm.set_reason(names, reason).await,
            Effect::AddMembers(group, nodes) => {
                let added = hsm.add_members(self.session.label(*group), nodes).await;
                added.map(|refused| rejected = refused)
            }
            Effect::RemoveMembers(group, nodes) => {
                hsm.remove_members(self.session.label(*group), nodes).await
            }
            Effect::Reboot(request) => bos.reboot(request).await.map(|called| handle = called),
            Effect::Requeue(jobs) => wlm.requeue(jobs).await,
            Effect::Cancel(jobs) => wlm.cancel(jobs).await,
            Effect::ReadGroup(_)
            | Effect::ReadFacts(_)
            | Effect::ReadTemplate(_)
            | Effect::Claim
            | Effect::ReadNodes(_)
            | Effect::ReadJobs(_)
            | Effect::ReadPendingJobs
            | Effect::ReadBootIds
            | Effect::ReadBoot(_)
            | Effect::ReadPartitions(_)
            | Effect::ReadZone(_)
            | Effect::Check(_) => Ok(()),
        };
        if let Err(error) = &result {
            warn!(step = self.session.head.step, kind = ?effect.kind(), "a request failed: {error}");
        }
        Input::Asked { effect, rejected, result: result.map(|()| handle) }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::num::NonZeroU32;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll, Waker};

    use async_trait::async_trait;

    use super::*;
    use crate::history::Entry;
    use crate::model::{Limits, Node, Spec, Summary, UpgradeId};
    use crate::names::Xname;
    use crate::ports::{MockBos, MockHsm, MockWlm, NodeFacts, Peer, StoreChanges};
    use crate::strategy::Strategy;
    use crate::window::ZoneOffset;

    /// Mocks answer at once.
    fn at_once<F: Future>(future: F) -> F::Output {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("a mock waits"),
        }
    }

    /// A store that takes so many saves, and fails from then on.
    struct Failing {
        saves: Mutex<u32>,
        owned: Mutex<bool>,
    }

    #[async_trait]
    impl SessionStore for Failing {
        async fn create(&self, _: &Session) -> Result<Revision, StoreError> {
            Ok(Revision(0))
        }
        async fn ids(&self) -> Result<Vec<UpgradeId>, StoreError> {
            Ok(Vec::new())
        }
        async fn load(&self, _: UpgradeId) -> Result<Option<(Session, Revision)>, StoreError> {
            Ok(None)
        }
        async fn save(&self, _: &Session, _: &[Event], revision: Revision) -> Result<Revision, StoreError> {
            let mut left = self.saves.lock().unwrap();
            *left = left.checked_sub(1).ok_or_else(|| StoreError::Failed("no space left".into()))?;
            Ok(Revision(revision.0 + 1))
        }
        async fn remove(&self, _: UpgradeId) -> Result<(), StoreError> {
            Ok(())
        }
        async fn order_deletion(&self, _: UpgradeId, _: Option<&Actor>) -> Result<(), StoreError> {
            Ok(())
        }
        async fn deletion_ordered(&self, _: UpgradeId) -> Result<bool, StoreError> {
            Ok(false)
        }
        async fn deletion_ordered_by(&self, _: UpgradeId) -> Result<Option<Actor>, StoreError> {
            Ok(None)
        }
        async fn summary(&self, _: UpgradeId) -> Result<Option<Summary>, StoreError> {
            Ok(None)
        }
        async fn command(
            &self,
            _: UpgradeId,
            _: crate::model::Command,
            _: Option<&Actor>,
        ) -> Result<Option<u64>, StoreError> {
            Ok(None)
        }
        async fn commands(&self, _: UpgradeId) -> Result<Vec<(u64, Ordered)>, StoreError> {
            Ok(Vec::new())
        }
        async fn nodes(&self, _: UpgradeId, _: usize, _: usize) -> Result<Vec<Node>, StoreError> {
            Ok(Vec::new())
        }
        async fn history(&self, _: UpgradeId, _: u64, _: usize) -> Result<Vec<Entry>, StoreError> {
            Ok(Vec::new())
        }
        async fn delivered(&self, _: UpgradeId) -> Result<Option<u64>, StoreError> {
            Ok(None)
        }
        async fn set_delivered(&self, _: UpgradeId, _: u64) -> Result<(), StoreError> {
            Ok(())
        }
        async fn claim(&self, _: UpgradeId, _: &[Xname]) -> Result<Result<(), String>, StoreError> {
            Ok(Ok(()))
        }
        async fn own(&self, _: UpgradeId) -> Result<bool, StoreError> {
            Ok(true)
        }
        fn owns(&self, _: UpgradeId) -> bool {
            *self.owned.lock().unwrap()
        }
        async fn disowned(&self, _: UpgradeId) {}
        async fn disown(&self, _: UpgradeId) -> Result<(), StoreError> {
            Ok(())
        }
        async fn changes(&self) -> Result<Box<dyn StoreChanges>, StoreError> {
            Err(StoreError::Failed("nothing to follow".into()))
        }
    }

    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> Time {
            Time(43_200_000)
        }
        fn zone(&self, _: &str, _: Time) -> Option<ZoneOffset> {
            None
        }
    }

    fn driver(hsm: MockHsm, bos: MockBos, wlm: MockWlm, saves: u32) -> Driver {
        let store = Arc::new(Failing { saves: Mutex::new(saves), owned: Mutex::new(true) });
        driver_on(&store, hsm, bos, wlm)
    }

    fn driver_on(store: &Arc<Failing>, hsm: MockHsm, bos: MockBos, wlm: MockWlm) -> Driver {
        let spec = Spec {
            starting: "all".parse().unwrap(),
            upgrading: "up".parse().unwrap(),
            failed: "failed".parse().unwrap(),
            step_size: NonZeroU32::MIN,
            template: "image".parse().unwrap(),
            tenant: None,
            strategy: Strategy::default(),
        };
        let id = UpgradeId(uuid::Uuid::from_u128(1));
        let session = Session::new(id, spec, "1", Limits::default(), Noon.now());
        let ports = Ports {
            hsm: Arc::new(hsm),
            bos: Arc::new(bos),
            wlm: Arc::new(wlm),
            store: store.clone(),
            clock: Arc::new(Noon),
            checks: Arc::new(()),
            observer: Arc::new(()),
        };
        Driver::new(session, Revision(0), ports)
    }

    /// P3: what a call relies on is stored before it is made. Mocks panic at any call that is not expected here.
    #[test]
    fn p3_nothing_is_asked_of_a_peer_while_a_change_cannot_be_stored() {
        let xname = "x1000c0s0b0n0".parse().unwrap();
        let mut hsm = MockHsm::new();
        hsm.expect_group().once().returning(move |_| Ok(Some([xname].into())));
        hsm.expect_facts().once().returning(move |_| {
            let role = "Compute".to_owned();
            let arch = "X86".to_owned();
            Ok(vec![NodeFacts { xname, nid: Some(1), role, enabled: true, locked: false, arch }])
        });
        let mut driver = driver(hsm, MockBos::new(), MockWlm::new(), 0);
        let end = loop {
            match at_once(driver.advance()) {
                Ok(Next::Now) => {}
                end => break end,
            }
        };
        assert_eq!(end, Err(StoreError::Failed("no space left".into())), "the frozen nodes cannot be stored");
        for _ in 0..3 {
            assert!(at_once(driver.advance()).is_err(), "and nothing is done before they are");
        }
    }

    /// P9: a look that fails is said, and made again after a pause.
    #[test]
    fn p9_a_peer_that_is_away_is_said_and_left_alone_for_a_while() {
        let mut hsm = MockHsm::new();
        let away = || Err(PortError::Unreachable { peer: Peer::Hsm, detail: "no route".into() });
        hsm.expect_group().once().returning(move |_| away());
        let mut driver = driver(hsm, MockBos::new(), MockWlm::new(), 10);
        let pause = loop {
            match at_once(driver.advance()).unwrap() {
                Next::Now => {}
                next => break next,
            }
        };
        let poll_ms = Limits::default().poll_ms;
        let Next::At(again) = pause else { panic!("{pause:?}") };
        let waits = again.since(Noon.now());
        assert!((poll_ms..=poll_ms * 6 / 5).contains(&waits), "{waits} ms");
        let said = "Processing step 0 in stage STARTING failed - the Hardware State Manager is unreachable: no route";
        let messages: Vec<String> = driver.session().messages.iter().map(ToString::to_string).collect();
        assert_eq!(messages, [said]);
    }

    /// P3: a replica that was stopped past its lease notices before it acts. Mocks panic at any call.
    #[test]
    fn p3_nothing_is_asked_of_a_peer_for_a_session_that_is_not_ours_any_more() {
        let store = Arc::new(Failing { saves: Mutex::new(10), owned: Mutex::new(true) });
        let mut driver = driver_on(&store, MockHsm::new(), MockBos::new(), MockWlm::new());
        *store.owned.lock().unwrap() = false;
        let end = at_once(driver.advance());
        assert_eq!(end, Err(StoreError::NotOwner(driver.session().head.id)));
    }
}
