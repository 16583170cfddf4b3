//! `scancel`: ends jobs by their ids.

use super::{Outcome, Output, VERSION};
use crate::cluster::Cluster;
use crate::cluster::slurm::SlurmError;

const HELP: &str = "Usage: scancel [OPTIONS] [job_id[_array_id][.step_id]]
  -V, --version                   output version information and exit

Help options:
  --help                          show this help message

This is the scancel of a simulated cluster: it does no more than this.
";

/// Options of the real one that the stand-in does not have.
const REAL_OPTIONS: [&str; 18] = [
    "account",
    "batch",
    "clusters",
    "full",
    "hurry",
    "interactive",
    "name",
    "nodelist",
    "partition",
    "qos",
    "quiet",
    "reservation",
    "sibling",
    "signal",
    "state",
    "usage",
    "user",
    "verbose",
];

/// The exit codes are the lower eight bits of Slurm's own numbers of errors.
const DENIED: u8 = 210;
const NO_CONTROLLER: u8 = 8;

pub(super) fn run(cluster: &mut Cluster, args: &[String]) -> Outcome {
    let ids = match read(args) {
        Ok(ids) => ids,
        Err(output) => return Outcome::Done(output),
    };
    let mut output = Output::default();
    let mut down = false;
    for id in ids {
        // There are neither arrays nor steps here: other ids than numbers are those of no job.
        let Ok(number) = id.parse() else { continue };
        let Err(error) = cluster.cancel_job(number) else { continue };
        output.stderr.push_str(&format!("scancel: error: Kill job error on job id {id}: {error}\n"));
        down = error == SlurmError::ControllerDown;
        output.exit_code = if down { NO_CONTROLLER } else { DENIED };
    }
    if down { Outcome::NoController(output) } else { Outcome::Done(output) }
}

/// The ids. When one of them is none, no job is ended.
fn read(args: &[String]) -> Result<Vec<&str>, Output> {
    const TRY_HELP: &str = "Try \"scancel --help\" for more information";
    let mut ids = Vec::new();
    for arg in args {
        let real = |name: &str| !name.is_empty() && REAL_OPTIONS.iter().any(|real| real.starts_with(name));
        match arg.as_str() {
            "-V" | "--version" => return Err(Output::printed(format!("slurm-wlm {VERSION}\n"))),
            "--help" => return Err(Output::printed(HELP)),
            long if long.starts_with("--") && !real(long[2..].split('=').next().unwrap_or_default()) => {
                return Err(Output::failed(format_args!(
                    "scancel: unrecognized option '{long}'\n{TRY_HELP}"
                )));
            }
            option if option.starts_with('-') => {
                return Err(Output::failed(format_args!(
                    "scancel: error: the simulated scancel does not support: {option}"
                )));
            }
            id => ids.push(id),
        }
    }
    let is_id = |id: &&&str| id.starts_with(|c: char| c.is_ascii_digit());
    if let Some(bad) = ids.iter().find(|id| !is_id(id)) {
        return Err(Output::failed(format_args!("scancel: error: Invalid job id {bad}")));
    }
    if ids.is_empty() {
        return Err(Output::failed("scancel: error: No job identification provided"));
    }
    Ok(ids)
}
