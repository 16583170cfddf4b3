//! Where sessions live between two starts of the service.

#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod inspect;
mod redb;

use std::sync::Arc;

use crus_core::ports::SessionStore;

use crate::metrics::LeaseMetrics;
use crate::settings::Config;

#[cfg(feature = "etcd")]
pub use etcd::{EtcdError, EtcdStore};
pub use redb::{OpenError, RedbStore};

/// How the lease stands by which this process owns sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Why there is none; `None` while there is one.
    pub trouble: Option<String>,
    /// How many sessions are owned by it.
    pub sessions: usize,
}

/// The store that the configuration names, open.
#[derive(Clone)]
pub struct Store {
    sessions: Arc<dyn SessionStore>,
    #[cfg(feature = "etcd")]
    etcd: Option<EtcdStore>,
}

impl Store {
    /// Opens it: in etcd when `etcd_endpoints` is set, and otherwise in a file. `lease`: where it is counted what becomes of
    /// leases.
    ///
    /// # Errors
    /// When it cannot be opened: each says what to do about it.
    pub async fn open(config: &Config, lease: LeaseMetrics) -> anyhow::Result<Self> {
        if !config.etcd.endpoints.is_empty() {
            return open_etcd(config, lease).await;
        }
        Ok(Store {
            sessions: Arc::new(RedbStore::open(&config.store)?),
            #[cfg(feature = "etcd")]
            etcd: None,
        })
    }

    /// The sessions in it.
    pub fn sessions(&self) -> Arc<dyn SessionStore> {
        Arc::clone(&self.sessions)
    }

    /// How to look at the lease by which sessions are owned; `None` where none is needed.
    pub fn lease(&self) -> Option<impl Fn() -> Lease + Send + Sync + 'static> {
        #[cfg(feature = "etcd")]
        let lease = self.etcd.clone().map(|etcd| move || etcd.lease());
        #[cfg(not(feature = "etcd"))]
        let lease = None::<fn() -> Lease>;
        lease
    }

    /// At the end of the service: other replicas need not wait for what was owned here.
    #[cfg_attr(not(feature = "etcd"), expect(clippy::unused_async, reason = "a file has no owner to tell"))]
    pub async fn close(&self) {
        #[cfg(feature = "etcd")]
        if let Some(etcd) = &self.etcd {
            etcd.close().await;
        }
    }
}

#[cfg(feature = "etcd")]
async fn open_etcd(config: &Config, lease: LeaseMetrics) -> anyhow::Result<Store> {
    let etcd = EtcdStore::open_counting(&config.etcd, lease).await?;
    Ok(Store { sessions: Arc::new(etcd.clone()), etcd: Some(etcd) })
}

#[cfg(not(feature = "etcd"))]
async fn open_etcd(_: &Config, _: LeaseMetrics) -> anyhow::Result<Store> {
    anyhow::bail!(WITHOUT_ETCD)
}

#[cfg(not(feature = "etcd"))]
const WITHOUT_ETCD: &str = "etcd_endpoints is set, and this crus was built without etcd: install one that was built with \
                            `cargo build --release --features etcd`, or unset etcd_endpoints to keep the sessions in a \
                            file";

#[cfg(all(test, not(feature = "etcd")))]
mod tests {
    use super::*;
    use crate::settings::EtcdOptions;

    #[tokio::test]
    async fn a_build_without_etcd_says_what_to_do() {
        let endpoints = vec!["http://127.0.0.1:2379".to_owned()];
        let etcd = EtcdOptions { endpoints, ..EtcdOptions::default() };
        let config = Config { etcd, ..Config::default() };
        let Err(error) = Store::open(&config, LeaseMetrics::default()).await else { panic!("it was opened") };
        let text = error.to_string();
        assert!(text.contains("etcd_endpoints") && text.contains("--features etcd"), "{text}");
    }
}
