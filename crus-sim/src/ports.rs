//! The model behind the ports of `crus-core`, in-process.
//!
//! A call takes no virtual time, except one to a slurmctld that is down: that takes as long as Slurm's commands
//! wait for it. Errors are classed as by a client of the real peers: an answer of 4xx is a refusal, one of 5xx
//! leaves open whether the peer acted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use crus_core::boots::{self, BootIds, Candidate, Found};
use crus_core::names::BootHandle;
use crus_core::ports::{
    BootKey, BootNode, BootNodeState, BootSession, BootStatus, Bos, Clock, Hsm, NodeFacts, Peer, PortError,
    RebootRequest, Rejected, TemplateKey, Wlm,
};
use crus_core::window::ZoneOffset;
use crus_core::wlm::{Job, Partition, WlmNode};
use crus_core::{GroupLabel, NodeName, PartitionName, Time, Xname};

use crate::cluster::bos::{BootComponent, BosError, NewSession, Operation, SessionStatus};
use crate::cluster::hsm::HsmError;
use crate::cluster::slurm::{JobState, SlurmError, Update};
use crate::cluster::{Cluster, SharedCluster, lock};
use crate::config::BosApi;
use crate::zones;

/// How often each method of a port was called, under names such as `wlm.drain`.
///
/// Each call of [`Wlm`] stands for one `scontrol` or `squeue` process, each of [`Hsm`] for one request, but for
/// `hsm.add_members` and `hsm.remove_members`: these count one for each node, as HSM takes one at a time.
#[derive(Debug, Default)]
pub struct Calls(Mutex<Vec<(&'static str, u64)>>);

impl Calls {
    fn count(&self, method: &'static str, calls: usize) {
        // A handful of methods.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.iter_mut().find(|(called, _)| *called == method) {
            Some((_, count)) => *count += calls as u64,
            None => all.push((method, calls as u64)),
        }
    }

    /// All counts so far.
    pub fn all(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// The calls of one method, such as `wlm.drain`.
    pub fn of(&self, method: &str) -> u64 {
        self.all().get(method).copied().unwrap_or_default()
    }

    /// All calls of one peer.
    pub fn to(&self, peer: Peer) -> u64 {
        let prefix = match peer {
            Peer::Hsm => "hsm.",
            Peer::Bos => "bos.",
            Peer::Wlm => "wlm.",
            Peer::Check => "check.",
        };
        self.all().iter().filter(|(method, _)| method.starts_with(prefix)).map(|(_, calls)| calls).sum()
    }
}

/// All ports of one cluster.
#[derive(Debug, Clone)]
pub struct SimPorts {
    /// Its HSM.
    pub hsm: SimHsm,
    /// Its BOS.
    pub bos: SimBos,
    /// Its Slurm.
    pub wlm: SimWlm,
    /// Its time.
    pub clock: SimClock,
    /// The calls of all three.
    pub calls: Arc<Calls>,
}

impl SimPorts {
    /// Whether its BOS takes names of ours, for [`Limits`](crus_core::Limits::names_boots).
    pub fn names_boots(&self) -> bool {
        lock(&self.bos.cluster).config().bos.api == BosApi::V2
    }

    /// The ports of a cluster.
    pub fn new(cluster: &SharedCluster) -> Self {
        let calls = Arc::new(Calls::default());
        let (cluster, counted) = (|| Arc::clone(cluster), || Arc::clone(&calls));
        SimPorts {
            hsm: SimHsm { cluster: cluster(), calls: counted() },
            bos: SimBos { cluster: cluster(), calls: counted() },
            wlm: SimWlm { cluster: cluster(), calls: counted() },
            clock: SimClock { cluster: cluster() },
            calls,
        }
    }
}

/// The cluster's virtual time.
#[derive(Debug, Clone)]
pub struct SimClock {
    cluster: SharedCluster,
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        lock(&self.cluster).now()
    }

    fn zone(&self, name: &str, at: Time) -> Option<ZoneOffset> {
        zones::zone(name, at)
    }
}

/// The cluster's HSM.
#[derive(Debug, Clone)]
pub struct SimHsm {
    cluster: SharedCluster,
    calls: Arc<Calls>,
}

/// What an HTTP status means: a peer that failed may have acted, unless it was only asked something.
fn classed(peer: Peer, status: u16, detail: String, writes: bool) -> PortError {
    match status {
        ..500 => PortError::Refused { peer, detail },
        _ if writes => PortError::MayHaveActed { peer, detail },
        _ => PortError::Unreachable { peer, detail },
    }
}

fn read_of_hsm(error: &HsmError) -> PortError {
    classed(Peer::Hsm, error.status(), error.to_string(), false)
}

fn write_to_hsm(error: &HsmError) -> PortError {
    classed(Peer::Hsm, error.status(), error.to_string(), true)
}

#[async_trait]
impl Hsm for SimHsm {
    async fn group(&self, label: &GroupLabel) -> Result<Option<BTreeSet<Xname>>, PortError> {
        self.calls.count("hsm.group", 1);
        match lock(&self.cluster).group(label.as_str()) {
            Ok(group) => Ok(Some(group.members.clone())),
            Err(HsmError::NoSuchGroup(_)) => Ok(None),
            Err(error) => Err(read_of_hsm(&error)),
        }
    }

    async fn add_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<Vec<Rejected>, PortError> {
        self.calls.count("hsm.add_members", nodes.len());
        let mut cluster = lock(&self.cluster);
        let mut rejected = Vec::new();
        for &xname in nodes {
            let error = match cluster.add_member(label.as_str(), &xname.to_string()) {
                Ok(_) | Err(HsmError::AlreadyMember) => continue,
                Err(error) => error,
            };
            let unknown = error == HsmError::UnknownComponent;
            if !unknown && error != HsmError::InExclusiveGroup {
                return Err(write_to_hsm(&error));
            }
            rejected.push(Rejected { xname, detail: error.to_string(), unknown });
        }
        Ok(rejected)
    }

    async fn remove_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<(), PortError> {
        self.calls.count("hsm.remove_members", nodes.len());
        let mut cluster = lock(&self.cluster);
        for xname in nodes {
            match cluster.remove_member(label.as_str(), &xname.to_string()) {
                Ok(()) | Err(HsmError::NoSuchMember | HsmError::NoSuchGroup(_)) => {}
                Err(error) => return Err(write_to_hsm(&error)),
            }
        }
        Ok(())
    }

    async fn facts(&self, nodes: &[Xname]) -> Result<Vec<NodeFacts>, PortError> {
        self.calls.count("hsm.facts", 1);
        let cluster = lock(&self.cluster);
        let mut facts = Vec::new();
        for &xname in nodes {
            let found = cluster.component(xname).map_err(|error| read_of_hsm(&error))?;
            facts.extend(found.map(|component| NodeFacts {
                xname,
                nid: component.nid,
                role: component.role,
                enabled: component.enabled,
                locked: component.locked,
                arch: component.arch,
            }));
        }
        Ok(facts)
    }
}

/// The cluster's BOS.
#[derive(Debug, Clone)]
pub struct SimBos {
    cluster: SharedCluster,
    calls: Arc<Calls>,
}

fn read_of_bos(error: &BosError) -> PortError {
    classed(Peer::Bos, error.status(), error.to_string(), false)
}

fn write_to_bos(error: &BosError) -> PortError {
    classed(Peer::Bos, error.status(), error.to_string(), true)
}

#[async_trait]
impl Bos for SimBos {
    async fn has_template(&self, template: &TemplateKey) -> Result<bool, PortError> {
        self.calls.count("bos.has_template", 1);
        match lock(&self.cluster).boot_template(template.name.as_str()) {
            Ok(_) => Ok(true),
            Err(BosError::NoSuchTemplate(_)) => Ok(false),
            Err(error) => Err(read_of_bos(&error)),
        }
    }

    async fn boot_ids(&self) -> Result<BootIds, PortError> {
        self.calls.count("bos.boot_ids", 1);
        let cluster = lock(&self.cluster);
        let sessions = cluster.boot_sessions().map_err(|error| read_of_bos(&error))?;
        Ok(sessions.iter().filter_map(|session| session.request.name.parse().ok()).collect())
    }

    async fn reboot(&self, request: &RebootRequest) -> Result<Option<BootHandle>, PortError> {
        if request.nodes.is_empty() {
            let detail = "a reboot without nodes would be one of every node".to_owned();
            return Err(PortError::Refused { peer: Peer::Bos, detail });
        }
        self.calls.count("bos.reboot", 1);
        let limit: Vec<String> = request.nodes.iter().map(Xname::to_string).collect();
        let mut cluster = lock(&self.cluster);
        let is_v1 = cluster.config().bos.api == BosApi::V1;
        if is_v1 && request.before.is_none() {
            let detail = "what there was before is not noted".to_owned();
            return Err(PortError::Refused { peer: Peer::Bos, detail });
        }
        // An id of its own, another one each time; the rest is for the witness alone, who must know whose it is.
        let id = is_v1.then(|| format!("{}-{}", cluster.next_boot_session(), request.name));
        let session = NewSession {
            name: id.clone().unwrap_or_else(|| request.name.to_string()),
            operation: Operation::Reboot,
            template_name: request.template.to_string(),
            limit: limit.join(","),
            stage: false,
            include_disabled: false,
        };
        match cluster.create_boot_session(session) {
            Ok(_) | Err(BosError::SessionExists(_)) => Ok(id.and_then(|id| id.parse().ok())),
            Err(error) => Err(write_to_bos(&error)),
        }
    }

    async fn session(&self, key: &BootKey) -> Result<Option<BootSession>, PortError> {
        self.calls.count("bos.session", 1);
        let cluster = lock(&self.cluster);
        if cluster.config().bos.api == BosApi::V1 {
            return session_v1(&cluster, key).map_err(|error| read_of_bos(&error));
        }
        let name = &key.request.name;
        let session = match cluster.boot_session(name.as_str()) {
            Ok(session) => session,
            Err(BosError::NoSuchSession(_)) => {
                let left = cluster.boot_components_of(name.as_str()).map_err(|error| read_of_bos(&error))?;
                return Ok(BootSession::of_nodes(left.into_iter().map(boot_node).collect()));
            }
            Err(error) => return Err(read_of_bos(&error)),
        };
        let components = cluster.boot_components_of(name.as_str()).map_err(|error| read_of_bos(&error))?;
        Ok(Some(BootSession {
            handle: None,
            status: match session.status {
                SessionStatus::Pending => BootStatus::Pending,
                SessionStatus::Running => BootStatus::Running,
                SessionStatus::Complete => BootStatus::Complete,
            },
            error: session.error.clone(),
            members: session.components.clone(),
            nodes: components.into_iter().map(boot_node).collect(),
        }))
    }
}

/// A boot session without a name of ours.
fn session_v1(cluster: &Cluster, key: &BootKey) -> Result<Option<BootSession>, BosError> {
    if let Some(id) = &key.handle {
        return shown_v1(cluster, id);
    }
    let Some(before) = &key.request.before else {
        return Ok(Some(BootSession::unclear("it was asked for by name".to_owned())));
    };
    let mut candidates = Vec::new();
    for session in cluster.boot_sessions()? {
        let Ok(id) = session.request.name.parse::<BootHandle>() else { continue };
        if before.contains(&id) {
            continue;
        }
        candidates.push(Candidate {
            id,
            reboots: Some(session.request.operation == Operation::Reboot),
            template: session.request.template_name.parse().ok(),
            limit: None,
            nodes: session.components.clone(),
        });
    }
    match boots::find(&key.request, &candidates) {
        Found::This(id) => shown_v1(cluster, &id),
        found => Ok(found.session(|_| None)),
    }
}

fn shown_v1(cluster: &Cluster, id: &BootHandle) -> Result<Option<BootSession>, BosError> {
    let session = match cluster.boot_session(id.as_str()) {
        Ok(session) => session,
        Err(BosError::NoSuchSession(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let complete = session.status == SessionStatus::Complete && cluster.config().bos.says_complete;
    let mut nodes: Vec<BootNode> =
        cluster.boot_components_of(id.as_str())?.into_iter().map(boot_node).collect();
    // What another session took over is never told of again.
    let owned: BTreeSet<Xname> = nodes.iter().map(|node| node.xname).collect();
    let taken = session.components.difference(&owned);
    nodes.extend(taken.map(|xname| BootNode {
        xname: *xname,
        state: BootNodeState::Working("boot in_progress".to_owned()),
    }));
    nodes.retain(|node| session.components.contains(&node.xname));
    Ok(Some(BootSession {
        handle: Some(id.clone()),
        status: match (complete, session.components.is_empty()) {
            (true, _) => BootStatus::Complete,
            (false, true) => BootStatus::Pending,
            (false, false) => BootStatus::Running,
        },
        error: None,
        members: session.components.clone(),
        nodes,
    }))
}

fn boot_node(component: BootComponent) -> BootNode {
    let BootComponent { xname, enabled, error, status, .. } = component;
    let state = match status {
        _ if enabled => BootNodeState::Working(status.to_owned()),
        "stable" if error.is_empty() => BootNodeState::Succeeded,
        "failed" => BootNodeState::Failed(error),
        _ if error.is_empty() => BootNodeState::Stopped(status.to_owned()),
        _ => BootNodeState::Stopped(error),
    };
    BootNode { xname, state }
}

/// The cluster's Slurm.
#[derive(Debug, Clone)]
pub struct SimWlm {
    cluster: SharedCluster,
    calls: Arc<Calls>,
}

impl SimWlm {
    /// Classes an error. One that says that slurmctld is down took its time to come.
    fn error(&self, error: SlurmError) -> PortError {
        let (peer, detail) = (Peer::Wlm, error.to_string());
        if error != SlurmError::ControllerDown {
            return PortError::Refused { peer, detail };
        }
        let mut cluster = lock(&self.cluster);
        let later = cluster.now() + cluster.config().slurm.connect_timeout_ms;
        cluster.advance_to(later);
        PortError::Unreachable { peer, detail }
    }

    fn update(&self, method: &'static str, names: &[NodeName], update: &Update) -> Result<(), PortError> {
        self.calls.count(method, 1);
        let result = lock(&self.cluster).update(names, update);
        result.map_err(|error| self.error(error))
    }

    /// Ends each of the jobs; goes on after one that is refused, and then returns the first refusal.
    fn end_jobs(
        &self,
        method: &'static str,
        jobs: &[String],
        end: fn(&mut Cluster, u32) -> Result<(), SlurmError>,
    ) -> Result<(), PortError> {
        self.calls.count(method, 1);
        let mut result = Ok(());
        for job in jobs {
            // There are no ids but numbers here: another is that of no job.
            let Ok(id) = job.parse() else { continue };
            let ended = end(&mut lock(&self.cluster), id);
            match ended {
                Ok(()) | Err(SlurmError::InvalidJobId) => {}
                Err(SlurmError::ControllerDown) => return Err(self.error(SlurmError::ControllerDown)),
                Err(error) => {
                    let detail = format!("{error} for job {job}");
                    result = result.and(Err(PortError::Refused { peer: Peer::Wlm, detail }));
                }
            }
        }
        result
    }
}

#[async_trait]
impl Wlm for SimWlm {
    async fn nodes(&self, names: &[NodeName]) -> Result<Vec<WlmNode>, PortError> {
        self.calls.count("wlm.nodes", 1);
        let shown = lock(&self.cluster).show_nodes(names);
        let shown = shown.map_err(|error| self.error(error))?;
        Ok(shown.nodes.into_iter().map(WlmNode::from).collect())
    }

    async fn jobs(&self, names: &[NodeName]) -> Result<Vec<Job>, PortError> {
        self.calls.count("wlm.jobs", 1);
        let jobs = lock(&self.cluster).jobs();
        let jobs = jobs.map_err(|error| self.error(error))?;
        let asked: BTreeSet<_> = names.iter().collect();
        let holds = jobs.into_iter().filter(|job| {
            job.state == JobState::Running && job.nodes.iter().any(|name| asked.contains(name))
        });
        Ok(holds
            .map(|job| Job { id: job.id.to_string(), user: job.user, nodes: job.nodes, end: job.end })
            .collect())
    }

    async fn drain(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.update("wlm.drain", names, &Update::drain(reason))
    }

    async fn resume(&self, names: &[NodeName]) -> Result<(), PortError> {
        self.update("wlm.resume", names, &Update::resume())
    }

    async fn down(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.update("wlm.down", names, &Update::down(reason))
    }

    async fn set_reason(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.update("wlm.set_reason", names, &Update::reason(reason))
    }

    async fn partitions(&self, names: &[PartitionName]) -> Result<Vec<Partition>, PortError> {
        self.calls.count("wlm.partitions", 1);
        let partitions = lock(&self.cluster).partitions();
        let mut partitions = partitions.map_err(|error| self.error(error))?;
        partitions.retain(|partition| names.contains(&partition.name));
        Ok(partitions)
    }

    async fn requeue(&self, jobs: &[String]) -> Result<(), PortError> {
        self.end_jobs("wlm.requeue", jobs, Cluster::requeue_job)
    }

    async fn cancel(&self, jobs: &[String]) -> Result<(), PortError> {
        self.end_jobs("wlm.cancel", jobs, Cluster::cancel_job)
    }
}
