//! The programs of tests: run by cargo-nextest where it is installed, and otherwise by themselves, several at a time.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

use crate::cargo;
use crate::tools::NEXTEST;

/// The variable by which a test knows that real servers are not wanted, when it is 1.
const NO_PEERS: &str = "CRUS_NO_PEERS";

/// The variable that names the file in which tests note what a run should tell although they pass: known failures, and
/// releases of Slurm that nobody has measured.
const REPORT: &str = "CRUS_TEST_REPORT";

/// The time that a program of tests may take without cargo-nextest, in seconds.
const PROGRAM_LIMIT_S: &str = "1800";

/// The number of programs that run at a time without cargo-nextest.
const PROGRAMS: usize = 3;

/// The number of tests that each of them runs at a time: most wait far longer than they compute.
const THREADS: &str = "4";

/// The tests of a run, and the way that they are run.
#[derive(Debug, Clone, Default)]
pub(super) struct Selection<'a> {
    /// Cargo's options for the features of the workspace.
    pub features: &'a [&'static str],
    /// Leaves out the tests against real servers.
    pub no_peers: bool,
    /// Only tests whose name contains this.
    pub name: Option<&'static str>,
    /// Cargo's option for the program that runs the programs of tests.
    pub runner: Option<String>,
    /// The file that the output of cargo-nextest goes into, instead of this process's.
    pub log: Option<PathBuf>,
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

    /// The variables that tests read. The first is set either way, so that nothing in the shell leaves tests out in
    /// silence.
    fn envs(&self) -> Result<[(&'static str, OsString); 2]> {
        Ok([
            (NO_PEERS, if self.no_peers { "1" } else { "0" }.into()),
            (REPORT, report_file()?.into_os_string()),
        ])
    }
}

fn by_nextest(nextest: PathBuf, selection: &Selection<'_>) -> Result<()> {
    let mut args = vec!["nextest", "run"];
    args.extend(selection.arguments());
    let filter = selection.name.map(|name| format!("test(/{name}/)"));
    args.extend(filter.iter().flat_map(|filter| ["--filterset", filter.as_str()]));
    let line = format!("cargo {}", args.join(" "));
    println!("$ {line}");
    let mut command = Command::new(nextest);
    command.args(args).envs(selection.envs()?).current_dir(cargo::root());
    if let Some(log) = &selection.log {
        let output = File::create(log).with_context(|| format!("failed to write {}", log.display()))?;
        let errors = output.try_clone().with_context(|| format!("failed to write {}", log.display()))?;
        command.stdout(output).stderr(errors);
    }
    let status = command.status().with_context(|| format!("failed to run `{line}`"))?;
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
    let (next, tests) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // What a program prints is printed when it has ended, so that programs do not write into each other's lines.
    let failed: Mutex<Vec<String>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..PROGRAMS {
            scope.spawn(|| {
                while let Some(program) = programs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match run_program(program, selection) {
                        Ok(passed) => _ = tests.fetch_add(passed, Ordering::Relaxed),
                        Err(error) => {
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{error:#}"));
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if !failed.is_empty() {
        println!("\n== failures, once more\n{}", failed.join("\n"));
        bail!("{} of {} programs of tests failed", failed.len(), programs.len());
    }
    let tests = tests.into_inner();
    ensure!(tests > 0, "no test was run");
    println!("{tests} tests passed, 0 failed");
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

/// Runs a program. The number of its tests that passed.
fn run_program(program: &Built, selection: &Selection<'_>) -> Result<usize> {
    let path = program.executable.as_ref().context("cargo names no program")?;
    let folder = program.manifest_path.as_ref().and_then(|manifest| manifest.parent());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let words = selection.runner.as_deref().map(runner_words).transpose()?.unwrap_or_default();
    let begin = Instant::now();
    println!("-- {name} starts");
    // Into a file: a stray process that holds a pipe open would be waited for.
    let log = folder_of_xtask()?.join(format!("{name}.log"));
    let output = File::create(&log).with_context(|| format!("failed to write {}", log.display()))?;
    let errors = output.try_clone().with_context(|| format!("failed to write {}", log.display()))?;
    let manifest_folder = folder.context("cargo names no manifest")?;
    let status = Command::new("timeout")
        .args(["--kill-after=10", PROGRAM_LIMIT_S])
        .args(words)
        .arg(path)
        .args(selection.name)
        .args(["--test-threads", THREADS])
        .envs(selection.envs()?)
        .env("CARGO_MANIFEST_DIR", manifest_folder)
        .current_dir(manifest_folder)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()
        .with_context(|| format!("failed to run {}", path.display()))?;
    let text = fs::read(&log).with_context(|| format!("failed to read {}", log.display()))?;
    let printed =
        format!("\n== {name}, {:.1} s\n{}", begin.elapsed().as_secs_f64(), String::from_utf8_lossy(&text));
    println!("{printed}");
    if !status.success() {
        bail!("{name} ({status}):\n{}", failures(&printed));
    }
    Ok(printed.lines().filter_map(passed).sum())
}

/// Runs tests of a module of crus-server's `integration`, built as the whole workspace is, so that nothing is built twice.
///
/// # Errors
///
/// Fails if a test fails, or if there is none.
pub(crate) fn one_of_integration(
    module: &str,
    ignored: bool,
    features: &[&str],
    envs: &[(&str, OsString)],
) -> Result<()> {
    let mut args =
        [&["test", "--workspace"], features, &["--test", "integration", "--", "--nocapture"]].concat();
    args.extend(ignored.then_some("--ignored"));
    args.push(module);
    let line = format!("cargo {}", args.join(" "));
    println!("$ {line}");
    let mut child = cargo::command(&args)
        .envs(envs.iter().map(|(name, value)| (name, value)))
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to run `{line}`"))?;
    let output = BufReader::new(child.stdout.take().context("the output is no pipe")?);
    let mut tests = 0;
    for printed in output.split(b'\n') {
        let printed = printed.with_context(|| format!("failed to read the output of `{line}`"))?;
        let printed = String::from_utf8_lossy(&printed);
        println!("{printed}");
        tests += passed(&printed).unwrap_or_default();
    }
    let status = child.wait().with_context(|| format!("failed to wait for `{line}`"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    ensure!(tests > 0, "`{line}` ran no test: is {module} still the name?");
    Ok(())
}

/// The number of tests that passed, if this is the line of a program's result.
fn passed(line: &str) -> Option<usize> {
    let (count, _) = line.strip_prefix("test result: ok. ")?.split_once(" passed")?;
    count.parse().ok()
}

/// Empties the file in which tests note what a run should tell although they pass.
pub(super) fn begin_report() -> Result<()> {
    let file = report_file()?;
    fs::write(&file, "").with_context(|| format!("failed to write {}", file.display()))
}

/// The lines of that file, each once.
pub(super) fn report() -> Result<Vec<String>> {
    let file = report_file()?;
    let text = fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    Ok(lines)
}

fn report_file() -> Result<PathBuf> {
    Ok(folder_of_xtask()?.join("report.txt"))
}

/// The folder for what xtask writes.
pub(super) fn folder_of_xtask() -> Result<PathBuf> {
    let folder = cargo::target_directory()?.join("xtask");
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    Ok(folder)
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
