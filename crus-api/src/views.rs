//! A session as its operators look at it: its nodes one by one, and how far it is.
//!
//! The properties of every object are serialized in alphabetical order, as those of the contract are: the fields below
//! must stay so.

use std::fmt;
use std::sync::Arc;

use crus_core::model::{Counts, Head, Holder, HoldingJob, Node, NodeState, Pace, Pause};
use crus_core::time::WlmTime;
use crus_core::{Actor, NodeName, TenantName, Time, UpgradeId, Xname, messages};
use serde::{Serialize, Serializer};

use crate::service::{ServiceError, Sessions};
use crate::status::SessionState;

/// A moment: RFC 3339, in UTC, with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub Time);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.rfc3339())
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeView {
    /// Which attempt at it this is, from 0.
    pub attempt: u32,
    /// While it drains: of the jobs on it, the one that is expected to end last.
    pub job: Option<JobView>,
    /// Its name in the workload manager.
    pub name: Option<NodeName>,
    /// Why it failed, or who else keeps it out of service.
    pub reason: Option<String>,
    /// Since when it is in this state.
    pub since: Stamp,
    /// How it stands: one of [`NodeState::WORDS`].
    pub state: &'static str,
    /// The step that took it.
    pub step: Option<u32>,
    /// Its xname.
    pub xname: Xname,
}

impl NodeView {
    /// The node as it is.
    pub fn of(node: &Node) -> Self {
        let reason = match (&node.state, &node.holder) {
            (NodeState::Failed(failure), _) => Some(failure.to_string()),
            (_, Holder::Other(reason)) if reason.is_empty() => Some("held by somebody else".to_owned()),
            (_, Holder::Other(reason)) => Some(format!("held by somebody else: {reason}")),
            (_, Holder::Us) => None,
        };
        NodeView {
            attempt: node.attempt,
            job: node.job.as_ref().filter(|_| node.state == NodeState::Draining).map(JobView::of),
            name: node.name.clone(),
            reason,
            since: Stamp(node.since),
            state: node.state.word(),
            step: node.step,
            xname: node.xname,
        }
    }
}

/// A job that a node waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobView {
    /// When it ends at the latest, by the workload manager's clock; `None` without a limit.
    pub end: Option<Stamp>,
    /// Its id, as the workload manager prints it.
    pub id: String,
    /// Whose it is.
    pub user: String,
}

impl JobView {
    pub(crate) fn of(job: &HoldingJob) -> Self {
        JobView { end: job.end.map(WlmTime::as_time).map(Stamp), id: job.id.clone(), user: job.user.clone() }
    }
}

/// Which nodes of a session are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodesQuery {
    /// In these states alone, by their words.
    pub states: Option<Vec<&'static str>>,
    /// After this one, in the order of xnames.
    pub after: Option<Xname>,
    /// So many at most.
    pub limit: usize,
}

/// The states that only nodes of the step at work are in.
const OF_STEP: [NodeState; 4] =
    [NodeState::Draining, NodeState::Quiesced, NodeState::Rebooting, NodeState::Returning];

impl NodesQuery {
    fn wants(&self, node: &Node) -> bool {
        self.states.as_ref().is_none_or(|states| states.contains(&node.state.word()))
    }

    /// Who watches asks for these again and again: all nodes of a large session must not be read for that.
    fn is_of_step(&self) -> bool {
        let is_of_step = |word: &&str| OF_STEP.iter().any(|state| state.word() == *word);
        self.states.as_ref().is_some_and(|states| states.iter().all(is_of_step))
    }
}

/// Some nodes of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodePage {
    /// The last of them, when more follow: what to ask for next.
    pub next: Option<Xname>,
    /// The nodes, in the order of their xnames.
    pub nodes: Vec<NodeView>,
}

/// So many nodes are read at a time: one of 100,000 in a state must not cost 100,000 reads, nor all of them memory.
const CHUNK: usize = 1000;

impl NodePage {
    /// Reads the nodes that are wanted; `None` when there is no such session.
    pub(crate) async fn read(
        sessions: &Arc<dyn Sessions>,
        id: UpgradeId,
        query: &NodesQuery,
    ) -> Result<Option<Self>, ServiceError> {
        if sessions.head(id).await?.is_none() {
            return Ok(None);
        }
        if query.is_of_step() {
            return Ok(Some(Self::of_step(&sessions.step_nodes(id).await?, query)));
        }
        let mut from = match query.after {
            None => 0,
            Some(after) => position_after(sessions, id, after).await?,
        };
        let mut nodes = Vec::new();
        loop {
            let chunk = sessions.nodes(id, from, CHUNK).await?;
            // One more than wanted tells that more follow.
            let missing = (query.limit + 1).saturating_sub(nodes.len());
            nodes.extend(chunk.iter().filter(|node| query.wants(node)).take(missing).map(NodeView::of));
            if chunk.len() < CHUNK || nodes.len() > query.limit {
                break;
            }
            from += chunk.len();
        }
        Ok(Some(Self::of(nodes, query)))
    }

    /// Those of the nodes of a step that are wanted.
    fn of_step(step: &[Node], query: &NodesQuery) -> Self {
        let is_after = |node: &&Node| query.after.is_none_or(|after| node.xname > after);
        let mut wanted: Vec<&Node> = step.iter().filter(is_after).filter(|node| query.wants(node)).collect();
        wanted.sort_unstable_by_key(|node| node.xname);
        Self::of(wanted.into_iter().take(query.limit + 1).map(NodeView::of).collect(), query)
    }

    /// One more than wanted tells that more follow.
    fn of(mut nodes: Vec<NodeView>, query: &NodesQuery) -> Self {
        let more_follow = nodes.len() > query.limit;
        nodes.truncate(query.limit);
        let next = nodes.last().map(|node| node.xname).filter(|_| more_follow);
        NodePage { next, nodes }
    }
}

/// The position of the first node after this one. Nodes are in the order of their xnames.
async fn position_after(
    sessions: &Arc<dyn Sessions>,
    id: UpgradeId,
    after: Xname,
) -> Result<usize, ServiceError> {
    let is_before = async |position: usize| -> Result<bool, ServiceError> {
        Ok(sessions.nodes(id, position, 1).await?.first().is_some_and(|node| node.xname <= after))
    };
    // How many there are is found out on the way.
    let mut end = 1;
    while is_before(end - 1).await? {
        end *= 2;
    }
    let mut begin = end / 2;
    end -= 1;
    while begin < end {
        let middle = usize::midpoint(begin, end);
        match is_before(middle).await? {
            true => begin = middle + 1,
            false => end = middle,
        }
    }
    Ok(begin)
}

/// How far a session is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Progress {
    /// How long the boots of steps took, once one did.
    pub boot_s: Option<BootTimes>,
    /// How many nodes are in which state.
    pub counts: CountsView,
    /// Who created it; `None` where nobody is asked who they are, here as below.
    pub created_by: Option<Actor>,
    /// Who had it deleted.
    pub deleted_by: Option<Actor>,
    /// How long it has worked, or did until its end, in seconds.
    pub elapsed_s: f64,
    /// When it is expected to end; `None` when nobody can tell, or it has ended.
    pub expected_end: Option<ExpectedEnd>,
    /// Why no other step is started, while that is so.
    pub paused: Option<PauseView>,
    /// Who paused it, when an operator did.
    pub paused_by: Option<Actor>,
    /// How many of a hundred nodes are through, whatever came of them.
    pub percent: u8,
    /// Where its step stands.
    pub stage: String,
    /// What it does.
    pub state: SessionState,
    /// The step at work, from 0.
    pub step: u32,
    /// The tenant for whom its nodes are booted.
    pub tenant: Option<TenantName>,
    /// How many nodes it has; 0 until its turn has come.
    pub total: usize,
    /// The id.
    pub upgrade_id: UpgradeId,
    /// What it waits for, in one sentence.
    pub waits_for: Option<String>,
}

/// What of a session's progress is not in its head.
#[derive(Debug, Clone, PartialEq)]
pub struct Beside {
    /// Whether its deletion was ordered.
    pub deletion_ordered: bool,
    /// What it waits for, in one sentence.
    pub waits_for: Option<String>,
    /// When it is expected to end.
    pub expected_end: Option<ExpectedEnd>,
    /// Now.
    pub now: Time,
}

impl Progress {
    /// How far the session is.
    pub fn of(head: &Head, beside: Beside) -> Self {
        let Counts { upgraded, failed, skipped, released, .. } = head.counts;
        let total = head.counts.total();
        let through = upgraded + failed + skipped + released;
        let percent = match total {
            0 => 100 * usize::from(head.is_done()),
            total => through * 100 / total,
        };
        let state = if beside.deletion_ordered { SessionState::Deleting } else { SessionState::of(head) };
        Progress {
            boot_s: BootTimes::of(&head.pace),
            counts: CountsView::of(&head.counts),
            created_by: head.created_by.clone(),
            deleted_by: head.deleted_by.clone(),
            elapsed_s: seconds(head.ended.unwrap_or(beside.now).since(head.created)),
            expected_end: beside.expected_end,
            paused: head.pause.as_ref().map(PauseView::of),
            paused_by: head.pause.as_ref().and_then(|pause| pause.by.clone()),
            percent: u8::try_from(percent).unwrap_or(100),
            stage: head.stage.to_string(),
            state,
            step: head.step,
            tenant: head.spec.tenant.clone(),
            total,
            upgrade_id: head.id,
            waits_for: beside.waits_for,
        }
    }
}

/// How long the boots of steps took, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct BootTimes {
    /// On average.
    pub average: f64,
    /// The quickest.
    pub least: f64,
    /// The slowest.
    pub most: f64,
}

impl BootTimes {
    fn of(pace: &Pace) -> Option<Self> {
        let average = pace.total_ms.checked_div(u64::from(pace.boots))?;
        Some(BootTimes {
            average: seconds(average),
            least: seconds(pace.least_ms),
            most: seconds(pace.most_ms),
        })
    }
}

/// How many nodes are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the words of the states, see NodeState")]
pub struct CountsView {
    pub deferred: usize,
    pub draining: usize,
    pub failed: usize,
    pub pending: usize,
    pub quiesced: usize,
    pub rebooting: usize,
    pub released: usize,
    pub returning: usize,
    pub skipped: usize,
    pub upgraded: usize,
}

impl CountsView {
    /// The counts.
    pub fn of(counts: &Counts) -> Self {
        let Counts { pending, draining, quiesced, rebooting, returning, .. } = *counts;
        let Counts { upgraded, failed, skipped, deferred, released, .. } = *counts;
        CountsView {
            deferred,
            draining,
            failed,
            pending,
            quiesced,
            rebooting,
            released,
            returning,
            skipped,
            upgraded,
        }
    }
}

/// Within what times a session is expected to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ExpectedEnd {
    /// At the latest; `None`: that cannot be told.
    pub high: Option<Stamp>,
    /// At the soonest; `None`: that cannot be told.
    pub low: Option<Stamp>,
}

/// Why and since when no other step is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PauseView {
    /// Why, in words.
    pub reason: String,
    /// Since when.
    pub since: Stamp,
}

impl PauseView {
    fn of(pause: &Pause) -> Self {
        PauseView { reason: messages::paused(&pause.why), since: Stamp(pause.since) }
    }
}

/// Milliseconds as seconds.
pub(crate) fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}
