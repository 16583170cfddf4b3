//! The API of the real service, fuzzed by schemathesis. What is done with it is in `crus-server/tests/schemathesis.rs`;
//! this installs it, in an environment of its own below the target directory.

use std::fs;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cargo;

/// So many requests for each operation and phase take half a minute in all.
pub(super) const EXAMPLES: NonZeroU32 = NonZeroU32::new(100).unwrap();

const SEED: NonZeroU64 = NonZeroU64::new(5).unwrap();

/// What is installed, each at one version.
const REQUIREMENTS: &str = "crus-server/tests/schemathesis/requirements.txt";

/// A step of the tests.
pub(crate) fn step(features: &[&str]) -> Result<()> {
    run(EXAMPLES, None, features)
}

/// Installs it, unless that is done, and runs the test around it, built with these features.
pub(super) fn run(examples: NonZeroU32, seed: Option<NonZeroU64>, features: &[&str]) -> Result<()> {
    let installed = install()?;
    let seed = seed.unwrap_or(SEED);
    // Of the whole workspace, so that nothing is built anew that other tests have built.
    let test = ["--test", "schemathesis", "--", "--ignored", "--nocapture"];
    let args = [&["test", "--workspace"], features, &test].concat();
    println!("$ cargo {}", args.join(" "));
    let status = cargo::command(&args)
        .env("CRUS_TEST_SCHEMATHESIS", installed)
        .env("CRUS_TEST_EXAMPLES", examples.to_string())
        .env("CRUS_TEST_SEED", seed.to_string())
        .status()
        .context("failed to run the test")?;
    ensure!(
        status.success(),
        "the fuzzer found something, or did not run ({status}); again with:\n    \
         cargo xtask fuzz --api --examples {examples} --seed {seed}"
    );
    Ok(())
}

/// The virtual environment.
fn install() -> Result<PathBuf> {
    let requirements = cargo::root().join(REQUIREMENTS);
    let wanted = fs::read(&requirements).with_context(|| format!("failed to read {REQUIREMENTS}"))?;
    let environment = cargo::target_directory()?.join("schemathesis");
    // Written last: what was left half-way is begun again.
    let done = environment.join("installed.txt");
    if fs::read(&done).is_ok_and(|installed| installed == wanted) {
        println!("schemathesis: installed in {}", environment.display());
        return Ok(environment);
    }
    command("python3", &["-m", "venv", "--clear"], &[&environment])
        .context("Python 3 with its module venv is needed (Debian: apt-get install python3-venv)")?;
    let pip = environment.join("bin/pip");
    let pip = pip.to_str().context("the target directory has a name that is not UTF-8")?;
    // All of it is listed: nothing else may come along.
    let args = ["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"];
    command(pip, &[&args[..], &["--requirement"]].concat(), &[&requirements])?;
    command(pip, &["check", "--disable-pip-version-check"], &[])?;
    fs::write(&done, wanted).with_context(|| format!("failed to write {}", done.display()))?;
    Ok(environment)
}

fn command(program: &str, args: &[&str], paths: &[&Path]) -> Result<()> {
    let paths = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>();
    let line = format!("{program} {} {}", args.join(" "), paths.join(" "));
    println!("$ {line}");
    let status = Command::new(program)
        .args(args)
        .args(paths)
        .status()
        .with_context(|| format!("failed to run `{line}`"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    Ok(())
}
