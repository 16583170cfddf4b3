//! A cluster that was saved and restored goes on as the one that was not.

use std::error::Error as _;

use crus_core::promises::Fact;
use crus_sim::cluster::RestoreError;
use crus_sim::cluster::bos::{NewSession, Operation};
use crus_sim::cluster::slurm::Update;
use crus_sim::config::BootBehaviour;
use crus_sim::{Cluster, ClusterConfig};
use proptest::prelude::*;
use proptest::sample::Index;

use super::support::{SEED, job};

/// What an upgrade does, and what happens beside it.
#[derive(Debug, Clone)]
enum Deed {
    Wait(u64),
    Drain(Vec<Index>),
    Resume(Vec<Index>),
    Down(Index),
    Reboot(Vec<Index>),
    Behave(Index, BootBehaviour),
    Join(Index),
    Leave(Index),
    Lock(Index, bool),
    Submit(u32),
    EndOneJob(Index),
    RequeueOneJob(Index),
    RestartSlurm(u64),
    StopSlurm(bool),
    RefuseUpdates(bool),
    HsmDown(bool),
    BosDown(bool),
    ForgetSession(Index),
}

fn deed() -> impl Strategy<Value = Deed> {
    let node = any::<Index>;
    let nodes = || proptest::collection::vec(any::<Index>(), 1..8);
    prop_oneof![
        8 => (1..300_000u64).prop_map(Deed::Wait),
        3 => nodes().prop_map(Deed::Drain),
        3 => nodes().prop_map(Deed::Resume),
        1 => node().prop_map(Deed::Down),
        4 => nodes().prop_map(Deed::Reboot),
        2 => (node(), behaviour()).prop_map(|(node, how)| Deed::Behave(node, how)),
        2 => node().prop_map(Deed::Join),
        1 => node().prop_map(Deed::Leave),
        1 => (node(), any::<bool>()).prop_map(|(node, locked)| Deed::Lock(node, locked)),
        2 => (1..9u32).prop_map(Deed::Submit),
        1 => node().prop_map(Deed::EndOneJob),
        2 => node().prop_map(Deed::RequeueOneJob),
        1 => (0..30_000u64).prop_map(Deed::RestartSlurm),
        1 => seldom().prop_map(Deed::StopSlurm),
        1 => seldom().prop_map(Deed::RefuseUpdates),
        1 => seldom().prop_map(Deed::HsmDown),
        1 => seldom().prop_map(Deed::BosDown),
        1 => node().prop_map(Deed::ForgetSession),
    ]
}

/// So that what was broken is soon mended.
fn seldom() -> impl Strategy<Value = bool> {
    proptest::bool::weighted(0.3)
}

fn behaviour() -> impl Strategy<Value = BootBehaviour> {
    prop_oneof![
        Just(BootBehaviour::Normal),
        Just(BootBehaviour::Takes { ms: 90_000 }),
        Just(BootBehaviour::Fails),
        Just(BootBehaviour::Hangs),
        Just(BootBehaviour::NeverRegisters),
        Just(BootBehaviour::DidNotReboot),
        Just(BootBehaviour::OnHold { error: "no such node".to_owned() }),
    ]
}

/// Does it, and tells what was answered.
fn act(cluster: &mut Cluster, number: u32, deed: &Deed) -> String {
    let all: Vec<_> = cluster.config().nodes.iter().map(|node| node.xname).collect();
    let xname = |index: &Index| *index.get(&all);
    let update = |cluster: &mut Cluster, nodes: &[Index], update: &Update| {
        let names: Vec<_> = nodes.iter().filter_map(|node| cluster.name_of(xname(node)).cloned()).collect();
        format!("{:?}", cluster.update(&names, update))
    };
    match deed {
        Deed::Wait(ms) => {
            cluster.advance_to(cluster.now() + *ms);
            String::new()
        }
        Deed::Drain(nodes) => update(cluster, nodes, &Update::drain("rolling-upgrade")),
        Deed::Resume(nodes) => update(cluster, nodes, &Update::resume()),
        Deed::Down(node) => update(cluster, &[*node], &Update::down("bad fan")),
        Deed::Reboot(nodes) => {
            for node in nodes {
                drop(cluster.add_member("upgrading-nodes", &xname(node).to_string()));
            }
            let limit: Vec<_> = nodes.iter().map(|node| xname(node).to_string()).collect();
            let request = NewSession {
                name: format!("s{number}"),
                operation: Operation::Reboot,
                template_name: "new-image".to_owned(),
                limit: limit.join(","),
                stage: false,
                include_disabled: false,
            };
            format!("{:?}", cluster.create_boot_session(request))
        }
        Deed::Behave(node, how) => format!("{}", cluster.set_boot_behaviour(xname(node), how.clone())),
        Deed::Join(node) => {
            format!("{:?}", cluster.add_member("upgrading-nodes", &xname(node).to_string()))
        }
        Deed::Leave(node) => {
            format!("{:?}", cluster.remove_member("upgrading-nodes", &xname(node).to_string()))
        }
        Deed::Lock(node, locked) => format!("{:?}", cluster.set_locked(xname(node), *locked)),
        Deed::Submit(n) => format!("{}", cluster.submit(job(1_000_000 - number, &[*n]))),
        Deed::EndOneJob(index) => match cluster.jobs() {
            Ok(jobs) if !jobs.is_empty() => format!("{}", cluster.end_job(index.get(&jobs).id)),
            other => format!("{other:?}"),
        },
        Deed::RequeueOneJob(index) => match cluster.jobs() {
            Ok(jobs) if !jobs.is_empty() => format!("{:?}", cluster.requeue_job(index.get(&jobs).id)),
            other => format!("{other:?}"),
        },
        Deed::RestartSlurm(ms) => {
            cluster.restart_slurmctld(*ms);
            String::new()
        }
        Deed::StopSlurm(true) => {
            cluster.stop_slurmctld();
            String::new()
        }
        Deed::StopSlurm(false) => {
            cluster.start_slurmctld();
            String::new()
        }
        Deed::RefuseUpdates(refuse) => {
            cluster.refuse_updates(*refuse);
            String::new()
        }
        Deed::HsmDown(down) => {
            cluster.set_hsm_down(*down);
            String::new()
        }
        Deed::BosDown(down) => {
            cluster.set_bos_down(*down);
            String::new()
        }
        Deed::ForgetSession(index) => {
            let name = format!("s{}", index.index(number as usize + 1));
            format!("{:?}", cluster.delete_boot_session(&name))
        }
    }
}

/// Everything that anybody can see.
fn seen(cluster: &Cluster) -> String {
    let names: Vec<_> = cluster.node_names().cloned().collect();
    let nodes: Vec<_> = cluster
        .config()
        .nodes
        .iter()
        .map(|node| (cluster.component(node.xname), cluster.image_of(node.xname)))
        .collect();
    let sessions = cluster.boot_sessions();
    let totals: Vec<_> =
        sessions.iter().flatten().map(|session| cluster.boot_session_status(&session.request.name)).collect();
    format!(
        "{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n{sessions:?}\n{totals:?}\n{:?}\n{nodes:?}",
        (cluster.now(), cluster.next_event()),
        cluster.show_nodes(&names),
        cluster.jobs(),
        cluster.groups(),
        cluster.boot_templates(),
        cluster.boot_components(),
    )
}

/// The two show the same; if not, the lines that differ are told.
fn same(restored: &Cluster, saved: &Cluster) -> Result<(), TestCaseError> {
    for (restored, saved) in seen(restored).lines().zip(seen(saved).lines()) {
        let at = restored.bytes().zip(saved.bytes()).take_while(|(one, other)| one == other).count();
        let around = |line: &str| line.chars().skip(at.saturating_sub(200)).take(400).collect::<String>();
        prop_assert!(restored == saved, "restored: …{}\nsaved: …{}", around(restored), around(saved));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_restored_cluster_goes_on_as_the_saved_one(
        seed: u64,
        before in proptest::collection::vec(deed(), 0..40),
        after in proptest::collection::vec(deed(), 1..40),
    ) {
        let mut saved = Cluster::new(ClusterConfig::demo(), seed);
        for (number, deed) in (0..).zip(&before) {
            act(&mut saved, number, deed);
        }
        let text = saved.save().unwrap();
        let mut restored = Cluster::restore(&text).unwrap();
        // Plainly, not by prop_assert_eq: a difference would print both in full.
        prop_assert!(restored.save().unwrap() == text, "what was restored is saved otherwise");
        prop_assert_eq!(restored.config(), saved.config());
        prop_assert!(restored.facts().is_empty() && restored.drain_power_events().is_empty());
        saved.drain_facts();
        saved.drain_power_events();
        same(&restored, &saved)?;
        for (number, deed) in (before.len() as u32..).zip(&after) {
            prop_assert_eq!(act(&mut restored, number, deed), act(&mut saved, number, deed));
            let facts: [Vec<Fact>; 2] = [restored.drain_facts(), saved.drain_facts()];
            prop_assert_eq!(&facts[0], &facts[1]);
            prop_assert_eq!(restored.drain_power_events(), saved.drain_power_events());
            same(&restored, &saved)?;
        }
        // Left alone for a day, with everything up.
        for cluster in [&mut restored, &mut saved] {
            cluster.start_slurmctld();
            cluster.set_hsm_down(false);
            cluster.set_bos_down(false);
            cluster.advance_to(cluster.now() + 24 * 3_600_000);
        }
        prop_assert_eq!(restored.drain_facts(), saved.drain_facts());
        same(&restored, &saved)?;
    }
}

fn refusal(text: &str) -> RestoreError {
    Cluster::restore(text).expect_err("this is no cluster")
}

#[test]
fn a_text_that_is_no_snapshot_is_said_to_be_none() {
    for text in ["", "{}", "[]", "null", "nid000001", r#"{"format":"a session","version":1}"#, "\u{0}\u{1}"] {
        let error = refusal(text);
        assert!(matches!(error, RestoreError::NotASnapshot), "{text:?}: {error:?}");
        assert_eq!(error.to_string(), "this is not the snapshot of a simulated cluster");
    }
}

#[test]
fn a_snapshot_of_another_version_is_not_guessed_at() {
    let error = refusal(r#"{"format":"crus-sim cluster","version":77,"cluster":"who knows"}"#);
    assert_eq!(error.to_string(), "the snapshot is of version 77; this program reads version 2");
}

#[test]
fn a_snapshot_cut_short_anywhere_is_refused() {
    let text = Cluster::new(super::support::config(), SEED).save().unwrap();
    for end in 0..text.len() {
        let error = refusal(text.get(..end).expect("it is ASCII"));
        assert!(matches!(error, RestoreError::NotASnapshot | RestoreError::Damaged(_)), "{end}: {error:?}");
    }
}

#[test]
fn a_snapshot_whose_parts_contradict_each_other_is_refused() {
    let mut cluster = Cluster::new(super::support::config(), SEED);
    assert!(cluster.submit(job(7, &[3])));
    cluster.restart_slurmctld(0);
    let whole: serde_json::Value = serde_json::from_str(&cluster.save().unwrap()).unwrap();
    let spoilt = |path: &str, value: serde_json::Value| {
        let mut text = whole.clone();
        *text.pointer_mut(path).unwrap_or_else(|| panic!("there is no {path}")) = value;
        refusal(&text.to_string())
    };
    let reason = serde_json::json!({"text": "t", "user": "mallory", "at": 1});
    let error = spoilt("/cluster/nodes/0/slurm/reason", reason);
    let why = error.source().map(ToString::to_string).unwrap_or_default();
    assert!(why.contains("unknown variant `mallory`"), "{error:?}");
    for (path, value) in [
        ("/cluster/jobs/running/7/nodes/0", serde_json::json!(800)),
        ("/cluster/jobs/running/7/nodes/0", serde_json::json!(1)),
        ("/cluster/jobs/busy_nodes", serde_json::json!(0)),
        ("/cluster/jobs/available", serde_json::json!([0, 8])),
        ("/cluster/nodes/2/slurm/jobs", serde_json::json!([])),
        ("/cluster/nodes", serde_json::json!([])),
        ("/cluster/queue/heap/0/2", serde_json::json!({"Answers": [8, 1]})),
    ] {
        let error = spoilt(path, value);
        assert!(matches!(error, RestoreError::Contradicts(_)), "{path}: {error:?}");
    }
}
