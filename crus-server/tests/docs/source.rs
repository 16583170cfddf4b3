//! Texts in the sources of the service.

use std::path::{Path, PathBuf};

/// Where the crates are.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A source file of a crate, without its tests.
pub(crate) fn source(path: &str) -> String {
    without_tests(&std::fs::read_to_string(workspace().join(path)).unwrap())
}

fn without_tests(text: &str) -> String {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()
}

/// All source files below these folders, without tests: what each is called, and its text.
pub(crate) fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| workspace().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "tests" {
                folders.push(path);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                found.push((
                    path.display().to_string(),
                    without_tests(&std::fs::read_to_string(&path).unwrap()),
                ));
            }
        }
    }
    found.sort();
    found
}

/// A literal, and what stands before it in the code, without comments.
pub(crate) struct Literal {
    pub(crate) text: String,
    /// How many brackets are open before it.
    pub(crate) depth: usize,
}

/// The texts in some code, in its order. Comments are no code.
pub(crate) fn literals(code: &str) -> Vec<Literal> {
    let mut found = Vec::new();
    let mut chars = code.chars().peekable();
    let mut depth = 0usize;
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => {
                chars.by_ref().find(|c| *c == '\n');
            }
            '\'' => {
                // A character such as '"' is no beginning of a text; a lifetime has no end.
                let mut ahead = chars.clone();
                let first = ahead.next();
                let second = ahead.next();
                if first == Some('\\') {
                    chars.nth(2);
                } else if second == Some('\'') {
                    chars.nth(1);
                }
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            '"' => {
                let mut text = String::new();
                while let Some(c) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => match chars.next() {
                            Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                            Some('n') => text.push('\n'),
                            Some(c) => text.push(c),
                            None => {}
                        },
                        c => text.push(c),
                    }
                }
                found.push(Literal { text, depth });
            }
            _ => {}
        }
    }
    found
}

/// A text of the code as the guide writes it: `…` for what is filled in.
pub(crate) fn shape(text: &str) -> String {
    let mut shape = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(at);
        shape.push_str(before);
        if from.starts_with("{{") || from.starts_with("}}") {
            shape.push_str(&from[..1]);
            rest = &from[2..];
        } else {
            shape.push('…');
            rest = from.split_once('}').map_or("", |(_, after)| after);
        }
    }
    shape + rest
}

#[test]
fn texts_are_found_as_they_are_printed() {
    let code = "let a = f(\"one \\\n   two {x:?}\"); // \"no\"\nlet b = '\"'; let c: &'static str = \"{{q}} \\\"x\\\"\";";
    let texts: Vec<String> = literals(code).iter().map(|literal| shape(&literal.text)).collect();
    assert_eq!(texts, ["one two …", "{q} \"x\""]);
    assert_eq!(literals(code)[0].depth, 1);
}
