//! Slurm, by its own programs `scontrol` and `squeue`.
//!
//! # Guarantees
//!
//! - A call for many nodes is one process, or one for each 64 KiB of folded names.
//! - A program ends within the time-out, after it waited at most as long again for a place among those that run, and nothing that it started outlives it. A program that is a wrapper must
//!   `exec` what it wraps.
//! - A node or job that is printed and not understood is an error; it is never left out in silence.
//! - Arguments are passed as they are, never by a shell, and node names come only from [`NodeName`].
//!
//! # Caveats
//!
//! - Slurm's updates are not atomic: at an unknown name the call is refused, with the nodes before it in the list
//!   changed and those behind it not. Whatever comes back, look at the nodes.
//! - slurmctld saves its state seconds later: when it crashes meanwhile, a change that it had accepted is lost.
//! - A suspended job gives its processors back: its node is `IDLE` with `CPUAlloc=0`. Only [`Wlm::jobs`] tells.

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
    /// How long one program may run. Slurm's need nine seconds to find that the controller is down.
    pub timeout: Duration,
    /// Set in the programs' environment, such as `SLURM_CONF`.
    pub env: Vec<(OsString, OsString)>,
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
            timeout: Duration::from_secs(30),
            env: Vec::new(),
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
    caller: Caller,
}

impl Slurm {
    /// A client; nothing is asked yet.
    pub fn new(config: SlurmConfig) -> Self {
        let SlurmConfig { scontrol, squeue, timeout, env, output_max, max_calls } = config;
        let places = Places::new(max_calls);
        Slurm { scontrol, squeue, caller: Caller { timeout, env, output_max, places } }
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

    async fn partitions(&self, _: &[PartitionName]) -> Result<Vec<Partition>, PortError> {
        Err(refusal::refused("partitions cannot be read yet".to_owned()))
    }

    async fn requeue(&self, _: &[String]) -> Result<(), PortError> {
        Err(refusal::refused("jobs cannot be requeued yet".to_owned()))
    }

    async fn cancel(&self, _: &[String]) -> Result<(), PortError> {
        Err(refusal::refused("jobs cannot be cancelled yet".to_owned()))
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
