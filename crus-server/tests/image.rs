//! The image that the Containerfile makes of what is shipped: built, looked into, and run.
//!
//! The base is made here, of the loader and the libraries of this machine that the program needs: no registry is asked,
//! and whatever else is in the image is ours.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crus_server::{LONG_VERSION, VERSION};
use serde_json::{Value, json};

/// More than what is shipped takes now, and less than what would be a mistake.
const MOST_BYTES: u64 = 48 << 20;

const BASE: &str = "localhost/crus-test-base";
const IMAGE: &str = "localhost/crus-test";

/// Buildah with a storage of its own.
struct Buildah(tempfile::TempDir);

impl Buildah {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(self.0.path().join("root")).arg("--runroot").arg(self.0.path().join("run"));
        // No engine, no overlay file system and no rights over control groups are needed.
        command.args(["--storage-driver", "vfs"]).args(arguments).env("BUILDAH_ISOLATION", "chroot");
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().expect("buildah is missing: apt-get install buildah");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "buildah {}: {error}", arguments.join(" "));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// The folder that is shipped.
fn shipped() -> PathBuf {
    std::env::var_os("CRUS_TEST_DIST").expect("CRUS_TEST_DIST names the folder of cargo xtask dist").into()
}

/// The loader and the libraries that a program needs, as this machine has them.
fn needed(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    paths.map(PathBuf::from).collect()
}

/// Files and links below a folder, each with its mode, its owner and its size.
fn files(folder: &Path) -> BTreeMap<String, (u32, (u32, u32), u64)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(here) = folders.pop() {
        for entry in fs::read_dir(here).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                folders.push(path);
                continue;
            }
            let name = format!("/{}", path.strip_prefix(folder).unwrap().display());
            let owner = (metadata.uid(), metadata.gid());
            found.insert(name, (metadata.mode() & 0o7777, owner, metadata.size()));
        }
    }
    found
}

/// What the Containerfile says must be mounted, as far as the service cannot start without.
struct Mounts(tempfile::TempDir);

impl Mounts {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        std::os::unix::fs::chown(folder.path().join("state"), Some(951), Some(951)).unwrap();
        Mounts(folder)
    }

    /// Starts the container's command with this configuration, and stops it once it listens. How it ended, and what it
    /// printed.
    fn start(&self, buildah: &Buildah, container: &str, config: &str) -> (Option<i32>, String) {
        let (file, state) = (self.0.path().join("crus.toml"), self.0.path().join("state"));
        // A program that it starts to look at Slurm would be the last child, for as long as that runs.
        let common = "auth = \"off\"\nlisten = \"127.0.0.1:0\"\nprobe_interval_s = \"none\"\n";
        fs::write(&file, format!("{config}{common}")).unwrap();
        let mut command = buildah.command(&["run"]);
        command.arg("--volume").arg(format!("{}:/etc/crus/crus.toml:ro", file.display()));
        command.arg("--volume").arg(format!("{}:/var/lib/crus", state.display()));
        command.args([container, "/usr/bin/crus", "serve", "--config", "/etc/crus/crus.toml"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut printed = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        if printed.read_line(&mut said).unwrap() > 0 {
            // Buildah is not what it runs: the last of its children is.
            let mut last = child.id();
            while let Some(next) = child_of(last) {
                last = next;
            }
            assert!(Command::new("kill").arg(last.to_string()).status().unwrap().success());
        }
        let output = child.wait_with_output().unwrap();
        (output.status.code(), said + &String::from_utf8_lossy(&output.stderr))
    }
}

/// A child of a process, of whatever thread of it.
fn child_of(pid: u32) -> Option<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    threads.flatten().find_map(|thread| {
        let children = fs::read_to_string(thread.path().join("children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    })
}

#[test]
#[ignore = "needs what is shipped: `cargo xtask test` makes it and runs this"]
fn the_image_holds_the_program_and_its_papers_and_runs_as_nobody() {
    let shipped = shipped();
    let program = shipped.join("bin/crus");
    let buildah = Buildah(tempfile::tempdir().unwrap());
    let base = buildah.run(&["from", "scratch"]);
    let libraries = needed(&program);
    assert!(libraries.len() > 2, "{libraries:?}");
    for library in libraries.iter().map(|path| path.to_str().unwrap()) {
        buildah.run(&["copy", &base, library, library]);
    }
    buildah.run(&["commit", "--quiet", &base, BASE]);
    let before = buildah.run(&["mount", &base]);
    let before = files(Path::new(&before));

    let file = shipped.join("share/crus/container/Containerfile");
    buildah.run(&[
        "build",
        "--quiet",
        "--pull-never",
        "--build-arg",
        &format!("BASE={BASE}"),
        "--build-arg",
        "COMMIT=0123456789ab",
        "--tag",
        IMAGE,
        "--file",
        file.to_str().unwrap(),
        shipped.to_str().unwrap(),
    ]);

    let inspected: Value =
        serde_json::from_str(&buildah.run(&["inspect", "--type", "image", IMAGE])).unwrap();
    let config = &inspected["OCIv1"]["config"];
    assert_eq!(config["User"], "951:951", "by number, for Kubernetes to see that it is not root");
    assert_eq!(config["Entrypoint"], json!(["/usr/bin/crus"]));
    assert_eq!(config["Cmd"], json!(["serve", "--config", "/etc/crus/crus.toml"]));
    assert_eq!(config["ExposedPorts"], json!({"8080/tcp": {}}));
    assert_eq!(config["StopSignal"], "SIGTERM");
    let label = |name: &str| config["Labels"][format!("org.opencontainers.image.{name}")].clone();
    assert_eq!(
        (label("version"), label("revision"), label("licenses")),
        (json!(VERSION), json!("0123456789ab"), json!("MIT"))
    );
    let environment = config["Env"].as_array().map_or(&[][..], Vec::as_slice);
    assert!(environment.iter().all(|line| !line.as_str().unwrap().starts_with("CRUS_")), "{environment:?}");

    let container = buildah.run(&["from", "--pull-never", IMAGE]);
    let root = PathBuf::from(buildah.run(&["mount", &container]));
    let ours: BTreeMap<_, _> =
        files(&root).into_iter().filter(|(path, _)| !before.contains_key(path)).collect();
    let seen: Vec<(&str, u32, (u32, u32))> =
        ours.iter().map(|(path, (mode, owner, _))| (path.as_str(), *mode, *owner)).collect();
    assert_eq!(
        seen,
        [
            ("/usr/bin/crus", 0o755, (0, 0)),
            ("/usr/share/doc/crus/CHANGELOG.md", 0o644, (0, 0)),
            ("/usr/share/doc/crus/LICENSE", 0o644, (0, 0)),
            ("/usr/share/doc/crus/THIRD-PARTY-LICENSES.txt", 0o644, (0, 0)),
            ("/usr/share/doc/crus/crus.toml", 0o644, (0, 0)),
        ],
        "no shell, no package, nothing left over from building it"
    );
    let bytes: u64 = ours.values().map(|(_, _, size)| size).sum();
    assert!(bytes < MOST_BYTES, "{bytes} bytes");
    println!("the image: {} files, {bytes} bytes above its base", ours.len());
    assert_eq!(fs::read(root.join("usr/bin/crus")).unwrap(), fs::read(&program).unwrap());

    let said = buildah.run(&["run", &container, "/usr/bin/crus", "--version"]);
    // The test is of the same sources, though not of the same build.
    let version = LONG_VERSION.split(' ').next().unwrap();
    assert!(said.starts_with(&format!("crus {version} (commit ")), "{said}");
    // Nobody gave it a configuration: it says so, as the user that it should be.
    let refused =
        buildah.command(&["run", &container, "/usr/bin/crus", "serve", "--config", "/etc/crus/crus.toml"]);
    let mut refused = refused;
    let output = refused.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("failed to read the configuration file /etc/crus/crus.toml"), "{error}");
    // The base has no CAs: that is said, with what to do, when one is needed, and only then.
    let mounts = Mounts::new();
    let (code, said) = mounts.start(&buildah, &container, "hsm_url = \"https://hsm.local/\"\n");
    assert!(code != Some(0) && said.contains("ca_file"), "{said}");
    let (code, said) = mounts.start(
        &buildah,
        &container,
        "hsm_url = \"http://127.0.0.1:9\"\nbos_url = \"http://127.0.0.1:9\"\n",
    );
    assert!(code == Some(0) && said.starts_with("listening on http://127.0.0.1:"), "{said}");
    buildah.run(&["rm", "--all"]);
    buildah.run(&["rmi", "--all", "--force"]);
}
