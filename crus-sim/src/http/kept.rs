//! The file that a cluster is kept in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::{self, Cluster, RestoreError, SharedCluster};

/// Why a cluster cannot be kept in a file.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The file is there, and cannot be read.
    #[error("failed to read the simulated cluster kept in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What the file holds is not a cluster.
    #[error(
        "failed to restore the simulated cluster kept in {}; to start with a new one, move that file away, and the \
         sessions that were run on it",
        path.display()
    )]
    Restore {
        /// The file.
        path: PathBuf,
        /// Why.
        source: RestoreError,
    },
    /// The file cannot be written.
    #[error("failed to write the simulated cluster to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A file that holds a cluster as it was at some moment: always a whole one, even if the process is killed while it
/// writes.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    /// Locked while the file is written, so that an older state never replaces a newer one.
    last: Mutex<Last>,
}

/// The last write.
#[derive(Debug)]
struct Last {
    at: Instant,
    /// How much had happened in the cluster by then.
    happened: u64,
    failed: bool,
}

impl Kept {
    /// Fills `cluster` with what the file holds; if there is no file, makes it.
    pub(super) fn open(path: &Path, cluster: &SharedCluster) -> Result<Self, KeepError> {
        let path = path.to_owned();
        let mut cluster = cluster::lock(cluster);
        match fs::read_to_string(&path) {
            Ok(text) => match Cluster::restore(&text) {
                Ok(restored) => *cluster = restored,
                Err(source) => return Err(KeepError::Restore { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(KeepError::Read { path, source }),
        }
        // At once, so that a place that cannot be written is found before anybody relies on it.
        if let Err(source) = cluster.save().map_err(io::Error::from).and_then(|text| replace(&path, &text)) {
            return Err(KeepError::Write { path, source });
        }
        let last = Last { at: Instant::now(), happened: cluster.happened(), failed: false };
        Ok(Kept { path, last: Mutex::new(last) })
    }

    /// How old the file is.
    pub(super) fn age(&self) -> Duration {
        self.last().at.elapsed()
    }

    /// Writes the cluster if it may be changed, or if something happened in it since the last time. What cannot be
    /// written is logged, and tried again with the next write.
    pub(super) fn write(&self, cluster: &SharedCluster, may_be_changed: bool) {
        let mut last = self.last();
        let (happened, text) = {
            let cluster = cluster::lock(cluster);
            if !may_be_changed && !last.failed && cluster.happened() == last.happened {
                return;
            }
            (cluster.happened(), cluster.save())
        };
        let written = text.map_err(io::Error::from).and_then(|text| replace(&self.path, &text));
        if let Err(error) = &written
            && !last.failed
        {
            let path = self.path.display();
            tracing::error!(%path, %error, "failed to write the simulated cluster: a restart would forget what happens now");
        }
        *last = Last { at: Instant::now(), happened, failed: written.is_err() };
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts the text into the file, all of it or nothing.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}
