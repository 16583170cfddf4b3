//! What a strategy promises, broken once on purpose each: the world must see it and name it. The same scenario without the
//! break must pass.

use crus_core::model::{Command, Stage};
use crus_sim::ClusterConfig;
use crus_sim::config::BootBehaviour;
use crus_sim::crash::Points;
use crus_sim::mutants::Mutant;
use crus_sim::world::{Stuck, World};

use super::support::*;
use crate::common::*;

/// A run on this cluster passes, and with the mutant it breaks this promise.
fn caught(
    mutant: Mutant,
    promise: &str,
    config: impl Fn() -> ClusterConfig,
    run: impl Fn(&mut World) -> Result<(), Stuck>,
) {
    let run = |mutated: bool| {
        let mut world = world(config());
        if mutated {
            mutant.bend(&mut world, &Points::default());
        }
        run(&mut world)
    };
    run(false).unwrap_or_else(|stuck| panic!("without the mutant: {stuck}"));
    match run(true) {
        Err(Stuck::Broken { violation, .. }) => assert_eq!(violation.promise, promise, "{violation}"),
        other => panic!("not caught: {other:?}"),
    }
}

/// The service dies while the first step boots, and what is stored of the session has no strategy any more.
fn forgotten(promise: &str, step_size: u32, json: &str) {
    let config = || {
        let mut config = brisk(6);
        config.nodes[0].boot = BootBehaviour::Fails;
        config
    };
    caught(Mutant::LosesStrategies, promise, config, |world| {
        let id = world.create(spec_of(step_size, json))?;
        let boots = |world: &World| world.session(id).is_some_and(|s| s.head.stage == Stage::Booting);
        world.run_until(DAY, boots)?;
        world.crash()?;
        world.run_for(HOUR)
    });
}

#[test]
fn max_failed_that_is_forgotten() {
    forgotten("max_failed", 1, r#"{"order":"name","max_failed":0}"#);
}

#[test]
fn max_failed_step_that_is_forgotten() {
    forgotten("max_failed_step", 2, r#"{"order":"name","max_failed_step":0}"#);
}

#[test]
fn canaries_that_are_forgotten() {
    forgotten("canary", 3, r#"{"order":"name","canary":[2,2]}"#);
}

#[test]
fn max_per_domain_that_is_forgotten() {
    forgotten("max_per_domain", 3, r#"{"order":"name","max_per_domain":1}"#);
}

#[test]
fn min_in_service_that_is_forgotten() {
    forgotten("min_in_service", 3, r#"{"order":"name","min_in_service":{"batch":"60%"}}"#);
}

/// Worlds begin at midnight of a Thursday.
#[test]
fn a_window_that_is_forgotten() {
    let json = r#"{"order":"name","window":{"time_zone":"UTC","open":[{"from":"00:00","to":"00:02"}]}}"#;
    forgotten("window", 1, json);
}

#[test]
fn a_pause_that_was_answered_for_and_is_forgotten() {
    caught(
        Mutant::LosesOrders,
        "paused",
        || brisk(4),
        |world| {
            let id = world.create(spec(1))?;
            let boots = |world: &World| world.session(id).is_some_and(|s| s.head.stage == Stage::Booting);
            world.run_until(DAY, boots)?;
            world.command(id, Command::Pause)?;
            world.crash()?;
            world.run_for(HOUR)
        },
    );
}

#[test]
fn p2_jobs_that_are_cancelled_and_were_to_be_requeued() {
    caught(
        Mutant::CancelsJobs,
        "P2",
        || with_jobs(brisk(2), vec![job(1, &[1], 300)]),
        |world| {
            world.create(spec_of(2, r#"{"drain_timeout_s":60,"on_drain_timeout":"requeue"}"#))?;
            world.must_end(DAY)
        },
    );
}

#[test]
fn a_history_that_does_not_say_what_became_of_nodes() {
    caught(
        Mutant::LosesEntries,
        "history",
        || brisk(2),
        |world| {
            world.create(spec(2))?;
            world.must_end(DAY)
        },
    );
}
