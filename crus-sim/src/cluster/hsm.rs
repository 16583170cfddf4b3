//! HSM (State Manager) v2 as it was seen to behave.

use std::collections::BTreeSet;

use crus_core::Xname;

use super::Cluster;

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Its label, in lower case.
    pub label: String,
    /// What it is for.
    pub description: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// A node is in at most one group of the same name here.
    pub exclusive_group: Option<String>,
    /// Its members.
    pub members: BTreeSet<Xname>,
}

/// A node as HSM knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// `ID`
    pub xname: Xname,
    /// `State`: `Ready`, `On` while it boots, `Off`.
    pub state: &'static str,
    /// `Enabled`
    pub enabled: bool,
    /// `Locked`
    pub locked: bool,
    /// `Role`
    pub role: String,
    /// `NID`
    pub nid: Option<u32>,
    /// `Arch`
    pub arch: String,
}

/// What HSM answers instead of doing it: the text is the problem's `detail`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HsmError {
    /// The database is down.
    #[error("failed to query DB.")]
    DatabaseDown,
    /// A label longer than the database takes.
    #[error("failed to query DB.")]
    LabelTooLong,
    /// A label that is not `^[-a-z0-9:._]+$`.
    #[error("invalid group label")]
    BadLabel,
    /// There is no group of this label.
    #[error("No such group: {0}")]
    NoSuchGroup(String),
    /// There is a group of this label already.
    #[error("operation would conflict with an existing group that has the same label.")]
    GroupExists,
    /// It is a member already: what was asked for is so.
    #[error("operation would conflict with an existing member in the same group.")]
    AlreadyMember,
    /// It is a member of another group of the same exclusive group: what was asked for is not so.
    #[error("operation would conflict with an existing member in another exclusive group.")]
    InExclusiveGroup,
    /// HSM does not know the component.
    #[error("linked component does not exist")]
    UnknownComponent,
    /// The text is not an xname.
    #[error("invalid xname ID")]
    MalformedXname,
    /// It is not a member: what was asked for is so.
    #[error("group has no such member.")]
    NoSuchMember,
}

impl HsmError {
    /// The status code of the answer.
    pub fn status(&self) -> u16 {
        match self {
            HsmError::DatabaseDown | HsmError::LabelTooLong => 500,
            HsmError::BadLabel | HsmError::UnknownComponent | HsmError::MalformedXname => 400,
            HsmError::NoSuchGroup(_) | HsmError::NoSuchMember => 404,
            HsmError::GroupExists | HsmError::AlreadyMember | HsmError::InExclusiveGroup => 409,
        }
    }
}

impl Cluster {
    /// Stops or starts HSM's database. While it is down, every call here fails with
    /// [`HsmError::DatabaseDown`].
    pub fn set_hsm_down(&mut self, down: bool) {
        let _ = down;
        todo!()
    }

    /// Whether HSM's database answers: `GET /service/ready`.
    pub fn hsm_ready(&self) -> bool {
        todo!()
    }

    /// All groups, by label.
    ///
    /// # Errors
    /// Only [`HsmError::DatabaseDown`].
    pub fn groups(&self) -> Result<Vec<&Group>, HsmError> {
        todo!()
    }

    /// One group. Upper case in the label is lowered.
    ///
    /// # Errors
    /// When the label is not one, or there is no such group.
    pub fn group(&self, label: &str) -> Result<&Group, HsmError> {
        let _ = label;
        todo!()
    }

    /// `POST /groups`: creates a group with these members, or nothing at all.
    ///
    /// # Errors
    /// As each [`HsmError`] says.
    pub fn create_group(
        &mut self,
        label: &str,
        description: &str,
        tags: Vec<String>,
        exclusive_group: Option<String>,
        members: &[String],
    ) -> Result<(), HsmError> {
        let _ = (label, description, tags, exclusive_group, members);
        todo!()
    }

    /// `PATCH /groups/L`: changes what is given, and never the members.
    ///
    /// # Errors
    /// When the label is not one, or there is no such group.
    pub fn patch_group(
        &mut self,
        label: &str,
        description: Option<String>,
        tags: Option<Vec<String>>,
    ) -> Result<(), HsmError> {
        let _ = (label, description, tags);
        todo!()
    }

    /// `DELETE /groups/L`
    ///
    /// # Errors
    /// When the label is not one, or there is no such group.
    pub fn delete_group(&mut self, label: &str) -> Result<(), HsmError> {
        let _ = label;
        todo!()
    }

    /// `POST /groups/L/members`
    ///
    /// # Errors
    /// As each [`HsmError`] says; the group is looked for first, then the xname, then the conflicts.
    pub fn add_member(&mut self, label: &str, xname: &str) -> Result<Xname, HsmError> {
        let _ = (label, xname);
        todo!()
    }

    /// `DELETE /groups/L/members/X`
    ///
    /// # Errors
    /// As each [`HsmError`] says.
    pub fn remove_member(&mut self, label: &str, xname: &str) -> Result<(), HsmError> {
        let _ = (label, xname);
        todo!()
    }

    /// All components, in the order of their xnames.
    ///
    /// # Errors
    /// Only [`HsmError::DatabaseDown`].
    pub fn components(&self) -> Result<Vec<Component>, HsmError> {
        todo!()
    }

    /// One component; `None` when HSM does not know it.
    ///
    /// # Errors
    /// Only [`HsmError::DatabaseDown`].
    pub fn component(&self, xname: Xname) -> Result<Option<Component>, HsmError> {
        let _ = xname;
        todo!()
    }

    /// Locks or unlocks a component.
    ///
    /// # Errors
    /// When HSM does not know it.
    pub fn set_locked(&mut self, xname: Xname, locked: bool) -> Result<(), HsmError> {
        let _ = (xname, locked);
        todo!()
    }

    /// Enables or disables a component.
    ///
    /// # Errors
    /// When HSM does not know it.
    pub fn set_enabled(&mut self, xname: Xname, enabled: bool) -> Result<(), HsmError> {
        let _ = (xname, enabled);
        todo!()
    }

    /// Deletes a component, which takes it out of every group.
    ///
    /// # Errors
    /// When HSM does not know it.
    pub fn delete_component(&mut self, xname: Xname) -> Result<(), HsmError> {
        let _ = xname;
        todo!()
    }
}
