//! Which nodes: all of a session's, when its turn has come, and those of a step, when it starts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Event, Machine};
use crate::batch::{self, Candidate, DomainCap, FreeAt, Order, Rule, ServiceFloor};
use crate::estimate::{self, Boots, Course, Outlook};
use crate::history::Happening;
use crate::model::{Counts, Failure, Node, NodeState, Phase, Session, Stage};
use crate::names::{NodeName, NodeNameFormat, Xname};
use crate::ports::NodeFacts;
use crate::strategy::OnDrainTimeout;
use crate::time::Time;
use crate::wlm::Job;

/// The most nodes of one step, whatever was asked for: so many of the longest xnames fit into one request to BOS.
const STEP_MAX: usize = 10_000;

impl Machine<'_> {
    /// No node is touched. Once it is the session's turn, its nodes are frozen.
    pub(super) fn created(&mut self) -> bool {
        if self.s.head.deletion.is_some() {
            self.finish();
            return true;
        }
        if !self.s.known.claimed {
            return false;
        }
        if !self.s.nodes.is_empty() {
            // It begins anew, with the nodes that it had.
            self.s.head.phase = Phase::Rolling;
            self.events.push(Event::Phase(Phase::Rolling));
            self.enter(Stage::Starting);
            return true;
        }
        let Some((_, facts)) = self.s.known.facts.take() else { return false };
        let Some(members) = self.s.known.starting.take().and_then(|seen| seen.members) else {
            return false;
        };
        self.freeze(&members, &facts);
        true
    }

    /// From here on a change to the starting group neither skips nor repeats a node.
    fn freeze(&mut self, members: &BTreeSet<Xname>, facts: &[NodeFacts]) {
        let facts: BTreeMap<Xname, &NodeFacts> = facts.iter().map(|fact| (fact.xname, fact)).collect();
        let format = &self.s.limits.node_name_format;
        let mut sharers: BTreeMap<u32, u32> = BTreeMap::new();
        for nid in facts.values().filter_map(|fact| fact.nid) {
            *sharers.entry(nid).or_default() += 1;
        }
        let nodes = members.iter().map(|&xname| {
            let found = name_of(facts.get(&xname).copied(), format, &sharers);
            let mut node = Node::new(xname, found.as_ref().ok().cloned(), self.now);
            if let Err(failure) = found {
                node.state = NodeState::Failed(failure.bounded());
                node.owed.listing = true;
            }
            node
        });
        self.s.nodes = nodes.collect();
        self.s.head.batch = (0..self.s.nodes.len()).filter(|&i| self.s.nodes[i].owed.listing).collect();
        self.s.head.counts = Counts::of(&self.s.nodes);
        self.events.push(Event::Frozen);
        self.tell(Happening::Started { nodes: self.s.nodes.len() });
        self.s.head.phase = Phase::Rolling;
        self.events.push(Event::Phase(Phase::Rolling));
        self.enter(Stage::Starting);
        let failed = self.s.head.batch.clone();
        self.moved.clone_from(&failed);
        self.tell_failures(&failed);
    }

    /// Nodes that are taken again though they had no name in the workload manager: HSM may know them by now.
    pub(super) fn name_again(&mut self, asked: &[Xname], facts: &[NodeFacts]) {
        let facts: BTreeMap<Xname, &NodeFacts> = facts.iter().map(|fact| (fact.xname, fact)).collect();
        let format = self.s.limits.node_name_format.clone();
        let mut sharers: BTreeMap<u32, u32> = BTreeMap::new();
        for nid in facts.values().filter_map(|fact| fact.nid) {
            *sharers.entry(nid).or_default() += 1;
        }
        let taken: HashSet<NodeName> = self.s.nodes.iter().filter_map(|node| node.name.clone()).collect();
        let mut failed = Vec::new();
        for i in self.s.unnamed() {
            let xname = self.s.nodes[i].xname;
            if asked.binary_search(&xname).is_err() {
                continue;
            }
            match name_of(facts.get(&xname).copied(), &format, &sharers) {
                Ok(name) if taken.contains(&name) => failed.push((i, Failure::NoNid)),
                Ok(name) => self.change_quietly(i, |node| node.name = Some(name)),
                Err(failure) => failed.push((i, failure)),
            }
        }
        if failed.is_empty() {
            return;
        }
        let positions: Vec<usize> = failed.iter().map(|(i, _)| *i).collect();
        self.s.head.batch.clone_from(&positions);
        self.events.push(Event::Head);
        self.fail_each(failed);
        self.tell_failures(&positions);
    }
}

/// The name of a node in the workload manager, by what HSM knows of it. Of nodes that share a NID none can be told from
/// the other.
fn name_of(
    fact: Option<&NodeFacts>,
    format: &NodeNameFormat,
    sharers: &BTreeMap<u32, u32>,
) -> Result<NodeName, Failure> {
    let fact = fact.ok_or(Failure::UnknownToHsm)?;
    if !fact.role.eq_ignore_ascii_case("compute") {
        return Err(Failure::NotCompute(fact.role.clone()));
    }
    let own = fact.nid.filter(|nid| sharers.get(nid) == Some(&1));
    own.and_then(|nid| format.name(nid)).ok_or(Failure::NoNid)
}

impl Session {
    /// The pending nodes that have no name in the workload manager. Only those that are taken again may have none.
    pub(super) fn unnamed(&self) -> Vec<usize> {
        if self.known.named {
            return Vec::new();
        }
        let from = self.known.first_pending;
        let nodes = (from..).zip(self.nodes.get(from..).unwrap_or_default());
        let unnamed = |node: &Node| node.name.is_none() && node.state == NodeState::Pending;
        nodes.filter(|(_, node)| unnamed(node)).map(|(i, _)| i).collect()
    }

    /// The nodes that the next step takes, by these jobs: the only place that goes through all pending nodes, once a
    /// step.
    pub(super) fn choose(&self, jobs: &[Job]) -> Vec<usize> {
        let chosen = self.choose_of(&mut candidates(self, jobs), self.size_of_step(self.head.canaries));
        let position = |xname: &Xname| self.nodes.binary_search_by_key(xname, |node| node.xname).ok();
        let mut chosen: Vec<usize> = chosen.iter().filter_map(position).collect();
        chosen.sort_unstable();
        chosen
    }

    /// The nodes that a step of at most so many takes of these.
    pub(crate) fn choose_of(&self, candidates: &mut [Candidate<'_>], size: usize) -> Vec<Xname> {
        let strategy = &self.head.spec.strategy;
        let order = self.order();
        let mut rules: Vec<Box<dyn Rule + '_>> = Vec::new();
        if let Some(cap) = strategy.domain_cap(order) {
            rules.push(Box::new(DomainCap::new(strategy.domain, cap)));
        }
        for partition in self.known.partitions.iter().flat_map(|(_, partitions)| partitions) {
            if let Some(floor) = strategy.min_in_service.get(&partition.name) {
                rules.push(Box::new(ServiceFloor::new(partition, *floor)));
            }
        }
        batch::choose(&*order.batcher(strategy.domain), candidates, size, &mut rules)
    }

    /// In which order nodes are taken.
    pub(crate) fn order(&self) -> Order {
        self.head.spec.strategy.order.unwrap_or(self.limits.order)
    }

    /// What is expected of the step that takes so many nodes, and of those after it, by these jobs.
    pub(super) fn outlook(&self, jobs: &[Job], taken: usize, now: Time) -> Outlook {
        let left: Vec<(Xname, FreeAt)> = candidates(self, jobs).iter().map(|c| (c.xname, c.free)).collect();
        let sizes = self.sizes_of_steps(&left, taken, self.head.canaries);
        let waits = self.waits(&left, &sizes, now);
        self.outlook_of(&left, &waits, now)
    }

    /// How many nodes each of the next steps takes of these, when the first takes so many.
    pub(crate) fn sizes_of_steps(
        &self,
        left: &[(Xname, FreeAt)],
        first: usize,
        canaries: usize,
    ) -> Vec<usize> {
        let strategy = &self.head.spec.strategy;
        estimate::sizes(left, first, strategy, self.order(), self.full_size(), canaries)
    }

    /// How long steps of these sizes are expected to wait for their nodes.
    pub(crate) fn waits(&self, left: &[(Xname, FreeAt)], sizes: &[usize], now: Time) -> Vec<u64> {
        let passed = self.head.outlook.unwrap_or_default();
        let idle = passed.idle_per_mille.unwrap_or_else(|| estimate::idle_per_mille(left));
        let full = self.full_size();
        let course = Course {
            order: self.order(),
            domain: self.head.spec.strategy.domain,
            now,
            boot_ms: Boots::new(self.head.pace, &self.limits).step_ms(full),
            cap_ms: self.drain_cap_ms(),
            used: f64::from(self.limits.job_used_percent) / 100.0,
            idle: f64::from(idle) / 1000.0,
            drained: full as f64 / self.nodes.len().max(1) as f64,
        };
        estimate::waits(left, sizes, &course)
    }

    /// The same in short: the first of these waits is that of the next step.
    pub(crate) fn outlook_of(&self, left: &[(Xname, FreeAt)], waits: &[u64], now: Time) -> Outlook {
        let passed = self.head.outlook.unwrap_or_default();
        Outlook {
            step: self.head.step,
            at: now,
            wait_ms: waits.first().copied().unwrap_or_default(),
            steps: u32::try_from(waits.len().saturating_sub(1)).unwrap_or(u32::MAX),
            later_ms: waits.iter().skip(1).sum(),
            idle_per_mille: passed.idle_per_mille.or_else(|| Some(estimate::idle_per_mille(left))),
            ..passed
        }
    }

    /// After which time a drain ends one way or the other, where it does.
    fn drain_cap_ms(&self) -> Option<u64> {
        let own = self.head.spec.strategy.drain_timeout_s.map(|seconds| seconds.get().saturating_mul(1000));
        let timeout = own.or(self.limits.drain_timeout_ms);
        timeout.filter(|_| self.on_drain_timeout() != OnDrainTimeout::Wait)
    }

    /// How many nodes a step may take after so many canaries: those of the next one, while there is one.
    pub(crate) fn size_of_step(&self, canaries: usize) -> usize {
        let canary = self.head.spec.strategy.canary.get(canaries).copied();
        let full = self.full_size();
        canary.map_or(full, |canary| usize::try_from(canary.get()).map_or(full, |size| size.min(full)))
    }

    /// How many nodes a step may take that is no canary.
    fn full_size(&self) -> usize {
        usize::try_from(self.head.spec.step_size.get()).map_or(STEP_MAX, |size| size.min(STEP_MAX))
    }

    /// Whether any node is pending.
    pub(super) fn has_pending(&self) -> bool {
        self.pending().next().is_some()
    }

    /// A step begins: what was seen of nodes that are not in it counts no more, and would only grow.
    pub(super) fn forget_other_nodes(&mut self, batch: &[usize]) {
        let mut seen = std::mem::take(&mut self.known.wlm);
        let names = batch.iter().filter_map(|&i| self.nodes.get(i)?.name.as_ref());
        let kept = names.filter_map(|name| seen.remove_entry(name)).collect();
        // Whoever makes a node pending again sets this back.
        let not_pending = |node: &Node| node.state != NodeState::Pending;
        let before = self.nodes.iter().skip(self.known.first_pending).take_while(|node| not_pending(node));
        let first_pending = self.known.first_pending + before.count();
        self.known.wlm = kept;
        self.known.first_pending = first_pending;
        self.known.missing.clear();
        self.known.drained.clear();
        self.known.marked.clear();
        self.known.rejected.clear();
        self.known.jobs = None;
        self.known.chosen = None;
        self.known.holding.clear();
        self.known.partitions = None;
        self.known.checks.clear();
        self.known.ended_jobs.clear();
        self.known.jobs_changed = false;
    }
}

/// When a node is expected to run nothing: see [`crate::batch`].
pub(crate) fn candidates<'a>(session: &'a Session, jobs: &[Job]) -> Vec<Candidate<'a>> {
    let mut free: HashMap<&NodeName, FreeAt> = HashMap::with_capacity(jobs.len());
    for job in jobs {
        let end = job.end.map_or(FreeAt::Unknown, FreeAt::By);
        for name in &job.nodes {
            let latest = free.entry(name).or_insert(end);
            *latest = end.max(*latest);
        }
    }
    let candidate = |node: &'a Node| {
        let name = node.name.as_ref()?;
        let free = free.get(name).copied().unwrap_or(FreeAt::Now);
        Some(Candidate { xname: node.xname, name, free })
    };
    session.pending().filter_map(candidate).collect()
}
