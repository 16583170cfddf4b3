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
    /// Sorts the candidates: the step takes as many as fit from the front.
    fn sort(&self, candidates: &mut [Candidate]);
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
    fn sort(&self, candidates: &mut [Candidate]) {
        match self {
            Order::SoonestFree => candidates.sort_unstable_by_key(|c| (c.free, c.xname)),
            Order::Name => candidates.sort_unstable_by_key(|c| c.xname),
        }
    }
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
        Order::SoonestFree.sort(&mut candidates);
        assert_eq!(
            names(&candidates),
            ["x1c0s3b0n0", "x1c0s10b0n0", "x1c0s2b0n0", "x1c0s1b0n0", "x1c0s0b0n0"]
        );
        Order::Name.sort(&mut candidates);
        assert_eq!(
            names(&candidates),
            ["x1c0s0b0n0", "x1c0s1b0n0", "x1c0s2b0n0", "x1c0s3b0n0", "x1c0s10b0n0"]
        );
    }
}
