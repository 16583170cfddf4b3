//! Which nodes: all of a session's, when its turn has come, and those of a step, when it starts.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, Machine};
use crate::batch::{Batcher as _, Candidate, FreeAt};
use crate::model::{Failure, Node, NodeState, Phase, Session, Stage};
use crate::names::{NodeName, Xname};
use crate::ports::NodeFacts;
use crate::wlm::Job;

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
        let Some(members) = self.s.known.starting.as_ref().and_then(|seen| seen.members.clone()) else {
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
                node.state = NodeState::Failed(failure);
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
    /// The nodes that the next step takes, by the jobs as they were seen last.
    pub(super) fn chosen(&self) -> Vec<usize> {
        let Some(seen) = &self.known.jobs else { return Vec::new() };
        let (mut sorted, positions): (Vec<Candidate>, BTreeMap<Xname, usize>) =
            candidates(self, &seen.jobs).into_iter().map(|(c, i)| (c, (c.xname, i))).unzip();
        self.limits.order.sort(&mut sorted);
        let size = usize::try_from(self.head.spec.step_size.get()).unwrap_or(usize::MAX);
        let mut chosen: Vec<usize> =
            sorted.iter().take(size).filter_map(|c| positions.get(&c.xname).copied()).collect();
        chosen.sort_unstable();
        chosen
    }
}

/// When a node is expected to run nothing: see [`crate::batch`].
fn candidates(session: &Session, jobs: &[Job]) -> Vec<(Candidate, usize)> {
    let mut free: BTreeMap<&NodeName, FreeAt> = BTreeMap::new();
    for job in jobs {
        let end = job.end.map_or(FreeAt::Unknown, FreeAt::By);
        for name in &job.nodes {
            let latest = free.entry(name).or_insert(end);
            *latest = end.max(*latest);
        }
    }
    let pending = session.nodes.iter().enumerate().filter(|(_, node)| node.state == NodeState::Pending);
    pending
        .filter_map(|(i, node)| {
            let free = free.get(node.name.as_ref()?).copied().unwrap_or(FreeAt::Now);
            Some((Candidate { xname: node.xname, free }, i))
        })
        .collect()
}
