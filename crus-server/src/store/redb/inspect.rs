//! Everything that is in a file, as it is stored.

use std::collections::BTreeSet;
use std::path::Path;

use crus_core::model::UpgradeId;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use uuid::Uuid;

use super::opening::{OpenError, look_into};
use super::tables::{
    CLAIMS, COMMANDS, DELIVERED, HEADS, HISTORY, MESSAGES, NODES, ORDERS, REVISIONS, Trouble, rows,
};
use crate::store::inspect::Raw;

/// A file that is looked into, and not changed. Its service must not run meanwhile.
pub(in crate::store) struct FileView(Database);

impl FileView {
    pub(in crate::store) fn open(path: &Path) -> Result<Self, OpenError> {
        Ok(FileView(look_into(path)?))
    }

    /// The ids of all sessions of which there is anything.
    pub(in crate::store) fn ids(&self) -> Result<BTreeSet<UpgradeId>, String> {
        self.try_ids().map_err(|trouble| trouble.to_string())
    }

    fn try_ids(&self) -> Result<BTreeSet<UpgradeId>, Trouble> {
        let reading = self.0.begin_read()?;
        let mut ids = BTreeSet::new();
        for table in [REVISIONS, DELIVERED] {
            for row in reading.open_table(table)?.iter()? {
                ids.insert(row?.0.value());
            }
        }
        for table in [HEADS, CLAIMS] {
            for row in reading.open_table(table)?.iter()? {
                ids.insert(row?.0.value());
            }
        }
        for table in [NODES, MESSAGES, HISTORY] {
            for row in reading.open_table(table)?.iter()? {
                ids.insert(row?.0.value().0);
            }
        }
        for row in reading.open_table(COMMANDS)?.iter()? {
            ids.insert(row?.0.value().0);
        }
        for row in reading.open_table(ORDERS)?.iter()? {
            ids.insert(row?.0.value());
        }
        Ok(ids.into_iter().map(|id| UpgradeId(Uuid::from_u128(id))).collect())
    }

    pub(in crate::store) fn read(&self, id: UpgradeId) -> Result<Raw, String> {
        self.try_read(id).map_err(|trouble| trouble.to_string())
    }

    fn try_read(&self, id: UpgradeId) -> Result<Raw, Trouble> {
        let key = id.0.as_u128();
        let reading = self.0.begin_read()?;
        let number = |table: TableDefinition<'_, u128, u64>| -> Result<Option<u64>, Trouble> {
            Ok(reading.open_table(table)?.get(key)?.map(|number| number.value()))
        };
        let value = |table: TableDefinition<'_, u128, &[u8]>| -> Result<Option<Vec<u8>>, Trouble> {
            Ok(reading.open_table(table)?.get(key)?.map(|value| value.value().to_vec()))
        };
        let mut commands = Vec::new();
        for row in reading.open_table(COMMANDS)?.range((key, 0)..=(key, u64::MAX))? {
            let (number, value) = row?;
            commands.push((number.value().1, value.value().to_vec()));
        }
        Ok(Raw {
            revision: number(REVISIONS)?,
            head: value(HEADS)?,
            nodes: rows(&reading.open_table(NODES)?, key)?,
            messages: rows(&reading.open_table(MESSAGES)?, key)?,
            history: rows(&reading.open_table(HISTORY)?, key)?,
            commands,
            claim: value(CLAIMS)?,
            deletion_ordered: reading.open_table(ORDERS)?.get(key)?.is_some(),
            delivered: number(DELIVERED)?.map(|number| number.to_string().into_bytes()),
        })
    }
}
