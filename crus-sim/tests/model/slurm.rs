//! Slurm: each row of the table of states, each rule of updates.

use crus_core::time::WlmTime;
use crus_core::wlm::BaseState;
use crus_sim::Cluster;
use crus_sim::cluster::slurm::{SlurmError, Update};
use crus_sim::config::{BootBehaviour, ReturnToService, Span};

use super::support::{Ask as _, cluster, job, name, with, x};

#[test]
fn an_idle_node_that_is_drained_is_quiet_at_once() {
    let mut cluster = cluster();
    assert_eq!(cluster.state(1), "IDLE");
    cluster.set(1, &Update::drain("x y"));
    assert_eq!((cluster.state(1).as_str(), cluster.reason(1).as_str()), ("IDLE+DRAIN", "x y"));
    assert!(cluster.seen(1).is_quiet());
}

#[test]
fn a_drained_node_keeps_its_jobs_then_completes_and_then_is_quiet() {
    let mut cluster = with(|config| config.slurm.epilog = Span::exactly(4_000));
    cluster.run(1, &[1, 2]);
    let mut part = job(2, &[3]);
    part.cpus = Some(16);
    assert!(cluster.submit(part));
    for n in 1..=3 {
        cluster.set(n, &Update::drain("r"));
    }
    assert_eq!(cluster.state(1), "ALLOCATED+DRAIN");
    assert_eq!(cluster.state(3), "MIXED+DRAIN");
    assert_eq!(cluster.seen(3).cpus_allocated, Some(16));

    assert!(cluster.end_job(1));
    assert_eq!(cluster.state(1), "IDLE+DRAIN+COMPLETING");
    assert_eq!(cluster.seen(1).cpus_allocated, Some(0));
    assert!(!cluster.seen(1).is_quiet());
    assert_eq!(cluster.job_ids(), [2], "squeue forgets a job before its epilog has ended");
    cluster.after(4_000);
    assert_eq!(cluster.state(1), "IDLE+DRAIN");
    assert!(cluster.seen(1).is_quiet() && cluster.seen(2).is_quiet() && !cluster.seen(3).is_quiet());
}

#[test]
fn an_epilog_ends_with_its_node() {
    let mut cluster = with(|config| config.slurm.epilog = Span::exactly(3_600_000));
    cluster.run(1, &[1, 2, 3]);
    cluster.end_job(1);
    cluster.set(1, &Update::down("r"));
    cluster.power_off(x(2));
    assert_eq!([1, 2, 3].map(|n| cluster.state(n)), ["DOWN", "IDLE", "IDLE+COMPLETING"]);
}

#[test]
fn a_down_node_that_is_drained_is_both_and_resume_returns_it_to_service() {
    let mut cluster = cluster();
    cluster.set(1, &Update::down("broken fan"));
    assert_eq!(cluster.state(1), "DOWN");
    cluster.set(1, &Update::drain("rolling-upgrade"));
    assert_eq!((cluster.state(1).as_str(), cluster.reason(1).as_str()), ("DOWN+DRAIN", "rolling-upgrade"));
    cluster.set(1, &Update::resume());
    cluster.after(5_000);
    assert!(cluster.seen(1).is_in_service());
}

#[test]
fn drain_replaces_anothers_reason_and_erases_fail_and_fail_erases_drain() {
    let mut cluster = cluster();
    cluster.set(1, &Update::fail("bad DIMM"));
    assert_eq!(cluster.state(1), "IDLE+FAIL");
    cluster.set(1, &Update::drain("ours"));
    assert_eq!((cluster.state(1).as_str(), cluster.reason(1).as_str()), ("IDLE+DRAIN", "ours"));
    cluster.set(1, &Update::fail("again"));
    assert_eq!((cluster.state(1).as_str(), cluster.reason(1).as_str()), ("IDLE+FAIL", "again"));
}

#[test]
fn a_drained_node_whose_slurmd_is_gone_falls_silent_and_then_down() {
    let mut cluster = cluster();
    cluster.set(1, &Update::drain("r"));
    cluster.power_off(x(1));
    assert_eq!(cluster.state(1), "IDLE+DRAIN", "Slurm has not noticed");
    let silent = cluster.until("silent", 16_100, |c| c.state(1) == "IDLE+DRAIN+NOT_RESPONDING");
    assert!((12_000..=16_100).contains(&silent), "{silent}");
    let down = silent + cluster.until("down", 32_100, |c| c.state(1) == "DOWN+DRAIN+NOT_RESPONDING");
    assert!((28_000..=32_100).contains(&down), "{down}");
    assert_eq!(cluster.reason(1), "r");
}

#[test]
fn a_node_that_falls_silent_in_service_is_down_for_not_responding() {
    let mut cluster = cluster();
    cluster.power_off(x(1));
    cluster.after(32_000);
    assert_eq!(cluster.state(1), "DOWN+NOT_RESPONDING");
    assert_eq!(cluster.reason(1), "Not responding");
}

fn reboot(cluster: &mut Cluster, n: u32) -> (WlmTime, WlmTime) {
    let before = cluster.seen(n).boot_time.unwrap();
    cluster.power_off(x(n));
    cluster.after(5_000);
    cluster.power_on(x(n));
    cluster.after(20 * 60_000);
    (before, cluster.seen(n).boot_time.unwrap())
}

#[test]
fn a_drained_node_comes_back_from_a_reboot_down_and_drained_with_a_newer_boot_time() {
    let mut cluster = cluster();
    cluster.set(1, &Update::drain("ours"));
    let (before, after) = reboot(&mut cluster, 1);
    assert_eq!((cluster.state(1).as_str(), cluster.reason(1).as_str()), ("DOWN+DRAIN", "ours"));
    assert!(after.0 > before.0 + 3_000, "{before:?} {after:?}");
    cluster.set(1, &Update::resume());
    cluster.after(5_000);
    assert_eq!((cluster.state(1).as_str(), cluster.reason(1).as_str()), ("IDLE", ""));
}

#[test]
fn a_node_that_was_not_drained_comes_back_down_for_an_unexpected_reboot() {
    let mut cluster = cluster();
    reboot(&mut cluster, 1);
    assert_eq!(cluster.state(1), "DOWN");
    assert_eq!(cluster.reason(1), "Node unexpectedly rebooted");
}

#[test]
fn with_return_to_service_2_it_comes_back_to_work() {
    let mut cluster = with(|config| config.slurm.return_to_service = ReturnToService::Always);
    reboot(&mut cluster, 1);
    assert_eq!((cluster.state(1).as_str(), cluster.reason(1).as_str()), ("IDLE", ""));
}

#[test]
fn a_node_resumed_while_it_boots_is_not_taken_for_rebooted() {
    // Slurm compares the boot with when it last heard of the node, and RESUME counts as that.
    let mut cluster = cluster();
    cluster.set(1, &Update::drain("r"));
    cluster.power_off(x(1));
    cluster.after(1_000);
    cluster.power_on(x(1));
    cluster.after(60_000);
    assert_eq!(cluster.state(1), "DOWN+DRAIN+NOT_RESPONDING");
    cluster.set(1, &Update::resume());
    cluster.after(40_000);
    assert_eq!(cluster.reason(1), "Not responding");
    cluster.after(20 * 60_000);
    assert_eq!((cluster.state(1).as_str(), cluster.reason(1).as_str()), ("IDLE", ""));
}

#[test]
fn resume_exits_0_long_before_the_node_is_in_service() {
    let mut cluster = cluster();
    cluster.set(1, &Update::drain("r"));
    cluster.set(1, &Update::resume());
    let seen = cluster.seen(1);
    assert_eq!((seen.state().as_str(), seen.boot_time), ("IDLE+NOT_RESPONDING", None));
    assert!(!seen.is_in_service());
    let record = cluster.show_nodes(&[name(1)]).unwrap().nodes.remove(0);
    assert!(record.slurmd_start_time.is_some(), "only the boot is forgotten");
    let after = cluster.until("in service", 5_100, |c| c.seen(1).is_in_service());
    assert!(after >= 500, "{after}");
    assert!(cluster.seen(1).boot_time.is_some());
}

#[test]
fn a_dead_node_that_is_resumed_stays_silent_and_falls_down_again() {
    let mut cluster = cluster();
    cluster.power_off(x(1));
    cluster.after(40_000);
    cluster.set(1, &Update::resume());
    cluster.after(20_000);
    assert_eq!(cluster.state(1), "IDLE+NOT_RESPONDING");
    assert_eq!(cluster.seen(1).boot_time, None);
    cluster.after(20_000);
    assert_eq!(
        (cluster.state(1).as_str(), cluster.reason(1).as_str()),
        ("DOWN+NOT_RESPONDING", "Not responding")
    );
}

#[test]
fn resume_of_a_node_in_service_is_an_error_and_the_others_are_resumed_all_the_same() {
    let mut cluster = cluster();
    let names: Vec<_> = (1..=3).map(name).collect();
    cluster.set(1, &Update::drain("r"));
    cluster.set(3, &Update::down("r"));
    assert_eq!(cluster.update(&names, &Update::resume()), Err(SlurmError::InvalidNodeState));
    assert_eq!(cluster.update(&names, &Update::resume()), Err(SlurmError::InvalidNodeState));
    cluster.after(5_000);
    assert!((1..=3).all(|n| cluster.seen(n).is_in_service()));
}

#[test]
fn resume_from_fail_keeps_the_boot_time() {
    let mut cluster = cluster();
    cluster.set(1, &Update::fail("r"));
    cluster.set(1, &Update::resume());
    assert_eq!(cluster.state(1), "IDLE");
    assert!(cluster.seen(1).boot_time.is_some());
}

#[test]
fn undrain_is_harmless_where_nothing_is_drained_and_leaves_down_down() {
    let mut cluster = cluster();
    cluster.set(1, &Update::undrain());
    assert_eq!(cluster.state(1), "IDLE");
    cluster.set(1, &Update::down("d"));
    cluster.set(1, &Update::drain("e"));
    cluster.set(1, &Update::undrain());
    cluster.after(5_000);
    assert_eq!((cluster.state(1).as_str(), cluster.reason(1).as_str()), ("DOWN", "e"));
    cluster.set(2, &Update::drain("r"));
    cluster.set(2, &Update::undrain());
    cluster.after(5_000);
    assert_eq!((cluster.state(2).as_str(), cluster.reason(2).as_str()), ("IDLE", ""));
}

#[test]
fn an_update_with_an_unknown_name_is_not_atomic_and_names_nobody() {
    let mut cluster = cluster();
    let unknown = "nid000005x".parse().unwrap();
    let names = [name(7), unknown, name(1)];
    let error = cluster.update(&names, &Update::drain("x")).unwrap_err();
    assert_eq!(error.to_string(), "slurm_update error: Invalid node name specified");
    assert_eq!(cluster.state(1), "IDLE+DRAIN", "it comes before the unknown one in the order of names");
    assert_eq!(cluster.state(7), "IDLE", "it comes after");
    let shown = cluster.show_nodes(&names).unwrap();
    assert_eq!((shown.nodes.len(), shown.not_found), (2, vec!["nid000005x".parse().unwrap()]));
}

#[test]
fn drain_down_and_fail_want_a_reason_and_a_reason_alone_only_replaces_one() {
    let mut cluster = cluster();
    for update in [Update::drain(""), Update::down(""), Update::fail("")] {
        let error = cluster.update(&[name(1)], &update).unwrap_err();
        assert_eq!(
            error.to_string(),
            "You must specify a reason when DOWNING or DRAINING a node. Request denied"
        );
    }
    assert_eq!(cluster.state(1), "IDLE");
    cluster.set(1, &Update::reason("nothing"));
    assert_eq!(cluster.reason(1), "");
    cluster.set(1, &Update::drain("a"));
    cluster.set(1, &Update::reason("b"));
    assert_eq!((cluster.state(1).as_str(), cluster.reason(1).as_str()), ("IDLE+DRAIN", "b"));
}

#[test]
fn a_comment_survives_resume() {
    let mut cluster = cluster();
    let comment = Update { comment: Some("c".to_owned()), extra: Some("e".to_owned()), ..Update::drain("r") };
    cluster.set(1, &comment);
    cluster.set(1, &Update::resume());
    let node = cluster.show_nodes(&[name(1)]).unwrap().nodes.remove(0);
    assert_eq!((node.comment.as_deref(), node.extra.as_deref(), node.reason), (Some("c"), Some("e"), None));
}

#[test]
fn down_kills_the_jobs_of_the_node_and_fail_lets_them_run() {
    let mut cluster = cluster();
    cluster.run(1, &[1, 2]);
    cluster.run(2, &[3]);
    cluster.set(3, &Update::fail("r"));
    assert_eq!(cluster.state(3), "ALLOCATED+FAIL");
    cluster.set(1, &Update::down("r"));
    assert_eq!(cluster.job_ids(), [2]);
    assert_eq!(cluster.killed(), ["1"]);
    assert_eq!(cluster.state(2), "IDLE", "the rest of a killed job's nodes are free");
}

#[test]
fn after_a_restart_of_slurmctld_nodes_are_unknown_and_keep_their_jobs() {
    let mut cluster = cluster();
    cluster.run(1, &[1, 2, 3, 4]);
    for n in 1..=5 {
        cluster.set(n, &Update::drain("r"));
    }
    cluster.set(8, &Update::down("d"));
    cluster.restart_slurmctld(0);
    for n in 1..=4 {
        let seen = cluster.seen(n);
        assert!(matches!(seen.base, BaseState::Unknown | BaseState::Allocated), "{}", seen.state());
        assert_eq!((seen.boot_time, seen.cpus_allocated), (None, Some(64)));
        assert!(!seen.is_quiet());
    }
    assert_eq!((cluster.state(5).as_str(), cluster.state(6).as_str()), ("UNKNOWN+DRAIN", "UNKNOWN"));
    assert!(!cluster.seen(5).is_quiet(), "unknown is not quiet");
    assert_eq!(cluster.state(8), "DOWN");
    assert_eq!(cluster.job_ids(), [1]);
    cluster.after(2_900);
    assert_eq!(cluster.state(6), "UNKNOWN");
    cluster.after(2_100);
    assert_eq!(cluster.state(1), "ALLOCATED+DRAIN");
    assert_eq!((cluster.state(6).as_str(), cluster.reason(5).as_str()), ("IDLE", "r"));
    assert!(cluster.seen(1).boot_time.is_some());
}

#[test]
fn while_slurmctld_is_down_nothing_can_be_asked_and_nothing_starts() {
    let mut cluster = cluster();
    cluster.stop_slurmctld();
    cluster.power_off(x(1));
    assert_eq!(cluster.show_nodes(&[name(1)]), Err(SlurmError::ControllerDown));
    assert_eq!(cluster.jobs(), Err(SlurmError::ControllerDown));
    let error = cluster.update(&[name(1)], &Update::resume()).unwrap_err();
    assert_eq!(error.to_string(), "Unable to contact slurm controller (connect failure)");
    assert!(cluster.submit(job(1, &[2])));
    cluster.after(60_000);
    cluster.start_slurmctld();
    assert_eq!(cluster.state(2), "UNKNOWN");
    cluster.after(35_000);
    assert_eq!((cluster.state(1).as_str(), cluster.state(2).as_str()), ("DOWN+NOT_RESPONDING", "ALLOCATED"));
}

#[test]
fn a_caller_without_rights_can_read_and_change_nothing() {
    let mut cluster = cluster();
    cluster.refuse_updates(true);
    let error = cluster.update(&[name(1)], &Update::drain("r")).unwrap_err();
    assert_eq!(error.to_string(), "slurm_update error: Invalid user id");
    assert_eq!(cluster.state(1), "IDLE");
}

#[test]
fn a_boot_time_jitters_by_a_second_and_no_more() {
    let mut cluster = cluster();
    let first = cluster.seen(1).boot_time.unwrap().0;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..60 {
        cluster.set(1, &Update::drain("r"));
        cluster.set(1, &Update::resume());
        cluster.after(5_000);
        seen.insert(cluster.seen(1).boot_time.unwrap().0 - first);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [-1, 0, 1]);
}

#[test]
fn a_node_whose_power_fails_takes_its_jobs_with_it() {
    let mut cluster = cluster();
    cluster.run(1, &[1, 2]);
    cluster.power_off(x(1));
    assert_eq!(cluster.killed(), ["1"]);
    assert_eq!(cluster.job_ids(), [1], "Slurm has not noticed");
    cluster.after(32_000);
    assert_eq!(cluster.job_ids(), [0; 0]);
    assert_eq!(cluster.killed(), ["1"], "told once");
    assert_eq!(cluster.state(2), "IDLE");
}

#[test]
fn a_node_that_is_back_before_slurm_gave_it_up_is_not_given_up_later() {
    let mut cluster = with(|config| config.bos.boot = Span::exactly(10_000));
    cluster.set(1, &Update::drain("r"));
    cluster.power_off(x(1));
    cluster.after(2_000);
    cluster.power_on(x(1));
    cluster.after(60_000);
    assert_eq!(cluster.state(1), "DOWN+DRAIN");
}

#[test]
fn power_on_boots_a_node_that_bos_could_not() {
    let mut cluster = cluster();
    assert!(cluster.set_boot_behaviour(x(1), BootBehaviour::Fails));
    reboot(&mut cluster, 1);
    assert_eq!(cluster.state(1), "DOWN");
}
