//! What every session store must do, and what the one in a file must do besides.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crus_core::machine::Event;
use crus_core::model::{Limits, Node, Spec, UpgradeId};
use crus_core::model::{NodeState, Phase, Session, Stage};
use crus_core::ports::{Revision, SessionStore, StoreError};
use crus_core::{Message, Time, Xname};
use crus_server::store::{OpenError, RedbStore};
use crus_sim::store::MemoryStore;
use uuid::Uuid;

fn session() -> Session {
    let spec = Spec {
        starting: "slurm-nodes".parse().unwrap(),
        upgrading: "upgrading-nodes".parse().unwrap(),
        failed: "failed-nodes".parse().unwrap(),
        step_size: 2.try_into().unwrap(),
        template: "new-image".parse().unwrap(),
    };
    Session::new(UpgradeId(Uuid::new_v4()), spec, "1.0.0", Limits::default(), Time(1000))
}

fn said(text: &str) -> Message {
    Message::new(text, Time(2500))
}

fn freeze(session: &mut Session, count: u32) -> Vec<Event> {
    session.nodes = (0..count)
        .map(|slot| {
            let xname = Xname::new(&format!("x1000c0s{slot}b0n0")).unwrap();
            Node::new(xname, Some(format!("nid{:06}", slot + 1).parse().unwrap()), Time(2000))
        })
        .collect();
    session.head.phase = Phase::Rolling;
    vec![Event::Frozen, Event::Phase(Phase::Rolling)]
}

async fn load(store: &dyn SessionStore, id: UpgradeId) -> (Session, Revision) {
    store.load(id).await.unwrap().expect("the session is stored")
}

/// Every promise of [`SessionStore`], one after the other.
async fn conforms(store: &dyn SessionStore) {
    keeps_what_was_created(store).await;
    stores_what_the_events_name(store).await;
    refuses_a_stale_revision(store).await;
    refuses_what_would_leave_a_gap(store).await;
    keeps_orders_beside_the_session(store).await;
    removes_everything(store).await;
}

async fn keeps_what_was_created(store: &dyn SessionStore) {
    let (mut one, two) = (session(), session());
    freeze(&mut one, 3);
    one.messages = vec![said("first"), said("second")];
    let revision = store.create(&one).await.unwrap();
    store.create(&two).await.unwrap();

    assert_eq!(load(store, one.head.id).await, (one.clone(), revision));
    let ids: BTreeSet<_> = store.ids().await.unwrap().into_iter().collect();
    assert!(ids.is_superset(&[one.head.id, two.head.id].into()));
    assert_eq!(store.create(&one).await, Err(StoreError::Conflict(one.head.id)), "an id is used once");
    assert_eq!(store.load(session().head.id).await, Ok(None));
}

async fn stores_what_the_events_name(store: &dyn SessionStore) {
    let mut session = session();
    let created = store.create(&session).await.unwrap();
    assert!(store.own(session.head.id).await.unwrap());

    let events = freeze(&mut session, 300);
    let frozen = store.save(&session, &events, created).await.unwrap();
    assert_ne!(frozen, created, "the revision changes with every save");
    assert_eq!(load(store, session.head.id).await, (session.clone(), frozen));

    session.head.stage = Stage::Quiescing;
    session.nodes[299].state = NodeState::Draining;
    session.nodes[7].state = NodeState::Draining;
    session.messages.push(said("Quiesce requested in step 0: moving to QUIESCING"));
    let events = [
        Event::Node(299),
        Event::Node(7),
        Event::Node(7),
        Event::Stage { step: 0, stage: Stage::Quiescing },
        Event::Message(0),
    ];
    let quiescing = store.save(&session, &events, frozen).await.unwrap();
    assert_eq!(load(store, session.head.id).await, (session.clone(), quiescing));

    session.head.condition = Some("there is no group".into());
    let last = store.save(&session, &[Event::Head], quiescing).await.unwrap();
    assert_eq!(load(store, session.head.id).await, (session.clone(), last));
}

async fn refuses_a_stale_revision(store: &dyn SessionStore) {
    let mut session = session();
    let id = session.head.id;
    let first = store.create(&session).await.unwrap();
    assert!(store.own(session.head.id).await.unwrap());
    session.head.step = 1;
    let second = store.save(&session, &[Event::Head], first).await.unwrap();

    let mut stale = session.clone();
    stale.head.step = 9;
    stale.messages.push(said("never stored"));
    let events = [Event::Head, Event::Message(0)];
    assert_eq!(store.save(&stale, &events, first).await, Err(StoreError::Conflict(id)));
    assert_eq!(load(store, id).await, (session.clone(), second), "nothing of it was stored");

    store.remove(id).await.unwrap();
    let gone = store.save(&session, &[Event::Head], second).await;
    assert_eq!(gone, Err(StoreError::Conflict(id)), "what was removed does not come back");
    assert_eq!(store.load(id).await, Ok(None));
}

async fn refuses_what_would_leave_a_gap(store: &dyn SessionStore) {
    let mut session = session();
    let first = store.create(&session).await.unwrap();
    assert!(store.own(session.head.id).await.unwrap());
    let before = session.clone();
    session.head.step = 1;
    session.messages = vec![said("first"), said("second")];
    let refused = store.save(&session, &[Event::Head, Event::Message(1)], first).await;
    assert!(matches!(refused, Err(StoreError::Failed(_))), "{refused:?}");
    let refused = store.save(&session, &[Event::Node(0)], first).await;
    assert!(matches!(refused, Err(StoreError::Failed(_))), "there is no such node: {refused:?}");
    assert_eq!(load(store, session.head.id).await, (before, first), "nothing of it was stored");
}

async fn keeps_orders_beside_the_session(store: &dyn SessionStore) {
    let session = session();
    let id = session.head.id;
    let revision = store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    assert_eq!(store.deletion_ordered(id).await, Ok(false));
    store.order_deletion(id).await.unwrap();
    store.order_deletion(id).await.unwrap();
    assert_eq!(store.deletion_ordered(id).await, Ok(true));
    assert_eq!(load(store, id).await.1, revision, "an order does not disturb who runs the session");
    store.save(&session, &[Event::Head], revision).await.unwrap();
    assert_eq!(store.deletion_ordered(id).await, Ok(true), "a save does not undo it");
}

async fn removes_everything(store: &dyn SessionStore) {
    let mut removed = session();
    freeze(&mut removed, 5);
    removed.messages.push(said("a message"));
    let id = removed.head.id;
    let mut neighbour = session();
    freeze(&mut neighbour, 5);
    store.create(&removed).await.unwrap();
    let kept = store.create(&neighbour).await.unwrap();
    store.order_deletion(id).await.unwrap();

    store.remove(id).await.unwrap();
    store.remove(id).await.unwrap();
    assert_eq!(store.load(id).await, Ok(None));
    assert!(!store.ids().await.unwrap().contains(&id));
    assert_eq!(store.deletion_ordered(id).await, Ok(false));
    assert_eq!(load(store, neighbour.head.id).await, (neighbour.clone(), kept));

    let bare = Session { nodes: Vec::new(), messages: Vec::new(), ..removed };
    store.create(&bare).await.unwrap();
    assert_eq!(load(store, id).await.0, bare, "nothing of the old one is left under its id");
}

#[tokio::test]
async fn the_store_in_memory_conforms() {
    conforms(&MemoryStore::default()).await;
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
        store.order_deletion(session.head.id).await.unwrap();
    }
    let store = RedbStore::open(&path).unwrap();
    assert_eq!(load(&store, session.head.id).await.0, session);
    assert_eq!(store.deletion_ordered(session.head.id).await, Ok(true));
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
    writing.open_table(meta).unwrap().insert("format", 3).unwrap();
    writing.commit().unwrap();
    drop(database);
    let error = refused(&newer);
    assert!(matches!(error, OpenError::Newer { found: 3, .. }), "{error}");
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
