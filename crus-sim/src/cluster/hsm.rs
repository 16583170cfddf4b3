//! HSM (State Manager) v2 as it was seen to behave.

use std::collections::{BTreeMap, BTreeSet};

use crus_core::promises::What;
use crus_core::{GroupLabel, Xname};
use serde::{Deserialize, Serialize};

use super::power::Power;
use super::queue::Ix;
use super::{Cluster, Node};
use crate::config::GroupSpec;

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
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
    /// A label of 256 characters or more, which the database does not take.
    #[error("failed to query DB.")]
    LabelTooLong,
    /// A label that is not `^[-a-z0-9:._]+$`.
    #[error("Invalid group label.")]
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

/// The most characters that the database takes for a label.
const LABEL_MAX: usize = 255;

/// HSM's own data; what it knows of nodes is in the nodes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hsm {
    down: bool,
    groups: BTreeMap<String, Group>,
}

impl Hsm {
    pub(super) fn new(groups: &BTreeMap<GroupLabel, GroupSpec>) -> Self {
        let groups = groups.iter().map(|(label, spec)| {
            let group = Group {
                label: label.to_string(),
                description: spec.description.clone(),
                tags: spec.tags.clone(),
                exclusive_group: spec.exclusive_group.clone(),
                members: spec.members.iter().copied().collect(),
            };
            (label.to_string(), group)
        });
        Hsm { down: false, groups: groups.collect() }
    }
}

impl Cluster {
    /// Stops or starts HSM's database. While it is down, every call here fails with
    /// [`HsmError::DatabaseDown`].
    pub fn set_hsm_down(&mut self, down: bool) {
        self.hsm.down = down;
    }

    /// Whether HSM's database answers: `GET /service/ready`.
    pub fn hsm_ready(&self) -> bool {
        !self.hsm.down
    }

    fn database(&self) -> Result<&Hsm, HsmError> {
        if self.hsm.down { Err(HsmError::DatabaseDown) } else { Ok(&self.hsm) }
    }

    /// All groups, by label.
    ///
    /// # Errors
    /// Only [`HsmError::DatabaseDown`].
    pub fn groups(&self) -> Result<Vec<&Group>, HsmError> {
        Ok(self.database()?.groups.values().collect())
    }

    /// One group. Upper case in the label is lowered.
    ///
    /// # Errors
    /// When the label is not one, or there is no such group.
    pub fn group(&self, label: &str) -> Result<&Group, HsmError> {
        let label = read_label(label)?;
        self.database()?.groups.get(&label).ok_or(HsmError::NoSuchGroup(label))
    }

    /// The members of a group that are nodes, whether HSM answers or not; none if there is no such group.
    pub fn members(&self, label: &GroupLabel) -> BTreeSet<Xname> {
        let group = read_label(label.as_str()).ok().and_then(|label| self.hsm.groups.get(&label));
        group.map(|group| group.members.iter().copied().collect()).unwrap_or_default()
    }

    fn group_mut(&mut self, label: &str) -> Result<&mut Group, HsmError> {
        let label = read_label(label)?;
        self.database()?;
        self.hsm.groups.get_mut(&label).ok_or(HsmError::NoSuchGroup(label))
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
        let label = read_label(label)?;
        if label.len() > LABEL_MAX {
            return Err(HsmError::LabelTooLong);
        }
        if self.database()?.groups.contains_key(&label) {
            return Err(HsmError::GroupExists);
        }
        let mut group = Group {
            label: label.clone(),
            description: description.to_owned(),
            tags,
            exclusive_group,
            members: BTreeSet::new(),
        };
        for member in members {
            let xname = self.known_node(member)?;
            self.check_exclusive(&group, xname)?;
            group.members.insert(xname);
        }
        let added = group.members.clone();
        self.hsm.groups.insert(label.clone(), group);
        self.tell_group(&label, added, BTreeSet::new());
        Ok(())
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
        let group = self.group_mut(label)?;
        if let Some(description) = description {
            group.description = description;
        }
        if let Some(tags) = tags {
            group.tags = tags;
        }
        Ok(())
    }

    /// `DELETE /groups/L`
    ///
    /// # Errors
    /// When the label is not one, or there is no such group.
    pub fn delete_group(&mut self, label: &str) -> Result<(), HsmError> {
        let label = read_label(label)?;
        self.database()?;
        let group = self.hsm.groups.remove(&label).ok_or_else(|| HsmError::NoSuchGroup(label.clone()))?;
        self.tell_group(&label, BTreeSet::new(), group.members);
        Ok(())
    }

    /// `POST /groups/L/members`
    ///
    /// # Errors
    /// As each [`HsmError`] says; a malformed xname is found first, then a missing group, an unknown node, a
    /// conflict.
    pub fn add_member(&mut self, label: &str, xname: &str) -> Result<Xname, HsmError> {
        read_xname(xname)?;
        let group = self.group(label)?;
        let xname = self.known_node(xname)?;
        if group.members.contains(&xname) {
            return Err(HsmError::AlreadyMember);
        }
        self.check_exclusive(group, xname)?;
        let group = self.group_mut(label)?;
        group.members.insert(xname);
        let label = group.label.clone();
        self.tell_group(&label, [xname].into(), BTreeSet::new());
        Ok(xname)
    }

    /// `DELETE /groups/L/members/X`
    ///
    /// # Errors
    /// As each [`HsmError`] says.
    pub fn remove_member(&mut self, label: &str, xname: &str) -> Result<(), HsmError> {
        let xname = read_xname(xname)?;
        let group = self.group_mut(label)?;
        match xname {
            Some(xname) if group.members.remove(&xname) => {
                let label = group.label.clone();
                self.tell_group(&label, BTreeSet::new(), [xname].into());
                Ok(())
            }
            _ => Err(HsmError::NoSuchMember),
        }
    }

    /// Looks for a node that is not in this group in the others of its exclusive group.
    fn check_exclusive(&self, group: &Group, xname: Xname) -> Result<(), HsmError> {
        let taken = group.exclusive_group.is_some()
            && self.hsm.groups.values().any(|other| {
                other.exclusive_group == group.exclusive_group && other.members.contains(&xname)
            });
        if taken { Err(HsmError::InExclusiveGroup) } else { Ok(()) }
    }

    fn known_node(&self, text: &str) -> Result<Xname, HsmError> {
        let known = read_xname(text)?.filter(|xname| self.hsm_ix(*xname).is_some());
        known.ok_or(HsmError::UnknownComponent)
    }

    fn hsm_ix(&self, xname: Xname) -> Option<Ix> {
        self.by_xname.get(&xname).copied().filter(|&ix| self.node(ix).spec.in_hsm)
    }

    /// All components, in the order of their xnames.
    ///
    /// # Errors
    /// Only [`HsmError::DatabaseDown`].
    pub fn components(&self) -> Result<Vec<Component>, HsmError> {
        self.database()?;
        let nodes = self.by_xname.values().map(|&ix| self.node(ix));
        Ok(nodes.filter(|node| node.spec.in_hsm).map(Node::to_hsm).collect())
    }

    /// One component; `None` when HSM does not know it.
    ///
    /// # Errors
    /// Only [`HsmError::DatabaseDown`].
    pub fn component(&self, xname: Xname) -> Result<Option<Component>, HsmError> {
        self.database()?;
        Ok(self.hsm_ix(xname).map(|ix| self.node(ix).to_hsm()))
    }

    fn component_spec(&mut self, xname: Xname) -> Result<&mut Node, HsmError> {
        self.database()?;
        let ix = self.hsm_ix(xname).ok_or(HsmError::UnknownComponent)?;
        Ok(self.node_mut(ix))
    }

    /// Locks or unlocks a component.
    ///
    /// # Errors
    /// When HSM does not know it.
    pub fn set_locked(&mut self, xname: Xname, locked: bool) -> Result<(), HsmError> {
        self.component_spec(xname)?.spec.locked = locked;
        Ok(())
    }

    /// Enables or disables a component.
    ///
    /// # Errors
    /// When HSM does not know it.
    pub fn set_enabled(&mut self, xname: Xname, enabled: bool) -> Result<(), HsmError> {
        self.component_spec(xname)?.spec.enabled = enabled;
        Ok(())
    }

    /// Deletes a component, which takes it out of every group.
    ///
    /// # Errors
    /// When HSM does not know it.
    pub fn delete_component(&mut self, xname: Xname) -> Result<(), HsmError> {
        self.component_spec(xname)?.spec.in_hsm = false;
        let groups = self.hsm.groups.values_mut();
        let left: Vec<String> =
            groups.filter_map(|group| group.members.remove(&xname).then(|| group.label.clone())).collect();
        for label in left {
            self.tell_group(&label, BTreeSet::new(), [xname].into());
        }
        Ok(())
    }

    /// Tells the witness of the groups as they are.
    pub(super) fn tell_groups(&mut self) {
        let groups: Vec<_> = self.hsm.groups.values().map(|g| (g.label.clone(), g.members.clone())).collect();
        for (label, members) in groups {
            self.tell_group(&label, members, BTreeSet::new());
        }
    }

    fn tell_group(&mut self, label: &str, added: BTreeSet<Xname>, removed: BTreeSet<Xname>) {
        // Every label that `read_label` lets through is one, but for `.` and `..`, of which nobody can be told.
        if let Ok(label) = GroupLabel::new(label)
            && !(added.is_empty() && removed.is_empty())
        {
            self.tell(What::GroupChanged { label, added, removed });
        }
    }
}

impl Node {
    fn to_hsm(&self) -> Component {
        Component {
            xname: self.spec.xname,
            state: match self.hardware.power {
                Power::On => "Ready",
                Power::Booting => "On",
                Power::Off => "Off",
            },
            enabled: self.spec.enabled,
            locked: self.spec.locked,
            role: self.spec.role.clone(),
            nid: self.spec.nid,
            arch: self.spec.arch.clone(),
        }
    }
}

fn read_label(text: &str) -> Result<String, HsmError> {
    let label = text.to_ascii_lowercase();
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-:._".contains(c);
    if label.is_empty() || !label.chars().all(good) {
        return Err(HsmError::BadLabel);
    }
    Ok(label)
}

/// Reads the xname of a node; `None` for one of another kind of component, which the model has none of.
fn read_xname(text: &str) -> Result<Option<Xname>, HsmError> {
    if let Ok(xname) = Xname::new(text) {
        return Ok(Some(xname));
    }
    // Letters and numbers in turn, such as x1000c0s0b0 (a BMC) or x1000c0r7 (a switch).
    let mut rest = text;
    while let Some(after) = rest.strip_prefix(|c: char| c.is_ascii_alphabetic()) {
        let tail = after.trim_start_matches(|c: char| c.is_ascii_digit());
        if tail.len() == after.len() {
            break;
        }
        rest = tail;
    }
    if rest.is_empty() && text.starts_with(['x', 'X']) { Ok(None) } else { Err(HsmError::MalformedXname) }
}
