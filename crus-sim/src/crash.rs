//! A crash at every point.
//!
//! A [`Scenario`] is run once, and the [`Points`] it passes are counted: before and after every call to a peer and
//! every write to the store, and after every round of a session. A machine's step is followed by one of these
//! before anything else happens, so there is a point after each step as well. Then [`Scenario::examine`] runs it
//! again and again from the same seed, each time with a [`Strike`] at another point, and compares how it ended: the
//! cluster and the store persist, what the service remembered does not. The world checks the promises all the way.
//!
//! # Caveats
//!
//! A service that dies in a call dies either before the peer acted or after; [`Strike::Late`] is the third case,
//! for reboots: the request is on its way while the service starts again. Reads of the store are no points.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use async_trait::async_trait;
use crus_core::Actor;
use crus_core::boots::BootIds;
use crus_core::driver::Ports;
use crus_core::history::Entry;
use crus_core::machine::Event;
use crus_core::model::{Command, Failure, Node, NodeState, Ordered, Phase, Summary};
use crus_core::names::BootHandle;
use crus_core::ports::{
    BootKey, BootSession, Bos, CheckRequest, Checks, Clock, Hsm, NodeFacts, Peer, PortError, RebootRequest,
    Rejected, Revision, SessionStore, StoreChanges, StoreError, TemplateKey, Verdict, Wlm,
};
use crus_core::promises::NodeView;
use crus_core::wlm::{Job, Partition, WlmNode};
use crus_core::{GroupLabel, Limits, NodeName, PartitionName, Session, Time, UpgradeId, Xname};

use crate::config::{BosApi, ClusterConfig};
use crate::rng::Rng;
use crate::world::{Stuck, World};

/// How long a world goes on after its script, so that late requests arrive and Slurm hears of its nodes, in virtual
/// milliseconds.
const SETTLE_MS: u64 = 60_000;
/// How many ways to fail are told of one scenario.
const FAILURES_MAX: usize = 5;

/// Where a point is. The names are those of [`Calls`](crate::ports::Calls), and `store.save` and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Nothing is asked yet.
    Before(&'static str),
    /// It was carried out, and the service does not know.
    After(&'static str),
    /// After a round of a session: what it saw is taken in, and what it must not forget is stored.
    Round,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Before(call) => write!(f, "before {call}"),
            Place::After(call) => write!(f, "after {call}"),
            Place::Round => f.write_str("after a round"),
        }
    }
}

impl Place {
    /// Whether it is right before a request that changes a peer.
    fn is_request(self) -> bool {
        matches!(self, Place::Before(call) if REQUESTS.contains(&call))
    }
}

const REQUESTS: [&str; 9] = [
    "hsm.add_members",
    "hsm.remove_members",
    "bos.reboot",
    "wlm.drain",
    "wlm.resume",
    "wlm.down",
    "wlm.set_reason",
    "wlm.requeue",
    "wlm.cancel",
];

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strike {
    /// The service dies, and starts again after so many virtual milliseconds.
    Dies {
        /// How long it is away.
        down_ms: u64,
    },
    /// Before a request: it arrives twice, as one does that something on the way sent again.
    Twice,
    /// Before a reboot: the service dies and starts again at once, and the request arrives so many virtual
    /// milliseconds later.
    Late {
        /// How much later.
        ms: u64,
    },
    /// Before a request or a write: it is carried out, its answer is lost, and the service lives on.
    Lost,
}

/// What happens at which points, counted from 0. As text: `12:dies:0,31:twice,40:late:5000,57:lost`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Strikes(BTreeMap<usize, Strike>);

impl<const N: usize> From<[(usize, Strike); N]> for Strikes {
    fn from(strikes: [(usize, Strike); N]) -> Self {
        Strikes(strikes.into())
    }
}

impl fmt::Display for Strikes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0.iter().map(|(at, strike)| match strike {
            Strike::Dies { down_ms } => format!("{at}:dies:{down_ms}"),
            Strike::Twice => format!("{at}:twice"),
            Strike::Late { ms } => format!("{at}:late:{ms}"),
            Strike::Lost => format!("{at}:lost"),
        });
        f.write_str(&words.collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Strikes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let strike = |word: &str| {
            let mut parts = word.split(':');
            let at = parts.next()?.parse().ok()?;
            let kind = parts.next()?;
            let ms = parts.next().map(|ms| ms.parse().ok());
            let strike = match (kind, ms) {
                ("dies", Some(ms)) => Strike::Dies { down_ms: ms? },
                ("late", Some(ms)) => Strike::Late { ms: ms? },
                ("twice", None) => Strike::Twice,
                ("lost", None) => Strike::Lost,
                _ => return None,
            };
            Some((at, strike))
        };
        let words = text.split(',').filter(|word| !word.is_empty());
        let strikes = words.map(|word| strike(word).ok_or_else(|| format!("{word:?} is no strike")));
        Ok(Strikes(strikes.collect::<Result<_, _>>()?))
    }
}

/// The points that the service of one world passes, and what strikes it there. Clones are the same points.
#[derive(Clone, Default)]
pub struct Points(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    strikes: Strikes,
    passed: Vec<Place>,
    struck: usize,
    /// How long the service that just died stays away.
    dying: Option<u64>,
    deaths: u64,
    clock: Option<Arc<dyn Clock>>,
    late: Vec<(Time, Arc<dyn Bos>, RebootRequest)>,
}

impl Points {
    /// Points at which this happens.
    pub fn with(strikes: Strikes) -> Self {
        Points(Arc::new(Mutex::new(State { strikes, ..State::default() })))
    }

    /// The points passed so far, in order.
    pub fn passed(&self) -> Vec<Place> {
        self.state().passed.clone()
    }

    /// How often something happened at one of them.
    pub fn struck(&self) -> usize {
        self.state().struck
    }

    /// How often the service died.
    pub fn deaths(&self) -> u64 {
        self.state().deaths
    }

    /// Puts the points before all ports and the store.
    pub fn before(&self, ports: Ports) -> Ports {
        self.state().clock = Some(Arc::clone(&ports.clock));
        let Ports { hsm, bos, wlm, store, clock, checks, observer } = ports;
        Ports {
            hsm: Arc::new(Passing { inner: hsm, points: self.clone() }),
            bos: Arc::new(Passing { inner: bos, points: self.clone() }),
            wlm: Arc::new(Passing { inner: wlm, points: self.clone() }),
            store: Arc::new(Passing { inner: store, points: self.clone() }),
            clock,
            checks: Arc::new(Passing { inner: checks, points: self.clone() }),
            observer,
        }
    }

    /// How long the service stays away, if it has just died.
    pub(crate) fn take_death(&self) -> Option<u64> {
        self.state().dying.take()
    }

    /// Passes the point after a round; whether the service dies there.
    pub(crate) fn round_ended(&self) -> bool {
        self.pass(Place::Round);
        self.state().dying.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a point. What strikes there and is not over with it is returned.
    fn pass(&self, place: Place) -> Option<Strike> {
        let mut state = self.state();
        let at = state.passed.len();
        state.passed.push(place);
        let strike = state.strikes.0.get(&at).copied()?;
        state.struck += 1;
        let down_ms = match strike {
            Strike::Dies { down_ms } => down_ms,
            Strike::Late { .. } => 0,
            Strike::Twice | Strike::Lost => return Some(strike),
        };
        state.dying = Some(down_ms);
        state.deaths += 1;
        Some(strike)
    }

    /// Passes a point before or after a call. A service that dies there never goes on.
    async fn arrive(&self, place: Place) -> Option<Strike> {
        self.deliver(None).await;
        let strike = self.pass(place)?;
        if self.state().dying.is_some() && !matches!(strike, Strike::Late { .. }) {
            pending::<()>().await;
        }
        Some(strike)
    }

    /// Lets late requests arrive that are due, or all that are due by then.
    async fn deliver(&self, by: Option<Time>) {
        let due: Vec<_> = {
            let mut state = self.state();
            if state.late.is_empty() {
                return;
            }
            let by = by.or_else(|| state.clock.as_ref().map(|clock| clock.now())).unwrap_or_default();
            state.late.extract_if(.., |(at, ..)| *at <= by).collect()
        };
        for (_, bos, request) in due {
            // Nobody is there to hear the answer.
            drop(bos.reboot(&request).await);
        }
    }
}

/// A port, or the store, with a point before and after each call.
struct Passing<P: ?Sized> {
    inner: Arc<P>,
    points: Points,
}

type Answer<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

impl<P: ?Sized> Passing<P> {
    async fn look<T>(&self, call: &'static str, answer: Answer<'_, T, PortError>) -> Result<T, PortError> {
        self.points.arrive(Place::Before(call)).await;
        let answer = answer.await;
        self.points.arrive(Place::After(call)).await;
        answer
    }

    async fn request<'a, T: Send>(
        &self,
        peer: Peer,
        call: &'static str,
        ask: impl Fn() -> Answer<'a, T, PortError> + Send + Sync,
    ) -> Result<T, PortError> {
        let strike = self.points.arrive(Place::Before(call)).await;
        let mut answer = ask().await;
        if strike == Some(Strike::Twice) {
            answer = ask().await;
        }
        self.points.arrive(Place::After(call)).await;
        if strike == Some(Strike::Lost) {
            let detail = "the answer was lost".to_owned();
            return Err(PortError::MayHaveActed { peer, detail });
        }
        answer
    }

    async fn write<T>(&self, call: &'static str, answer: Answer<'_, T, StoreError>) -> Result<T, StoreError> {
        let strike = self.points.arrive(Place::Before(call)).await;
        let answer = answer.await;
        self.points.arrive(Place::After(call)).await;
        if strike == Some(Strike::Lost) {
            return Err(StoreError::Failed("the answer was lost".to_owned()));
        }
        answer
    }
}

#[async_trait]
impl Checks for Passing<dyn Checks> {
    async fn judge(&self, request: &CheckRequest) -> Result<Vec<(Xname, Verdict)>, PortError> {
        self.look("check", self.inner.judge(request)).await
    }

    fn forget(&self, session: UpgradeId) {
        self.inner.forget(session);
    }
}

#[async_trait]
impl Hsm for Passing<dyn Hsm> {
    async fn group(&self, label: &GroupLabel) -> Result<Option<BTreeSet<Xname>>, PortError> {
        self.look("hsm.group", self.inner.group(label)).await
    }

    async fn add_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<Vec<Rejected>, PortError> {
        self.request(Peer::Hsm, "hsm.add_members", || self.inner.add_members(label, nodes)).await
    }

    async fn remove_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<(), PortError> {
        self.request(Peer::Hsm, "hsm.remove_members", || self.inner.remove_members(label, nodes)).await
    }

    async fn facts(&self, nodes: &[Xname]) -> Result<Vec<NodeFacts>, PortError> {
        self.look("hsm.facts", self.inner.facts(nodes)).await
    }
}

#[async_trait]
impl Bos for Passing<dyn Bos> {
    async fn has_template(&self, template: &TemplateKey) -> Result<bool, PortError> {
        self.look("bos.has_template", self.inner.has_template(template)).await
    }

    async fn boot_ids(&self) -> Result<BootIds, PortError> {
        self.look("bos.boot_ids", self.inner.boot_ids()).await
    }

    async fn reboot(&self, request: &RebootRequest) -> Result<Option<BootHandle>, PortError> {
        let next = self.points.state().passed.len();
        let late = match self.points.state().strikes.0.get(&next) {
            Some(Strike::Late { ms }) => Some(*ms),
            _ => None,
        };
        let Some(ms) = late else {
            return self.request(Peer::Bos, "bos.reboot", || self.inner.reboot(request)).await;
        };
        self.points.arrive(Place::Before("bos.reboot")).await;
        {
            let mut state = self.points.state();
            let arrives = state.clock.as_ref().map(|clock| clock.now()).unwrap_or_default() + ms;
            state.late.push((arrives, Arc::clone(&self.inner), request.clone()));
        }
        pending().await
    }

    async fn session(&self, key: &BootKey) -> Result<Option<BootSession>, PortError> {
        self.look("bos.session", self.inner.session(key)).await
    }
}

#[async_trait]
impl Wlm for Passing<dyn Wlm> {
    async fn nodes(&self, names: &[NodeName]) -> Result<Vec<WlmNode>, PortError> {
        self.look("wlm.nodes", self.inner.nodes(names)).await
    }

    async fn jobs(&self, names: &[NodeName]) -> Result<Vec<Job>, PortError> {
        self.look("wlm.jobs", self.inner.jobs(names)).await
    }

    async fn drain(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.request(Peer::Wlm, "wlm.drain", || self.inner.drain(names, reason)).await
    }

    async fn resume(&self, names: &[NodeName]) -> Result<(), PortError> {
        self.request(Peer::Wlm, "wlm.resume", || self.inner.resume(names)).await
    }

    async fn down(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.request(Peer::Wlm, "wlm.down", || self.inner.down(names, reason)).await
    }

    async fn set_reason(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.request(Peer::Wlm, "wlm.set_reason", || self.inner.set_reason(names, reason)).await
    }

    async fn partitions(&self, names: &[PartitionName]) -> Result<Vec<Partition>, PortError> {
        self.look("wlm.partitions", self.inner.partitions(names)).await
    }

    async fn requeue(&self, jobs: &[String]) -> Result<(), PortError> {
        self.request(Peer::Wlm, "wlm.requeue", || self.inner.requeue(jobs)).await
    }

    async fn cancel(&self, jobs: &[String]) -> Result<(), PortError> {
        self.request(Peer::Wlm, "wlm.cancel", || self.inner.cancel(jobs)).await
    }
}

#[async_trait]
impl SessionStore for Passing<dyn SessionStore> {
    async fn create(&self, session: &Session) -> Result<Revision, StoreError> {
        self.write("store.create", self.inner.create(session)).await
    }

    async fn ids(&self) -> Result<Vec<UpgradeId>, StoreError> {
        self.inner.ids().await
    }

    async fn summary(&self, id: UpgradeId) -> Result<Option<Summary>, StoreError> {
        self.inner.summary(id).await
    }

    async fn load(&self, id: UpgradeId) -> Result<Option<(Session, Revision)>, StoreError> {
        self.inner.load(id).await
    }

    async fn save(
        &self,
        session: &Session,
        events: &[Event],
        revision: Revision,
    ) -> Result<Revision, StoreError> {
        self.write("store.save", self.inner.save(session, events, revision)).await
    }

    async fn remove(&self, id: UpgradeId) -> Result<(), StoreError> {
        self.write("store.remove", self.inner.remove(id)).await
    }

    async fn order_deletion(&self, id: UpgradeId, by: Option<&Actor>) -> Result<(), StoreError> {
        self.write("store.order_deletion", self.inner.order_deletion(id, by)).await
    }

    async fn deletion_ordered(&self, id: UpgradeId) -> Result<bool, StoreError> {
        self.inner.deletion_ordered(id).await
    }

    async fn deletion_ordered_by(&self, id: UpgradeId) -> Result<Option<Actor>, StoreError> {
        self.inner.deletion_ordered_by(id).await
    }

    async fn command(
        &self,
        id: UpgradeId,
        command: Command,
        by: Option<&Actor>,
    ) -> Result<Option<u64>, StoreError> {
        self.write("store.command", self.inner.command(id, command, by)).await
    }

    async fn commands(&self, id: UpgradeId) -> Result<Vec<(u64, Ordered)>, StoreError> {
        self.inner.commands(id).await
    }

    async fn nodes(&self, id: UpgradeId, from: usize, count: usize) -> Result<Vec<Node>, StoreError> {
        self.inner.nodes(id, from, count).await
    }

    async fn history(&self, id: UpgradeId, after: u64, count: usize) -> Result<Vec<Entry>, StoreError> {
        self.inner.history(id, after, count).await
    }

    async fn delivered(&self, id: UpgradeId) -> Result<Option<u64>, StoreError> {
        self.inner.delivered(id).await
    }

    async fn set_delivered(&self, id: UpgradeId, number: u64) -> Result<(), StoreError> {
        self.write("store.set_delivered", self.inner.set_delivered(id, number)).await
    }

    async fn claim(&self, id: UpgradeId, nodes: &[Xname]) -> Result<Result<(), String>, StoreError> {
        self.write("store.claim", self.inner.claim(id, nodes)).await
    }

    async fn own(&self, id: UpgradeId) -> Result<bool, StoreError> {
        self.inner.own(id).await
    }

    fn owns(&self, id: UpgradeId) -> bool {
        self.inner.owns(id)
    }

    async fn disowned(&self, id: UpgradeId) {
        self.inner.disowned(id).await;
    }

    async fn disown(&self, id: UpgradeId) -> Result<(), StoreError> {
        self.inner.disown(id).await
    }

    async fn changes(&self) -> Result<Box<dyn StoreChanges>, StoreError> {
        self.inner.changes().await
    }
}

// ---- how a world ended ----------------------------------------------------------------------------------------

/// How a world ended: what must be the same whenever the service died. Words that tell a moment, and messages, are
/// not among it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The sessions that were created; `None`: gone.
    pub sessions: BTreeMap<UpgradeId, Option<SessionEnd>>,
    /// How often each session rebooted each node that it did.
    pub reboots: BTreeMap<(UpgradeId, Xname), u32>,
    /// The groups of HSM.
    pub groups: BTreeMap<String, BTreeSet<Xname>>,
    /// The nodes that are out of service, and why.
    pub held: BTreeMap<NodeName, Option<String>>,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionEnd {
    /// Whether it is done.
    pub phase: Phase,
    /// Its nodes.
    pub nodes: BTreeMap<Xname, NodeState>,
}

impl End {
    /// How this world ended.
    pub fn of(world: &World) -> Self {
        let mut end = End {
            sessions: BTreeMap::new(),
            reboots: BTreeMap::new(),
            groups: BTreeMap::new(),
            held: BTreeMap::new(),
        };
        let nodes: Vec<(NodeName, Option<Xname>)> = {
            let cluster = world.cluster();
            cluster.node_names().map(|name| (name.clone(), cluster.xname_of(name))).collect()
        };
        for id in world.sessions() {
            let session = world.session(id).map(|session| SessionEnd {
                phase: session.head.phase,
                nodes: session.nodes.iter().map(|node| (node.xname, timeless(&node.state))).collect(),
            });
            end.sessions.insert(id, session);
            let rebooted = nodes.iter().filter_map(|(_, xname)| *xname);
            let rebooted = rebooted.map(|xname| ((id, xname), world.reboots(id, xname)));
            end.reboots.extend(rebooted.filter(|(_, times)| *times > 0));
        }
        for (name, _) in nodes {
            if let Some(NodeView { held: true, reason }) = world.view(&name) {
                end.held.insert(name, reason.map(|reason| without_last_state(&reason).to_owned()));
            }
        }
        if let Ok(groups) = world.cluster().groups() {
            let members = |group: &crate::cluster::hsm::Group| group.members.iter().copied().collect();
            end.groups.extend(groups.into_iter().map(|group| (group.label.to_string(), members(group))));
        }
        end
    }

    /// What differs from the end of another run, a line each.
    fn differences(&self, other: &End) -> Vec<String> {
        fn differ<K: Ord + fmt::Debug, V: PartialEq + fmt::Debug>(
            what: &str,
            one: &BTreeMap<K, V>,
            other: &BTreeMap<K, V>,
        ) -> Vec<String> {
            let keys: BTreeSet<&K> = one.keys().chain(other.keys()).collect();
            let differ = keys.into_iter().filter(|key| one.get(key) != other.get(key));
            differ
                .map(|key| format!("{what} {key:?}: {:?}, was {:?}", one.get(key), other.get(key)))
                .collect()
        }
        let mut lines = differ("session", &self.sessions, &other.sessions);
        lines.extend(differ("reboots", &self.reboots, &other.reboots));
        lines.extend(differ("group", &self.groups, &other.groups));
        lines.extend(differ("held", &self.held, &other.held));
        lines
    }
}

/// A state without the moment it was seen at.
fn timeless(state: &NodeState) -> NodeState {
    match state {
        NodeState::Failed(Failure::ReturnTimedOut(_)) => {
            NodeState::Failed(Failure::ReturnTimedOut(String::new()))
        }
        state => state.clone(),
    }
}

fn without_last_state(reason: &str) -> &str {
    reason.find(", last seen ").map_or(reason, |at| &reason[..at])
}

// ---- scenarios ------------------------------------------------------------------------------------------------

/// What an operator does, from the creation of the sessions to their end.
type Script = Box<dyn Fn(&mut World) -> Result<(), Stuck> + Send + Sync>;
/// What is put between the service and its ports.
type Decorate = Box<dyn Fn(Ports, &Points) -> Ports + Send + Sync>;

/// Something that must end the same whenever the service dies.
pub struct Scenario {
    name: String,
    config: ClusterConfig,
    seed: u64,
    limits: Limits,
    script: Script,
    decorate: Option<Decorate>,
    bears_absence: bool,
    bears_late: bool,
}

impl Scenario {
    /// A scenario: a cluster, its seed, and what an operator does there. The script must wait for the end of its
    /// sessions, best with [`World::must_end`].
    pub fn new(
        name: impl Into<String>,
        config: ClusterConfig,
        seed: u64,
        script: impl Fn(&mut World) -> Result<(), Stuck> + Send + Sync + 'static,
    ) -> Self {
        Scenario {
            name: name.into(),
            config,
            seed,
            limits: Limits::default(),
            script: Box::new(script),
            decorate: None,
            bears_absence: true,
            bears_late: true,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same with other limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The same with something between the service and its ports.
    #[must_use]
    pub fn decorated(mut self, decorate: impl Fn(Ports, &Points) -> Ports + Send + Sync + 'static) -> Self {
        self.decorate = Some(Box::new(decorate));
        self
    }

    /// The same without long absences of the service: they would make the operator act at another moment of
    /// what goes on in the cluster, such as after a boot instead of during it.
    #[must_use]
    pub fn without_absence(mut self) -> Self {
        self.bears_absence = false;
        self
    }

    /// The same without late requests: where somebody deletes a boot session, nothing keeps a request of its name
    /// that is still on its way from being taken for a new one.
    #[must_use]
    pub fn without_late_requests(mut self) -> Self {
        self.bears_late = false;
        self
    }

    /// Runs it once with these strikes.
    ///
    /// # Errors
    /// When it does not come to its end, or breaks a promise on the way.
    pub fn run(&self, strikes: Strikes) -> Result<(End, Points), Stuck> {
        let points = Points::with(strikes);
        let mut world = World::new(self.config.clone(), self.seed, self.limits.clone());
        if let Some(decorate) = &self.decorate {
            world.decorate(|ports| decorate(ports, &points));
        }
        world.pass(&points);
        (self.script)(&mut world)?;
        let last = Time(u64::MAX);
        // The ports in-process answer at once.
        let delivered = pin!(points.deliver(Some(last))).poll(&mut Context::from_waker(Waker::noop()));
        if delivered.is_pending() {
            return Err(Stuck::Failed("a late request did not arrive at once".to_owned()));
        }
        world.run_for(SETTLE_MS)?;
        Ok((End::of(&world), points))
    }

    /// Runs it once undisturbed, and then with strikes at its points, one after the other.
    ///
    /// # Errors
    /// When the undisturbed run fails.
    pub fn examine(&self, effort: &Effort) -> Result<Report, Stuck> {
        let (expected, points) = self.run(Strikes::default())?;
        let places = points.passed();
        let mut report = Report { points: places.len() as u64, ..Report::default() };
        let named = self.config.bos.api == BosApi::V2;
        for strikes in effort.strikes(&places, self.bears_absence, self.bears_late, named) {
            report.replays += 1;
            let result = self.run(strikes.clone());
            let wrong = match result {
                Ok((end, points)) => {
                    report.count(&points);
                    end.differences(&expected)
                }
                Err(stuck) => {
                    if let Stuck::Broken { violation, .. } = &stuck {
                        *report.broken.entry(violation.promise).or_default() += 1;
                    }
                    vec![stuck.to_string()]
                }
            };
            if !wrong.is_empty() {
                report.failed += 1;
                if report.failures.len() < FAILURES_MAX {
                    let at = |at: &usize| places.get(*at).map_or("later".to_owned(), Place::to_string);
                    let places = strikes.0.keys().map(at).collect();
                    let scenario = self.name.clone();
                    report.failures.push(Failed { scenario, strikes, places, wrong });
                }
            }
        }
        Ok(report)
    }
}

/// How much is tried.
#[derive(Debug, Clone)]
pub struct Effort {
    /// At every so many-th point the service is tried with an absence as well.
    pub away_every: usize,
    /// How long that is, in virtual milliseconds: these, by turns.
    pub away_ms: Vec<u64>,
    /// A second crash follows within so many points of the first.
    pub near: usize,
    /// Of these, how many are tried for each first one.
    pub near_tried: usize,
    /// So many pairs of crashes are drawn from all.
    pub drawn: usize,
    /// Decides what is drawn.
    pub seed: u64,
}

impl Effort {
    fn strikes(&self, places: &[Place], absences: bool, late: bool, named: bool) -> Vec<Strikes> {
        const DIES: Strike = Strike::Dies { down_ms: 0 };
        let count = places.len();
        let mut all = Vec::new();
        let mut rng = Rng::new(self.seed, 7);
        for (at, place) in places.iter().enumerate() {
            all.push(Strikes::from([(at, DIES)]));
            let every = self.away_every.max(1);
            if absences
                && at % every == 0
                && let Some(down_ms) = self.away_ms.iter().cycle().nth(at / every)
            {
                all.push(Strikes::from([(at, Strike::Dies { down_ms: *down_ms })]));
            }
            if place.is_request() {
                // Nobody can help against a reboot that arrives twice where it has no name.
                if named || *place != Place::Before("bos.reboot") {
                    all.push(Strikes::from([(at, Strike::Twice)]));
                    all.push(Strikes::from([(at, Strike::Twice), (at + 1, DIES)]));
                }
                all.push(Strikes::from([(at, Strike::Lost)]));
            }
            if *place == Place::Before("store.save") {
                all.push(Strikes::from([(at, Strike::Lost)]));
            }
            if late && *place == Place::Before("bos.reboot") {
                all.extend(
                    [1_000, 5_000, 25_000, 55_000].map(|ms| Strikes::from([(at, Strike::Late { ms })])),
                );
            }
            let mut seconds: BTreeSet<usize> = BTreeSet::new();
            while seconds.len() < self.near_tried.min(self.near) {
                seconds.insert(at + rng.between(1, self.near as u64) as usize);
            }
            all.extend(seconds.into_iter().map(|second| Strikes::from([(at, DIES), (second, DIES)])));
        }
        for _ in 0..if count > 1 { self.drawn } else { 0 } {
            let mut draw = || rng.between(0, count as u64 - 1) as usize;
            let (one, other) = (draw(), draw());
            all.push(Strikes::from([(one, DIES), (other, DIES)]));
        }
        all
    }
}

/// What was tried, and what came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// The points of the undisturbed runs.
    pub points: u64,
    /// The runs with strikes.
    pub replays: u64,
    /// The deaths in those of them that came to their end.
    pub deaths: u64,
    /// What struck in these otherwise.
    pub others: u64,
    /// The points passed in these.
    pub passed: u64,
    /// How many did not end as the undisturbed run.
    pub failed: u64,
    /// The first few of these.
    pub failures: Vec<Failed>,
    /// How many broke which promise.
    pub broken: BTreeMap<&'static str, u64>,
}

impl Report {
    fn count(&mut self, points: &Points) {
        self.deaths += points.deaths();
        self.others += points.struck() as u64 - points.deaths();
        self.passed += points.passed().len() as u64;
    }

    /// Adds what was tried elsewhere.
    pub fn add(&mut self, other: Report) {
        self.points += other.points;
        self.replays += other.replays;
        self.deaths += other.deaths;
        self.others += other.others;
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        for (promise, times) in other.broken {
            *self.broken.entry(promise).or_default() += times;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { points, replays, deaths, others, passed, failed, failures, .. } = self;
        write!(
            f,
            "{points} points, {replays} replays with {deaths} crashes and {others} requests repeated or \
             unanswered, {passed} points passed, {failed} failed"
        )?;
        failures.iter().try_for_each(|failure| write!(f, "\n{failure}"))
    }
}

/// A run with strikes that did not end as it should.
#[derive(Debug)]
pub struct Failed {
    /// Of which scenario.
    pub scenario: String,
    /// What struck.
    pub strikes: Strikes,
    /// Where that was in the undisturbed run.
    pub places: Vec<String>,
    /// What was wrong.
    pub wrong: Vec<String>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failed { scenario, strikes, places, wrong } = self;
        write!(f, "'{scenario}' with {strikes} ({}): {}", places.join(", "), wrong.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_are_read_as_they_are_written() {
        let text = "12:dies:0,31:twice,40:late:5000,57:lost";
        assert_eq!(text.parse::<Strikes>().map(|strikes| strikes.to_string()), Ok(text.to_owned()));
        assert_eq!("12:sleeps".parse::<Strikes>(), Err("\"12:sleeps\" is no strike".to_owned()));
    }
}
