//! What older formats are made into, each the next one.

use crus_core::Time;
use crus_core::model::{Message, UpgradeId};
use crus_core::stored::{self, FORMAT};
use redb::{Database, ReadableTable, TableDefinition, WriteTransaction};
use tracing::info;
use uuid::Uuid;

use super::tables::{
    CLAIMS, COMMANDS, DELIVERED, FORMAT_KEY, HEADS, HISTORY, MESSAGES, META, NODES, REVISIONS, Trouble,
    enter_claim, head_of, rows,
};

/// Makes the newest format of this one. All or nothing.
pub(super) fn migrate(database: &Database, format: u64) -> Result<(), Trouble> {
    let writing = database.begin_write()?;
    if format == 1 {
        migrate_from_1(&writing)?;
    }
    migrate_from_2(&writing)?;
    writing.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
    writing.commit()?;
    info!("the store was of format {format}, and is of format {FORMAT} now");
    Ok(())
}

/// Messages were texts in a table of their own, and there were no claims.
fn migrate_from_1(writing: &WriteTransaction) -> Result<(), Trouble> {
    const OLD_MESSAGES: TableDefinition<'_, (u128, u32), &str> = TableDefinition::new("messages");
    {
        let mut messages = writing.open_table(MESSAGES)?;
        for row in writing.open_table(OLD_MESSAGES)?.iter()? {
            let (key, text) = row?;
            let message = stored::encode(&Message::new(text.value(), Time(0))).map_err(Trouble::Told)?;
            messages.insert(key.value(), message.as_slice())?;
        }
        writing.open_table(CLAIMS)?;
        let mut sessions = Vec::new();
        let (heads, nodes) = (writing.open_table(HEADS)?, writing.open_table(NODES)?);
        for row in writing.open_table(REVISIONS)?.iter()? {
            let id = UpgradeId(Uuid::from_u128(row?.0.value()));
            let (head, nodes) = (head_of(&heads, id)?, rows(&nodes, id.0.as_u128())?);
            let none: [(u32, Vec<u8>); 0] = [];
            let session = stored::session(id, &head, nodes, none).map_err(Trouble::Told)?;
            if !session.is_done() {
                sessions.push(session);
            }
        }
        sessions.sort_by_key(|session| (session.head.created, session.head.id));
        for session in &sessions {
            enter_claim(writing, session)?;
        }
    }
    writing.delete_table(OLD_MESSAGES)?;
    Ok(())
}

/// Heads did not count their nodes, there were neither histories nor commands, and nothing was delivered.
fn migrate_from_2(writing: &WriteTransaction) -> Result<(), Trouble> {
    let (mut heads, nodes) = (writing.open_table(HEADS)?, writing.open_table(NODES)?);
    let mut ids = Vec::new();
    for row in writing.open_table(REVISIONS)?.iter()? {
        ids.push(UpgradeId(Uuid::from_u128(row?.0.value())));
    }
    for id in ids {
        let (head, nodes) = (head_of(&heads, id)?, rows(&nodes, id.0.as_u128())?);
        let none: [(u32, Vec<u8>); 0] = [];
        let session = stored::session(id, &head, nodes, none).map_err(Trouble::Told)?;
        let head = stored::encode(&session.head).map_err(Trouble::Told)?;
        heads.insert(id.0.as_u128(), head.as_slice())?;
    }
    writing.open_table(HISTORY)?;
    writing.open_table(COMMANDS)?;
    writing.open_table(DELIVERED)?;
    Ok(())
}
