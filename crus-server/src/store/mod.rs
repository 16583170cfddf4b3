//! Where sessions live between two starts of the service.

mod redb;

use std::sync::Arc;

use crus_core::ports::SessionStore;

use crate::settings::Config;

pub use redb::{OpenError, RedbStore};

/// Opens the store that the configuration names.
///
/// # Errors
/// When it cannot be opened: each says what to do about it.
pub async fn open(config: &Config) -> anyhow::Result<Arc<dyn SessionStore>> {
    Ok(Arc::new(RedbStore::open(&config.store)?))
}
