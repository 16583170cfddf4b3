//! `cargo xtask bench`.

use anyhow::{Context as _, Result, bail, ensure};

use crate::cargo::{self, Member};

/// Runs every benchmark of the workspace: each is a `[[bench]]` of its crate, so that a new one is found
/// without being listed anywhere.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    let members = cargo::members()?;
    let benches = benches(&members, filter.unwrap_or_default());
    ensure!(!benches.is_empty(), "failed to find a benchmark: no crate has a [[bench]] of that name");

    for (package, name) in benches {
        println!("== {package}: {name}");
        let status = cargo::command(&["bench", "--quiet", "--package", package, "--bench", name])
            .status()
            .with_context(|| format!("failed to run the benchmark {name}"))?;
        if !status.success() {
            bail!("the benchmark {name} of {package} failed ({status})");
        }
    }
    Ok(())
}

/// The benchmarks whose name contains `part`, each with its crate.
fn benches<'a>(members: &'a [Member], part: &str) -> Vec<(&'a str, &'a str)> {
    let targets = members.iter().flat_map(|member| member.targets.iter().map(move |target| (member, target)));
    targets
        .filter(|(_, target)| target.kind.iter().any(|kind| kind == "bench") && target.name.contains(part))
        .map(|(member, target)| (&*member.name, &*target.name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::Target;

    #[test]
    fn benchmarks_are_found_by_their_kind_and_chosen_by_name() {
        let target = |name: &str, kind: &str| Target { name: name.to_owned(), kind: vec![kind.to_owned()] };
        let member =
            |name: &str, targets| Member { name: name.to_owned(), dependencies: Vec::new(), targets };
        let members = [
            member("one", vec![target("one", "lib"), target("calls", "bench")]),
            member("two", vec![target("calls-too", "test"), target("speed", "bench")]),
        ];
        assert_eq!(benches(&members, ""), [("one", "calls"), ("two", "speed")]);
        assert_eq!(benches(&members, "peed"), [("two", "speed")]);
        assert!(benches(&members, "none").is_empty());
    }
}
