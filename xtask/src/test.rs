//! `cargo xtask test`: everything that must pass, cheap things first, up to the first failure.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::dist::{self, ALL, Build, WITHOUT_PROTOC};
use crate::{cargo, fuzz, layers, peers, python};

/// The variable by which a test knows that real servers are not wanted, when it is 1.
const NO_PEERS: &str = "CRUS_NO_PEERS";

/// What checks the chart.
const HELM: &str = "crus-server/tests/packaging/requirements.txt";

/// How often the release build is killed.
const KILLS: &str = "500";

struct Step {
    name: &'static str,
    run: Box<dyn Fn() -> Result<()>>,
}

/// Runs the steps.
pub(crate) fn run(no_peers: bool) -> Result<()> {
    let outcome = run_all(&steps(no_peers));
    println!("\n{}", outcome.summary());
    if no_peers {
        println!(
            "left out, as asked: the tests named real_slurm_* and all others that need a real server, and the step `api fuzz`"
        );
    }
    match outcome.failure {
        None => Ok(()),
        Some((step, error)) => Err(error.context(format!("failed at the step `{step}`"))),
    }
}

fn steps(no_peers: bool) -> Vec<Step> {
    let mut steps = vec![Step { name: "toolchain", run: Box::new(check_toolchain) }];
    if !no_peers {
        steps.push(Step { name: "peers", run: Box::new(peers::ensure_installed) });
        steps.push(Step { name: "helm", run: Box::new(|| python::environment("helm", HELM).map(|_| ())) });
    }
    // The client of etcd is built with protoc.
    let features: &'static [&str] =
        if no_peers { &["--features", "crus-core/mock,crus-server/fuzzing"] } else { &["--all-features"] };
    let cargo_step = |name, args: &[&'static str], more: &[&'static str], envs: &'static [(&str, &str)]| {
        let args = [args, more].concat();
        Step { name, run: Box::new(move || run_cargo(&args, envs)) }
    };
    steps.extend([
        cargo_step("format", &["fmt", "--all", "--check"], &[], &[]),
        Step { name: "layers", run: Box::new(layers::run) },
        cargo_step(
            "clippy",
            &["clippy", "--workspace", "--all-targets"],
            &[features, &["--", "-D", "warnings"]].concat(),
            &[],
        ),
        Step { name: "tests", run: Box::new(move || tests(no_peers, features)) },
        cargo_step(
            "docs",
            &["doc", "--workspace", "--no-deps"],
            features,
            &[("RUSTDOCFLAGS", "-D warnings")],
        ),
        Step { name: "dist", run: Box::new(move || ship(no_peers, features)) },
        Step { name: "kills", run: Box::new(move || kills(features)) },
    ]);
    if !no_peers {
        steps.push(Step { name: "api fuzz", run: Box::new(move || fuzz::api_step(features)) });
    }
    steps
}

/// What a minimal installation of Rust lacks, before anything stumbles over it.
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

/// Makes what is shipped, installs it as the guide says, and makes an image of it.
fn ship(no_peers: bool, features: &[&str]) -> Result<()> {
    let product = dist::make(&Build::with(if no_peers { WITHOUT_PROTOC } else { ALL }))?;
    if no_peers {
        return Ok(());
    }
    let folder = product.folder.to_str().context("the target directory has a name that is not UTF-8")?;
    run_cargo(
        &[
            &["test", "--workspace"],
            features,
            &["--test", "installed", "--test", "image", "--", "--ignored", "--nocapture"],
        ]
        .concat(),
        &[("CRUS_TEST_DIST", folder)],
    )
}

/// Kills the service hundreds of times: the binary that is shipped. The test around it is the one that was built before; a
/// second one, with link-time optimization, would cost minutes.
fn kills(features: &[&str]) -> Result<()> {
    let binary = dist::Product::new()?.binary();
    let binary = binary.to_str().context("the target directory has a name that is not UTF-8")?;
    run_cargo(
        &[&["test", "--workspace"], features, &["--test", "kill", "--", "--nocapture"]].concat(),
        &[("CRUS_TEST_BINARY", binary), ("CRUS_TEST_KILLS", KILLS)],
    )
}

/// All tests. What failed is said once more at the end: it may stand thousands of lines above.
fn tests(no_peers: bool, features: &[&str]) -> Result<()> {
    // One failure must not hide the others: a run takes long.
    let args = [&["test", "--workspace", "--no-fail-fast"], features].concat();
    let line = format!("cargo {}", args.join(" "));
    println!("$ {line}");
    // Set either way: what the shell has left over must not leave tests out in silence.
    let mut child = cargo::command(&args)
        .env(NO_PEERS, if no_peers { "1" } else { "0" })
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to run `{line}`"))?;
    let output = BufReader::new(child.stdout.take().context("the output is no pipe")?);
    let mut failures = Failures::default();
    for printed in output.split(b'\n') {
        let printed = printed.with_context(|| format!("failed to read what `{line}` prints"))?;
        let printed = String::from_utf8_lossy(&printed);
        println!("{printed}");
        failures.read(&printed);
    }
    let status = child.wait().with_context(|| format!("failed to wait for `{line}`"))?;
    if !status.success() {
        println!("\n== what failed, once more\n{}", failures.told.join("\n"));
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// What test programs say of their failures: from the first line that is `failures:` to the result.
#[derive(Default)]
struct Failures {
    inside: bool,
    told: Vec<String>,
}

impl Failures {
    fn read(&mut self, line: &str) {
        self.inside |= line == "failures:";
        if self.inside {
            self.told.push(line.to_owned());
        }
        self.inside &= !line.starts_with("test result: ");
    }
}

fn run_cargo(args: &[&str], envs: &[(&str, &str)]) -> Result<()> {
    let line = format!("cargo {}", args.join(" "));
    println!("$ {line}");
    let status = cargo::command(args)
        .envs(envs.iter().copied())
        .status()
        .with_context(|| format!("failed to run `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// How the steps went: those that ran with the time each took, the one that failed, those not reached.
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
            .map(|(name, took)| format!("  {name:<10} ok {:>8.1} s", took.as_secs_f64()))
            .collect();
        lines.extend(self.failure.iter().map(|(name, _)| format!("  {name:<10} FAILED")));
        lines.extend(self.not_run.iter().map(|name| format!("  {name:<10} not run")));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn the_first_failure_ends_the_run_and_is_named() {
        let reached = Rc::new(Cell::new(false));
        let seen = reached.clone();
        let outcome = run_all(&[
            Step { name: "one", run: Box::new(|| Ok(())) },
            Step { name: "two", run: Box::new(|| bail!("it broke")) },
            Step {
                name: "three",
                run: Box::new(move || {
                    seen.set(true);
                    Ok(())
                }),
            },
        ]);
        assert!(!reached.get());
        assert_eq!(outcome.failure.as_ref().unwrap().0, "two");
        let words: Vec<String> =
            outcome.summary().lines().map(|line| line.split_whitespace().take(2).collect()).collect();
        assert_eq!(words, ["oneok", "twoFAILED", "threenot"]);
    }

    #[test]
    fn failures_are_told_once_more_and_nothing_else() {
        let mut failures = Failures::default();
        for line in
            "test a ... ok\ntest b ... FAILED\n\nfailures:\n\n---- b stdout ----\nwhy\n\nfailures:\n    b\n\n\
            test result: FAILED. 1 passed\n\nrunning 1 test\ntest c ... ok\ntest result: ok. 1 passed"
                .lines()
        {
            failures.read(line);
        }
        assert_eq!(
            failures.told.join("\n"),
            "failures:\n\n---- b stdout ----\nwhy\n\nfailures:\n    b\n\ntest result: FAILED. 1 passed"
        );
    }

    #[test]
    fn real_servers_are_left_out_only_on_request() {
        let names = |no_peers| steps(no_peers).iter().map(|step| step.name).collect::<Vec<_>>();
        assert_eq!(
            names(false),
            [
                "toolchain",
                "peers",
                "helm",
                "format",
                "layers",
                "clippy",
                "tests",
                "docs",
                "dist",
                "kills",
                "api fuzz"
            ]
        );
        assert_eq!(
            names(true),
            ["toolchain", "format", "layers", "clippy", "tests", "docs", "dist", "kills"]
        );
    }
}
