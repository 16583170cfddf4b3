//! A small cluster, and short ways to ask of it.

use crus_core::promises::What;
use crus_core::wlm::WlmNode;
use crus_core::{NodeName, Time, Xname};
use crus_sim::cluster::slurm::Update;
use crus_sim::config::{GroupSpec, NodeSpec, Span, TemplateSpec};
use crus_sim::workload::{JobSpec, Wanted};
use crus_sim::{Cluster, ClusterConfig};

/// Every test's seed: what is asserted must hold for any.
pub(crate) const SEED: u64 = 0x5EED;

pub(crate) fn x(n: u32) -> Xname {
    node(n).xname
}

pub(crate) fn name(n: u32) -> NodeName {
    node(n).name.unwrap()
}

fn node(n: u32) -> NodeSpec {
    ClusterConfig::nodes(n).pop().expect("nodes are counted from 1")
}

/// Eight nodes, no jobs, a group `blue` of the first four, a template `image` that boots it.
pub(crate) fn config() -> ClusterConfig {
    ClusterConfig {
        nodes: ClusterConfig::nodes(8),
        groups: [
            (
                "blue".parse().unwrap(),
                GroupSpec { members: (1..=4).map(x).collect(), ..GroupSpec::default() },
            ),
            ("empty".parse().unwrap(), GroupSpec::default()),
        ]
        .into(),
        templates: [("image".parse().unwrap(), TemplateSpec::of_group("blue"))].into(),
        ..ClusterConfig::default()
    }
}

pub(crate) fn cluster() -> Cluster {
    Cluster::new(config(), SEED)
}

pub(crate) fn with(change: impl FnOnce(&mut ClusterConfig)) -> Cluster {
    let mut config = config();
    change(&mut config);
    Cluster::new(config, SEED)
}

pub(crate) trait Ask {
    fn after(&mut self, ms: u64);
    fn seen(&self, n: u32) -> WlmNode;
    fn state(&self, n: u32) -> String;
    fn reason(&self, n: u32) -> String;
    fn set(&mut self, n: u32, update: &Update);
    fn run(&mut self, id: u32, nodes: &[u32]);
    fn job_ids(&self) -> Vec<u32>;
    /// Waits until this is so, and tells how long that took.
    fn until(&mut self, what: &str, limit_ms: u64, so: impl Fn(&Cluster) -> bool) -> u64;
    fn killed(&self) -> Vec<String>;
    fn cut(&self) -> Vec<Xname>;
}

impl Ask for Cluster {
    fn after(&mut self, ms: u64) {
        self.advance_to(self.now() + ms);
    }

    fn seen(&self, n: u32) -> WlmNode {
        let shown = self.show_nodes(&[name(n)]).expect("slurmctld is up");
        shown.nodes.into_iter().next().expect("Slurm knows the node").into()
    }

    fn state(&self, n: u32) -> String {
        self.seen(n).state()
    }

    fn reason(&self, n: u32) -> String {
        self.seen(n).reason.unwrap_or_default()
    }

    fn set(&mut self, n: u32, update: &Update) {
        assert_eq!(Cluster::update(self, &[name(n)], update), Ok(()));
    }

    fn run(&mut self, id: u32, nodes: &[u32]) {
        assert!(self.submit(job(id, nodes)));
        assert!(self.job_ids().contains(&id));
    }

    fn job_ids(&self) -> Vec<u32> {
        self.jobs().expect("slurmctld is up").iter().map(|job| job.id).collect()
    }

    fn until(&mut self, what: &str, limit_ms: u64, so: impl Fn(&Cluster) -> bool) -> u64 {
        let began: Time = self.now();
        while !so(self) {
            assert!(self.now().since(began) <= limit_ms, "{what}: not so after {limit_ms} ms");
            self.after(100);
        }
        self.now().since(began)
    }

    fn killed(&self) -> Vec<String> {
        let killed = self.facts().iter().filter_map(|fact| match &fact.what {
            What::JobKilled { job, .. } => Some(job.clone()),
            _ => None,
        });
        killed.collect()
    }

    fn cut(&self) -> Vec<Xname> {
        let cut = self.facts().iter().filter_map(|fact| match &fact.what {
            What::PowerCut { xname, .. } => Some(*xname),
            _ => None,
        });
        cut.collect()
    }
}

/// A job without an end on all processors of these nodes.
pub(crate) fn job(id: u32, nodes: &[u32]) -> JobSpec {
    JobSpec {
        id,
        user: "ada".to_owned(),
        wanted: Wanted::Nodes(nodes.iter().map(|&n| name(n)).collect()),
        cpus: None,
        start_ms: 0,
        duration_ms: None,
        limit_ms: None,
        partition: None,
        requeue: true,
    }
}

/// Boots that take two minutes to the millisecond.
pub(crate) fn steady(config: &mut ClusterConfig) {
    config.bos.pending = Span::exactly(2_000);
    config.bos.setup = Span::exactly(0);
    config.bos.power_off_call = Span::exactly(1_000);
    config.bos.power_off = Span::exactly(10_000);
    config.bos.power_on_call = Span::exactly(1_000);
    config.bos.boot = Span::exactly(120_000);
    config.bos.configure = Span::exactly(30_000);
    config.slurm.register = Span::exactly(2_000);
}
