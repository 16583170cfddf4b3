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
    for (xname, state) in fold(&sets, false) {
        // Whether a list of this name of a phase holds it.
        let lists = |phase: &Phase, name: &str| {
            let is_it = |category: &CategoryNodes| {
                let mut nodes = category.node_list.iter().filter_map(|node| Xname::new(node).ok());
                category.name.eq_ignore_ascii_case(name) && nodes.any(|node| node == xname)
            };
            phase.categories.iter().any(is_it)
        };
        let named = |phase: &&Phase, name: &str| phase.name.eq_ignore_ascii_case(name);
        match state {
            Some(BootNodeState::Succeeded) => {
                let boots = |set: &&BootSet, list: &str| {
                    set.phases
                        .iter()
                        .filter(|phase| named(phase, PHASES[BOOT]))
                        .any(|phase| lists(phase, list))
                };
                let others = ["failed", "excluded", "in_progress", "not_started"];
                let clean = |set: &&BootSet| !others.iter().any(|other| boots(set, other));
                assert!(
                    sets.iter().filter(|set| boots(set, "succeeded")).any(|set| clean(&set)),
                    "{xname}: {sets:?}"
                );
                let mut phases = sets.iter().flat_map(|set| &set.phases);
                let failed = phases
                    .any(|phase| PHASES.iter().any(|name| named(&phase, name)) && lists(phase, "failed"));
                assert!(!failed, "{xname}: {sets:?}");
            }
            Some(BootNodeState::Working(why) | BootNodeState::Failed(why) | BootNodeState::Stopped(why)) => {
                assert!(!why.is_empty());
                check_told(&why);
            }
            None => {}
        }
    }
}
