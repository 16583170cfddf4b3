use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::*;

/// How long something may take that must happen.
const LIMIT: Duration = Duration::from_secs(30);

/// Check commands that are shell scripts, each of which may use the folder `$1`.
struct Site {
    folder: tempfile::TempDir,
    checks: CommandChecks,
}

impl Site {
    fn new(scripts: &[(&str, &str)], timeout_ms: u64, max_checks: usize) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let command = |(name, script): &(&str, &str)| {
            let path = folder.path().join(name);
            fs::write(&path, script).unwrap();
            let words = ["sh", path.to_str().unwrap(), folder.path().to_str().unwrap()];
            (name.parse().unwrap(), words.map(str::to_owned).to_vec())
        };
        let commands = scripts.iter().map(command).collect();
        let checks = CommandChecks::new(CheckOptions { commands, timeout_ms, max_checks });
        Site { folder, checks }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Asks again and again until no check runs.
    async fn verdicts(&self, request: &CheckRequest) -> Vec<Verdict> {
        let begin = Instant::now();
        loop {
            let verdicts: Vec<_> =
                self.checks.judge(request).await.unwrap().into_iter().map(|(_, verdict)| verdict).collect();
            if !verdicts.contains(&Verdict::Running) {
                return verdicts;
            }
            assert!(begin.elapsed() < LIMIT, "{verdicts:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn request(name: &str, step: u32, nodes: u32) -> CheckRequest {
    CheckRequest {
        session: UpgradeId(uuid::Uuid::from_u128(7)),
        step,
        name: name.parse().unwrap(),
        nodes: (1..=nodes)
            .map(|n| (format!("x1000c0s{n}b0n0").parse().unwrap(), format!("nid{n:06}").parse().unwrap()))
            .collect(),
    }
}

fn failed(words: &str) -> Verdict {
    Verdict::Failed(words.to_owned())
}

async fn until(what: &str, met: impl Fn() -> bool) {
    let begin = Instant::now();
    while !met() {
        assert!(begin.elapsed() < LIMIT, "{what}: not so");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process runs; one that ended and was not waited for does not.
fn runs(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.trim()).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[tokio::test]
async fn a_program_is_told_which_node_and_nothing_of_our_environment() {
    let script = "printf '%s ' \"$2\" \"$3\" \"$#\" \"$CRUS_UPGRADE_ID\" \"$CRUS_XNAME\" \"$CRUS_NODE\" \"$CRUS_STEP\" \
                  >\"$1/told\"; env >\"$1/env\"; cat >\"$1/stdin\"; pwd >\"$1/pwd\"";
    let site = Site::new(&[("smoke", script)], 20_000, 8);
    assert_eq!(site.verdicts(&request("smoke", 3, 1)).await, [Verdict::Passed]);
    let id = uuid::Uuid::from_u128(7);
    let told = format!("x1000c0s1b0n0 nid000001 3 {id} x1000c0s1b0n0 nid000001 3 ");
    assert_eq!(site.read("told"), told);
    assert_eq!((site.read("stdin").as_str(), site.read("pwd").as_str()), ("", "/\n"));
    let known = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "SLURM_CONF", "PWD", "OLDPWD", "SHLVL", "_"];
    for line in site.read("env").lines() {
        let name = line.split('=').next().unwrap();
        assert!(known.contains(&name) || name.starts_with("CRUS_"), "{line}");
        assert!(!name.starts_with("CARGO"), "{line}");
    }
    assert!(
        std::env::vars().any(|(name, _)| name.starts_with("CARGO")),
        "there was something to keep from it"
    );
}

#[tokio::test]
async fn a_node_fails_with_the_first_line_that_was_printed() {
    let site = Site::new(
        &[
            ("words", "echo; echo '  memory: 12 GiB\tinstead of 512'; echo more; exit 3"),
            ("errors", "echo fine so far; echo 'no fan' >&2; exit 1"),
            ("silent", "exit 7"),
            ("killed", "kill -9 $$"),
            ("long", "head -c 5000 /dev/zero | tr '\\0' x; exit 1"),
            ("bytes", "printf '\\377\\001ab\\n'; exit 1"),
        ],
        20_000,
        8,
    );
    for (name, words) in [
        ("words", "memory: 12 GiB instead of 512 (exit status: 3)".to_owned()),
        ("errors", "no fan (exit status: 1)".to_owned()),
        ("silent", "it ended with exit status: 7".to_owned()),
        ("killed", "it ended with signal: 9 (SIGKILL)".to_owned()),
        ("long", format!("{} (exit status: 1)", "x".repeat(200))),
        ("bytes", "\u{fffd} ab (exit status: 1)".to_owned()),
    ] {
        let verdicts = site.verdicts(&request(name, 0, 1)).await;
        assert_eq!(verdicts, [failed(&words)], "{name}");
        site.checks.forget(request(name, 0, 1).session);
    }
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_what_it_started() {
    let script =
        "echo $$ >\"$1/$3.pid\"; sleep 600 & echo $! >\"$1/$3.child\"; echo 'waiting for the fabric'; wait";
    let site = Site::new(&[("hangs", script)], 400, 8);
    let words = "it did not end within 0.4 s: waiting for the fabric";
    assert_eq!(site.verdicts(&request("hangs", 0, 2)).await, [failed(words), failed(words)]);
    for file in ["nid000001.pid", "nid000001.child", "nid000002.pid", "nid000002.child"] {
        let pid = site.read(file);
        assert!(!pid.is_empty(), "{file}");
        until(file, || !runs(&pid)).await;
    }
}

#[tokio::test]
async fn a_program_that_leaves_something_behind_is_judged_by_its_own_end() {
    // What it leaves holds its output.
    let script = "sleep 600 & echo $! >\"$1/child\"; echo 'bad link'; exit 2";
    let site = Site::new(&[("leaves", script)], 20_000, 8);
    assert_eq!(site.verdicts(&request("leaves", 0, 1)).await, [failed("bad link (exit status: 2)")]);
    until("what it left is gone", || !runs(&site.read("child"))).await;
    // What gets away from us keeps the output open for as long as the folder is there, and is not waited for.
    let script = "setsid sh -c 'while [ -d \"$1\" ]; do sleep 0.1; done' sh \"$1\" & exit 0";
    let site = Site::new(&[("escapes", script)], 20_000, 8);
    let request = request("escapes", 0, 1);
    let verdicts = tokio::time::timeout(LIMIT, site.verdicts(&request)).await;
    assert_eq!(verdicts.unwrap(), [Verdict::Passed]);
}

#[tokio::test]
async fn a_program_that_prints_without_end_is_stopped() {
    let site = Site::new(
        &[("yes", "exec yes"), ("errors", "exec yes >&2"), ("much", "yes | head -c 900000")],
        20_000,
        8,
    );
    for (name, verdict) in [
        ("yes", failed("it printed more than 1048576 bytes")),
        ("errors", failed("it printed more than 1048576 bytes")),
        ("much", Verdict::Passed),
    ] {
        assert_eq!(site.verdicts(&request(name, 0, 1)).await, [verdict], "{name}");
        site.checks.forget(request(name, 0, 1).session);
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_run_fails_no_node_and_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("late");
    let words = vec![path.to_str().unwrap().to_owned()];
    let plain = folder.path().join("plain");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    let commands = [
        ("late".parse().unwrap(), words),
        ("plain".parse().unwrap(), vec![plain.to_str().unwrap().to_owned()]),
    ];
    let checks = CommandChecks::new(CheckOptions { commands: commands.into(), ..CheckOptions::default() });
    let site = Site { folder, checks };
    let trouble = async |name: &str| {
        let begin = Instant::now();
        loop {
            match site.checks.judge(&request(name, 0, 1)).await {
                Err(PortError::Unreachable { peer: Peer::Check, detail }) => return detail,
                other => assert_eq!(other.unwrap()[0].1, Verdict::Running),
            }
            assert!(begin.elapsed() < LIMIT);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let detail = trouble("late").await;
    let expected = format!(
        "late: failed to start {}: there is no such program, or not its interpreter; is its path right in \
         check_commands?",
        path.display()
    );
    assert_eq!(detail, expected);
    assert!(trouble("plain").await.contains("it may not be run"));
    std::os::unix::fs::symlink("/bin/true", &path).unwrap();
    assert_eq!(site.verdicts(&request("late", 0, 1)).await, [Verdict::Passed], "once it is there");

    let unknown = site.checks.judge(&request("other", 0, 1)).await.unwrap_err();
    assert!(matches!(unknown, PortError::Refused { peer: Peer::Check, .. }), "{unknown}");
}

#[tokio::test]
async fn no_more_run_at_a_time_than_may() {
    let script = "echo begin >>\"$1/calls\"; sleep 0.02; echo end >>\"$1/calls\"";
    let site = Site::new(&[("slow", script)], 20_000, 1);
    let first = site.checks.judge(&request("slow", 0, 5)).await.unwrap();
    assert!(first.iter().all(|(_, verdict)| *verdict == Verdict::Running), "it waits for none: {first:?}");
    assert_eq!(site.verdicts(&request("slow", 0, 5)).await, [const { Verdict::Passed }; 5]);
    assert_eq!(site.read("calls"), "begin\nend\n".repeat(5));
}

#[tokio::test]
async fn a_node_is_checked_once_in_a_step_and_anew_in_another_or_after_a_restart() {
    let script = "echo \"$CRUS_STEP\" >>\"$1/calls\"; exit 1";
    let site = Site::new(&[("once", script)], 20_000, 8);
    for _ in 0..3 {
        site.verdicts(&request("once", 0, 1)).await;
    }
    site.verdicts(&request("once", 1, 1)).await;
    assert_eq!(site.read("calls"), "0\n1\n");
    // Another process knows nothing of it.
    let again = CommandChecks::new(site.checks.options.clone());
    let site = Site { checks: again, ..site };
    site.verdicts(&request("once", 1, 1)).await;
    assert_eq!(site.read("calls"), "0\n1\n1\n");
    let mut other = request("once", 1, 1);
    other.session = UpgradeId(uuid::Uuid::from_u128(8));
    site.verdicts(&other).await;
    assert_eq!(site.read("calls"), "0\n1\n1\n1\n", "a session knows nothing of another's");
}

#[tokio::test]
async fn what_runs_is_killed_when_its_step_is_over_its_session_left_or_the_service_stops() {
    let script = "sleep 600 & echo $! >\"$1/$CRUS_STEP.child\"; echo $$ >\"$1/$CRUS_STEP.pid\"; wait";
    let site = Site::new(&[("hangs", script)], 600_000, 8);
    let begun = async |step: u32| {
        site.checks.judge(&request("hangs", step, 1)).await.unwrap();
        let file = format!("{step}.pid");
        until("it runs", || !site.read(&file).trim().is_empty()).await;
        [site.read(&file), site.read(&format!("{step}.child"))]
    };
    let gone = async |pids: [String; 2], why: &str| {
        assert!(pids.iter().all(|pid| !pid.is_empty()));
        until(why, || pids.iter().all(|pid| !runs(pid))).await;
    };
    let first = begun(0).await;
    let second = begun(1).await;
    gone(first, "another step began").await;
    assert!(second.iter().all(|pid| runs(pid)));
    site.checks.forget(request("hangs", 1, 1).session);
    gone(second, "the session was left").await;
    let third = begun(2).await;
    assert!(site.checks.stop(LIMIT).await, "all are gone");
    gone(third, "the service stops").await;
}
