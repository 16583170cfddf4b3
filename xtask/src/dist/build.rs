//! The binary that is shipped.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::cargo;

/// Divides flags in the variable by which cargo is told them.
const FLAG_END: &str = "\x1f";

/// All features that are shipped: several replicas, and traces.
pub(crate) const ALL: &str = "etcd,otlp";

/// Those of them that it takes nothing else to build.
pub(crate) const WITHOUT_PROTOC: &str = "otlp";

/// How it is built.
#[derive(Debug, Clone)]
pub(crate) struct Build {
    features: String,
}

impl Build {
    /// With these features, divided by commas.
    pub(crate) fn with(features: &str) -> Self {
        Build { features: features.to_owned() }
    }

    /// With all that there is.
    pub(crate) fn whole() -> Result<Self> {
        let has_protoc = Command::new("protoc")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        // What is called the same must be the same.
        ensure!(
            has_protoc,
            "there is no protoc here, by which the client of etcd is built (Debian: protobuf-compiler): install it, or say \
             what the binary shall have without, such as --features {WITHOUT_PROTOC}"
        );
        Ok(Build::with(ALL))
    }

    /// The features, divided by commas.
    pub(crate) fn features(&self) -> &str {
        &self.features
    }

    /// Builds it. Where it is.
    pub(super) fn run(&self) -> Result<PathBuf> {
        let args = [
            "build",
            "--profile",
            "dist",
            "--locked",
            "--package",
            "crus-server",
            "--features",
            &self.features,
        ];
        let line = format!("cargo {}", args.join(" "));
        println!("$ {line}");
        let places = places()?;
        let flags =
            places.iter().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()));
        let c_flags =
            places.iter().map(|(path, name)| format!("-ffile-prefix-map={}={name}", path.display()));
        let status = cargo::command(&args)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.collect::<Vec<_>>().join(FLAG_END))
            .env("CFLAGS", c_flags.collect::<Vec<_>>().join(" "))
            .status()
            .with_context(|| format!("failed to run `{line}`"))?;
        if !status.success() {
            bail!("`{line}` failed ({status})");
        }
        Ok(cargo::target_directory()?.join("dist/crus"))
    }
}

/// Folders of this machine that sources are in, and what they are called in the binary. Of two that match, the compiler
/// takes the later one.
pub(super) fn places() -> Result<Vec<(PathBuf, &'static str)>> {
    let output =
        Command::new("rustc").args(["--print", "sysroot"]).output().context("failed to run rustc")?;
    let sysroot = String::from_utf8(output.stdout).context("failed to read the answer of rustc")?;
    let home = || env::var_os("HOME").map(PathBuf::from);
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(home()?.join(".cargo")));
    let mut places = vec![(PathBuf::from(sysroot.trim()), "/rust")];
    places.extend(cargo_home.map(|path| (path, "/cargo")));
    places.push((cargo::target_directory()?, "/target"));
    places.push((cargo::root(), "/crus"));
    // The target directory is within the root, as a rule.
    let target = cargo::target_directory()?;
    if target.starts_with(cargo::root()) {
        places.push((target, "/target"));
    }
    Ok(places)
}
