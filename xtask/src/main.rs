//! Development tasks: `cargo xtask test`, `cargo xtask layers`, `cargo xtask bench`, `cargo xtask sim`,
//! `cargo xtask fuzz`, `cargo xtask dist`, `cargo xtask roots`.

mod bench;
mod cargo;
mod dist;
mod fuzz;
mod layers;
mod peers;
mod python;
mod roots;
mod sim;
mod test;
mod tools;

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
    /// Run everything that must pass: format, dependencies, clippy, all tests, docs, what is shipped, and its kills.
    ///
    /// Tests talk to a real etcd and to real Slurms: that of this host, and those of other Debian releases in roots below
    /// `target`. Missing packages are installed by apt-get, given root or a sudo that asks for no password. The API is
    /// fuzzed with schemathesis, from PyPI.
    Test(test::Test),
    /// Check which crate depends on what.
    Layers,
    /// Run the benchmarks.
    Bench {
        /// Only those whose name contains this.
        filter: Option<String>,
    },
    /// Run random worlds against the promises: faults, crashes, replicas, operators.
    Sim(sim::Sim),
    /// Make what is shipped, in target/shipped: the binary with all that belongs to it, as a folder and as an archive.
    Dist(dist::Dist),
    /// Look for input that breaks something, with libFuzzer, or with schemathesis for the API.
    Fuzz(fuzz::Fuzz),
    /// Make the Debian roots with other Slurms than this host's, or see that they are as new as their suites.
    Roots,
    /// Run a program in such a root: cargo runs test programs so.
    #[command(hide = true)]
    InRoot(roots::InRoot),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Test(test) => test::run(&test),
        Task::Layers => layers::run(),
        Task::Bench { filter } => bench::run(filter.as_deref()),
        Task::Sim(sim) => sim::run(&sim),
        Task::Dist(dist) => dist::run(&dist),
        Task::Fuzz(fuzz) => fuzz::run(&fuzz),
        Task::Roots => roots::ensure_made().map(drop),
        Task::InRoot(in_root) => roots::enter(&in_root),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
