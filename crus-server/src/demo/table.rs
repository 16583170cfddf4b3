//! What happened to which node, as a table.

use std::collections::BTreeMap;

use comfy_table::{ContentArrangement, Table, presets};
use crus_core::hostlist;
use crus_core::messages;
use crus_core::model::NodeState;
use crus_core::wlm::WlmNode;
use crus_core::{NodeName, Session};
use crus_sim::Cluster;
use crus_sim::http::LiveCluster;

/// How wide the table may be, in characters: it is the same in a file as in a terminal.
const WIDTH: u16 = 132;

/// One row for the nodes of a step with the same fate.
pub(super) fn of(session: &Session, live: &LiveCluster) -> Table {
    let mut rows: BTreeMap<(u32, String, String), Vec<NodeName>> = BTreeMap::new();
    for node in &session.nodes {
        let Some(name) = &node.name else { continue };
        let outcome = match &node.state {
            NodeState::Upgraded => "upgraded".to_owned(),
            // The messages tell the rest.
            NodeState::Failed(why) => why.to_string().split(':').next().unwrap_or_default().to_owned(),
            other => format!("{other:?}").to_lowercase(),
        };
        let slurm = match live.with(|cluster| seen(cluster, name)) {
            Some(node) => match &node.reason {
                // The outcome tells what an upgrade wrote there.
                Some(reason) if !messages::is_crus_reason(reason) => format!("{}: {reason}", node.state()),
                _ if node.is_in_service() => "in service".to_owned(),
                _ => node.state(),
            },
            None => "unknown".to_owned(),
        };
        rows.entry((node.step.unwrap_or_default(), outcome, slurm)).or_default().push(name.clone());
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_width(WIDTH);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["step", "nodes", "", "outcome", "in Slurm now"]);
    for ((step, outcome, slurm), names) in rows {
        let count = names.len().to_string();
        table.add_row([step.to_string(), hostlist::fold(&names).join(","), count, outcome, slurm]);
    }
    table
}

/// A node as the simulated Slurm has it.
pub(super) fn seen(cluster: &Cluster, name: &NodeName) -> Option<WlmNode> {
    let shown = cluster.show_nodes(std::slice::from_ref(name)).ok()?;
    Some(WlmNode::from(shown.nodes.first()?.clone()))
}
