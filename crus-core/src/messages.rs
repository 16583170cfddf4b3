//! Every text that people read: the messages of a session, its conditions, and the reasons it leaves in the
//! workload manager.
//!
//! The wording of the messages is that of the original service wherever it had one, because operators'
//! scripts look for it.

use std::fmt::Display;

use crate::model::{Failure, PauseReason, Stage, UpgradeId};
use crate::names::{GroupLabel, PartitionName, Xname};

/// The longest reason that is written into the workload manager, in characters.
const REASON_MAX: usize = 240;
/// The longest message or condition, in characters: a peer's words may be of any length.
pub(crate) const TEXT_MAX: usize = 1000;
/// The longest words of somebody else that are kept with a node, in characters.
pub(crate) const DETAIL_MAX: usize = 240;
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

/// More nodes failed, for more reasons than are told.
pub(crate) fn more_failed(step: u32, nodes: &[Xname]) -> String {
    format!("Step {step}: failed for other reasons: {}", list(nodes.iter().copied()))
}

/// `nodes` failed for the same reason in one go.
pub(crate) fn failed(step: u32, nodes: &[Xname], failure: &Failure) -> String {
    format!("Step {step}: failed {}: {failure}", list(nodes.iter().copied()))
}

/// Why a session starts no other step.
pub fn paused(why: &PauseReason) -> String {
    match why {
        PauseReason::Command => {
            "Paused by an operator: no other step is started until the session is resumed".into()
        }
        PauseReason::MaxFailed { failed, max } => format!(
            "Paused: {failed} failed, and {max} may; resume, retry or delete the session",
            failed = nodes(*failed)
        ),
        PauseReason::MaxFailedStep { failed, max } => format!(
            "Paused: {failed} of the last step failed, and {max} may; resume, retry or delete the session",
            failed = nodes(*failed)
        ),
    }
}

pub(crate) fn resumed(step: u32) -> String {
    format!("Resumed by an operator: going on with step {step}")
}

pub(crate) fn retried(count: usize) -> String {
    format!("Taking {} again that failed or were skipped", nodes(count))
}

pub(crate) fn retrying(count: usize, step: u32) -> String {
    format!("Trying {} again from step {step} on", nodes(count))
}

pub(crate) fn deferred(step: u32, nodes: &[Xname]) -> String {
    format!(
        "Step {step}: the jobs on {} did not end in time: given back, to be tried again at the end",
        list(nodes.iter().copied())
    )
}

pub(crate) fn drain_is_late(step: u32, nodes: &[Xname]) -> String {
    format!("Step {step}: the jobs on {} did not end in time; waiting on", list(nodes.iter().copied()))
}

pub(crate) fn jobs_ended(step: u32, jobs: &[String], cancelled: bool) -> String {
    let done = if cancelled { "cancelled" } else { "requeued" };
    format!("Step {step}: {done} what kept nodes from draining in time: {}", list(jobs.iter()))
}

pub(crate) fn soaking(step: u32, seconds: u64) -> String {
    format!("Step {step} soaks for {seconds} s before the session goes on")
}

// ---- what a step waits for ------------------------------------------------------------------------------

pub(crate) fn window_closed(step: u32, opens: &str, zone: &str) -> String {
    format!("Step {step} waits for its window, which opens {opens} ({zone})")
}

pub(crate) fn service_floor(step: u32, partition: &PartitionName, in_service: usize, floor: usize) -> String {
    format!(
        "Step {step} waits: partition '{partition}' has {} in service, and {floor} must stay",
        nodes(in_service)
    )
}

pub(crate) fn no_node_fits(step: u32) -> String {
    format!("Step {step} waits: no node can be taken without leaving too few of its partitions in service")
}

// ---- conditions (P9) -----------------------------------------------------------------------------------

pub(crate) fn group_missing(label: &GroupLabel) -> String {
    format!("there is no group '{label}' in the Hardware State Manager")
}

pub(crate) fn group_too_large(label: &GroupLabel, size: usize, max: usize) -> String {
    format!(
        "group '{label}' holds {size} nodes, and a session may have {max}: divide the group, or raise max_nodes in \
         the service's configuration"
    )
}

pub(crate) fn group_holds_others<'a>(
    label: &GroupLabel,
    starting: &GroupLabel,
    others: impl Iterator<Item = &'a Xname>,
) -> String {
    format!("group '{label}' holds nodes that are not of this session's group '{starting}': {}", list(others))
}

pub(crate) fn partition_missing(partition: &PartitionName) -> String {
    format!(
        "there is no partition '{partition}' in the workload manager, of which min_in_service is asked for"
    )
}

pub(crate) fn zone_unknown(zone: &str) -> String {
    format!("the time zone '{zone}' of the window is not known here")
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

/// A session that no store knows asks for its turn.
pub(crate) fn has_no_claim(id: UpgradeId) -> String {
    format!("Waiting for session {id} to be stored")
}

// ---- old messages ----------------------------------------------------------------------------------------

/// Stands for messages that were too many to be kept.
pub(crate) fn left_out() -> String {
    "Older messages left out".to_owned()
}

/// A message with `…` for the numbers of its steps: what is left is the same in each step.
pub(crate) fn without_step(message: &str) -> String {
    let mut shape = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = ["step ", "Step "].iter().filter_map(|word| rest.find(word)).min() {
        let (before, number) = rest.split_at(at + "step ".len());
        let tail = number.trim_start_matches(|c: char| c.is_ascii_digit());
        shape.push_str(before);
        if tail.len() < number.len() {
            shape.push('…');
        }
        rest = tail;
    }
    shape + rest
}

// ---- reasons in the workload manager ---------------------------------------------------------------------

/// The reason of a node that we drain.
pub fn drain_reason(id: UpgradeId) -> String {
    format!("{DRAIN_WORD} {id}")
}

/// Whether this is the reason of a node that we drain. It is asked for each node at each look.
pub(crate) fn is_drain_reason(reason: &str, id: UpgradeId) -> bool {
    let text = reason.strip_prefix(DRAIN_WORD).and_then(|rest| rest.strip_prefix(' '));
    text == Some(&*id.0.hyphenated().encode_lower(&mut uuid::Uuid::encode_buffer()))
}

/// What marks a node that failed: the original's word for it, and our id.
pub fn failure_mark(id: UpgradeId, failure: &Failure) -> String {
    let [boot, time_out, _] = FAILURE_WORDS;
    let word = if matches!(failure, Failure::ReturnTimedOut(_)) { time_out } else { boot };
    format!("{word} {id}")
}

/// The reason of a node that failed: its mark, and what happened. A workload manager may keep less of it than was
/// written, so only the mark may be looked for.
pub fn failure_reason(id: UpgradeId, failure: &Failure) -> String {
    one_line(&format!("{}: {failure}", failure_mark(id, failure)))
}

/// The reason of a node that somebody else holds and that failed: theirs, whole, and ours behind it, instead of
/// what an earlier upgrade wrote there.
pub(crate) fn added_reason(theirs: &str, ours: &str) -> String {
    match owners_words(theirs) {
        "" => ours.to_owned(),
        theirs => format!("{theirs}; {ours}"),
    }
}

/// What of somebody's reason is theirs: all that stands before the mark of an upgrade.
pub(crate) fn owners_words(reason: &str) -> &str {
    let earlier = FAILURE_WORDS.iter().filter_map(|word| reason.find(&format!("; {word} "))).min();
    &reason[..earlier.unwrap_or(reason.len())]
}

const DRAIN_WORD: &str = "rolling-upgrade";
const FAILURE_WORDS: [&str; 3] = [
    "upgrading-boot-session-failed",
    "upgrading-time-out-wlm-waiting",
    "upgrade-session-deleted-before-completion",
];

/// Whether this reason was left by some upgrade session, ours or an earlier one: what an upgrade drained or failed
/// is no wish of a person. A drain to which somebody added words is theirs.
pub fn is_crus_reason(reason: &str) -> bool {
    let (word, rest) = reason.split_once(' ').unwrap_or((reason, ""));
    let bare = |id: &str| id.is_empty() || id.parse::<UpgradeId>().is_ok();
    match word {
        DRAIN_WORD => bare(rest),
        _ if FAILURE_WORDS.contains(&word) => bare(rest.split(':').next().unwrap_or_default()),
        _ => false,
    }
}

/// Whether Slurm gave this reason by itself.
pub fn is_slurm_reason(reason: &str) -> bool {
    ["Not responding", "Node unexpectedly rebooted"].contains(&reason)
}

/// Whether a person gave this reason: neither an upgrade session nor Slurm.
pub fn is_theirs(reason: &str) -> bool {
    !is_crus_reason(reason) && !is_slurm_reason(reason)
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
            Failure::CheckFailed(why) => write!(f, "did not pass its check: {why}"),
            Failure::SoakFailed(state) => {
                write!(f, "did not stay in service while it soaked, last seen {state}")
            }
        }
    }
}

/// Why nodes fail of which it is not known whether their reboot was begun.
pub(crate) fn boot_unclear(why: &str) -> String {
    format!("it could not be found out in time what came of its request: {why}")
}

/// What is waited for while it is not known whether the reboot was begun.
pub(crate) fn boot_in_doubt(why: &str) -> String {
    format!("it is not known yet what came of the request for a reboot: {why}")
}

/// Nodes that may be on their way through a boot that nobody knows of.
pub(crate) fn silent_nodes<'a>(nodes: impl Iterator<Item = &'a Xname>) -> String {
    format!("the workload manager does not hear from {}, which may be booting", list(nodes))
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

fn nodes(count: usize) -> String {
    if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") }
}

fn are<T: Display>(names: impl ExactSizeIterator<Item = T>) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", list(names))
}

/// A text of at most so many characters, and `…` where more was cut off.
pub(crate) fn bounded(mut text: String, max: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(max) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A text that fits on one line of the workload manager's records. Slurm strips double quotes.
fn one_line(text: &str) -> String {
    let plain = |c: char| match c {
        '"' => '\'',
        c if c.is_control() => ' ',
        c => c,
    };
    text.chars().map(plain).take(REASON_MAX).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p6_reasons_tell_whose_they_are() {
        let id = UpgradeId(uuid::Uuid::from_u128(7));
        assert!(is_drain_reason(&drain_reason(id), id));
        for other in ["rolling-upgrade", "", &drain_reason(UpgradeId(uuid::Uuid::from_u128(8)))] {
            assert!(!is_drain_reason(other, id), "{other}");
        }
        let failure = Failure::Boot("no\n\"link\"".into());
        let failed = failure_reason(id, &failure);
        assert_eq!(failed, format!("upgrading-boot-session-failed {id}: failed to boot: no 'link'"));
        for reason in [drain_reason(id), failed.clone(), "rolling-upgrade".into()] {
            assert!(is_crus_reason(&reason), "{reason}");
        }
        for theirs in [
            "rolling-upgrades are evil".to_owned(),
            format!("{}; bad dimm, do not resume", drain_reason(id)),
            format!("do not touch, see {id}"),
            "Not responding to BMC, ticket 4711".to_owned(),
        ] {
            assert!(!is_crus_reason(&theirs) && !is_slurm_reason(&theirs), "{theirs}");
        }
        assert!(is_slurm_reason("Not responding"));
        assert_eq!(added_reason("bad dimm", &failed), format!("bad dimm; {failed}"));
        assert_eq!(added_reason(&format!("bad dimm; {failed}"), &failed), format!("bad dimm; {failed}"));
        assert_eq!(added_reason("", &failed), failed);
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(bounded("ä".repeat(240), 240), "ä".repeat(240));
        assert_eq!(bounded("ä".repeat(5000), 240), format!("{}…", "ä".repeat(240)));
    }

    #[test]
    fn long_lists_are_counted() {
        assert_eq!(list(1..=3), "1, 2, 3");
        assert_eq!(list(1..=9), "1, 2, 3, 4, 5 and 4 more");
    }
}
