//! `crus token`.

use std::io::Write as _;
use std::process::{Output, Stdio};

use crate::support::crus;

fn token(arguments: &[&str], input: &str) -> Output {
    let mut child = crus()
        .arg("token")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The line of a token, as `crus token hash` prints it.
pub(crate) fn line_of(name: &str, role: &str, secret: &str) -> String {
    let output = token(&["hash", "--name", name, "--role", role], secret);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

#[test]
fn a_new_token_is_another_each_time_and_its_line_is_that_of_its_hash() {
    let new = || {
        let output = token(&["new", "--name", "ada", "--role", "operate"], "");
        let printed = text(&output.stdout);
        let (secret, line) =
            printed.trim_end().split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        assert_eq!(line_of("ada", "operate", &secret), line);
        assert!(!line.contains(&secret[5..]), "the token itself is not in the file");
        secret
    };
    let (one, other) = (new(), new());
    assert_ne!(one, other);
    assert!(one.starts_with("crus_") && one.len() == 48, "{one}");
}

#[test]
fn a_line_says_when_its_token_ends() {
    let output = token(&["new", "--name", "ada", "--role", "read", "--days", "1"], "");
    let printed = text(&output.stdout);
    let line = printed.lines().nth(1).unwrap();
    let until: jiff::Timestamp = line.rsplit(' ').next().unwrap().parse().unwrap();
    let in_hours = until.since(jiff::Timestamp::now()).unwrap().total(jiff::Unit::Hour).unwrap();
    assert!((23.9..24.1).contains(&in_hours), "{line}");
}

#[test]
fn what_is_wrong_is_told_without_the_token() {
    let wrong: [(&[&str], &str, &str); 7] = [
        (&["hash", "--name", "ada", "--role", "read"], "hunter2", "the token is too simple"),
        (
            &["hash", "--name", "ada", "--role", "read"],
            "hunter2hunter2hunter2hunter2hunter2hunter2",
            "too simple",
        ),
        (
            &["hash", "--name", "ada", "--role", "read"],
            "hunter2 0123456789-0123456789-0123456789-abcdefg",
            "cannot be sent",
        ),
        (&["hash", "--name", "ada", "--role", "admin"], "", "the role must be read or operate"),
        (&["new", "--name", "a b", "--role", "read"], "", "the name must be one word"),
        (&["new", "--name", "", "--role", "read"], "", "the name must be 1 to 128 characters"),
        (&["new", "--role", "read"], "", "--name"),
    ];
    for (arguments, input, told) in wrong {
        let output = token(arguments, input);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(told) && !error.contains("hunter2"), "{error}");
        assert!(output.stdout.is_empty());
    }
}
