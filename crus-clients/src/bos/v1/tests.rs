use proptest::prelude::*;

use super::*;
use crate::json::any_json;

fn x(n: u32) -> Xname {
    Xname::new(&format!("x1c0s{n}b0n0")).unwrap()
}

/// The nodes of categories.
type Nodes<'a> = &'a [(&'a str, &'a [u32])];

/// A boot set of phases, each with the nodes of its categories.
fn set(phases: &[(&str, Nodes<'_>)]) -> BootSet {
    let phases: Vec<Value> = phases
        .iter()
        .map(|(name, categories)| {
            let nodes = |of: &[u32]| of.iter().map(|n| x(*n).to_string()).collect::<Vec<_>>();
            let categories: Vec<Value> =
                categories.iter().map(|(name, of)| json!({"name": name, "node_list": nodes(of)})).collect();
            let errors = json!({"no \tpower": nodes(&[9])});
            json!({"name": name, "metadata": {}, "categories": categories, "errors": errors})
        })
        .collect();
    serde_json::from_value(json!({"name": "computes", "session": "1", "phases": phases})).unwrap()
}

fn states(sets: &[BootSet]) -> Vec<(Xname, Option<BootNodeState>)> {
    fold(sets, false).into_iter().collect()
}

fn working(words: &str) -> Option<BootNodeState> {
    Some(BootNodeState::Working(words.to_owned()))
}

#[test]
fn a_node_succeeded_only_when_it_did_in_each_phase() {
    let seen = set(&[
        ("shutdown", &[("succeeded", &[1, 2, 3, 4]), ("not_started", &[5])]),
        ("Boot", &[("Succeeded", &[1, 2, 3]), ("in_progress", &[4]), ("not_started", &[5])]),
        ("configure", &[("succeeded", &[1]), ("in_progress", &[2]), ("not_started", &[4, 5])]),
    ]);
    assert_eq!(
        states(&[seen]),
        [
            (x(1), Some(BootNodeState::Succeeded)),
            (x(2), working("configure in_progress")),
            (x(3), working("configure not_started")),
            (x(4), working("boot in_progress")),
            (x(5), working("shutdown not_started")),
        ]
    );
    let unconfigured = set(&[("shutdown", &[("succeeded", &[1])]), ("boot", &[("succeeded", &[1])])]);
    assert_eq!(states(&[unconfigured]), [(x(1), Some(BootNodeState::Succeeded))], "without a configuration");
    let shut_down = set(&[("shutdown", &[("succeeded", &[1])])]);
    assert_eq!(states(&[shut_down]), [(x(1), working("boot not_started"))]);
}

/// How nodes stand whose session shows these phases.
fn at_the_end(sets: &[BootSet]) -> Vec<Option<BootNodeState>> {
    fold(sets, true).into_values().collect()
}

#[test]
fn a_node_that_a_finished_session_never_configures_has_booted() {
    let sets = [set(&[
        ("shutdown", &[("succeeded", &[1, 2, 9]), ("failed", &[3]), ("excluded", &[4])]),
        (
            "boot",
            &[
                ("succeeded", &[1]),
                ("failed", &[2]),
                ("not_started", &[3]),
                ("excluded", &[4]),
                ("in_progress", &[9]),
            ],
        ),
        ("configure", &[("not_started", &[1, 3, 9]), ("excluded", &[2, 4])]),
    ])];
    assert_eq!(fold(&sets, false)[&x(1)], working("configure not_started"));
    let failed = |phase: &str| Some(BootNodeState::Failed(format!("failed in phase {phase}")));
    let told = working("boot in_progress");
    let expected = [Some(BootNodeState::Succeeded), failed("boot"), failed("shutdown"), None, told];
    assert_eq!(
        at_the_end(&sets),
        expected,
        "that others fail, or are left out, does not end a session before its time"
    );
}

/// P5: whoever dies between two nodes leaves one that was never configured, and a session that is complete.
#[test]
fn p5_a_node_that_the_agent_did_not_come_to_configure_has_not_succeeded() {
    let unconfigured = || working("configure not_started");
    for begun in ["succeeded", "in_progress", "failed"] {
        let sets = [set(&[
            ("shutdown", &[("succeeded", &[1, 2])]),
            ("boot", &[("succeeded", &[1, 2])]),
            ("configure", &[(begun, &[1]), ("not_started", &[2])]),
        ])];
        assert_eq!(at_the_end(&sets)[1], unconfigured(), "another is {begun}");
    }
    for unfinished in ["not_started", "in_progress"] {
        let sets = [set(&[
            ("shutdown", &[("succeeded", &[1, 2])]),
            ("boot", &[("succeeded", &[1]), (unfinished, &[2])]),
            ("configure", &[("not_started", &[1, 2])]),
        ])];
        let expected = [unconfigured(), working(&format!("boot {unfinished}"))];
        assert_eq!(at_the_end(&sets), expected);
    }
    // A template configures the nodes of all its sets, or of none.
    let booted = |node: u32, configure: &str| {
        set(&[("boot", &[("succeeded", &[node])]), ("configure", &[(configure, &[node])])])
    };
    let expected = [Some(BootNodeState::Succeeded), unconfigured()];
    assert_eq!(at_the_end(&[booted(1, "succeeded"), booted(2, "not_started")]), expected);
}

#[test]
fn a_node_that_failed_in_any_phase_failed_with_bos_s_words() {
    let seen = set(&[
        ("shutdown", &[("succeeded", &[1, 9])]),
        ("boot", &[("failed", &[1, 9]), ("in_progress", &[9])]),
        ("configure", &[("excluded", &[1, 9])]),
    ]);
    let failed = |why: &str| Some(BootNodeState::Failed(why.to_owned()));
    assert_eq!(states(&[seen]), [(x(1), failed("failed in phase boot")), (x(9), failed("no power"))]);
}

#[test]
fn a_node_that_was_excluded_is_left_out_unless_it_booted_all_the_same() {
    let seen = set(&[
        ("shutdown", &[("excluded", &[1, 2, 3]), ("succeeded", &[4])]),
        ("boot", &[("excluded", &[1]), ("succeeded", &[3, 4])]),
        ("configure", &[("succeeded", &[3]), ("excluded", &[4])]),
    ]);
    let stopped = Some(BootNodeState::Stopped("left out of phase configure".to_owned()));
    assert_eq!(
        states(&[seen]),
        [(x(1), None), (x(2), None), (x(3), Some(BootNodeState::Succeeded)), (x(4), stopped)]
    );
}

#[test]
fn a_session_says_who_is_in_it_only_once_all_its_boot_sets_do() {
    let id: BootHandle = "1".parse().unwrap();
    let sets = [set(&[("boot", &[("in_progress", &[1]), ("excluded", &[2])])])];
    let one = session(&id, false, &sets, false);
    assert_eq!((one.status, one.members.len(), one.nodes.len()), (BootStatus::Running, 0, 1));
    let all = session(&id, false, &sets, true);
    assert_eq!((all.status, all.members), (BootStatus::Running, [x(1)].into()), "node 2 was left out");
    let ended = session(&id, true, &sets, false);
    assert_eq!((ended.status, ended.members), (BootStatus::Complete, [x(1)].into()));
    assert_eq!(session(&id, false, &[], false).status, BootStatus::Pending);
    assert_eq!(session(&id, false, &[set(&[])], true).status, BootStatus::Pending, "its agent has not begun");
}

#[test]
fn a_node_of_several_boot_sets_is_judged_by_each_and_the_worst_counts() {
    let leaves_out = set(&[("shutdown", &[("excluded", &[1, 2, 3])]), ("boot", &[("excluded", &[1, 2, 3])])]);
    let boots = set(&[
        ("shutdown", &[("succeeded", &[1, 2])]),
        ("boot", &[("succeeded", &[1]), ("in_progress", &[2])]),
    ]);
    let expected =
        [(x(1), Some(BootNodeState::Succeeded)), (x(2), working("boot in_progress")), (x(3), None)];
    assert_eq!(states(&[leaves_out, boots]), expected);
    // One configures its nodes, the other does not: the second is not waited for.
    let configures = set(&[
        ("boot", &[("succeeded", &[1, 2])]),
        ("configure", &[("succeeded", &[1]), ("in_progress", &[2])]),
    ]);
    let plain = set(&[("boot", &[("succeeded", &[1]), ("failed", &[2])])]);
    let failed = Some(BootNodeState::Failed("failed in phase boot".to_owned()));
    let expected = [(x(1), Some(BootNodeState::Succeeded)), (x(2), failed)];
    assert_eq!(states(&[configures, plain]), expected);
}

#[test]
fn a_session_that_leaves_out_each_of_its_nodes_has_nothing_to_be_waited_for() {
    let id: BootHandle = "1".parse().unwrap();
    let sets = [set(&[("shutdown", &[("excluded", &[1, 2])]), ("boot", &[("excluded", &[1, 2])])])];
    for complete in [false, true] {
        let seen = session(&id, complete, &sets, true);
        assert_eq!((seen.status, seen.error.as_deref()), (BootStatus::Complete, Some(ALL_LEFT_OUT)));
    }
    assert_eq!(session(&id, false, &sets, false).status, BootStatus::Pending, "another set may boot some");
}

#[test]
fn a_reboot_is_told_by_its_phases() {
    let phases =
        |names: &[&str]| set(&names.iter().map(|name| (*name, &[] as Nodes<'_>)).collect::<Vec<_>>());
    assert_eq!(reboots(&[phases(&["shutdown", "boot", "configure"])]), Some(true));
    assert_eq!(reboots(&[phases(&[]), phases(&["Boot", "Shutdown"])]), Some(true));
    for other in [&["boot", "configure"][..], &["shutdown"], &["configure"]] {
        assert_eq!(reboots(&[phases(other)]), Some(false), "{other:?}");
    }
    assert_eq!(reboots(&[]), None);
    assert_eq!(reboots(&[phases(&["odd"])]), None);
}

#[test]
fn null_is_nothing_and_what_has_no_name_is_passed_over() {
    let phase = json!({
        "name": "boot",
        "categories": [{"name": "succeeded", "node_list": [x(1).to_string()]}, {"node_list": null}, {"name": "failed"}],
        "errors": {"odd": null},
    });
    let unnamed = json!({"name": null, "categories": null, "errors": null});
    let seen: BootSet = serde_json::from_value(json!({"phases": [phase, unnamed]})).unwrap();
    assert_eq!(states(&[seen]), [(x(1), Some(BootNodeState::Succeeded))]);
    let empty: BootSet = serde_json::from_value(json!({"phases": null})).unwrap();
    assert_eq!(states(&[empty]), []);
    let created: Created = serde_json::from_value(json!({"job": "boa-a-1", "links": null})).unwrap();
    assert_eq!(created.id().map(String::from), Some("a-1".to_owned()));
}

#[test]
fn the_id_of_a_new_session_is_read_from_its_link_or_its_job() {
    let id = |created: Value| serde_json::from_value::<Created>(created).unwrap().id().map(String::from);
    let link = |href: &str, rel: &str| json!([{"href": href, "rel": rel}]);
    assert_eq!(id(json!({"links": link("/v1/session/a-1", "session")})), Some("a-1".to_owned()));
    assert_eq!(
        id(json!({"links": link("https://h/apis/bos/v1/session/a-1/", "self")})),
        Some("a-1".to_owned())
    );
    assert_eq!(
        id(json!({"job": "boa-a-1", "links": link("/v1/session/a-1/status", "status")})),
        Some("a-1".to_owned())
    );
    assert_eq!(id(json!({"job": "boa-a-1"})), Some("a-1".to_owned()));
    for unusable in [json!({}), json!({"job": "x"}), json!({"links": link("/v1/session/..", "self")})] {
        assert_eq!(id(unusable), None);
    }
}

#[test]
fn sessions_are_listed_as_ids_or_as_the_documentation_says() {
    let id =
        |listed: Value| serde_json::from_value::<Listed>(listed).ok().and_then(Listed::id).map(String::from);
    assert_eq!(id(json!("a-1")), Some("a-1".to_owned()));
    assert_eq!(id(json!({"job": "boa-a-1", "operation": "boot"})), Some("a-1".to_owned()));
    assert_eq!(id(json!("a/1")), None);
    assert_eq!(id(json!(7)), None);
}

#[test]
fn complete_is_a_word_or_a_text() {
    for (value, complete) in [
        (json!(true), true),
        (json!("True"), true),
        (json!(false), false),
        (json!("false"), false),
        (json!(1), false),
    ] {
        assert_eq!(is_true(&value), complete, "{value}");
    }
}

proptest! {
    #[test]
    fn any_json_is_decoded_or_refused(
        value in any_json(&["phases", "name", "categories", "node_list", "errors", "links", "href", "job", "complete",
                            "boot_sets", "templateName", "limit"]),
    ) {
        if let Ok(set) = serde_json::from_value::<BootSet>(value.clone()) {
            states(&[set]);
        }
        if let Ok(listed) = serde_json::from_value::<Listed>(value.clone()) {
            listed.id();
        }
        if let Ok(head) = serde_json::from_value::<SessionHead>(value) {
            head.is_complete();
        }
    }
}
