//! What must hold of what check commands print.

use super::process::{LINE_MAX, Said};

/// One line of it is told, of bounded length.
pub(crate) fn output(data: &[u8]) {
    let (stdout, stderr) = data.split_at(data.len() / 2);
    let said = Said { stdout: stdout.to_vec(), stderr: stderr.to_vec() };
    let line = said.line();
    if let Some(line) = &line {
        assert!(line.chars().count() <= LINE_MAX && !line.chars().any(char::is_control), "{line:?}");
        assert!(!line.trim().is_empty());
    }
    assert_eq!(line.is_none(), said_nothing(stdout) && said_nothing(stderr));
}

fn said_nothing(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).chars().all(|c| c.is_whitespace() || c.is_control())
}
