use std::num::NonZeroU32;

use super::*;
use crate::model::{Limits, Node, Spec};

fn xname(n: u32) -> Xname {
    format!("x1000c0s{n}b0n0").parse().unwrap()
}

fn a_session() -> Session {
    let spec = Spec {
        starting: "all".parse().unwrap(),
        upgrading: "up".parse().unwrap(),
        failed: "failed".parse().unwrap(),
        step_size: NonZeroU32::new(2).unwrap(),
        template: "image".parse().unwrap(),
        tenant: None,
        strategy: crate::Strategy::default(),
    };
    Session::new(UpgradeId(uuid::Uuid::from_u128(1)), spec, "1", Limits::default(), Time(0))
}

/// An audit of a session of nodes 1 to 3.
fn audit() -> Audit {
    Audit::new(&a_session(), (1..=3).map(xname).collect())
}

fn ours() -> By {
    By::Session(a_session().head.id)
}

fn another() -> By {
    By::Session(UpgradeId(uuid::Uuid::from_u128(2)))
}

fn group(by: By, label: &str, added: &[u32], removed: &[u32]) -> Fact {
    let nodes = |list: &[u32]| list.iter().copied().map(xname).collect();
    let (added, removed) = (nodes(added), nodes(removed));
    Fact { at: Time(0), by, what: What::GroupChanged { label: label.parse().unwrap(), added, removed } }
}

fn held(by: By, at: u64, n: u32, reason: Option<&str>) -> Fact {
    let (held, reason) = (reason.is_some(), reason.map(str::to_owned));
    let what = What::NodeChanged { xname: xname(n), held, reason, in_service: !held, looked: None };
    Fact { at: Time(at), by, what }
}

fn promises(violations: Vec<Violation>) -> Vec<&'static str> {
    violations.into_iter().map(|violation| violation.promise).collect()
}

#[test]
fn p6_p7_a_drain_must_be_of_the_sessions_nodes_and_before_its_deletion() {
    let mut audit = audit();
    let drain = messages::drain_reason(a_session().head.id);
    assert_eq!(promises(audit.witness(&held(ours(), 0, 1, Some(&drain)))), [""; 0]);
    assert_eq!(promises(audit.witness(&held(ours(), 0, 9, Some(&drain)))), ["P6"]);
    audit.witness(&held(ours(), 0, 9, None));
    audit.deletion_ordered(Time(1));
    assert_eq!(promises(audit.witness(&held(ours(), 2, 1, Some(&drain)))), [""; 0], "it was drained before");
    assert_eq!(promises(audit.witness(&held(ours(), 2, 2, Some(&drain)))), ["P7"]);
}

#[test]
fn p6_what_somebody_wrote_stands_until_they_change_it() {
    let mut audit = audit();
    let failed = messages::failure_reason(a_session().head.id, &Failure::BootTimedOut);
    let deeds = |audit: &mut Audit, by, reasons: &[Option<&str>]| {
        let at = [0, KNOWN_AFTER_MS].into_iter().zip(reasons);
        promises(at.flat_map(|(at, reason)| audit.witness(&held(by, at, 1, *reason))).collect())
    };
    for by in [By::Operator, By::Itself, another()] {
        assert_eq!(deeds(&mut audit, by, &[Some("bad dimm"), None]), [""; 0]);
    }
    assert_eq!(deeds(&mut audit, ours(), &[Some("bad dimm"), None]), ["P6"]);
    let mine = messages::drain_reason(a_session().head.id);
    assert_eq!(deeds(&mut audit, ours(), &[Some("bad dimm"), Some(&mine)]), ["P6"]);
    let behind = messages::added_reason("bad dimm", &failed);
    assert_eq!(deeds(&mut audit, ours(), &[Some("bad dimm"), Some(&behind)]), [""; 0]);
    // It may not have been seen yet.
    audit.witness(&held(By::Operator, 0, 2, Some("just now")));
    assert_eq!(promises(audit.witness(&held(ours(), 1, 2, None))), [""; 0]);
    for (look, broken) in [(4, 0), (6, 1)] {
        audit.witness(&held(By::Operator, 5, 3, Some("bad dimm")));
        let mut fact = held(ours(), 5 + KNOWN_AFTER_MS, 3, None);
        if let What::NodeChanged { looked, .. } = &mut fact.what {
            *looked = Some(Time(look));
        }
        assert_eq!(promises(audit.witness(&fact)), ["P6"][..broken], "by when it was looked at");
    }
}

#[test]
fn p8_groups_lose_only_the_sessions_nodes_and_the_starting_group_none() {
    let mut audit = audit();
    assert_eq!(promises(audit.witness(&group(ours(), "up", &[], &[1, 2]))), [""; 0]);
    assert_eq!(promises(audit.witness(&group(ours(), "up", &[], &[1, 9]))), ["P8"]);
    assert_eq!(promises(audit.witness(&group(By::Operator, "up", &[], &[9]))), [""; 0]);
    assert_eq!(promises(audit.witness(&group(ours(), "all", &[], &[1]))), ["P8"]);
}

#[test]
fn p8_a_session_takes_nodes_of_its_starting_group_alone() {
    let mut session = a_session();
    session.nodes = [2, 4].map(|n| Node::new(xname(n), None, Time(0))).to_vec();
    assert_eq!(audit().follow(&session), [], "not frozen yet");
    session.head.phase = Phase::Rolling;
    assert_eq!(promises(audit().follow(&session)), ["P8"]);
    let mut audit = audit();
    audit.witness(&group(By::Operator, "all", &[4], &[]));
    assert_eq!(audit.follow(&session), []);
    // Nodes 1 and 3 were members, and are not of the session.
    assert_eq!(promises(audit.witness(&group(ours(), "up", &[], &[1]))), ["P8"]);
}

#[test]
fn p2_a_job_that_others_end_is_not_ours_to_answer_for() {
    let what = What::JobKilled { xname: xname(1), job: "7".into() };
    for (by, broken) in [(By::Operator, 0), (another(), 0), (ours(), 1), (By::Itself, 1)] {
        let fact = Fact { at: Time(0), by, what: what.clone() };
        assert_eq!(promises(audit().witness(&fact)), ["P2"][..broken], "{by:?}");
    }
}

#[test]
fn p2_a_job_is_ended_only_where_that_was_asked_for_by_name() {
    let (requeue, cancel) = (OnDrainTimeout::Requeue, OnDrainTimeout::Cancel);
    for (asked, requeued, on, broken) in [
        (None, true, 1, true),
        (None, false, 1, true),
        (Some(OnDrainTimeout::Skip), false, 1, true),
        (Some(requeue), true, 1, false),
        (Some(requeue), false, 1, true),
        (Some(cancel), false, 1, false),
        (Some(cancel), true, 1, true),
        (Some(cancel), false, 9, true),
    ] {
        let mut session = a_session();
        let strategy = &mut session.head.spec.strategy;
        (strategy.drain_timeout_s, strategy.on_drain_timeout) =
            (asked.and_then(|_| std::num::NonZero::new(60)), asked.unwrap_or_default());
        let mut audit = Audit::new(&session, (1..=3).map(xname).collect());
        let drain = messages::drain_reason(session.head.id);
        audit.witness(&held(ours(), 0, 1, Some(&drain)));
        let what = What::JobEnded { job: "7".into(), nodes: [xname(on)].into(), requeued };
        for (by, counts) in [(ours(), true), (By::Operator, false), (another(), false)] {
            let fact = Fact { at: Time(60_000), by, what: what.clone() };
            let expected = usize::from(broken && counts);
            assert_eq!(promises(audit.witness(&fact)), ["P2"][..expected], "{asked:?} {what:?} {by:?}");
        }
        let early = Fact { at: Time(59_999), by: ours(), what };
        assert_eq!(promises(audit.witness(&early)), ["P2"], "no drain is late yet");
    }
}

#[test]
fn p7_p9_a_session_must_end_and_as_it_was_ordered() {
    let mut session = a_session();
    let mut audit = audit();
    assert_eq!(promises(audit.at_end(&session, &Outcome::default())), ["P9"]);
    session.head.phase = Phase::Done;
    session.head.ended = Some(Time(5));
    assert_eq!(audit.at_end(&session, &Outcome::default()), []);
    audit.deletion_ordered(Time(4));
    assert_eq!(promises(audit.at_end(&session, &Outcome::default())), ["P7"]);
}
