//! What must hold of what BOS answers.

use crus_core::fuzzing::check_told;
use crus_core::names::BootSessionName;
use crus_core::ports::{BootNodeState, BootStatus};

use super::{Component, Session, said};

/// A session is complete, and a node booted, only when BOS says just that, and of the session that was asked about.
pub(crate) fn answers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let has_escapes = text.contains('\\');
    if let Ok(session) = serde_json::from_slice::<Session>(data) {
        if session.status() == Some(BootStatus::Complete) {
            assert!(text.contains("\"complete\"") || has_escapes, "{text:?}");
        }
        for member in session.members() {
            let lower = text.to_ascii_lowercase();
            assert!(lower.contains(&member.to_string()) || has_escapes, "{member} is not in {text:?}");
        }
        if let Some(error) = said(session.status.error) {
            check_told(&error);
        }
    }
    let (Ok(found), Ok(ours)) =
        (serde_json::from_slice::<Vec<Component>>(data), BootSessionName::new("crus-1"))
    else {
        return;
    };
    for component in found {
        let (enabled, status) = (component.enabled, component.status.as_ref().and_then(|s| s.status.clone()));
        let (error, session) = (component.error.clone(), component.session.clone());
        let Some(node) = component.boot_node(&ours) else { continue };
        assert_eq!(session.as_deref(), Some(ours.as_str()));
        match node.state {
            BootNodeState::Succeeded => {
                assert_eq!(
                    (status.map(|status| status.trim().to_owned()).as_deref(), enabled),
                    (Some("stable"), Some(false))
                );
                assert_eq!(said(error), None);
            }
            BootNodeState::Working(why) | BootNodeState::Failed(why) | BootNodeState::Stopped(why) => {
                assert!(!why.is_empty());
                check_told(&why);
            }
        }
    }
}
