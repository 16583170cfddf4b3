//! The service as a process: what it asks, what it answers, and what it writes down.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use reqwest::Client;
use serde_json::Value;

use super::command::line_of;
use crate::support::issuer::{Issuer, Key, claims, encoded};
use crate::support::{NOWHERE, Service, crus, serve, spec, until};

const ADA: &str = "crus_ada-0123456789-0123456789-0123456789";
const BOB: &str = "crus_bob-0123456789-0123456789-0123456789";

async fn send(service: &Service, method: &str, path: &str, token: &str) -> (u16, Value, String) {
    let mut request = Client::new().request(method.parse().unwrap(), format!("{}{path}", service.url));
    if !token.is_empty() {
        request = request.bearer_auth(token);
    }
    if method == "POST" {
        request = request.json(&spec(8));
    }
    let answer = request.send().await.unwrap();
    let challenge = answer.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
    (answer.status().as_u16(), answer.json().await.unwrap(), challenge.unwrap_or_default())
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn without_any_good_token_it_does_not_start_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store.redb");
    let run = |arguments: &[&str]| {
        let output = serve(&store, NOWHERE, NOWHERE, "1").args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = run(&["--auth", "on"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("crus token new") && error.contains("auth_jwks"), "{error}");
    assert!(!store.exists(), "nothing was touched");
    let (code, error) = run(&["--auth", "on", "--auth-jwks", "https://issuer.example/certs"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("auth_jwks needs auth_issuer"), "{error}");
    let (code, error) = run(&["--auth", "maybe"]);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("it must be on or off"), "{error}");
}

#[test]
fn a_demo_that_can_be_reached_from_elsewhere_is_told_whether_to_ask() {
    let output = crus().args(["serve", "--demo", "--listen", "0.0.0.0:0"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("--auth off"), "{error}");
}

#[tokio::test]
async fn off_is_warned_of_and_asks_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = serve(&folder.path().join("store.redb"), NOWHERE, NOWHERE, "1");
    command.env("CRUS_LOG", "info").args(["--auth", "off"]).stderr(fs::File::create(&log).unwrap());
    let service = Service::start(command);
    assert_eq!(send(&service, "GET", "/session", "").await.0, 200);
    assert_eq!(send(&service, "POST", "/session", "whatever").await.0, 201);
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("authentication is off") && log.contains("can reboot nodes"), "{log}");
    assert!(log.contains("audit: done") && !log.contains("whatever"), "{log}");
}

/// All that tokens go through, with everything logged that can be: not one of them is there.
#[tokio::test]
async fn no_token_is_in_any_log_or_answer_whatever_is_done_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (log, audit, tokens) =
        (folder.path().join("log"), folder.path().join("audit"), folder.path().join("tokens"));
    fs::write(&tokens, format!("{}\n{}\n", line_of("ada", "operate", ADA), line_of("bob", "read", BOB)))
        .unwrap();
    let (issuer, key) = (Issuer::start().await, Key::p256("one"));
    issuer.publish(&[&key]);
    let mut command = serve(&folder.path().join("store.redb"), NOWHERE, NOWHERE, "1");
    command.env("CRUS_LOG", "trace").args(issuer.arguments()).stderr(fs::File::create(&log).unwrap());
    command.arg("--auth-token-file").arg(&tokens).arg("--audit-file").arg(&audit).args(["--auth", "on"]);
    let mut service = Service::start(command);

    let forged = Key::p256("one").token(&claims("eve", &["crus-operate"]));
    let unknown = Key::p256("two").token(&claims("eve", &["crus-operate"]));
    let none = format!(
        "{}.{}.",
        encoded(r#"{"alg":"none"}"#),
        encoded(claims("eve", &["crus-operate"]).to_string())
    );
    let operator = key.token(&claims("grace", &["crus-operate"]));
    let reader = key.token(&claims("alan", &["crus-read"]));
    let nobody = key.token(&claims("eve", &["user"]));
    let long = "l0ng".repeat(3300);
    let cases: [(&str, &str, &str, u16); 14] = [
        ("GET", "/session", "", 401),
        ("GET", "/session", ADA, 200),
        ("GET", "/session", BOB, 200),
        ("GET", "/session", &operator, 200),
        ("GET", "/session", &reader, 200),
        ("GET", "/session", &nobody, 403),
        ("POST", "/session", ADA, 201),
        ("POST", "/session", BOB, 403),
        ("POST", "/session", &reader, 403),
        ("POST", "/session", &forged, 401),
        ("POST", "/session", &unknown, 401),
        ("POST", "/session", &none, 401),
        ("POST", "/session", &long, 401),
        ("POST", "/session", &operator, 201),
    ];
    for (method, path, token, status) in cases {
        let (got, answer, challenge) = send(&service, method, path, token).await;
        assert_eq!(got, status, "{method} {path}: {answer}");
        assert_eq!(
            challenge.starts_with("Bearer realm=\"crus\""),
            matches!(status, 401 | 403),
            "{challenge}"
        );
        assert!(token.is_empty() || !(answer.to_string() + &challenge).contains(token));
    }
    for open in ["/healthz", "/openapi.json"] {
        assert_eq!(send(&service, "GET", open, "").await.0, 200);
    }
    // The file changes, into a broken one.
    fs::write(&tokens, format!("{BOB}\n{}\n", line_of("bob", "read", BOB))).unwrap();
    until("the broken file", async || {
        fs::read_to_string(&log).unwrap().contains("failed to read the file of tokens")
    })
    .await;
    assert_eq!(send(&service, "GET", "/session", ADA).await.0, 200);
    // ada's token is taken away.
    fs::write(&tokens, format!("{}\n", line_of("bob", "read", BOB))).unwrap();
    until("the token is gone", async || send(&service, "GET", "/session", ADA).await.0 == 401).await;

    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    let log = fs::read_to_string(&log).unwrap();
    assert!(log.contains("TRACE") && log.contains("audit: refused"), "all is logged");
    assert!(log.contains("line 1: it must be a name"), "the broken line is named");
    let noted = fs::read_to_string(&audit).unwrap();
    for token in [ADA, BOB, &forged, &unknown, &none, &operator, &reader, &nobody, &long] {
        for part in token.split('.').filter(|part| part.len() > 20) {
            assert!(!log.contains(part), "a token, or a part of it, is in the log");
            assert!(!noted.contains(part), "a token, or a part of it, is in the audit log");
        }
    }
}

#[tokio::test]
async fn who_changed_what_and_who_was_refused_is_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, tokens) = (folder.path().join("audit"), folder.path().join("tokens"));
    fs::write(&tokens, format!("{}\n{}\n", line_of("ada", "operate", ADA), line_of("bob", "read", BOB)))
        .unwrap();
    let mut command = serve(&folder.path().join("store.redb"), NOWHERE, NOWHERE, "1");
    command.arg("--auth-token-file").arg(&tokens).arg("--audit-file").arg(&audit).args(["--auth", "on"]);
    let mut service = Service::start(command);
    let (_, created, _) = send(&service, "POST", "/session", ADA).await;
    let id = created["upgrade_id"].as_str().unwrap();
    let path = format!("/apis/crus/session/{id}");
    send(&service, "GET", &path, BOB).await;
    send(&service, "DELETE", &path, BOB).await;
    send(&service, "POST", &format!("{path}/pause"), ADA).await;
    until("three lines", async || lines(&audit).len() == 3).await;
    // Moved away, as logrotate does.
    fs::rename(&audit, folder.path().join("audit.1")).unwrap();
    send(&service, "DELETE", &path, ADA).await;
    until("a new file", async || lines(&audit).len() == 1).await;
    let first = lines(&folder.path().join("audit.1"));
    let told: Vec<String> = first
        .iter()
        .chain(&lines(&audit))
        .map(|line| {
            assert!(line["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
            assert!(line["remote"].as_str().unwrap().starts_with("127.0.0.1:"));
            assert_eq!(line["upgrade_id"], id);
            assert!(line["source"].as_str().unwrap().starts_with("file /"));
            let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
            format!(
                "{} {} {} {} {} {}",
                text("who"),
                text("role"),
                text("method"),
                text("path"),
                line["status"],
                text("refused")
            )
        })
        .collect();
    let expected = [
        "ada operate POST /session 201 -",
        "bob read DELETE /session/{upgrade_id} 403 it needs the role operate",
        "ada operate POST /session/{upgrade_id}/pause 200 -",
        "ada operate DELETE /session/{upgrade_id} 200 -",
    ];
    assert_eq!(told, expected);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&audit).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
}

/// Who did what is kept with the session, also over a restart.
#[tokio::test]
async fn who_did_what_is_kept_with_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    fs::write(&tokens, format!("{}\n{}\n", line_of("ada", "operate", ADA), line_of("bob", "operate", BOB)))
        .unwrap();
    let serve = || {
        let mut command = serve(&folder.path().join("store.redb"), NOWHERE, NOWHERE, "0.05");
        command.arg("--auth-token-file").arg(&tokens).args(["--auth", "on"]);
        Service::start(command)
    };
    let service = serve();
    let (_, created, _) = send(&service, "POST", "/session", ADA).await;
    assert!(created.get("created_by").is_none(), "the documented answer stays as it is");
    let path = format!("/session/{}", created["upgrade_id"].as_str().unwrap());
    assert_eq!(send(&service, "POST", &format!("{path}/pause"), BOB).await.0, 200);
    let progress = format!("{path}/progress");
    until("it is paused", async || send(&service, "GET", &progress, ADA).await.1["paused_by"] == "bob").await;
    let events = send(&service, "GET", &format!("{path}/events"), ADA).await.1;
    let paused = events["events"].as_array().unwrap().iter().find(|event| event["kind"] == "paused");
    assert_eq!(paused.unwrap()["by"], "bob");
    service.kill();

    let service = serve();
    let told = send(&service, "GET", &progress, ADA).await.1;
    assert_eq!((&told["created_by"], &told["paused_by"]), (&"ada".into(), &"bob".into()), "{told}");
    let mut describe = crus();
    describe.args(["session", "describe", "-o", "table", path.rsplit('/').next().unwrap()]);
    describe.env("CRUS_URL", &service.url).env("CRUS_CLIENT_TOKEN", ADA).env("HOME", folder.path());
    let shown = String::from_utf8(describe.output().unwrap().stdout).unwrap();
    assert!(shown.contains("Created by") && shown.contains("(by bob)"), "{shown}");
}

/// Thousands of refusals are some lines and a number.
#[tokio::test]
async fn a_flood_of_refusals_does_not_fill_the_disk_nor_hide_who_changes_something() {
    let folder = tempfile::tempdir().unwrap();
    let (audit, tokens) = (folder.path().join("audit"), folder.path().join("tokens"));
    fs::write(&tokens, line_of("ada", "operate", ADA)).unwrap();
    let mut command = serve(&folder.path().join("store.redb"), NOWHERE, NOWHERE, "1");
    command.arg("--auth-token-file").arg(&tokens).arg("--audit-file").arg(&audit).args(["--auth", "on"]);
    let mut service = Service::start(command);
    let client = Client::new();
    for _ in 0..300 {
        let answer = client.get(format!("{}/session", service.url)).bearer_auth(BOB).send().await.unwrap();
        assert_eq!(answer.status(), 401);
    }
    assert_eq!(send(&service, "POST", "/session", ADA).await.0, 201);
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    let lines = lines(&audit);
    assert!(lines.len() < 100, "{} lines", lines.len());
    assert!(lines.iter().any(|line| line["who"] == "ada" && line["status"] == 201));
    let single = lines.iter().filter(|line| line["status"] == 401).count() as u64;
    let more: u64 = lines.iter().filter_map(|line| line["more"].as_u64()).sum();
    assert_eq!(single + more, 300, "all are counted");
}

/// What the client says to one who may not.
#[tokio::test]
async fn the_client_says_what_to_do_about_a_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    let other = "crus_other-0123456789-0123456789-0123456789";
    fs::write(&tokens, format!("{}\n{}", line_of("bob", "read", BOB), line_of("grace", "operate", other)))
        .unwrap();
    let mut command = serve(&folder.path().join("store.redb"), NOWHERE, NOWHERE, "1");
    command.arg("--auth-token-file").arg(&tokens).args(["--auth", "on"]);
    let service = Service::start(command);
    let ask = |token: Option<&str>, arguments: &[&str]| {
        let mut command = crus();
        command.arg("session").args(arguments).env("CRUS_URL", &service.url).env("HOME", folder.path());
        if let Some(token) = token {
            command.env("CRUS_CLIENT_TOKEN", token);
        }
        let output = command.stdout(Stdio::piped()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let created = send(&service, "POST", "/session", other).await.1;
    let id = created["upgrade_id"].as_str().unwrap();
    let (code, error) = ask(None, &["list"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("CRUS_CLIENT_TOKEN"), "{error}");
    let (code, error) = ask(Some(ADA), &["list"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("The token is not known") && !error.contains(ADA), "{error}");
    let (code, error) = ask(Some(BOB), &["pause", id]);
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.contains("This needs the role operate; the token of bob has read; ask for the right"),
        "{error}"
    );
    assert_eq!(ask(Some(BOB), &["list"]).0, Some(0));
}
