//! What a store makes of the file that it is given: one of an older format, and whatever is not a store.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crus_core::claims::Turn;
use crus_core::machine::Event;
use crus_core::model::{
    Command as Order, Counts, Failure, Message, NodeState, NumberedCommand, Phase, Session, Stage, UpgradeId,
};
use crus_core::ports::{DriverStore as _, SessionStore};
use crus_core::{Time, Xname};
use crus_server::store::{OpenError, RedbStore};
use redb::{ReadableDatabase, ReadableTableMetadata};
use uuid::Uuid;

use crate::support::chance::{draw, seed};

/// Written by the version before: one session that waits and is to be deleted, one at work, one that is done.
const OLD: &str = "tests/stored/format-1.redb";
/// Likewise by the version after that.
const SECOND: &str = "tests/stored/format-2.redb";
const WAITING: UpgradeId = UpgradeId(Uuid::from_u128(1));
const ROLLING: UpgradeId = UpgradeId(Uuid::from_u128(2));
const DONE: UpgradeId = UpgradeId(Uuid::from_u128(3));

async fn load(store: &RedbStore, id: UpgradeId) -> Session {
    store.load(id).await.unwrap().unwrap().0
}

fn nodes(session: &Session) -> Vec<Xname> {
    session.nodes.iter().map(|node| node.xname).collect()
}

async fn all_of(store: &RedbStore) -> Vec<(Session, bool)> {
    let mut ids = store.ids().await.unwrap();
    ids.sort();
    let mut all = Vec::new();
    for id in ids {
        all.push((load(store, id).await, store.deletion(id).await.unwrap().is_some()));
    }
    all
}

#[tokio::test]
async fn a_store_of_the_first_format_is_taken_over_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.redb");
    fs::copy(OLD, &path).unwrap();
    let store = RedbStore::open(&path).unwrap();
    let all = all_of(&store).await;
    assert_eq!(all.iter().map(|(session, _)| session.head.id).collect::<Vec<_>>(), [WAITING, ROLLING, DONE]);
    assert_eq!(all.iter().map(|(_, ordered)| *ordered).collect::<Vec<_>>(), [true, false, false]);
    let [waiting, rolling, done] = [0, 1, 2].map(|i| all[i].0.clone());

    assert_eq!((waiting.head.phase, waiting.head.created), (Phase::Created, Time(1_795_000_000_001)));
    assert_eq!((waiting.nodes.len(), waiting.messages.len()), (0, 0));

    assert_eq!((rolling.head.phase, rolling.head.stage), (Phase::Rolling, Stage::Quiescing));
    assert_eq!(nodes(&rolling), [0, 1, 2, 3].map(|slot| format!("x1000c0s{slot}b0n0").parse().unwrap()));
    let states: Vec<_> = rolling.nodes.iter().map(|node| node.state.clone()).collect();
    use NodeState::{Draining, Pending, Upgraded};
    assert_eq!(states, [Draining, Draining, Pending, Pending]);
    let texts = [
        "Quiesce requested in step 0: moving to QUIESCING",
        "All nodes quiesced in step 0: moving to QUIESCED",
    ];
    assert_eq!(rolling.messages, texts.map(|text| Message::new(text, Time(0))));

    assert_eq!((done.head.phase, done.head.ended), (Phase::Done, Some(Time(1_795_000_900_000))));
    let states: Vec<_> = done.nodes.iter().map(|node| node.state.clone()).collect();
    let failed = NodeState::Failed(Failure::Boot("no power".to_owned()));
    assert_eq!(states, [Upgraded, Upgraded, Upgraded, failed]);
    assert_eq!(done.messages, rolling.messages);

    drop(store);
    let again = RedbStore::open(&path).unwrap();
    assert_eq!(all_of(&again).await, all, "a second start changes nothing");
}

/// Sessions of the first format never asked for their turn; from now on they wait for each other.
#[tokio::test]
async fn sessions_of_the_first_format_take_their_turns_in_the_order_of_their_creation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.redb");
    fs::copy(OLD, &path).unwrap();
    let store = RedbStore::open(&path).unwrap();
    let (mut rolling, revision) = store.load(ROLLING).await.unwrap().unwrap();
    let own = nodes(&rolling);
    let other: Xname = "x9000c0s0b0n0".parse().unwrap();

    let waits = store.claim(WAITING, &[other]).await.unwrap().waits_for().unwrap();
    assert!(
        waits.contains(&ROLLING.to_string()) && waits.contains("'up'"),
        "created first, but not at work: {waits}"
    );
    assert_ne!(store.claim(DONE, &own).await.unwrap(), Turn::Granted, "what is done claims nothing");

    // One that comes after the migration stands behind both.
    let id = UpgradeId(Uuid::from_u128(4));
    let mut spec = rolling.head.spec.clone();
    spec.starting = "green".parse().unwrap();
    let late = Session::new(id, spec, "1.0.0", rolling.limits.clone(), Time(0));
    store.create(&late).await.unwrap();
    rolling.head.phase = Phase::Done;
    store.save(&rolling, &[Event::Phase(Phase::Done)], revision).await.unwrap();
    let waits = store.claim(id, &[other]).await.unwrap().waits_for().unwrap();
    assert!(waits.contains(&WAITING.to_string()), "whatever its clock said: {waits}");
    assert_eq!(store.claim(WAITING, &[other]).await, Ok(Turn::Granted));
    store.remove(WAITING).await.unwrap();
    assert_eq!(store.claim(id, &[other]).await, Ok(Turn::Granted));
}

/// Written by the version before: one session that waits and is to be deleted, one at work, created before it, one that
/// is done. Its heads do not count their nodes.
#[tokio::test]
async fn a_store_of_the_second_format_is_taken_over_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.redb");
    fs::copy(SECOND, &path).unwrap();
    let store = RedbStore::open(&path).unwrap();
    let all = all_of(&store).await;
    assert_eq!(all.iter().map(|(session, _)| session.head.id).collect::<Vec<_>>(), [WAITING, ROLLING, DONE]);
    assert_eq!(all.iter().map(|(_, ordered)| *ordered).collect::<Vec<_>>(), [true, false, false]);
    let phases = [Phase::Created, Phase::Rolling, Phase::Done];
    assert_eq!(all.iter().map(|(session, _)| session.head.phase).collect::<Vec<_>>(), phases);
    let [rolling, done] = [1, 2].map(|i| &all[i].0);
    let failures = [Failure::Boot("no power".to_owned()), Failure::DrainTimedOut].map(NodeState::Failed);
    assert_eq!(done.nodes[2..].iter().map(|node| node.state.clone()).collect::<Vec<_>>(), failures);
    assert_eq!((rolling.messages[1].times, rolling.messages[1].last), (12, Time(1_795_000_200_000)));

    for (session, ordered) in &all {
        let id = session.head.id;
        let summary = store.summary(id).await.unwrap().unwrap();
        assert_eq!(summary.head.counts, Counts::of(&session.nodes), "counted, also without its nodes");
        assert_eq!((summary.head, summary.deletion_ordered), (session.head.clone(), *ordered));
        assert_eq!(store.history(id, 0, 10).await, Ok(Vec::new()));
        assert_eq!(store.nodes(id, 0, 10).await.unwrap(), session.nodes);
        assert_eq!((store.commands(id).await, store.delivered(id).await), (Ok(Vec::new()), Ok(None)));
    }
    assert_eq!(done.head.counts, Counts { upgraded: 2, failed: 1, skipped: 1, ..Counts::default() });

    // What it takes to try the failed nodes of an old session again.
    let number = store.command(DONE, Order::Retry, None).await.unwrap().unwrap();
    drop(store);
    let store = RedbStore::open(&path).unwrap();
    assert_eq!(
        store.commands(DONE).await,
        Ok(vec![NumberedCommand { number, command: Order::Retry, by: None }])
    );
    assert_eq!(all_of(&store).await, all, "a second start changes nothing");
    let other: Xname = "x9000c0s0b0n0".parse().unwrap();
    let waits = store.claim(WAITING, &[other]).await.unwrap().waits_for().unwrap();
    assert!(
        waits.contains(&ROLLING.to_string()) && waits.contains("'up'"),
        "turns are as they were: {waits}"
    );
}

fn refused(path: &Path) -> OpenError {
    match RedbStore::open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

/// A store of the newest format, whole and closed, with the sessions of the old one.
fn store_at(path: &Path) {
    fs::copy(OLD, path).unwrap();
    drop(RedbStore::open(path).unwrap());
}

#[tokio::test]
async fn a_newer_format_is_refused_with_what_to_do_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.redb");
    store_at(&path);
    let database = redb::Database::open(&path).unwrap();
    let writing = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    writing.open_table(meta).unwrap().insert("format", 99).unwrap();
    writing.commit().unwrap();
    drop(database);

    refused(&path);
    let error = refused(&path);
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("it has format 99, and this version knows formats up to"), "{error}");
    assert!(error.to_string().contains("start the version of crus that wrote it, or a newer one"), "{error}");
    let database = redb::Database::open(&path).unwrap();
    let reading = database.begin_read().unwrap();
    assert_eq!(reading.open_table(meta).unwrap().get("format").unwrap().unwrap().value(), 99);
    let heads = redb::TableDefinition::<u128, &[u8]>::new("heads");
    assert_eq!(reading.open_table(heads).unwrap().len().unwrap(), 3);
}

#[test]
fn an_empty_file_becomes_a_store_and_a_link_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.redb");
    fs::write(&path, "").unwrap();
    drop(RedbStore::open(&path).unwrap());
    assert!(fs::metadata(&path).unwrap().len() > 0);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    fs::create_dir(folder.path().join("disk")).unwrap();
    let (link, target) = (folder.path().join("link.redb"), folder.path().join("disk/target.redb"));
    symlink("disk/target.redb", &link).unwrap();
    for _ in 0..2 {
        drop(RedbStore::open(&link).unwrap());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "the link stays one");
        assert!(fs::metadata(&target).unwrap().len() > 0, "the store is where it leads");
    }
}

#[test]
fn what_is_no_store_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = seed();
    let mut noise = Vec::new();
    while noise.len() < 70_000 {
        noise.extend(draw(&mut random).to_le_bytes());
    }
    let whole = folder.path().join("whole.redb");
    store_at(&whole);
    let store = fs::read(&whole).unwrap();
    let (zeroes, text) = (vec![0; 1 << 20], "not a store\n".repeat(1000));
    let cases: [(&str, &[u8]); 6] = [
        ("random bytes", &noise),
        ("one byte", &noise[..1]),
        ("zeroes", &zeroes),
        ("a text", text.as_bytes()),
        ("the first bytes of a store", &store[..5]),
        ("a store without its header", &store[4096..]),
    ];
    for (what, bytes) in cases {
        let path = folder.path().join("crus.redb");
        fs::write(&path, bytes).unwrap();
        let error = refused(&path);
        assert!(matches!(error, OpenError::NotAStore { .. }), "{what}: {error}");
        assert!(error.to_string().contains("restore it from a backup"), "{what}: {error}");
        assert!(fs::read(&path).unwrap() == bytes, "{what} was changed");
    }

    // Neither is a directory, a device, nor a file in a place of files.
    for path in [folder.path(), Path::new("/dev/null"), Path::new("/dev/full")] {
        let error = refused(path);
        assert!(matches!(error, OpenError::Io { .. } | OpenError::NotAStore { .. }), "{error}");
    }
    let error = refused(&whole.join("crus.redb"));
    assert!(matches!(error, OpenError::NoDirectory { .. }), "{error}");
}

/// A file that was cut or overwritten in places is refused, unless nothing of it is lost: it is never half believed.
#[test]
fn a_damaged_store_is_refused_or_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.redb");
    store_at(&path);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let read_all = || RedbStore::open(&path).map(|store| runtime.block_on(all_of(&store)));
    let all = read_all().unwrap();
    let whole = fs::read(&path).unwrap();
    let mut random = seed();
    let (mut refused, mut unharmed) = (0, 0);
    let mut judge = |damaged: &[u8], what: &str| {
        fs::write(&path, damaged).unwrap();
        match read_all() {
            Ok(found) => {
                assert_eq!(found, all, "{what}");
                unharmed += 1;
            }
            Err(error) => {
                assert!(matches!(error, OpenError::NotAStore { .. }), "{what}: {error}");
                refused += 1;
            }
        }
    };
    for cut in (1..4096).step_by(16).chain((4096..whole.len()).step_by(4096 / 2)) {
        judge(&whole[..cut], &format!("cut to {cut} bytes"));
    }
    for i in 0..300 {
        let mut damaged = whole.clone();
        let at = usize::try_from(draw(&mut random)).unwrap() % whole.len();
        let kind = draw(&mut random) % 4;
        match kind {
            0 => damaged.truncate(at.max(1)),
            1 => damaged[at] ^= 1 << (draw(&mut random) % 8),
            2 => damaged[at / 4096 * 4096..][..4096].fill(0),
            _ => {
                let noise = std::iter::repeat_with(|| draw(&mut random).to_le_bytes()).flatten();
                damaged[at..].iter_mut().zip(noise.take(64)).for_each(|(byte, noise)| *byte = noise);
            }
        }
        judge(&damaged, &format!("damage {i} of kind {kind} at {at}"));
    }
    println!("{refused} refused, {unharmed} unharmed");
    assert!(refused > 0 && unharmed > 0, "{refused} refused, {unharmed} unharmed");
}

/// A file or a directory that the service may not write, which root could: the program runs without that privilege.
#[test]
fn what_may_not_be_written_is_said_with_whom_to_give_the_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.redb");
    store_at(&path);
    let before = fs::read(&path).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&path, 0o400);
    mode(folder.path(), 0o500);
    for store in [path.clone(), folder.path().join("new.redb")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crus"));
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            command = Command::new("setpriv");
            command.args(["--bounding-set", "-dac_override,-dac_read_search", env!("CARGO_BIN_EXE_crus")]);
        }
        let output = command
            .args(["serve", "--listen", "127.0.0.1:0", "--auth", "off", "--store"])
            .arg(&store)
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        let says = format!(
            "failed to open the store {}: Permission denied (os error 13); the service's user must be able to read \
             and write it",
            store.display()
        );
        assert!(error.contains(&says), "{error}");
    }
    mode(folder.path(), 0o700);
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing was left behind");
}
