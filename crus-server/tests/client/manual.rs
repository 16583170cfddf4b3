//! Manual pages and completions: from the same definitions as the help, and complete.

use std::collections::BTreeSet;
use std::process::Command;

use super::{Ended, crus, run};

/// Every command, with the options that its help lists.
fn commands() -> Vec<(Vec<String>, BTreeSet<String>)> {
    let mut found = Vec::new();
    let mut open = vec![Vec::<String>::new()];
    while let Some(path) = open.pop() {
        let arguments: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let help = run(crus(&arguments)).out;
        let mut section = "";
        let mut options = BTreeSet::new();
        for line in help.lines() {
            if !line.starts_with(' ') {
                section = line.trim_end_matches(':');
            } else if section == "Commands" {
                // Names are indented by two; what goes on is indented by more.
                let name = line.strip_prefix("  ").filter(|rest| !rest.starts_with(' '));
                open.extend(
                    name.and_then(|rest| rest.split(' ').next())
                        .map(|name| [path.clone(), vec![name.into()]].concat()),
                );
            } else if let Some(at) =
                line.trim_start().strip_prefix("--").or(line.split_once(", --").map(|(_, at)| at))
            {
                let name: String =
                    at.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
                options.insert(format!("--{name}"));
            }
        }
        found.push((path, options));
    }
    found
}

#[test]
fn help_can_be_asked_for_as_a_word() {
    let create = run(crus(&["session", "create", "--help"]));
    for words in [&["help", "session", "create"], &["session", "help", "create"]] {
        assert_eq!(run(crus(words)), create);
    }
    assert_eq!(run(crus(&["help"])), run(crus(&["--help"])));
    assert_eq!(run(crus(&["session", "help"])), run(crus(&["session", "--help"])));
}

#[test]
fn the_help_of_each_command_lists_its_options() {
    let commands = commands();
    let options = |path: &[&str]| &commands.iter().find(|(known, _)| known == path).unwrap().1;
    assert!(options(&["serve"]).contains("--poll-interval-s"), "the service's own, too");
    assert!(options(&["session", "create"]).is_superset(options(&["session", "list"])), "the connection's");
    for option in ["--starting-label", "--max-failed", "--wait", "--token-file", "--format"] {
        assert!(options(&["session", "create"]).contains(option), "{option}");
    }
    assert!(commands.len() >= 16, "{commands:?}");
    assert!(!commands.iter().any(|(path, _)| path.concat().contains("stand-in")), "it is for the demo alone");
}

#[test]
fn there_is_a_manual_page_for_each_command_with_every_option() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    assert_eq!(
        run(crus(&["man", "--dir", pages.to_str().unwrap()])),
        Ended { code: Some(0), out: "".into(), err: "".into() }
    );
    let commands = commands();
    for (path, options) in &commands {
        let name = ["crus".to_owned()].iter().chain(path).cloned().collect::<Vec<_>>().join("-");
        let text = std::fs::read_to_string(pages.join(format!("{name}.1"))).unwrap();
        let plain = text.replace("\\-", "-");
        for option in options {
            assert!(plain.contains(option.as_str()), "{option} is not in {name}.1");
        }
        let arguments: Vec<&str> = ["man"].into_iter().chain(path.iter().map(String::as_str)).collect();
        assert_eq!(run(crus(&arguments)).out, text, "the same page by name");
        let tells_codes =
            plain.contains(".SH \"EXIT STATUS\"") && plain.contains("--exit-on-pause was given");
        let is_of_client = path.first().is_some_and(|first| first == "session" || first == "plan");
        assert_eq!(tells_codes, is_of_client, "{name}");
    }
    assert_eq!(std::fs::read_dir(&pages).unwrap().count(), commands.len());
    let unknown = run(crus(&["man", "session", "undo"]));
    assert_eq!(unknown.code, Some(2));
    assert_eq!(unknown.err, "crus: there is no command undo; crus --help lists all\n");
}

#[test]
fn every_shell_completes_every_command_and_option() {
    for shell in ["bash", "zsh", "fish"] {
        let Ended { code, out, err } = run(crus(&["completions", shell]));
        assert_eq!((code, err.as_str()), (Some(0), ""));
        assert!(!out.contains("stand-in"), "{shell}");
        for (path, options) in commands() {
            for word in path {
                assert!(out.contains(&word), "{word} is not in that of {shell}");
            }
            for option in options {
                // fish has the names without dashes.
                let name = if shell == "fish" { format!("-l {}", &option[2..]) } else { option };
                assert!(out.contains(&name), "{name} is not in that of {shell}");
            }
        }
    }
}

/// As bash itself does it.
#[test]
fn bash_completes_what_was_begun() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("crus.bash");
    std::fs::write(&script, run(crus(&["completions", "bash"])).out).unwrap();
    let complete = |words: &[&str]| {
        let line = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={}; _crus crus '{}' '{}'; echo ${{COMPREPLY[@]}}",
            script.display(),
            words.join(" "),
            words.len() - 1,
            words.last().unwrap(),
            words[words.len() - 2],
        );
        let output = Command::new("bash").args(["--norc", "-c", &line]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete(&["crus", "session", "re"]), "resume retry");
    assert_eq!(
        complete(&["crus", "session", "create", "--max-"]),
        "--max-failed --max-failed-step --max-per-domain"
    );
    assert_eq!(complete(&["crus", "session", "list", "--format", "t"]), "table toml");
    assert_eq!(complete(&["crus", "serve", "--poll"]), "--poll-interval-s");
}
