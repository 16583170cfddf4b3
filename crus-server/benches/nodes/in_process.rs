//! The driver, the machine and the store's encoding in this process, on one thread, so that the CPU that they take can
//! be told from that of the simulated peers.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use crus_core::boots::BootIds;
use crus_core::driver::{Driver, Next, Ports};
use crus_core::names::BootHandle;
use crus_core::ports::{
    BootKey, BootSession, Bos, Clock as _, Hsm, NodeFacts, PortError, RebootRequest, Rejected,
    SessionStore as _, TemplateKey, Wlm,
};
use crus_core::wlm::{Job, Partition, WlmNode};
use crus_core::{GroupLabel, Limits, NodeName, PartitionName, Session, Spec, UpgradeId, Xname};
use crus_sim::cluster;
use crus_sim::ports::SimPorts;
use crus_sim::store::MemoryStore;

/// Runs so many steps, and reports.
pub(crate) fn run(nodes: u32, step_size: u32, steps: u32) {
    let cluster = super::cluster(nodes).shared();
    let sim = SimPorts::new(&cluster);
    let spent = Spent::default();
    let store = Arc::new(MemoryStore::default());
    let ports = Ports {
        hsm: Arc::new(Metered { port: sim.hsm.clone(), spent: spent.clone() }),
        bos: Arc::new(Metered { port: sim.bos.clone(), spent: spent.clone() }),
        wlm: Arc::new(Metered { port: sim.wlm.clone(), spent: spent.clone() }),
        store: store.clone(),
        clock: Arc::new(sim.clock.clone()),
        checks: Arc::new(()),
        observer: Arc::new(()),
    };
    let spec = Spec {
        starting: "slurm-nodes".parse().unwrap(),
        upgrading: "upgrading-nodes".parse().unwrap(),
        failed: "failed-nodes".parse().unwrap(),
        step_size: step_size.try_into().unwrap(),
        template: "new-image".parse().unwrap(),
        tenant: None,
        strategy: crus_core::Strategy::default(),
    };
    let id = UpgradeId(uuid::Uuid::from_u128(1));
    let session = Session::new(id, spec, "1", Limits::default(), sim.clock.now());
    let revision = at_once(store.create(&session)).unwrap();
    at_once(store.own(id)).unwrap();
    let mut driver = Driver::new(session, revision, ports);

    println!("{nodes} nodes in steps of {step_size}, CPU beyond what the peers take (limit: 50 ms a step):");
    println!("{:<10}{:>10}{:>10}{:>10}{:>10}{:>12}", "", "CPU ms", "rounds", "worst ms", "parts", "bytes");
    let mut step = (false, 0);
    let mut row = Row::default();
    let mut before = store.written();
    loop {
        let (begun, peers) = (cpu_ns(), spent.ns());
        let next = at_once(driver.advance()).unwrap();
        let ours = (cpu_ns() - begun) - (spent.ns() - peers);
        row.ns += ours;
        row.rounds += 1;
        row.worst = row.worst.max(ours);
        let now = (!driver.session().nodes.is_empty(), driver.session().head.step);
        if now != step {
            let name = if step.0 { format!("step {}", step.1) } else { "freeze".to_owned() };
            let written = store.written();
            println!(
                "{:<10}{:>10.1}{:>10}{:>10.2}{:>10}{:>12}",
                name,
                row.ns as f64 / 1e6,
                row.rounds,
                row.worst as f64 / 1e6,
                written.parts - before.parts,
                written.bytes - before.bytes,
            );
            (step, row, before) = (now, Row::default(), written);
        }
        if step.1 == steps && next != Next::Now {
            break;
        }
        match next {
            Next::Now => {}
            Next::At(time) => cluster::lock(&cluster).advance_to(time),
            Next::Finished | Next::Removed => break,
        }
    }
    driver.order_deletion(None);
    let (begun, peers, before) = (cpu_ns(), spent.ns(), store.written());
    at_once(driver.advance()).unwrap();
    let (ns, written) = (cpu_ns() - begun - (spent.ns() - peers), store.written());
    println!(
        "{:<10}{:>10.1}{:>30}{:>12}\n",
        "deletion",
        ns as f64 / 1e6,
        written.parts - before.parts,
        written.bytes - before.bytes
    );
}

#[derive(Default)]
struct Row {
    ns: u64,
    rounds: u64,
    worst: u64,
}

fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("everything in-process answers at once"),
    }
}

/// The CPU time that the peers took.
#[derive(Clone, Default)]
struct Spent(Arc<AtomicU64>);

impl Spent {
    fn ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    async fn of<T>(&self, call: impl Future<Output = T>) -> T {
        let begun = cpu_ns();
        let result = call.await;
        self.0.fetch_add(cpu_ns() - begun, Ordering::Relaxed);
        result
    }
}

/// A port whose CPU time is counted.
struct Metered<P> {
    port: P,
    spent: Spent,
}

#[async_trait]
impl<P: Hsm> Hsm for Metered<P> {
    async fn group(&self, label: &GroupLabel) -> Result<Option<BTreeSet<Xname>>, PortError> {
        self.spent.of(self.port.group(label)).await
    }
    async fn add_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<Vec<Rejected>, PortError> {
        self.spent.of(self.port.add_members(label, nodes)).await
    }
    async fn remove_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<(), PortError> {
        self.spent.of(self.port.remove_members(label, nodes)).await
    }
    async fn facts(&self, nodes: &[Xname]) -> Result<Vec<NodeFacts>, PortError> {
        self.spent.of(self.port.facts(nodes)).await
    }
}

#[async_trait]
impl<P: Bos> Bos for Metered<P> {
    async fn has_template(&self, template: &TemplateKey) -> Result<bool, PortError> {
        self.spent.of(self.port.has_template(template)).await
    }
    async fn boot_ids(&self) -> Result<BootIds, PortError> {
        self.spent.of(self.port.boot_ids()).await
    }
    async fn reboot(&self, request: &RebootRequest) -> Result<Option<BootHandle>, PortError> {
        self.spent.of(self.port.reboot(request)).await
    }
    async fn session(&self, key: &BootKey) -> Result<Option<BootSession>, PortError> {
        self.spent.of(self.port.session(key)).await
    }
}

#[async_trait]
impl<P: Wlm> Wlm for Metered<P> {
    async fn nodes(&self, names: &[NodeName]) -> Result<Vec<WlmNode>, PortError> {
        self.spent.of(self.port.nodes(names)).await
    }
    async fn jobs(&self, names: &[NodeName]) -> Result<Vec<Job>, PortError> {
        self.spent.of(self.port.jobs(names)).await
    }
    async fn drain(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.spent.of(self.port.drain(names, reason)).await
    }
    async fn resume(&self, names: &[NodeName]) -> Result<(), PortError> {
        self.spent.of(self.port.resume(names)).await
    }
    async fn down(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.spent.of(self.port.down(names, reason)).await
    }
    async fn set_reason(&self, names: &[NodeName], reason: &str) -> Result<(), PortError> {
        self.spent.of(self.port.set_reason(names, reason)).await
    }
    async fn partitions(&self, names: &[PartitionName]) -> Result<Vec<Partition>, PortError> {
        self.spent.of(self.port.partitions(names)).await
    }
    async fn requeue(&self, jobs: &[String]) -> Result<(), PortError> {
        self.spent.of(self.port.requeue(jobs)).await
    }
    async fn cancel(&self, jobs: &[String]) -> Result<(), PortError> {
        self.spent.of(self.port.cancel(jobs)).await
    }
}
