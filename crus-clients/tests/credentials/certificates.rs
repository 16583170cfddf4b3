//! Certificates of private CAs on either side of a connection.

use std::path::Path;

use crus_clients::hsm::HsmClient;
use crus_clients::http::{ConfigError, IdentityFiles, PeerConfig, TlsFiles};
use crus_core::ports::{Hsm, Peer, PortError};

use super::{config, empty_group, label, trusting, until};
use crus_sim::testing::pki::{Ca, Pair, put};
use crus_sim::testing::server::Server;

async fn hsm_with(certificate: &Pair, clients: Option<&Ca>) -> Server {
    Server::new(certificate.serving(clients), |_| empty_group()).await
}

fn as_client(tls: TlsFiles, folder: &Path, own: &Pair) -> TlsFiles {
    let (cert_file, key_file) = (put(folder, "own.pem", &own.cert), put(folder, "own-key.pem", &own.key));
    TlsFiles { identity: Some(IdentityFiles { cert_file, key_file }), ..tls }
}

async fn asked(config: &PeerConfig) -> Result<(), PortError> {
    HsmClient::new(config.clone()).unwrap().group(&label()).await.map(drop)
}

#[track_caller]
fn is_unreachable(asked: &Result<(), PortError>, detail: &str) {
    let expected = PortError::Unreachable { peer: Peer::Hsm, detail: detail.to_owned() };
    assert_eq!(asked, &Err(expected));
}

#[tokio::test]
async fn a_peer_of_the_private_ca_is_believed_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let (platform, other) = (Ca::new("platform"), Ca::new("other"));
    let server = hsm_with(&platform.issue("localhost"), None).await;
    let config = config(&server.url, trusting(folder.path(), &platform));
    assert_eq!(asked(&config).await, Ok(()));

    server.show(other.issue("localhost").serving(None));
    is_unreachable(
        &asked(&config).await,
        "failed to connect to localhost: invalid peer certificate: UnknownIssuer: its certificate is of no CA that we \
         trust; check the file of CA certificates",
    );
    server.show(platform.issue("elsewhere").serving(None));
    let detail = asked(&config).await.unwrap_err().to_string();
    assert!(detail.ends_with("its certificate is that of another host; check the URL"), "{detail}");
    assert_eq!(server.count(), 1, "nothing is sent to whom we do not believe");
}

#[tokio::test]
async fn a_peer_that_wants_to_know_who_we_are_is_shown_our_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (platform, clients) = (Ca::new("platform"), Ca::new("clients"));
    let server = hsm_with(&platform.issue("localhost"), Some(&clients)).await;
    let anonymous = trusting(folder.path(), &platform);
    asked(&config(&server.url, anonymous.clone())).await.unwrap_err();
    // One that the peer does not trust.
    let stranger = as_client(anonymous.clone(), folder.path(), &platform.issue("crus"));
    asked(&config(&server.url, stranger)).await.unwrap_err();
    assert_eq!(server.count(), 0);

    let known = as_client(anonymous, folder.path(), &clients.issue("crus"));
    assert_eq!(asked(&config(&server.url, known)).await, Ok(()));
}

/// CA, certificate and key, each replaced without a restart, in whatever order they come.
#[tokio::test]
async fn certificates_are_renewed_while_running_and_what_is_half_there_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (platform, clients) = (Ca::new("platform"), Ca::new("clients"));
    let server = hsm_with(&platform.issue("localhost"), Some(&clients)).await;
    let own = clients.issue("crus");
    let tls = as_client(trusting(folder.path(), &platform), folder.path(), &own);
    let hsm = HsmClient::new(config(&server.url, tls)).unwrap();
    let is_let_in = async || hsm.group(&label()).await.is_ok();
    assert!(is_let_in().await);

    // A CA that has become garbage, or is missing: what we knew goes on.
    put(folder.path(), "ca.pem", "-----BEGIN CERTIFICATE-----\n");
    assert!(is_let_in().await);
    std::fs::remove_file(folder.path().join("ca.pem")).unwrap();
    assert!(is_let_in().await);

    // A new CA on the other side.
    let next = Ca::new("platform");
    server.show(next.issue("localhost").serving(Some(&clients)));
    until("refused: we know the former CA", async || !is_let_in().await).await;
    put(folder.path(), "ca.pem", &next.pem);
    until("let in: we know the new CA", is_let_in).await;

    // A new CA for clients: our new certificate is there, and its key is not yet.
    let next_clients = Ca::new("clients");
    let renewed = next_clients.issue("crus");
    put(folder.path(), "own.pem", &renewed.cert);
    assert!(is_let_in().await, "by the former pair");
    put(folder.path(), "own-key.pem", &renewed.key);
    server.show(next.issue("localhost").serving(Some(&next_clients)));
    until("let in by the new pair", is_let_in).await;
}

#[test]
fn a_certificate_and_a_key_that_do_not_go_together_are_told_at_once_and_nothing_of_them_shown() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Ca::new("platform");
    let (one, other) = (platform.issue("crus"), platform.issue("crus"));
    let secret: String = other.key.lines().nth(1).unwrap().chars().take(20).collect();
    let refused = |cert: &str, key: &str| {
        let mixed = Pair { cert: cert.to_owned(), key: key.to_owned() };
        let tls = as_client(trusting(folder.path(), &platform), folder.path(), &mixed);
        let error = HsmClient::new(config("https://localhost", tls)).unwrap_err();
        assert!(matches!(error, ConfigError::Identity { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains(&secret), "{error}");
        error.to_string()
    };
    let told = refused(&one.cert, &other.key);
    assert!(told.ends_with("own-key.pem: the key is that of another certificate"), "{told}");
    for (cert, key) in
        [(one.cert.as_str(), ""), ("", &other.key), (&other.key, &other.key), (&one.cert, &one.cert)]
    {
        refused(cert, key);
    }
}
