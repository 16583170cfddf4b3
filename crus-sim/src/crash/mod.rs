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

mod passing;
mod strike;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use crus_core::model::{Failure, NodeState, Phase};
use crus_core::promises::NodeView;
use crus_core::{Limits, NodeName, Time, UpgradeId, Xname};

pub use self::strike::{Place, Points, Strike, Strikes};
use crate::config::{BosApi, ClusterConfig};
use crate::rng::Rng;
use crate::world::{Stuck, World};

/// How long a world goes on after its script, so that late requests arrive and Slurm hears of its nodes, in virtual
/// milliseconds.
const SETTLE_MS: u64 = 60_000;
/// How many ways to fail are told of one scenario.
const FAILURES_MAX: usize = 5;

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

/// What an operator does, from the creation of the sessions to their end.
type Script = Box<dyn Fn(&mut World) -> Result<(), Stuck> + Send + Sync>;
/// What is done to a world before its script begins.
type Prepare = Box<dyn Fn(&mut World, &Points) + Send + Sync>;

/// Something that must end the same whenever the service dies.
pub struct Scenario {
    name: String,
    config: ClusterConfig,
    seed: u64,
    limits: Limits,
    script: Script,
    prepare: Option<Prepare>,
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
            prepare: None,
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

    /// The same on a world to which this is done before.
    #[must_use]
    pub fn prepared(mut self, prepare: impl Fn(&mut World, &Points) + Send + Sync + 'static) -> Self {
        self.prepare = Some(Box::new(prepare));
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
        if let Some(prepare) = &self.prepare {
            prepare(&mut world, &points);
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
