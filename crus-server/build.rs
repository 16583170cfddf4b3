//! Finds out which commit this is, for `crus --version`.
//!
//! `CRUS_COMMIT` says it where there is no repository, such as in a build from an archive; without either it is unknown.
//! A development build asks anew only when a source of it changes; a release build with each commit, too.

use std::env;
use std::path::Path;
use std::process::Command;

/// Says which commit it is, where git cannot: 7 to 40 hex digits, with `-modified` behind them if it is not just that.
const OVERRIDE: &str = "CRUS_COMMIT";

/// What is behind a commit that is not all of it.
const MODIFIED: &str = "-modified";

/// How much of a commit's name is shown.
const SHOWN: usize = 12;

/// What the binary is made of, as seen from this folder.
const SOURCES: [&str; 13] = [
    "build.rs",
    "src",
    "Cargo.toml",
    "../Cargo.lock",
    "../Cargo.toml",
    "../crus-api/Cargo.toml",
    "../crus-api/src",
    "../crus-clients/Cargo.toml",
    "../crus-clients/src",
    "../crus-core/Cargo.toml",
    "../crus-core/src",
    "../crus-sim/Cargo.toml",
    "../crus-sim/src",
];

fn main() {
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    // What is not there would make every build one anew.
    for source in SOURCES.iter().filter(|source| Path::new(source).exists()) {
        println!("cargo::rerun-if-changed={source}");
    }
    let said = env::var(OVERRIDE).ok().filter(|text| !text.is_empty());
    let found = match &said {
        None => from_git(),
        Some(text) => match read(text) {
            Some(commit) => Some(commit),
            None => {
                println!(
                    "cargo::error={OVERRIDE} is {text:?}: it must be 7 to 40 lower-case hex digits, with {MODIFIED} \
                     behind them if what is built is not just that commit"
                );
                return;
            }
        },
    };
    let (commit, is_modified) = found.unwrap_or_else(|| ("unknown".to_owned(), false));
    let behind = if is_modified { ", modified" } else { "" };
    println!("cargo::rustc-env=CRUS_BUILT_COMMIT={commit}");
    println!("cargo::rustc-env=CRUS_BUILT_MODIFIED={behind}");
}

/// The commit, cut short, and whether there is more to it.
fn read(text: &str) -> Option<(String, bool)> {
    let (commit, is_modified) = text.strip_suffix(MODIFIED).map_or((text, false), |commit| (commit, true));
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    ((7..=40).contains(&commit.len()) && commit.bytes().all(is_hex))
        .then(|| (commit[..commit.len().min(SHOWN)].to_owned(), is_modified))
}

/// None where there is no git, or no repository of ours: an archive may be unpacked within somebody else's.
fn from_git() -> Option<(String, bool)> {
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    if env::var("PROFILE").is_ok_and(|profile| profile == "release") {
        let branch = git(&["symbolic-ref", "--quiet", "HEAD"]).unwrap_or_default();
        for name in ["HEAD", branch.as_str(), "packed-refs"].iter().filter(|name| !name.is_empty()) {
            if let Some(path) =
                git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists())
            {
                println!("cargo::rerun-if-changed={path}");
            }
        }
    }
    let commit = git(&["rev-parse", "HEAD"])?;
    let changed = git(&[&["status", "--porcelain", "--"][..], &SOURCES].concat())?;
    read(&commit).map(|(commit, _)| (commit, !changed.is_empty()))
}

/// What git says. It is kept from writing: others may be at work in this repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("--no-optional-locks").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
