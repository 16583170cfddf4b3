//! The release of Slurm that a test runs on, the facts that differ between releases, and failures that are known.

use std::any::Any;
use std::fmt;
use std::fs::OpenOptions;
use std::future::poll_fn;
use std::io::Write as _;
use std::ops::RangeBounds;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::process::Command;
use std::task::Poll;

use super::error::Trying as _;
use super::{LabError, path_of};

/// A release of Slurm, such as 24.11.5. Releases are ordered by age.
///
/// ```
/// # use crus_sim::slurm_lab::SlurmVersion;
/// let version = SlurmVersion::parse("slurm-wlm 24.11.5").unwrap();
/// assert!(version >= SlurmVersion::new(24, 11) && version < SlurmVersion::new(26, 5));
/// assert_eq!(version.to_string(), "24.11.5");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlurmVersion {
    /// The year of the release: the 24 of 24.11.5.
    pub major: u32,
    /// The month of the release: the 11 of 24.11.5.
    pub minor: u32,
    /// The number of the maintenance release: the 5 of 24.11.5.
    pub micro: u32,
}

/// The releases on which the facts of the tests were measured.
const MEASURED: [(u32, u32); 3] = [(22, 5), (24, 11), (26, 5)];

impl SlurmVersion {
    /// The first release of a month: `new(23, 2)` is 23.02.0.
    pub const fn new(major: u32, minor: u32) -> SlurmVersion {
        SlurmVersion { major, minor, micro: 0 }
    }

    /// The release that is installed on this host.
    ///
    /// # Errors
    /// Fails if there is no slurmctld, or if what it prints holds no version.
    pub fn installed() -> Result<SlurmVersion, LabError> {
        // sinfo and its like tell theirs only where there is a slurm.conf.
        let what = || "run `slurmctld -V`".to_owned();
        let output = Command::new(path_of("slurmctld")?).arg("-V").output().trying(what)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        SlurmVersion::parse(&text).ok_or(LabError::Version(text))
    }

    /// The version in what Slurm's programs print for `-V`: `slurm 22.05.8`, `slurm-wlm 24.11.5` or `slurm 25.05.0-0rc1`.
    pub fn parse(text: &str) -> Option<SlurmVersion> {
        let mut numbers =
            text.split_whitespace().nth(1)?.split(['.', '-']).map(|part| part.parse::<u32>().ok());
        let (major, minor) = (numbers.next()??, numbers.next()??);
        Some(SlurmVersion { major, minor, micro: numbers.next().flatten().unwrap_or(0) })
    }

    /// Returns true if the facts of the tests were measured on this release. On any other the tests run as well, and
    /// a failure may be a fact that nobody has measured yet.
    pub fn is_measured(self) -> bool {
        MEASURED.contains(&(self.major, self.minor))
    }

    /// Returns true if RESUME leaves the reason on a node that is in service again. It does where there is no
    /// slurmdbd, as in a lab.
    pub fn keeps_the_reason_after_resume(self) -> bool {
        (SlurmVersion::new(23, 11)..SlurmVersion::new(26, 5)).contains(&self)
    }
}

impl fmt::Display for SlurmVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}.{}", self.major, self.minor, self.micro)
    }
}

/// Runs a part of a test that is known to fail on some releases, since the product is wrong there.
///
/// On those the failure is printed and the test goes on; a `body` that does *not* fail panics, so that the mark is
/// removed once the product is mended. On every other release this is `body`, no more. `words` are those of the issue
/// that mends it. `grep -rn -A6 'known_failure(' --include='*.rs' .` lists all marks.
///
/// Only what fails for that reason belongs into `body`, and its panic must hold one of the texts `seen`: anything else is
/// a failure that nobody knows.
///
/// # Panics
/// Panics if `body` panics on other releases, and on these if it does not or for another reason.
#[expect(clippy::panic, reason = "a panic is how a test fails")]
pub async fn known_failure(
    releases: impl RangeBounds<SlurmVersion>,
    words: &str,
    seen: &[&str],
    body: impl Future<Output = ()>,
) {
    let version = SlurmVersion::installed().unwrap_or_else(|error| panic!("{error}"));
    if known_failure_on(version, releases, words, seen, body).await {
        note(&format!("known failure on Slurm {version}: {words}"));
    }
}

/// Runs `body` as on this release. Returns true if it failed as known.
#[expect(clippy::panic, reason = "a panic is how a test fails")]
async fn known_failure_on(
    version: SlurmVersion,
    releases: impl RangeBounds<SlurmVersion>,
    words: &str,
    seen: &[&str],
    body: impl Future<Output = ()>,
) -> bool {
    if !releases.contains(&version) {
        body.await;
        return false;
    }
    let Err(panic) = caught(body).await else {
        panic!("passes now on Slurm {version}: remove the mark of the known failure: {words}");
    };
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    let is_known = text.is_some_and(|text| seen.iter().any(|seen| text.contains(seen)));
    if !is_known {
        resume_unwind(panic);
    }
    true
}

/// Tells a line on standard error, and in the file that the variable `CRUS_TEST_REPORT` names: runners of tests hide what
/// a test prints that passes.
pub(super) fn note(line: &str) {
    eprintln!("{line}");
    let Some(path) = std::env::var_os("CRUS_TEST_REPORT") else { return };
    let file = OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
        eprintln!("failed to write the report of the tests: {error}");
    }
}

/// The outcome of `body`, or what it panicked with.
async fn caught<T>(body: impl Future<Output = T>) -> Result<T, Box<dyn Any + Send>> {
    let mut body = pin!(body);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| body.as_mut().poll(context))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_slurm_prints() {
        let read = |text| SlurmVersion::parse(text).map(|version| version.to_string());
        assert_eq!(read("slurm-wlm 22.05.8\n").as_deref(), Some("22.05.8"));
        assert_eq!(read("slurm 26.05.3").as_deref(), Some("26.05.3"));
        assert_eq!(read("slurm 25.05.0-0rc1").as_deref(), Some("25.05.0"));
        assert_eq!(read("slurm unknown"), None);
        assert_eq!(read(""), None);
    }

    #[tokio::test]
    async fn a_known_failure_must_fail_where_it_is_known_and_nowhere_else() {
        let (old, new) = (SlurmVersion::new(22, 5), SlurmVersion::new(24, 11));
        let fails = || async {
            tokio::task::yield_now().await;
            panic!("as known");
        };
        let on = async |version, passes: bool| {
            let releases = SlurmVersion::new(23, 2)..;
            if passes {
                caught(known_failure_on(version, releases, "words", &["as known"], tokio::task::yield_now()))
                    .await
            } else {
                caught(known_failure_on(version, releases, "words", &["as known"], fails())).await
            }
        };
        assert!(on(new, false).await.is_ok());
        assert!(on(old, true).await.is_ok());
        assert_eq!(*on(old, false).await.unwrap_err().downcast::<&str>().unwrap(), "as known");
        let otherwise = caught(known_failure_on(new, .., "words", &["otherwise"], fails())).await;
        assert_eq!(*otherwise.unwrap_err().downcast::<&str>().unwrap(), "as known", "for another reason");
        let words = on(new, true).await.unwrap_err().downcast::<String>().unwrap();
        assert!(words.starts_with("passes now on Slurm 24.11.0: remove the mark"), "{words}");
    }
}
