//! HSM v2, BOS v2 and the control face over HTTP: each route's codes and bodies as the real ones were seen to
//! answer.

mod bos;
mod control;
mod hsm;
mod kept;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use crus_sim::cluster::PowerEvent;
use crus_sim::config::{BootBehaviour, BosConfig, GroupSpec, Held, NodeSpec, Span, TemplateSpec};
use crus_sim::http::{LiveCluster, router, serve};
use crus_sim::workload::{JobSpec, Wanted, Workload};
use crus_sim::{Cluster, ClusterConfig};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// Twelve nodes, `x1000c0s1b0n0` to `x1000c0s12b0n0`; the second locked, the third disabled, the fourth of another
/// architecture, the fifth drained by an admin, the twelfth not for computing. A job without an end on the sixth.
/// A boot takes ten seconds, everything around it one each.
fn config() -> ClusterConfig {
    let mut nodes: Vec<NodeSpec> =
        (1..=12).map(|nid| NodeSpec::new(xname(nid).parse().unwrap(), nid)).collect();
    nodes[1].locked = true;
    nodes[2].enabled = false;
    nodes[3].arch = "ARM".to_owned();
    nodes[11].role = "Application".to_owned();
    let second = Span::exactly(1_000);
    ClusterConfig {
        held: [(nodes[4].xname, Held::Drained("bad fan".to_owned()))].into(),
        groups: [
            (
                "all",
                GroupSpec { members: nodes.iter().map(|node| node.xname).collect(), ..Default::default() },
            ),
            ("upgrading", GroupSpec::default()),
            ("blue", GroupSpec { exclusive_group: Some("colours".to_owned()), ..Default::default() }),
            ("red", GroupSpec { exclusive_group: Some("colours".to_owned()), ..Default::default() }),
        ]
        .map(|(label, group)| (label.parse().unwrap(), group))
        .into(),
        templates: [
            ("new-image", TemplateSpec::of_group("all")),
            (
                "broken",
                TemplateSpec { broken: Some("no kernel".to_owned()), ..TemplateSpec::of_group("all") },
            ),
        ]
        .map(|(name, template)| (name.parse().unwrap(), template))
        .into(),
        workload: Workload::Listed(vec![JobSpec {
            id: 1,
            user: "ada".to_owned(),
            wanted: Wanted::Nodes(vec!["nid000006".parse().unwrap()]),
            cpus: None,
            start_ms: 0,
            duration_ms: None,
            limit_ms: None,
            partition: None,
            requeue: true,
        }]),
        bos: BosConfig {
            pending: second,
            setup: Span::exactly(0),
            power_off_call: second,
            power_off: second,
            power_on_call: second,
            boot: Span::exactly(10_000),
            configure: second,
            attempts: 1,
            attempt_ms: 20_000,
            ..Default::default()
        },
        nodes,
        ..Default::default()
    }
}

fn xname(nid: u32) -> String {
    format!("x1000c0s{nid}b0n0")
}

fn still() -> LiveCluster {
    LiveCluster::new(Cluster::new(config(), 1).shared())
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: u16,
    content_type: String,
    text: String,
}

impl Reply {
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A request to the routes, without a socket. A body that is text is sent as it is, another one as JSON.
async fn ask(routes: &Router, method: &str, path: &str, body: Value) -> Reply {
    let mut request = Request::builder().method(method).uri(path);
    let body = match body {
        Value::Null => Body::empty(),
        Value::String(text) => {
            request = request.header("content-type", "application/json");
            Body::from(text)
        }
        other => {
            request = request.header("content-type", "application/json");
            Body::from(other.to_string())
        }
    };
    let response = routes.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    let content_type = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Reply {
        status,
        content_type: content_type.unwrap_or_default(),
        text: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

async fn get(routes: &Router, path: &str) -> Reply {
    ask(routes, "GET", path, Value::Null).await
}

async fn post(routes: &Router, path: &str, body: Value) -> Reply {
    ask(routes, "POST", path, body).await
}

async fn delete(routes: &Router, path: &str) -> Reply {
    ask(routes, "DELETE", path, Value::Null).await
}

/// The reply is an RFC 7807 problem with this code and detail.
#[track_caller]
fn is_problem(reply: &Reply, status: u16, detail: &str) {
    assert_eq!(reply.content_type, "application/problem+json", "{reply:?}");
    let problem = reply.json();
    assert_eq!((reply.status, &problem["status"]), (status, &json!(status)), "{reply:?}");
    assert_eq!((&problem["detail"], &problem["type"]), (&json!(detail), &json!("about:blank")), "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn power_is_told_when_it_is_due_though_nobody_asks() {
    let live = LiveCluster::paced(Cluster::new(config(), 1).shared(), 1_000.0);
    let mut events = live.power_events();
    let server = serve(live.clone(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let routes = router(&live);
    let body =
        json!({"name": "mine", "operation": "reboot", "template_name": "new-image", "limit": xname(1)});
    assert_eq!(post(&routes, "/v2/sessions", body).await.status, 201);
    let mut next =
        async || tokio::time::timeout(Duration::from_secs(20), events.recv()).await.unwrap().unwrap();
    let node = xname(1).parse().unwrap();
    assert!(matches!(next().await, PowerEvent::Cut { xname, .. } if xname == node));
    assert!(matches!(next().await, PowerEvent::Boot { xname, .. } if xname == node));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_is_gone_and_another_can_take_its_place() {
    let server = serve(still(), "127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.address();
    assert_eq!(server.url(), format!("http://{address}"));
    // An idle connection must not keep it up.
    let idle = tokio::net::TcpStream::connect(address).await.unwrap();
    let taken = serve(still(), address).await.unwrap_err();
    assert_eq!(taken.to_string(), format!("failed to listen on {address}"));
    server.stop().await;
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    drop(idle);
    let again = serve(still(), address).await.unwrap();
    assert_eq!(again.address(), address);
}
