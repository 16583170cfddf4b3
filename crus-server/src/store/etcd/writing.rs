//! Writes that happen wholly or not at all, however many parts they have.
//!
//! What fits into one transaction of etcd is one. Anything larger is staged under a name of its own, in as many
//! transactions as it takes; then one transaction stores the head and the revision, and says that the staged set counts:
//! from then on readers lay it over the parts. At leisure the parts are written where they belong, and the staged set
//! is removed, by whoever comes to it first. Repeating any of this is harmless.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;

use crus_core::model::UpgradeId;
use crus_core::ports::StoreError;
use crus_core::stored::Parts;
use etcd_client::{Client, Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, Txn, TxnOp, TxnResponse};
use futures_util::future::try_join_all;

use super::connection::{Connection, PATIENCE, Trouble};
use super::keys::{Keys, Kind, end_of, last, pack, unpack};
use super::ownership::found;

/// Operations in one transaction: etcd takes 128 unless told otherwise, the few beside the parts included.
const OPERATIONS: usize = 100;

/// Bytes of parts in one transaction: etcd takes requests of 1.5 MiB unless told otherwise.
const BYTES: usize = 1 << 20;

/// Transactions under way at a time, where their order does not matter.
const AT_A_TIME: usize = 8;

/// The most bytes of one answer. Pages are counted in keys, whose values are as large as 1 MiB at worst.
const ANSWER_BYTES: usize = 64 << 20;

/// Positions and what is stored there.
pub(super) type Rows = Vec<(u32, Vec<u8>)>;

/// A write of some parts of a session.
pub(super) struct Write<'a> {
    pub(super) id: UpgradeId,
    pub(super) parts: &'a Parts,
    /// Names this write: stored with the revision, so that it is known again when the answer was lost.
    pub(super) token: &'a str,
    /// The lease that must own the session, and the revision that must be stored; `None`: there must be no session.
    pub(super) guard: Option<(i64, i64)>,
    /// What is to be done in the same transaction, beside the parts. Few.
    pub(super) besides: Vec<TxnOp>,
}

/// What came of a write.
pub(super) enum Written {
    /// It is stored, with this revision.
    Done(i64),
    /// The session is there already, is of another revision, or is gone.
    Conflict,
    /// The lease does not own the session.
    NotOwner,
    /// A staged set that counts must be brought to its end first.
    Pending(String),
    /// There would be a gap before this position.
    Gap,
}

/// Reads and writes keys.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) connection: &'a Connection,
    pub(super) keys: &'a Keys,
}

impl Table<'_> {
    pub(super) async fn txn(&self, what: &str, txn: Txn) -> Result<TxnResponse, Trouble> {
        let send = |mut client: Client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        };
        self.connection.ask(what, PATIENCE, send).await
    }

    /// Reads a range in pages of so many keys, as it was at this revision of etcd.
    pub(super) async fn range(
        &self,
        range: &str,
        at: i64,
        page: i64,
        only_keys: bool,
        take: impl FnMut(KeyValue) -> Result<(), StoreError>,
    ) -> Result<(), ReadError> {
        self.between((range, end_of(range)), at, page, only_keys, take).await
    }

    /// Likewise what is from one key on, and before another one.
    async fn between(
        &self,
        (from, end): (&str, String),
        at: i64,
        page: i64,
        only_keys: bool,
        mut take: impl FnMut(KeyValue) -> Result<(), StoreError>,
    ) -> Result<(), ReadError> {
        let mut from = from.as_bytes().to_vec();
        loop {
            let send = |client: Client| {
                let options = GetOptions::new().with_range(end.as_str()).with_limit(page).with_revision(at);
                let options = if only_keys { options.with_keys_only() } else { options };
                let from = from.clone();
                async move {
                    let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES);
                    kv.get(from, Some(options)).await
                }
            };
            let mut answer = self.connection.ask("read", PATIENCE, send).await?;
            let more = answer.more();
            let Some(last) = answer.kvs().last().map(|kv| kv.key().to_vec()) else { return Ok(()) };
            answer.take_kvs().into_iter().try_for_each(&mut take)?;
            if !more {
                return Ok(());
            }
            from = [last.as_slice(), b"\0"].concat();
        }
    }

    /// The parts of a session of one kind, as they were at this revision of etcd, with what a pending set lays over them.
    pub(super) async fn rows(
        &self,
        id: UpgradeId,
        kind: Kind,
        pending: Option<&str>,
        at: i64,
    ) -> Result<Rows, ReadError> {
        self.rows_at(id, kind, &(0..=u32::MAX), pending, at).await
    }

    /// Likewise those at some positions.
    pub(super) async fn rows_at(
        &self,
        id: UpgradeId,
        kind: Kind,
        positions: &RangeInclusive<u32>,
        pending: Option<&str>,
        at: i64,
    ) -> Result<Rows, ReadError> {
        // An entry of the history may hold the names of all nodes of a step.
        let page = if kind == Kind::Entry { 50 } else { 1000 };
        let first = self.keys.part(id, kind, *positions.start());
        let end = self.keys.part(id, kind, *positions.end()) + "\0";
        let mut rows = Rows::new();
        self.between((&first, end), at, page, false, |kv| {
            let (key, value) = kv.into_key_value();
            rows.push((last(&key)?, value));
            Ok(())
        })
        .await?;
        let Some(token) = pending else { return Ok(rows) };
        let mut all: BTreeMap<u32, Vec<u8>> = rows.into_iter().collect();
        let staged = self.staged(id, token, kind, at).await?.into_iter();
        all.extend(staged.filter(|(position, _)| positions.contains(position)));
        Ok(all.into_iter().collect())
    }

    async fn staged(&self, id: UpgradeId, token: &str, kind: Kind, at: i64) -> Result<Rows, ReadError> {
        const PAGE: i64 = 16;
        let mut rows = Rows::new();
        self.range(&self.keys.chunks(id, token, kind), at, PAGE, false, |kv| {
            rows.extend(unpack(id, kv.value())?);
            Ok(())
        })
        .await?;
        Ok(rows)
    }

    /// Writes all or nothing.
    pub(super) async fn write(&self, write: &Write<'_>) -> Result<Written, StoreError> {
        match self.try_write(write).await? {
            // What was pending may have been brought to its end between two looks: that looks like a gap.
            Written::Gap => self.try_write(write).await,
            written => Ok(written),
        }
    }

    async fn try_write(&self, write: &Write<'_>) -> Result<Written, StoreError> {
        let keys = self.keys;
        let id = write.id;
        let is_small = {
            let rows = || Kind::ALL.into_iter().flat_map(|kind| rows_of(write.parts, kind));
            let bytes = write.parts.head.iter().chain(rows().map(|(_, value)| value)).map(Vec::len);
            rows().count() <= OPERATIONS && bytes.sum::<usize>() <= BYTES
        };
        let mut operations = write.besides.clone();
        operations.push(TxnOp::put(keys.revision(id), write.token, None));
        if let Some(head) = &write.parts.head {
            operations.push(TxnOp::put(keys.head(id), head.clone(), None));
        }
        if let Some(end) = write.parts.messages_end {
            let range = DeleteOptions::new().with_range(end_of(&keys.parts(id, Kind::Message)));
            operations.push(TxnOp::delete(keys.part(id, Kind::Message, end), Some(range)));
        }
        if is_small {
            for kind in Kind::ALL {
                operations.extend(puts(keys, id, kind, rows_of(write.parts, kind)));
            }
        } else {
            if !self.stage(write).await? {
                return self.why_not(write).await;
            }
            operations.push(TxnOp::put(keys.pending(id), write.token, None));
        }

        let mut when = self.guards(write);
        when.push(Compare::version(keys.pending(id), CompareOp::Equal, 0));
        let before =
            Kind::WHOLE.into_iter().filter_map(|kind| Some((kind, before(rows_of(write.parts, kind))?)));
        when.extend(before.map(|(kind, i)| Compare::version(keys.part(id, kind, i), CompareOp::Greater, 0)));
        let done = self.txn("write", Txn::new().when(when).and_then(operations)).await?;
        if !done.succeeded() {
            return self.why_not(write).await;
        }
        let revision = done.header().map(|header| header.revision());
        if !is_small {
            self.apply_later(id, write.token, Some(write.parts)).await;
        }
        revision
            .map(Written::Done)
            .ok_or_else(|| StoreError::Failed("etcd did not tell the revision".to_owned()))
    }

    fn guards(&self, write: &Write<'_>) -> Vec<Compare> {
        let revision = self.keys.revision(write.id);
        match write.guard {
            None => vec![Compare::version(revision, CompareOp::Equal, 0)],
            Some((lease, stored)) => vec![
                Compare::mod_revision(revision, CompareOp::Equal, stored),
                Compare::lease(self.keys.owner(write.id), CompareOp::Equal, lease),
            ],
        }
    }

    /// Why a write did not happen, or that it did.
    async fn why_not(&self, write: &Write<'_>) -> Result<Written, StoreError> {
        let (keys, id) = (self.keys, write.id);
        let reads = [keys.revision(id), keys.owner(id), keys.pending(id)].map(|key| TxnOp::get(key, None));
        let answer = self.txn("read", Txn::new().and_then(reads)).await?;
        let mut found = found(&answer).into_iter().map(|found| found.into_iter().next());
        let mut next = || found.next().flatten();
        let (revision, owner, pending) = (next(), next(), next());
        let token = |kv: &KeyValue| String::from_utf8_lossy(kv.value()).into_owned();

        // The answer to an attempt at it was lost.
        if let Some(revision) = revision.as_ref().filter(|revision| token(revision) == write.token) {
            if let Some(pending) = pending.as_ref().map(token).filter(|pending| pending == write.token) {
                self.apply_later(id, &pending, Some(write.parts)).await;
            }
            return Ok(Written::Done(revision.mod_revision()));
        }
        let Some((lease, expected)) = write.guard else {
            return Ok(match (revision, pending.as_ref().map(token)) {
                (Some(_), _) => Written::Conflict,
                // What is pending belongs to a session: it was removed since.
                (None, _) => Written::Gap,
            });
        };
        Ok(match revision {
            None => Written::Conflict,
            Some(_) if owner.is_none_or(|owner| owner.lease() != lease) => Written::NotOwner,
            Some(revision) if revision.mod_revision() != expected => Written::Conflict,
            Some(_) => pending.as_ref().map(token).map_or(Written::Gap, Written::Pending),
        })
    }

    /// Stages all parts. `false` when the session is not as it must be.
    async fn stage(&self, write: &Write<'_>) -> Result<bool, Trouble> {
        for kind in Kind::ALL {
            let chunks = pack(rows_of(write.parts, kind));
            for some in chunks.chunks(AT_A_TIME) {
                let txns = some.iter().map(|(position, chunk)| {
                    let key = self.keys.chunk(write.id, write.token, kind, *position);
                    let put = TxnOp::put(key, chunk.clone(), None);
                    self.txn("stage a write", Txn::new().when(self.guards(write)).and_then([put]))
                });
                if !try_join_all(txns).await?.iter().all(TxnResponse::succeeded) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Brings a pending set to its end, as far as that can be done now. It counts already; whoever writes next goes on.
    async fn apply_later(&self, id: UpgradeId, token: &str, parts: Option<&Parts>) {
        if let Err(error) = self.apply(id, token, parts).await {
            tracing::debug!("failed to put a large write in its place, which can wait: {error}");
        }
    }

    /// Brings a pending set to its end: `parts` is what was staged, if that is at hand.
    pub(super) async fn apply(
        &self,
        id: UpgradeId,
        token: &str,
        parts: Option<&Parts>,
    ) -> Result<(), StoreError> {
        let keys = self.keys;
        let still_pending = || [Compare::value(keys.pending(id), CompareOp::Equal, token)];
        for kind in Kind::ALL {
            let staged;
            let rows = match parts {
                Some(parts) => rows_of(parts, kind),
                None => {
                    staged = self.staged(id, token, kind, 0).await?;
                    &staged
                }
            };
            for some in batches(rows).chunks(AT_A_TIME) {
                let txns = some.iter().map(|batch| {
                    let puts: Vec<TxnOp> = puts(keys, id, kind, batch).collect();
                    self.txn("write staged parts", Txn::new().when(still_pending()).and_then(puts))
                });
                if !try_join_all(txns).await?.iter().all(TxnResponse::succeeded) {
                    // Somebody else brought it to its end.
                    return Ok(());
                }
            }
        }
        let done = [
            TxnOp::delete(keys.pending(id), None),
            TxnOp::delete(keys.staged(id), Some(DeleteOptions::new().with_prefix())),
        ];
        self.txn("end a large write", Txn::new().when(still_pending()).and_then(done)).await?;
        Ok(())
    }
}

/// Why something could not be read.
pub(super) enum ReadError {
    Trouble(Trouble),
    Told(StoreError),
}

impl From<Trouble> for ReadError {
    fn from(trouble: Trouble) -> Self {
        ReadError::Trouble(trouble)
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        ReadError::Told(error)
    }
}

impl From<ReadError> for StoreError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Trouble(trouble) => trouble.into(),
            ReadError::Told(error) => error,
        }
    }
}

fn rows_of(parts: &Parts, kind: Kind) -> &[(u32, Vec<u8>)] {
    match kind {
        Kind::Node => &parts.nodes,
        Kind::Message => &parts.messages,
        Kind::Entry => &parts.history,
    }
}

fn puts<'a>(
    keys: &'a Keys,
    id: UpgradeId,
    kind: Kind,
    rows: &'a [(u32, Vec<u8>)],
) -> impl Iterator<Item = TxnOp> + use<'a> {
    rows.iter().map(move |(i, value)| TxnOp::put(keys.part(id, kind, *i), value.clone(), None))
}

/// What must be stored already for these rows not to leave a gap: the position before the last run of them, since
/// nothing is missing before that one.
fn before(rows: &[(u32, Vec<u8>)]) -> Option<u32> {
    let run = rows.chunk_by(|(one, _), (next, _)| one + 1 == *next).last()?;
    run.first()?.0.checked_sub(1)
}

/// The rows in pieces that each fit into one transaction.
fn batches(rows: &[(u32, Vec<u8>)]) -> Vec<&[(u32, Vec<u8>)]> {
    let mut batches = Vec::new();
    let (mut rest, mut bytes, mut count) = (rows, 0, 0);
    for (_, value) in rows {
        if count > 0 && (count == OPERATIONS || bytes + value.len() > BYTES) {
            let (batch, others) = rest.split_at(count);
            batches.push(batch);
            (rest, bytes, count) = (others, 0, 0);
        }
        bytes += value.len();
        count += 1;
    }
    if !rest.is_empty() {
        batches.push(rest);
    }
    batches
}

/// A name for a write by this lease onto this revision: the same for the same write, so that who makes it again, since
/// the answer was lost, learns that it happened.
pub(super) fn token(lease: i64, revision: i64, parts: &Parts) -> String {
    let Parts { head, nodes, messages, messages_end, history } = parts;
    let mut hasher = DefaultHasher::new();
    (head, nodes, messages, messages_end, history).hash(&mut hasher);
    format!("{lease:x}-{revision}-{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(positions: &[u32], bytes: usize) -> Rows {
        positions.iter().map(|i| (*i, vec![b'x'; bytes])).collect()
    }

    #[test]
    fn a_gap_can_only_be_before_the_last_run() {
        assert_eq!(before(&rows(&[], 1)), None);
        assert_eq!(before(&rows(&[0, 1, 2], 1)), None);
        assert_eq!(before(&rows(&[5], 1)), Some(4));
        assert_eq!(before(&rows(&[0, 1, 7, 8, 20, 21], 1)), Some(19));
    }

    #[test]
    fn batches_hold_all_rows_in_order_within_the_limits_of_a_transaction() {
        let positions: Vec<u32> = (0..1234).collect();
        for bytes in [1, 20_000, BYTES / 3, BYTES + 1] {
            let rows = rows(&positions[..if bytes > 20_000 { 10 } else { 1234 }], bytes);
            let batches = batches(&rows);
            assert_eq!(batches.concat(), rows);
            for batch in batches {
                let total: usize = batch.iter().map(|(_, value)| value.len()).sum();
                assert!(batch.len() <= OPERATIONS && (total <= BYTES || batch.len() == 1), "{bytes}");
            }
        }
        assert!(batches(&[]).is_empty());
    }

    #[test]
    fn a_write_is_named_by_all_that_it_writes() {
        let parts = Parts { nodes: rows(&[1, 2], 3), ..Parts::default() };
        let name = token(7, 9, &parts);
        assert_eq!(token(7, 9, &parts), name);
        assert_ne!(token(8, 9, &parts), name);
        assert_ne!(token(7, 10, &parts), name);
        assert_ne!(token(7, 9, &Parts { messages_end: Some(0), ..parts.clone() }), name);
        assert_ne!(
            token(7, 9, &Parts { nodes: Vec::new(), messages: parts.nodes, ..Parts::default() }),
            name
        );
    }
}
