//! A session as the contract shows it.

use std::num::NonZeroU32;

use crus_core::model::Phase;
use crus_core::{GroupLabel, Session, TemplateName, UpgradeId};
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
    pub fn of(session: &Session) -> Self {
        let head = &session.head;
        SessionStatus {
            api_version: head.api_version.clone(),
            completed: session.is_done(),
            failed_label: head.spec.failed.clone(),
            kind: Kind::ComputeUpgradeSession,
            messages: session.messages.clone(),
            starting_label: head.spec.starting.clone(),
            state: SessionState::of(session),
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
    pub fn of(session: &Session) -> Self {
        match session.head.phase {
            _ if session.head.deletion.is_some() => SessionState::Deleting,
            Phase::Created if session.known.blocked.is_some() => SessionState::Created,
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
