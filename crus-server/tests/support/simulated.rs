//! A simulated cluster on loopback: HSM and BOS over HTTP, Slurm as programs, which are the binary again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crus_core::ports::SessionStore as _;
use crus_core::promises::{Audit, Fact, NodeView, Outcome};
use crus_core::wlm::WlmNode;
use crus_core::{NodeName, Session, UpgradeId, Xname};
use crus_server::store::RedbStore;
use crus_sim::config::{BootBehaviour, BosConfig, GroupSpec, Span, TemplateSpec};
use crus_sim::http::{LiveCluster, Server};
use crus_sim::{Cluster, ClusterConfig, stand_in};

use crate::support;

/// Nodes with HSM's groups and BOS's template as [`support::spec`] names them.
pub(crate) fn nodes(count: u32) -> ClusterConfig {
    let nodes = ClusterConfig::nodes(count);
    let all = GroupSpec { members: nodes.iter().map(|node| node.xname).collect(), ..GroupSpec::default() };
    ClusterConfig {
        nodes,
        groups: BTreeMap::from([
            ("slurm-nodes".parse().unwrap(), all),
            ("upgrading-nodes".parse().unwrap(), GroupSpec::default()),
            ("failed-nodes".parse().unwrap(), GroupSpec::default()),
        ]),
        templates: BTreeMap::from([(
            "new-image".parse().unwrap(),
            TemplateSpec::of_group("upgrading-nodes"),
        )]),
        ..ClusterConfig::default()
    }
}

/// Boots of two or three minutes, tried once.
pub(crate) fn quick_bos() -> BosConfig {
    BosConfig { boot: Span::new(120_000, 180_000), attempts: 1, attempt_ms: 300_000, ..BosConfig::default() }
}

/// The same with quick boots, but for the second node, which does not boot.
pub(crate) fn nodes_one_broken(count: u32) -> ClusterConfig {
    let mut config = ClusterConfig { bos: quick_bos(), ..nodes(count) };
    config.nodes[1].boot = BootBehaviour::Fails;
    config
}

/// A simulated cluster, and a place for the service on it.
pub(crate) struct Simulated {
    pub(crate) live: LiveCluster,
    server: Server,
    folder: tempfile::TempDir,
}

impl Simulated {
    /// `speed`: virtual seconds in a real one.
    pub(crate) async fn start(config: ClusterConfig, seed: u64, speed: f64) -> Simulated {
        let live = LiveCluster::paced(Cluster::new(config, seed).shared(), speed);
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = crus_sim::http::serve(live.clone(), loopback).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (program, address) = (support::binary(), server.address().to_string());
        stand_in::write_programs(folder.path(), &program, &["slurm-stand-in"], &address).unwrap();
        Simulated { live, server, folder }
    }

    /// Where the service and Slurm's programs are; gone with this.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the service keeps its sessions.
    pub(crate) fn store(&self) -> PathBuf {
        self.folder().join("crus.redb")
    }

    /// `crus serve` on this cluster.
    pub(crate) fn serve(&self) -> Command {
        self.serve_from(&self.store(), "0.05")
    }

    /// The same, with another store and pace.
    pub(crate) fn serve_from(&self, store: &Path, poll_s: &str) -> Command {
        self.serve_by("v2", store, poll_s)
    }

    /// The same, with this version of BOS's API.
    pub(crate) fn serve_by(&self, api: &str, store: &Path, poll_s: &str) -> Command {
        let url = self.server.url();
        let mut command = support::serve(store, &format!("{url}/hsm/v2"), &format!("{url}/{api}"), poll_s);
        command.args(["--bos-api", api]);
        for program in ["scontrol", "squeue"] {
            command.arg(format!("--{program}")).arg(self.folder().join(program));
        }
        command.args(["--settle-s", "1"]);
        command
    }

    /// What is stored of a session. Only when no service runs any more: a store has one owner.
    pub(crate) async fn stored(&self, id: UpgradeId) -> Session {
        self.stored_in(&self.store(), id).await
    }

    /// The same, in another store.
    pub(crate) async fn stored_in(&self, store: &Path, id: UpgradeId) -> Session {
        let store = RedbStore::open(store).unwrap();
        store.load(id).await.unwrap().unwrap().0
    }

    /// Whether a process uses this cluster.
    pub(crate) fn is_used(&self) -> bool {
        !self.users().is_empty()
    }

    /// The processes with this cluster's address or folder among their arguments: services, and Slurm's programs.
    pub(crate) fn users(&self) -> Vec<u32> {
        let marks = [self.server.address().to_string(), self.folder().display().to_string()];
        let uses = |process: &Path| {
            // It may end meanwhile.
            let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
            let arguments = String::from_utf8_lossy(&arguments);
            marks.iter().any(|mark| arguments.contains(mark))
        };
        let processes = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
        let users = processes.filter(|process| uses(process));
        users.filter_map(|process| process.file_name()?.to_str()?.parse().ok()).collect()
    }

    /// How many calls have reached HSM, BOS and Slurm: a clock that counts what the service does.
    pub(crate) fn calls(&self) -> u64 {
        self.live.calls().values().sum()
    }

    /// How many of them asked for a change.
    pub(crate) fn changes(&self) -> u64 {
        let calls = self.live.calls();
        let is_change =
            |call: &str| !["GET", "scontrol show", "squeue"].iter().any(|read| call.starts_with(read));
        calls.iter().filter(|(call, _)| is_change(call)).map(|(_, count)| count).sum()
    }

    pub(crate) fn facts(&self) -> Vec<Fact> {
        self.live.with(|cluster| cluster.facts().to_vec())
    }

    pub(crate) fn members(&self, label: &str) -> BTreeSet<Xname> {
        self.live.with(|cluster| cluster.group(label).unwrap().members.clone())
    }

    /// Slurm's names of all nodes.
    pub(crate) fn names(&self) -> BTreeMap<Xname, NodeName> {
        self.live.with(|cluster| {
            let specs = cluster.config().nodes.iter();
            specs.filter_map(|spec| Some((spec.xname, spec.name.clone()?))).collect()
        })
    }

    pub(crate) fn node(&self, name: &NodeName) -> WlmNode {
        self.live.with(|cluster| {
            let shown = cluster.show_nodes(std::slice::from_ref(name)).unwrap();
            WlmNode::from(shown.nodes[0].clone())
        })
    }

    /// Fails where the session, which is over and might have had any of the nodes, has broken a promise.
    pub(crate) fn assert_kept(&self, session: &Session, told: &str) -> Audit {
        let own = self.live.with(|cluster| cluster.config().nodes.iter().map(|node| node.xname).collect());
        let (audit, mut violations) = Audit::of(session, own, &self.facts());
        violations.extend(audit.at_end(session, &self.world()));
        assert_eq!(violations, [], "{told}");
        audit
    }

    /// The world as promises are about it.
    pub(crate) fn world(&self) -> Outcome {
        let view = |name: &NodeName| {
            let node = self.node(name);
            NodeView { held: node.is_held(), reason: node.reason }
        };
        Outcome {
            nodes: self.names().iter().map(|(&xname, name)| (xname, view(name))).collect(),
            upgrading: self.members("upgrading-nodes"),
            failed: self.members("failed-nodes"),
        }
    }
}
