//! Watches the calls to peers, and changes nothing about them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use crus_core::UpgradeId;
use crus_core::boots::BootIds;
use crus_core::names::{BootHandle, GroupLabel, NodeName, PartitionName, Xname};
use crus_core::ports::{
    BootKey, BootSession, Bos, CheckRequest, Checks, Hsm, NodeFacts, Peer, PortError, RebootRequest,
    Rejected, TemplateKey, Verdict, Wlm,
};
use crus_core::wlm::{Job, Partition, WlmNode};

use super::labels::{PeerCall, PeerLabel, PeerOperation};
use super::{Metrics, lasted};
use crate::health::PeerStates;
#[cfg(feature = "otlp")]
use crate::otlp::PLACES;
use crate::otlp::Tracer;

/// Who is told of calls to peers.
#[derive(Clone)]
pub struct Calls {
    /// Who counts and measures them.
    pub metrics: Arc<Metrics>,
    /// Who goes by what they say of the peers.
    pub states: Arc<PeerStates>,
    /// Who is told when they were made, and for which step.
    pub tracer: Option<Tracer>,
}

/// The word for a peer: of the label `peer`, and of what `/readyz` shows.
pub(crate) fn word_of(peer: Peer) -> &'static str {
    match peer {
        Peer::Hsm => "hsm",
        Peer::Bos => "bos",
        Peer::Wlm => "slurm",
        Peer::Check => "check",
    }
}

/// What came of a call, in a word.
fn outcome<T>(result: &Result<T, PortError>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(PortError::Refused { .. }) => "refused",
        Err(PortError::Unreachable { .. }) => "unreachable",
        Err(PortError::MayHaveActed { .. }) => "no_answer",
    }
}

/// A call under way. One that is dropped on the way is not counted: nobody knows what came of it.
struct UnderWay<'a>(&'a Metrics, PeerLabel);

impl<'a> UnderWay<'a> {
    fn new(metrics: &'a Metrics, peer: &'static str) -> Self {
        metrics.peer_calls_in_flight.get_or_create(&PeerLabel { peer }).inc();
        UnderWay(metrics, PeerLabel { peer })
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.peer_calls_in_flight.get_or_create(&self.1).dec();
    }
}

impl Calls {
    async fn watch<T>(
        &self,
        of: Peer,
        operation: &'static str,
        call: impl Future<Output = Result<T, PortError>>,
    ) -> Result<T, PortError> {
        let peer = word_of(of);
        let under_way = UnderWay::new(&self.metrics, peer);
        let begun = Instant::now();
        let result = call.await;
        drop(under_way);
        let outcome = outcome(&result);
        self.metrics.peer_calls.get_or_create(&PeerCall { peer, operation, outcome }).inc();
        self.metrics
            .peer_call_duration
            .get_or_create(&PeerOperation { peer, operation })
            .observe(lasted(begun));
        self.states.called(of, result.as_ref().err());
        #[cfg(feature = "otlp")]
        if let (Some(tracer), Ok(places)) = (&self.tracer, PLACES.try_with(Arc::clone)) {
            for place in &*places {
                let name = format!("{peer} {operation}");
                tracer.send(crate::otlp::Span::of_call(*place, name, begun, outcome));
            }
        }
        result
    }
}

/// HSM, watched.
pub struct WatchedHsm {
    /// Who is asked.
    pub inner: Arc<dyn Hsm>,
    /// Who is told.
    pub calls: Calls,
}

#[async_trait]
impl Hsm for WatchedHsm {
    async fn group(&self, label: &GroupLabel) -> Result<Option<BTreeSet<Xname>>, PortError> {
        self.calls.watch(Peer::Hsm, "group", self.inner.group(label)).await
    }

    async fn add_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<Vec<Rejected>, PortError> {
        self.calls.watch(Peer::Hsm, "add_members", self.inner.add_members(label, nodes)).await
    }

    async fn remove_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<(), PortError> {
        self.calls.watch(Peer::Hsm, "remove_members", self.inner.remove_members(label, nodes)).await
    }

    async fn facts(&self, nodes: &[Xname]) -> Result<Vec<NodeFacts>, PortError> {
        self.calls.watch(Peer::Hsm, "facts", self.inner.facts(nodes)).await
    }
}

/// BOS, watched.
pub struct WatchedBos {
    /// Who is asked.
    pub inner: Arc<dyn Bos>,
    /// Who is told.
    pub calls: Calls,
}

#[async_trait]
impl Bos for WatchedBos {
    async fn has_template(&self, key: &TemplateKey) -> Result<bool, PortError> {
        self.calls.watch(Peer::Bos, "has_template", self.inner.has_template(key)).await
    }

    async fn boot_ids(&self) -> Result<BootIds, PortError> {
        self.calls.watch(Peer::Bos, "boot_ids", self.inner.boot_ids()).await
    }

    async fn reboot(&self, request: &RebootRequest) -> Result<Option<BootHandle>, PortError> {
        self.calls.watch(Peer::Bos, "reboot", self.inner.reboot(request)).await
    }

    async fn session(&self, key: &BootKey) -> Result<Option<BootSession>, PortError> {
        self.calls.watch(Peer::Bos, "session", self.inner.session(key)).await
    }
}

/// The workload manager, watched.
pub struct WatchedWlm {
    /// Who is asked.
    pub inner: Arc<dyn Wlm>,
    /// Who is told.
    pub calls: Calls,
}

#[async_trait]
impl Wlm for WatchedWlm {
    async fn nodes(&self, names: &[NodeName]) -> Result<Vec<WlmNode>, PortError> {
        self.calls.watch(Peer::Wlm, "nodes", self.inner.nodes(names)).await
    }

    async fn jobs(&self, names: &[NodeName]) -> Result<Vec<Job>, PortError> {
        self.calls.watch(Peer::Wlm, "jobs", self.inner.jobs(names)).await
    }

    async fn drain(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.calls.watch(Peer::Wlm, "drain", self.inner.drain(names, reason)).await
    }

    async fn resume(&self, names: &[NodeName]) -> Result<(), PortError> {
        self.calls.watch(Peer::Wlm, "resume", self.inner.resume(names)).await
    }

    async fn down(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.calls.watch(Peer::Wlm, "down", self.inner.down(names, reason)).await
    }

    async fn set_reason(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.calls.watch(Peer::Wlm, "set_reason", self.inner.set_reason(names, reason)).await
    }

    async fn partitions(&self, names: &[PartitionName]) -> Result<Vec<Partition>, PortError> {
        self.calls.watch(Peer::Wlm, "partitions", self.inner.partitions(names)).await
    }

    async fn requeue(&self, jobs: &[String]) -> Result<(), PortError> {
        self.calls.watch(Peer::Wlm, "requeue", self.inner.requeue(jobs)).await
    }

    async fn cancel(&self, jobs: &[String]) -> Result<(), PortError> {
        self.calls.watch(Peer::Wlm, "cancel", self.inner.cancel(jobs)).await
    }
}

/// The check commands, watched. What is measured is the look at them: they run beside.
pub struct WatchedChecks {
    /// Who is asked.
    pub inner: Arc<dyn Checks>,
    /// Who is told.
    pub calls: Calls,
}

#[async_trait]
impl Checks for WatchedChecks {
    async fn judge(&self, request: &CheckRequest) -> Result<Vec<(Xname, Verdict)>, PortError> {
        self.calls.watch(Peer::Check, "judge", self.inner.judge(request)).await
    }

    fn forget(&self, session: UpgradeId) {
        self.inner.forget(session);
    }
}
