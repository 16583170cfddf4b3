//! What must hold of what BOS v1 answers.

use crus_core::fuzzing::check_told;
use crus_core::ports::BootNodeState;

use super::{BootSet, Listed, SessionHead, SessionStatus, fold};

/// The id of a session is one part of a path; a node that is said to have failed or to be at work has not succeeded.
pub(crate) fn answers(data: &[u8]) {
    if let Ok(listed) = serde_json::from_slice::<Listed>(data)
        && let Some(id) = listed.id()
    {
        let may_hold = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let text = id.to_string();
        assert!(!text.is_empty() && text.chars().all(may_hold) && ![".", ".."].contains(&&*text), "{text:?}");
    }
    if let Ok(head) = serde_json::from_slice::<SessionHead>(data)
        && head.is_complete()
    {
        let text = String::from_utf8_lossy(data).to_ascii_lowercase();
        assert!(text.contains("true") || text.contains('\\'), "{text:?}");
    }
    _ = serde_json::from_slice::<SessionStatus>(data);
    let sets: Vec<BootSet> = match serde_json::from_slice(data) {
        Ok(sets) => sets,
        Err(_) => serde_json::from_slice(data).map(|set| vec![set]).unwrap_or_default(),
    };
    let lists = || {
        let phases = sets.iter().flat_map(|set| &set.phases);
        phases.flat_map(|phase| &phase.categories).flat_map(|category| {
            category.node_list.iter().map(|node| (category.name.as_str(), node.to_ascii_lowercase()))
        })
    };
    for (xname, story) in fold(&sets) {
        let name = xname.to_string();
        let is_in = |list: &str| lists().any(|(category, node)| category == list && node.trim() == name);
        match story.state() {
            Some(BootNodeState::Succeeded) => {
                assert!(is_in("succeeded"), "{name}: {sets:?}");
                assert!(
                    !is_in("failed") && !is_in("in_progress") && !is_in("not_started"),
                    "{name}: {sets:?}"
                );
            }
            Some(BootNodeState::Working(why) | BootNodeState::Failed(why) | BootNodeState::Stopped(why)) => {
                assert!(!why.is_empty());
                check_told(&why);
            }
            None => {}
        }
    }
}
