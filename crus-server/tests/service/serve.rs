//! `crus serve` as a process: its first line, its end, and what is left after either kind of end.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::limits;
use crate::support::{self, NOWHERE, PATIENCE, Service, crus, path_of, spec, until};

fn serve(store: &Path) -> Command {
    support::serve(store, NOWHERE, NOWHERE, "0.05")
}

fn service_over(store: &Path) -> Service {
    Service::start(serve(store))
}

/// Runs a command that must end by itself.
fn output(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn it_says_where_it_listens_answers_and_ends_on_sigterm_and_sigint() {
    let directory = tempfile::tempdir().unwrap();
    for signal in ["TERM", "INT"] {
        let mut service = service_over(&directory.path().join("crus.redb"));
        assert!(service.url.starts_with("http://127.0.0.1:"), "{}", service.url);
        assert_eq!(service.get("/session").await, (200, json!([])));
        assert_eq!(service.get("/apis/crus/session").await, (200, json!([])));
        service.signal(signal);
        assert_eq!(service.end(), Some(0), "SIG{signal}");
    }
}

/// P9: nothing that it needs is there, and it says so and waits.
#[tokio::test]
async fn p9_sessions_survive_a_stop_a_kill_and_their_peers_absence() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("crus.redb");

    let mut service = service_over(&store);
    let (code, created) = service.post(&spec(8)).await;
    assert_eq!((code, &created["state"], &created["completed"]), (201, &json!("UPDATING"), &json!(false)));
    let path = path_of(&created);
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));

    let service = service_over(&store);
    let (code, found) = service.get(&path).await;
    assert_eq!((code, &found["upgrade_id"]), (200, &created["upgrade_id"]));
    let (_, second) = service.post(&spec(8)).await;
    service.kill();

    let service = service_over(&store);
    let (_, all) = service.get("/session").await;
    let ids: Vec<_> = all.as_array().unwrap().iter().map(|session| &session["upgrade_id"]).collect();
    assert_eq!(
        ids,
        [&created["upgrade_id"], &second["upgrade_id"]],
        "kill -9 loses nothing that was answered"
    );

    let (code, deleting) = service.delete(&path).await;
    assert_eq!((code, &deleting["state"]), (200, &json!("DELETING")));
    until("the session gone", async || service.get(&path).await.0 == 404).await;
}

/// Whatever is logged of a session names it: at the level of warnings, too, where its span might be left out.
#[tokio::test]
async fn the_story_of_a_session_can_be_filtered_out_of_the_log() {
    let directory = tempfile::tempdir().unwrap();
    for level in ["info", "warn"] {
        let log = directory.path().join(level);
        let mut command = serve(&directory.path().join("crus.redb"));
        command.args(["--log", level, "--log-format", "json"]);
        command.stderr(fs::File::create(&log).unwrap());
        let mut service = Service::start(command);
        let (_, created) = service.post(&spec(8)).await;
        let lines = || {
            let text = fs::read_to_string(&log).unwrap();
            let lines = text.lines().filter(|line| line.ends_with('}'));
            lines.map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        };
        let own = || lines().into_iter().filter(|line| line["upgrade_id"] == created["upgrade_id"]);
        until("a warning of this session", async || own().any(|line| line["level"] == "WARN")).await;
        assert_eq!(own().any(|line| line["message"] == "session created"), level == "info");
        service.signal("TERM");
        assert_eq!(service.end(), Some(0));
        for line in lines().iter().filter(|line| line["target"] == "crus_core::driver") {
            assert!(line["upgrade_id"].is_string() && line["step"].is_number(), "{line}");
        }
    }
}

/// Where the system has fewer files than the configuration counts on, too.
#[tokio::test]
async fn those_who_follow_sessions_leave_connections_for_others() {
    let directory = tempfile::tempdir().unwrap();
    let few = limits::wrapped("prlimit", &["--nofile=128:128"], &serve(&directory.path().join("crus.redb")));
    let service = Service::start(few);
    let path = service.create(&spec(8)).await;
    let client = reqwest::Client::new();
    let mut streams = Vec::new();
    let refused = loop {
        let request =
            client.get(format!("{}{path}/events", service.url)).header("accept", "text/event-stream");
        let answer = request.timeout(PATIENCE).send().await.unwrap();
        match answer.status().is_success() {
            true => streams.push(answer),
            false => break answer,
        }
    };
    assert_eq!(refused.status(), 503);
    assert_eq!(streams.len(), 32, "half of the 64 connections that there may be");
    assert_eq!(service.get(&path).await.0, 200);
}

#[test]
fn a_store_in_use_a_port_in_use_and_a_missing_directory_are_said_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("crus.redb");
    let service = service_over(&store);

    let (code, out, error) = output(&mut serve(&store));
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(error.ends_with("stop that one first, or choose another file with --store\n"), "{error}");

    let address = service.url.strip_prefix("http://").unwrap();
    let other = directory.path().join("other.redb");
    let (code, _, error) =
        output(crus().args(["serve", "--listen", address, "--auth", "off", "--store"]).arg(&other));
    assert_eq!(code, Some(1));
    assert!(error.contains(&format!("crus: failed to listen on {address} (choose another")), "{error}");

    let (code, _, error) = output(&mut serve(&directory.path().join("missing/crus.redb")));
    assert_eq!(code, Some(1));
    assert!(error.contains("mkdir -p"), "{error}");

    let (code, _, error) = output(&mut serve(directory.path()));
    assert_eq!(code, Some(1));
    assert_eq!(error.matches("Is a directory").count(), 1, "a cause is told once: {error}");
}

#[test]
fn wrong_options_are_refused_before_anything_is_touched() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("crus.redb");

    let (code, _, error) = output(serve(&store).args(["--boot-timeout-s", "soon"]));
    assert_eq!(code, Some(2));
    assert!(error.starts_with("crus: --boot-timeout-s has the wrong value \"soon\""), "{error}");

    let (code, _, error) = output(serve(&store).env("CRUS_SETTLE_S", "-1"));
    assert_eq!(code, Some(2));
    assert!(
        error.starts_with("crus: CRUS_SETTLE_S has the wrong value \"-1\" in the environment"),
        "{error}"
    );

    let file = directory.path().join("crus.toml");
    fs::write(&file, "tokenfile = 'x'").unwrap();
    let (code, _, error) = output(serve(&store).arg("--config").arg(&file));
    assert_eq!(code, Some(2));
    assert!(error.starts_with("crus: unknown option tokenfile in "), "{error}");

    assert_eq!(output(serve(&store).arg("--no-such-flag")).0, Some(2));
    assert!(!store.exists());
}

#[test]
fn help_tells_every_option_with_unit_default_and_variable() {
    let (code, help, _) = output(crus().args(["serve", "--help"]));
    assert_eq!(code, Some(0));
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for setting in crus_server::settings::all() {
        for part in [
            format!("--{} <{}>", setting.flag(), setting.value),
            format!("[default: {}]", setting.default),
            format!("[env: {}]", setting.variable()),
        ] {
            assert!(help.contains(&part), "{part}");
        }
    }
}

#[test]
fn options_that_do_not_fit_together_are_wrong_as_a_wrong_value_is() {
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("crus.redb");
    for (arguments, told) in [
        (
            ["--keep-finished", "5", "--max-sessions", "5"],
            "keep_finished is 5: it must be less than max_sessions",
        ),
        (
            ["--strategy", "{ check_command = 'x' }", "--log", "info"],
            "there is no check command of this name",
        ),
        (["--webhook-url", "http://127.0.0.1:1/", "--log", "info"], "webhook_secret_file go together"),
        (
            ["--tls-cert-file", "/nowhere/tls.crt", "--log", "info"],
            "tls_cert_file is set, and tls_key_file is not",
        ),
        (
            ["--max-streams", "9", "--max-connections", "9"],
            "max_streams is 9: it must be less than max_connections",
        ),
    ] {
        let (code, out, error) = output(serve(&store).args(arguments));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{error}");
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn the_options_in_force_can_be_printed() {
    let directory = tempfile::tempdir().unwrap();
    let (code, printed, _) = output(serve(&directory.path().join("crus.redb")).arg("--print-config"));
    assert_eq!(code, Some(0));
    assert!(printed.contains("poll_interval_s = \"0.05\"  # from the command line\n"), "{printed}");
    assert!(printed.contains("boot_timeout_s = \"5400\"  # from the default\n"), "{printed}");
}

/// The programs of the simulated Slurm are this one: what they say must be what Slurm says, not what clap says.
#[test]
fn the_stand_in_for_slurm_gets_its_arguments_as_they_are() {
    for arguments in [
        &["--sim=127.0.0.1:1", "squeue", "-h", "-o", "%i"],
        &["--sim=127.0.0.1:1", "scontrol", "show", "node", "-o"],
    ] as [&[&str]; 2]
    {
        let (code, out, error) = output(crus().arg("slurm-stand-in").args(arguments));
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert!(error.contains("Unable to contact slurm controller (connect failure)"), "{error}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for arguments in [["serve", "--help"], ["serve", "--print-config"]] {
        let mut child = crus().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert!(child.wait().unwrap().success(), "{arguments:?}: {error}");
        assert_eq!(error, "", "{arguments:?}");
    }
}
