//! The command line.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Flags, Loaded};
use crate::serve;

/// What the process ends with when it could not do what was asked.
const FAILED: u8 = 1;
/// What it ends with when what was asked makes no sense: the command line or the configuration.
const MISUSED: u8 = 2;

/// Compute Rolling Upgrade Service: moves compute nodes to a new boot image, a group at a time, and harms no job.
#[derive(Parser)]
#[command(name = "crus", version, max_term_width = 110, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the service.
    #[command(
        after_help = "Each option can be given as a flag, as an environment variable, or in the file, in this \
                      order of precedence. SIGTERM stops the service once the calls under way are done, a second \
                      one at once; sessions go on with the next start."
    )]
    Serve {
        #[command(flatten)]
        flags: Flags,
        /// Print the options in force as a configuration file, with the source of each, and exit.
        #[arg(long)]
        print_config: bool,
    },
    /// Answer as scontrol or squeue of a simulated cluster.
    #[command(hide = true, disable_help_flag = true)]
    SlurmStandIn {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { MISUSED } else { 0 };
            // A closed pipe, such as that of a pager, is no failure.
            return ExitCode::from(if error.print().is_ok() { code } else { code.min(FAILED) });
        }
    };
    match cli.command {
        Verb::Serve { flags, print_config } => match Loaded::new(&flags, |name| std::env::var_os(name)) {
            Err(error) => fail(&error.into(), MISUSED),
            Ok(loaded) if print_config => print(&loaded.to_toml()),
            Ok(loaded) => match serve::run(&loaded.config) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, FAILED),
            },
        },
        Verb::SlurmStandIn { arguments } => {
            // Its first argument is the name that it was called by.
            crus_sim::stand_in::main(std::iter::once(OsString::from("slurm-stand-in")).chain(arguments))
        }
    }
}

/// Prints to stdout. That nobody reads it any more (`… | head`) is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error.into(), FAILED),
        _ => ExitCode::SUCCESS,
    }
}

/// Says what went wrong, with its causes, in one line.
fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    match writeln!(io::stderr(), "crus: {error:#}") {
        // When nobody listens, the code says it all.
        Ok(()) | Err(_) => ExitCode::from(code),
    }
}
