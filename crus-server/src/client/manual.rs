//! Manual pages and completions, from the same definitions as the help.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, ValueEnum, ValueHint};
use clap_complete::Shell;

use super::error::ClientError;
use super::output::print;

/// The shells that can complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Completes {
    Bash,
    Zsh,
    Fish,
}

/// Options of `crus man`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ManArgs {
    /// Which command's page, such as session create; without it that of crus.
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    pub(crate) command: Vec<String>,
    /// Write the pages of all commands into this directory instead, as crus.1, crus-session.1 and so on.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
}

/// Prints what a shell must be told to complete the command line.
///
/// # Errors
/// When it cannot be printed.
pub(crate) fn completions(shell: Completes, mut command: Command) -> Result<u8, ClientError> {
    let shell = match shell {
        Completes::Bash => Shell::Bash,
        Completes::Zsh => Shell::Zsh,
        Completes::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "crus", &mut script);
    print_bytes(&script)
}

/// Prints a manual page, or writes all of them.
///
/// # Errors
/// When there is no such command, or a file cannot be written.
pub(crate) fn man(args: &ManArgs, command: Command) -> Result<u8, ClientError> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    if let Some(folder) = &args.dir {
        let written = std::fs::create_dir_all(folder).and_then(|()| write(&command, folder));
        written.map_err(|error| {
            ClientError::failed(format!("failed to write manual pages into {}: {error}", folder.display()))
        })?;
        return Ok(super::exit::OK);
    }
    let mut page = &command;
    for name in &args.command {
        page = page.find_subcommand(name).ok_or_else(|| {
            ClientError::usage(format!("there is no command {name}; crus --help lists all"))
        })?;
    }
    let mut text = Vec::new();
    let rendered = clap_mangen::Man::new(page.clone()).render(&mut text);
    rendered.map_err(|error| ClientError::output(&error))?;
    print_bytes(&text)
}

fn write(command: &Command, folder: &Path) -> io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write(command, folder)?;
    }
    clap_mangen::Man::new(command.clone()).generate_to(folder).map(drop)
}

fn print_bytes(text: &[u8]) -> Result<u8, ClientError> {
    print(&String::from_utf8_lossy(text)).map(|()| super::exit::OK)
}
