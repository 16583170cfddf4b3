//! Each promise broken once on purpose: the checks of the world, or the crashes at every point, must see it and name
//! the promise. The same scenario without the break must pass.

use crate::common::*;
use crus_core::driver::Next;
use crus_core::model::Stage;
use crus_core::{Limits, Spec, UpgradeId};
use crus_sim::ClusterConfig;
use crus_sim::config::{BootBehaviour, BosApi, BosConfig, GroupSpec, Held, NodeSpec, Span};
use crus_sim::crash::{Effort, Points, Scenario};
use crus_sim::faults::{Fault, Plan};
use crus_sim::mutants::Mutant;
use crus_sim::workload::Workload;
use crus_sim::world::{Stuck, World};

const DAY: u64 = 24 * HOUR;

/// A run on this cluster passes, and with the mutant it breaks this promise.
fn caught(
    mutant: Mutant,
    promise: &str,
    config: impl Fn() -> ClusterConfig,
    run: impl Fn(&mut World) -> Result<(), Stuck>,
) {
    let run = |mutated: bool| {
        let mut world = World::new(config(), SEED, Limits::default());
        if mutated {
            mutant.bend(&mut world, &Points::default());
        }
        run(&mut world)
    };
    run(false).unwrap_or_else(|stuck| panic!("without the mutant: {stuck}"));
    breaks(promise, run(true));
}

fn breaks(promise: &str, result: Result<(), Stuck>) {
    match result {
        Err(Stuck::Broken { violation, .. }) => assert_eq!(violation.promise, promise, "{violation}"),
        other => panic!("not caught: {other:?}"),
    }
}

/// No crash breaks this scenario, and with the mutant some break this promise. After each crash the service comes
/// back at once, and also after seventeen seconds: the power was cut by then, and Slurm has not noticed.
fn caught_by_crashes(mutant: Mutant, promise: &str, scenario: impl Fn() -> Scenario) {
    let effort =
        Effort { away_every: 1, away_ms: vec![17_000], near: 1, near_tried: 0, drawn: 0, seed: SEED };
    let sound = scenario().examine(&effort).unwrap();
    assert_eq!(sound.failed, 0, "without the mutant: {sound}");
    let mutated = scenario().prepared(move |world, points| mutant.bend(world, points));
    let report = mutated.examine(&effort).unwrap();
    println!("{mutant:?}: {:?} of {report}", report.broken);
    assert!(report.broken.contains_key(promise), "not caught: {:?} of {report}", report.broken);
}

fn upgrade(world: &mut World, step_size: u32) -> Result<UpgradeId, Stuck> {
    let id = world.create(spec(step_size))?;
    world.must_end(DAY)?;
    Ok(id)
}

/// Deletes a session once it is in this stage.
fn delete_in(world: &mut World, stage: Stage) -> Result<UpgradeId, Stuck> {
    let id = world.create(spec(2))?;
    let there = |world: &World| {
        world.session(id).is_some_and(|session| !session.nodes.is_empty() && session.head.stage == stage)
    };
    world.run_until(DAY, there)?;
    world.run_for(1_000)?;
    world.delete(id)?;
    Ok(id)
}

#[test]
fn p1_a_drain_that_takes_one_node_more() {
    caught(Mutant::DrainsOneMore, "P1", || cluster(3), |world| upgrade(world, 2).map(drop));
}

#[test]
fn p2_looks_that_never_show_a_job() {
    let busy = || with_jobs(cluster(2), vec![job(1, &[2], 60)]);
    caught(Mutant::SeesNoJobs, "P2", busy, |world| upgrade(world, 2).map(drop));
}

#[test]
fn p2_a_drain_that_takes_nodes_down() {
    let busy = || with_jobs(cluster(2), vec![job(1, &[2], 60)]);
    caught(Mutant::TakesDown, "P2", busy, |world| upgrade(world, 2).map(drop));
}

/// Boots soon, so that there are few points.
fn quick(size: u32) -> ClusterConfig {
    let config = cluster(size);
    let bos = BosConfig { power_off: Span::new(5_000, 8_000), boot: Span::new(60_000, 70_000), ..config.bos };
    ClusterConfig { bos, ..config }
}

fn two_nodes() -> Scenario {
    Scenario::new("two nodes", quick(2), SEED, |world| upgrade(world, 2).map(drop))
}

#[test]
fn p3_boot_sessions_whose_names_do_not_outlive_a_crash() {
    caught_by_crashes(Mutant::ForgetsBootNames, "P3", two_nodes);
}

/// A BOS that takes no names of ours boots twice what it is asked for twice.
#[test]
fn p3_reboots_that_are_asked_for_again_because_the_reply_was_lost() {
    let nameless = || {
        let mut config = cluster(2);
        config.bos.api = BosApi::V1;
        // So that it stays to see the second power cut.
        config.bos.says_complete = false;
        config
    };
    caught(Mutant::RepeatsReboots, "P3", nameless, |world| {
        world.bos.set_plan(Plan::none().at("reboot", 1, Fault::ReplyLost));
        upgrade(world, 2).map(drop)
    });
}

/// Of a BOS that takes none, the list of what there was before goes with the intent.
#[test]
fn p3_a_store_that_loses_the_intent_to_reboot_of_a_bos_without_names() {
    let nameless = || {
        let mut config = quick(2);
        config.bos.api = BosApi::V1;
        Scenario::new("two nodes without names", config, SEED, |world| upgrade(world, 2).map(drop))
    };
    caught_by_crashes(Mutant::LosesIntents, "P3", nameless);
}

#[test]
fn p3_a_store_that_loses_the_intent_to_reboot() {
    caught_by_crashes(Mutant::LosesIntents, "P3", two_nodes);
}

#[test]
fn p4_resumes_that_are_swallowed_while_looks_say_that_they_worked() {
    caught(Mutant::SwallowsResumes, "P4", || cluster(2), |world| upgrade(world, 2).map(drop));
}

#[test]
fn p4_failed_nodes_that_never_get_into_their_group_while_looks_say_so() {
    let failing = || {
        let mut config = cluster(2);
        config.nodes[0].boot = BootBehaviour::Fails;
        config
    };
    caught(Mutant::SwallowsMembers, "P4", failing, |world| upgrade(world, 2).map(drop));
}

#[test]
fn p5_looks_that_invent_a_newer_boot() {
    let idle = || {
        let mut config = cluster(2);
        config.nodes[0].boot = BootBehaviour::DidNotReboot;
        config
    };
    caught(Mutant::InventsBoots, "P5", idle, |world| upgrade(world, 2).map(drop));
}

#[test]
fn p6_looks_that_hide_what_somebody_else_holds() {
    let held = || {
        let mut config = cluster(2);
        config.held.insert(xname(2), Held::Drained("bad dimm".into()));
        config
    };
    // In the second step: a reason that is seconds old may have been overlooked by right.
    caught(Mutant::HidesReasons, "P6", held, |world| upgrade(world, 1).map(drop));
}

#[test]
fn p7_a_store_that_forgets_the_order_to_delete() {
    let run = |world: &mut World| {
        delete_in(world, Stage::Booting)?;
        world.crash()?;
        world.must_end(DAY)
    };
    caught(Mutant::ForgetsDeletions, "P7", || cluster(4), run);
}

/// The last step is at work already: nothing but its end tells.
#[test]
fn p7_a_store_that_forgets_the_order_to_delete_when_all_nodes_boot() {
    let run = |world: &mut World| {
        delete_in(world, Stage::Booting)?;
        world.crash()?;
        world.must_end(DAY)
    };
    caught(Mutant::ForgetsDeletions, "P7", || cluster(2), run);
    caught_by_crashes(Mutant::ForgetsDeletions, "P7", || {
        Scenario::new("deleted while all nodes boot", quick(2), SEED, |world| {
            delete_in(world, Stage::Booting)?;
            world.must_end(DAY)
        })
        .without_absence()
    });
}

#[test]
fn p7_releases_that_are_swallowed() {
    let busy = || with_jobs(cluster(2), vec![job(1, &[2], 60)]);
    let run = |world: &mut World| {
        delete_in(world, Stage::Quiescing)?;
        world.must_end(DAY)
    };
    caught(Mutant::SwallowsResumes, "P7", busy, run);
}

#[test]
fn p8_a_node_that_leaves_a_group_and_takes_a_bystander_along() {
    let config = || {
        let mut config = cluster(2);
        config.nodes.push(NodeSpec::new(xname(9), 9));
        config.workload = Workload::None;
        config
    };
    let run = |world: &mut World| {
        let id = world.create(spec(2))?;
        let boots = |world: &World| world.session(id).unwrap().head.stage == Stage::Booting;
        world.run_until(DAY, boots)?;
        world.by_hand(|cluster| _ = cluster.add_member("up", &xname(9).to_string()).unwrap())?;
        world.must_end(DAY)
    };
    caught(Mutant::TakesBystanders, "P8", config, run);
}

/// An hour without HSM, and then all is well.
fn outage(world: &mut World) -> Result<(), Stuck> {
    world.cluster().set_hsm_down(true);
    world.create(spec(2))?;
    world.run_for(HOUR)?;
    world.cluster().set_hsm_down(false);
    world.must_end(DAY)
}

#[test]
fn p9_a_service_that_never_hears_of_a_peer_again() {
    caught(Mutant::StaysDeaf, "P9", || cluster(2), outage);
}

#[test]
fn p9_a_loop_that_gives_up_at_the_first_unmet_condition() {
    for given_up in [Next::Finished, Next::At(crus_core::Time(u64::MAX))] {
        let run = |mutated: bool| {
            let mut world = world(cluster(2));
            if mutated {
                world.tamper(move |session, next| match session.head.condition {
                    Some(_) => given_up,
                    None => next,
                });
            }
            outage(&mut world)
        };
        run(false).unwrap();
        breaks("P9", run(true));
    }
}

#[test]
fn p8_sessions_that_all_get_their_turn_at_once() {
    for groups in [["all", "up", "failed"], ["all", "up-b", "failed-b"]] {
        let config = || {
            let mut config = cluster(4);
            for label in ["up-b", "failed-b"] {
                config.groups.insert(label.parse().unwrap(), GroupSpec::default());
            }
            config
        };
        caught(Mutant::GrantsAlways, "P8", config, |world| {
            world.create(spec(2))?;
            world.run_for(1_000)?;
            let [starting, upgrading, failed] = groups.map(|label| label.parse().unwrap());
            world.create(Spec { starting, upgrading, failed, ..spec(2) })?;
            world.run_for(HOUR)
        });
    }
}

#[test]
fn p3_a_replica_that_acts_though_it_lost_its_session() {
    let run = |mutated: bool| {
        let mut world = World::new(cluster(4), SEED, Limits::default());
        if mutated {
            Mutant::OwnsForEver.bend(&mut world, &Points::default());
        }
        let id = world.create(spec(2))?;
        until_said(&mut world, id, "Began the boot session");
        world.take_over()?;
        world.run_for(MINUTE)?;
        world.wake_stopped()
    };
    run(false).unwrap();
    match run(true) {
        Err(Stuck::Failed(words)) => assert!(words.contains("acted for it"), "{words}"),
        other => panic!("not caught: {other:?}"),
    }
}
