//! `crus store …`: looking into a store, whether or not a service runs.

use std::io::{self, BufWriter, Write as _};

use clap::{Args, Subcommand};

use super::error::ClientError;
use super::exit;
use super::output::{note, print_all};
use super::views::{nodes, some};
use crate::config::{Loaded, StoreFlags};
use crate::settings::Config;
use crate::store::inspect::{self, InspectError};

/// The end of the help.
pub(crate) const HELP: &str = "\
Exit codes:
  0    done; with check: nothing is wrong
  1    the store could not be looked into
  2    the command line or the configuration is wrong
  3    with check: something is wrong with the store";

/// Options of `crus store`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    verb: StoreVerb,
}

/// What can be done with a store.
#[derive(Debug, Clone, Subcommand)]
enum StoreVerb {
    /// Print everything that is stored, one JSON object in a line.
    ///
    /// The last line says how many came before it: a dump without it was cut.
    #[command(after_help = HELP)]
    Dump {
        #[command(flatten)]
        flags: StoreFlags,
    },
    /// Read everything that is stored, and say what is wrong with it.
    #[command(after_help = HELP)]
    Check {
        #[command(flatten)]
        flags: StoreFlags,
    },
}

/// Runs `crus store`; returns what the process ends with.
///
/// # Errors
/// When the store could not be looked into: each says what to do.
pub(crate) fn run(args: &StoreArgs) -> Result<u8, ClientError> {
    match &args.verb {
        StoreVerb::Dump { flags } => {
            let config = config(flags)?;
            super::on_runtime(dump(&config))
        }
        StoreVerb::Check { flags } => {
            let config = config(flags)?;
            super::on_runtime(check(&config))
        }
    }
}

fn config(flags: &StoreFlags) -> Result<Config, ClientError> {
    let loaded = Loaded::new(&flags.0, |name| std::env::var_os(name));
    loaded.map(|loaded| loaded.config).map_err(|error| ClientError::usage(error.to_string()))
}

async fn dump(config: &Config) -> Result<u8, ClientError> {
    let mut out = BufWriter::new(io::stdout().lock());
    let dumped = inspect::dump(config, &mut out).await;
    let written = match dumped {
        Ok(()) => out.flush(),
        Err(InspectError::Write(error)) => Err(error),
        Err(error) => return Err(ClientError::failed(error.to_string())),
    };
    match written {
        // That nobody reads on (`… | head`) is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ClientError::output(&error)),
        _ => Ok(exit::OK),
    }
}

async fn check(config: &Config) -> Result<u8, ClientError> {
    let report = inspect::check(config).await.map_err(|error| ClientError::failed(error.to_string()))?;
    let wrong: String = report.wrong.iter().map(|wrong| format!("{wrong}\n")).collect();
    print_all(&wrong)?;
    let held = format!("{} with {}", some(report.sessions as u64, "session"), nodes(report.nodes as u64));
    if report.is_sound() {
        print_all(&format!("{held}: nothing is wrong\n"))?;
        return Ok(exit::OK);
    }
    note(&format!(
        "{held}: {} that should not be; keep a copy of the store, and restore a backup or report this",
        some(report.wrong.len() as u64, "thing")
    ));
    Ok(exit::NOT_ALL)
}
