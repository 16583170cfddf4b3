//! One bash, which runs the commands of a page one after the other.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long one command may take, on the slowest of machines.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the shell knows before the first command.
const PRELUDE: &str = include_str!("prelude.sh");

pub(crate) struct Shell {
    bash: Child,
    stdin: ChildStdin,
    output: Receiver<Vec<u8>>,
    script: PathBuf,
}

impl Drop for Shell {
    fn drop(&mut self) {
        // All that it started is in its own group; it may all be gone.
        let group = format!("-{}", self.bash.id());
        let killed = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        assert!(killed.is_ok());
        self.bash.wait().unwrap();
    }
}

impl Shell {
    /// A bash in `folder`, in this environment and nothing else of ours but the `PATH`.
    pub(crate) fn start(folder: &Path, environment: &[(&str, String)]) -> Shell {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc"]).current_dir(folder).process_group(0);
        command.env_clear().envs(environment.iter().cloned()).env("LC_ALL", "C.UTF-8").env("HOME", folder);
        command.stdin(Stdio::piped()).stdout(writer.try_clone().unwrap()).stderr(writer);
        let mut bash = command.spawn().unwrap();
        // Its ends of the pipe are closed with it.
        drop(command);
        let stdin = bash.stdin.take().unwrap();
        let (send, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                if send.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut shell = Shell { bash, stdin, output, script: folder.join(".command") };
        let (printed, code) = shell.run(PRELUDE).unwrap();
        assert_eq!((printed.as_str(), code), ("", 0));
        shell
    }

    /// Runs a command; what it printed, to stdout and stderr, and its exit code.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) fn run(&mut self, command: &str) -> Result<(String, i32), String> {
        std::fs::write(&self.script, command).unwrap();
        let script = self.script.display();
        // Whatever was printed ends with a line's end, which is ours if it had none.
        writeln!(self.stdin, "eval \"$(<{script})\" </dev/null; printf '\\n\\001%d\\001' $?").unwrap();
        let begun = Instant::now();
        let mut printed = Vec::new();
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            match self.output.recv_timeout(left) {
                Ok(bytes) => printed.extend(bytes),
                Err(RecvTimeoutError::Timeout) => {
                    let log = std::fs::read_to_string(self.script.with_file_name("serve.log"));
                    let log = log.unwrap_or_default();
                    let lines: Vec<&str> = log.lines().collect();
                    let last = lines[lines.len().saturating_sub(40)..].join("\n");
                    let printed = String::from_utf8_lossy(&printed);
                    return Err(format!("does not end: {command}\n{printed}\nthe end of serve.log:\n{last}"));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(format!("ended the shell: {command}")),
            }
            let text = String::from_utf8_lossy(&printed);
            let mut parts = text.split('\u{1}');
            if let (Some(text), Some(code), Some(_)) = (parts.next(), parts.next(), parts.next()) {
                return Ok((text.strip_suffix('\n').unwrap_or(text).to_owned(), code.parse().unwrap()));
            }
        }
    }
}
