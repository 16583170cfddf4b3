//! Development tasks: `cargo xtask test`, `cargo xtask layers`, `cargo xtask bench`, `cargo xtask sim`,
//! `cargo xtask fuzz`, `cargo xtask dist`.

mod bench;
mod cargo;
mod dist;
mod fuzz;
mod layers;
mod peers;
mod python;
mod sim;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run everything that must pass: format, layers, clippy, all tests, docs, and hundreds of kills.
    ///
    /// Tests talk to a real Slurm and a real etcd, whose client is built with protoc. What of it is missing is installed
    /// by apt-get, given root or a sudo that asks for no password. The API is fuzzed with schemathesis, from PyPI.
    Test {
        /// Leave out the tests against real servers and the fuzzer from PyPI, and need neither these nor protoc.
        #[arg(long)]
        no_peers: bool,
    },
    /// Check which crate depends on what.
    Layers,
    /// Run the benchmarks.
    Bench {
        /// Only those whose name contains this.
        filter: Option<String>,
    },
    /// Run random worlds against the promises: faults, crashes, replicas, operators.
    Sim(sim::Sim),
    /// Make what is shipped, in target/dist: the binary with all that belongs to it, as a folder and as an archive.
    Dist(dist::Dist),
    /// Look for input that breaks something, with libFuzzer, or with schemathesis for the API.
    Fuzz(fuzz::Fuzz),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Test { no_peers } => test::run(no_peers),
        Task::Layers => layers::run(),
        Task::Bench { filter } => bench::run(filter.as_deref()),
        Task::Sim(sim) => sim::run(&sim),
        Task::Dist(dist) => dist::run(&dist),
        Task::Fuzz(fuzz) => fuzz::run(&fuzz),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
