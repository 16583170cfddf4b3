//! HSM: each rule, with the code and the words of the answer.

use crus_core::promises::What;
use crus_sim::Cluster;
use crus_sim::cluster::hsm::HsmError;
use crus_sim::config::GroupSpec;

use super::support::{Ask as _, cluster, with, x};

fn answer<T: std::fmt::Debug>(result: Result<T, HsmError>) -> (u16, String) {
    let error = result.expect_err("HSM refuses");
    (error.status(), error.to_string())
}

fn add(cluster: &mut Cluster, label: &str, n: u32) -> Result<crus_core::Xname, HsmError> {
    cluster.add_member(label, &x(n).to_string())
}

#[test]
fn a_missing_group_is_named() {
    let mut cluster = cluster();
    let missing = (404, "No such group: nope".to_owned());
    assert_eq!(answer(cluster.group("nope")), missing);
    assert_eq!(answer(add(&mut cluster, "nope", 1)), missing);
    assert_eq!(answer(cluster.remove_member("nope", &x(1).to_string())), missing);
    assert_eq!(answer(cluster.delete_group("nope")), missing);
    assert_eq!(answer(cluster.patch_group("nope", None, None)), missing);
}

#[test]
fn labels_and_xnames_are_lowered() {
    let mut cluster = cluster();
    cluster.create_group("Red:1", "d", vec![], None, &[]).unwrap();
    assert_eq!(cluster.group("RED:1").unwrap().label, "red:1");
    assert_eq!(cluster.add_member("rEd:1", &x(1).to_string().to_uppercase()), Ok(x(1)));
    assert!(cluster.group("red:1").unwrap().members.contains(&x(1)));
}

#[test]
fn a_bad_label_is_400_and_a_very_long_one_500() {
    let mut cluster = cluster();
    for label in ["", "a b", "a/b", "ä"] {
        assert_eq!(answer(cluster.create_group(label, "", vec![], None, &[])).0, 400, "{label:?}");
        assert_eq!(answer(cluster.group(label)).0, 400, "{label:?}");
    }
    assert_eq!(answer(cluster.create_group(&"a".repeat(300), "", vec![], None, &[])).0, 500);
    assert!(cluster.create_group(&"a".repeat(255), "", vec![], None, &[]).is_ok());
}

#[test]
fn a_member_again_is_a_conflict_and_so_is_one_of_another_exclusive_group() {
    let mut cluster = with(|config| {
        let group = || GroupSpec { exclusive_group: Some("colour".to_owned()), ..GroupSpec::default() };
        config.groups.insert("red".parse().unwrap(), group());
        config.groups.insert("green".parse().unwrap(), group());
    });
    add(&mut cluster, "red", 1).unwrap();
    assert_eq!(
        answer(add(&mut cluster, "red", 1)),
        (409, "operation would conflict with an existing member in the same group.".to_owned())
    );
    assert_eq!(
        answer(add(&mut cluster, "green", 1)),
        (409, "operation would conflict with an existing member in another exclusive group.".to_owned())
    );
    assert!(!cluster.group("green").unwrap().members.contains(&x(1)));
    add(&mut cluster, "empty", 1).expect("groups that are not exclusive do not care");
}

#[test]
fn an_unknown_xname_is_not_a_malformed_one() {
    let mut cluster = cluster();
    for unknown in ["x9999c0s0b0n0", "x1000c0s0b0", "x1000c0r7"] {
        let unknown_answer = (400, "linked component does not exist".to_owned());
        assert_eq!(answer(cluster.add_member("blue", unknown)), unknown_answer, "{unknown}");
        assert_eq!(answer(cluster.remove_member("blue", unknown)).0, 404, "{unknown}");
    }
    for malformed in ["", "nid000001", "x", "x1000c0s0b0n0;", "1000", "x1000 "] {
        let bad = (400, "invalid xname ID".to_owned());
        assert_eq!(answer(cluster.add_member("blue", malformed)), bad, "{malformed:?}");
    }
}

#[test]
fn removing_one_that_is_no_member_is_404_in_other_words_than_a_missing_group() {
    let mut cluster = cluster();
    cluster.remove_member("blue", &x(1).to_string()).unwrap();
    let gone = cluster.remove_member("blue", &x(1).to_string());
    assert_eq!(answer(gone), (404, "group has no such member.".to_owned()));
}

#[test]
fn a_group_is_created_with_all_its_members_or_not_at_all() {
    let mut cluster = cluster();
    let (one, ghost) = (x(1).to_string(), "x9999c0s0b0n0".to_owned());
    let half = cluster.create_group("red", "", vec![], None, &[one.clone(), ghost]);
    assert_eq!(answer(half).0, 400);
    assert!(cluster.group("red").is_err());
    cluster.create_group("red", "d", vec!["t".to_owned()], None, &[one]).unwrap();
    assert_eq!(cluster.group("red").unwrap().members, [x(1)].into());
    assert_eq!(answer(cluster.create_group("RED", "", vec![], None, &[])).0, 409);
    cluster.patch_group("red", Some("e".to_owned()), None).unwrap();
    let red = cluster.group("red").unwrap();
    assert_eq!((red.description.as_str(), red.tags.len(), red.members.len()), ("e", 1, 1));
    cluster.delete_group("red").unwrap();
    assert!(cluster.group("red").is_err());
}

#[test]
fn with_its_database_down_everything_is_500_and_it_is_not_ready() {
    let mut cluster = cluster();
    cluster.set_hsm_down(true);
    assert!(!cluster.hsm_ready());
    let down = (500, "failed to query DB.".to_owned());
    assert_eq!(answer(cluster.group("blue")), down);
    assert_eq!(answer(add(&mut cluster, "blue", 8)), down);
    assert_eq!(answer(cluster.components()), down);
    assert_eq!(answer(cluster.create_group("red", "", vec![], None, &[])), down);
    cluster.set_hsm_down(false);
    assert!(cluster.hsm_ready() && cluster.group("blue").unwrap().members.len() == 4);
}

#[test]
fn components_tell_facts_and_power_and_unknown_ones_are_left_out() {
    let mut cluster = with(|config| {
        config.nodes[1].nid = None;
        config.nodes[2].in_hsm = false;
        config.nodes[3].role = "Management".to_owned();
    });
    assert_eq!(cluster.components().unwrap().len(), 7);
    assert_eq!(cluster.component(x(3)), Ok(None));
    assert_eq!(cluster.component(x(2)).unwrap().unwrap().nid, None);
    assert_eq!(cluster.component(x(4)).unwrap().unwrap().role, "Management");
    cluster.set_locked(x(1), true).unwrap();
    cluster.set_enabled(x(1), false).unwrap();
    let one = cluster.component(x(1)).unwrap().unwrap();
    assert_eq!((one.locked, one.enabled, one.state, one.nid), (true, false, "Ready", Some(1)));
    cluster.power_off(x(1));
    assert_eq!(cluster.component(x(1)).unwrap().unwrap().state, "Off");
    cluster.power_on(x(1));
    assert_eq!(cluster.component(x(1)).unwrap().unwrap().state, "On");
    assert_eq!(answer(cluster.set_locked(x(3), true)).0, 400);
}

#[test]
fn deleting_a_component_takes_it_out_of_its_groups() {
    let mut cluster = cluster();
    cluster.delete_component(x(1)).unwrap();
    assert_eq!(cluster.component(x(1)), Ok(None));
    assert!(!cluster.group("blue").unwrap().members.contains(&x(1)));
    assert_eq!(cluster.state(1), "IDLE", "Slurm knows it still");
}

#[test]
fn a_witness_is_told_of_every_change_of_a_group_and_of_nothing_else() {
    let mut cluster = cluster();
    let first = cluster.drain_facts();
    let blue = "blue".parse().unwrap();
    let all = (1..=4).map(x).collect();
    let expected = What::GroupChanged { label: blue, added: all, removed: [].into() };
    assert_eq!(first.iter().map(|fact| &fact.what).collect::<Vec<_>>(), [&expected]);
    add(&mut cluster, "blue", 1).unwrap_err();
    add(&mut cluster, "blue", 8).unwrap();
    cluster.remove_member("blue", &x(8).to_string()).unwrap();
    cluster.remove_member("blue", &x(8).to_string()).unwrap_err();
    let told: Vec<_> = cluster
        .facts()
        .iter()
        .map(|fact| match &fact.what {
            What::GroupChanged { added, removed, .. } => (added.len(), removed.len()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(1, 0), (0, 1)]);
}
