//! Every text that people read: the messages of a session, its conditions, and the reasons it leaves in the
//! workload manager.
//!
//! The wording of the messages is that of the original service wherever it had one, because operators'
//! scripts look for it.

use std::fmt::Display;

use crate::model::{Failure, Stage, UpgradeId};
use crate::names::{GroupLabel, Xname};

/// The longest reason that is written into the workload manager, in characters.
const REASON_MAX: usize = 240;
/// How many names a message lists before it only counts.
const NAMES_MAX: usize = 5;

// ---- the course of a session ---------------------------------------------------------------------------

pub(crate) fn cleared_group(label: &GroupLabel) -> String {
    format!("Cleared node group '{label}'")
}

pub(crate) fn quiesce_requested(step: u32) -> String {
    format!("Quiesce requested in step {step}: moving to QUIESCING")
}

pub(crate) fn all_quiesced(step: u32) -> String {
    format!("All nodes quiesced in step {step}: moving to QUIESCED")
}

pub(crate) fn no_longer_quiet(step: u32, nodes: &[Xname]) -> String {
    format!("{} no longer drained and quiet in step {step}: moving to QUIESCING", are(nodes.iter().copied()))
}

pub(crate) fn boot_begun(step: u32) -> String {
    format!("Began the boot session for step {step}: moving to BOOTING")
}

pub(crate) fn boot_completed(step: u32) -> String {
    format!("The boot session for step {step} completed: moving to BOOTED")
}

pub(crate) fn boot_succeeded(step: u32) -> String {
    format!("Step {step} boot session succeeded: moving to WLM_WAITING")
}

pub(crate) fn boot_failed(step: u32) -> String {
    format!(
        "The boot session for step {step} failed: marking the nodes as failed, advancing to step {} and \
         moving to STARTING",
        step + 1
    )
}

pub(crate) fn returned(step: u32) -> String {
    format!("All WLM returned to ready in step {step}: advancing to step {} and moving to STARTING", step + 1)
}

pub(crate) fn return_timed_out(step: u32) -> String {
    format!(
        "Waiting for WLM nodes timed out in step {step}: marking remaining nodes as failed, advancing to \
         step {} and moving to STARTING",
        step + 1
    )
}

pub(crate) fn nothing_quiesced(step: u32) -> String {
    format!("No nodes left in step {step}: advancing to step {} and moving to STARTING", step + 1)
}

pub(crate) fn no_nodes(step: u32) -> String {
    format!("No nodes in step {step}: moving to CLEANUP")
}

pub(crate) fn completed() -> String {
    "Upgrade Session Completed".to_owned()
}

pub(crate) fn processing_failed(step: u32, stage: Stage, why: &str) -> String {
    format!("Processing step {step} in stage {stage} failed - {why}")
}

pub(crate) fn deleted_before_updates() -> String {
    "Deleting before any updates: move to CLEANUP for removal".to_owned()
}

pub(crate) fn deleted() -> String {
    "Upgrade session deleted before completion: moving to cleanup".to_owned()
}

/// `nodes` failed for the same reason in one go.
pub(crate) fn failed(step: u32, nodes: &[Xname], failure: &Failure) -> String {
    format!("Step {step}: failed {}: {failure}", list(nodes.iter().copied()))
}

// ---- conditions (P9) -----------------------------------------------------------------------------------

pub(crate) fn group_missing(label: &GroupLabel) -> String {
    format!("there is no group '{label}' in the Hardware State Manager")
}

pub(crate) fn group_holds_others<'a>(
    label: &GroupLabel,
    starting: &GroupLabel,
    others: impl Iterator<Item = &'a Xname>,
) -> String {
    format!("group '{label}' holds nodes that are not of this session's group '{starting}': {}", list(others))
}

pub(crate) fn template_missing(template: &impl Display) -> String {
    format!("there is no session template '{template}' in the Boot Orchestration Service")
}

pub(crate) fn members_rejected(label: &GroupLabel, xname: Xname, detail: &str) -> String {
    format!("the Hardware State Manager does not take {xname} into group '{label}': {detail}")
}

/// Why a session waits for another one.
pub(crate) fn waits_for_session(other: UpgradeId, shared: &str) -> String {
    format!("Waiting for session {other}, which uses {shared}")
}

// ---- reasons in the workload manager ---------------------------------------------------------------------

/// The reason of a node that we drain.
pub fn drain_reason(id: UpgradeId) -> String {
    format!("rolling-upgrade {id}")
}

/// What marks a node that failed: the original's word for it, and our id.
pub fn failure_mark(id: UpgradeId, failure: &Failure) -> String {
    let word = match failure {
        Failure::ReturnTimedOut(_) => "upgrading-time-out-wlm-waiting",
        _ => "upgrading-boot-session-failed",
    };
    format!("{word} {id}")
}

/// The reason of a node that failed: its mark, and what happened. A workload manager may keep less of it than was
/// written, so only the mark may be looked for.
pub fn failure_reason(id: UpgradeId, failure: &Failure) -> String {
    one_line(&format!("{}: {failure}", failure_mark(id, failure)))
}

/// The reason of a node that somebody else holds and that failed: theirs, and our mark behind it.
pub(crate) fn added_mark(theirs: &str, mark: &str) -> String {
    let room = REASON_MAX.saturating_sub(mark.chars().count() + 2);
    let theirs: String = theirs.chars().take(room).collect();
    one_line(&format!("{theirs}; {mark}"))
}

/// Whether this reason was left by the session of this id.
pub fn is_own_reason(reason: &str, id: UpgradeId) -> bool {
    is_crus_reason(reason) && reason.contains(&id.to_string())
}

/// Whether this reason was left by some upgrade session, ours or an earlier one. What an upgrade drained or
/// failed is no wish of a person.
pub fn is_crus_reason(reason: &str) -> bool {
    [
        "rolling-upgrade",
        "upgrading-boot-session-failed",
        "upgrading-time-out-wlm-waiting",
        "upgrade-session-deleted-before-completion",
    ]
    .iter()
    .any(|word| reason.split([' ', ':', ';']).next() == Some(word))
}

/// Whether Slurm gave this reason by itself.
pub fn is_slurm_reason(reason: &str) -> bool {
    ["Not responding", "Node unexpectedly rebooted"].iter().any(|text| reason.starts_with(text))
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::UnknownToHsm => f.write_str("unknown to the Hardware State Manager"),
            Failure::NoNid => f.write_str("has no node id of its own in the Hardware State Manager"),
            Failure::NotCompute(role) if role.is_empty() => f.write_str("has no role, so is no compute node"),
            Failure::NotCompute(role) => write!(f, "is no compute node: its role is {role}"),
            Failure::UnknownToWlm => f.write_str("unknown to the workload manager"),
            Failure::DrainTimedOut => f.write_str("its jobs did not end in time; given back untouched"),
            Failure::LeftOut(why) => write!(f, "left out of the boot session: {why}"),
            Failure::Boot(error) => write!(f, "failed to boot: {error}"),
            Failure::BootSession(error) => write!(f, "the boot session failed: {error}"),
            Failure::BootSessionLost => f.write_str("the boot session was gone before it ended"),
            Failure::TakenOver => f.write_str("taken over by another boot session"),
            Failure::BootTimedOut => f.write_str("did not boot in time"),
            Failure::ReturnTimedOut(state) => write!(f, "not back in service in time, last seen {state}"),
        }
    }
}

// ---- helpers ---------------------------------------------------------------------------------------------

/// The first few of some names, and how many more there are.
fn list<T: Display>(mut names: impl Iterator<Item = T>) -> String {
    let first = names.by_ref().take(NAMES_MAX).map(|name| name.to_string()).collect::<Vec<_>>().join(", ");
    match names.count() {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

fn are<T: Display>(names: impl ExactSizeIterator<Item = T>) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", list(names))
}

/// A text that fits on one line of the workload manager's records. Slurm strips double quotes.
fn one_line(text: &str) -> String {
    let plain = |c: char| match c {
        '"' => '\'',
        c if c.is_control() => ' ',
        c => c,
    };
    text.chars().map(plain).take(REASON_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_tell_whose_they_are() {
        let id = UpgradeId(uuid::Uuid::from_u128(7));
        let other = UpgradeId(uuid::Uuid::from_u128(8));
        let failure = Failure::Boot("no\nlink".into());
        for reason in [drain_reason(id), failure_reason(id, &failure)] {
            assert!(is_own_reason(&reason, id) && !is_own_reason(&reason, other), "{reason}");
            assert!(!reason.contains('\n'));
        }
        assert!(is_crus_reason("rolling-upgrade"), "the original left no id");
        assert!(!is_crus_reason("rolling-upgrades are evil"));
        assert!(!is_own_reason(&format!("do not touch, see {id}"), id));
        assert!(is_slurm_reason("Not responding") && !is_slurm_reason("bad dimm"));
        let long = added_mark(&"x".repeat(500), "mark");
        assert!(long.ends_with("; mark") && long.chars().count() == REASON_MAX);
    }

    #[test]
    fn long_lists_are_counted() {
        assert_eq!(list(1..=3), "1, 2, 3");
        assert_eq!(list(1..=9), "1, 2, 3, 4, 5 and 4 more");
    }
}
