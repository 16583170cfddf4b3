//! The command line.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::auth::command::{self as token, TokenArgs};
use crate::client::args::{PlanArgs, SessionArgs};
use crate::client::error::ClientError;
use crate::client::manual::{Completes, ManArgs};
use crate::client::store::{self, StoreArgs};
use crate::client::{self, exit, manual};
use crate::config::{Flags, Loaded, Misconfigured};
use crate::demo::{self, DemoFlags};
use crate::{LONG_VERSION, serve, settings};

/// Compute Rolling Upgrade Service: moves compute nodes to a new boot image, a group at a time, and harms no job.
#[derive(Parser)]
#[command(name = "crus", version = LONG_VERSION, max_term_width = 110, disable_help_subcommand = true)]
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
        /// Print a configuration file with every option, its meaning and its default, to be changed, and exit.
        #[arg(long, exclusive = true)]
        example_config: bool,
        /// Run on a simulated cluster in this process, to be explored: HSM groups slurm-nodes,
        /// upgrading-nodes and failed-nodes, session template new-image. Whatever is set for HSM, BOS and Slurm
        /// does not count. With --store the cluster is kept beside the sessions.
        #[arg(long)]
        demo: bool,
    },
    /// Upgrade a simulated cluster of 64 nodes before your eyes: needs nothing, touches nothing, takes less than a
    /// minute. Exits with 0 when the outcome is what it should be.
    Demo {
        #[command(flatten)]
        flags: DemoFlags,
    },
    /// Ask a running service: start upgrades, follow them, and give them orders.
    #[command(after_help = exit::HELP)]
    Session(SessionArgs),
    /// Ask a running service what an upgrade would come to, and start nothing.
    ///
    /// Takes what `crus session create` takes. Says what is missing, which steps there would be and how long each would
    /// take, and which nodes would not make it.
    #[command(after_help = exit::HELP)]
    Plan(Box<PlanArgs>),
    /// Look into the store of a service, without changing it: into a file while no service has it open, into etcd at any
    /// time.
    #[command(after_help = store::HELP)]
    Store(StoreArgs),
    /// Make tokens for those who may use a service (auth_token_file).
    Token(TokenArgs),
    /// Print what a shell needs to complete this command line.
    #[command(
        after_help = "For bash: crus completions bash > ~/.local/share/bash-completion/completions/crus\n\
                      For zsh:  crus completions zsh > a file _crus in a folder of $fpath\n\
                      For fish: crus completions fish > ~/.config/fish/completions/crus.fish"
    )]
    Completions {
        /// Which shell.
        shell: Completes,
    },
    /// Print a manual page: crus man session create | man -l -
    Man(ManArgs),
    /// Answer as scontrol, squeue or scancel of a simulated cluster.
    #[command(hide = true, disable_help_flag = true)]
    SlurmStandIn {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// The command line as a description of itself: what the manual and the tests of the guide go by.
pub fn command() -> clap::Command {
    Cli::command()
}

/// `crus help session create` and `crus session help create` as `crus session create --help`.
fn help_asked(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let has_verbs =
        arguments.get(1).is_some_and(|verb| verb == "session" || verb == "store" || verb == "token");
    let at = if has_verbs { 2 } else { 1 };
    if arguments.get(at).is_some_and(|word| word == "help") {
        arguments.remove(at);
        arguments.push("--help".into());
    }
    arguments
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(help_asked(std::env::args_os().collect())) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { exit::MISUSED } else { 0 };
            // A closed pipe, such as that of a pager, is no failure.
            return ExitCode::from(if error.print().is_ok() { code } else { code.min(exit::FAILED) });
        }
    };
    match cli.command {
        Verb::Serve { example_config: true, .. } => print(&settings::example()),
        Verb::Serve { flags, print_config, demo, .. } => {
            let defaults = if demo { demo::DEFAULTS } else { &[] };
            match Loaded::with_defaults(&flags, |name| std::env::var_os(name), defaults) {
                Err(error) => fail(&error.into(), exit::MISUSED),
                Ok(loaded) if print_config => print(&loaded.to_toml()),
                Ok(loaded) if demo => ended(demo::serve(loaded)),
                Ok(loaded) => ended(serve::run(&loaded.config)),
            }
        }
        Verb::Demo { flags } => {
            // Nothing around may change what the demo shows.
            match Loaded::with_defaults(&Flags::default(), |_| None, demo::DEFAULTS) {
                Err(error) => fail(&error.into(), exit::FAILED),
                Ok(loaded) => ended(demo::run(&flags, loaded.config)),
            }
        }
        Verb::Session(args) => client_ended(client::session(args)),
        Verb::Plan(args) => client_ended(client::plan(*args)),
        Verb::Store(args) => client_ended(store::run(&args)),
        Verb::Token(args) => client_ended(token::run(&args)),
        Verb::Completions { shell } => client_ended(manual::completions(shell, &command())),
        Verb::Man(args) => client_ended(manual::man(&args, command())),
        Verb::SlurmStandIn { arguments } => {
            // Its first argument is the name that it was called by.
            crus_sim::stand_in::main(std::iter::once(OsString::from("slurm-stand-in")).chain(arguments))
        }
    }
}

/// What the process ends with.
fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Misconfigured>() => fail(&error, exit::MISUSED),
        Err(error) => fail(&error, exit::FAILED),
    }
}

/// What the process ends with after a command of the client.
fn client_ended(result: Result<u8, ClientError>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.is_quiet() => ExitCode::from(error.code()),
        Err(error) => {
            let code = error.code();
            fail(&error.into(), code)
        }
    }
}

/// Prints to stdout. That nobody reads it any more (`… | head`) is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error.into(), exit::FAILED),
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
