//! The jobs of a cluster: drawn from a distribution, or listed.
//!
//! # The file of listed jobs
//!
//! One JSON object a line; empty lines and lines that begin with `#` are skipped:
//!
//! ```text
//! {"id":17,"user":"ada","nodes":["nid000001","nid000002"],"start_s":0,"duration_s":3600,"limit_s":7200}
//! {"id":18,"user":"bob","count":4,"cpus":16,"start_s":60,"duration_s":600}
//! ```
//!
//! `nodes` names the nodes, `count` lets Slurm choose that many idle ones: one of both. `start_s` (0): when it is
//! submitted, in seconds after the cluster's start; it begins once its nodes are free. `duration_s`: how long it
//! runs; without it, until somebody ends it. `limit_s`: its time limit, which ends it too; without it, none, and
//! its end is not known to Slurm. `cpus`: processors on each node; without it, all of them. `partition`: where it runs;
//! without it, in the default one. `requeue` (true): whether it may be put back into the queue.

use crus_core::{NodeName, PartitionName};
use serde::{Deserialize, Serialize};

use crate::config::Span;

/// The jobs of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Workload {
    /// None but those submitted later.
    #[default]
    None,
    /// These.
    Listed(Vec<JobSpec>),
    /// As many as keep the nodes busy.
    Drawn(Drawn),
}

/// Which nodes a job wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// These.
    Nodes(Vec<NodeName>),
    /// So many, whichever are idle.
    Count(u32),
}

/// One job as it is submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Its id.
    pub id: u32,
    /// Whose it is.
    pub user: String,
    /// The nodes it wants.
    pub wanted: Wanted,
    /// Processors on each node; `None`: all.
    pub cpus: Option<u32>,
    /// When it is submitted, after the cluster's start.
    pub start_ms: u64,
    /// How long it runs; `None`: until it is ended.
    pub duration_ms: Option<u64>,
    /// Its time limit; `None`: none.
    pub limit_ms: Option<u64>,
    /// The partition that it runs in; `None`: the [default](crate::Cluster::default_partition) one.
    pub partition: Option<PartitionName>,
    /// Whether it may be put back into the queue.
    pub requeue: bool,
}

/// A workload that keeps nodes busy: there are always jobs waiting, and each starts as soon as enough nodes are
/// idle, as long as no more than `busy_per_mille` of all nodes are taken. Where partitions are configured, that holds for
/// each of them by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    /// How many of all nodes, or of a partition's, may run jobs, in parts of a thousand.
    pub busy_per_mille: u32,
    /// Numbers of nodes, each as likely as the others: repeat one to make it likelier.
    pub sizes: Vec<u32>,
    /// How long a job runs.
    pub length: Span,
    /// How far beyond its length its limit lies, in parts of a hundred: 150 is a limit of 1.5 times its length.
    pub limit_percent: u32,
    /// How many jobs have no limit, in parts of a thousand.
    pub unlimited_per_mille: u32,
    /// How many jobs take a part of each node only, in parts of a thousand.
    pub partial_per_mille: u32,
    /// How many jobs wait at any time, in each partition. Slurm starts any of these that fits.
    pub waiting: u32,
}

impl Default for Drawn {
    fn default() -> Self {
        Drawn {
            busy_per_mille: 900,
            sizes: vec![1, 1, 1, 1, 2, 2, 4, 8],
            length: Span::new(10 * 60_000, 2 * 3_600_000),
            limit_percent: 150,
            unlimited_per_mille: 20,
            partial_per_mille: 200,
            waiting: 16,
        }
    }
}

/// Why a file of jobs was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("failed to read the job on line {line}: {reason}")]
pub struct WorkloadError {
    line: usize,
    reason: String,
}

impl Workload {
    /// Reads listed jobs from the text of a file.
    ///
    /// # Errors
    /// When a line is not a job, or a job has neither or both of `nodes` and `count`, or an id occurs twice.
    pub fn from_lines(text: &str) -> Result<Self, WorkloadError> {
        let mut ids = std::collections::BTreeSet::new();
        let mut jobs = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line_text = line.trim();
            if line_text.is_empty() || line_text.starts_with('#') {
                continue;
            }
            let error = |reason: String| WorkloadError { line: index + 1, reason };
            let record: Line = serde_json::from_str(line_text).map_err(|e| error(e.to_string()))?;
            let job = record.into_job().map_err(|reason| error(reason.to_owned()))?;
            if !ids.insert(job.id) {
                return Err(error(format!("id {} occurs twice", job.id)));
            }
            jobs.push(job);
        }
        Ok(Workload::Listed(jobs))
    }
}

/// A line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: u32,
    user: String,
    nodes: Option<Vec<NodeName>>,
    count: Option<u32>,
    cpus: Option<u32>,
    #[serde(default)]
    start_s: u64,
    duration_s: Option<u64>,
    limit_s: Option<u64>,
    partition: Option<PartitionName>,
    #[serde(default = "yes")]
    requeue: bool,
}

fn yes() -> bool {
    true
}

impl Line {
    fn into_job(self) -> Result<JobSpec, &'static str> {
        let wanted = match (self.nodes, self.count) {
            (Some(nodes), None) if !nodes.is_empty() => Wanted::Nodes(nodes),
            (None, Some(count)) if count > 0 => Wanted::Count(count),
            _ => return Err("wants either nodes or a count, and at least one"),
        };
        let ms = |seconds: u64| seconds.saturating_mul(1000);
        Ok(JobSpec {
            id: self.id,
            user: self.user,
            wanted,
            cpus: self.cpus,
            start_ms: ms(self.start_s),
            duration_ms: self.duration_s.map(ms),
            limit_ms: self.limit_s.map(ms),
            partition: self.partition,
            requeue: self.requeue,
        })
    }
}
