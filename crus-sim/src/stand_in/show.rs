//! Nodes and jobs as `scontrol show` prints them, key by key.
//!
//! What the model does not know (load, memory, ports) is printed as a real cluster of small nodes would.

use crus_core::time::WlmTime;
use crus_core::wlm::{BaseState, Flag};
use crus_core::{NodeName, PartitionName};

use super::VERSION;
use super::hosts;
use crate::cluster::slurm::{JobRecord, JobState, NodeRecord};

/// The memory of a node, in MiB.
const MEMORY_MIB: u32 = 1000;

/// `2026-01-01T00:00:00`, in UTC.
pub(super) fn time(at: WlmTime) -> String {
    formatted(at, "%Y-%m-%dT%H:%M:%S")
}

/// `Thu Jan 01 00:00:00 2026` and a line's end.
pub(super) fn date(at: WlmTime) -> String {
    formatted(at, "%a %b %d %H:%M:%S %Y\n")
}

fn formatted(at: WlmTime, format: &str) -> String {
    jiff::Timestamp::from_second(at.0)
        .map_or_else(|_| "Unknown".to_owned(), |at| at.strftime(format).to_string())
}

/// Seconds as `[days-]hh:mm:ss`.
pub(super) fn long_duration(seconds: u64) -> String {
    let (days, h, m, s) = parts(seconds);
    if days > 0 { format!("{days}-{h:02}:{m:02}:{s:02}") } else { format!("{h:02}:{m:02}:{s:02}") }
}

/// Seconds as `squeue` has it: `[[days-]h:]m:ss`.
pub(super) fn short_duration(seconds: u64) -> String {
    let (days, h, m, s) = parts(seconds);
    match (days, h) {
        (0, 0) => format!("{m}:{s:02}"),
        (0, h) => format!("{h}:{m:02}:{s:02}"),
        (days, h) => format!("{days}-{h:02}:{m:02}:{s:02}"),
    }
}

fn parts(seconds: u64) -> (u64, u64, u64, u64) {
    (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// The state with its flags, in Slurm's order.
pub(super) fn state(node: &NodeRecord) -> String {
    let mut text = String::from(match node.base {
        BaseState::Idle => "IDLE",
        BaseState::Mixed => "MIXED",
        BaseState::Allocated => "ALLOCATED",
        BaseState::Down => "DOWN",
        BaseState::Unknown => "UNKNOWN",
        BaseState::Other => "ERROR",
    });
    let flags = [
        (Flag::Completing, "+COMPLETING"),
        (Flag::Drain, "+DRAIN"),
        (Flag::Fail, "+FAIL"),
        (Flag::NotResponding, "+NOT_RESPONDING"),
    ];
    for (_, word) in flags.iter().filter(|(flag, _)| node.flags.contains(flag)) {
        text.push_str(word);
    }
    text
}

/// One node: on one line, or on many with an empty one behind.
pub(super) fn node(node: &NodeRecord, one_line: bool) -> String {
    let NodeRecord { name, cpus_total: cpus, cpus_allocated: allocated, .. } = node;
    // A node that never registered with this slurmctld has told nothing of itself.
    let registered = node.slurmd_start_time.is_some();
    let known = |text: String, unknown: &str| if registered { text } else { unknown.to_owned() };
    let moment = |at: Option<WlmTime>| at.map_or_else(|| "None".to_owned(), time);
    let arch = known("Arch=x86_64 ".to_owned(), "");
    let version = known(format!("Version={VERSION}"), "");
    let load = known(format!("{allocated}.00"), "N/A");
    let free = known((MEMORY_MIB - 100).to_string(), "N/A");
    let busy = known(moment(node.slurmd_start_time), "Unknown");
    let allocated_tres = if *allocated > 0 { format!("cpu={allocated}") } else { String::new() };
    let mut lines = vec![
        format!("NodeName={name} {arch}CoresPerSocket={cpus} "),
        format!("CPUAlloc={allocated} CPUEfctv={cpus} CPUTot={cpus} CPULoad={load}"),
        "AvailableFeatures=(null)".to_owned(),
        "ActiveFeatures=(null)".to_owned(),
        "Gres=(null)".to_owned(),
        format!("NodeAddr={name} NodeHostName={name} Port=6818 {version}"),
    ];
    if registered {
        lines.push("OS=Linux 5.14.21 #1 SMP PREEMPT_DYNAMIC ".to_owned());
    }
    lines.extend([
        format!("RealMemory={MEMORY_MIB} AllocMem=0 FreeMem={free} Sockets=1 Boards=1"),
        format!("State={} ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A", state(node)),
    ]);
    // A node of no partition has no such line.
    let partitions: Vec<&str> = node.partitions.iter().map(PartitionName::as_str).collect();
    if !partitions.is_empty() {
        lines.push(format!("Partitions={} ", partitions.join(",")));
    }
    lines.extend([
        format!("BootTime={} SlurmdStartTime={}", moment(node.boot_time), moment(node.slurmd_start_time)),
        format!("LastBusyTime={busy}"),
        format!("CfgTRES=cpu={cpus},mem={MEMORY_MIB}M,billing={cpus}"),
        format!("AllocTRES={allocated_tres}"),
        "CapWatts=n/a".to_owned(),
        "CurrentWatts=0 AveWatts=0".to_owned(),
        "ExtSensorsJoules=n/s ExtSensorsWatts=0 ExtSensorsTemp=n/s".to_owned(),
    ]);
    if let Some(reason) = &node.reason {
        lines.push(format!("Reason={} [{}@{}]", reason.text, reason.user, time(reason.at)));
    }
    for (key, text) in [("Comment", &node.comment), ("Extra", &node.extra)] {
        // `Comment=` takes the comment away.
        lines.extend(text.iter().filter(|text| !text.is_empty()).map(|text| format!("{key}={text}")));
    }
    block(&lines, one_line)
}

/// One job, as [`node`].
pub(super) fn job(job: &JobRecord, now: WlmTime, one_line: bool) -> String {
    let JobRecord { id, user, cpus, node_count, .. } = job;
    let moment = |at: Option<WlmTime>| at.map_or_else(|| "Unknown".to_owned(), time);
    let (state, reason, node_count) = match job.state {
        JobState::Running => ("RUNNING", "None", node_count.to_string()),
        JobState::Pending => ("PENDING", waits_for(job), format!("{node_count}-{node_count}")),
    };
    let (start, end) = expected(job);
    let partition = job.partition.as_ref().map_or("(null)", PartitionName::as_str);
    let eligible = job.begin.map_or_else(|| time(job.submitted), time);
    let run_time = long_duration(job.start.map_or(0, |start| elapsed(start, now)));
    let limit = job.limit_s.map_or_else(|| "UNLIMITED".to_owned(), long_duration);
    let submitted = time(job.submitted);
    let mut lines = vec![
        format!("JobId={id} JobName={}", super::squeue::JOB_NAME),
        format!("UserId={user}(1000) GroupId={user}(1000) MCS_label=N/A"),
        format!("Priority={} Nice=0 Account=(null) QOS=(null)", u32::MAX - id),
        format!("JobState={state} Reason={reason} Dependency=(null)"),
        format!(
            "Requeue={} Restarts={} BatchFlag=1 Reboot=0 ExitCode=0:0",
            u8::from(job.requeue),
            job.restarts
        ),
        format!("RunTime={run_time} TimeLimit={limit} TimeMin=N/A"),
        format!("SubmitTime={submitted} EligibleTime={eligible}"),
        format!("AccrueTime={eligible}"),
        format!("StartTime={} EndTime={} Deadline=N/A", moment(start), moment(end)),
        format!("SuspendTime=None SecsPreSuspend=0 LastSchedEval={} Scheduler=Main", moment(job.start)),
        format!("Partition={partition} AllocNode:Sid=localhost:1"),
        "ReqNodeList=(null) ExcNodeList=(null)".to_owned(),
        format!("NodeList={}", hosts::fold(&job.nodes)),
    ];
    lines.extend(job.nodes.first().map(|first| format!("BatchHost={first}")));
    lines.extend([
        format!("NumNodes={node_count} NumCPUs={cpus} NumTasks={cpus} CPUs/Task=1 ReqB:S:C:T=0:0:*:*"),
        format!("TRES=cpu={cpus},node={},billing={cpus}", job.node_count),
        "Socks/Node=* NtasksPerN:B:S:C=0:0:*:* CoreSpec=*".to_owned(),
        "MinCPUsNode=1 MinMemoryNode=0 MinTmpDiskNode=0".to_owned(),
        "Features=(null) DelayBoot=00:00:00".to_owned(),
        "OverSubscribe=OK Contiguous=0 Licenses=(null) Network=(null)".to_owned(),
        "Command=(null)".to_owned(),
        "WorkDir=/".to_owned(),
        "StdErr=/dev/null".to_owned(),
        "StdIn=/dev/null".to_owned(),
        "StdOut=/dev/null".to_owned(),
        "Power=".to_owned(),
    ]);
    // The real one ends a job with an empty field: a trailing space, or a line of three.
    lines.push(String::new());
    block(&lines, one_line)
}

/// When a job starts and ends, as far as that is known: one that was put back into the queue is taken to start as soon as
/// it may.
pub(super) fn expected(job: &JobRecord) -> (Option<WlmTime>, Option<WlmTime>) {
    let limit = job.limit_s.and_then(|limit| i64::try_from(limit).ok());
    let end = job.begin.zip(limit).map(|(begin, limit)| WlmTime(begin.0.saturating_add(limit)));
    (job.start.or(job.begin), job.end.or(end))
}

/// Why a job waits.
pub(super) fn waits_for(job: &JobRecord) -> &'static str {
    if job.begin.is_some() { "BeginTime" } else { "Resources" }
}

/// One partition, as [`node`].
pub(super) fn partition(
    name: &PartitionName,
    nodes: &[NodeName],
    cpus: u32,
    is_default: bool,
    one_line: bool,
) -> String {
    let (count, default) = (nodes.len(), if is_default { "YES" } else { "NO" });
    let (list, tres) = match count {
        0 => ("(null)".to_owned(), "(null)".to_owned()),
        _ => {
            let memory = u64::from(MEMORY_MIB) * count as u64;
            (hosts::fold(nodes), format!("cpu={cpus},mem={memory}M,node={count},billing={cpus}"))
        }
    };
    let lines = [
        format!("PartitionName={name}"),
        "AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL".to_owned(),
        format!("AllocNodes=ALL Default={default} QoS=N/A"),
        "DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=0 Hidden=NO".to_owned(),
        "MaxNodes=UNLIMITED MaxTime=UNLIMITED MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED".to_owned(),
        format!("Nodes={list}"),
        "PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO".to_owned(),
        "OverTimeLimit=NONE PreemptMode=OFF".to_owned(),
        format!("State=UP TotalCPUs={cpus} TotalNodes={count} SelectTypeParameters=NONE"),
        "JobDefaults=(null)".to_owned(),
        "DefMemPerNode=UNLIMITED MaxMemPerNode=UNLIMITED".to_owned(),
        format!("TRES={tres}"),
    ];
    block(&lines, one_line)
}

/// Seconds from `start` to `now`.
pub(super) fn elapsed(start: WlmTime, now: WlmTime) -> u64 {
    u64::try_from(now.0.saturating_sub(start.0)).unwrap_or(0)
}

fn block(lines: &[String], one_line: bool) -> String {
    if one_line { lines.join(" ") + "\n" } else { lines.join("\n   ") + "\n\n" }
}
