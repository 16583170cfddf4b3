//! The options of a session, on a real Slurm: jobs that run too long, the job that a node waits for, the nodes of a
//! partition that stay in service, and the check before a node returns to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::slurm_site::{Boots, Record, Site, lock, nid};
use crate::support::{MUCH_PATIENCE, Service, spec, until, until_within};
use crus_sim::slurm_lab::{SlurmLab, left_out};
use serde_json::{Value, json};
use tokio::task::{JoinSet, block_in_place};

/// The pause between two looks at real Slurm, beside the service's.
const SAMPLE: Duration = Duration::from_millis(100);

/// Asks for an upgrade by this strategy; its path.
async fn ask(service: &Service, step_size: u32, strategy: Value) -> String {
    let mut body = spec(step_size);
    body["strategy"] = strategy;
    service.create(&body).await
}

async fn completed(service: &Service, path: &str) {
    let completed = async || service.get(path).await.1["completed"] == true;
    until_within(MUCH_PATIENCE, "the session completed", completed).await;
}

/// The session's nodes, by their names in Slurm, as far as it knows them by now.
async fn nodes(service: &Service, path: &str) -> BTreeMap<String, Value> {
    let (code, page) = service.get(&format!("{path}/nodes")).await;
    assert_eq!(code, 200, "{page}");
    let nodes = page["nodes"].as_array().unwrap().iter();
    nodes.filter_map(|node| Some((node["name"].as_str()?.to_owned(), node.clone()))).collect()
}

async fn states(service: &Service, path: &str) -> Vec<String> {
    nodes(service, path).await.values().map(|node| node["state"].as_str().unwrap().to_owned()).collect()
}

impl Site {
    /// Submits a job that takes one processor of a node; its id.
    fn submit_beside(&self, wants: &[&str], script: &str) -> String {
        let wrap = format!("--wrap={script}");
        let common = ["--parsable", "--output=/dev/null", "--chdir=/", "--ntasks=1"];
        let args = [&common[..], wants, &[&wrap]].concat();
        block_in_place(|| self.lab.run("sbatch", &args).unwrap().trim().to_owned())
    }

    fn job(&self, id: &str) -> Record {
        self.any_jobs().into_iter().find(|job| job.field("JobId") == id).unwrap()
    }

    async fn job_is(&self, id: &str, state: &str) {
        until(&format!("job {id} {state}"), async || self.job(id).field("JobState") == state).await;
    }

    /// A file, and a script that runs until it is there.
    fn gate(&self, name: &str) -> (PathBuf, String) {
        let gate = self.folder.path().join(name);
        // Whoever runs the job must see it.
        std::fs::set_permissions(self.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let script = format!("until [ -e {} ]; do sleep 0.1; done", gate.display());
        (gate, script)
    }

    /// A job's id, user and end, as `squeue` prints them.
    fn squeue(&self, id: &str) -> Value {
        let args = ["TZ=UTC", "squeue", "-h", "-j", id, "-o", "%i|%u|%e"];
        let text = block_in_place(|| self.lab.run("env", &args).unwrap());
        let fields: Vec<&str> = text.trim().split('|').collect();
        assert_eq!(fields.len(), 3, "{text:?}");
        let (id, user, end) = (fields[0], fields[1], fields[2]);
        let utc = |end: &str| {
            let end: jiff::civil::DateTime = end.parse().unwrap();
            end.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string()
        };
        let end = if end == "NONE" { Value::Null } else { json!(utc(end)) };
        json!({"end": end, "id": id, "user": user})
    }
}

fn open(gate: &Path) {
    std::fs::write(gate, "").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_slurm_skips_a_node_whose_job_runs_too_long_and_the_job_runs_on() {
    if left_out() {
        return;
    }
    let site = Site::start(3, Boots::default()).await;
    let (gate, script) = site.gate("end");
    let job = site.submit("--nodelist=nid000001", &script);
    site.job_is(&job, "RUNNING").await;
    let before = site.node(&nid(1)).field("SlurmdStartTime").to_owned();
    let service = site.service();
    let path = ask(&service, 3, json!({"drain_timeout_s": 8, "on_drain_timeout": "skip"})).await;
    until("its drain", async || site.node(&nid(1)).is("DRAIN")).await;
    completed(&service, &path).await;

    assert_eq!(states(&service, &path).await, ["skipped", "upgraded", "upgraded"]);
    assert_eq!(site.members("failed-nodes"), BTreeSet::from([nid(1)]));
    assert_eq!(site.power_cuts(), BTreeMap::from([(nid(2), 1), (nid(3), 1)]));
    until("the node given back", async || site.node(&nid(1)).is_in_service()).await;
    let node = site.node(&nid(1));
    assert_eq!(node.field("SlurmdStartTime"), before, "{}", node.0);
    if site.lab.version().keeps_the_reason_after_resume() {
        assert!(node.field("Reason").starts_with("rolling-upgrade"), "{}", node.0);
    } else {
        assert_eq!(node.field("Reason"), "", "{}", node.0);
    }
    assert_eq!(site.job(&job).field("JobState"), "RUNNING");
    open(&gate);
    site.assert_no_job_harmed(&BTreeSet::from([job])).await;
}

/// Nodes 1 and 3 are upgraded; a job that holds node 1 without end, and one beside the session's nodes.
struct Held {
    site: Site,
    service: Service,
    holds: String,
    beside: String,
    end: PathBuf,
}

impl Held {
    async fn start() -> Held {
        let site = Site::with(4, Boots::default(), [1, 3], &[]).await;
        let (end, script) = site.gate("end");
        let beside = site.submit("--nodelist=nid000002", &script);
        // On the first of these that is free, whichever that is.
        let holds = site.submit("--exclude=nid[000002-000003]", &script);
        for job in [&beside, &holds] {
            site.job_is(job, "RUNNING").await;
        }
        assert_eq!(site.job(&holds).field("NodeList"), nid(1));
        let service = site.service();
        Held { site, service, holds, beside, end }
    }

    async fn upgraded(&self, path: &str) {
        completed(&self.service, path).await;
        assert_eq!(states(&self.service, path).await, ["upgraded", "upgraded"]);
        assert_eq!(self.site.power_cuts(), BTreeMap::from([(nid(1), 1), (nid(3), 1)]));
        assert_eq!(*lock(&self.site.wrongs), [""; 0], "at power cuts");
        for n in [1, 3] {
            until("it is in service", async || self.site.node(&nid(n)).is_in_service()).await;
        }
        let beside = self.site.job(&self.beside);
        let untouched = (beside.field("JobState"), beside.field("Restarts"), beside.field("NodeList"));
        assert_eq!(untouched, ("RUNNING", "0", nid(2).as_str()));
        assert!(!self.site.node(&nid(2)).is_held());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_slurm_requeues_just_the_job_that_holds_a_node_and_it_runs_again_elsewhere() {
    if left_out() {
        return;
    }
    let held = Held::start().await;
    let site = &held.site;
    let asked = json!({"drain_timeout_s": 1, "on_drain_timeout": "requeue"});
    let path = ask(&held.service, 2, asked).await;
    until("it was requeued", async || site.job(&held.holds).field("Restarts") == "1").await;
    site.job_is(&held.holds, "PENDING").await;
    block_in_place(|| site.lab.wait_for_ticks(1).unwrap());
    // Slurm would let it wait for two minutes.
    let start = format!("JobId={}", held.holds);
    block_in_place(|| site.lab.scontrol(&["update", &start, "StartTime=now"]).unwrap());
    site.job_is(&held.holds, "RUNNING").await;
    held.upgraded(&path).await;
    let job = site.job(&held.holds);
    assert_eq!(
        (job.field("JobState"), job.field("Restarts")),
        ("RUNNING", "1"),
        "once, and left alone since"
    );
    open(&held.end);
    for job in [&held.holds, &held.beside] {
        site.job_is(job, "COMPLETED").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_slurm_cancels_just_the_job_that_holds_a_node() {
    if left_out() {
        return;
    }
    let held = Held::start().await;
    let path = ask(&held.service, 2, json!({"drain_timeout_s": 1, "on_drain_timeout": "cancel"})).await;
    held.site.job_is(&held.holds, "CANCELLED").await;
    held.upgraded(&path).await;
    let job = held.site.job(&held.holds);
    assert_eq!((job.field("JobState"), job.field("Restarts")), ("CANCELLED", "0"));
    open(&held.end);
    held.site.job_is(&held.beside, "COMPLETED").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_slurm_tells_the_job_user_and_end_that_a_node_waits_for() {
    if left_out() {
        return;
    }
    let site = Site::start(2, Boots::default()).await;
    let ((end_short, short), (end_long, long)) = (site.gate("short"), site.gate("long"));
    // The one with the later limit ends first, and is somebody else's.
    let first = site.submit_beside(&["--nodelist=nid000001", "--time=9", "--uid=65534"], &long);
    let second = site.submit_beside(&["--nodelist=nid000001", "--time=4"], &short);
    let endless = site.submit_beside(&["--nodelist=nid000002", "--time=0"], &short);
    for job in [&first, &second, &endless] {
        site.job_is(job, "RUNNING").await;
    }
    let service = site.service();
    let path = ask(&service, 2, json!({})).await;
    let told = async |n: usize| {
        let nodes = nodes(&service, &path).await;
        nodes.get(&nid(n)).map_or(Value::Null, |node| node["job"].clone())
    };
    let expected = site.squeue(&first);
    assert!(expected["end"].is_string() && expected["user"] != "root", "{expected}");
    until("the job with the later end", async || told(1).await == expected).await;
    let expected = site.squeue(&endless);
    assert_eq!(expected["end"], Value::Null);
    until("the job without an end", async || told(2).await == expected).await;

    open(&end_long);
    site.job_is(&first, "COMPLETED").await;
    let expected = site.squeue(&second);
    until("the job that is left", async || told(1).await == expected).await;
    assert_eq!(expected["user"], "root");
    open(&end_short);
    completed(&service, &path).await;
    assert_eq!(told(1).await, Value::Null);
    site.assert_no_job_harmed(&BTreeSet::from([first, second, endless])).await;
}

/// Counts nodes of a partition in service, all along.
async fn fewest_in_service(lab: Arc<SlurmLab>, partition: &str, fewest: Arc<Mutex<usize>>) {
    loop {
        let text = block_in_place(|| lab.scontrol(&["show", "node", "-o"]).unwrap());
        let of_partition = |node: &Record| node.field("Partitions").split(',').any(|name| name == partition);
        let count =
            Record::all(&text).iter().filter(|node| of_partition(node) && node.is_in_service()).count();
        {
            let mut fewest = lock(&fewest);
            *fewest = (*fewest).min(count);
        }
        tokio::time::sleep(SAMPLE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_slurm_keeps_as_many_nodes_of_a_partition_in_service_as_asked() {
    if left_out() {
        return;
    }
    // A hidden one, of which one node is out of service for another reason.
    let lines = ["PartitionName=debug Nodes=nid[000001-000004] Hidden=YES State=UP"];
    let site = Site::with(6, Boots::default(), [1, 2, 3, 5, 6], &lines).await;
    let drain = format!("NodeName={}", nid(4));
    block_in_place(|| site.lab.scontrol(&["update", &drain, "State=DRAIN", "Reason=ticket 12"]).unwrap());
    let fewest = Arc::new(Mutex::new(usize::MAX));
    let mut watchers = JoinSet::new();
    watchers.spawn(fewest_in_service(site.lab.clone(), "debug", fewest.clone()));
    let service = site.service();
    let path = ask(&service, 5, json!({"min_in_service": {"debug": "50%"}})).await;
    completed(&service, &path).await;
    watchers.shutdown().await;

    assert_eq!(*lock(&fewest), 2, "of four, one of which is somebody else's: one at a time, and no less");
    let steps = nodes(&service, &path).await.into_values().map(|node| {
        assert_eq!(node["state"], "upgraded", "{node}");
        (node["step"].as_u64().unwrap(), node["name"].as_str().unwrap().to_owned())
    });
    let mut by_step: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for (step, name) in steps {
        by_step.entry(step).or_default().insert(name);
    }
    let of_debug = |names: &BTreeSet<String>| names.iter().filter(|name| **name <= nid(4)).count();
    assert!(by_step.values().all(|names| of_debug(names) <= 1), "{by_step:?}");
    assert_eq!(site.power_cuts().values().copied().collect::<Vec<_>>(), [1; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_slurm_gets_no_node_back_that_did_not_pass_its_check() {
    if left_out() {
        return;
    }
    let site = Site::start(3, Boots::default()).await;
    let script = site.folder.path().join("smoke");
    let calls = site.folder.path().join("calls");
    // It sees the node as the service left it: booted, and not in service.
    let text = format!(
        "echo \"$1 $2 $(scontrol show node -o $2 | grep -o ' State=[^ ]*')\" >>{}\n\
         [ $2 != {} ] || {{ echo 'one DIMM is missing'; exit 1; }}\n",
        calls.display(),
        nid(2)
    );
    std::fs::write(&script, text).unwrap();
    let mut command = site.serve();
    command.args(["--check-commands", &format!("{{ smoke = [\"sh\", \"{}\"] }}", script.display())]);
    let service = Service::start(command);
    let mut body = spec(3);
    body["strategy"] = json!({"check_command": "smok"});
    let (code, refusal) = service.post(&body).await;
    assert_eq!(code, 422, "{refusal}");
    assert!(refusal.to_string().contains("smoke"), "it tells which there are: {refusal}");
    let path = ask(&service, 3, json!({"check_command": "smoke"})).await;
    completed(&service, &path).await;

    let told = nodes(&service, &path).await;
    let states: Vec<&Value> = told.values().map(|node| &node["state"]).collect();
    assert_eq!(states, ["upgraded", "failed", "upgraded"], "{told:?}");
    let reason = told[&nid(2)]["reason"].as_str().unwrap();
    assert!(reason.contains("one DIMM is missing"), "{reason}");
    let node = site.node(&nid(2));
    assert!(node.is_held() && node.field("Reason").contains("one DIMM is missing"), "{}", node.0);
    assert_eq!(site.members("failed-nodes"), BTreeSet::from([nid(2)]));
    let mut lines: Vec<String> =
        std::fs::read_to_string(&calls).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines.len(), 3, "each node once: {lines:?}");
    for (line, n) in lines.iter().zip(1..) {
        assert!(line.contains(&format!(" {} ", nid(n))) && line.starts_with('x'), "{line}");
        assert!(line.contains("DOWN") || line.contains("DRAIN"), "{line}");
    }
    for n in [1, 3] {
        assert!(site.node(&nid(n)).is_in_service());
    }
}
