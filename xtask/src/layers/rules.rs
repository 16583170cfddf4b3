//! The rules. Each is a function of the facts that returns what breaks it, in words.

use std::collections::BTreeSet;

use super::Facts;

/// A rule of the layers.
pub(super) struct Rule {
    /// What it asks.
    pub says: &'static str,
    /// What breaks it.
    pub violations: fn(&Facts) -> Vec<String>,
}

pub(super) const ALL: [Rule; 4] = [
    Rule { says: "crates depend only on the layers below them", violations: upward_dependencies },
    Rule { says: "crus-core has no runtime, HTTP, clock or randomness below it", violations: impure_crates },
    Rule { says: "crus-core needs fewer than 40 crates", violations: too_many_crates },
    Rule { says: "crus-core does no I/O and reads no clock", violations: impure_sources },
];

/// What a crate of the workspace may need of the others.
struct Layer {
    name: &'static str,
    /// By its product.
    needs: &'static [&'static str],
    /// By its tests, besides.
    tests_need: &'static [&'static str],
}

const LAYERS: [Layer; 6] = [
    Layer { name: "crus-core", needs: &[], tests_need: &[] },
    Layer { name: "crus-sim", needs: &["crus-core"], tests_need: &[] },
    Layer { name: "crus-clients", needs: &["crus-core"], tests_need: &["crus-sim"] },
    Layer { name: "crus-api", needs: &["crus-core"], tests_need: &[] },
    Layer {
        name: "crus-server",
        needs: &["crus-api", "crus-clients", "crus-sim", "crus-core"],
        tests_need: &[],
    },
    // It drives the others as programs, so that it builds at once and when they do not.
    Layer { name: "xtask", needs: &[], tests_need: &[] },
];

fn upward_dependencies(facts: &Facts) -> Vec<String> {
    let members: BTreeSet<&str> = facts.members.iter().map(|member| &*member.name).collect();
    let mut violations = Vec::new();
    for member in &facts.members {
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == member.name) else {
            violations.push(format!("{} has no place in the layers: give it one in this rule", member.name));
            continue;
        };
        for dependency in &member.dependencies {
            let name = &*dependency.name;
            let in_tests = dependency.kind.as_deref() == Some("dev");
            // Tests of a crate may see the crate itself, with other features.
            let allowed = layer.needs.contains(&name)
                || (in_tests && (layer.tests_need.contains(&name) || name == member.name));
            if members.contains(name) && !allowed {
                let whose = if in_tests { "the tests of " } else { "" };
                violations.push(format!("{whose}{} must not depend on {name}", member.name));
            }
        }
    }
    violations
}

/// Crates that would tie the core to a runtime, a network, a clock or chance.
const IMPURE: [&str; 37] = [
    "actix-rt",
    "async-executor",
    "async-global-executor",
    "async-io",
    "async-std",
    "axum",
    "calloop",
    "chrono",
    "curl",
    "embassy-executor",
    "fastrand",
    "futures-executor",
    "futures-timer",
    "getrandom",
    "glommio",
    "h2",
    "hyper",
    "hyper-util",
    "isahc",
    "jiff",
    "mio",
    "monoio",
    "nix",
    "oorandom",
    "polling",
    "rand",
    "rand_core",
    "redb",
    "reqwest",
    "rustix",
    "smol",
    "socket2",
    "time",
    "tokio",
    "tokio-util",
    "ureq",
    "web-time",
];

fn impure_crates(facts: &Facts) -> Vec<String> {
    let below = facts.core_tree.iter();
    below
        .filter(|package| IMPURE.contains(&name_of(package)))
        .map(|package| format!("{package} is below it"))
        .collect()
}

fn too_many_crates(facts: &Facts) -> Vec<String> {
    let count = facts.core_tree.len();
    if count < 40 { Vec::new() } else { vec![format!("it needs {count}")] }
}

/// Modules of `std` that do I/O or wait.
const IMPURE_MODULES: [&str; 6] = ["env", "fs", "io", "net", "process", "thread"];
/// Clocks, wherever they come from.
const CLOCKS: [&str; 3] = ["Instant", "SystemTime", "UNIX_EPOCH"];

fn impure_sources(facts: &Facts) -> Vec<String> {
    let mut violations = Vec::new();
    for (path, text) in &facts.core_sources {
        let code = without_comments(text);
        let modules = std_modules(&code);
        for module in IMPURE_MODULES.iter().filter(|module| modules.contains(**module)) {
            violations.push(format!("{path} uses std::{module}"));
        }
        let words: BTreeSet<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for clock in CLOCKS.iter().filter(|clock| words.contains(**clock)) {
            violations.push(format!("{path} mentions {clock}"));
        }
    }
    violations
}

fn name_of(package: &str) -> &str {
    package.split(' ').next().unwrap_or(package)
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The modules of `std` that a source names, in paths (`std::fs::read`) and in trees (`use std::{fs, net}`).
fn std_modules(code: &str) -> BTreeSet<&str> {
    let word =
        |text: &'_ str| text.len() - text.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
    let mut modules = BTreeSet::new();
    for (at, path) in code.match_indices("std::") {
        let rest = &code[at + path.len()..];
        let Some(tree) = rest.strip_prefix('{') else {
            modules.insert(&rest[..word(rest)]);
            continue;
        };
        // The heads of the tree's branches: what follows its opening, and each comma that is not deeper.
        let mut depth = 0usize;
        let mut at_head = true;
        for (at, c) in tree.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_head = true,
                c if c.is_whitespace() => {}
                _ if at_head => {
                    modules.insert(&tree[at..at + word(&tree[at..])]);
                    at_head = false;
                }
                _ => {}
            }
        }
    }
    modules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cargo::{Dependency, Member};

    fn member(name: &str, dependencies: &[(&str, Option<&str>)]) -> Member {
        let dependency = |&(name, kind): &(&str, Option<&str>)| Dependency {
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
        };
        let dependencies = dependencies.iter().map(dependency).collect();
        Member { name: name.to_owned(), dependencies, targets: Vec::new() }
    }

    fn crates(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| format!("{name} v1.0.0")).collect()
    }

    /// A workspace in order.
    fn sound() -> Facts {
        Facts {
            members: vec![
                member("crus-core", &[("serde", None), ("proptest", Some("dev"))]),
                member("crus-sim", &[("crus-core", None)]),
                member("crus-clients", &[("crus-core", None), ("crus-sim", Some("dev"))]),
                member("crus-api", &[("crus-core", None)]),
                member("crus-server", &[("crus-api", None), ("crus-clients", None), ("crus-sim", None)]),
                member("xtask", &[("clap", None)]),
            ],
            core_tree: crates(&["crus-core", "serde", "timely"]),
            core_sources: vec![(
                "lib.rs".to_owned(),
                "//! No SystemTime here.\nuse std::time::Duration; // never std::fs\nlet instantly = fs;"
                    .to_owned(),
            )],
        }
    }

    fn violations(facts: &Facts) -> Vec<String> {
        ALL.iter().flat_map(|rule| (rule.violations)(facts)).collect()
    }

    fn with_member(name: &str, dependencies: &[(&str, Option<&str>)]) -> Vec<String> {
        let mut facts = sound();
        facts.members.retain(|member| member.name != name);
        facts.members.push(member(name, dependencies));
        violations(&facts)
    }

    #[test]
    fn a_workspace_in_order_breaks_no_rule() {
        assert_eq!(violations(&sound()), Vec::<String>::new());
    }

    #[test]
    fn a_dependency_upwards_or_sideways_is_a_violation() {
        for (name, dependency, kind, says) in [
            ("crus-core", "crus-sim", None, "crus-core must not depend on crus-sim"),
            ("crus-core", "crus-sim", Some("dev"), "the tests of crus-core must not depend on crus-sim"),
            ("crus-sim", "crus-api", None, "crus-sim must not depend on crus-api"),
            ("crus-clients", "crus-sim", None, "crus-clients must not depend on crus-sim"),
            ("crus-clients", "crus-sim", Some("build"), "crus-clients must not depend on crus-sim"),
            (
                "crus-api",
                "crus-clients",
                Some("dev"),
                "the tests of crus-api must not depend on crus-clients",
            ),
            ("crus-sim", "crus-server", None, "crus-sim must not depend on crus-server"),
            ("crus-server", "xtask", None, "crus-server must not depend on xtask"),
            ("xtask", "crus-core", None, "xtask must not depend on crus-core"),
        ] {
            assert_eq!(with_member(name, &[(dependency, kind)]), [says]);
        }
        assert_eq!(with_member("crus-core", &[("crus-core", Some("dev"))]), Vec::<String>::new());
    }

    #[test]
    fn a_crate_without_a_place_is_a_violation() {
        let says = "crus-new has no place in the layers: give it one in this rule";
        assert_eq!(with_member("crus-new", &[]), [says]);
    }

    #[test]
    fn a_runtime_below_the_core_is_a_violation() {
        let mut facts = sound();
        facts.core_tree.extend(crates(&["tokio", "getrandom", "tokio-like"]));
        assert_eq!(violations(&facts), ["getrandom v1.0.0 is below it", "tokio v1.0.0 is below it"]);
    }

    #[test]
    fn forty_crates_are_too_many() {
        let mut facts = sound();
        facts.core_tree = (0..39).map(|n| format!("crate{n} v1.0.0")).collect();
        assert_eq!(violations(&facts), Vec::<String>::new());
        facts.core_tree.insert("one-more v1.0.0".to_owned());
        assert_eq!(violations(&facts), ["it needs 40"]);
    }

    #[test]
    fn io_and_clocks_in_the_core_are_violations() {
        for (code, says) in [
            ("use std::net::TcpStream;", "x.rs uses std::net"),
            ("let text = ::std::fs::read(path);", "x.rs uses std::fs"),
            ("std::thread::sleep(pause);", "x.rs uses std::thread"),
            ("use std::{\n    collections::{BTreeMap, fs},\n    process,\n};", "x.rs uses std::process"),
            ("use std::time::{Duration, Instant};", "x.rs mentions Instant"),
            ("let now = SystemTime::now();", "x.rs mentions SystemTime"),
        ] {
            let mut facts = sound();
            facts.core_sources.push(("x.rs".to_owned(), code.to_owned()));
            assert_eq!(violations(&facts), [says], "{code}");
        }
    }
}
