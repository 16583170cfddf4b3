//! P1–P9 with a crash at every point: each scenario of the table is run once, and then again with the service dying
//! before or after every call, every write and every round. It must end the same each time, no promise broken on
//! the way.
//!
//! `CRUS_TEST_CRASHES=N` tries N times as many second crashes and long absences. `CRUS_TEST_SCENARIO` names the
//! only scenario to run, and with `CRUS_TEST_STRIKES` replays what a failure printed. `CRUS_TEST_SEED` is
//! the seed of the clusters, and decides which pairs of crashes are drawn.

use std::num::NonZero;

use crate::common::*;
use crus_core::model::{Command, NodeState, Stage};
use crus_core::promises::What;
use crus_core::strategy::OnDrainTimeout;
use crus_core::{Limits, Session, Spec, Strategy, UpgradeId};
use crus_sim::ClusterConfig;
use crus_sim::checks::CheckEnd;
use crus_sim::cluster::bos::{NewSession, Operation};
use crus_sim::cluster::slurm::Update;
use crus_sim::config::{BootBehaviour, BosApi, BosConfig, GroupSpec, Held, NodeSpec, Span, TemplateSpec};
use crus_sim::crash::{Effort, Report, Scenario, Strikes};
use crus_sim::world::{Stuck, World};

const DAY: u64 = 24 * HOUR;

// ---- the table ------------------------------------------------------------------------------------------------

/// Boots within two minutes, so that there is little to wait for.
fn small(size: u32) -> ClusterConfig {
    let config = cluster(size);
    let bos = BosConfig {
        power_off: Span::new(5_000, 15_000),
        boot: Span::new(30_000, 60_000),
        configure: Span::new(5_000, 20_000),
        attempts: 1,
        attempt_ms: 2 * MINUTE,
        ..config.bos
    };
    ClusterConfig { bos, ..config }
}

fn short_patience() -> Limits {
    Limits {
        drain_timeout_ms: Some(3 * MINUTE),
        boot_timeout_ms: 6 * MINUTE,
        return_timeout_ms: 2 * MINUTE,
        ..Limits::default()
    }
}

fn one(name: &str, config: ClusterConfig, step: u32) -> Scenario {
    Scenario::new(name, config, seed(), move |world| {
        world.create(spec(step))?;
        world.must_end(DAY)
    })
}

/// Goes on until the session has said this.
fn said(world: &mut World, id: UpgradeId, text: &str) -> Result<(), Stuck> {
    until(world, id, |session| session.messages.iter().any(|message| message.text.contains(text)))
}

/// Goes on until the session is like this, or gone.
fn until(world: &mut World, id: UpgradeId, like: impl Fn(&Session) -> bool) -> Result<(), Stuck> {
    world.run_until(DAY, |world| world.session(id).is_none_or(&like))
}

/// Whether the session is as far as this in its first step, or farther: it may have got past while the service was
/// away.
fn reached(session: &Session, stage: Stage) -> bool {
    session.head.step > 0 || session.is_done() || (!session.nodes.is_empty() && session.head.stage >= stage)
}

/// Whether a node came back from its boot, or more than that.
fn returning(session: &Session) -> bool {
    let back = |state: &NodeState| matches!(state, NodeState::Returning | NodeState::Upgraded);
    session.nodes.iter().any(|node| back(&node.state))
}

fn successes_and_failures() -> Vec<Scenario> {
    let failing = |boot: BootBehaviour| {
        let mut config = small(2);
        config.nodes[0].boot = boot;
        config
    };
    let mut left_out = small(4);
    left_out.nodes[0].locked = true;
    left_out.nodes[1].enabled = false;
    left_out.nodes[2].arch = "ARM".into();
    let mut unknown = small(4);
    unknown.nodes[0].in_hsm = false;
    unknown.nodes[1].name = None;
    unknown.nodes[2].nid = None;
    let mut strangers = small(2);
    strangers.nodes[0].role = "Management".into();
    let mut elsewhere = small(3);
    elsewhere.templates.insert("image".parse().unwrap(), TemplateSpec::of_group("elsewhere"));
    vec![
        one("success in two steps", with_jobs(small(3), vec![job(1, &[2], 2)]), 2),
        one("no nodes", small(0), 2),
        one("BOS gives a node up", failing(BootBehaviour::Fails), 2),
        one("BOS never ends with a node", failing(BootBehaviour::Hangs), 2).limits(short_patience()),
        one("a node never registers", failing(BootBehaviour::NeverRegisters), 2).limits(short_patience()),
        one("a node did not reboot", failing(BootBehaviour::DidNotReboot), 2).limits(short_patience()),
        one("a node on hold", failing(BootBehaviour::OnHold { error: "no power service".into() }), 1),
        one("locked, disabled, another architecture", left_out, 4),
        one("unknown to HSM, to Slurm, no NID", unknown, 2),
        one("a management node", strangers, 2),
        Scenario::new("a boot session without nodes", elsewhere, seed(), |world| {
            let id = world.create(spec(2))?;
            said(world, id, "The boot session for step 0 failed")?;
            world.cluster().put_boot_template("image", TemplateSpec::of_group("up")).unwrap();
            world.must_end(DAY)
        }),
    ]
}

fn deletions() -> Vec<Scenario> {
    let held = |mut config: ClusterConfig| {
        config.held.insert(xname(1), Held::Drained("bad dimm".into()));
        config
    };
    let at = |name: &str, config: ClusterConfig, moment: fn(&Session) -> bool| {
        Scenario::new(format!("deleted {name}"), config, seed(), move |world| {
            let id = world.create(spec(2))?;
            until(world, id, moment)?;
            world.delete(id)?;
            world.must_end(DAY)
        })
    };
    let busy = || held(with_jobs(small(3), vec![job(1, &[2], 10), job(2, &[3], 10)]));
    let broken = || {
        let mut config = small(2);
        config.nodes[1].boot = BootBehaviour::Fails;
        config
    };
    vec![
        at("before anything", busy(), |_| true),
        at("when it begins", busy(), |session| !session.nodes.is_empty()),
        at("while it drains", busy(), |session| reached(session, Stage::Quiescing)),
        at("when all is quiet", held(small(3)), |session| reached(session, Stage::Quiesced)),
        at("while nodes boot", held(small(3)), |session| reached(session, Stage::Booting)),
        at("while a node boots that will not", broken(), |session| reached(session, Stage::Booting)),
        at("while nodes return", held(small(3)), returning),
        at("between two steps", small(3), |session| session.head.step > 0),
        at("while a failed node is marked", broken(), |session| {
            session.nodes.iter().any(|node| matches!(node.state, NodeState::Failed(_)))
        }),
        at("when it is done", small(2), Session::is_done),
        Scenario::new("deleted while the starting group is missing", small(2), seed(), |world| {
            world.cluster().delete_group("all").unwrap();
            let id = world.create(spec(2))?;
            said(world, id, "there is no group 'all'")?;
            world.delete(id)?;
            world.must_end(DAY)
        }),
    ]
}

/// A condition: what breaks it and what mends it.
type Condition = (&'static str, fn(&World), &'static str, fn(&World));

const CONDITIONS: [Condition; 8] = [
    (
        "starting group missing",
        |world| world.cluster().delete_group("all").unwrap(),
        "there is no group 'all'",
        |world| {
            let members: Vec<String> = (1..=2).map(|n| xname(n).to_string()).collect();
            world.cluster().create_group("all", "", Vec::new(), None, &members).unwrap();
        },
    ),
    (
        "upgrading group missing",
        |world| world.cluster().delete_group("up").unwrap(),
        "there is no group 'up'",
        |world| world.cluster().create_group("up", "", Vec::new(), None, &[]).unwrap(),
    ),
    (
        "failed group missing",
        |world| world.cluster().delete_group("failed").unwrap(),
        "there is no group 'failed'",
        |world| world.cluster().create_group("failed", "", Vec::new(), None, &[]).unwrap(),
    ),
    (
        "template missing",
        |world| world.cluster().delete_boot_template("image").unwrap(),
        "there is no session template 'image'",
        |world| world.cluster().put_boot_template("image", TemplateSpec::of_group("up")).unwrap(),
    ),
    (
        "HSM down",
        |world| world.cluster().set_hsm_down(true),
        "Hardware State Manager",
        |world| world.cluster().set_hsm_down(false),
    ),
    (
        "BOS down",
        |world| world.cluster().set_bos_down(true),
        "Boot Orchestration Service",
        |world| world.cluster().set_bos_down(false),
    ),
    (
        "slurmctld down",
        |world| world.cluster().stop_slurmctld(),
        "Unable to contact slurm controller",
        |world| world.cluster().start_slurmctld(),
    ),
    (
        "updates refused",
        |world| world.cluster().refuse_updates(true),
        "Invalid user id",
        |world| world.cluster().refuse_updates(false),
    ),
];

fn conditions_from_the_start() -> Vec<Scenario> {
    let from_the_start = CONDITIONS.map(|(what, break_it, says, mend_it)| {
        Scenario::new(format!("{what} at first"), small(2), seed(), move |world| {
            break_it(world);
            let id = world.create(spec(2))?;
            // It is said once; what it is now stands beside.
            until(world, id, |session| {
                session.head.condition.as_ref().is_some_and(|why| why.contains(says))
            })?;
            world.run_for(MINUTE)?;
            mend_it(world);
            world.must_end(DAY)
        })
    });
    let mut all = Vec::from(from_the_start);
    let mut exclusive = small(2);
    exclusive.groups.get_mut(&label("up")).unwrap().exclusive_group = Some("colours".into());
    let blue = GroupSpec {
        exclusive_group: Some("colours".into()),
        members: vec![xname(2)],
        ..GroupSpec::default()
    };
    exclusive.groups.insert(label("blue"), blue);
    all.push(Scenario::new("a node that another exclusive group holds", exclusive, seed(), |world| {
        let id = world.create(spec(2))?;
        said(world, id, "does not take x1000c0s2b0n0 into group 'up'")?;
        world.cluster().remove_member("blue", &xname(2).to_string()).unwrap();
        world.must_end(DAY)
    }));
    let mut bystander = small(2);
    bystander.nodes.push(NodeSpec::new(xname(9), 9));
    bystander.groups.get_mut(&label("failed")).unwrap().members = vec![xname(2), xname(9)];
    all.push(Scenario::new("a bystander in the failed group", bystander, seed(), |world| {
        let id = world.create(spec(2))?;
        said(world, id, "group 'failed' holds nodes that are not of")?;
        world.run_for(MINUTE)?;
        world.by_hand(|cluster| cluster.remove_member("failed", &xname(9).to_string()).unwrap())?;
        world.must_end(DAY)
    }));
    all
}

/// When something happens.
type Moment = (&'static str, fn(&Session) -> bool);

fn conditions_in_the_middle() -> Vec<Scenario> {
    let stages: [Moment; 3] = [
        ("while it drains", |session| reached(session, Stage::Quiescing)),
        ("while nodes boot", |session| reached(session, Stage::Booting)),
        ("while nodes return", returning),
    ];
    let mut all = Vec::new();
    for (when, moment) in stages {
        // Not the groups and the template: BOS looks at them late, so that without them the boot session fails,
        // which is a scenario of its own.
        for (what, break_it, _, mend_it) in CONDITIONS.into_iter().skip(4) {
            all.push(Scenario::new(format!("{what} {when}"), small(2), seed(), move |world| {
                let id = world.create(spec(2))?;
                until(world, id, moment)?;
                break_it(world);
                world.run_for(MINUTE)?;
                mend_it(world);
                world.must_end(DAY)
            }));
        }
    }
    // The upgrading and the failed group and the template, between two steps.
    for (what, break_it, _, mend_it) in CONDITIONS.into_iter().take(4).skip(1) {
        all.push(Scenario::new(format!("{what} between two steps"), small(2), seed(), move |world| {
            let id = world.create(spec(1))?;
            until(world, id, |session| session.head.step > 0)?;
            break_it(world);
            world.run_for(MINUTE)?;
            mend_it(world);
            world.must_end(DAY)
        }));
    }
    all
}

fn other_people() -> Vec<Scenario> {
    let mut held = small(4);
    held.held.insert(xname(1), Held::Drained("bad dimm".into()));
    held.held.insert(xname(2), Held::Down("burning".into()));
    held.held.insert(xname(3), Held::Down("Not responding".into()));
    let mut held_and_failing = small(1);
    held_and_failing.held.insert(xname(1), Held::Drained("bad dimm".into()));
    held_and_failing.nodes[0].boot = BootBehaviour::Fails;
    let drains = || with_jobs(small(2), vec![job(1, &[2], 4)]);
    let meddled = |name: &str, meddle: fn(&World)| {
        Scenario::new(name, drains(), seed(), move |world| {
            let id = world.create(spec(2))?;
            until(world, id, |session| reached(session, Stage::Quiescing))?;
            world.run_for(MINUTE)?;
            meddle(world);
            world.must_end(DAY)
        })
    };
    vec![
        one("held by others before", held, 4),
        one("held by others before, and fails", held_and_failing, 1),
        meddled("the reason changes meanwhile", |world| {
            world.cluster().update(&[name(1)], &Update::drain("mine now, ada")).unwrap();
        }),
        meddled("words are added to our reason", |world| {
            let theirs = format!("{}; bad dimm, ada", reason(world, 1));
            world.cluster().update(&[name(1)], &Update::drain(&theirs)).unwrap();
        })
        // While the service is away nothing is drained: there is no reason of ours to add to.
        .without_absence(),
        meddled("undrained meanwhile, and taken by a job", |world| {
            // While the service is away it is not drained yet: there is nothing to resume it from.
            if !in_service(world, 1) {
                world.cluster().update(&[name(1)], &Update::resume()).unwrap();
            }
            let mut later = job(2, &[1], 3);
            later.start_ms = MINUTE;
            world.cluster().submit(later);
        }),
    ]
}

fn time_outs_and_boot_sessions() -> Vec<Scenario> {
    let late = with_jobs(small(2), vec![job(1, &[1], 10_000)]);
    let cut = |world: &World| {
        world.facts().iter().filter(|fact| matches!(fact.what, What::PowerCut { .. })).count() == 2
    };
    vec![
        one("a job outlasts our patience", late, 2).limits(short_patience()),
        Scenario::new("the boot session is forgotten", small(2), seed(), move |world| {
            let id = world.create(spec(2))?;
            world.run_until(DAY, cut)?;
            let boot = world.session(id).and_then(|session| session.head.boot.clone()).unwrap();
            world.cluster().delete_boot_session(boot.name.as_str()).unwrap();
            world.must_end(DAY)
        })
        .without_absence()
        .without_late_requests(),
        Scenario::new("a node is taken over", small(2), seed(), move |world| {
            world.create(spec(2))?;
            world.run_until(DAY, cut)?;
            let theirs = NewSession {
                name: "somebody-else".into(),
                operation: Operation::Reboot,
                template_name: "image".into(),
                limit: xname(1).to_string(),
                stage: false,
                include_disabled: false,
            };
            world.cluster().create_boot_session(theirs).unwrap();
            world.must_end(DAY)
        })
        .without_absence(),
    ]
}

fn two_sessions() -> Vec<Scenario> {
    let spec_of = |starting: &str, up: &str, failed: &str| Spec {
        starting: label(starting),
        upgrading: label(up),
        failed: label(failed),
        ..spec(2)
    };
    let split = |one: &[u32], other: &[u32], more: &[&str]| {
        let mut config = small(3);
        let group = |nodes: &[u32]| GroupSpec {
            members: nodes.iter().map(|n| xname(*n)).collect(),
            ..GroupSpec::default()
        };
        config.groups.insert(label("one"), group(one));
        config.groups.insert(label("other"), group(other));
        config.groups.extend(more.iter().map(|name| (label(name), GroupSpec::default())));
        // The nodes of either upgrading group can be booted.
        let template = config.templates.get_mut(&"image".parse().unwrap()).unwrap();
        template.boot_sets.values_mut().for_each(|set| set.node_groups.push("up-b".into()));
        config
    };
    let both = |name: &str, config: ClusterConfig, first: Spec, second: Spec| {
        Scenario::new(name, config, seed(), move |world| {
            world.create(first.clone())?;
            world.create(second.clone())?;
            world.must_end(DAY)
        })
    };
    let shared_group = split(&[1], &[2, 3], &[]);
    let shared_node = split(&[1, 2], &[2, 3], &["up-b", "failed-b"]);
    vec![
        both(
            "two sessions share groups",
            shared_group,
            spec_of("one", "up", "failed"),
            spec_of("other", "up", "failed"),
        ),
        both(
            "two sessions share a node",
            shared_node,
            spec_of("one", "up", "failed"),
            spec_of("other", "up-b", "failed-b"),
        ),
        Scenario::new("the waiting one of two is deleted", small(2), seed(), |world| {
            world.create(spec(2))?;
            let second = world.create(spec(2))?;
            said(world, second, "Waiting for session")?;
            world.delete(second)?;
            world.must_end(DAY)
        }),
        Scenario::new("the working one of two is deleted", small(2), seed(), |world| {
            let first = world.create(spec(1))?;
            world.create(spec(2))?;
            until(world, first, |session| reached(session, Stage::Booting))?;
            world.delete(first)?;
            world.must_end(DAY)
        }),
    ]
}

// ---- the tests ------------------------------------------------------------------------------------------------

fn strategies() -> Vec<Scenario> {
    let held = |name: &str, late: OnDrainTimeout| {
        let config = with_jobs(small(2), vec![job(1, &[1], 10_000)]);
        Scenario::new(name, config, seed(), move |world| {
            let mut spec = spec(2);
            spec.strategy.drain_timeout_s = NonZero::new(60);
            spec.strategy.on_drain_timeout = late;
            world.create(spec)?;
            world.must_end(DAY)
        })
    };
    let checked = |name: &str, ends: Vec<(u32, CheckEnd)>| {
        Scenario::new(name, small(2), seed(), move |world| {
            let checks = world.checks.inner();
            checks.add("smoke".parse().unwrap());
            checks.set_usual(CheckEnd::Passes { after_ms: 25_000 });
            for (node, end) in &ends {
                checks.set(xname(*node), end.clone());
            }
            let mut spec = spec(2);
            spec.strategy.check_command = Some("smoke".parse().unwrap());
            world.create(spec)?;
            world.must_end(DAY)
        })
    };
    let fails = CheckEnd::Fails { after_ms: 5_000, words: "no fan".into() };
    vec![
        held("a late job is requeued", OnDrainTimeout::Requeue),
        held("a late job is cancelled", OnDrainTimeout::Cancel),
        held("a late node is skipped", OnDrainTimeout::Skip),
        checked("all pass their check", Vec::new()),
        checked("one fails its check, one hangs in it", vec![(1, fails), (2, CheckEnd::Hangs)]),
    ]
}

/// Orders in the middle of things. `moment`: when the first of them comes; each further one once the session stands before a
/// step that it may not begin, or is done.
fn ordered(
    name: &str,
    config: ClusterConfig,
    strategy: &str,
    moment: fn(&Session) -> bool,
    orders: &'static [Command],
) -> Scenario {
    let strategy: Strategy = serde_json::from_str(strategy).unwrap();
    Scenario::new(name, config, seed(), move |world| {
        let id = world.create(Spec { strategy: strategy.clone(), ..spec(2) })?;
        until(world, id, moment)?;
        for order in orders {
            if *order == Command::Retry {
                // What is retried works.
                (1..=3).for_each(|n| _ = world.cluster().set_boot_behaviour(xname(n), BootBehaviour::Normal));
            }
            world.command(id, *order)?;
            if *order == Command::Pause {
                until(world, id, |session| session.is_done() || stands_paused(session))?;
            }
        }
        world.must_end(DAY)
    })
}

fn stands_paused(session: &Session) -> bool {
    let head = &session.head;
    head.pause.is_some() && head.stage == Stage::Starting && session.batch().all(|node| node.is_settled())
}

fn orders() -> Vec<Scenario> {
    let failing = || {
        let mut config = small(3);
        config.nodes[0].boot = BootBehaviour::Fails;
        config
    };
    let by_name = r#"{"order":"name"}"#;
    let strict = r#"{"order":"name","canary":[1],"max_failed":0}"#;
    let per_step = r#"{"order":"name","max_failed_step":0}"#;
    vec![
        ordered(
            "paused while nodes boot, and resumed",
            small(3),
            by_name,
            |session| reached(session, Stage::Booting),
            &[Command::Pause, Command::Resume],
        ),
        ordered(
            "paused, retried and resumed",
            failing(),
            by_name,
            |session| reached(session, Stage::Booting),
            &[Command::Pause, Command::Retry, Command::Resume],
        ),
        ordered(
            "a canary fails, is retried, and the rest follows",
            failing(),
            strict,
            stands_paused,
            &[Command::Retry, Command::Resume],
        ),
        ordered(
            "too many of a step fail, and it goes on without them",
            failing(),
            per_step,
            stands_paused,
            &[Command::Resume],
        ),
        ordered("done, and retried", failing(), by_name, Session::is_done, &[Command::Retry]),
        Scenario::new("deleted after a retry", failing(), seed(), |world| {
            let strategy = serde_json::from_str(r#"{"order":"name","canary":[1],"max_failed":0}"#).unwrap();
            let id = world.create(Spec { strategy, ..spec(2) })?;
            until(world, id, stands_paused)?;
            world.command(id, Command::Retry)?;
            world.delete(id)?;
            world.must_end(DAY)
        }),
    ]
}

fn options() -> Vec<Scenario> {
    let of = |name: &str, config: ClusterConfig, strategy: &str| {
        let strategy: Strategy = serde_json::from_str(strategy).unwrap();
        Scenario::new(name, config, seed(), move |world| {
            world.create(Spec { strategy: strategy.clone(), ..spec(2) })?;
            world.must_end(DAY)
        })
    };
    let failing = |boot: BootBehaviour| {
        let mut config = small(3);
        config.nodes[0].boot = boot;
        config
    };
    let busy = || with_jobs(small(3), vec![job(1, &[1], 10_000)]);
    let later = r#"{"order":"name","drain_timeout_s":60,"on_drain_timeout":"later"}"#;
    let window = r#"{"window":{"time_zone":"UTC","open":[{"from":"00:01","to":"00:03"},{"from":"01:00","to":"02:00"}]}}"#;
    vec![
        of("a late node is put off, and late again", busy(), later),
        of("a node that fails is retried", failing(BootBehaviour::Fails), r#"{"order":"name","retries":1}"#),
        of("a node that did not reboot is retried", failing(BootBehaviour::DidNotReboot), r#"{"retries":1}"#)
            .limits(short_patience()),
        of("canaries that soak", small(3), r#"{"canary":[1],"soak_s":120}"#),
        of("one node in flight of a chassis", small(3), r#"{"order":"spread"}"#),
        of("two nodes stay in service", small(3), r#"{"min_in_service":{"batch":2}}"#),
        of("a window that closes", small(3), window),
    ]
}

/// The same clusters with a BOS that takes no names of ours: it cannot be asked twice.
fn without_names() -> Vec<Scenario> {
    let v1 = |mut config: ClusterConfig| {
        config.bos.api = BosApi::V1;
        config
    };
    let failing = |boot: BootBehaviour| {
        let mut config = v1(small(2));
        config.nodes[0].boot = boot;
        config
    };
    let mut left_out = v1(small(3));
    left_out.nodes[1].enabled = false;
    let mut silent = v1(small(2));
    silent.bos.says_complete = false;
    let mut silent_and_failing = failing(BootBehaviour::Hangs);
    silent_and_failing.bos.says_complete = false;
    let deleted = |name: &str, moment: fn(&Session) -> bool| {
        Scenario::new(format!("without names, deleted {name}"), v1(small(3)), seed(), move |world| {
            let id = world.create(spec(2))?;
            until(world, id, moment)?;
            world.delete(id)?;
            world.must_end(DAY)
        })
    };
    vec![
        one("without names, in two steps", v1(small(3)), 2),
        one("without names, a node is given up", failing(BootBehaviour::Fails), 2),
        one("without names, a node is disabled", left_out, 3),
        one("without names, nothing is ever complete", silent, 2),
        one("without names, never complete, and a node hangs", silent_and_failing, 2)
            .limits(short_patience()),
        deleted("when all is quiet", |session| reached(session, Stage::Quiesced)),
        deleted("while nodes boot", |session| reached(session, Stage::Booting)),
        Scenario::new("without names, and others boot their own", v1(small(3)), seed(), |world| {
            let id = world.create(spec(2))?;
            until(world, id, |session| reached(session, Stage::Quiesced))?;
            // Of the same template, at the same time, with nodes of nobody.
            let others = NewSession {
                name: "others".into(),
                operation: Operation::Boot,
                template_name: "image".into(),
                limit: "x9c0s0b0n0".into(),
                stage: false,
                include_disabled: false,
            };
            world.cluster().create_boot_session(others).unwrap();
            world.must_end(DAY)
        })
        .without_absence(),
    ]
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

fn seed() -> u64 {
    number("CRUS_TEST_SEED").unwrap_or(SEED)
}

fn effort() -> Effort {
    let times = number("CRUS_TEST_CRASHES").unwrap_or(1) as usize;
    Effort {
        away_every: 4usize.div_ceil(times),
        // A boot has begun by then, the power is cut, the boot is over.
        away_ms: vec![5_000, 17_000, 5 * MINUTE],
        near: 12,
        near_tried: times,
        drawn: 20 * times,
        seed: seed(),
    }
}

/// Examines these scenarios, and says what was covered.
fn hold(table: &str, scenarios: Vec<Scenario>) {
    let only = std::env::var("CRUS_TEST_SCENARIO").ok();
    let strikes = std::env::var("CRUS_TEST_STRIKES").ok().map(|text| text.parse::<Strikes>().unwrap());
    let effort = effort();
    let mut total = Report::default();
    let mut examined = 0;
    for scenario in scenarios {
        if only.as_ref().is_some_and(|only| only != scenario.name()) {
            continue;
        }
        examined += 1;
        if let Some(strikes) = &strikes {
            let (end, points) = scenario.run(strikes.clone()).unwrap_or_else(|stuck| panic!("{stuck}"));
            println!("{strikes}: {} points, {end:#?}", points.passed().len());
            continue;
        }
        let report = scenario.examine(&effort);
        let report = report.unwrap_or_else(|stuck| panic!("'{}' without crashes: {stuck}", scenario.name()));
        println!("{}: {report}", scenario.name());
        total.add(report);
    }
    println!("{table}, seed {}, {examined} scenarios: {total}", effort.seed);
    assert_eq!(total.failed, 0, "{total}");
}

#[test]
fn p3_p4_p5_upgrades_that_succeed_or_fail_end_the_same_whenever_the_service_dies() {
    hold("successes and failures", successes_and_failures());
}

#[test]
fn p7_deletion_in_each_stage_ends_the_same_whenever_the_service_dies() {
    hold("deletions", deletions());
}

#[test]
fn p8_p9_conditions_unmet_at_first_are_overcome_whenever_the_service_dies() {
    hold("conditions at first", conditions_from_the_start());
}

#[test]
fn p9_conditions_that_break_in_the_middle_are_overcome_whenever_the_service_dies() {
    hold("conditions in the middle", conditions_in_the_middle());
}

#[test]
fn p2_p6_what_others_do_to_nodes_is_respected_whenever_the_service_dies() {
    hold("other people", other_people());
}

#[test]
fn p3_p9_time_outs_and_lost_boot_sessions_end_the_same_whenever_the_service_dies() {
    hold("time-outs and boot sessions", time_outs_and_boot_sessions());
}

#[test]
fn p2_p5_jobs_are_ended_and_nodes_checked_as_asked_whenever_the_service_dies() {
    hold("strategies", strategies());
}

#[test]
fn p2_p3_steps_are_what_their_strategy_says_whenever_the_service_dies() {
    hold("options", options());
}

#[test]
fn p3_p7_orders_hold_whenever_the_service_dies() {
    hold("orders", orders());
}

#[test]
fn p3_nodes_reboot_once_whenever_the_service_dies_though_bos_takes_no_names() {
    hold("without names", without_names());
}

#[test]
fn p1_p3_sessions_that_share_groups_or_nodes_end_the_same_whenever_the_service_dies() {
    hold("two sessions", two_sessions());
}
