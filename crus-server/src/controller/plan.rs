//! Makes plans: a few at a time, each in bounded time, and none of which can change anything.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use crus_api::ServiceError;
use crus_core::boots::BootIds;
use crus_core::model::{Head, Phase, Spec, UpgradeId};
use crus_core::names::{BootHandle, GroupLabel, NodeName, PartitionName};
use crus_core::plan::{self, Experience, Plan, Sources};
use crus_core::ports::{
    BootKey, BootSession, Bos, Hsm, NodeFacts, Peer, PortError, RebootRequest, Rejected, StoreError,
    TemplateKey, Wlm,
};
use crus_core::wlm::{Job, Partition, WlmNode};
use crus_core::{Xname, claims};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::Shared;

/// So many plans are made at a time: one of 100,000 nodes takes a core for a second or two.
const PLANS_MAX: usize = 2;

/// How long a plan may take, unless it is [said](Planning::limit).
const PLAN_TIME: Duration = Duration::from_secs(20);

/// So many of the latest sessions tell what to expect.
const SESSIONS_ASKED: usize = 20;

/// So many nodes of a session are read at a time, to see whether it has any of a plan's.
const NODES_READ: usize = 5_000;

/// Who may plan, and for how long.
pub(super) struct Planning {
    places: Arc<Semaphore>,
    time_ms: AtomicU64,
}

impl Default for Planning {
    fn default() -> Self {
        let time_ms = u64::try_from(PLAN_TIME.as_millis()).unwrap_or(u64::MAX);
        Planning { places: Arc::new(Semaphore::new(PLANS_MAX)), time_ms: AtomicU64::new(time_ms) }
    }
}

impl Planning {
    /// From now on a plan may take so long.
    pub(super) fn limit(&self, time: Duration) {
        self.time_ms.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Shared {
    /// Makes a plan, if not too many are being made.
    pub(super) async fn plan(self: Arc<Self>, spec: Spec) -> Result<Plan, ServiceError> {
        let Ok(place) = Arc::clone(&self.planning.places).try_acquire_owned() else {
            return Err(ServiceError::Busy { limit: PLANS_MAX });
        };
        let time = Duration::from_millis(self.planning.time_ms.load(Ordering::Relaxed));
        let ids = self.store.ids().await?;
        let mut heads: Vec<Arc<Head>> = ids.iter().filter_map(|id| self.board.head(*id)).collect();
        heads.sort_by_key(|head| std::cmp::Reverse((head.created, head.id)));
        let mut experience = Experience::default();
        let told = heads.iter().filter(|head| head.pace.boots > 0).take(SESSIONS_ASKED);
        told.for_each(|head| experience.add(head));
        // Of each peer no more is waited for than leaves time for the others, and for the work itself.
        let (slow, quick) = (time * 35 / 100, time / 10);
        let hsm = Looks::new(&self.ports.hsm, Peer::Hsm, slow);
        let bos = Looks::new(&self.ports.bos, Peer::Bos, quick);
        let wlm = Looks::new(&self.ports.wlm, Peer::Wlm, slow);
        let clock = Arc::clone(&self.ports.clock);
        let (limits, asked) = (self.limits.clone(), spec.clone());
        let runtime = tokio::runtime::Handle::current();
        // It may keep a core busy: the threads that answer are not for that.
        let made = tokio::task::spawn_blocking(move || {
            let _place = place;
            let sources = Sources { hsm: &hsm, bos: &bos, wlm: &wlm, clock: &*clock };
            runtime.block_on(plan::plan(sources, asked, limits, experience))
        });
        let mut plan = made.await.map_err(|_| ServiceError::ShuttingDown)?;
        let conflicts = tokio::time::timeout(quick, self.conflicts(&spec, &plan.nodes, &heads)).await;
        plan.add_conflicts(match conflicts {
            Ok(conflicts) => conflicts?,
            Err(_) => vec!["the nodes of other sessions could not be read in time".to_owned()],
        });
        Ok(plan)
    }

    /// The sessions that such a session would wait for, in words, the oldest first.
    async fn conflicts(
        &self,
        spec: &Spec,
        nodes: &BTreeSet<Xname>,
        heads: &[Arc<Head>],
    ) -> Result<Vec<String>, StoreError> {
        let mut conflicts = Vec::new();
        for head in heads.iter().rev().filter(|head| head.phase != Phase::Done) {
            let none = BTreeSet::new();
            let mut shared = claims::shares(spec, nodes, &head.spec, &none);
            let mut from = 0;
            while shared.is_none() && !nodes.is_empty() {
                let read = self.store.nodes(head.id, from, NODES_READ).await?;
                let theirs = read.iter().map(|node| node.xname).collect();
                shared = claims::shares(spec, nodes, &head.spec, &theirs);
                from += read.len();
                if read.len() < NODES_READ {
                    break;
                }
            }
            conflicts.extend(shared.map(|shared| in_the_way(head.id, &shared)));
        }
        Ok(conflicts)
    }
}

fn in_the_way(other: UpgradeId, shared: &str) -> String {
    format!("session {other} uses {shared}, and goes first")
}

/// A port to look through, for so long altogether. It changes nothing.
struct Looks<P: ?Sized> {
    port: Arc<P>,
    peer: Peer,
    left: Mutex<Duration>,
}

impl<P: ?Sized> Looks<P> {
    fn new(port: &Arc<P>, peer: Peer, time: Duration) -> Self {
        Looks { port: Arc::clone(port), peer, left: Mutex::new(time) }
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, PortError>>) -> Result<T, PortError> {
        let left = *self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Instant::now();
        let answer = tokio::time::timeout(left, call).await;
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = left.saturating_sub(begun.elapsed());
        answer.unwrap_or_else(|_| {
            let detail = "no answer in the time that a plan may take".to_owned();
            Err(PortError::Unreachable { peer: self.peer, detail })
        })
    }

    fn refused<T>(&self) -> Result<T, PortError> {
        Err(PortError::Refused { peer: self.peer, detail: "a plan changes nothing".to_owned() })
    }
}

#[async_trait]
impl Hsm for Looks<dyn Hsm> {
    async fn group(&self, label: &GroupLabel) -> Result<Option<BTreeSet<Xname>>, PortError> {
        self.within(self.port.group(label)).await
    }

    async fn facts(&self, nodes: &[Xname]) -> Result<Vec<NodeFacts>, PortError> {
        self.within(self.port.facts(nodes)).await
    }

    async fn add_members(&self, _: &GroupLabel, _: &[Xname]) -> Result<Vec<Rejected>, PortError> {
        self.refused()
    }

    async fn remove_members(&self, _: &GroupLabel, _: &[Xname]) -> Result<(), PortError> {
        self.refused()
    }
}

#[async_trait]
impl Bos for Looks<dyn Bos> {
    async fn has_template(&self, template: &TemplateKey) -> Result<bool, PortError> {
        self.within(self.port.has_template(template)).await
    }

    async fn boot_ids(&self) -> Result<BootIds, PortError> {
        self.within(self.port.boot_ids()).await
    }

    async fn session(&self, key: &BootKey) -> Result<Option<BootSession>, PortError> {
        self.within(self.port.session(key)).await
    }

    async fn reboot(&self, _: &RebootRequest) -> Result<Option<BootHandle>, PortError> {
        self.refused()
    }
}

#[async_trait]
impl Wlm for Looks<dyn Wlm> {
    async fn nodes(&self, names: &[NodeName]) -> Result<Vec<WlmNode>, PortError> {
        self.within(self.port.nodes(names)).await
    }

    async fn jobs(&self, names: &[NodeName]) -> Result<Vec<Job>, PortError> {
        self.within(self.port.jobs(names)).await
    }

    async fn partitions(&self, names: &[PartitionName]) -> Result<Vec<Partition>, PortError> {
        self.within(self.port.partitions(names)).await
    }

    async fn drain(&self, _: &[NodeName], _: &str) -> Result<(), PortError> {
        self.refused()
    }

    async fn resume(&self, _: &[NodeName]) -> Result<(), PortError> {
        self.refused()
    }

    async fn down(&self, _: &[NodeName], _: &str) -> Result<(), PortError> {
        self.refused()
    }

    async fn set_reason(&self, _: &[NodeName], _: &str) -> Result<(), PortError> {
        self.refused()
    }

    async fn requeue(&self, _: &[String]) -> Result<(), PortError> {
        self.refused()
    }

    async fn cancel(&self, _: &[String]) -> Result<(), PortError> {
        self.refused()
    }
}
