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
use crate::history::{Entry, Happening};
use crate::machine::{self, Effect, Event, Input};
use crate::messages;
use crate::model::{DeletionOrder, Head, NumberedCommand, SeenGroup, Session};
use crate::names::{BootHandle, NodeName, Xname};
use crate::ports::{Bos, Checks, Clock, DriverStore, Hsm, PortError, Rejected, Revision, StoreError, Wlm};
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
    pub store: Arc<dyn DriverStore>,
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
    deletion: Option<DeletionOrder>,
    /// Commands that are not taken in yet, by their numbers.
    commands: BTreeMap<u64, NumberedCommand>,
    /// Changes that are not stored yet.
    unsaved: Vec<Event>,
}

impl Driver {
    /// A driver for a session as it is stored, which this process [owns](DriverStore::owns).
    pub fn new(session: Session, revision: Revision, ports: Ports) -> Self {
        Driver { session, revision, ports, deletion: None, commands: BTreeMap::new(), unsaved: Vec::new() }
    }

    /// The session as it is now.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Deletion was asked for: it takes effect with the next round. Asking again changes nothing.
    pub fn order_deletion(&mut self, by: Option<Actor>) {
        self.deletion.get_or_insert(DeletionOrder { by });
    }

    /// Whether it was told that deletion was asked for.
    pub fn deletion_ordered(&self) -> bool {
        self.deletion.is_some()
    }

    /// An operator's command, as the store noted it: it takes effect with the next round. Giving it again changes nothing.
    pub fn command(&mut self, command: NumberedCommand) {
        self.commands.insert(command.number, command);
    }

    /// Takes in a look at nodes that [`machine::next_look`] announced and the host made: it began at `begun`, when
    /// [`advance`](Self::advance) had told to wait, and nothing was done for the session since. It is stored with the next
    /// round.
    pub fn looked(&mut self, begun: Time, asked: Vec<NodeName>, nodes: Result<Vec<WlmNode>, PortError>) {
        debug!(step = self.session.head.step, "a planned look was made");
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
        let deleting = self.deletion.is_some() || self.session.head.deletion.is_some();
        if deleting && self.session.is_done() {
            self.ports.store.remove(self.session.head.id).await?;
            return Ok(Next::Removed);
        }
        let now = self.ports.clock.now();
        if let Some((_, command)) = self.commands.pop_first() {
            self.take(now, Input::Command(command));
            self.save().await?;
            return Ok(Next::Now);
        }
        if self.session.is_done() {
            return Ok(Next::Finished);
        }
        let order = self.deletion.as_ref().filter(|_| self.session.head.deletion.is_none());
        if self.take(now, order.map_or(Input::Tick, |order| Input::Delete { by: order.by.clone() })) {
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
        let Head { mut step, mut stage, .. } = self.session.head;
        let events = machine::step(&mut self.session, now, input);
        for event in &events {
            match event {
                Event::Stage { step: next, stage: entered } => (step, stage) = (*next, *entered),
                // Where it is among the messages is not known any more if they were folded.
                Event::Entry(Entry { step, what: Happening::Message { text }, .. }) => {
                    info!(step, stage = %stage, "{text}");
                }
                Event::Node(i) => {
                    let node = &self.session.nodes[*i];
                    debug!(step, node = %node.xname, state = ?node.state, "node changed");
                }
                _ => {}
            }
        }
        let head = &self.session.head;
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
        let Ports { hsm, bos, wlm, store, clock, checks, .. } = &self.ports;
        let (session, head) = (&self.session, &self.session.head);
        let at = clock.now();
        debug!(step = head.step, kind = ?effect.kind(), "asking");
        let done = |result: Result<(), PortError>| self.asked(&effect, Vec::new(), result.map(|()| None));
        let seen = match &effect {
            Effect::ReadGroup(group) => {
                let members = hsm.group(session.label(*group)).await;
                members.map(|members| Input::Group(*group, SeenGroup { at, members }))
            }
            Effect::ReadFacts(nodes) => {
                let facts = hsm.facts(nodes).await;
                facts.map(|facts| Input::Facts { at, asked: nodes.clone(), facts })
            }
            Effect::ReadTemplate(key) => {
                bos.has_template(key).await.map(|exists| Input::Template { at, exists })
            }
            Effect::Claim => {
                let nodes: Vec<Xname> = session.members().collect();
                Ok(Input::Claim { at, turn: store.claim(head.id, &nodes).await? })
            }
            Effect::ReadNodes(names) => {
                let nodes = wlm.nodes(names).await;
                nodes.map(|nodes| Input::Nodes { at, asked: names.clone(), nodes })
            }
            Effect::ReadJobs(names) => {
                wlm.jobs(names).await.map(|jobs| Input::Jobs { at, asked: names.clone(), jobs })
            }
            Effect::ReadPendingJobs => {
                let names: Vec<NodeName> = session.pending().filter_map(|node| node.name.clone()).collect();
                wlm.jobs(&names).await.map(Input::PendingJobs)
            }
            Effect::ReadBootIds => bos.boot_ids().await.map(Input::BootIds),
            Effect::ReadBoot(key) => {
                let session = bos.session(key).await;
                session.map(|session| Input::Boot { at, name: key.request.name.clone(), session })
            }
            Effect::ReadPartitions(names) => wlm.partitions(names).await.map(Input::Partitions),
            Effect::ReadZone(name) => Ok(Input::Zone { at, offset: clock.zone(name, at) }),
            Effect::Check(request) => {
                let verdicts = checks.judge(request).await;
                verdicts.map(|verdicts| Input::Checked { step: request.step, verdicts })
            }
            Effect::Drain(names) => Ok(done(wlm.drain(names, &messages::drain_reason(head.id)).await)),
            Effect::Resume(names) => Ok(done(wlm.resume(names).await)),
            Effect::MarkDown(names, reason) => Ok(done(wlm.down(names, reason).await)),
            Effect::MarkReason(names, reason) => Ok(done(wlm.set_reason(names, reason).await)),
            Effect::Requeue(jobs) => Ok(done(wlm.requeue(jobs).await)),
            Effect::Cancel(jobs) => Ok(done(wlm.cancel(jobs).await)),
            Effect::RemoveMembers(group, nodes) => {
                Ok(done(hsm.remove_members(session.label(*group), nodes).await))
            }
            Effect::AddMembers(group, nodes) => {
                Ok(match hsm.add_members(session.label(*group), nodes).await {
                    Ok(rejected) => self.asked(&effect, rejected, Ok(None)),
                    Err(error) => self.asked(&effect, Vec::new(), Err(error)),
                })
            }
            Effect::Reboot(request) => Ok(self.asked(&effect, Vec::new(), bos.reboot(request).await)),
        };
        Ok(seen.unwrap_or_else(|error| self.look_failed(effect, error)))
    }

    fn look_failed(&self, effect: Effect, error: PortError) -> Input {
        warn!(step = self.session.head.step, kind = ?effect.kind(), "a look failed: {error}");
        Input::Failed { effect, error }
    }

    /// What came of a call that changes the world.
    fn asked(
        &self,
        effect: &Effect,
        rejected: Vec<Rejected>,
        result: Result<Option<BootHandle>, PortError>,
    ) -> Input {
        if let Err(error) = &result {
            warn!(step = self.session.head.step, kind = ?effect.kind(), "a request failed: {error}");
        }
        Input::Asked { effect: effect.clone(), rejected, result }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::future::Future;
    use std::num::NonZeroU32;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll, Waker};

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Metadata, Subscriber};

    use super::*;
    use crate::claims::Turn;
    use crate::machine::MESSAGES_MAX;
    use crate::model::{Limits, Message, Phase, Spec, Stage, UpgradeId};
    use crate::ports::{MockBos, MockDriverStore, MockHsm, MockWlm, NodeFacts, Peer};
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
    fn store(saves: u32, owns: bool) -> MockDriverStore {
        let mut store = MockDriverStore::new();
        let mut left = saves;
        store.expect_save().returning(move |_, _, revision| {
            left = left.checked_sub(1).ok_or_else(|| StoreError::Failed("no space left".into()))?;
            Ok(Revision(revision.0 + 1))
        });
        store.expect_claim().returning(|_, _| Ok(Turn::Granted));
        store.expect_owns().return_const(owns);
        store
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

    fn driver(hsm: MockHsm, store: MockDriverStore) -> Driver {
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
            bos: Arc::new(MockBos::new()),
            wlm: Arc::new(MockWlm::new()),
            store: Arc::new(store),
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
        let mut driver = driver(hsm, store(0, true));
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
        let mut driver = driver(hsm, store(10, true));
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
        let mut driver = driver(MockHsm::new(), store(10, false));
        let end = at_once(driver.advance());
        assert_eq!(end, Err(StoreError::NotOwner(driver.session().head.id)));
    }

    /// Keeps the fields of each line that is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<BTreeMap<&'static str, String>>>>);

    struct Fields(BTreeMap<&'static str, String>);

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.insert(field.name(), format!("{value:?}"));
        }
    }

    impl Subscriber for Log {
        fn enabled(&self, about: &Metadata<'_>) -> bool {
            about.target() == "crus_core::driver"
        }

        fn event(&self, event: &tracing::Event<'_>) {
            let mut fields = Fields(BTreeMap::new());
            event.record(&mut fields);
            self.0.lock().unwrap().push(fields.0);
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
    }

    /// A step ends and the next begins in one go, at a moment when old messages are folded.
    #[test]
    fn each_message_is_logged_with_the_step_and_stage_that_it_was_said_in() {
        let mut driver = driver(MockHsm::new(), store(0, true));
        let session = &mut driver.session;
        session.head.phase = Phase::Rolling;
        session.head.stage = Stage::Booted;
        session.messages = (0..MESSAGES_MAX).map(|n| Message::new(format!("said {n}"), Noon.now())).collect();
        let log = Log::default();
        tracing::subscriber::with_default(log.clone(), || driver.take(Noon.now(), Input::Tick));
        let lines = log.0.lock().unwrap();
        let lines: Vec<_> =
            lines.iter().map(|line| ["step", "stage", "message"].map(|name| &*line[name])).collect();
        let expected =
            [["0", "BOOTED", &*messages::boot_failed(0)], ["1", "STARTING", &*messages::no_nodes(1)]];
        assert_eq!(lines, expected);
    }
}
