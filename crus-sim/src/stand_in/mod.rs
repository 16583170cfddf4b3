//! `scontrol`, `squeue` and `scancel`, spoken by the model: what Slurm 22.05.8 prints, where, and with which exit code.
//!
//! The program is small and starts fast: it sends its arguments to the server of the simulated cluster
//! ([`http`](crate::http)), which carries them out ([`run`]), and prints what comes back. It finds the server by
//! the environment variable [`ADDRESS`] or by `--sim=ADDRESS` before the program's name, and it knows which of the
//! three it is by the name that it was called by or by its first argument:
//!
//! ```text
//! CRUS_SIM=127.0.0.1:40123 scontrol show node nid000001
//! crus-sim-slurm --sim=127.0.0.1:40123 squeue -h -o '%i|%N'
//! ```
//!
//! What the real programs can do and the stand-in cannot is refused with a message that says so: it never
//! pretends.

mod client;
mod hosts;
mod scancel;
mod scontrol;
mod show;
mod squeue;

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::cluster::slurm::SlurmError;

/// The environment variable with the address of the simulated cluster, such as `127.0.0.1:40123`; `http://` may
/// stand before it.
pub const ADDRESS: &str = "CRUS_SIM";

/// What [`Program`]s are asked for with `--version`, and what nodes report as theirs.
pub(crate) const VERSION: &str = "22.05.8";

/// Slurm's word for a controller that does not answer.
pub(crate) const NO_CONTROLLER: &str = "Unable to contact slurm controller (connect failure)";

/// One of Slurm's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// `scontrol`
    Scontrol,
    /// `squeue`
    Squeue,
    /// `scancel`
    Scancel,
}

impl Program {
    /// The program of this name, or of this path's last part.
    pub fn named(name: &str) -> Option<Self> {
        match Path::new(name).file_name()?.to_str()? {
            "scontrol" => Some(Program::Scontrol),
            "squeue" => Some(Program::Squeue),
            "scancel" => Some(Program::Scancel),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Program::Scontrol => "scontrol",
            Program::Squeue => "squeue",
            Program::Scancel => "scancel",
        }
    }
}

/// One call of a program: what is sent to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Which program.
    pub program: Program,
    /// Its arguments, without its name.
    pub args: Vec<String>,
}

/// What a program printed, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Output {
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// Its exit code.
    pub exit_code: u8,
}

impl Output {
    pub(crate) fn printed(stdout: impl Into<String>) -> Self {
        Output { stdout: stdout.into(), ..Output::default() }
    }

    /// A failure: these lines on standard error and exit code 1.
    pub(crate) fn failed(stderr: impl std::fmt::Display) -> Self {
        Output { stderr: format!("{stderr}\n"), exit_code: 1, ..Output::default() }
    }
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was carried out, or refused.
    Done(Output),
    /// slurmctld is down. The real program tries for
    /// [`connect_timeout_ms`](crate::config::SlurmConfig::connect_timeout_ms) before it prints this.
    NoController(Output),
}

impl Outcome {
    /// What to print.
    pub fn into_output(self) -> Output {
        match self {
            Outcome::Done(output) | Outcome::NoController(output) => output,
        }
    }

    /// `slurm_load_node error: …` and its like.
    fn no_controller(what: &str) -> Self {
        Outcome::NoController(Output::failed(format_args!("{what} error: {NO_CONTROLLER}")))
    }

    /// What a call of the cluster that only fails when slurmctld is down came to.
    fn reading<T>(what: &str, result: Result<T, SlurmError>, then: impl FnOnce(T) -> Output) -> Self {
        match result {
            Ok(value) => Outcome::Done(then(value)),
            Err(SlurmError::ControllerDown) => Outcome::no_controller(what),
            Err(other) => Outcome::Done(Output::failed(other)),
        }
    }
}

/// Carries a call out, now.
pub fn run(cluster: &mut Cluster, call: &Call) -> Outcome {
    match call.program {
        Program::Scontrol => scontrol::run(cluster, &call.args),
        Program::Squeue => squeue::run(cluster, &call.args),
        Program::Scancel => scancel::run(cluster, &call.args),
    }
}

/// The program: its arguments as a process gets them, the name that it was called by first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let output = match called(args).and_then(|(address, call)| {
        let address = address.or_else(|| std::env::var(ADDRESS).ok()).ok_or_else(|| {
            Output::failed(format_args!(
                "{}: the environment variable {ADDRESS} must hold the address of the simulated cluster, such as \
                 127.0.0.1:40123",
                call.program.name()
            ))
        })?;
        Ok(client::send(&address, &call))
    }) {
        Ok(output) | Err(output) => output,
    };
    // A reader that has seen enough (`| head`) is no failure of ours; nor is there anybody left to tell.
    let printed = std::io::stdout()
        .write_all(output.stdout.as_bytes())
        .and_then(|()| std::io::stderr().write_all(output.stderr.as_bytes()));
    match printed {
        Ok(()) => ExitCode::from(output.exit_code),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Reads `[--sim=ADDRESS] [PROGRAM] ARGUMENTS` after the program's own name.
fn called(args: impl IntoIterator<Item = OsString>) -> Result<(Option<String>, Call), Output> {
    let mut args = args
        .into_iter()
        .map(|arg| {
            arg.into_string().map_err(|_| Output::failed("failed to read an argument: it is not UTF-8"))
        })
        .collect::<Result<Vec<String>, Output>>()?
        .into_iter()
        .peekable();
    let own_name = args.next().unwrap_or_default();
    let address = args.next_if(|arg| arg.starts_with("--sim=")).map(|arg| arg["--sim=".len()..].to_owned());
    let program = match Program::named(&own_name) {
        Some(program) => Some(program),
        None => args.next().and_then(|name| Program::named(&name)),
    };
    let program = program.ok_or_else(|| {
        Output::failed(
            "failed to tell which program to be: the first argument must be scontrol, squeue or scancel",
        )
    })?;
    Ok((address, Call { program, args: args.collect() }))
}

/// Writes the programs into a folder, as scripts that call `program` (with `leading` arguments before the
/// name) for the cluster at `address`. Put the folder first in `PATH`, or name the scripts in a configuration.
///
/// # Errors
/// When a script cannot be written.
pub fn write_programs(folder: &Path, program: &Path, leading: &[&str], address: &str) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    for name in ["scontrol", "squeue", "scancel"] {
        let mut words = vec![quoted(&program.to_string_lossy())];
        words.extend(leading.iter().map(|word| quoted(word)));
        words.push(quoted(&format!("--sim={address}")));
        words.push(name.to_owned());
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<(Option<String>, Call), Output> {
        called(args.iter().map(OsString::from))
    }

    #[test]
    fn the_program_is_told_by_its_name_or_by_its_first_argument() {
        let (address, call) = read(&["/usr/bin/squeue", "-h"]).unwrap();
        assert_eq!((address, call.program, call.args), (None, Program::Squeue, vec!["-h".to_owned()]));
        let (address, call) = read(&["crus", "--sim=127.0.0.1:9", "scontrol", "ping"]).unwrap();
        assert_eq!(address.as_deref(), Some("127.0.0.1:9"));
        assert_eq!((call.program, call.args), (Program::Scontrol, vec!["ping".to_owned()]));
        assert_eq!(read(&["crus", "sinfo"]).unwrap_err().exit_code, 1);
        assert_eq!(read(&["crus"]).unwrap_err().exit_code, 1);
    }
}
