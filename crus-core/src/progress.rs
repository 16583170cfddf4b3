//! What a session does and what it waits for, in words and numbers.

use std::fmt;

use crate::model::{NodeState, Phase, Session, Stage};
use crate::names::NodeName;

/// How many nodes are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Not touched yet.
    pub pending: usize,
    /// Drained, their jobs are waited for.
    pub draining: usize,
    /// Drained and quiet.
    pub quiesced: usize,
    /// Being rebooted.
    pub rebooting: usize,
    /// Booted, not yet back in service.
    pub returning: usize,
    /// Done.
    pub upgraded: usize,
    /// Failed.
    pub failed: usize,
    /// Given back without a reboot.
    pub released: usize,
}

impl Counts {
    /// Counts the nodes of a session.
    pub fn of(session: &Session) -> Self {
        let mut counts = Counts::default();
        for node in &session.nodes {
            *match node.state {
                NodeState::Pending => &mut counts.pending,
                NodeState::Draining => &mut counts.draining,
                NodeState::Quiesced => &mut counts.quiesced,
                NodeState::Rebooting => &mut counts.rebooting,
                NodeState::Returning => &mut counts.returning,
                NodeState::Upgraded => &mut counts.upgraded,
                NodeState::Failed(_) => &mut counts.failed,
                NodeState::Released => &mut counts.released,
            } += 1;
        }
        counts
    }
}

/// Without the states that no node is in: "3 draining, 13 upgraded".
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { pending, draining, quiesced, rebooting, returning, upgraded, failed, released } = *self;
        let all = [
            (pending, "pending"),
            (draining, "draining"),
            (quiesced, "quiesced"),
            (rebooting, "rebooting"),
            (returning, "returning"),
            (upgraded, "upgraded"),
            (failed, "failed"),
            (released, "released"),
        ];
        let mut comma = "";
        for (count, word) in all.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "{comma}{count} {word}")?;
            comma = ", ";
        }
        Ok(())
    }
}

/// What the session waits for, in one sentence; `None` when it waits for nothing.
pub fn waits_for(session: &Session) -> Option<String> {
    let head = &session.head;
    if let Some(condition) = &head.condition {
        return Some(condition.clone());
    }
    if head.phase != Phase::Rolling {
        return None;
    }
    let such = |state: &NodeState| {
        let nodes = session.batch().filter(|node| node.state == *state);
        nodes.filter_map(|node| node.name.as_ref()).collect::<Vec<_>>()
    };
    let (nodes, what) = match head.stage {
        Stage::Quiescing => {
            let draining = such(&NodeState::Draining);
            // The jobs of squeue count as well: a suspended one leaves its node looking idle.
            let taken = |name: &NodeName| {
                let jobs = session.known.jobs.iter().flat_map(|seen| &seen.jobs);
                jobs.flat_map(|job| &job.nodes).any(|taken| taken == name)
            };
            let busy = |name: &&NodeName| {
                let seen = session.known.wlm.get(*name).and_then(|(_, seen)| seen.as_ref());
                seen.is_none_or(|seen| !seen.is_quiet()) || taken(name)
            };
            (draining.into_iter().filter(busy).collect(), "the jobs on")
        }
        Stage::Booting => (such(&NodeState::Rebooting), "the boot of"),
        Stage::WlmWaiting => (such(&NodeState::Returning), "the return of"),
        _ => return None,
    };
    let first = nodes.first()?;
    Some(match nodes.len() - 1 {
        0 => format!("{what} {first}"),
        more => format!("{what} {first} and {more} more"),
    })
}
