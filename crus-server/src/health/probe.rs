//! Asks something of who was not asked anything for a while.

use std::sync::Arc;
use std::time::Duration;

use crus_core::UpgradeId;
use crus_core::names::{GroupLabel, PartitionName};
use crus_core::ports::{Bos, Hsm, Peer, SessionStore, TemplateKey, Wlm};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use super::{PeerStates, StoreState};
use crate::serve::until;

/// How often is probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeOptions {
    /// A peer that was not called for so long is asked something, in milliseconds; `None`: never.
    pub interval_ms: Option<u64>,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        ProbeOptions { interval_ms: Some(60_000) }
    }
}

/// What is asked for by a probe: of this name there is nothing, as a rule, and it is fine if there is.
const NAME: &str = "crus-probe";

/// How often it is looked who was not asked for long. The pace of the probes themselves is an option.
const LOOK: Duration = Duration::from_secs(1);

/// Who is probed. Beside the calls of sessions, and by the same clients: what a session cannot do, a probe cannot.
pub struct Probe {
    /// The Hardware State Manager: for the members of a group.
    pub hsm: Arc<dyn Hsm>,
    /// The Boot Orchestration Service: for a session template.
    pub bos: Arc<dyn Bos>,
    /// The workload manager: for its partitions.
    pub wlm: Arc<dyn Wlm>,
    /// The store: for a session. After a write that failed: to remove one that is not there.
    pub store: Arc<dyn SessionStore>,
    /// How the peers stand.
    pub peers: Arc<PeerStates>,
    /// How the store stands.
    pub state: Arc<StoreState>,
}

impl Probe {
    /// Probes until `stop` says so.
    pub async fn run(self, options: ProbeOptions, stop: watch::Receiver<bool>) {
        let Some(every) = options.interval_ms.map(Duration::from_millis) else { return };
        tokio::select! {
            () = until(stop) => {}
            // Each at its own pace: one that does not answer holds up no other.
            _ = async {
                tokio::join!(
                    self.keep_asking(Some(Peer::Hsm), every),
                    self.keep_asking(Some(Peer::Bos), every),
                    self.keep_asking(Some(Peer::Wlm), every),
                    self.keep_asking(None, every),
                )
            } => {}
        }
    }

    /// Looks again and again whether a peer, or else the store, is to be asked something.
    async fn keep_asking(&self, whom: Option<Peer>, every: Duration) {
        let mut looks = tokio::time::interval(LOOK.min(every));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            match whom {
                Some(Peer::Hsm) => self.hsm(every).await,
                Some(Peer::Bos) => self.bos(every).await,
                Some(Peer::Wlm) => self.wlm(every).await,
                Some(Peer::Check) => {}
                None => self.store(every).await,
            }
        }
    }

    async fn hsm(&self, every: Duration) {
        if let (true, Ok(label)) = (self.peers.is_due(Peer::Hsm, every), NAME.parse::<GroupLabel>()) {
            let answer = self.hsm.group(&label).await;
            self.peers.probed(Peer::Hsm, answer.err().as_ref());
        }
    }

    async fn bos(&self, every: Duration) {
        if let (true, Ok(name)) = (self.peers.is_due(Peer::Bos, every), NAME.parse::<TemplateKey>()) {
            let answer = self.bos.has_template(&name).await;
            self.peers.probed(Peer::Bos, answer.err().as_ref());
        }
    }

    async fn wlm(&self, every: Duration) {
        if let (true, Ok(name)) = (self.peers.is_due(Peer::Wlm, every), NAME.parse::<PartitionName>()) {
            let answer = self.wlm.partitions(&[name]).await;
            self.peers.probed(Peer::Wlm, answer.err().as_ref());
        }
    }

    /// The store itself tells how that went: it is watched.
    async fn store(&self, every: Duration) {
        // No session has this id.
        let none = UpgradeId(Uuid::nil());
        if self.state.is_write_due(every) {
            drop(self.store.remove(none).await);
        }
        if self.state.is_read_due(every) {
            drop(self.store.summary(none).await);
        }
    }
}
