//! The service as the unit runs it, as far as that can be had without systemd: as an unprivileged user without any
//! capability, on a root that is read-only but for its own folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{MUCH_PATIENCE, PATIENCE, binary, spec, until_within};

/// A number that no user has here.
const USER: u32 = 64_951;

/// Where the state is, as seen by the service.
const STATE: &str = "/var/lib/crus";

/// What systemd does for `ProtectSystem=strict`, `StateDirectory=`, `PrivateTmp=`, `User=`, `NoNewPrivileges=` and
/// `CapabilityBoundingSet=`. The arguments: the binary, the folder for the state, the user, the socket to notify at, and what
/// to run in front.
const SANDBOX: &str = r#"
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
cp "$1" /mnt/crus
: >/mnt/notify
mount --bind "$4" /mnt/notify
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir /var/lib/crus
mount --bind "$2" /var/lib/crus
mount -t tmpfs -o mode=1777 tmpfs /tmp
# Those on top of others come later: the innermost is made read-only first.
awk '{ print $5 }' /proc/self/mountinfo | sort -r | uniq | while read -r place; do
    case "$place" in
        /var/lib/crus | /tmp | /proc* | /sys* | /dev*) ;;
        *) mount -o remount,bind,ro "$place" 2>/dev/null || true ;;
    esac
done
cd /
exec setpriv --reuid "$3" --regid "$3" --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all \
    env -i PATH=/usr/bin:/bin NOTIFY_SOCKET=/mnt/notify CRUS_LOG=info \
    /mnt/crus serve --demo --listen 127.0.0.1:0 --store /var/lib/crus/crus.redb
"#;

/// Ends with the test.
struct Sandboxed(Child);

impl Drop for Sandboxed {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            self.0.wait().unwrap();
        }
    }
}

fn start(state: &Path, notify: &Path, log: &Path) -> (Sandboxed, String) {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", SANDBOX, "sandbox"])
        .arg(binary())
        .arg(state)
        .arg(USER.to_string())
        .arg(notify);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(log).unwrap());
    let mut service = Sandboxed(command.spawn().unwrap());
    let mut lines = BufReader::new(service.0.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap_or_else(|| panic!("{}", fs::read_to_string(log).unwrap())).unwrap();
    // Whoever prints must have a reader.
    std::thread::spawn(move || lines.for_each(drop));
    (service, first.strip_prefix("listening on ").unwrap().to_owned())
}

/// A line of `/proc/PID/status`.
fn status(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name}")).trim().to_owned()
}

/// The mounts that a process sees that may be written to.
fn writable(pid: u32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let mounts = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    // Of several at one place, the last is on top.
    let mounts: BTreeMap<&str, bool> =
        mounts.map(|fields| (fields[4], fields[5].split(',').any(|option| option == "rw"))).collect();
    let is_kernel = |place: &str| ["/proc", "/sys", "/dev"].iter().any(|kernel| place.starts_with(kernel));
    mounts.into_iter().filter(|(place, rw)| *rw && !is_kernel(place)).map(|(place, _)| place.into()).collect()
}

/// 64 nodes: drained, rebooted and returned, by way of HSM, BOS and the programs of Slurm.
async fn upgrade(url: &str) {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
    let created = client.post(format!("{url}/session")).json(&spec(64)).send().await.unwrap();
    assert_eq!(created.status(), 201);
    let created: Value = created.json().await.unwrap();
    let session = format!("{url}/session/{}", created["upgrade_id"].as_str().unwrap());
    until_within(MUCH_PATIENCE, "the upgrade's end", async || {
        let now: Value = client.get(&session).send().await.unwrap().json().await.unwrap();
        now["completed"] == true
    })
    .await;
    let progress: Value =
        client.get(format!("{session}/progress")).send().await.unwrap().json().await.unwrap();
    assert_eq!(progress["counts"]["upgraded"], 63, "{progress}");
}

/// The system calls that the unit allows: those of these sets of systemd's, without those of the others.
fn allowed() -> BTreeSet<String> {
    let output = Command::new("systemd-analyze").args(["syscall-filter"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut sets = BTreeMap::<&str, Vec<&str>>::new();
    let mut current = "";
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with('#')) {
        if line.starts_with('@') {
            current = line.trim();
        } else {
            sets.entry(current).or_default().push(line.trim());
        }
    }
    fn calls<'a>(sets: &BTreeMap<&'a str, Vec<&'a str>>, set: &str) -> BTreeSet<&'a str> {
        let members = sets[set].iter();
        members
            .flat_map(|name| if name.starts_with('@') { calls(sets, name) } else { [*name].into() })
            .collect()
    }
    let service = calls(&sets, "@system-service");
    let taken: BTreeSet<&str> =
        ["@privileged", "@resources"].into_iter().flat_map(|set| calls(&sets, set)).collect();
    service.difference(&taken).map(|name| (*name).to_owned()).collect()
}

/// As `SystemCallFilter=` and `RestrictAddressFamilies=` of the unit have it, seen by what is called, not by what is denied.
#[tokio::test]
async fn an_upgrade_makes_no_system_call_that_the_unit_forbids() {
    if crus_sim::left_out("strace and systemd-analyze") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let calls = folder.path().join("calls");
    let mut command = Command::new("strace");
    command.args(["--follow-forks", "--quiet=all", "--output"]).arg(&calls).arg(binary());
    command
        .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--store"])
        .arg(folder.path().join("crus.redb"));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("CRUS_LOG", "error");
    // What is traced is slow; the demo's own time-outs are for a fast cluster.
    for time_out in ["CRUS_BOOT_TIMEOUT_S", "CRUS_RETURN_TIMEOUT_S", "CRUS_CALL_TIMEOUT_S"] {
        command.env(time_out, MUCH_PATIENCE.as_secs().to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut service = Sandboxed(command.spawn().expect("strace is missing: apt-get install strace"));
    let mut lines = BufReader::new(service.0.stdout.take().unwrap()).lines();
    let url = lines.next().unwrap().unwrap().strip_prefix("listening on ").unwrap().to_owned();
    std::thread::spawn(move || lines.for_each(drop));
    upgrade(&url).await;
    // The tracer hands a signal on to nobody: its child is told.
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", service.0.id())).unwrap();
    let stopped =
        Command::new("kill").args(["-s", "TERM", children.split(' ').next().unwrap()]).status().unwrap();
    assert!(stopped.success() && service.0.wait().unwrap().success());

    let text = fs::read_to_string(&calls).unwrap();
    // `1234 openat(AT_FDCWD, …`; a call that another thread interrupts goes on in a line of its own.
    let call = |line: &str| {
        Some(line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start().split_once('(')?.0.to_owned())
    };
    let is_name = |name: &String| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let made: BTreeSet<String> = text.lines().filter_map(call).filter(is_name).collect();
    for expected in ["execve", "socket", "accept4", "fdatasync"] {
        assert!(made.contains(expected), "{expected} was not seen: {made:?}");
    }
    let allowed = allowed();
    let forbidden: Vec<&String> = made.difference(&allowed).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
    for line in text.lines().filter(|line| line.contains(" socket(") || line.contains(" socketpair(")) {
        assert!(["AF_UNIX", "AF_INET,", "AF_INET6"].iter().any(|family| line.contains(family)), "{line}");
    }
    // MemoryDenyWriteExecute=
    assert!(!text.contains("PROT_WRITE|PROT_EXEC"), "memory that is written to is not run");
}

#[tokio::test]
async fn an_upgrade_runs_as_an_unprivileged_user_with_a_read_only_root() {
    if crus_sim::left_out("to be root, and unshare and setpriv of util-linux") {
        return;
    }
    assert_eq!(
        status(std::process::id(), "Uid").split('\t').nth(1),
        Some("0"),
        "only root can take privileges away"
    );
    let folder = tempfile::tempdir().unwrap();
    let (state, notify, log) =
        (folder.path().join("state"), folder.path().join("notify"), folder.path().join("log"));
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(USER), Some(USER)).unwrap();
    let manager = UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    fs::set_permissions(&notify, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let heard = || {
        let mut bytes = [0; 64];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };

    let (mut service, url) = start(&state, &notify, &log);
    let pid = service.0.id();
    assert_eq!(heard(), "READY=1");
    let user = USER.to_string();
    assert_eq!(status(pid, "Uid").split('\t').collect::<Vec<_>>(), [&*user; 4]);
    assert_eq!(status(pid, "Gid").split('\t').collect::<Vec<_>>(), [&*user; 4]);
    assert_eq!(status(pid, "Groups"), "");
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(writable(pid), [Path::new("/tmp"), Path::new(STATE)]);

    upgrade(&url).await;

    let kill = Command::new("kill").args(["-s", "TERM", &pid.to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(heard(), "STOPPING=1");
    assert!(service.0.wait().unwrap().success());
    let mut left: Vec<String> = fs::read_dir(&state)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(
        left.first().map(String::as_str),
        Some("crus.redb"),
        "its state is where it belongs: {left:?}"
    );
}
