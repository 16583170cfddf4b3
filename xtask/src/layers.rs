//! `cargo xtask layers`: who may depend on whom, and what the core must be free of.
//!
//! Arrows point one way: `server → api, clients, sim → core`. The rules are [`rules`], plain functions of the
//! [`Facts`]; this module gathers the facts and prints the verdicts.

mod rules;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cargo::{self, Member};

/// What the rules judge.
#[derive(Debug, Clone)]
struct Facts {
    /// The crates of the workspace, as their manifests describe them.
    members: Vec<Member>,
    /// The core and all that it needs at run time, as `name v1.2.3`.
    core_tree: BTreeSet<String>,
    /// The source files of the core: path and text.
    core_sources: Vec<(String, String)>,
}

/// Gathers the facts, prints each rule with its verdict, and fails when one is broken.
pub(crate) fn run() -> Result<()> {
    let facts = gather()?;
    let mut broken = 0;
    for rule in rules::ALL {
        let violations = (rule.violations)(&facts);
        println!("{:<9} {}", if violations.is_empty() { "ok" } else { "VIOLATION" }, rule.says);
        for violation in &violations {
            println!("          - {violation}");
        }
        broken += usize::from(!violations.is_empty());
    }
    if broken > 0 {
        bail!("{broken} of {} rules of the layers are broken", rules::ALL.len());
    }
    Ok(())
}

fn gather() -> Result<Facts> {
    let mut core_sources = Vec::new();
    read_sources(&cargo::root().join("crus-core/src"), &mut core_sources)?;
    ensure!(!core_sources.is_empty(), "failed to find the sources of crus-core");
    Ok(Facts {
        members: cargo::members()?,
        core_tree: cargo::tree(&["--package", "crus-core", "--edges", "normal"])?,
        core_sources,
    })
}

fn read_sources(folder: &Path, sources: &mut Vec<(String, String)>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("failed to read {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("failed to read {}", folder.display()))?.path();
        if path.is_dir() {
            read_sources(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
            let name = path.strip_prefix(cargo::root()).unwrap_or(&path).display().to_string();
            sources.push((name, text));
        }
    }
    Ok(())
}
