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

/// The target triple of this machine.
pub(crate) fn host() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().context("failed to run rustc")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("failed to read the target triple of this machine from rustc -vV")
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

/// A crate, ours or not.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Package {
    pub name: String,
    pub version: String,
    /// An expression of SPDX names.
    pub license: Option<String>,
    pub license_file: Option<String>,
    manifest_path: PathBuf,
    /// Where it comes from; `None` for ours.
    source: Option<String>,
}

impl Package {
    /// Whether somebody else made it.
    pub(crate) fn is_foreign(&self) -> bool {
        self.source.is_some()
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(&self.manifest_path)
    }
}

#[derive(Deserialize)]
struct Graph {
    packages: Vec<Package>,
}

/// The crates that are linked into one of ours that has these features, for this machine's platform, by their names.
pub(crate) fn linked_into(crate_name: &str, features: &str) -> Result<Vec<Package>> {
    // `cargo metadata` knows the licences; but it counts in what only tests have crates linked for.
    let linked = tree(&["--locked", "--package", crate_name, "--features", features, "--edges", "normal"])?;
    let text = output(&["metadata", "--format-version", "1", "--locked", "--all-features"])?;
    let graph: Graph =
        serde_json::from_str(&text).context("failed to read the answer of `cargo metadata`")?;
    let is_linked = |package: &Package| linked.contains(&format!("{} v{}", package.name, package.version));
    let mut packages: Vec<Package> = graph.packages.into_iter().filter(is_linked).collect();
    packages.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    Ok(packages)
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
