//! Which nodes form the next step.
//!
//! Chosen when the step starts, out of the nodes that are still pending, by a [`Batcher`].

use serde::{Deserialize, Serialize};

use crate::names::Xname;
use crate::time::WlmTime;

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
pub struct Candidate {
    /// Which node.
    pub xname: Xname,
    /// When it is expected to be free.
    pub free: FreeAt,
}

/// Chooses the nodes of a step.
pub trait Batcher {
    /// Brings the `size` candidates that the step takes to the front, in order; what is behind them is in none.
    fn first(&self, candidates: &mut [Candidate], size: usize);
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
}

impl Batcher for Order {
    fn first(&self, candidates: &mut [Candidate], size: usize) {
        match self {
            Order::SoonestFree => first_by(candidates, size, |c| (c.free, c.xname)),
            Order::Name => first_by(candidates, size, |c| c.xname),
        }
    }
}

/// Sorts no more than it must: of 100,000 candidates a step takes a few.
fn first_by<K: Ord>(candidates: &mut [Candidate], size: usize, key: impl Fn(&Candidate) -> K) {
    let size = size.min(candidates.len());
    if size < candidates.len() {
        candidates.select_nth_unstable_by_key(size, &key);
    }
    candidates[..size].sort_unstable_by_key(key);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_nodes_come_first_then_the_soonest_end_then_those_without_one() {
        let mut candidates = [
            ("x1c0s0b0n0", FreeAt::Unknown),
            ("x1c0s1b0n0", FreeAt::By(WlmTime(20))),
            ("x1c0s3b0n0", FreeAt::Now),
            ("x1c0s2b0n0", FreeAt::By(WlmTime(10))),
            ("x1c0s10b0n0", FreeAt::Now),
        ]
        .map(|(xname, free)| Candidate { xname: xname.parse().unwrap(), free });
        let names = |c: &[Candidate]| c.iter().map(|c| c.xname.to_string()).collect::<Vec<_>>();
        Order::SoonestFree.first(&mut candidates, 5);
        assert_eq!(
            names(&candidates),
            ["x1c0s3b0n0", "x1c0s10b0n0", "x1c0s2b0n0", "x1c0s1b0n0", "x1c0s0b0n0"]
        );
        Order::Name.first(&mut candidates, 9);
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
        let candidates: Vec<_> = (0..1_000).map(|n| Candidate { xname: place(n), free: free(n) }).collect();
        for order in [Order::SoonestFree, Order::Name] {
            let mut all = candidates.clone();
            order.first(&mut all, usize::MAX);
            for size in [0, 1, 50, 999, 1_000] {
                let mut some = candidates.clone();
                order.first(&mut some, size);
                assert_eq!(some[..size], all[..size], "{size} by {order:?}");
            }
        }
    }
}
