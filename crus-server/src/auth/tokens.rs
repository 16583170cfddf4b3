//! Tokens of the service's own: a file with their hashes, which may change while the service runs.
//!
//! A line for each token: a name, a role, and `sha256:` with the SHA-256 of the token in hexadecimal; behind it, if the
//! token is good for a time only, when that ends (RFC 3339). Lines that are empty or begin with `#` do not count.
//! `crus token new` makes a token and its line.
//!
//! ```text
//! # name  role     hash                                 good until
//! ada     operate  sha256:9f86d081884c7d659a2feaa0c5…
//! grafana read     sha256:60303ae22b998861bce3b28f33…  2027-01-01T00:00:00Z
//! ```
//!
//! # Guarantees
//!
//! - A change of the file counts within a second, whether it is written in place, replaced, or behind a link that is pointed
//!   elsewhere, as Kubernetes does it.
//! - A file counts once it is seen to stay the same: one that is still being written may read like a whole one, with fewer
//!   tokens, or with one that does not end.
//! - A file that cannot be read, or holds a line that is wrong, changes nothing: the tokens known before stay good, and
//!   the log says so, once. The number of the line is told, never what it holds.

use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::constant_time;
use crus_api::access::{Caller, Role};
use crus_core::Actor;
use jiff::Timestamp;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::TokenHash;

/// How often the file is looked at. What is seen counts with the second look.
const LOOK: Duration = Duration::from_millis(500);

/// The longest file, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// The most tokens: each is compared with each that is sent.
const TOKENS_MAX: usize = 1000;

/// What a hash begins with: how it was made.
const SHA256: &str = "sha256:";

/// Why a file holds no tokens, as a sentence without anything of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FileError {
    #[error("it cannot be read: {0}")]
    Unread(String),
    #[error("it is longer than {FILE_MAX} bytes")]
    TooLong,
    #[error("it holds more than {TOKENS_MAX} tokens")]
    TooMany,
    #[error("line {number}: {why}")]
    Line { number: usize, why: &'static str },
}

/// A token that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    hash: TokenHash,
    caller: Arc<Caller>,
    until: Option<Timestamp>,
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}

impl TokenHash {
    /// As it stands in a file.
    pub(crate) fn to_text(self) -> String {
        self.0.iter().fold(SHA256.to_owned(), |mut text, byte| {
            // Writing to a string does not fail.
            if write!(text, "{byte:02x}").is_err() {
                text.clear();
            }
            text
        })
    }

    fn from_text(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(SHA256)?.as_bytes();
        let mut hash = [0; 32];
        if digits.len() != 2 * hash.len() {
            return None;
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let pair =
                std::str::from_utf8(pair).ok().filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()))?;
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(TokenHash(hash))
    }

    /// Whether they are the same; takes as long whichever byte differs.
    fn is(self, other: TokenHash) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

/// Reads the lines of a file.
fn parse(text: &str, source: &Arc<str>) -> Result<Vec<Known>, FileError> {
    let mut all = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let known = parse_line(line, source).map_err(|why| FileError::Line { number, why })?;
        if all.iter().any(|other: &Known| other.hash == known.hash) {
            return Err(FileError::Line { number, why: "the token is that of a line above" });
        }
        if all.len() == TOKENS_MAX {
            return Err(FileError::TooMany);
        }
        all.push(known);
    }
    Ok(all)
}

fn parse_line(line: &str, source: &Arc<str>) -> Result<Known, &'static str> {
    const FORM: &str = "it must be a name, a role, and a hash as `crus token new` prints it, and may have a time behind them";
    let mut words = line.split_whitespace();
    let (Some(name), Some(role), Some(hash)) = (words.next(), words.next(), words.next()) else {
        return Err(FORM);
    };
    let name =
        Actor::new(name).map_err(|_| "the name must be at most 128 characters, all of them visible")?;
    let role: Role = role.parse().map_err(|_| "the role, its second word, must be read or operate")?;
    let hash = TokenHash::from_text(hash)
        .ok_or("the hash, its third word, must be sha256: and 64 hexadecimal digits")?;
    let until = words.next().map(str::parse).transpose();
    let until =
        until.map_err(|_| "its fourth word must be when the token ends, such as 2027-01-31T12:00:00Z")?;
    match words.next() {
        Some(_) => Err(FORM),
        None => Ok(Known {
            hash,
            caller: Arc::new(Caller { name, role: Some(role), source: Arc::clone(source) }),
            until,
        }),
    }
}

/// The file of tokens.
#[derive(Debug)]
pub(crate) struct TokenFile {
    known: Arc<RwLock<Vec<Known>>>,
    looking: JoinHandle<()>,
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl TokenFile {
    /// Reads the file, and looks at it again and again.
    ///
    /// # Errors
    /// When it cannot be read, or a line is wrong.
    pub(crate) fn start(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("failed to read the tokens in {} (set by auth_token_file)", path.display());
        let source: Arc<str> = format!("file {}", path.display()).into();
        let text = read(path).with_context(what)?;
        let first = parse(&text, &source).with_context(what)?;
        if std::fs::metadata(path).is_ok_and(|about| about.mode() & 0o022 != 0) {
            warn!(file = %path.display(), "others than its owner may write to the file of tokens: who does can use the service");
        }
        if first.is_empty() {
            warn!(file = %path.display(), "there is no token in the file: nobody can use the service by one of these");
        }
        let known = Arc::new(RwLock::new(first));
        let looking = tokio::spawn(look(path.to_owned(), source, Arc::clone(&known), text));
        Ok(TokenFile { known, looking })
    }

    /// Whose token this is; `None`: it is none of these. `Err`: it is, and is not good any more, as a clause about it.
    pub(crate) fn caller(&self, hash: &TokenHash) -> Result<Option<Arc<Caller>>, &'static str> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        // All are compared, to the last: how long it takes says nothing.
        let found =
            known.iter().fold(None, |found, known| if known.hash.is(*hash) { Some(known) } else { found });
        match found {
            None => Ok(None),
            Some(known) if known.until.is_some_and(|until| until <= Timestamp::now()) => Err("is expired"),
            Some(known) => Ok(Some(Arc::clone(&known.caller))),
        }
    }
}

/// The text of a file.
fn read(path: &Path) -> Result<String, FileError> {
    let unread = |error: std::io::Error| FileError::Unread(error.to_string());
    let file = std::fs::File::open(path).map_err(unread)?;
    let mut text = String::new();
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(unread)?;
    if text.len() as u64 > FILE_MAX { Err(FileError::TooLong) } else { Ok(text) }
}

/// Reads the file again and again: its content alone tells whether it has changed, whatever its times and links say.
async fn look(path: PathBuf, source: Arc<str>, known: Arc<RwLock<Vec<Known>>>, first: String) {
    let mut settled: Result<String, FileError> = Ok(first);
    let mut last = settled.clone();
    loop {
        tokio::time::sleep(LOOK).await;
        let file = path.clone();
        let Ok(now) = tokio::task::spawn_blocking(move || read(&file)).await else { continue };
        // A file that is written in place is seen in part: it is taken when it stays the same.
        let stays = now == last;
        last = now;
        if !stays || last == settled {
            continue;
        }
        settled = last.clone();
        let read = match &settled {
            Ok(text) => parse(text, &source),
            Err(error) => Err(error.clone()),
        };
        match read {
            Ok(tokens) => {
                info!(file = %path.display(), tokens = tokens.len(), "the file of tokens has changed");
                *known.write().unwrap_or_else(PoisonError::into_inner) = tokens;
            }
            Err(error) => {
                error!(
                    file = %path.display(), %error,
                    "failed to read the file of tokens: the tokens known before stay good until it is mended"
                );
            }
        }
    }
}

/// What fuzz targets reach.
#[cfg(feature = "fuzzing")]
pub(super) mod fuzzing {
    use super::{FileError, parse};

    /// The same file in the form that it is written in here, or why it is none.
    pub(in crate::auth) fn rewritten(text: &str) -> Result<String, String> {
        let known = parse(text, &"a file".into()).map_err(|error: FileError| error.to_string())?;
        let line = |known: &super::Known| {
            let role = known.caller.role.map(|role| role.name()).unwrap_or_default();
            let until = known.until.map(|until| format!(" {until}")).unwrap_or_default();
            format!("{} {role} {}{until}\n", known.caller.name.as_str(), known.hash.to_text())
        };
        Ok(known.iter().map(line).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn source() -> Arc<str> {
        "a test".into()
    }

    #[test]
    fn a_line_is_a_name_a_role_and_a_hash() {
        let text = format!(
            "# all\n\n ada\toperate  {HASH}\nbob read sha256:{} 2027-01-01T00:00:00Z\n",
            "0".repeat(64)
        );
        let known = parse(&text, &source()).unwrap();
        let told: Vec<_> =
            known.iter().map(|k| (k.caller.name.as_str(), k.caller.role, k.until.is_some())).collect();
        assert_eq!(told, [("ada", Some(Role::Operate), false), ("bob", Some(Role::Read), true)]);
        assert_eq!(known[0].hash, TokenHash::of(b"test"));
        assert_eq!(known[0].hash.to_text(), HASH);
    }

    #[test]
    fn a_wrong_line_is_told_by_its_number_without_what_it_holds() {
        let zeros = "0".repeat(64);
        let wrong = [
            "s3cret".to_owned(),
            "s3cret s3cret s3cret".to_owned(),
            format!("s3cret admin {HASH}"),
            format!("s3cret Read {HASH}"),
            "ada read s3cret".to_owned(),
            format!("ada read {zeros}"),
            format!("ada read sha256:{}", "+".repeat(64)),
            format!("ada read sha256:{}", "ä".repeat(32)),
            format!("ada read sha256:{zeros}0"),
            format!("ada read {HASH} s3cret"),
            format!("ada read {HASH} 2027-01-01T00:00:00Z s3cret"),
            format!("ada read {HASH}\nbob read {HASH}"),
            format!("{} read {HASH}", "s".repeat(129)),
        ];
        for line in wrong {
            let error = parse(&format!("# first\n{line}"), &source()).unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") || error.starts_with("line 3: "), "{error}");
            assert!(!error.contains("s3cret") && !error.contains("9f86"), "{error}");
        }
    }

    #[test]
    fn there_is_a_limit_to_the_tokens_of_a_file() {
        let line = |n: usize| format!("a read sha256:{n:064x}\n");
        assert_eq!(parse(&(0..1000).map(line).collect::<String>(), &source()).unwrap().len(), 1000);
        assert_eq!(parse(&(0..1001).map(line).collect::<String>(), &source()), Err(FileError::TooMany));
    }
}
