//! What is read of the sessions, as it was at one moment.

use std::collections::BTreeMap;

use crus_core::claims::Claim;
use crus_core::history::Entry;
use crus_core::model::{Head, Node, Ordered, Session, Summary, UpgradeId};
use crus_core::ports::StoreError;
use crus_core::stored;
use etcd_client::{GetOptions, KeyValue, Txn, TxnOp};

use super::keys::{Kind, last};
use super::ownership::found;
use super::writing::{ReadError, Table};

/// What the keys of a session say that are read first.
pub(super) struct Look {
    /// The revision of etcd in which they said so.
    pub(super) at: i64,
    pub(super) head: Vec<u8>,
    pub(super) revision: i64,
    deletion_ordered: bool,
    pending: Option<String>,
    /// Those that were taken in and not dropped yet included.
    commands: Vec<Noted>,
}

/// A command as it is noted.
pub(super) struct Noted {
    pub(super) number: u64,
    pub(super) ordered: Ordered,
    pub(super) key: Vec<u8>,
}

/// All claims, as they were at one moment.
pub(super) struct Claims {
    /// The revision of the key that changes with them.
    pub(super) turn: i64,
    /// The lease that owns the session in question.
    pub(super) owner: i64,
    /// The revision of its claim.
    pub(super) own: i64,
    pub(super) all: BTreeMap<UpgradeId, Claim>,
}

impl Look {
    /// The head, the commands that it has not taken in, in order, and those that it has.
    pub(super) fn commands(self, id: UpgradeId) -> Result<(Head, Vec<Noted>, Vec<Noted>), StoreError> {
        let head = stored::head(id, &self.head)?;
        let (left, taken_in) = self.commands.into_iter().partition(|noted| noted.number > head.commands);
        Ok((head, left, taken_in))
    }
}

impl Table<'_> {
    pub(super) async fn ids(&self) -> Result<Vec<UpgradeId>, ReadError> {
        const PAGE: i64 = 1000;
        let mut ids = Vec::new();
        self.range(&self.keys.heads(), 0, PAGE, true, |kv| {
            ids.push(last(kv.key())?);
            Ok(())
        })
        .await?;
        Ok(ids)
    }

    /// The first look at a session.
    pub(super) async fn look(&self, id: UpgradeId) -> Result<Option<Look>, StoreError> {
        let keys = self.keys;
        let reads = [keys.head(id), keys.revision(id), keys.order(id), keys.pending(id)];
        let reads = reads.map(|key| TxnOp::get(key, None)).into_iter();
        let noted = TxnOp::get(keys.commands(id), Some(GetOptions::new().with_prefix()));
        let reads: Vec<TxnOp> = reads.chain([noted]).collect();
        let answer = self.txn("read a session", Txn::new().and_then(reads)).await?;
        let at = answer.header().map_or(0, |header| header.revision());
        let mut found = found(&answer).into_iter();
        let mut next = || found.next().and_then(|found| found.into_iter().next());
        let (head, revision, order, pending) = (next(), next(), next(), next());
        let Some(revision) = revision else { return Ok(None) };
        let head =
            head.ok_or_else(|| StoreError::Unreadable(format!("the head of session {id} is missing")))?;
        let commands = found.next().unwrap_or_default().into_iter().map(|kv| noted_as(id, kv));
        let mut commands: Vec<Noted> = commands.collect::<Result<_, _>>()?;
        commands.sort_unstable_by_key(|noted| noted.number);
        Ok(Some(Look {
            at,
            head: head.into_key_value().1,
            revision: revision.mod_revision(),
            deletion_ordered: order.is_some(),
            pending: pending.map(|pending| String::from_utf8_lossy(pending.value()).into_owned()),
            commands,
        }))
    }

    pub(super) async fn summary(&self, id: UpgradeId) -> Result<Option<Summary>, ReadError> {
        let Some(look) = self.look(id).await? else { return Ok(None) };
        let messages = self.rows(id, Kind::Message, look.pending.as_deref(), look.at).await?;
        let deletion_ordered = look.deletion_ordered;
        let (head, commands, _) = look.commands(id)?;
        let commands = commands.into_iter().map(|noted| (noted.number, noted.ordered.command)).collect();
        Ok(Some(Summary { head, messages: stored::messages(id, messages)?, deletion_ordered, commands }))
    }

    /// A session and its revision.
    pub(super) async fn load(&self, id: UpgradeId) -> Result<Option<(Session, i64)>, ReadError> {
        let Some(look) = self.look(id).await? else { return Ok(None) };
        let nodes = self.rows(id, Kind::Node, look.pending.as_deref(), look.at).await?;
        let messages = self.rows(id, Kind::Message, look.pending.as_deref(), look.at).await?;
        Ok(Some((stored::session(id, &look.head, nodes, messages)?, look.revision)))
    }

    pub(super) async fn nodes(
        &self,
        id: UpgradeId,
        from: usize,
        count: usize,
    ) -> Result<Vec<Node>, ReadError> {
        let Ok(from) = u32::try_from(from) else { return Ok(Vec::new()) };
        let Some(last) = u32::try_from(count).ok().map_or(Some(u32::MAX), |count| count.checked_sub(1))
        else {
            return Ok(Vec::new());
        };
        let places = from..=from.saturating_add(last);
        let Some(look) = self.look(id).await? else { return Ok(Vec::new()) };
        let rows = self.rows_at(id, Kind::Node, &places, look.pending.as_deref(), look.at).await?;
        let nodes = rows.iter().map(|(_, value)| stored::node(id, value));
        Ok(nodes.collect::<Result<_, _>>()?)
    }

    pub(super) async fn history(
        &self,
        id: UpgradeId,
        after: u64,
        count: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        let Some(look) = self.look(id).await? else { return Ok(Vec::new()) };
        let latest = stored::head(id, &look.head)?.entries;
        let mut values = BTreeMap::new();
        for places in stored::places(latest, after, count) {
            values.extend(self.rows_at(id, Kind::Entry, &places, look.pending.as_deref(), look.at).await?);
        }
        Ok(stored::history(id, latest, after, count, |place| Ok(values.get(&place)))?)
    }

    pub(super) async fn claims(&self, id: UpgradeId) -> Result<Claims, ReadError> {
        const PAGE: i64 = 16;
        let keys = self.keys;
        let reads = [keys.turn(), keys.owner(id)].map(|key| TxnOp::get(key, None));
        let answer = self.txn("read the claims", Txn::new().and_then(reads)).await?;
        let at = answer.header().map_or(0, |header| header.revision());
        let mut found = found(&answer).into_iter().map(|found| found.into_iter().next());
        let mut next = || found.next().flatten();
        let (turn, owner) = (next(), next());
        let mut claims = Claims {
            turn: turn.map_or(0, |turn| turn.mod_revision()),
            owner: owner.map_or(0, |owner| owner.lease()),
            own: 0,
            all: BTreeMap::new(),
        };
        self.range(&keys.claims(), at, PAGE, false, |kv| {
            let other: UpgradeId = last(kv.key())?;
            let claim: Claim = stored::decode("the claim", other, kv.value())?;
            if other == id {
                claims.own = kv.mod_revision();
            }
            let order = u64::try_from(kv.create_revision()).unwrap_or_default();
            claims.all.insert(other, Claim { order, ..claim });
            Ok(())
        })
        .await?;
        Ok(claims)
    }
}

fn noted_as(id: UpgradeId, kv: KeyValue) -> Result<Noted, StoreError> {
    let number = u64::try_from(kv.create_revision()).unwrap_or_default();
    let (key, value) = kv.into_key_value();
    Ok(Noted { number, ordered: stored::decode("a command", id, &value)?, key })
}
