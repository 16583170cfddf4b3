//! The clients of HSM and BOS against the simulated ones over HTTP, which answer as the real ones were seen to.

use std::collections::BTreeSet;

use crus_clients::bos::BosClient;
use crus_clients::hsm::HsmClient;
use crus_clients::http::PeerConfig;
use crus_core::names::BootSessionName;
use crus_core::ports::{
    BootKey, BootNodeState, BootSession, BootStatus, Bos, Hsm, Peer, PortError, RebootRequest, Rejected,
    TemplateKey,
};
use crus_core::{GroupLabel, Xname};
use crus_sim::config::{BootBehaviour, BosConfig, GroupSpec, NodeSpec, Span, TemplateSpec};
use crus_sim::http::{LiveCluster, Server, serve};
use crus_sim::{Cluster, ClusterConfig};

/// A simulated cluster, served on the loopback in a time that only moves when told to, and the clients to it.
struct Site {
    server: Server,
    hsm: HsmClient,
    bos: BosClient,
}

impl Site {
    /// `count` nodes, changed as wanted, all in the group `all`, which the template `new-image` boots. The groups
    /// `red` and `blue` exclude each other, `upgrading` excludes none. Each phase of a boot takes a second.
    async fn new(count: u32, change: impl FnOnce(&mut [NodeSpec])) -> Site {
        let mut nodes: Vec<NodeSpec> = (1..=count).map(|nid| NodeSpec::new(xname(nid), nid)).collect();
        change(&mut nodes);
        let second = Span::exactly(1_000);
        let all = GroupSpec { members: nodes.iter().map(|node| node.xname).collect(), ..Default::default() };
        let colour = GroupSpec { exclusive_group: Some("colours".to_owned()), ..Default::default() };
        let groups =
            [("all", all), ("upgrading", GroupSpec::default()), ("red", colour.clone()), ("blue", colour)];
        let broken = TemplateSpec { broken: Some("no kernel".to_owned()), ..TemplateSpec::of_group("all") };
        let templates = [("new-image", TemplateSpec::of_group("all")), ("broken", broken)];
        let config = ClusterConfig {
            nodes,
            groups: groups.map(|(name, group)| (label(name), group)).into(),
            templates: templates.map(|(name, template)| (name.parse().unwrap(), template)).into(),
            bos: BosConfig {
                pending: second,
                setup: Span::exactly(0),
                power_off_call: second,
                power_off: second,
                power_on_call: second,
                boot: second,
                configure: second,
                attempts: 1,
                attempt_ms: 20_000,
                ..Default::default()
            },
            ..Default::default()
        };
        let live = LiveCluster::new(Cluster::new(config, 1).shared());
        let server = serve(live, ([127, 0, 0, 1], 0).into()).await.unwrap();
        // As behind the gateway of a real system.
        let hsm = HsmClient::new(peer(&server, "/apis/smd/hsm/v2")).unwrap();
        let bos = BosClient::new(peer(&server, "/apis/bos/v2")).unwrap();
        Site { server, hsm, bos }
    }

    fn live(&self) -> &LiveCluster {
        self.server.live()
    }

    fn calls(&self, call: &str) -> u64 {
        self.live().calls().get(call).copied().unwrap_or_default()
    }

    async fn reboot(&self, session: &str, nids: &[u32]) {
        self.bos.reboot(&request(session, "new-image", nids)).await.unwrap();
    }

    async fn session(&self, session: &str) -> BootSession {
        self.bos.session(&key(session)).await.unwrap().unwrap()
    }
}

fn peer(server: &Server, path: &str) -> PeerConfig {
    PeerConfig::new(format!("{}{path}", server.url()).parse().unwrap())
}

fn xname(nid: u32) -> Xname {
    Xname::new(&format!("x1000c{}s{}b0n0", nid / 64, nid % 64)).unwrap()
}

fn xnames(nids: &[u32]) -> Vec<Xname> {
    nids.iter().map(|nid| xname(*nid)).collect()
}

fn set(nids: &[u32]) -> BTreeSet<Xname> {
    nids.iter().map(|nid| xname(*nid)).collect()
}

fn label(text: &str) -> GroupLabel {
    text.parse().unwrap()
}

fn name(text: &str) -> BootSessionName {
    text.parse().unwrap()
}

fn request(session: &str, template: &str, nids: &[u32]) -> RebootRequest {
    RebootRequest {
        name: name(session),
        tenant: None,
        template: template.parse().unwrap(),
        nodes: xnames(nids),
        before: None,
    }
}

fn key(session: &str) -> BootKey {
    BootKey { request: request(session, "new-image", &[]), handle: None }
}

fn states(session: &BootSession) -> Vec<(Xname, BootNodeState)> {
    let mut states: Vec<_> = session.nodes.iter().map(|node| (node.xname, node.state.clone())).collect();
    states.sort_by_key(|(xname, _)| *xname);
    states
}

fn refused(peer: Peer, detail: &str) -> PortError {
    PortError::Refused { peer, detail: detail.to_owned() }
}

mod hsm {
    use super::*;

    #[tokio::test]
    async fn a_group_is_its_nodes_or_missing() {
        let site = Site::new(3, |_| {}).await;
        assert_eq!(site.hsm.group(&label("ALL")).await, Ok(Some(set(&[1, 2, 3]))));
        assert_eq!(site.hsm.group(&label("upgrading")).await, Ok(Some(BTreeSet::new())));
        assert_eq!(site.hsm.group(&label("none")).await, Ok(None));
    }

    #[tokio::test]
    async fn a_wrong_base_url_is_no_missing_group() {
        let site = Site::new(1, |_| {}).await;
        let hsm = HsmClient::new(peer(&site.server, "/apis/smd/hsm/v2/groups")).unwrap();
        let error = hsm.group(&label("all")).await.unwrap_err();
        assert_eq!(error, refused(Peer::Hsm, "404 Not Found: the base URL may be wrong"));
        assert!(hsm.remove_members(&label("all"), &[xname(1)]).await.is_err());
    }

    #[tokio::test]
    async fn members_come_and_go_and_repeating_is_harmless() {
        let site = Site::new(20, |_| {}).await;
        let nodes = xnames(&(1..=20).collect::<Vec<_>>());
        for _ in 0..2 {
            assert_eq!(site.hsm.add_members(&label("upgrading"), &nodes).await, Ok(vec![]));
            assert_eq!(site.hsm.group(&label("upgrading")).await, Ok(Some(nodes.iter().copied().collect())));
        }
        for _ in 0..2 {
            assert_eq!(site.hsm.remove_members(&label("upgrading"), &nodes[1..]).await, Ok(()));
            assert_eq!(site.hsm.group(&label("upgrading")).await, Ok(Some(set(&[1]))));
        }
    }

    #[tokio::test]
    async fn a_node_that_another_exclusive_group_has_is_rejected_and_the_others_taken() {
        let site = Site::new(3, |_| {}).await;
        site.hsm.add_members(&label("red"), &[xname(2)]).await.unwrap();
        let rejected = site.hsm.add_members(&label("blue"), &xnames(&[1, 2, 3])).await.unwrap();
        let detail = "operation would conflict with an existing member in another exclusive group.";
        assert_eq!(rejected, [Rejected { xname: xname(2), detail: detail.to_owned(), unknown: false }]);
        assert_eq!(site.hsm.group(&label("blue")).await, Ok(Some(set(&[1, 3]))));
    }

    #[tokio::test]
    async fn a_node_that_hsm_does_not_know_is_rejected_and_the_others_taken() {
        let site = Site::new(2, |_| {}).await;
        let rejected = site.hsm.add_members(&label("upgrading"), &xnames(&[1, 9, 2])).await.unwrap();
        let detail = "linked component does not exist".to_owned();
        assert_eq!(rejected, [Rejected { xname: xname(9), detail, unknown: true }]);
        assert_eq!(site.hsm.group(&label("upgrading")).await, Ok(Some(set(&[1, 2]))));
    }

    #[tokio::test]
    async fn a_group_that_is_gone_takes_no_members_and_has_none_to_remove() {
        let site = Site::new(1, |_| {}).await;
        let error = site.hsm.add_members(&label("none"), &[xname(1)]).await.unwrap_err();
        assert_eq!(error, refused(Peer::Hsm, "No such group: none"));
        assert_eq!(site.hsm.remove_members(&label("none"), &[xname(1)]).await, Ok(()));
    }

    #[tokio::test]
    async fn facts_are_what_hsm_holds_of_the_nodes_it_knows() {
        let site = Site::new(4, |nodes| {
            nodes[0].locked = true;
            nodes[1].enabled = false;
            nodes[1].nid = None;
            nodes[2].arch = "ARM".to_owned();
            nodes[2].role = "Application".to_owned();
        })
        .await;
        let mut facts = site.hsm.facts(&xnames(&[1, 2, 3, 9])).await.unwrap();
        facts.sort_by_key(|facts| facts.xname);
        assert_eq!(facts.iter().map(|f| f.xname).collect::<Vec<_>>(), xnames(&[1, 2, 3]));
        assert_eq!(facts.iter().map(|f| f.nid).collect::<Vec<_>>(), [Some(1), None, Some(3)]);
        assert_eq!(facts.iter().map(|f| f.locked).collect::<Vec<_>>(), [true, false, false]);
        assert_eq!(facts.iter().map(|f| f.enabled).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(facts.iter().map(|f| f.arch.as_str()).collect::<Vec<_>>(), ["X86", "X86", "ARM"]);
        let roles = facts.iter().map(|f| f.role.as_str()).collect::<Vec<_>>();
        assert_eq!(roles, ["Compute", "Compute", "Application"]);
    }

    #[tokio::test]
    async fn facts_about_many_nodes_are_asked_for_in_parts() {
        let site = Site::new(1500, |_| {}).await;
        let facts = site.hsm.facts(&xnames(&(1..=1500).collect::<Vec<_>>())).await.unwrap();
        assert_eq!(facts.len(), 1500);
        assert_eq!(site.calls("POST /hsm/v2/State/Components/Query"), 2);
    }

    #[tokio::test]
    async fn without_its_database_reads_got_nothing_and_writes_may_have_acted() {
        let site = Site::new(1, |_| {}).await;
        site.live().with(|cluster| cluster.set_hsm_down(true));
        let unreachable =
            PortError::Unreachable { peer: Peer::Hsm, detail: "failed to query DB. (500)".into() };
        assert_eq!(site.hsm.group(&label("all")).await, Err(unreachable.clone()));
        assert_eq!(site.hsm.facts(&[xname(1)]).await, Err(unreachable));
        assert!(site.hsm.add_members(&label("red"), &[xname(1)]).await.unwrap_err().may_have_acted());
        assert!(site.hsm.remove_members(&label("all"), &[xname(1)]).await.unwrap_err().may_have_acted());
        site.live().with(|cluster| cluster.set_hsm_down(false));
        assert_eq!(site.hsm.group(&label("all")).await, Ok(Some(set(&[1]))));
    }
}

mod bos {
    use super::*;

    #[tokio::test]
    async fn a_template_is_there_or_missing() {
        let site = Site::new(1, |_| {}).await;
        assert_eq!(site.bos.has_template(&"new-image".parse().unwrap()).await, Ok(true));
        assert_eq!(site.bos.has_template(&"old-image".parse().unwrap()).await, Ok(false));
    }

    #[tokio::test]
    async fn a_wrong_base_url_is_neither_a_missing_template_nor_a_missing_session() {
        let site = Site::new(1, |_| {}).await;
        for path in ["/apis/bos/v1", "/apis/bos/v2/v2"] {
            let bos = BosClient::new(peer(&site.server, path)).unwrap();
            for error in [
                bos.has_template(&"new-image".parse().unwrap()).await.unwrap_err(),
                bos.session(&key("crus-1")).await.unwrap_err(),
            ] {
                assert!(matches!(error, PortError::Refused { .. }), "{error:?}");
                let told = ["the base URL may be wrong", "set bos_api to v1"];
                assert!(told.iter().any(|told| error.to_string().contains(told)), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn a_session_goes_from_pending_through_running_to_complete_with_all_nodes_booted() {
        let site = Site::new(3, |_| {}).await;
        assert_eq!(site.bos.session(&key("crus-1")).await, Ok(None));
        site.reboot("crus-1", &[1, 2]).await;
        let pending = site.session("crus-1").await;
        assert_eq!((pending.status, pending.members.len()), (BootStatus::Pending, 0));
        assert_eq!(pending.nodes, []);

        site.live().advance(2_500);
        let running = site.session("crus-1").await;
        assert_eq!((running.status, &running.members), (BootStatus::Running, &set(&[1, 2])));
        let off = BootNodeState::Working("power_off_gracefully_called".to_owned());
        assert_eq!(states(&running), [(xname(1), off.clone()), (xname(2), off)]);

        site.live().advance(60_000);
        let complete = site.session("crus-1").await;
        assert_eq!((complete.status, complete.error.as_deref()), (BootStatus::Complete, None));
        let done = BootNodeState::Succeeded;
        assert_eq!(states(&complete), [(xname(1), done.clone()), (xname(2), done)]);
    }

    /// P3: asking again under the same name reboots nothing.
    #[tokio::test]
    async fn a_session_of_the_same_name_is_the_one_asked_for() {
        let site = Site::new(2, |_| {}).await;
        site.reboot("crus-1", &[1]).await;
        site.live().advance(60_000);
        site.reboot("crus-1", &[1, 2]).await;
        site.live().advance(60_000);
        assert_eq!(site.session("crus-1").await.members, set(&[1]));
        let boots = site.live().with(|cluster| cluster.boot_sessions().unwrap().len());
        assert_eq!(boots, 1);
    }

    #[tokio::test]
    async fn unknown_and_broken_templates_are_refused() {
        let site = Site::new(1, |_| {}).await;
        let unknown = site.bos.reboot(&request("crus-1", "old-image", &[1])).await;
        assert_eq!(unknown, Err(refused(Peer::Bos, "Session Template Name invalid: old-image (400)")));
        let broken = site.bos.reboot(&request("crus-1", "broken", &[1])).await;
        assert_eq!(broken, Err(refused(Peer::Bos, "Session template fails check: no kernel (400)")));
        assert_eq!(site.bos.session(&key("crus-1")).await, Ok(None));
    }

    /// P5: a node that BOS left out is missing among the members.
    #[tokio::test]
    async fn nodes_that_bos_leaves_out_are_not_among_the_members() {
        let site = Site::new(5, |nodes| {
            nodes[1].locked = true;
            nodes[2].enabled = false;
            nodes[3].arch = "ARM".to_owned();
        })
        .await;
        site.reboot("crus-1", &[1, 2, 3, 4, 9]).await;
        site.live().advance(60_000);
        let session = site.session("crus-1").await;
        assert_eq!((session.status, &session.members), (BootStatus::Complete, &set(&[1])));
        assert_eq!(states(&session), [(xname(1), BootNodeState::Succeeded)]);
    }

    #[tokio::test]
    async fn a_session_without_nodes_says_so() {
        let site = Site::new(1, |nodes| nodes[0].locked = true).await;
        site.reboot("crus-1", &[1]).await;
        site.live().advance(60_000);
        let session = site.session("crus-1").await;
        assert_eq!(session.status, BootStatus::Complete);
        assert_eq!(session.error.as_deref(), Some("No nodes were found to act upon."));
        assert_eq!((session.members.len(), session.nodes.len()), (0, 0));
    }

    #[tokio::test]
    async fn nodes_that_fail_or_are_on_hold_say_why_in_a_session_that_is_merely_complete() {
        let site = Site::new(3, |nodes| {
            nodes[1].boot = BootBehaviour::Fails;
            nodes[2].boot = BootBehaviour::OnHold { error: "PCS does not know it".to_owned() };
        })
        .await;
        site.reboot("crus-1", &[1, 2, 3]).await;
        site.live().advance(120_000);
        let session = site.session("crus-1").await;
        assert_eq!((session.status, session.error.as_deref()), (BootStatus::Complete, None));
        let spent =
            "The retry limit has been hit for this component, but no services have reported specific errors";
        assert_eq!(
            states(&session),
            [
                (xname(1), BootNodeState::Succeeded),
                (xname(2), BootNodeState::Failed(spent.to_owned())),
                (xname(3), BootNodeState::Stopped("PCS does not know it".to_owned())),
            ]
        );
    }

    #[tokio::test]
    async fn a_node_disabled_by_hand_is_stopped_not_booted() {
        let site = Site::new(1, |_| {}).await;
        site.reboot("crus-1", &[1]).await;
        site.live().advance(2_500);
        site.live().with(|cluster| cluster.enable_boot_component(xname(1), false)).unwrap();
        site.live().advance(60_000);
        let session = site.session("crus-1").await;
        assert_eq!(session.status, BootStatus::Complete);
        let why = "disabled in BOS while it was booting".to_owned();
        assert_eq!(states(&session), [(xname(1), BootNodeState::Stopped(why))]);
    }

    #[tokio::test]
    async fn a_node_that_a_newer_session_took_is_a_member_and_no_longer_owned() {
        let site = Site::new(2, |_| {}).await;
        site.reboot("crus-1", &[1, 2]).await;
        site.live().advance(2_500);
        site.reboot("crus-2", &[2]).await;
        site.live().advance(120_000);
        let session = site.session("crus-1").await;
        assert_eq!((session.status, &session.members), (BootStatus::Complete, &set(&[1, 2])));
        assert_eq!(states(&session), [(xname(1), BootNodeState::Succeeded)]);
        assert_eq!(states(&site.session("crus-2").await), [(xname(2), BootNodeState::Succeeded)]);
    }

    /// Each of the calls goes out for the tenant: without the header on any of them something would not be there.
    #[tokio::test]
    async fn a_tenant_has_templates_and_sessions_of_its_own() {
        let site = Site::new(2, |_| {}).await;
        let theirs = TemplateSpec::of_group("all");
        site.live().with(|cluster| cluster.put_boot_template("blue--owns--their-image", theirs)).unwrap();
        let tenant = Some("blue".parse().unwrap());
        let template = TemplateKey { tenant: tenant.clone(), name: "their-image".parse().unwrap() };
        assert_eq!(site.bos.has_template(&template).await, Ok(true));
        assert_eq!(site.bos.has_template(&"their-image".parse().unwrap()).await, Ok(false));
        let of_nobody = TemplateKey { tenant: tenant.clone(), name: "new-image".parse().unwrap() };
        assert_eq!(site.bos.has_template(&of_nobody).await, Ok(false));
        let request = RebootRequest { tenant, ..request("crus-1", "their-image", &[1, 2]) };
        site.bos.reboot(&request).await.unwrap();
        site.live().advance(60_000);
        let session = site.bos.session(&BootKey { request, handle: None }).await.unwrap().unwrap();
        let done = BootNodeState::Succeeded;
        assert_eq!(session.members, set(&[1, 2]));
        assert_eq!(states(&session), [(xname(1), done.clone()), (xname(2), done)]);
        assert_eq!(site.bos.session(&key("crus-1")).await, Ok(None), "not without the tenant");
    }

    #[tokio::test]
    async fn a_deleted_session_is_gone() {
        let site = Site::new(1, |_| {}).await;
        site.reboot("crus-1", &[1]).await;
        site.live().with(|cluster| cluster.delete_boot_session("crus-1")).unwrap();
        assert_eq!(site.bos.session(&key("crus-1")).await, Ok(None));
    }

    #[tokio::test]
    async fn many_nodes_are_read_page_by_page_and_few_in_one_request() {
        let site = Site::new(2_300, |_| {}).await;
        site.reboot("crus-1", &(1..=2_300).collect::<Vec<_>>()).await;
        site.live().advance(60_000);
        let session = site.session("crus-1").await;
        assert_eq!((session.members.len(), session.nodes.len()), (2_300, 2_300));
        assert!(session.nodes.iter().all(|node| node.state == BootNodeState::Succeeded));
        assert_eq!(site.calls("GET /v2/components"), 4, "the last page is empty");

        site.live().reset_calls();
        site.reboot("crus-2", &(1..=1_000).collect::<Vec<_>>()).await;
        site.live().advance(60_000);
        assert_eq!(site.session("crus-2").await.nodes.len(), 1_000);
        assert_eq!(site.calls("GET /v2/components"), 1);
    }

    #[tokio::test]
    async fn without_its_store_reads_got_nothing_and_a_reboot_may_have_been_taken() {
        let site = Site::new(1, |_| {}).await;
        site.reboot("crus-1", &[1]).await;
        site.live().with(|cluster| cluster.set_bos_down(true));
        let detail = "Unable to connect to the Redis database (503)".to_owned();
        let unreachable = PortError::Unreachable { peer: Peer::Bos, detail: detail.clone() };
        assert_eq!(site.bos.has_template(&"new-image".parse().unwrap()).await, Err(unreachable.clone()));
        assert_eq!(site.bos.session(&key("crus-1")).await, Err(unreachable));
        let reboot = site.bos.reboot(&request("crus-2", "new-image", &[1])).await;
        assert_eq!(reboot, Err(PortError::MayHaveActed { peer: Peer::Bos, detail }));
    }
}

#[tokio::test]
async fn a_server_that_is_gone_is_unreachable_for_reads_and_writes() {
    let site = Site::new(1, |_| {}).await;
    let Site { server, hsm, bos } = site;
    server.stop().await;
    for error in [
        hsm.group(&label("all")).await.unwrap_err(),
        hsm.add_members(&label("red"), &[xname(1)]).await.unwrap_err(),
        bos.reboot(&request("crus-1", "new-image", &[1])).await.unwrap_err(),
    ] {
        assert!(matches!(error, PortError::Unreachable { .. }), "{error:?}");
    }
}
