//! Ports and a store with a point before and after each call.

use std::collections::BTreeSet;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use crus_core::boots::BootIds;
use crus_core::claims::Turn;
use crus_core::driver::Ports;
use crus_core::machine::Event;
use crus_core::names::BootHandle;
use crus_core::ports::{
    BootKey, BootSession, Bos, CheckRequest, Checks, DriverStore, Hsm, NodeFacts, Peer, PortError,
    RebootRequest, Rejected, Revision, StoreError, TemplateKey, Verdict, Wlm,
};
use crus_core::wlm::{Job, Partition, WlmNode};
use crus_core::{GroupLabel, NodeName, PartitionName, Session, UpgradeId, Xname};

use super::strike::{Place, Points, Strike};

impl Points {
    /// Puts the points before all ports and what drivers do with the store.
    pub fn before(&self, ports: Ports) -> Ports {
        self.tell_time_by(Arc::clone(&ports.clock));
        let Ports { hsm, bos, wlm, store, clock, checks, observer } = ports;
        Ports {
            hsm: Arc::new(Passing { inner: hsm, points: self.clone() }),
            bos: Arc::new(Passing { inner: bos, points: self.clone() }),
            wlm: Arc::new(Passing { inner: wlm, points: self.clone() }),
            store: Arc::new(Passing { inner: store, points: self.clone() }),
            clock,
            checks: Arc::new(Passing { inner: checks, points: self.clone() }),
            observer,
        }
    }
}

/// A port, or the store, with a point before and after each call.
struct Passing<P: ?Sized> {
    inner: Arc<P>,
    points: Points,
}

type Answer<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

impl<P: ?Sized> Passing<P> {
    async fn look<T>(&self, call: &'static str, answer: Answer<'_, T, PortError>) -> Result<T, PortError> {
        self.points.arrive(Place::Before(call)).await;
        let answer = answer.await;
        self.points.arrive(Place::After(call)).await;
        answer
    }

    async fn request<'a, T: Send>(
        &self,
        peer: Peer,
        call: &'static str,
        ask: impl Fn() -> Answer<'a, T, PortError> + Send + Sync,
    ) -> Result<T, PortError> {
        let strike = self.points.arrive(Place::Before(call)).await;
        let mut answer = ask().await;
        if strike == Some(Strike::Twice) {
            answer = ask().await;
        }
        self.points.arrive(Place::After(call)).await;
        if strike == Some(Strike::Lost) {
            let detail = "the answer was lost".to_owned();
            return Err(PortError::MayHaveActed { peer, detail });
        }
        answer
    }
}

#[async_trait]
impl Checks for Passing<dyn Checks> {
    async fn judge(&self, request: &CheckRequest) -> Result<Vec<(Xname, Verdict)>, PortError> {
        self.look("check", self.inner.judge(request)).await
    }

    fn forget(&self, session: UpgradeId) {
        self.inner.forget(session);
    }
}

#[async_trait]
impl Hsm for Passing<dyn Hsm> {
    async fn group(&self, label: &GroupLabel) -> Result<Option<BTreeSet<Xname>>, PortError> {
        self.look("hsm.group", self.inner.group(label)).await
    }

    async fn add_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<Vec<Rejected>, PortError> {
        self.request(Peer::Hsm, "hsm.add_members", || self.inner.add_members(label, nodes)).await
    }

    async fn remove_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<(), PortError> {
        self.request(Peer::Hsm, "hsm.remove_members", || self.inner.remove_members(label, nodes)).await
    }

    async fn facts(&self, nodes: &[Xname]) -> Result<Vec<NodeFacts>, PortError> {
        self.look("hsm.facts", self.inner.facts(nodes)).await
    }
}

#[async_trait]
impl Bos for Passing<dyn Bos> {
    async fn has_template(&self, template: &TemplateKey) -> Result<bool, PortError> {
        self.look("bos.has_template", self.inner.has_template(template)).await
    }

    async fn boot_ids(&self) -> Result<BootIds, PortError> {
        self.look("bos.boot_ids", self.inner.boot_ids()).await
    }

    async fn reboot(&self, request: &RebootRequest) -> Result<Option<BootHandle>, PortError> {
        let Some(ms) = self.points.late_next() else {
            return self.request(Peer::Bos, "bos.reboot", || self.inner.reboot(request)).await;
        };
        self.points.arrive(Place::Before("bos.reboot")).await;
        self.points.arrives_late(ms, Arc::clone(&self.inner), request.clone());
        pending().await
    }

    async fn session(&self, key: &BootKey) -> Result<Option<BootSession>, PortError> {
        self.look("bos.session", self.inner.session(key)).await
    }
}

#[async_trait]
impl Wlm for Passing<dyn Wlm> {
    async fn nodes(&self, names: &[NodeName]) -> Result<Vec<WlmNode>, PortError> {
        self.look("wlm.nodes", self.inner.nodes(names)).await
    }

    async fn jobs(&self, names: &[NodeName]) -> Result<Vec<Job>, PortError> {
        self.look("wlm.jobs", self.inner.jobs(names)).await
    }

    async fn drain(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.request(Peer::Wlm, "wlm.drain", || self.inner.drain(names, reason)).await
    }

    async fn resume(&self, names: &[NodeName]) -> Result<(), PortError> {
        self.request(Peer::Wlm, "wlm.resume", || self.inner.resume(names)).await
    }

    async fn down(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.request(Peer::Wlm, "wlm.down", || self.inner.down(names, reason)).await
    }

    async fn set_reason(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.request(Peer::Wlm, "wlm.set_reason", || self.inner.set_reason(names, reason)).await
    }

    async fn partitions(&self, names: &[PartitionName]) -> Result<Vec<Partition>, PortError> {
        self.look("wlm.partitions", self.inner.partitions(names)).await
    }

    async fn requeue(&self, jobs: &[String]) -> Result<(), PortError> {
        self.request(Peer::Wlm, "wlm.requeue", || self.inner.requeue(jobs)).await
    }

    async fn cancel(&self, jobs: &[String]) -> Result<(), PortError> {
        self.request(Peer::Wlm, "wlm.cancel", || self.inner.cancel(jobs)).await
    }
}

#[async_trait]
impl DriverStore for Passing<dyn DriverStore> {
    async fn save(
        &self,
        session: &Session,
        events: &[Event],
        revision: Revision,
    ) -> Result<Revision, StoreError> {
        self.points.write("store.save", self.inner.save(session, events, revision)).await
    }

    async fn remove(&self, id: UpgradeId) -> Result<(), StoreError> {
        self.points.write("store.remove", self.inner.remove(id)).await
    }

    async fn claim(&self, id: UpgradeId, nodes: &[Xname]) -> Result<Turn, StoreError> {
        self.points.write("store.claim", self.inner.claim(id, nodes)).await
    }

    fn owns(&self, id: UpgradeId) -> bool {
        self.inner.owns(id)
    }
}
