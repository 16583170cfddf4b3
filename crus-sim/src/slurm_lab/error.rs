//! The ways in which a lab fails.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use super::ports::MAX_NODES;

/// The reason why a lab did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Programs are not installed; says which, and how to get them.
    #[error("failed to find {0}")]
    Missing(String),
    /// [`LabConfig::nodes`](super::LabConfig::nodes) is out of range.
    #[error("failed to make a lab of {nodes} nodes: must be 1 to {MAX_NODES}")]
    Size {
        /// The number that was asked for.
        nodes: usize,
    },
    /// `slurmctld -V` printed no version; holds what it printed.
    #[error("failed to find the version of Slurm in {0:?}, printed by `slurmctld -V`")]
    Version(String),
    /// No block of ports was free.
    #[error("failed to find {0} free ports in a row on 127.0.0.1")]
    NoPorts(usize),
    /// The operating system would not do it.
    #[error("failed to {what}: {source}")]
    Io {
        /// The attempt, as an infinitive.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// A daemon ended by itself.
    #[error("failed to keep {daemon} running: it ended by itself; its last words:\n{log}")]
    Ended {
        /// Its name.
        daemon: String,
        /// The end of its log.
        log: String,
    },
    /// One of Slurm's programs failed.
    #[error("failed to run `{command}` ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Its exit status.
        status: ExitStatus,
        /// Its standard error.
        stderr: String,
    },
    /// Something waited for did not happen in time.
    #[error("failed to see {what} within {} s; {detail}", limit.as_secs())]
    TimedOut {
        /// The event that was waited for.
        what: String,
        /// The time that it was waited for.
        limit: Duration,
        /// The nodes, the jobs and the log at the end.
        detail: String,
    },
    /// A name that is no node or daemon of this lab, or not in the state that the call needs.
    #[error("failed to {what} {name}: {why}")]
    NotNow {
        /// The attempt, as an infinitive.
        what: &'static str,
        /// The name of the node or daemon.
        name: String,
        /// The obstacle, as a sentence without its full stop.
        why: &'static str,
    },
}

/// Names what was tried when the operating system refuses.
pub(super) trait Trying<T> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, LabError>;
}

impl<T> Trying<T> for io::Result<T> {
    fn trying(self, what: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|source| LabError::Io { what: what(), source })
    }
}
