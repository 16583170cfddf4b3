//! `cargo xtask test`: everything that must pass, cheap things first, up to the first failure.
//!
//! The short form runs for each change. `--full` checks longer what chance decides (500 kills instead of 60), installs and
//! images what is shipped, and installs the tools that the short form does without.

mod background;
pub(crate) mod runner;

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Args;

use self::background::Background;
use self::runner::Selection;
use crate::dist::{self, ALL, WITHOUT_PROTOC};
use crate::tools::{DENY, NEXTEST, TYPOS};
use crate::{cargo, fuzz, layers, peers, python, roots};

/// The requirements of the programs that check the chart.
const HELM: &str = "crus-server/tests/packaging/requirements.txt";

/// The number of times that the shipped binary is killed, in the short and in the full form.
const KILLS: [&str; 2] = ["60", "500"];

/// The part of the name that all tests on a real Slurm share.
const ON_REAL_SLURM: &str = "real_slurm_";

/// The rules for the dependencies of a build without features.
const DENY_DEFAULT: &str = ".config/deny-default.toml";

/// The extent of a run.
#[derive(Debug, Clone, Args)]
pub(crate) struct Test {
    /// Check everything for longer, install and image what is shipped, and install missing tools.
    #[arg(long, conflicts_with_all = ["no_peers", "slurm"])]
    full: bool,
    /// Run only the tests on a real Slurm, and on this version alone, such as 24.11: the host's or one in a Debian root.
    #[arg(long, value_name = "VERSION", conflicts_with = "no_peers")]
    slurm: Option<String>,
    /// Leave out the tests against real servers and the fuzzer from PyPI, and need neither these nor protoc.
    #[arg(long)]
    no_peers: bool,
}

struct Step {
    name: &'static str,
    run: Box<dyn Fn() -> Result<()>>,
}

impl Step {
    fn new(name: &'static str, run: impl Fn() -> Result<()> + 'static) -> Step {
        Step { name, run: Box::new(run) }
    }

    /// A step that is a call of cargo.
    fn cargo(
        name: &'static str,
        args: &[&[&'static str]],
        envs: &'static [(&'static str, &'static str)],
    ) -> Step {
        let args = args.concat();
        Step::new(name, move || run_cargo(&args, envs))
    }
}

/// Things that a run leaves out, each with the reason.
type LeftOut = Rc<RefCell<Vec<String>>>;

/// Runs the steps.
pub(crate) fn run(test: &Test) -> Result<()> {
    let begin = Instant::now();
    let left_out = LeftOut::default();
    if test.no_peers {
        left_out
            .borrow_mut()
            .push("tests against real servers, and the fuzzer of the API (--no-peers)".to_owned());
    }
    runner::begin_report()?;
    let outcome = run_all(&steps(test, &left_out));
    println!("\n{}\n  {:<11}    {:>8.1} s", outcome.summary(), "all", begin.elapsed().as_secs_f64());
    for line in runner::report()? {
        println!("{line}");
    }
    for what in left_out.borrow().iter() {
        println!("left out: {what}");
    }
    match outcome.failure {
        None => Ok(()),
        Some((step, error)) => Err(error.context(format!("failed at the step `{step}`"))),
    }
}

fn steps(test: &Test, left_out: &LeftOut) -> Vec<Step> {
    let (full, no_peers) = (test.full, test.no_peers);
    // One set of features for all steps, so that dependencies are built once. The client of etcd is built with protoc.
    let features: &'static [&str] =
        if no_peers { &["--features", "crus-core/mock,crus-server/fuzzing"] } else { &["--all-features"] };
    let mut steps = vec![Step::new("toolchain", check_toolchain)];
    if full {
        steps.push(Step::new("tools", || {
            [NEXTEST, DENY, TYPOS].iter().try_for_each(crate::tools::Tool::ensure_installed)
        }));
    }
    if !no_peers {
        steps.push(Step::new("peers", peers::ensure_installed));
    }
    if let Some(version) = test.slurm.clone() {
        steps.push(Step::new("other Slurms", move || only_slurm(&version, features)));
        return steps;
    }
    // Roots and what is shipped take minutes to make, and are needed late.
    let making: Rc<RefCell<Option<Background>>> = Rc::default();
    let shipping: Rc<RefCell<Option<Background>>> = Rc::default();
    let build = if no_peers { WITHOUT_PROTOC } else { ALL };
    if !no_peers {
        let (making, left_out) = (making.clone(), left_out.clone());
        steps.push(Step::new("helm", || python::environment("helm", HELM).map(|_| ())));
        steps.push(Step::new("roots", move || {
            match roots::obstacle() {
                None => *making.borrow_mut() = Some(Background::start(&["roots"])?),
                Some(why) => {
                    left_out.borrow_mut().push(format!("tests on other Slurms than this host's: {why}"));
                }
            }
            Ok(())
        }));
    }
    let (denied, misspelt, shipped) = (left_out.clone(), left_out.clone(), shipping.clone());
    steps.extend([
        Step::cargo("format", &[&["fmt", "--all", "--check"]], &[]),
        Step::new("layers", layers::run),
        Step::new("deny", move || deny(full, &denied)),
        Step::new("spelling", move || spelling(&misspelt)),
        Step::cargo(
            "clippy",
            &[&["clippy", "--workspace", "--all-targets"], features, &["--", "-D", "warnings"]],
            &[],
        ),
        Step::new("tests", move || {
            *shipped.borrow_mut() = Some(Background::start(&["dist", "--features", build])?);
            if !no_peers {
                println!("this host has Slurm {}", roots::host_version()?);
            }
            runner::run(&Selection { features, no_peers, ..Selection::default() })
        }),
        Step::cargo("doc tests", &[&["test", "--workspace", "--doc"], features], &[]),
        Step::cargo(
            "docs",
            &[&["doc", "--workspace", "--no-deps"], features],
            &[("RUSTDOCFLAGS", "-D warnings")],
        ),
    ]);
    if !no_peers {
        steps.push(Step::new("other Slurms", move || {
            let Some(making) = making.take() else { return Ok(()) };
            making.end()?;
            on_all(&roots::ensure_made()?, features)
        }));
    }
    steps.push(Step::new("dist", move || {
        if let Some(shipping) = shipping.take() {
            shipping.end()?;
        }
        if full { install(features) } else { Ok(()) }
    }));
    steps.push(Step::new("kills", move || kills(features, KILLS[usize::from(full)])));
    if !no_peers {
        steps.push(Step::new("api fuzz", move || fuzz::api_step(features)));
    }
    steps
}

/// Finds the components that a minimal installation of Rust lacks.
fn check_toolchain() -> Result<()> {
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let there = cargo::command(&[subcommand, "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        ensure!(there, "failed to find `cargo {subcommand}`; get it with: rustup component add {component}");
    }
    println!("cargo fmt, cargo clippy: there");
    Ok(())
}

/// Licences, sources and banned crates; in the full form advisories as well, if their list can be had.
fn deny(full: bool, left_out: &LeftOut) -> Result<()> {
    let Some(program) = DENY.find()? else {
        left_out
            .borrow_mut()
            .push(format!("licences, sources and bans of dependencies: {} is not installed", DENY.program));
        return Ok(());
    };
    let run = |args: &[&str]| {
        println!("$ cargo deny {}", args.join(" "));
        // A silent network must not hold the run up.
        let mut bounded = Command::new("timeout");
        bounded.args(["--kill-after=1", "300"]).arg(&program).args(args);
        bounded.current_dir(cargo::root()).env("GIT_TERMINAL_PROMPT", "0").stdin(Stdio::null());
        let status = bounded.status().with_context(|| format!("failed to run {}", program.display()))?;
        Ok::<bool, anyhow::Error>(status.success())
    };
    ensure!(
        run(&["--locked", "check", "bans", "licenses", "sources"])?,
        "a dependency breaks a rule of deny.toml"
    );
    ensure!(
        run(&["--locked", "--config", DENY_DEFAULT, "check", "bans"])?,
        "a dependency of the default build breaks a rule of {DENY_DEFAULT}"
    );
    if !full {
        left_out.borrow_mut().push("advisories on dependencies: checked by --full".to_owned());
    } else if run(&["fetch", "db"])? {
        ensure!(run(&["--offline", "--locked", "check", "advisories"])?, "an advisory concerns a dependency");
    } else {
        left_out.borrow_mut().push("advisories on dependencies: their list could not be fetched".to_owned());
    }
    Ok(())
}

fn spelling(left_out: &LeftOut) -> Result<()> {
    let Some(program) = TYPOS.find()? else {
        left_out.borrow_mut().push(format!("spelling: {} is not installed", TYPOS.program));
        return Ok(());
    };
    let status = Command::new(&program)
        .current_dir(cargo::root())
        .status()
        .with_context(|| format!("failed to run {}", program.display()))?;
    ensure!(status.success(), "words are misspelt; exceptions go into .typos.toml");
    Ok(())
}

/// Runs the tests on a real Slurm in all roots at once, since they mostly wait; prints the output of one after the other.
fn on_all(roots: &[roots::Root], features: &[&'static str]) -> Result<()> {
    let runs: Vec<_> = roots
        .iter()
        .map(|root| {
            let log = runner::folder_of_xtask()?.join(format!("slurm-{}.log", root.version));
            Ok((root.name(), on_slurm(features, Some(root.runner()?), Some(log))))
        })
        .collect::<Result<_>>()?;
    let outcomes = thread::scope(|scope| {
        let started: Vec<_> = runs.iter().map(|(_, run)| scope.spawn(|| runner::run(run))).collect();
        started.into_iter().map(ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    let mut failed = None;
    for ((name, run), outcome) in runs.iter().zip(outcomes) {
        println!("\n-- {name}");
        if let Some(text) = run.log.as_ref().and_then(|log| fs::read(log).ok()) {
            println!("{}", String::from_utf8_lossy(&text));
        }
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("the run of the tests panicked")));
        failed = failed.or(outcome.with_context(|| format!("on {name}")).err());
    }
    failed.map_or(Ok(()), Err)
}

/// The tests on a real Slurm.
fn on_slurm<'a>(features: &'a [&'static str], runner: Option<String>, log: Option<PathBuf>) -> Selection<'a> {
    Selection { features, no_peers: false, name: Some(ON_REAL_SLURM), runner, log }
}

/// Runs the same tests on one version alone.
fn only_slurm(asked: &str, features: &[&'static str]) -> Result<()> {
    let host = roots::host_version()?;
    let host_name = format!("Slurm {host} (this host)");
    if roots::is_version(&host, asked) {
        return runner::run(&on_slurm(features, None, None));
    }
    if let Some(why) = roots::obstacle() {
        bail!("failed to run tests on Slurm {asked}: this host has {host}, and {why}");
    }
    let mut names = vec![host_name];
    // One after the other, so that a suite whose root cannot be made stops no other.
    for suite in roots::SUITES {
        let root = roots::ensure_one(suite)?;
        if root.is(asked) {
            println!("-- {}", root.name());
            return runner::run(&on_slurm(features, Some(root.runner()?), None));
        }
        names.push(root.name());
    }
    bail!("failed to find Slurm {asked}; there are {}", names.join(", "))
}

/// Installs what is shipped as the guide says, and makes an image of it.
fn install(features: &[&str]) -> Result<()> {
    let shipped = [("CRUS_TEST_DIST", dist::Product::new()?.folder.into_os_string())];
    ["image::", "installed::"]
        .iter()
        .try_for_each(|module| runner::one_of_integration(module, true, features, &shipped))
}

/// Kills the service again and again: the binary that is shipped. The test around it is the one that was built before; a
/// second one, with link-time optimization, would cost minutes.
fn kills(features: &[&str], times: &str) -> Result<()> {
    let binary = dist::Product::new()?.binary().into_os_string();
    let envs = [("CRUS_TEST_BINARY", binary), ("CRUS_TEST_KILLS", times.into())];
    runner::one_of_integration("kill::", false, features, &envs)
}

fn run_cargo(args: &[&str], envs: &[(&str, &str)]) -> Result<()> {
    let line = format!("cargo {}", args.join(" "));
    println!("$ {line}");
    let status = cargo::command(args)
        .envs(envs.iter().copied())
        .status()
        .with_context(|| format!("failed to run `{line}`"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    Ok(())
}

/// The outcome of the steps: those that passed with the time each took, the one that failed, those not reached.
#[derive(Default)]
struct Outcome {
    passed: Vec<(&'static str, Duration)>,
    failure: Option<(&'static str, anyhow::Error)>,
    not_run: Vec<&'static str>,
}

fn run_all(steps: &[Step]) -> Outcome {
    let mut outcome = Outcome::default();
    for step in steps {
        if outcome.failure.is_some() {
            outcome.not_run.push(step.name);
            continue;
        }
        println!("\n== {}", step.name);
        let begin = Instant::now();
        match (step.run)() {
            Ok(()) => {
                let took = begin.elapsed();
                println!("== {}: ok, {:.1} s", step.name, took.as_secs_f64());
                outcome.passed.push((step.name, took));
            }
            Err(error) => outcome.failure = Some((step.name, error)),
        }
    }
    outcome
}

impl Outcome {
    fn summary(&self) -> String {
        let mut lines: Vec<String> = self
            .passed
            .iter()
            .map(|(name, took)| format!("  {name:<12} ok {:>8.1} s", took.as_secs_f64()))
            .collect();
        lines.extend(self.failure.iter().map(|(name, _)| format!("  {name:<12} FAILED")));
        lines.extend(self.not_run.iter().map(|name| format!("  {name:<12} not run")));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_first_failure_ends_the_run_and_is_named() {
        let reached = Rc::new(Cell::new(false));
        let seen = reached.clone();
        let outcome = run_all(&[
            Step::new("one", || Ok(())),
            Step::new("two", || bail!("it broke")),
            Step::new("three", move || {
                seen.set(true);
                Ok(())
            }),
        ]);
        assert!(!reached.get());
        assert_eq!(outcome.failure.as_ref().unwrap().0, "two");
        let words: Vec<String> =
            outcome.summary().lines().map(|line| line.split_whitespace().take(2).collect()).collect();
        assert_eq!(words, ["oneok", "twoFAILED", "threenot"]);
    }

    #[test]
    fn real_servers_are_left_out_only_on_request() {
        let names = |full, no_peers, slurm: Option<&str>| {
            let test = Test { full, no_peers, slurm: slurm.map(str::to_owned) };
            steps(&test, &LeftOut::default()).iter().map(|step| step.name).collect::<Vec<_>>().join(", ")
        };
        let short = "peers, helm, roots, format, layers, deny, spelling, clippy, tests, doc tests, docs, \
                     other Slurms, dist, kills, api fuzz";
        assert_eq!(names(false, false, None), format!("toolchain, {short}"));
        assert_eq!(names(true, false, None), format!("toolchain, tools, {short}"));
        assert_eq!(
            names(false, true, None),
            "toolchain, format, layers, deny, spelling, clippy, tests, doc tests, docs, dist, kills"
        );
        assert_eq!(names(false, false, Some("24.11")), "toolchain, peers, other Slurms");
    }
}
