//! Following a session: what is shown, what it ends with, and what a restart of the service does to it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Ended, ID, PATIENCE, UPGRADE, ask, at_work, crus, finish};
use crate::support::fake::{Fake, Held};

/// A command that runs.
struct Running {
    child: Child,
    lines: Receiver<String>,
    notes: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already, as the test wanted.
        if self.child.kill().is_ok() {
            self.child.wait().unwrap();
        }
    }
}

fn lines_of(source: impl Read + Send + 'static) -> Receiver<String> {
    let (tell, lines) = channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(source).lines().map_while(Result::ok);
        lines.into_iter().try_for_each(|line| tell.send(line))
    });
    lines
}

impl Running {
    fn start(mut command: Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Running { child, lines: lines_of(out), notes: lines_of(err) }
    }

    fn watch(fake: &Fake, options: &[&str]) -> Running {
        let mut command = crus(&[&["session", "watch", ID], options].concat());
        command.env("CRUS_URL", fake.url());
        Running::start(command)
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap()
    }

    #[track_caller]
    fn note(&self) -> String {
        self.notes.recv_timeout(PATIENCE).unwrap()
    }

    /// Its code, and what is left to read.
    #[track_caller]
    fn end(&mut self) -> (Option<i32>, Vec<String>, Vec<String>) {
        let begun = Instant::now();
        let code = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        (code, self.lines.iter().collect(), self.notes.iter().collect())
    }
}

fn watched(fake: &Fake) -> Ended {
    ask(fake, &["session", "watch", ID])
}

#[test]
fn each_event_is_a_line_and_the_code_tells_the_outcome() {
    for (outcome, code) in [([3, 0, 0], 0), ([2, 1, 0], 3), ([2, 0, 1], 3), ([0, 0, 0], 0)] {
        let fake = Fake::start(at_work());
        let mut watch = Running::watch(&fake, &[]);
        assert_eq!(watch.line(), "2026-11-24T10:31:07Z  started: 3 nodes to upgrade");
        assert_eq!(watch.line(), "2026-11-24T10:31:07Z  step 1: QUIESCING");
        assert_eq!(watch.line(), "2026-11-24T10:31:07Z  2 nodes draining: x1000c0s0b0n[0-1]");
        fake.with(|held| held.happen("message", &json!({ "text": "So far so good" })));
        assert_eq!(watch.line(), "2026-11-24T10:31:07Z  So far so good");
        let [upgraded, failed, skipped] = outcome;
        fake.with(|held| finish(held, upgraded, failed, skipped));
        let (ended, lines, notes) = watch.end();
        assert_eq!(ended, Some(code), "{outcome:?}");
        assert!(lines[0].contains("finished"), "{lines:?}");
        assert_eq!(lines.len(), 1);
        assert!(notes[0].starts_with(&format!("crus: session {ID} is done: ")), "{notes:?}");
        assert_eq!(watched(&fake).code, Some(code), "the same once it is done");
    }
}

#[test]
fn a_session_that_is_deleted_or_paused_ends_it_with_a_code_of_its_own() {
    let fake = Fake::start(at_work());
    let mut watch = Running::watch(&fake, &["--exit-on-pause"]);
    watch.line();
    let mut patient = Running::watch(&fake, &[]);
    patient.line();
    fake.with(|held| {
        held.progress["paused"] =
            json!({ "reason": "2 nodes failed, 1 may", "since": "2026-11-24T10:31:07.123Z" });
        held.happen("paused", &json!({ "reason": "2 nodes failed, 1 may" }));
        // It finishes the step in flight first.
        held.progress["counts"]["draining"] = json!(8);
    });
    assert_eq!(watch.note(), "crus: pausing: step 1 (8 nodes) is still in flight");
    assert!(watch.child.try_wait().unwrap().is_none());
    fake.with(|held| held.progress["counts"]["draining"] = json!(0));
    let (code, _, notes) = watch.end();
    assert_eq!(code, Some(5));
    assert_eq!(notes, [format!("crus: session {ID} is paused. 2 nodes failed, 1 may")]);
    assert_eq!(
        ask(&fake, &["session", "watch", ID, "--exit-on-pause"]).code,
        Some(5),
        "one that is paused already"
    );
    fake.with(|held| held.sessions.clear());
    let (code, _, notes) = patient.end();
    assert_eq!(code, Some(4));
    assert_eq!(notes, [format!("crus: session {ID} is gone: it was deleted")]);
    assert_eq!(watched(&fake).code, Some(1), "one that is not there is no deletion");
}

#[test]
fn a_finished_session_that_is_deleted_is_not_done_once_more() {
    let mut held = at_work();
    finish(&mut held, 3, 0, 0);
    held.set_state("DELETING", true);
    let fake = Fake::start(held);
    let mut watch = Running::watch(&fake, &[]);
    for _ in 0..4 {
        watch.line();
    }
    assert!(watch.child.try_wait().unwrap().is_none());
    fake.with(|held| held.sessions.clear());
    assert_eq!(watch.end().0, Some(4));
}

/// Something between that breaks each stream as soon as it has begun.
#[test]
fn streams_that_break_at_once_are_tried_ever_more_seldom_and_given_up() {
    for is_forgetful in [false, true] {
        let fake = Fake::start(Held { is_cut: true, is_forgetful, ..at_work() });
        let mut watch = Running::watch(&fake, &["--give-up-s", "3"]);
        let (code, lines, notes) = watch.end();
        assert_eq!(code, Some(1), "{notes:?}");
        assert_eq!(lines.len(), usize::from(is_forgetful), "{lines:?}");
        assert_eq!(notes.len(), 2, "lost once, and never back: {notes:?}");
        assert!(notes[1].starts_with("crus: gave up after 3 s: the connection to "), "{notes:?}");
        let tries = fake.asked(&format!("GET /session/{ID}/events")).len();
        assert!((3..20).contains(&tries), "{tries}");
    }
}

#[test]
fn where_no_stream_is_to_be_had_events_are_asked_for_and_the_end_is_seen() {
    let fake = Fake::start(Held { is_full: true, ..at_work() });
    let mut watch = Running::watch(&fake, &[]);
    for _ in 0..3 {
        watch.line();
    }
    fake.with(|held| finish(held, 3, 0, 0));
    let (code, lines, notes) = watch.end();
    assert_eq!((code, lines.len()), (Some(0), 1), "{lines:?}");
    assert_eq!(notes, [format!("crus: session {ID} is done: 3 upgraded")]);
}

#[test]
fn what_a_pause_says_is_not_said_again() {
    let fake = Fake::start(at_work());
    fake.with(|held| {
        for _ in 0..2 {
            held.happen("paused", &json!({ "reason": "2 nodes failed, 1 may" }));
            held.happen("message", &json!({ "text": "2 nodes failed, 1 may" }));
        }
    });
    let text = ask(&fake, &["session", "events", ID, "-o", "table"]).out;
    assert_eq!(text.matches("2 nodes failed, 1 may").count(), 2, "{text}");
}

/// Pauses and ends of the past are no news.
#[test]
fn a_session_that_was_resumed_and_retried_is_followed_on() {
    let mut held = at_work();
    held.happen("paused", &json!({ "reason": "Paused by an operator" }));
    held.happen("resumed", &json!({}));
    held.happen("finished", &json!({}));
    held.happen("retried", &json!({ "nodes": 1 }));
    let fake = Fake::start(held);
    let mut watch = Running::watch(&fake, &["--exit-on-pause"]);
    for _ in 0..6 {
        watch.line();
    }
    let last = watch.line();
    assert!(last.ends_with("1 node to be tried again"), "{last}");
    fake.with(|held| finish(held, 3, 0, 0));
    assert_eq!(watch.end().0, Some(0));
}

#[test]
fn create_with_wait_follows_the_new_session() {
    let fake = Fake::start(at_work());
    let mut command = crus(&[&["session", "create", "--wait"], UPGRADE.as_slice()].concat());
    command.env("CRUS_URL", fake.url());
    let mut create = Running::start(command);
    assert_eq!(create.line(), format!("created session {ID}"));
    assert!(create.line().ends_with("started: 3 nodes to upgrade"));
    fake.with(|held| finish(held, 2, 1, 0));
    assert_eq!(create.end().0, Some(3));
}

#[test]
fn delete_with_wait_ends_once_the_session_is_gone() {
    let fake = Fake::start(at_work());
    let mut command = crus(&["session", "delete", ID, "--yes", "--wait"]);
    command.env("CRUS_URL", fake.url());
    let mut delete = Running::start(command);
    while delete.line() != "}" {}
    fake.with(|held| held.sessions.clear());
    assert_eq!(delete.end().0, Some(0));
}

#[test]
fn events_as_json_and_toml_are_what_the_service_sent() {
    let mut held = at_work();
    finish(&mut held, 3, 0, 0);
    let fake = Fake::start(held);
    let events = fake.with(|held| held.events.clone());
    let json = ask(&fake, &["session", "watch", ID, "--format", "json"]);
    let lines: Vec<Value> = json.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, events);
    let toml = ask(&fake, &["session", "watch", ID, "--format", "toml"]).out;
    let table = serde_json::to_value(toml.parse::<toml::Table>().unwrap()).unwrap();
    assert_eq!(table["events"], json!(events));
}

/// A service keeps so many events and no more.
#[test]
fn events_that_are_not_kept_any_more_are_said_to_be_missing() {
    let mut held = at_work();
    held.events.drain(..2);
    let fake = Fake::start(held);
    let mut watch = Running::watch(&fake, &["--format", "json"]);
    let gap: Value = serde_json::from_str(&watch.line()).unwrap();
    assert_eq!(gap, json!({ "from": 1, "kind": "gap", "number": 2, "to": 2 }));
    let third: Value = serde_json::from_str(&watch.line()).unwrap();
    assert_eq!(third["number"], 3);
    fake.with(|held| held.sessions.clear());
    assert_eq!(watch.end().0, Some(4));
}

/// The service dies again and again: no event is missing, none comes twice.
#[test]
fn a_restart_of_the_service_is_said_and_loses_nothing() {
    restarts(false);
}

/// Something between that keeps headers to itself.
#[test]
fn events_that_come_again_are_shown_once() {
    restarts(true);
}

fn restarts(is_forgetful: bool) {
    let mut fake = Fake::start(Held { is_forgetful, ..at_work() });
    let mut watch = Running::watch(&fake, &["--format", "json"]);
    let mut seen = Vec::new();
    let number = |line: String| serde_json::from_str::<Value>(&line).unwrap()["number"].as_u64().unwrap();
    for round in 0..5_u64 {
        for expected in seen.len()..fake.with(|held| held.events.len()) {
            seen.push(number(watch.line()));
            assert_eq!(seen.len(), expected + 1);
        }
        fake.die();
        let lost = watch.note();
        assert!(lost.ends_with("; trying again until the service is back"), "{lost}");
        fake.with(|held| held.happen("message", &json!({ "text": format!("round {round}") })));
        fake.start_again();
        assert_eq!(watch.note(), format!("crus: connected to {} again", fake.url()));
        fake.with(|held| held.happen("message", &json!({ "text": "back" })));
    }
    fake.with(|held| finish(held, 3, 0, 0));
    let (code, lines, _) = watch.end();
    seen.extend(lines.into_iter().map(number));
    let all: Vec<u64> = (1..=seen.len() as u64).collect();
    assert_eq!((code, &seen), (Some(0), &all));
    assert_eq!(seen.len(), fake.with(|held| held.events.len()));
    let resumed = fake.asked(&format!("GET /session/{ID}/events"));
    assert!(resumed.iter().any(|asked| asked.last_event_id.as_deref() == Some("3")), "{resumed:?}");
}

#[test]
fn a_session_that_was_deleted_while_the_service_was_away_is_seen_to_be() {
    let mut fake = Fake::start(at_work());
    let mut watch = Running::watch(&fake, &[]);
    watch.line();
    fake.die();
    watch.note();
    fake.with(|held| held.sessions.clear());
    fake.start_again();
    let (code, _, notes) = watch.end();
    assert_eq!(code, Some(4), "{notes:?}");
    assert_eq!(notes.last().unwrap(), &format!("crus: session {ID} is gone: it was deleted"));
}

#[test]
fn a_service_that_stays_away_is_given_up() {
    let mut fake = Fake::start(at_work());
    let mut watch = Running::watch(&fake, &["--give-up-s", "1"]);
    watch.line();
    fake.die();
    let (code, _, notes) = watch.end();
    assert_eq!(code, Some(1));
    let last = notes.last().unwrap();
    assert!(last.starts_with("crus: gave up after 1 s: failed to connect"), "{last}");
    assert!(last.contains("The session goes on in the service"), "{last}");
}

#[test]
fn a_token_that_expires_meanwhile_is_said() {
    let mut fake = Fake::start(at_work());
    let mut watch = Running::watch(&fake, &[]);
    watch.line();
    fake.die();
    fake.with(|held| held.instead = Some((401, Vec::new(), String::new())));
    fake.start_again();
    let (code, _, notes) = watch.end();
    assert_eq!(code, Some(1));
    assert!(notes.last().unwrap().contains("wants a token (401)"), "{notes:?}");
}

#[test]
fn ctrl_c_ends_it_with_what_goes_on_and_asks_for_nothing() {
    let fake = Fake::start(at_work());
    let mut watch = Running::watch(&fake, &[]);
    for _ in 0..3 {
        watch.line();
    }
    let pid = watch.child.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
    let note = format!(
        "crus: the upgrade goes on; follow it with crus session watch {ID}, stop it with crus session delete {ID}"
    );
    assert_eq!(watch.end(), (Some(130), vec![], vec![note]));
    assert!(fake.with(|held| held.asked.iter().all(|asked| asked.what.starts_with("GET"))));
}

#[test]
fn a_reader_that_has_enough_ends_it_quietly() {
    let mut held = at_work();
    for _ in 0..20_000 {
        held.happen("message", &json!({ "text": "so it goes" }));
    }
    held.page = 500;
    let fake = Fake::start(held);
    for (verb, code) in [("watch", 141), ("events", 0)] {
        let mut command = crus(&["session", verb, ID, "--format", "table"]);
        command.env("CRUS_URL", fake.url());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        assert!(first.ends_with("started: 3 nodes to upgrade\n"), "{first}");
        let ended = child.wait_with_output().unwrap();
        assert_eq!(
            (ended.status.code(), String::from_utf8(ended.stderr).unwrap()),
            (Some(code), String::new()),
            "{verb}"
        );
    }
}

/// A service that knows sessions and none of what was added to the original's API.
#[test]
fn a_service_without_events_is_told_from_a_session_without_them() {
    let mut held = at_work();
    held.progress = Value::Null;
    held.is_original = true;
    let fake = Fake::start(held);
    let ended = watched(&fake);
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("does not tell progress and events"), "{}", ended.err);
    let described = ask(&fake, &["session", "describe", ID, "--format", "table"]);
    assert_eq!(described.code, Some(0), "what the original has can be used");
}

/// Runs it on a terminal that `script` makes; returns its code, and what was written to the terminal.
fn on_terminal(fake: &Fake, arguments: &str, typed: &str) -> (Option<i32>, String) {
    let line = format!("stty cols 100 rows 30; exec {} {arguments}", env!("CARGO_BIN_EXE_crus"));
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.env("CRUS_URL", fake.url()).env("TERM", "xterm").env("XDG_CONFIG_HOME", "/nowhere");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, typed.as_bytes()).unwrap();
    let mut text = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut text).unwrap();
    drop(input);
    (child.wait().unwrap().code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn on_a_terminal_it_is_a_picture() {
    let mut held = at_work();
    finish(&mut held, 2, 1, 0);
    let fake = Fake::start(held);
    let (code, text) = on_terminal(&fake, &format!("session watch {ID}"), "");
    assert_eq!(code, Some(3), "{text}");
    for part in
        ["slurm-nodes -> new-image", "upgraded", "##########", "nid000002", "job 17 of alice", "finished: "]
    {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(text.contains(&format!("session {ID} is done: 2 upgraded, 1 failed")), "{text}");
}

#[test]
fn on_a_terminal_a_deletion_is_asked_about() {
    let fake = Fake::start(at_work());
    let (code, text) = on_terminal(&fake, &format!("session delete {ID}"), "no\n");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("Delete session {ID} (slurm-nodes -> new-image, UPDATING)?")), "{text}");
    assert!(text.contains("nothing was deleted"), "{text}");
    assert_eq!(fake.asked(&format!("DELETE /session/{ID}")).len(), 0);
    let (code, text) = on_terminal(&fake, &format!("session delete {ID}"), "y\n");
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(fake.asked(&format!("DELETE /session/{ID}")).len(), 1);
}
