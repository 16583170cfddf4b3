//! Every text that people read has its entry in the guide, word for word: `…` stands for what is filled in.

use std::collections::BTreeSet;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::source::{literals, shape, source, sources};
use super::{chapter, codes};

/// What is in the module of messages and is none by itself.
const PARTS: &[&str] = &["step ", "Step ", "1 node", "… nodes", "cancelled", "requeued", "; … "];

#[track_caller]
fn all_are_told(texts: &BTreeSet<String>) {
    let told: BTreeSet<String> = codes(chapter("messages")).into_iter().collect();
    let missing: Vec<&String> = texts.iter().filter(|text| !told.contains(*text)).collect();
    assert!(
        missing.is_empty(),
        "crus-server/docs/messages.md says nothing of these, or words them in another way:\n{}",
        missing.iter().map(|text| format!("`{text}`\n")).collect::<String>()
    );
}

/// What is said in words that others chose, or that are put together of several texts of the code.
const FROM_ELSEWHERE: &[&str] = &[
    // Slurm's own.
    "Not responding",
    "Node unexpectedly rebooted",
    // The original's.
    "upgrade-session-deleted-before-completion",
];

/// What stands in the first column of the tables of the guide's chapter on messages, behind the one that tells where to look.
fn entries() -> Vec<String> {
    let (_, tables) = chapter("messages").split_once("\n## ").unwrap();
    let (mut entries, mut column) = (Vec::new(), 0);
    for event in Parser::new_ext(tables, Options::ENABLE_TABLES) {
        match event {
            // Of the head nothing is taken.
            Event::Start(Tag::TableHead) => column = 1,
            Event::Start(Tag::TableRow) => column = 0,
            Event::End(TagEnd::TableCell) => column += 1,
            Event::Code(code) if column == 0 => entries.push(code.to_string()),
            _ => {}
        }
    }
    entries
}

#[test]
fn every_entry_of_the_guide_is_a_text_of_the_service() {
    let folders = ["crus-core/src", "crus-clients/src", "crus-api/src", "crus-server/src"];
    let mut texts = BTreeSet::new();
    for (_, code) in sources(&folders) {
        texts.extend(literals(&code).iter().map(|literal| shape(&literal.text)));
    }
    let entries = entries();
    assert!(entries.len() > 150, "{entries:?}");
    let dead: Vec<&String> = entries
        .iter()
        .filter(|entry| !texts.contains(*entry) && !FROM_ELSEWHERE.contains(&entry.as_str()))
        .collect();
    assert!(
        dead.is_empty(),
        "crus-server/docs/messages.md explains what nothing says:\n{}",
        dead.iter().map(|text| format!("`{text}`\n")).collect::<String>()
    );
}

/// Whether a text says something by itself.
fn is_text(text: &str) -> bool {
    !PARTS.contains(&text) && text.chars().filter(|c| c.is_alphabetic()).count() >= 4
}

#[test]
fn every_message_condition_and_reason_is_explained() {
    let code = source("crus-core/src/messages.rs");
    let (texts, _) = code.split_once("// ---- helpers").unwrap();
    let texts: BTreeSet<String> =
        literals(texts).iter().map(|literal| shape(&literal.text)).filter(|text| is_text(text)).collect();
    assert!(texts.len() > 50, "{texts:?}");
    all_are_told(&texts);
}

#[test]
fn every_refusal_of_an_order_is_explained() {
    let code = source("crus-core/src/commands.rs");
    let (_, refusals) = code.split_once("pub enum NotNow {").unwrap();
    let (refusals, _) = refusals.split_once("\n}\n").unwrap();
    all_are_told(&literals(refusals).iter().map(|literal| shape(&literal.text)).collect());
}

#[test]
fn every_error_of_a_peer_and_every_problem_of_the_api_is_explained() {
    let ports = source("crus-core/src/ports.rs");
    let (_, errors) = ports.split_once("pub enum PortError {").unwrap();
    let (errors, _) = errors.split_once("\n}\n").unwrap();
    let mut texts: BTreeSet<String> = literals(errors).iter().map(|literal| shape(&literal.text)).collect();
    let problems = source("crus-api/src/problem.rs");
    let is_sentence = |text: &String| text.contains(' ') && text.ends_with('.');
    texts.extend(literals(&problems).iter().map(|literal| shape(&literal.text)).filter(is_sentence));
    assert!(texts.len() > 12, "{texts:?}");
    all_are_told(&texts);
}

#[test]
fn every_warning_and_error_in_the_log_is_explained() {
    let folders = ["crus-core/src", "crus-clients/src", "crus-api/src", "crus-server/src"];
    let mut texts = BTreeSet::new();
    for (_, code) in sources(&folders) {
        for call in ["warn!(", "error!("] {
            for (at, _) in code.match_indices(call) {
                let is_whole_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
                // Of texts in fields, which are in brackets, none is the message.
                let message = literals(&arguments(&code[at + call.len()..]))
                    .into_iter()
                    .find(|literal| literal.depth == 0);
                texts.extend(message.filter(|_| is_whole_word).map(|message| shape(&message.text)));
            }
        }
    }
    assert!(texts.len() > 25, "{texts:?}");
    all_are_told(&texts);
}

/// What is in a bracket that is open already.
fn arguments(code: &str) -> String {
    let mut depth = 1;
    let mut in_text = false;
    let mut escaped = false;
    let within = code.chars().take_while(|c| {
        match c {
            '"' if !escaped => in_text = !in_text,
            '(' if !in_text => depth += 1,
            ')' if !in_text => depth -= 1,
            _ => {}
        }
        escaped = *c == '\\' && !escaped;
        depth > 0
    });
    within.collect()
}
