//! The real servers that tests talk to, and what building their clients takes: whether it is there, and how it gets
//! there.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// A program that the tests start or the build needs, and the Debian package that holds it.
struct Program {
    name: &'static str,
    package: &'static str,
}

const PROGRAMS: [Program; 18] = [
    Program { name: "slurmctld", package: "slurm-wlm" },
    Program { name: "slurmd", package: "slurm-wlm" },
    Program { name: "scontrol", package: "slurm-wlm" },
    Program { name: "squeue", package: "slurm-wlm" },
    Program { name: "sinfo", package: "slurm-wlm" },
    Program { name: "sbatch", package: "slurm-wlm" },
    Program { name: "munged", package: "munge" },
    Program { name: "etcd", package: "etcd-server" },
    Program { name: "etcdctl", package: "etcd-client" },
    Program { name: "openssl", package: "openssl" },
    Program { name: "promtool", package: "prometheus" },
    Program { name: "protoc", package: "protobuf-compiler" },
    Program { name: DESCRIPTOR, package: "libprotobuf-dev" },
    Program { name: VENV, package: "python3-venv" },
    Program { name: "systemd-analyze", package: "systemd" },
    Program { name: "buildah", package: "buildah" },
    Program { name: "strace", package: "strace" },
    // Makes the roots with other Slurms.
    Program { name: "debootstrap", package: "debootstrap" },
];

/// What protoc includes, in the folder `include` beside that of some programs: Debian has it in a package of its own.
const DESCRIPTOR: &str = "google/protobuf/descriptor.proto";

/// What makes a Python environment to install into: Debian has it in a package of its own.
const VENV: &str = "python3 with ensurepip";

/// Installs the packages in its arguments. Debian starts the services of what it installs, unless this file says no:
/// tests start their own servers, and nothing else shall listen here.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
if ! [ -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
apt-get -q install -y --no-install-recommends "$@"
"#;

/// Sees to it that all of it is installed; says what it does about it.
pub(crate) fn ensure_installed() -> Result<()> {
    let missing = missing(|name| find(name).is_some());
    if missing.is_empty() {
        println!("real servers and protoc: installed");
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|program| program.name).collect();
    let mut packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    packages.dedup();
    println!("missing: {}", names.join(", "));

    let by_hand = by_hand(&packages);
    let Some(prefix) = rights() else {
        bail!("failed to install what is missing: not root, and no sudo without a password.\n{by_hand}")
    };
    if find("apt-get").is_none() {
        bail!("failed to install what is missing: there is no apt-get here.\n{by_hand}");
    }
    run_as_root(&prefix, &["apt-get", "-q", "update"], "apt-get update", &by_hand)?;
    let install = [&["sh", "-c", INSTALL, "install"], &*packages].concat();
    let line = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    run_as_root(&prefix, &install, &line, &by_hand)?;
    match self::missing(|name| find(name).is_some()).first() {
        Some(program) => bail!("{} is still missing after its installation.\n{by_hand}", program.name),
        None => Ok(()),
    }
}

fn run_as_root(prefix: &[&str], args: &[&str], line: &str, by_hand: &str) -> Result<()> {
    println!("$ {line}");
    let words = [prefix, &["env", "DEBIAN_FRONTEND=noninteractive"], args].concat();
    let status = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("failed to run `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status}).\n{by_hand}");
    }
    Ok(())
}

fn missing(is_there: impl Fn(&str) -> bool) -> Vec<&'static Program> {
    // Without root's rights there are no roots to make.
    let is_needed = |program: &&Program| program.name != "debootstrap" || rights().is_some();
    PROGRAMS.iter().filter(|program| !is_there(program.name)).filter(is_needed).collect()
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
    if is_root() {
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

/// Returns true if this process has root's rights.
pub(crate) fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

pub(crate) fn find(program: &str) -> Option<PathBuf> {
    if program == VENV {
        let python = find("python3")?;
        let there =
            Command::new(&python).args(["-c", "import ensurepip, venv"]).stderr(Stdio::null()).status();
        return there.is_ok_and(|status| status.success()).then_some(python);
    }
    // Daemons are in folders that only root's search path holds.
    let daemons = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(daemons);
    let place = |folder: PathBuf| match program {
        DESCRIPTOR => folder.with_file_name("include").join(program),
        _ => folder.join(program),
    };
    folders.map(place).find(|path: &PathBuf| Path::is_file(path))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The script, with stand-ins for the folder of the policy and for apt-get, which tells whether there is one.
    #[test]
    fn services_are_not_started_by_their_installation() {
        let folder = env::temp_dir().join(format!("crus-xtask-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let policy = folder.join("policy-rc.d");
        let script = INSTALL
            .replace("/usr/sbin/policy-rc.d", policy.to_str().unwrap())
            .replace("apt-get -q install", "cat \"$policy\"; echo");
        let install = || {
            let output = Command::new("sh").args(["-c", &script, "install", "etcd-server"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(install(), "#!/bin/sh\nexit 101\n-y --no-install-recommends etcd-server\n");
        assert!(!policy.exists(), "it is taken away again");
        fs::write(&policy, "mine\n").unwrap();
        assert_eq!(install(), "mine\n-y --no-install-recommends etcd-server\n");
        assert_eq!(fs::read_to_string(&policy).unwrap(), "mine\n", "somebody else's stays");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_missing_is_named_with_the_command_that_mends_it() {
        let missing = missing(|name| name != "slurmd" && name != "munged");
        let names: Vec<&str> = missing.iter().map(|program| program.name).collect();
        assert_eq!(names, ["slurmd", "munged"]);
        let packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
        assert!(by_hand(&packages).contains("apt-get install --no-install-recommends slurm-wlm munge\n"));
    }
}
