//! The clients of the peers, made of the configuration. None of them connects before it is asked something.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use crus_clients::bos::BosClient;
use crus_clients::hsm::HsmClient;
use crus_clients::http::{BaseUrl, Credentials, PeerConfig};
use crus_clients::slurm::{Slurm, SlurmConfig};
use crus_core::ports::{Bos, Hsm, Wlm};
use tracing::warn;

use crate::settings::Config;

/// Who the sessions work with.
pub struct Peers {
    /// The Hardware State Manager.
    pub hsm: Arc<dyn Hsm>,
    /// The Boot Orchestration Service.
    pub bos: Arc<dyn Bos>,
    /// The workload manager.
    pub wlm: Arc<dyn Wlm>,
}

impl Peers {
    /// Makes the clients.
    ///
    /// # Errors
    /// When the certificates cannot be read or a URL is of no use. A token that is not there yet is no error: it
    /// is read when it is needed, and again when it changes.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let ca_pem = match &config.ca_file {
            None => None,
            Some(path) => Some(fs::read(path).with_context(|| {
                format!("failed to read the CA certificates in {} (set by ca_file)", path.display())
            })?),
        };
        let credentials = match &config.token_file {
            None => Credentials::None,
            Some(path) => {
                if let Err(error) = fs::metadata(path) {
                    warn!(path = %path.display(), %error, "there is no token yet: HSM and BOS may refuse us");
                }
                Credentials::TokenFile(path.clone())
            }
        };
        let peer = |option: &str, url: &str, max_calls: usize| -> anyhow::Result<PeerConfig> {
            let base: BaseUrl = url.parse().with_context(|| format!("{option} is of no use"))?;
            let mut peer = PeerConfig::new(base);
            peer.total_timeout = Duration::from_millis(config.call_timeout_ms);
            peer.connect_timeout = peer.connect_timeout.min(peer.total_timeout);
            peer.max_calls = max_calls;
            peer.credentials = credentials.clone();
            peer.ca_pem = ca_pem.clone();
            Ok(peer)
        };
        let hsm = HsmClient::new(peer("hsm_url", &config.hsm_url, config.max_calls_hsm)?)
            .context("failed to set up the client of HSM")?;
        let bos = BosClient::new(peer("bos_url", &config.bos_url, config.max_calls_bos)?)
            .context("failed to set up the client of BOS")?;
        let slurm = Slurm::new(SlurmConfig {
            scontrol: config.scontrol.clone(),
            squeue: config.squeue.clone(),
            scancel: config.scancel.clone(),
            timeout: Duration::from_millis(config.call_timeout_ms),
            max_calls: config.max_calls_slurm,
            ..SlurmConfig::default()
        });
        Ok(Peers { hsm: Arc::new(hsm), bos: Arc::new(bos), wlm: Arc::new(slurm) })
    }
}
