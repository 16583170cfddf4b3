//! Which nodes: all of a session's, when its turn has come, and those of a step, when it starts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Event, Machine};
use crate::batch::{Batcher as _, Candidate, FreeAt};
use crate::model::{Failure, Node, NodeState, Phase, Session, Stage};
use crate::names::{NodeName, Xname};
use crate::ports::NodeFacts;
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
            let found = match facts.get(&xname) {
                None => Err(Failure::UnknownToHsm),
                Some(fact) if !fact.role.eq_ignore_ascii_case("compute") => {
                    Err(Failure::NotCompute(fact.role.clone()))
                }
                // Of nodes that share a NID none can be told from the other in the workload manager.
                Some(fact) => fact
                    .nid
                    .filter(|nid| sharers.get(nid) == Some(&1))
                    .and_then(|nid| format.name(nid))
                    .ok_or(Failure::NoNid),
            };
            let mut node = Node::new(xname, found.as_ref().ok().cloned(), self.now);
            if let Err(failure) = found {
                node.state = NodeState::Failed(failure.bounded());
                node.owed.listing = true;
            }
            node
        });
        self.s.nodes = nodes.collect();
        self.s.head.batch = (0..self.s.nodes.len()).filter(|&i| self.s.nodes[i].owed.listing).collect();
        self.events.push(Event::Frozen);
        self.s.head.phase = Phase::Rolling;
        self.events.push(Event::Phase(Phase::Rolling));
        self.enter(Stage::Starting);
        let failed = self.s.head.batch.clone();
        self.tell_failures(&failed);
    }
}

impl Session {
    /// The nodes that the next step takes, by these jobs: the only place that goes through all pending nodes, once a
    /// step.
    pub(super) fn choose(&self, jobs: &[Job]) -> Vec<usize> {
        let mut candidates = candidates(self, jobs);
        let size =
            usize::try_from(self.head.spec.step_size.get()).map_or(STEP_MAX, |size| size.min(STEP_MAX));
        self.limits.order.first(&mut candidates, size);
        let position = |c: &Candidate| self.nodes.binary_search_by_key(&c.xname, |node| node.xname).ok();
        let mut chosen: Vec<usize> = candidates.iter().take(size).filter_map(position).collect();
        chosen.sort_unstable();
        chosen
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
        // No node becomes pending again.
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
    }
}

/// When a node is expected to run nothing: see [`crate::batch`].
fn candidates(session: &Session, jobs: &[Job]) -> Vec<Candidate> {
    let mut free: HashMap<&NodeName, FreeAt> = HashMap::with_capacity(jobs.len());
    for job in jobs {
        let end = job.end.map_or(FreeAt::Unknown, FreeAt::By);
        for name in &job.nodes {
            let latest = free.entry(name).or_insert(end);
            *latest = end.max(*latest);
        }
    }
    let candidate = |node: &Node| {
        let free = free.get(node.name.as_ref()?).copied().unwrap_or(FreeAt::Now);
        Some(Candidate { xname: node.xname, free })
    };
    session.pending().filter_map(candidate).collect()
}
