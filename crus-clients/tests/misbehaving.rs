//! Peers that misbehave in ways the simulated ones do not: each error is of the right class, says the same each time,
//! and holds no secret.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crus_clients::bos::BosClient;
use crus_clients::bos::v1::BosV1Client;
use crus_clients::hsm::HsmClient;
use crus_clients::http::{ConfigError, Credentials, PeerConfig, Secret, TlsFiles};
use crus_core::names::BootSessionName;
use crus_core::ports::{BootKey, BootStatus, Bos, Hsm, Peer, PortError, RebootRequest};
use crus_core::{GroupLabel, Xname};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;

const TOKEN: &str = "eyJ0b2tlbiI6InRvcCBzZWNyZXQifQ";

/// What a server does once it has read a request.
#[derive(Debug, Clone)]
enum Act {
    /// Sends this and closes.
    Send(String),
    /// Sends this and then nothing, without closing.
    SendAndHang(String),
}

fn answer(status: &str, content_type: &str, body: &str) -> Act {
    let length = body.len();
    Act::Send(format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    ))
}

fn json(status: &str, body: &str) -> Act {
    answer(status, "application/json", body)
}

/// A server on the loopback; it ends when this is dropped.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// One that acts by what it was asked: the request line, headers and body.
    async fn new(act: impl Fn(&str) -> Act + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (act, seen) = (Arc::new(act), Arc::clone(&requests));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let (act, seen) = (Arc::clone(&act), Arc::clone(&seen));
                connections.spawn(async move {
                    let Some(request) = read_request(&mut stream).await else { return };
                    let act = act(&request);
                    seen.lock().unwrap().push(request);
                    let (Act::Send(text) | Act::SendAndHang(text)) = &act;
                    // The client may have hung up already: that is its good right.
                    if stream.write_all(text.as_bytes()).await.is_ok() && matches!(act, Act::SendAndHang(_)) {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Server { address, requests, task }
    }

    async fn always(act: Act) -> Server {
        Server::new(move |_| act.clone()).await
    }

    /// The first lines of the requests so far.
    fn lines(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().map(|request| request.lines().next().unwrap_or_default().to_owned()).collect()
    }

    fn config(&self) -> PeerConfig {
        config(&format!("http://{}/api", self.address))
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}

fn config(base: &str) -> PeerConfig {
    PeerConfig {
        // Long enough for a busy machine; what waits for them sets shorter ones.
        connect_timeout: Duration::from_secs(20),
        total_timeout: Duration::from_secs(20),
        body_max_bytes: 100_000,
        credentials: Credentials::Token(Secret::new(TOKEN)),
        ..PeerConfig::new(base.parse().unwrap())
    }
}

fn label() -> GroupLabel {
    GroupLabel::new("upgrading").unwrap()
}

fn xnames(count: u32) -> Vec<Xname> {
    (0..count).map(|n| Xname::new(&format!("x{}c0s{}b0n0", 1000 + n / 64, n % 64)).unwrap()).collect()
}

fn boot_name() -> BootSessionName {
    BootSessionName::new("crus-1").unwrap()
}

fn reboot(nodes: Vec<Xname>) -> RebootRequest {
    let template = "new-image".parse().unwrap();
    RebootRequest { name: boot_name(), tenant: None, template, nodes, before: None }
}

fn boot_key() -> BootKey {
    BootKey { request: reboot(Vec::new()), handle: None }
}

/// What a read and a write of each peer come to.
struct Outcomes {
    reads: Vec<PortError>,
    writes: Vec<PortError>,
}

impl Outcomes {
    async fn of(config: &PeerConfig) -> Outcomes {
        let (hsm, bos) = (HsmClient::new(config.clone()).unwrap(), BosClient::new(config.clone()).unwrap());
        let nodes = xnames(1);
        let (label, template, name) = (label(), "new-image".parse().unwrap(), boot_key());
        let request = reboot(nodes.clone());
        let (group, facts, has_template, session, added, removed, booted) = tokio::join!(
            hsm.group(&label),
            hsm.facts(&nodes),
            bos.has_template(&template),
            bos.session(&name),
            hsm.add_members(&label, &nodes),
            hsm.remove_members(&label, &nodes),
            bos.reboot(&request),
        );
        let reads = [group.map(drop), facts.map(drop), has_template.map(drop), session.map(drop)]
            .map(Result::unwrap_err);
        let writes = [added.map(drop), removed, booted.map(drop)].map(Result::unwrap_err);
        let outcomes = Outcomes { reads: reads.into(), writes: writes.into() };
        for error in outcomes.reads.iter().chain(&outcomes.writes) {
            let text = format!("{error} {error:?}");
            assert!(!text.contains(TOKEN), "{text}");
            assert!(error.to_string().chars().count() < 320, "{text}");
            assert!(!error.to_string().chars().any(char::is_control), "{text}");
        }
        outcomes
    }

    #[track_caller]
    fn are(&self, read: Class, write: Class, detail: &str) {
        for (errors, class) in [(&self.reads, read), (&self.writes, write)] {
            for error in errors {
                assert_eq!(error, &class(error.peer(), detail.to_owned()));
            }
        }
    }
}

type Class = fn(Peer, String) -> PortError;

fn refused(peer: Peer, detail: String) -> PortError {
    PortError::Refused { peer, detail }
}

fn unreachable(peer: Peer, detail: String) -> PortError {
    PortError::Unreachable { peer, detail }
}

fn may_have_acted(peer: Peer, detail: String) -> PortError {
    PortError::MayHaveActed { peer, detail }
}

#[tokio::test]
async fn nobody_listens() {
    // Held, so that nobody else gets the port meanwhile.
    let held = TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = held.local_addr().unwrap();
    let outcomes = Outcomes::of(&config(&format!("http://{address}/api"))).await;
    outcomes.are(unreachable, unreachable, "failed to connect to 127.0.0.1: connection refused");
}

#[tokio::test]
async fn no_answer_comes() {
    for beginning in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"] {
        let server = Server::always(Act::SendAndHang(beginning.to_owned())).await;
        let config = PeerConfig { total_timeout: Duration::from_millis(400), ..server.config() };
        let outcomes = Outcomes::of(&config).await;
        outcomes.are(unreachable, may_have_acted, "no complete answer within 400ms");
    }
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_may_be() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/api", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (mut under_way, mut most) = (tokio::task::JoinSet::new(), 0);
        let mut answered = 0;
        while answered < 12 {
            tokio::select! {
                accepted = listener.accept() => {
                    let mut stream = accepted.unwrap().0;
                    under_way.spawn(async move {
                        read_request(&mut stream).await.unwrap();
                        // Long enough for others to arrive, if they may.
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        stream
                    });
                    most = most.max(under_way.len());
                }
                Some(asked) = under_way.join_next() => {
                    let body = "{\"members\":{\"ids\":[]}}";
                    let length = body.len();
                    let text = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
                    asked.unwrap().write_all(text.as_bytes()).await.unwrap();
                    answered += 1;
                }
            }
        }
        most
    });
    let hsm = HsmClient::new(PeerConfig { max_calls: 3, ..config(&base) }).unwrap();
    let label = label();
    let calls = (0..12).map(|_| hsm.group(&label));
    for group in futures_util::future::join_all(calls).await {
        assert_eq!(group, Ok(Some([].into())));
    }
    assert_eq!(serving.await.unwrap(), 3);
}

#[tokio::test]
async fn the_connection_breaks() {
    for beginning in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "lorem ipsum\r\n\r\n"] {
        let server = Server::always(Act::Send(beginning.to_owned())).await;
        let outcomes = Outcomes::of(&server.config()).await;
        outcomes.are(unreachable, may_have_acted, "the connection broke before the answer was complete");
    }
}

#[tokio::test]
async fn something_else_answers() {
    for act in [
        answer("200 OK", "text/html", "<html><body>Please log in</body></html>"),
        json("200 OK", "{\"members\": "),
        json("201 Created", ""),
    ] {
        let server = Server::always(act).await;
        let outcomes = Outcomes::of(&server.config()).await;
        outcomes.are(
            unreachable,
            may_have_acted,
            "the answer is not what was expected; is the base URL right?",
        );
    }
}

#[tokio::test]
async fn the_answer_is_huge() {
    let server = Server::always(json("200 OK", &format!("[{}1]", "1,".repeat(1_000_000)))).await;
    let outcomes = Outcomes::of(&server.config()).await;
    outcomes.are(unreachable, may_have_acted, "the answer is longer than 100000 bytes");
}

#[tokio::test]
async fn a_gateway_fails() {
    let server = Server::always(answer("502 Bad Gateway", "text/html", "<h1>Bad Gateway</h1>")).await;
    Outcomes::of(&server.config()).await.are(unreachable, may_have_acted, "502 Bad Gateway");
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_the_token_stays_here() {
    let elsewhere = Server::always(json("200 OK", "{}")).await;
    let location = format!("http://{}/", elsewhere.address);
    let found = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
    let server = Server::always(Act::Send(found)).await;
    let outcomes = Outcomes::of(&server.config()).await;
    outcomes.are(refused, may_have_acted, "302 Found: it points elsewhere; the base URL may be wrong");
    assert_eq!(elsewhere.lines(), Vec::<String>::new());
}

#[tokio::test]
async fn bad_credentials_are_said_to_be_bad() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let body = format!("{{\"detail\":\"token {TOKEN} is not good\"}}");
        let server = Server::always(json(status, &body)).await;
        let outcomes = Outcomes::of(&server.config()).await;
        outcomes.are(refused, refused, &format!("bad credentials ({status})"));
        assert!(server.requests.lock().unwrap()[0].contains(&format!("Bearer {TOKEN}")));
    }
}

#[tokio::test]
async fn a_peers_words_are_kept_short_and_without_our_token() {
    let body = format!("{{\"title\":\"Bad Request\",\"detail\":\"no\\u0000\\r\\n {TOKEN}\\u001b[31m\"}}");
    let server = Server::always(json("400 Bad Request", &body)).await;
    Outcomes::of(&server.config()).await.are(refused, refused, "no [hidden] [31m (400)");

    let server =
        Server::always(json("418 Teapot", &format!("{{\"detail\":\"{}\"}}", "ä".repeat(5000)))).await;
    let detail = format!("{}… (418)", "ä".repeat(240));
    Outcomes::of(&server.config()).await.are(refused, refused, &detail);

    let server = Server::always(json("400 Bad Request", "{\"title\":\"Bad Request\"}")).await;
    Outcomes::of(&server.config()).await.are(refused, refused, "Bad Request (400)");
}

#[tokio::test]
async fn a_404_that_is_not_the_services_own_means_a_wrong_base_url() {
    let server = Server::always(answer("404 Not Found", "text/plain", "404 page not found\n")).await;
    Outcomes::of(&server.config()).await.are(refused, refused, "404 Not Found: the base URL may be wrong");
}

/// Not even a write may have acted: the request is sent after the handshake.
#[tokio::test]
async fn a_peer_that_speaks_no_tls_gets_no_request() {
    for (beginning, why) in [
        (Some("HTTP/1.1 400 Bad Request\r\n\r\n"), "received corrupt message of type InvalidContentType"),
        (None, "no connection within 1s"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://{}/api", listener.local_addr().unwrap());
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(beginning.unwrap_or_default().as_bytes()).await.unwrap();
                open.push(stream);
            }
        });
        let ca_file = Some(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/some-ca.pem").into());
        let tls = TlsFiles { ca_file, ..TlsFiles::default() };
        let outcomes =
            Outcomes::of(&PeerConfig { tls, connect_timeout: Duration::from_secs(1), ..config(&base) }).await;
        outcomes.are(unreachable, unreachable, &format!("failed to connect to 127.0.0.1: {why}"));
    }
}

#[test]
fn a_ca_that_is_none_is_refused_at_once() {
    let tls = TlsFiles {
        ca_file: Some(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml").into()),
        ..TlsFiles::default()
    };
    let no_ca = PeerConfig { tls, ..config("https://host/api") };
    assert!(matches!(HsmClient::new(no_ca).unwrap_err(), ConfigError::Ca { .. }));
}

#[tokio::test]
async fn a_token_file_is_read_again_when_it_changes() {
    let server = Server::always(json("200 OK", "{\"members\":{\"ids\":[]}}")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let config = PeerConfig { credentials: Credentials::TokenFile(file.clone()), ..server.config() };
    let hsm = HsmClient::new(config).unwrap();

    let missing = hsm.group(&label()).await.unwrap_err();
    let detail = "failed to read the token file: entity not found".to_owned();
    assert_eq!(missing, unreachable(Peer::Hsm, detail));
    assert_eq!(server.lines(), Vec::<String>::new(), "nothing is asked without the token");

    for token in ["first\n", "second one"] {
        std::fs::write(&file, token).unwrap();
        assert_eq!(hsm.group(&label()).await, Ok(Some(BTreeSet::new())));
        let requests = server.requests.lock().unwrap();
        let sent = requests.last().unwrap().to_ascii_lowercase();
        assert!(sent.contains(&format!("authorization: bearer {}\r\n", token.trim())), "{sent}");
    }
}

#[tokio::test]
async fn after_an_error_no_more_members_are_sent() {
    let server =
        Server::always(json("500 Internal Server Error", "{\"detail\":\"failed to query DB.\"}")).await;
    let hsm = HsmClient::new(server.config()).unwrap();
    let error = hsm.add_members(&label(), &xnames(100)).await.unwrap_err();
    assert_eq!(error, may_have_acted(Peer::Hsm, "failed to query DB. (500)".to_owned()));
    assert!((1..=8).contains(&server.lines().len()), "{:?}", server.lines());
}

#[tokio::test]
async fn an_error_that_may_have_acted_is_told_before_a_refusal() {
    let server = Server::new(|request| {
        if request.contains("x1000c0s3b0n0") { Act::Send(String::new()) } else { json("403 Forbidden", "") }
    })
    .await;
    let hsm = HsmClient::new(server.config()).unwrap();
    assert!(hsm.add_members(&label(), &xnames(8)).await.unwrap_err().may_have_acted());
}

/// Read the other way round, a session that ends in between would be complete with nodes that still work.
#[tokio::test]
async fn a_boot_session_is_read_before_its_nodes() {
    let server = Server::new(|request| {
        json(
            "200 OK",
            if request.starts_with("GET /api/sessions/") {
                r#"{"components":"x1000c0s0b0n0","status":{"status":"complete","error":null}}"#
            } else {
                r#"[{"id":"x1000c0s0b0n0","session":"crus-1","enabled":false,"error":"","status":{"status":"stable"}}]"#
            },
        )
    })
    .await;
    let session = BosClient::new(server.config()).unwrap().session(&boot_key()).await.unwrap().unwrap();
    assert_eq!(session.nodes.len(), 1);
    let lines = ["GET /api/sessions/crus-1 HTTP/1.1", "GET /api/components?session=crus-1 HTTP/1.1"];
    assert_eq!(server.lines(), lines);
}

#[tokio::test]
async fn pages_that_do_not_go_on_are_no_answer() {
    let components = xnames(1001).iter().map(Xname::to_string).collect::<Vec<_>>().join(",");
    let session = format!(r#"{{"components":"{components}","status":{{"status":"running"}}}}"#);
    let server = Server::new(move |request| {
        let is_session = request.starts_with("GET /api/sessions/");
        json("200 OK", if is_session { &session } else { r#"[{"id":"x1000c0s0b0n0"}]"# })
    })
    .await;
    let error = BosClient::new(server.config()).unwrap().session(&boot_key()).await.unwrap_err();
    let detail = "its pages of components do not go on".to_owned();
    assert_eq!(error, unreachable(Peer::Bos, detail));
    assert_eq!(server.lines().len(), 3);
}

#[tokio::test]
async fn a_session_status_that_is_not_known_is_no_answer() {
    let server = Server::always(json("200 OK", r#"{"components":"","status":{"status":"paused"}}"#)).await;
    let error = BosClient::new(server.config()).unwrap().session(&boot_key()).await.unwrap_err();
    let detail = "its session has a status that is not known".to_owned();
    assert_eq!(error, unreachable(Peer::Bos, detail));
}

#[tokio::test]
async fn a_limit_is_never_empty_nor_too_long() {
    let server = Server::always(json("201 Created", "{}")).await;
    let bos = BosClient::new(server.config()).unwrap();
    for nodes in [Vec::new(), xnames(50_000)] {
        assert!(matches!(bos.reboot(&reboot(nodes)).await, Err(PortError::Refused { .. })));
    }
    assert_eq!(server.lines(), Vec::<String>::new());
    bos.reboot(&reboot(xnames(2))).await.unwrap();
    let requests = server.requests.lock().unwrap();
    assert!(requests[0].contains(r#""limit":"x1000c0s0b0n0,x1000c0s1b0n0""#), "{requests:?}");
}

#[tokio::test]
async fn nothing_is_asked_about_no_nodes() {
    let server = Server::always(json("500 Internal Server Error", "")).await;
    let hsm = HsmClient::new(server.config()).unwrap();
    assert_eq!(hsm.facts(&[]).await, Ok(vec![]));
    assert_eq!(hsm.add_members(&label(), &[]).await, Ok(vec![]));
    assert_eq!(hsm.remove_members(&label(), &[]).await, Ok(()));
    assert_eq!(server.lines(), Vec::<String>::new());
}

/// P3, P9: of a BOS v1, what came of a request whose reply was lost. Somebody else's session cannot be read.
#[tokio::test]
async fn a_younger_session_that_cannot_be_read_may_be_any_and_hides_no_other() {
    let set = r#"{"phases": [
        {"name": "shutdown", "categories": [{"name": "succeeded", "node_list": ["x1c0s0b0n0"]}]},
        {"name": "boot", "categories": [{"name": "in_progress", "node_list": ["x1c0s0b0n0"]}]}]}"#;
    for ours_shows in [true, false] {
        let server = Server::new(move |request| {
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let ids = if ours_shows { r#"["broken", "odd", "ours"]"# } else { r#"["broken", "odd"]"# };
            match path.strip_prefix("/api/session").unwrap_or_default() {
                "" => json("200 OK", ids),
                "/odd" => json("200 OK", "[]"),
                "/ours" => json("200 OK", r#"{"templateName": "image", "complete": false}"#),
                "/ours/status" => json("200 OK", r#"{"boot_sets": ["all"]}"#),
                "/ours/status/all" => json("200 OK", set),
                _ => json("500 Internal Server Error", r#"{"title": "Internal Server Error"}"#),
            }
        })
        .await;
        let bos = BosV1Client::new(server.config()).unwrap();
        let found = bos.session(&lost_of_v1()).await.unwrap().unwrap();
        if ours_shows {
            assert_eq!(found.handle.map(String::from), Some("ours".to_owned()));
        } else {
            assert_eq!(found.status, BootStatus::Unclear);
            assert!(found.error.unwrap().contains("broken"));
        }
    }
}

/// A BOS v1 that falls silent in the middle of a look is away: nothing is concluded from what could not be read.
#[tokio::test]
async fn a_bos_that_is_away_while_younger_sessions_are_read_is_away() {
    let lists = Mutex::new(1);
    let server = Server::new(move |request| {
        let mut left = lists.lock().unwrap();
        match request.starts_with("GET /api/session HTTP") && *left > 0 {
            true => {
                *left -= 1;
                json("200 OK", r#"["one"]"#)
            }
            false => json("503 Service Unavailable", r#"{"title": "Service Unavailable"}"#),
        }
    })
    .await;
    let bos = BosV1Client::new(server.config()).unwrap();
    let answer = bos.session(&lost_of_v1()).await;
    assert!(matches!(answer, Err(PortError::Unreachable { .. })), "{answer:?}");
}

/// A request of a BOS v1 with nothing before it, whose reply was lost.
fn lost_of_v1() -> BootKey {
    let request = RebootRequest {
        name: "crus-1".parse().unwrap(),
        tenant: None,
        template: "image".parse().unwrap(),
        nodes: vec![Xname::new("x1c0s0b0n0").unwrap()],
        before: Some(Default::default()),
    };
    BootKey { request, handle: None }
}
