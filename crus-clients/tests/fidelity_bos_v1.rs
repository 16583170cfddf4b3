//! The client of BOS v1 against the simulated one over HTTP, which answers as the real one was seen to.

use std::collections::BTreeSet;

use crus_clients::bos::BosClient;
use crus_clients::bos::v1::BosV1Client;
use crus_clients::http::PeerConfig;
use crus_core::Xname;
use crus_core::names::BootHandle;
use crus_core::ports::{
    BootKey, BootNodeState, BootSession, BootStatus, Bos, Peer, PortError, RebootRequest, TemplateKey,
};
use crus_sim::cluster::bos::{NewSession, Operation};
use crus_sim::config::{BootBehaviour, BootSet, BosConfig, GroupSpec, Span, TemplateSpec};
use crus_sim::http::{LiveCluster, Server, serve};
use crus_sim::{Cluster, ClusterConfig};

struct Site {
    server: Server,
    bos: BosV1Client,
}

impl Site {
    /// So many nodes, all in the group `all`, which the template `new-image` boots by two boot sets, the second of
    /// which boots the node 1. Each phase of a boot takes a second.
    async fn new(count: u32, change: impl FnOnce(&mut ClusterConfig)) -> Site {
        let nodes = ClusterConfig::nodes(count);
        let second = Span::exactly(1_000);
        let members = nodes.iter().skip(1).map(|node| node.xname).collect();
        let all = GroupSpec { members, ..Default::default() };
        let mut template = TemplateSpec::of_group("all");
        let first = BootSet {
            node_list: vec![nodes[0].xname.to_string()],
            node_groups: vec![],
            ..BootSet::of_group("")
        };
        template.boot_sets.insert("first".to_owned(), first);
        let mut config = ClusterConfig {
            nodes,
            groups: [("all".parse().unwrap(), all)].into(),
            templates: [
                ("new-image".parse().unwrap(), template),
                ("old-image".parse().unwrap(), TemplateSpec::of_group("all")),
            ]
            .into(),
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
        change(&mut config);
        let live = LiveCluster::new(Cluster::new(config, 1).shared());
        let server = serve(live, ([127, 0, 0, 1], 0).into()).await.unwrap();
        let bos = BosV1Client::new(peer(&server, "/apis/bos/v1")).unwrap();
        Site { server, bos }
    }

    fn live(&self) -> &LiveCluster {
        self.server.live()
    }

    /// What is asked for now, with what there is before.
    async fn request(&self, template: &str, nodes: &[usize]) -> RebootRequest {
        RebootRequest {
            name: "crus-1".parse().unwrap(),
            tenant: None,
            template: template.parse().unwrap(),
            nodes: nodes.iter().map(|n| xname(*n)).collect(),
            before: Some(self.bos.boot_ids().await.unwrap()),
        }
    }

    async fn reboot(&self, nodes: &[usize]) -> BootHandle {
        let request = self.request("new-image", nodes).await;
        self.bos.reboot(&request).await.unwrap().unwrap()
    }

    async fn session(&self, handle: &BootHandle) -> BootSession {
        let request = RebootRequest { nodes: vec![], before: None, ..self.request("new-image", &[]).await };
        self.bos.session(&BootKey { request, handle: Some(handle.clone()) }).await.unwrap().unwrap()
    }

    /// Somebody else's session.
    fn others(&self, template: &str, limit: &str) {
        let session = NewSession {
            name: format!("others-{}", self.live().with(|cluster| cluster.next_boot_session())),
            operation: Operation::Reboot,
            template_name: template.to_owned(),
            limit: limit.to_owned(),
            stage: false,
            include_disabled: false,
        };
        self.live().with(|cluster| cluster.create_boot_session(session).map(drop)).unwrap();
    }
}

fn peer(server: &Server, path: &str) -> PeerConfig {
    PeerConfig::new(format!("{}{path}", server.url()).parse().unwrap())
}

/// The nth node, from 1.
fn xname(n: usize) -> Xname {
    ClusterConfig::nodes(16)[n - 1].xname
}

fn set(nodes: &[usize]) -> BTreeSet<Xname> {
    nodes.iter().map(|n| xname(*n)).collect()
}

fn states(session: &BootSession) -> Vec<(Xname, BootNodeState)> {
    let mut states: Vec<_> = session.nodes.iter().map(|node| (node.xname, node.state.clone())).collect();
    states.sort_by_key(|(xname, _)| *xname);
    states
}

#[tokio::test]
async fn a_template_is_there_or_missing_and_a_tenant_is_refused() {
    let site = Site::new(3, |_| {}).await;
    assert_eq!(site.bos.has_template(&"new-image".parse().unwrap()).await, Ok(true));
    assert_eq!(
        site.bos.has_template(&"no-image".parse().unwrap()).await,
        Ok(false),
        "a bare JSON string says so"
    );
    let of_a_tenant =
        TemplateKey { tenant: Some("blue".parse().unwrap()), name: "new-image".parse().unwrap() };
    let error = site.bos.has_template(&of_a_tenant).await.unwrap_err();
    assert!(error.to_string().contains("knows no tenants"), "{error}");
    let missing = site.request("no-image", &[2]).await;
    let error = site.bos.reboot(&missing).await.unwrap_err();
    assert!(matches!(error, PortError::Refused { .. }) && error.to_string().contains("no-image"), "{error}");
}

#[tokio::test]
async fn a_session_goes_through_its_phases_and_is_known_by_the_id_in_the_reply() {
    let site = Site::new(4, |_| {}).await;
    let handle = site.reboot(&[1, 2]).await;
    let pending = site.session(&handle).await;
    assert_eq!((pending.status, pending.nodes.len()), (BootStatus::Pending, 0), "it has no status yet");
    site.live().advance(2_500);
    let running = site.session(&handle).await;
    assert_eq!((running.status, &running.members), (BootStatus::Running, &set(&[1, 2])), "of both boot sets");
    let off = BootNodeState::Working("shutdown in_progress".to_owned());
    assert_eq!(states(&running), [(xname(1), off.clone()), (xname(2), off)]);
    site.live().advance(60_000);
    let complete = site.session(&handle).await;
    assert_eq!((complete.status, complete.handle.as_ref()), (BootStatus::Complete, Some(&handle)));
    let done = BootNodeState::Succeeded;
    assert_eq!(states(&complete), [(xname(1), done.clone()), (xname(2), done)]);
    assert_eq!(
        site.live().with(|cluster| cluster.boot_session(handle.as_str()).unwrap().components.len()),
        2
    );
}

/// There is no name that would keep the second from being another reboot.
#[tokio::test]
async fn each_request_is_another_session() {
    let site = Site::new(3, |_| {}).await;
    let request = site.request("new-image", &[2]).await;
    let one = site.bos.reboot(&request).await.unwrap();
    let other = site.bos.reboot(&request).await.unwrap();
    assert_ne!(one, other);
    let before = site.bos.boot_ids().await.unwrap();
    assert_eq!(before.since(request.before.as_ref().unwrap()).count(), 2);
    let without = RebootRequest { before: None, ..request.clone() };
    assert!(
        matches!(site.bos.reboot(&without).await, Err(PortError::Refused { .. })),
        "not without the list"
    );
    let nobody = RebootRequest { nodes: vec![], ..request };
    assert!(matches!(site.bos.reboot(&nobody).await, Err(PortError::Refused { .. })));
}

/// P3: a reply was lost. What is asked for again is not the reboot, but which session it began.
#[tokio::test]
async fn a_session_whose_id_is_not_known_is_found_by_its_nodes_among_those_that_are_younger() {
    let site = Site::new(6, |_| {}).await;
    let both = format!("{},{}", xname(2), xname(3));
    site.others("new-image", &both);
    site.live().advance(60_000);
    let request = site.request("new-image", &[2, 3]).await;
    let key = BootKey { request: request.clone(), handle: None };
    assert_eq!(site.bos.session(&key).await, Ok(None), "an older one of the same nodes is not it");
    site.others("old-image", &both);
    site.others("new-image", &format!("{},{}", xname(3), xname(4)));
    let found = site.bos.session(&key).await.unwrap().unwrap();
    assert_eq!(
        found.status,
        BootStatus::Unclear,
        "one of this template that does not show its nodes yet may be it"
    );
    assert!(found.error.unwrap().contains("does not show its nodes yet"));
    site.live().advance(2_500);
    assert_eq!(site.bos.session(&key).await, Ok(None), "one of another template, one with other nodes");
    let ours = site.bos.reboot(&request).await.unwrap().unwrap();
    site.live().advance(60_000);
    let found = site.bos.session(&key).await.unwrap().unwrap();
    assert_eq!((found.handle, found.status, found.members), (Some(ours), BootStatus::Complete, set(&[2, 3])));
}

/// P3: who boots or switches off the very nodes by the same template does not reboot them.
#[tokio::test]
async fn a_session_of_another_operation_is_not_taken_for_the_reboot() {
    let site = Site::new(3, |_| {}).await;
    let request = site.request("new-image", &[2, 3]).await;
    let key = BootKey { request, handle: None };
    for (name, operation) in [("boots", Operation::Boot), ("shuts-down", Operation::Shutdown)] {
        site.live().with(|cluster| {
            let request = NewSession {
                name: name.to_owned(),
                operation,
                template_name: "new-image".to_owned(),
                limit: format!("{},{}", xname(2), xname(3)),
                stage: false,
                include_disabled: false,
            };
            cluster.create_boot_session(request).map(drop).unwrap();
        });
        site.live().advance(60_000);
        assert_eq!(site.bos.session(&key).await, Ok(None), "{name}");
    }
}

#[tokio::test]
async fn nodes_that_fail_or_are_left_out_are_told_though_the_session_counts_no_errors() {
    let site = Site::new(5, |config| {
        config.nodes[1].boot = BootBehaviour::Fails;
        config.nodes[2].enabled = false;
        config.nodes[3].boot = BootBehaviour::OnHold { error: "no\npower".to_owned() };
    })
    .await;
    let handle = site.reboot(&[2, 3, 4, 5]).await;
    site.live().advance(120_000);
    let session = site.session(&handle).await;
    assert_eq!(
        (session.status, &session.members),
        (BootStatus::Complete, &set(&[2, 4, 5])),
        "3 was left out"
    );
    let failed = |why: &str| BootNodeState::Failed(why.to_owned());
    let spent =
        "The retry limit has been hit for this component, but no services have reported specific errors";
    assert_eq!(
        states(&session),
        [(xname(2), failed(spent)), (xname(4), failed("no power")), (xname(5), BootNodeState::Succeeded)]
    );
}

#[tokio::test]
async fn a_version_that_never_says_complete_shows_how_far_each_node_got() {
    let site = Site::new(3, |config| {
        config.bos.says_complete = false;
        config.nodes[2].boot = BootBehaviour::Hangs;
    })
    .await;
    let handle = site.reboot(&[2, 3]).await;
    site.live().advance(3_600_000);
    let session = site.session(&handle).await;
    assert_eq!(session.status, BootStatus::Running);
    let boots = BootNodeState::Working("boot in_progress".to_owned());
    assert_eq!(states(&session), [(xname(2), BootNodeState::Succeeded), (xname(3), boots)]);
}

#[tokio::test]
async fn a_deleted_session_is_gone() {
    let site = Site::new(3, |_| {}).await;
    let handle = site.reboot(&[2]).await;
    site.live().with(|cluster| cluster.delete_boot_session(handle.as_str())).unwrap();
    let request = site.request("new-image", &[]).await;
    assert_eq!(site.bos.session(&BootKey { request, handle: Some(handle) }).await, Ok(None));
}

#[tokio::test]
async fn without_its_store_reads_got_nothing_and_a_reboot_may_have_been_begun() {
    let site = Site::new(3, |_| {}).await;
    let request = site.request("new-image", &[2]).await;
    site.live().with(|cluster| cluster.set_bos_down(true));
    let unreachable = |error: PortError| assert!(matches!(error, PortError::Unreachable { .. }), "{error:?}");
    unreachable(site.bos.has_template(&"new-image".parse().unwrap()).await.unwrap_err());
    unreachable(site.bos.boot_ids().await.unwrap_err());
    unreachable(site.bos.session(&BootKey { request: request.clone(), handle: None }).await.unwrap_err());
    assert!(site.bos.reboot(&request).await.unwrap_err().may_have_acted());
}

#[tokio::test]
async fn the_wrong_version_behind_the_url_is_told() {
    let site = Site::new(3, |_| {}).await;
    let template = "new-image".parse().unwrap();
    let told = |error: PortError, answers: u32, wanted: u32| {
        let detail = format!(
            "version {answers} of its API answers there, not version {wanted}: set bos_api to v{answers}, or have \
             bos_url end in /v{wanted}"
        );
        assert_eq!(error, PortError::Refused { peer: Peer::Bos, detail });
    };
    let v1 = BosV1Client::new(peer(&site.server, "/apis/bos/v2")).unwrap();
    told(v1.has_template(&template).await.unwrap_err(), 2, 1);
    told(v1.boot_ids().await.unwrap_err(), 2, 1);
    let v2 = BosClient::new(peer(&site.server, "/apis/bos/v1")).unwrap();
    told(v2.has_template(&template).await.unwrap_err(), 1, 2);
}

/// What was asked for through the one version cannot be found through the other, and nothing is done about it.
#[tokio::test]
async fn a_session_of_the_other_version_is_unclear() {
    let site = Site::new(3, |_| {}).await;
    let v2 = BosClient::new(peer(&site.server, "/apis/bos/v2")).unwrap();
    let request = site.request("new-image", &[2]).await;
    let of_v1 = BootKey { request: request.clone(), handle: None };
    assert_eq!(v2.session(&of_v1).await.unwrap().unwrap().status, BootStatus::Unclear);
    let of_v2 = BootKey { request: RebootRequest { before: None, ..request }, handle: None };
    assert_eq!(site.bos.session(&of_v2).await.unwrap().unwrap().status, BootStatus::Unclear);
}
