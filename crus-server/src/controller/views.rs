//! What operators look at: from the board where it has it, and otherwise from the store; never from a peer.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crus_api::service::{Follow, News};
use crus_api::views::{Beside, ExpectedEnd, Progress, Stamp};
use crus_api::{ServiceError, Sessions as _};
use crus_core::history::Entry;
use crus_core::model::{Head, Node, Phase, UpgradeId};
use crus_core::ports::StoreError;
use crus_core::{estimate, progress};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::board::Tail;
use super::{Controller, Shared};

/// So many entries are given to one who follows at a time.
const ENTRIES: usize = 100;

/// Nodes of a step that are so close to each other are read together.
const GAP: usize = 64;

/// So many reads of a step's nodes are under way at a time.
const READS: usize = 8;

impl Shared {
    /// The head of a session, as the board has it, or else the store.
    pub(super) async fn head(&self, id: UpgradeId) -> Result<Option<Arc<Head>>, ServiceError> {
        match self.board.head(id) {
            Some(head) => Ok(Some(head)),
            None => Ok(self.store.summary(id).await?.map(|summary| Arc::new(summary.head))),
        }
    }

    /// How far a session is.
    pub(super) async fn progress(&self, id: UpgradeId) -> Result<Option<Progress>, ServiceError> {
        let (head, deletion_ordered, step) = match self.board.outlook(id) {
            Some(outlook) => (outlook.head, outlook.deletion_ordered, outlook.step),
            None => match self.store.summary(id).await? {
                Some(summary) => (Arc::new(summary.head), summary.deletion_ordered, None),
                None => return Ok(None),
            },
        };
        let step = match step {
            Some(step) => step,
            None => self.step_nodes(&head).await?,
        };
        let now = self.ports.clock.now();
        let window = head.spec.strategy.window.as_ref();
        let zone = window.and_then(|window| self.ports.clock.zone(&window.time_zone, now));
        let expected_end = match deletion_ordered {
            true => None,
            false => estimate::expected_end(&head, &*step, &self.limits, zone, now),
        };
        let expected_end =
            expected_end.map(|(low, high)| ExpectedEnd { high: Some(Stamp(high)), low: Some(Stamp(low)) });
        let waits_for = progress::waits_for(&head, &*step);
        Ok(Some(Progress::of(&head, Beside { deletion_ordered, waits_for, expected_end, now })))
    }

    /// The nodes of a session's step, as the board has them, or else the store.
    pub(super) async fn nodes_of_step(&self, id: UpgradeId) -> Result<Arc<[Node]>, ServiceError> {
        if let Some(step) = self.board.outlook(id).and_then(|outlook| outlook.step) {
            return Ok(step);
        }
        match self.head(id).await? {
            Some(head) => Ok(self.step_nodes(&head).await?),
            None => Ok(Arc::new([])),
        }
    }

    /// The nodes of a session's step as they are stored.
    async fn step_nodes(&self, head: &Head) -> Result<Arc<[Node]>, StoreError> {
        if head.phase != Phase::Rolling {
            return Ok(Arc::new([]));
        }
        let mut positions = head.batch.clone();
        positions.sort_unstable();
        let read = stream::iter(ranges(&positions)).map(async |range: Range<usize>| {
            let nodes = self.store.nodes(head.id, range.start, range.len()).await?;
            Ok::<_, StoreError>((range.start, nodes))
        });
        let read: Vec<(usize, Vec<Node>)> = read.buffered(READS).try_collect().await?;
        let placed = read.into_iter().flat_map(|(start, nodes)| (start..).zip(nodes));
        let of_step = placed.filter(|(position, _)| positions.binary_search(position).is_ok());
        Ok(of_step.map(|(_, node)| node).collect())
    }

    /// Some entries of a session's history.
    pub(super) async fn events(
        &self,
        id: UpgradeId,
        after: u64,
        count: usize,
    ) -> Result<Option<Vec<Entry>>, ServiceError> {
        if self.head(id).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(self.store.history(id, after, count).await?))
    }
}

/// The positions, which are in order, and those in small gaps between them.
fn ranges(positions: &[usize]) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for &position in positions {
        match ranges.last_mut() {
            Some(last) if position < last.end + GAP => last.end = last.end.max(position + 1),
            _ => ranges.push(position..position + 1),
        }
    }
    ranges
}

/// Follows the history of one session.
pub(super) struct Following {
    controller: Controller,
    id: UpgradeId,
    /// The number of the latest entry that was told.
    told: u64,
    /// What happened last, if the session runs here.
    tail: Option<Tail>,
    changed: watch::Receiver<()>,
}

impl Following {
    /// `None` when there is no such session.
    pub(super) async fn new(
        controller: Controller,
        id: UpgradeId,
        after: u64,
    ) -> Result<Option<Self>, ServiceError> {
        // Before it is looked at, so that no change falls between.
        let changed = controller.shared.board.changes();
        let Some(head) = controller.head(id).await? else { return Ok(None) };
        // Numbers that it never reached are of a store that was restored since.
        let told = after.min(head.entries);
        Ok(Some(Following { controller, id, told, tail: None, changed }))
    }

    /// What is new by now; `None` when nothing is.
    async fn look(&mut self) -> Result<Option<News>, ServiceError> {
        let shared = &self.controller.shared;
        if *shared.stop.borrow() {
            return Ok(Some(News::Stopping));
        }
        self.tail = shared.board.tail(self.id).or(self.tail.take());
        let Some(head) = shared.head(self.id).await? else {
            let last = self.tail.take().map(|tail| tail.after(self.told)).unwrap_or_default();
            return Ok(Some(if last.is_empty() { News::Deleted } else { News::Entries(last) }));
        };
        if head.entries <= self.told {
            return Ok(None);
        }
        let entries = shared.store.history(self.id, self.told, ENTRIES).await?;
        // It may have been removed since.
        Ok(Some(News::Entries(entries)).filter(|news| *news != News::Entries(Vec::new())))
    }
}

#[async_trait::async_trait]
impl Follow for Following {
    async fn next(&mut self, patience: Duration) -> Result<News, ServiceError> {
        let until = Instant::now() + patience;
        loop {
            self.changed.mark_unchanged();
            if let Some(news) = self.look().await? {
                if let News::Entries(entries) = &news {
                    self.told = entries.last().map_or(self.told, |entry| entry.number);
                }
                return Ok(news);
            }
            match tokio::time::timeout_at(until, self.changed.changed()).await {
                Ok(Ok(())) => {}
                // Nobody tells any more.
                Ok(Err(_)) => return Ok(News::Stopping),
                Err(_) => return Ok(News::Nothing),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_are_close_to_each_other_are_read_together() {
        assert_eq!(ranges(&[]), Vec::<Range<usize>>::new());
        assert_eq!(ranges(&[0, 1, 2, 66, 131, 500]), [0..67, 131..132, 500..501]);
        let far: Vec<usize> = (0..10).map(|n| n * 1000).collect();
        assert_eq!(ranges(&far).len(), 10);
    }
}
