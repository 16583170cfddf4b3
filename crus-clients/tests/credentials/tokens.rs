//! Tokens that are fetched for many calls of both peers.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crus_clients::bos::BosClient;
use crus_clients::hsm::HsmClient;
use crus_clients::http::{
    ClientAuth, Credentials, IdentityFiles, IssuerConfig, PeerConfig, TlsFiles, TokenIssuer,
};
use crus_core::ports::{Bos, Hsm, Peer, PortError};
use futures_util::future::join_all;
use serde_json::{Value, json as object};
use tempfile::TempDir;

use super::{config, empty_group, label, trusting, until};
use crus_sim::testing::pki::{Ca, put};
use crus_sim::testing::server::{Answer, Server, json};

/// With characters that have a meaning in forms, URLs and headers.
const SECRET: &str = "s3cr%2B+& et=/:ü";

/// An issuer, a peer, and the files that we go by.
struct Site {
    folder: TempDir,
    ca: Ca,
    issuer: Server,
    peer: Server,
}

/// A token that tells its number, good for so many seconds.
fn numbered(lifetime: impl Into<Value>) -> impl Fn(&str) -> Answer + Send + Sync {
    let (count, lifetime) = (AtomicUsize::new(1), lifetime.into());
    move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let token = format!("token-{number}");
        json("200 OK", object!({"access_token": token, "token_type": "Bearer", "expires_in": lifetime}))
    }
}

impl Site {
    async fn new(issuing: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let ca = Ca::new("platform");
        let issuer = Server::new(ca.issue("localhost").serving(None), issuing).await;
        let peer = Server::new(ca.issue("localhost").serving(None), answer_both).await;
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "secret", &format!("{SECRET}\n"));
        Site { folder, ca, issuer, peer }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn tls(&self) -> TlsFiles {
        trusting(self.path(), &self.ca)
    }

    fn issuer_config(&self) -> IssuerConfig {
        IssuerConfig {
            url: self.issuer.url.parse().unwrap(),
            client_id: "admin-client".to_owned(),
            client_secret_file: self.path().join("secret"),
            client_auth: ClientAuth::SecretPost,
            scope: None,
            connect_timeout: Duration::from_secs(20),
            total_timeout: Duration::from_secs(20),
            tls: self.tls(),
        }
    }

    /// HSM and BOS, with tokens of one issuer.
    fn clients(&self, issuer: IssuerConfig) -> Clients {
        let credentials = Credentials::Issued(Arc::new(TokenIssuer::new(issuer).unwrap()));
        let config = PeerConfig { credentials, ..config(&self.peer.url, self.tls()) };
        Clients { hsm: HsmClient::new(config.clone()).unwrap(), bos: BosClient::new(config).unwrap() }
    }

    /// The tokens that came to the peer, in order.
    fn tokens(&self) -> Vec<String> {
        self.peer.requests().iter().map(|request| bearer(request)).collect()
    }
}

struct Clients {
    hsm: HsmClient,
    bos: BosClient,
}

impl Clients {
    async fn ask(&self) -> Result<(), String> {
        match self.hsm.group(&label()).await {
            Ok(_) => Ok(()),
            Err(PortError::Unreachable { peer: Peer::Hsm, detail }) => Err(detail),
            Err(other) => Err(other.to_string()),
        }
    }
}

fn bearer(request: &str) -> String {
    let line = request.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
    line.unwrap_or("none").to_owned()
}

fn answer_both(request: &str) -> Answer {
    match request.contains(" /api/groups/") {
        true => empty_group(),
        false => json("200 OK", "{}"),
    }
}

/// A form's values, decoded.
fn form(request: &str) -> Vec<(String, String)> {
    let body = request.split_once("\r\n\r\n").unwrap().1;
    let url = reqwest::Url::parse(&format!("http://h/?{body}")).unwrap();
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

#[tokio::test]
async fn a_token_is_fetched_once_for_many_calls_of_both_peers() {
    let site = Site::new(numbered(300)).await;
    let clients = site.clients(site.issuer_config());
    let (label, template) = (label(), "new-image".parse().unwrap());
    let groups = (0..20).map(|_| clients.hsm.group(&label));
    let templates = (0..20).map(|_| clients.bos.has_template(&template));
    let (groups, templates) = tokio::join!(join_all(groups), join_all(templates));
    assert!(groups.iter().all(Result::is_ok) && templates.iter().all(|found| *found == Ok(true)));
    assert_eq!(site.tokens(), vec!["token-1"; 40]);

    let requests = site.issuer.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].starts_with("POST /api HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].contains("content-type: application/x-www-form-urlencoded\r\n"), "{}", requests[0]);
    let expected =
        [("grant_type", "client_credentials"), ("client_id", "admin-client"), ("client_secret", SECRET)];
    assert_eq!(form(&requests[0]), pairs(expected));
}

#[tokio::test]
async fn the_client_may_be_told_in_a_header_and_ask_for_a_scope() {
    let site = Site::new(numbered(300)).await;
    let (client_auth, scope) = (ClientAuth::SecretBasic, Some("hsm bos".to_owned()));
    let clients = site.clients(IssuerConfig { client_auth, scope, ..site.issuer_config() });
    clients.ask().await.unwrap();
    let request = &site.issuer.requests()[0];
    assert_eq!(form(request), pairs([("grant_type", "client_credentials"), ("scope", "hsm bos")]));
    // `admin-client:s3cr%252B%2B%26%20et%3D%2F%3A%C3%BC`
    let header = "authorization: Basic \
                  YWRtaW4tY2xpZW50OnMzY3IlMjUyQiUyQiUyNiUyMGV0JTNEJTJGJTNBJUMzJUJD\r\n";
    assert!(request.contains(header), "{request}");
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires_and_nobody_waits_for_that() {
    let site = Site::new(numbered(2)).await;
    let clients = site.clients(site.issuer_config());
    until("three tokens", async || {
        clients.ask().await.unwrap();
        site.issuer.count() >= 3
    })
    .await;
    let tokens = site.tokens();
    assert!(tokens.is_sorted(), "{tokens:?}");
    assert_eq!(tokens.first().unwrap(), "token-1");
}

#[tokio::test]
async fn while_the_issuer_is_away_the_old_token_is_used_as_long_as_it_is_good() {
    let site = Site::new(numbered(10)).await;
    let clients = site.clients(site.issuer_config());
    clients.ask().await.unwrap();
    site.issuer.act(|_| json("503 Service Unavailable", "<html>"));
    // First all is well, though it is asked in vain; then the token has expired, and nothing is sent any more.
    let mut asked_in_vain = false;
    until("a call without a token", async || match clients.ask().await {
        Ok(()) => {
            asked_in_vain |= site.issuer.count() > 1;
            false
        }
        Err(why) => {
            let told = "503 Service Unavailable; it is the issuer's trouble";
            assert_eq!(why, format!("failed to get a token from {}: {told}", site.issuer.url));
            true
        }
    })
    .await;
    assert!(asked_in_vain);
    let sent = site.peer.count();
    assert!(site.tokens().iter().all(|token| token == "token-1"));

    // P9: it goes on by itself.
    site.issuer.act(numbered(300));
    until("a call with a token", async || clients.ask().await.is_ok()).await;
    assert_eq!(site.peer.count(), sent + 1);
}

#[tokio::test]
async fn an_issuer_that_is_down_is_left_alone_for_a_while() {
    let site = Site::new(|_| json("500 Internal Server Error", "")).await;
    let clients = site.clients(site.issuer_config());
    let begun = std::time::Instant::now();
    let mut failed = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        clients.ask().await.unwrap_err();
        failed += 1;
        tokio::task::yield_now().await;
    }
    // After 0, 0.5 and 1.5 s.
    assert!(failed > 10, "the calls do not wait: {failed}");
    assert!(site.issuer.count() <= 3, "{}", site.issuer.count());
    assert_eq!(site.peer.count(), 0, "nothing is asked without a token");
}

#[tokio::test]
async fn a_wrong_secret_is_told_without_it_and_read_again() {
    let site = Site::new(|request| {
        let form = form(request);
        let secret = &form.iter().find(|(name, _)| name == "client_secret").unwrap().1;
        match secret == SECRET {
            true => json("200 OK", object!({"access_token": "good"})),
            false => {
                let encoded: String = request.rsplit_once("client_secret=").unwrap().1.to_owned();
                let told = format!("{secret} {encoded} is wrong");
                json("401 Unauthorized", object!({"error": "invalid_client", "error_description": told}))
            }
        }
    })
    .await;
    put(site.path(), "secret", "hunter2 + 2");
    let clients = site.clients(site.issuer_config());
    let why = clients.ask().await.unwrap_err();
    assert!(
        why.starts_with(&format!("failed to get a token from {}: invalid_client: ", site.issuer.url)),
        "{why}"
    );
    assert!(why.contains("[hidden] [hidden] is wrong (401); check the client's id, its secret"), "{why}");
    assert!(!why.contains("hunter2"), "{why}");

    put(site.path(), "secret", SECRET);
    until("let in", async || clients.ask().await.is_ok()).await;
    assert_eq!(site.tokens(), ["good"]);
}

#[tokio::test]
async fn a_secret_that_is_not_there_yet_is_waited_for() {
    let site = Site::new(numbered(300)).await;
    std::fs::remove_file(site.path().join("secret")).unwrap();
    let clients = site.clients(site.issuer_config());
    let why = clients.ask().await.unwrap_err();
    assert!(
        why.contains("the client's secret in ") && why.ends_with(" cannot be read: entity not found"),
        "{why}"
    );
    put(site.path(), "secret", "\n");
    until("an empty one", async || clients.ask().await.unwrap_err().ends_with("/secret is empty")).await;
    put(site.path(), "secret", SECRET);
    until("let in", async || clients.ask().await.is_ok()).await;
}

#[tokio::test]
async fn a_token_that_a_peer_does_not_take_makes_for_a_new_one_in_the_same_call() {
    let site = Site::new(numbered(300)).await;
    site.peer.act(|request| match bearer(request).as_str() {
        "token-2" => empty_group(),
        _ => json("401 Unauthorized", "{}"),
    });
    let clients = site.clients(site.issuer_config());
    let label = label();
    for found in join_all((0..8).map(|_| clients.hsm.group(&label))).await {
        found.unwrap();
    }
    assert_eq!(site.issuer.count(), 2, "one for all who were refused");
}

/// However the call ended that was to replace it: far sooner than the 30 s between two tokens that are refused.
#[tokio::test]
async fn a_refused_token_is_replaced_as_soon_as_the_issuer_is_back() {
    let issue = numbered(300);
    let count = AtomicUsize::new(0);
    let site = Site::new(move |request| match count.fetch_add(1, Ordering::Relaxed) {
        1 => json("500 Internal Server Error", ""),
        _ => issue(request),
    })
    .await;
    site.peer.act(|request| match bearer(request).as_str() {
        "token-2" => empty_group(),
        _ => json("401 Unauthorized", "{}"),
    });
    let clients = site.clients(site.issuer_config());
    clients.ask().await.unwrap_err();
    assert_eq!(site.issuer.count(), 2, "the second was not issued");
    let begun = std::time::Instant::now();
    until("a good token", async || clients.ask().await.is_ok()).await;
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_peer_that_takes_no_token_does_not_become_the_issuers_trouble() {
    let site = Site::new(numbered(300)).await;
    site.peer.act(|_| json("401 Unauthorized", "{}"));
    let clients = site.clients(site.issuer_config());
    for _ in 0..10 {
        assert_eq!(
            clients.ask().await.unwrap_err(),
            "the Hardware State Manager refused: bad credentials (401 Unauthorized)"
        );
    }
    assert_eq!(site.issuer.count(), 2);
    assert_eq!(site.peer.count(), 11, "the first was asked twice, and the others once");
}

#[tokio::test]
async fn an_issuer_that_does_not_answer_holds_a_call_up_for_its_time_out_alone() {
    for answer in [
        Answer::Silence,
        Answer::Raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]".to_owned()),
        json("200 OK", "[".repeat(1 << 20)),
        json("200 OK", "{}"),
    ] {
        let expected = match &answer {
            Answer::Silence => "no complete answer within 300ms",
            Answer::Json(_, body) if body.len() > 2 => "the answer is longer than 262144 bytes",
            Answer::Json(..) | Answer::Raw(_) => {
                "its answer holds no access_token; is it the URL of a token endpoint?"
            }
        };
        let site = Site::new(move |_| answer.clone()).await;
        let total_timeout = match expected.starts_with("no ") {
            true => Duration::from_millis(300),
            false => Duration::from_secs(20),
        };
        let clients = site.clients(IssuerConfig { total_timeout, ..site.issuer_config() });
        let why = clients.ask().await.unwrap_err();
        assert_eq!(why, format!("failed to get a token from {}: {expected}", site.issuer.url));
    }
}

#[tokio::test]
async fn an_issuer_is_believed_by_its_ca_alone_and_shown_our_certificate() {
    let site = Site::new(numbered(300)).await;
    let (other, clients_ca) = (Ca::new("other"), Ca::new("clients"));
    site.issuer.show(other.issue("localhost").serving(Some(&clients_ca)));
    let clients = site.clients(site.issuer_config());
    let why = clients.ask().await.unwrap_err();
    assert!(
        why.ends_with("its certificate is of no CA that we trust; check the file of CA certificates"),
        "{why}"
    );

    let own = clients_ca.issue("crus");
    let identity = IdentityFiles {
        cert_file: put(site.path(), "own.pem", &own.cert),
        key_file: put(site.path(), "own-key.pem", &own.key),
    };
    let ca_file = Some(put(site.path(), "other.pem", &other.pem));
    let tls = TlsFiles { ca_file, identity: Some(identity), ..TlsFiles::default() };
    site.clients(IssuerConfig { tls, ..site.issuer_config() }).ask().await.unwrap();
}

#[tokio::test]
async fn nothing_of_a_token_is_in_an_error_or_shown() {
    let site = Site::new(|_| json("200 OK", object!({"access_token": "tok3n-of-ours"}))).await;
    site.peer.act(|request| {
        let token = bearer(request);
        json("400 Bad Request", object!({"detail": format!("'{token}' is no token")}))
    });
    let clients = site.clients(site.issuer_config());
    let why = clients.ask().await.unwrap_err();
    assert_eq!(why, "the Hardware State Manager refused: '[hidden]' is no token (400)");
    let shown = format!("{:?} {:?}", clients.hsm, clients.bos);
    assert!(!shown.contains("tok3n") && !shown.contains(SECRET), "{shown}");
}
