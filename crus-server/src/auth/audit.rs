//! The audit log: who changed what, and who was refused.
//!
//! Each is an event of the log with the target `audit`, and, if a file is configured (`audit_file`), a line of JSON in it:
//!
//! | | |
//! |---|---|
//! | `at` | when it was answered (RFC 3339) |
//! | `who`, `role`, `source` | the caller, what they may do, and who says so (a file of tokens, an issuer); left out when nobody knows |
//! | `remote` | the address at the other end of the connection, which may be a gateway's |
//! | `method`, `path`, `upgrade_id` | what it was about; the path as in the OpenAPI document |
//! | `status` | what was answered; left out when the request was given up before: it may have been done |
//! | `refused` | why, when it was refused |
//! | `more` | instead of all but `at` and `refused`: so many others were not noted one by one |
//!
//! # Promises
//!
//! - What may have changed something is noted, each time. What was refused, or could not be done, is noted up to a number
//!   in ten seconds, and counted beyond that: whoever sends rubbish cannot fill the disk.
//! - No upgrade and no answer waits for the file: its lines are written by a thread of their own, within moments. When that
//!   cannot keep up, or the disk is full, lines are lost; the log says so, and how many.
//! - The file is appended to and readable by its owner alone. When it is moved away (as `logrotate` does), the next line goes into a
//!   new one. It is not forced to the disk: what was written within the last seconds before a power failure may be lost.
//! - No token, and nothing of a body, is ever noted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use crus_api::access::{Audit, Deed, Refusal};
use jiff::Timestamp;
use serde::Serialize;
use tracing::{error, info};

/// For so long a number of refusals is noted one by one.
const SPAN: Duration = Duration::from_secs(10);

/// So many lines may wait to be written.
const WAITING_MAX: usize = 10_000;

/// What is noted in a number alone, once there is too much of it; each kind for itself, so that a flood of one hides
/// nothing of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nobody knows who it was.
    Unknown,
    /// They do not have the role.
    Role,
    /// They have it, and it could not be done: a mistake in the request, no such session.
    Undone,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Unknown, Kind::Role, Kind::Undone];

    /// Of what may have changed something there is none.
    fn of(deed: &Deed<'_>) -> Option<Kind> {
        match (&deed.refused, deed.status) {
            (Some(Refusal::Unknown(_)), _) => Some(Kind::Unknown),
            (Some(Refusal::Role(_)), _) => Some(Kind::Role),
            (None, Some(status)) if status.is_client_error() => Some(Kind::Undone),
            (None, _) => None,
        }
    }

    /// So many in a [`SPAN`] are noted one by one.
    fn limit(self) -> u64 {
        match self {
            Kind::Unknown | Kind::Role => 20,
            Kind::Undone => 100,
        }
    }

    fn why(self) -> &'static str {
        match self {
            Kind::Unknown => "nobody knows who they are",
            Kind::Role => "they do not have the role",
            Kind::Undone => "the request was wrong, or made no sense",
        }
    }
}

/// A line of the file.
#[derive(Debug, Default, Serialize)]
struct Line {
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upgrade_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<String>,
}

impl Line {
    fn of(deed: &Deed<'_>) -> Self {
        Line {
            at: now(),
            method: Some(deed.method.to_string()),
            more: None,
            path: Some(deed.path),
            refused: deed.refused.map(|refused| refused.to_string()),
            remote: deed.remote.map(|remote| remote.to_string()),
            role: deed.caller.and_then(|caller| caller.role).map(|role| role.name()),
            source: deed.caller.map(|caller| caller.source.to_string()),
            status: deed.status.map(|status| status.as_u16()),
            upgrade_id: deed.upgrade_id.map(|id| id.to_string()),
            who: deed.caller.map(|caller| caller.name.to_string()),
        }
    }

    fn more(kind: Kind, more: u64) -> Self {
        Line { at: now(), more: Some(more), refused: Some(kind.why().to_owned()), ..Line::default() }
    }

    fn log(&self) {
        let Line { method, more, path, refused, remote, role, source, status, upgrade_id, who, .. } = self;
        info!(
            target: "audit", who, role, source, remote, method, path, upgrade_id, status, refused, more,
            "{}",
            match (refused, status) {
                (Some(_), _) => "refused",
                (None, Some(200..=299)) => "done",
                (None, Some(_)) => "not done",
                (None, None) => "given up before it was answered: it may have been done",
            }
        );
    }
}

fn now() -> String {
    // Whole milliseconds, as elsewhere.
    Timestamp::now().round(jiff::Unit::Millisecond).unwrap_or_else(|_| Timestamp::now()).to_string()
}

/// How many of each kind there were in this span.
#[derive(Debug)]
struct Counts {
    since: Instant,
    seen: [u64; Kind::ALL.len()],
}

impl Counts {
    fn new() -> Self {
        Counts { since: Instant::now(), seen: [0; Kind::ALL.len()] }
    }

    /// Whether one more is noted by itself.
    fn admit(&mut self, kind: Kind) -> bool {
        let Some(seen) = self.seen.get_mut(kind as usize) else { return true };
        *seen += 1;
        *seen <= kind.limit()
    }

    /// What was not noted, once the span is over; another begins.
    fn over(&mut self, span: Duration) -> Vec<(Kind, u64)> {
        if self.since.elapsed() < span {
            return Vec::new();
        }
        let seen = std::mem::replace(self, Counts::new()).seen;
        let more =
            Kind::ALL.into_iter().zip(seen).map(|(kind, seen)| (kind, seen.saturating_sub(kind.limit())));
        more.filter(|(_, more)| *more > 0).collect()
    }
}

/// The audit log.
#[derive(Debug)]
pub struct AuditLog {
    counts: Arc<Mutex<Counts>>,
    /// Taken at the end.
    lines: Mutex<Option<SyncSender<Box<Line>>>>,
    lost: Arc<AtomicU64>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl AuditLog {
    /// Starts it, with this file or in the log alone.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn start(path: Option<&Path>) -> anyhow::Result<Self> {
        AuditLog::with_span(path, SPAN)
    }

    fn with_span(path: Option<&Path>, span: Duration) -> anyhow::Result<Self> {
        let file = path.map(Lines::open).transpose()?;
        let (send, lines) = sync_channel(WAITING_MAX);
        let counts = Arc::new(Mutex::new(Counts::new()));
        let lost = Arc::<AtomicU64>::default();
        let writer = Writer { file, lines, counts: Arc::clone(&counts), lost: Arc::clone(&lost), span };
        let writer = std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.run());
        let writer = writer.context("failed to start the thread of the audit log")?;
        Ok(AuditLog { counts, lines: Mutex::new(Some(send)), lost, writer: Mutex::new(Some(writer)) })
    }

    /// Writes what is there, and ends; waits for that no longer than so.
    pub async fn close(&self, patience: Duration) {
        drop(self.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return };
        let ended = tokio::task::spawn_blocking(move || writer.join().is_ok());
        if !matches!(tokio::time::timeout(patience, ended).await, Ok(Ok(true))) {
            error!("the last lines of the audit log may not be in its file");
        }
    }
}

impl Audit for AuditLog {
    fn note(&self, deed: &Deed<'_>) {
        let kind = Kind::of(deed);
        let admitted =
            kind.is_none_or(|kind| self.counts.lock().unwrap_or_else(PoisonError::into_inner).admit(kind));
        if !admitted {
            return;
        }
        let line = Line::of(deed);
        line.log();
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        match lines.as_ref().map(|lines| lines.try_send(Box::new(line))) {
            Some(Ok(())) => {}
            None | Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// What writes the lines, on a thread of its own.
struct Writer {
    file: Option<Lines>,
    lines: Receiver<Box<Line>>,
    counts: Arc<Mutex<Counts>>,
    lost: Arc<AtomicU64>,
    span: Duration,
}

impl Writer {
    fn run(mut self) {
        loop {
            let line = self.lines.recv_timeout(self.span / 2);
            let more = self.counts.lock().unwrap_or_else(PoisonError::into_inner).over(match &line {
                Err(RecvTimeoutError::Disconnected) => Duration::ZERO,
                _ => self.span,
            });
            for (kind, more) in more {
                let line = Line::more(kind, more);
                line.log();
                self.write(&line);
            }
            match line {
                Ok(line) => self.write(&line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 && self.file.is_some() {
                error!(
                    lost,
                    "lines of the audit log are lost: they came faster than its file (audit_file) takes them"
                );
            }
        }
    }

    fn write(&mut self, line: &Line) {
        if let Some(file) = &mut self.file {
            file.write(line);
        }
    }
}

/// The file, wherever it is.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    file: Option<File>,
    /// Lines that were not written since it was last said.
    failed: u64,
    said: Option<Instant>,
}

impl Lines {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let file = append_to(path).with_context(|| {
            format!(
                "failed to open {} (set by audit_file): its directory must be there, and writable",
                path.display()
            )
        })?;
        Ok(Lines { path: path.to_owned(), file: Some(file), failed: 0, said: None })
    }

    /// Whether what is open is what the path names.
    fn is_there(&self) -> bool {
        let named = std::fs::metadata(&self.path);
        let open = self.file.as_ref().and_then(|file| file.metadata().ok());
        match (named, open) {
            (Ok(named), Some(open)) => (named.dev(), named.ino()) == (open.dev(), open.ino()),
            _ => false,
        }
    }

    fn write(&mut self, line: &Line) {
        match self.try_write(line) {
            Ok(()) if self.failed > 0 => {
                error!(file = %self.path.display(), lost = self.failed, "the audit log can be written again; lines are lost");
                (self.failed, self.said) = (0, None);
            }
            Ok(()) => {}
            Err(error) => {
                self.failed += 1;
                if self.said.is_none_or(|said| said.elapsed() > SPAN) {
                    self.said = Some(Instant::now());
                    error!(
                        file = %self.path.display(), %error, lost = self.failed,
                        "failed to write the audit log (audit_file): its lines are lost until that can be done; the \
                         service goes on, and the log has the same events"
                    );
                }
            }
        }
    }

    fn try_write(&mut self, line: &Line) -> io::Result<()> {
        if !self.is_there() {
            self.file = None;
            self.file = Some(append_to(&self.path)?);
        }
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        // One write: a line of another process is before or behind it.
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(&text))
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}
