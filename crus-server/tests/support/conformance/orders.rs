//! Commands, histories, nodes in pages, and a session that begins anew: what every session store must do with them.

use crus_core::claims::Turn;
use crus_core::history::{ENTRIES_MAX, Entry, Happening};
use crus_core::machine::Event;
use crus_core::model::{Command, DeletionOrder, NumberedCommand, Phase, Session, Stage, UpgradeId};
use crus_core::ports::{Change, Revision, SessionStore, StoreError};
use crus_core::{Actor, Time, Xname};

use super::{end, freeze, in_time, load, next, said, session, session_apart};

pub(crate) async fn conforms(store: &dyn SessionStore) {
    notes_commands_in_order(store).await;
    keeps_who_ordered_what(store).await;
    drops_commands_that_were_taken_in(store).await;
    tells_nodes_in_pages(store).await;
    keeps_a_history(store).await;
    keeps_the_latest_entries_alone(store).await;
    gives_a_session_that_begins_anew_the_last_place(store).await;
    notes_what_was_delivered(store).await;
    removes_orders_and_history_with_the_session(store).await;
    removes_a_finished_session_unless_anything_is_ordered(store).await;
    removes_a_finished_session_or_takes_an_order_for_it(store).await;
}

async fn noted(store: &dyn SessionStore, id: UpgradeId) -> Vec<Command> {
    let commands = store.commands(id).await.unwrap();
    assert!(commands.is_sorted_by(|one, next| one.number < next.number), "numbers rise: {commands:?}");
    let summary = store.summary(id).await.unwrap();
    let commands: Vec<_> = commands.into_iter().map(|noted| (noted.number, noted.command)).collect();
    assert_eq!(
        summary.map(|summary| summary.commands).unwrap_or_default(),
        commands,
        "a summary tells them too"
    );
    commands.into_iter().map(|(_, command)| command).collect()
}

async fn keeps_who_ordered_what(store: &dyn SessionStore) {
    let session = session();
    let id = session.head.id;
    let (ada, grace) = ("ada".parse::<Actor>().unwrap(), "Grace \u{2615} Hopper".parse::<Actor>().unwrap());
    store.create(&session).await.unwrap();
    assert_eq!(store.deletion(id).await, Ok(None));
    let number = store.command(id, Command::Pause, Some(&ada)).await.unwrap();
    assert_eq!(store.command(id, Command::Pause, Some(&grace)).await, Ok(number), "the first is kept");
    store.command(id, Command::Resume, Some(&grace)).await.unwrap();
    store.command(id, Command::Pause, None).await.unwrap();
    let orders = store.commands(id).await.unwrap().into_iter().map(|noted| noted.by);
    assert_eq!(orders.collect::<Vec<_>>(), [Some(ada.clone()), Some(grace.clone()), None]);

    store.order_deletion(id, Some(&grace)).await.unwrap();
    store.order_deletion(id, Some(&ada)).await.unwrap();
    let order = DeletionOrder { by: Some(grace) };
    assert_eq!(store.deletion(id).await, Ok(Some(order)), "the first is kept");
    store.remove(id).await.unwrap();
    assert_eq!(store.deletion(id).await, Ok(None));

    // Where nobody was asked the first time, nobody it is.
    store.create(&session).await.unwrap();
    store.order_deletion(id, None).await.unwrap();
    store.order_deletion(id, Some(&ada)).await.unwrap();
    assert_eq!(store.deletion(id).await, Ok(Some(DeletionOrder { by: None })));
    store.remove(id).await.unwrap();
}

async fn notes_commands_in_order(store: &dyn SessionStore) {
    let session = session();
    let id = session.head.id;
    assert_eq!(store.command(id, Command::Pause, None).await, Ok(None), "there is no such session");
    assert_eq!(store.commands(id).await, Ok(Vec::new()));
    let revision = store.create(&session).await.unwrap();
    let (pause, resume, retry) = (Command::Pause, Command::Resume, Command::Retry);
    let mut numbers = Vec::new();
    for command in [pause, pause, resume, pause, retry, retry] {
        numbers.push(store.command(id, command, None).await.unwrap().unwrap());
    }
    assert_eq!(
        noted(store, id).await,
        [pause, resume, pause, retry],
        "what equals the latest changes nothing"
    );
    assert!(numbers[0] == numbers[1] && numbers[4] == numbers[5], "{numbers:?}");
    numbers.dedup();
    assert!(numbers.is_sorted() && numbers.len() == 4 && numbers[0] > 0, "{numbers:?}");
    assert_eq!(load(store, id).await, (session, revision), "a command does not disturb who runs the session");
}

/// Takes in everything up to this number, as who runs the session does.
async fn take_in(
    store: &dyn SessionStore,
    session: &mut Session,
    number: u64,
    revision: Revision,
) -> Revision {
    session.head.commands = number;
    store.save(session, &[Event::Head], revision).await.unwrap()
}

async fn drops_commands_that_were_taken_in(store: &dyn SessionStore) {
    let mut session = session();
    let id = session.head.id;
    let mut revision = store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    let mut latest = 0;
    for round in 0..3 {
        for command in [Command::Pause, Command::Resume, Command::Retry] {
            let number = store.command(id, command, None).await.unwrap().unwrap();
            assert!(number > latest, "round {round}: greater than any before, also than those taken in");
            latest = number;
        }
        let commands = store.commands(id).await.unwrap();
        revision = take_in(store, &mut session, commands[1].number, revision).await;
        assert_eq!(noted(store, id).await, [Command::Retry], "round {round}");
        session.messages.push(said("something else"));
        let last = session.messages.len() - 1;
        revision = store.save(&session, &[Event::Message(last)], revision).await.unwrap();
        assert_eq!(noted(store, id).await, [Command::Retry], "it is not taken in yet");
        revision = take_in(store, &mut session, latest, revision).await;
        assert_eq!(noted(store, id).await, [], "round {round}");
    }
    // The latest was a retry: another one is another one.
    let again = store.command(id, Command::Retry, None).await.unwrap().unwrap();
    assert!(again > session.head.commands);
    assert_eq!(noted(store, id).await, [Command::Retry]);
}

async fn tells_nodes_in_pages(store: &dyn SessionStore) {
    let mut session = session();
    let id = session.head.id;
    assert_eq!(store.nodes(id, 0, 10).await, Ok(Vec::new()), "there is no such session");
    let revision = store.create(&session).await.unwrap();
    assert_eq!(store.nodes(id, 0, 10).await, Ok(Vec::new()), "its nodes are not frozen");
    assert!(store.own(id).await.unwrap());
    let events = freeze(&mut session, 2345);
    let mut revision = store.save(&session, &events, revision).await.unwrap();
    for (from, count) in [(0, 1), (0, 1000), (1000, 1000), (2000, 1000), (2344, 1), (7, 0), (0, usize::MAX)] {
        let expected: Vec<_> = session.nodes.iter().skip(from).take(count).cloned().collect();
        assert_eq!(store.nodes(id, from, count).await, Ok(expected), "{count} from {from}");
    }
    for from in [2345, 99_999, usize::MAX] {
        assert_eq!(store.nodes(id, from, 10).await, Ok(Vec::new()));
    }
    session.nodes[1500].attempt = 3;
    revision = store.save(&session, &[Event::Node(1500)], revision).await.unwrap();
    assert_eq!(store.nodes(id, 1500, 1).await.unwrap()[0].attempt, 3);
    assert_eq!(load(store, id).await, (session, revision));
    store.remove(id).await.unwrap();
    assert_eq!(store.nodes(id, 0, 10).await, Ok(Vec::new()));
}

/// Adds entries to the history of a session, and tells the events of it.
fn entries(session: &mut Session, count: u64) -> Vec<Event> {
    let first = session.head.entries + 1;
    session.head.entries += count;
    let entry = |number: u64| {
        let what = match number % 3 {
            0 => Happening::Stage { stage: Stage::Booting },
            1 => Happening::Message { text: format!("message {number}") },
            _ => {
                let nodes = session.nodes.iter().map(|node| node.xname).collect();
                Happening::Nodes { state: "draining".to_owned(), failure: None, nodes }
            }
        };
        Event::Entry(Entry { number, at: Time(number), step: 2, what })
    };
    (first..first + count).map(entry).collect()
}

fn told(events: &[Event]) -> Vec<Entry> {
    let entries = events.iter().filter_map(|event| match event {
        Event::Entry(entry) => Some(entry.clone()),
        _ => None,
    });
    entries.collect()
}

async fn keeps_a_history(store: &dyn SessionStore) {
    let mut session = session();
    freeze(&mut session, 3);
    let id = session.head.id;
    assert_eq!(store.history(id, 0, 10).await, Ok(Vec::new()), "there is no such session");
    let mut revision = store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    assert_eq!(store.history(id, 0, 10).await, Ok(Vec::new()));
    let mut all = Vec::new();
    // One by one, as many as one transaction takes, and more; with other changes and without.
    for count in [1, 2, 90, 700] {
        let mut events = entries(&mut session, count);
        all.extend(told(&events));
        if count == 2 {
            session.messages.push(said("a message"));
            events.push(Event::Message(0));
        }
        revision = store.save(&session, &events, revision).await.unwrap();
        assert_eq!(store.history(id, 0, usize::MAX).await, Ok(all.clone()), "after {count} more");
    }
    assert_eq!(load(store, id).await, (session, revision));
    for (after, count) in [(0, 1), (5, 10), (90, 700), (792, 10), (700, 0), (0, 793)] {
        let expected: Vec<_> = all.iter().skip(after).take(count).cloned().collect();
        let after = after as u64;
        assert_eq!(store.history(id, after, count).await, Ok(expected), "{count} after {after}");
    }
    for after in [793, 99_999, u64::MAX] {
        assert_eq!(store.history(id, after, 10).await, Ok(Vec::new()));
    }
}

async fn keeps_the_latest_entries_alone(store: &dyn SessionStore) {
    let mut session = session();
    let id = session.head.id;
    let mut revision = store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    let mut latest = Vec::new();
    for count in [4000, 5999, 1, 1, 2500] {
        let events = entries(&mut session, count);
        latest.extend(told(&events));
        revision = store.save(&session, &events, revision).await.unwrap();
        let beyond = latest.len().saturating_sub(usize::try_from(ENTRIES_MAX).unwrap());
        latest.drain(..beyond);
        let number = session.head.entries;
        assert_eq!(store.history(id, 0, 3).await.unwrap(), latest[..3], "{number} entries");
        assert_eq!(store.history(id, number - 3, 9).await.unwrap(), latest[latest.len() - 3..]);
    }
    assert_eq!(store.history(id, 0, usize::MAX).await, Ok(latest), "the rest is gone");
    store.remove(id).await.unwrap();
}

async fn gives_a_session_that_begins_anew_the_last_place(store: &dyn SessionStore) {
    let nodes: [Xname; 1] = ["x9c3s0b0n0".parse().unwrap()];
    let (mut first, second, third) =
        (session_apart("anew-a"), session_apart("anew-b"), session_apart("anew-c"));
    let ids = [&first, &second, &third].map(|session| session.head.id);
    for session in [&first, &second] {
        store.create(session).await.unwrap();
        assert!(store.own(session.head.id).await.unwrap());
    }
    assert_eq!(store.claim(ids[0], &nodes).await, Ok(Turn::Granted));
    end(store, first.clone()).await;

    // It begins anew, and one that was created later is before it now; one that comes still later is not.
    let revision = load(store, ids[0]).await.1;
    first.head.phase = Phase::Created;
    let events = [Event::Phase(Phase::Created), Event::Head];
    let revision = store.save(&first, &events, revision).await.unwrap();
    store.create(&third).await.unwrap();
    assert!(store.own(ids[2]).await.unwrap());
    assert_eq!(store.claim(ids[1], &nodes).await, Ok(Turn::Granted));
    let why = store.claim(ids[0], &nodes).await.unwrap().waits_for().unwrap();
    assert!(why.contains(&ids[1].to_string()), "{why}");
    let why = store.claim(ids[2], &nodes).await.unwrap().waits_for().unwrap();
    assert!(why.contains(&ids[1].to_string()), "{why}");
    end(store, second).await;
    let why = store.claim(ids[2], &nodes).await.unwrap().waits_for().unwrap();
    assert!(why.contains(&ids[0].to_string()), "{why}");
    assert_eq!(store.claim(ids[0], &nodes).await, Ok(Turn::Granted));

    // Its claim goes with its second end.
    first.head.phase = Phase::Done;
    store.save(&first, &[Event::Phase(Phase::Done)], revision).await.unwrap();
    assert_eq!(store.claim(ids[2], &nodes).await, Ok(Turn::Granted));
    assert_ne!(store.claim(ids[0], &nodes).await.unwrap(), Turn::Granted, "what is done claims nothing");
    for id in ids {
        store.remove(id).await.unwrap();
    }
}

async fn notes_what_was_delivered(store: &dyn SessionStore) {
    let mut session = session();
    let id = session.head.id;
    assert_eq!(store.delivered(id).await, Ok(None), "there is no such session");
    let created = store.create(&session).await.unwrap();
    assert!(store.own(id).await.unwrap());
    assert_eq!(store.delivered(id).await, Ok(None));
    for number in [0, 17, 12_345] {
        store.set_delivered(id, number).await.unwrap();
        assert_eq!(store.delivered(id).await, Ok(Some(number)));
    }
    session.head.step = 1;
    store.save(&session, &[Event::Head], created).await.expect("it does not disturb who runs the session");
    assert_eq!(store.delivered(id).await, Ok(Some(12_345)));
    store.remove(id).await.unwrap();
    assert_eq!(store.delivered(id).await, Ok(None));
    assert_eq!(store.set_delivered(id, 1).await, Err(StoreError::NotOwner(id)));
    assert_eq!(store.delivered(id).await, Ok(None), "it does not come back");
}

async fn removes_orders_and_history_with_the_session(store: &dyn SessionStore) {
    let mut removed = session();
    freeze(&mut removed, 5);
    let id = removed.head.id;
    let revision = store.create(&removed).await.unwrap();
    assert!(store.own(id).await.unwrap());
    let bare = removed.clone();
    let events = entries(&mut removed, 20);
    store.save(&removed, &events, revision).await.unwrap();
    store.command(id, Command::Pause, None).await.unwrap().unwrap();

    store.remove(id).await.unwrap();
    assert_eq!(noted(store, id).await, []);
    assert_eq!(store.history(id, 0, 10).await, Ok(Vec::new()));
    assert_eq!(store.command(id, Command::Retry, None).await, Ok(None), "it does not come back");

    let mut again = bare;
    again.head.entries = 30;
    store.create(&again).await.unwrap();
    assert_eq!(noted(store, id).await, [], "nothing of the old one is left under its id");
    assert_eq!(store.history(id, 0, 40).await, Ok(Vec::new()), "nor of its history");
    store.remove(id).await.unwrap();
}

/// P4, P7: who wants finished sessions gone decided so before, and somebody may have retried one of them since.
async fn removes_a_finished_session_unless_anything_is_ordered(store: &dyn SessionStore) {
    let (mut retried, deleted) = (session_apart("finished-a"), session_apart("finished-b"));
    let nodes: [Xname; 1] = ["x9c4s0b0n0".parse().unwrap()];
    for session in [&retried, &deleted] {
        let id = session.head.id;
        store.create(session).await.unwrap();
        assert!(store.own(id).await.unwrap());
        assert_eq!(store.remove_finished(id).await, Ok(false), "it is not done");
        end(store, session.clone()).await;
        store.disown(id).await.unwrap();
    }
    let id = retried.head.id;
    let retry = store.command(id, Command::Retry, None).await.unwrap().unwrap();
    assert_eq!(store.remove_finished(id).await, Ok(false), "it was retried");
    assert_eq!(noted(store, id).await, [Command::Retry]);

    // It begins anew. What it has taken in may be noted for a while.
    assert!(store.own(id).await.unwrap());
    (retried.head.phase, retried.head.commands) = (Phase::Created, retry);
    let revision = load(store, id).await.1;
    let events = [Event::Phase(Phase::Created), Event::Head];
    store.save(&retried, &events, revision).await.unwrap();
    assert_eq!(store.remove_finished(id).await, Ok(false), "it is at work");
    assert_eq!(load(store, id).await.0, retried);
    assert!(store.owns(id));
    assert_eq!(store.claim(id, &nodes).await, Ok(Turn::Granted));
    end(store, retried).await;
    assert_eq!(store.remove_finished(id).await, Ok(true), "it is done, and runs nowhere else");
    assert_eq!(store.load(id).await, Ok(None));
    assert!(!store.ids().await.unwrap().contains(&id));
    assert_eq!(store.remove_finished(id).await, Ok(true), "it is gone");

    let id = deleted.head.id;
    store.order_deletion(id, None).await.unwrap();
    assert_eq!(store.remove_finished(id).await, Ok(false), "who deletes it tells so");
    assert!(store.load(id).await.unwrap().is_some());
    store.remove(id).await.unwrap();
}

/// Likewise when both come at once: nobody is told that a session is retried that goes.
async fn removes_a_finished_session_or_takes_an_order_for_it(store: &dyn SessionStore) {
    for round in 0..20 {
        let mut session = session();
        session.head.phase = Phase::Done;
        let id = session.head.id;
        store.create(&session).await.unwrap();
        let (gone, retried) =
            tokio::join!(store.remove_finished(id), store.command(id, Command::Retry, None));
        let (gone, retried) = (gone.unwrap(), retried.unwrap());
        assert_ne!(gone, retried.is_some(), "round {round}");
        assert_eq!(gone, store.load(id).await.unwrap().is_none(), "round {round}");
        store.remove(id).await.unwrap();
    }
}

// ---- several replicas ------------------------------------------------------------------------------------

pub(crate) async fn replicas_conform(one: &dyn SessionStore, two: &dyn SessionStore) {
    tells_commands_to_other_replicas(one, two).await;
    notes_commands_of_several_replicas(one, two).await;
    keeps_commands_when_another_takes_over(one, two).await;
    leaves_a_finished_session_to_its_owner(one, two).await;
}

async fn leaves_a_finished_session_to_its_owner(one: &dyn SessionStore, two: &dyn SessionStore) {
    let session = session();
    let id = session.head.id;
    one.create(&session).await.unwrap();
    assert!(one.own(id).await.unwrap());
    end(one, session).await;
    assert_eq!(two.remove_finished(id).await, Ok(false));
    assert!(one.owns(id) && one.load(id).await.unwrap().is_some());
    one.disown(id).await.unwrap();
    assert_eq!(two.remove_finished(id).await, Ok(true));
    assert_eq!(one.load(id).await, Ok(None));
}

async fn tells_commands_to_other_replicas(one: &dyn SessionStore, two: &dyn SessionStore) {
    let mut session = session();
    let id = session.head.id;
    let revision = one.create(&session).await.unwrap();
    assert!(one.own(id).await.unwrap());
    let mut changes = one.changes().await.unwrap();
    let number = two.command(id, Command::Pause, None).await.unwrap().unwrap();
    assert_eq!(next(&mut changes, id).await, Change::Commanded(id));
    assert_eq!(
        one.commands(id).await,
        Ok(vec![NumberedCommand { number, command: Command::Pause, by: None }])
    );
    assert_eq!(one.command(id, Command::Pause, None).await, Ok(Some(number)), "whoever asks again");
    take_in(one, &mut session, number, revision).await;
    // Neither that nor what changed nothing is told as a command.
    assert_eq!(next(&mut changes, id).await, Change::Session(id));
    assert_eq!(noted(two, id).await, []);
    two.command(id, Command::Resume, None).await.unwrap().unwrap();
    assert_eq!(next(&mut changes, id).await, Change::Commanded(id));
    one.remove(id).await.unwrap();
}

async fn notes_commands_of_several_replicas(one: &dyn SessionStore, two: &dyn SessionStore) {
    let mut session = session();
    let id = session.head.id;
    let mut revision = one.create(&session).await.unwrap();
    assert!(one.own(id).await.unwrap());
    let mut latest = 0;
    for round in 0..10 {
        let (a, b, c, d) = in_time("commands noted at once", async {
            tokio::join!(
                one.command(id, Command::Pause, None),
                two.command(id, Command::Resume, None),
                one.command(id, Command::Retry, None),
                two.command(id, Command::Pause, None),
            )
        })
        .await;
        let given = [a, b, c, d].map(|number| number.unwrap().unwrap());
        let commands = one.commands(id).await.unwrap();
        assert_eq!(two.commands(id).await.unwrap(), commands, "round {round}");
        assert!(commands.iter().all(|noted| noted.number > latest), "round {round}: {commands:?}");
        assert!(
            commands
                .windows(2)
                .all(|pair| pair[0].number < pair[1].number && pair[0].command != pair[1].command),
            "{commands:?}"
        );
        for number in given {
            assert!(commands.iter().any(|noted| noted.number == number), "round {round}: {number} is lost");
        }
        latest = commands.last().unwrap().number;
        revision = take_in(one, &mut session, latest, revision).await;
        assert_eq!(noted(two, id).await, [], "round {round}");
    }
    one.remove(id).await.unwrap();
}

async fn keeps_commands_when_another_takes_over(one: &dyn SessionStore, two: &dyn SessionStore) {
    let mut session = session();
    let id = session.head.id;
    let revision = one.create(&session).await.unwrap();
    assert!(one.own(id).await.unwrap());
    let first = one.command(id, Command::Pause, None).await.unwrap().unwrap();
    let second = two.command(id, Command::Resume, None).await.unwrap().unwrap();
    let revision = take_in(one, &mut session, first, revision).await;
    one.set_delivered(id, 7).await.unwrap();
    assert_eq!(two.set_delivered(id, 8).await, Err(StoreError::NotOwner(id)), "the owner does that");
    one.disown(id).await.unwrap();
    assert!(two.own(id).await.unwrap());
    assert_eq!(two.delivered(id).await, Ok(Some(7)));
    assert_eq!(load(two, id).await.0.head.commands, first);
    let left = NumberedCommand { number: second, command: Command::Resume, by: None };
    assert_eq!(two.commands(id).await, Ok(vec![left]));
    take_in(two, &mut session, second, revision).await;
    assert_eq!(noted(one, id).await, []);
    two.remove(id).await.unwrap();
}
