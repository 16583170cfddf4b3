//! Names that are valid or do not exist: xnames, node names of the workload manager, group labels, session
//! templates and boot sessions.
//!
//! Every one of these reaches a command line or a URL path, so each type accepts only what is harmless
//! there; the rules are those of the service that owns the name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a text is not a name of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {kind}: {rule}")]
pub struct InvalidName {
    kind: &'static str,
    text: String,
    rule: &'static str,
}

impl InvalidName {
    fn new(kind: &'static str, text: &str, rule: &'static str) -> Self {
        InvalidName { kind, text: text.chars().take(80).collect(), rule }
    }

    /// What would be right, as a clause: "must be …".
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

macro_rules! text_name {
    ($name:ident) => {
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                $name::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                $name::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.as_str().to_owned()
            }
        }
    };
}

/// The hardware name of a node: `x1000c0s0b0n0`, i.e. cabinet, chassis, slot, board (BMC), node.
///
/// HSM lowers the case of xnames, so this type does too. Ordered by place, not by text: `x1000c0s2b0n0`
/// comes before `x1000c0s10b0n0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Xname {
    cabinet: u32,
    chassis: u32,
    slot: u32,
    board: u32,
    node: u32,
}

impl Xname {
    /// Reads the xname of a node.
    ///
    /// # Errors
    /// When it is not `x<cabinet>c<chassis>s<slot>b<board>n<node>`, each a decimal number without leading
    /// zeros (a zero would make two texts of one node).
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let invalid = || {
            InvalidName::new(
                "the xname of a node",
                text,
                "must be x<cabinet>c<chassis>s<slot>b<board>n<node>, such as x1000c0s0b0n0",
            )
        };
        let mut rest = text;
        let mut place = [0u32; 5];
        for (part, letter) in place.iter_mut().zip(['x', 'c', 's', 'b', 'n']) {
            rest = rest.strip_prefix([letter, letter.to_ascii_uppercase()].as_slice()).ok_or_else(invalid)?;
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, tail) = rest.split_at(digits);
            if number.len() > 6 || (number.len() > 1 && number.starts_with('0')) {
                return Err(invalid());
            }
            *part = number.parse().map_err(|_| invalid())?;
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(invalid());
        }
        let [cabinet, chassis, slot, board, node] = place;
        Ok(Xname { cabinet, chassis, slot, board, node })
    }

    /// The cabinet's number: the widest failure domain that an xname tells.
    pub fn cabinet(&self) -> u32 {
        self.cabinet
    }

    /// The first node that its failure domain could have: the same for all nodes of the domain, and for no other.
    #[must_use]
    pub fn domain(&self, domain: Domain) -> Xname {
        let Xname { cabinet, chassis, slot, board, .. } = *self;
        let of_board = Xname { cabinet, chassis, slot, board, node: 0 };
        match domain {
            Domain::Cabinet => Xname { chassis: 0, slot: 0, board: 0, ..of_board },
            Domain::Chassis => Xname { slot: 0, board: 0, ..of_board },
            Domain::Slot => Xname { board: 0, ..of_board },
            Domain::Board => of_board,
        }
    }
}

impl fmt::Display for Xname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Xname { cabinet, chassis, slot, board, node } = self;
        write!(f, "x{cabinet}c{chassis}s{slot}b{board}n{node}")
    }
}

impl fmt::Debug for Xname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Xname {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Xname::new(text)
    }
}

impl TryFrom<String> for Xname {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        Xname::new(&text)
    }
}

impl From<Xname> for String {
    fn from(name: Xname) -> String {
        name.to_string()
    }
}

/// The workload manager's name of a node, such as `nid000001`.
///
/// Slurm takes `ALL` for the whole cluster and brackets for ranges, so neither can be one. Cheap to clone: copies
/// share the text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Reads a node name.
    ///
    /// # Errors
    /// When it is empty, longer than 63 characters, starts with anything but a letter or digit, holds
    /// anything but letters, digits, `-`, `_` and `.`, or is `ALL`.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let good = (1..=63).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !text.eq_ignore_ascii_case("all");
        if !good {
            let rule = "must be 1 to 63 letters, digits, '-', '_' or '.', begin with a letter or digit, and \
                        not be ALL";
            return Err(InvalidName::new("a node name", text, rule));
        }
        Ok(NodeName(text.into()))
    }
}

text_name!(NodeName);

/// How a NID makes a node name: a prefix and the NID, padded with zeros, such as `nid%06d`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeNameFormat {
    prefix: Box<str>,
    width: usize,
}

impl NodeNameFormat {
    /// Reads a format such as `nid%06d` or `nid%d`.
    ///
    /// # Errors
    /// When it is not a prefix of letters, digits, `-` and `_` followed by `%d` or `%0<1-9>d`.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let invalid = || {
            let rule = "must be a prefix and one number at the end, such as nid%06d or nid%d";
            InvalidName::new("a node name format", text, rule)
        };
        let (prefix, number) = text.split_once('%').ok_or_else(invalid)?;
        let width = match number.as_bytes() {
            b"d" => 1,
            [b'0', w @ b'1'..=b'9', b'd'] => usize::from(w - b'0'),
            _ => return Err(invalid()),
        };
        let format = NodeNameFormat { prefix: prefix.into(), width };
        NodeName::new(&format!("{prefix}0")).map_err(|_| invalid())?;
        Ok(format)
    }

    /// The name of the node with this NID; `None` when prefix and NID together are too long for a name.
    pub fn name(&self, nid: u32) -> Option<NodeName> {
        NodeName::new(&format!("{}{nid:0width$}", self.prefix, width = self.width)).ok()
    }
}

impl Default for NodeNameFormat {
    /// `nid%06d`, the platform's own.
    fn default() -> Self {
        NodeNameFormat { prefix: "nid".into(), width: 6 }
    }
}

impl fmt::Display for NodeNameFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.width {
            1 => write!(f, "{}%d", self.prefix),
            width => write!(f, "{}%0{width}d", self.prefix),
        }
    }
}

impl FromStr for NodeNameFormat {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        NodeNameFormat::new(text)
    }
}

impl TryFrom<String> for NodeNameFormat {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        NodeNameFormat::new(&text)
    }
}

impl From<NodeNameFormat> for String {
    fn from(format: NodeNameFormat) -> String {
        format.to_string()
    }
}

/// The label of an HSM group. HSM lowers the case of labels, so this type does too.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupLabel(Box<str>);

impl GroupLabel {
    /// Reads a label.
    ///
    /// # Errors
    /// When HSM would refuse it: it wants `^[-a-z0-9:._]+$`, and fails on one of 256 characters or more.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let good = (1..=255).contains(&text.len())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-:._".contains(c))
            // A path of these would mean another resource.
            && !matches!(text, "." | "..");
        if !good {
            let rule = "must be 1 to 255 letters, digits, '-', ':', '.' or '_', and not be '.' or '..'";
            return Err(InvalidName::new("a group label", text, rule));
        }
        Ok(GroupLabel(text.to_ascii_lowercase().into()))
    }
}

text_name!(GroupLabel);

/// The name of a partition of the workload manager.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartitionName(Box<str>);

impl PartitionName {
    /// Reads a partition's name.
    ///
    /// # Errors
    /// When it is empty, longer than 64 characters, or holds anything but letters, digits, `-`, `_` and `.`.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        if !is_plain(text) {
            return Err(InvalidName::new("the name of a partition", text, PLAIN_RULE));
        }
        Ok(PartitionName(text.into()))
    }
}

text_name!(PartitionName);

/// The name of a check command in the service's configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CheckName(Box<str>);

impl CheckName {
    /// Reads a name.
    ///
    /// # Errors
    /// When it is empty, longer than 64 characters, or holds anything but letters, digits, `-`, `_` and `.`.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        if !is_plain(text) {
            return Err(InvalidName::new("the name of a check command", text, PLAIN_RULE));
        }
        Ok(CheckName(text.into()))
    }
}

text_name!(CheckName);

const PLAIN_RULE: &str = "must be 1 to 64 letters, digits, '-', '_' or '.'";

fn is_plain(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// A failure domain: nodes that share this part of their xnames share power or cooling, and may fail together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Domain {
    /// `x1000`
    Cabinet,
    /// `x1000c0`
    #[default]
    Chassis,
    /// `x1000c0s0`: a slot, one blade.
    Slot,
    /// `x1000c0s0b0`: a board, with the BMC that switches its nodes.
    Board,
}

/// The name of a BOS session template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateName(Box<str>);

impl TemplateName {
    /// Reads a template's name.
    ///
    /// # Errors
    /// When BOS would refuse it: it wants 1 to 127 letters, digits, `-`, `.` and `_`, the first and the
    /// last a letter or digit.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        if !is_bos_name(text) {
            return Err(InvalidName::new("the name of a session template", text, BOS_NAME_RULE));
        }
        Ok(TemplateName(text.into()))
    }
}

text_name!(TemplateName);

/// The name of a BOS session. It is the key that makes a reboot happen once: BOS refuses a second session
/// of the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootSessionName(Box<str>);

impl BootSessionName {
    /// Reads a session's name.
    ///
    /// # Errors
    /// As [`TemplateName::new`].
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        if !is_bos_name(text) {
            return Err(InvalidName::new("the name of a boot session", text, BOS_NAME_RULE));
        }
        Ok(BootSessionName(text.into()))
    }

    /// The name of the boot session of one attempt at one step of one upgrade: the same each time, so that
    /// asking again after a crash or a lost reply finds the first one.
    pub fn of(upgrade: uuid::Uuid, step: u32, attempt: u32) -> Self {
        BootSessionName(format!("crus-{upgrade}-step{step}-attempt{attempt}").into())
    }
}

text_name!(BootSessionName);

/// What BOS calls a session where it takes no name of ours (API v1): an id of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BootHandle(Box<str>);

impl BootHandle {
    /// Reads an id.
    ///
    /// # Errors
    /// As [`TemplateName::new`]: ids are UUIDs in all known versions.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        if !is_bos_name(text) {
            return Err(InvalidName::new("the id of a boot session", text, BOS_NAME_RULE));
        }
        Ok(BootHandle(text.into()))
    }
}

text_name!(BootHandle);

/// The name of a tenant, as BOS v2 takes it in the header `Cray-Tenant-Name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantName(Box<str>);

impl TenantName {
    /// Reads a tenant's name.
    ///
    /// # Errors
    /// When it is empty, longer than 127 characters, begins with anything but a letter or digit, or holds anything but
    /// letters, digits, `-`, `.` and `_`.
    pub fn new(text: &str) -> Result<Self, InvalidName> {
        let good = (1..=127).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if !good {
            let rule = "must be 1 to 127 letters, digits, '-', '.' or '_', beginning with a letter or digit";
            return Err(InvalidName::new("the name of a tenant", text, rule));
        }
        Ok(TenantName(text.into()))
    }
}

text_name!(TenantName);

const BOS_NAME_RULE: &str =
    "must be 1 to 127 letters, digits, '-', '.' or '_', beginning and ending with a letter or digit";

fn is_bos_name(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    (1..=127).contains(&text.len())
        && text.chars().all(|c| alphanumeric(c) || "-._".contains(c))
        && text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_xname_is_lowered_and_ordered_by_place() {
        let low = Xname::new("X1000C0S2B0N1").unwrap();
        assert_eq!(low.to_string(), "x1000c0s2b0n1");
        assert!(low < Xname::new("x1000c0s10b0n0").unwrap());
        for bad in
            ["", "x1", "x1c0s0b0", "x1c0s0b0n0 ", "x01c0s0b0n0", "x1c0s0b0n", "all", "*", "x1c0s0b0n0,x"]
        {
            assert!(Xname::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tenant_and_an_id_of_bos_are_harmless_in_a_header_and_in_a_path() {
        for good in ["a", "blue-team", "Vcluster_1.x-"] {
            assert_eq!(TenantName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "a\nb", "ä", &"a".repeat(128)] {
            assert!(TenantName::new(bad).is_err(), "{bad}");
        }
        assert!(BootHandle::new("07877de1-09bb-4ca8-a4e5-943b1262dbf0").is_ok());
        for bad in ["", "..", "a/b", "a?b", "a b", &"a".repeat(128)] {
            assert!(BootHandle::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_node_name_cannot_mean_more_than_one_node() {
        for bad in ["", "ALL", "all", "nid[1-3]", "a,b", "-x", "a b", "nid1;rm", "nid=1"] {
            assert!(NodeName::new(bad).is_err(), "{bad}");
        }
        let format = NodeNameFormat::default();
        assert_eq!(format.to_string().parse(), Ok(format.clone()));
        assert_eq!(format.name(7).unwrap().as_str(), "nid000007");
        assert_eq!(format.name(12_345_678).unwrap().as_str(), "nid12345678");
        assert_eq!(NodeNameFormat::new("n-%d").unwrap().name(3).unwrap().as_str(), "n-3");
        for bad in ["nid", "nid%6d", "nid%06d%d", "%s", "nid%06dx", "a,%d", "nid%00d"] {
            assert!(NodeNameFormat::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_and_template_names_follow_their_owners() {
        assert_eq!(GroupLabel::new("Blue.1:x").unwrap().as_str(), "blue.1:x");
        for bad in ["", "a b", "a/b", "..", "ä", &"a".repeat(256)] {
            assert!(GroupLabel::new(bad).is_err(), "{bad}");
        }
        for bad in ["", "-a", "a-", "a b", "a/b", &"a".repeat(128)] {
            assert!(TemplateName::new(bad).is_err(), "{bad}");
        }
        let name = BootSessionName::of(uuid::Uuid::nil(), 3, 1);
        assert_eq!(BootSessionName::new(name.as_str()), Ok(name));
    }
}
