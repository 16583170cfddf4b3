//! `cargo xtask dist`: what is shipped, in a folder and in an archive.
//!
//! ```text
//! target/shipped/crus-1.0.0-x86_64-linux/          for a prefix such as /usr
//! target/shipped/crus-1.0.0-x86_64-linux.tar.gz    the same, byte for byte for the same commit
//! target/shipped/crus-1.0.0-x86_64-linux.tar.gz.sha256
//! ```
//!
//! The binary is "nearly static": it needs glibc and libgcc_s, which every Linux distribution with glibc has, and nothing
//! else. It is not linked to glibc statically: `getaddrinfo` loads the site's own name services (files, DNS, sssd, LDAP),
//! and a static glibc can do so only where the very same version of it is installed. How old a glibc may be is decided by that of
//! the machine that builds: what is for older systems is built on one of them.

mod archive;
mod binary;
mod build;
mod folder;
mod licences;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::cargo;

use build::Build;
pub(crate) use build::{ALL, WITHOUT_PROTOC};

/// The version of all crates.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What to ship.
#[derive(Debug, Args)]
pub(crate) struct Dist {
    /// Features of the binary, divided by commas. When not given: all, for which protoc must be there.
    #[arg(long)]
    features: Option<String>,
    /// Build nothing: list what was made before, and see that it is whole.
    #[arg(long)]
    check: bool,
}

/// Builds it, or checks what was built.
pub(crate) fn run(dist: &Dist) -> Result<()> {
    if dist.check {
        return Product::new()?.check();
    }
    let build = dist.features.as_deref().map_or_else(Build::whole, |features| Ok(Build::with(features)))?;
    make(&build).map(|_| ())
}

/// Builds it and checks it.
pub(crate) fn make(build: &Build) -> Result<Product> {
    let product = Product::new()?;
    let binary = build.run()?;
    folder::assemble(&product.folder, &binary, build)?;
    archive::pack(&product.folder, &product.archive)?;
    product.check()?;
    Ok(product)
}

/// Where it is.
pub(crate) struct Product {
    /// The folder.
    pub folder: PathBuf,
    archive: PathBuf,
}

impl Product {
    /// Where it is made, and found again.
    pub(crate) fn new() -> Result<Self> {
        let dist = cargo::target_directory()?.join("shipped");
        let name = format!("crus-{VERSION}-{}-linux", std::env::consts::ARCH);
        Ok(Product { folder: dist.join(&name), archive: dist.join(format!("{name}.tar.gz")) })
    }

    /// The program itself.
    pub(crate) fn binary(&self) -> PathBuf {
        self.folder.join("bin/crus")
    }

    /// Lists the archive, and sees to it that it is whole, is what the folder is, and holds a binary that runs elsewhere.
    fn check(&self) -> Result<()> {
        let listed = archive::list(&self.archive)?;
        for line in &listed {
            println!("{line}");
        }
        let held = listed.iter().map(|entry| entry.path.clone()).collect::<Vec<_>>();
        let there = folder::files(&self.folder)?;
        ensure!(held == there, "the archive holds other files than {}: make it anew", self.folder.display());
        let missing: Vec<&str> =
            folder::EXPECTED.into_iter().filter(|path| !there.iter().any(|there| there == path)).collect();
        ensure!(missing.is_empty(), "{} lacks {}", self.folder.display(), missing.join(", "));

        let dead = folder::dead_links(&self.folder)?;
        ensure!(dead.is_empty(), "links of the guide lead nowhere: {}", dead.join(", "));

        let binary = binary::Binary::read(&self.binary())?;
        let strange = binary.strange_libraries();
        ensure!(strange.is_empty(), "the binary needs more than glibc and libgcc_s: {}", strange.join(", "));
        let paths = binary.paths_of_this_machine(&build::places()?);
        if let Some(path) = paths.first() {
            bail!("the binary holds {} paths of this machine, such as {path}", paths.len());
        }
        let (major, minor) = binary.glibc()?;
        println!("\nneeds    {} (glibc {major}.{minor} or newer)", binary.libraries().join(", "));
        println!(
            "size     {} of the binary, {} of the archive",
            megabytes(&self.binary())?,
            megabytes(&self.archive)?
        );
        println!("archive  {}", self.archive.display());
        println!("sha256   {}", archive::verified_digest(&self.archive)?);
        Ok(())
    }
}

fn megabytes(path: &Path) -> Result<String> {
    let size =
        std::fs::metadata(path).with_context(|| format!("failed to look at {}", path.display()))?.len();
    Ok(format!("{}.{} MB", size / 1_000_000, size / 100_000 % 10))
}
