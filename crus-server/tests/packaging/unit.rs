//! The systemd unit: what it allows, and that it fits the service.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crus_server::settings::{self, Config};

use crate::support::{binary, crus};

const UNIT: &str = include_str!("../../packaging/systemd/crus.service");
const SYSUSERS: &str = include_str!("../../packaging/systemd/sysusers.conf");
const TMPFILES: &str = include_str!("../../packaging/systemd/tmpfiles.conf");

/// What systemd's own measure of exposure may be at most: 0 is locked up, 100 is wide open.
const EXPOSURE: u32 = 15;

/// The directives of a unit, each with its values in their order.
fn directives(unit: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut directives = BTreeMap::<&str, Vec<&str>>::new();
    for line in unit.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, value)) = line.split_once('=') {
            directives.entry(name).or_default().push(value);
        }
    }
    directives
}

/// The unit with every line in force that is offered behind a `#`.
fn with_all_offers() -> String {
    let offered = |line: &str| {
        let word =
            line.strip_prefix('#').and_then(|line| line.split_once('=')).map(|(name, _)| name.to_owned());
        word.is_some_and(|name| name.chars().all(|c| c.is_ascii_alphabetic()))
    };
    UNIT.lines().map(|line| if offered(line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
}

/// What systemd says to a unit, in a folder of its own. `None` where real peers are not wanted.
fn systemd_analyze(unit: &str, arguments: &[&str]) -> Option<Output> {
    if crus_sim::left_out("systemd-analyze") {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.service");
    // It is not installed here.
    fs::write(&path, unit.replace("/usr/bin/crus", binary().to_str().unwrap())).unwrap();
    let mut command = Command::new("systemd-analyze");
    let output =
        command.args(arguments).arg(&path).env("LC_ALL", "C").env("SYSTEMD_LOG_LEVEL", "info").output();
    Some(
        output.unwrap_or_else(|error| {
            panic!("systemd-analyze does not run ({error}): apt-get install systemd")
        }),
    )
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[test]
fn systemd_finds_no_mistake_in_the_unit() {
    for unit in [UNIT.to_owned(), with_all_offers()] {
        let Some(output) = systemd_analyze(&unit, &["verify", "--man=no"]) else { return };
        assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
    }
    // It would say so if there were one, and end well all the same.
    let output = systemd_analyze(&UNIT.replace("PrivateTmp=yes", "PrivateTemp=yes"), &["verify", "--man=no"]);
    assert!(text(&output.unwrap()).contains("Unknown key 'PrivateTemp'"));
}

#[test]
fn systemd_finds_the_service_little_exposed() {
    let bound = format!("--threshold={EXPOSURE}");
    let Some(output) = systemd_analyze(UNIT, &["security", "--offline=true", &bound]) else { return };
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("Overall exposure level for crus.service: 1."), "{}", text(&output));
    let exposed =
        UNIT.replace("CapabilityBoundingSet=\n", "").replace("SystemCallFilter=@system-service\n", "");
    let output = systemd_analyze(&exposed, &["security", "--offline=true", &bound]).unwrap();
    assert!(!output.status.success(), "the bound means something");
}

#[test]
fn the_unit_takes_all_privileges_away() {
    let unit = directives(UNIT);
    for (name, values) in [
        ("User", &["crus"][..]),
        ("NoNewPrivileges", &["yes"]),
        ("CapabilityBoundingSet", &[""]),
        ("AmbientCapabilities", &[""]),
        ("ProtectSystem", &["strict"]),
        ("ProtectHome", &["yes"]),
        ("StateDirectory", &["crus"]),
        ("UMask", &["0077"]),
        ("MemoryDenyWriteExecute", &["yes"]),
        ("RestrictAddressFamilies", &["AF_UNIX AF_INET AF_INET6"]),
        ("SystemCallFilter", &["@system-service", "~@privileged @resources"]),
        ("SystemCallArchitectures", &["native"]),
        ("RestrictNamespaces", &["yes"]),
        ("PrivateTmp", &["yes"]),
        ("PrivateDevices", &["yes"]),
    ] {
        assert_eq!(unit.get(name).map(Vec::as_slice), Some(values), "{name}");
    }
    let user = SYSUSERS.lines().find(|line| line.starts_with("u ")).unwrap();
    assert!(user.starts_with("u crus ") && user.ends_with(" /usr/sbin/nologin"), "{user}");
    assert!(TMPFILES.contains("d /etc/crus/secrets 0700 root root -"), "{TMPFILES}");
}

/// Of the time until systemd kills, and what the service takes to end.
#[test]
fn the_unit_gives_the_service_the_time_that_it_takes_to_stop() {
    let unit = directives(UNIT);
    let seconds = |name: &str| unit[name][0].parse::<u64>().unwrap();
    let shutdown_s = Config::default().shutdown_timeout_ms / 1000;
    assert!(seconds("TimeoutStopSec") >= shutdown_s + 10);
    assert_eq!(unit["KillMode"], ["mixed"], "a call under way is not cut off by the signal to the service");
    assert_eq!((unit["Type"][0], unit["NotifyAccess"][0]), ("notify", "main"));
    // What it ends with when its configuration is wrong.
    assert_eq!(unit["RestartPreventExitStatus"], ["2"]);
    let wrong = crus().args(["serve", "--poll-interval-s", "soon"]).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn every_variable_and_path_of_the_unit_is_one_of_an_option() {
    let unit = with_all_offers();
    let unit = directives(&unit);
    let credentials: Vec<&str> =
        unit["LoadCredential"].iter().map(|value| value.split_once(':').unwrap().0).collect();
    assert!(credentials.len() > 3, "{credentials:?}");
    for value in &unit["Environment"] {
        let (variable, value) = value.split_once('=').unwrap();
        let setting = settings::all().find(|setting| setting.variable() == variable);
        let setting = setting.unwrap_or_else(|| panic!("{variable} is none of an option"));
        if let Some(name) = value.strip_prefix("%d/") {
            assert!(setting.key.ends_with("_file"), "{variable}");
            assert!(credentials.contains(&name), "{name} is not loaded");
        }
    }
    let [start] = unit["ExecStart"][..] else { panic!("one ExecStart") };
    assert_eq!(start, "/usr/bin/crus serve --config /etc/crus/crus.toml");
    let store = Config::default().store;
    assert!(store.starts_with(Path::new("/var/lib").join(unit["StateDirectory"][0])), "{store:?}");
}
