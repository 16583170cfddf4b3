//! The store in memory loses what was not told, and nothing else.

use crus_core::machine::Event;
use crus_core::model::{DeletionOrder, Limits, Node, Phase, Session, Spec, UpgradeId};
use crus_core::ports::{DriverStore as _, Revision, SessionStore as _, StoreError};
use crus_core::{Message, Time};
use crus_sim::store::MemoryStore;

use super::support::{name, x};

fn session() -> Session {
    let id: UpgradeId = "6ba7b810-9dad-11d1-80b4-00c04fd430c8".parse().unwrap();
    let spec = Spec {
        starting: "a".parse().unwrap(),
        upgrading: "b".parse().unwrap(),
        failed: "c".parse().unwrap(),
        step_size: 2.try_into().unwrap(),
        template: "image".parse().unwrap(),
        tenant: None,
        strategy: crus_core::Strategy::default(),
    };
    Session::new(id, spec, "1.0", Limits::default(), Time(5))
}

#[tokio::test]
async fn what_the_events_name_is_kept_and_nothing_else() {
    let store = MemoryStore::default();
    let mut session = session();
    let id = session.head.id;
    let first = store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    assert_eq!(store.create(&session).await, Err(StoreError::Conflict(id)));
    session.nodes = (1..=3).map(|n| Node::new(x(n), Some(name(n)), Time(6))).collect();
    session.head.phase = Phase::Rolling;
    session.messages.push(Message::new("hello", Time(1)));
    let second = store.save(&session, &[Event::Frozen, Event::Message(0)], first).await.unwrap();
    let (loaded, revision) = store.load(id).await.unwrap().unwrap();
    assert_eq!((loaded.nodes.len(), loaded.messages.len(), revision), (3, 1, second));
    assert_eq!(loaded.head.phase, Phase::Created, "nobody said that the head changed");
    session.nodes[1].step = Some(4);
    session.nodes[2].step = Some(5);
    store.save(&session, &[Event::Head, Event::Node(1)], second).await.unwrap();
    let (loaded, _) = store.load(id).await.unwrap().unwrap();
    assert_eq!(
        (loaded.head.phase, loaded.nodes[1].step, loaded.nodes[2].step),
        (Phase::Rolling, Some(4), None)
    );
    assert_eq!((store.written().writes, store.written().parts), (3, 1 + 4 + 2));
}

#[tokio::test]
async fn an_older_revision_a_failing_store_and_a_gap_write_nothing() {
    let store = MemoryStore::default();
    let mut session = session();
    let id = session.head.id;
    let first = store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    assert_eq!(store.save(&session, &[], Revision(7)).await, Err(StoreError::Conflict(id)));
    session.messages = ["one", "two"].map(|text| Message::new(text, Time(1))).into();
    assert!(matches!(store.save(&session, &[Event::Message(1)], first).await, Err(StoreError::Failed(_))));
    store.fail(Some("disk full"));
    let full = Err(StoreError::Failed("disk full".to_owned()));
    assert_eq!(store.save(&session, &[Event::Message(0)], first).await, full);
    store.fail(None);
    assert_eq!(store.load(id).await.unwrap().unwrap().1, first);
    assert_eq!(store.load(id).await.unwrap().unwrap().0.messages, []);
}

#[tokio::test]
async fn an_order_to_delete_outlives_a_save_and_goes_with_the_session() {
    let store = MemoryStore::default();
    let session = session();
    let id = session.head.id;
    let first = store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    assert_eq!(store.deletion(id).await, Ok(None));
    store.order_deletion(id, None).await.unwrap();
    store.save(&session, &[Event::Head], first).await.unwrap();
    assert_eq!(store.deletion(id).await, Ok(Some(DeletionOrder { by: None })));
    assert_eq!(store.ids().await.unwrap(), [id]);
    store.remove(id).await.unwrap();
    store.remove(id).await.unwrap();
    assert_eq!((store.load(id).await.unwrap(), store.deletion(id).await), (None, Ok(None)));
}
