//! The running service upgrades a real Slurm on this host. HSM and BOS are the simulator's HTTP faces; a reboot by
//! that BOS ends the node's real slurmd and starts it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::slurm_site::{Boots, Record, Site, lock, members, nid};
use crate::support::{MUCH_PATIENCE, Service, id_of, spec, until, until_within};
use crus_core::model::Stage;
use crus_core::ports::SessionStore as _;
use crus_server::store::RedbStore;
use crus_sim::http::LiveCluster;
use crus_sim::slurm_lab::{SlurmLab, SlurmVersion, known_failure, left_out};
use serde_json::Value;
use tokio::task::{JoinSet, block_in_place};

/// The pause between two looks at real Slurm, beside the service's.
const SAMPLE: Duration = Duration::from_millis(150);

// ---- the upgrade -----------------------------------------------------------------------------------------

const NODES: usize = 12;
const STEP_SIZE: u32 = 4;
/// The node that an admin drained before, and why.
const ADMINS: usize = 7;
const ADMINS_REASON: &str = "bad DIMM, ticket 4711";
/// The node that will not boot.
const FAILING: usize = 10;

/// The largest number of nodes that were out of service in any sample.
#[derive(Default)]
struct Width {
    widest: usize,
    samples: u32,
    wrongs: Vec<String>,
}

/// P1, seen from outside: samples real Slurm all along. The admin's node counts only while it is in a step, the
/// failed one only until it is marked.
async fn sample(lab: Arc<SlurmLab>, live: LiveCluster, width: Arc<Mutex<Width>>) {
    let admins = nid(ADMINS);
    let in_step = || members(&live, "upgrading-nodes").contains(&admins);
    loop {
        let before = in_step();
        let text = block_in_place(|| lab.scontrol(&["show", "node", "-o"]).unwrap());
        let admins_counts = before && in_step();
        let out: Vec<String> = Record::all(&text)
            .into_iter()
            .filter(|node| !node.is_in_service())
            .filter(|node| admins_counts || node.field("NodeName") != admins)
            .filter(|node| !node.field("Reason").starts_with("upgrading-boot-session-failed"))
            .map(|node| format!("{} {}", node.field("NodeName"), node.field("State")))
            .collect();
        {
            let mut width = lock(&width);
            width.samples += 1;
            width.widest = width.widest.max(out.len());
            if out.len() > STEP_SIZE as usize {
                width.wrongs.push(out.join(", "));
            }
        }
        tokio::time::sleep(SAMPLE).await;
    }
}

/// Keeps some jobs waiting, so that whatever returns to service gets work.
struct Users {
    submitted: BTreeSet<String>,
}

impl Users {
    /// Jobs on every node but the admin's: some end soon, some make their step wait, some span two nodes.
    async fn start(site: &Site) -> Users {
        let first =
            [("nid[000001-000002]", 6), ("nid000003", 2), ("nid[000004-000005]", 3), ("nid000006", 8)];
        let more = [("nid000008", 4), ("nid[000009-000010]", 2), ("nid000011", 7), ("nid000012", 3)];
        let jobs = first.into_iter().chain(more);
        let submitted = jobs
            .map(|(nodes, seconds)| {
                site.submit(&format!("--nodelist={nodes}"), &format!("exec sleep {seconds}"))
            })
            .collect();
        until("all jobs running", async || {
            // One that ended already ran as well.
            site.jobs().iter().all(|job| job.field("JobState") != "PENDING")
        })
        .await;
        Users { submitted }
    }

    fn keep_waiting(&mut self, site: &Site) {
        let pending = site.jobs().iter().filter(|job| job.field("JobState") == "PENDING").count();
        for _ in pending..3 {
            let turn = self.submitted.len();
            let (count, seconds) = ([1, 2, 1][turn % 3], [3, 2, 4, 1][turn % 4]);
            self.submitted.insert(site.submit(&format!("--nodes={count}"), &format!("exec sleep {seconds}")));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_slurm_upgrades_a_cluster_and_harms_no_job() {
    if left_out() {
        return;
    }
    let site = Site::start(NODES, Boots { failing: Some(FAILING), ..Boots::default() }).await;
    let drain = format!("NodeName={}", nid(ADMINS));
    block_in_place(|| {
        site.lab.scontrol(&["update", &drain, "State=DRAIN", &format!("Reason={ADMINS_REASON}")]).unwrap();
    });
    let before: BTreeMap<String, String> = site
        .nodes()
        .iter()
        .map(|node| (node.field("NodeName").to_owned(), node.field("BootTime").to_owned()))
        .collect();
    let width = Arc::new(Mutex::new(Width::default()));
    let mut watchers = JoinSet::new();
    watchers.spawn(sample(site.lab.clone(), site.live.clone(), width.clone()));
    let service = site.service();
    let mut users = Users::start(&site).await;

    let path = service.create(&spec(STEP_SIZE)).await;
    until_within(MUCH_PATIENCE, "the session completed", async || {
        users.keep_waiting(&site);
        service.get(&path).await.1["completed"] == true
    })
    .await;
    let session = service.get(&path).await.1;

    // P2
    let jobs = site.assert_no_job_harmed(&users.submitted).await;
    let returned: Vec<Record> = site.nodes();
    let back_at_work = jobs.iter().any(|job| {
        returned.iter().any(|node| {
            node.field("NodeName") == job.field("BatchHost")
                && before[node.field("NodeName")] != node.field("BootTime")
                && job.field("StartTime") > node.field("BootTime")
        })
    });
    assert!(back_at_work, "no job ran on an upgraded node");

    // P1
    watchers.shutdown().await;
    let width = lock(&width);
    assert_eq!(width.wrongs, [""; 0]);
    assert_eq!(
        width.widest, STEP_SIZE as usize,
        "in {} samples: steps are as wide as asked for",
        width.samples
    );

    // P3, P4, P5, P6
    let id = id_of(&path).to_string();
    let cuts = site.power_cuts();
    for node in site.nodes() {
        let name = node.field("NodeName").to_owned();
        assert_eq!(cuts.get(&name), Some(&1), "{name}");
        let reason = node.field("Reason");
        if name == nid(FAILING) {
            assert!(node.is("DOWN"), "{}", node.0);
            assert!(reason.starts_with("upgrading-boot-session-failed"), "{}", node.0);
            assert!(reason.contains(&id), "{}", node.0);
            continue;
        }
        // Local times of one form: their order is the order of time.
        assert!(node.field("BootTime") > before[&name].as_str(), "{}", node.0);
        if name == nid(ADMINS) {
            // Slurm appends to it where the node is slow to answer.
            assert!(node.is("DRAIN") && reason.starts_with(ADMINS_REASON), "{}", node.0);
        } else {
            assert!(node.is_in_service(), "{}", node.0);
        }
    }
    assert_eq!(site.members("failed-nodes"), BTreeSet::from([nid(FAILING)]));
    assert_eq!(site.members("upgrading-nodes"), BTreeSet::new());
    assert_eq!(session["state"], "READY");
    let told = session["messages"].as_array().unwrap();
    assert_eq!(told.last().unwrap(), "Upgrade Session Completed", "{told:?}");
}

// ---- boots that go another way ---------------------------------------------------------------------------

/// The time that an upgrade of one step may take once its nodes have booted. It is short, since a known failure takes as
/// long.
const SOON: Duration = Duration::from_secs(20);
const RETURN_TIMEOUT_S: &str = "4";
/// The states of three nodes in the panic of [`Site::second_of_three_failed`], where the second counts as upgraded.
const ALL_UPGRADED: &str = r#"left: [String("upgraded"), String("upgraded"), String("upgraded")]"#;

impl Site {
    fn drain(&self, name: &str, reason: &str) {
        let (node, reason) = (format!("NodeName={name}"), format!("Reason={reason}"));
        block_in_place(|| self.lab.scontrol(&["update", &node, "State=DRAIN", &reason]).unwrap());
    }

    /// The service, which soon fails a node that booted and is not back.
    fn impatient_service(&self) -> Service {
        let mut command = self.serve();
        command.args(["--return-timeout-s", RETURN_TIMEOUT_S]);
        Service::start(command)
    }

    /// P5: of three nodes the second failed, as the session, the failed group and Slurm tell; the others are upgraded.
    async fn second_of_three_failed(&self, service: &Service, path: &str) {
        until_within(SOON, "the session completed", async || service.get(path).await.1["completed"] == true)
            .await;
        let page = service.get(&format!("{path}/nodes")).await.1;
        let states: Vec<&Value> =
            page["nodes"].as_array().unwrap().iter().map(|node| &node["state"]).collect();
        assert_eq!(states, ["upgraded", "failed", "upgraded"], "{page}");
        assert_eq!(self.members("failed-nodes"), BTreeSet::from([nid(2)]));
        assert!(self.node(&nid(2)).is_held(), "{}", self.node(&nid(2)).0);
        for n in [1, 3] {
            assert!(self.node(&nid(n)).is_in_service(), "{}", self.node(&nid(n)).0);
        }
    }
}

/// P4, P6: Slurm takes each node for dead while it boots, and says so in its reason, whoever drained it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_slurm_brings_back_nodes_whose_boots_outlast_slurmd_timeout() {
    if left_out() {
        return;
    }
    let site = Site::start(4, Boots { long: true, ..Boots::default() }).await;
    site.drain(&nid(3), ADMINS_REASON);
    let service = site.service();
    let path = service.create(&spec(4)).await;
    let completed = async || service.get(&path).await.1["completed"] == true;
    until_within(MUCH_PATIENCE, "the session completed", completed).await;

    assert_eq!(site.power_cuts(), (1..=4).map(|n| (nid(n), 1)).collect());
    let admins = site.node(&nid(3));
    assert!(admins.is("DRAIN") && admins.field("Reason").starts_with(ADMINS_REASON), "{}", admins.0);
    assert_eq!(site.members("failed-nodes"), BTreeSet::new());
    known_failure(
        SlurmVersion::new(23, 2)..,
        "Whose drain it is, is ours to remember (P6). … Since 23.02 Slurm appends to it, replaces it, or drops it, and \
         every node whose boot outlasts SlurmdTimeout stays DOWN+DRAIN and counts as upgraded.",
        &[" : Not responding"],
        async {
            for n in [1, 2, 4] {
                assert!(site.node(&nid(n)).is_in_service(), "{}", site.node(&nid(n)).0);
            }
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_slurm_fails_a_node_that_registers_badly_after_its_boot() {
    if left_out() {
        return;
    }
    let site = Site::start(3, Boots { badly: Some(2), ..Boots::default() }).await;
    let service = site.impatient_service();
    let path = service.create(&spec(3)).await;
    until("a bad registration", async || site.node(&nid(2)).is("INVALID_REG")).await;
    known_failure(
        ..,
        "Back means back (P5). … INVALID_REG likewise, and a RESUME refused for a node's state is that node's fault and \
         counts against the time-out, on 22.05 as on 26.05.",
        &["not seen in 20 s: the session completed", ALL_UPGRADED],
        async {
            site.second_of_three_failed(&service, &path).await;
            assert!(site.node(&nid(2)).is("INVALID_REG"), "{}", site.node(&nid(2)).0);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_slurm_fails_a_node_that_a_health_check_drained_after_its_boot() {
    if left_out() {
        return;
    }
    let reason = "NHC: check_fs_mount: /lus/scratch not mounted";
    let site = Site::start(3, Boots { drained: Some((2, reason)), ..Boots::default() }).await;
    let service = site.impatient_service();
    let path = service.create(&spec(3)).await;
    let is_theirs = || site.node(&nid(2)).field("Reason").starts_with(reason);
    until("the health check's drain", async || site.was_drained()).await;
    known_failure(
        ..,
        "Back means back (P5). A node in service before, and held after its boot by anything but our own drain … is \
         never resumed over: it is waited for until return_timeout_s, then failed.",
        &[ALL_UPGRADED],
        async {
            site.second_of_three_failed(&service, &path).await;
            assert!(is_theirs(), "{}", site.node(&nid(2)).0);
        },
    )
    .await;
}

// ---- kill -9 ---------------------------------------------------------------------------------------------

/// `kill -9` while the session is in this stage: the world holds it there, and what is stored says so.
async fn kill_in(stage: Stage, step: u32, service: Service, store: &Path, path: &str) {
    let began = match stage {
        Stage::Quiescing => format!("Quiesce requested in step {step}: moving to QUIESCING"),
        _ => format!("Began the boot session for step {step}: moving to BOOTING"),
    };
    until(&began, async || {
        let session = service.get(path).await.1;
        session["messages"].as_array().unwrap().iter().any(|message| *message == *began)
    })
    .await;
    service.kill();
    let id = id_of(path);
    // A process that was cut off between its fork and the start of its program may hold the store for a moment.
    let mut opened = None;
    until("the store let go", async || {
        opened = RedbStore::open(store).ok();
        opened.is_some()
    })
    .await;
    let (session, _) = opened.unwrap().load(id).await.unwrap().unwrap();
    assert_eq!((session.head.stage, session.head.step), (stage, step));
}

/// P3: whatever is forgotten, no node is rebooted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_slurm_survives_kill_9_of_the_server() {
    if left_out() {
        return;
    }
    let site = Site::start(6, Boots::default()).await;
    // They run until they are told to end: so long a step that holds their nodes is QUIESCING.
    let script = |gate: &Path| format!("until [ -e {} ]; do sleep 0.1; done", gate.display());
    let gates = [0, 1].map(|step| site.folder.path().join(format!("end-{step}")));
    let mut submitted = BTreeSet::from([
        site.submit("--nodelist=nid[000001-000002]", &script(&gates[0])),
        site.submit("--nodelist=nid[000003-000005]", &script(&gates[0])),
        site.submit("--nodelist=nid000006", &script(&gates[0])),
    ]);
    until("the jobs running", async || site.jobs().iter().all(|job| job.field("JobState") == "RUNNING"))
        .await;

    let mut service = site.service();
    let path = service.create(&spec(3)).await;
    for (step, gate) in (0..).zip(&gates) {
        kill_in(Stage::Quiescing, step, service, &site.store(), &path).await;
        site.boots.send_replace(false);
        std::fs::write(gate, "").unwrap();
        service = site.service();
        kill_in(Stage::Booting, step, service, &site.store(), &path).await;
        // The nodes of the next step have work when their turn comes.
        if step == 0 {
            submitted.insert(site.submit("--nodelist=nid[000004-000006]", &script(&gates[1])));
            until("the job running", async || {
                site.jobs().iter().any(|job| job.field("JobState") == "RUNNING")
            })
            .await;
        }
        site.boots.send_replace(true);
        service = site.service();
    }
    let completed = async || service.get(&path).await.1["completed"] == true;
    until_within(MUCH_PATIENCE, "the session completed", completed).await;

    site.assert_no_job_harmed(&submitted).await;
    assert_eq!(site.power_cuts(), (1..=6).map(|n| (nid(n), 1)).collect());
    for n in 1..=6 {
        assert!(site.node(&nid(n)).is_in_service());
    }
    assert_eq!(site.members("upgrading-nodes"), BTreeSet::new());
    assert_eq!(site.members("failed-nodes"), BTreeSet::new());
    let session = service.get(&path).await.1;
    assert_eq!(session["messages"].as_array().unwrap().last().unwrap(), "Upgrade Session Completed");
}
