//! What third parties ask to be told with the binary: who made which part, and under which terms.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::cargo;

/// How files with terms begin, in capitals.
const TERMS: [&str; 4] = ["LICENSE", "LICENCE", "COPYING", "NOTICE"];

/// The notice, for a binary with these features.
pub(super) fn notice(features: &str) -> Result<String> {
    let packages = cargo::linked_into("crus-server", features)?;
    let mut text = String::from(
        "CRUS is under the MIT licence (see LICENSE). Linked into it are these crates, and the standard library of Rust\n\
         (MIT OR Apache-2.0). The terms that come with the crates follow, each text once.\n\n",
    );
    let mut terms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages.iter().filter(|package| package.is_foreign()) {
        let name = format!("{} {}", package.name, package.version);
        let licence = package.license.clone().or_else(|| package.license_file.clone());
        let licence = licence.with_context(|| format!("{name} does not say what its licence is"))?;
        text += &format!("{name}: {licence}\n");
        for found in terms_in(package.folder())? {
            terms.entry(found).or_default().insert(name.clone());
        }
    }
    ensure!(!terms.is_empty(), "failed to find the terms of any crate");
    for (found, names) in terms {
        let names: Vec<String> = names.into_iter().collect();
        text += &format!("\n{}\n{}\n\n{}\n", "=".repeat(80), wrapped(&names), found.trim_matches('\n'));
    }
    Ok(text)
}

/// The texts of the files with terms.
fn terms_in(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))?;
    let mut texts = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("failed to list {}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        if path.is_file() && TERMS.iter().any(|begin| name.starts_with(begin)) {
            let bytes = fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
            let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
            texts.push(text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n"));
        }
    }
    Ok(texts)
}

/// Names in lines of a terminal's width.
fn wrapped(names: &[String]) -> String {
    let mut lines = vec![String::new()];
    for name in names {
        match lines.last_mut() {
            Some(line) if line.is_empty() => *line += name,
            Some(line) if line.len() + name.len() + 2 <= 80 => *line += &format!(", {name}"),
            _ => lines.push(name.clone()),
        }
    }
    lines.join(",\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_linked_is_named_with_its_terms() {
        let text = notice("").unwrap();
        for name in ["tokio ", "rustls ", "aws-lc-sys ", "redb "] {
            let line =
                text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
            assert!(line.contains(": "), "{line}");
        }
        assert!(
            !text.lines().any(|line| line.starts_with("crus-core ") || line.starts_with("proptest ")),
            "not these"
        );
        assert!(text.contains("Permission is hereby granted, free of charge"));
        assert!(!text.contains(&*cargo::root().to_string_lossy()), "nor where they were");
    }
}
