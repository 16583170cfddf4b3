//! A page of the guide: its commands, and what it says that they print.

use std::collections::BTreeMap;
use std::ops::Range;

/// What is run of a page, in its order.
pub(crate) struct Page {
    pub(crate) parts: Vec<Part>,
}

/// One thing to run.
pub(crate) enum Part {
    /// Begin anew on this site.
    Site(Wish),
    /// Commands of which a reader sees nothing.
    Hidden {
        /// Where it begins, counted from 1.
        line: usize,
        script: String,
    },
    /// A command, and the lines of the page that hold what it prints.
    Command {
        /// Where it stands, counted from 1.
        line: usize,
        command: String,
        /// Counted from 0.
        output: Range<usize>,
    },
}

/// The site that a page asks for.
pub(crate) struct Wish {
    pub(crate) line: usize,
    words: BTreeMap<String, String>,
}

impl Wish {
    /// What was wished for under this key, or else this.
    pub(crate) fn get<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.words.get(key).map_or(default, String::as_str)
    }
}

/// The keys of a site.
const KEYS: [&str; 4] = ["cluster", "speed", "etcd", "env"];

impl Page {
    /// # Errors
    /// When a comment or a block is not as it must be.
    pub(crate) fn read(text: &str) -> Result<Page, String> {
        let lines: Vec<&str> = text.lines().collect();
        let mut parts = Vec::new();
        let mut at = 0;
        while at < lines.len() {
            let line = lines[at];
            if let Some(words) = line.strip_prefix("<!-- site") {
                let words =
                    words.strip_suffix("-->").ok_or(format!("line {}: the comment does not end", at + 1))?;
                parts.push(Part::Site(Wish { line: at + 1, words: wish(words, at + 1)? }));
            } else if line == "<!-- hidden" {
                let end = end_of(&lines, at, "-->")?;
                parts.push(Part::Hidden { line: at + 1, script: lines[at + 1..end].join("\n") });
                at = end;
            } else if line == "```console" {
                let end = end_of(&lines, at, "```")?;
                parts.extend(commands(&lines, at + 1, end)?);
                at = end;
            } else if line.starts_with("```") && line != "```" {
                at = end_of(&lines, at, "```")?;
            }
            at += 1;
        }
        let is_run = |part: &Part| !matches!(part, Part::Site(_));
        match parts.iter().find(|part| is_run(part)) {
            Some(_) if !matches!(parts.first(), Some(Part::Site(_))) => {
                Err("a comment <!-- site … --> must stand before the first command".to_owned())
            }
            _ => Ok(Page { parts }),
        }
    }
}

fn wish(words: &str, line: usize) -> Result<BTreeMap<String, String>, String> {
    words
        .split_whitespace()
        .map(|word| match word.split_once('=') {
            Some((key, value)) if KEYS.contains(&key) => Ok((key.to_owned(), value.to_owned())),
            _ => Err(format!("line {line}: {word} must be one of {} with = and a value", KEYS.join(", "))),
        })
        .collect()
}

fn end_of(lines: &[&str], from: usize, end: &str) -> Result<usize, String> {
    let found = lines[from + 1..].iter().position(|line| *line == end);
    found.map(|at| from + 1 + at).ok_or_else(|| format!("line {}: what begins here has no {end:?}", from + 1))
}

/// The commands of a block, which is the lines from `first` up to `end`.
fn commands(lines: &[&str], first: usize, end: usize) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut at = first;
    while at < end {
        let Some(begin) = lines[at].strip_prefix("$ ") else {
            return Err(format!("line {}: a console block begins with a command: $ …", at + 1));
        };
        let line = at + 1;
        let mut command = begin.to_owned();
        at += 1;
        while at < end
            && let Some(more) = lines[at].strip_prefix("> ")
        {
            command = format!("{command}\n{more}");
            at += 1;
        }
        let output = at;
        while at < end && !lines[at].starts_with("$ ") {
            at += 1;
        }
        parts.push(Part::Command { line, command, output: output..at });
    }
    Ok(parts)
}
