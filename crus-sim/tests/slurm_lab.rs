//! The lab itself: a test that stands on it may believe it. A real Slurm is started each time.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crus_sim::slurm_lab::{LabConfig, LabError, SlurmLab, left_out};

const LIMIT: Duration = Duration::from_secs(60);

fn lab(nodes: usize) -> SlurmLab {
    SlurmLab::start(LabConfig { nodes, ..LabConfig::default() }).unwrap()
}

fn state(lab: &SlurmLab, node: &str) -> String {
    lab.node_field(node, "State").unwrap().unwrap()
}

fn running_job(lab: &SlurmLab, nodes: &str) -> String {
    let job = lab.sleep_job(nodes, 600, 20).unwrap();
    lab.wait_until("the job running", LIMIT, || {
        Ok(lab.job_field(&job, "JobState")?.as_deref() == Some("RUNNING"))
    })
    .unwrap();
    job
}

/// The processes that carry this lab's `SLURM_CONF`: daemons, job managers, jobs.
fn processes_of(conf: &Path) -> BTreeSet<u32> {
    let mark = format!("SLURM_CONF={}", conf.display());
    let pids = fs::read_dir("/proc").unwrap();
    pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes())
        })
        .collect()
}

#[test]
fn real_slurm_starts_idle_and_runs_a_job_on_the_nodes_asked_for() {
    if left_out() {
        return;
    }
    let lab = lab(3);
    assert_eq!(lab.nodes(), ["nid000001", "nid000002", "nid000003"]);
    for node in lab.nodes() {
        assert_eq!(state(&lab, node), "IDLE");
    }

    let job = running_job(&lab, "nid[000001-000002]");
    let seen = lab.squeue(&["-h", "-o", "%i %N %T"]).unwrap();
    assert_eq!(seen.trim(), format!("{job} nid[000001-000002] RUNNING"));
    assert_eq!(state(&lab, "nid000002"), "MIXED");
    assert_eq!(state(&lab, "nid000003"), "IDLE");
}

#[test]
fn real_slurm_reports_a_newer_boot_time_after_a_reboot() {
    if left_out() {
        return;
    }
    let lab = lab(2);
    let boot_time = || lab.node_field("nid000002", "BootTime").unwrap().unwrap();
    let before = boot_time();
    lab.scontrol(&["update", "NodeName=nid000002", "State=DRAIN", "Reason=to be rebooted"]).unwrap();
    lab.reboot_node("nid000002").unwrap();
    // Local times of one form: their order is the order of time.
    lab.wait_until("a newer boot", LIMIT, || Ok(boot_time() != "None" && boot_time() > before)).unwrap();
    let reason = lab.node_field("nid000002", "Reason").unwrap().unwrap();
    assert!(reason.starts_with("to be rebooted ["), "{reason}");

    let resume = || lab.scontrol(&["update", "NodeName=nid000002", "State=RESUME"]).map(drop);
    resume().unwrap();
    lab.wait_until("the node back", LIMIT, || match &*state(&lab, "nid000002") {
        "IDLE" => Ok(true),
        // So soon after its boot Slurm may see a second one: see the lab's caveats.
        "DOWN" => resume().map(|()| false),
        _ => Ok(false),
    })
    .unwrap();
}

/// What the proof of P2 rests on: a job that a reboot harmed can be told from one that was left alone.
#[test]
fn real_slurm_restarts_a_job_whose_node_was_rebooted_under_it() {
    if left_out() {
        return;
    }
    let lab = lab(2);
    let harmed = running_job(&lab, "nid000001");
    let untouched = running_job(&lab, "nid000002");
    lab.reboot_node("nid000001").unwrap();
    lab.wait_until("the job requeued", LIMIT, || {
        Ok(lab.job_field(&harmed, "Restarts")?.as_deref() == Some("1"))
    })
    .unwrap();
    assert_eq!(lab.job_field(&untouched, "Restarts").unwrap().as_deref(), Some("0"));
    assert_eq!(lab.job_field(&untouched, "JobState").unwrap().as_deref(), Some("RUNNING"));
}

#[test]
fn real_slurm_goes_on_with_its_jobs_after_its_controller_was_killed() {
    if left_out() {
        return;
    }
    let lab = lab(2);
    let job = running_job(&lab, "nid000001");
    lab.kill_controller().unwrap();
    assert!(matches!(lab.scontrol(&["ping"]), Err(LabError::Command { .. })));
    lab.start_controller().unwrap();
    lab.wait_until("the nodes known again", LIMIT, || {
        Ok(state(&lab, "nid000001") == "MIXED" && state(&lab, "nid000002") == "IDLE")
    })
    .unwrap();
    assert_eq!(lab.job_field(&job, "JobState").unwrap().as_deref(), Some("RUNNING"));
}

#[test]
fn real_slurm_labs_do_not_see_each_other() {
    if left_out() {
        return;
    }
    let (one, other) = thread::scope(|scope| {
        let one = scope.spawn(|| lab(1));
        let other = scope.spawn(|| lab(2));
        (one.join().unwrap(), other.join().unwrap())
    });
    one.scontrol(&["update", "NodeName=nid000001", "State=DRAIN", "Reason=mine"]).unwrap();
    assert_eq!(state(&one, "nid000001"), "IDLE+DRAIN");
    assert_eq!(state(&other, "nid000001"), "IDLE");
}

#[test]
fn real_slurm_refuses_what_makes_no_sense() {
    if left_out() {
        return;
    }
    assert!(matches!(
        SlurmLab::start(LabConfig { nodes: 0, ..LabConfig::default() }),
        Err(LabError::Size { nodes: 0 })
    ));
    let lab = lab(1);
    assert!(matches!(lab.start_node("nid000001"), Err(LabError::NotNow { .. })), "it runs");
    assert!(matches!(lab.stop_node("nid000002"), Err(LabError::NotNow { .. })), "there is no such node");
    let error = lab.scontrol(&["show", "node", "nid000002"]).unwrap_err();
    assert!(error.to_string().contains("failed to run `scontrol show node nid000002`"), "{error}");
}

#[test]
fn real_slurm_leaves_nothing_behind_when_dropped() {
    if left_out() {
        return;
    }
    let lab = lab(2);
    running_job(&lab, "nid[000001-000002]");
    let conf = lab.conf_path().to_owned();
    // munged, slurmctld and its helper, two slurmds, a job manager with its job: a running job's processes may
    // yet have to come.
    lab.wait_until("the job's processes", LIMIT, || Ok(processes_of(&conf).len() >= 7)).unwrap();
    drop(lab);
    assert_eq!(processes_of(&conf), BTreeSet::new());
    assert!(!conf.parent().unwrap().exists());
}

/// The environment variable that makes [`real_slurm_held_by_a_process_to_be_killed`] hold a lab.
const HOLD: &str = "CRUS_TEST_HOLD_A_LAB";

#[test]
fn real_slurm_leaves_nothing_behind_when_its_owner_is_killed() {
    if left_out() {
        return;
    }
    let mut owner = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "real_slurm_held_by_a_process_to_be_killed"])
        .env(HOLD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let conf = BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .find_map(|line| line.unwrap().split_once("conf: ").map(|(_, path)| PathBuf::from(path)))
        .expect("the owner says where its lab is");
    assert!(!processes_of(&conf).is_empty());
    owner.kill().unwrap();
    owner.wait().unwrap();

    let begin = Instant::now();
    while !processes_of(&conf).is_empty() || conf.exists() {
        assert!(begin.elapsed() < LIMIT, "{:?} outlived their owner", processes_of(&conf));
        thread::sleep(Duration::from_millis(50));
    }
}

/// Not a test by itself: the other end of the one above.
#[test]
fn real_slurm_held_by_a_process_to_be_killed() {
    if env::var_os(HOLD).is_none() {
        return;
    }
    let lab = lab(1);
    running_job(&lab, "nid000001");
    println!("conf: {}", lab.conf_path().display());
    loop {
        thread::park();
    }
}
