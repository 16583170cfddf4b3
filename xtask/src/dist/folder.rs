//! The folder: laid out for a prefix such as `/usr`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::build::Build;
use super::licences;
use crate::cargo;

/// What must be there, whatever else is.
pub(super) const EXPECTED: [&str; 23] = [
    "bin/crus",
    "lib/systemd/system/crus.service",
    "lib/sysusers.d/crus.conf",
    "lib/tmpfiles.d/crus.conf",
    "share/bash-completion/completions/crus",
    "share/crus/container/Containerfile",
    "share/crus/grafana/crus.json",
    "share/crus/helm/cray-crus/Chart.yaml",
    "share/crus/helm/cray-crus/files/crus.rules.yaml",
    "share/crus/helm/cray-crus/values.schema.json",
    "share/crus/helm/cray-crus/values.yaml",
    "share/crus/prometheus/crus.rules.yaml",
    "share/doc/crus/CHANGELOG.md",
    "share/doc/crus/LICENSE",
    "share/doc/crus/THIRD-PARTY-LICENSES.txt",
    "share/doc/crus/crus.toml",
    "share/doc/crus/guide/README.md",
    "share/doc/crus/openapi.json",
    "share/fish/vendor_completions.d/crus.fish",
    "share/man/man1/crus-serve.1",
    "share/man/man1/crus-session-create.1",
    "share/man/man1/crus.1",
    "share/zsh/site-functions/_crus",
];

/// What is taken as it is: from the root of the repository, to the folder. Of a folder all that is in it.
const TAKEN: [(&str, &str); 8] = [
    ("LICENSE", "share/doc/crus/LICENSE"),
    ("crus-server/CHANGELOG.md", "share/doc/crus/CHANGELOG.md"),
    ("crus-api/src/openapi.json", "share/doc/crus/openapi.json"),
    ("crus-server/docs", GUIDE),
    ("crus-server/packaging/systemd/crus.service", "lib/systemd/system/crus.service"),
    ("crus-server/packaging/systemd/sysusers.conf", "lib/sysusers.d/crus.conf"),
    ("crus-server/packaging/systemd/tmpfiles.conf", "lib/tmpfiles.d/crus.conf"),
    ("crus-server/packaging", "share/crus"),
];

/// Where the guide is.
const GUIDE: &str = "share/doc/crus/guide";

/// Where the guide links to out of its folder, and where that is in what is shipped.
const LINKS: [(&str, &str); 1] = [("](../../crus-api/src/openapi.json)", "](../openapi.json)")];

/// What of it has another place already.
const ELSEWHERE: &str = "systemd";

/// Makes it anew.
pub(super) fn assemble(folder: &Path, binary: &Path, build: &Build) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("failed to remove {}", folder.display()))?;
    }
    let program = folder.join("bin/crus");
    copy(binary, &program, 0o755)?;
    for (from, to) in TAKEN {
        let from = cargo::root().join(from);
        if from.is_dir() {
            for path in files(&from)?.iter().filter(|path| !path.starts_with(ELSEWHERE)) {
                copy(&from.join(path), &folder.join(to).join(path), 0o644)?;
            }
            if to == GUIDE {
                relink(&folder.join(to))?;
            }
        } else if from.exists() {
            copy(&from, &folder.join(to), 0o644)?;
        }
    }
    for (shell, to) in [
        ("bash", "share/bash-completion/completions/crus"),
        ("zsh", "share/zsh/site-functions/_crus"),
        ("fish", "share/fish/vendor_completions.d/crus.fish"),
    ] {
        write(&folder.join(to), &said(&program, &["completions", shell])?)?;
    }
    let manual = folder.join("share/man/man1");
    let to = manual.to_str().context("the target directory has a name that is not UTF-8")?;
    said(&program, &["man", "--dir", to])?;
    for page in files(&manual)? {
        set_mode(&manual.join(page), 0o644)?;
    }
    write(&folder.join("share/doc/crus/crus.toml"), &said(&program, &["serve", "--example-config"])?)?;
    write(
        &folder.join("share/doc/crus/THIRD-PARTY-LICENSES.txt"),
        licences::notice(build.features())?.as_bytes(),
    )
}

/// Makes the links of a guide those of what is shipped.
fn relink(guide: &Path) -> Result<()> {
    for path in files(guide)? {
        let path = guide.join(path);
        let text = read(&path)?;
        let text = LINKS.iter().fold(text, |text, (from, to)| text.replace(from, to));
        write(&path, text.as_bytes())?;
    }
    Ok(())
}

/// Links of the guide that lead to no file, each with the page that it is on.
pub(super) fn dead_links(folder: &Path) -> Result<Vec<String>> {
    let guide = folder.join(GUIDE);
    let mut dead = Vec::new();
    for page in files(&guide)? {
        let text = read(&guide.join(&page))?;
        let to = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(to, _)| to);
        for to in to.filter(|to| !to.contains("://")) {
            let file = to.split('#').next().unwrap_or_default();
            if !file.is_empty() && !guide.join(file).is_file() {
                dead.push(format!("{page}: {to}"));
            }
        }
    }
    Ok(dead)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

/// The files below a folder, as paths within it, in their order.
pub(super) fn files(folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        let here = folder.join(&below);
        let entries = fs::read_dir(&here).with_context(|| format!("failed to list {}", here.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("failed to list {}", here.display()))?;
            let path = below.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else {
                found.push(path.to_str().context("a file has a name that is not UTF-8")?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    write(to, &fs::read(from).with_context(|| format!("failed to read {}", from.display()))?)?;
    set_mode(to, mode)
}

fn write(to: &Path, bytes: &[u8]) -> Result<()> {
    let parent = to.parent().context("a file must be in a folder")?;
    fs::create_dir_all(parent)
        .and_then(|()| fs::write(to, bytes))
        .with_context(|| format!("failed to write {}", to.display()))?;
    set_mode(to, 0o644)
}

/// Whatever the umask of this machine is.
fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("failed to change the permissions of {}", path.display()))
}

/// What the program prints. Nothing that is set here may change it.
fn said(program: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program)
        .args(arguments)
        .env_clear()
        .output()
        .with_context(|| format!("failed to run {}", program.display()))?;
    ensure!(
        output.status.success(),
        "crus {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_guide_lead_to_what_is_shipped() {
        let folder = std::env::temp_dir().join(format!("crus-folder-{}", std::process::id()));
        let guide = folder.join(GUIDE);
        write(&folder.join("share/doc/crus/openapi.json"), b"{}").unwrap();
        write(&guide.join("README.md"), b"[a](../../crus-api/src/openapi.json), [b](b.md#c), [d](#d)")
            .unwrap();
        write(&guide.join("b.md"), b"[e](https://example.org/), [f](../../gone.md#g)").unwrap();
        relink(&guide).unwrap();
        assert_eq!(dead_links(&folder).unwrap(), ["b.md: ../../gone.md#g"]);
        fs::remove_dir_all(folder).unwrap();
    }
}
