//! Sessions on a simulated cluster, in virtual time.
//!
//! A [`World`] is a [`Cluster`], a store, and the drivers of the sessions in it. It jumps from one
//! moment at which anything can happen to the next; nothing sleeps and nothing is spawned. After every step it
//! checks the promises P1–P8 against what really happened, as the cluster tells it; [`World::must_end`] checks P9.
//! [`World::crash`] kills the service: the cluster and the store stay, everything else is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crus_core::check::{self, Audit, By, Fact, NodeView, Violation, What, World as Truth};
use crus_core::driver::{Driver, Next, Ports};
use crus_core::model::Node;
use crus_core::ports::{SessionStore, StoreError, Wlm as _};
use crus_core::{GroupLabel, Limits, NodeName, Session, Spec, Time, UpgradeId, Xname};

use crate::cluster::{self, Cluster, SharedCluster};
use crate::config::ClusterConfig;
use crate::crash::Points;
use crate::faults::{Faulty, Plan};
use crate::ports::{Calls, SimBos, SimHsm, SimPorts, SimWlm};
use crate::store::MemoryStore;

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
    next: Next,
}

/// What a round of a session says next, made something else: a service with a broken loop.
type Tamper = Box<dyn Fn(&Session, Next) -> Next>;

/// Who may have done what the cluster tells.
#[derive(Clone, Copy)]
enum Doer {
    Session(UpgradeId),
    Operator,
    Nobody,
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
    ports: Ports,
    limits: Limits,
    running: BTreeMap<UpgradeId, Runner>,
    audits: BTreeMap<UpgradeId, Audit>,
    /// The sessions whose end was checked: later ones may change what they left.
    ended: BTreeSet<UpgradeId>,
    facts: Vec<Fact>,
    created: u64,
    points: Option<Points>,
    tamper: Option<Tamper>,
}

impl World {
    /// A world with a service that has nothing to do yet.
    pub fn new(config: ClusterConfig, seed: u64, limits: Limits) -> Self {
        let cluster = Cluster::new(config, seed).shared();
        let sim = SimPorts::new(&cluster);
        let store = Arc::new(MemoryStore::default());
        let hsm = Faulty::new(sim.hsm.clone(), &cluster, Plan::none());
        let bos = Faulty::new(sim.bos.clone(), &cluster, Plan::none());
        let wlm = Faulty::new(sim.wlm.clone(), &cluster, Plan::none());
        let ports = Ports {
            hsm: Arc::new(hsm.clone()),
            bos: Arc::new(bos.clone()),
            wlm: Arc::new(wlm.clone()),
            store: Arc::clone(&store) as Arc<dyn SessionStore>,
            clock: Arc::new(sim.clock.clone()),
            observer: Arc::new(()),
        };
        World {
            cluster,
            sim,
            store,
            hsm,
            bos,
            wlm,
            ports,
            limits,
            running: BTreeMap::new(),
            audits: BTreeMap::new(),
            ended: BTreeSet::new(),
            facts: Vec::new(),
            created: 0,
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
        let now = self.now();
        let session = Session::new(id, spec, "1.0.0", self.limits.clone(), now);
        let mut audit = Audit::new(&session, self.members(&session.head.spec.starting));
        // What was there before the session is there at its first look.
        for what in self.held() {
            audit.witness_deed(&Fact { at: Time(0), what }, By::Others);
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

    /// Orders a session's deletion, as `DELETE /session/{id}` does.
    ///
    /// # Errors
    /// When the store fails.
    pub fn delete(&mut self, id: UpgradeId) -> Result<(), Stuck> {
        let Some(result) = poll(self.ports.store.order_deletion(id)) else {
            // The client got no answer, and asks again.
            self.die()?;
            return self.delete(id);
        };
        result.map_err(failed)?;
        let now = self.now();
        if let Some(audit) = self.audits.get_mut(&id) {
            audit.deletion_ordered(now);
        }
        if !self.running.contains_key(&id) {
            self.load(id)?;
        }
        if let Some(runner) = self.running.get_mut(&id) {
            runner.driver.order_deletion();
            runner.next = Next::Now;
        }
        Ok(())
    }

    /// Kills the service and starts it again: the cluster and the store stay.
    ///
    /// # Errors
    /// When the store fails.
    pub fn crash(&mut self) -> Result<(), Stuck> {
        self.running.clear();
        for id in at_once(self.ports.store.ids())?.map_err(failed)? {
            self.load(id)?;
        }
        Ok(())
    }

    /// A call never returned: the service died in it, and is started again.
    fn die(&mut self) -> Result<(), Stuck> {
        let Some(down_ms) = self.points.as_ref().and_then(Points::take_death) else {
            return Err(Stuck::Failed("a port in-process did not answer at once".to_owned()));
        };
        let died = std::mem::take(&mut self.running);
        let later = self.now() + down_ms;
        cluster::lock(&self.cluster).advance_to(later);
        self.check(Doer::Nobody)?;
        self.crash()?;
        // A session that it removed and could not tell of.
        for (id, runner) in died {
            if !self.running.contains_key(&id) && self.ended.insert(id) {
                self.check_end(id, runner.driver.session())?;
            }
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
            driver.order_deletion();
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
        // What was done since the last time was done by hand.
        self.check(Doer::Operator)?;
        loop {
            if holds(self) {
                return Ok(());
            }
            if !self.round(&holds)? {
                continue;
            }
            let next = self.running.values().filter_map(|runner| match runner.next {
                Next::At(time) => Some(time),
                Next::Now => Some(self.now()),
                Next::Finished | Next::Removed => None,
            });
            let wake = next.min().unwrap_or(limit).max(self.now() + 1);
            if wake > limit {
                return Err(Stuck::TooLate(limit));
            }
            cluster::lock(&self.cluster).advance_to(wake);
            self.check(Doer::Nobody)?;
        }
    }

    /// Goes on until every session is done or gone, at most `limit_ms`, and compares how they ended with how the
    /// world is.
    ///
    /// # Errors
    /// As [`World::run_until`].
    pub fn run_to_end(&mut self, limit_ms: u64) -> Result<(), Stuck> {
        self.run_until(limit_ms, |world| {
            world.running.values().all(|runner| matches!(runner.next, Next::Finished | Next::Removed))
        })
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
                    ordered.then(|| check::not_deleted(session))
                }
                Next::Now | Next::At(_) => Some(check::no_end(session)),
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
            Err(Stuck::TooLate(end)) => {
                cluster::lock(&self.cluster).advance_to(end);
                self.check(Doer::Nobody)
            }
            other => other,
        }
    }

    /// Does everything that can be done without time passing; `false` when the condition held before that.
    fn round(&mut self, holds: &impl Fn(&World) -> bool) -> Result<bool, Stuck> {
        let ids: Vec<UpgradeId> = self.running.keys().copied().collect();
        for id in ids {
            for rounds in 0.. {
                let now = self.now();
                let Some(runner) = self.running.get_mut(&id) else { break };
                let due = match runner.next {
                    Next::Now => true,
                    Next::At(time) => time <= now,
                    Next::Finished | Next::Removed => false,
                };
                if !due {
                    break;
                }
                if rounds > ROUNDS_MAX {
                    return Err(Stuck::Spins(id));
                }
                let Some(result) = poll(runner.driver.advance()) else {
                    self.check(Doer::Session(id))?;
                    self.die()?;
                    break;
                };
                let next = match result {
                    // A store that fails is tried again, as the service does.
                    Err(StoreError::Failed(_)) => Next::At(now + 1_000),
                    // Somebody else saved it, or we did and were not told: it is loaded again.
                    Err(StoreError::Conflict(_)) => {
                        self.running.remove(&id);
                        self.load(id)?;
                        continue;
                    }
                    result => result.map_err(failed)?,
                };
                runner.next = match &self.tamper {
                    Some(tamper) => tamper(runner.driver.session(), next),
                    None => next,
                };
                let ended = matches!(runner.next, Next::Finished | Next::Removed);
                self.check(Doer::Session(id))?;
                if ended
                    && self.ended.insert(id)
                    && let Some(runner) = self.running.get(&id)
                {
                    self.check_end(id, runner.driver.session())?;
                }
                if self.points.as_ref().is_some_and(Points::round_ended) {
                    self.die()?;
                    break;
                }
                if holds(self) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    // ---- the promises -----------------------------------------------------------------------------------

    /// Compares what happened since the last time with the promises, and what the sessions say of themselves.
    fn check(&mut self, doer: Doer) -> Result<(), Stuck> {
        let facts = cluster::lock(&self.cluster).drain_facts();
        self.audit(facts, doer)?;
        let at = self.now();
        for (id, runner) in &self.running {
            let session = runner.driver.session();
            let unfounded = self.audits.get_mut(id).map(|audit| audit.follow(session)).unwrap_or_default();
            if let Some(violation) = check::session(session).into_iter().chain(unfounded).next() {
                return Err(Stuck::Broken { at, violation });
            }
        }
        Ok(())
    }

    fn audit(&mut self, facts: Vec<Fact>, doer: Doer) -> Result<(), Stuck> {
        for fact in &facts {
            for (id, audit) in &mut self.audits {
                let by = match doer {
                    Doer::Session(session) if session == *id => By::Session,
                    Doer::Session(_) | Doer::Operator => By::Others,
                    Doer::Nobody => By::Unknown,
                };
                if let Some(violation) = audit.witness_deed(fact, by).into_iter().next() {
                    return Err(Stuck::Broken { at: fact.at, violation });
                }
            }
        }
        self.facts.extend(facts);
        Ok(())
    }

    /// The nodes that are out of service now, as facts.
    fn held(&self) -> Vec<What> {
        let cluster = cluster::lock(&self.cluster);
        let names: Vec<NodeName> = cluster.node_names().cloned().collect();
        let xnames: Vec<Option<Xname>> = names.iter().map(|name| cluster.xname_of(name)).collect();
        drop(cluster);
        let views = xnames.into_iter().zip(&names).filter_map(|(xname, name)| {
            let NodeView { held, reason } = self.view(name)?;
            held.then_some(What::NodeChanged { xname: xname?, held, reason, in_service: false })
        });
        views.collect()
    }

    fn check_end(&self, id: UpgradeId, session: &Session) -> Result<(), Stuck> {
        let Some(audit) = self.audits.get(&id) else { return Ok(()) };
        // What another session has begun with is that one's to put right. The end may be seen late, after a crash.
        let others = self.running.iter().filter(|(other, _)| **other != id);
        let elsewhere: BTreeSet<Xname> = others
            .flat_map(|(_, runner)| runner.driver.session().in_flight().map(|node| node.xname))
            .collect();
        let nodes = session.nodes.iter().filter(|node| !elsewhere.contains(&node.xname));
        let truth = Truth {
            nodes: nodes.filter_map(|node| Some((node.xname, self.view(node.name.as_ref()?)?))).collect(),
            upgrading: self.members(&session.head.spec.upgrading).difference(&elsewhere).copied().collect(),
            failed: self.members(&session.head.spec.failed),
        };
        match audit.at_end(session, &truth).into_iter().next() {
            Some(violation) => Err(Stuck::Broken { at: self.now(), violation }),
            None => Ok(()),
        }
    }

    /// Does something as an operator: it is no deed of a session, whatever it does. What is done to
    /// [`World::cluster`] between two runs is taken likewise.
    ///
    /// # Errors
    /// When a promise was broken before.
    pub fn by_hand(&mut self, act: impl FnOnce(&mut Cluster)) -> Result<(), Stuck> {
        self.check(Doer::Operator)?;
        act(&mut cluster::lock(&self.cluster));
        self.check(Doer::Operator)
    }

    // ---- looking ----------------------------------------------------------------------------------------

    /// The cluster: to look at it, and to act as an operator.
    pub fn cluster(&self) -> std::sync::MutexGuard<'_, Cluster> {
        cluster::lock(&self.cluster)
    }

    /// The virtual time.
    pub fn now(&self) -> Time {
        self.ports.clock.now()
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
        &self.facts
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
