//! Runs random worlds and reports: `cargo xtask sim` starts it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that reports")]

use std::process::ExitCode;

use crus_sim::worlds::{Report, run};

const USAGE: &str = "usage: crus-sim-worlds FIRST COUNT THREADS | crus-sim-worlds SEED";

/// How much of the trace of a failure is shown.
const TAIL: usize = 60;

fn main() -> ExitCode {
    let numbers: Result<Vec<u64>, _> = std::env::args().skip(1).map(|text| text.parse()).collect();
    match numbers.as_deref() {
        Ok([seed]) => replay(*seed),
        Ok([first, count, threads]) => many(*first, *count, *threads),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}

/// One world, with all that happens in it.
fn replay(seed: u64) -> ExitCode {
    match run(seed, true) {
        Ok(outcome) => {
            print!("{}", outcome.trace);
            println!("seed {seed} ends clean after {} events", outcome.events());
            ExitCode::SUCCESS
        }
        Err(failed) => {
            print!("{}", failed.trace);
            println!("{failed}");
            ExitCode::FAILURE
        }
    }
}

fn many(first: u64, count: u64, threads: u64) -> ExitCode {
    let report = Report::of(first, count, usize::try_from(threads).unwrap_or(1));
    println!("{report}");
    let Some(failed) = &report.failed else { return ExitCode::SUCCESS };
    let lines: Vec<&str> = failed.trace.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
        println!("{line}");
    }
    println!("\n{failed}\nTo see all of it: cargo xtask sim --seed {}", failed.seed);
    ExitCode::FAILURE
}
