//! What an upgrade would come to, as the service sees it.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::error::ClientError;
use super::exit;
use super::output::{Output, clean, pairs};
use super::time;
use super::views::{Expected, Job, fold, nodes, some};
use super::wire::view;

/// How long the list of some nodes may be, for people.
const LIST_MAX: usize = 80;

/// A plan, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Plan {
    caveats: Vec<String>,
    conditions: Vec<Condition>,
    ends: Option<Expected>,
    lost: Vec<Finding>,
    nodes: u64,
    steps: Vec<Step>,
    steps_total: usize,
    takes_s: Option<Seconds>,
    warnings: Vec<Finding>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Condition {
    detail: String,
    met: bool,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Finding {
    count: u64,
    reason: String,
    xnames: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Step {
    count: u64,
    job: Option<Job>,
    nodes: String,
    starts: Option<String>,
    step: u32,
    takes_s: f64,
    wait_s: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Seconds {
    high: f64,
    low: f64,
}

/// A plan for people.
pub(crate) fn table(output: Output, plan: &Value) -> Result<String, ClientError> {
    let plan: Plan = view(plan)?;
    let now = Timestamp::now();
    let unmet = plan.conditions.iter().filter(|condition| !condition.met).count();
    let could_begin = match unmet {
        0 => "yes".to_owned(),
        1 => "no: a condition is not met".to_owned(),
        unmet => format!("no: {unmet} conditions are not met"),
    };
    let takes = plan.takes_s.as_ref();
    let takes = takes.map(|takes| format!("{} to {}", time::duration(takes.low), time::duration(takes.high)));
    let ends = plan.ends.as_ref().and_then(|ends| time::expected(now, ends));
    let mut text = pairs(&[
        ("Could begin", could_begin),
        ("Nodes", format!("{}, in {}", nodes(plan.nodes), some(plan.steps_total as u64, "step"))),
        ("Would take", takes.unwrap_or_else(|| "that cannot be told".to_owned())),
        ("Would end", ends.unwrap_or_default()),
    ]);
    let marks = plan.conditions.iter().map(|condition| {
        let mark = if condition.met { "ok" } else { "NOT MET" };
        vec![condition.name.clone(), mark.to_owned(), condition.detail.clone()]
    });
    text += &format!("\n{}", output.table(&["CONDITION", "", ""], marks));
    if !plan.steps.is_empty() {
        let rows = plan.steps.iter().map(|step| step.row(now));
        let head = ["STEP", "NODES", "STARTS (UTC)", "WAITS FOR JOBS", "TAKES", "LAST JOB", "WHICH"];
        text += &format!("\n{}", output.table(&head, rows));
        let more = plan.steps_total.saturating_sub(plan.steps.len());
        if more > 0 {
            text += &format!("and {} more\n", some(more as u64, "step"));
        }
    }
    for (heading, findings) in [("Will not make it", &plan.lost), ("Worth knowing", &plan.warnings)] {
        section(&mut text, heading, findings.iter().map(Finding::words));
    }
    section(&mut text, "What the estimate does not know", plan.caveats.iter().cloned());
    Ok(text)
}

fn section(text: &mut String, heading: &str, lines: impl Iterator<Item = String>) {
    let lines: String = lines.map(|line| format!("  {}\n", clean(&line))).collect();
    if !lines.is_empty() {
        *text += &format!("\n{heading}\n{lines}");
    }
}

impl Step {
    fn row(&self, now: Timestamp) -> Vec<String> {
        let job = self.job.as_ref().map(|job| {
            let user = job.user.as_ref().map(|user| format!(" of {user}")).unwrap_or_default();
            let end =
                job.end.as_ref().map(|end| format!(", to {}", time::clock(now, end))).unwrap_or_default();
            format!("{}{user}{end}", job.id.as_deref().unwrap_or_default())
        });
        vec![
            self.step.to_string(),
            self.count.to_string(),
            self.starts.as_ref().map(|starts| time::clock(now, starts)).unwrap_or_default(),
            time::duration(self.wait_s),
            time::duration(self.takes_s),
            job.unwrap_or_default(),
            short(&self.nodes),
        ]
    }
}

impl Finding {
    fn words(&self) -> String {
        format!("{}, {}: {}", nodes(self.count), self.reason, short(&fold(&self.xnames)))
    }
}

fn short(list: &str) -> String {
    console::truncate_str(list, LIST_MAX, "…").into_owned()
}

/// What a script is told: whether the upgrade could begin, and every node would make it.
pub(crate) fn code(plan: &Value) -> Result<u8, ClientError> {
    let plan: Plan = view(plan)?;
    let is_fine = plan.lost.is_empty() && plan.conditions.iter().all(|condition| condition.met);
    Ok(if is_fine { exit::OK } else { exit::NOT_ALL })
}
