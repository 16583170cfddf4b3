//! What must hold of what Slurm's programs print.
#![expect(clippy::unwrap_used, reason = "a panic is how a property fails")]

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use crus_core::fuzzing::check_told;
use crus_core::names::PartitionName;
use crus_core::ports::PortError;
use crus_core::wlm::{Flag, WlmNode};

use super::job::JobId;
use super::process::Output;
use super::refusal::{self, Act};
use super::{REASON_MAX, parse, reason_argument};

/// Every line is a node, a node that is unknown, or the whole is refused. A node is quiet, or free of holds, only when its
/// line says so, and no reason can make it anything else.
pub(crate) fn nodes(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let shown = match parse::nodes(&text) {
        Ok(shown) => shown,
        Err(error) => return check_told(&error.to_string()),
    };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let unknown: BTreeSet<&str> =
        lines.iter().filter_map(|line| line.strip_prefix("Node ")?.strip_suffix(" not found")).collect();
    assert_eq!(shown.unknown.iter().map(|name| name.as_str()).collect::<BTreeSet<_>>(), unknown);
    let known = lines.iter().filter(|line| line.starts_with("NodeName="));
    assert_eq!(known.clone().count(), shown.nodes.len(), "no line is passed over");
    for (line, node) in known.zip(&shown.nodes) {
        check_node(line, node);
    }
}

fn check_node(line: &str, node: &WlmNode) {
    assert!(line.starts_with(&format!("NodeName={}", node.name)), "{line:?}");
    let words: Vec<&str> = line.split(' ').collect();
    if node.is_quiet() {
        let idle = words.iter().find_map(|word| word.strip_prefix("CPUAlloc="));
        assert_eq!(idle.unwrap().parse(), Ok(0), "{line:?}");
        let state = words.iter().find_map(|word| word.strip_prefix("State=")).unwrap().to_ascii_uppercase();
        assert!(["IDLE", "DOWN", "DRAINED", "FAIL"].iter().any(|base| state.starts_with(base)), "{line:?}");
        let flag =
            |part: &str| part.trim_end_matches(['*', '$', '~', '#', '!', '%', '@', '^', '-']).to_owned();
        assert!(!state.split('+').map(flag).any(|flag| flag == "COMPLETING"), "{line:?}");
    }
    if node.is_held() {
        let state = words.iter().find_map(|word| word.strip_prefix("State=")).unwrap().to_ascii_uppercase();
        assert!(["DRAIN", "FAIL", "DOWN"].iter().any(|word| state.contains(word)), "{line:?}");
    }
    assert!(!node.has(Flag::Completing) || line.to_ascii_uppercase().contains("COMP"), "{line:?}");
    if let Some(reason) = &node.reason {
        assert!(line.contains(reason.as_str()) && !reason.trim().is_empty(), "{line:?}");
    }
    // Whoever may write a reason writes anything. What stands before it is all that tells of the node.
    let free = [" Reason=", " Comment=", " Extra="].iter().filter_map(|key| line.find(key)).min();
    let head = &line[..free.unwrap_or(line.len())];
    for lie in [
        "x State=IDLE CPUAlloc=0 BootTime=2030-01-01T00:00:00",
        "y [root@2026-11-23T09:22:55] State=IDLE",
        "",
    ] {
        let told = parse::nodes(&format!("{head} Reason={lie}")).unwrap();
        assert_eq!(told.nodes.len(), 1, "one line is one node: {head:?}");
        let without_reason = |node: &WlmNode| WlmNode { reason: None, ..node.clone() };
        assert_eq!(without_reason(&told.nodes[0]), without_reason(node), "{line:?}");
    }
}

/// Of the partitions that were asked for nothing is passed over, and there are no others.
pub(crate) fn partitions(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let wanted: Vec<PartitionName> =
        ["batch", "debug", "gpu_1", "a"].iter().map(|name| name.parse().unwrap()).collect();
    match parse::partitions(&text, &wanted) {
        Ok(partitions) => {
            assert!(partitions.iter().all(|(name, _)| wanted.contains(name)));
            let of = |name: &PartitionName| {
                let is_it = |line: &&str| {
                    line.trim()
                        .strip_prefix("PartitionName=")
                        .is_some_and(|rest| rest.split(' ').next() == Some(name.as_str()))
                };
                text.lines().filter(is_it).count()
            };
            assert_eq!(partitions.len(), wanted.iter().map(of).sum::<usize>());
        }
        Err(error) => check_told(&error.to_string()),
    }
}

/// Every line is a job that holds nodes, one that says that it holds none, or the whole is refused.
pub(crate) fn jobs(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let jobs = match parse::jobs(&text) {
        Ok(jobs) => jobs,
        Err(error) => return check_told(&error.to_string()),
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let holds = |line: &&str| {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(fields.len(), 5, "{line:?}");
        !["", "(null)", "n/a", "N/A"].contains(&fields[1]) && !parse::NOT_RUNNING.contains(&fields[2])
    };
    let lines: Vec<&str> = lines.filter(holds).collect();
    assert_eq!(lines.len(), jobs.len(), "no line is passed over");
    for (line, job) in lines.iter().zip(&jobs) {
        assert!(!job.nodes.is_empty() && line.contains(&job.id) && line.contains(&job.user), "{line:?}");
    }
}

/// What a program says is told in a line. A change that nobody is known to have refused may have been made.
pub(crate) fn errors(data: &[u8]) {
    // The first byte says how the program ended, and how many lines are those of its output.
    let (&how, rest) = data.split_first().unwrap_or((&1, &[]));
    let (out, err) = rest.split_at(rest.len() * usize::from(how % 3) / 4);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let status = match how {
        0 | 128.. => ExitStatus::from_raw(i32::from(how % 32)),
        code => ExitStatus::from_raw(i32::from(code) << 8),
    };
    let output = || Output { stdout: text(out), stderr: text(err), status };
    for act in [Act::Read, Act::Update] {
        let error = refusal::of_output(act, "scontrol", &output());
        check_error(&error);
        assert!(act == Act::Update || !error.may_have_acted(), "a read changes nothing: {error}");
        let said = |error: &PortError| match error {
            PortError::Refused { detail, .. } => detail.clone(),
            _ => String::new(),
        };
        if act == Act::Update && matches!(error, PortError::Refused { .. }) {
            let whole = text(err) + "\n" + &text(out);
            assert!(refusal::refuses(&whole), "{:?} of {whole:?}", said(&error));
        }
    }
    let ended = refusal::of_ended_jobs("scancel", output());
    match ended {
        Ok(()) if status.success() => {}
        Ok(()) => assert!(refusal::all_gone(&text(err)), "{:?}", text(err)),
        Err(error) => check_error(&error),
    }
    check_told(&refusal::telling_line(&text(err)));
}

fn check_error(error: &PortError) {
    check_told(&error.to_string());
}

/// What becomes an argument of Slurm's programs is what it must be, whatever it is made of.
pub(crate) fn arguments(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let reason = reason_argument(&text);
    let value = reason.strip_prefix("Reason=").unwrap();
    assert!(value.chars().count() <= REASON_MAX);
    assert!(!value.contains(|c: char| c.is_control() || c == '"') && value == value.trim(), "{value:?}");
    let ids: Vec<String> = text.split(',').map(str::to_owned).collect();
    let (read, result) = JobId::read_all(&ids);
    for id in read {
        let may_hold = |c: char| c.is_ascii_digit() || c == '_';
        assert!(id.as_str().len() <= 21 && id.as_str().chars().all(may_hold), "{id:?}");
        assert!(id.as_str().starts_with(|c: char| ('1'..='9').contains(&c)), "{id:?}");
        assert!(ids.iter().any(|text| text.starts_with(id.as_str())));
    }
    if let Err(error) = result {
        check_error(&error);
    }
}
