//! Whatever is done to the model in whatever order, its parts agree with each other.

use std::collections::{BTreeMap, BTreeSet};

use crus_core::Xname;
use crus_core::promises::What;
use crus_core::wlm::BaseState;
use crus_sim::Cluster;
use crus_sim::cluster::bos::{NewSession, Operation, SessionStatus};
use crus_sim::cluster::slurm::{JobState, SlurmError, Update};
use crus_sim::config::{BootBehaviour, Span};
use crus_sim::workload::{Drawn, Workload};
use proptest::prelude::*;

use super::support::{Ask as _, config, job, name, x};

const NODES: u32 = 8;

#[derive(Debug, Clone)]
enum Deed {
    Wait(u64),
    Update(u32, u8),
    Submit(Vec<u32>),
    End(u32),
    Requeue(u32),
    Cancel(u32),
    PowerOff(u32),
    PowerOn(u32),
    Reboot(Vec<u32>),
    Behave(u32, u8),
    Disable(u32),
    Join(u32),
    Leave(u32),
    Restart(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    let node = 1..=NODES;
    let nodes = || proptest::collection::vec(1..=NODES, 1..4);
    prop_oneof![
        6 => (1..400_000u64).prop_map(Deed::Wait),
        4 => (node.clone(), 0..6u8).prop_map(|(n, kind)| Deed::Update(n, kind)),
        2 => nodes().prop_map(Deed::Submit),
        1 => (1..200u32).prop_map(Deed::End),
        2 => (1..40u32).prop_map(Deed::Requeue),
        1 => (1..40u32).prop_map(Deed::Cancel),
        1 => node.clone().prop_map(Deed::PowerOff),
        1 => node.clone().prop_map(Deed::PowerOn),
        2 => nodes().prop_map(Deed::Reboot),
        1 => (node.clone(), 0..6u8).prop_map(|(n, kind)| Deed::Behave(n, kind)),
        1 => node.clone().prop_map(Deed::Disable),
        1 => node.clone().prop_map(Deed::Join),
        1 => node.prop_map(Deed::Leave),
        1 => (0..30_000u64).prop_map(Deed::Restart),
    ]
}

fn act(cluster: &mut Cluster, number: u32, deed: &Deed) {
    match deed {
        Deed::Wait(ms) => cluster.after(*ms),
        Deed::Update(n, kind) => {
            let update = match kind {
                0 => Update::drain("d"),
                1 => Update::down("w"),
                2 => Update::fail("f"),
                3 => Update::undrain(),
                4 => Update::reason("x"),
                _ => Update::resume(),
            };
            let result = cluster.update(&[name(*n)], &update);
            assert!(matches!(
                result,
                Ok(()) | Err(SlurmError::InvalidNodeState | SlurmError::ControllerDown)
            ));
        }
        // Downwards: drawn jobs are numbered upwards from the highest.
        Deed::Submit(nodes) => assert!(cluster.submit(job(1_000_000 - number, nodes))),
        Deed::End(id) => {
            cluster.end_job(*id);
        }
        Deed::Requeue(id) => drop(cluster.requeue_job(*id)),
        Deed::Cancel(id) => drop(cluster.cancel_job(*id)),
        Deed::PowerOff(n) => assert!(cluster.power_off(x(*n))),
        Deed::PowerOn(n) => assert!(cluster.power_on(x(*n))),
        Deed::Reboot(nodes) => {
            let limit: Vec<_> = nodes.iter().map(|&n| x(n).to_string()).collect();
            let request = NewSession {
                name: format!("s{number}"),
                operation: Operation::Reboot,
                template_name: "image".to_owned(),
                limit: limit.join(","),
                stage: false,
                include_disabled: false,
            };
            cluster.create_boot_session(request).expect("names are new");
        }
        Deed::Behave(n, kind) => {
            let behaviour = match kind {
                0 => BootBehaviour::Fails,
                1 => BootBehaviour::Hangs,
                2 => BootBehaviour::NeverRegisters,
                3 => BootBehaviour::DidNotReboot,
                4 => BootBehaviour::OnHold { error: "e".to_owned() },
                _ => BootBehaviour::Normal,
            };
            assert!(cluster.set_boot_behaviour(x(*n), behaviour));
        }
        Deed::Disable(n) => drop(cluster.enable_boot_component(x(*n), false)),
        Deed::Join(n) => drop(cluster.add_member("blue", &x(*n).to_string())),
        Deed::Leave(n) => drop(cluster.remove_member("blue", &x(*n).to_string())),
        Deed::Restart(ms) => cluster.restart_slurmctld(*ms),
    }
}

/// What the facts say, added up.
#[derive(Default)]
struct Told {
    held: BTreeMap<Xname, (bool, bool)>,
    blue: BTreeSet<Xname>,
}

fn check(cluster: &mut Cluster, told: &mut Told) {
    for fact in cluster.drain_facts() {
        match fact.what {
            What::NodeChanged { xname, held, in_service, .. } => {
                told.held.insert(xname, (held, in_service));
            }
            What::GroupChanged { added, removed, .. } => {
                told.blue.extend(added);
                told.blue.retain(|xname| !removed.contains(xname));
            }
            What::PowerCut { .. }
            | What::JobKilled { .. }
            | What::JobEnded { .. }
            | What::PartitionLooked { .. }
            | What::RebootAsked { .. }
            | What::PowerLost { .. } => {}
        }
    }
    assert_eq!(cluster.group("blue").unwrap().members, told.blue);
    for session in cluster.boot_sessions().unwrap() {
        let ours = cluster.boot_components_of(&session.request.name).unwrap();
        let works = ours.iter().any(|component| component.enabled);
        match session.status {
            SessionStatus::Complete => assert!(!works, "{session:?}"),
            SessionStatus::Running => assert!(works, "{session:?}"),
            SessionStatus::Pending => {}
        }
    }
    let Ok(jobs) = cluster.jobs() else { return };
    let mut cpus = BTreeMap::new();
    for job in jobs.iter().filter(|job| job.state == JobState::Running) {
        assert!(job.start.is_some() && !job.nodes.is_empty());
        for node in &job.nodes {
            *cpus.entry(node.clone()).or_insert(0) += job.cpus / job.node_count;
        }
    }
    let names: Vec<_> = cluster.node_names().cloned().collect();
    for node in cluster.show_nodes(&names).unwrap().nodes {
        assert_eq!(node.cpus_allocated, cpus.get(&node.name).copied().unwrap_or(0), "{node:?}");
        assert!(node.cpus_allocated <= node.cpus_total, "{node:?}");
        assert!(node.base != BaseState::Down || node.cpus_allocated == 0, "{node:?}");
        assert!(node.reason.is_some() || node.base != BaseState::Down, "{node:?}");
        let xname = cluster.xname_of(&node.name).unwrap();
        let seen = crus_core::wlm::WlmNode::from(node);
        let (held, in_service) = told.held.get(&xname).copied().unwrap_or((false, true));
        assert_eq!((seen.is_held(), seen.is_in_service()), (held, in_service), "{seen:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_parts_agree_after_every_deed(seed: u64, deeds in proptest::collection::vec(deed(), 1..120)) {
        let mut config = config();
        config.workload = Workload::Drawn(Drawn { sizes: vec![1, 1, 2, 3], ..Drawn::default() });
        config.slurm.epilog = Span::new(0, 5_000);
        let mut cluster = Cluster::new(config, seed);
        let mut told = Told::default();
        for (number, deed) in (0..).zip(&deeds) {
            act(&mut cluster, number, deed);
            check(&mut cluster, &mut told);
        }
        // Left alone, every session comes to its end, unless a boot hangs in it.
        cluster.after(24 * 3_600_000);
        cluster.start_slurmctld();
        cluster.after(60_000);
        check(&mut cluster, &mut told);
        for session in cluster.boot_sessions().unwrap() {
            let ours = cluster.boot_components_of(&session.request.name).unwrap();
            let working = ours.iter().filter(|component| component.enabled);
            prop_assert!(session.status != SessionStatus::Pending);
            prop_assert!(working.clone().all(|component| component.status == "power_on_called"));
        }
    }
}
