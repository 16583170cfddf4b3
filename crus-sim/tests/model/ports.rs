//! The ports: what the core sees of the model, and what each call costs.

use crus_core::names::BootSessionName;
use crus_core::ports::{
    BootKey, BootNodeState, BootStatus, Bos, Clock, Hsm, Peer, PortError, RebootRequest, Wlm,
};
use crus_sim::cluster::lock;
use crus_sim::cluster::slurm::Update;
use crus_sim::config::{BootBehaviour, GroupSpec};
use crus_sim::ports::SimPorts;

use super::support::{Ask as _, cluster, job, name, steady, with, x};

#[tokio::test]
async fn groups_are_filled_and_emptied_one_request_a_node() {
    let cluster = with(|config| {
        let red =
            GroupSpec { exclusive_group: Some("e".to_owned()), members: vec![x(8)], ..GroupSpec::default() };
        config.groups.insert("red".parse().unwrap(), red.clone());
        config.groups.insert("green".parse().unwrap(), GroupSpec { members: vec![], ..red });
    })
    .shared();
    let ports = SimPorts::new(&cluster);
    let (green, ghost) = ("green".parse().unwrap(), "x9999c0s0b0n0".parse().unwrap());
    let rejected = ports.hsm.add_members(&green, &[x(1), x(8), ghost, x(2)]).await.unwrap();
    let rejected: Vec<_> = rejected.iter().map(|r| (r.xname, r.unknown)).collect();
    assert_eq!(rejected, [(x(8), false), (ghost, true)]);
    assert_eq!(ports.hsm.add_members(&green, &[x(1)]).await, Ok(vec![]), "again is fine");
    assert_eq!(ports.hsm.group(&green).await, Ok(Some([x(1), x(2)].into())));
    ports.hsm.remove_members(&green, &[x(1), x(3)]).await.unwrap();
    assert_eq!(ports.calls.of("hsm.add_members"), 5);
    assert_eq!(ports.calls.to(Peer::Hsm), 5 + 1 + 2);

    let nope = "nope".parse().unwrap();
    assert_eq!(ports.hsm.group(&nope).await, Ok(None));
    assert_eq!(ports.hsm.remove_members(&nope, &[x(1)]).await, Ok(()), "nothing is in it");
    let gone = ports.hsm.add_members(&nope, &[x(1)]).await.unwrap_err();
    assert_eq!(gone, PortError::Refused { peer: Peer::Hsm, detail: "No such group: nope".to_owned() });
    lock(&cluster).set_hsm_down(true);
    assert!(matches!(ports.hsm.group(&green).await, Err(PortError::Unreachable { .. })));
    assert!(ports.hsm.add_members(&green, &[x(1)]).await.unwrap_err().may_have_acted());
    assert!(ports.hsm.facts(&[x(1)]).await.is_err());
    lock(&cluster).set_hsm_down(false);
    let facts = ports.hsm.facts(&[x(1), ghost]).await.unwrap();
    assert_eq!((facts.len(), facts[0].nid, facts[0].role.as_str()), (1, Some(1), "Compute"));
}

#[tokio::test]
async fn a_reboot_asked_for_twice_happens_once_and_tells_of_each_node() {
    let cluster = with(|config| {
        steady(config);
        config.nodes[1].boot = BootBehaviour::Fails;
        config.nodes[2].boot = BootBehaviour::OnHold { error: "unknown".to_owned() };
    })
    .shared();
    let ports = SimPorts::new(&cluster);
    assert_eq!(ports.bos.has_template(&"image".parse().unwrap()).await, Ok(true));
    assert_eq!(ports.bos.has_template(&"nope".parse().unwrap()).await, Ok(false));
    let name: BootSessionName = "s".parse().unwrap();
    let request = RebootRequest {
        name,
        tenant: None,
        template: "image".parse().unwrap(),
        nodes: (1..=3).map(x).collect(),
        before: None,
    };
    let key = BootKey { request, handle: None };
    assert_eq!(ports.bos.session(&key).await, Ok(None));
    let mut request = key.request.clone();
    ports.bos.reboot(&request).await.unwrap();
    ports.bos.reboot(&request).await.unwrap();
    let session = ports.bos.session(&key).await.unwrap().unwrap();
    assert_eq!((session.status, session.members.len()), (BootStatus::Pending, 0));
    lock(&cluster).after(60_000);
    let session = ports.bos.session(&key).await.unwrap().unwrap();
    assert_eq!((session.status, session.members.len()), (BootStatus::Running, 3));
    assert_eq!(session.nodes[0].state, BootNodeState::Working("power_on_called".to_owned()));
    lock(&cluster).after(2 * 3_600_000);
    let session = ports.bos.session(&key).await.unwrap().unwrap();
    assert_eq!(session.status, BootStatus::Complete);
    assert_eq!(session.nodes[0].state, BootNodeState::Succeeded);
    assert!(
        matches!(&session.nodes[1].state, BootNodeState::Failed(why) if why.starts_with("The retry limit"))
    );
    assert_eq!(session.nodes[2].state, BootNodeState::Stopped("unknown".to_owned()));
    assert_eq!(lock(&cluster).cut(), [x(1), x(2)]);

    request.nodes.clear();
    assert!(matches!(ports.bos.reboot(&request).await, Err(PortError::Refused { .. })));
    lock(&cluster).set_bos_down(true);
    assert!(matches!(ports.bos.session(&key).await, Err(PortError::Unreachable { .. })));
    request.nodes.push(x(1));
    assert!(ports.bos.reboot(&request).await.unwrap_err().may_have_acted());
}

#[tokio::test]
async fn each_question_to_slurm_is_one_process_for_all_nodes() {
    let cluster = cluster().shared();
    let ports = SimPorts::new(&cluster);
    let names: Vec<_> = (1..=8).map(name).collect();
    lock(&cluster).submit(job(1, &[1, 2]));
    lock(&cluster).submit(job(2, &[1]));
    assert_eq!(ports.wlm.nodes(&names).await.unwrap().len(), 8);
    assert_eq!(ports.wlm.nodes(&["ghost".parse().unwrap()]).await.unwrap(), []);
    let jobs = ports.wlm.jobs(&names[1..]).await.unwrap();
    assert_eq!(
        (jobs.len(), jobs[0].id.as_str(), jobs[0].end),
        (1, "1", None),
        "one that waits holds nothing"
    );
    assert_eq!(ports.wlm.jobs(&names[2..]).await.unwrap(), []);
    ports.wlm.drain(&names, "a").await.unwrap();
    ports.wlm.set_reason(&names, "b").await.unwrap();
    ports.wlm.down(&names[7..], "c").await.unwrap();
    ports.wlm.resume(&names[6..7]).await.unwrap();
    let seen = ports.wlm.nodes(&names).await.unwrap();
    let states: Vec<_> = seen.iter().map(crus_core::wlm::WlmNode::state).collect();
    assert_eq!(states[0], "ALLOCATED+DRAIN");
    assert_eq!(states[5..], ["IDLE+DRAIN", "IDLE+NOT_RESPONDING", "DOWN+DRAIN"]);
    assert_eq!(seen[0].reason.as_deref(), Some("b"));
    assert_eq!((ports.calls.to(Peer::Wlm), ports.calls.of("wlm.nodes")), (9, 3));
    let refused = ports.wlm.resume(&names[6..7]).await.unwrap_err();
    let detail = "slurm_update error: Invalid node state specified".to_owned();
    assert_eq!(refused, PortError::Refused { peer: Peer::Wlm, detail });
}

#[tokio::test]
async fn a_slurmctld_that_is_down_takes_nine_seconds_to_say_so() {
    let cluster = cluster().shared();
    let ports = SimPorts::new(&cluster);
    let began = ports.clock.now();
    lock(&cluster).stop_slurmctld();
    let error = ports.wlm.nodes(&[name(1)]).await.unwrap_err();
    assert!(
        matches!(&error, PortError::Unreachable { detail, .. } if detail.starts_with("Unable to contact"))
    );
    assert_eq!(ports.clock.now().since(began), 9_000);
    lock(&cluster).start_slurmctld();
    lock(&cluster).set(1, &Update::drain("r"));
    assert!(ports.wlm.nodes(&[name(1)]).await.is_ok());
}

#[tokio::test]
async fn jobs_are_ended_one_call_for_all_and_one_that_is_gone_is_fine() {
    let cluster = cluster().shared();
    let ports = SimPorts::new(&cluster);
    let mut once = job(2, &[2]);
    once.requeue = false;
    for job in [job(1, &[1]), once, job(3, &[3])] {
        assert!(lock(&cluster).submit(job));
    }
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    let refused = ports.wlm.requeue(&ids(&["1", "99", "2", "3"])).await.unwrap_err();
    let detail = "Requested operation is presently disabled for job 2".to_owned();
    assert_eq!(refused, PortError::Refused { peer: Peer::Wlm, detail });
    assert_eq!(ports.wlm.jobs(&[name(1), name(3)]).await.unwrap(), [], "the others were requeued");
    assert_eq!(ports.wlm.cancel(&ids(&["1", "2", "7_1"])).await, Ok(()));
    assert_eq!(lock(&cluster).job_ids(), [3]);
    assert_eq!((ports.calls.of("wlm.requeue"), ports.calls.of("wlm.cancel")), (1, 1));
    lock(&cluster).stop_slurmctld();
    assert!(matches!(ports.wlm.requeue(&ids(&["3"])).await, Err(PortError::Unreachable { .. })));
    assert!(matches!(ports.wlm.partitions(&[]).await, Err(PortError::Unreachable { .. })));
}
