//! The operator's guide, kept true: every ```` ```console ```` block of its pages is run, and what it prints compared with
//! what the page says.
//!
//! A page is one test. Its commands (lines that begin with `$ `, and `> ` where they go on) are run by one bash for each
//! site, in order, with the real `crus` and the stand-ins of Slurm's programs in the `PATH`. Comments say what a reader
//! need not see:
//!
//! - `<!-- site KEY=VALUE … -->` begins anew: a folder, a bash, a simulated cluster ([`site`]). `cluster=small` (the
//!   default, 16 nodes), `demo` (64) or `none`; `speed=N` virtual seconds in a real one; `etcd=on` starts a real etcd;
//!   `env=on` has the options of `crus serve` in the environment, as [`site`] says.
//! - `<!-- hidden`, commands, `-->` are run as well, print nothing on the page, and must succeed.
//!
//! What may differ between the page and what is printed, [`compare`] says. `CRUS_GUIDE_BLESS=1 cargo test -p crus-server
//! --test guide` writes what was printed into the pages that differ, all of it, so that a page is of one run: look at the
//! difference before it is committed, and put a `…` for what need not be told.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod compare;
mod page;
mod shell;
mod site;
#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "etcd")]
#[expect(dead_code, clippy::panic, reason = "other tests need more of it, and a panic is how a test fails")]
#[path = "../support/etcd.rs"]
mod etcd;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use compare::{Ids, Rules};
use page::{Page, Part};
use site::Site;

/// With it the pages are made to say what is printed.
const BLESS: &str = "CRUS_GUIDE_BLESS";

fn main() -> ExitCode {
    let bless = std::env::var_os(BLESS).is_some_and(|value| value == "1");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<PathBuf> = std::fs::read_dir(folder.join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect();
    pages.sort();
    let mut trials: Vec<Trial> = pages
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            Trial::test(name, move || run(&path, bless).map_err(Failed::from))
        })
        .collect();
    trials.extend(compare::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Runs the commands of a page.
fn run(path: &Path, bless: bool) -> Result<(), String> {
    let text = std::fs::read_to_string(path).unwrap();
    let page = Page::read(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let (rules, mut ids) = (Rules::new(), Ids::default());
    let mut site: Option<Site> = None;
    let mut wrong = Vec::new();
    let mut blessed: Vec<String> = text.lines().map(str::to_owned).collect();
    // Lines of a page move as soon as one is replaced: the last first, at the end.
    let mut replaced = Vec::new();
    for part in &page.parts {
        match part {
            Part::Site(wish) => {
                drop(site.take());
                site = Site::start(wish)?;
                if site.is_none() {
                    eprintln!(
                        "{}: left out from line {} on: this needs a real etcd",
                        path.display(),
                        wish.line
                    );
                }
                continue;
            }
            Part::Hidden { line, script } => {
                let Some(site) = &mut site else { continue };
                let (printed, code) = site.shell.run(script)?;
                if code != 0 {
                    return Err(format!(
                        "{}:{line}: the hidden commands ended with {code}: {printed}\n{}",
                        path.display(),
                        wrong.join("\n")
                    ));
                }
            }
            Part::Command { line, command, output } => {
                let Some(site) = &mut site else { continue };
                let (printed, _) = site.shell.run(command)?;
                let printed: Vec<String> = printed.lines().map(|line| site.tidy(line)).collect();
                let told = &text.lines().collect::<Vec<_>>()[output.clone()];
                let (same, now) = rules.compare(told, &printed, &mut ids);
                if let Err(difference) = same {
                    wrong.push(format!("{}:{line}: $ {command}\n{difference}", path.display()));
                }
                replaced.push((output.clone(), now));
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let wrong = wrong.join("\n");
    if !bless {
        return Err(format!("{wrong}\n{BLESS}=1 writes what was printed into the page"));
    }
    for (lines, printed) in replaced.into_iter().rev() {
        blessed.splice(lines, printed);
    }
    std::fs::write(path, blessed.join("\n") + "\n").unwrap();
    eprintln!("written anew, look at the difference: {wrong}");
    Ok(())
}
