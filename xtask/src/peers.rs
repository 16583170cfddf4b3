//! The real servers that tests talk to: whether they are there, and how they get there.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// A program that the tests start, and the Debian package that holds it.
struct Program {
    name: &'static str,
    package: &'static str,
}

const PROGRAMS: [Program; 7] = [
    Program { name: "slurmctld", package: "slurm-wlm" },
    Program { name: "slurmd", package: "slurm-wlm" },
    Program { name: "scontrol", package: "slurm-wlm" },
    Program { name: "squeue", package: "slurm-wlm" },
    Program { name: "sinfo", package: "slurm-wlm" },
    Program { name: "sbatch", package: "slurm-wlm" },
    Program { name: "munged", package: "munge" },
];

/// Sees to it that the real servers are installed; says what it does about it.
pub(crate) fn ensure_installed() -> Result<()> {
    let missing = missing(|name| find(name).is_some());
    if missing.is_empty() {
        println!("real Slurm: installed");
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|program| program.name).collect();
    let mut packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    packages.dedup();
    println!("real Slurm: {} missing", names.join(", "));

    let by_hand = by_hand(&packages);
    let Some(prefix) = rights() else {
        bail!("failed to install what is missing: not root, and no sudo without a password.\n{by_hand}")
    };
    if find("apt-get").is_none() {
        bail!("failed to install what is missing: there is no apt-get here.\n{by_hand}");
    }
    for args in
        [vec!["-q", "update"], [&["-q", "install", "-y", "--no-install-recommends"], &*packages].concat()]
    {
        let mut words = prefix.clone();
        words.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
        words.extend(args);
        let line = words.join(" ");
        println!("$ {line}");
        let status = Command::new(words[0])
            .args(&words[1..])
            .stdin(Stdio::null())
            .status()
            .with_context(|| format!("failed to run `{line}`"))?;
        if !status.success() {
            bail!("`{line}` failed ({status}).\n{by_hand}");
        }
    }
    match self::missing(|name| find(name).is_some()).first() {
        Some(program) => bail!("{} is still missing after its installation.\n{by_hand}", program.name),
        None => Ok(()),
    }
}

fn missing(is_there: impl Fn(&str) -> bool) -> Vec<&'static Program> {
    PROGRAMS.iter().filter(|program| !is_there(program.name)).collect()
}

fn by_hand(packages: &[&str]) -> String {
    format!(
        "Install what is missing, on Debian or Ubuntu with\n    \
         sudo apt-get install --no-install-recommends {}\n\
         or leave the tests against real servers out with\n    cargo xtask test --no-peers",
        packages.join(" ")
    )
}

/// What to put before a command to run it as root; `None` when that is not allowed.
fn rights() -> Option<Vec<&'static str>> {
    let is_root =
        Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    if is_root {
        return Some(Vec::new());
    }
    let may_sudo = Command::new("sudo")
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    may_sudo.then(|| vec!["sudo", "-n"])
}

fn find(program: &str) -> Option<PathBuf> {
    // Daemons are in folders that only root's search path holds.
    let daemons = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(daemons);
    folders.map(|folder| folder.join(program)).find(|path: &PathBuf| Path::is_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_command_that_mends_it() {
        let missing = missing(|name| name != "slurmd" && name != "munged");
        let names: Vec<&str> = missing.iter().map(|program| program.name).collect();
        assert_eq!(names, ["slurmd", "munged"]);
        let packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
        assert!(by_hand(&packages).contains("apt-get install --no-install-recommends slurm-wlm munge\n"));
    }
}
