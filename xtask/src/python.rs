//! Python programs that tests use, each in an environment of its own below the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cargo;

/// Installs what a file of requirements lists into the environment of this name, unless it is there already. Its folder.
///
/// The file lists all of it: nothing else comes along.
pub(crate) fn environment(name: &str, requirements: &str) -> Result<PathBuf> {
    let list = cargo::root().join(requirements);
    let wanted = fs::read(&list).with_context(|| format!("failed to read {requirements}"))?;
    let environment = cargo::target_directory()?.join(name);
    // Written last: what was left half-way is begun again.
    let done = environment.join("installed.txt");
    if fs::read(&done).is_ok_and(|installed| installed == wanted) {
        println!("{name}: installed in {}", environment.display());
        return Ok(environment);
    }
    run(Path::new("python3"), &["-m", "venv", "--clear"], &environment)
        .context("Python 3 with its module venv is needed (Debian: apt-get install python3-venv)")?;
    let pip = environment.join("bin/pip");
    let install =
        ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"];
    run(&pip, &[&install[..], &["--requirement"]].concat(), &list)?;
    run(&pip, &["--disable-pip-version-check"], Path::new("check"))?;
    fs::write(&done, wanted).with_context(|| format!("failed to write {}", done.display()))?;
    Ok(environment)
}

fn run(program: &Path, args: &[&str], last: &Path) -> Result<()> {
    let line = format!("{} {} {}", program.display(), args.join(" "), last.display());
    println!("$ {line}");
    let status = Command::new(program)
        .args(args)
        .arg(last)
        .status()
        .with_context(|| format!("failed to run `{line}`"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    Ok(())
}
