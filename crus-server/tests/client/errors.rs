//! What goes wrong is said in a sentence, with what to do about it.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use super::{Ended, ID, UPGRADE, ask, at_work, crus, run};
use crate::support::fake::{Fake, Held, problem_text};
use crate::support::port::Port;

fn instead(code: u16, kind: &str, body: &str) -> Fake {
    let headers = vec![("content-type", kind.to_owned())];
    Fake::start(Held { instead: Some((code, headers, body.to_owned())), ..at_work() })
}

fn refusing(code: u16, detail: &str) -> Fake {
    instead(code, "application/problem+json", &problem_text(code, detail, None))
}

#[track_caller]
fn check(ended: &Ended, code: i32, says: &[&str]) {
    assert_eq!((ended.code, ended.out.as_str()), (Some(code), ""), "{}", ended.err);
    assert!(ended.err.starts_with("crus: "), "{}", ended.err);
    for words in says {
        assert!(ended.err.contains(words), "{words:?} is not in {}", ended.err);
    }
}

#[test]
fn a_service_that_cannot_be_reached_is_told_by_why() {
    let port = Port::new();
    let nobody = run(crus(&["session", "list", "--url", &format!("http://{}", port.address)]));
    check(
        &nobody,
        1,
        &["failed to connect to http://127.0.0.1", "nobody listens there", "crus serve", "--url"],
    );
    let unknown = run(crus(&["session", "list", "--url", "http://no-such-host.invalid"]));
    check(&unknown, 1, &["the host no-such-host.invalid is not known", "--url"]);
    let plain = Fake::start(at_work());
    let tls = run(crus(&["session", "list", "--url", &plain.url().replace("http", "https")]));
    check(&tls, 1, &["does not speak TLS; is http:// meant?"]);
    let silent = Fake::start(Held { is_silent: true, ..at_work() });
    check(
        &ask(&silent, &["session", "list", "--timeout-s", "1"]),
        1,
        &["did not answer within 1 s", "--timeout-s"],
    );
    let create = [&["session", "create", "--timeout-s", "1"], UPGRADE.as_slice()].concat();
    check(
        &ask(&silent, &create),
        1,
        &["did not answer", "look with crus session list whether it was created"],
    );
}

#[test]
fn who_is_not_let_in_learns_which_token_was_sent_and_never_what_it_is() {
    let fake = refusing(401, "Who are you?");
    check(
        &ask(&fake, &["session", "list"]),
        1,
        &["wants a token (401)", "--token-file", "CRUS_CLIENT_TOKEN"],
    );
    let mut command = crus(&["session", "list"]);
    command.env("CRUS_URL", fake.url()).env("CRUS_CLIENT_TOKEN", "hunter2");
    let ended = run(command);
    check(&ended, 1, &["does not accept the token from CRUS_CLIENT_TOKEN (401)", "get a new one"]);
    assert!(!ended.err.contains("hunter2"));
    assert_eq!(fake.asked("GET /session")[1].authorization.as_deref(), Some("Bearer hunter2"));
    for status in [400, 403, 404, 409, 500] {
        let repeating = refusing(status, "Bearer hunter22, which you sent, is no good");
        let mut command = crus(&["session", "list"]);
        command.env("CRUS_URL", repeating.url()).env("CRUS_CLIENT_TOKEN", "hunter22");
        let ended = run(command);
        assert!(ended.err.contains("Bearer [hidden], which you sent"), "{}", ended.err);
        assert!(!ended.err.contains("hunter22"));
    }
    let forbidden = refusing(403, "You may only look.");
    check(
        &ask(&forbidden, &["session", "list"]),
        1,
        &["without a token (403): You may only look; ask for the right"],
    );
}

#[test]
fn a_token_that_others_may_read_is_not_sent() {
    let fake = Fake::start(at_work());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus/client.toml");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    std::fs::write(&path, format!("url = '{}'\ntoken = 'hunter2'\n", fake.url())).unwrap();
    let list = || {
        let mut command = crus(&["session", "list"]);
        command.env("XDG_CONFIG_HOME", folder.path());
        run(command)
    };
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    check(&list(), 2, &[&format!("run: chmod 600 {}", path.display())]);
    assert_eq!(fake.asked("GET /session").len(), 0);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(list().code, Some(0));
    assert_eq!(fake.asked("GET /session")[0].authorization.as_deref(), Some("Bearer hunter2"));
}

#[test]
fn a_token_is_read_anew_and_goes_nowhere_else() {
    let elsewhere = Fake::start(at_work());
    let headers = vec![("location", format!("{}/session", elsewhere.url()))];
    let fake = Fake::start(Held { instead: Some((302, headers, String::new())), ..at_work() });
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "first\n").unwrap();
    let list = || ask(&fake, &["session", "list", "--token-file", token.path().to_str().unwrap()]);
    check(&list(), 1, &["points elsewhere (302)", &elsewhere.url(), "--url"]);
    assert_eq!(elsewhere.with(|held| held.asked.len()), 0, "redirects are not followed");
    std::fs::write(token.path(), "").unwrap();
    check(&list(), 2, &["is empty"]);
    std::fs::remove_file(token.path()).unwrap();
    check(&list(), 2, &["failed to read the token file", "check the path"]);
    assert_eq!(fake.asked("GET /session").len(), 1);
}

#[test]
fn what_the_service_refuses_is_said_in_its_words() {
    let missing = refusing(404, "Requested resource does not exist. Re-run request with valid ID.");
    check(&ask(&missing, &["session", "describe", ID]), 1, &[&format!("has no session {ID} (404)"), "list"]);
    let fake = Fake::start(at_work());
    let conflict = json!({ "detail": "Step 3 is in flight. Retry once it is finished.", "status": 409,
        "title": "Conflict", "type": "about:blank" });
    // The session is found; the order is refused.
    let found = ask(&fake, &["session", "describe", ID]);
    assert_eq!(found.code, Some(0));
    fake.with(|held| {
        let headers = vec![("content-type", "application/problem+json".to_owned())];
        held.instead = Some((409, headers, conflict.to_string()));
    });
    check(
        &ask(&fake, &["session", "retry", ID]),
        1,
        &["refused (409): Step 3 is in flight. Retry once it is finished."],
    );
    let full = refusing(503, "There are 1000 sessions, as many as may be.");
    check(&ask(&full, &["session", "list"]), 1, &["failed to do it (503): There are 1000 sessions"]);
}

#[test]
fn wrong_values_are_named_by_their_options() {
    let errors = json!({
        "upgrade_step_size": ["is 0; it must be a whole number from 1 to 100000"],
        "strategy.min_in_service": ["names a partition that is not there"],
    });
    let text = problem_text(422, "Input data was understood, but failed validation.", Some(errors));
    let fake = instead(422, "application/problem+json", &text);
    let ended = ask(&fake, &[&["session", "create"], UPGRADE.as_slice()].concat());
    check(&ended, 2, &[]);
    let lines: Vec<&str> = ended.err.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "  --min-in-service names a partition that is not there",
            "  --upgrade-step-size is 0; it must be a whole number from 1 to 100000"
        ]
    );
}

/// Any server may answer with some JSON.
#[test]
fn an_order_counts_as_taken_only_by_a_session() {
    let create = [&["session", "create"], UPGRADE.as_slice()].concat();
    check(&ask(&instead(200, "application/json", "{\"ok\":true}"), &create), 1, &["not as CRUS does"]);
    let session = super::session(ID, "CREATED").to_string();
    check(&ask(&instead(200, "application/json", &session), &create), 1, &["not as CRUS does (200"]);
    check(
        &ask(&instead(201, "application/json", "{\"upgrade_id\":\"\"}"), &create),
        1,
        &["not as CRUS does"],
    );
    let broken = refusing(500, "The store is broken.");
    check(&ask(&broken, &create), 1, &["may be there all the same", "look with crus session list whether"]);
    for code in [502, 503, 504] {
        check(&ask(&refusing(code, "No answer in time."), &create), 1, &["may be there all the same"]);
    }
    let put_off = Fake::start(at_work());
    put_off.with(|held| {
        let headers =
            vec![("content-type", "application/problem+json".to_owned()), ("retry-after", "5".to_owned())];
        held.instead = Some((503, headers, problem_text(503, "All places are taken.", None)));
    });
    let refused = ask(&put_off, &create);
    check(&refused, 1, &["failed to do it (503): All places are taken."]);
    assert!(!refused.err.contains("may be there"), "{}", refused.err);
    let wrong_root = refusing(404, "Requested path does not exist.");
    check(&ask(&wrong_root, &["session", "list"]), 1, &["is it the right URL (from CRUS_URL)?"]);
}

#[test]
fn what_is_not_crus_is_told_from_it() {
    let html = instead(200, "text/html; charset=utf-8", "<html>Welcome</html>");
    check(&ask(&html, &["session", "list"]), 1, &["not as CRUS does (200, text/html)", "/apis/crus"]);
    let gateway = instead(404, "text/html", "<html>not found</html>");
    check(&ask(&gateway, &["session", "describe", ID]), 1, &["not as CRUS does (404, text/html)"]);
    // Nothing of an answer moves the cursor.
    let tricky = refusing(500, "\u{1b}[2Jboo");
    assert!(!ask(&tricky, &["session", "list"]).err.contains('\u{1b}'));
}
