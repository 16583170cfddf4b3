//! The archive: the same bytes for the same files, whoever packs them and when.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::cargo;

/// One file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its permissions, as `ls` shows them.
    pub mode: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where it is, below the folder that the archive holds.
    pub path: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:>10} {}", self.mode, self.size, self.path)
    }
}

/// Packs a folder, and writes the digest of the archive beside it.
pub(super) fn pack(folder: &Path, archive: &Path) -> Result<()> {
    let (parent, name) =
        folder.parent().zip(folder.file_name()).context("failed to pack a folder without a name")?;
    let plain = archive.with_extension("");
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--file").arg(&plain).arg("--directory").arg(parent);
    tar.args([
        "--format=ustar",
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=u=rwX,go=rX",
    ]);
    tar.arg(format!("--mtime=@{}", date_s())).arg(name);
    run(&mut tar, "pack the archive")?;
    // Without the name and the time of the file in it.
    let zipped = File::create(archive).with_context(|| format!("failed to write {}", archive.display()))?;
    run(
        Command::new("gzip").args(["-9", "--no-name", "--stdout"]).arg(&plain).stdout(zipped),
        "compress the archive",
    )?;
    fs::remove_file(&plain).with_context(|| format!("failed to remove {}", plain.display()))?;
    let line = format!("{}  {}\n", digest(archive)?, file_name(archive)?);
    fs::write(digest_file(archive), line).context("failed to write the digest of the archive")
}

/// What an archive holds but folders, in the order of the paths.
pub(super) fn list(archive: &Path) -> Result<Vec<Entry>> {
    ensure!(archive.exists(), "there is no {}: make it with cargo xtask dist", archive.display());
    let mut tar = Command::new("tar");
    tar.args(["--list", "--verbose", "--numeric-owner", "--file"]).arg(archive).env("LC_ALL", "C");
    let output = tar.stderr(Stdio::inherit()).output().context("failed to run tar")?;
    ensure!(output.status.success(), "failed to list {}", archive.display());
    let mut entries = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut words = line.split_ascii_whitespace();
        let fields = (words.next(), words.next(), words.next(), words.nth(2));
        let (Some(mode), Some(owner), Some(size), Some(path)) = fields else {
            bail!("failed to read what tar lists: {line}");
        };
        ensure!(owner == "0/0", "{path} belongs to {owner} in the archive, and not to root");
        if mode.starts_with('d') {
            continue;
        }
        let path = path.split_once('/').map_or(path, |(_, path)| path).to_owned();
        let size = size.parse().with_context(|| format!("failed to read what tar lists: {line}"))?;
        entries.push(Entry { mode: mode.to_owned(), size, path });
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// The digest of an archive, when it is the one that is beside it.
pub(super) fn verified_digest(archive: &Path) -> Result<String> {
    let digest = digest(archive)?;
    let told =
        fs::read_to_string(digest_file(archive)).context("failed to read the digest beside the archive")?;
    ensure!(
        told == format!("{digest}  {}\n", file_name(archive)?),
        "the archive is not the one of its digest"
    );
    Ok(digest)
}

fn digest(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output().context("failed to run sha256sum")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let digest = text.split(' ').next().unwrap_or_default().trim_start_matches('\\').to_owned();
    ensure!(output.status.success() && digest.len() == 64, "failed to digest {}", file.display());
    Ok(digest)
}

fn digest_file(archive: &Path) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(".sha256");
    name.into()
}

fn file_name(archive: &Path) -> Result<&str> {
    archive.file_name().and_then(|name| name.to_str()).context("failed to name the archive")
}

/// The time that all files have: that of the commit, or what `SOURCE_DATE_EPOCH` says.
fn date_s() -> u64 {
    let said = std::env::var("SOURCE_DATE_EPOCH").ok();
    let commit = || {
        let output = Command::new("git")
            .args(["log", "-1", "--format=%ct"])
            .current_dir(cargo::root())
            .output()
            .ok()?;
        String::from_utf8(output.stdout).ok()
    };
    // The first that the format of archives is fond of: no time at all looks like a mistake.
    const LONG_AGO: u64 = 315_532_800;
    said.or_else(commit).and_then(|text| text.trim().parse().ok()).unwrap_or(LONG_AGO)
}

fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to {what}"))?;
    ensure!(status.success(), "failed to {what} ({status})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A folder with three files, written in this order.
    fn folder(parent: &Path, order: [usize; 3]) -> PathBuf {
        let files = [("bin/crus", "program", 0o755), ("a.txt", "text", 0o644), ("share/x", "more", 0o664)];
        let folder = parent.join("crus-1");
        for at in order {
            let (path, text, mode) = files[at];
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        folder
    }

    #[test]
    fn the_same_files_are_the_same_archive() {
        let scratch = std::env::temp_dir().join(format!("crus-archive-{}", std::process::id()));
        let mut digests = Vec::new();
        for (name, order) in [("one", [0, 1, 2]), ("two", [2, 1, 0])] {
            let parent = scratch.join(name);
            fs::create_dir_all(&parent).unwrap();
            let folder = folder(&parent, order);
            let old = Command::new("touch")
                .args(["--date=@1000", name])
                .arg(folder.join("a.txt"))
                .current_dir(&parent)
                .status();
            assert!(name == "one" || old.unwrap().success());
            let archive = parent.join("crus-1.tar.gz");
            pack(&folder, &archive).unwrap();
            let listed: Vec<String> = list(&archive).unwrap().iter().map(Entry::to_string).collect();
            assert_eq!(
                listed,
                [
                    "-rw-r--r--          4 a.txt",
                    "-rwxr-xr-x          7 bin/crus",
                    "-rw-r--r--          4 share/x"
                ]
            );
            digests.push(verified_digest(&archive).unwrap());
            fs::write(&archive, "another").unwrap();
            assert!(verified_digest(&archive).is_err(), "what is not the archive is seen");
        }
        assert_eq!(digests[0], digests[1]);
        fs::remove_dir_all(scratch).unwrap();
    }
}
