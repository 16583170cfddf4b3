//! The service is killed at any moment, and again: what it had begun is brought to its right end. The cluster is
//! simulated; the service, its store, its clients and the programs they start are processes of their own.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "support/simulated.rs"]
mod simulated;
mod support;

use std::time::{Duration, Instant};

use crus_core::check::{Audit, Violation};
use crus_core::messages;
use crus_core::model::{Failure, NodeState};
use crus_core::{Limits, Session, Spec, Time, UpgradeId, Xname};
use crus_sim::ClusterConfig;
use crus_sim::config::{BootBehaviour, BosConfig, Held, SlurmConfig, Span};
use crus_sim::workload::{Drawn, Workload};
use simulated::Simulated;
use support::{PATIENCE, Service, path_of, spec, until};

const NODES: u32 = 12;
const STEP_SIZE: u32 = 4;
/// The positions of the node that will not boot, and of the one that an admin drained.
const BROKEN: usize = 3;
const DRAINED: usize = 8;
const ADMINS_REASON: &str = "bad DIMM, ticket 4711";
/// So many virtual seconds pass in a real one.
const SPEED: f64 = 120.0;
/// How often each service is killed.
const KILLS: usize = 8;
/// One in so many of its calls asks for a change, about.
const CALLS_PER_CHANGE: u64 = 8;

/// Set to repeat the draws of a run; its timing is that of real processes and is not repeated.
const SEED: &str = "CRUS_TEST_SEED";

fn seed() -> u64 {
    let seed = match std::env::var(SEED) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => uuid::Uuid::new_v4().as_u64_pair().0,
    };
    println!("{SEED}={seed}");
    seed
}

/// The next random number: splitmix64.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Jobs of a minute or more on most nodes; boots of two or three.
fn cluster() -> ClusterConfig {
    let mut config = ClusterConfig {
        workload: Workload::Drawn(Drawn {
            busy_per_mille: 800,
            sizes: vec![1, 1, 2],
            length: Span::new(60_000, 240_000),
            ..Drawn::default()
        }),
        slurm: SlurmConfig { epilog: Span::new(1_000, 5_000), ..SlurmConfig::default() },
        bos: BosConfig {
            boot: Span::new(120_000, 180_000),
            attempts: 1,
            attempt_ms: 300_000,
            ..BosConfig::default()
        },
        ..simulated::nodes(NODES)
    };
    config.nodes[BROKEN].boot = BootBehaviour::Fails;
    config.held.insert(config.nodes[DRAINED].xname, Held::Drained(ADMINS_REASON.to_owned()));
    config
}

/// An upgrade whose service is killed again and again.
struct Upgrade {
    seed: u64,
    site: Simulated,
    service: Service,
    path: String,
    xnames: Vec<Xname>,
}

impl Upgrade {
    async fn begin(seed: u64) -> Upgrade {
        let config = cluster();
        let xnames = config.nodes.iter().map(|node| node.xname).collect();
        let site = Simulated::start(config, seed, SPEED).await;
        let service = Service::start(site.serve());
        let (code, created) = service.post(&spec(STEP_SIZE)).await;
        assert_eq!(code, 201, "{created}");
        Upgrade { seed, path: path_of(&created), site, service, xnames }
    }

    fn id(&self) -> UpgradeId {
        self.path.rsplit('/').next().unwrap().parse().unwrap()
    }

    /// Lets the service work until a moment drawn by what it does, at most `calls` from now: by its calls, most of
    /// which wait for something, or by the changes that it asks for. `false` when it was done before that.
    async fn pass(&self, random: &mut u64, calls: u64) -> bool {
        let (count, span): (fn(&Simulated) -> u64, u64) = match draw(random) % 2 {
            0 => (Simulated::calls, calls),
            _ => (Simulated::changes, calls / CALLS_PER_CHANGE),
        };
        let moment = count(&self.site) + draw(random) % span;
        let begun = Instant::now();
        while count(&self.site) < moment {
            if self.is_over().await {
                return false;
            }
            assert!(begun.elapsed() < PATIENCE, "seed {}: the service does nothing", self.seed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        true
    }

    /// Kills the service, and starts it again.
    async fn kill(mut self, hits: &mut Vec<String>) -> Upgrade {
        let (_, session) = self.service.get(&self.path).await;
        let told = session["messages"].as_array().and_then(|messages| messages.last()?.as_str());
        hits.push(told.unwrap_or("(nothing)").to_owned());
        self.service.kill();
        self.service = Service::start(self.site.serve());
        self
    }

    /// Kills it at drawn moments, at most `calls` after each start. What it had told last each time.
    async fn harass(mut self, random: &mut u64, calls: u64, mut hits: Vec<String>) -> (Upgrade, Vec<String>) {
        while hits.len() < KILLS && self.pass(random, calls).await {
            self = self.kill(&mut hits).await;
        }
        println!("seed {}: killed after\n    {}", self.seed, hits.join("\n    "));
        (self, hits)
    }

    /// Whether nothing is left to do: it is completed, or deleted and gone.
    async fn is_over(&self) -> bool {
        let (code, session) = self.service.get(&self.path).await;
        code == 404 || session["state"] == "READY"
    }

    /// What the session did to the world, as the world tells it.
    fn audited(&self, session: &Session) -> (Audit, Vec<Violation>) {
        let mut audit = Audit::new(session, self.xnames.iter().copied().collect());
        let violations = self.site.facts().iter().flat_map(|fact| audit.witness(fact)).collect();
        (audit, violations)
    }
}

/// P1 to P6 and P8, whatever is forgotten.
async fn upgraded_all_the_same(seed: u64) -> usize {
    let mut random = seed;
    let (mut upgrade, hits) = Upgrade::begin(seed).await.harass(&mut random, 80, Vec::new()).await;
    until(&format!("seed {seed}: the session completed"), async || upgrade.is_over().await).await;
    let (id, xnames) = (upgrade.id(), upgrade.xnames.clone());
    upgrade.service.signal("TERM");
    assert_eq!(upgrade.service.end(), Some(0));
    let session = upgrade.site.stored(id).await;

    let (audit, mut violations) = upgrade.audited(&session);
    let world = upgrade.site.world();
    violations.extend(audit.at_end(&session, &world));
    assert_eq!(violations, [], "seed {seed}, killed in {hits:?}");
    for (node, xname) in session.nodes.iter().zip(&xnames) {
        assert_eq!((node.xname, audit.reboots(*xname)), (*xname, 1), "seed {seed}");
        let broken = *xname == xnames[BROKEN];
        let as_expected = match node.state {
            NodeState::Upgraded => !broken,
            NodeState::Failed(Failure::Boot(_)) => broken,
            _ => false,
        };
        assert!(as_expected, "seed {seed}, killed in {hits:?}: {node:?}");
    }
    assert_eq!(world.nodes[&xnames[DRAINED]].reason.as_deref(), Some(ADMINS_REASON), "seed {seed}");
    assert_eq!(session.messages.last().unwrap().text, "Upgrade Session Completed");
    hits.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p3_an_upgrade_survives_kill_9_at_any_moment() {
    let mut seeds = seed();
    let [one, two, three] = std::array::from_fn(|_| upgraded_all_the_same(draw(&mut seeds)));
    let (one, two, three) = tokio::join!(one, two, three);
    let kills = one + two + three;
    assert!(kills >= 3, "only {kills} kills hit a session at work");
}

/// P7: once the order was answered for, it holds whatever becomes of the service.
async fn deleted_all_the_same(seed: u64) {
    let mut random = seed;
    let upgrade = Upgrade::begin(seed).await;
    // Far enough for nodes to be drained or booting, and before the end.
    until("nodes at work", async || upgrade.site.changes() > seed % 30).await;
    let (code, deleting) = upgrade.service.delete(&upgrade.path).await;
    assert_eq!((code, &deleting["state"]), (200, &serde_json::json!("DELETING")), "seed {seed}");
    // The session will be gone when it is to be compared with the facts.
    let session = Session::new(upgrade.id(), model_spec(), "1.0.0", Limits::default(), Time(0));
    let mut hits = Vec::new();
    let (upgrade, hits) = upgrade.kill(&mut hits).await.harass(&mut random, 16, hits).await;
    until(&format!("seed {seed}: the session gone"), async || upgrade.is_over().await).await;
    assert_eq!(upgrade.service.get(&upgrade.path).await.0, 404);

    let (audit, violations) = upgrade.audited(&session);
    assert_eq!(violations, [], "seed {seed}, killed in {hits:?}");
    let world = upgrade.site.world();
    assert!(world.upgrading.is_empty(), "seed {seed}: {:?}", world.upgrading);
    for (xname, view) in &world.nodes {
        let reason = view.reason.clone().unwrap_or_default();
        let told = format!("seed {seed}, killed in {hits:?}: {xname} {view:?}");
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
}

fn model_spec() -> Spec {
    Spec {
        starting: "slurm-nodes".parse().unwrap(),
        upgrading: "upgrading-nodes".parse().unwrap(),
        failed: "failed-nodes".parse().unwrap(),
        step_size: STEP_SIZE.try_into().unwrap(),
        template: "new-image".parse().unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p7_a_deletion_survives_kill_9_at_any_moment() {
    let mut seeds = seed();
    let [one, two, three] = std::array::from_fn(|_| deleted_all_the_same(draw(&mut seeds)));
    tokio::join!(one, two, three);
}
