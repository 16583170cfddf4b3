//! BOS: sessions, their nodes, and each trap.

use crus_core::promises::What;
use crus_core::{Time, Xname};
use crus_sim::Cluster;
use crus_sim::cluster::PowerEvent;
use crus_sim::cluster::bos::{BosError, NewSession, Operation, Session, SessionStatus};
use crus_sim::cluster::slurm::Update;
use crus_sim::config::{BootBehaviour, BootEnd, BootSet, ClusterConfig, TemplateSpec};

use super::support::{Ask as _, cluster, steady, with, x};

const DAY_MS: u64 = 24 * 3_600_000;

fn request(name: &str, limit: &str) -> NewSession {
    NewSession {
        name: name.to_owned(),
        operation: Operation::Reboot,
        template_name: "image".to_owned(),
        limit: limit.to_owned(),
        stage: false,
        include_disabled: false,
    }
}

fn ask(cluster: &mut Cluster, name: &str, limit: &str) {
    cluster.create_boot_session(request(name, limit)).expect("BOS takes the session");
}

fn limit(nodes: &[u32]) -> String {
    nodes.iter().map(|&n| x(n).to_string()).collect::<Vec<_>>().join(",")
}

fn session<'a>(cluster: &'a Cluster, name: &str) -> &'a Session {
    cluster.boot_session(name).expect("BOS knows the session")
}

fn until_complete(cluster: &mut Cluster, name: &str) {
    cluster.until("complete", 6 * 3_600_000, |c| session(c, name).status == SessionStatus::Complete);
}

/// The status of each node that the session has.
fn statuses(cluster: &Cluster, name: &str) -> Vec<(Xname, &'static str)> {
    let components = cluster.boot_components_of(name).unwrap();
    components.into_iter().map(|component| (component.xname, component.status)).collect()
}

#[test]
fn a_reboot_goes_through_its_phases_and_ends_stable() {
    let mut cluster = with(steady);
    cluster.set(1, &Update::drain("r"));
    ask(&mut cluster, "s", &limit(&[1]));
    assert_eq!(session(&cluster, "s").status, SessionStatus::Pending);
    assert!(session(&cluster, "s").components.is_empty(), "nobody knows yet which nodes");
    let mut seen: Vec<(&str, &str, bool)> = Vec::new();
    while session(&cluster, "s").status != SessionStatus::Complete {
        cluster.after(500);
        if let Some(component) = cluster.boot_components_of("s").unwrap().pop() {
            let now = (component.status, component.phase, component.enabled);
            if seen.last() != Some(&now) {
                seen.push(now);
            }
        }
    }
    assert_eq!(
        seen,
        [
            ("power_off_pending", "powering_off", true),
            ("power_off_gracefully_called", "powering_off", true),
            ("power_on_pending", "powering_on", true),
            ("power_on_called", "powering_on", true),
            ("configuring", "configuring", true),
            ("stable", "", false),
        ]
    );
    let done = session(&cluster, "s");
    assert_eq!((done.error.as_deref(), done.components.len()), (None, 1));
    assert_eq!(
        done.end_time.unwrap().since(done.start_time),
        2_000 + 1_000 + 10_000 + 1_000 + 120_000 + 30_000
    );
    assert_eq!(cluster.image_of(x(1)), Some("image"));
    assert_eq!(cluster.state(1), "DOWN+DRAIN");
    let status = cluster.boot_session_status("s").unwrap();
    assert_eq!((status.managed, status.complete, status.successful, status.failed), (1, 1, 1, 0));
}

#[test]
fn a_witness_sees_what_a_reboot_hits() {
    let mut cluster = with(steady);
    cluster.run(7, &[1]);
    cluster.set(2, &Update::drain("r"));
    ask(&mut cluster, "s", &limit(&[1, 2]));
    cluster.after(60_000);
    let cut: Vec<_> = cluster
        .facts()
        .iter()
        .filter_map(|fact| match &fact.what {
            What::PowerCut { xname, boot_session, jobs, held } => {
                Some((*xname, boot_session.as_str(), jobs.clone(), *held))
            }
            _ => None,
        })
        .collect();
    assert_eq!(cut, [(x(1), "s", vec!["7".to_owned()], false), (x(2), "s", vec![], true)]);
    assert_eq!(cluster.killed(), ["7"]);
}

#[test]
fn a_name_is_taken_once() {
    let mut cluster = with(steady);
    ask(&mut cluster, "s", &limit(&[1]));
    let error = cluster.create_boot_session(request("s", &limit(&[2]))).unwrap_err();
    assert_eq!((error.status(), error.to_string().as_str()), (409, "Session 's' already exists"));
    until_complete(&mut cluster, "s");
    assert_eq!(cluster.create_boot_session(request("s", "")).unwrap_err().status(), 409);
    assert_eq!(cluster.cut(), [x(1)], "asked for twice, rebooted once");
}

#[test]
fn what_bos_will_not_take_is_400() {
    let mut cluster = cluster();
    let broken = TemplateSpec { broken: Some("no boot set".to_owned()), ..TemplateSpec::default() };
    cluster.put_boot_template("broken", broken).unwrap();
    let mut refused = |change: &dyn Fn(&mut NewSession)| {
        let mut request = request("s", "");
        change(&mut request);
        let error = cluster.create_boot_session(request).unwrap_err();
        assert_eq!(error.status(), 400);
        error.to_string()
    };
    assert_eq!(refused(&|r| r.template_name = "nope".to_owned()), "Session Template Name invalid: nope");
    assert_eq!(
        refused(&|r| r.template_name = "broken".to_owned()),
        "Session template fails check: no boot set"
    );
    refused(&|r| r.name = "-s".to_owned());
    refused(&|r| r.name = String::new());
    refused(&|r| r.limit = "x".repeat(524_289));
    assert_eq!(cluster.boot_session("s").unwrap_err(), BosError::NoSuchSession("s".to_owned()));
}

#[test]
fn an_empty_limit_takes_every_node_of_the_template_and_a_limit_only_narrows() {
    let mut cluster = with(steady);
    for (name, limit, taken) in [
        ("empty", String::new(), vec![1, 2, 3, 4]),
        ("star", "*".to_owned(), vec![1, 2, 3, 4]),
        ("all", "all".to_owned(), vec![1, 2, 3, 4]),
        ("beyond", limit(&[4, 5]), vec![4]),
        ("role", "Compute,!blue,".to_owned() + &x(2).to_string(), vec![2]),
        ("space", format!("{}, {}", x(1), x(2)), vec![1]),
        ("unknown", format!("{},x9999c0s0b0n0", x(1)), vec![1]),
    ] {
        ask(&mut cluster, name, &limit);
        cluster.after(2_000);
        let taken: std::collections::BTreeSet<_> = taken.into_iter().map(x).collect();
        assert_eq!(session(&cluster, name).components, taken, "{name}");
    }
}

#[test]
fn a_limit_that_leaves_nothing_completes_at_once_with_an_error() {
    let mut cluster = with(steady);
    for (name, limit, error) in [
        ("empty-group", "empty".to_owned(), "No nodes were found to act upon."),
        ("unknown", "ghost".to_owned(), "No nodes were found to act upon."),
        ("outside", limit(&[7]), "No nodes were found to act upon."),
        ("comma", limit(&[1]) + ",", "IndexError: string index out of range"),
    ] {
        ask(&mut cluster, name, &limit);
        cluster.after(2_000);
        let session = session(&cluster, name);
        assert_eq!(
            (session.status, session.error.as_deref()),
            (SessionStatus::Complete, Some(error)),
            "{name}"
        );
        assert!(session.components.is_empty());
    }
    assert!(cluster.cut().is_empty());
}

#[test]
fn nodes_are_worked_out_late_so_the_group_must_stay_until_then() {
    let mut cluster = with(steady);
    ask(&mut cluster, "s", &limit(&[1, 2, 8]));
    cluster.after(1_000);
    cluster.remove_member("blue", &x(1).to_string()).unwrap();
    cluster.add_member("blue", &x(8).to_string()).unwrap();
    cluster.after(1_000);
    assert_eq!(session(&cluster, "s").components, [x(2), x(8)].into());
}

#[test]
fn locked_disabled_and_foreign_nodes_are_left_out_without_a_word() {
    let change = |config: &mut ClusterConfig| {
        steady(config);
        config.nodes[0].locked = true;
        config.nodes[1].enabled = false;
        config.nodes[2].arch = "ARM".to_owned();
        config.nodes[3].arch = "Unknown".to_owned();
        config.nodes[4].in_hsm = false;
    };
    let mut cluster = with(change);
    ask(&mut cluster, "s", &limit(&[1, 2, 3, 4, 5]));
    until_complete(&mut cluster, "s");
    let done = session(&cluster, "s");
    assert_eq!(done.components, [x(4)].into(), "an unknown architecture passes for x86");
    assert_eq!(done.error, None);
    assert_eq!(cluster.boot_session_status("s").unwrap().successful, 1);

    let mut request = request("t", &limit(&[1, 2]));
    request.include_disabled = true;
    cluster.create_boot_session(request).unwrap();
    cluster.after(2_000);
    assert_eq!(session(&cluster, "t").components, [x(2)].into());

    let mut old = with(|config| {
        change(config);
        config.bos.respects_locks = false;
    });
    ask(&mut old, "s", &limit(&[1, 2, 3, 4]));
    old.after(2_000);
    assert_eq!(session(&old, "s").components, [x(1), x(4)].into(), "before 2.47 locks meant nothing");
}

#[test]
fn complete_does_not_mean_success() {
    let mut cluster = with(|config| {
        steady(config);
        config.nodes[0].boot = BootBehaviour::Fails;
    });
    cluster.set(1, &Update::drain("r"));
    ask(&mut cluster, "s", &limit(&[1]));
    cluster.after(50 * 60_000);
    assert_eq!(session(&cluster, "s").status, SessionStatus::Running, "three tries of twenty minutes");
    until_complete(&mut cluster, "s");
    assert_eq!(session(&cluster, "s").error, None);
    let component = cluster.boot_component(x(1)).unwrap();
    assert_eq!((component.status, component.enabled, component.power_on_attempts), ("failed", false, 3));
    assert_eq!(
        component.error,
        "The retry limit has been hit for this component, but no services have reported specific errors"
    );
    let status = cluster.boot_session_status("s").unwrap();
    assert_eq!((status.managed, status.successful, status.failed), (1, 0, 1));
    assert_eq!(status.errors[&component.error], [x(1)]);
    assert_eq!(cluster.state(1), "DOWN+DRAIN+NOT_RESPONDING");
}

#[test]
fn a_node_that_hangs_keeps_its_session_running() {
    let mut cluster = with(|config| {
        steady(config);
        config.nodes[0].boot = BootBehaviour::Hangs;
    });
    ask(&mut cluster, "s", &limit(&[1, 2]));
    cluster.after(DAY_MS);
    assert_eq!(session(&cluster, "s").status, SessionStatus::Running);
    assert_eq!(statuses(&cluster, "s"), [(x(1), "power_on_called"), (x(2), "stable")]);
}

#[test]
fn bos_may_say_stable_of_a_node_that_never_comes_back_or_never_went() {
    let mut cluster = with(|config| {
        steady(config);
        config.nodes[0].boot = BootBehaviour::NeverRegisters;
        config.nodes[1].boot = BootBehaviour::DidNotReboot;
    });
    let before = cluster.seen(2).boot_time;
    for n in [1, 2] {
        cluster.set(n, &Update::drain("r"));
    }
    ask(&mut cluster, "s", &limit(&[1, 2]));
    until_complete(&mut cluster, "s");
    cluster.after(DAY_MS);
    assert_eq!(cluster.boot_session_status("s").unwrap().successful, 2);
    assert_eq!(cluster.state(1), "DOWN+DRAIN+NOT_RESPONDING");
    assert_eq!((cluster.state(2).as_str(), cluster.seen(2).boot_time), ("IDLE+DRAIN", before));
    assert_eq!((cluster.cut(), cluster.image_of(x(2))), (vec![x(1)], None));
}

#[test]
fn a_node_on_hold_counts_neither_as_successful_nor_as_failed() {
    let mut cluster = with(|config| {
        steady(config);
        config.nodes[0].boot = BootBehaviour::OnHold { error: "not in power control".to_owned() };
    });
    ask(&mut cluster, "s", &limit(&[1]));
    until_complete(&mut cluster, "s");
    let component = cluster.boot_component(x(1)).unwrap();
    assert_eq!((component.status, component.enabled), ("on_hold", false));
    assert_eq!(component.error, "not in power control");
    let status = cluster.boot_session_status("s").unwrap();
    assert_eq!((status.managed, status.successful, status.failed), (1, 0, 0));
    assert!(cluster.cut().is_empty());
}

#[test]
fn a_boot_longer_than_bos_waits_comes_up_after_bos_gave_it_up() {
    let mut cluster = with(|config| {
        steady(config);
        config.nodes[0].boot = BootBehaviour::Takes { ms: 2 * 3_600_000 };
    });
    cluster.set(1, &Update::drain("r"));
    ask(&mut cluster, "s", &limit(&[1]));
    until_complete(&mut cluster, "s");
    assert_eq!(statuses(&cluster, "s"), [(x(1), "failed")]);
    cluster.after(2 * 3_600_000);
    assert_eq!((cluster.state(1).as_str(), statuses(&cluster, "s")), ("DOWN+DRAIN", vec![(x(1), "failed")]));
}

#[test]
fn a_newer_session_takes_nodes_over_and_the_older_one_forgets_them() {
    let mut cluster = with(steady);
    ask(&mut cluster, "old", &limit(&[1, 2]));
    cluster.after(30_000);
    ask(&mut cluster, "new", &limit(&[1]));
    cluster.after(2_000);
    assert_eq!(session(&cluster, "old").components, [x(1), x(2)].into(), "the list stays");
    assert_eq!(statuses(&cluster, "old").len(), 1);
    assert_eq!(cluster.boot_session_status("old").unwrap().managed, 1);
    until_complete(&mut cluster, "old");
    assert_eq!(cluster.boot_session_status("old").unwrap().successful, 1, "as if it never had the other");
    until_complete(&mut cluster, "new");
    assert_eq!(statuses(&cluster, "new"), [(x(1), "stable")]);
    ask(&mut cluster, "last", &limit(&[2]));
    cluster.after(2_000);
    assert_eq!(statuses(&cluster, "old"), []);
    assert_eq!(cluster.boot_session_status("old").unwrap().successful, 1, "the totals are frozen");
}

#[test]
fn a_boot_that_a_newer_session_cuts_short_does_not_end() {
    let mut cluster = with(steady);
    ask(&mut cluster, "old", &limit(&[1]));
    cluster.after(100_000);
    ask(&mut cluster, "new", &limit(&[1]));
    // The older boot would have ended at 134 s; the newer one begins at 114 s and takes two minutes.
    cluster.after(120_000);
    assert_eq!(statuses(&cluster, "new"), [(x(1), "power_on_called")]);
    cluster.after(20_000);
    assert_eq!(statuses(&cluster, "new"), [(x(1), "configuring")]);
    assert_eq!(cluster.cut(), [x(1), x(1)]);
}

#[test]
fn deleting_a_session_stops_nothing() {
    let mut cluster = with(steady);
    ask(&mut cluster, "s", &limit(&[1]));
    cluster.after(5_000);
    cluster.delete_boot_session("s").unwrap();
    assert_eq!(cluster.boot_session("s").unwrap_err().status(), 404);
    assert_eq!(cluster.delete_boot_session("s").unwrap_err().status(), 404);
    assert!(cluster.cut().is_empty());
    cluster.after(10 * 60_000);
    assert_eq!((cluster.cut(), cluster.image_of(x(1))), (vec![x(1)], Some("image")));
    assert_eq!(statuses(&cluster, "s"), [(x(1), "stable")], "the component names a session that is gone");
}

#[test]
fn a_pending_session_that_is_deleted_takes_no_nodes() {
    let mut cluster = with(steady);
    ask(&mut cluster, "s", "");
    cluster.delete_boot_session("s").unwrap();
    cluster.after(DAY_MS);
    assert!(cluster.cut().is_empty());
}

#[test]
fn a_complete_session_is_forgotten_seven_days_after_its_start() {
    let mut cluster = with(steady);
    ask(&mut cluster, "s", &limit(&[1]));
    let start: Time = cluster.now();
    cluster.advance_to(start + (7 * DAY_MS - 1));
    assert_eq!(session(&cluster, "s").status, SessionStatus::Complete);
    cluster.after(1);
    assert_eq!(cluster.boot_session("s").unwrap_err().status(), 404);
    ask(&mut cluster, "s", &limit(&[1]));
}

#[test]
fn a_component_disabled_by_hand_ends_its_session_without_a_result() {
    let mut cluster = with(steady);
    ask(&mut cluster, "s", &limit(&[1]));
    cluster.after(4_000);
    cluster.enable_boot_component(x(1), false).unwrap();
    let session = session(&cluster, "s");
    assert_eq!((session.status, session.error.as_deref()), (SessionStatus::Complete, None));
    let status = cluster.boot_session_status("s").unwrap();
    assert_eq!((status.managed, status.successful, status.failed), (1, 0, 0));
    cluster.after(DAY_MS);
    assert!(cluster.cut().is_empty(), "BOS had not come to cutting its power");
}

#[test]
fn boot_on_a_node_in_that_image_succeeds_without_a_reboot() {
    let mut cluster = with(steady);
    ask(&mut cluster, "s", &limit(&[1]));
    until_complete(&mut cluster, "s");
    let mut again = request("t", &limit(&[1, 2]));
    again.operation = Operation::Boot;
    cluster.create_boot_session(again).unwrap();
    until_complete(&mut cluster, "t");
    assert_eq!(cluster.boot_session_status("t").unwrap().successful, 2);
    assert_eq!(cluster.cut(), [x(1), x(2)], "the second only for the node that ran the image from before");
}

#[test]
fn shutdown_leaves_a_node_off() {
    let mut cluster = with(steady);
    let mut off = request("s", &limit(&[1]));
    off.operation = Operation::Shutdown;
    cluster.create_boot_session(off).unwrap();
    until_complete(&mut cluster, "s");
    cluster.after(DAY_MS);
    assert_eq!(cluster.component(x(1)).unwrap().unwrap().state, "Off");
}

#[test]
fn a_staged_session_never_completes() {
    let mut cluster = with(steady);
    let mut staged = request("s", &limit(&[1]));
    staged.stage = true;
    cluster.create_boot_session(staged).unwrap();
    cluster.after(DAY_MS);
    assert_eq!(session(&cluster, "s").status, SessionStatus::Running);
    assert!(cluster.cut().is_empty());
}

#[test]
fn with_its_store_down_everything_is_503_and_boots_go_on() {
    let mut cluster = with(steady);
    ask(&mut cluster, "s", &limit(&[1]));
    cluster.set_bos_down(true);
    let down = |error: BosError| assert_eq!(error.status(), 503, "{error}");
    down(cluster.boot_session("s").unwrap_err());
    down(cluster.boot_template("image").unwrap_err());
    down(cluster.boot_components_of("s").unwrap_err());
    down(cluster.create_boot_session(request("t", "")).unwrap_err());
    assert_eq!(BosError::StoreDown.to_string(), "Unable to connect to the Redis database");
    cluster.after(DAY_MS);
    cluster.set_bos_down(false);
    assert_eq!(session(&cluster, "s").status, SessionStatus::Complete);
    assert!(cluster.boot_session("t").is_err());
}

#[test]
fn while_hsm_is_down_a_session_stays_pending() {
    let mut cluster = with(steady);
    ask(&mut cluster, "s", &limit(&[1]));
    cluster.set_hsm_down(true);
    cluster.after(60_000);
    assert_eq!(session(&cluster, "s").status, SessionStatus::Pending);
    cluster.set_hsm_down(false);
    until_complete(&mut cluster, "s");
}

#[test]
fn several_boot_sets_name_nodes_by_list_group_and_role_each_with_its_architecture() {
    let mut cluster = with(|config| {
        steady(config);
        config.nodes[5].arch = "ARM".to_owned();
        config.nodes[6].role = "Application".to_owned();
    });
    let set = |arch: &str| BootSet { arch: arch.to_owned(), node_groups: vec![], ..BootSet::of_group("") };
    let sets = [
        ("list", BootSet { node_list: vec![x(8).to_string(), "nid000001".to_owned()], ..set("X86") }),
        ("arm", BootSet { node_roles_groups: vec!["Compute".to_owned()], ..set("ARM") }),
        ("apps", BootSet { node_roles_groups: vec!["Application".to_owned()], ..set("X86") }),
    ];
    let boot_sets = sets.into_iter().map(|(name, set)| (name.to_owned(), set)).collect();
    cluster.put_boot_template("image", TemplateSpec { boot_sets, broken: None }).unwrap();
    ask(&mut cluster, "s", "");
    cluster.after(2_000);
    assert_eq!(session(&cluster, "s").components, [x(6), x(7), x(8)].into());
    assert_eq!(cluster.boot_templates().unwrap(), ["image"]);
    cluster.delete_boot_template("image").unwrap();
    assert_eq!(cluster.boot_template("image").unwrap_err().status(), 404);
}

#[test]
fn power_events_tell_in_order_what_something_real_must_do() {
    let mut cluster = with(|config| {
        steady(config);
        config.nodes[1].boot = BootBehaviour::Fails;
        config.nodes[2].boot = BootBehaviour::DidNotReboot;
    });
    let start = cluster.now();
    ask(&mut cluster, "s", &limit(&[1, 2, 3]));
    until_complete(&mut cluster, "s");
    let (off, on) = (start + 13_000, start + 14_000);
    assert_eq!(
        cluster.drain_power_events(),
        [
            PowerEvent::Cut { at: off, xname: x(1) },
            PowerEvent::Cut { at: off, xname: x(2) },
            PowerEvent::Boot { at: on, xname: x(1) },
        ]
    );
    assert_eq!(cluster.drain_power_events(), []);
}

#[test]
fn the_end_of_a_boot_can_be_reported_from_outside() {
    let mut cluster = with(|config| {
        steady(config);
        config.bos.boot_end = BootEnd::Reported;
    });
    assert!(!cluster.node_booted(x(1)), "it does not boot");
    ask(&mut cluster, "s", &limit(&[1, 2]));
    cluster.after(15 * 60_000);
    assert_eq!(statuses(&cluster, "s"), [(x(1), "power_on_called"), (x(2), "power_on_called")]);
    assert!(cluster.node_booted(x(1)) && !cluster.node_booted(x(1)));
    until_complete(&mut cluster, "s");
    assert_eq!(statuses(&cluster, "s"), [(x(1), "stable"), (x(2), "failed")], "the other was never reported");
}
