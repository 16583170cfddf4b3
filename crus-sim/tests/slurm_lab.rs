//! The lab itself: a test that stands on it may believe it. A real Slurm is started each time.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use crus_sim::slurm_lab::{LabConfig, LabError, SlurmLab, SlurmVersion, left_out};

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

/// The processes that carry a `SLURM_CONF` of this lab or have a file of it open: daemons, job managers, jobs. The
/// job managers of a newer Slurm overwrite their environment.
fn processes_of(conf: &Path) -> BTreeSet<u32> {
    let folder = conf.parent().unwrap();
    let mark = format!("SLURM_CONF={}/", folder.display());
    let carries_it = |pid: &u32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|&byte| byte == 0).any(|entry| entry.starts_with(mark.as_bytes()))
    };
    let has_it_open = |pid: &u32| {
        // This process may have ended meanwhile.
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|path| path.starts_with(folder))
    };
    let pids = fs::read_dir("/proc").unwrap();
    pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| carries_it(pid) || has_it_open(pid))
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
    assert_eq!(Some(lab.version()), SlurmVersion::parse(&lab.run("sinfo", &["-V"]).unwrap()));
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

/// The base of the proof of P2: a job that a reboot harmed can be told from one that was left alone.
#[test]
fn real_slurm_restarts_a_job_whose_node_was_rebooted_under_it() {
    if left_out() {
        return;
    }
    let lab = lab(2);
    let harmed = running_job(&lab, "nid000001");
    let untouched = running_job(&lab, "nid000002");
    // The boot is later than the start, though Slurm's boot times may be a second early.
    lab.wait_for_ticks(2).unwrap();
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
    lab.wait_until_saved(&job).unwrap();
    lab.kill_controller().unwrap();
    goes_on(&lab, &job);
}

#[test]
fn real_slurm_goes_on_with_its_jobs_after_its_controller_was_stopped() {
    if left_out() {
        return;
    }
    let lab = lab(2);
    let job = running_job(&lab, "nid000001");
    lab.stop_controller().unwrap();
    assert!(matches!(lab.stop_controller(), Err(LabError::Command { .. })), "it is down");
    goes_on(&lab, &job);
}

/// Starts the controller again; the job on the first node runs on.
fn goes_on(lab: &SlurmLab, job: &str) {
    assert!(matches!(lab.scontrol(&["ping"]), Err(LabError::Command { .. })));
    lab.start_controller().unwrap();
    lab.wait_until("the nodes known again", LIMIT, || {
        Ok(state(lab, "nid000001") == "MIXED" && state(lab, "nid000002") == "IDLE")
    })
    .unwrap();
    assert_eq!(lab.job_field(job, "JobState").unwrap().as_deref(), Some("RUNNING"));
}

/// The base of the proofs of P4 and P6: a node that is silent for long goes down by itself, whoever drained it, and
/// healthy ones do not.
#[test]
fn real_slurm_takes_a_silent_node_for_down_and_only_that_one() {
    if left_out() {
        return;
    }
    let lab = SlurmLab::start(LabConfig { nodes: 3, quick_silence: true, ..LabConfig::default() }).unwrap();
    let drain = |node: &str, reason: &str| {
        let (node, reason) = (format!("NodeName={node}"), format!("Reason={reason}"));
        lab.scontrol(&["update", &node, "State=DRAIN", &reason]).unwrap();
    };
    drain("nid000001", "an upgrade");
    lab.stop_node("nid000001").unwrap();
    lab.wait_until("the silent node down", LIMIT, || Ok(state(&lab, "nid000001").starts_with("DOWN+DRAIN")))
        .unwrap();
    let reason = |node: &str| lab.node_field(node, "Reason").unwrap().unwrap_or_default();
    // Slurm since 23.02 (src/slurmctld/node_mgr.c).
    let tail = if lab.version() >= SlurmVersion::new(23, 2) { " : Not responding" } else { "" };
    assert!(reason("nid000001").starts_with(&format!("an upgrade{tail} [")), "{}", reason("nid000001"));

    lab.start_node("nid000001").unwrap();
    lab.wait_until("the node registered", LIMIT, || Ok(state(&lab, "nid000001") == "DOWN+DRAIN")).unwrap();
    for node in ["nid000002", "nid000003"] {
        assert_eq!((state(&lab, node).as_str(), reason(node)), ("IDLE", String::new()), "{node}");
    }
}

#[test]
fn real_slurm_refuses_to_resume_a_node_that_registered_badly() {
    if left_out() {
        return;
    }
    let lab = lab(1);
    lab.scontrol(&["update", "NodeName=nid000001", "State=DRAIN", "Reason=an upgrade"]).unwrap();
    let invalid = || {
        lab.wait_until("a bad registration", LIMIT, || Ok(state(&lab, "nid000001").ends_with("+INVALID_REG")))
    };
    lab.stop_node("nid000001").unwrap();
    lab.start_node_badly("nid000001").unwrap();
    invalid().unwrap();
    let resume = || lab.scontrol(&["update", "NodeName=nid000001", "State=RESUME"]);
    let error = resume().unwrap_err().to_string();
    let words = if lab.version() >= SlurmVersion::new(25, 11) {
        "Invalid node state transition"
    } else {
        "Invalid node state specified"
    };
    assert!(error.ends_with(words), "{error}");
    let reason = lab.node_field("nid000001", "Reason").unwrap().unwrap();
    let whose = if lab.version() >= (SlurmVersion { micro: 7, ..SlurmVersion::new(23, 2) }) {
        "Low socket*core*thread count"
    } else {
        "an upgrade ["
    };
    assert!(reason.starts_with(whose), "{reason}");

    // A controller that comes back learns of it again.
    lab.stop_controller().unwrap();
    lab.start_controller().unwrap();
    invalid().unwrap();
    lab.reboot_node("nid000001").unwrap();
    lab.wait_until("a good registration", LIMIT, || {
        let state = state(&lab, "nid000001");
        Ok(state == "IDLE+DRAIN" || state == "DOWN+DRAIN")
    })
    .unwrap();
    resume().unwrap();
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
    let test = concat!(module_path!(), "::real_slurm_held_by_a_process_to_be_killed");
    let mut owner = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test.split_once("::").unwrap().1])
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
