//! One run of a check command: bounded in time, in what it may print, and in what it leaves behind.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use crus_core::ports::Verdict;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// What a program is given of our environment. There may be secrets in the rest.
const KEPT: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "SLURM_CONF"];

/// So much of what a program prints is looked at for its first line, in bytes.
const LOOKED_AT: usize = 4 << 10;

/// The most that a program may print, in bytes, on each of its two outputs.
const PRINTED_MAX: usize = 1 << 20;

/// The longest line that is told, in characters.
pub(super) const LINE_MAX: usize = 200;

/// How long what a program printed is read after its end: something that it left behind may hold its outputs.
const READ_ON: Duration = Duration::from_millis(200);

/// How long a killed program may take to be gone. One that the kernel cannot end is left to it.
const REAP_LIMIT: Duration = Duration::from_secs(5);

/// A program that could not be run: nothing is known of the node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct CannotRun(pub(super) String);

/// Runs a program with `arguments` behind its own and waits for its end. When this is dropped, it is killed.
pub(super) async fn run(
    command: &[String],
    arguments: &[String],
    environment: &[(&str, String)],
    limit: Duration,
) -> Result<Verdict, CannotRun> {
    let (program, leading) =
        command.split_first().ok_or_else(|| CannotRun("no program is configured".to_owned()))?;
    let kept = KEPT.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
    let mut child = Command::new(program)
        .args(leading)
        .args(arguments)
        .env_clear()
        .envs(kept)
        .envs(environment.iter().map(|(name, value)| (*name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| cannot_start(program, &error))?;
    let mut group = Group::of(&child);
    let mut said = Said::default();
    let ended = timeout(limit, follow(&mut child, &mut group, &mut said)).await;
    drop(group);
    // It is gone before the next one takes its place.
    _ = timeout(REAP_LIMIT, child.wait()).await;
    Ok(match ended {
        Ok(Ok(End::Exited(status))) if status.success() => Verdict::Passed,
        Ok(Ok(End::Exited(status))) => Verdict::Failed(match said.line() {
            Some(line) => format!("{line} ({status})"),
            None => format!("it ended with {status}"),
        }),
        Ok(Ok(End::TooMuch)) => Verdict::Failed(format!("it printed more than {PRINTED_MAX} bytes")),
        Ok(Err(error)) => Verdict::Failed(format!("failed to follow it: {error}")),
        Err(_) => {
            let line = said.line().map(|line| format!(": {line}")).unwrap_or_default();
            Verdict::Failed(format!("it did not end within {} s{line}", limit.as_secs_f64()))
        }
    })
}

/// Whether the program of a command is there and may be run, as far as that can be told without running it.
pub(super) fn look_for(command: &[String]) -> Result<(), CannotRun> {
    let program = command.first().ok_or_else(|| CannotRun("no program is configured".to_owned()))?;
    let look = |path: &Path| {
        let found = std::fs::metadata(path)?;
        let may_run = found.is_file() && found.permissions().mode() & 0o111 != 0;
        if may_run { Ok(()) } else { Err(io::Error::from(io::ErrorKind::PermissionDenied)) }
    };
    let found = if program.contains('/') {
        look(Path::new(program))
    } else {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let there = std::env::split_paths(&paths).any(|folder| look(&folder.join(program)).is_ok());
        if there { Ok(()) } else { Err(io::Error::from(io::ErrorKind::NotFound)) }
    };
    found.map_err(|error| cannot_start(program, &error))
}

fn cannot_start(program: &str, error: &io::Error) -> CannotRun {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => "there is no such program, or not its interpreter".to_owned(),
        io::ErrorKind::PermissionDenied => "it may not be run".to_owned(),
        _ => error.to_string(),
    };
    CannotRun(format!("failed to start {program}: {reason}; is its path right in check_commands?"))
}

/// A program and what it started. Dropping it kills them.
struct Group(Option<Pid>);

impl Group {
    /// The program leads a group of its own.
    fn of(child: &Child) -> Self {
        Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// Once: by another time the number may be somebody else's.
    fn kill(&mut self) {
        if let Some(pid) = self.0.take() {
            // It may be that nobody is left.
            _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How a program came to its end.
enum End {
    Exited(ExitStatus),
    TooMuch,
}

async fn follow(child: &mut Child, group: &mut Group, said: &mut Said) -> io::Result<End> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let reading =
        futures_util::future::try_join(read(stdout, &mut said.stdout), read(stderr, &mut said.stderr));
    tokio::pin!(reading);
    tokio::select! {
        // What was read decides first: a program that printed too much may have ended by now.
        biased;
        both = &mut reading => match both? {
            (true, true) => Ok(End::Exited(child.wait().await?)),
            _ => Ok(End::TooMuch),
        },
        status = child.wait() => {
            group.kill();
            // Its own lines are in the pipes; who else holds these is not waited for.
            match timeout(READ_ON, reading).await {
                Ok(Ok((true, true))) | Err(_) => Ok(End::Exited(status?)),
                Ok(Ok(_)) => Ok(End::TooMuch),
                Ok(Err(error)) => Err(error),
            }
        }
    }
}

/// Reads to the end and keeps the beginning; `false` when that is too much.
async fn read(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) -> io::Result<bool> {
    let Some(mut stream) = stream else { return Ok(true) };
    let mut piece = [0; LOOKED_AT];
    let mut printed = 0;
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            return Ok(true);
        }
        printed += count;
        let room = LOOKED_AT - kept.len();
        kept.extend(&piece[..count.min(room)]);
        if printed > PRINTED_MAX {
            return Ok(false);
        }
    }
}

/// The beginning of what a program printed.
#[derive(Default)]
pub(super) struct Said {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
}

impl Said {
    /// The line that tells most: the first of the errors, or else of the output.
    pub(super) fn line(&self) -> Option<String> {
        first_line(&self.stderr).or_else(|| first_line(&self.stdout))
    }
}

fn first_line(bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let text = text.replace(|c: char| c.is_control() && c != '\n', " ");
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().take(LINE_MAX).collect())
}
