//! What must hold of what HSM answers.

use std::collections::BTreeSet;

use crus_core::GroupLabel;

use super::{Component, Components, Group};

/// A group holds nodes that it names, and nothing else. Of a node nothing is known but what was said.
pub(crate) fn answers(data: &[u8]) {
    let text = String::from_utf8_lossy(data).to_ascii_lowercase();
    if let (Ok(group), Ok(label)) = (serde_json::from_slice::<Group>(data), GroupLabel::new("all")) {
        for node in group.nodes(&label) {
            // A text may be written with escapes, too.
            assert!(text.contains(&node.to_string()) || text.contains('\\'), "{node} is not in {text:?}");
        }
    }
    if let Ok(found) = serde_json::from_slice::<Components>(data) {
        let facts: Vec<_> = found.components.into_iter().flatten().filter_map(Component::facts).collect();
        let nids: BTreeSet<u32> = facts.iter().filter_map(|facts| facts.nid).collect();
        assert!(!nids.contains(&0));
        for facts in &facts {
            assert!(facts.enabled || text.contains("false"), "{text:?}");
            assert!(!facts.locked || text.contains("true"), "{text:?}");
        }
    }
}
