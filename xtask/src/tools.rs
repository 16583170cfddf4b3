//! Programs from crates.io that check the workspace: the test runner, and the checks of dependencies and spelling.
//!
//! Compiling them takes longer than most of what they do, so a run takes those that are there; `cargo xtask test --full`
//! installs the others in `target/tools`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::{cargo, peers};

/// A program from crates.io.
#[derive(Debug)]
pub(crate) struct Tool {
    /// The name of the program.
    pub program: &'static str,
    crate_name: &'static str,
    /// The version that is installed.
    version: &'static str,
}

/// Runs tests, each in a process of its own.
pub(crate) const NEXTEST: Tool =
    Tool { program: "cargo-nextest", crate_name: "cargo-nextest", version: "0.9.143" };

/// Checks licences, sources and advisories of all dependencies.
pub(crate) const DENY: Tool = Tool { program: "cargo-deny", crate_name: "cargo-deny", version: "0.20.2" };

/// Checks spelling.
pub(crate) const TYPOS: Tool = Tool { program: "typos", crate_name: "typos-cli", version: "1.52.0" };

impl Tool {
    /// The path of the program: in `target/tools`, or as the search path has it.
    pub(crate) fn find(&self) -> Result<Option<PathBuf>> {
        let own = folder()?.join("bin").join(self.program);
        Ok(if own.exists() { Some(own) } else { peers::find(self.program) })
    }

    /// Installs the program unless it is there in the pinned version.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be compiled.
    pub(crate) fn ensure_installed(&self) -> Result<()> {
        if let Some(path) = self.find()?
            && self.is_pinned(&path)
        {
            println!("{} {}: {}", self.program, self.version, path.display());
            return Ok(());
        }
        let folder = folder()?;
        let folder = folder.to_str().context("the path of the target directory is not UTF-8")?;
        let args = ["install", "--locked", "--root", folder, "--version", self.version, self.crate_name];
        println!("$ cargo {}", args.join(" "));
        let status = cargo::command(&args).status().context("failed to run cargo install")?;
        ensure!(status.success(), "failed to install {} {} ({status})", self.crate_name, self.version);
        Ok(())
    }
}

impl Tool {
    fn is_pinned(&self, path: &Path) -> bool {
        let mut command = Command::new(path);
        // A subcommand of cargo is told its own name first.
        command.args(self.program.strip_prefix("cargo-")).arg("--version").stderr(Stdio::null());
        command.output().is_ok_and(|output| {
            let text = String::from_utf8_lossy(&output.stdout);
            text.split_whitespace().any(|word| word == self.version)
        })
    }
}

fn folder() -> Result<PathBuf> {
    Ok(cargo::target_directory()?.join("tools"))
}
