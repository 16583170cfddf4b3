//! A disk that can be made full, and given room again.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::limits;

/// How room runs out.
pub(crate) enum Disk {
    /// A file system of its own fills up: writes into it fail, wherever in a file.
    Small(SmallDisk),
    /// A file may not grow any more, by a limit set on the process: no rights are needed for it.
    NoGrowth(tempfile::TempDir),
    /// A file may not be written at all, likewise.
    NoWrites(tempfile::TempDir),
}

impl Disk {
    /// All kinds, each with its name. The first is missing where nobody may mount anything, which is said.
    pub(crate) fn kinds() -> Vec<(&'static str, Disk)> {
        let folder = || tempfile::tempdir().unwrap();
        let mut kinds = vec![
            ("a file that cannot grow", Disk::NoGrowth(folder())),
            ("a file that cannot be written", Disk::NoWrites(folder())),
        ];
        match SmallDisk::mount() {
            Some(disk) => kinds.insert(0, ("a full file system", Disk::Small(disk))),
            None => eprintln!("left out: a file system cannot be mounted here, not even in a user namespace"),
        }
        kinds
    }

    /// Whether not even what the file has taken can be written again.
    pub(crate) fn stops_every_write(&self) -> bool {
        matches!(self, Disk::NoWrites(_))
    }

    /// Where files go.
    pub(crate) fn folder(&self) -> PathBuf {
        match self {
            Disk::Small(disk) => disk.path(),
            Disk::NoGrowth(folder) | Disk::NoWrites(folder) => folder.path().to_owned(),
        }
    }

    /// From now on `file`, which this process writes, finds no more room than it has taken. The process must be
    /// [a survivor](limits::survivor).
    pub(crate) fn fill(&self, pid: u32, file: &Path) {
        match self {
            Disk::Small(disk) => disk.fill(),
            Disk::NoGrowth(_) => limits::file_size(pid, &fs::metadata(file).unwrap().len().to_string()),
            Disk::NoWrites(_) => limits::file_size(pid, "0"),
        }
    }

    /// There is room again.
    pub(crate) fn free(&self, pid: u32) {
        match self {
            Disk::Small(disk) => fs::remove_file(disk.filler()).unwrap(),
            Disk::NoGrowth(_) | Disk::NoWrites(_) => limits::file_size(pid, "unlimited"),
        }
    }
}

/// A file system in memory, in a mount namespace of its own: gone, with all that is in it, when this is.
pub(crate) struct SmallDisk {
    holder: Child,
    folder: tempfile::TempDir,
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }
}

impl SmallDisk {
    /// Room for some thousands of small values.
    const SIZE: &str = "size=16m";

    fn mount() -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let namespaces: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
        namespaces
            .into_iter()
            .find_map(|namespace| {
                let mut holder = Command::new("unshare")
                    .args(namespace)
                    .args(["--propagation", "private", "sh", "-c"])
                    // It ends with us: nobody else holds the other end of its input.
                    .arg(r#"mount -t tmpfs -o "$0" crus-test "$1" && echo mounted && exec cat"#)
                    .arg(SmallDisk::SIZE)
                    .arg(folder.path())
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .ok()?;
                let mut line = String::new();
                BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
                if line == "mounted\n" {
                    return Some(holder);
                }
                holder.wait().unwrap();
                None
            })
            .map(|holder| SmallDisk { holder, folder })
    }

    /// As it is seen from outside the namespace.
    fn path(&self) -> PathBuf {
        let within = self.folder.path().strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(within)
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        for size in [1 << 16, 1] {
            let error = loop {
                if let Err(error) = filler.write_all(&vec![0; size]) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::StorageFull);
        }
    }
}
