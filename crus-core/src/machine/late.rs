//! Draining nodes whose jobs take longer than they may.

use std::collections::{HashMap, HashSet};

use super::{Machine, messages};
use crate::model::{Failure, Holder, HoldingJob, NodeState, Said, Session};
use crate::names::NodeName;
use crate::strategy::OnDrainTimeout;
use crate::time::Time;
use crate::wlm::Job;

/// So many polls after jobs were looked at they are looked at again, for the sake of those who want to know what a drain
/// waits for.
const JOBS_AGAIN_POLLS: u64 = 60;

/// So many polls after a job was to be ended it is asked for again, if it still holds a node.
const ENDING_POLLS: u64 = 6;

impl Machine<'_> {
    /// Does what is to be done with nodes that drain for too long. Tells whether any of them went elsewhere.
    pub(super) fn give_up_late(&mut self) -> bool {
        let late = self.s.late(self.now);
        if late.is_empty() {
            return false;
        }
        let step = self.s.head.step;
        match self.s.on_drain_timeout() {
            OnDrainTimeout::Wait => {
                if self.s.known.told.insert(Said::Late) {
                    let names: Vec<_> = late.iter().map(|&i| self.s.nodes[i].xname).collect();
                    self.say(messages::drain_is_late(step, &names));
                }
                false
            }
            // Their jobs are ended; what comes of it is seen.
            OnDrainTimeout::Requeue | OnDrainTimeout::Cancel => false,
            OnDrainTimeout::Skip => {
                self.skip(&late);
                true
            }
            OnDrainTimeout::Later => {
                let (again, first): (Vec<usize>, Vec<usize>) =
                    late.into_iter().partition(|&i| self.s.nodes[i].deferred);
                self.skip(&again);
                for &i in &first {
                    self.change(i, |node| {
                        node.owed.resuming = node.holder == Holder::Us;
                        node.job = None;
                        node.state = NodeState::Deferred;
                        node.deferred = true;
                    });
                }
                if !first.is_empty() {
                    let names: Vec<_> = first.iter().map(|&i| self.s.nodes[i].xname).collect();
                    self.say(messages::deferred(step, &names));
                }
                true
            }
        }
    }

    fn skip(&mut self, late: &[usize]) {
        self.fail_each(late.iter().map(|&i| (i, Failure::DrainTimedOut)).collect());
        self.tell_failures(late);
    }

    /// Takes note of which jobs these nodes wait for.
    pub(super) fn note_jobs(&mut self, asked: &[NodeName], jobs: &[Job]) {
        let holding = holding(jobs);
        let asked: HashSet<&NodeName> = asked.iter().collect();
        for i in self.s.batch_in(|state| *state == NodeState::Draining) {
            let node = &self.s.nodes[i];
            let Some(name) = node.name.as_ref().filter(|name| asked.contains(name)) else { continue };
            let job = holding.get(name).cloned();
            if node.job != job {
                self.change_quietly(i, |node| node.job = job);
            }
        }
        self.s.known.jobs_noted = Some(self.now);
    }
}

/// Of the jobs on each node, the one that is expected to end last.
pub(crate) fn holding(jobs: &[Job]) -> HashMap<NodeName, HoldingJob> {
    let mut holding: HashMap<NodeName, HoldingJob> = HashMap::new();
    // One without an end ends last.
    let key = |job: &HoldingJob| (job.end.is_none(), job.end);
    for job in jobs {
        let this = HoldingJob { id: job.id.clone(), user: job.user.clone(), end: job.end };
        for name in &job.nodes {
            match holding.get_mut(name) {
                Some(known) if key(known) >= key(&this) => {}
                Some(known) => *known = this.clone(),
                None => _ = holding.insert(name.clone(), this.clone()),
            }
        }
    }
    holding
}

impl Session {
    pub(crate) fn on_drain_timeout(&self) -> OnDrainTimeout {
        let strategy = &self.head.spec.strategy;
        // The service's own time-out gives nodes back.
        if strategy.drain_timeout_s.is_some() { strategy.on_drain_timeout } else { OnDrainTimeout::Skip }
    }

    /// The nodes of the step that drain for too long.
    pub(super) fn late(&self, now: Time) -> Vec<usize> {
        let draining = self.batch_in(|state| *state == NodeState::Draining);
        let is_late = |&i: &usize| {
            self.drain_deadline(&self.nodes[i]).is_some_and(|deadline| now >= deadline)
                && self.seen(i).is_some_and(|seen| !self.is_quiet(i, seen))
        };
        draining.into_iter().filter(is_late).collect()
    }

    /// The draining nodes whose jobs should be looked at, to be told what they wait for.
    pub(super) fn curious(&self, now: Time) -> Vec<NodeName> {
        let age = self.known.jobs_noted.map_or(u64::MAX, |at| now.since(at));
        let due = age >= self.limits.poll_ms.saturating_mul(JOBS_AGAIN_POLLS);
        let changed = self.known.jobs_changed && age >= self.limits.poll_ms;
        if !due && !changed {
            return Vec::new();
        }
        let draining = self.batch_in(|state| *state == NodeState::Draining);
        let busy = |&i: &usize| self.seen(i).is_some_and(|seen| !seen.is_quiet());
        draining.into_iter().filter(busy).filter_map(|i| self.nodes[i].name.clone()).collect()
    }

    /// The jobs to be ended so that late nodes become quiet; `None` until they were looked at lately.
    pub(super) fn jobs_to_end(&self, late: &[usize], now: Time) -> Option<Vec<String>> {
        let names: HashSet<&NodeName> = late.iter().filter_map(|&i| self.nodes[i].name.as_ref()).collect();
        let jobs = self.known.jobs.as_ref()?;
        let fresh = jobs.at >= now - self.limits.last_look_ms;
        if !fresh || !names.iter().all(|name| jobs.asked.contains(*name)) {
            return None;
        }
        // One that is ending holds its nodes for a while yet.
        let pause = self.limits.poll_ms.saturating_mul(ENDING_POLLS);
        let asked = |job: &Job| self.known.ended_jobs.get(&job.id).is_some_and(|at| now.since(*at) < pause);
        let holds = |job: &&Job| job.nodes.iter().any(|name| names.contains(name)) && !asked(job);
        Some(jobs.jobs.iter().filter(holds).map(|job| job.id.clone()).collect())
    }
}
