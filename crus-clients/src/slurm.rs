//! Slurm, by its own programs `scontrol`, `squeue` and `scancel`.
//!
//! # Guarantees
//!
//! - A call for many nodes is one process, or one for each 64 KiB of folded names.
//! - A program ends within the time-out, after it waited at most as long again for a place among those that run, and nothing that it started outlives it. A program that is a wrapper must
//!   `exec` what it wraps.
//! - A node or job that is printed and not understood is an error; it is never left out in silence.
//! - Arguments are passed as they are, never by a shell. Node names come only from [`NodeName`], ids of jobs only as
//!   one strict type reads them.
//!
//! # Caveats
//!
//! - Slurm's updates are not atomic: at an unknown name the call is refused, with the nodes before it in the list
//!   changed and those behind it not. Whatever comes back, look at the nodes.
//! - slurmctld saves its state seconds later: when it crashes meanwhile, a change that it had accepted is lost.
//! - A suspended job gives its processors back: its node is `IDLE` with `CPUAlloc=0`. Only [`Wlm::jobs`] tells.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod job;
mod parse;
mod process;
mod refusal;

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::time::Duration;

use async_trait::async_trait;
use crus_core::hostlist;
use crus_core::names::{NodeName, PartitionName};
use crus_core::ports::{PortError, Wlm};
use crus_core::wlm::{Job, Partition, WlmNode};

use self::job::JobId;
use self::process::{Caller, Output};
use self::refusal::Act;
use crate::places::Places;

/// The longest reason that is written, in characters.
const REASON_MAX: usize = 1_000;

/// How Slurm is asked.
#[derive(Debug, Clone)]
pub struct SlurmConfig {
    /// `scontrol`: the program, found by `PATH` unless it is a path, and arguments that go before ours.
    pub scontrol: Vec<String>,
    /// `squeue`, likewise.
    pub squeue: Vec<String>,
    /// `scancel`, likewise.
    pub scancel: Vec<String>,
    /// How long one program may run. Slurm's need nine seconds to find that the controller is down.
    pub timeout: Duration,
    /// Set in the programs' environment, such as `SLURM_CONF`.
    pub env: Vec<(OsString, OsString)>,
    /// Taken out of the programs' environment: what is not for them.
    pub env_withheld: Vec<OsString>,
    /// The most that one program may print, in bytes. A node takes some 600, a job some 80.
    pub output_max: usize,
    /// How many programs may run at a time. More calls wait for a place, at most for `timeout` each.
    pub max_calls: usize,
}

impl Default for SlurmConfig {
    /// The programs that `PATH` holds, 30 seconds, 128 MiB, four at a time.
    fn default() -> Self {
        SlurmConfig {
            scontrol: vec!["scontrol".to_owned()],
            squeue: vec!["squeue".to_owned()],
            scancel: vec!["scancel".to_owned()],
            timeout: Duration::from_secs(30),
            env: Vec::new(),
            env_withheld: Vec::new(),
            output_max: 128 << 20,
            max_calls: 4,
        }
    }
}

/// The workload manager Slurm.
#[derive(Debug, Clone)]
pub struct Slurm {
    scontrol: Vec<String>,
    squeue: Vec<String>,
    scancel: Vec<String>,
    caller: Caller,
}

impl Slurm {
    /// A client; nothing is asked yet.
    pub fn new(config: SlurmConfig) -> Self {
        let SlurmConfig { scontrol, squeue, scancel, timeout, env, env_withheld, output_max, max_calls } =
            config;
        let places = Places::new(max_calls);
        Slurm { scontrol, squeue, scancel, caller: Caller { timeout, env, env_withheld, output_max, places } }
    }

    async fn scontrol(&self, act: Act, args: &[&str]) -> Result<Output, PortError> {
        self.caller.run(&self.scontrol, args).await.map_err(|error| refusal::of_run(act, &error))
    }

    /// The nodes of one host list.
    async fn show(&self, list: &str) -> Result<parse::Shown, PortError> {
        // `-a`: those of hidden partitions too.
        let output = self.scontrol(Act::Read, &["-a", "show", "node", "-o", list]).await?;
        let shown = parse::nodes(&output.stdout);
        // Exit code 1 is also that of a list in which a node is unknown.
        let only_unknown =
            output.stderr.trim().is_empty() && shown.as_ref().is_ok_and(|shown| !shown.unknown.is_empty());
        if !output.status.success() && !only_unknown {
            return Err(refusal::of_output(Act::Read, "scontrol", &output));
        }
        shown.map_err(|error| refusal::refused(format!("scontrol: {error}")))
    }

    /// Changes all the nodes, list by list; goes on after a list that failed, and then returns the first error.
    async fn update(&self, names: &[NodeName], change: &[&str]) -> Result<(), PortError> {
        let mut result = Ok(());
        for list in hostlist::fold(names) {
            let target = format!("NodeName={list}");
            let args: Vec<&str> = ["update", &target].into_iter().chain(change.iter().copied()).collect();
            let done = match self.scontrol(Act::Update, &args).await {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) => Err(refusal::of_output(Act::Update, "scontrol", &output)),
                Err(error) => Err(error),
            };
            result = result.and(done);
        }
        result
    }

    /// Ends jobs by calls of `program`, some at a time. Goes on after a refusal, and then returns the first; not after
    /// another error, for what went wrong with Slurm itself takes its time to say so.
    async fn end_jobs(&self, jobs: &[String], ending: Ending) -> Result<(), PortError> {
        let (ids, mut result) = JobId::read_all(jobs);
        for some in ids.chunks(JOBS_MAX) {
            let some: Vec<&str> = some.iter().map(JobId::as_str).collect();
            let (command, name) = match ending {
                Ending::Requeue => (&self.scontrol, "scontrol"),
                Ending::Cancel => (&self.scancel, "scancel"),
            };
            let list = some.join(",");
            let args = match ending {
                Ending::Requeue => vec!["requeue", "incomplete", &list],
                Ending::Cancel => some,
            };
            let output = self.caller.run(command, &args).await;
            let done = output
                .map_err(|error| refusal::of_run(Act::Update, &error))
                .and_then(|output| refusal::of_ended_jobs(name, output));
            match done {
                Ok(()) => {}
                Err(error @ PortError::Refused { .. }) => result = result.and(Err(error)),
                Err(error) => return Err(error),
            }
        }
        result
    }
}

/// The most jobs of one call.
const JOBS_MAX: usize = 200;

/// How jobs are ended.
#[derive(Debug, Clone, Copy)]
enum Ending {
    Requeue,
    Cancel,
}

#[async_trait]
impl Wlm for Slurm {
    async fn nodes(&self, names: &[NodeName]) -> Result<Vec<WlmNode>, PortError> {
        let mut missing: BTreeSet<&NodeName> = names.iter().collect();
        let mut nodes = Vec::with_capacity(missing.len());
        for list in hostlist::fold(names) {
            let shown = self.show(&list).await?;
            for name in &shown.unknown {
                missing.remove(name);
            }
            // Each once, and only what was asked for.
            nodes.extend(shown.nodes.into_iter().filter(|node| missing.remove(&node.name)));
        }
        match missing.first() {
            None => Ok(nodes),
            Some(name) => {
                Err(refusal::refused(format!("scontrol: neither showed {name} nor called it unknown")))
            }
        }
    }

    async fn jobs(&self, names: &[NodeName]) -> Result<Vec<Job>, PortError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        // All states, and those of hidden partitions (`-a`): which of them hold nodes is told from the state, so
        // that one we have never heard of counts. `-w` would fail on an unknown node.
        let args = ["-a", "-h", "-t", "all", "-o", parse::JOB_FORMAT];
        let output = self.caller.run(&self.squeue, &args).await;
        let output = output.map_err(|error| refusal::of_run(Act::Read, &error))?;
        if !output.status.success() {
            return Err(refusal::of_output(Act::Read, "squeue", &output));
        }
        let mut jobs =
            parse::jobs(&output.stdout).map_err(|error| refusal::refused(format!("squeue: {error}")))?;
        let asked: HashSet<&NodeName> = names.iter().collect();
        jobs.retain(|job| job.nodes.iter().any(|name| asked.contains(name)));
        Ok(jobs)
    }

    async fn drain(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.update(names, &["State=DRAIN", &reason_argument(reason)]).await
    }

    /// Slurm refuses to resume a node that is not held, and resumes the others of the list. What was wished for is
    /// so then: this looks whether it is, and only refuses when a node is still held.
    async fn resume(&self, names: &[NodeName]) -> Result<(), PortError> {
        let result = self.update(names, &["State=RESUME"]).await;
        match &result {
            Err(PortError::Refused { detail, .. }) if detail.contains(refusal::INVALID_STATE) => {
                let nodes = self.nodes(names).await?;
                if nodes.iter().any(WlmNode::is_held) { result } else { Ok(()) }
            }
            _ => result,
        }
    }

    async fn down(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.update(names, &["State=DOWN", &reason_argument(reason)]).await
    }

    async fn set_reason(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.update(names, &[&reason_argument(reason)]).await
    }

    /// Two questions: which nodes a partition has, and how these are. The nodes' own record names their partitions, too,
    /// but tells neither an empty partition from an unknown one, nor, to others than root and SlurmUser, of hidden ones.
    async fn partitions(&self, names: &[PartitionName]) -> Result<Vec<Partition>, PortError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        // All of them, at once: several names in one call are taken for one, and an unknown one is an error. `-a`: hidden
        // ones, and those that our user may not use.
        let output = self.scontrol(Act::Read, &["-a", "show", "partition", "-o"]).await?;
        if !output.status.success() {
            return Err(refusal::of_output(Act::Read, "scontrol", &output));
        }
        let mut partitions = parse::partitions(&output.stdout, names)
            .map_err(|error| refusal::refused(format!("scontrol: {error}")))?;
        let all: BTreeSet<&NodeName> = partitions.iter().flat_map(|(_, nodes)| nodes).collect();
        let all: Vec<NodeName> = all.into_iter().cloned().collect();
        let seen = self.nodes(&all).await?;
        let in_service: HashSet<&NodeName> =
            seen.iter().filter(|node| node.is_in_service()).map(|node| &node.name).collect();
        partitions.sort_by_cached_key(|(name, _)| name.clone());
        let partition = |(name, nodes): (PartitionName, BTreeSet<NodeName>)| {
            let total = nodes.len();
            Partition {
                name,
                total,
                in_service: nodes.into_iter().filter(|node| in_service.contains(node)).collect(),
            }
        };
        Ok(partitions.into_iter().map(partition).collect())
    }

    /// `requeue incomplete`: only jobs that still run. A plain `requeue` would have one that has ended since it was looked
    /// at, by itself or by its user, run once more.
    ///
    /// Slurm lets a requeued job wait for two minutes (`cred_expire` of its `AuthInfo`, and a second) before it starts again.
    ///
    /// # Errors
    /// [`PortError::Refused`], too, for jobs that cannot be requeued: those of `srun` and `salloc`, and those submitted
    /// with `--no-requeue`.
    async fn requeue(&self, jobs: &[String]) -> Result<(), PortError> {
        self.end_jobs(jobs, Ending::Requeue).await
    }

    async fn cancel(&self, jobs: &[String]) -> Result<(), PortError> {
        self.end_jobs(jobs, Ending::Cancel).await
    }
}

/// `Reason=…`, on one line and not too long. Slurm takes a double quote off either end of it, so single ones stand
/// for them; a line break would be shown behind the bracket that ends a reason.
fn reason_argument(reason: &str) -> String {
    let mut text: String = (reason.chars())
        .map(|c| match c {
            '"' => '\'',
            c if c.is_control() => ' ',
            c => c,
        })
        .take(REASON_MAX)
        .collect();
    text.truncate(text.trim_end().len());
    format!("Reason={}", text.trim_start())
}

#[cfg(test)]
mod tests;
