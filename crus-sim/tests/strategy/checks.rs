//! `check_command`: a node returns to service only once it passed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use crus_core::driver::Ports;
use crus_core::model::{Command, Failure, NodeState, PauseReason};
use crus_core::ports::{CheckRequest, Checks, PortError, Verdict};
use crus_core::{Time, UpgradeId, Xname};
use crus_sim::world::World;

use super::support::*;
use crate::common::*;

/// Judges a node after so long, by the clock.
struct Program {
    clock: Arc<dyn crus_core::ports::Clock>,
    takes_ms: u64,
    bad: Vec<Xname>,
    /// When each began to be checked, and in which step.
    begun: Mutex<BTreeMap<(u32, Xname), Time>>,
}

#[async_trait]
impl Checks for Program {
    async fn judge(&self, request: &CheckRequest) -> Result<Vec<(Xname, Verdict)>, PortError> {
        let now = self.clock.now();
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let judge = |(xname, _): &(Xname, _)| {
            let began = *begun.entry((request.step, *xname)).or_insert(now);
            let verdict = match now.since(began) >= self.takes_ms {
                false => Verdict::Running,
                true if self.bad.contains(xname) => Verdict::Failed("bad memory".to_owned()),
                true => Verdict::Passed,
            };
            (*xname, verdict)
        };
        Ok(request.nodes.iter().map(judge).collect())
    }

    /// What began is what the tests look at.
    fn forget(&self, _: UpgradeId) {}
}

fn checked(world: &mut World, takes_ms: u64, bad: &[u32]) -> Arc<Mutex<Option<Arc<Program>>>> {
    let made = Arc::new(Mutex::new(None));
    let keep = Arc::clone(&made);
    let bad = bad.iter().map(|n| xname(*n)).collect();
    world.decorate(move |ports| {
        let clock = Arc::clone(&ports.clock);
        let program = Arc::new(Program { clock, takes_ms, bad, begun: Mutex::default() });
        *keep.lock().unwrap() = Some(Arc::clone(&program));
        Ports { checks: program, ..ports }
    });
    made
}

#[test]
fn a_node_that_does_not_pass_fails_and_never_takes_jobs() {
    let mut world = world(brisk(4));
    let _program = checked(&mut world, 3 * MINUTE, &[2]);
    let id = world.create(spec_of(2, r#"{"check_command":"health","max_failed":1,"order":"name"}"#)).unwrap();
    end(&mut world, id);
    assert_eq!(node(&world, id, 2).state, NodeState::Failed(Failure::CheckFailed("bad memory".into())));
    assert!(reason(&world, 2).starts_with(&format!("upgrading-boot-session-failed {id}")));
    assert!(!in_service(&world, 2) && [1, 3, 4].iter().all(|n| in_service(&world, *n)));
    let about = |text: &&String| text.contains("bad memory");
    assert_eq!(messages(&world, id).iter().filter(about).count(), 1, "{:#?}", messages(&world, id));
}

/// A check that takes longer than a return may.
#[test]
fn a_long_check_is_no_late_return() {
    let mut world = world(brisk(2));
    let _program = checked(&mut world, 45 * MINUTE, &[]);
    let id = world.create(spec_of(2, r#"{"check_command":"health"}"#)).unwrap();
    end(&mut world, id);
    assert_eq!(counts(&world, id).upgraded, 2);
}

#[test]
fn each_attempt_is_checked_anew_and_a_failed_check_is_retried() {
    let mut world = world(brisk(2));
    let program = checked(&mut world, 0, &[1]);
    let id = world.create(spec_of(2, r#"{"check_command":"health","retries":2}"#)).unwrap();
    end(&mut world, id);
    assert_eq!(node(&world, id, 1).attempt, 2);
    assert_eq!(world.reboots(id, xname(1)), 3);
    let program = program.lock().unwrap().clone().unwrap();
    let begun = program.begun.lock().unwrap();
    assert_eq!(begun.keys().filter(|(_, node)| *node == xname(1)).count(), 3);
}

#[test]
fn p7_a_check_that_cannot_be_run_keeps_no_session_from_its_deletion() {
    let mut world = world(brisk(2));
    let id = world.create(spec_of(1, r#"{"check_command":"health"}"#)).unwrap();
    let refused = |world: &World| {
        let condition = world.session(id).unwrap().head.condition.as_ref();
        condition.is_some_and(|why| why.contains("there is no check command 'health'"))
    };
    world.run_until(DAY, refused).unwrap();
    stays(&mut world, id, DAY);
    world.delete(id).unwrap();
    world.must_end(DAY).unwrap();
}

#[test]
fn a_node_that_passes_no_check_stops_a_canary() {
    let mut world = world(brisk(6));
    let _program = checked(&mut world, 0, &[1, 2, 3, 4, 5, 6]);
    let id = world.create(spec_of(3, r#"{"check_command":"health","canary":[1],"max_failed":0}"#)).unwrap();
    assert_eq!(until_paused(&mut world, id), PauseReason::MaxFailed { failed: 1, max: 0 });
    stays(&mut world, id, DAY);
    order(&mut world, id, Command::Retry);
    assert_eq!(counts(&world, id).failed, 0);
}
