//! Decorators that make a port fail as real ones do.
//!
//! [`Faulty`] stands before a port and lets a [`Plan`] decide for each call whether it fails, and how: by a script
//! ("the second drain loses its reply"), or at random from a seed. The machine must come to the right end
//! under every plan that ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use crus_core::boots::BootIds;
use crus_core::names::{BootHandle, BootSessionName};
use crus_core::ports::{
    BootKey, BootSession, Bos, CheckRequest, Checks, Hsm, NodeFacts, Peer, PortError, RebootRequest,
    Rejected, TemplateKey, Verdict, Wlm,
};
use crus_core::wlm::{Job, Partition, WlmNode};
use crus_core::{GroupLabel, NodeName, PartitionName, Time, UpgradeId, Xname};

use crate::cluster::{SharedCluster, lock};
use crate::journal::Kind;
use crate::rng::Rng;

/// A way for a call to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The peer says no, and nothing is done.
    Refused,
    /// The request does not arrive.
    Unreachable,
    /// It works, and takes this long: half of it before the peer acts, half after.
    Slow {
        /// Virtual milliseconds.
        ms: u64,
    },
    /// The peer acts, and its answer is lost.
    ReplyLost,
    /// A question is answered with what was last answered to it, if it was asked before under this plan. A request
    /// that changes something is not affected, and what it was before that no peer tells.
    Stale,
    /// The peer restarts: this call and all others for so long find nobody. Slurm forgets which nodes it heard of.
    Restarted {
        /// Virtual milliseconds.
        ms: u64,
    },
}

/// A fault that was made to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// When.
    pub at: Time,
    /// The method, such as `drain`.
    pub method: &'static str,
    /// Which call of this method, from 1.
    pub nth: u64,
    /// What happened to it.
    pub fault: Fault,
}

/// Decides which calls fail.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    script: BTreeMap<(String, u64), Fault>,
    random: Option<Random>,
}

#[derive(Debug, Clone)]
struct Random {
    rng: Rng,
    per_mille: u32,
    faults: Vec<Fault>,
}

impl Plan {
    /// Nothing fails.
    pub fn none() -> Self {
        Plan::default()
    }

    /// So many calls in a thousand fail, each in one of these ways, as the seed has it.
    pub fn random(seed: u64, per_mille: u32, faults: &[Fault]) -> Self {
        let random = Random { rng: Rng::new(seed, 4), per_mille, faults: faults.to_vec() };
        Plan { script: BTreeMap::new(), random: Some(random) }
    }

    /// The nth call of a method (from 1; `drain`, `reboot`, `add_members`, …) fails like this.
    #[must_use]
    pub fn at(mut self, method: &str, nth: u64, fault: Fault) -> Self {
        self.script.insert((method.to_owned(), nth), fault);
        self
    }

    /// Whether answers must be remembered.
    fn may_be_stale(&self) -> bool {
        let random = self
            .random
            .as_ref()
            .is_some_and(|random| random.per_mille > 0 && random.faults.contains(&Fault::Stale));
        random || self.script.values().any(|fault| *fault == Fault::Stale)
    }

    fn fault(&mut self, method: &str, nth: u64) -> Option<Fault> {
        if !self.script.is_empty()
            && let Some(fault) = self.script.get(&(method.to_owned(), nth))
        {
            return Some(*fault);
        }
        let Random { rng, per_mille, faults } = self.random.as_mut()?;
        let most = faults.len().checked_sub(1)? as u64;
        if !rng.chance(*per_mille) {
            return None;
        }
        faults.get(rng.between(0, most) as usize).copied()
    }
}

/// A port with faults. Clones share the plan and the counts.
#[derive(Debug, Clone)]
pub struct Faulty<P> {
    inner: P,
    cluster: SharedCluster,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    plan: Plan,
    /// A handful of methods.
    calls: Vec<(&'static str, u64)>,
    injected: Vec<Injected>,
    away_until: Option<Time>,
    remembers: bool,
    seen: Seen,
}

/// What a peer said.
struct Answer<T> {
    value: T,
    /// When this was so; `None` when it is what it said before.
    read_at: Option<Time>,
}

impl<T> Answer<T> {
    fn now(value: T, read_at: Time) -> Self {
        Answer { value, read_at: Some(read_at) }
    }

    fn said(self) -> T {
        self.value
    }
}

/// What was answered last.
#[derive(Debug, Default)]
struct Seen {
    groups: BTreeMap<GroupLabel, Option<BTreeSet<Xname>>>,
    facts: BTreeMap<Xname, Option<NodeFacts>>,
    templates: BTreeMap<TemplateKey, bool>,
    boot_ids: Option<BootIds>,
    sessions: BTreeMap<BootSessionName, Option<BootSession>>,
    nodes: BTreeMap<NodeName, Option<WlmNode>>,
    jobs: BTreeMap<NodeName, Vec<Job>>,
    partitions: BTreeMap<PartitionName, Option<Partition>>,
}

impl<P> Faulty<P> {
    /// The port `inner` of a cluster, failing by plan.
    pub fn new(inner: P, cluster: &SharedCluster, plan: Plan) -> Self {
        let state = State { remembers: plan.may_be_stale(), plan, ..State::default() };
        Faulty { inner, cluster: Arc::clone(cluster), state: Arc::new(Mutex::new(state)) }
    }

    /// Goes by another plan from now on. Calls are counted on.
    pub fn set_plan(&self, plan: Plan) {
        let mut state = self.state();
        state.remembers = plan.may_be_stale();
        state.plan = plan;
    }

    /// The port behind the faults.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    /// What was made to happen so far.
    pub fn injected(&self) -> Vec<Injected> {
        self.state().injected.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault of this call, if it has one, and whether the peer is away.
    fn next_fault(&self, method: &'static str, at: Time) -> (Option<Fault>, bool) {
        let mut state = self.state();
        let nth = match state.calls.iter_mut().find(|(called, _)| *called == method) {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                state.calls.push((method, 1));
                1
            }
        };
        let fault = state.plan.fault(method, nth);
        if let Some(fault) = fault {
            state.injected.push(Injected { at, method, nth, fault });
        }
        (fault, state.away_until.is_some_and(|until| at < until))
    }

    /// Makes a call, or what the plan makes of it. `asked` is what it is about, for the journal; `stale` is what was
    /// answered last.
    async fn call<T: Send + Debug>(
        &self,
        peer: Peer,
        method: &'static str,
        asked: &(dyn Debug + Sync),
        stale: impl FnOnce(&Seen) -> Option<T> + Send,
        call: impl Future<Output = Result<T, PortError>> + Send,
    ) -> Result<Answer<T>, PortError> {
        let now = lock(&self.cluster).now();
        let (fault, away) = self.next_fault(method, now);
        if let Some(fault) = fault {
            lock(&self.cluster).note(Kind::Fault, || format!("{method} {asked:?}: {fault:?}"));
        }
        if away {
            return Err(unreachable(peer));
        }
        let reaches = async {
            let read_at = lock(&self.cluster).now();
            let answer = call.await;
            let kind = match peer {
                Peer::Hsm => Kind::CallHsm,
                Peer::Bos => Kind::CallBos,
                Peer::Wlm | Peer::Check => Kind::CallWlm,
            };
            lock(&self.cluster).note(kind, || format!("{method} {asked:?}: {answer:?}"));
            answer.map(|value| Answer::now(value, read_at))
        };
        match fault {
            None => reaches.await,
            Some(Fault::Refused) => {
                Err(PortError::Refused { peer, detail: "an injected refusal".to_owned() })
            }
            Some(Fault::Unreachable) => Err(unreachable(peer)),
            Some(Fault::Slow { ms }) => {
                self.wait(ms / 2);
                let answer = reaches.await;
                self.wait(ms - ms / 2);
                answer
            }
            Some(Fault::ReplyLost) => {
                reaches.await?;
                Err(PortError::MayHaveActed { peer, detail: "an injected loss of the reply".to_owned() })
            }
            Some(Fault::Stale) => {
                let seen = stale(&self.state().seen);
                match seen {
                    Some(value) => Ok(Answer { value, read_at: None }),
                    None => reaches.await,
                }
            }
            Some(Fault::Restarted { ms }) => {
                self.state().away_until = Some(now + ms);
                if peer == Peer::Wlm {
                    lock(&self.cluster).restart_slurmctld(ms);
                }
                Err(unreachable(peer))
            }
        }
    }

    /// What was said of these nodes of Slurm, and of their partitions, is not said again.
    fn changes(&self, names: &[NodeName]) {
        if let Some(mut state) = self.memory() {
            state.seen.nodes.retain(|name, _| !names.contains(name));
            state.seen.partitions.clear();
        }
    }

    /// Where to remember an answer; `None` when nobody will ask for it.
    fn memory(&self) -> Option<MutexGuard<'_, State>> {
        let state = self.state();
        state.remembers.then_some(state)
    }

    fn wait(&self, ms: u64) {
        let mut cluster = lock(&self.cluster);
        let later = cluster.now() + ms;
        cluster.advance_to(later);
    }
}

fn unreachable(peer: Peer) -> PortError {
    PortError::Unreachable { peer, detail: "an injected outage".to_owned() }
}

/// For calls that change something: they have no last answer.
fn never<T>(_: &Seen) -> Option<T> {
    None
}

#[async_trait]
impl<P: Hsm> Hsm for Faulty<P> {
    async fn group(&self, label: &GroupLabel) -> Result<Option<BTreeSet<Xname>>, PortError> {
        let stale = |seen: &Seen| seen.groups.get(label).cloned();
        let members = self.call(Peer::Hsm, "group", label, stale, self.inner.group(label)).await?.value;
        if let Some(mut state) = self.memory() {
            state.seen.groups.insert(label.clone(), members.clone());
        }
        Ok(members)
    }

    async fn add_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<Vec<Rejected>, PortError> {
        self.state().seen.groups.remove(label);
        let call = self.inner.add_members(label, nodes);
        self.call(Peer::Hsm, "add_members", &(label, nodes), never, call).await.map(Answer::said)
    }

    async fn remove_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<(), PortError> {
        self.state().seen.groups.remove(label);
        let call = self.inner.remove_members(label, nodes);
        self.call(Peer::Hsm, "remove_members", &(label, nodes), never, call).await.map(Answer::said)
    }

    async fn facts(&self, nodes: &[Xname]) -> Result<Vec<NodeFacts>, PortError> {
        let stale = |seen: &Seen| {
            let last: Option<Vec<_>> = nodes.iter().map(|xname| seen.facts.get(xname).cloned()).collect();
            last.map(|facts| facts.into_iter().flatten().collect())
        };
        let facts = self.call(Peer::Hsm, "facts", &nodes, stale, self.inner.facts(nodes)).await?.value;
        if let Some(mut state) = self.memory() {
            let found: BTreeMap<_, _> = facts.iter().map(|fact| (fact.xname, fact)).collect();
            for xname in nodes {
                state.seen.facts.insert(*xname, found.get(xname).map(|fact| (*fact).clone()));
            }
        }
        Ok(facts)
    }
}

#[async_trait]
impl<P: Bos> Bos for Faulty<P> {
    async fn has_template(&self, template: &TemplateKey) -> Result<bool, PortError> {
        let stale = |seen: &Seen| seen.templates.get(template).copied();
        let call = self.inner.has_template(template);
        let there = self.call(Peer::Bos, "has_template", template, stale, call).await?.value;
        if let Some(mut state) = self.memory() {
            state.seen.templates.insert(template.clone(), there);
        }
        Ok(there)
    }

    async fn boot_ids(&self) -> Result<BootIds, PortError> {
        let stale = |seen: &Seen| seen.boot_ids.clone();
        let ids = self.call(Peer::Bos, "boot_ids", &(), stale, self.inner.boot_ids()).await?.value;
        if let Some(mut state) = self.memory() {
            state.seen.boot_ids = Some(ids.clone());
        }
        Ok(ids)
    }

    async fn reboot(&self, request: &RebootRequest) -> Result<Option<BootHandle>, PortError> {
        {
            let seen = &mut self.state().seen;
            seen.sessions.remove(&request.name);
            seen.boot_ids = None;
        }
        self.call(Peer::Bos, "reboot", request, never, self.inner.reboot(request)).await.map(Answer::said)
    }

    async fn session(&self, key: &BootKey) -> Result<Option<BootSession>, PortError> {
        let name = &key.request.name;
        let stale = |seen: &Seen| seen.sessions.get(name).cloned();
        let session = self.call(Peer::Bos, "session", name, stale, self.inner.session(key)).await?.value;
        if let Some(mut state) = self.memory() {
            state.seen.sessions.insert(name.clone(), session.clone());
        }
        Ok(session)
    }
}

#[async_trait]
impl<P: Wlm> Wlm for Faulty<P> {
    async fn nodes(&self, names: &[NodeName]) -> Result<Vec<WlmNode>, PortError> {
        let stale = |seen: &Seen| {
            let last: Option<Vec<_>> = names.iter().map(|name| seen.nodes.get(name).cloned()).collect();
            last.map(|nodes| nodes.into_iter().flatten().collect())
        };
        let answer = self.call(Peer::Wlm, "nodes", &names, stale, self.inner.nodes(names)).await?;
        let nodes = answer.value;
        if let Some(at) = answer.read_at {
            lock(&self.cluster).told(names, false, at);
        }
        if let Some(mut state) = self.memory() {
            let found: BTreeMap<_, _> = nodes.iter().map(|node| (&node.name, node)).collect();
            for name in names {
                state.seen.nodes.insert(name.clone(), found.get(name).map(|node| (*node).clone()));
            }
        }
        Ok(nodes)
    }

    async fn jobs(&self, names: &[NodeName]) -> Result<Vec<Job>, PortError> {
        let stale = |seen: &Seen| {
            let last: Option<Vec<_>> = names.iter().map(|name| seen.jobs.get(name)).collect();
            let by_id: BTreeMap<_, _> = last?.into_iter().flatten().map(|job| (&job.id, job)).collect();
            Some(by_id.into_values().cloned().collect())
        };
        let answer = self.call(Peer::Wlm, "jobs", &names, stale, self.inner.jobs(names)).await?;
        let jobs = answer.value;
        if let Some(at) = answer.read_at {
            lock(&self.cluster).told(names, true, at);
        }
        if let Some(mut state) = self.memory() {
            for name in names {
                let on_it = jobs.iter().filter(|job| job.nodes.contains(name)).cloned().collect();
                state.seen.jobs.insert(name.clone(), on_it);
            }
        }
        Ok(jobs)
    }

    async fn drain(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.changes(names);
        let call = self.inner.drain(names, reason);
        self.call(Peer::Wlm, "drain", &(names, reason), never, call).await.map(Answer::said)
    }

    async fn resume(&self, names: &[NodeName]) -> Result<(), PortError> {
        self.changes(names);
        self.call(Peer::Wlm, "resume", &names, never, self.inner.resume(names)).await.map(Answer::said)
    }

    async fn down(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.changes(names);
        let call = self.inner.down(names, reason);
        self.call(Peer::Wlm, "down", &(names, reason), never, call).await.map(Answer::said)
    }

    async fn set_reason(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.changes(names);
        let call = self.inner.set_reason(names, reason);
        self.call(Peer::Wlm, "set_reason", &(names, reason), never, call).await.map(Answer::said)
    }

    async fn partitions(&self, names: &[PartitionName]) -> Result<Vec<Partition>, PortError> {
        let stale = |seen: &Seen| {
            let last: Option<Vec<_>> = names.iter().map(|name| seen.partitions.get(name).cloned()).collect();
            last.map(|partitions| partitions.into_iter().flatten().collect())
        };
        let call = self.inner.partitions(names);
        let answer = self.call(Peer::Wlm, "partitions", &names, stale, call).await?;
        let partitions = answer.value;
        if answer.read_at.is_some() {
            lock(&self.cluster).told_partitions(&partitions);
        }
        if let Some(mut state) = self.memory() {
            let found: BTreeMap<_, _> = partitions.iter().map(|one| (&one.name, one)).collect();
            for name in names {
                state.seen.partitions.insert(name.clone(), found.get(name).map(|one| (*one).clone()));
            }
        }
        Ok(partitions)
    }

    async fn requeue(&self, jobs: &[String]) -> Result<(), PortError> {
        let call = self.inner.requeue(jobs);
        self.call(Peer::Wlm, "requeue", &jobs, never, call).await.map(Answer::said)
    }

    async fn cancel(&self, jobs: &[String]) -> Result<(), PortError> {
        let call = self.inner.cancel(jobs);
        self.call(Peer::Wlm, "cancel", &jobs, never, call).await.map(Answer::said)
    }
}

#[async_trait]
impl<P: Checks> Checks for Faulty<P> {
    async fn judge(&self, request: &CheckRequest) -> Result<Vec<(Xname, Verdict)>, PortError> {
        let call = self.inner.judge(request);
        self.call(Peer::Check, "check", request, never, call).await.map(Answer::said)
    }

    fn forget(&self, session: UpgradeId) {
        self.inner.forget(session);
    }
}
