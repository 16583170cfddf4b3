//! The ports: what the outside can do.
//!
//! # Guarantees asked of an implementation
//!
//! - Every call ends in bounded time.
//! - Repeating a call that changes something is harmless.
//! - A call that asks for many nodes is one observation: it costs about the same for one node as for a
//!   thousand.
//!
//! # Mocks
//!
//! With the feature `mock` there is a generated mock of each port, for the tests of who calls them:
//!
//! ```
//! # #[cfg(feature = "mock")]
//! # {
//! use crus_core::ports::MockBos;
//!
//! let mut bos = MockBos::new();
//! bos.expect_has_template().returning(|_| Ok(true));
//! # }
//! ```
//!
//! # Errors
//!
//! A [`PortError`] says whether the peer refused, was unreachable, or may have acted: only the last leaves
//! something to find out. Whatever was returned, the machine looks again before it believes.

use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;

use crate::actor::Actor;
use crate::boots::BootIds;
use crate::claims::Turn;
use crate::history::Entry;
use crate::machine::Event;
use crate::model::{Command, DeletionOrder, Node, NumberedCommand, Session, Summary, UpgradeId};
use crate::names::{
    BootHandle, BootSessionName, CheckName, GroupLabel, InvalidName, NodeName, PartitionName, TemplateName,
    TenantName, Xname,
};
use crate::time::Time;
use crate::window::ZoneOffset;
use crate::wlm::{Job, Partition, WlmNode};

/// One of the services that an upgrade depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// The Hardware State Manager.
    Hsm,
    /// The Boot Orchestration Service.
    Bos,
    /// The workload manager.
    Wlm,
    /// A check command of the service.
    Check,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Peer::Hsm => "the Hardware State Manager",
            Peer::Bos => "the Boot Orchestration Service",
            Peer::Wlm => "the workload manager",
            Peer::Check => "the check command",
        })
    }
}

/// Why a call did not do what was asked. `detail` is for people: short, without secrets, and the same text
/// each time the same thing goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The peer answered, and did not do it: bad credentials, an unknown name, a rule of its own.
    #[error("{peer} refused: {detail}")]
    Refused {
        /// Who.
        peer: Peer,
        /// Why.
        detail: String,
    },
    /// The request never reached the peer.
    #[error("{peer} is unreachable: {detail}")]
    Unreachable {
        /// Who.
        peer: Peer,
        /// Why.
        detail: String,
    },
    /// The request was sent and no usable answer came: it may have been carried out.
    #[error("{peer} gave no usable answer: {detail}")]
    MayHaveActed {
        /// Who.
        peer: Peer,
        /// Why.
        detail: String,
    },
}

impl PortError {
    /// Who failed.
    pub fn peer(&self) -> Peer {
        match self {
            PortError::Refused { peer, .. }
            | PortError::Unreachable { peer, .. }
            | PortError::MayHaveActed { peer, .. } => *peer,
        }
    }

    /// Whether the request may have been carried out all the same.
    pub fn may_have_acted(&self) -> bool {
        matches!(self, PortError::MayHaveActed { .. })
    }
}

/// What HSM knows of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Which node.
    pub xname: Xname,
    /// Its node id; `None` when HSM holds none for it.
    pub nid: Option<u32>,
    /// Its role, such as `Compute` or `Management`; empty when HSM holds none.
    pub role: String,
    /// A disabled node is left out of boot sessions.
    pub enabled: bool,
    /// A locked node is left out of boot sessions.
    pub locked: bool,
    /// Its architecture, such as `X86` or `ARM`: one of another kind than the image is left out of boot
    /// sessions. Empty when HSM holds none.
    pub arch: String,
}

/// A node that could not be put into a group, and why: no retry of ours will help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Which node.
    pub xname: Xname,
    /// Why, in HSM's words.
    pub detail: String,
    /// Whether HSM does not know this node at all. Otherwise somebody can mend it (such as by taking the
    /// node out of another exclusive group).
    pub unknown: bool,
}

/// The Hardware State Manager: groups of nodes and facts about nodes.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait Hsm: Send + Sync + 'static {
    /// The members of a group that are nodes; `None` when there is no such group.
    async fn group(&self, label: &GroupLabel) -> Result<Option<BTreeSet<Xname>>, PortError>;

    /// Puts nodes into a group. A node that is in it already is fine. Returns the nodes that HSM would not
    /// take; the others were taken.
    async fn add_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<Vec<Rejected>, PortError>;

    /// Takes nodes out of a group. A node that is not in it is fine.
    async fn remove_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<(), PortError>;

    /// Facts about nodes. Nodes that HSM does not know are left out.
    async fn facts(&self, nodes: &[Xname]) -> Result<Vec<NodeFacts>, PortError>;
}

/// Which session template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TemplateKey {
    /// The tenant for whom it is looked for: each has names of its own.
    pub tenant: Option<TenantName>,
    /// Its name.
    pub name: TemplateName,
}

impl From<TemplateName> for TemplateKey {
    /// The template of this name that is of no tenant.
    fn from(name: TemplateName) -> Self {
        TemplateKey { tenant: None, name }
    }
}

impl std::str::FromStr for TemplateKey {
    type Err = InvalidName;

    /// The template of this name that is of no tenant.
    fn from_str(name: &str) -> Result<Self, InvalidName> {
        name.parse().map(|name: TemplateName| TemplateKey::from(name))
    }
}

/// A request to reboot nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebootRequest {
    /// The key, where BOS takes it: a second request of the same name reboots nothing.
    pub name: BootSessionName,
    /// The tenant for whom it is.
    pub tenant: Option<TenantName>,
    /// The session template to boot from.
    pub template: TemplateName,
    /// The nodes, one by one. Never empty: BOS takes an empty limit for "all nodes of the template".
    pub nodes: Vec<Xname>,
    /// The boot sessions that there were before the intent was stored: it goes with the request where BOS takes no names
    /// of ours, and such a BOS must not be asked without. See [`boots`](crate::boots).
    pub before: Option<BootIds>,
}

/// What a boot session is found again by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootKey {
    /// What was asked for. Of a session with a handle the nodes do not matter, and are left out.
    pub request: RebootRequest,
    /// What BOS calls it, once that is known, where it takes no name of ours.
    pub handle: Option<BootHandle>,
}

/// How far a boot session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootStatus {
    /// Taken; the nodes are not worked out yet.
    Pending,
    /// The nodes are known and being booted.
    Running,
    /// Nothing more will happen. This does not say that anything succeeded.
    Complete,
    /// There are boot sessions that may be this one: which of them, or whether any, cannot be told (yet). Only where BOS
    /// takes no names of ours.
    Unclear,
}

/// A boot session as BOS reports it, with the nodes in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootSession {
    /// What BOS calls it, where it takes no name of ours.
    pub handle: Option<BootHandle>,
    /// How far it is.
    pub status: BootStatus,
    /// What went wrong with the session as a whole; of one that is [unclear](BootStatus::Unclear), what is.
    pub error: Option<String>,
    /// The nodes that BOS took into the session, known once it runs. Nodes that were asked for and are
    /// missing were left out.
    pub members: BTreeSet<Xname>,
    /// The nodes that the session still owns, with the state of each. A node that a newer session took
    /// over is no longer among them.
    pub nodes: Vec<BootNode>,
}

impl BootSession {
    /// What is left to see of a session that BOS does not show any more: the nodes that still belong to it, if there are
    /// any. To delete a session stops nothing.
    pub fn of_nodes(nodes: Vec<BootNode>) -> Option<Self> {
        let works = |node: &BootNode| matches!(node.state, BootNodeState::Working(_));
        let status = if nodes.iter().any(works) { BootStatus::Running } else { BootStatus::Complete };
        let members = nodes.iter().map(|node| node.xname).collect();
        (!nodes.is_empty()).then_some(BootSession { handle: None, status, error: None, members, nodes })
    }

    /// That it cannot be told which boot session it is, if any, for this reason.
    pub fn unclear(why: String) -> Self {
        BootSession {
            handle: None,
            status: BootStatus::Unclear,
            error: Some(why),
            members: BTreeSet::new(),
            nodes: Vec::new(),
        }
    }
}

/// One node of a boot session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootNode {
    /// Which node.
    pub xname: Xname,
    /// How it stands.
    pub state: BootNodeState,
}

/// How one node of a boot session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootNodeState {
    /// Being booted, in BOS's words (`power_on_called`, `configuring`, …).
    Working(String),
    /// Booted, configured and let go by BOS without an error.
    Succeeded,
    /// Given up by BOS, with its words.
    Failed(String),
    /// Let go by BOS without having been booted: disabled by hand, or on hold.
    Stopped(String),
}

/// The Boot Orchestration Service.
///
/// There are two kinds of it: one takes a name of ours for each boot session, and refuses it a second time (API v2); the
/// other gives out ids of its own (API v1). A session knows which by [`Limits::names_boots`](crate::Limits::names_boots).
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait Bos: Send + Sync + 'static {
    /// Whether there is this session template.
    async fn has_template(&self, template: &TemplateKey) -> Result<bool, PortError>;

    /// The ids of all boot sessions, where BOS takes no names of ours. Not asked for otherwise.
    async fn boot_ids(&self) -> Result<BootIds, PortError>;

    /// Asks for a reboot. Where BOS takes the request's name, one that exists already is fine: it is the one asked for.
    /// Where it does not, **each call reboots**, and what BOS calls the session is returned.
    async fn reboot(&self, request: &RebootRequest) -> Result<Option<BootHandle>, PortError>;

    /// The boot session of this key and its nodes; `None` when BOS knows none (it forgets old ones) and no node
    /// belongs to it. One that was deleted goes on, and is [what its nodes are](BootSession::of_nodes).
    ///
    /// Without a handle, where BOS takes no names of ours, it is looked for among those that began
    /// [since](RebootRequest::before).
    async fn session(&self, key: &BootKey) -> Result<Option<BootSession>, PortError>;
}

/// The workload manager.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait Wlm: Send + Sync + 'static {
    /// The nodes as they are now. Nodes that it does not know are left out.
    async fn nodes(&self, names: &[NodeName]) -> Result<Vec<WlmNode>, PortError>;

    /// The jobs that hold any of these nodes now, those whose epilog runs included.
    async fn jobs(&self, names: &[NodeName]) -> Result<Vec<Job>, PortError>;

    /// Keeps new jobs from the nodes; running ones go on. Replaces the reason.
    async fn drain(&self, names: &[NodeName], reason: &str) -> Result<(), PortError>;

    /// Puts nodes back to work.
    async fn resume(&self, names: &[NodeName]) -> Result<(), PortError>;

    /// Takes nodes out of service. **Kills what runs on them**: only for nodes that run nothing.
    async fn down(&self, names: &[NodeName], reason: &str) -> Result<(), PortError>;

    /// Changes the reason of nodes that are out of service already, and nothing else.
    async fn set_reason(&self, names: &[NodeName], reason: &str) -> Result<(), PortError>;

    /// These partitions as they are now. Those that it does not know are left out.
    async fn partitions(&self, names: &[PartitionName]) -> Result<Vec<Partition>, PortError>;

    /// Puts running jobs back into the queue, to be run again from their beginning. One that is not there any more is
    /// fine.
    async fn requeue(&self, jobs: &[String]) -> Result<(), PortError>;

    /// Ends jobs for good. One that is not there any more is fine.
    async fn cancel(&self, jobs: &[String]) -> Result<(), PortError>;
}

/// How a check command judges a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet: it runs.
    Running,
    /// The node may return to service.
    Passed,
    /// It may not, in words.
    Failed(String),
}

/// What a check command is asked to judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckRequest {
    /// For which session.
    pub session: UpgradeId,
    /// In which step: in each a node is judged anew.
    pub step: u32,
    /// The command's name in the configuration.
    pub name: CheckName,
    /// The nodes, under both of their names.
    pub nodes: Vec<(Xname, NodeName)>,
}

/// Programs that judge a node before it returns to service.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait Checks: Send + Sync + 'static {
    /// Starts to check those of the nodes that are not being checked for this session and step, and tells how each of
    /// them is judged by now. It waits for no check to end; each ends in bounded time by itself.
    ///
    /// After a restart of the service a node may be checked once more.
    ///
    /// # Errors
    /// When there is no command of this name, or it cannot be run.
    async fn judge(&self, request: &CheckRequest) -> Result<Vec<(Xname, Verdict)>, PortError>;

    /// Nothing more is asked for this session here, or not before it is taken up anew: what runs for it may be ended, and
    /// what is known of it forgotten.
    fn forget(&self, session: UpgradeId);
}

/// Knows no command.
#[async_trait]
impl Checks for () {
    async fn judge(&self, request: &CheckRequest) -> Result<Vec<(Xname, Verdict)>, PortError> {
        let detail = format!("there is no check command '{}' in the configuration", request.name);
        Err(PortError::Refused { peer: Peer::Check, detail })
    }

    fn forget(&self, _: UpgradeId) {}
}

/// The version of a stored session: it changes with every save.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Somebody else saved the session, or deleted it: what we hold is not what is stored.
    #[error("session {0} was changed by somebody else")]
    Conflict(UpgradeId),
    /// This process may not act for the session: it never owned it, or does not any more.
    #[error("session {0} is not ours to run")]
    NotOwner(UpgradeId),
    /// The store could not be read or written.
    #[error("the store failed: {0}")]
    Failed(String),
    /// What is stored is not what this version writes.
    #[error("the store holds something unreadable: {0}")]
    Unreadable(String),
}

/// What a [`Driver`](crate::driver::Driver) needs of the store that its session lives in: the part of a [`SessionStore`] to
/// be had where one process runs a session of its own. Every write is complete and durable when the call returns, or has
/// not happened.
#[cfg_attr(any(test, feature = "mock"), mockall::automock)]
#[async_trait]
pub trait DriverStore: Send + Sync + 'static {
    /// Stores what `events` say has changed since `revision`. With the end of a session its [claim] is dropped; one that
    /// begins anew after its end gets another, last in the order of creation.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when what is stored is not of this revision; [`StoreError::NotOwner`] when
    /// another replica may own the session.
    ///
    /// [claim]: DriverStore::claim
    async fn save(
        &self,
        session: &Session,
        events: &[Event],
        revision: Revision,
    ) -> Result<Revision, StoreError>;

    /// Removes a session with everything that belongs to it. One that is not there is fine.
    async fn remove(&self, id: UpgradeId) -> Result<(), StoreError>;

    /// Asks for a session's turn to work on these nodes, as [`claims::claim`](crate::claims::claim) decides it among
    /// all sessions that are not done. Whatever comes of it is stored.
    ///
    /// # Errors
    /// [`StoreError::NotOwner`] when another replica may own the session.
    async fn claim(&self, id: UpgradeId, nodes: &[Xname]) -> Result<Turn, StoreError>;

    /// Whether this process may act for the session at this moment. Asks nobody: by what is known here and by the
    /// clock.
    fn owns(&self, id: UpgradeId) -> bool;
}

/// Where sessions live. Every write is complete and durable when the call returns, or has not happened.
///
/// Several processes, *replicas*, may share a store. A session is run by the one that owns it, and ownership is
/// bound to a lease: who does not renew it in time loses all sessions, and knows so by its own clock before
/// another can own them. A store of one process gives it every session.
#[async_trait]
pub trait SessionStore: DriverStore {
    /// Adds a session that is not there yet, last in the order of creation.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when there is one of this id.
    async fn create(&self, session: &Session) -> Result<Revision, StoreError>;

    /// All ids, in no order.
    async fn ids(&self) -> Result<Vec<UpgradeId>, StoreError>;

    /// One session without its nodes; `None` when there is none of this id.
    async fn summary(&self, id: UpgradeId) -> Result<Option<Summary>, StoreError>;

    /// One session; `None` when there is none of this id.
    async fn load(&self, id: UpgradeId) -> Result<Option<(Session, Revision)>, StoreError>;

    /// Notes that a session's deletion was asked for. It holds whoever runs the session meanwhile, and does
    /// not change the session's revision. Of several who ask for it the first is kept.
    async fn order_deletion(&self, id: UpgradeId, by: Option<&Actor>) -> Result<(), StoreError>;

    /// The order to delete the session, once there is one.
    async fn deletion(&self, id: UpgradeId) -> Result<Option<DeletionOrder>, StoreError>;

    /// Notes a command for a session, after those that are noted already; one that equals the latest of them, whoever
    /// gave it, changes nothing. It holds whoever runs the session meanwhile, and does not change the session's revision. `None` when there
    /// is no such session.
    ///
    /// Returns the command's number: greater than that of any command of this session before.
    async fn command(
        &self,
        id: UpgradeId,
        command: Command,
        by: Option<&Actor>,
    ) -> Result<Option<u64>, StoreError>;

    /// The commands that are noted for a session and not [taken in](crate::model::Head::commands) yet, in order. A save
    /// drops those that the session has taken in.
    async fn commands(&self, id: UpgradeId) -> Result<Vec<NumberedCommand>, StoreError>;

    /// So many nodes of a session from this position on; fewer at their end.
    async fn nodes(&self, id: UpgradeId, from: usize, count: usize) -> Result<Vec<Node>, StoreError>;

    /// So many entries of a session's [history](crate::history) after the one of this number, the oldest first.
    async fn history(&self, id: UpgradeId, after: u64, count: usize) -> Result<Vec<Entry>, StoreError>;

    /// Up to which entry of its [history](crate::history) a session's events were delivered to who wants to be told of
    /// them, by its number; `None` while nobody was.
    async fn delivered(&self, id: UpgradeId) -> Result<Option<u64>, StoreError>;

    /// Notes that. It does not change the session's revision, and is not told as a change.
    ///
    /// # Errors
    /// [`StoreError::NotOwner`] when another replica may own the session, or it is gone.
    async fn set_delivered(&self, id: UpgradeId, number: u64) -> Result<(), StoreError>;

    /// Takes a session to run it, unless another replica owns it; tells whether it is ours now. One that is not
    /// there is nobody's.
    async fn own(&self, id: UpgradeId) -> Result<bool, StoreError>;

    /// Ready once this process does not own the session any more.
    async fn disowned(&self, id: UpgradeId);

    /// Removes a session that is done, with everything that belongs to it, unless anything is ordered for it or another
    /// replica owns it: both may have come about since it was decided that it is to go. Tells whether it is gone; one that
    /// is not there is.
    async fn remove_finished(&self, id: UpgradeId) -> Result<bool, StoreError>;

    /// Gives a session up, so that another replica can own it at once. One that is not ours is fine.
    async fn disown(&self, id: UpgradeId) -> Result<(), StoreError>;

    /// What changes in the store from now on.
    async fn changes(&self) -> Result<Box<dyn StoreChanges>, StoreError>;
}

/// What changes in a store, ourselves included, as it becomes known.
#[async_trait]
pub trait StoreChanges: Send + 'static {
    /// The next change; waits for it. To give up waiting loses none.
    ///
    /// # Errors
    /// When the store cannot be followed any more: begin again with [`SessionStore::changes`], and look at
    /// everything.
    async fn next(&mut self) -> Result<Change, StoreError>;
}

/// A change in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A session is new, or its head or messages changed. Single nodes are not told.
    Session(UpgradeId),
    /// A session's deletion was ordered.
    DeletionOrdered(UpgradeId),
    /// A [command](SessionStore::command) was noted for a session.
    Commanded(UpgradeId),
    /// Nobody owns a session any more.
    Unowned(UpgradeId),
    /// A session was removed.
    Removed(UpgradeId),
}

/// The time. Only drivers ask; the machine is told.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Time;

    /// The clocks of a time zone of the IANA database at this moment, and their next change within two weeks; `None` when
    /// there is no such zone.
    fn zone(&self, name: &str, at: Time) -> Option<ZoneOffset>;
}
