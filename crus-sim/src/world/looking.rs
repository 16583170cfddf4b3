//! What a world shows.

use std::collections::BTreeSet;

use crus_core::driver::Next;
use crus_core::history::Entry;
use crus_core::model::Node;
use crus_core::ports::{SessionStore as _, Wlm as _};
use crus_core::promises::{Fact, NodeView};
use crus_core::{GroupLabel, NodeName, Session, Time, UpgradeId, Xname};

use super::{Stuck, World, at_once, failed};
use crate::cluster::{self, Cluster};
use crate::journal::{Counts, Kind};
use crate::ports::{Calls, SimPorts};
use crate::store::MemoryStore;

impl World {
    /// The cluster: to look at it, and to act as an operator.
    pub fn cluster(&self) -> std::sync::MutexGuard<'_, Cluster> {
        cluster::lock(&self.cluster)
    }

    /// The virtual time: the cluster's.
    pub fn now(&self) -> Time {
        self.cluster().now()
    }

    pub(super) fn note(&self, kind: Kind, what: impl FnOnce() -> String) {
        self.cluster().note(kind, what);
    }

    /// How often each kind of thing happened.
    pub fn counts(&self) -> Counts {
        let mut counts = *self.cluster().journal().counts();
        let written = self.store.written();
        counts.set(Kind::Write, written.writes);
        counts.set(Kind::Claim, written.claims);
        counts
    }

    /// How many rounds the sessions did, and how many times something was checked.
    pub fn rounds_and_checks(&self) -> (u64, u64) {
        (self.rounds, self.checked)
    }

    /// From now on facts are forgotten once they were checked: a long run saves memory.
    pub fn forget_facts(&mut self) {
        self.facts = None;
    }

    /// The store.
    pub fn store(&self) -> &MemoryStore {
        &self.store
    }

    /// The calls that reached the cluster.
    pub fn calls(&self) -> &Calls {
        &self.sim.calls
    }

    /// Everything that happened.
    pub fn facts(&self) -> &[Fact] {
        self.facts.as_deref().unwrap_or_default()
    }

    /// All sessions that were ever created.
    pub fn sessions(&self) -> impl Iterator<Item = UpgradeId> + '_ {
        self.audits.keys().copied()
    }

    /// A session, running or finished; `None` once it is gone.
    pub fn session(&self, id: UpgradeId) -> Option<&Session> {
        let runner = self.running.get(&id)?;
        (runner.next != Next::Removed).then(|| runner.driver.session())
    }

    /// A node of a session.
    pub fn node(&self, id: UpgradeId, xname: Xname) -> Option<&Node> {
        self.session(id)?.nodes.iter().find(|node| node.xname == xname)
    }

    /// What the stored history of a session has, the oldest first; nothing of one that is gone.
    ///
    /// # Errors
    /// When the store fails.
    pub fn history(&self, id: UpgradeId) -> Result<Vec<Entry>, Stuck> {
        at_once(self.store.history(id, 0, usize::MAX))?.map_err(failed)
    }

    /// How often a session rebooted a node.
    pub fn reboots(&self, id: UpgradeId, xname: Xname) -> u32 {
        self.audits.get(&id).map_or(0, |audit| audit.reboots(xname))
    }

    /// The members of a group, whether HSM answers now or not; none if there is no such group.
    pub fn members(&self, label: &GroupLabel) -> BTreeSet<Xname> {
        self.cluster().members(label)
    }

    /// A node as Slurm has it; `None` when Slurm does not know it.
    pub fn view(&self, name: &NodeName) -> Option<NodeView> {
        let node = self.wlm_node(name)?;
        Some(NodeView { held: node.is_held(), reason: node.reason })
    }

    /// A node as the port reports it.
    pub fn wlm_node(&self, name: &NodeName) -> Option<crus_core::wlm::WlmNode> {
        let uncounted = SimPorts::new(&self.cluster).wlm;
        let seen = at_once(uncounted.nodes(std::slice::from_ref(name))).ok()?.ok()?;
        seen.into_iter().next()
    }
}
