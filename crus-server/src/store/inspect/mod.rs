//! Looking into a store without changing it: `crus store dump` and `crus store check`.
//!
//! A file must not be open in a service meanwhile; etcd may be. A file of an older format, or one whose service was
//! killed, is put in order in memory only.

mod checks;

use std::collections::BTreeSet;
use std::io::{self, Write};

use crus_core::model::UpgradeId;
use crus_core::stored::FORMAT;
use serde::Serialize;
use serde_json::Value;

use super::OpenError;
use super::redb::FileView;
use crate::settings::Config;

#[cfg(feature = "etcd")]
use super::EtcdError;
#[cfg(feature = "etcd")]
use super::etcd::EtcdView;

pub use checks::Wrong;

/// Why a store could not be looked into, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A service works with it.
    #[error(
        "failed to look into the store {path}: a service has it open; stop the service first, or ask it what you want \
         to know (crus session list)"
    )]
    InUse {
        /// The store's file.
        path: String,
    },
    /// There is none.
    #[error("failed to look into the store {path}: there is no such file; name the right one with --store")]
    Missing {
        /// The store's file.
        path: String,
    },
    /// It cannot be opened.
    #[error(transparent)]
    File(OpenError),
    /// It cannot be opened in etcd.
    #[cfg(feature = "etcd")]
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// It is in etcd, and this build knows none.
    #[cfg(not(feature = "etcd"))]
    #[error("{}", super::WITHOUT_ETCD)]
    WithoutEtcd,
    /// It could not be read.
    #[error("failed to read the store: {0}; try again, and look at `crus store check`")]
    Read(String),
    /// What was read could not be written.
    #[error("failed to write: {0}")]
    Write(#[from] io::Error),
}

/// All that is stored of a session, as it is stored.
#[derive(Debug, Default)]
pub(super) struct Raw {
    pub(super) revision: Option<u64>,
    pub(super) head: Option<Vec<u8>>,
    pub(super) nodes: Vec<(u32, Vec<u8>)>,
    pub(super) messages: Vec<(u32, Vec<u8>)>,
    pub(super) history: Vec<(u32, Vec<u8>)>,
    pub(super) commands: Vec<(u64, Vec<u8>)>,
    pub(super) claim: Option<Vec<u8>>,
    pub(super) deletion_ordered: bool,
    pub(super) delivered: Option<Vec<u8>>,
}

/// A store that is looked into.
enum View {
    File(FileView),
    #[cfg(feature = "etcd")]
    Etcd(Box<EtcdView>),
}

impl View {
    /// The store that the configuration names, and its format.
    async fn open(config: &Config) -> Result<(Self, u64), InspectError> {
        if !config.etcd.endpoints.is_empty() {
            return open_etcd(config).await;
        }
        let store = config.store.clone();
        let path = || store.display().to_string();
        match FileView::open(&store) {
            Ok(view) => Ok((View::File(view), FORMAT)),
            Err(OpenError::Locked { path }) => Err(InspectError::InUse { path }),
            Err(OpenError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                Err(InspectError::Missing { path: path() })
            }
            Err(error) => Err(InspectError::File(error)),
        }
    }

    async fn ids(&self) -> Result<BTreeSet<UpgradeId>, InspectError> {
        match self {
            View::File(view) => view.ids(),
            #[cfg(feature = "etcd")]
            View::Etcd(view) => view.ids().await,
        }
        .map_err(InspectError::Read)
    }

    async fn read(&self, id: UpgradeId) -> Result<Raw, InspectError> {
        match self {
            View::File(view) => view.read(id),
            #[cfg(feature = "etcd")]
            View::Etcd(view) => view.read(id).await,
        }
        .map_err(InspectError::Read)
    }
}

#[cfg(feature = "etcd")]
async fn open_etcd(config: &Config) -> Result<(View, u64), InspectError> {
    let (view, format) = EtcdView::open(&config.etcd).await?;
    Ok((View::Etcd(Box::new(view)), format))
}

#[cfg(not(feature = "etcd"))]
async fn open_etcd(_: &Config) -> Result<(View, u64), InspectError> {
    Err(InspectError::WithoutEtcd)
}

/// One line of a dump. Values are as they are stored; one that is no JSON is given as a text.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Store { format: u64, sessions: usize },
    Session { id: UpgradeId, revision: Option<u64>, deletion_ordered: bool, delivered: Value, head: Value },
    Node { id: UpgradeId, position: u32, node: Value },
    Message { id: UpgradeId, position: u32, message: Value },
    Entry { id: UpgradeId, place: u32, entry: Value },
    Command { id: UpgradeId, number: u64, command: Value },
    Claim { id: UpgradeId, claim: Value },
    End { lines: u64 },
}

fn value(stored: &[u8]) -> Value {
    serde_json::from_slice(stored).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(stored)))
}

fn value_or_null(stored: Option<&[u8]>) -> Value {
    stored.map_or(Value::Null, value)
}

struct Lines<'a> {
    to: &'a mut dyn Write,
    count: u64,
}

impl Lines<'_> {
    fn write(&mut self, line: &Line) -> Result<(), InspectError> {
        let mut text = serde_json::to_vec(line).map_err(io::Error::from)?;
        text.push(b'\n');
        self.to.write_all(&text)?;
        self.count += 1;
        Ok(())
    }
}

/// Writes all that the store holds, one JSON object in a line. The last line says how many came before it: a dump without
/// it was cut.
///
/// # Errors
/// See [`InspectError`].
pub async fn dump(config: &Config, to: &mut dyn Write) -> Result<(), InspectError> {
    let (view, format) = View::open(config).await?;
    let ids = view.ids().await?;
    let mut lines = Lines { to, count: 0 };
    lines.write(&Line::Store { format, sessions: ids.len() })?;
    for id in ids {
        let raw = view.read(id).await?;
        lines.write(&Line::Session {
            id,
            revision: raw.revision,
            deletion_ordered: raw.deletion_ordered,
            delivered: value_or_null(raw.delivered.as_deref()),
            head: value_or_null(raw.head.as_deref()),
        })?;
        for (position, node) in &raw.nodes {
            lines.write(&Line::Node { id, position: *position, node: value(node) })?;
        }
        for (position, message) in &raw.messages {
            lines.write(&Line::Message { id, position: *position, message: value(message) })?;
        }
        for (place, entry) in &raw.history {
            lines.write(&Line::Entry { id, place: *place, entry: value(entry) })?;
        }
        for (number, command) in &raw.commands {
            lines.write(&Line::Command { id, number: *number, command: value(command) })?;
        }
        if let Some(claim) = &raw.claim {
            lines.write(&Line::Claim { id, claim: value(claim) })?;
        }
    }
    let count = lines.count;
    lines.write(&Line::End { lines: count })?;
    lines.to.flush()?;
    Ok(())
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// How many sessions there are.
    pub sessions: usize,
    /// How many nodes these have together.
    pub nodes: usize,
    /// What is wrong, in order of the sessions.
    pub wrong: Vec<Wrong>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.wrong.is_empty()
    }
}

/// Reads all that the store holds, and tells what is wrong with it.
///
/// # Errors
/// See [`InspectError`]. That a file is damaged is no error here but what is wrong.
pub async fn check(config: &Config) -> Result<Report, InspectError> {
    let (view, format) = match View::open(config).await {
        Ok(opened) => opened,
        Err(InspectError::File(OpenError::NotAStore { path, detail })) => {
            let what =
                format!("the file {path} is no store, or is damaged: {detail}; restore it from a backup");
            return Ok(Report { wrong: vec![Wrong { session: None, what }], ..Report::default() });
        }
        Err(error) => return Err(error),
    };
    let mut report = Report::default();
    let mut across = checks::Across::default();
    for id in view.ids().await? {
        let raw = view.read(id).await?;
        if raw.revision.is_some() {
            report.sessions += 1;
        }
        report.nodes += raw.nodes.len();
        let found = checks::session(id, &raw, format, &mut across);
        report.wrong.extend(found.into_iter().map(|what| Wrong { session: Some(id), what }));
    }
    report.wrong.extend(across.wrong());
    Ok(report)
}
