//! The version, where it is told.

use std::path::Path;
use std::process::Command;

use crus_server::{COMMIT, IS_MODIFIED, LONG_VERSION, VERSION};

use crate::support::{crus, serve};

const CHANGELOG: &str = include_str!("../../CHANGELOG.md");

#[test]
fn the_binary_tells_its_version_and_its_commit() {
    let output = crus().arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (version, commit) = text.trim().split_once(" (commit ").unwrap();
    assert_eq!(version, format!("crus {VERSION}"));
    let commit = commit.strip_suffix(')').unwrap();
    let bare = commit.strip_suffix(", modified").unwrap_or(commit);
    let is_commit = bare.len() == 12 && bare.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(is_commit || commit == "unknown", "{text}");
    assert!(COMMIT == "unknown" || COMMIT.len() == 12);
    assert_eq!(LONG_VERSION.contains(", modified)"), IS_MODIFIED);
}

/// Where this is a repository: from an archive there is no commit to be found.
#[test]
fn the_commit_is_one_of_this_repository() {
    let known = |commit: &str| {
        let asked = Command::new("git")
            .args(["cat-file", "-e", &format!("{commit}^{{commit}}")])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        asked.is_ok_and(|output| output.status.success())
    };
    if known("HEAD") {
        assert!(known(COMMIT), "{COMMIT}");
    }
}

#[test]
fn the_first_line_of_the_log_tells_the_version() {
    // That it finds no folder for its store ends it at once.
    let mut command = serve(Path::new("/nowhere/crus.redb"), "http://127.0.0.1:9", "http://127.0.0.1:9", "1");
    let output = command.env("CRUS_LOG", "info").output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.lines().next().unwrap().contains(&format!(" crus {LONG_VERSION} starts")), "{log}");
}

#[test]
fn the_changelog_begins_with_this_version_and_tells_how_to_come_to_it() {
    let entries: Vec<&str> = CHANGELOG.split("\n## ").skip(1).collect();
    let released = entries.iter().find(|entry| !entry.starts_with("[Unreleased]")).unwrap();
    let (heading, text) = released.split_once('\n').unwrap();
    let date = heading.strip_prefix(&format!("[{VERSION}] - ")).unwrap_or_else(|| panic!("{heading}"));
    date.parse::<jiff::civil::Date>().unwrap_or_else(|error| panic!("{heading}: {error}"));
    assert!(text.contains("\n### Upgrade notes\n"), "what an entry must tell");
    let format = format!("format {}", crus_core::stored::FORMAT);
    assert!(text.contains(&format), "the stored form of this version: {format}");
    for entry in entries {
        for section in entry.lines().filter_map(|line| line.strip_prefix("### ")) {
            assert!(SECTIONS.contains(&section), "{section}");
        }
    }
}

/// Those of Keep a Changelog, and what there is besides.
const SECTIONS: [&str; 9] = [
    "Added",
    "Changed",
    "Deprecated",
    "Removed",
    "Fixed",
    "Security",
    "Upgrade notes",
    "Changed from the original",
    "Fixed since the original",
];
