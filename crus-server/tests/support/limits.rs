//! Limits that the system sets on a process.

use std::process::Command;

/// The command, started by another program that ends its arguments with it.
pub(crate) fn wrapped(program: &str, args: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(program);
    wrapped.args(args).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

/// The command as one that goes on when a file may not grow: by default, a signal ends it.
pub(crate) fn survivor(command: &Command) -> Command {
    wrapped("sh", &["-c", r#"trap "" XFSZ; exec "$0" "$@""#], command)
}

/// From now on no file that the process writes may be longer: a number, or `unlimited`.
pub(crate) fn file_size(pid: u32, bytes: &str) {
    let limit = format!("--fsize={bytes}:unlimited");
    let set = Command::new("prlimit").args(["--pid", &pid.to_string(), &limit]).status().unwrap();
    assert!(set.success());
}
