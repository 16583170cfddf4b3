//! Which nodes form the next step.
//!
//! Chosen when the step starts, out of the nodes that are still pending, by a [`Batcher`]. [`Rule`]s say which nodes a
//! step may not take beside those that it has.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::names::{Domain, NodeName, Xname};
use crate::strategy::Amount;
use crate::time::WlmTime;
use crate::wlm::Partition;

/// When a node is expected to run nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FreeAt {
    /// It runs nothing now.
    Now,
    /// The latest end of the jobs on it.
    By(WlmTime),
    /// It runs a job without a time limit, or one whose end is not known.
    Unknown,
}

/// A node that could be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Which node.
    pub xname: Xname,
    /// Its name in the workload manager.
    pub name: &'a NodeName,
    /// When it is expected to be free.
    pub free: FreeAt,
}

/// Chooses the nodes of a step.
pub trait Batcher {
    /// Brings the candidates that the step takes to the front, in order; what is behind them is in none. Returns how many
    /// these are: `size` at most.
    fn first(&self, candidates: &mut [Candidate<'_>], size: usize) -> usize;

    /// Whether a step whose candidates were not all admitted may be filled up with later ones.
    fn fills_up(&self) -> bool;
}

/// The orders in which a service can be told to take nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Those first that the workload manager expects to be free soonest, so that a group does not sit idle
    /// waiting for its slowest member; ties by xname.
    #[default]
    SoonestFree,
    /// By xname.
    Name,
    /// Those first that are free soonest, and no more than so many of one failure domain.
    Spread,
    /// Whole failure domains together, the one that is free soonest first. One that is larger than a step is divided.
    Pack,
}

impl Order {
    /// The way of choosing that this order stands for, with these failure domains.
    pub fn batcher(self, domain: Domain) -> Box<dyn Batcher> {
        match self {
            // Spreading is a rule beside the order.
            Order::SoonestFree | Order::Spread => Box::new(SoonestFree),
            Order::Name => Box::new(ByName),
            Order::Pack => Box::new(Pack(domain)),
        }
    }
}

/// See [`Order::SoonestFree`].
#[derive(Debug, Clone, Copy)]
pub struct SoonestFree;

impl Batcher for SoonestFree {
    fn first(&self, candidates: &mut [Candidate<'_>], size: usize) -> usize {
        first_by(candidates, size, |c| (c.free, c.xname))
    }

    fn fills_up(&self) -> bool {
        true
    }
}

/// See [`Order::Name`].
#[derive(Debug, Clone, Copy)]
pub struct ByName;

impl Batcher for ByName {
    fn first(&self, candidates: &mut [Candidate<'_>], size: usize) -> usize {
        first_by(candidates, size, |c| c.xname)
    }

    fn fills_up(&self) -> bool {
        true
    }
}

/// See [`Order::Pack`].
#[derive(Debug, Clone, Copy)]
pub struct Pack(pub Domain);

impl Batcher for Pack {
    fn first(&self, candidates: &mut [Candidate<'_>], size: usize) -> usize {
        let mut domains: BTreeMap<Xname, (FreeAt, usize)> = BTreeMap::new();
        for candidate in candidates.iter() {
            let (free, count) = domains.entry(candidate.xname.domain(self.0)).or_insert((candidate.free, 0));
            // A domain is free once the last of its nodes is.
            *free = candidate.free.max(*free);
            *count += 1;
        }
        let mut by_time: Vec<(FreeAt, Xname, usize)> =
            domains.into_iter().map(|(domain, (free, count))| (free, domain, count)).collect();
        by_time.sort_unstable();
        // Those that fit whole, in their order; the first one is begun even if it does not.
        let mut places: HashMap<Xname, usize> = HashMap::new();
        let mut taken = 0;
        for (place, (_, domain, count)) in by_time.into_iter().enumerate() {
            if taken == 0 || taken + count <= size {
                places.insert(domain, place);
                taken += count;
            }
        }
        let place = |c: &Candidate<'_>| places.get(&c.xname.domain(self.0)).copied().unwrap_or(usize::MAX);
        first_by(candidates, size.min(taken), |c| (place(c), c.free, c.xname))
    }

    fn fills_up(&self) -> bool {
        false
    }
}

/// Says which nodes a step may not take beside those that it has. Rules bound a step, so they hold whatever is chosen.
pub trait Rule {
    /// Whether the step may take this node as well. If it may, it has.
    fn admit(&mut self, candidate: &Candidate<'_>) -> bool;

    /// Takes back the last admission: another rule did not let the node in.
    fn withdraw(&mut self, candidate: &Candidate<'_>);
}

/// No more than so many nodes of one failure domain.
#[derive(Debug, Clone)]
pub struct DomainCap {
    domain: Domain,
    cap: usize,
    taken: HashMap<Xname, usize>,
}

impl DomainCap {
    /// At most `cap` nodes of each `domain`.
    pub fn new(domain: Domain, cap: usize) -> Self {
        DomainCap { domain, cap, taken: HashMap::new() }
    }
}

impl Rule for DomainCap {
    fn admit(&mut self, candidate: &Candidate<'_>) -> bool {
        let taken = self.taken.entry(candidate.xname.domain(self.domain)).or_default();
        let admitted = *taken < self.cap;
        *taken += usize::from(admitted);
        admitted
    }

    fn withdraw(&mut self, candidate: &Candidate<'_>) {
        if let Some(taken) = self.taken.get_mut(&candidate.xname.domain(self.domain)) {
            *taken = taken.saturating_sub(1);
        }
    }
}

/// So many nodes of a partition stay in service. A node that is out of service anyway may always be taken: it is counted
/// out already.
#[derive(Debug, Clone)]
pub struct ServiceFloor<'a> {
    partition: &'a Partition,
    /// How many nodes may still be taken out of service.
    spare: usize,
}

impl<'a> ServiceFloor<'a> {
    /// Keeps at least `floor` of all nodes of the partition in service.
    pub fn new(partition: &'a Partition, floor: Amount) -> Self {
        let spare = partition.in_service.len().saturating_sub(floor.at_least(partition.total));
        ServiceFloor { partition, spare }
    }
}

impl Rule for ServiceFloor<'_> {
    fn admit(&mut self, candidate: &Candidate<'_>) -> bool {
        if !self.partition.in_service.contains(candidate.name) {
            return true;
        }
        let admitted = self.spare > 0;
        self.spare = self.spare.saturating_sub(1);
        admitted
    }

    fn withdraw(&mut self, candidate: &Candidate<'_>) {
        if self.partition.in_service.contains(candidate.name) {
            self.spare += 1;
        }
    }
}

/// The candidates that a step of at most `size` nodes takes, in order: the first that all rules admit.
pub fn choose(
    batcher: &dyn Batcher,
    candidates: &mut [Candidate<'_>],
    size: usize,
    rules: &mut [Box<dyn Rule + '_>],
) -> Vec<Xname> {
    let mut chosen = Vec::new();
    let mut rest: &mut [Candidate<'_>] = candidates;
    let mut looked_at = size;
    while chosen.len() < size && !rest.is_empty() {
        let first = batcher.first(rest, looked_at);
        if first == 0 {
            break;
        }
        let (taken, later) = rest.split_at_mut(first);
        let admitted = taken.iter().filter(|candidate| admit(rules, candidate)).map(|c| c.xname);
        chosen.extend(admitted.take(size - chosen.len()));
        if !batcher.fills_up() && !chosen.is_empty() {
            break;
        }
        rest = later;
        // Rules may turn down very many: they are gone through in few passes.
        looked_at = looked_at.saturating_mul(2);
    }
    chosen
}

/// Whether all rules let a step take this node as well; if they do, it has.
fn admit(rules: &mut [Box<dyn Rule + '_>], candidate: &Candidate<'_>) -> bool {
    for i in 0..rules.len() {
        if !rules[i].admit(candidate) {
            for rule in &mut rules[..i] {
                rule.withdraw(candidate);
            }
            return false;
        }
    }
    true
}

/// Sorts no more than it must: of 100,000 candidates a step takes a few.
fn first_by<K: Ord>(
    candidates: &mut [Candidate<'_>],
    size: usize,
    key: impl Fn(&Candidate<'_>) -> K,
) -> usize {
    let size = size.min(candidates.len());
    if size < candidates.len() {
        candidates.select_nth_unstable_by_key(size, &key);
    }
    candidates[..size].sort_unstable_by_key(key);
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_nodes_come_first_then_the_soonest_end_then_those_without_one() {
        let name = NodeName::new("nid000001").unwrap();
        let mut candidates = [
            ("x1c0s0b0n0", FreeAt::Unknown),
            ("x1c0s1b0n0", FreeAt::By(WlmTime(20))),
            ("x1c0s3b0n0", FreeAt::Now),
            ("x1c0s2b0n0", FreeAt::By(WlmTime(10))),
            ("x1c0s10b0n0", FreeAt::Now),
        ]
        .map(|(xname, free)| Candidate { xname: xname.parse().unwrap(), name: &name, free });
        let names = |c: &[Candidate<'_>]| c.iter().map(|c| c.xname.to_string()).collect::<Vec<_>>();
        SoonestFree.first(&mut candidates, 5);
        assert_eq!(
            names(&candidates),
            ["x1c0s3b0n0", "x1c0s10b0n0", "x1c0s2b0n0", "x1c0s1b0n0", "x1c0s0b0n0"]
        );
        ByName.first(&mut candidates, 9);
        assert_eq!(
            names(&candidates),
            ["x1c0s0b0n0", "x1c0s1b0n0", "x1c0s2b0n0", "x1c0s3b0n0", "x1c0s10b0n0"]
        );
    }

    #[test]
    fn only_the_first_need_be_in_order() {
        let place = |n: u32| format!("x1c0s{}b0n0", n * 7_919 % 1_000).parse().unwrap();
        let free =
            |n: u32| if n.is_multiple_of(3) { FreeAt::Now } else { FreeAt::By(WlmTime(i64::from(n % 100))) };
        let name = NodeName::new("nid000001").unwrap();
        let candidates: Vec<_> =
            (0..1_000).map(|n| Candidate { xname: place(n), name: &name, free: free(n) }).collect();
        for order in [Order::SoonestFree, Order::Name] {
            let batcher = order.batcher(Domain::Chassis);
            let mut all = candidates.clone();
            batcher.first(&mut all, usize::MAX);
            for size in [0, 1, 50, 999, 1_000] {
                let mut some = candidates.clone();
                batcher.first(&mut some, size);
                assert_eq!(some[..size], all[..size], "{size} by {order:?}");
            }
        }
    }

    /// Nodes of chassis of eight slots, named by their number, all idle but those of `busy`.
    fn chassis(nodes: u32, busy: &[u32]) -> Vec<(Xname, NodeName, FreeAt)> {
        let node = |n: u32| {
            let xname = format!("x{}c{}s{}b0n0", 1 + n / 64, n / 8 % 8, n % 8).parse().unwrap();
            let free = if busy.contains(&n) { FreeAt::By(WlmTime(9)) } else { FreeAt::Now };
            (xname, NodeName::new(&format!("nid{n:06}")).unwrap(), free)
        };
        (0..nodes).map(node).collect()
    }

    fn candidates(nodes: &[(Xname, NodeName, FreeAt)]) -> Vec<Candidate<'_>> {
        nodes.iter().map(|(xname, name, free)| Candidate { xname: *xname, name, free: *free }).collect()
    }

    /// How many nodes of each chassis, in order.
    fn by_chassis(chosen: &[Xname]) -> Vec<usize> {
        let mut counts: BTreeMap<Xname, usize> = BTreeMap::new();
        for xname in chosen {
            *counts.entry(xname.domain(Domain::Chassis)).or_default() += 1;
        }
        counts.into_values().collect()
    }

    #[test]
    fn packing_takes_whole_domains_and_divides_only_one_that_is_larger_than_a_step() {
        let nodes = chassis(32, &[3]);
        for (size, taken) in [(20, vec![8, 8]), (8, vec![8]), (5, vec![5]), (100, vec![8, 8, 8, 8])] {
            let chosen = choose(&Pack(Domain::Chassis), &mut candidates(&nodes), size, &mut []);
            assert_eq!(by_chassis(&chosen), taken, "{size}");
        }
        let chosen = choose(&Pack(Domain::Chassis), &mut candidates(&nodes), 24, &mut []);
        assert!(!chosen.contains(&nodes[3].0) && chosen.len() == 24, "the one with a job goes last");
    }

    fn partition(nodes: &[(Xname, NodeName, FreeAt)], of: impl Fn(usize) -> bool) -> Partition {
        let named = nodes.iter().enumerate().filter(|(n, _)| of(*n)).map(|(_, node)| node.1.clone());
        let in_service: std::collections::BTreeSet<NodeName> = named.collect();
        Partition { name: "batch".parse().unwrap(), total: in_service.len(), in_service }
    }

    #[test]
    fn packing_goes_on_behind_domains_that_a_floor_keeps() {
        let nodes = chassis(32, &[]);
        let kept = partition(&nodes, |n| n < 24);
        let floor = ServiceFloor::new(&kept, Amount::Percent(100));
        let chosen = choose(&Pack(Domain::Chassis), &mut candidates(&nodes), 8, &mut [Box::new(floor)]);
        let last: Vec<Xname> = nodes[24..].iter().map(|node| node.0).collect();
        assert_eq!(chosen, last);
    }

    struct Counted<'a>(&'a dyn Batcher, std::cell::Cell<u32>);

    impl Batcher for Counted<'_> {
        fn first(&self, candidates: &mut [Candidate<'_>], size: usize) -> usize {
            self.1.set(self.1.get() + 1);
            self.0.first(candidates, size)
        }

        fn fills_up(&self) -> bool {
            self.0.fills_up()
        }
    }

    #[test]
    fn very_many_nodes_that_no_step_may_take_are_gone_through_in_few_passes() {
        let nodes = chassis(20_000, &[]);
        let all = partition(&nodes, |_| true);
        for order in [Order::SoonestFree, Order::Pack] {
            let batcher = order.batcher(Domain::Chassis);
            let batcher = Counted(&*batcher, std::cell::Cell::new(0));
            let floor = ServiceFloor::new(&all, Amount::Percent(100));
            let chosen = choose(&batcher, &mut candidates(&nodes), 8, &mut [Box::new(floor)]);
            assert_eq!(chosen, []);
            assert!(batcher.1.get() <= 16, "{order:?}: {} passes", batcher.1.get());
        }
    }
}
