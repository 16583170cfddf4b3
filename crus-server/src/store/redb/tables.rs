//! The tables, and what is read and written of a session in a transaction.

use std::collections::BTreeMap;

use crus_core::claims::Claim;
use crus_core::model::{NumberedCommand, Ordered, Session, UpgradeId};
use crus_core::ports::StoreError;
use crus_core::stored::{self, FORMAT, Parts};
use redb::{Database, ReadableTable, Table, TableDefinition, TableHandle};
use uuid::Uuid;

pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
pub(super) const FORMAT_KEY: &str = "format";
/// How many sessions were ever created: the place of the latest in the order of creation.
pub(super) const CREATED_KEY: &str = "created";
pub(super) const REVISIONS: TableDefinition<'_, u128, u64> = TableDefinition::new("revisions");
pub(super) const HEADS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("heads");
pub(super) const NODES: TableDefinition<'_, (u128, u32), &[u8]> = TableDefinition::new("nodes");
pub(super) const MESSAGES: TableDefinition<'_, (u128, u32), &[u8]> = TableDefinition::new("messages_2");
pub(super) const CLAIMS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("claims");
pub(super) const ORDERS: TableDefinition<'_, u128, ()> = TableDefinition::new("deletion_orders");
pub(super) const HISTORY: TableDefinition<'_, (u128, u32), &[u8]> = TableDefinition::new("history");
/// Who ordered a deletion, where that is known. A file of before has no such table.
pub(super) const ORDERED_BY: TableDefinition<'_, u128, &str> = TableDefinition::new("deletion_orders_by");
pub(super) const COMMANDS: TableDefinition<'_, (u128, u64), &[u8]> = TableDefinition::new("commands");
/// Up to which entry of its history a session's events were delivered.
pub(super) const DELIVERED: TableDefinition<'_, u128, u64> = TableDefinition::new("delivered");
/// How many commands were ever noted: the number of the latest.
pub(super) const COMMANDED_KEY: &str = "commanded";

/// Why a transaction did not happen.
pub(super) enum Trouble {
    Redb(Box<redb::Error>),
    Told(StoreError),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Redb(error) => error.fmt(f),
            Trouble::Told(error) => error.fmt(f),
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Trouble::Redb(Box::new(error.into()))
    }
}

/// Creates all tables, so that readers find them.
pub(super) fn lay_out(database: &Database) -> Result<(), Trouble> {
    let writing = database.begin_write()?;
    writing.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
    writing.open_table(REVISIONS)?;
    writing.open_table(HEADS)?;
    writing.open_table(NODES)?;
    writing.open_table(MESSAGES)?;
    writing.open_table(CLAIMS)?;
    writing.open_table(ORDERS)?;
    writing.open_table(HISTORY)?;
    writing.open_table(COMMANDS)?;
    writing.open_table(DELIVERED)?;
    writing.commit()?;
    Ok(())
}

pub(super) fn write(parts: &Parts, writing: &redb::WriteTransaction, id: u128) -> Result<(), Trouble> {
    if let Some(head) = &parts.head {
        writing.open_table(HEADS)?.insert(id, head.as_slice())?;
    }
    put(&mut writing.open_table(NODES)?, id, &parts.nodes)?;
    if !parts.history.is_empty() {
        let mut history = writing.open_table(HISTORY)?;
        for (place, entry) in &parts.history {
            history.insert((id, *place), entry.as_slice())?;
        }
    }
    let mut messages = writing.open_table(MESSAGES)?;
    put(&mut messages, id, &parts.messages)?;
    if let Some(end) = parts.messages_end {
        messages.retain_in((id, end)..=(id, u32::MAX), |_, _| false)?;
    }
    Ok(())
}

/// Removes a session with everything that belongs to it.
pub(super) fn remove(writing: &redb::WriteTransaction, id: u128) -> Result<(), Trouble> {
    writing.open_table(REVISIONS)?.remove(id)?;
    writing.open_table(HEADS)?.remove(id)?;
    writing.open_table(NODES)?.retain_in(keys_of(id), |_, _| false)?;
    writing.open_table(MESSAGES)?.retain_in(keys_of(id), |_, _| false)?;
    writing.open_table(HISTORY)?.retain_in(keys_of(id), |_, _| false)?;
    writing.open_table(COMMANDS)?.retain_in((id, 0)..=(id, u64::MAX), |_, _| false)?;
    writing.open_table(ORDERS)?.remove(id)?;
    writing.open_table(ORDERED_BY)?.remove(id)?;
    writing.open_table(DELIVERED)?.remove(id)?;
    writing.open_table(CLAIMS)?.remove(id)?;
    Ok(())
}

/// Replaces or appends values, in the order of their positions. What would leave a gap is refused: the session could
/// not be read again.
pub(super) fn put(
    table: &mut Table<'_, (u128, u32), &[u8]>,
    id: u128,
    values: &[(u32, Vec<u8>)],
) -> Result<(), Trouble> {
    for (i, value) in values {
        let is_new = table.insert((id, *i), value.as_slice())?.is_none();
        if is_new && *i > 0 && table.get((id, i - 1))?.is_none() {
            let text = format!("{} {i} would leave a gap", table.name());
            return Err(Trouble::Told(StoreError::Failed(text)));
        }
    }
    Ok(())
}

/// The rows of one session.
pub(super) fn rows(
    table: &impl ReadableTable<(u128, u32), &'static [u8]>,
    id: u128,
) -> Result<Vec<(u32, Vec<u8>)>, Trouble> {
    let mut rows = Vec::new();
    for row in table.range(keys_of(id))? {
        let (key, value) = row?;
        rows.push((key.value().1, value.value().to_vec()));
    }
    Ok(rows)
}

/// The keys of everything that belongs to one session.
fn keys_of(id: u128) -> std::ops::RangeInclusive<(u128, u32)> {
    (id, 0)..=(id, u32::MAX)
}

pub(super) fn head_of(
    table: &impl ReadableTable<u128, &'static [u8]>,
    id: UpgradeId,
) -> Result<Vec<u8>, Trouble> {
    let head = table.get(id.0.as_u128())?.map(|head| head.value().to_vec());
    let missing = || StoreError::Unreadable(format!("the head of session {id} is missing"));
    head.ok_or_else(|| Trouble::Told(missing()))
}

pub(super) fn commands_of(
    table: &impl ReadableTable<(u128, u64), &'static [u8]>,
    id: UpgradeId,
) -> Result<Vec<NumberedCommand>, Trouble> {
    let key = id.0.as_u128();
    let mut commands = Vec::new();
    for row in table.range((key, 0)..=(key, u64::MAX))? {
        let (number, value) = row?;
        let ordered: Ordered = stored::decode("a command", id, value.value()).map_err(Trouble::Told)?;
        commands.push(ordered.numbered(number.value().1));
    }
    Ok(commands)
}

pub(super) fn claims_in(
    table: &impl ReadableTable<u128, &'static [u8]>,
) -> Result<BTreeMap<UpgradeId, Claim>, Trouble> {
    let mut claims = BTreeMap::new();
    for row in table.iter()? {
        let (key, value) = row?;
        let id = UpgradeId(Uuid::from_u128(key.value()));
        let claim = stored::decode("the claim", id, value.value()).map_err(Trouble::Told)?;
        claims.insert(id, claim);
    }
    Ok(claims)
}

/// Enters a session that is not done, last in the order of creation, which never gives a place twice.
pub(super) fn enter_claim(writing: &redb::WriteTransaction, session: &Session) -> Result<(), Trouble> {
    let mut meta = writing.open_table(META)?;
    let order = meta.get(CREATED_KEY)?.map_or(0, |created| created.value()) + 1;
    meta.insert(CREATED_KEY, order)?;
    let claim = stored::encode(&Claim::of(session, order)).map_err(Trouble::Told)?;
    writing.open_table(CLAIMS)?.insert(session.head.id.0.as_u128(), claim.as_slice())?;
    Ok(())
}
