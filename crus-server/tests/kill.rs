//! The service is killed at any moment, hundreds of times: what it had begun is brought to its right end. The cluster
//! is simulated; the service, its store, its clients and the programs they start are processes of their own.
//!
//! `CRUS_TEST_KILLS` says how often instead of 60 times: `cargo xtask test` also kills the binary that is shipped, with
//! `--full` 500 times.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::chance::{draw, seed};
use crate::support::simulated::{self, Simulated};
use crate::support::{PATIENCE, Service, id_of, spec, until};
use crus_core::messages;
use crus_core::model::{Failure, NodeState};
use crus_core::promises::{Audit, Fact, Outcome, Violation, What};
use crus_core::{Limits, Session, Spec, Time, UpgradeId, Xname};
use crus_sim::ClusterConfig;
use crus_sim::cluster::slurm::Update;
use crus_sim::config::{BootBehaviour, GroupSpec, Held, SlurmConfig, Span};
use crus_sim::workload::{Drawn, JobSpec, Wanted, Workload};
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

const NODES: u32 = 12;
const STEP_SIZE: u32 = 4;
/// Positions of nodes: the one that will not boot, one that an admin drained before, one that an admin drains
/// meanwhile, and one whose job never ends.
const BROKEN: usize = 3;
const DRAINED: usize = 8;
const MEDDLED: usize = 5;
const BUSY: usize = 6;
const ADMINS_REASON: &str = "bad DIMM, ticket 4711";
/// So many virtual seconds pass in a real one.
const SPEED: f64 = 250.0;
/// Clusters side by side: each waits most of the time.
const AT_A_TIME: usize = 5;
/// The most calls between two kills of an upgrade, and of a deletion.
const CALLS: u64 = 60;
const CALLS_OF_DELETION: u64 = 16;
/// One in so many calls asks for a change, about.
const CALLS_PER_CHANGE: u64 = 8;
/// One kill in so many hits a service that just starts, within so long.
const STARTS: u64 = 5;
const START: Duration = Duration::from_millis(30);
/// No call in so long: a service waits.
const QUIET: Duration = Duration::from_secs(1);

/// What happens beside the kills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    /// All nodes boot.
    Plain,
    /// One node does not boot.
    Failing,
    /// Admins drain nodes, before and meanwhile.
    ForeignDrains,
    /// The session is deleted on its way. One node does not boot, another one was drained before.
    Deleted,
    /// Another session shares the upgrading group: it waits in CREATED, then has its turn.
    Sharing,
    /// The jobs of one node do not end in time.
    DrainTimesOut,
}

const SCENARIOS: [Scenario; 6] = [
    Scenario::Plain,
    Scenario::Failing,
    Scenario::ForeignDrains,
    Scenario::Deleted,
    Scenario::Sharing,
    Scenario::DrainTimesOut,
];

/// How often the service is killed in all.
fn kills() -> usize {
    match std::env::var("CRUS_TEST_KILLS") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => 60,
    }
}

impl Scenario {
    /// Jobs of a minute or more on most nodes; boots of two or three.
    fn cluster(self) -> ClusterConfig {
        let mut config = ClusterConfig {
            workload: Workload::Drawn(Drawn {
                busy_per_mille: 800,
                sizes: vec![1, 1, 2],
                length: Span::new(60_000, 240_000),
                ..Drawn::default()
            }),
            slurm: SlurmConfig { epilog: Span::new(1_000, 5_000), ..SlurmConfig::default() },
            bos: simulated::quick_bos(),
            ..simulated::nodes(NODES)
        };
        if matches!(self, Scenario::Failing | Scenario::Deleted) {
            config.nodes[BROKEN].boot = BootBehaviour::Fails;
        }
        if matches!(self, Scenario::ForeignDrains | Scenario::Deleted) {
            config.held.insert(config.nodes[DRAINED].xname, Held::Drained(ADMINS_REASON.to_owned()));
        }
        if self == Scenario::Sharing {
            let all: Vec<Xname> = config.nodes.iter().map(|node| node.xname).collect();
            let group = |members: &[Xname]| GroupSpec { members: members.to_vec(), ..GroupSpec::default() };
            let (first, second) = all.split_at(all.len() / 2);
            config.groups.insert("slurm-nodes".parse().unwrap(), group(first));
            config.groups.insert("other-nodes".parse().unwrap(), group(second));
            config.groups.insert("failed-others".parse().unwrap(), group(&[]));
        }
        if self == Scenario::DrainTimesOut {
            let job = |position: usize, duration_ms| JobSpec {
                id: u32::try_from(position).unwrap() + 1,
                user: "ada".to_owned(),
                wanted: Wanted::Nodes(vec![config.nodes[position].name.clone().unwrap()]),
                cpus: None,
                start_ms: 0,
                duration_ms,
                limit_ms: None,
                partition: None,
                requeue: true,
            };
            let short = (0..BUSY).map(|position| job(position, Some(60_000)));
            config.workload = Workload::Listed(short.chain([job(BUSY, None)]).collect());
        }
        config
    }

    fn specs(self) -> Vec<Value> {
        let mut other = spec(STEP_SIZE);
        other["starting_label"] = json!("other-nodes");
        other["failed_label"] = json!("failed-others");
        if self == Scenario::Sharing { vec![spec(STEP_SIZE), other] } else { vec![spec(STEP_SIZE)] }
    }

    /// Options of the service, besides the usual ones.
    fn options(self) -> &'static [&'static str] {
        if self == Scenario::DrainTimesOut { &["--drain-timeout-s", "3"] } else { &[] }
    }

    /// Whether a node may have ended so.
    fn allows(self, position: usize, state: &NodeState) -> bool {
        match (self, state) {
            (Scenario::Failing, NodeState::Failed(Failure::Boot(_))) => position == BROKEN,
            (Scenario::Failing, NodeState::Upgraded) => position != BROKEN,
            // Others may time out, too, when the machine that runs the test is busy.
            (Scenario::DrainTimesOut, NodeState::Failed(Failure::DrainTimedOut)) => true,
            (Scenario::DrainTimesOut, NodeState::Upgraded) => position != BUSY,
            // A node that an admin takes over while it boots or returns is left to them, whatever came of it.
            (Scenario::ForeignDrains, NodeState::Failed(_)) => position == MEDDLED,
            (_, state) => *state == NodeState::Upgraded,
        }
    }
}

/// Clusters with a service that is killed again and again, and what was seen of it.
#[derive(Default)]
struct Report {
    sessions: usize,
    /// How often it was killed after it had told this last.
    hits: BTreeMap<String, usize>,
    /// From the start of a process to the first call that reached a peer.
    first_calls: Vec<Duration>,
}

impl Report {
    fn kills(&self) -> usize {
        self.hits.values().sum()
    }

    fn hit(&mut self, told: &str) {
        // One line for all steps, sessions and nodes.
        let is_name = |word: &str| word.contains(|c: char| c.is_ascii_digit());
        let words: Vec<&str> = told.split(' ').map(|word| if is_name(word) { "…" } else { word }).collect();
        self.hits.entry(words.join(" ")).or_default().add_assign(1);
    }

    fn add(&mut self, other: Report) {
        self.sessions += other.sessions;
        for (told, count) in other.hits {
            self.hits.entry(told).or_default().add_assign(count);
        }
        self.first_calls.extend(other.first_calls);
    }

    fn print(&mut self) {
        println!("killed {} times in {} sessions, after", self.kills(), self.sessions);
        for (told, count) in &self.hits {
            println!("{count:>6}  {told}");
        }
        self.first_calls.sort_unstable();
        if let Some(worst) = self.first_calls.last() {
            let median = self.first_calls[self.first_calls.len() / 2];
            println!(
                "first call after a restart: median {} ms, worst {} ms",
                median.as_millis(),
                worst.as_millis()
            );
        }
    }
}

/// A cluster whose service is killed again and again.
struct Upgrade {
    scenario: Scenario,
    seed: u64,
    random: u64,
    site: Simulated,
    service: Service,
    /// Where its sessions are.
    paths: Vec<String>,
    xnames: Vec<Xname>,
    report: Report,
    first_call: JoinHandle<Duration>,
}

impl Upgrade {
    async fn begin(scenario: Scenario, seed: u64) -> Upgrade {
        let config = scenario.cluster();
        let xnames = config.nodes.iter().map(|node| node.xname).collect();
        let site = Simulated::start(config, seed, SPEED).await;
        let (service, first_call) = start(scenario, &site);
        let mut paths = Vec::new();
        for spec in scenario.specs() {
            paths.push(service.create(&spec).await);
        }
        let report = Report { sessions: paths.len(), ..Report::default() };
        // The first start is no restart.
        first_call.abort();
        Upgrade { scenario, seed, random: seed, site, service, paths, xnames, report, first_call }
    }

    /// Names the run in what is told of it.
    fn name(&self) -> String {
        format!("{:?}, seed {}", self.scenario, self.seed)
    }

    /// Lets the service work until a moment drawn by what it does, at most `calls` from now: by its calls, most of
    /// which wait for something, or by the changes that it asks for. `false` when it was done before that.
    async fn pass(&mut self, calls: u64) -> bool {
        let (count, span): (fn(&Simulated) -> u64, u64) = match draw(&mut self.random) % 2 {
            0 => (Simulated::calls, calls),
            _ => (Simulated::changes, calls / CALLS_PER_CHANGE),
        };
        let moment = count(&self.site) + draw(&mut self.random) % span;
        let begun = Instant::now();
        for look in 0.. {
            if count(&self.site) >= moment {
                return true;
            }
            if look % 16 == 0 && self.is_over().await {
                return false;
            }
            assert!(begun.elapsed() < PATIENCE, "{}: the service does nothing", self.name());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        unreachable!()
    }

    /// What is told of the sessions, last.
    async fn told(&self) -> String {
        let mut told = Vec::new();
        for path in &self.paths {
            let (_, session) = self.service.get(path).await;
            let last = session["messages"].as_array().and_then(|messages| messages.last()?.as_str());
            told.extend(last.filter(|_| session["state"] != "READY").map(str::to_owned));
        }
        if told.is_empty() { "(nothing)".to_owned() } else { told.join(" | ") }
    }

    /// Kills the service, and starts it again; sometimes more than once.
    async fn kill(self) -> Upgrade {
        self.kill_and(|_| ()).await
    }

    /// The same; something happens while nothing of the service runs.
    async fn kill_and(mut self, meanwhile: fn(&Upgrade)) -> Upgrade {
        let told = self.told().await;
        self.report.hit(&told);
        self.service.signal("KILL");
        assert_eq!(self.service.end(), None);
        while draw(&mut self.random).is_multiple_of(STARTS) {
            let micros = draw(&mut self.random) % u64::try_from(START.as_micros()).unwrap();
            kill_early(command(self.scenario, &self.site), Duration::from_micros(micros)).await;
            self.report.hit("(its start)");
        }
        // Programs of Slurm that it had started may outlive it.
        let begun = Instant::now();
        while self.site.is_used() {
            assert!(begun.elapsed() < PATIENCE, "{}: its programs do not end", self.name());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        meanwhile(&self);
        if self.first_call.is_finished() {
            self.report.first_calls.extend(self.first_call.await.ok());
        } else {
            self.first_call.abort();
        }
        (self.service, self.first_call) = start(self.scenario, &self.site);
        self
    }

    /// Kills it at drawn moments, at most `calls` after each start, until the work is done.
    async fn harass(mut self, calls: u64) -> Upgrade {
        while self.pass(calls).await {
            self = self.kill().await;
        }
        self
    }

    /// Whether nothing is left to do: each session is completed, or deleted and gone.
    async fn is_over(&self) -> bool {
        for path in &self.paths {
            let (code, session) = self.service.get(path).await;
            if code != 404 && session["state"] != "READY" {
                return false;
            }
        }
        true
    }

    /// Lets an admin drain a node, whatever it does. Slurm has no request that depends on a node's reason: a service
    /// at work could not tell if this happened right between its look and its request.
    fn meddle(&self) {
        let name = self.site.names()[&self.xnames[MEDDLED]].clone();
        self.site.live.with(|cluster| cluster.update(&[name], &Update::drain(ADMINS_REASON)).unwrap());
    }

    /// What a session did to the world, as the world tells it. `own`: the nodes that may be in its groups.
    fn audited(&self, session: &Session, own: &[Xname]) -> (Audit, Vec<Violation>) {
        Audit::of(session, own.iter().copied().collect(), &self.site.facts())
    }

    fn world_of(&self, session: &Session) -> Outcome {
        Outcome { failed: self.site.members(session.head.spec.failed.as_str()), ..self.site.world() }
    }
}

fn command(scenario: Scenario, site: &Simulated) -> Command {
    let mut command = site.serve();
    command.args(scenario.options());
    command
}

/// Starts the service; from then on, how long it takes until it calls a peer.
fn start(scenario: Scenario, site: &Simulated) -> (Service, JoinHandle<Duration>) {
    let (live, begun) = (site.live.clone(), Instant::now());
    let calls = move || live.calls().values().sum::<u64>();
    let before = calls();
    let first_call = tokio::spawn(async move {
        while calls() == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        begun.elapsed()
    });
    (Service::start(command(scenario, site)), first_call)
}

/// Kills the service so long after its start, whether or not it has come to anything.
async fn kill_early(mut command: Command, after: Duration) {
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    tokio::time::sleep(after).await;
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The positions in the story at which a node carries a session's own drain.
fn drains(facts: &[Fact], id: UpgradeId) -> impl Iterator<Item = usize> {
    let own = messages::drain_reason(id);
    facts.iter().enumerate().filter_map(move |(at, fact)| match &fact.what {
        What::NodeChanged { reason, held: true, .. } if reason.as_deref() == Some(&own) => Some(at),
        _ => None,
    })
}

/// An upgrade that runs to its end. P1 to P6 and P8, whatever is forgotten.
async fn upgraded_all_the_same(scenario: Scenario, seed: u64) -> Report {
    let mut upgrade = Upgrade::begin(scenario, seed).await;
    if scenario == Scenario::ForeignDrains {
        let changes = seed % 60;
        while upgrade.site.changes() < changes && upgrade.pass(CALLS).await {
            upgrade = upgrade.kill().await;
        }
        upgrade = upgrade.kill_and(Upgrade::meddle).await;
    }
    let mut upgrade = upgrade.harass(CALLS).await;
    let ids = upgrade.paths.iter().map(|path| id_of(path));
    let ids: Vec<UpgradeId> = ids.collect();
    upgrade.service.signal("TERM");
    assert_eq!(upgrade.service.end(), Some(0));

    let name = upgrade.name();
    let mut upgraded = 0;
    for &id in &ids {
        let session = upgrade.site.stored(id).await;
        // Sessions that take turns share their upgrading group.
        let (audit, mut violations) = upgrade.audited(&session, &upgrade.xnames);
        violations.extend(audit.at_end(&session, &upgrade.world_of(&session)));
        assert_eq!(violations, [], "{name}");
        assert_eq!(session.messages.last().unwrap().text, "Upgrade Session Completed", "{name}");
        for node in &session.nodes {
            let position = upgrade.xnames.iter().position(|xname| *xname == node.xname).unwrap();
            assert!(scenario.allows(position, &node.state), "{name}: {node:?}");
            let timed_out = node.state == NodeState::Failed(Failure::DrainTimedOut);
            let reboots = audit.reboots(node.xname);
            if scenario == Scenario::ForeignDrains && position == MEDDLED {
                assert!(reboots <= 1, "{name}: {node:?}");
            } else {
                assert_eq!(reboots, u32::from(!timed_out), "{name}: {node:?}");
            }
        }
        upgraded += session.nodes.len();
    }
    assert_eq!(upgraded, upgrade.xnames.len(), "{name}");

    let world = upgrade.site.world();
    let reason = |position: usize| world.nodes[&upgrade.xnames[position]].reason.clone().unwrap_or_default();
    if scenario == Scenario::ForeignDrains {
        assert_eq!(reason(DRAINED), ADMINS_REASON, "{name}");
        assert!(reason(MEDDLED).starts_with(ADMINS_REASON), "{name}: {}", reason(MEDDLED));
    }
    if let [first, second] = ids[..] {
        let facts = upgrade.site.facts();
        let (last, next) = (drains(&facts, first).last(), drains(&facts, second).next());
        assert!(last < next, "{name}: the second session began before the first had ended");
    }
    upgrade.report
}

/// P7: once the order was answered for, it holds whatever becomes of the service.
async fn deleted_all_the_same(scenario: Scenario, seed: u64) -> Report {
    let mut upgrade = Upgrade::begin(scenario, seed).await;
    // Far enough for nodes to be drained or booting, and before the end.
    let changes = seed % 30;
    while upgrade.site.changes() < changes && upgrade.pass(CALLS).await {
        upgrade = upgrade.kill().await;
    }
    let name = upgrade.name();
    let path = upgrade.paths[0].clone();
    let (code, deleting) = upgrade.service.delete(&path).await;
    assert_eq!((code, &deleting["state"]), (200, &json!("DELETING")), "{name}");
    // The session will be gone when it is to be compared with the facts.
    let id = id_of(&path);
    let session = Session::new(id, model_spec(), "1.0.0", Limits::default(), Time(0));
    let upgrade = upgrade.kill().await.harass(CALLS_OF_DELETION).await;
    assert_eq!(upgrade.service.get(&path).await.0, 404, "{name}");

    let (audit, violations) = upgrade.audited(&session, &upgrade.xnames);
    assert_eq!(violations, [], "{name}");
    let world = upgrade.site.world();
    assert!(world.upgrading.is_empty(), "{name}: {:?}", world.upgrading);
    for (xname, view) in &world.nodes {
        let reason = view.reason.clone().unwrap_or_default();
        let told = format!("{name}: {xname} {view:?}");
        let is_broken = *xname == upgrade.xnames[BROKEN] && audit.reboots(*xname) == 1;
        if *xname == upgrade.xnames[DRAINED] {
            assert!(view.held && reason == ADMINS_REASON, "{told}");
        } else if is_broken {
            assert!(view.held && reason.contains(&session.head.id.to_string()), "{told}");
            assert!(!reason.contains(&messages::drain_reason(session.head.id)), "{told}");
            assert!(world.failed.contains(xname), "{told}");
        } else {
            assert!(!view.held, "{told}");
        }
    }
    upgrade.report
}

fn model_spec() -> Spec {
    Spec {
        starting: "slurm-nodes".parse().unwrap(),
        upgrading: "upgrading-nodes".parse().unwrap(),
        failed: "failed-nodes".parse().unwrap(),
        step_size: STEP_SIZE.try_into().unwrap(),
        template: "new-image".parse().unwrap(),
        tenant: None,
        strategy: crus_core::Strategy::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn p1_to_p8_sessions_of_every_kind_survive_kill_9_at_any_moment() {
    let mut seeds = seed();
    let wanted = kills();
    let mut scenarios = SCENARIOS.iter().copied().cycle();
    let mut begun = BTreeSet::new();
    let (mut running, mut report) = (JoinSet::new(), Report::default());
    // Each kind at least once.
    while report.kills() < wanted || begun.len() < SCENARIOS.len() || !running.is_empty() {
        let more = report.kills() < wanted || begun.len() < SCENARIOS.len();
        if more && running.len() < AT_A_TIME {
            let (scenario, seed) = (scenarios.next().unwrap(), draw(&mut seeds));
            begun.insert(format!("{scenario:?}"));
            running.spawn(async move {
                match scenario {
                    Scenario::Deleted => deleted_all_the_same(scenario, seed).await,
                    _ => upgraded_all_the_same(scenario, seed).await,
                }
            });
        } else if let Some(ended) = running.join_next().await {
            report.add(ended.unwrap());
        }
    }
    report.print();
}

/// A service that was away looks at once, not after an interval: this one is started again and again with an hour
/// between two looks, and comes to its end by what it does right after each start.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p9_a_restarted_service_acts_at_once_whatever_its_interval() {
    let seed = seed();
    let site = Simulated::start(Scenario::Failing.cluster(), seed, SPEED).await;
    let serve = || Service::start(site.serve_from(&site.store(), "3600"));
    let service = serve();
    let path = service.create(&spec(STEP_SIZE)).await;
    service.kill();
    let mut restarts = 0;
    let begun = Instant::now();
    loop {
        let before = site.calls();
        let service = serve();
        restarts += 1;
        if service.is_ready(&path).await {
            break;
        }
        until("a call after the restart", async || site.calls() > before).await;
        // Until it has nothing more to do but wait: for long it calls nobody, and no program of Slurm that it has started
        // is still to come to its call.
        let (mut calls, mut since) = (0, Instant::now());
        until("the service to wait", async || {
            if std::mem::replace(&mut calls, site.calls()) != calls || site.users() != [service.pid()] {
                since = Instant::now();
            }
            since.elapsed() > QUIET
        })
        .await;
        service.kill();
        assert!(begun.elapsed() < 2 * PATIENCE, "seed {seed}: {restarts} restarts came to nothing");
    }
    println!("{restarts} restarts");
}
