//! What the guide names is there: options, commands, paths, metrics, and whatever else has a name with `_`.

use std::collections::BTreeSet;

use clap::Command;
use crus_server::docs::CHAPTERS;
use crus_server::{cli, settings};

use super::source::{literals, sources};
use super::{chapter, codes};

/// Names that belong to others.
const FOREIGN: &[&str] = &["crus_core"];

/// What stands between backticks in the guide and in the README, and where.
fn all_codes() -> Vec<(String, String)> {
    let readme = include_str!("../../../README.md");
    let pages = CHAPTERS.iter().copied().chain([("README.md", readme)]);
    pages.flat_map(|(name, text)| codes(text).into_iter().map(move |code| (name.to_owned(), code))).collect()
}

fn flags(command: &Command, found: &mut BTreeSet<String>) {
    found.extend(
        command.get_arguments().filter_map(|argument| argument.get_long()).map(|long| format!("--{long}")),
    );
    command.get_subcommands().for_each(|command| flags(command, found));
}

#[test]
fn every_command_and_flag_of_ours_is_there() {
    let mut root = cli::command();
    root.build();
    let mut known = BTreeSet::from(["--help".to_owned(), "--version".to_owned()]);
    flags(&root, &mut known);
    for (page, code) in all_codes() {
        let words: Vec<&str> = code.split_whitespace().collect();
        if words.first() != Some(&"crus") {
            if let Some(flag) = words.first().filter(|word| word.starts_with("--")) {
                let flag = flag.split('=').next().unwrap();
                assert!(known.contains(flag), "{page}: `{code}`: there is no flag {flag}");
            }
            continue;
        }
        let mut command = &root;
        let mut rest = words[1..].iter().peekable();
        while let Some(next) = rest.peek().and_then(|word| command.find_subcommand(word)) {
            command = next;
            rest.next();
        }
        assert!(
            command.get_subcommands().next().is_none()
                || rest.peek().is_none_or(|word| word.starts_with('-')),
            "{page}: `{code}`: crus {} has no such command",
            command.get_name()
        );
        let mut has = BTreeSet::from(["--help".to_owned(), "--version".to_owned()]);
        flags(command, &mut has);
        for flag in rest.filter(|word| word.starts_with("--")) {
            let flag = flag.split('=').next().unwrap();
            assert!(has.contains(flag), "{page}: `{code}` has no flag {flag}");
        }
    }
}

#[test]
fn every_path_of_ours_is_there() {
    let document: serde_json::Value = serde_json::from_str(crus_api::routes::OPENAPI).unwrap();
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    let first = |path: &str| path.split('/').nth(1).unwrap_or_default().to_owned();
    let ours: BTreeSet<String> = paths.iter().map(|path| first(path)).collect();
    for (page, code) in all_codes() {
        let path = code.split_whitespace().last().unwrap_or_default();
        let path = path.split('?').next().unwrap();
        let path = path.strip_prefix("/apis/crus").unwrap_or(path);
        if !path.starts_with('/') || !ours.contains(&first(path)) || path.contains('…') {
            continue;
        }
        let fits = |template: &&&String| {
            let (a, b) = (template.split('/'), path.split('/'));
            a.clone().count() == b.clone().count() && a.zip(b).all(|(a, b)| a == b || a.starts_with('{'))
        };
        assert!(paths.iter().any(|template| fits(&template)), "{page}: `{code}` is no path of the API");
    }
}

/// What an option means, its help tells; what it is for, and with which others it is used, the guide.
#[test]
fn the_guide_tells_of_every_option() {
    let pages: String = CHAPTERS.iter().map(|(_, text)| *text).collect();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let told: BTreeSet<&str> = pages.split(|c: char| !is_part(c)).collect();
    let missing: Vec<&str> =
        settings::all().map(|setting| setting.key).filter(|key| !told.contains(key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// Whatever is written `like_this`, or `CRUS_LIKE_THIS`, is an option, a property of the API, or stands so in the code.
#[test]
fn every_name_is_known_to_the_code() {
    let mut known: BTreeSet<String> =
        settings::all().flat_map(|setting| [setting.key.to_owned(), setting.variable()]).collect();
    let mut words = |text: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        known.extend(text.split(|c: char| !is_part(c)).filter(|word| word.contains('_')).map(str::to_owned));
    };
    words(crus_api::routes::OPENAPI);
    for (_, code) in sources(&["crus-core/src", "crus-clients/src", "crus-api/src", "crus-server/src"]) {
        literals(&code).iter().for_each(|literal| words(&literal.text));
    }
    // The chapter on metrics is held to what the service reports by a test of its own, and the others to it.
    known.extend(codes(chapter("metrics")));
    for (page, code) in all_codes() {
        let is_name = code.contains('_') && code.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if is_name && !code.starts_with('_') {
            assert!(known.contains(&code) || FOREIGN.contains(&&*code), "{page}: `{code}` is not known");
        }
    }
}
