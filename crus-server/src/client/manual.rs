//! Manual pages and completions, from the same definitions as the help.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, ValueEnum, ValueHint};
use clap_complete::Shell;

use super::error::ClientError;
use super::output::print_all;

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
pub(crate) fn completions(shell: Completes, command: &Command) -> Result<u8, ClientError> {
    let shell = match shell {
        Completes::Bash => Shell::Bash,
        Completes::Zsh => Shell::Zsh,
        Completes::Fish => Shell::Fish,
    };
    // Generators offer hidden commands, too: they get the command line without them.
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let version = command.get_version().unwrap_or_default().to_owned();
    let mut command = Command::new("crus").version(version).disable_help_subcommand(true).subcommands(shown);
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "crus", &mut script);
    print_all(&String::from_utf8_lossy(&script)).map(|()| super::exit::OK)
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
    let text = render(page).map_err(|error| ClientError::output(&error))?;
    print_all(&text).map(|()| super::exit::OK)
}

fn write(command: &Command, folder: &Path) -> io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        write(command, folder)?;
    }
    let name = command.get_display_name().unwrap_or(command.get_name());
    std::fs::write(folder.join(format!("{name}.1")), render(command)?)
}

fn render(command: &Command) -> io::Result<String> {
    let mut text = Vec::new();
    let source = concat!("crus ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command.clone()).source(source).manual("CRUS").render(&mut text)?;
    // What the end of the help is about is known here alone.
    let heading = |text: &str| format!(".SH \"{text}\"\n");
    let text = String::from_utf8_lossy(&text).replace(".SH EXTRA\nExit codes:\n", &heading("EXIT STATUS"));
    Ok(text.replace(".SH EXTRA\n", &heading("NOTES")))
}
