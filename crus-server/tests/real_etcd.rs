//! The store in etcd, on a real one: what every store must do, and what this one must do besides.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::support::chance::{draw, seed};
use crate::support::conformance::{conforms, freeze, load, replicas_conform, session};
use crate::support::etcd::{Etcd, Tls, left_out};
use crate::support::{PATIENCE, until};
use crus_core::Time;
use crus_core::claims::Turn;
use crus_core::history::{Entry, Happening};
use crus_core::machine::Event;
use crus_core::model::{Command as Order, Counts, DeletionOrder, NodeState, UpgradeId};
use crus_core::ports::{Change, DriverStore as _, SessionStore as _, StoreError};
use crus_server::settings::{Config, EtcdOptions};
use crus_server::store::inspect::{self, InspectError, Report};
use crus_server::store::{EtcdError, EtcdStore};
use etcd_client::{Client, CompactionOptions, ConnectOptions, GetOptions, PermissionType, PutOptions};

/// Seconds: short where a test waits for its end, long where it must not end.
const SHORT: u64 = 6;
const LONG: u64 = 60;

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let come = tokio::time::timeout(PATIENCE, future).await;
    come.unwrap_or_else(|_| panic!("not in {} s: {what}", PATIENCE.as_secs()))
}

async fn open(options: &EtcdOptions) -> EtcdStore {
    EtcdStore::open(options).await.unwrap()
}

async fn refused(options: &EtcdOptions) -> EtcdError {
    match EtcdStore::open(options).await {
        Ok(_) => panic!("{} was opened", options.prefix),
        Err(error) => error,
    }
}

/// Ends the lease that owns a session, as etcd does when it is not renewed.
async fn revoke(client: &mut Client, id: UpgradeId) {
    let owner = client.get(format!("/crus/live/owners/{id}"), None).await.unwrap();
    client.lease_revoke(owner.kvs()[0].lease()).await.unwrap();
}

async fn keys(client: &mut Client, prefix: &str) -> Vec<String> {
    let options = GetOptions::new().with_prefix().with_keys_only();
    let found = client.get(prefix, Some(options)).await.unwrap();
    found.kvs().iter().map(|kv| kv.key_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_etcd_conforms() {
    if left_out() {
        return;
    }
    let etcd = Etcd::start().await;
    let (one, two) = (open(&etcd.options(LONG)).await, open(&etcd.options(LONG)).await);
    conforms(&one).await;
    // A lease of a minute is renewed after twenty seconds: too long to wait until it is noticed that it is gone.
    let short = open(&etcd.options(SHORT)).await;
    replicas_conform(&short, &two, async |id| revoke(&mut etcd.client().await, id).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_ours_or_newer_is_left_alone() {
    if left_out() {
        return;
    }
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    client.put("/other/key", "theirs", None).await.unwrap();
    let foreign = EtcdOptions { prefix: "/other/".to_owned(), ..etcd.options(LONG) };
    let error = refused(&foreign).await;
    assert!(matches!(error, EtcdError::NotAStore { .. }), "{error}");
    assert!(error.to_string().contains("etcd_prefix"), "{error}");
    assert_eq!(keys(&mut client, "/other/").await, ["/other/key"], "nothing was written");

    let options = etcd.options(LONG);
    drop(open(&options).await);
    drop(open(&options).await);
    client.put("/crus/format", "4", None).await.unwrap();
    let error = refused(&options).await;
    assert!(matches!(error, EtcdError::Newer { found: 4, .. }), "{error}");
    client.put("/crus/format", "one", None).await.unwrap();
    let error = refused(&options).await;
    assert!(matches!(error, EtcdError::NotAStore { .. }), "{error}");
}

/// The second format had no counts of nodes in its heads; what it was before is written back as that version did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_the_second_format_is_taken_over_once_nobody_works_with_it() {
    if left_out() {
        return;
    }
    let etcd = Etcd::start().await;
    let options = etcd.options(SHORT);
    let mut client = etcd.client().await;
    let (mut small, mut large) = (session(), session());
    freeze(&mut small, 3);
    freeze(&mut large, 700);
    {
        let store = open(&options).await;
        for session in [&small, &large] {
            store.create(session).await.unwrap();
        }
        store.order_deletion(small.head.id, None).await.unwrap();
        store.close().await;
    }
    client.put("/crus/format", "2", None).await.unwrap();
    let lease = client.lease_grant(600, None).await.unwrap().id();
    let owner = format!("/crus/live/owners/{}", large.head.id);
    let owned = PutOptions::new().with_lease(lease);
    client.put(owner.as_str(), "an older version", Some(owned)).await.unwrap();

    let error = refused(&options).await;
    assert!(matches!(error, EtcdError::OlderAtWork { found: 2, .. }), "{error}");
    assert!(error.to_string().contains("stop all replicas of that version first"), "{error}");
    let format = client.get("/crus/format", None).await.unwrap();
    assert_eq!(format.kvs()[0].value(), b"2", "left as it was");

    // Who was killed is waited for: its lease ends in a moment. Two start at once.
    let released = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        client.lease_revoke(lease).await.unwrap();
    };
    let (one, two, ()) = tokio::join!(open(&options), open(&options), released);
    for session in [&small, &large] {
        assert_eq!(load(&one, session.head.id).await.0, *session);
        let summary = two.summary(session.head.id).await.unwrap().unwrap();
        assert_eq!(summary.head.counts, Counts::of(&session.nodes), "counted");
        assert_eq!(summary.deletion_ordered, session.head.id == small.head.id);
    }
    assert!(one.command(large.head.id, Order::Pause, None).await.unwrap().is_some());
    assert_eq!(client.get("/crus/format", None).await.unwrap().kvs()[0].value(), b"3");
}

/// It may be looked into while a service works with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_dumped_and_checked_and_stays_as_it_is() {
    if left_out() {
        return;
    }
    let etcd = Etcd::start().await;
    let config = Config { etcd: etcd.options(LONG), ..Config::default() };
    let (mut waiting, mut rolling) = (session(), session());
    rolling.head.spec.starting = "others".parse().unwrap();
    waiting.head.spec.upgrading = "others-too".parse().unwrap();
    waiting.head.spec.failed = "others-failed".parse().unwrap();
    let id = rolling.head.id;
    let store = open(&config.etcd).await;
    store.create(&waiting).await.unwrap();
    let created = store.create(&rolling).await.unwrap();
    assert!(store.own(id).await.unwrap());
    let mut events = freeze(&mut rolling, 700);
    rolling.head.counts = Counts::of(&rolling.nodes);
    rolling.head.entries = 1;
    let what = Happening::Started { nodes: 700 };
    events.push(Event::Entry(Entry { number: 1, at: Time(1), step: 0, what }));
    let names: Vec<_> = rolling.nodes.iter().map(|node| node.xname).collect();
    assert_eq!(store.claim(id, &names).await, Ok(Turn::Granted));
    store.save(&rolling, &events, created).await.unwrap();
    store.command(id, Order::Pause, None).await.unwrap().unwrap();
    store.order_deletion(waiting.head.id, None).await.unwrap();

    let mut client = etcd.client().await;
    let mut revision = async || client.get("/crus/x", None).await.unwrap().header().unwrap().revision();
    let before = revision().await;
    let report = inspect::check(&config).await.unwrap();
    assert_eq!(report, Report { sessions: 2, nodes: 700, wrong: Vec::new() });
    let mut text = Vec::new();
    inspect::dump(&config, &mut text).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    let count =
        |kind: &str| text.lines().filter(|line| line.contains(&format!("\"type\":\"{kind}\""))).count();
    assert_eq!(["session", "node", "entry", "command", "claim"].map(count), [2, 700, 1, 1, 2]);
    assert_eq!(revision().await, before, "nothing was written");

    let mut client = etcd.client().await;
    client.delete(format!("/crus/sessions/{id}/node/0000000007"), None).await.unwrap();
    client.put(format!("/crus/live/heads/{}", waiting.head.id), "{}", None).await.unwrap();
    let report = inspect::check(&config).await.unwrap();
    let told = |id: UpgradeId, what: &str| {
        report.wrong.iter().any(|wrong| wrong.session == Some(id) && wrong.what.contains(what))
    };
    assert!(told(id, "node 7 is missing") && told(waiting.head.id, "the head of session"), "{report:#?}");

    client.put("/crus/format", "4", None).await.unwrap();
    let error = inspect::check(&config).await.unwrap_err();
    assert!(matches!(error, InspectError::Etcd(EtcdError::Newer { found: 4, .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_away_at_the_start_is_said_with_a_remedy() {
    let options = EtcdOptions { endpoints: vec!["http://127.0.0.1:1".to_owned()], ..EtcdOptions::default() };
    let error = refused(&options).await;
    assert!(matches!(error, EtcdError::Away { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("http://127.0.0.1:1") && text.contains("refused") && text.contains("etcd_endpoints"),
        "{text}"
    );

    let half = EtcdOptions { user: Some("crus".to_owned()), ..options.clone() };
    assert!(refused(&half).await.to_string().contains("etcd_password_file"));
    let missing = EtcdOptions { password_file: Some(PathBuf::from("/nowhere")), ..half };
    let text = refused(&missing).await.to_string();
    assert!(text.contains("/nowhere") && text.contains("etcd_password_file"), "{text}");
    let useless = EtcdOptions { ca_file: Some(PathBuf::from("/nowhere")), ..options };
    assert!(refused(&useless).await.to_string().contains("https://"));
}

/// A save whose answer was lost is made again.
/// P7: who ordered a deletion is for people; that it was ordered counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p7_an_order_of_somebody_who_cannot_be_told_stands() {
    if left_out() {
        return;
    }
    let etcd = Etcd::start().await;
    let store = open(&etcd.options(LONG)).await;
    let session = session();
    store.create(&session).await.unwrap();
    let id = session.head.id;
    let mut client = etcd.client().await;
    client.put(format!("/crus/live/orders/{id}"), r#""\u0000""#, None).await.unwrap();
    assert_eq!(store.deletion(id).await, Ok(Some(DeletionOrder { by: None })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_that_is_made_again_is_one() {
    if left_out() {
        return;
    }
    let etcd = Etcd::start().await;
    let store = open(&etcd.options(LONG)).await;
    for count in [3, 500] {
        let mut session = session();
        let id = session.head.id;
        let created = store.create(&session).await.unwrap();
        assert!(store.own(id).await.unwrap());
        let events = freeze(&mut session, count);
        let saved = store.save(&session, &events, created).await.unwrap();
        assert_eq!(store.save(&session, &events, created).await, Ok(saved));
        session.head.step = 1;
        let other = store.save(&session, &events, created).await;
        assert_eq!(other, Err(StoreError::Conflict(id)), "that is another one");
    }
}

// ---- large saves -----------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_nodes_are_stored_at_once_and_one_by_one() {
    if left_out() {
        return;
    }
    let etcd = Etcd::start().await;
    let store = open(&etcd.options(LONG)).await;
    let mut session = session();
    let id = session.head.id;
    let created = store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    let mut events = freeze(&mut session, 100_000);
    let nodes: Vec<_> = session.nodes.iter().map(|node| node.xname).collect();
    let what = Happening::Nodes { state: "pending".to_owned(), failure: None, nodes: nodes.clone() };
    session.head.entries = 1;
    events.push(Event::Entry(Entry { number: 1, at: Time(1), step: 0, what }));
    let begun = Instant::now();
    assert_eq!(store.claim(id, &nodes).await, Ok(Turn::Granted));
    println!("100,000 nodes claimed in {:?}", begun.elapsed());
    let begun = Instant::now();
    let mut revision = store.save(&session, &events, created).await.unwrap();
    println!("frozen in {:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(load(&store, id).await, (session.clone(), revision));
    println!("loaded in {:?}", begun.elapsed());
    let Happening::Nodes { nodes: told, .. } = store.history(id, 0, 1).await.unwrap().remove(0).what else {
        panic!("another entry");
    };
    assert_eq!(told, nodes);
    assert_eq!(store.nodes(id, 99_999, 10).await.unwrap(), session.nodes[99_999..]);

    let before = etcd.client().await.get("/crus/x", None).await.unwrap().header().unwrap().revision();
    session.nodes[77_777].state = NodeState::Draining;
    let begun = Instant::now();
    revision = store.save(&session, &[Event::Node(77_777)], revision).await.unwrap();
    println!("one node changed in {:?}", begun.elapsed());
    let mut client = etcd.client().await;
    let changed = GetOptions::new().with_prefix().with_keys_only().with_min_mod_revision(before + 1);
    let changed = client.get("/crus/sessions/", Some(changed)).await.unwrap();
    let changed: Vec<&str> = changed.kvs().iter().map(|kv| kv.key_str().unwrap()).collect();
    let session_key = format!("/crus/sessions/{id}");
    let expected = [format!("{session_key}/node/0000077777"), format!("{session_key}/revision")];
    assert_eq!(changed, expected, "nothing else is written");
    assert_eq!(load(&store, id).await, (session, revision));

    let begun = Instant::now();
    store.remove(id).await.unwrap();
    println!("removed in {:?}", begun.elapsed());
    let left = keys(&mut client, "/crus/").await;
    assert_eq!(left, ["/crus/format", "/crus/turn"], "nothing of it is left");
}

/// Polls a future so many times, and drops it then as a crash would; its output if it got that far.
async fn cut_off<T>(future: impl Future<Output = T>, polls: u64) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let mut left = polls;
    let polled = std::future::poll_fn(|context: &mut Context<'_>| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    });
    polled.await
}

/// Whatever a replica that dies in the middle of a large save has stored: it counts wholly or not at all, and whoever
/// takes the session over goes on from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_save_that_is_cut_off_counts_wholly_or_not_at_all() {
    if left_out() {
        return;
    }
    let seed = seed();
    let mut random = seed;
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    let (mut before, mut after, mut pending) = (0, 0, 0);
    for round in 0..40 {
        let dying = open(&etcd.options(LONG)).await;
        let mut old = session();
        let id = old.head.id;
        freeze(&mut old, 4_000);
        let created = dying.create(&old).await.unwrap();
        assert!(dying.own(id).await.unwrap());
        let mut new = old.clone();
        new.head.step = 1;
        for node in &mut new.nodes {
            node.state = NodeState::Draining;
        }
        let polls = draw(&mut random) % if round % 2 == 0 { 12 } else { 60 };
        let told = format!("seed {seed}, round {round}, cut off after {polls} polls");
        let done = cut_off(dying.save(&new, &[Event::Frozen, Event::Head], created), polls).await;
        // What was asked for a moment before may be carried out still.
        dying.close().await;

        let heir = open(&etcd.options(LONG)).await;
        assert!(heir.own(id).await.unwrap(), "{told}");
        let (mut session, mut revision) = load(&heir, id).await;
        let is_new = session.head.step == 1;
        assert_eq!(session, if is_new { new } else { old }, "{told}");
        assert!(done.is_none() || is_new, "{told}");
        *(if is_new { &mut after } else { &mut before }) += 1;
        let summary = heir.summary(id).await.unwrap().unwrap();
        assert_eq!(summary.head, session.head, "{told}");
        let staged = format!("/crus/sessions/{id}/staged/");
        let is_pending = !keys(&mut client, &format!("/crus/sessions/{id}/pending")).await.is_empty();
        pending += u32::from(is_pending);
        if !is_pending {
            assert_eq!(keys(&mut client, &staged).await, [""; 0], "{told}: what does not count is removed");
        }

        session.nodes[17].state = NodeState::Released;
        revision = heir.save(&session, &[Event::Node(17)], revision).await.unwrap();
        assert_eq!(load(&heir, id).await, (session, revision), "{told}");
        assert_eq!(keys(&mut client, &staged).await, [""; 0], "{told}");
        heir.remove(id).await.unwrap();
        heir.close().await;
    }
    println!(
        "{before} did not count, {after} did, {pending} of them were put in their place by the next owner"
    );
    assert!(before > 0 && after > 0, "seed {seed}: the moments were all alike");
}

// ---- leases ----------------------------------------------------------------------------------------------

/// P3: who is cut off knows by its own clock, before another can own the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p3_a_lease_that_cannot_be_renewed_ends_here_before_it_ends_there() {
    if left_out() {
        return;
    }
    let mut etcd = Etcd::start().await;
    let store = open(&etcd.options(SHORT)).await;
    let another = open(&etcd.options(SHORT)).await;
    let session = session();
    let id = session.head.id;
    store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());

    etcd.stop();
    in_time("the lease ended", store.disowned(id)).await;
    assert!(!store.owns(id), "and nobody could tell");
    let says = "there is no lease in etcd at the moment: etcd cannot be reached: ";
    let told = async || matches!(store.own(id).await, Err(StoreError::Failed(why)) if why.starts_with(says));
    until("told why there is none", told).await;
    assert!(store.load(id).await.is_err(), "in bounded time");

    etcd.start_again().await;
    let owned = async || {
        let (one, two) = (store.own(id).await, another.own(id).await);
        assert!(!(store.owns(id) && another.owns(id)), "at most one");
        [one, two].contains(&Ok(true))
    };
    until("somebody owns it again", owned).await;
}

/// A process that was stopped is told of nothing: the clock must be asked first. Here nothing runs beside the test, so
/// that no timer has fired yet.
#[tokio::test]
async fn p3_the_end_of_a_lease_is_noticed_before_any_timer_fires() {
    if left_out() {
        return;
    }
    let etcd = Etcd::start().await;
    let store = open(&etcd.options(SHORT)).await;
    let session = session();
    let id = session.head.id;
    store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    let mut disowned = std::pin::pin!(store.disowned(id));
    let mut noop = Context::from_waker(Waker::noop());
    assert!(disowned.as_mut().poll(&mut noop).is_pending());
    assert!(store.owns(id));
    // The only thread of the runtime sleeps, as a process does that got SIGSTOP.
    std::thread::sleep(Duration::from_secs(SHORT));
    assert!(!store.owns(id));
    assert!(disowned.as_mut().poll(&mut noop).is_ready());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_closed_is_free_for_others_at_once() {
    if left_out() {
        return;
    }
    let etcd = Etcd::start().await;
    let (leaving, staying) = (open(&etcd.options(LONG)).await, open(&etcd.options(LONG)).await);
    let session = session();
    let id = session.head.id;
    leaving.create(&session).await.unwrap();
    assert!(leaving.own(id).await.unwrap());
    assert_eq!(staying.own(id).await, Ok(false));
    let mut changes = staying.changes().await.unwrap();
    leaving.close().await;
    assert!(!leaving.owns(id));
    assert_eq!(in_time("told", changes.next()).await, Ok(Change::Unowned(id)));
    assert_eq!(staying.own(id).await, Ok(true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_given_up_is_once_etcd_answers_again() {
    if left_out() {
        return;
    }
    let etcd = Etcd::start().await;
    // Long enough not to end, and renewed often enough to be seen by the test.
    let (leaving, staying) = (open(&etcd.options(30)).await, open(&etcd.options(30)).await);
    let session = session();
    let id = session.head.id;
    leaving.create(&session).await.unwrap();
    assert!(leaving.own(id).await.unwrap());
    etcd.pause();
    let error = leaving.disown(id).await.unwrap_err();
    assert!(matches!(error, StoreError::Failed(_)), "{error}");
    assert!(!leaving.owns(id));
    etcd.go_on();
    until("given up", async || staying.own(id).await == Ok(true)).await;
}

// ---- etcd comes and goes ---------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_a_restart_of_etcd_costs_nothing_but_time() {
    if left_out() {
        return;
    }
    let mut etcd = Etcd::start().await;
    let store = open(&etcd.options(LONG)).await;
    let mut session = session();
    let id = session.head.id;
    let mut revision = store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    let mut changes = store.changes().await.unwrap();
    etcd.stop();
    let why = store.load(id).await.unwrap_err();
    assert!(matches!(&why, StoreError::Failed(text) if text.contains("etcd cannot be reached")), "{why}");
    assert_eq!(store.load(id).await, Err(why), "the same text each time");
    in_time("the watch ends", async { while changes.next().await.is_ok() {} }).await;
    etcd.start_again().await;

    assert!(store.owns(id), "the lease is longer than that");
    session.head.step = 1;
    revision = store.save(&session, &[Event::Head], revision).await.unwrap();
    assert_eq!(load(&store, id).await, (session.clone(), revision));
    let mut changes = store.changes().await.unwrap();
    store.order_deletion(id, None).await.unwrap();
    assert_eq!(in_time("told", changes.next()).await, Ok(Change::DeletionOrdered(id)));
}

/// Of several members one is down, and another one accepts connections and says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_members_of_etcd_that_are_down_or_silent_are_passed_over() {
    if left_out() {
        return;
    }
    let etcd = Etcd::start().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = (format!("http://{}", silent.local_addr().unwrap()), silent);
    let down = "http://127.0.0.1:1".to_owned();
    for other in [down, silent.0] {
        let options = EtcdOptions { endpoints: vec![other, etcd.endpoint()], ..etcd.options(SHORT) };
        let store = open(&options).await;
        let mut session = session();
        let id = session.head.id;
        let mut revision = store.create(&session).await.unwrap();
        assert!(store.own(id).await.unwrap());
        let _changes = store.changes().await.unwrap();
        let begun = Instant::now();
        // For longer than a lease.
        while begun.elapsed() < Duration::from_secs(2 * SHORT) {
            assert!(store.owns(id));
            session.head.step += 1;
            revision = store.save(&session, &[Event::Head], revision).await.unwrap();
        }
        assert_eq!(load(&store, id).await, (session, revision));
    }
}

/// The connection stays open, and nothing comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_an_etcd_that_falls_silent_is_noticed_and_found_again() {
    if left_out() {
        return;
    }
    let etcd = Etcd::start().await;
    let store = open(&etcd.options(SHORT)).await;
    let session = session();
    let id = session.head.id;
    store.create(&session).await.unwrap();
    let mut changes = store.changes().await.unwrap();
    etcd.pause();
    let error = in_time("the silence noticed", changes.next()).await.unwrap_err();
    assert!(matches!(error, StoreError::Failed(_)), "{error}");
    assert!(store.load(id).await.is_err(), "in bounded time");
    etcd.go_on();
    assert_eq!(load(&store, id).await.0, session);
    let mut changes = store.changes().await.unwrap();
    store.order_deletion(id, None).await.unwrap();
    assert_eq!(in_time("told", changes.next()).await, Ok(Change::DeletionOrdered(id)));
}

/// Nothing changes for longer than a connection may be silent, and old revisions are removed meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_store_is_followed_on() {
    if left_out() {
        return;
    }
    let etcd = Etcd::start().await;
    let store = open(&etcd.options(SHORT)).await;
    let session = session();
    let id = session.head.id;
    store.create(&session).await.unwrap();
    let mut changes = store.changes().await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_secs(3 * SHORT), changes.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    let mut client = etcd.client().await;
    let now = client.get("/crus/format", None).await.unwrap().header().unwrap().revision();
    client.compact(now, Some(CompactionOptions::new().with_physical())).await.unwrap();
    store.order_deletion(id, None).await.unwrap();
    assert_eq!(in_time("told", changes.next()).await, Ok(Change::DeletionOrdered(id)));
    assert_eq!(load(&store, id).await.0, session);
}

// ---- who we are ------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_and_a_password_let_us_in_and_the_password_is_never_told() {
    if left_out() {
        return;
    }
    const PASSWORD: &str = "Tr0ub4dor&3";
    let mut etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    client.role_add("crus").await.unwrap();
    let ours = etcd_client::Permission::new(PermissionType::Readwrite, "/crus/").with_prefix();
    client.role_grant_permission("crus", ours).await.unwrap();
    client.user_add("crus", PASSWORD, None).await.unwrap();
    client.user_grant_role("crus", "crus").await.unwrap();
    client.user_add("root", "root", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let anonymous = etcd.options(LONG);
    let options =
        EtcdOptions { user: Some("crus".to_owned()), password_file: Some(file.clone()), ..anonymous.clone() };
    let error = refused(&anonymous).await;
    assert!(matches!(error, EtcdError::Refused { .. }), "{error}");
    let store = open(&options).await;
    let session = session();
    let id = session.head.id;
    store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    let mut changes = store.changes().await.unwrap();
    store.order_deletion(id, None).await.unwrap();
    assert_eq!(in_time("told", changes.next()).await, Ok(Change::DeletionOrdered(id)));

    // It forgets who we are.
    etcd.stop();
    etcd.start_again().await;
    assert_eq!(load(&store, id).await.0, session);
    assert!(store.changes().await.is_ok());

    // The password is replaced: in etcd first, then in the file.
    const REPLACED: &str = "C0rrect-h0rse";
    let admin = ConnectOptions::new().with_user("root", "root");
    let mut admin = Client::connect([etcd.endpoint()], Some(admin)).await.unwrap();
    admin.user_change_password("crus", REPLACED).await.unwrap();
    let error = store.load(id).await.unwrap_err();
    assert!(matches!(&error, StoreError::Failed(text) if text.contains("etcd refused")), "{error}");
    std::fs::write(&file, REPLACED).unwrap();
    until("let in with the new password", async || store.load(id).await.is_ok()).await;
    assert!(store.own(id).await.unwrap());
    assert!(store.changes().await.is_ok());

    let elsewhere = EtcdOptions { prefix: "/elsewhere/".to_owned(), ..options.clone() };
    let error = refused(&elsewhere).await;
    assert!(
        matches!(error, EtcdError::Refused { .. }) && error.to_string().contains("/elsewhere/"),
        "{error}"
    );
    std::fs::write(&file, format!("{PASSWORD}x")).unwrap();
    let error = refused(&options).await;
    assert!(matches!(error, EtcdError::Refused { .. }), "{error}");
    let told = format!("{error} {error:?} {options:?}");
    assert!(!told.contains(PASSWORD) && !told.contains(REPLACED), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_let_us_in() {
    if left_out() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tls = certificates(&folder.path().join("ours"));
    let others = certificates(&folder.path().join("others"));
    let etcd = Etcd::start_with(Some(tls.clone())).await;
    let with = |tls: &Tls, ours: Option<&Tls>| EtcdOptions {
        ca_file: Some(tls.ca.clone()),
        cert_file: ours.map(|tls| tls.cert.clone()),
        key_file: ours.map(|tls| tls.key.clone()),
        ..etcd.options(LONG)
    };
    let store = open(&with(&tls, Some(&tls))).await;
    let session = session();
    store.create(&session).await.unwrap();
    assert_eq!(load(&store, session.head.id).await.0, session);

    let error = refused(&with(&others, Some(&others))).await;
    assert!(error.to_string().contains("certificate"), "{error}");
    refused(&with(&tls, None)).await;
    refused(&with(&tls, Some(&others))).await;
}

/// A CA, and a certificate by it for 127.0.0.1.
fn certificates(folder: &Path) -> Tls {
    std::fs::create_dir(folder).unwrap();
    let run = |args: &str| {
        let mut openssl = Command::new("openssl");
        openssl.args(args.split(' ')).current_dir(folder).stdin(Stdio::null());
        let output = openssl.output().expect("openssl makes the certificates (apt-get install openssl)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    run(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=ca"));
    run(&format!("req -new {key} -keyout key.pem -out cert.csr -subj /CN=crus"));
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    run(
        "x509 -req -in cert.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem",
    );
    let file = |name: &str| folder.join(name);
    Tls { ca: file("ca.pem"), cert: file("cert.pem"), key: file("key.pem") }
}
