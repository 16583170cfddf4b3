//! `drain_timeout_s` and what comes of it.

use std::collections::BTreeSet;

use crus_core::model::{Failure, NodeState};
use crus_core::promises::What;
use crus_sim::ClusterConfig;
use crus_sim::cluster::slurm::Update;
use crus_sim::faults::{Fault, Plan};
use crus_sim::workload::JobSpec;
use crus_sim::world::World;

use super::support::*;
use crate::common::*;

fn busy(size: u32, jobs: Vec<JobSpec>) -> ClusterConfig {
    with_jobs(brisk(size), jobs)
}

fn ended(world: &World) -> Vec<(String, bool)> {
    let facts = world.facts().iter();
    facts
        .filter_map(|fact| match &fact.what {
            What::JobEnded { job, requeued, .. } => Some((job.clone(), *requeued)),
            _ => None,
        })
        .collect()
}

fn runs(world: &World, id: u32) -> bool {
    let jobs = world.cluster().jobs().unwrap();
    jobs.iter().any(|job| job.id == id && job.start.is_some())
}

#[test]
fn p2_who_waits_says_so_once_and_ends_no_job() {
    let mut world = world(busy(3, vec![job(1, &[1], 300)]));
    let id = world.create(spec_of(3, r#"{"drain_timeout_s":600}"#)).unwrap();
    end(&mut world, id);
    assert_eq!(counts(&world, id).upgraded, 3);
    assert_eq!(ended(&world), []);
    let late = |text: &&String| text.contains("x1000c0s1b0n0") && !text.contains("Quiesce");
    assert_eq!(messages(&world, id).iter().filter(late).count(), 1, "{:#?}", messages(&world, id));
}

#[test]
fn a_late_node_is_skipped_untouched_and_its_job_runs_on() {
    let mut world = world(busy(3, vec![job(1, &[1], 300)]));
    let json = r#"{"drain_timeout_s":600,"on_drain_timeout":"skip","max_failed":0,"max_failed_step":0}"#;
    let id = world.create(spec_of(3, json)).unwrap();
    end(&mut world, id);
    assert_eq!(node(&world, id, 1).state, NodeState::Failed(Failure::DrainTimedOut));
    assert_eq!(world.members(&label("failed")), BTreeSet::from([xname(1)]));
    assert!(in_service(&world, 1) && runs(&world, 1) && reason(&world, 1).is_empty());
    assert_eq!((world.reboots(id, xname(1)), ended(&world)), (0, vec![]));
    world.command(id, crus_core::model::Command::Retry).unwrap();
    world.cluster().end_job(1);
    end(&mut world, id);
    assert_eq!((counts(&world, id).upgraded, world.members(&label("failed")).len()), (3, 0));
}

#[test]
fn a_late_node_is_put_off_and_comes_in_a_step_at_the_end() {
    let mut world = world(busy(4, vec![job(1, &[1], 40), job(2, &[2], 600)]));
    let json = r#"{"drain_timeout_s":1200,"on_drain_timeout":"later","order":"name"}"#;
    let id = world.create(spec_of(2, json)).unwrap();
    let put_off = |world: &World| world.session(id).unwrap().head.counts.deferred == 2;
    world.run_until(DAY, put_off).unwrap();
    assert!((1..=2).all(|n| node(&world, id, n).job.is_none()), "a node that was put off waits for no job");
    end(&mut world, id);
    assert_eq!(node(&world, id, 1).state, NodeState::Upgraded);
    assert_eq!(node(&world, id, 2).state, NodeState::Failed(Failure::DrainTimedOut), "late again");
    assert!(runs(&world, 2) && in_service(&world, 2));
    assert_eq!(drained(&world, id).into_values().collect::<Vec<_>>(), [2, 2, 2]);
}

#[test]
fn p6_nodes_that_were_put_off_and_are_held_or_gone_by_then_are_taken_for_that() {
    let mut world = world(busy(4, vec![job(1, &[1], 40), job(2, &[2], 40)]));
    let json = r#"{"drain_timeout_s":1200,"on_drain_timeout":"later","order":"name"}"#;
    let id = world.create(spec_of(2, json)).unwrap();
    let put_off = |world: &World| world.session(id).unwrap().head.counts.deferred == 2;
    world.run_until(DAY, put_off).unwrap();
    world.run_for(MINUTE).unwrap();
    world.by_hand(|cluster| _ = cluster.update(&[name(1)], &Update::drain("hot, ada"))).unwrap();
    end(&mut world, id);
    assert_eq!(counts(&world, id).upgraded, 4);
    assert_eq!(reason(&world, 1), "hot, ada");
}

#[test]
fn p2_jobs_of_late_nodes_are_requeued_and_no_other() {
    let mut world = world(busy(4, vec![job(1, &[1], 300), job(2, &[4], 90)]));
    let json = r#"{"drain_timeout_s":600,"on_drain_timeout":"requeue","order":"name"}"#;
    let id = world.create(spec_of(2, json)).unwrap();
    end(&mut world, id);
    assert_eq!(counts(&world, id).upgraded, 4);
    assert_eq!(ended(&world)[..2], [("1".to_owned(), true), ("2".to_owned(), true)]);
    assert!(world.cluster().jobs().unwrap().iter().any(|job| job.id == 1), "it comes again");
}

#[test]
fn p2_jobs_of_late_nodes_are_cancelled_by_name_only() {
    let mut world = world(busy(2, vec![job(1, &[1], 300)]));
    let id = world.create(spec_of(2, r#"{"drain_timeout_s":600,"on_drain_timeout":"cancel"}"#)).unwrap();
    end(&mut world, id);
    assert_eq!((counts(&world, id).upgraded, ended(&world)), (2, vec![("1".to_owned(), false)]));
}

#[test]
fn p9_a_job_that_cannot_be_requeued_is_waited_for_and_said() {
    let stubborn = JobSpec { requeue: false, ..job(1, &[1], 90) };
    let mut world = world(busy(3, vec![stubborn, job(2, &[2], 300)]));
    let json = r#"{"drain_timeout_s":600,"on_drain_timeout":"requeue"}"#;
    let id = world.create(spec_of(3, json)).unwrap();
    end(&mut world, id);
    assert_eq!(counts(&world, id).upgraded, 3);
    assert!(ended(&world).iter().all(|(job, _)| job == "2"), "{:?}", ended(&world));
    assert!(
        messages(&world, id).iter().any(|text| text.contains("for job 1")),
        "{:#?}",
        messages(&world, id)
    );
}

/// Its answers are older than a last look may be, and the newest there are.
#[test]
fn p9_jobs_of_late_nodes_are_ended_by_a_controller_that_takes_its_time() {
    let mut world = world(busy(2, vec![job(1, &[1], 300)]));
    world.wlm.set_plan(Plan::random(SEED, 1000, &[Fault::Slow { ms: 25_000 }]));
    let json = r#"{"drain_timeout_s":600,"on_drain_timeout":"cancel","min_in_service":{"batch":0}}"#;
    let id = world.create(spec_of(2, json)).unwrap();
    world.run_to_end(2 * HOUR).unwrap();
    assert_eq!((counts(&world, id).upgraded, ended(&world)), (2, vec![("1".to_owned(), false)]));
}

/// Jobs may have started meanwhile, and have their time.
#[test]
fn p2_patience_begins_anew_with_each_drain() {
    let mut world = world(busy(1, vec![job(1, &[1], 300)]));
    let start = world.now();
    let id = world.create(spec_of(1, r#"{"drain_timeout_s":600,"on_drain_timeout":"cancel"}"#)).unwrap();
    world.run_for(5 * MINUTE).unwrap();
    world.by_hand(|cluster| _ = cluster.update(&[name(1)], &Update::resume())).unwrap();
    end(&mut world, id);
    let end = world.facts().iter().find(|fact| matches!(fact.what, What::JobEnded { .. })).unwrap();
    assert!(end.at.since(start) >= 15 * MINUTE, "after {} s", end.at.since(start) / 1000);
}

/// A look of the last poll may be a minute old.
#[test]
fn p2_nodes_are_looked_at_right_before_their_jobs_are_ended() {
    let limits = crus_core::Limits { poll_ms: 70_000, ..crus_core::Limits::default() };
    let mut world = World::new(busy(1, vec![job(1, &[1], 300)]), SEED, limits);
    let id = world.create(spec_of(1, r#"{"drain_timeout_s":600,"on_drain_timeout":"cancel"}"#)).unwrap();
    let start = world.now();
    world.run_for(10 * MINUTE - 1_000).unwrap();
    world.by_hand(|cluster| _ = cluster.update(&[name(1)], &Update::resume())).unwrap();
    end(&mut world, id);
    let end = world.facts().iter().find(|fact| matches!(fact.what, What::JobEnded { .. })).unwrap();
    assert!(end.at.since(start) >= 19 * MINUTE, "after {} s", end.at.since(start) / 1000);
}
