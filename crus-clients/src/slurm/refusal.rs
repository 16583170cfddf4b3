//! What Slurm's programs say when they fail, and what it means for the request.

use super::process::{Output, RunError};
use crus_core::ports::{Peer, PortError};

/// Whether a call asks or changes: what an unclear end means depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Read,
    Update,
}

/// What a known text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The controller, or the program itself, said no.
    Refused,
    /// The controller never got the request.
    Unreachable,
    /// The controller got the request, and no answer came back.
    Unanswered,
}

/// RESUME of a node that is not held: Slurm says so though it resumed the others of the list.
pub(super) const INVALID_STATE: &str = "Invalid node state specified";

/// Seen of Slurm 22.05, or taken from its table of errors. The first that fits counts.
const KNOWN: [(&str, Meaning); 24] = [
    ("connect failure", Meaning::Unreachable),
    ("receive failure", Meaning::Unanswered),
    ("Socket timed out on send/recv", Meaning::Unanswered),
    ("Zero Bytes were transmitted or received", Meaning::Unanswered),
    ("Unable to contact slurm controller", Meaning::Unreachable),
    ("Slurm backup controller in standby mode", Meaning::Unreachable),
    ("s_p_parse_file", Meaning::Unreachable),
    ("Unable to process configuration file", Meaning::Unreachable),
    ("Unable to establish configuration source", Meaning::Unreachable),
    ("Could not establish a configuration source", Meaning::Unreachable),
    ("authentication error", Meaning::Refused),
    ("Incompatible versions of client and server", Meaning::Refused),
    ("Invalid user id", Meaning::Refused),
    ("Access/permission denied", Meaning::Refused),
    ("Invalid node name specified", Meaning::Refused),
    (INVALID_STATE, Meaning::Refused),
    ("You must specify a reason", Meaning::Refused),
    ("Invalid input", Meaning::Refused),
    ("Update of this parameter is not supported", Meaning::Refused),
    // A job of `--no-requeue`.
    ("Requested operation is presently disabled", Meaning::Refused),
    // A job of srun or salloc.
    ("Only batch jobs are accepted or processed", Meaning::Refused),
    ("Job not heterogeneous job leader", Meaning::Refused),
    ("Operation not permitted on individual component", Meaning::Refused),
    // What `scontrol requeue` says, nine seconds later for each job, when the controller is down.
    ("Unexpected message received", Meaning::Unanswered),
];

/// What is said of a job that holds no nodes any more: the wish is fulfilled. Both programs go on with the other jobs.
const GONE: [&str; 3] = [
    // Forgotten since it ended; `scancel` of 22.05 says nothing and exits with 0.
    "Invalid job id specified",
    // It waits, or somebody requeued it before.
    "Job is pending execution",
    "Job/step already completing or completed",
];

/// The error that a program which ended with another exit code than 0 stands for.
pub(super) fn of_output(act: Act, program: &str, output: &Output) -> PortError {
    let said = [output.stderr.as_str(), output.stdout.as_str()];
    let known = KNOWN.iter().find_map(|(text, meaning)| {
        let line = said.iter().flat_map(|said| said.lines()).find(|line| line.contains(text))?;
        Some((tidy(line), *meaning))
    });
    if let Some((detail, meaning)) = known {
        return match (meaning, act) {
            (Meaning::Refused, _) => refused(detail),
            (Meaning::Unanswered, Act::Update) => may_have_acted(detail),
            (Meaning::Unreachable | Meaning::Unanswered, _) => unreachable(detail),
        };
    }
    let line = telling_line(&output.stderr);
    let spoke = !line.is_empty() && output.status.code().is_some();
    let detail = match line {
        line if line.is_empty() => format!("{program} ended with {}", output.status),
        line => format!("{program}: {line}"),
    };
    match act {
        Act::Update => may_have_acted(detail),
        Act::Read if spoke => refused(detail),
        Act::Read => unreachable(detail),
    }
}

/// What a call that ended jobs came to. A line is printed for each job that was not: `… for job 17` by `scontrol
/// requeue`, exit code 1; `Kill job error on job id 17: …` by `scancel`, exit code that of the error.
pub(super) fn of_ended_jobs(program: &str, mut output: Output) -> Result<(), PortError> {
    if output.status.success() {
        return Ok(());
    }
    // A Slurm that does not know `requeue incomplete` takes the word for a job: that must not pass for well.
    let is_word = |line: &str| line.contains("incomplete");
    let is_gone = |line: &&str| GONE.iter().any(|text| line.contains(text)) && !is_word(line);
    let lines: Vec<&str> = output.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let others: Vec<&str> = lines.iter().copied().filter(|line| !is_gone(line)).collect();
    if others.is_empty() && !lines.is_empty() && output.status.code().is_some() {
        return Ok(());
    }
    output.stderr = others.join("\n");
    Err(of_output(Act::Update, program, &output))
}

/// The error that a call which came to nothing stands for.
pub(super) fn of_run(act: Act, error: &RunError) -> PortError {
    let detail = error.to_string();
    match (error, act) {
        (RunError::Start { .. } | RunError::AllTaken(_), _) => unreachable(detail),
        (_, Act::Update) => may_have_acted(detail),
        (RunError::TooMuch { .. }, Act::Read) => refused(detail),
        (RunError::TimedOut { .. } | RunError::Io { .. }, Act::Read) => unreachable(detail),
    }
}

/// The line that tells most: that of the failed request if there is one, else the first.
pub(super) fn telling_line(said: &str) -> String {
    let lines = || said.lines().filter(|line| !line.trim().is_empty());
    let request = lines().find(|line| line.starts_with("slurm_") && line.contains(" error: "));
    tidy(request.or_else(|| lines().next()).unwrap_or_default())
}

/// A line without who says it, such as `slurm_update error: ` or `scontrol: fatal: `, and not too long.
fn tidy(line: &str) -> String {
    let is_who = |text: &str| !text.contains(char::is_whitespace) && !text.is_empty();
    let mut text = line.trim();
    for mark in [" error: ", ": error: ", ": fatal: ", ": "] {
        match text.split_once(mark) {
            Some((who, rest))
                if is_who(who) && (mark != ": " || ["scontrol", "squeue", "scancel"].contains(&who)) =>
            {
                text = rest.trim();
                break;
            }
            _ => {}
        }
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

/// Whether any of the known texts that mean a refusal is in it.
#[cfg(feature = "fuzzing")]
pub(super) fn refuses(said: &str) -> bool {
    KNOWN.iter().any(|(text, meaning)| *meaning == Meaning::Refused && said.contains(text))
}

/// Whether every line tells of a job that is gone.
#[cfg(feature = "fuzzing")]
pub(super) fn all_gone(said: &str) -> bool {
    let lines = said.lines().filter(|line| !line.trim().is_empty());
    lines.clone().count() > 0 && lines.into_iter().all(|line| GONE.iter().any(|text| line.contains(text)))
}

pub(super) fn refused(detail: impl Into<String>) -> PortError {
    PortError::Refused { peer: Peer::Wlm, detail: detail.into() }
}

fn unreachable(detail: String) -> PortError {
    PortError::Unreachable { peer: Peer::Wlm, detail }
}

fn may_have_acted(detail: String) -> PortError {
    PortError::MayHaveActed { peer: Peer::Wlm, detail }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use super::*;

    fn failed(stderr: &str) -> Output {
        Output { stdout: String::new(), stderr: stderr.to_owned(), status: ExitStatus::from_raw(1 << 8) }
    }

    #[test]
    fn what_slurm_says_is_classed_and_told_without_the_programs_name() {
        let update = |said: &str| of_output(Act::Update, "scontrol", &failed(said));
        assert_eq!(update("slurm_update error: Invalid user id\n"), refused("Invalid user id"));
        assert_eq!(
            update("You must specify a reason when DOWNING or DRAINING a node. Request denied\n"),
            refused("You must specify a reason when DOWNING or DRAINING a node. Request denied")
        );
        assert_eq!(
            update("slurm_update error: Unable to contact slurm controller (connect failure)\n"),
            unreachable("Unable to contact slurm controller (connect failure)".to_owned())
        );
        assert_eq!(
            update("slurm_update error: Unable to contact slurm controller (receive failure)\n"),
            may_have_acted("Unable to contact slurm controller (receive failure)".to_owned())
        );
        assert_eq!(
            update("Invalid input: State=FOO\nRequest aborted\nValid states are: NoResp DRAIN\n"),
            refused("Invalid input: State=FOO")
        );
        assert_eq!(update("something new\n"), may_have_acted("scontrol: something new".to_owned()));
    }

    #[test]
    fn a_job_that_is_gone_is_fine_and_one_that_was_refused_is_told() {
        let ended = |said: &str| of_ended_jobs("scontrol", failed(said));
        assert_eq!(ended("Invalid job id specified for job 9\nJob is pending execution for job 8\n"), Ok(()));
        assert_eq!(ended("4_1-3: Job is pending execution\n4_77: Invalid job id specified\n"), Ok(()));
        assert_eq!(
            ended(
                "Invalid job id specified for job 9\nOnly batch jobs are accepted or processed for job 7\n"
            ),
            Err(refused("Only batch jobs are accepted or processed for job 7"))
        );
        let down = ended("Unexpected message received for job 20\n").unwrap_err();
        assert_eq!(down, may_have_acted("Unexpected message received for job 20".to_owned()));
        let denied = "scancel: error: Kill job error on job id 24: Access/permission denied\n";
        let expected = "Kill job error on job id 24: Access/permission denied";
        assert_eq!(of_ended_jobs("scancel", failed(denied)), Err(refused(expected)));
        let down = "scancel: error: Kill job error on job id 20: Unable to contact slurm controller (connect failure)";
        assert!(matches!(of_ended_jobs("scancel", failed(down)), Err(PortError::Unreachable { .. })));
        let old = ended("Invalid job id specified for job incomplete\nInvalid job id specified for job 9\n");
        assert_eq!(
            old,
            Err(may_have_acted("scontrol: Invalid job id specified for job incomplete".to_owned()))
        );
        for silent_or_new in ["", "something new\n", "Invalid job id specified for job 9\nsomething new\n"] {
            assert!(ended(silent_or_new).unwrap_err().may_have_acted(), "{silent_or_new:?}");
        }
    }

    #[test]
    fn of_many_lines_the_one_that_tells_is_told() {
        let munge_is_down = "scontrol: error: If munged is up, restart with --num-threads=10\n\
            scontrol: error: Munge encode failed: Failed to access \"/run/munge\": No such file or directory\n\
            slurm_load_node error: Protocol authentication error\n";
        assert_eq!(
            of_output(Act::Read, "scontrol", &failed(munge_is_down)),
            refused("Protocol authentication error")
        );
        let no_config = "scontrol: error: s_p_parse_file: cannot stat file /x: No such file or directory\n";
        let error = of_output(Act::Update, "scontrol", &failed(no_config));
        assert_eq!(
            error,
            unreachable("s_p_parse_file: cannot stat file /x: No such file or directory".to_owned())
        );
    }

    #[test]
    fn a_read_that_fails_without_a_word_says_how_it_ended() {
        let error = of_output(Act::Read, "squeue", &failed(""));
        assert_eq!(error, unreachable("squeue ended with exit status: 1".to_owned()));
        let error = of_output(Act::Read, "squeue", &failed("squeue: error: no\n"));
        assert_eq!(error, refused("squeue: no"));
    }
}
