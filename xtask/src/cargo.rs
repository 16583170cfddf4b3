//! Cargo, asked and run at the root of the workspace.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    // `cargo run` says where the crate is now; what the compiler saw is only for a binary run by hand.
    let here =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.parent().map_or(here.clone(), Path::to_path_buf)
}

/// The same cargo that runs this, at the root.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    command
}

fn output(args: &[&str]) -> Result<String> {
    let line = || format!("failed to run `cargo {}`", args.join(" "));
    let output = command(args).output().with_context(line)?;
    if !output.status.success() {
        bail!("{} ({}):\n{}", line(), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(line)
}

/// A crate of the workspace.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Member {
    pub name: String,
    pub dependencies: Vec<Dependency>,
    pub targets: Vec<Target>,
}

/// What a crate's manifest says that it needs.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Dependency {
    pub name: String,
    /// `None` for a normal one; `dev`, `build`.
    pub kind: Option<String>,
}

/// Something that cargo can build of a crate.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Target {
    pub name: String,
    pub kind: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Member>,
    target_directory: PathBuf,
}

fn metadata() -> Result<Metadata> {
    let text = output(&["metadata", "--no-deps", "--format-version", "1"])?;
    serde_json::from_str(&text).context("failed to read the answer of `cargo metadata`")
}

/// The crates of the workspace, as their manifests describe them.
pub(crate) fn members() -> Result<Vec<Member>> {
    Ok(metadata()?.packages)
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> Result<PathBuf> {
    Ok(metadata()?.target_directory)
}

/// The crates, as `name v1.2.3`, that `cargo tree` lists for these options.
pub(crate) fn tree(options: &[&str]) -> Result<BTreeSet<String>> {
    let text = output(&[&["tree", "--prefix", "none", "--format", "{p}"], options].concat())?;
    Ok(text
        .lines()
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty())
        .collect())
}
