//! A session as the contract shows it.

use std::num::NonZeroU32;

use crus_core::model::{Head, Phase};
use crus_core::{GroupLabel, Message, TemplateName, UpgradeId};
use serde::{Deserialize, Serialize};

/// The status of a session: the contract's `SessionStatus`.
///
/// Its properties are serialized in alphabetical order, as the original did, because its command-line client
/// prints them in the order received: the fields below are in that order, and must stay so.
///
/// Labels are in lower case, whatever was sent: HSM knows no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The version of the API that created the session.
    pub api_version: String,
    /// Whether nothing is left to do.
    pub completed: bool,
    /// The HSM group that receives the nodes that fail.
    pub failed_label: GroupLabel,
    /// What this object is.
    pub kind: Kind,
    /// What happened, in order, for people.
    pub messages: Vec<String>,
    /// The HSM group of all nodes to upgrade.
    pub starting_label: GroupLabel,
    /// What the session does.
    pub state: SessionState,
    /// The id.
    pub upgrade_id: UpgradeId,
    /// How many nodes at most a step has.
    pub upgrade_step_size: NonZeroU32,
    /// The BOS session template to boot from.
    pub upgrade_template_id: TemplateName,
    /// The HSM group that holds the nodes in flight.
    pub upgrading_label: GroupLabel,
    /// The workload manager.
    pub workload_manager_type: WorkloadManager,
}

impl SessionStatus {
    /// The session as it is now.
    pub fn of(head: &Head, messages: &[Message]) -> Self {
        SessionStatus {
            api_version: head.api_version.clone(),
            // An upgrade that was cut short did not complete, though nothing is left to do for it.
            completed: head.is_done() && head.deletion.is_none(),
            failed_label: head.spec.failed.clone(),
            kind: Kind::ComputeUpgradeSession,
            messages: messages.iter().map(ToString::to_string).collect(),
            starting_label: head.spec.starting.clone(),
            state: SessionState::of(head),
            upgrade_id: head.id,
            upgrade_step_size: head.spec.step_size,
            upgrade_template_id: head.spec.template.clone(),
            upgrading_label: head.spec.upgrading.clone(),
            workload_manager_type: WorkloadManager::Slurm,
        }
    }
}

/// What a session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum SessionState {
    /// It waits for a session that shares a group or a node with it.
    Created,
    /// It is done.
    Ready,
    /// Its deletion was asked for: it winds up, then disappears.
    Deleting,
    /// It works. So does a session that has only just been created, as in the original.
    Updating,
}

impl SessionState {
    /// The state of the session.
    pub fn of(head: &Head) -> Self {
        match head.phase {
            _ if head.deletion.is_some() => SessionState::Deleting,
            Phase::Created if head.queued => SessionState::Created,
            Phase::Created | Phase::Rolling => SessionState::Updating,
            Phase::Done => SessionState::Ready,
        }
    }
}

/// The kind of a session. There is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A rolling upgrade of compute nodes.
    ComputeUpgradeSession,
}

/// A workload manager. One is supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadManager {
    /// Slurm.
    Slurm,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crus_core::{Limits, Session, Spec, Time};

    fn session() -> Session {
        let spec = Spec {
            starting: "Nodes".parse().unwrap(),
            upgrading: "upgrading".parse().unwrap(),
            failed: "failed".parse().unwrap(),
            step_size: NonZeroU32::MIN,
            template: "Image".parse().unwrap(),
            tenant: None,
            strategy: crus_core::Strategy::default(),
        };
        Session::new(UpgradeId(uuid::Uuid::nil()), spec, "1.2.3", Limits::default(), Time(0))
    }

    fn in_phase(phase: Phase) -> Session {
        let mut session = session();
        session.head.phase = phase;
        session
    }

    fn shown(session: &Session) -> (SessionState, bool) {
        let status = SessionStatus::of(&session.head, &session.messages);
        (status.state, status.completed)
    }

    #[test]
    fn a_session_works_from_its_creation_until_it_is_done() {
        assert_eq!(shown(&in_phase(Phase::Created)), (SessionState::Updating, false));
        assert_eq!(shown(&in_phase(Phase::Rolling)), (SessionState::Updating, false));
        assert_eq!(shown(&in_phase(Phase::Done)), (SessionState::Ready, true));
    }

    #[test]
    fn a_session_that_waits_for_another_one_is_created() {
        let mut session = session();
        session.head.queued = true;
        assert_eq!(shown(&session), (SessionState::Created, false));
    }

    #[test]
    fn a_session_to_be_deleted_is_deleting_whatever_else_it_is() {
        for phase in [Phase::Created, Phase::Rolling, Phase::Done] {
            let mut session = in_phase(phase);
            session.head.queued = true;
            session.head.deletion = Some(Time(2));
            assert_eq!(shown(&session), (SessionState::Deleting, false));
        }
    }

    #[test]
    fn a_status_holds_what_the_session_does_and_can_be_read_back() {
        let mut session = session();
        session.messages = ["one", "two"].map(|text| Message::new(text, Time(1))).into();
        let status = SessionStatus::of(&session.head, &session.messages);
        let text = serde_json::to_string(&status).unwrap();
        let whole = concat!(
            r#"{"api_version":"1.2.3","completed":false,"failed_label":"failed","#,
            r#""kind":"ComputeUpgradeSession","messages":["one","two"],"starting_label":"nodes","#,
            r#""state":"UPDATING","upgrade_id":"00000000-0000-0000-0000-000000000000","upgrade_step_size":1,"#,
            r#""upgrade_template_id":"Image","upgrading_label":"upgrading","workload_manager_type":"slurm"}"#,
        );
        assert_eq!(text, whole);
        assert_eq!(serde_json::from_str::<SessionStatus>(&text).unwrap(), status);
    }
}
