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
//! --test integration guide::` writes what was printed into the pages that differ, all of it, so that a page is of one run: look at the
//! difference before it is committed, and put a `…` for what need not be told.

mod compare;
mod page;
mod shell;
mod site;

use std::collections::BTreeSet;
use std::path::Path;

use self::compare::{Ids, Rules};
use self::page::{Page, Part};
use self::site::Site;

/// With it the pages are made to say what is printed.
const BLESS: &str = "CRUS_GUIDE_BLESS";

/// A test for each page.
macro_rules! pages {
    ($($test:ident: $file:literal),* $(,)?) => {
        const PAGES: &[&str] = &[$($file),*];

        $(
            #[test]
            fn $test() {
                if let Err(error) = run(&docs().join($file)) {
                    panic!("{error}");
                }
            }
        )*
    };
}

pages! {
    readme: "README.md",
    backup: "backup.md",
    connecting: "connecting.md",
    failures: "failures.md",
    first_upgrade: "first-upgrade.md",
    from_the_original: "from-the-original.md",
    installing: "installing.md",
    limits: "limits.md",
    messages: "messages.md",
    metrics: "metrics.md",
    replicas: "replicas.md",
    security: "security.md",
    strategies: "strategies.md",
    troubleshooting: "troubleshooting.md",
    upgrading: "upgrading.md",
    watching: "watching.md",
}

#[test]
fn every_page_has_its_test() {
    let found: BTreeSet<String> = std::fs::read_dir(docs())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md"))
        .collect();
    assert_eq!(found, PAGES.iter().map(|&name| name.to_owned()).collect());
}

fn docs() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/docs"))
}

/// Runs the commands of a page.
fn run(path: &Path) -> Result<(), String> {
    let bless = std::env::var_os(BLESS).is_some_and(|value| value == "1");
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
