//! What `scontrol show node -o`, `show partition -o` and `squeue` print, read. Nothing that is not understood is passed over: a node or
//! a job that went missing here could cost a user's job.

use std::collections::BTreeSet;

use crus_core::hostlist;
use crus_core::names::{NodeName, PartitionName};
use crus_core::time::WlmTime;
use crus_core::wlm::{BaseState, Flag, Job, WlmNode};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A text that is not what Slurm prints.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read {what} in {text:?}")]
pub(super) struct ParseError {
    what: &'static str,
    text: String,
}

fn bad(what: &'static str, text: &str) -> ParseError {
    ParseError { what, text: text.chars().take(120).collect() }
}

/// The nodes that were shown, and those that Slurm does not know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Shown {
    pub(super) nodes: Vec<WlmNode>,
    pub(super) unknown: BTreeSet<NodeName>,
}

/// What `scontrol show node -o` printed.
pub(super) fn nodes(text: &str) -> Result<Shown, ParseError> {
    let mut shown = Shown::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match unknown_node(line) {
            Some(name) => {
                shown.unknown.insert(name.parse().map_err(|_| bad("a node's name", line))?);
            }
            None => shown.nodes.push(node(line)?),
        }
    }
    Ok(shown)
}

/// The name in `Node nid009999 not found`.
fn unknown_node(line: &str) -> Option<&str> {
    line.strip_prefix("Node ")?.strip_suffix(" not found")
}

/// One line of `scontrol show node -o`: `NodeName=nid000001 … State=IDLE+DRAIN … Reason=text [root@time]`. Values
/// may hold spaces (`OS=`, `Reason=`), so the line cannot be cut at them.
fn node(line: &str) -> Result<WlmNode, ParseError> {
    // Behind these is free text, which may look like anything.
    let free = ["Reason", "Comment", "Extra"].iter().filter_map(|key| position(line, key)).min();
    let (head, tail) = line.split_at(free.unwrap_or(line.len()));
    let name = head.strip_prefix("NodeName=").map(first_word).ok_or_else(|| bad("a node", line))?;
    let (base, flags) = state(word(head, "State").ok_or_else(|| bad("State=", line))?);
    Ok(WlmNode {
        name: name.parse().map_err(|_| bad("a node's name", line))?,
        base,
        flags,
        cpus_allocated: word(head, "CPUAlloc")
            .map(|number| number.parse().map_err(|_| bad("CPUAlloc=", line)))
            .transpose()?,
        boot_time: match word(head, "BootTime") {
            Some(text) => time(text).ok_or_else(|| bad("BootTime=", line))?,
            None => None,
        },
        reason: position(tail, "Reason").and_then(|at| reason(&tail[at + "Reason=".len()..])),
    })
}

/// Where `key=` begins.
fn position(text: &str, key: &str) -> Option<usize> {
    text.match_indices(key).map(|(at, _)| at).find(|&at| {
        text[at + key.len()..].starts_with('=') && text[..at].chars().next_back().is_none_or(|c| c == ' ')
    })
}

/// The value of a key, up to the next space.
fn word<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    position(text, key).map(|at| first_word(&text[at + key.len() + 1..]))
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// A base state and flags, such as `IDLE*+DRAIN`. What is printed is that of Slurm 22.05, the rest was or is
/// printed by others.
fn state(text: &str) -> (BaseState, BTreeSet<Flag>) {
    let mut parts = text.split('+');
    let mut flags = BTreeSet::new();
    // A mark behind a word: `*` for a node that does not respond; the others tell of power, reservations, plans.
    let unmarked = |word: &str, flags: &mut BTreeSet<Flag>| {
        let plain = word.trim_end_matches(['*', '$', '~', '#', '!', '%', '@', '^', '-']);
        if word[plain.len()..].contains('*') {
            flags.insert(Flag::NotResponding);
        }
        plain.to_ascii_uppercase()
    };
    let base = match unmarked(parts.next().unwrap_or_default(), &mut flags).as_str() {
        "IDLE" => BaseState::Idle,
        "MIXED" | "MIX" => BaseState::Mixed,
        "ALLOCATED" | "ALLOC" => BaseState::Allocated,
        "DOWN" => BaseState::Down,
        "UNKNOWN" | "UNK" => BaseState::Unknown,
        // As `sinfo` words it; whether something runs there, CPUAlloc and the jobs tell.
        word @ ("DRAINED" | "FAIL") => {
            flags.extend(flag(word));
            BaseState::Idle
        }
        word @ ("DRAINING" | "FAILING") => {
            flags.extend(flag(word));
            BaseState::Mixed
        }
        word => {
            flags.extend(flag(word));
            BaseState::Other
        }
    };
    for part in parts {
        let word = unmarked(part, &mut flags);
        flags.extend(flag(&word));
    }
    (base, flags)
}

fn flag(word: &str) -> Option<Flag> {
    match word {
        "DRAIN" | "DRAINING" | "DRAINED" => Some(Flag::Drain),
        "FAIL" | "FAILING" => Some(Flag::Fail),
        "COMPLETING" | "COMP" => Some(Flag::Completing),
        "NOT_RESPONDING" | "NO_RESPOND" => Some(Flag::NotResponding),
        _ => None,
    }
}

/// The text of a reason, without who gave it and when; what follows it (`Comment=`, `Extra=`) is not part of it.
fn reason(text: &str) -> Option<String> {
    let stamp = text.match_indices(" [").map(|(at, _)| at).find(|&at| {
        let inside = text[at + 2..].split(']').next().unwrap_or_default();
        inside.split_once('@').is_some_and(|(user, when)| !user.contains(' ') && (time(when).is_some()))
    });
    let others = || ["Comment", "Extra"].iter().filter_map(|key| position(text, key)).min();
    let text = text[..stamp.or_else(others).unwrap_or(text.len())].trim();
    (!text.is_empty() && text != "(null)").then(|| text.to_owned())
}

/// A time in UTC; `Some(None)` when Slurm says that there is none, `None` when it is no time.
fn time(text: &str) -> Option<Option<WlmTime>> {
    if ["None", "NONE", "Unknown", "UNKNOWN", "N/A", "(null)", "n/a", ""].contains(&text) {
        return Some(None);
    }
    let date: DateTime = text.parse().ok()?;
    let at = TimeZone::UTC.to_timestamp(date).ok()?;
    Some(Some(WlmTime(at.as_second())))
}

/// What `scontrol show partition -o` printed of these partitions: the nodes of each. A line is `PartitionName=batch …
/// Nodes=nid[000001-000008] … State=UP …`; `Nodes=(null)` is a partition without nodes. The partition's own state tells
/// whether jobs of it start, and nothing of its nodes.
pub(super) fn partitions(
    text: &str,
    wanted: &[PartitionName],
) -> Result<Vec<(PartitionName, BTreeSet<NodeName>)>, ParseError> {
    let mut partitions = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line == "No partitions in the system" {
            continue;
        }
        let name =
            line.strip_prefix("PartitionName=").map(first_word).ok_or_else(|| bad("a partition", line))?;
        let Some(name) = wanted.iter().find(|wanted| wanted.as_str() == name) else { continue };
        let nodes = match word(line, "Nodes").ok_or_else(|| bad("Nodes= of a partition", line))? {
            "(null)" | "" => BTreeSet::new(),
            list => hostlist::expand(list)
                .map_err(|_| bad("the nodes of a partition", line))?
                .into_iter()
                .collect(),
        };
        partitions.push((name.clone(), nodes));
    }
    Ok(partitions)
}

/// The format that [`jobs`] reads: id, nodes, state, end, user.
pub(super) const JOB_FORMAT: &str = "%i|%N|%T|%e|%u";

/// Jobs in these states hold no nodes, though the nodes that they once had may be printed. Every other state does,
/// those included that this version has not heard of. A job that ended and whose epilog runs is `COMPLETING`.
pub(super) const NOT_RUNNING: [&str; 11] = [
    "PENDING",
    "COMPLETED",
    "CANCELLED",
    "FAILED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "BOOT_FAIL",
    "DEADLINE",
    "OUT_OF_MEMORY",
    "REVOKED",
];

/// What `squeue -h -o` [`JOB_FORMAT`] printed: the jobs that hold nodes.
pub(super) fn jobs(text: &str) -> Result<Vec<Job>, ParseError> {
    let mut jobs = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [id, nodes, state, end, user] = fields[..] else { return Err(bad("a job", line)) };
        if nodes.is_empty() || ["(null)", "n/a", "N/A"].contains(&nodes) || NOT_RUNNING.contains(&state) {
            continue;
        }
        jobs.push(Job {
            id: id.to_owned(),
            user: user.to_owned(),
            nodes: hostlist::expand(nodes).map_err(|_| bad("the nodes of a job", line))?,
            end: time(end).ok_or_else(|| bad("the end of a job", line))?,
        });
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests;
