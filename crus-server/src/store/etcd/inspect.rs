//! Everything that is in etcd, as it is stored.

use std::collections::BTreeSet;

use crus_core::model::UpgradeId;
use crus_core::ports::StoreError;
use etcd_client::{GetOptions, Txn, TxnOp};

use super::connection::Connection;
use super::keys::{Keys, Kind};
use super::opening::{self, EtcdError};
use super::ownership::found;
use super::writing::{ReadError, Table};
use crate::settings::EtcdOptions;
use crate::store::inspect::Raw;

/// A store in etcd that is looked into, and not changed. Its service may run meanwhile: each session is read as it is at
/// one moment.
pub(in crate::store) struct EtcdView {
    connection: Connection,
    keys: Keys,
}

impl EtcdView {
    /// Also tells the format.
    pub(in crate::store) async fn open(options: &EtcdOptions) -> Result<(Self, u64), EtcdError> {
        opening::check(options)?;
        let connection = Connection::new(options.clone());
        connection.connect_options().map_err(|error| EtcdError::File(error.to_string()))?;
        let view = EtcdView { connection, keys: Keys::new(&options.prefix) };
        let format = opening::format_of(options, view.table()).await?;
        Ok((view, format))
    }

    fn table(&self) -> Table<'_> {
        Table { connection: &self.connection, keys: &self.keys }
    }

    /// The ids of all sessions of which there is anything.
    pub(in crate::store) async fn ids(&self) -> Result<BTreeSet<UpgradeId>, String> {
        const PAGE: i64 = 5000;
        let mut ids = BTreeSet::new();
        let mut take = |key: &[u8]| {
            let key = String::from_utf8_lossy(key).into_owned();
            // Names of commands and of staged sets come behind.
            ids.extend(key.split('/').find_map(|part| part.parse::<UpgradeId>().ok()));
        };
        let table = self.table();
        let read = table.range(self.keys.all(), 0, PAGE, true, |kv| {
            take(kv.key());
            Ok(())
        });
        read.await.map_err(told)?;
        Ok(ids)
    }

    pub(in crate::store) async fn read(&self, id: UpgradeId) -> Result<Raw, String> {
        self.try_read(id).await.map_err(told)
    }

    async fn try_read(&self, id: UpgradeId) -> Result<Raw, ReadError> {
        let keys = &self.keys;
        let single = [
            keys.revision(id),
            keys.head(id),
            keys.claim(id),
            keys.order(id),
            keys.delivered(id),
            keys.pending(id),
        ];
        let reads = single.map(|key| TxnOp::get(key, None)).into_iter();
        let noted = TxnOp::get(keys.commands(id), Some(GetOptions::new().with_prefix()));
        let reads: Vec<TxnOp> = reads.chain([noted]).collect();
        let answer = self.table().txn("read a session", Txn::new().and_then(reads)).await?;
        let at = answer.header().map_or(0, |header| header.revision());
        let mut found = found(&answer).into_iter();
        let mut next = || found.next().and_then(|found| found.into_iter().next());
        let (revision, head, claim, order, delivered, pending) =
            (next(), next(), next(), next(), next(), next());
        let pending = pending.map(|pending| String::from_utf8_lossy(pending.value()).into_owned());
        let number = |revision: i64| u64::try_from(revision).unwrap_or_default();
        let mut commands: Vec<(u64, Vec<u8>)> = found
            .next()
            .unwrap_or_default()
            .into_iter()
            .map(|kv| (number(kv.create_revision()), kv.into_key_value().1))
            .collect();
        commands.sort_unstable_by_key(|(number, _)| *number);
        let rows = async |kind| self.table().rows(id, kind, pending.as_deref(), at).await;
        let value = |kv: etcd_client::KeyValue| kv.into_key_value().1;
        Ok(Raw {
            revision: revision.map(|kv| number(kv.mod_revision())),
            head: head.map(value),
            nodes: rows(Kind::Node).await?,
            messages: rows(Kind::Message).await?,
            history: rows(Kind::Entry).await?,
            commands,
            claim: claim.map(value),
            deletion_ordered: order.is_some(),
            delivered: delivered.map(value),
        })
    }
}

fn told(error: ReadError) -> String {
    StoreError::from(error).to_string()
}
