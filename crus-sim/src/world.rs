//! Sessions on a simulated cluster, in virtual time.
//!
//! A [`World`] is a [`Cluster`], a store, and the drivers of the sessions in it. It jumps from one
//! moment at which anything can happen to the next; nothing sleeps and nothing is spawned. After every step it
//! checks the promises P1–P8 against what really happened, as the cluster tells it; [`World::must_end`] checks P9.
//! [`World::crash`] kills the service: the cluster and the store stay, everything else is forgotten.
//! [`World::take_over`] stops it for longer than its lease lasts, so that another replica runs its sessions.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Bound;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};

use crus_core::driver::{Driver, Next, Observer, Ports};
use crus_core::history::Entry;
use crus_core::machine::Event;
use crus_core::model::{Command, Node, Ordered, Phase, Stage};
use crus_core::plan::{self, Experience, Sources};
use crus_core::ports::{Clock, SessionStore, StoreError, Wlm as _};
use crus_core::promises::{self, Audit, By, Fact, NodeView, Outcome, Violation};
use crus_core::window::ZoneOffset;
use crus_core::{GroupLabel, Limits, NodeName, Session, Spec, Time, UpgradeId, Xname};

use crate::checks::SimChecks;
use crate::cluster::{self, Cluster, SharedCluster};
use crate::config::ClusterConfig;
use crate::crash::Points;
use crate::faults::{Faulty, Plan};
use crate::journal::{Counts, Kind};
use crate::ports::{Calls, SimBos, SimHsm, SimPorts, SimWlm};
use crate::store::MemoryStore;
use crate::zones;

/// Rounds in a row without time passing after which a session is taken to spin.
const ROUNDS_MAX: u32 = 100_000;

/// Why a world could not go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// A promise was broken.
    #[error("broken promise at {at}: {violation}")]
    Broken {
        /// When.
        at: Time,
        /// Which, and how.
        violation: Violation,
    },
    /// What was waited for did not happen in time.
    #[error("not reached by {0}")]
    TooLate(Time),
    /// A session asks for ever and time does not pass.
    #[error("session {0} spins")]
    Spins(UpgradeId),
    /// A store failed, or a port did not answer at once.
    #[error("{0}")]
    Failed(String),
}

struct Runner {
    driver: Driver,
    /// A time is the cluster's: whoever sleeps is not woken by another setting of its clock.
    next: Next,
}

/// What a round of a session says next, made something else: a service with a broken loop.
type Tamper = Box<dyn Fn(&Session, Next) -> Next>;

/// The service's own clock.
#[derive(Debug, Clone)]
struct OwnClock {
    cluster: SharedCluster,
    ahead_ms: Arc<AtomicI64>,
}

impl Clock for OwnClock {
    fn now(&self) -> Time {
        let now = cluster::lock(&self.cluster).now();
        Time(now.0.saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed)))
    }

    fn zone(&self, name: &str, at: Time) -> Option<ZoneOffset> {
        zones::zone(name, at)
    }
}

/// Writes down what sessions tell of themselves.
struct Told(SharedCluster);

impl Observer for Told {
    /// The world checks the promises itself.
    fn broken(&self, _: &Session, _: &Violation) {}

    fn changed(&self, session: &Session, events: &[Event]) {
        let mut cluster = cluster::lock(&self.0);
        let at = cluster.now();
        let journal = cluster.journal_mut();
        journal.count(Kind::Change, events.len());
        if !journal.is_written() {
            return;
        }
        for event in events {
            journal.remark(at, || {
                let what = match event {
                    Event::Node(i) => session.nodes.get(*i).map(|node| format!("{node:?}")),
                    Event::Message(i) => session.messages.get(*i).map(ToString::to_string),
                    Event::Head => Some(format!("{:?}", session.head)),
                    _ => None,
                };
                format!("  stored {} {event:?}: {}", session.head.id, what.unwrap_or_default())
            });
        }
    }
}

/// A cluster with a service on it.
pub struct World {
    cluster: SharedCluster,
    sim: SimPorts,
    store: Arc<MemoryStore>,
    /// The service's way to HSM: give it a plan to make calls fail.
    pub hsm: Faulty<SimHsm>,
    /// The service's way to BOS.
    pub bos: Faulty<SimBos>,
    /// The service's way to Slurm.
    pub wlm: Faulty<SimWlm>,
    /// Its check commands.
    pub checks: Faulty<SimChecks>,
    ports: Ports,
    ahead_ms: Arc<AtomicI64>,
    clock_set: bool,
    limits: Limits,
    running: BTreeMap<UpgradeId, Runner>,
    /// What replicas held that were stopped for too long.
    stopped: Vec<Runner>,
    audits: BTreeMap<UpgradeId, Audit>,
    /// The sessions whose end was checked: later ones may change what they left.
    ended: BTreeSet<UpgradeId>,
    facts: Option<Vec<Fact>>,
    created: u64,
    rounds: u64,
    checked: u64,
    points: Option<Points>,
    tamper: Option<Tamper>,
}

impl World {
    /// A world with a service that has nothing to do yet.
    pub fn new(config: ClusterConfig, seed: u64, limits: Limits) -> Self {
        let cluster = Cluster::new(config, seed).shared();
        // Whatever is done to it by nobody else.
        cluster::lock(&cluster).acts(By::Operator);
        let sim = SimPorts::new(&cluster);
        let store = Arc::new(MemoryStore::default());
        let hsm = Faulty::new(sim.hsm.clone(), &cluster, Plan::none());
        let bos = Faulty::new(sim.bos.clone(), &cluster, Plan::none());
        let wlm = Faulty::new(sim.wlm.clone(), &cluster, Plan::none());
        let checks = Faulty::new(SimChecks::new(&cluster), &cluster, Plan::none());
        let ahead_ms = Arc::default();
        let ports = Ports {
            hsm: Arc::new(hsm.clone()),
            bos: Arc::new(bos.clone()),
            wlm: Arc::new(wlm.clone()),
            store: Arc::clone(&store) as Arc<dyn SessionStore>,
            clock: Arc::new(OwnClock { cluster: Arc::clone(&cluster), ahead_ms: Arc::clone(&ahead_ms) }),
            checks: Arc::new(checks.clone()),
            observer: Arc::new(Told(Arc::clone(&cluster))),
        };
        World {
            cluster,
            store,
            hsm,
            bos,
            wlm,
            checks,
            ports,
            ahead_ms,
            clock_set: false,
            limits: Limits { names_boots: sim.names_boots(), ..limits },
            sim,
            running: BTreeMap::new(),
            stopped: Vec::new(),
            audits: BTreeMap::new(),
            ended: BTreeSet::new(),
            facts: Some(Vec::new()),
            created: 0,
            rounds: 0,
            checked: 0,
            points: None,
            tamper: None,
        }
    }

    /// Puts something between the service and its ports and store, for the sessions that are created from now on.
    pub fn decorate(&mut self, decorate: impl FnOnce(Ports) -> Ports) {
        self.ports = decorate(self.ports.clone());
    }

    /// Lets the service pass these points, for the sessions that are created from now on: at some of them it dies,
    /// and is started again.
    pub fn pass(&mut self, points: &Points) {
        self.decorate(|ports| points.before(ports));
        self.points = Some(points.clone());
    }

    /// Makes something else of what a round says is next.
    pub fn tamper(&mut self, tamper: impl Fn(&Session, Next) -> Next + 'static) {
        self.tamper = Some(Box::new(tamper));
    }

    // ---- the service ------------------------------------------------------------------------------------

    /// Creates a session, as `POST /session` does. Its id follows from how many were created before.
    ///
    /// # Errors
    /// When the store fails.
    pub fn create(&mut self, spec: Spec) -> Result<UpgradeId, Stuck> {
        self.created += 1;
        let id = UpgradeId(uuid::Uuid::from_u128(u128::from(self.created)));
        self.note(Kind::Operator, || format!("creates {id}: {spec:?}"));
        let now = self.ports.clock.now();
        let session = Session::new(id, spec, "1.0.0", self.limits.clone(), now);
        let mut audit = Audit::new(&session, self.members(&session.head.spec.starting));
        for fact in self.cluster().told_nodes() {
            audit.witness(&fact);
        }
        audit.zones(zones::zone);
        if self.clock_set {
            audit.clock_set();
        }
        self.audits.insert(id, audit);
        let Some(result) = poll(self.ports.store.create(&session)) else {
            // The client got no answer. It looks whether the session is there, and asks again if not.
            self.die()?;
            if !self.running.contains_key(&id) {
                self.created -= 1;
                return self.create(session.head.spec);
            }
            return Ok(id);
        };
        let revision = result.map_err(failed)?;
        at_once(self.ports.store.own(id))?.map_err(failed)?;
        let driver = Driver::new(session, revision, self.ports.clone());
        self.running.insert(id, Runner { driver, next: Next::Now });
        Ok(id)
    }

    /// Plans an upgrade, as `POST /plan` does.
    ///
    /// # Errors
    /// When a port does not answer at once.
    pub fn plan(&self, spec: Spec, experience: Experience) -> Result<plan::Plan, Stuck> {
        let Ports { hsm, bos, wlm, clock, .. } = &self.ports;
        let sources = Sources { hsm: &**hsm, bos: &**bos, wlm: &**wlm, clock: &**clock };
        at_once(plan::plan(sources, spec, self.limits.clone(), experience))
    }

    /// Orders a session's deletion, as `DELETE /session/{id}` does.
    ///
    /// # Errors
    /// When the store fails.
    pub fn delete(&mut self, id: UpgradeId) -> Result<(), Stuck> {
        self.note(Kind::Operator, || format!("deletes {id}"));
        let Some(result) = poll(self.ports.store.order_deletion(id, None)) else {
            // The client got no answer, and asks again.
            self.die()?;
            return self.delete(id);
        };
        result.map_err(failed)?;
        let now = self.ports.clock.now();
        if let Some(audit) = self.audits.get_mut(&id) {
            audit.deletion_ordered(now);
        }
        if !self.running.contains_key(&id) {
            self.load(id)?;
        }
        if let Some(runner) = self.running.get_mut(&id) {
            runner.driver.order_deletion(None);
            runner.next = Next::Now;
        }
        Ok(())
    }

    /// Orders something else of a session, as `POST /session/{id}/pause`, `resume` and `retry` do. What makes no sense is
    /// noted all the same, and changes nothing; nor does an order for a session that is gone.
    ///
    /// # Errors
    /// When the store fails.
    pub fn command(&mut self, id: UpgradeId, command: Command) -> Result<(), Stuck> {
        self.note(Kind::Operator, || format!("orders {id}: {command:?}"));
        let Some(result) = poll(self.ports.store.command(id, command, None)) else {
            // The client got no answer, and asks again.
            self.die()?;
            return self.command(id, command);
        };
        let Some(number) = result.map_err(failed)? else { return Ok(()) };
        if let Some(audit) = self.audits.get_mut(&id) {
            audit.ordered(number, command);
        }
        if !self.running.contains_key(&id) {
            return self.load(id);
        }
        if let Some(runner) = self.running.get_mut(&id) {
            runner.driver.command(number, Ordered { command, by: None });
            runner.next = Next::Now;
        }
        Ok(())
    }

    /// Kills the service and starts it again: the cluster and the store stay.
    ///
    /// # Errors
    /// When the store fails.
    pub fn crash(&mut self) -> Result<(), Stuck> {
        self.note(Kind::Crash, || "crash".to_owned());
        self.running.clear();
        self.checks.inner().die();
        self.load_all()
    }

    /// Kills the service right after its next call to the outside, before it can store what came of it, and starts it
    /// again.
    ///
    /// # Errors
    /// When a promise is broken.
    pub fn crash_within(&mut self) -> Result<(), Stuck> {
        let due = self.running.values().map(|runner| self.wake_of(runner)).min().flatten();
        if let Some(wake) = due {
            self.pass_time(wake)?;
        }
        self.store.fail(Some("dying"));
        for id in self.running.keys().copied().collect::<Vec<_>>() {
            for _ in 0..ROUNDS_MAX {
                if !self.is_due(id) {
                    break;
                }
                self.advance(id)?;
            }
        }
        self.store.fail(None);
        self.crash()
    }

    /// Stops the service for so long that its lease ends: another replica takes over what it ran.
    ///
    /// # Errors
    /// When the store fails.
    pub fn take_over(&mut self) -> Result<(), Stuck> {
        self.note(Kind::Crash, || "stopped past its lease".to_owned());
        self.stopped.extend(std::mem::take(&mut self.running).into_values());
        self.checks.inner().die();
        self.store.expire();
        self.store = Arc::new(self.store.another_replica());
        self.ports.store = Arc::clone(&self.store) as Arc<dyn SessionStore>;
        self.load_all()
    }

    /// The replicas that were stopped for too long go on where they were.
    ///
    /// # Errors
    /// When one of them asks anything of the world.
    pub fn wake_stopped(&mut self) -> Result<(), Stuck> {
        self.note(Kind::Crash, || "who was stopped goes on".to_owned());
        let calls = |world: &World| {
            let counts = *world.cluster().journal().counts();
            [Kind::CallHsm, Kind::CallBos, Kind::CallWlm, Kind::Fault].map(|kind| counts.of(kind))
        };
        for mut runner in std::mem::take(&mut self.stopped) {
            let before = calls(self);
            while at_once(runner.driver.advance())? == Ok(Next::Now) {}
            if calls(self) != before {
                let id = runner.driver.session().head.id;
                return Err(Stuck::Failed(format!("a replica that had lost session {id} acted for it")));
            }
        }
        self.check()
    }

    /// Sets the service's clock: so many milliseconds ahead of the cluster's from now on, or behind it.
    pub fn set_clock(&mut self, ahead_ms: i64) {
        self.note(Kind::Clock, || format!("the service's clock is {ahead_ms} ms ahead"));
        self.ahead_ms.store(ahead_ms, Ordering::Relaxed);
        self.audits.values_mut().for_each(Audit::clock_set);
        self.clock_set = true;
    }

    /// A call never returned: the service died in it, and is started again.
    fn die(&mut self) -> Result<(), Stuck> {
        let Some(down_ms) = self.points.as_ref().and_then(Points::take_death) else {
            return Err(Stuck::Failed("a port in-process did not answer at once".to_owned()));
        };
        let died = std::mem::take(&mut self.running);
        let later = self.now() + down_ms;
        self.pass_time(later)?;
        self.crash()?;
        // A session that it removed and could not tell of.
        for (id, runner) in died {
            if !self.running.contains_key(&id) && self.ended.insert(id) {
                self.check_end(id, runner.driver.session())?;
            }
        }
        Ok(())
    }

    fn load_all(&mut self) -> Result<(), Stuck> {
        for id in at_once(self.ports.store.ids())?.map_err(failed)? {
            self.load(id)?;
        }
        Ok(())
    }

    fn load(&mut self, id: UpgradeId) -> Result<(), Stuck> {
        let Some((mut session, revision)) = at_once(self.ports.store.load(id))?.map_err(failed)? else {
            return Ok(());
        };
        at_once(self.ports.store.own(id))?.map_err(failed)?;
        session.limits = self.limits.clone();
        let mut driver = Driver::new(session, revision, self.ports.clone());
        if at_once(self.ports.store.deletion_ordered(id))?.map_err(failed)? {
            driver.order_deletion(None);
        }
        for (number, ordered) in at_once(self.ports.store.commands(id))?.map_err(failed)? {
            driver.command(number, ordered);
        }
        self.running.insert(id, Runner { driver, next: Next::Now });
        Ok(())
    }

    // ---- time -------------------------------------------------------------------------------------------

    /// Goes on until the condition holds; it is looked at after every round.
    ///
    /// # Errors
    /// When a promise is broken, a session spins, or the condition does not hold by `limit_ms` from now.
    pub fn run_until(&mut self, limit_ms: u64, holds: impl Fn(&World) -> bool) -> Result<(), Stuck> {
        let limit = self.now() + limit_ms;
        self.check()?;
        loop {
            if holds(self) {
                return Ok(());
            }
            if !self.round(&holds)? {
                continue;
            }
            let next = self.running.values().filter_map(|runner| self.wake_of(runner));
            let wake = next.min().unwrap_or(limit).max(self.now() + 1);
            if wake > limit {
                return Err(Stuck::TooLate(limit));
            }
            self.pass_time(wake)?;
        }
    }

    /// When a session goes on, by the cluster's time; `None` for one that is done.
    fn wake_of(&self, runner: &Runner) -> Option<Time> {
        match runner.next {
            Next::At(time) => Some(time),
            Next::Now => Some(self.now()),
            Next::Finished | Next::Removed => None,
        }
    }

    fn pass_time(&mut self, until: Time) -> Result<(), Stuck> {
        let mut cluster = cluster::lock(&self.cluster);
        cluster.acts(By::Itself);
        cluster.advance_to(until);
        cluster.acts(By::Operator);
        drop(cluster);
        self.check()
    }

    /// Goes on until every session is done or gone, at most `limit_ms`, and compares how they ended with how the
    /// world is.
    ///
    /// # Errors
    /// As [`World::run_until`].
    pub fn run_to_end(&mut self, limit_ms: u64) -> Result<(), Stuck> {
        self.run_until(limit_ms, World::is_over)
    }

    fn is_over(&self) -> bool {
        self.running.values().all(|runner| matches!(runner.next, Next::Finished | Next::Removed))
    }

    /// Likewise, when nothing is in the way any more: every condition is met, every fault over. What has not ended
    /// by then is a broken promise (P9), and so is a session that stays though its deletion was ordered (P7).
    ///
    /// # Errors
    /// As [`World::run_until`].
    pub fn must_end(&mut self, limit_ms: u64) -> Result<(), Stuck> {
        let at = self.now();
        match self.run_to_end(limit_ms) {
            Err(Stuck::TooLate(_)) => {}
            other => other?,
        }
        for (id, runner) in &self.running {
            let session = runner.driver.session();
            let violation = match runner.next {
                Next::Removed => continue,
                Next::Finished => {
                    let ordered = self.audits.get(id).is_some_and(Audit::is_deletion_ordered);
                    ordered.then(|| promises::not_deleted(session))
                }
                Next::Now | Next::At(_) => Some(promises::no_end(session)),
            };
            if let Some(violation) = violation {
                return Err(Stuck::Broken { at, violation });
            }
        }
        Ok(())
    }

    /// Lets time pass for the cluster and the service.
    ///
    /// # Errors
    /// When a promise is broken.
    pub fn run_for(&mut self, ms: u64) -> Result<(), Stuck> {
        match self.run_until(ms, |_| false) {
            Err(Stuck::TooLate(end)) => self.pass_time(end),
            other => other,
        }
    }

    /// Does everything that can be done without time passing; `false` when the condition held before that.
    fn round(&mut self, holds: &impl Fn(&World) -> bool) -> Result<bool, Stuck> {
        let mut last = None;
        while let Some(id) = self.after(last) {
            last = Some(id);
            for rounds in 0.. {
                if !self.is_due(id) {
                    break;
                }
                if rounds > ROUNDS_MAX {
                    return Err(Stuck::Spins(id));
                }
                self.advance(id)?;
                if holds(self) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The session that comes after this one.
    fn after(&self, last: Option<UpgradeId>) -> Option<UpgradeId> {
        match last {
            None => self.running.first_key_value(),
            Some(id) => self.running.range((Bound::Excluded(id), Bound::Unbounded)).next(),
        }
        .map(|(id, _)| *id)
    }

    fn is_due(&self, id: UpgradeId) -> bool {
        self.running.get(&id).is_some_and(|runner| match runner.next {
            Next::Now => true,
            Next::At(time) => time <= self.now(),
            Next::Finished | Next::Removed => false,
        })
    }

    /// Lets a session do one round.
    fn advance(&mut self, id: UpgradeId) -> Result<(), Stuck> {
        let Some(runner) = self.running.get_mut(&id) else { return Ok(()) };
        self.rounds += 1;
        cluster::lock(&self.cluster).acts(By::Session(id));
        let result = poll(runner.driver.advance());
        let mut cluster = cluster::lock(&self.cluster);
        cluster.acts(By::Operator);
        let now = cluster.now();
        let next = match result {
            None => {
                drop(cluster);
                self.check()?;
                return self.die();
            }
            // It sleeps for as long as that is by its own clock.
            Some(Ok(Next::At(time))) => {
                let ahead = self.ahead_ms.load(Ordering::Relaxed);
                Next::At(now + time.since(Time(now.0.saturating_add_signed(ahead))))
            }
            Some(Ok(Next::Now)) => {
                cluster.journal_mut().count(Kind::Input, 1);
                Next::Now
            }
            // A store that fails is tried again, as the service does.
            Some(Err(StoreError::Failed(words))) => {
                cluster.note(Kind::Fault, || format!("the store fails: {words}"));
                Next::At(now + 1_000)
            }
            // Somebody else saved it, or we did and were not told: it is loaded again.
            Some(Err(StoreError::Conflict(_))) => {
                drop(cluster);
                self.running.remove(&id);
                return self.load(id);
            }
            Some(result) => result.map_err(failed)?,
        };
        drop(cluster);
        runner.next = match &self.tamper {
            Some(tamper) => tamper(runner.driver.session(), next),
            None => next,
        };
        let ended = matches!(runner.next, Next::Finished | Next::Removed);
        if !runner.driver.session().is_done() {
            // It may work again after its end: the next one is checked, too.
            self.ended.remove(&id);
        }
        self.check_session(id)?;
        self.check()?;
        if ended
            && self.ended.insert(id)
            && let Some(runner) = self.running.get(&id)
        {
            self.checked += 1;
            self.check_end(id, runner.driver.session())?;
        }
        if self.points.as_ref().is_some_and(Points::round_ended) {
            self.die()?;
        }
        Ok(())
    }

    // ---- the promises -----------------------------------------------------------------------------------

    /// Checks what happened since the last time.
    fn check(&mut self) -> Result<(), Stuck> {
        let facts = {
            let mut cluster = cluster::lock(&self.cluster);
            if cluster.facts().is_empty() {
                return Ok(());
            }
            cluster.drain_facts()
        };
        for fact in &facts {
            for audit in self.audits.values_mut() {
                self.checked += 1;
                if let Some(violation) = audit.witness(fact).into_iter().next() {
                    return Err(Stuck::Broken { at: fact.at, violation });
                }
            }
        }
        if let Some(all) = &mut self.facts {
            all.extend(facts);
        }
        Ok(())
    }

    /// Checks what a session that may have changed says of itself.
    fn check_session(&mut self, id: UpgradeId) -> Result<(), Stuck> {
        let Some(runner) = self.running.get(&id) else { return Ok(()) };
        let session = runner.driver.session();
        self.checked += 1;
        if let Some(violation) = crus_core::promises::session(session).into_iter().next() {
            return Err(Stuck::Broken { at: self.now(), violation });
        }
        // Both were apart when the later one began, or never will be.
        if session.head.step == 0 && session.head.stage == Stage::Starting {
            let others = self.running.iter().filter(|(other, _)| **other != id);
            let mut shared = others.filter_map(|(_, other)| promises::apart(session, other.driver.session()));
            if let Some(violation) = shared.next() {
                return Err(Stuck::Broken { at: self.now(), violation });
            }
        }
        let unfounded = self.audits.get_mut(&id).map(|audit| audit.follow(session)).unwrap_or_default();
        match unfounded.into_iter().next() {
            Some(violation) => Err(Stuck::Broken { at: self.now(), violation }),
            None => Ok(()),
        }
    }

    fn check_end(&self, id: UpgradeId, session: &Session) -> Result<(), Stuck> {
        let Some(audit) = self.audits.get(&id) else { return Ok(()) };
        // What another session has begun with is that one's to put right. The end may be seen late, after a crash.
        let others = self.running.iter().filter(|(other, _)| **other != id);
        let elsewhere: BTreeSet<Xname> = others
            .map(|(_, runner)| runner.driver.session())
            .filter(|other| other.head.phase == Phase::Rolling)
            .flat_map(|other| other.nodes.iter().filter(|node| node.step.is_some()).map(|node| node.xname))
            .collect();
        let nodes = session.nodes.iter().filter(|node| !elsewhere.contains(&node.xname));
        let outcome = Outcome {
            nodes: nodes.filter_map(|node| Some((node.xname, self.view(node.name.as_ref()?)?))).collect(),
            upgrading: self.members(&session.head.spec.upgrading).difference(&elsewhere).copied().collect(),
            failed: self.members(&session.head.spec.failed),
        };
        let mut violations = audit.at_end(session, &outcome);
        // One that was deleted is gone, and its history with it.
        let entries = self.history(id)?;
        if !entries.is_empty() {
            violations.extend(promises::history(session, &entries));
        }
        match violations.into_iter().next() {
            Some(violation) => Err(Stuck::Broken { at: self.now(), violation }),
            None => Ok(()),
        }
    }

    /// Does something as an operator: it is no deed of a session, nor is what comes of it a broken promise. What is
    /// done to [`World::cluster`] between two runs is taken likewise.
    ///
    /// # Errors
    /// When a promise was broken before.
    pub fn by_hand(&mut self, act: impl FnOnce(&mut Cluster)) -> Result<(), Stuck> {
        self.check()?;
        act(&mut cluster::lock(&self.cluster));
        self.check()
    }

    // ---- looking ----------------------------------------------------------------------------------------

    /// The cluster: to look at it, and to act as an operator.
    pub fn cluster(&self) -> std::sync::MutexGuard<'_, Cluster> {
        cluster::lock(&self.cluster)
    }

    /// The virtual time: the cluster's.
    pub fn now(&self) -> Time {
        self.cluster().now()
    }

    fn note(&self, kind: Kind, what: impl FnOnce() -> String) {
        self.cluster().note(kind, what);
    }

    /// How often each kind of thing happened.
    pub fn counts(&self) -> Counts {
        let mut counts = *self.cluster().journal().counts();
        let written = self.store.written();
        counts.set(Kind::Write, written.writes);
        counts.set(Kind::Claim, written.claims);
        counts
    }

    /// How many rounds the sessions did, and how many times something was checked.
    pub fn rounds_and_checks(&self) -> (u64, u64) {
        (self.rounds, self.checked)
    }

    /// From now on facts are forgotten once they were checked: a long run saves memory.
    pub fn forget_facts(&mut self) {
        self.facts = None;
    }

    /// The store.
    pub fn store(&self) -> &MemoryStore {
        &self.store
    }

    /// The calls that reached the cluster.
    pub fn calls(&self) -> &Calls {
        &self.sim.calls
    }

    /// Everything that happened.
    pub fn facts(&self) -> &[Fact] {
        self.facts.as_deref().unwrap_or_default()
    }

    /// All sessions that were ever created.
    pub fn sessions(&self) -> impl Iterator<Item = UpgradeId> + '_ {
        self.audits.keys().copied()
    }

    /// A session, running or finished; `None` once it is gone.
    pub fn session(&self, id: UpgradeId) -> Option<&Session> {
        let runner = self.running.get(&id)?;
        (runner.next != Next::Removed).then(|| runner.driver.session())
    }

    /// A node of a session.
    pub fn node(&self, id: UpgradeId, xname: Xname) -> Option<&Node> {
        self.session(id)?.nodes.iter().find(|node| node.xname == xname)
    }

    /// What the stored history of a session has, the oldest first; nothing of one that is gone.
    ///
    /// # Errors
    /// When the store fails.
    pub fn history(&self, id: UpgradeId) -> Result<Vec<Entry>, Stuck> {
        at_once(self.store.history(id, 0, usize::MAX))?.map_err(failed)
    }

    /// How often a session rebooted a node.
    pub fn reboots(&self, id: UpgradeId, xname: Xname) -> u32 {
        self.audits.get(&id).map_or(0, |audit| audit.reboots(xname))
    }

    /// The members of a group, whether HSM answers now or not; none if there is no such group.
    pub fn members(&self, label: &GroupLabel) -> BTreeSet<Xname> {
        let mut cluster = self.cluster();
        let down = !cluster.hsm_ready();
        cluster.set_hsm_down(false);
        let members = cluster.group(label.as_str()).map(|group| group.members.iter().copied().collect());
        cluster.set_hsm_down(down);
        members.unwrap_or_default()
    }

    /// A node as Slurm has it; `None` when Slurm does not know it.
    pub fn view(&self, name: &NodeName) -> Option<NodeView> {
        let node = self.wlm_node(name)?;
        Some(NodeView { held: node.is_held(), reason: node.reason })
    }

    /// A node as the port reports it.
    pub fn wlm_node(&self, name: &NodeName) -> Option<crus_core::wlm::WlmNode> {
        let uncounted = SimPorts::new(&self.cluster).wlm;
        let seen = at_once(uncounted.nodes(std::slice::from_ref(name))).ok()?.ok()?;
        seen.into_iter().next()
    }
}

fn failed(error: impl std::fmt::Display) -> Stuck {
    Stuck::Failed(error.to_string())
}

/// Polls a future once. `None`: it did not end at once.
fn poll<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Runs a future that never waits: the ports in-process and the store in memory answer at once.
fn at_once<F: Future>(future: F) -> Result<F::Output, Stuck> {
    poll(future).ok_or_else(|| Stuck::Failed("a port in-process did not answer at once".to_owned()))
}
