//! BOS v2 as it was seen to behave.

use std::collections::{BTreeMap, BTreeSet};

use crus_core::{Time, Xname};

use super::Cluster;
use crate::config::TemplateSpec;

/// What a session does to its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Boots what is off or runs another image: on nodes that run the image already it succeeds without a reboot.
    Boot,
    /// Reboots.
    Reboot,
    /// Switches off.
    Shutdown,
}

/// A request for a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSession {
    /// Its name.
    pub name: String,
    /// What to do.
    pub operation: Operation,
    /// The session template.
    pub template_name: String,
    /// **Empty means every node of the template.**
    pub limit: String,
    /// A staged session never completes.
    pub stage: bool,
    /// Whether nodes that HSM has disabled are taken all the same.
    pub include_disabled: bool,
}

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionStatus {
    /// Its nodes are not worked out yet.
    Pending,
    /// Its nodes are being booted.
    Running,
    /// Nothing more will happen.
    Complete,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What was asked for.
    pub request: NewSession,
    /// How far it is.
    pub status: SessionStatus,
    /// When it was created.
    pub start_time: Time,
    /// When it was complete.
    pub end_time: Option<Time>,
    /// What kept it from running.
    pub error: Option<String>,
    /// The nodes that it took, once it runs, whoever has them now.
    pub components: BTreeSet<Xname>,
}

/// The extended status of a session: totals over the components that it still has. Frozen when it is complete.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExtendedStatus {
    /// `managed_components_count`
    pub managed: usize,
    /// Components in phase `powering_on`.
    pub powering_on: usize,
    /// Components in phase `powering_off`.
    pub powering_off: usize,
    /// Components in phase `configuring`.
    pub configuring: usize,
    /// Components that BOS has let go, or is content with.
    pub complete: usize,
    /// Components that are stable, without an error.
    pub successful: usize,
    /// Components that failed.
    pub failed: usize,
    /// Components by error.
    pub errors: BTreeMap<String, Vec<Xname>>,
}

/// A component: a node as BOS sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootComponent {
    /// Which node.
    pub xname: Xname,
    /// Whether BOS acts on it.
    pub enabled: bool,
    /// The session that it belongs to; empty before the first.
    pub session: String,
    /// What went wrong with it last; empty when nothing did.
    pub error: String,
    /// `status.status`: `power_on_pending`, `power_on_called`, `power_off_pending`, `power_off_gracefully_called`,
    /// `configuring`, `stable`, `failed`, `on_hold`.
    pub status: &'static str,
    /// `status.phase`: `powering_off`, `powering_on`, `configuring` or empty.
    pub phase: &'static str,
    /// `event_stats.power_on_attempts`
    pub power_on_attempts: u32,
    /// `event_stats.power_off_graceful_attempts`
    pub power_off_attempts: u32,
    /// The session template that it is to run; empty before the first session.
    pub desired: String,
    /// The session template that it runs; empty for the image from before.
    pub actual: String,
    /// When it changed last.
    pub last_updated: Time,
}

/// What BOS answers instead of doing it: the text is the problem's `detail`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BosError {
    /// The store is down.
    #[error("Unable to connect to the Redis database")]
    StoreDown,
    /// There is a session of this name.
    #[error("Session '{0}' already exists")]
    SessionExists(String),
    /// There is no such session template to make a session of.
    #[error("Session Template Name invalid: {0}")]
    UnknownTemplate(String),
    /// The session template is broken.
    #[error("Session template fails check: {0}")]
    BrokenTemplate(String),
    /// The request is not of the right form.
    #[error("{0}")]
    BadRequest(String),
    /// There is no such session.
    #[error("Session {0} could not be found")]
    NoSuchSession(String),
    /// There is no such session template.
    #[error("Session template {0} could not be found")]
    NoSuchTemplate(String),
    /// There is no such component.
    #[error("Component {0} could not be found")]
    NoSuchComponent(String),
}

impl BosError {
    /// The status code of the answer.
    pub fn status(&self) -> u16 {
        match self {
            BosError::StoreDown => 503,
            BosError::SessionExists(_) => 409,
            BosError::UnknownTemplate(_) | BosError::BrokenTemplate(_) | BosError::BadRequest(_) => 400,
            BosError::NoSuchSession(_) | BosError::NoSuchTemplate(_) | BosError::NoSuchComponent(_) => 404,
        }
    }
}

impl Cluster {
    /// Stops or starts BOS's store. While it is down, every call here fails with [`BosError::StoreDown`]; what is
    /// under way goes on.
    pub fn set_bos_down(&mut self, down: bool) {
        let _ = down;
        todo!()
    }

    /// The names of all session templates, in order.
    ///
    /// # Errors
    /// Only [`BosError::StoreDown`].
    pub fn boot_templates(&self) -> Result<Vec<&str>, BosError> {
        todo!()
    }

    /// One session template.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn boot_template(&self, name: &str) -> Result<&TemplateSpec, BosError> {
        let _ = name;
        todo!()
    }

    /// Creates or replaces a session template.
    ///
    /// # Errors
    /// When the name is not one.
    pub fn put_boot_template(&mut self, name: &str, template: TemplateSpec) -> Result<(), BosError> {
        let _ = (name, template);
        todo!()
    }

    /// Deletes a session template.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn delete_boot_template(&mut self, name: &str) -> Result<(), BosError> {
        let _ = name;
        todo!()
    }

    /// `POST /sessions`
    ///
    /// # Errors
    /// As each [`BosError`] says.
    pub fn create_boot_session(&mut self, request: NewSession) -> Result<&Session, BosError> {
        let _ = request;
        todo!()
    }

    /// All sessions, by name.
    ///
    /// # Errors
    /// Only [`BosError::StoreDown`].
    pub fn boot_sessions(&self) -> Result<Vec<&Session>, BosError> {
        todo!()
    }

    /// `GET /sessions/N`
    ///
    /// # Errors
    /// When there is none of this name, or none any more.
    pub fn boot_session(&self, name: &str) -> Result<&Session, BosError> {
        let _ = name;
        todo!()
    }

    /// `GET /sessions/N/status`
    ///
    /// # Errors
    /// As [`boot_session`](Self::boot_session).
    pub fn boot_session_status(&self, name: &str) -> Result<ExtendedStatus, BosError> {
        let _ = name;
        todo!()
    }

    /// `DELETE /sessions/N`: forgets the session and **stops nothing**.
    ///
    /// # Errors
    /// As [`boot_session`](Self::boot_session).
    pub fn delete_boot_session(&mut self, name: &str) -> Result<(), BosError> {
        let _ = name;
        todo!()
    }

    /// All components, in the order of their xnames.
    ///
    /// # Errors
    /// Only [`BosError::StoreDown`].
    pub fn boot_components(&self) -> Result<Vec<BootComponent>, BosError> {
        todo!()
    }

    /// The components that a session still has: `GET /components?session=N`. None when there is no such session.
    ///
    /// # Errors
    /// Only [`BosError::StoreDown`].
    pub fn boot_components_of(&self, session: &str) -> Result<Vec<BootComponent>, BosError> {
        let _ = session;
        todo!()
    }

    /// One component.
    ///
    /// # Errors
    /// When there is none.
    pub fn boot_component(&self, xname: Xname) -> Result<BootComponent, BosError> {
        let _ = xname;
        todo!()
    }

    /// `PATCH /components/X {"enabled":…}`. Disabling one makes BOS stop with it: what was called goes on, and the
    /// session completes without it. Enabling one here does nothing more.
    ///
    /// # Errors
    /// When there is none.
    pub fn enable_boot_component(&mut self, xname: Xname, enabled: bool) -> Result<BootComponent, BosError> {
        let _ = (xname, enabled);
        todo!()
    }
}
