//! The picture that `watch` shows on a terminal, as lines of text: what is on it follows from its arguments alone.

use std::collections::VecDeque;

use console::{Style, pad_str, truncate_str};
use crus_core::model::Counts;
use jiff::Timestamp;

use super::output::{clean, seconds};
use super::time;
use super::views::{Echo, Event, Node, Progress, Session, nodes, pausing};

/// How wide a bar is, in characters.
const BAR: usize = 32;
/// The most nodes and events that are shown, where there is room.
const NODES_MAX: usize = 12;
const EVENTS_MAX: usize = 8;
/// States that have a bar even when no node is in them.
const ALWAYS: [&str; 3] = ["pending", "upgraded", "failed"];

/// What is known of a session that is followed.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    pub(crate) session: Session,
    pub(crate) progress: Progress,
    /// The nodes in flight.
    pub(crate) nodes: Vec<Node>,
    /// The latest events, the oldest first.
    pub(crate) events: VecDeque<Event>,
    /// Why the service cannot be reached, while it cannot.
    pub(crate) lost: Option<String>,
    pub(crate) echo: Echo,
}

impl Picture {
    /// Takes in an event; forgets what would not be shown any more.
    pub(crate) fn add(&mut self, event: Event) {
        if self.echo.is_one(&event) {
            return;
        }
        self.events.push_back(event);
        while self.events.len() > EVENTS_MAX {
            self.events.pop_front();
        }
    }

    /// The lines, none wider than `width` and no more than `height`.
    pub(crate) fn lines(&self, now: Timestamp, width: usize, height: usize) -> Vec<String> {
        let mut lines = self.head(now);
        lines.push(String::new());
        lines.extend(self.bars());
        // What is left goes to the nodes first, but for three events.
        let room = height.saturating_sub(lines.len() + 2);
        let nodes = self.nodes.len().min(NODES_MAX).min(room.saturating_sub(self.events.len().min(3)));
        let events =
            self.events.len().min(room.saturating_sub(nodes + usize::from(self.nodes.len() > nodes)));
        if nodes > 0 {
            lines.push(String::new());
            lines.extend(self.node_lines(now, nodes));
        }
        if events > 0 {
            lines.push(String::new());
            let latest = self.events.iter().skip(self.events.len() - events);
            lines.extend(latest.map(|event| {
                let at = time::clock(now, &event.at);
                format!("{}  {}", Style::new().dim().apply_to(clean(&at)), clean(&event.words()))
            }));
        }
        lines.truncate(height);
        lines.iter().map(|line| truncate_str(line, width, "…").into_owned()).collect()
    }

    fn head(&self, now: Timestamp) -> Vec<String> {
        let (session, progress) = (&self.session, &self.progress);
        let bold = Style::new().bold();
        let mut lines = vec![format!(
            "{}  {} -> {}",
            bold.apply_to(clean(&session.upgrade_id)),
            clean(&session.starting_label),
            clean(&session.upgrade_template_id)
        )];
        let state = standing(progress);
        let of = format!("{:.0} % of {}", progress.percent, nodes(progress.total as u64));
        let elapsed = time::duration(progress.elapsed_s);
        let so_far = if session.completed { "" } else { " so far" };
        lines.push(format!("{}, {of}, {elapsed}{so_far}", clean(&state)));
        let expected = progress.expected_end.as_ref().and_then(|end| time::expected(now, end));
        lines.extend(expected.map(|end| format!("expected end {}", clean(&end))));
        let yellow = Style::new().yellow();
        if let Some(paused) = &progress.paused {
            lines.push(yellow.apply_to(clean(&paused.reason)).to_string());
            lines.extend(pausing(progress));
        } else {
            lines.extend(progress.waits_for.as_ref().map(|what| clean(&format!("waits: {what}"))));
        }
        if let Some(why) = &self.lost {
            let text = clean(&format!("{why}; trying again"));
            lines.push(Style::new().red().apply_to(text).to_string());
        }
        lines
    }

    fn bars(&self) -> Vec<String> {
        let counts = &self.progress.counts;
        let total = counts.total().max(1);
        let shown = counts.named().into_iter().filter(|(word, count)| *count > 0 || ALWAYS.contains(word));
        let digits = counts.total().to_string().len();
        shown
            .map(|(word, count)| {
                // A node is seen, however many there are.
                let filled = (count * BAR / total).max(usize::from(count > 0));
                let bar = format!("{}{}", "#".repeat(filled), ".".repeat(BAR - filled.min(BAR)));
                format!("{word:<9}  {}  {count:>digits$}", color(word).apply_to(bar))
            })
            .collect()
    }

    fn node_lines(&self, now: Timestamp, count: usize) -> Vec<String> {
        let name = |node: &Node| clean(node.name.as_deref().unwrap_or(&node.xname));
        let width = self.nodes.iter().take(count).map(|node| name(node).len()).max().unwrap_or_default();
        let line = |node: &Node| {
            let state = color(&node.state).apply_to(pad_str(&node.state, 9, console::Alignment::Left, None));
            format!("{:width$}  {state}  {}", name(node), clean(&waits_for(now, node)))
        };
        let mut lines: Vec<String> = self.nodes.iter().take(count).map(line).collect();
        if self.nodes.len() > count {
            lines.push(format!("and {} more", self.nodes.len() - count));
        }
        lines
    }
}

/// What a session does, with its step.
pub(crate) fn standing(progress: &Progress) -> String {
    match (progress.step, &progress.stage) {
        // Before its nodes are known and after its end it is in no step.
        (Some(step), Some(stage)) if progress.total > 0 && progress.state != "READY" => {
            format!("{}, step {step} {stage}", progress.state)
        }
        _ => progress.state.clone(),
    }
}

/// What a node waits for.
pub(crate) fn waits_for(now: Timestamp, node: &Node) -> String {
    let mut parts = Vec::new();
    if let Some(job) = &node.job {
        let id = job.id.as_deref().unwrap_or("of unknown id");
        let user = job.user.as_ref().map(|user| format!(" of {user}")).unwrap_or_default();
        let end = match &job.end {
            Some(end) => format!("ends {}", time::moment(now, end)),
            None => "its end is not known".to_owned(),
        };
        parts.push(format!("job {id}{user}, {end}"));
    } else if let Some(since) = &node.since {
        let for_s = time::from_now(now, since).map(|seconds| time::duration((-seconds).max(0.0)));
        parts.push(for_s.map_or_else(|| format!("since {}", seconds(since)), |text| format!("for {text}")));
    }
    parts.extend(node.reason.clone());
    if node.attempt > 0 {
        parts.push(format!("attempt {}", node.attempt + 1));
    }
    parts.join("; ")
}

fn color(state: &str) -> Style {
    match state {
        "upgraded" => Style::new().green(),
        "failed" | "skipped" => Style::new().red(),
        "draining" | "quiesced" => Style::new().yellow(),
        "rebooting" | "returning" => Style::new().cyan(),
        _ => Style::new().dim(),
    }
}

/// Whether all of them were upgraded.
pub(crate) fn all_upgraded(counts: &Counts) -> bool {
    counts.upgraded == counts.total()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn picture() -> Picture {
        let session = json!({"upgrade_id": "45a24461-eee3-4b58-b1c2-4c0798e363dd", "starting_label": "slurm-nodes",
            "upgrade_template_id": "new-image"});
        let progress = json!({
            "counts": {"pending": 36, "draining": 3, "rebooting": 1, "upgraded": 23, "failed": 1},
            "elapsed_s": 754.2, "percent": 37.5, "stage": "QUIESCING", "state": "UPDATING", "step": 3, "total": 64,
            "expected_end": {"low": "2026-11-24T10:40:00.000Z", "high": "2026-11-24T11:10:00.000Z"},
            "waits_for": "the jobs on nid000012 and 2 more"});
        let job = json!({"end": "2026-11-24T10:35:00Z", "id": "17", "user": "alice"});
        let node = |name: &str, state: &str, job| json!({"name": name, "xname": "x1", "state": state, "since": "2026-11-24T10:28:00Z", "job": job});
        let nodes = json!([
            node("nid000012", "draining", job),
            node("nid000013", "draining", json!({"id": "18", "user": "bob\u{1b}[31m", "end": null})),
            node("nid000014", "rebooting", json!(null)),
        ]);
        let events = json!([
            {"number": 1, "at": "2026-11-24T10:20:00.5Z", "kind": "started", "nodes": 64, "step": 0},
            {"number": 2, "at": "2026-11-24T10:29:00.5Z", "kind": "stage", "stage": "QUIESCING", "step": 3},
        ]);
        Picture {
            session: serde_json::from_value(session).unwrap(),
            progress: serde_json::from_value(progress).unwrap(),
            nodes: serde_json::from_value(nodes).unwrap(),
            events: serde_json::from_value(events).unwrap(),
            lost: None,
            echo: Echo::default(),
        }
    }

    fn drawn(picture: &Picture, width: usize, height: usize) -> Vec<String> {
        console::set_colors_enabled(false);
        picture.lines("2026-11-24T10:30:00Z".parse().unwrap(), width, height)
    }

    #[test]
    fn the_picture_shows_states_nodes_what_they_wait_for_events_and_the_end() {
        let expected = "\
45a24461-eee3-4b58-b1c2-4c0798e363dd  slurm-nodes -> new-image
UPDATING, step 3 QUIESCING, 38 % of 64 nodes, 12 min so far
expected end 10:40:00 to 11:10:00 UTC (in 10 min to 40 min)
waits: the jobs on nid000012 and 2 more

pending    ##################..............  36
draining   #...............................   3
rebooting  #...............................   1
upgraded   ###########.....................  23
failed     #...............................   1

nid000012  draining   job 17 of alice, ends 10:35:00 UTC (in 5 min)
nid000013  draining   job 18 of bob [31m, its end is not known
nid000014  rebooting  for 2 min

10:20:00  started: 64 nodes to upgrade
10:29:00  step 3: QUIESCING";
        assert_eq!(drawn(&picture(), 100, 40).join("\n"), expected);
    }

    #[test]
    fn it_fits_into_any_terminal() {
        let mut picture = picture();
        picture.lost = Some("the service is away".to_owned());
        picture.progress.paused = Some(Default::default());
        for _ in 0..100 {
            picture.nodes.push(picture.nodes[0].clone());
            picture.add(picture.events[0].clone());
        }
        for height in 0..60 {
            for width in [1, 20, 80] {
                let lines = drawn(&picture, width, height);
                assert!(lines.len() <= height, "{height}: {lines:#?}");
                assert!(lines.iter().all(|line| console::measure_text_width(line) <= width), "{lines:#?}");
            }
        }
        let lines = drawn(&picture, 80, 24);
        assert!(lines.iter().any(|line| line.contains("more")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("started")), "{lines:#?}");
    }
}
