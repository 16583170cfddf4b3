//! What every session store must do, alone and with several replicas on it.

mod orders;

use std::collections::BTreeSet;
use std::time::Duration;

use crus_core::claims::Turn;
use crus_core::machine::Event;
use crus_core::model::{
    Counts, DeletionOrder, Limits, Node, NodeState, Phase, Session, Spec, Stage, Summary, UpgradeId,
};
use crus_core::ports::{Change, Revision, SessionStore, StoreChanges, StoreError};
use crus_core::{Message, Time, Xname};
use uuid::Uuid;

/// How long what must come is waited for, on the slowest of machines.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn session() -> Session {
    let spec = Spec {
        starting: "slurm-nodes".parse().unwrap(),
        upgrading: "upgrading-nodes".parse().unwrap(),
        failed: "failed-nodes".parse().unwrap(),
        step_size: 2.try_into().unwrap(),
        template: "new-image".parse().unwrap(),
        tenant: None,
        strategy: crus_core::Strategy::default(),
    };
    Session::new(UpgradeId(Uuid::new_v4()), spec, "1.0.0", Limits::default(), Time(1000))
}

pub(crate) fn said(text: &str) -> Message {
    Message::new(text, Time(2500))
}

pub(crate) fn freeze(session: &mut Session, count: u32) -> Vec<Event> {
    session.nodes = (0..count)
        .map(|slot| {
            let (cabinet, chassis, blade, n) = (slot / 256, slot / 32 % 8, slot / 4 % 8, slot % 4);
            let name = format!("x{}c{chassis}s{blade}b{}n{}", 1000 + cabinet, n / 2, n % 2);
            let xname = Xname::new(&name).unwrap();
            Node::new(xname, Some(format!("nid{:06}", slot + 1).parse().unwrap()), Time(2000))
        })
        .collect();
    session.head.phase = Phase::Rolling;
    vec![Event::Frozen, Event::Phase(Phase::Rolling)]
}

pub(crate) async fn load(store: &dyn SessionStore, id: UpgradeId) -> (Session, Revision) {
    let (mut session, revision) = store.load(id).await.unwrap().expect("the session is stored");
    assert_eq!(session.head.counts, Counts::of(&session.nodes), "counted anew");
    // Nothing here counts what it changes.
    session.head.counts = Counts::default();
    (session, revision)
}

/// Every promise of [`SessionStore`], one after the other.
pub(crate) async fn conforms(store: &dyn SessionStore) {
    keeps_what_was_created(store).await;
    stores_what_the_events_name(store).await;
    refuses_a_stale_revision(store).await;
    refuses_what_would_leave_a_gap(store).await;
    tells_a_session_without_its_nodes(store).await;
    folds_messages(store).await;
    stores_thousands_of_changes_at_once(store).await;
    gives_turns_in_order_of_creation(store).await;
    drops_the_claim_with_the_end(store).await;
    keeps_orders_beside_the_session(store).await;
    removes_everything(store).await;
    orders::conforms(store).await;
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
    assert_eq!(store.deletion(id).await, Ok(None));
    store.order_deletion(id, None).await.unwrap();
    store.order_deletion(id, None).await.unwrap();
    assert_eq!(store.deletion(id).await, Ok(Some(DeletionOrder { by: None })));
    assert_eq!(load(store, id).await.1, revision, "an order does not disturb who runs the session");
    store.save(&session, &[Event::Head], revision).await.unwrap();
    assert_eq!(store.deletion(id).await, Ok(Some(DeletionOrder { by: None })), "a save does not undo it");
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
    store.order_deletion(id, None).await.unwrap();

    store.remove(id).await.unwrap();
    store.remove(id).await.unwrap();
    assert_eq!(store.load(id).await, Ok(None));
    assert!(!store.ids().await.unwrap().contains(&id));
    assert_eq!(store.deletion(id).await, Ok(None));
    assert_eq!(load(store, neighbour.head.id).await, (neighbour.clone(), kept));

    let bare = Session { nodes: Vec::new(), messages: Vec::new(), ..removed };
    store.create(&bare).await.unwrap();
    assert_eq!(load(store, id).await.0, bare, "nothing of the old one is left under its id");
}

async fn tells_a_session_without_its_nodes(store: &dyn SessionStore) {
    let mut session = session();
    freeze(&mut session, 3);
    session.messages = vec![said("first"), said("second")];
    let id = session.head.id;
    let revision = store.create(&session).await.unwrap();
    let told = |session: &Session, deletion_ordered| {
        let Session { head, messages, .. } = session.clone();
        Ok(Some(Summary { head, messages, deletion_ordered, commands: Vec::new() }))
    };
    assert_eq!(store.summary(id).await, told(&session, false));

    assert!(store.own(id).await.unwrap());
    session.head.step = 1;
    session.messages.push(said("third"));
    store.save(&session, &[Event::Head, Event::Message(2)], revision).await.unwrap();
    store.order_deletion(id, None).await.unwrap();
    assert_eq!(store.summary(id).await, told(&session, true));
    store.remove(id).await.unwrap();
    assert_eq!(store.summary(id).await, Ok(None));
}

async fn folds_messages(store: &dyn SessionStore) {
    let mut session = session();
    let id = session.head.id;
    let mut revision = store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    session.messages = (0..1000).map(|n| said(&format!("message {n}"))).collect();
    let events: Vec<Event> = (0..1000).map(Event::Message).collect();
    revision = store.save(&session, &events, revision).await.unwrap();
    assert_eq!(load(store, id).await, (session.clone(), revision));

    // Fewer than one transaction of any store takes, and more.
    for kept in [700, 20] {
        session.messages.drain(..session.messages.len() - kept);
        session.messages[0] = Message { times: 300, ..said("Older messages left out") };
        revision = store.save(&session, &[Event::MessagesFolded], revision).await.unwrap();
        assert_eq!(load(store, id).await, (session.clone(), revision), "folded to {kept}");
        session.messages.push(said("one more"));
        let last = session.messages.len() - 1;
        revision = store.save(&session, &[Event::Message(last)], revision).await.unwrap();
        assert_eq!(load(store, id).await, (session.clone(), revision));
    }
}

async fn stores_thousands_of_changes_at_once(store: &dyn SessionStore) {
    let mut session = session();
    let id = session.head.id;
    let created = store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    let events = freeze(&mut session, 3000);
    let frozen = store.save(&session, &events, created).await.unwrap();
    assert_eq!(load(store, id).await, (session.clone(), frozen));

    for node in session.nodes.iter_mut().step_by(2) {
        node.state = NodeState::Draining;
    }
    session.messages.push(said("Quiesce requested in step 0: moving to QUIESCING"));
    let mut events: Vec<Event> = (0..3000).step_by(2).map(Event::Node).collect();
    events.push(Event::Message(0));
    let draining = store.save(&session, &events, frozen).await.unwrap();
    assert_eq!(load(store, id).await, (session.clone(), draining));
    assert_eq!(store.summary(id).await.unwrap().unwrap().messages, session.messages);

    // What comes after a large save is not undone by it.
    session.nodes[4].state = NodeState::Quiesced;
    let quiesced = store.save(&session, &[Event::Node(4)], draining).await.unwrap();
    assert_eq!(load(store, id).await, (session.clone(), quiesced));
    let mut stale = session.clone();
    for node in &mut stale.nodes {
        node.state = NodeState::Released;
    }
    assert_eq!(store.save(&stale, &[Event::Frozen], frozen).await, Err(StoreError::Conflict(id)));
    assert_eq!(load(store, id).await, (session, quiesced), "nothing of it was stored");
}

/// A session with groups of its own.
fn session_apart(name: &str) -> Session {
    let mut session = session();
    session.head.spec.starting = format!("{name}-starting").parse().unwrap();
    session.head.spec.upgrading = format!("{name}-upgrading").parse().unwrap();
    session.head.spec.failed = format!("{name}-failed").parse().unwrap();
    session
}

fn xnames(names: &[&str]) -> Vec<Xname> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// Ends a session that was just created, which drops its claim.
async fn end(store: &dyn SessionStore, mut session: Session) {
    let revision = load(store, session.head.id).await.1;
    session.head.phase = Phase::Done;
    store.save(&session, &[Event::Phase(Phase::Done)], revision).await.unwrap();
}

async fn gives_turns_in_order_of_creation(store: &dyn SessionStore) {
    let mut names = ["order-a", "order-b", "order-c"].map(session_apart);
    names[1].head.spec.failed = names[0].head.spec.failed.clone();
    let [first, second, apart] = names;
    for session in [&first, &second, &apart] {
        store.create(session).await.unwrap();
        assert!(store.own(session.head.id).await.unwrap());
    }
    let [one, two, three] = [&first, &second, &apart].map(|session| session.head.id);
    let shared = xnames(&["x9c0s0b0n0", "x9c0s1b0n0"]);
    let why = store.claim(two, &shared).await.unwrap().waits_for().unwrap();
    assert!(why.contains(&one.to_string()) && why.contains("order-a-failed"), "{why}");
    assert_eq!(store.claim(one, &shared).await, Ok(Turn::Granted));
    assert_eq!(store.claim(one, &shared).await, Ok(Turn::Granted), "asking again changes nothing");
    let why = store.claim(three, &shared[1..]).await.unwrap().waits_for().unwrap();
    assert!(why.contains(&one.to_string()) && why.contains("x9c0s1b0n0"), "{why}");
    assert_eq!(store.claim(three, &xnames(&["x9c0s2b0n0"])).await, Ok(Turn::Granted));

    store.remove(one).await.unwrap();
    assert_eq!(store.claim(two, &shared).await, Ok(Turn::Granted), "whoever is gone is not waited for");
    for id in [two, three] {
        store.remove(id).await.unwrap();
    }
}

async fn drops_the_claim_with_the_end(store: &dyn SessionStore) {
    let (first, second) = (session_apart("end-a"), session_apart("end-b"));
    for session in [&first, &second] {
        store.create(session).await.unwrap();
        assert!(store.own(session.head.id).await.unwrap());
    }
    let nodes = xnames(&["x9c1s0b0n0"]);
    assert_eq!(store.claim(first.head.id, &nodes).await, Ok(Turn::Granted));
    assert_ne!(store.claim(second.head.id, &nodes).await.unwrap(), Turn::Granted);
    end(store, first.clone()).await;
    assert_eq!(store.claim(second.head.id, &nodes).await, Ok(Turn::Granted));
    for session in [first, second] {
        store.remove(session.head.id).await.unwrap();
    }
}

// ---- several replicas ------------------------------------------------------------------------------------

/// Every promise of [`SessionStore`] to replicas. `expire` ends the lease of the first one, which owns this session.
pub(crate) async fn replicas_conform(
    one: &dyn SessionStore,
    two: &dyn SessionStore,
    expire: impl AsyncFnOnce(UpgradeId),
) {
    lets_one_replica_own_a_session(one, two).await;
    tells_what_changes(one, two).await;
    gives_one_of_two_sessions_its_turn(one, two).await;
    orders::replicas_conform(one, two).await;
    // The last: from here on the first replica has another lease.
    lets_another_take_over_when_the_lease_ends(one, two, expire).await;
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let come = tokio::time::timeout(PATIENCE, future).await;
    come.unwrap_or_else(|_| panic!("not in {} s: {what}", PATIENCE.as_secs()))
}

/// The next change that is about this session.
async fn next(changes: &mut Box<dyn StoreChanges>, id: UpgradeId) -> Change {
    loop {
        let change = in_time("a change", changes.next()).await.unwrap();
        let (Change::Session(of)
        | Change::DeletionOrdered(of)
        | Change::Commanded(of)
        | Change::Unowned(of)
        | Change::Removed(of)) = change;
        if of == id {
            return change;
        }
    }
}

async fn lets_one_replica_own_a_session(one: &dyn SessionStore, two: &dyn SessionStore) {
    let mut session = session();
    let id = session.head.id;
    assert_eq!(one.own(id).await, Ok(false), "one that is not there is nobody's");
    let created = one.create(&session).await.unwrap();
    session.head.step = 1;
    let unowned = one.save(&session, &[Event::Head], created).await;
    assert_eq!(unowned, Err(StoreError::NotOwner(id)), "who created it does not own it");

    assert_eq!(two.own(id).await, Ok(true));
    assert_eq!(two.own(id).await, Ok(true), "asking again changes nothing");
    assert_eq!(one.own(id).await, Ok(false));
    assert!(two.owns(id) && !one.owns(id));
    in_time("not ours", one.disowned(id)).await;
    assert_eq!(one.save(&session, &[Event::Head], created).await, Err(StoreError::NotOwner(id)));
    assert_eq!(load(one, id).await.0.head.step, 0, "nothing of it was stored");
    let saved = two.save(&session, &[Event::Head], created).await.unwrap();

    assert_eq!(one.disown(id).await, Ok(()), "one that is not ours is fine");
    assert!(two.owns(id));
    let mut changes = one.changes().await.unwrap();
    {
        let disowned = in_time("given up", two.disowned(id));
        let given_up = async { two.disown(id).await.unwrap() };
        tokio::join!(disowned, given_up);
    }
    assert!(!two.owns(id));
    assert_eq!(next(&mut changes, id).await, Change::Unowned(id));
    assert_eq!(one.own(id).await, Ok(true));
    session.head.step = 2;
    assert_eq!(two.save(&session, &[Event::Head], saved).await, Err(StoreError::NotOwner(id)));
    one.save(&session, &[Event::Head], saved).await.unwrap();
    one.remove(id).await.unwrap();
    assert_eq!(two.own(id).await, Ok(false));
    assert_eq!(one.own(id).await, Ok(false));
}

async fn tells_what_changes(one: &dyn SessionStore, two: &dyn SessionStore) {
    let mut changes = two.changes().await.unwrap();
    let mut session = session();
    freeze(&mut session, 3);
    let id = session.head.id;
    let mut revision = one.create(&session).await.unwrap();
    assert_eq!(next(&mut changes, id).await, Change::Session(id));

    assert!(one.own(id).await.unwrap());
    session.nodes[1].state = NodeState::Draining;
    revision = one.save(&session, &[Event::Node(1)], revision).await.unwrap();
    one.order_deletion(id, None).await.unwrap();
    assert_eq!(next(&mut changes, id).await, Change::DeletionOrdered(id), "single nodes are not told");

    session.messages.push(said("first"));
    revision = one.save(&session, &[Event::Message(0)], revision).await.unwrap();
    assert_eq!(next(&mut changes, id).await, Change::Session(id));
    session.head.step = 1;
    one.save(&session, &[Event::Head], revision).await.unwrap();
    assert_eq!(next(&mut changes, id).await, Change::Session(id));
    one.disown(id).await.unwrap();
    assert_eq!(next(&mut changes, id).await, Change::Unowned(id));
    one.remove(id).await.unwrap();
    assert_eq!(next(&mut changes, id).await, Change::Removed(id));
}

async fn gives_one_of_two_sessions_its_turn(one: &dyn SessionStore, two: &dyn SessionStore) {
    let nodes = xnames(&["x9c2s0b0n0"]);
    for round in 0..20 {
        let (mine, theirs) = (session_apart("race-a"), session_apart("race-b"));
        one.create(&mine).await.unwrap();
        one.create(&theirs).await.unwrap();
        assert!(one.own(mine.head.id).await.unwrap() && two.own(theirs.head.id).await.unwrap());
        let (one_got, two_got) =
            tokio::join!(one.claim(mine.head.id, &nodes), two.claim(theirs.head.id, &nodes));
        let granted = [one_got.unwrap(), two_got.unwrap()];
        assert_eq!(
            granted.iter().filter(|turn| **turn == Turn::Granted).count(),
            1,
            "round {round}: {granted:?}"
        );
        if granted[0] == Turn::Granted {
            end(one, mine.clone()).await;
            assert_eq!(two.claim(theirs.head.id, &nodes).await, Ok(Turn::Granted), "round {round}");
        } else {
            end(two, theirs.clone()).await;
            assert_eq!(one.claim(mine.head.id, &nodes).await, Ok(Turn::Granted), "round {round}");
        }
        one.remove(mine.head.id).await.unwrap();
        two.remove(theirs.head.id).await.unwrap();
    }
}

async fn lets_another_take_over_when_the_lease_ends(
    one: &dyn SessionStore,
    two: &dyn SessionStore,
    expire: impl AsyncFnOnce(UpgradeId),
) {
    let (mut session, other) = (session(), session());
    let id = session.head.id;
    let created = one.create(&session).await.unwrap();
    one.create(&other).await.unwrap();
    assert!(one.own(id).await.unwrap() && one.own(other.head.id).await.unwrap());
    let mut changes = two.changes().await.unwrap();
    expire(id).await;
    in_time("the lease lost", one.disowned(id)).await;
    assert!(!one.owns(id) && !one.owns(other.head.id), "all sessions are lost");
    session.head.step = 1;
    assert_eq!(one.save(&session, &[Event::Head], created).await, Err(StoreError::NotOwner(id)));

    assert_eq!(next(&mut changes, id).await, Change::Unowned(id));
    assert_eq!(two.own(id).await, Ok(true));
    let saved = two.save(&session, &[Event::Head], created).await.unwrap();
    in_time("a lease again", async {
        // While there is none, nothing can be said.
        while one.own(id).await != Ok(false) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(one.own(other.head.id).await, Ok(true), "what nobody took can be owned again");
    assert_eq!(load(one, id).await, (session, saved));
    for id in [id, other.head.id] {
        two.remove(id).await.unwrap();
    }
}
