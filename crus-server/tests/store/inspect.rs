//! Looking into a store in a file: everything is told, what is wrong is named, and the file stays as it is.

use std::fs;
use std::path::{Path, PathBuf};

use crus_core::Time;
use crus_core::history::{Entry, Happening};
use crus_core::machine::Event;
use crus_core::model::{Command, Counts, NodeState, Session, UpgradeId};
use crus_core::ports::{DriverStore as _, SessionStore as _};
use crus_server::settings::Config;
use crus_server::store::RedbStore;
use crus_server::store::inspect::{self, InspectError, Report};
use redb::{ReadableTable as _, TableDefinition};
use serde_json::Value;
use uuid::Uuid;

use crate::support::chance::{draw, seed};

/// One session that waits and is to be deleted, one at work, one that is done.
const WAITING: UpgradeId = UpgradeId(Uuid::from_u128(1));
const ROLLING: UpgradeId = UpgradeId(Uuid::from_u128(2));
const DONE: UpgradeId = UpgradeId(Uuid::from_u128(3));

const HEADS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("heads");
const CLAIMS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("claims");
const NODES: TableDefinition<'_, (u128, u32), &[u8]> = TableDefinition::new("nodes");
const MESSAGES: TableDefinition<'_, (u128, u32), &[u8]> = TableDefinition::new("messages_2");
const HISTORY: TableDefinition<'_, (u128, u32), &[u8]> = TableDefinition::new("history");
const COMMANDS: TableDefinition<'_, (u128, u64), &[u8]> = TableDefinition::new("commands");
const DELIVERED: TableDefinition<'_, u128, u64> = TableDefinition::new("delivered");
const REVISIONS: TableDefinition<'_, u128, u64> = TableDefinition::new("revisions");

fn config(store: &Path) -> Config {
    Config { store: store.to_owned(), ..Config::default() }
}

async fn check(store: &Path) -> Report {
    inspect::check(&config(store)).await.unwrap()
}

async fn dump(store: &Path) -> Result<Vec<Value>, InspectError> {
    let mut text = Vec::new();
    inspect::dump(&config(store), &mut text).await?;
    let text = String::from_utf8(text).unwrap();
    Ok(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// A store with everything in it.
async fn store_at(path: &Path) -> RedbStore {
    fs::copy("tests/stored/format-2.redb", path).unwrap();
    let store = RedbStore::open(path).unwrap();
    let (mut session, revision) = store.load(ROLLING).await.unwrap().unwrap();
    let happenings = [
        Happening::Started { nodes: 4 },
        Happening::Nodes { state: "draining".into(), failure: None, nodes: vec![session.nodes[0].xname] },
        Happening::Message { text: "Quiesce requested".into() },
    ];
    let entries = (1..).zip(happenings).map(|(number, what)| Entry { number, at: Time(9), step: 0, what });
    let events: Vec<Event> = entries.map(Event::Entry).collect();
    session.head.entries = 3;
    store.save(&session, &events, revision).await.unwrap();
    store.command(ROLLING, Command::Pause, None).await.unwrap().unwrap();
    store.command(DONE, Command::Retry, None).await.unwrap().unwrap();
    store.set_delivered(ROLLING, 2).await.unwrap();
    store
}

fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

#[tokio::test]
async fn a_dump_holds_everything_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.redb");
    drop(store_at(&path).await);
    let before = fs::read(&path).unwrap();

    let lines = dump(&path).await.unwrap();
    assert_eq!(lines[0], serde_json::json!({"type": "store", "format": 3, "sessions": 3}));
    assert_eq!(lines[lines.len() - 1], serde_json::json!({"type": "end", "lines": lines.len() - 1}));
    let sessions = of_type(&lines, "session");
    assert_eq!(
        sessions.iter().map(|line| &line["deletion_ordered"]).collect::<Vec<_>>(),
        [true, false, false]
    );
    assert_eq!(sessions[1]["delivered"], 2);
    let count = |kind| of_type(&lines, kind).len();
    assert_eq!(["node", "message", "entry", "command", "claim"].map(count), [8, 4, 3, 2, 2]);
    assert_eq!(of_type(&lines, "command")[0]["command"], "pause");

    // What a session is can be had from it.
    let store = RedbStore::open(&path).unwrap();
    let session = store.load(ROLLING).await.unwrap().unwrap().0;
    drop(store);
    let own = |kind| of_type(&lines, kind).into_iter().filter(|line| line["id"] == ROLLING.to_string());
    let again: Session = serde_json::from_value(serde_json::json!({
        "head": sessions[1]["head"],
        "nodes": own("node").map(|line| &line["node"]).collect::<Vec<_>>(),
        "messages": own("message").map(|line| &line["message"]).collect::<Vec<_>>(),
    }))
    .unwrap();
    assert_eq!(again, session);

    fs::write(&path, &before).unwrap();
    assert_eq!(check(&path).await, Report { sessions: 3, nodes: 8, wrong: Vec::new() });
    assert!(fs::read(&path).unwrap() == before, "the file stays as it is");
}

#[tokio::test]
async fn stores_of_older_formats_and_of_a_killed_service_are_looked_into_and_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.redb");
    let store = store_at(&path).await;
    // As a service leaves it that is killed.
    let killed = folder.path().join("killed.redb");
    fs::copy(&path, &killed).unwrap();
    drop(store);
    let [first, second] = [1, 2].map(|format| PathBuf::from(format!("tests/stored/format-{format}.redb")));
    for path in [first, second, killed] {
        let before = fs::read(&path).unwrap();
        let report = check(&path).await;
        assert!(report.is_sound() && report.sessions == 3, "{}: {report:?}", path.display());
        assert_eq!(of_type(&dump(&path).await.unwrap(), "session").len(), 3);
        assert!(fs::read(&path).unwrap() == before, "{} was changed", path.display());
    }
}

#[tokio::test]
async fn a_store_that_is_open_is_said_to_be_and_none_is_created() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.redb");
    let error = inspect::check(&config(&path)).await.unwrap_err();
    assert!(matches!(error, InspectError::Missing { .. }), "{error}");
    assert!(error.to_string().contains("--store"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was created");

    let store = store_at(&path).await;
    for error in [inspect::check(&config(&path)).await.err(), dump(&path).await.err()] {
        let error = error.unwrap();
        assert!(matches!(error, InspectError::InUse { .. }), "{error}");
        assert!(error.to_string().contains("a service has it open; stop the service first"), "{error}");
    }
    store.command(ROLLING, Command::Resume, None).await.unwrap().unwrap();
    drop(store);
    assert!(check(&path).await.is_sound());

    fs::write(&path, "").unwrap();
    assert!(!check(&path).await.is_sound(), "an empty file is no store");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

/// P9: a damaged file never makes it panic, and is never changed.
#[tokio::test]
async fn a_damaged_file_is_told_or_all_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.redb");
    drop(store_at(&path).await);
    let whole = fs::read(&path).unwrap();
    let lines = dump(&path).await.unwrap();
    let mut random = seed();
    let (mut told, mut unharmed) = (0, 0);
    for i in 0..150 {
        let mut damaged = whole.clone();
        let at = usize::try_from(draw(&mut random)).unwrap() % whole.len();
        match draw(&mut random) % 4 {
            0 => damaged.truncate(at.max(1)),
            1 => damaged[at] ^= 1 << (draw(&mut random) % 8),
            2 => damaged[at / 4096 * 4096..][..4096].fill(0),
            _ => {
                let noise = std::iter::repeat_with(|| draw(&mut random).to_le_bytes()).flatten();
                damaged[at..].iter_mut().zip(noise.take(64)).for_each(|(byte, noise)| *byte = noise);
            }
        }
        fs::write(&path, &damaged).unwrap();
        let report = check(&path).await;
        if report.is_sound() {
            unharmed += 1;
            assert_eq!(dump(&path).await.unwrap(), lines, "damage {i} at {at}");
        } else {
            told += 1;
            assert!(report.wrong[0].to_string().contains("restore it from a backup"), "{:?}", report.wrong);
        }
        assert!(fs::read(&path).unwrap() == damaged, "damage {i} at {at}: the file was changed");
    }
    println!("{told} told, {unharmed} unharmed");
    assert!(told > 0 && unharmed > 0);
}

#[tokio::test]
async fn what_is_wrong_with_a_session_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.redb");
    drop(store_at(&path).await);
    let whole = fs::read(&path).unwrap();
    let [waiting, rolling, done] = [WAITING, ROLLING, DONE].map(|id| id.0.as_u128());
    type Damage = Box<dyn Fn(&redb::WriteTransaction)>;
    let head = |change: fn(&mut crus_core::model::Head)| -> Damage {
        Box::new(move |writing| {
            let mut heads = writing.open_table(HEADS).unwrap();
            let stored = heads.get(rolling).unwrap().unwrap().value().to_vec();
            let mut head = serde_json::from_slice(&stored).unwrap();
            change(&mut head);
            heads.insert(rolling, serde_json::to_vec(&head).unwrap().as_slice()).unwrap();
        })
    };
    let bytes =
        |table: TableDefinition<'static, (u128, u32), &'static [u8]>, key, value: &'static str| -> Damage {
            Box::new(move |writing| {
                let mut table = writing.open_table(table).unwrap();
                match value {
                    "" => _ = table.remove(key).unwrap(),
                    value => _ = table.insert(key, value.as_bytes()).unwrap(),
                }
            })
        };
    let claim = |id: u128, value: Option<&'static str>| -> Damage {
        Box::new(move |writing| {
            let mut claims = writing.open_table(CLAIMS).unwrap();
            match value {
                None => _ = claims.remove(id).unwrap(),
                Some(value) => _ = claims.insert(id, value.as_bytes()).unwrap(),
            }
        })
    };
    let other = r#"{"starting":"blue","upgrading":"up","failed":"other","granted":false,"nodes":""}"#;
    let entry = r#"{"number":2,"at":1,"step":0,"kind":"resumed"}"#;
    let cases: Vec<(UpgradeId, &str, Damage)> = vec![
        (
            ROLLING,
            "its head counts 4 draining",
            head(|head| {
                head.counts = Counts { draining: 4, ..Counts::default() };
            }),
        ),
        (ROLLING, "its step has node 17", head(|head| head.batch.push(17))),
        (ROLLING, "its head is that of session", head(|head| head.id = DONE)),
        (ROLLING, "7 of 10 entries of its history are missing", head(|head| head.entries = 10)),
        (ROLLING, "its history has entry 3, and its head knows 2", head(|head| head.entries = 2)),
        (ROLLING, "broken promise P1", head(|head| head.spec.step_size = 1.try_into().unwrap())),
        (ROLLING, "node 1 is missing", bytes(NODES, (rolling, 1), "")),
        (ROLLING, "node 2 of session", bytes(NODES, (rolling, 2), "{}")),
        (ROLLING, "message 0 is missing", bytes(MESSAGES, (rolling, 0), "")),
        (DONE, "message 1 of session", bytes(MESSAGES, (done, 1), "[")),
        (ROLLING, "entry 2 of its history is at place 3", bytes(HISTORY, (rolling, 3), entry)),
        (ROLLING, "place 1 of its history", bytes(HISTORY, (rolling, 1), "x")),
        (ROLLING, "it is not done, and has no claim", claim(rolling, None)),
        (ROLLING, "the claim of session", claim(rolling, Some("{}"))),
        (WAITING, "its claim is to other groups", claim(waiting, Some(other))),
        (DONE, "it is done, and has a claim", claim(done, Some(other))),
        (
            DONE,
            "broken promise P4",
            Box::new(move |writing| {
                let mut nodes = writing.open_table(NODES).unwrap();
                let stored = nodes.get((done, 0)).unwrap().unwrap().value().to_vec();
                let mut node: crus_core::model::Node = serde_json::from_slice(&stored).unwrap();
                node.state = NodeState::Pending;
                nodes.insert((done, 0), serde_json::to_vec(&node).unwrap().as_slice()).unwrap();
            }),
        ),
        (
            ROLLING,
            "command 77 of session",
            Box::new(move |writing| {
                writing
                    .open_table(COMMANDS)
                    .unwrap()
                    .insert((rolling, 77), b"\"explode\"".as_slice())
                    .unwrap();
            }),
        ),
        (
            ROLLING,
            "entry 9 was delivered, and its head knows 3",
            Box::new(move |writing| {
                writing.open_table(DELIVERED).unwrap().insert(rolling, 9).unwrap();
            }),
        ),
        (
            DONE,
            "parts of it are left",
            Box::new(move |writing| {
                writing.open_table(REVISIONS).unwrap().remove(done).unwrap();
            }),
        ),
        (
            DONE,
            "its head is missing",
            Box::new(move |writing| {
                writing.open_table(HEADS).unwrap().remove(done).unwrap();
            }),
        ),
    ];
    for (id, says, damage) in cases {
        fs::write(&path, &whole).unwrap();
        let database = redb::Database::open(&path).unwrap();
        let writing = database.begin_write().unwrap();
        damage(&writing);
        writing.commit().unwrap();
        drop(database);
        let report = check(&path).await;
        let named = |wrong: &inspect::Wrong| wrong.session == Some(id) && wrong.what.contains(says);
        assert!(report.wrong.iter().any(named), "{says:?} is not among {:#?}", report.wrong);
        assert!(
            report.wrong.iter().all(|wrong| wrong.session == Some(id)),
            "others are sound: {:#?}",
            report.wrong
        );
        let lines = dump(&path).await.unwrap();
        assert_eq!(of_type(&lines, "session").len(), 3, "{says:?}: a dump holds it all the same");
    }
}
