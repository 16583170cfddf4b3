//! What the commands of a page run against: a simulated cluster, and if wished a real etcd.

use crus_sim::http::{LiveCluster, Server};
use crus_sim::{Cluster, ClusterConfig, stand_in};
use tokio::runtime::Runtime;

use super::page::Wish;
use super::shell::Shell;
use crate::support;

/// Which cluster it is; the same each time.
const SEED: u64 = 64;

/// The NIDs of the small cluster's nodes: of those of the demo, among them the two that are not as the others.
const SMALL: [std::ops::RangeInclusive<u32>; 2] = [17..=24, 41..=48];

/// A site; gone when dropped.
pub(crate) struct Site {
    // First, so that it goes first: what it runs uses the others.
    pub(crate) shell: Shell,
    folder: tempfile::TempDir,
    _runtime: Runtime,
    _server: Option<Server>,
    #[cfg(feature = "etcd")]
    _etcd: Option<crate::support::etcd::Etcd>,
}

impl Site {
    /// The site that is wished for; none when it needs a real etcd and there is none.
    pub(crate) fn start(wish: &Wish) -> Result<Option<Site>, String> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let programs = folder.path().join(".bin");
        std::fs::create_dir(&programs).unwrap();
        std::os::unix::fs::symlink(support::binary(), programs.join("crus")).unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let mut environment = vec![("PATH", path)];

        let config = match wish.get("cluster", "small") {
            "small" => Some(small()),
            "demo" => Some(ClusterConfig::demo()),
            "none" => None,
            other => return Err(format!("line {}: there is no cluster {other}", wish.line)),
        };
        let speed: f64 = wish.get("speed", "300").parse().map_err(|_| "speed must be a number".to_owned())?;
        let server = config.map(|config| {
            let _runtime = runtime.enter();
            let live = LiveCluster::paced(Cluster::new(config, SEED).shared(), speed);
            runtime.block_on(crus_sim::http::serve(live, ([127, 0, 0, 1], 0).into())).unwrap()
        });
        let mut service = String::new();
        if let Some(server) = &server {
            let (url, address) = (server.url(), server.address().to_string());
            stand_in::write_programs(&programs, &support::binary(), &["slurm-stand-in"], &address).unwrap();
            environment.extend([
                ("SIM", format!("{url}/sim")),
                ("HSM", format!("{url}/hsm/v2")),
                ("BOS", format!("{url}/v2")),
            ]);
            service = OPTIONS.replace("{url}", &url);
        }
        #[cfg(feature = "etcd")]
        let etcd = (wish.get("etcd", "off") == "on" && !crate::support::etcd::left_out())
            .then(|| runtime.block_on(crate::support::etcd::Etcd::start()));
        #[cfg(feature = "etcd")]
        environment.extend(etcd.iter().map(|etcd| ("ETCD", etcd.endpoint())));
        #[cfg(feature = "etcd")]
        let is_left_out = wish.get("etcd", "off") == "on" && etcd.is_none();
        #[cfg(not(feature = "etcd"))]
        let is_left_out = wish.get("etcd", "off") == "on";
        if is_left_out {
            return Ok(None);
        }

        let mut shell = Shell::start(folder.path(), &environment);
        let mut options = format!("SERVICE_ENVIRONMENT=({service})");
        if wish.get("env", "off") == "on" {
            options += "; export \"${SERVICE_ENVIRONMENT[@]}\"";
        }
        assert_eq!(shell.run(&options)?, (String::new(), 0));
        Ok(Some(Site {
            shell,
            folder,
            _runtime: runtime,
            _server: server,
            #[cfg(feature = "etcd")]
            _etcd: etcd,
        }))
    }

    /// A printed line without what is of this run alone and would look odd on a page: our folder is the reader's own.
    pub(crate) fn tidy(&self, line: &str) -> String {
        line.replace(&self.folder.path().display().to_string(), "~").trim_end().to_owned()
    }
}

/// The options of `crus serve` for a cluster that is so fast, as words of bash: each an environment variable.
const OPTIONS: &str = "
    CRUS_LISTEN=127.0.0.1:0 CRUS_STORE=crus.redb CRUS_HSM_URL={url}/hsm/v2 CRUS_BOS_URL={url}/v2
    CRUS_POLL_INTERVAL_S=0.05 CRUS_RETRY_MAX_S=0.3 CRUS_SETTLE_S=1 CRUS_BOOT_TIMEOUT_S=60 CRUS_RETURN_TIMEOUT_S=15
    CRUS_AUTH=off CRUS_BOOT_ESTIMATE_LOW_S=1 CRUS_BOOT_ESTIMATE_HIGH_S=3
";

/// 16 nodes of the demo's: one will not boot, one was drained by an admin.
fn small() -> ClusterConfig {
    let mut config = ClusterConfig::demo();
    config.nodes.retain(|node| node.nid.is_some_and(|nid| SMALL.iter().any(|some| some.contains(&nid))));
    for group in config.groups.values_mut() {
        group.members.retain(|xname| config.nodes.iter().any(|node| node.xname == *xname));
    }
    config
}
