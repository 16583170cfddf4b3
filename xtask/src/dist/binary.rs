//! What a program needs of the machine it runs on, and what it tells of the one it was built on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// All that glibc and gcc bring. The loader is glibc's as well.
const ORDINARY: [&str; 7] =
    ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1", "ld-linux"];

/// A program, looked at.
pub(super) struct Binary {
    bytes: Vec<u8>,
    libraries: Vec<String>,
    versions: String,
}

impl Binary {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("failed to read {}", path.display()))?;
        let dynamic = readelf("--dynamic", path)?;
        let libraries = libraries(&dynamic);
        ensure!(!libraries.is_empty(), "failed to find the libraries that {} needs", path.display());
        Ok(Binary { bytes, libraries, versions: readelf("--version-info", path)? })
    }

    /// The libraries that it is linked to.
    pub(super) fn libraries(&self) -> &[String] {
        &self.libraries
    }

    /// Those that a bare system may lack.
    pub(super) fn strange_libraries(&self) -> Vec<&str> {
        let is_ordinary = |name: &str| ORDINARY.iter().any(|ordinary| name.starts_with(ordinary));
        self.libraries.iter().map(String::as_str).filter(|name| !is_ordinary(name)).collect()
    }

    /// The oldest glibc that has all the symbols it needs.
    pub(super) fn glibc(&self) -> Result<(u32, u32)> {
        newest_glibc(&self.versions).context("failed to find which glibc the binary needs")
    }

    /// The paths in it that begin with one of these folders.
    pub(super) fn paths_of_this_machine(&self, places: &[(PathBuf, &str)]) -> Vec<String> {
        places.iter().flat_map(|(place, _)| paths(&self.bytes, &format!("{}/", place.display()))).collect()
    }
}

fn readelf(what: &str, path: &Path) -> Result<String> {
    let output = Command::new("readelf")
        .args(["--wide", what])
        .arg(path)
        .env("LC_ALL", "C")
        .output()
        .context("failed to run readelf, which belongs to the linker (Debian: binutils)")?;
    ensure!(output.status.success(), "failed to read {} with readelf {what}", path.display());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn libraries(dynamic: &str) -> Vec<String> {
    let needed = dynamic.lines().filter_map(|line| line.split_once("(NEEDED)")?.1.split_once('['));
    needed.map(|(_, name)| name.trim_end().trim_end_matches(']').to_owned()).collect()
}

fn newest_glibc(versions: &str) -> Option<(u32, u32)> {
    let version = |rest: &str| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let mut parts = rest[..end].split('.').map(str::parse);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    };
    versions.split("GLIBC_").skip(1).filter_map(version).max()
}

/// The texts in `bytes` that begin with this.
fn paths(bytes: &[u8], begin: &str) -> Vec<String> {
    let is_shown = |byte: &u8| byte.is_ascii_graphic();
    let begin = begin.as_bytes();
    let starts = bytes.windows(begin.len()).enumerate().filter(|(_, window)| *window == begin);
    let path = |at: usize| bytes[at..].iter().take_while(|byte| is_shown(byte)).take(200).copied().collect();
    starts.map(|(at, _)| String::from_utf8_lossy(&path(at) as &Vec<u8>).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_oldest_glibc_are_read() {
        let dynamic = " 0x0000000000000001 (NEEDED)             Shared library: [libgcc_s.so.1]\n \
                       0x0000000000000001 (NEEDED)             Shared library: [libssl.so.3]\n \
                       0x000000000000000c (INIT)               0x1000\n";
        assert_eq!(libraries(dynamic), ["libgcc_s.so.1", "libssl.so.3"]);
        let binary = Binary { bytes: Vec::new(), libraries: libraries(dynamic), versions: String::new() };
        assert_eq!(binary.strange_libraries(), ["libssl.so.3"]);
        let versions =
            "  0x0010:   Name: GLIBC_2.9  Flags: none\n Name: GLIBC_2.34 Name: GLIBC_2.2.5\n 5 (GLIBC_2.17)";
        assert_eq!(newest_glibc(versions), Some((2, 34)));
        assert_eq!(newest_glibc("GCC_3.0, GLIBC_PRIVATE"), None);
    }

    #[test]
    fn a_path_of_the_machine_is_found() {
        let bytes = b"\0\0/home/me/crus/src/lib.rs\0/usr/bin/true\0x/home/me/crus/a";
        assert_eq!(paths(bytes, "/home/me/"), ["/home/me/crus/src/lib.rs", "/home/me/crus/a"]);
        assert!(paths(bytes, "/root/").is_empty());
    }

    #[test]
    fn this_very_test_needs_glibc_and_holds_paths_of_its_machine() {
        let binary = Binary::read(&std::env::current_exe().unwrap()).unwrap();
        assert!(binary.libraries().iter().any(|name| name == "libc.so.6"));
        assert!(binary.glibc().unwrap() >= (2, 2));
        assert!(!binary.paths_of_this_machine(&super::super::build::places().unwrap()).is_empty());
    }
}
