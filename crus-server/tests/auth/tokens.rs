//! Tokens of a file, which changes while the service runs. Where a test waits for looks at the file, its clock stands still while
//! somebody is at work, the one who looks among them: how many looks there are does not depend on the machine.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crus_api::access::Refused;
use crus_server::auth::{Auth, AuthOptions};

use super::command::line_of;
use super::{ask, known, start};
use crate::support::issuer::{Issuer, Key, claims};
use crate::support::until;

const ADA: &str = "crus_ada-0123456789-0123456789-0123456789";
const BOB: &str = "crus_bob-0123456789-0123456789-0123456789";

const UNKNOWN: Refused = Refused::BadToken("is not known");

fn of(file: &Path) -> AuthOptions {
    AuthOptions { token_file: Some(file.to_owned()), ..AuthOptions::default() }
}

#[tokio::test]
async fn who_is_in_the_file_is_known_by_their_role() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    fs::write(&file, format!("{}\n{}\n", line_of("ada", "operate", ADA), line_of("bob", "read", BOB)))
        .unwrap();
    let auth = start(&of(&file)).await;
    assert_eq!(known(&auth, ADA).await, "ada operate");
    assert_eq!(known(&auth, BOB).await, "bob read");
    let hash = line_of("ada", "operate", ADA);
    let hash = hash.rsplit(' ').next().unwrap();
    for other in ["crus_", "x", &ADA[..ADA.len() - 1], &format!("{ADA}x"), hash.trim_start_matches("sha256:")]
    {
        assert_eq!(ask(&auth, other).await, Err(UNKNOWN), "{other}");
    }
    let source = ask(&auth, ADA).await.unwrap().source.to_string();
    assert_eq!(source, format!("file {}", file.display()));
}

#[tokio::test(start_paused = true)]
async fn a_change_counts_however_it_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let (ada, bob) = (line_of("ada", "operate", ADA), line_of("bob", "read", BOB));
    // As Kubernetes does it: a link to a folder that is replaced as a whole.
    for (version, text) in [("1", &ada), ("2", &bob)] {
        fs::create_dir(folder.path().join(version)).unwrap();
        fs::write(folder.path().join(version).join("tokens"), text).unwrap();
    }
    let link = |version: &str| {
        std::os::unix::fs::symlink(version, folder.path().join("data.new")).unwrap();
        fs::rename(folder.path().join("data.new"), folder.path().join("data")).unwrap();
    };
    link("1");
    std::os::unix::fs::symlink("data/tokens", &file).unwrap();
    let auth = start(&of(&file)).await;
    let becomes = async |ada: &str, bob: &str| {
        until("the change", async || known(&auth, ADA).await == ada && known(&auth, BOB).await == bob).await;
    };
    let unknown = "the token is not known";
    becomes("ada operate", unknown).await;
    link("2");
    becomes(unknown, "bob read").await;
    // Written in place, of the same length, within the tick of a clock.
    fs::write(&file, bob.replace("bob", "eve")).unwrap();
    becomes(unknown, "eve read").await;
    // Replaced.
    let new = folder.path().join("new");
    fs::write(&new, format!("{ada}\n{bob}")).unwrap();
    fs::rename(&new, &file).unwrap();
    becomes("ada operate", "bob read").await;
    // One token is taken away.
    fs::write(&file, &bob).unwrap();
    becomes(unknown, "bob read").await;
    fs::write(&file, "").unwrap();
    becomes(unknown, unknown).await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_file_changes_nothing_until_it_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let (ada, bob) = (line_of("ada", "operate", ADA), line_of("bob", "read", BOB));
    fs::write(&file, &ada).unwrap();
    let auth = start(&of(&file)).await;
    for broken in [Some(format!("{bob}\nrubbish")), None, Some("\u{0}".repeat(2 << 20))] {
        match broken {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        // Several looks at it.
        tokio::time::sleep(Duration::from_millis(2100)).await;
        assert_eq!(known(&auth, ADA).await, "ada operate");
        assert_eq!(ask(&auth, BOB).await, Err(UNKNOWN));
    }
    fs::write(&file, &bob).unwrap();
    until("it is mended", async || known(&auth, BOB).await == "bob read").await;
    assert_eq!(ask(&auth, ADA).await, Err(UNKNOWN));
}

/// A part of a file may read like a whole one, in which somebody's token is missing, or does not end.
#[tokio::test(start_paused = true)]
async fn a_file_that_is_being_written_does_not_count_until_it_stays_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let (ada, bob) = (line_of("ada", "operate", ADA), line_of("bob", "read", BOB));
    fs::write(&file, &ada).unwrap();
    let auth = start(&of(&file)).await;
    // In place, slowly: for longer than several looks.
    let mut writing = fs::File::create(&file).unwrap();
    for n in 0..125 {
        writeln!(writing, "# {n}").unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(known(&auth, ADA).await, "ada operate", "line {n}");
    }
    writeln!(writing, "{bob}").unwrap();
    until("it is complete", async || known(&auth, BOB).await == "bob read").await;
    assert_eq!(ask(&auth, ADA).await, Err(UNKNOWN));
}

#[tokio::test]
async fn a_token_may_end_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let (past, future) = ("2026-01-01T00:00:00Z", "2100-01-01T00:00:00+01:00");
    let (ada, bob) = (line_of("ada", "operate", ADA), line_of("bob", "read", BOB));
    fs::write(&file, format!("{ada} {past}\n{bob} {future}\n")).unwrap();
    let auth = start(&of(&file)).await;
    assert_eq!(ask(&auth, ADA).await, Err(Refused::BadToken("is expired")));
    assert_eq!(known(&auth, BOB).await, "bob read");
}

#[tokio::test]
async fn a_service_does_not_start_on_a_file_that_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let error = async || format!("{:#}", Auth::start(&of(&file)).await.err().unwrap());
    assert!(error().await.contains("set by auth_token_file): it cannot be read"), "{}", error().await);
    fs::write(&file, "ada operate s3cret").unwrap();
    let told = error().await;
    assert!(told.contains("line 1: the hash, its third word") && !told.contains("s3cret"), "{told}");
}

#[tokio::test]
async fn tokens_of_both_kinds_are_good_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    fs::write(&file, line_of("ada", "operate", ADA)).unwrap();
    let (issuer, key) = (Issuer::start().await, Key::p256("one"));
    issuer.publish(&[&key]);
    let auth = start(&AuthOptions { token_file: Some(file), ..issuer.options() }).await;
    assert_eq!(known(&auth, ADA).await, "ada operate");
    assert_eq!(known(&auth, &key.token(&claims("grace", &["crus-read"]))).await, "grace read");
    assert_eq!(known(&auth, BOB).await, "the token is not known, and is no JWT");
}
