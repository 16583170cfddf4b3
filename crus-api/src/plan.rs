//! What an upgrade would come to, as it is answered.
//!
//! The properties of every object are serialized in alphabetical order: the fields below must stay so.

use crus_core::names::NodeName;
use crus_core::plan::{Condition, Finding, Plan, PlannedStep};
use crus_core::{Time, Xname, hostlist};
use serde::Serialize;

use crate::views::{ExpectedEnd, JobView, Stamp, seconds};

/// So many nodes are named in one place; how many there are is told beside them.
const NAMED_MAX: usize = 1_000;

/// What an upgrade would come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlanView {
    /// What the estimate does not know, in sentences.
    pub caveats: Vec<String>,
    /// What must be so, each met or not.
    pub conditions: Vec<ConditionView>,
    /// Within what times it would end, if it began now and nothing were in the way; `None`: that cannot be told.
    pub ends: Option<ExpectedEnd>,
    /// Whether every condition is met.
    pub feasible: bool,
    /// The nodes that will not make it, and why.
    pub lost: Vec<FindingView>,
    /// How many nodes the starting group holds.
    pub nodes: usize,
    /// When the plan was made.
    pub planned_at: Stamp,
    /// The first steps, in order: 100 at most.
    pub steps: Vec<StepView>,
    /// How many steps there are.
    pub steps_total: usize,
    /// How long it would take; `None`: that cannot be told.
    pub takes_s: Option<SecondsView>,
    /// What else there is to know of some nodes.
    pub warnings: Vec<FindingView>,
}

/// Something that must be so before a session goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConditionView {
    /// How it is, in words.
    pub detail: String,
    /// Whether it is so.
    pub met: bool,
    /// What it is about, in one word.
    pub name: &'static str,
}

/// The same thing about some nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FindingView {
    /// How many nodes.
    pub count: usize,
    /// What, in words.
    pub reason: String,
    /// The nodes, in order: the first 1000.
    pub xnames: Vec<Xname>,
}

/// A step as it would be now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepView {
    /// How many nodes it has.
    pub count: usize,
    /// Of the jobs that are on its nodes now, the one that ends last.
    pub job: Option<JobView>,
    /// Its nodes as a host list of the workload manager: the first 1000.
    pub nodes: String,
    /// When it is expected to start; `None`: that is too far away.
    pub starts: Option<Stamp>,
    /// Its number, from 0.
    pub step: u32,
    /// How long it is expected to take altogether, in seconds.
    pub takes_s: f64,
    /// How long it is expected to wait for jobs, in seconds.
    pub wait_s: f64,
}

/// Between so many seconds and so many.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct SecondsView {
    /// At most.
    pub high: f64,
    /// At least.
    pub low: f64,
}

impl PlanView {
    /// The plan as it is answered.
    pub fn of(plan: &Plan) -> Self {
        let ends = |(low, high): (Time, Time)| ExpectedEnd { high: Some(Stamp(high)), low: Some(Stamp(low)) };
        let takes = plan.takes();
        PlanView {
            caveats: plan.caveats.clone(),
            conditions: plan.conditions.iter().map(ConditionView::of).collect(),
            ends: plan.ends.map(ends),
            feasible: plan.is_feasible(),
            lost: plan.lost.iter().map(FindingView::of).collect(),
            nodes: plan.nodes.len(),
            planned_at: Stamp(plan.at),
            steps: plan.steps.iter().map(StepView::of).collect(),
            steps_total: plan.steps_total,
            takes_s: takes
                .map(|range| SecondsView { high: seconds(range.high_ms), low: seconds(range.low_ms) }),
            warnings: plan.warnings.iter().map(FindingView::of).collect(),
        }
    }
}

impl ConditionView {
    fn of(condition: &Condition) -> Self {
        let Condition { name, met, detail } = condition;
        ConditionView { detail: detail.clone(), met: *met, name }
    }
}

impl FindingView {
    fn of(finding: &Finding) -> Self {
        let xnames = finding.nodes.iter().take(NAMED_MAX).copied().collect();
        FindingView { count: finding.nodes.len(), reason: finding.reason.clone(), xnames }
    }
}

impl StepView {
    fn of(step: &PlannedStep) -> Self {
        let named: Vec<NodeName> = step.names.iter().take(NAMED_MAX).cloned().collect();
        StepView {
            count: step.nodes.len(),
            job: step.job.as_ref().map(JobView::of),
            nodes: hostlist::fold(&named).join(","),
            starts: step.starts.map(Stamp),
            step: step.number,
            takes_s: seconds(step.takes_ms),
            wait_s: seconds(step.wait_ms),
        }
    }
}
