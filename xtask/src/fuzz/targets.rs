//! The properties of foreign input under libFuzzer: built with coverage, apart from the workspace, and run one after the
//! other from their seeds on.
//!
//! The seeds are in `xtask/fuzz/seeds`, a folder for each property; the tests of `crus-server` try them, too. What libFuzzer
//! learns is kept below the target directory, so that the next run goes on from there.

use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};

use crate::cargo;

/// What has the compiler count which ways were taken, and what was compared with what: as cargo-fuzz does it. None of it
/// needs a nightly compiler.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// The longest input that is made up, in bytes: parsers have seen everything by then.
const LENGTH_MAX: &str = "4096";

/// An input that takes longer, in seconds, is told.
const TIMEOUT_S: &str = "10";

/// The most memory, in MiB: what an input makes of itself is bounded.
const MEMORY_MAX_MIB: &str = "2048";

/// Runs each property, or the one of this name, for so many seconds.
pub(super) fn run(only: Option<&str>, seconds: u64, seed: Option<NonZeroU64>) -> Result<()> {
    let seeds = cargo::root().join("xtask/fuzz/seeds");
    let names = names(&seeds, only)?;
    let fuzzer = build()?;
    let place = cargo::target_directory()?.join("fuzz");
    // libFuzzer's own are 32 bits.
    let by_clock =
        || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs() & 0xffff_ffff);
    let seed = seed.map_or_else(by_clock, NonZeroU64::get);
    let mut broken = Vec::new();
    for name in &names {
        println!("\n== {name}: {seconds} s, seed {seed}");
        let learnt = place.join("corpus").join(name);
        let found = place.join("found").join(name);
        for folder in [&learnt, &found] {
            fs::create_dir_all(folder).with_context(|| format!("failed to create {}", folder.display()))?;
        }
        let status = Command::new(&fuzzer)
            .env("CRUS_FUZZ_TARGET", name)
            .env("RUST_BACKTRACE", "1")
            .args([&format!("-max_total_time={seconds}"), &format!("-seed={seed}")])
            .args([&format!("-max_len={LENGTH_MAX}"), &format!("-timeout={TIMEOUT_S}")])
            .arg(format!("-rss_limit_mb={MEMORY_MAX_MIB}"))
            .args(["-use_value_profile=1", "-verbosity=0", "-print_final_stats=1"])
            .arg(format!("-artifact_prefix={}/", found.display()))
            .args([&learnt, &seeds.join(name)])
            .status()
            .with_context(|| format!("failed to run {}", fuzzer.display()))?;
        if !status.success() {
            println!("== {name}: BROKEN ({status}), by an input below {}; once more with:", found.display());
            println!("    CRUS_FUZZ_TARGET={name} {} FILE", fuzzer.display());
            println!("  keep what is mended: cp FILE xtask/fuzz/seeds/{name}/");
            broken.push(name.as_str());
        }
    }
    ensure!(
        broken.is_empty(),
        "{} of {} properties do not hold: {}; again with:\n    cargo xtask fuzz {} --seconds {seconds} --seed {seed}",
        broken.len(),
        names.len(),
        broken.join(", "),
        broken[0]
    );
    println!("\n{} properties hold", names.len());
    Ok(())
}

/// Those that have seeds: a test sees to it that these are all.
fn names(seeds: &Path, only: Option<&str>) -> Result<Vec<String>> {
    let entries = fs::read_dir(seeds).with_context(|| format!("failed to read {}", seeds.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.context("failed to read the folder of seeds")?.file_name().into_string().ok());
    }
    names.sort();
    match only {
        None => Ok(names),
        Some(only) if names.iter().any(|name| name == only) => Ok(vec![only.to_owned()]),
        Some(only) => bail!("there is no property {only}; there are {}", names.join(", ")),
    }
}

/// The fuzzer of all properties.
fn build() -> Result<PathBuf> {
    let host = cargo::host()?;
    let place = cargo::target_directory()?.join("fuzz");
    let directory = place.to_str().context("the target directory has a name that is not UTF-8")?;
    let manifest = ["--manifest-path", "xtask/fuzz/Cargo.toml"];
    // With a target named, build scripts and macros are built without coverage.
    let args =
        [&["build", "--release"][..], &manifest, &["--target", &host, "--target-dir", directory]].concat();
    println!("$ RUSTFLAGS='{RUSTFLAGS}' cargo {}", args.join(" "));
    let status = cargo::command(&args).env("RUSTFLAGS", RUSTFLAGS).status().context("failed to run cargo")?;
    ensure!(
        status.success(),
        "failed to build the fuzzer ({status}); it needs a C++ compiler, too (Debian: g++)"
    );
    Ok(place.join(host).join("release/crus-fuzz"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_chosen_by_the_name_of_its_seeds() {
        let seeds = cargo::root().join("xtask/fuzz/seeds");
        assert!(names(&seeds, None).unwrap().contains(&"host_list".to_owned()));
        assert_eq!(names(&seeds, Some("xname")).unwrap(), ["xname"]);
        let error = names(&seeds, Some("nothing")).unwrap_err().to_string();
        assert!(error.starts_with("there is no property nothing; there are "), "{error}");
    }
}
