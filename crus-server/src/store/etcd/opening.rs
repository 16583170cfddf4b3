//! Opening the store: what may be there already, and what is made of it.

use std::time::{Duration, Instant};

use crus_core::ports::StoreError;
use crus_core::stored::{self, FORMAT};
use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp};
use tracing::info;

use super::connection::Trouble;
use super::ownership::found;
use super::writing::Table;
use crate::settings::EtcdOptions;

/// The pause before it is looked again whether an older version is still at work, and for how much longer than its lease
/// that is done.
const PAUSE: Duration = Duration::from_millis(200);
const LEASE_SLACK: Duration = Duration::from_secs(2);

/// Why the store in etcd could not be opened, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// Options do not fit together.
    #[error("{0}")]
    Options(&'static str),
    /// A file that the configuration names cannot be read.
    #[error("{0}; check the path and the file's permissions")]
    File(String),
    /// Nobody answers there.
    #[error(
        "failed to reach etcd at {endpoints}: {detail}; check etcd_endpoints, and that etcd runs (etcdctl endpoint \
         health)"
    )]
    Away {
        /// Where.
        endpoints: String,
        /// Why.
        detail: String,
    },
    /// It answers, and does not let us.
    #[error(
        "failed to open the store in etcd at {endpoints}: etcd refused: {detail}; check etcd_user, \
         etcd_password_file and the certificates; the user must be allowed to read and write {prefix}"
    )]
    Refused {
        /// Where.
        endpoints: String,
        /// What it said.
        detail: String,
        /// What all our keys begin with.
        prefix: String,
    },
    /// There is something else.
    #[error(
        "failed to open the store in etcd: what is stored under {prefix} is not of CRUS ({detail}); choose another \
         etcd_prefix"
    )]
    NotAStore {
        /// Where.
        prefix: String,
        /// What is wrong with it.
        detail: String,
    },
    /// An older version of the service works with it.
    #[error(
        "failed to open the store in etcd: {prefix} has format {found}, and sessions in it are run by an older version of \
         crus; stop all replicas of that version first: their sessions go on once this one has started"
    )]
    OlderAtWork {
        /// Where.
        prefix: String,
        /// Its format.
        found: u64,
    },
    /// A newer version of the service wrote it.
    #[error(
        "failed to open the store in etcd: {prefix} has format {found}, and this version knows formats up to \
         {FORMAT}; start the version of crus that wrote it, or a newer one"
    )]
    Newer {
        /// Where.
        prefix: String,
        /// Its format.
        found: u64,
    },
}

/// Options that only go together.
pub(super) fn check(options: &EtcdOptions) -> Result<(), EtcdError> {
    let EtcdOptions { endpoints, user, password_file, ca_file, cert_file, key_file, .. } = options;
    let is_https = endpoints.iter().any(|url| url.starts_with("https://"));
    if user.is_some() != password_file.is_some() {
        return Err(EtcdError::Options("etcd_user and etcd_password_file go together: set both, or none"));
    }
    if cert_file.is_some() != key_file.is_some() {
        return Err(EtcdError::Options("etcd_cert_file and etcd_key_file go together: set both, or none"));
    }
    if !is_https && (ca_file.is_some() || cert_file.is_some()) {
        return Err(EtcdError::Options(
            "etcd_ca_file, etcd_cert_file and etcd_key_file are of no use with http://; make etcd_endpoints \
             https://, or unset them",
        ));
    }
    Ok(())
}

/// The format of what is there, which is not changed.
pub(super) async fn format_of(options: &EtcdOptions, table: Table<'_>) -> Result<u64, EtcdError> {
    let read = Txn::new().and_then([TxnOp::get(table.keys.format(), None)]);
    let answer = table.txn("read the format", read).await.map_err(|trouble| explained(options, trouble))?;
    let format = found(&answer).into_iter().flatten().next();
    read_format(options, format.map(|kv: KeyValue| kv.into_key_value().1))
}

/// Lays the store out where there is nothing, and makes the newest format of an older one.
pub(super) async fn lay_out_or_migrate(options: &EtcdOptions, table: Table<'_>) -> Result<(), EtcdError> {
    let explained = |trouble| explained(options, trouble);
    let begun = Instant::now();
    // Who was just stopped, or killed, may be there until its lease ends.
    let patience = Duration::from_secs(options.lease_s) + LEASE_SLACK;
    loop {
        let found = lay_out(table).await.map_err(explained)?;
        match read_format(options, found)? {
            FORMAT => return Ok(()),
            found => {
                if migrate_from_2(options, table).await? {
                    info!("the store in etcd was of format {found}, and is of format {FORMAT} now");
                    return Ok(());
                }
                if begun.elapsed() > patience {
                    return Err(EtcdError::OlderAtWork { prefix: options.prefix.clone(), found });
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// From the second format: heads did not count their nodes. There were neither histories nor commands. Whoever wrote it
/// must not be at work any more; `false`, when a session is owned. Repeating it, or a part of it, is harmless.
async fn migrate_from_2(options: &EtcdOptions, table: Table<'_>) -> Result<bool, EtcdError> {
    let keys = table.keys;
    let refused = |error: StoreError| match error {
        StoreError::Failed(detail) => EtcdError::Away { endpoints: options.endpoints.join(","), detail },
        error => EtcdError::NotAStore { prefix: options.prefix.clone(), detail: error.to_string() },
    };
    let unowned = || Compare::create_revision(keys.owners(), CompareOp::Equal, 0).with_prefix();
    for id in table.ids().await.map_err(|error| refused(error.into()))? {
        let loaded = table.load(id).await.map_err(|error| refused(error.into()))?;
        let Some((session, revision)) = loaded else { continue };
        let when = [unowned(), Compare::mod_revision(keys.revision(id), CompareOp::Equal, revision)];
        let head = TxnOp::put(keys.head(id), stored::encode(&session.head).map_err(refused)?, None);
        let txn = Txn::new().when(when).and_then([head]);
        let done =
            table.txn("migrate a session", txn).await.map_err(|trouble| explained(options, trouble))?;
        if !done.succeeded() {
            return Ok(false);
        }
    }
    let when = [unowned(), Compare::value(keys.format(), CompareOp::Equal, "2")];
    let txn = Txn::new().when(when).and_then([TxnOp::put(keys.format(), FORMAT.to_string(), None)]);
    let done = table.txn("migrate the store", txn).await.map_err(|trouble| explained(options, trouble))?;
    Ok(done.succeeded())
}

/// Lays the store out where there is nothing. What its format key says then; `None` when there is something else.
async fn lay_out(table: Table<'_>) -> Result<Option<Vec<u8>>, Trouble> {
    let keys = table.keys;
    let nothing = Compare::create_revision(keys.all(), CompareOp::Equal, 0).with_prefix();
    let read = || TxnOp::get(keys.format(), Some(GetOptions::new()));
    let txn = Txn::new()
        .when([nothing])
        .and_then([TxnOp::put(keys.format(), FORMAT.to_string(), None), read()])
        .or_else([read()]);
    let answer = table.txn("open the store", txn).await?;
    Ok(found(&answer).into_iter().flatten().next().map(|kv: KeyValue| kv.into_key_value().1))
}

/// The format, when it is one that this version can read.
fn read_format(options: &EtcdOptions, format: Option<Vec<u8>>) -> Result<u64, EtcdError> {
    let prefix = options.prefix.clone();
    let Some(format) = format else {
        let detail = "there are keys, and none of them tells a format".to_owned();
        return Err(EtcdError::NotAStore { prefix, detail });
    };
    let format = String::from_utf8_lossy(&format);
    match format.parse::<u64>() {
        Ok(found @ (2 | FORMAT)) => Ok(found),
        Ok(found) if found > FORMAT => Err(EtcdError::Newer { prefix, found }),
        _ => Err(EtcdError::NotAStore { prefix, detail: format!("format {format:?}") }),
    }
}

pub(super) fn explained(options: &EtcdOptions, trouble: Trouble) -> EtcdError {
    let endpoints = options.endpoints.join(",");
    match trouble {
        Trouble::Away(detail) => EtcdError::Away { endpoints, detail },
        Trouble::Refused(detail) | Trouble::Denied(detail) => {
            EtcdError::Refused { endpoints, detail, prefix: options.prefix.clone() }
        }
        other => EtcdError::Away { endpoints, detail: StoreError::from(other).to_string() },
    }
}
