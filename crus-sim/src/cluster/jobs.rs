//! The jobs: who waits, who runs, and on which nodes.

use std::collections::{BTreeMap, BTreeSet};

use crus_core::Time;
use crus_core::time::WlmTime;
use serde::{Deserialize, Serialize};

use super::Cluster;
use super::queue::{Event, Ix};
use super::slurm::{JobRecord, JobState, SlurmError, wlm_time};
use crate::journal::Kind;
use crate::workload::{Drawn, JobSpec, Wanted, Workload};

/// All jobs, and the nodes that could take one.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Jobs {
    running: BTreeMap<u32, Running>,
    /// In the order of submission.
    waiting: Vec<Waiting>,
    /// The highest id so far.
    last_id: u32,
    /// Nodes in service that run nothing.
    available: BTreeSet<Ix>,
    /// Whether something changed that may let a job start.
    stale: bool,
    /// How many nodes run jobs.
    busy_nodes: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct Waiting {
    job: JobSpec,
    submitted: WlmTime,
}

#[derive(Debug, Serialize, Deserialize)]
struct Running {
    job: JobSpec,
    submitted: WlmTime,
    started: Time,
    nodes: Vec<Ix>,
}

impl Jobs {
    /// Whether this can be what runs on nodes with these jobs, one entry a node.
    pub(super) fn agree_with(&self, jobs_of_nodes: &[&[u32]]) -> bool {
        let mut placed: Vec<BTreeSet<u32>> = vec![BTreeSet::new(); jobs_of_nodes.len()];
        for (id, running) in &self.running {
            for &ix in &running.nodes {
                let Some(jobs) = placed.get_mut(ix as usize) else { return false };
                if running.job.id != *id || !jobs.insert(*id) {
                    return false;
                }
            }
        }
        self.busy_nodes == placed.iter().filter(|jobs| !jobs.is_empty()).count()
            && self.available.iter().all(|&ix| (ix as usize) < placed.len())
            && placed.iter().zip(jobs_of_nodes).all(|(placed, jobs)| {
                placed.len() == jobs.len() && jobs.iter().all(|job| placed.contains(job))
            })
    }

    pub(super) fn set_available(&mut self, ix: Ix, available: bool) {
        if available {
            self.stale |= self.available.insert(ix);
        } else {
            self.available.remove(&ix);
        }
    }
}

impl Cluster {
    /// `squeue`: all jobs that run or wait, by id.
    ///
    /// # Errors
    /// Only [`SlurmError::ControllerDown`].
    pub fn jobs(&self) -> Result<Vec<JobRecord>, SlurmError> {
        if self.controller.stopped {
            return Err(SlurmError::ControllerDown);
        }
        let running = self.jobs.running.values().map(|running| self.running_record(running));
        let waiting = self.jobs.waiting.iter().map(|waiting| self.waiting_record(waiting));
        let mut jobs: Vec<_> = running.chain(waiting).collect();
        jobs.sort_unstable_by_key(|job| job.id);
        Ok(jobs)
    }

    fn running_record(&self, running: &Running) -> JobRecord {
        let Running { job, submitted, started, nodes } = running;
        JobRecord {
            id: job.id,
            user: job.user.clone(),
            state: JobState::Running,
            nodes: nodes.iter().filter_map(|&ix| self.node(ix).spec.name.clone()).collect(),
            node_count: nodes.len() as u32,
            cpus: nodes.iter().map(|&ix| self.cpus_of(job, ix)).sum(),
            submitted: *submitted,
            start: Some(wlm_time(*started)),
            limit_s: job.limit_ms.map(|ms| ms / 1000),
            end: job.limit_ms.map(|ms| wlm_time(*started + ms)),
        }
    }

    fn waiting_record(&self, waiting: &Waiting) -> JobRecord {
        let Waiting { job, submitted } = waiting;
        let node_count = match &job.wanted {
            Wanted::Nodes(names) => names.len() as u32,
            Wanted::Count(count) => *count,
        };
        let whole_node = self.nodes.first().map_or(1, |node| node.spec.cpus);
        JobRecord {
            id: job.id,
            user: job.user.clone(),
            state: JobState::Pending,
            nodes: Vec::new(),
            node_count,
            cpus: node_count.saturating_mul(job.cpus.unwrap_or(whole_node)),
            submitted: *submitted,
            start: None,
            limit_s: job.limit_ms.map(|ms| ms / 1000),
            end: None,
        }
    }

    /// The processors that a job takes of a node.
    fn cpus_of(&self, job: &JobSpec, ix: Ix) -> u32 {
        job.cpus.unwrap_or(self.node(ix).spec.cpus)
    }

    fn enqueue(&mut self, job: JobSpec) {
        self.jobs.last_id = self.jobs.last_id.max(job.id);
        self.jobs.waiting.push(Waiting { job, submitted: wlm_time(self.now) });
        self.jobs.stale = true;
    }

    /// Submits a job now, whatever its `start_ms`. Its id must be new: returns whether no job of this id
    /// runs or waits.
    pub fn submit(&mut self, job: JobSpec) -> bool {
        if self.jobs.running.contains_key(&job.id)
            || self.jobs.waiting.iter().any(|other| other.job.id == job.id)
        {
            return false;
        }
        self.enqueue(job);
        self.start_jobs();
        true
    }

    /// Lets a job end now, as if its work were done; one that waits is withdrawn. Returns whether there was one.
    pub fn end_job(&mut self, id: u32) -> bool {
        let waiting = self.jobs.waiting.len();
        self.jobs.waiting.retain(|waiting| waiting.job.id != id);
        let there = self.jobs.running.contains_key(&id) || self.jobs.waiting.len() < waiting;
        self.job_ends(id);
        self.start_jobs();
        there
    }

    pub(super) fn start_workload(&mut self) {
        match &self.config.workload {
            Workload::None => {}
            Workload::Listed(jobs) => {
                for (index, job) in jobs.iter().enumerate() {
                    self.queue.plan(self.config.start + job.start_ms, Event::JobArrives(index as u32));
                }
            }
            Workload::Drawn(_) => self.jobs.stale = true,
        }
        self.advance_to(self.now);
        self.start_jobs();
    }

    pub(super) fn job_arrives(&mut self, index: u32) -> bool {
        let Workload::Listed(jobs) = &self.config.workload else { return false };
        let Some(job) = jobs.get(index as usize).cloned() else { return false };
        self.enqueue(job);
        true
    }

    pub(super) fn job_ends(&mut self, id: u32) -> bool {
        self.remove_job(id, None)
    }

    /// Takes a job off its nodes. Its epilog runs on each but the one that was lost.
    /// Returns whether it ran.
    pub(super) fn remove_job(&mut self, id: u32, lost: Option<Ix>) -> bool {
        let Some(Running { job, nodes, .. }) = self.jobs.running.remove(&id) else { return false };
        for ix in nodes {
            let cpus = self.cpus_of(&job, ix);
            let epilog = self.draws.slurm.span(self.config.slurm.epilog);
            let node = self.node_mut(ix);
            let slurm = &mut node.slurm;
            slurm.jobs.retain(|&other| other != id);
            slurm.cpus = slurm.cpus.saturating_sub(cpus);
            let idle = slurm.jobs.is_empty();
            if epilog > 0 && lost != Some(ix) && node.hardware.slurmd.is_some() {
                slurm.epilogs.push(id);
                self.plan(epilog, Event::EpilogEnds(ix, id));
            }
            self.jobs.busy_nodes -= usize::from(idle);
            self.jobs.stale = true;
            self.touch(ix);
        }
        true
    }

    pub(super) fn epilog_ends(&mut self, ix: Ix, id: u32) -> bool {
        let epilogs = &mut self.node_mut(ix).slurm.epilogs;
        let there = epilogs.len();
        epilogs.retain(|&other| other != id);
        let ended = epilogs.len() < there;
        self.touch(ix);
        ended
    }

    /// Starts every waiting job that can start.
    pub(super) fn start_jobs(&mut self) {
        if !self.jobs.stale || self.controller.stopped {
            return;
        }
        self.jobs.stale = false;
        // The jobs that run when the clock starts have been running for a while.
        let first = self.now == self.config.start;
        loop {
            self.draw_jobs();
            let waiting = std::mem::take(&mut self.jobs.waiting);
            let mut started = false;
            for job in waiting {
                match self.place(&job.job) {
                    Some(nodes) => {
                        self.start_job(job, nodes, first);
                        started = true;
                    }
                    None => self.jobs.waiting.push(job),
                }
            }
            if !started || !matches!(self.config.workload, Workload::Drawn(_)) {
                return;
            }
        }
    }

    /// Fills the queue of a drawn workload up.
    fn draw_jobs(&mut self) {
        loop {
            let Workload::Drawn(drawn) = &self.config.workload else { return };
            if self.jobs.waiting.len() >= drawn.waiting as usize {
                return;
            }
            let rng = &mut self.draws.jobs;
            let most = drawn.sizes.len().saturating_sub(1) as u64;
            let Some(&size) = drawn.sizes.get(rng.between(0, most) as usize) else { return };
            let length = rng.span(drawn.length).max(1);
            let unlimited = rng.chance(drawn.unlimited_per_mille);
            let partial = rng.chance(drawn.partial_per_mille);
            let job = JobSpec {
                id: self.jobs.last_id + 1,
                user: USERS[rng.between(0, USERS.len() as u64 - 1) as usize].to_owned(),
                wanted: Wanted::Count(size.max(1)),
                cpus: partial.then_some(1),
                start_ms: 0,
                duration_ms: Some(length),
                limit_ms: (!unlimited).then(|| length.saturating_mul(u64::from(drawn.limit_percent)) / 100),
            };
            self.enqueue(job);
        }
    }

    /// The nodes that a job can start on now.
    fn place(&mut self, job: &JobSpec) -> Option<Vec<Ix>> {
        match &job.wanted {
            Wanted::Nodes(names) => names
                .iter()
                .map(|name| {
                    let ix = *self.by_name.get(name)?;
                    let node = self.node(ix);
                    let free = node.spec.cpus - node.slurm.cpus.min(node.spec.cpus);
                    let fits = job.cpus.unwrap_or(node.spec.cpus) <= free
                        && node.slurm.takes_jobs()
                        && node.hardware.slurmd.is_some();
                    fits.then_some(ix)
                })
                .collect::<Option<BTreeSet<_>>>()
                .map(|nodes| nodes.into_iter().collect()),
            Wanted::Count(count) => {
                let count = *count as usize;
                let available = &self.jobs.available;
                if available.len() < count {
                    return None;
                }
                let Workload::Drawn(Drawn { busy_per_mille, .. }) = self.config.workload else {
                    return Some(available.iter().copied().take(count).collect());
                };
                if (self.jobs.busy_nodes + count) * 1000 > busy_per_mille as usize * self.nodes.len() {
                    return None;
                }
                // From anywhere: otherwise the last nodes would never run anything.
                let from = self.draws.jobs.between(0, self.nodes.len() as u64) as Ix;
                let around = available.range(from..).chain(available.range(..from));
                Some(around.copied().take(count).collect())
            }
        }
    }

    fn start_job(&mut self, waiting: Waiting, nodes: Vec<Ix>, first: bool) {
        let Waiting { job, submitted } = waiting;
        self.note(Kind::Job, || format!("JobStarts({}) on {nodes:?}", job.id));
        let length = match (job.duration_ms, job.limit_ms) {
            (Some(duration), Some(limit)) => Some(duration.min(limit)),
            (duration, limit) => duration.or(limit),
        };
        let drawn = matches!(self.config.workload, Workload::Drawn(_));
        let elapsed = match length {
            Some(length) if first && drawn => self.draws.jobs.between(0, length.saturating_sub(1)),
            _ => 0,
        };
        if let Some(length) = length {
            self.plan(length - elapsed, Event::JobEnds(job.id));
        }
        for &ix in &nodes {
            let cpus = self.cpus_of(&job, ix);
            let slurm = &mut self.node_mut(ix).slurm;
            let idle = slurm.jobs.is_empty();
            slurm.jobs.push(job.id);
            slurm.cpus += cpus;
            self.jobs.busy_nodes += usize::from(idle);
            self.touch(ix);
        }
        let started = self.now - elapsed;
        self.jobs.running.insert(job.id, Running { job, submitted, started, nodes });
    }
}

/// Whose jobs are drawn.
const USERS: [&str; 6] = ["ada", "grace", "edsger", "barbara", "alan", "katherine"];
