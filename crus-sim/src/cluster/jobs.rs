//! The jobs: who waits, who runs, and on which nodes.

use std::collections::{BTreeMap, BTreeSet};

use crus_core::promises::What;
use crus_core::time::WlmTime;
use crus_core::{PartitionName, Time};
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
    /// Not to be started before.
    begin: Option<Time>,
    /// How often it ran before.
    restarts: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Running {
    job: JobSpec,
    submitted: WlmTime,
    started: Time,
    nodes: Vec<Ix>,
    restarts: u32,
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
        let Running { job, submitted, started, nodes, restarts } = running;
        JobRecord {
            id: job.id,
            user: job.user.clone(),
            state: JobState::Running,
            partition: job.partition.clone(),
            nodes: nodes.iter().filter_map(|&ix| self.node(ix).spec.name.clone()).collect(),
            node_count: nodes.len() as u32,
            cpus: nodes.iter().map(|&ix| self.cpus_of(job, ix)).sum(),
            submitted: *submitted,
            start: Some(wlm_time(*started)),
            begin: None,
            restarts: *restarts,
            requeue: job.requeue,
            limit_s: job.limit_ms.map(|ms| ms / 1000),
            end: job.limit_ms.map(|ms| wlm_time(*started + ms)),
        }
    }

    fn waiting_record(&self, waiting: &Waiting) -> JobRecord {
        let Waiting { job, submitted, begin, restarts } = waiting;
        let node_count = match &job.wanted {
            Wanted::Nodes(names) => names.len() as u32,
            Wanted::Count(count) => *count,
        };
        let whole_node = self.nodes.first().map_or(1, |node| node.spec.cpus);
        JobRecord {
            id: job.id,
            user: job.user.clone(),
            state: JobState::Pending,
            partition: job.partition.clone(),
            nodes: Vec::new(),
            node_count,
            cpus: node_count.saturating_mul(job.cpus.unwrap_or(whole_node)),
            submitted: *submitted,
            start: None,
            begin: begin.map(wlm_time),
            restarts: *restarts,
            requeue: job.requeue,
            limit_s: job.limit_ms.map(|ms| ms / 1000),
            end: None,
        }
    }

    /// The processors that a job takes of a node.
    fn cpus_of(&self, job: &JobSpec, ix: Ix) -> u32 {
        job.cpus.unwrap_or(self.node(ix).spec.cpus)
    }

    fn enqueue(&mut self, mut job: JobSpec) {
        self.jobs.last_id = self.jobs.last_id.max(job.id);
        job.partition = job.partition.or_else(|| self.partitions.default_name().cloned());
        let submitted = wlm_time(self.now);
        self.jobs.waiting.push(Waiting { job, submitted, begin: None, restarts: 0 });
        self.jobs.stale = true;
    }

    /// Submits a job now, whatever its `start_ms`. Its id must be new: returns whether no job of this id
    /// runs or waits. One of a partition that is not there, or without a node that it wants, never starts.
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
        self.remove_job(id, None);
        self.start_jobs();
        there
    }

    /// `scontrol requeue incomplete`: a running job goes back into the queue, and later runs again from its beginning.
    /// One that waits stays as it is.
    ///
    /// # Errors
    /// [`SlurmError::ControllerDown`], [`SlurmError::AccessDenied`], [`SlurmError::InvalidJobId`], and
    /// [`SlurmError::NoRequeue`].
    pub fn requeue_job(&mut self, id: u32) -> Result<(), SlurmError> {
        self.may_end_job(id)?;
        let Some(running) = self.jobs.running.get(&id) else {
            return if self.job_waits(id) { Ok(()) } else { Err(SlurmError::InvalidJobId) };
        };
        if !running.job.requeue {
            return Err(SlurmError::NoRequeue);
        }
        let (job, restarts) = (running.job.clone(), running.restarts + 1);
        self.tell_end(id, true);
        self.remove_job(id, None);
        let after = self.draws.slurm.span(self.config.slurm.requeue);
        let (submitted, begin) = (wlm_time(self.now), Some(self.now + after));
        self.jobs.waiting.push(Waiting { job, submitted, begin, restarts });
        self.plan(after, Event::JobMayBegin(id));
        self.start_jobs();
        Ok(())
    }

    /// `scancel`: ends a job for good. One that is not there is fine.
    ///
    /// # Errors
    /// [`SlurmError::ControllerDown`] and [`SlurmError::AccessDenied`].
    pub fn cancel_job(&mut self, id: u32) -> Result<(), SlurmError> {
        self.may_end_job(id)?;
        self.tell_end(id, false);
        self.end_job(id);
        Ok(())
    }

    fn may_end_job(&self, id: u32) -> Result<(), SlurmError> {
        let is_there = self.jobs.running.contains_key(&id) || self.job_waits(id);
        match () {
            () if self.controller.stopped => Err(SlurmError::ControllerDown),
            () if self.controller.refuses_updates && is_there => Err(SlurmError::AccessDenied),
            () => Ok(()),
        }
    }

    /// Whether a job waits in the queue.
    fn job_waits(&self, id: u32) -> bool {
        self.jobs.waiting.iter().any(|waiting| waiting.job.id == id)
    }

    /// Tells the witness that a job is about to be ended because somebody asked for it.
    fn tell_end(&mut self, id: u32, requeued: bool) {
        let waits = self.job_waits(id);
        let xnames = |running: &Running| running.nodes.iter().map(|&ix| self.node(ix).spec.xname).collect();
        let nodes = self.jobs.running.get(&id).map(xnames).or_else(|| waits.then(BTreeSet::new));
        if let Some(nodes) = nodes {
            self.tell(What::JobEnded { job: id.to_string(), nodes, requeued });
        }
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

    pub(super) fn job_ends(&mut self, id: u32, run: u32) -> bool {
        let runs = self.jobs.running.get(&id).is_some_and(|running| running.restarts == run);
        runs && self.remove_job(id, None)
    }

    pub(super) fn job_may_begin(&mut self, id: u32) -> bool {
        let waits = self.job_waits(id);
        self.jobs.stale |= waits;
        waits
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
                let may_begin = job.begin.is_none_or(|begin| begin <= self.now);
                match self.place(&job.job).filter(|_| may_begin) {
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
        let Workload::Drawn(drawn) = &self.config.workload else { return };
        let wanted = drawn.waiting as usize;
        for (partition, size) in self.partitions.sizes(self.by_name.len()) {
            // One that was put back into the queue is not counted: a queue of nothing else would stand still.
            let of_this = |waiting: &&Waiting| {
                waiting.begin.is_none() && waiting.job.partition.as_ref() == Some(&partition)
            };
            let there = self.jobs.waiting.iter().filter(of_this).count();
            for _ in there..wanted {
                let Some(job) = self.draw_job(&partition, size) else { return };
                self.enqueue(job);
            }
        }
    }

    /// A job of a partition of this size.
    fn draw_job(&mut self, partition: &PartitionName, size: usize) -> Option<JobSpec> {
        let Workload::Drawn(drawn) = &self.config.workload else { return None };
        let rng = &mut self.draws.jobs;
        let most = drawn.sizes.len().saturating_sub(1) as u64;
        let &count = drawn.sizes.get(rng.between(0, most) as usize)?;
        let length = rng.span(drawn.length).max(1);
        let unlimited = rng.chance(drawn.unlimited_per_mille);
        let partial = rng.chance(drawn.partial_per_mille);
        // In a cluster of one partition, what does not fit waits for ever, as it does in life.
        let fits = if self.config.partitions.is_empty() { count } else { count.min(size as u32) };
        Some(JobSpec {
            id: self.jobs.last_id + 1,
            user: USERS[rng.between(0, USERS.len() as u64 - 1) as usize].to_owned(),
            wanted: Wanted::Count(fits.max(1)),
            cpus: partial.then_some(1),
            start_ms: 0,
            duration_ms: Some(length),
            limit_ms: (!unlimited).then(|| length.saturating_mul(u64::from(drawn.limit_percent)) / 100),
            partition: Some(partition.clone()),
            requeue: true,
        })
    }

    /// The nodes that a job can start on now.
    fn place(&mut self, job: &JobSpec) -> Option<Vec<Ix>> {
        let partition = job.partition.as_ref()?;
        match &job.wanted {
            Wanted::Nodes(names) => names
                .iter()
                .map(|name| {
                    let ix = *self.by_name.get(name)?;
                    let node = self.node(ix);
                    let free = node.spec.cpus - node.slurm.cpus.min(node.spec.cpus);
                    let fits = job.cpus.unwrap_or(node.spec.cpus) <= free
                        && node.slurm.takes_jobs()
                        && node.hardware.slurmd.is_some()
                        && self.partitions.holds(partition, ix);
                    fits.then_some(ix)
                })
                .collect::<Option<BTreeSet<_>>>()
                .map(|nodes| nodes.into_iter().collect()),
            Wanted::Count(count) => {
                let count = *count as usize;
                let available = &self.jobs.available;
                let of_partition = |ix: &&Ix| self.partitions.holds(partition, **ix);
                if available.len() < count
                    || available.iter().filter(of_partition).take(count).count() < count
                {
                    return None;
                }
                let Workload::Drawn(Drawn { busy_per_mille, .. }) = self.config.workload else {
                    return Some(available.iter().filter(of_partition).copied().take(count).collect());
                };
                let runs_jobs = |ix: &&Ix| !self.node(**ix).slurm.jobs.is_empty();
                let (busy, of) = match self.partitions.members(partition) {
                    None => (self.jobs.busy_nodes, self.nodes.len()),
                    Some(members) => (members.iter().filter(runs_jobs).count(), members.len()),
                };
                if (busy + count) * 1000 > busy_per_mille as usize * of {
                    return None;
                }
                // From anywhere: otherwise the last nodes would never run anything.
                let from = self.draws.jobs.between(0, self.nodes.len() as u64) as Ix;
                let around = available.range(from..).chain(available.range(..from));
                Some(around.filter(of_partition).copied().take(count).collect())
            }
        }
    }

    fn start_job(&mut self, waiting: Waiting, nodes: Vec<Ix>, first: bool) {
        let Waiting { job, submitted, restarts, .. } = waiting;
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
            self.plan(length - elapsed, Event::JobEnds(job.id, restarts));
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
        self.jobs.running.insert(job.id, Running { job, submitted, started, nodes, restarts });
    }
}

/// Whose jobs are drawn.
const USERS: [&str; 6] = ["ada", "grace", "edsger", "barbara", "alan", "katherine"];
