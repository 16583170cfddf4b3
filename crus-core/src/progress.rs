//! What a session waits for, in words.

use crate::model::{Head, HoldingJob, Node, NodeState, Phase, Stage};
use crate::names::NodeName;

/// What a session waits for, in one sentence; `None` when it waits for nothing. `step`: the nodes of its step, as they are
/// stored.
pub fn waits_for<'a>(head: &Head, step: impl IntoIterator<Item = &'a Node>) -> Option<String> {
    if let Some(condition) = &head.condition {
        return Some(condition.clone());
    }
    if head.phase != Phase::Rolling {
        return None;
    }
    let (state, what) = match head.stage {
        Stage::Quiescing => (NodeState::Draining, "the jobs on"),
        Stage::Booting => (NodeState::Rebooting, "the boot of"),
        Stage::WlmWaiting if head.soak_until.is_some() => {
            return Some(format!("the nodes of step {} to soak", head.step));
        }
        Stage::WlmWaiting => (NodeState::Returning, "the return of"),
        _ => return None,
    };
    let nodes: Vec<(&NodeName, Option<&HoldingJob>)> = step
        .into_iter()
        .filter(|node| node.state == state)
        .filter_map(|node| Some((node.name.as_ref()?, node.job.as_ref())))
        .collect();
    // Of draining nodes those count that run something, if it is known which.
    let busy: Vec<_> = nodes.iter().filter(|(_, job)| job.is_some()).collect();
    let waited: Vec<&NodeName> = match busy.as_slice() {
        [] => nodes.iter().map(|(name, _)| *name).collect(),
        busy => busy.iter().map(|(name, _)| *name).collect(),
    };
    let first = waited.first()?;
    Some(match waited.len() - 1 {
        0 => format!("{what} {first}"),
        more => format!("{what} {first} and {more} more"),
    })
}
