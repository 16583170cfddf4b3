//! What must hold of what BOS v1 answers.

use crus_core::Xname;
use crus_core::fuzzing::check_told;
use crus_core::ports::BootNodeState;

use super::{BOOT, BootSet, CategoryNodes, Listed, PHASES, Phase, SessionHead, SessionStatus, fold};

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
    for (xname, story) in fold(&sets) {
        // In which phases a list of this name holds it.
        let lists = |name: &str| {
            let is_it = |category: &&CategoryNodes| {
                let nodes = || category.node_list.iter().filter_map(|node| Xname::new(node).ok());
                category.name.eq_ignore_ascii_case(name) && nodes().any(|node| node == xname)
            };
            let holds = |phase: &&Phase| phase.categories.iter().any(|category| is_it(&category));
            let phases = sets.iter().flat_map(|set| &set.phases).filter(holds);
            phases.map(|phase| phase.name.to_ascii_lowercase()).collect::<Vec<_>>()
        };
        match story.state() {
            Some(BootNodeState::Succeeded) => {
                let boots = |list: &str| lists(list).iter().any(|phase| phase == PHASES[BOOT]);
                assert!(boots("succeeded"), "{xname}: {sets:?}");
                for other in ["failed", "excluded", "in_progress", "not_started"] {
                    assert!(!boots(other), "{xname} is {other}: {sets:?}");
                }
                let failed = lists("failed");
                assert!(!failed.iter().any(|phase| PHASES.contains(&phase.as_str())), "{xname}: {sets:?}");
            }
            Some(BootNodeState::Working(why) | BootNodeState::Failed(why) | BootNodeState::Stopped(why)) => {
                assert!(!why.is_empty());
                check_told(&why);
            }
            None => {}
        }
    }
}
