//! Debian roots with other releases of Slurm than this host's, and the way into them.
//!
//! Sites run Slurms of many ages, and a host has one. A root is a folder with a small Debian of another suite and its
//! Slurm. A test program runs in it in a mount namespace of its own, behind `chroot`: it sees the root's programs, and
//! this host's processes, loopback, temporary files and workspace. Making a root and entering it take root's rights.
//!
//! Roots are kept in `target/slurm`, and made anew once their suite has another Slurm.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{cargo, peers};

/// The suites whose Slurm is tested: Debian 13, and the suite that becomes the next release. The Slurm of the second
/// moves on; tests ask for the version that they run on.
pub(crate) const SUITES: [&str; 2] = ["trixie", "forky"];

/// The package that a root is made for.
const PACKAGE: &str = "slurm-wlm";

/// The file that a complete root has. It is written last, so that a root left half-made is begun again.
const COMPLETE: &str = ".complete";

/// Mounts this host's folders into the root `$1`, goes to the folder `$2` there and becomes the command that follows
/// `--`. The folders before `--` are mounted as well.
const ENTER: &str = r#"
set -e
root=$1 here=$2
shift 2
show() {
    mkdir -p "$root$1"
    mount --rbind "$1" "$root$1"
}
for folder in /dev /proc /sys /run; do show "$folder"; done
while [ "$1" != -- ]; do
    show "$1"
    shift
done
shift
exec chroot "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$here" "$@"
"#;

/// A folder with a Debian and its Slurm.
#[derive(Debug)]
pub(crate) struct Root {
    suite: &'static str,
    /// The version of Slurm in it, such as `24.11.5`.
    pub version: String,
    folder: PathBuf,
    /// Shared by who tests in the root, so that nobody makes it anew meanwhile.
    _lock: Option<File>,
}

impl Root {
    /// Cargo's option by which test programs run in this root.
    pub(crate) fn runner(&self) -> Result<String> {
        let own = std::env::current_exe().context("failed to find the path of xtask")?;
        let mut words = vec![own, "in-root".into(), self.folder.clone()];
        for shown in [cargo::root(), cargo::target_directory()?, std::env::temp_dir()] {
            words.extend(["--show".into(), shown]);
        }
        words.push("--".into());
        let words: Vec<&str> = words
            .iter()
            .map(|word| word.to_str())
            .collect::<Option<_>>()
            .context("a path of this workspace is not UTF-8")?;
        // A list of JSON is one of TOML as well.
        Ok(format!("target.{:?}.runner={}", cargo::host()?, serde_json::to_string(&words)?))
    }

    /// The version and where it comes from.
    pub(crate) fn name(&self) -> String {
        format!("Slurm {} ({})", self.version, self.suite)
    }

    /// Returns true if the version asked for, such as `24.11`, or the suite is this one's.
    pub(crate) fn is(&self, asked: &str) -> bool {
        asked == self.suite || is_version(&self.version, asked)
    }
}

/// The version of this host's Slurm.
pub(crate) fn host_version() -> Result<String> {
    let program = peers::find("slurmd").context("failed to find slurmd")?;
    let text = output(Command::new(program).arg("-V"))?;
    text.split_whitespace().last().map(str::to_owned).context("failed to read the answer of slurmd -V")
}

/// Returns true if a version is the one asked for, such as `24.11`.
pub(crate) fn is_version(version: &str, asked: &str) -> bool {
    version.strip_prefix(asked).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Makes the roots that are missing or outdated.
///
/// # Errors
///
/// Fails if a root cannot be made.
pub(crate) fn ensure_made() -> Result<Vec<Root>> {
    SUITES.into_iter().map(ensure_one).collect()
}

/// The reason why this process cannot make and enter roots, if there is one.
pub(crate) fn obstacle() -> Option<&'static str> {
    (!peers::is_root()).then_some("entering a Debian root takes root's rights")
}

/// Makes the root of a suite if it is missing or outdated.
///
/// # Errors
///
/// Fails if the root cannot be made.
pub(crate) fn ensure_one(suite: &'static str) -> Result<Root> {
    let folders = cargo::target_directory()?.join("slurm");
    fs::create_dir_all(&folders).with_context(|| format!("failed to create {}", folders.display()))?;
    let folder = folders.join(suite);
    let path = folders.join(format!("{suite}.lock"));
    let lock = File::create(&path).with_context(|| format!("failed to write {}", path.display()))?;
    let locked =
        |result: io::Result<()>| result.with_context(|| format!("failed to lock {}", path.display()));
    locked(lock.lock_shared())?;
    if !is_current(suite, &folder) {
        println!("{suite}: waits for other runs that test in it, if there are any");
        locked(lock.unlock())?;
        locked(lock.lock())?;
        // Another run may have made it meanwhile.
        if !is_current(suite, &folder) {
            make(suite, &folder)?;
            fs::write(folder.join(COMPLETE), "").context("failed to complete the root")?;
        }
        locked(lock.unlock())?;
        locked(lock.lock_shared())?;
    }
    let version = upstream(&installed(&folder)?);
    Ok(Root { suite, version, folder, _lock: Some(lock) })
}

/// Returns true if the root is complete, and its Slurm is the suite's newest as far as can be told.
fn is_current(suite: &str, folder: &Path) -> bool {
    if !folder.join(COMPLETE).exists() {
        return false;
    }
    match outdated(folder) {
        Ok(None) => println!("{suite}: its {PACKAGE} is the suite's newest"),
        Ok(Some(versions)) => {
            println!("{suite}: outdated ({versions})");
            return false;
        }
        Err(error) => println!("{suite}: not checked for a newer {PACKAGE}: {error:#}"),
    }
    true
}

fn make(suite: &str, folder: &Path) -> Result<()> {
    if folder.exists() {
        // Nothing of the host is mounted there: mounts are made in namespaces that end with their programs.
        fs::remove_dir_all(folder).with_context(|| format!("failed to remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let scripts = Path::new("/usr/share/debootstrap/scripts");
    // A suite may be younger than the debootstrap of this host.
    let script = [suite, "sid"].map(|name| scripts.join(name)).into_iter().find(|script| script.exists());
    let script = script.with_context(|| format!("failed to find {}/{suite}", scripts.display()))?;
    let mirror = mirror()?;
    println!("{suite}: debootstrap makes {}", folder.display());
    let log = folder.with_extension("log");
    let output = File::create(&log).with_context(|| format!("failed to write {}", log.display()))?;
    let errors = output.try_clone().with_context(|| format!("failed to write {}", log.display()))?;
    // debootstrap mounts /proc in the root: in a namespace of its own nobody else sees that, and nothing of it is left.
    // It dies with this process, however that ends.
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"])
        .arg(peers::find("debootstrap").context("failed to find debootstrap")?)
        .arg("--variant=minbase")
        .args([&format!("--include={PACKAGE},munge,ca-certificates"), suite])
        .arg(folder)
        .arg(mirror)
        .arg(script)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .status()
        .context("failed to run debootstrap")?;
    if !status.success() {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n");
        bail!("failed to make the Debian root {suite} ({status}); {} ends with:\n{last}", log.display());
    }
    // slurmd looks this host's name up.
    fs::copy("/etc/hosts", folder.join("etc/hosts")).context("failed to copy /etc/hosts into the root")?;
    Ok(())
}

/// The archive that this host's packages come from.
fn mirror() -> Result<String> {
    if let Some(url) = mirror_of_apt()? {
        return Ok(url);
    }
    // The lists may never have been fetched.
    output(Command::new("apt-get").args(["-q", "update"]))?;
    mirror_of_apt()?
        .context("failed to find Debian's archive among the package sources of apt: is this a Debian?")
}

fn mirror_of_apt() -> Result<Option<String>> {
    let args = ["indextargets", "--format", "$(ORIGIN)|$(REPO_URI)", "Created-By: Packages"];
    let text = output(Command::new("apt-get").args(args))?;
    let urls = text.lines().filter_map(|line| line.strip_prefix("Debian|"));
    Ok(urls.map(str::trim).find(|url| url.trim_end_matches('/').ends_with("/debian")).map(str::to_owned))
}

/// The versions of the package in the root and in its suite, if they differ.
fn outdated(folder: &Path) -> Result<Option<String>> {
    let chroot = peers::find("chroot").context("failed to find chroot")?;
    let ask = |words: &[&str]| output(Command::new(&chroot).arg(folder).args(words).env("LC_ALL", "C"));
    // By default a list that cannot be fetched is no error.
    ask(&["apt-get", "-q", "-o", "APT::Update::Error-Mode=any", "update"])?;
    let policy = ask(&["apt-cache", "policy", PACKAGE])?;
    let version = |key: &str| policy.lines().find_map(|line| line.trim().strip_prefix(key)).map(str::trim);
    let (Some(installed), Some(candidate)) = (version("Installed:"), version("Candidate:")) else {
        bail!("failed to read the answer of apt-cache policy");
    };
    Ok((installed != candidate).then(|| format!("{PACKAGE} {installed}, the suite has {candidate}")))
}

fn installed(folder: &Path) -> Result<String> {
    output(Command::new("dpkg-query").arg("--admindir").arg(folder.join("var/lib/dpkg")).args([
        "--show",
        "--showformat",
        "${Version}",
        PACKAGE,
    ]))
}

/// A package's version without Debian's part.
fn upstream(version: &str) -> String {
    let without_epoch = version.split_once(':').map_or(version, |(_, rest)| rest);
    without_epoch.split(['-', '+', '~']).next().unwrap_or_default().to_owned()
}

fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("failed to run {command:?}"))?;
    ensure!(
        output.status.success(),
        "failed to run {command:?} ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A program and the root that it runs in.
#[derive(Debug, Args)]
pub(crate) struct InRoot {
    /// The folder of the root.
    root: PathBuf,
    /// A folder of this host that the program sees.
    #[arg(long)]
    show: Vec<PathBuf>,
    /// The program and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// Becomes the program, in the root.
pub(crate) fn enter(in_root: &InRoot) -> Result<()> {
    let here = std::env::current_dir().context("failed to find the current folder")?;
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", ENTER, "in-root"])
        .args([&in_root.root, &here])
        .args(&in_root.show)
        .arg("--")
        .args(&in_root.command)
        .exec();
    Err(error).context("failed to run unshare")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_chosen_by_its_version_or_suite() {
        let root = Root {
            suite: "trixie",
            version: upstream("1:24.11.5-4+deb13u1"),
            folder: PathBuf::new(),
            _lock: None,
        };
        assert_eq!(root.name(), "Slurm 24.11.5 (trixie)");
        for asked in ["24.11", "24.11.5", "24", "trixie"] {
            assert!(root.is(asked), "{asked}");
        }
        for asked in ["24.1", "24.11.50", "forky", ""] {
            assert!(!root.is(asked), "{asked}");
        }
    }
}
