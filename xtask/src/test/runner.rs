//! The programs of tests: run by cargo-nextest where it is installed, and otherwise by themselves, several at a time.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::cargo;
use crate::tools::NEXTEST;

/// The variable by which a test knows that real servers are not wanted, when it is 1.
const NO_PEERS: &str = "CRUS_NO_PEERS";

/// The number of programs that run at a time without cargo-nextest.
const PROGRAMS: usize = 3;

/// The number of tests that each of them runs at a time: most wait far longer than they compute.
const THREADS: &str = "4";

/// Which tests to run, and how.
#[derive(Debug, Clone, Default)]
pub(super) struct Selection<'a> {
    /// Cargo's options for the features of the workspace.
    pub features: &'a [&'static str],
    /// Whether tests against real servers are left out.
    pub no_peers: bool,
    /// Only tests whose name contains this.
    pub name: Option<&'static str>,
    /// Cargo's option for the program that runs the programs of tests.
    pub runner: Option<String>,
}

/// Builds and runs tests, to the end whatever fails.
///
/// # Errors
///
/// Fails if a test fails or cannot be run.
pub(super) fn run(selection: &Selection<'_>) -> Result<()> {
    match NEXTEST.find()? {
        Some(nextest) => by_nextest(nextest, selection),
        None => {
            println!("{}: not installed; the programs of tests run by themselves", NEXTEST.program);
            by_themselves(selection)
        }
    }
}

impl Selection<'_> {
    fn arguments(&self) -> Vec<&str> {
        let mut args = vec!["--workspace"];
        args.extend(self.features);
        args.extend(self.runner.iter().flat_map(|runner| ["--config", runner.as_str()]));
        args
    }

    /// The variable that tests read. It is set either way, so that nothing in the shell leaves tests out in silence.
    fn env(&self) -> (&'static str, &'static str) {
        (NO_PEERS, if self.no_peers { "1" } else { "0" })
    }
}

fn by_nextest(nextest: PathBuf, selection: &Selection<'_>) -> Result<()> {
    let mut args = vec!["nextest", "run"];
    args.extend(selection.arguments());
    let filter = selection.name.map(|name| format!("test(/{name}/)"));
    args.extend(filter.iter().flat_map(|filter| ["--filterset", filter.as_str()]));
    let line = format!("cargo {}", args.join(" "));
    println!("$ {line}");
    let status = Command::new(nextest)
        .args(args)
        .envs([selection.env()])
        .current_dir(cargo::root())
        .status()
        .with_context(|| format!("failed to run `{line}`"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    Ok(())
}

/// A program of tests, as cargo tells of it.
#[derive(Debug, Deserialize)]
struct Built {
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    profile: Option<Profile>,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

fn by_themselves(selection: &Selection<'_>) -> Result<()> {
    let programs = build(selection)?;
    let next = AtomicUsize::new(0);
    // What a program prints is printed when it has ended, so that programs do not write into each other's lines.
    let failed: Mutex<Vec<String>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..PROGRAMS {
            scope.spawn(|| {
                while let Some(program) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = run_program(program, selection) {
                        failed
                            .lock()
                            .unwrap_or_else(|poisoned| poisoned.into_inner())
                            .push(format!("{error:#}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !failed.is_empty() {
        println!("\n== failures, once more\n{}", failed.join("\n"));
        bail!("{} of {} programs of tests failed", failed.len(), programs.len());
    }
    Ok(())
}

/// Builds the programs.
fn build(selection: &Selection<'_>) -> Result<Vec<Built>> {
    let mut args = vec!["test", "--no-run", "--message-format", "json-render-diagnostics"];
    args.extend(selection.arguments());
    let line = format!("cargo {}", args.join(" "));
    println!("$ {line}");
    let output = cargo::command(&args)
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("failed to run `{line}`"))?;
    ensure!(output.status.success(), "`{line}` failed ({})", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let mut programs = Vec::new();
    for message in text.lines().filter(|line| line.starts_with('{')) {
        let built: Built = serde_json::from_str(message).context("failed to read a message of cargo")?;
        if built.executable.is_some() && built.profile.as_ref().is_some_and(|profile| profile.test) {
            programs.push(built);
        }
    }
    ensure!(!programs.is_empty(), "failed to find a program of tests in what cargo built");
    Ok(programs)
}

fn run_program(program: &Built, selection: &Selection<'_>) -> Result<()> {
    let path = program.executable.as_ref().context("cargo names no program")?;
    let folder = program.manifest_path.as_ref().and_then(|manifest| manifest.parent());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let words = selection.runner.as_deref().map(runner_words).transpose()?.unwrap_or_default();
    let mut command = match words.split_first() {
        None => Command::new(path),
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(path);
            command
        }
    };
    let begin = Instant::now();
    let output = command
        .args(selection.name)
        .args(["--test-threads", THREADS])
        .envs([selection.env()])
        .current_dir(folder.context("cargo names no manifest")?)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to run {}", path.display()))?;
    let printed = format!(
        "\n== {name}, {:.1} s\n{}{}",
        begin.elapsed().as_secs_f64(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{printed}");
    if !output.status.success() {
        bail!("{name} ({}):\n{}", output.status, failures(&printed));
    }
    Ok(())
}

/// The words of a runner in an option of cargo's: `target."x".runner=["a", "b"]`.
fn runner_words(option: &str) -> Result<Vec<String>> {
    let (_, words) = option.split_once(".runner=").context("the option names no runner")?;
    serde_json::from_str(words).context("failed to read the words of the runner")
}

/// The part of a program's output that tells of failures: from each line `failures:` to the result.
fn failures(printed: &str) -> String {
    let mut inside = false;
    let mut told = Vec::new();
    for line in printed.lines() {
        inside |= line == "failures:";
        if inside {
            told.push(line);
        }
        inside &= !line.starts_with("test result: ");
    }
    told.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_once_more_and_nothing_else() {
        let printed = "test a ... ok\ntest b ... FAILED\n\nfailures:\n\n---- b stdout ----\nwhy\n\nfailures:\n    b\n\n\
             test result: FAILED. 1 passed\n\nrunning 1 test\ntest c ... ok\ntest result: ok. 1 passed";
        assert_eq!(
            failures(printed),
            "failures:\n\n---- b stdout ----\nwhy\n\nfailures:\n    b\n\ntest result: FAILED. 1 passed"
        );
    }

    #[test]
    fn a_runner_is_read_from_the_option_of_cargo() {
        let option = r#"target."x86_64-unknown-linux-gnu".runner=["/a b/xtask", "in-root"]"#;
        assert_eq!(runner_words(option).unwrap(), ["/a b/xtask", "in-root"]);
    }
}
