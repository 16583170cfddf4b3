//! The demo: a simulated cluster in this process, and the real service on it.
//!
//! Only the cluster is simulated. The service, its store and its clients are those of production: they reach
//! HSM and BOS over HTTP on loopback, and run a program for `scontrol`, `squeue` and `scancel`, which is this binary again.

mod run;
mod table;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use crus_core::GroupLabel;
use crus_sim::config::{DEMO_BROKEN, DEMO_DRAINED};
use crus_sim::http::{LiveCluster, Server};
use crus_sim::{Cluster, ClusterConfig, stand_in};

use crate::auth::AuthMode;
use crate::config::{Loaded, Misconfigured};
use crate::peers::AccessOptions;
use crate::serve::{self, Service};
use crate::settings::{Config, EtcdOptions};

pub use run::{DemoFlags, run};

/// Runs the service on a simulated cluster until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub fn serve(mut loaded: Loaded) -> anyhow::Result<()> {
    let is_auth_set = loaded.is_set("auth");
    let config = &mut loaded.config;
    if config.auth.mode == AuthMode::Off {
        if !config.listen.ip().is_loopback() && !is_auth_set {
            return Err(Misconfigured::error(
                "a demo that listens beyond this machine asks nobody who they are unless told to: say --auth off if anybody may \
                 play with it, or --auth on with --auth-token-file",
            ));
        }
        if config.listen.ip().is_loopback() && !is_auth_set {
            config.auth.mode = AuthMode::Demo;
        }
    }
    let scratch = Scratch::unless(loaded.is_set("store").then(|| loaded.config.store.clone()));
    loaded.config.store = scratch.store().to_owned();
    // A demo beside a real service must not get at its sessions.
    loaded.config.etcd = EtcdOptions::default();
    let result = serve::on_runtime(&loaded.config.clone(), async {
        let stop = serve::stop_signals()?;
        let kept = loaded.is_set("store").then(|| kept_beside(&loaded.config.store));
        let cluster = DemoCluster::start(kept.as_deref()).await?;
        cluster.configure(&mut loaded.config)?;
        let service = Service::start(&loaded.config).await?;
        serve::announce(&service.url());
        serve::print(&cluster.tour(service.address()));
        service.run(serve::until(stop)).await;
        Ok(())
    });
    scratch.remove()?;
    result
}

/// The file of a store that nobody asked for, removed at the end.
enum Scratch {
    Wanted(PathBuf),
    Unwanted(PathBuf),
}

impl Scratch {
    fn unless(wanted: Option<PathBuf>) -> Self {
        let name = format!("crus-demo-{}.redb", std::process::id());
        wanted.map_or_else(|| Scratch::Unwanted(std::env::temp_dir().join(name)), Scratch::Wanted)
    }

    fn store(&self) -> &Path {
        let (Scratch::Wanted(path) | Scratch::Unwanted(path)) = self;
        path
    }

    fn remove(&self) -> anyhow::Result<()> {
        match self {
            Scratch::Unwanted(path) if path.exists() => {
                fs::remove_file(path).with_context(|| format!("failed to remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// So many virtual seconds pass in a real one: a boot of minutes takes seconds.
const SPEED: f64 = 150.0;

/// Which cluster it is; the same each time.
const SEED: u64 = 64;

/// The defaults of options where the cluster is so fast, by their keys.
pub const DEFAULTS: &[(&str, &str)] = &[
    // It is for those on this machine, and nothing of it is real.
    ("auth", "off"),
    ("poll_interval_s", "0.1"),
    ("retry_max_s", "1"),
    ("boot_timeout_s", "60"),
    ("return_timeout_s", "15"),
    ("settle_s", "2"),
    ("boot_estimate_low_s", "2"),
    ("boot_estimate_high_s", "6"),
    ("call_timeout_s", "10"),
    ("log", "warn"),
];

/// A simulated cluster that runs in this process.
pub(crate) struct DemoCluster {
    server: Server,
    live: LiveCluster,
}

impl DemoCluster {
    /// Starts one. Kept in a file it outlives the process, as a real one would.
    pub(crate) async fn start(kept_in: Option<&Path>) -> anyhow::Result<Self> {
        let cluster = Cluster::new(ClusterConfig::demo(), SEED).shared();
        let live = match kept_in {
            None => LiveCluster::paced(cluster, SPEED),
            Some(path) => LiveCluster::kept_in(cluster, path, SPEED)?,
        };
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = crus_sim::http::serve(live.clone(), loopback)
            .await
            .context("failed to start the simulated cluster")?;
        Ok(DemoCluster { server, live })
    }

    /// Points the service at this cluster, whatever it was pointed at: a demo touches nothing real.
    pub(crate) fn configure(&self, config: &mut Config) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("failed to find this program's own file")?;
        let program = program.to_str().context("this program's own path is not UTF-8")?.to_owned();
        let sim = format!("--sim={}", self.server.address());
        let stand_in = |name: &str| {
            [program.clone(), "slurm-stand-in".to_owned(), sim.clone(), name.to_owned()].to_vec()
        };
        config.hsm_url = format!("{}/hsm/v2", self.server.url());
        config.bos_url = format!("{}/{}", self.server.url(), config.bos_api.word());
        config.access = AccessOptions::default();
        config.scontrol = stand_in("scontrol");
        config.squeue = stand_in("squeue");
        config.scancel = stand_in("scancel");
        Ok(())
    }

    /// The cluster itself, to look at.
    pub(crate) fn live(&self) -> &LiveCluster {
        &self.live
    }

    /// What there is to explore.
    pub(crate) fn tour(&self, service: SocketAddr) -> String {
        let sim = self.server.address();
        format!(
            "simulated cluster: 64 nodes, {SPEED} times as fast as real ones; {DEMO_BROKEN} will not boot, \
             {DEMO_DRAINED} is drained by an admin\n\
             \x20 HSM   curl http://{sim}/hsm/v2/groups/slurm-nodes\n\
             \x20 BOS   curl http://{sim}/v2/sessions\n\
             \x20 Slurm {ADDRESS}={sim} {program} slurm-stand-in squeue\n\
             upgrade it, and watch:\n\
             \x20 export CRUS_URL=http://{service}\n\
             \x20 {program} session create --wait --upgrade-step-size 8 --upgrade-template-id new-image \\\n\
             \x20   --starting-label slurm-nodes --upgrading-label upgrading-nodes --failed-label failed-nodes\n",
            ADDRESS = stand_in::ADDRESS,
            program = std::env::args().next().unwrap_or_else(|| "crus".to_owned()),
        )
    }
}

/// The upgrade of the demo.
const SPEC: &str = r#"{"failed_label":"failed-nodes","starting_label":"slurm-nodes","upgrade_step_size":8,"upgrade_template_id":"new-image","upgrading_label":"upgrading-nodes","workload_manager_type":"slurm"}"#;

/// Where the cluster of a demo is kept: beside the sessions on it.
fn kept_beside(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".cluster");
    PathBuf::from(name)
}

/// A group's members in the simulated HSM.
fn members(live: &LiveCluster, label: &GroupLabel) -> std::collections::BTreeSet<crus_core::Xname> {
    live.with(|cluster| {
        let group = cluster.group(label.as_str());
        group.map(|group| group.members.iter().copied().collect()).unwrap_or_default()
    })
}
