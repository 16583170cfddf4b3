//! A cluster as text, so that it outlives its process.
//!
//! The text is JSON: `{"format":…,"version":…,"cluster":…}`. It holds the whole model, configuration and random
//! numbers included: a restored cluster goes on just as the saved one would have. Facts and power events that nobody
//! has taken out yet are not in it.

use std::collections::BTreeMap;

use crus_core::promises::{By, Fact};
use crus_core::{NodeName, Time, Xname};
use serde::de::{Deserializer, Error as _};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::bos::Bos;
use super::hsm::Hsm;
use super::jobs::Jobs;
use super::partitions::Partitions;
use super::queue::{Event, Ix, Queue};
use super::slurm::Controller;
use super::{Cluster, Draws, Node, PowerEvent};
use crate::config::ClusterConfig;
use crate::journal::Journal;

/// What the text says that it is.
const FORMAT: &str = "crus-sim cluster";
/// To be raised whenever a text of before can no longer be read, or would be read wrongly.
const VERSION: u32 = 2;

/// Why a text did not make a cluster.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is something else altogether.
    #[error("this is not the snapshot of a simulated cluster")]
    NotASnapshot,
    /// Another version of this program wrote it.
    #[error("the snapshot is of version {found}; this program reads version {VERSION}")]
    OtherVersion {
        /// The version of the snapshot.
        found: u32,
    },
    /// It is a snapshot of this version, cut short or changed.
    #[error("the snapshot is damaged")]
    Damaged(#[source] serde_json::Error),
    /// Each of its parts can be read, but together they are no cluster.
    #[error("the snapshot is damaged: {0}")]
    Contradicts(&'static str),
}

/// What says which snapshot it is.
#[derive(Deserialize)]
struct Header {
    format: String,
    version: u32,
}

#[derive(Serialize)]
struct Saved<'a> {
    format: &'static str,
    version: u32,
    #[serde(serialize_with = "write_cluster")]
    cluster: &'a Cluster,
}

#[derive(Deserialize)]
struct Restored {
    #[serde(with = "Parts")]
    cluster: Cluster,
}

/// The parts of a cluster: a copy of its fields, so that nothing but [`Cluster::restore`] makes one of a text.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Cluster")]
struct Parts {
    config: ClusterConfig,
    now: Time,
    queue: Queue,
    draws: Draws,
    nodes: Vec<Node>,
    #[serde(skip)]
    by_xname: BTreeMap<Xname, Ix>,
    #[serde(skip)]
    by_name: BTreeMap<NodeName, Ix>,
    #[serde(skip)]
    partitions: Partitions,
    controller: Controller,
    jobs: Jobs,
    hsm: Hsm,
    bos: Bos,
    #[serde(skip)]
    facts: Vec<Fact>,
    #[serde(skip)]
    power_events: Vec<PowerEvent>,
    #[serde(skip)]
    acting: By,
    #[serde(skip)]
    journal: Journal,
}

fn write_cluster<S: Serializer>(cluster: &&Cluster, serializer: S) -> Result<S::Ok, S::Error> {
    Parts::serialize(cluster, serializer)
}

impl Cluster {
    /// The whole cluster as it is now, as text for [`restore`](Self::restore).
    ///
    /// # Errors
    /// None that is known: JSON can hold every value of the model.
    pub fn save(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(&Saved { format: FORMAT, version: VERSION, cluster: self })
    }

    /// The cluster of a text that [`save`](Self::save) wrote: from here on, the same calls give the same answers.
    ///
    /// # Errors
    /// As each [`RestoreError`] says.
    pub fn restore(text: &str) -> Result<Cluster, RestoreError> {
        let header: Header = serde_json::from_str(text).map_err(|error| {
            // What is cut short began well.
            if error.is_eof() && text.contains(FORMAT) {
                RestoreError::Damaged(error)
            } else {
                RestoreError::NotASnapshot
            }
        })?;
        if header.format != FORMAT {
            return Err(RestoreError::NotASnapshot);
        }
        if header.version != VERSION {
            return Err(RestoreError::OtherVersion { found: header.version });
        }
        let Restored { mut cluster } = serde_json::from_str(text).map_err(RestoreError::Damaged)?;
        cluster.index_nodes();
        cluster.check_parts().map_err(RestoreError::Contradicts)?;
        Ok(cluster)
    }

    /// Whether the parts agree as far as the model relies on it.
    fn check_parts(&self) -> Result<(), &'static str> {
        if self.by_xname.len() != self.nodes.len() {
            return Err("two nodes have the same xname");
        }
        let there = |ix: Ix| (ix as usize) < self.nodes.len();
        if !self.queue.events().all(|event| node_of(event).is_none_or(there)) {
            return Err("something is due for a node that is not there");
        }
        let jobs: Vec<&[u32]> = self.nodes.iter().map(|node| node.slurm.jobs.as_slice()).collect();
        if !self.jobs.agree_with(&jobs) {
            return Err("the jobs and the nodes they run on do not agree");
        }
        Ok(())
    }
}

/// The node that something is due for.
fn node_of(event: Event) -> Option<Ix> {
    match event {
        Event::EpilogEnds(ix, _)
        | Event::OsUp(ix, _)
        | Event::SlurmdStarts(ix, _)
        | Event::Answers(ix, _)
        | Event::Silent(ix, _)
        | Event::Lost(ix, _)
        | Event::Component(ix, ..) => Some(ix),
        Event::JobArrives(_)
        | Event::JobEnds(..)
        | Event::JobMayBegin(_)
        | Event::ControllerStarts
        | Event::SessionResolves(_)
        | Event::SessionRuns(_)
        | Event::SessionForgotten(_) => None,
    }
}

/// One of a few words. By this name, since serde takes a plain `&str` for a piece of the text that it reads.
pub(super) type Word = &'static str;

fn word_of<'de, D: Deserializer<'de>>(deserializer: D, words: &'static [Word]) -> Result<Word, D::Error> {
    let read = String::deserialize(deserializer)?;
    words.iter().copied().find(|word| *word == read).ok_or_else(|| D::Error::unknown_variant(&read, words))
}

/// Who gives Slurm a reason.
pub(super) fn reason_user<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Word, D::Error> {
    word_of(deserializer, &["root", "slurm"])
}

/// `status.status` of a component of BOS.
pub(super) fn boot_status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Word, D::Error> {
    let words = &[
        "power_on_pending",
        "power_on_called",
        "power_off_pending",
        "power_off_gracefully_called",
        "configuring",
        "stable",
        "failed",
        "on_hold",
    ];
    word_of(deserializer, words)
}

/// `status.phase` of a component of BOS.
pub(super) fn boot_phase<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Word, D::Error> {
    word_of(deserializer, &["", "powering_off", "powering_on", "configuring"])
}
