//! A session as the contract shows it.

use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use axum::body::Bytes;
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
    #[serde(skip)]
    written: Written,
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
            written: Written::default(),
        }
    }

    /// The same of a session whose deletion is ordered: it has something left to do, whatever came of its upgrade.
    #[must_use]
    pub fn deleting(self) -> Self {
        SessionStatus { completed: false, state: SessionState::Deleting, written: Written::default(), ..self }
    }

    /// As it is answered: JSON. Written once, however often it is asked for: what changes after that is not in it.
    ///
    /// # Errors
    /// None is known: texts, numbers and lists of them can be written.
    pub(crate) fn json(&self) -> Result<Bytes, serde_json::Error> {
        self.written.once(|| serde_json::to_vec(self))
    }
}

/// What was written of a value, once it was. It belongs to that value alone: a copy, which may be changed, is written anew.
#[derive(Debug, Default)]
struct Written(OnceLock<Bytes>);

impl Written {
    fn once(
        &self,
        write: impl FnOnce() -> Result<Vec<u8>, serde_json::Error>,
    ) -> Result<Bytes, serde_json::Error> {
        if let Some(bytes) = self.0.get() {
            return Ok(bytes.clone());
        }
        // Two at a time write the same.
        let bytes = Bytes::from(write()?);
        Ok(self.0.get_or_init(|| bytes).clone())
    }
}

impl Clone for Written {
    fn clone(&self) -> Self {
        Written::default()
    }
}

/// It says nothing of the value.
impl PartialEq for Written {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Written {}

/// All sessions, in the order of their creation.
#[derive(Debug, Default)]
pub struct SessionList {
    sessions: Vec<Arc<SessionStatus>>,
    written: Written,
}

impl SessionList {
    /// These.
    pub fn new(sessions: Vec<Arc<SessionStatus>>) -> Self {
        SessionList { sessions, written: Written::default() }
    }

    /// Whether it is a list of these very values, not only of equal ones: then what was written of it holds.
    pub fn is_of(&self, sessions: &[Arc<SessionStatus>]) -> bool {
        self.sessions.len() == sessions.len()
            && self.sessions.iter().zip(sessions).all(|(old, new)| Arc::ptr_eq(old, new))
    }

    /// As it is answered: JSON, written once.
    ///
    /// # Errors
    /// As of [`SessionStatus::json`].
    pub(crate) fn json(&self) -> Result<Bytes, serde_json::Error> {
        self.written.once(|| {
            let mut text = vec![b'['];
            for (i, session) in self.sessions.iter().enumerate() {
                if i > 0 {
                    text.push(b',');
                }
                text.extend_from_slice(&session.json()?);
            }
            text.push(b']');
            Ok(text)
        })
    }
}

impl Deref for SessionList {
    type Target = [Arc<SessionStatus>];

    fn deref(&self) -> &Self::Target {
        &self.sessions
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

    #[test]
    fn what_is_kept_written_is_what_would_be_written_and_no_copy_has_it() {
        let first = SessionStatus::of(&session().head, &[]);
        for _ in 0..2 {
            assert_eq!(first.json().unwrap(), serde_json::to_vec(&first).unwrap());
        }
        let mut second = first.clone();
        second.messages.push("more".to_owned());
        assert_eq!(second.json().unwrap(), serde_json::to_vec(&second).unwrap());
        let third = first.clone().deleting();
        assert!(third.json().unwrap().windows(8).any(|part| part == b"DELETING"));
        for sessions in [vec![], vec![first.clone()], vec![first, second, third]] {
            let sessions: Vec<_> = sessions.into_iter().map(Arc::new).collect();
            let plain: Vec<&SessionStatus> = sessions.iter().map(|status| &**status).collect();
            let list = SessionList::new(sessions.clone());
            assert_eq!(list.json().unwrap(), serde_json::to_vec(&plain).unwrap());
            assert!(list.is_of(&sessions));
            let copies: Vec<_> = sessions.iter().map(|status| Arc::new((**status).clone())).collect();
            assert_eq!(list.is_of(&copies), copies.is_empty());
        }
    }
}
