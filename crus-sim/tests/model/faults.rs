//! The decorators: each fault does what it says, by script or by chance.

use crus_core::ports::{BootKey, Bos, Hsm, Peer, PortError, RebootRequest, Wlm};
use crus_sim::SharedCluster;
use crus_sim::cluster::lock;
use crus_sim::cluster::slurm::Update;
use crus_sim::faults::{Fault, Faulty, Plan};
use crus_sim::ports::{SimBos, SimHsm, SimPorts, SimWlm};

use super::support::{Ask as _, cluster, job, name, with, x};

fn wlm(plan: Plan) -> (SharedCluster, Faulty<SimWlm>, SimPorts) {
    let cluster = cluster().shared();
    let ports = SimPorts::new(&cluster);
    let faulty = Faulty::new(ports.wlm.clone(), &cluster, plan);
    (cluster, faulty, ports)
}

#[tokio::test]
async fn a_refused_and_an_unreachable_call_do_nothing() {
    let plan = Plan::none().at("drain", 1, Fault::Refused).at("drain", 2, Fault::Unreachable);
    let (cluster, faulty, ports) = wlm(plan);
    assert!(matches!(faulty.drain(&[name(1)], "r").await, Err(PortError::Refused { .. })));
    assert!(matches!(faulty.drain(&[name(1)], "r").await, Err(PortError::Unreachable { .. })));
    assert_eq!((lock(&cluster).state(1).as_str(), ports.calls.of("wlm.drain")), ("IDLE", 0));
    faulty.drain(&[name(1)], "r").await.unwrap();
    assert_eq!(lock(&cluster).state(1), "IDLE+DRAIN");
    let injected: Vec<_> = faulty.injected().iter().map(|i| (i.method, i.nth)).collect();
    assert_eq!(injected, [("drain", 1), ("drain", 2)]);
}

#[tokio::test]
async fn a_lost_reply_leaves_the_deed_done() {
    let (cluster, faulty, _) = wlm(Plan::none().at("drain", 1, Fault::ReplyLost));
    assert!(faulty.drain(&[name(1)], "r").await.unwrap_err().may_have_acted());
    assert_eq!(lock(&cluster).state(1), "IDLE+DRAIN");
}

#[tokio::test]
async fn a_slow_call_takes_virtual_time() {
    let (cluster, faulty, _) = wlm(Plan::none().at("nodes", 1, Fault::Slow { ms: 30_001 }));
    let began = lock(&cluster).now();
    faulty.nodes(&[name(1)]).await.unwrap();
    assert_eq!(lock(&cluster).now().since(began), 30_001);
}

#[tokio::test]
async fn a_stale_answer_is_the_one_from_before() {
    let plan =
        Plan::none().at("nodes", 2, Fault::Stale).at("jobs", 2, Fault::Stale).at("nodes", 3, Fault::Stale);
    let (cluster, faulty, _) = wlm(plan);
    let names = [name(1), name(2)];
    lock(&cluster).run(1, &[1, 2]);
    let nodes = faulty.nodes(&names).await.unwrap();
    let jobs = faulty.jobs(&names).await.unwrap();
    lock(&cluster).end_job(1);
    lock(&cluster).set(1, &Update::drain("r"));
    assert_eq!(faulty.nodes(&names).await.unwrap(), nodes);
    assert_eq!(faulty.jobs(&names).await.unwrap(), jobs);
    assert_eq!(
        faulty.nodes(&[name(1), name(3)]).await.unwrap()[0].state(),
        "IDLE+DRAIN",
        "never seen together"
    );
    assert_eq!(faulty.jobs(&names).await.unwrap(), []);
}

#[tokio::test]
async fn what_was_before_a_change_of_ones_own_is_not_said_again() {
    let cluster = with(super::support::steady).shared();
    let ports = SimPorts::new(&cluster);
    let plan = || Plan::none().at("group", 2, Fault::Stale).at("nodes", 2, Fault::Stale);
    let hsm: Faulty<SimHsm> = Faulty::new(ports.hsm.clone(), &cluster, plan());
    let wlm: Faulty<SimWlm> = Faulty::new(ports.wlm.clone(), &cluster, plan());
    let blue = "blue".parse().unwrap();
    let before = hsm.group(&blue).await.unwrap().unwrap();
    hsm.remove_members(&blue, &[x(1)]).await.unwrap();
    assert_eq!(hsm.group(&blue).await.unwrap().unwrap().len(), before.len() - 1);
    wlm.nodes(&[name(1)]).await.unwrap();
    wlm.drain(&[name(1)], "r").await.unwrap();
    assert!(wlm.nodes(&[name(1)]).await.unwrap()[0].is_held());
}

#[tokio::test]
async fn stale_answers_of_hsm_and_bos() {
    let cluster = with(super::support::steady).shared();
    let ports = SimPorts::new(&cluster);
    let plan = || {
        Plan::none().at("group", 2, Fault::Stale).at("facts", 2, Fault::Stale).at("session", 2, Fault::Stale)
    };
    let hsm: Faulty<SimHsm> = Faulty::new(ports.hsm.clone(), &cluster, plan());
    let bos: Faulty<SimBos> = Faulty::new(ports.bos.clone(), &cluster, plan());
    let blue = "blue".parse().unwrap();
    let request = RebootRequest {
        name: "s".parse().unwrap(),
        tenant: None,
        template: "image".parse().unwrap(),
        nodes: vec![x(2)],
        before: None,
    };
    let s = BootKey { request: request.clone(), handle: None };
    let before = hsm.group(&blue).await.unwrap();
    let facts = hsm.facts(&[x(1)]).await.unwrap();
    assert_eq!(bos.session(&s).await, Ok(None));
    ports.hsm.remove_members(&blue, &[x(1)]).await.unwrap();
    lock(&cluster).set_locked(x(1), true).unwrap();
    ports.bos.reboot(&request).await.unwrap();
    assert_eq!(hsm.group(&blue).await.unwrap(), before);
    assert_eq!(hsm.facts(&[x(1)]).await.unwrap(), facts);
    assert_eq!(bos.session(&s).await, Ok(None));
    assert_ne!(hsm.group(&blue).await.unwrap(), before);
    assert!(hsm.facts(&[x(1)]).await.unwrap()[0].locked);
    assert!(bos.session(&s).await.unwrap().is_some());
}

#[tokio::test]
async fn a_restarted_slurmctld_is_away_and_then_has_forgotten_its_nodes() {
    let (cluster, faulty, _) = wlm(Plan::none().at("nodes", 1, Fault::Restarted { ms: 20_000 }));
    lock(&cluster).submit(job(1, &[1]));
    assert!(matches!(faulty.nodes(&[name(1)]).await, Err(PortError::Unreachable { .. })));
    assert!(faulty.jobs(&[name(1)]).await.is_err(), "nobody is there for other calls either");
    lock(&cluster).after(20_000);
    let seen = faulty.nodes(&[name(1), name(2)]).await.unwrap();
    assert_eq!(
        (seen[0].cpus_allocated, seen[0].boot_time, seen[1].state().as_str()),
        (Some(64), None, "UNKNOWN")
    );
    lock(&cluster).after(5_000);
    assert!(faulty.nodes(&[name(2)]).await.unwrap()[0].is_in_service());
}

#[tokio::test]
async fn a_restarted_bos_is_away_for_a_while() {
    let cluster = cluster().shared();
    let ports = SimPorts::new(&cluster);
    let plan = Plan::none().at("has_template", 1, Fault::Restarted { ms: 5_000 });
    let bos = Faulty::new(ports.bos, &cluster, plan);
    let image = "image".parse().unwrap();
    assert_eq!(bos.has_template(&image).await.unwrap_err().peer(), Peer::Bos);
    assert!(bos.has_template(&image).await.is_err());
    lock(&cluster).after(5_000);
    assert_eq!(bos.has_template(&image).await, Ok(true));
}

#[tokio::test]
async fn chance_follows_the_seed() {
    async fn outcome(seed: u64) -> Vec<(u64, Fault)> {
        let plan = Plan::random(seed, 300, &[Fault::Refused, Fault::ReplyLost, Fault::Slow { ms: 10 }]);
        let (_, faulty, _) = wlm(plan);
        for _ in 0..100 {
            // Whether it works is what is drawn.
            drop(faulty.drain(&[name(1)], "r").await);
        }
        faulty.injected().iter().map(|i| (i.nth, i.fault)).collect()
    }
    let first = outcome(1).await;
    assert!((15..=45).contains(&first.len()), "{} of 100", first.len());
    assert_eq!(first, outcome(1).await);
    assert_ne!(first, outcome(2).await);
}

#[tokio::test]
async fn partitions_may_be_told_as_they_were_but_for_what_one_did_oneself() {
    let plan = Plan::none().at("partitions", 2, Fault::Stale).at("partitions", 3, Fault::Stale);
    let (cluster, faulty, _) = wlm(plan);
    let asked = ["batch".parse().unwrap(), "nope".parse().unwrap()];
    let before = faulty.partitions(&asked).await.unwrap();
    assert_eq!((before.len(), before[0].in_service.len()), (1, 8));
    lock(&cluster).set(1, &Update::drain("r"));
    assert_eq!(faulty.partitions(&asked).await.unwrap(), before);
    faulty.drain(&[name(2)], "r").await.unwrap();
    assert_eq!(faulty.partitions(&asked).await.unwrap()[0].in_service.len(), 6);
}
