//! Sessions on a simulated cluster, in virtual time.
//!
//! A [`World`] is a [`Cluster`], a store, and the drivers of the sessions in it. It jumps from one
//! moment at which anything can happen to the next; nothing sleeps and nothing is spawned. After every step it
//! checks the promises P1–P8 against what really happened, as the cluster tells it; [`World::must_end`] checks P9.
//! [`World::crash`] kills the service: the cluster and the store stay, everything else is forgotten.
//! [`World::take_over`] stops it for longer than its lease lasts, so that another replica runs its sessions.

mod checking;
mod looking;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Bound;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};

use crus_core::driver::{Driver, Next, Observer, Ports};
use crus_core::machine::Event;
use crus_core::model::{Command, NumberedCommand};
use crus_core::plan::{self, Experience, Sources};
use crus_core::ports::{Clock, DriverStore, SessionStore as _, StoreError};
use crus_core::promises::{self, Audit, By, Fact, Violation};
use crus_core::window::ZoneOffset;
use crus_core::{Limits, Session, Spec, Time, UpgradeId};

use crate::checks::SimChecks;
use crate::cluster::{self, Cluster, SharedCluster};
use crate::config::ClusterConfig;
use crate::crash::Points;
use crate::faults::{Faulty, Plan};
use crate::journal::Kind;
use crate::ports::{SimBos, SimHsm, SimPorts, SimWlm};
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
            store: Arc::clone(&store) as Arc<dyn DriverStore>,
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

    /// Puts something between drivers and their ports and store, for the sessions that are created from now on.
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
        let Some(result) = self.ask_store("store.create", self.store.create(&session)) else {
            // The client got no answer. It looks whether the session is there, and asks again if not.
            self.die()?;
            if !self.running.contains_key(&id) {
                self.created -= 1;
                return self.create(session.head.spec);
            }
            return Ok(id);
        };
        let revision = result.map_err(failed)?;
        at_once(self.store.own(id))?.map_err(failed)?;
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
        let Some(result) = self.ask_store("store.order_deletion", self.store.order_deletion(id, None)) else {
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
        let Some(result) = self.ask_store("store.command", self.store.command(id, command, None)) else {
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
            runner.driver.command(NumberedCommand { number, command, by: None });
            runner.next = Next::Now;
        }
        Ok(())
    }

    /// Has the store do something for a client; `None`: the service died over it.
    fn ask_store<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Option<Result<T, StoreError>> {
        match &self.points {
            Some(points) => poll(points.write(call, answer)),
            None => poll(answer),
        }
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
        self.ports.store = Arc::clone(&self.store) as Arc<dyn DriverStore>;
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
        for id in at_once(self.store.ids())?.map_err(failed)? {
            self.load(id)?;
        }
        Ok(())
    }

    fn load(&mut self, id: UpgradeId) -> Result<(), Stuck> {
        let Some((mut session, revision)) = at_once(self.store.load(id))?.map_err(failed)? else {
            return Ok(());
        };
        at_once(self.store.own(id))?.map_err(failed)?;
        session.limits = self.limits.clone();
        let mut driver = Driver::new(session, revision, self.ports.clone());
        if let Some(order) = at_once(self.store.deletion(id))?.map_err(failed)? {
            driver.order_deletion(order.by);
        }
        for command in at_once(self.store.commands(id))?.map_err(failed)? {
            driver.command(command);
        }
        self.running.insert(id, Runner { driver, next: Next::Now });
        Ok(())
    }

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
                self.ports.checks.forget(id);
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
        if ended {
            self.ports.checks.forget(id);
        }
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
