//! Services that break a promise on purpose.
//!
//! Whoever checks promises shows with them that a break is seen. A mutant stands between the service and its ports
//! and store, so that what runs is the very machine and driver that must keep the promises; a loop that is broken
//! is [`World::tamper`](crate::world::World::tamper)'s.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use crus_core::boots::BootIds;
use crus_core::claims::Turn;
use crus_core::driver::Ports;
use crus_core::history::Happening;
use crus_core::machine::Event;
use crus_core::messages;
use crus_core::names::{BootHandle, BootSessionName};
use crus_core::ports::{
    BootKey, BootSession, Bos, DriverStore, Hsm, NodeFacts, Peer, PortError, RebootRequest, Rejected,
    Revision, StoreError, TemplateKey, Wlm,
};
use crus_core::wlm::{BaseState, Flag, Job, Partition, WlmNode};
use crus_core::{GroupLabel, NodeName, PartitionName, Session, Strategy, UpgradeId, Xname};

use crate::crash::Points;
use crate::world::World;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// P1: each drain takes one node more.
    DrainsOneMore,
    /// P2: looks at nodes and jobs show none that runs.
    SeesNoJobs,
    /// P2: nodes are taken down instead of drained.
    TakesDown,
    /// P3: a boot session gets another name after each start of the service.
    ForgetsBootNames,
    /// P3: a reboot that may have been begun is asked for again after a minute.
    RepeatsReboots,
    /// P3: the store loses the intent to reboot.
    LosesIntents,
    /// P4, P7: resumes are swallowed, and looks show that they worked.
    SwallowsResumes,
    /// P4: what is put into a group is not put there, and looks show it there.
    SwallowsMembers,
    /// P5: looks show a newer boot each time.
    InventsBoots,
    /// P6: looks do not show what somebody else holds.
    HidesReasons,
    /// P7: the store forgets that deletion was ordered.
    ForgetsDeletions,
    /// P8: whoever is taken out of a group takes all others along.
    TakesBystanders,
    /// P8: every session gets its turn at once.
    GrantsAlways,
    /// P3: who lost a session takes it for its own.
    OwnsForEver,
    /// What a strategy promises: the store loses the strategy.
    LosesStrategies,
    /// Paused sessions stay so: the store loses orders that it answered for.
    LosesOrders,
    /// P2: jobs are cancelled that were to be requeued.
    CancelsJobs,
    /// History: the store loses what nodes went through.
    LosesEntries,
    /// P9: HSM is never heard of again after it failed once.
    StaysDeaf,
}

impl Mutant {
    /// Breaks the service of a world. `points` knows how often it died.
    pub fn bend(self, world: &mut World, points: &Points) {
        if matches!(self, Mutant::ForgetsDeletions | Mutant::LosesOrders) {
            return world.store().lose_orders();
        }
        world.decorate(|ports| {
            let points = points.clone();
            let bent =
                Arc::new(Bent { mutant: self, inner: ports.clone(), points, memory: Mutex::default() });
            Ports { hsm: bent.clone(), bos: bent.clone(), wlm: bent.clone(), store: bent, ..ports }
        });
    }
}

struct Bent {
    mutant: Mutant,
    inner: Ports,
    points: Points,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// Nodes that were looked at.
    looked_at: BTreeSet<NodeName>,
    /// How often nodes were looked at.
    looks: i64,
    /// Nodes whose resume was swallowed.
    resumed: BTreeSet<NodeName>,
    /// Nodes that were not put into a group.
    joined: BTreeSet<(GroupLabel, Xname)>,
    deaf: bool,
    /// A reboot whose reply was lost, and after how many looks it is asked for again.
    lost: Option<(RebootRequest, u32)>,
}

/// A minute of looks, after which a reboot is asked for again: the nodes are without power by then.
const BLIND_LOOKS: u32 = 6;

impl Bent {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == mutant
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name that BOS is told.
    fn bent_name(&self, name: &BootSessionName) -> BootSessionName {
        let bent = BootSessionName::new(&format!("{name}-life{}", self.points.deaths()));
        match bent {
            Ok(bent) if self.is(Mutant::ForgetsBootNames) => bent,
            _ => name.clone(),
        }
    }

    /// A node as the service sees it.
    fn bent_node(&self, mut node: WlmNode) -> WlmNode {
        let memory = self.memory();
        let reason = node.reason.clone().unwrap_or_default();
        let is_theirs = !reason.is_empty() && messages::is_theirs(&reason);
        match self.mutant {
            Mutant::SeesNoJobs => {
                if matches!(node.base, BaseState::Allocated | BaseState::Mixed) {
                    node.base = BaseState::Idle;
                }
                node.cpus_allocated = Some(0);
                node.flags.remove(&Flag::Completing);
            }
            Mutant::SwallowsResumes if memory.resumed.contains(&node.name) => in_service(&mut node),
            Mutant::HidesReasons if is_theirs => in_service(&mut node),
            Mutant::InventsBoots => {
                if let Some(boot) = &mut node.boot_time {
                    boot.0 += 10 * memory.looks;
                }
            }
            _ => {}
        }
        node
    }
}

fn in_service(node: &mut WlmNode) {
    node.flags.remove(&Flag::Drain);
    if node.base == BaseState::Down {
        node.base = BaseState::Idle;
    }
    node.reason = None;
}

#[async_trait]
impl Hsm for Bent {
    async fn group(&self, label: &GroupLabel) -> Result<Option<BTreeSet<Xname>>, PortError> {
        if self.is(Mutant::StaysDeaf) && self.memory().deaf {
            let detail = "connection closed".to_owned();
            return Err(PortError::Unreachable { peer: Peer::Hsm, detail });
        }
        let answer = self.inner.hsm.group(label).await;
        let mut memory = self.memory();
        memory.deaf |= answer.is_err();
        let joined = memory.joined.iter().filter(|(of, _)| of == label).map(|(_, xname)| *xname);
        answer.map(|group| {
            group.map(|mut members| {
                members.extend(joined);
                members
            })
        })
    }

    async fn add_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<Vec<Rejected>, PortError> {
        // The nodes that boot must be in their group, or BOS boots none of them.
        if self.is(Mutant::SwallowsMembers) && label.as_str().starts_with("failed") {
            self.memory().joined.extend(nodes.iter().map(|xname| (label.clone(), *xname)));
            return Ok(Vec::new());
        }
        self.inner.hsm.add_members(label, nodes).await
    }

    async fn remove_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<(), PortError> {
        if self.is(Mutant::TakesBystanders)
            && let Some(all) = self.inner.hsm.group(label).await?
        {
            let all: Vec<Xname> = all.into_iter().collect();
            return self.inner.hsm.remove_members(label, &all).await;
        }
        self.inner.hsm.remove_members(label, nodes).await
    }

    async fn facts(&self, nodes: &[Xname]) -> Result<Vec<NodeFacts>, PortError> {
        self.inner.hsm.facts(nodes).await
    }
}

#[async_trait]
impl Bos for Bent {
    async fn has_template(&self, template: &TemplateKey) -> Result<bool, PortError> {
        self.inner.bos.has_template(template).await
    }

    async fn boot_ids(&self) -> Result<BootIds, PortError> {
        self.inner.bos.boot_ids().await
    }

    async fn reboot(&self, request: &RebootRequest) -> Result<Option<BootHandle>, PortError> {
        let name = self.bent_name(&request.name);
        let request = RebootRequest { name, ..request.clone() };
        let reply = self.inner.bos.reboot(&request).await;
        match reply {
            Err(error @ PortError::MayHaveActed { .. }) if self.is(Mutant::RepeatsReboots) => {
                self.memory().lost = Some((request, BLIND_LOOKS));
                Err(error)
            }
            reply => reply,
        }
    }

    async fn session(&self, key: &BootKey) -> Result<Option<BootSession>, PortError> {
        let due = {
            let mut memory = self.memory();
            if let Some((_, looks)) = &mut memory.lost {
                *looks = looks.saturating_sub(1);
            }
            memory.lost.take_if(|(_, looks)| *looks == 0)
        };
        if let Some((request, _)) = due {
            self.inner.bos.reboot(&request).await?;
        }
        let name = self.bent_name(&key.request.name);
        let request = RebootRequest { name, ..key.request.clone() };
        self.inner.bos.session(&BootKey { request, ..key.clone() }).await
    }
}

#[async_trait]
impl Wlm for Bent {
    async fn nodes(&self, names: &[NodeName]) -> Result<Vec<WlmNode>, PortError> {
        {
            let mut memory = self.memory();
            memory.looked_at.extend(names.iter().cloned());
            memory.looks += 1;
        }
        let nodes = self.inner.wlm.nodes(names).await?;
        Ok(nodes.into_iter().map(|node| self.bent_node(node)).collect())
    }

    async fn jobs(&self, names: &[NodeName]) -> Result<Vec<Job>, PortError> {
        self.memory().looked_at.extend(names.iter().cloned());
        let jobs = self.inner.wlm.jobs(names).await?;
        Ok(if self.is(Mutant::SeesNoJobs) { Vec::new() } else { jobs })
    }

    async fn drain(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        let mut names = names.to_vec();
        if self.is(Mutant::DrainsOneMore) {
            let more = self.memory().looked_at.iter().find(|name| !names.contains(name)).cloned();
            names.extend(more);
        }
        match self.mutant {
            Mutant::TakesDown => self.inner.wlm.down(&names, reason).await,
            _ => self.inner.wlm.drain(&names, reason).await,
        }
    }

    async fn resume(&self, names: &[NodeName]) -> Result<(), PortError> {
        if self.is(Mutant::SwallowsResumes) {
            self.memory().resumed.extend(names.iter().cloned());
            return Ok(());
        }
        self.inner.wlm.resume(names).await
    }

    async fn down(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.inner.wlm.down(names, reason).await
    }

    async fn set_reason(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.inner.wlm.set_reason(names, reason).await
    }

    async fn partitions(&self, names: &[PartitionName]) -> Result<Vec<Partition>, PortError> {
        self.inner.wlm.partitions(names).await
    }

    async fn requeue(&self, jobs: &[String]) -> Result<(), PortError> {
        if self.is(Mutant::CancelsJobs) {
            return self.inner.wlm.cancel(jobs).await;
        }
        self.inner.wlm.requeue(jobs).await
    }

    async fn cancel(&self, jobs: &[String]) -> Result<(), PortError> {
        self.inner.wlm.cancel(jobs).await
    }
}

#[async_trait]
impl DriverStore for Bent {
    async fn save(
        &self,
        session: &Session,
        events: &[Event],
        revision: Revision,
    ) -> Result<Revision, StoreError> {
        let mut session = session.clone();
        let mut events = events.to_vec();
        match self.mutant {
            Mutant::LosesIntents => session.head.boot = None,
            Mutant::LosesStrategies => session.head.spec.strategy = Strategy::default(),
            Mutant::LosesEntries => events.retain(|event| {
                let Event::Entry(entry) = event else { return true };
                !matches!(entry.what, Happening::Nodes { .. })
            }),
            _ => {}
        }
        self.inner.store.save(&session, &events, revision).await
    }

    async fn remove(&self, id: UpgradeId) -> Result<(), StoreError> {
        self.inner.store.remove(id).await
    }

    async fn claim(&self, id: UpgradeId, nodes: &[Xname]) -> Result<Turn, StoreError> {
        let turn = self.inner.store.claim(id, nodes).await?;
        Ok(if self.is(Mutant::GrantsAlways) { Turn::Granted } else { turn })
    }

    fn owns(&self, id: UpgradeId) -> bool {
        self.is(Mutant::OwnsForEver) || self.inner.store.owns(id)
    }
}
