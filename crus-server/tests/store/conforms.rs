//! What every session store must do, and what the one in a file must do besides.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crus_core::model::DeletionOrder;
use crus_core::ports::{SessionStore as _, StoreError};
use crus_server::store::{OpenError, RedbStore};
use crus_sim::store::MemoryStore;

use crate::support::conformance::{conforms, freeze, load, replicas_conform, session};

#[tokio::test]
async fn the_store_in_memory_conforms() {
    let store = MemoryStore::default();
    conforms(&store).await;
    let another = store.another_replica();
    replicas_conform(&store, &another, async |_| store.expire()).await;
}

#[tokio::test]
async fn the_store_in_a_file_conforms() {
    let directory = tempfile::tempdir().unwrap();
    conforms(&RedbStore::open(&directory.path().join("crus.redb")).unwrap()).await;
}

#[tokio::test]
async fn a_reopened_store_holds_what_was_stored() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crus.redb");
    let mut session = session();
    freeze(&mut session, 4);
    {
        let store = RedbStore::open(&path).unwrap();
        store.create(&session).await.unwrap();
        store.order_deletion(session.head.id, None).await.unwrap();
    }
    let store = RedbStore::open(&path).unwrap();
    assert_eq!(load(&store, session.head.id).await.0, session);
    assert_eq!(store.deletion(session.head.id).await, Ok(Some(DeletionOrder { by: None })));
}

#[tokio::test]
async fn only_its_owner_can_read_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crus.redb");
    let _store = RedbStore::open(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

fn refused(path: &Path) -> OpenError {
    match RedbStore::open(path) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_said_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crus.redb");

    let error = refused(&directory.path().join("missing/crus.redb"));
    assert!(matches!(error, OpenError::NoDirectory { .. }), "{error}");
    assert!(error.to_string().contains("mkdir -p"), "{error}");

    let error = refused(directory.path());
    assert!(matches!(error, OpenError::Io { .. }), "{error}");

    let held = RedbStore::open(&path).unwrap();
    let error = refused(&path);
    assert!(matches!(error, OpenError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("another process has it open"), "{error}");
    drop(held);
    RedbStore::open(&path).unwrap();
}

#[tokio::test]
async fn other_files_and_newer_stores_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();

    let text = directory.path().join("notes.txt");
    fs::write(&text, "not a store\n".repeat(1000)).unwrap();
    let error = refused(&text);
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
    assert_eq!(fs::read_to_string(&text).unwrap(), "not a store\n".repeat(1000));

    let foreign = directory.path().join("foreign.redb");
    let table = redb::TableDefinition::<u64, u64>::new("theirs");
    let database = redb::Database::create(&foreign).unwrap();
    let writing = database.begin_write().unwrap();
    writing.open_table(table).unwrap().insert(1, 1).unwrap();
    writing.commit().unwrap();
    drop(database);
    let error = refused(&foreign);
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");

    let newer = directory.path().join("newer.redb");
    drop(RedbStore::open(&newer).unwrap());
    let database = redb::Database::open(&newer).unwrap();
    let writing = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    writing.open_table(meta).unwrap().insert("format", 4).unwrap();
    writing.commit().unwrap();
    drop(database);
    let error = refused(&newer);
    assert!(matches!(error, OpenError::Newer { found: 4, .. }), "{error}");
}

#[tokio::test]
async fn damaged_values_are_named_and_do_not_hide_other_sessions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crus.redb");
    let (damaged, sound) = (session(), session());
    {
        let store = RedbStore::open(&path).unwrap();
        store.create(&damaged).await.unwrap();
        store.create(&sound).await.unwrap();
    }
    let database = redb::Database::open(&path).unwrap();
    let writing = database.begin_write().unwrap();
    let heads = redb::TableDefinition::<u128, &[u8]>::new("heads");
    writing.open_table(heads).unwrap().insert(damaged.head.id.0.as_u128(), b"{}".as_slice()).unwrap();
    writing.commit().unwrap();
    drop(database);

    let store = RedbStore::open(&path).unwrap();
    let error = store.load(damaged.head.id).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Unreadable(text) if text.contains(&damaged.head.id.to_string())),
        "{error}"
    );
    assert_eq!(load(&store, sound.head.id).await.0, sound);
}

/// A service that is killed while it starts a program leaves its lock with it for a moment: whoever starts it again
/// need not know.
#[test]
fn a_lock_that_is_about_to_go_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("crus.redb");
    let held = RedbStore::open(&path).unwrap();
    let waiting = std::thread::spawn(move || RedbStore::open(&path).map(drop));
    drop(held);
    waiting.join().unwrap().unwrap();
}
