//! Three replicas of the service on a real etcd and one simulated cluster: whoever dies, is stopped or is cut off, the
//! upgrade goes on elsewhere, and the world ends right.
//!
//! Each replica has a face of the cluster for itself, so that its calls can be told from those of the others.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::chance::{draw, seed};
use crate::support::etcd::{Etcd, left_out};
use crate::support::simulated::{self, Simulated};
use crate::support::stream::{Client, Event};
use crate::support::{self, Service, id_of, spec, until};
use crus_core::history::Happening;
use crus_core::model::{Command as Order, NodeState};
use crus_core::ports::SessionStore as _;
use crus_core::promises::Audit;
use crus_core::{Session, UpgradeId, Xname};
use crus_server::store::EtcdStore;
use crus_sim::config::{BootBehaviour, BosConfig, SlurmConfig, Span};
use crus_sim::workload::{Drawn, Workload};
use crus_sim::{ClusterConfig, stand_in};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

const REPLICAS: usize = 3;
const NODES: u32 = 6;
const STEP_SIZE: u32 = 2;
/// So many virtual seconds pass in a real one.
const SPEED: f64 = 60.0;
const POLL_S: &str = "0.1";

/// Seconds: a lease that tests wait for, and one that no test lives to see the end of.
const SHORT: u64 = 6;
const LONG: u64 = 600;

/// No call in so long: a replica sleeps between two looks, or does nothing any more.
const BETWEEN_LOOKS: Duration = Duration::from_millis(30);
const MANY_LOOKS: Duration = Duration::from_secs(1);
/// How long etcd is lost: much longer than any lease, and than a first few attempts at it.
const OUTAGE: Duration = Duration::from_secs(60);

/// Jobs of a minute or two on most nodes, and boots likewise.
fn cluster() -> ClusterConfig {
    ClusterConfig {
        workload: Workload::Drawn(Drawn {
            busy_per_mille: 800,
            sizes: vec![1, 1, 2],
            length: Span::new(60_000, 120_000),
            ..Drawn::default()
        }),
        slurm: SlurmConfig { epilog: Span::new(1_000, 5_000), ..SlurmConfig::default() },
        bos: BosConfig { boot: Span::new(60_000, 120_000), ..BosConfig::default() },
        ..simulated::nodes(NODES)
    }
}

/// One replica's face of the cluster, which notes all calls: to HSM, BOS and, by its programs, Slurm.
struct Face {
    url: String,
    calls: Arc<Mutex<Vec<Instant>>>,
    serving: AbortHandle,
    folder: tempfile::TempDir,
}

impl Drop for Face {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Face {
    async fn of(site: &Simulated) -> Face {
        let calls = Arc::<Mutex<Vec<Instant>>>::default();
        let noted = Arc::clone(&calls);
        let note = axum::middleware::from_fn(move |request, next: axum::middleware::Next| {
            noted.lock().unwrap().push(Instant::now());
            next.run(request)
        });
        let router = crus_sim::http::router(&site.live).layer(note);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let folder = tempfile::tempdir().unwrap();
        let program = Path::new(env!("CARGO_BIN_EXE_crus"));
        stand_in::write_programs(folder.path(), program, &["slurm-stand-in"], &address).unwrap();
        Face { url: format!("http://{address}"), calls, serving: serving.abort_handle(), folder }
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// When the call at this position came.
    fn call(&self, position: usize) -> Option<Instant> {
        self.calls.lock().unwrap().get(position).copied()
    }

    fn last_call(&self) -> Option<Instant> {
        self.calls.lock().unwrap().last().copied()
    }
}

/// One replica's way to etcd, which can be cut: its connections stay open, and nothing comes through.
struct Way {
    url: String,
    open: watch::Sender<bool>,
    serving: AbortHandle,
}

impl Drop for Way {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Way {
    async fn to(etcd: &Etcd) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let target = etcd.endpoint().strip_prefix("http://").unwrap().to_owned();
        let (open, is_open) = watch::channel(true);
        let serving = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                // While etcd is down, whoever comes is sent away.
                let Ok(far) = TcpStream::connect(&target).await else { continue };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                tokio::spawn(pass(near_in, far_out, is_open.clone()));
                tokio::spawn(pass(far_in, near_out, is_open.clone()));
            }
        });
        Way { url, open, serving: serving.abort_handle() }
    }

    fn cut(&self) {
        self.open.send_replace(false);
    }

    fn mend(&self) {
        self.open.send_replace(true);
    }
}

/// Passes on what comes while the way is open, up to the end of either side.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut is_open: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let passed =
            is_open.wait_for(|open| *open).await.is_ok() && to.write_all(&buffer[..read]).await.is_ok();
        if !passed {
            return;
        }
    }
}

/// Three replicas, and an upgrade that they do.
struct Site {
    told: String,
    lease_s: u64,
    etcd: Etcd,
    cluster: Simulated,
    faces: Vec<Face>,
    ways: Vec<Way>,
    /// By the same positions as their faces; `None` while it does not run.
    replicas: Vec<Option<Service>>,
    xnames: Vec<Xname>,
    path: String,
}

impl Site {
    /// With an upgrade at work, which the replica at this position was asked for.
    async fn begin(seed: u64, lease_s: u64, asked: usize) -> Site {
        let etcd = Etcd::start().await;
        let config = cluster();
        let xnames = config.nodes.iter().map(|node| node.xname).collect();
        let cluster = Simulated::start(config, seed, SPEED).await;
        let (mut faces, mut ways) = (Vec::new(), Vec::new());
        for _ in 0..REPLICAS {
            faces.push(Face::of(&cluster).await);
            ways.push(Way::to(&etcd).await);
        }
        let (told, path) = (format!("seed {seed}"), String::new());
        let mut site = Site { told, lease_s, etcd, cluster, faces, ways, replicas: Vec::new(), xnames, path };
        for i in 0..REPLICAS {
            let replica = site.start(i);
            site.replicas.push(Some(replica));
        }
        site.path = site.post(asked).await;
        site.known().await;
        until("nodes at work", async || site.cluster.changes() > 2).await;
        site
    }

    fn start(&self, i: usize) -> Service {
        let Face { url, folder, .. } = &self.faces[i];
        // There is no such folder: sessions are in etcd.
        let nowhere = Path::new("/nowhere/crus.redb");
        let mut command = support::serve(nowhere, &format!("{url}/hsm/v2"), &format!("{url}/v2"), POLL_S);
        for program in ["scontrol", "squeue"] {
            command.arg(format!("--{program}")).arg(folder.path().join(program));
        }
        command.args(["--settle-s", "1", "--etcd-endpoints", &self.ways[i].url]);
        command.args(["--etcd-lease-s", &self.lease_s.to_string()]);
        // That leases are lost is what happens here.
        command.env("CRUS_LOG", "off");
        Service::start(command)
    }

    fn replica(&self, i: usize) -> &Service {
        self.replicas[i].as_ref().unwrap()
    }

    fn running(&self) -> impl Iterator<Item = &Service> {
        self.replicas.iter().flatten()
    }

    async fn post(&self, i: usize) -> String {
        self.replica(i).create(&spec(STEP_SIZE)).await
    }

    /// Asks a replica to pause, resume or retry the session.
    async fn order(&self, i: usize, what: &str) -> (u16, Value) {
        let url = format!("{}{}/{what}", self.replica(i).url, self.path);
        let answer = reqwest::Client::new().post(url).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Waits until a replica tells these values of its lease, of the metrics `crus_lease…`.
    async fn tells_of_its_lease(&self, i: usize, wanted: &[(&str, f64)]) {
        let url = format!("{}/metrics", self.replica(i).url);
        let mut told = String::new();
        let met = async || {
            told = reqwest::get(&url).await.unwrap().text().await.unwrap();
            let has = |(name, value): &(&str, f64)| {
                told.lines().any(|line| line == format!("crus_lease{name} {value}"))
            };
            wanted.iter().all(has)
        };
        until(&format!("{}: replica {i} tells {wanted:?} of its lease", self.told), met).await;
    }

    fn id(&self) -> UpgradeId {
        id_of(&self.path)
    }

    /// Waits until every replica answers for the session.
    async fn known(&self) {
        for replica in self.running() {
            until("the session known to all", async || replica.get(&self.path).await.0 == 200).await;
        }
    }

    /// The position of the replica that owns the session, as etcd has it.
    async fn owner(&self) -> Option<usize> {
        let key = format!("/crus/live/owners/{}", self.id());
        let owner = self.etcd.client().await.get(key, None).await.unwrap();
        let text = owner.kvs().first()?.value_str().unwrap().to_owned();
        let is_named = |service: &Service| text.starts_with(&format!("process {} on ", service.pid()));
        self.replicas.iter().position(|replica| replica.as_ref().is_some_and(is_named))
    }

    async fn some_owner(&self) -> usize {
        let mut owner = None;
        until("an owner", async || {
            owner = self.owner().await;
            owner.is_some()
        })
        .await;
        owner.unwrap()
    }

    /// Waits until another replica has gone on with the session; which.
    async fn taken_over_from(&self, before: usize, what: &str) -> usize {
        let begun = Instant::now();
        let calls: Vec<usize> = self.faces.iter().map(Face::calls).collect();
        let mut heir = before;
        until("another replica goes on", async || {
            let acting = (0..REPLICAS).find(|&i| i != before && self.faces[i].calls() > calls[i]);
            heir = acting.unwrap_or(before);
            heir != before
        })
        .await;
        println!("{}: {what}: another replica went on after {:?}", self.told, begun.elapsed());
        heir
    }

    /// Waits for a moment between two looks of a replica, so that it is not in the middle of a call.
    async fn asleep(&self, i: usize) {
        let face = &self.faces[i];
        let (mut seen, mut since) = (face.calls(), None);
        until("a moment between two looks", async || {
            let now = face.calls();
            if now != seen {
                (seen, since) = (now, Some(Instant::now()));
            }
            since.is_some_and(|since| since.elapsed() > BETWEEN_LOOKS)
        })
        .await;
    }

    /// Waits until nobody asks anything of the cluster any more.
    async fn quiet(&self) {
        let calls = || self.faces.iter().map(Face::calls).sum::<usize>();
        let (mut seen, mut since) = (calls(), Instant::now());
        until("nobody acts", async || {
            if calls() != seen {
                (seen, since) = (calls(), Instant::now());
            }
            since.elapsed() > MANY_LOOKS
        })
        .await;
    }

    /// Waits until all replicas answer that the session is completed.
    async fn completed(&self) {
        for replica in self.running() {
            let done = async || replica.is_ready(&self.path).await;
            until(&format!("{}: completed as all replicas tell it", self.told), done).await;
        }
    }

    async fn stored(&self) -> Session {
        let store = EtcdStore::open(&self.etcd.options(LONG)).await.unwrap();
        let stored = store.load(self.id()).await.unwrap().unwrap().0;
        store.close().await;
        stored
    }

    /// P1 to P6 and P8: each node was upgraded, by one reboot.
    async fn ends_right(&self) {
        self.completed().await;
        let session = self.stored().await;
        let audit = self.cluster.assert_kept(&session, &self.told);
        assert_eq!(session.nodes.len(), self.xnames.len());
        for node in &session.nodes {
            let reboots = audit.reboots(node.xname);
            assert_eq!((&node.state, reboots), (&NodeState::Upgraded, 1), "{}: {}", self.told, node.xname);
        }
        let last = session.messages.last().unwrap();
        assert_eq!(last.text, "Upgrade Session Completed", "{}", self.told);
        for replica in self.running() {
            let tells = async || {
                let (_, answer) = replica.get(&self.path).await;
                answer["messages"].as_array().unwrap().last() == Some(&json!(last.text))
            };
            until(&format!("{}: the last message as all replicas tell it", self.told), tells).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_another_replica_goes_on_when_the_owner_is_killed() {
    if left_out() {
        return;
    }
    let mut site = Site::begin(seed(), SHORT, 0).await;
    for _ in 0..2 {
        let owner = site.some_owner().await;
        site.replicas[owner].take().unwrap().kill();
        let heir = site.taken_over_from(owner, &format!("killed, lease of {SHORT} s")).await;
        assert_eq!(site.some_owner().await, heir);
        let again = site.start(owner);
        site.replicas[owner] = Some(again);
        site.known().await;
    }
    site.ends_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_an_owner_that_was_stopped_past_its_lease_notices_before_it_acts() {
    if left_out() {
        return;
    }
    let site = Site::begin(seed(), SHORT, 0).await;
    let stopped = site.some_owner().await;
    site.asleep(stopped).await;
    site.replica(stopped).signal("STOP");
    let heir = site.taken_over_from(stopped, &format!("stopped, lease of {SHORT} s")).await;
    assert_eq!(site.some_owner().await, heir);
    let before = site.faces[stopped].calls();
    // Nobody can tell it: it must look at its clock.
    site.ways[stopped].cut();
    site.replica(stopped).signal("CONT");
    // It goes on while there is work to be done, and answers for it.
    let (_, answer) = site.replica(heir).get(&site.path).await;
    assert_eq!(answer["state"], "UPDATING", "{}", site.told);
    let done = async || site.replica(heir).is_ready(&site.path).await;
    until(&format!("{}: completed", site.told), done).await;
    site.ways[stopped].mend();
    site.ends_right().await;
    assert_eq!(site.faces[stopped].calls(), before, "{}: it acted for a session of another", site.told);
}

/// Whoever notes a command in etcd, the owner hears of it; one that is noted while nobody runs the session is taken in by
/// the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_commands_that_are_noted_anywhere_reach_the_owner_and_survive_it() {
    if left_out() {
        return;
    }
    let mut site = Site::begin(seed(), SHORT, 0).await;
    let id = site.id();
    let store = EtcdStore::open(&site.etcd.options(LONG)).await.unwrap();
    let head = async || store.summary(id).await.unwrap().unwrap().head;
    store.command(id, Order::Pause, None).await.unwrap().unwrap();
    until("the owner has paused it", async || head().await.pause.is_some()).await;
    assert!(store.commands(id).await.unwrap().is_empty(), "{}: it was taken in", site.told);

    let owner = site.some_owner().await;
    site.asleep(owner).await;
    site.replica(owner).signal("STOP");
    let number = store.command(id, Order::Resume, None).await.unwrap().unwrap();
    assert_eq!(store.command(id, Order::Resume, None).await, Ok(Some(number)), "asked again");
    site.replicas[owner].take().unwrap().kill();
    until("another one has resumed it", async || head().await.pause.is_none()).await;
    site.replicas[owner] = Some(site.start(owner));
    site.known().await;
    let history = store.history(id, 0, usize::MAX).await.unwrap();
    let times = |what: fn(&Happening) -> bool| history.iter().filter(|entry| what(&entry.what)).count();
    assert_eq!(times(|what| matches!(what, Happening::Paused { .. })), 1, "{}", site.told);
    assert_eq!(times(|what| matches!(what, Happening::Resumed { .. })), 1, "{}", site.told);
    store.close().await;
    site.ends_right().await;
}

/// Pause, resume and retry, each asked of another replica than the one that runs the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_session_is_paused_resumed_and_retried_by_replicas_that_do_not_run_it() {
    if left_out() {
        return;
    }
    let mut site = Site::begin(seed(), SHORT, 0).await;
    let owner = site.some_owner().await;
    let (one, two) = ((owner + 1) % REPLICAS, (owner + 2) % REPLICAS);
    let order = async |i: usize, what: &str| site.order(i, what).await;
    let paused = async |i: usize| {
        let (code, progress) = site.replica(i).get(&format!("{}/progress", site.path)).await;
        assert_eq!(code, 200, "{progress}");
        !progress["paused"].is_null()
    };
    let (code, answer) = order(one, "pause").await;
    assert_eq!(code, 200, "{answer}");
    for i in 0..REPLICAS {
        until("paused as all replicas tell it", async || paused(i).await).await;
    }
    // No step begins meanwhile: what is pending is not touched before it is broken.
    let nodes = site.stored().await.nodes;
    let broken = nodes.iter().rposition(|node| node.state == NodeState::Pending).unwrap();
    let boots = |behaviour| {
        site.cluster.live.with(|cluster| cluster.set_boot_behaviour(nodes[broken].xname, behaviour));
    };
    boots(BootBehaviour::OnHold { error: "no power".to_owned() });
    let (code, answer) = order(two, "resume").await;
    assert_eq!(code, 200, "{answer}");
    for i in 0..REPLICAS {
        until("resumed as all replicas tell it", async || !paused(i).await).await;
    }
    let (code, problem) = order(one, "retry").await;
    assert_eq!((code, problem["status"].as_u64()), (409, Some(409)), "{problem}");
    site.completed().await;
    assert_eq!(site.stored().await.head.counts.failed, 1, "{}", site.told);

    // All of them are restarted: nobody remembers the session but the store.
    boots(BootBehaviour::Normal);
    for i in 0..REPLICAS {
        site.replicas[i].take().unwrap().kill();
    }
    for i in 0..REPLICAS {
        site.replicas[i] = Some(site.start(i));
    }
    site.known().await;
    let (code, answer) = site.order(two, "retry").await;
    assert_eq!(code, 200, "{answer}");
    until("its nodes are all upgraded", async || site.stored().await.head.counts.upgraded == NODES as usize)
        .await;
    site.completed().await;
    assert_eq!(site.stored().await.nodes[broken].attempt, 1, "{}", site.told);
}

/// Whichever replica runs the session, and whichever one follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_from_replica_to_replica_sees_each_event_once() {
    if left_out() {
        return;
    }
    let mut site = Site::begin(seed(), SHORT, 0).await;
    let mut seen: Vec<Event> = Vec::new();
    let last = |seen: &[Event]| seen.last().map_or(0, |event| event.id.unwrap());
    for _ in 0..2 {
        let owner = site.some_owner().await;
        let followed = (owner + 1) % REPLICAS;
        let client = Client::connect(site.replica(followed), &site.path, last(&seen)).await;
        until("an event of another replica's session", async || !client.seen().is_empty()).await;
        site.replicas[owner].take().unwrap().kill();
        site.taken_over_from(owner, "killed").await;
        site.replicas[followed].take().unwrap().kill();
        seen.extend(client.end().await.0);
        for i in [owner, followed] {
            site.replicas[i] = Some(site.start(i));
        }
        site.known().await;
    }
    let follower = (site.some_owner().await + 1) % REPLICAS;
    let client = Client::connect(site.replica(follower), &site.path, last(&seen)).await;
    site.completed().await;
    until("the last event", async || client.seen().last().is_some_and(|event| event.kind == "finished"))
        .await;
    seen.extend(client.seen());
    let ids: Vec<u64> = seen.iter().map(|event| event.id.unwrap()).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "{}: each once, and in order", site.told);
    for replica in site.running() {
        let (_, list) = replica.get(&format!("{}/events?limit=10000", site.path)).await;
        let shown: Vec<&Value> = seen.iter().map(|event| &event.data).collect();
        assert_eq!(list["events"].as_array().unwrap().iter().collect::<Vec<_>>(), shown, "{}", site.told);
        let (_, progress) = replica.get(&format!("{}/progress", site.path)).await;
        assert_eq!((&progress["counts"]["upgraded"], &progress["percent"]), (&json!(NODES), &json!(100)));
        let (_, nodes) = replica.get(&format!("{}/nodes?state=upgraded", site.path)).await;
        assert_eq!(nodes["nodes"].as_array().unwrap().len(), site.xnames.len());
    }
    assert_eq!(site.replica(follower).delete(&site.path).await.0, 200);
    let (all, in_order) = client.end().await;
    assert_eq!((all.last().unwrap().kind.as_str(), in_order), ("deleted", true), "{}", site.told);
}

/// It runs, and etcd does not hear of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_an_owner_that_is_cut_off_stops_before_another_begins() {
    if left_out() {
        return;
    }
    let site = Site::begin(seed(), SHORT, 2).await;
    let owner = site.some_owner().await;
    let begun: Vec<usize> = site.faces.iter().map(Face::calls).collect();
    site.ways[owner].cut();
    let heir = site.taken_over_from(owner, &format!("cut off, lease of {SHORT} s")).await;
    let lost = [("_held", 0.0), ("_sessions", 0.0), ("s_granted_total", 1.0), ("s_lost_total", 1.0)];
    site.tells_of_its_lease(owner, &lost).await;
    let kept = [("_held", 1.0), ("_sessions", 1.0), ("s_granted_total", 1.0), ("s_lost_total", 0.0)];
    site.tells_of_its_lease(heir, &kept).await;
    let done = async || site.replica(heir).is_ready(&site.path).await;
    until(&format!("{}: completed", site.told), done).await;
    assert_eq!(site.replica(owner).get(&site.path).await.0, 200, "it answers all the same");
    let (last, first) = (site.faces[owner].last_call(), site.faces[heir].call(begun[heir]));
    assert!(last < first, "{}: both acted at once", site.told);
    println!("{}: nobody acted for {:?} in between", site.told, first.unwrap() - last.unwrap());
    site.ways[owner].mend();
    site.ends_right().await;
    site.tells_of_its_lease(owner, &[("_held", 1.0), ("s_granted_total", 2.0), ("s_lost_total", 1.0)]).await;
    assert_eq!(site.faces[owner].last_call(), last, "{}: it acted for a session of another", site.told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_owners_that_are_stopped_at_any_moment_again_and_again_break_nothing() {
    if left_out() {
        return;
    }
    let mut random = seed();
    let site = Site::begin(random, SHORT, 1).await;
    for _ in 0..3 {
        let owner = site.some_owner().await;
        tokio::time::sleep(Duration::from_millis(draw(&mut random) % 500)).await;
        if site.replica(owner).is_ready(&site.path).await {
            break;
        }
        site.replica(owner).signal("STOP");
        let gone_on = async || site.owner().await.is_none_or(|heir| heir != owner);
        until("another owner, or none needed any more", gone_on).await;
        site.replica(owner).signal("CONT");
    }
    site.ends_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_the_upgrade_goes_on_when_etcd_was_restarted() {
    if left_out() {
        return;
    }
    let mut site = Site::begin(seed(), 10, 0).await;
    let calls: usize = site.faces.iter().map(Face::calls).sum();
    site.etcd.stop();
    site.etcd.start_again().await;
    let acting = async || site.faces.iter().map(Face::calls).sum::<usize>() > calls + 10;
    until("the upgrade goes on", acting).await;
    let other = site.post(2).await;
    for replica in site.running() {
        // None of them stayed deaf.
        until("the other session known to all", async || replica.get(&other).await.0 == 200).await;
    }
    let (code, _) = site.replica(1).delete(&other).await;
    assert_eq!(code, 200);
    site.ends_right().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_the_upgrade_pauses_while_etcd_is_lost_and_goes_on_after() {
    if left_out() {
        return;
    }
    let mut site = Site::begin(seed(), SHORT, 0).await;
    site.etcd.stop();
    for i in 0..REPLICAS {
        site.tells_of_its_lease(i, &[("_held", 0.0)]).await;
    }
    // What was under way when it ended may come to its end.
    site.quiet().await;
    for replica in site.running() {
        assert_eq!(replica.get(&site.path).await.0, 200, "every replica answers all the same");
    }
    let calls: Vec<usize> = site.faces.iter().map(Face::calls).collect();
    tokio::time::sleep(OUTAGE).await;
    assert_eq!(site.faces.iter().map(Face::calls).collect::<Vec<_>>(), calls, "nobody owns anything");
    site.etcd.start_again().await;
    site.ends_right().await;
}

/// P7, and what sessions that share a group wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p7_orders_given_to_any_replica_reach_the_owner() {
    if left_out() {
        return;
    }
    let site = Site::begin(seed(), LONG, 0).await;
    let owner = site.some_owner().await;
    let others: Vec<usize> = (0..REPLICAS).filter(|i| *i != owner).collect();

    let second = site.post(others[0]).await;
    let first = site.id().to_string();
    for replica in site.running() {
        let waits = async || {
            let (_, answer) = replica.get(&second).await;
            answer["state"] == "CREATED" && answer["messages"].to_string().contains(&first)
        };
        until("the second session waits for the first, as all replicas tell it", waits).await;
        let (_, all) = replica.get("/session").await;
        assert_eq!(all.as_array().map(Vec::len), Some(2), "{all}");
    }

    let begun = Instant::now();
    let (code, answer) = site.replica(others[1]).delete(&second).await;
    assert_eq!((code, &answer["state"]), (200, &json!("DELETING")));
    gone(&site, &second).await;
    println!("{}: a waiting session deleted by another replica in {:?}", site.told, begun.elapsed());

    let begun = Instant::now();
    let (code, answer) = site.replica(others[0]).delete(&site.path).await;
    assert_eq!((code, &answer["state"]), (200, &json!("DELETING")));
    let told = async || {
        let (code, answer) = site.replica(owner).get(&site.path).await;
        code == 404 || answer["state"] == "DELETING"
    };
    until("the owner heard of it", told).await;
    println!("{}: the owner heard of the deletion after {:?}", site.told, begun.elapsed());
    gone(&site, &site.path).await;

    let own = site.xnames.iter().copied().collect();
    let (_, violations) = Audit::of(&session_of(&site), own, &site.cluster.facts());
    assert_eq!(violations, [], "{}", site.told);
    let world = site.cluster.world();
    assert!(world.upgrading.is_empty() && world.failed.is_empty(), "{}: {world:?}", site.told);
    for (xname, view) in &world.nodes {
        assert!(!view.held, "{}: {xname} {view:?}", site.told);
    }
    // The other one looked at what the second session needs, which it was asked for.
    assert_eq!(site.faces[others[1]].calls(), 0, "{}: it acted for a session of another", site.told);
}

/// What the session was at the beginning: it is not stored any more.
fn session_of(site: &Site) -> Session {
    let spec = crus_core::Spec {
        starting: "slurm-nodes".parse().unwrap(),
        upgrading: "upgrading-nodes".parse().unwrap(),
        failed: "failed-nodes".parse().unwrap(),
        step_size: STEP_SIZE.try_into().unwrap(),
        template: "new-image".parse().unwrap(),
        tenant: None,
        strategy: crus_core::Strategy::default(),
    };
    Session::new(site.id(), spec, "1.0.0", crus_core::Limits::default(), crus_core::Time(0))
}

async fn gone(site: &Site, path: &str) {
    for replica in site.running() {
        until("gone, as all replicas tell it", async || replica.get(path).await.0 == 404).await;
    }
}

/// The lease does not end in the life of this test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_shuts_down_hands_its_sessions_over_at_once() {
    if left_out() {
        return;
    }
    let mut site = Site::begin(seed(), LONG, 0).await;
    for _ in 0..2 {
        let owner = site.some_owner().await;
        let mut leaving = site.replicas[owner].take().unwrap();
        leaving.signal("TERM");
        site.taken_over_from(owner, &format!("shut down, lease of {LONG} s")).await;
        assert_eq!(leaving.end(), Some(0));
    }
    let answer: Value = site.running().next().unwrap().get(&site.path).await.1;
    assert_eq!(answer["upgrade_id"], json!(site.id().to_string()));
    site.ends_right().await;
}
