//! One call of one of Slurm's programs: bounded in time and in what it may print.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::refusal;
use crate::places::{AllTaken, Places};

/// How long a killed program may take to be gone. One that the kernel cannot end is left to it.
const REAP_LIMIT: Duration = Duration::from_secs(5);

/// So many characters of a call's arguments are logged: the names of nodes may be very many.
const CALL_SHOWN: usize = 160;

/// What a program printed and how it ended.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) status: ExitStatus,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error(transparent)]
    AllTaken(#[from] AllTaken),
    #[error("failed to start {program}: {reason}; is the path to Slurm's client programs configured?")]
    Start { program: String, reason: String },
    #[error("{program} did not end within {} s{}", limit.as_secs_f64(), after_colon(said))]
    TimedOut { program: String, limit: Duration, said: String },
    #[error("{program} printed more than {max} bytes")]
    TooMuch { program: String, max: usize },
    #[error("failed to read what {program} printed: {source}")]
    Io { program: String, source: io::Error },
}

fn after_colon(said: &str) -> String {
    let line = refusal::telling_line(said);
    if line.is_empty() { String::new() } else { format!(": {line}") }
}

/// How programs are called.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) timeout: Duration,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) env_withheld: Vec<OsString>,
    pub(super) output_max: usize,
    pub(super) places: Places,
}

impl Caller {
    /// Runs `command` (a program and its leading arguments) with `args`. Never by a shell. Whatever happens, the
    /// program is gone when this returns or is dropped.
    pub(super) async fn run(&self, command: &[String], args: &[&str]) -> Result<Output, RunError> {
        let _place = self.places.take(self.timeout).await?;
        let begun = Instant::now();
        let (program, leading) = command.split_first().ok_or_else(|| RunError::Start {
            program: args.first().copied().unwrap_or_default().to_owned(),
            reason: "no program is named".to_owned(),
        })?;
        let mut command = Command::new(program);
        for name in inherited_settings().chain(self.env_withheld.iter().cloned()) {
            command.env_remove(name);
        }
        let mut child = command
            .args(leading)
            .args(args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("SLURM_TIME_FORMAT", "standard")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| RunError::Start { program: program.clone(), reason: start_reason(&error) })?;

        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let ended = timeout(self.timeout, self.follow(program, &mut child, &mut stdout, &mut stderr)).await;
        let call: String = args.join(" ").chars().take(CALL_SHOWN).collect();
        let end = match &ended {
            Ok(Ok(status)) => status.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "not in time".to_owned(),
        };
        tracing::debug!(%program, call, end, ms = begun.elapsed().as_millis(), "called");
        // What is text is not copied: it may be long.
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        };
        let error = match ended {
            Ok(Ok(status)) => return Ok(Output { stdout: text(stdout), stderr: text(stderr), status }),
            Ok(Err(error)) => error,
            Err(_) => {
                RunError::TimedOut { program: program.clone(), limit: self.timeout, said: text(stderr) }
            }
        };
        match timeout(REAP_LIMIT, child.kill()).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => tracing::warn!(%program, error = %failure, "failed to end a program"),
            Err(_) => tracing::warn!(%program, "a killed program is not gone yet"),
        }
        Err(error)
    }

    async fn follow(
        &self,
        program: &str,
        child: &mut Child,
        stdout: &mut Vec<u8>,
        stderr: &mut Vec<u8>,
    ) -> Result<ExitStatus, RunError> {
        let failed = |source| RunError::Io { program: program.to_owned(), source };
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let read = futures_util::future::try_join(
            read_all(out, stdout, self.output_max),
            read_all(err, stderr, self.output_max),
        );
        match read.await.map_err(failed)? {
            (true, true) => child.wait().await.map_err(failed),
            _ => Err(RunError::TooMuch { program: program.to_owned(), max: self.output_max }),
        }
    }
}

/// Reads to the end; `false` when that is more than `max` bytes. What was read so far stays when it is dropped.
async fn read_all(
    stream: Option<impl AsyncRead + Unpin>,
    into: &mut Vec<u8>,
    max: usize,
) -> io::Result<bool> {
    let Some(mut stream) = stream else { return Ok(true) };
    while stream.read_buf(into).await? > 0 {
        if into.len() > max {
            return Ok(false);
        }
    }
    Ok(true)
}

fn start_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such program".to_owned(),
        io::ErrorKind::PermissionDenied => "it may not be run".to_owned(),
        _ => error.to_string(),
    }
}

/// Variables by which users set the defaults of `squeue`, `scontrol` and `scancel`: in our environment they would hide
/// jobs, spare some, or ask another cluster.
fn inherited_settings() -> impl Iterator<Item = OsString> {
    std::env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        ["SQUEUE_", "SCONTROL_", "SCANCEL_"].iter().any(|prefix| name.starts_with(prefix))
            || name == "SLURM_CLUSTERS"
    })
}
