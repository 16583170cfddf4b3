//! The service proves to its peers who it is, and believes those alone that it is told to: each option of this as it is
//! given to the real process, against TLS servers of private CAs.

use std::path::Path;
use std::process::Command;

use serde_json::json as object;

use crate::support::{self, Service, spec, until};
use crus_sim::testing::pki::{Ca, put};
use crus_sim::testing::server::{Answer, Server, json};

fn serve(folder: &Path, hsm: &Server, bos: &Server) -> Command {
    let mut command = support::serve(&folder.join("crus.redb"), &hsm.url, &bos.url, "0.05");
    // There is none: this is about the others.
    for program in ["--scontrol", "--squeue", "--scancel"] {
        command.args([program, "/nowhere/slurm"]);
    }
    command
}

/// The bearer token of a request.
fn bearer(request: &str) -> &str {
    request.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap_or("none")
}

/// An HSM with one node to upgrade.
pub(crate) fn hsm(request: &str) -> Answer {
    let members = |ids: &[&str]| json("200 OK", object!({"members": {"ids": ids}}));
    match request.split(' ').nth(1) {
        Some("/api/groups/slurm-nodes") => members(&["x1000c0s0b0n0"]),
        Some("/api/State/Components/Query") => json(
            "200 OK",
            object!({"Components": [{"ID": "x1000c0s0b0n0", "NID": 1, "Role": "Compute", "Enabled": true}]}),
        ),
        _ => members(&[]),
    }
}

/// A BOS without the template: it is asked for it again and again.
fn bos(_: &str) -> Answer {
    json("404 Not Found", object!({"title": "Not Found", "detail": "Sessiontemplate could not be found"}))
}

#[tokio::test]
async fn each_peer_and_the_issuer_has_its_ca_and_certificate_and_both_share_a_fetched_token() {
    let folder = tempfile::tempdir().unwrap();
    let [smd, bos_ca, keycloak, clients] = ["smd", "bos", "keycloak", "clients"].map(Ca::new);
    let hsm = Server::new(smd.issue("localhost").serving(Some(&clients)), hsm).await;
    let bos = Server::new(bos_ca.issue("localhost").serving(None), bos).await;
    let issuer = Server::new(keycloak.issue("localhost").serving(Some(&clients)), |_| {
        json("200 OK", object!({"access_token": "t1", "expires_in": 300}))
    })
    .await;
    let own = clients.issue("crus");
    let log = folder.path().join("log");
    let mut command = serve(folder.path(), &hsm, &bos);
    command.env("CRUS_LOG", "warn").stderr(std::fs::File::create(&log).unwrap());
    let path = |name, text| put(folder.path(), name, text).to_str().unwrap().to_owned();
    for (option, value) in [
        ("--ca-file", path("keycloak.pem", &keycloak.pem)),
        ("--hsm-ca-file", path("smd.pem", &smd.pem)),
        ("--hsm-cert-file", path("own.pem", &own.cert)),
        ("--hsm-key-file", path("own-key.pem", &own.key)),
        ("--bos-ca-file", path("bos.pem", &bos_ca.pem)),
        ("--oauth-token-url", issuer.url.clone()),
        ("--oauth-client-id", "admin-client".to_owned()),
        ("--oauth-client-secret-file", path("secret", "s3cret")),
        ("--oauth-cert-file", path("own.pem", &own.cert)),
        ("--oauth-key-file", path("own-key.pem", &own.key)),
    ] {
        command.args([option, &value]);
    }
    let service = Service::start(command);
    service.create(&spec(8)).await;
    until("HSM and BOS asked", async || hsm.count() > 1 && bos.count() > 0).await;
    for request in hsm.requests().iter().chain(&bos.requests()) {
        assert_eq!(bearer(request), "t1", "{request}");
    }
    assert_eq!(issuer.count(), 1);

    // The CA of BOS is renewed: told while ours is the former one, and overcome once the file has changed.
    let next = Ca::new("bos");
    bos.show(next.issue("localhost").serving(None));
    let says = |text: &str| std::fs::read_to_string(&log).unwrap().contains(text);
    until("the peer told as one not to trust", async || says("of no CA that we trust")).await;
    let count = bos.count();
    put(folder.path(), "bos.pem", &next.pem);
    until("BOS asked again", async || bos.count() > count).await;
}

#[tokio::test]
async fn a_peers_own_token_goes_before_that_of_both() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Ca::new("platform");
    let tls = || platform.issue("localhost").serving(None);
    let (hsm, bos) = (Server::new(tls(), hsm).await, Server::new(tls(), bos).await);
    let mut command = serve(folder.path(), &hsm, &bos);
    let path = |name, text| put(folder.path(), name, text).to_str().unwrap().to_owned();
    command.args(["--ca-file", &path("ca.pem", &platform.pem), "--token-file", &path("token", "both\n")]);
    command.args(["--bos-token-file", &path("bos-token", "bos\n")]);
    let service = Service::start(command);
    service.create(&spec(8)).await;
    until("HSM and BOS asked", async || hsm.count() > 0 && bos.count() > 0).await;
    assert_eq!((bearer(&hsm.requests()[0]), bearer(&bos.requests()[0])), ("both", "bos"));

    put(folder.path(), "bos-token", "renewed\n");
    let renewed = async || bos.requests().last().is_some_and(|request| bearer(request) == "renewed");
    until("the new token", renewed).await;
}

/// A peer on the same host is reached by nobody in between.
#[test]
fn tokens_that_go_to_other_hosts_in_the_clear_are_warned_of() {
    let folder = tempfile::tempdir().unwrap();
    let token = put(folder.path(), "token", "t\n");
    let told = |hsm: &str, bos: &str, access: &[&str]| {
        let mut command = support::crus();
        command
            .args(["serve", "--auth", "off", "--hsm-url", hsm, "--bos-url", bos, "--log", "warn"])
            .args(access);
        // An address of nobody's: it ends at once.
        command.args(["--listen", "192.0.2.1:1", "--store"]).arg(folder.path().join("crus.redb"));
        let ended = command.output().unwrap();
        let told = String::from_utf8(ended.stderr).unwrap();
        assert!(told.contains("192.0.2.1:1"), "{told}");
        told
    };
    let (hsm, bos) = ("http://192.0.2.2/hsm", "http://192.0.2.3/bos/v2");
    let token = ["--token-file", token.to_str().unwrap()];
    let clear =
        |told: &str| ["hsm", "bos"].map(|peer| told.contains(&format!("tokens go to {peer} in the clear")));
    assert_eq!(clear(&told(hsm, bos, &token)), [true, true]);
    assert_eq!(clear(&told(hsm, "http://127.0.0.1:9/bos/v2", &token)), [true, false]);
    assert_eq!(clear(&told(hsm, bos, &[])), [false, false]);
}
