//! No secret of the service is in anything that it shows: the real process, with every secret that there is, logs all that
//! it can, among peers that repeat what they are sent in every way.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json as object;

use super::credentials;
use crate::support::{self, Service, path_of, spec, until};
use crus_sim::testing::pki::{Ca, Pair, put};
use crus_sim::testing::server::{Answer, Server, json};

const HSM_TOKEN: &str = "hsm-tok3n.AAAA_BBBB-CCCC";
const CLIENT_SECRET: &str = "cl1ent-s3cret";
const ISSUED: &str = "issu3d-tok3n";
const HOOK_PATH: &str = "h00k-p4th";
const HOOK_SECRET: &str = "h00k-s3cret";
/// Of somebody who may all, and of somebody who is not known.
const CALLER_TOKEN: &str = "call3r-tok3n-0123456789-0123456789-0123456789";
const STRANGERS_TOKEN: &str = "strang3r-tok3n-0123456789-0123456789-0123";

/// How many ways there are to repeat a token.
const WAYS: usize = 12;

/// What a server that got this says, in one of many ways.
fn repeating(way: usize, got: &str) -> Answer {
    let raw = |text: String| Answer::Raw(format!("HTTP/1.1 {text}"));
    // As JSON may spell it.
    let escaped = format!(
        "\\u{:04x}{}",
        u32::from(got.chars().next().unwrap_or('x')),
        got.get(1..).unwrap_or_default()
    );
    match way {
        0 => json("401 Unauthorized", object!({"detail": format!("{got} is bad")})),
        1 => json("403 Forbidden", object!({"title": got, "detail": got, "error": got})),
        2 => json("400 Bad Request", format!(r#"{{"detail":"no {escaped}","error":"{escaped}"}}"#)),
        3 => json("404 Not Found", object!({"title": got, "detail": format!("No such thing: {got}")})),
        4 => {
            raw(format!("302 Found\r\nLocation: http://127.0.0.1:1/{got}?{got}\r\nContent-Length: 0\r\n\r\n"))
        }
        5 => raw(format!("500 {got}\r\nX-{got}: {got}\r\nContent-Length: {}\r\n\r\n{got}", got.len())),
        6 => raw(format!("200 OK\r\nContent-Length: {}\r\n\r\n{got}", got.len())),
        7 => raw(format!("{got} {got}\r\n{got}\r\n\r\n")),
        8 => {
            json("200 OK", object!({"members": got, "Components": got, "access_token": [got], "status": got}))
        }
        9 => json("200 OK", object!({"members": {"ids": [got, 1]}, "access_token": {"x": got}})),
        10 => json(
            "200 OK",
            object!({"members": {"ids": [got, "x1000c0s0b0n0"]}, "token_type": got, "access_token": "x"}),
        ),
        _ => json("200 OK", object!(got)),
    }
}

/// Repeats the header or form that a secret came with, in every way in turn, and then goes on as it should.
fn at_first_repeating(then: impl Fn(&str) -> Answer + Send + Sync) -> impl Fn(&str) -> Answer + Send + Sync {
    let count = AtomicUsize::new(0);
    move |request| {
        let header = request.lines().find_map(|line| line.strip_prefix("authorization: "));
        let got = header.map(|header| header.trim_start_matches("Bearer ").to_owned());
        let body = request.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        match count.fetch_add(1, Ordering::Relaxed) {
            way if way < WAYS => repeating(way, &got.or(body).unwrap_or_default()),
            _ => then(request),
        }
    }
}

/// A receiver of webhooks that repeats what it got.
async fn receiver(ca: &Ca) -> Server {
    let count = AtomicUsize::new(0);
    Server::new(ca.issue("localhost").serving(None), move |request| {
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        repeating(count.fetch_add(1, Ordering::Relaxed) % (WAYS / 2), &path)
    })
    .await
}

/// What the file of callers' tokens holds: hashes.
fn callers() -> String {
    let mut hash = support::crus();
    hash.args(["token", "hash", "--name", "ada", "--role", "operate"]);
    hash.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut hashing = hash.spawn().unwrap();
    hashing.stdin.take().unwrap().write_all(CALLER_TOKEN.as_bytes()).unwrap();
    String::from_utf8(hashing.wait_with_output().unwrap().stdout).unwrap()
}

struct Site {
    folder: tempfile::TempDir,
    hsm: Server,
    bos: Server,
    issuer: Server,
    hook: Server,
    own: Pair,
}

impl Site {
    async fn new() -> Self {
        let ca = Ca::new("platform");
        let serving = || ca.issue("localhost").serving(None);
        let hsm = Server::new(serving(), at_first_repeating(credentials::hsm)).await;
        let missing = || json("404 Not Found", object!({"detail": "Sessiontemplate could not be found"}));
        let bos = Server::new(serving(), at_first_repeating(move |_| missing())).await;
        let number = AtomicUsize::new(0);
        let issued = move |_: &str| {
            let token = format!("{ISSUED}-{}", number.fetch_add(1, Ordering::Relaxed));
            json("200 OK", object!({"access_token": token, "expires_in": 1}))
        };
        // Some of the ways: after each it is left alone for longer.
        let issuer = Server::new(serving(), at_first_repeating_some(issued)).await;
        let hook = receiver(&ca).await;
        let folder = tempfile::tempdir().unwrap();
        let site = Site { own: ca.issue("crus"), folder, hsm, bos, issuer, hook };
        for (name, text) in [
            ("ca.pem", ca.pem.as_str()),
            ("own.pem", &site.own.cert),
            ("own-key.pem", &site.own.key),
            ("hsm-token", HSM_TOKEN),
            ("client-secret", CLIENT_SECRET),
            ("hook-secret", HOOK_SECRET),
            ("callers", &callers()),
        ] {
            put(site.path(), name, text);
        }
        let file = |name: &str| site.path().join(name).display().to_string();
        let hook_url = site.hook.url.replace("/api", &format!("/{HOOK_PATH}?key={HOOK_PATH}"));
        let config = [
            ("listen", "127.0.0.1:0".to_owned()),
            ("store", file("crus.redb")),
            ("poll_interval_s", "0.02".to_owned()),
            ("retry_max_s", "0.1".to_owned()),
            ("hsm_url", site.hsm.url.clone()),
            ("bos_url", site.bos.url.clone()),
            ("scontrol", "/nowhere/slurm".to_owned()),
            ("squeue", "/nowhere/slurm".to_owned()),
            ("ca_file", file("ca.pem")),
            ("hsm_token_file", file("hsm-token")),
            ("hsm_cert_file", file("own.pem")),
            ("hsm_key_file", file("own-key.pem")),
            ("oauth_token_url", site.issuer.url.clone()),
            ("oauth_client_id", "admin-client".to_owned()),
            ("oauth_client_auth", "client_secret_basic".to_owned()),
            ("oauth_client_secret_file", file("client-secret")),
            ("webhook_url", hook_url),
            ("webhook_secret_file", file("hook-secret")),
            ("webhook_ca_file", file("ca.pem")),
            ("webhook_retry_max_s", "0.1".to_owned()),
            ("auth_token_file", file("callers")),
            ("audit_file", file("audit")),
            ("log", "trace".to_owned()),
        ];
        let lines = config.map(|(key, value)| format!("{key} = '{value}'\n"));
        put(site.path(), "crus.toml", &lines.concat());
        site
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn crus(&self, args: &[&str]) -> Command {
        let mut command = support::crus();
        command.args(args).arg("--config").arg(self.path().join("crus.toml"));
        command
    }

    /// Fails when any secret is in the text.
    fn holds_none(&self, what: &str, text: &str) {
        let basic = BASE64_STANDARD.encode(format!("admin-client:{CLIENT_SECRET}"));
        let key = self.own.key.lines().nth(1).unwrap();
        // Of which an escaped spelling lacks the first character.
        let secrets =
            [HSM_TOKEN, CLIENT_SECRET, ISSUED, HOOK_PATH, HOOK_SECRET, CALLER_TOKEN, STRANGERS_TOKEN]
                .map(|secret| &secret[1..]);
        for secret in secrets.into_iter().chain([basic.trim_end_matches('='), key]) {
            let Some(at) = text.find(secret) else { continue };
            let line = text[..at].rfind('\n').map_or(0, |start| start + 1);
            panic!("{secret:?} is in {what}: {}", text[line..].lines().next().unwrap());
        }
    }
}

fn at_first_repeating_some(
    then: impl Fn(&str) -> Answer + Send + Sync,
) -> impl Fn(&str) -> Answer + Send + Sync {
    let count = AtomicUsize::new(0);
    move |request| {
        let header = request.lines().find_map(|line| line.strip_prefix("authorization: Basic "));
        let got = header.unwrap_or_default();
        match count.fetch_add(1, Ordering::Relaxed) {
            0 => json(
                "401 Unauthorized",
                object!({"error": "invalid_client", "error_description": format!("{CLIENT_SECRET} {got}")}),
            ),
            1 => repeating(8, got),
            2 => repeating(4, CLIENT_SECRET),
            3 => repeating(6, CLIENT_SECRET),
            _ => then(request),
        }
    }
}

/// What the process says while it works, in one form of the log.
async fn works_and_shows_nothing(log_format: &str) {
    let site = Site::new().await;
    let log = site.path().join("log");
    let mut command = site.crus(&["serve", "--log-format", log_format]);
    command.stderr(fs::File::create(&log).unwrap());
    let mut service = Service::start(command);
    let client = reqwest::Client::new();
    let ask = async |path: &str| {
        let mut text = String::new();
        for token in [CALLER_TOKEN, STRANGERS_TOKEN] {
            let request = client.get(format!("{}{path}", service.url)).bearer_auth(token);
            text += &request.send().await.unwrap().text().await.unwrap();
        }
        text
    };
    let create = client.post(format!("{}/session", service.url)).bearer_auth(CALLER_TOKEN).json(&spec(8));
    let created = create.send().await.unwrap();
    assert_eq!(created.status(), 201);
    let created = created.json().await.unwrap();
    let path = path_of(&created);
    let mut shown = String::new();
    until("all the ways to repeat a secret", async || {
        for below in ["", "/progress", "/events", "/nodes"] {
            shown += &ask(&format!("{path}{below}")).await;
        }
        // BOS is asked no more once it has answered in JSON that the template is there.
        site.hsm.count() > WAYS
            && site.bos.count() > 8
            && site.issuer.count() > 4
            && site.hook.count() > WAYS / 2
    })
    .await;
    for path in ["/session", "/openapi.json", "/metrics", "/readyz", "/healthz", "/nothing", "/session/%00"] {
        shown += &ask(path).await;
    }
    site.holds_none("an answer of the API", &shown);
    for file in ["cmdline", "comm"] {
        let text = fs::read(format!("/proc/{}/{file}", service.pid())).unwrap();
        site.holds_none(file, &String::from_utf8_lossy(&text));
    }
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));

    let said = fs::read_to_string(&log).unwrap();
    // The looks that failed are in it, and what was repeated in them is not.
    for part in ["TRACE", "bad credentials", "failed to get a token from", "[hidden]"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    site.holds_none("the log", &said);
    let audit = fs::read_to_string(site.path().join("audit")).unwrap();
    assert!(audit.contains("ada"), "{audit}");
    site.holds_none("the audit log", &audit);
    let (store, store_file) =
        (site.path().join("crus.redb"), fs::read(site.path().join("crus.redb")).unwrap());
    site.holds_none("the store's file", &String::from_utf8_lossy(&store_file));
    let mut dump = support::crus();
    dump.args(["store", "dump", "--store"]).arg(&store);
    for (what, mut command) in
        [("the dump", dump), ("--print-config", site.crus(&["serve", "--print-config"]))]
    {
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{what}: {output:?}");
        site.holds_none(what, &String::from_utf8_lossy(&output.stdout));
        site.holds_none(what, &String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn nothing_that_the_service_shows_holds_a_secret() {
    works_and_shows_nothing("text").await;
}

#[tokio::test]
async fn nothing_that_the_service_shows_holds_a_secret_with_a_log_for_machines() {
    works_and_shows_nothing("json").await;
}

/// What is wrong is told without what may be a secret in it, wherever it was given.
#[tokio::test]
async fn a_start_that_fails_shows_no_secret() {
    let site = Site::new().await;
    for args in [
        &["--hsm-url", "https://me:h00k-s3cret@hsm/v2"][..],
        &["--hsm-url", "https://hsm/v2?key=h00k-s3cret"],
        &["--etcd-endpoints", "https://me:h00k-s3cret@a:1"],
        &["--etcd-endpoints", "https://a:1?h00k-s3cret,https://b:1?h00k-s3cret"],
        &["--oauth-token-url", "https://keycloak/token?client_secret=h00k-s3cret"],
        &["--webhook-url", "https://hooks/h00k-s3cret#x"],
        &["--webhook-url", "h00k-s3cret"],
    ] {
        let mut command = site.crus(&["serve"]);
        let output = command.args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && !said.is_empty(), "{args:?}: {output:?}");
        site.holds_none("the reason", &said);
    }
    for (file, text) in
        [("own-key.pem", "-----BEGIN h00k-s3cret-----\nh00k-s3cret"), ("own.pem", &site.own.key)]
    {
        let kept = fs::read_to_string(site.path().join(file)).unwrap();
        put(site.path(), file, text);
        let output = site.crus(&["serve"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("hsm_key_file"), "{file}: {output:?}");
        site.holds_none("the reason", &said);
        put(site.path(), file, &kept);
    }
}
