//! The store in a file, under hardship: its process is killed in the middle of a write, of a migration, of its
//! first opening; the disk is full. What was acknowledged is there, what was under way is there as a whole or
//! not at all.
//!
//! Writes are made by a process of its own, which is this program again, at the test [`writer`].

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use crus_core::history::{Entry, Happening};
use crus_core::machine::Event;
use crus_core::model::{Command as Order, Limits, Message, Node, NodeState, Phase, Session, Spec, UpgradeId};
use crus_core::ports::{DriverStore as _, SessionStore, StoreError};
use crus_core::{Time, Xname};
use crus_server::store::RedbStore;
use redb::{ReadableDatabase, ReadableTable, TableDefinition, TableHandle};
use uuid::Uuid;

use crate::support::chance::{draw, seed};
use crate::support::limits;
use crate::support::shortage::Disk;

/// The variable that makes [`writer`] write: the store, the [`Writes`] and the number of the first, in lines.
const WRITER: &str = "CRUS_TEST_STORE_WRITER";

/// Not a test by itself: the process that the tests kill.
#[test]
fn writer() {
    let Ok(asked) = env::var(WRITER) else { return };
    let asked: Vec<&str> = asked.lines().collect();
    write_for_ever(Path::new(asked[0]), Writes::named(asked[1]), asked[2].parse().unwrap());
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

// ---- what is written ---------------------------------------------------------------------------------------

/// Which writes are made.
#[derive(Clone, Copy)]
struct Writes {
    seed: u64,
    /// How many sessions there are at most: many need more and more room.
    sessions: usize,
}

impl Writes {
    /// Their name for the process that makes them.
    fn name(self) -> String {
        format!("{},{}", self.seed, self.sessions)
    }

    fn named(name: &str) -> Writes {
        let (seed, sessions) = name.split_once(',').unwrap();
        Writes { seed: seed.parse().unwrap(), sessions: sessions.parse().unwrap() }
    }
}

fn xname(n: u64) -> Xname {
    format!("x{}c{}s{}b{}n{}", 1000 + n / 128, n / 32 % 4, n / 4 % 8, n / 2 % 2, n % 2).parse().unwrap()
}

fn new_session(random: &mut u64, n: u64) -> Session {
    let labels = draw(random) % 4;
    let spec = Spec {
        starting: format!("starting-{labels}").parse().unwrap(),
        upgrading: format!("upgrading-{labels}").parse().unwrap(),
        failed: format!("failed-{labels}").parse().unwrap(),
        step_size: 2.try_into().unwrap(),
        template: "new-image".parse().unwrap(),
        tenant: None,
        strategy: crus_core::Strategy::default(),
    };
    let id = UpgradeId(Uuid::from_u64_pair(draw(random), n));
    let mut session = Session::new(id, spec, "1.0.0", Limits::default(), Time(n));
    // One of them is large, so that its write takes long and many pages.
    let nodes = if draw(random).is_multiple_of(8) { 3_000 } else { draw(random) % 40 };
    session.nodes = (0..nodes).map(|i| Node::new(xname(i), None, Time(n))).collect();
    session
}

/// The nth write: what it is follows from the seed, from `n` and from what is stored. At most one transaction.
async fn act(store: &RedbStore, writes: Writes, n: u64) -> Result<(), StoreError> {
    let mut random = writes.seed ^ n.wrapping_mul(0x2545_f491_4f6c_dd1d);
    let random = &mut random;
    let mut ids = store.ids().await?;
    ids.sort();
    let kind = draw(random) % 16;
    if ids.is_empty() || (kind < 3 && ids.len() < writes.sessions) {
        store.create(&new_session(random, n)).await?;
        return Ok(());
    }
    let id = ids[usize::try_from(draw(random)).unwrap() % ids.len()];
    match kind {
        3 if !ids.len().is_multiple_of(3) => return store.remove(id).await,
        3 => return store.order_deletion(id, None).await,
        4 => {
            let first = draw(random) % 30;
            let nodes: Vec<Xname> = (first..first + draw(random) % 10).map(xname).collect();
            return store.claim(id, &nodes).await.map(drop);
        }
        12 | 13 => {
            let commands = [Order::Pause, Order::Resume, Order::Retry];
            let command = commands[usize::try_from(draw(random)).unwrap() % commands.len()];
            return store.command(id, command, None).await.map(drop);
        }
        14 => return store.set_delivered(id, n).await,
        _ => {}
    }
    let (mut session, revision) = store.load(id).await?.unwrap();
    let mut events = vec![Event::Head];
    session.head.step = u32::try_from(n).unwrap();
    match kind {
        5 => session.head.phase = Phase::Done,
        15 => {
            session.head.commands = store.commands(id).await?.last().map_or(0, |noted| noted.number);
            session.head.phase = Phase::Created;
            events.push(Event::Phase(Phase::Created));
            for _ in 0..draw(random) % 50 {
                session.head.entries += 1;
                let what = Happening::Message { text: format!("write {n}") };
                events.push(Event::Entry(Entry { number: session.head.entries, at: Time(n), step: 0, what }));
            }
        }
        6 => {
            session.messages.drain(..session.messages.len() / 2);
            events.push(Event::MessagesFolded);
            events.extend((0..session.messages.len()).map(Event::Message));
        }
        _ => {
            session.messages.push(Message::new(format!("write {n}"), Time(n)));
            events.push(Event::Message(session.messages.len() - 1));
            for i in 0..session.nodes.len() {
                if draw(random).is_multiple_of(3) {
                    session.nodes[i].state = NodeState::Draining;
                    session.nodes[i].since = Time(n);
                    events.push(Event::Node(i));
                }
            }
        }
    }
    store.save(&session, &events, revision).await.map(drop)
}

/// Reads everything: what left a gap, or half a session, is an error.
async fn read_all(store: &RedbStore) -> Result<(), StoreError> {
    for id in store.ids().await? {
        let found = store.load(id).await?;
        assert!(found.is_some(), "{id} is listed, and is not there");
        store.summary(id).await?;
        store.deletion(id).await?;
        store.history(id, 0, usize::MAX).await?;
    }
    Ok(())
}

// ---- the process that writes -------------------------------------------------------------------------------

/// Opens the store and, once told to, makes one write after the other, from the nth on, saying what came of each.
/// After one that failed, it waits to be told again.
fn write_for_ever(path: &Path, writes: Writes, mut n: u64) {
    println!("{OPENING}");
    let store = match RedbStore::open(path) {
        Ok(store) => store,
        Err(error) => {
            println!("{error}");
            return;
        }
    };
    println!("{OPENED}");
    let is_told = || std::io::stdin().read_line(&mut String::new()).unwrap() > 0;
    let mut goes_on = is_told();
    wait(async {
        while goes_on {
            match act(&store, writes, n).await {
                Ok(()) => {
                    n += 1;
                    println!("{n}");
                }
                Err(error) => {
                    if let Err(error) = read_all(&store).await {
                        println!("{UNREAD} {error}");
                    }
                    println!("{error}");
                    goes_on = is_told();
                }
            }
        }
    });
}

const OPENING: &str = "opening";
const OPENED: &str = "opened";
const UNREAD: &str = "unread";

struct Writer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// So many writes were acknowledged, those before its start included.
    acknowledged: u64,
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Writer {
    /// Starts one, up to the moment when it opens the store.
    fn start(path: &Path, writes: Writes, n: u64) -> Writer {
        let mut command = Command::new(env::current_exe().unwrap());
        let test = concat!(module_path!(), "::writer").split_once("::").unwrap().1;
        // With one thread the harness would begin a line that it ends after the test.
        command.args(["--exact", test, "--nocapture", "--test-threads", "2"]);
        command.env(WRITER, format!("{}\n{}\n{n}", path.display(), writes.name()));
        let mut command = limits::survivor(&command);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut writer = Writer { child, input, output, acknowledged: n };
        // The harness has its say first.
        while writer.line().unwrap() != OPENING {}
        writer
    }

    /// Lets it begin, or try again what failed.
    fn go_on(&mut self) {
        self.input.write_all(b"\n").unwrap();
    }

    /// What it says next; `None` when it has ended.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let line = line.strip_suffix('\n')?.to_owned();
        if let Ok(n) = line.parse() {
            self.acknowledged = n;
        }
        Some(line)
    }

    /// Its next write, or why it failed.
    fn write(&mut self) -> Result<(), String> {
        let before = self.acknowledged;
        let line = self.line().unwrap();
        if self.acknowledged == before { Err(line) } else { Ok(()) }
    }

    /// What goes wrong with its writes until one fails: whether nothing could be read then, either, and the error.
    fn failure(&mut self) -> (bool, String) {
        let mut unread = false;
        let before = self.acknowledged;
        loop {
            match self.write() {
                // One that changed nothing.
                Ok(()) => assert!(self.acknowledged < before + 20, "nothing goes wrong"),
                Err(line) if line.starts_with(UNREAD) => unread = true,
                Err(error) => return (unread, error),
            }
        }
    }

    /// Kills it. How many writes it acknowledged before.
    fn kill(mut self) -> u64 {
        self.child.kill().unwrap();
        while self.line().is_some() {}
        self.acknowledged
    }
}

// ---- what is in the file ----------------------------------------------------------------------------------

/// Every value in a store's file, by its table and key.
type Contents = BTreeMap<(String, String), Vec<u8>>;

fn contents(path: &Path) -> Contents {
    let database = redb::Database::open(path).unwrap();
    let reading = database.begin_read().unwrap();
    let mut contents = Contents::new();
    for table in reading.list_tables().unwrap() {
        let name = table.name();
        match name {
            "meta" => {
                let table = reading.open_table(TableDefinition::<&str, u64>::new(name)).unwrap();
                for row in table.iter().unwrap() {
                    let (key, value) = row.unwrap();
                    let key = (name.to_owned(), key.value().to_owned());
                    contents.insert(key, value.value().to_string().into_bytes());
                }
            }
            "revisions" | "delivered" => {
                let table = reading.open_table(TableDefinition::<u128, u64>::new(name)).unwrap();
                for row in table.iter().unwrap() {
                    let (key, value) = row.unwrap();
                    let key = (name.to_owned(), format!("{:032x}", key.value()));
                    contents.insert(key, value.value().to_string().into_bytes());
                }
            }
            "heads" | "claims" => {
                let table = reading.open_table(TableDefinition::<u128, &[u8]>::new(name)).unwrap();
                for row in table.iter().unwrap() {
                    let (key, value) = row.unwrap();
                    let key = (name.to_owned(), format!("{:032x}", key.value()));
                    contents.insert(key, value.value().to_owned());
                }
            }
            "nodes" | "messages_2" | "history" => {
                let table = reading.open_table(TableDefinition::<(u128, u32), &[u8]>::new(name)).unwrap();
                for row in table.iter().unwrap() {
                    let (key, value) = row.unwrap();
                    let (id, i) = key.value();
                    contents.insert((name.to_owned(), format!("{id:032x} {i:06}")), value.value().to_owned());
                }
            }
            "commands" => {
                let table = reading.open_table(TableDefinition::<(u128, u64), &[u8]>::new(name)).unwrap();
                for row in table.iter().unwrap() {
                    let (key, value) = row.unwrap();
                    let (id, number) = key.value();
                    let key = (name.to_owned(), format!("{id:032x} {number:06}"));
                    contents.insert(key, value.value().to_owned());
                }
            }
            // Of the first format.
            "messages" => {
                let table = reading.open_table(TableDefinition::<(u128, u32), &str>::new(name)).unwrap();
                for row in table.iter().unwrap() {
                    let (key, value) = row.unwrap();
                    let (id, i) = key.value();
                    let key = (name.to_owned(), format!("{id:032x} {i:06}"));
                    contents.insert(key, value.value().as_bytes().to_owned());
                }
            }
            "deletion_orders_by" => {
                let table = reading.open_table(TableDefinition::<u128, &str>::new(name)).unwrap();
                for row in table.iter().unwrap() {
                    let (id, by) = row.unwrap();
                    let key = (name.to_owned(), format!("{:032x}", id.value()));
                    contents.insert(key, by.value().as_bytes().to_owned());
                }
            }
            other => {
                let table = reading.open_table(TableDefinition::<u128, ()>::new(other)).unwrap();
                for row in table.iter().unwrap() {
                    contents
                        .insert((name.to_owned(), format!("{:032x}", row.unwrap().0.value())), Vec::new());
                }
            }
        }
    }
    contents
}

/// The first things that differ.
fn difference(one: &Contents, other: &Contents) -> Vec<String> {
    let keys: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differing = keys.into_iter().filter(|key| one.get(*key) != other.get(*key));
    let text = |value: Option<&Vec<u8>>| value.map(|value| String::from_utf8_lossy(value).into_owned());
    let told = differing.map(|key| format!("{key:?}: {:?} | {:?}", text(one.get(key)), text(other.get(key))));
    told.take(5).collect()
}

/// A store that nothing ever happened to, at the same writes.
struct Reference {
    path: PathBuf,
    writes: Writes,
    n: u64,
}

impl Reference {
    fn new(folder: &Path, writes: Writes) -> Reference {
        Reference { path: folder.join("reference.redb"), writes, n: 0 }
    }

    /// What is in it after so many writes.
    fn after(&mut self, n: u64) -> Contents {
        let store = RedbStore::open(&self.path).unwrap();
        wait(async {
            for n in self.n..n {
                act(&store, self.writes, n).await.unwrap();
            }
        });
        self.n = n;
        drop(store);
        contents(&self.path)
    }

    /// Compares a store with it: it must hold what the `acknowledged` writes left, or one more. How many there were.
    fn compare(&mut self, path: &Path, acknowledged: u64) -> u64 {
        let store = RedbStore::open(path).unwrap();
        wait(read_all(&store)).unwrap();
        drop(store);
        let found = contents(path);
        let expected = self.after(acknowledged);
        if found == expected {
            return acknowledged;
        }
        let next = self.after(acknowledged + 1);
        assert!(
            found == next,
            "seed {}: after {acknowledged} acknowledged writes the store holds neither these\n{:#?}\nnor one more\n{:#?}",
            self.writes.seed,
            difference(&found, &expected),
            difference(&found, &next)
        );
        acknowledged + 1
    }
}

// ---- kills -------------------------------------------------------------------------------------------------

/// A moment in the time that something takes.
fn a_while(random: &mut u64, most_micros: u64) {
    thread::sleep(Duration::from_micros(draw(random) % most_micros));
}

/// How many sessions there are where room is of no interest.
const FEW: usize = 12;

#[test]
fn a_kill_in_the_middle_of_a_write_leaves_what_was_acknowledged() {
    const KILLS: u32 = 100;
    let writes = Writes { seed: seed(), sessions: FEW };
    let mut random = writes.seed;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crus.redb");
    let mut reference = Reference::new(folder.path(), writes);
    let (mut written, mut finished) = (0, 0);
    for _ in 0..KILLS {
        let mut writer = Writer::start(&path, writes, written);
        writer.go_on();
        // Sometimes it has not even opened the store.
        for _ in 0..draw(&mut random) % 12 {
            writer.line().unwrap();
        }
        a_while(&mut random, 5_000);
        let acknowledged = writer.kill();
        written = reference.compare(&path, acknowledged);
        finished += written - acknowledged;
    }
    println!("killed {KILLS} times during {written} writes; {finished} of those under way were found done");
}

#[test]
fn a_kill_while_the_store_is_created_leaves_one_that_can_be_opened() {
    const KILLS: u32 = 100;
    let writes = Writes { seed: seed(), sessions: FEW };
    let mut random = writes.seed;
    let mut found = BTreeMap::<String, u32>::new();
    for _ in 0..KILLS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("crus.redb");
        let mut writer = Writer::start(&path, writes, 0);
        a_while(&mut random, 15_000);
        writer.child.kill().unwrap();
        let opened = if writer.line().is_some() { "opened" } else { "not opened" };
        drop(writer);
        let mut files: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        *found.entry(format!("{opened}: {}", files.join(", "))).or_default() += 1;

        assert_eq!(Reference::new(folder.path(), writes).compare(&path, 0), 0);
        assert!(
            !folder.path().join("crus.redb.unfinished").exists(),
            "what was not finished is cleared away"
        );
    }
    println!("killed {KILLS} times, leaving {found:#?}");
}

#[test]
fn a_kill_while_an_old_store_is_migrated_leaves_the_old_one_or_the_new() {
    for format in [1, 2] {
        kills_in_migration_from(format);
    }
}

fn kills_in_migration_from(format: u32) {
    const KILLS: u32 = 60;
    let writes = Writes { seed: seed(), sessions: FEW };
    let mut random = writes.seed;
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        let path = folder.path().join(name);
        fs::copy(format!("tests/stored/format-{format}.redb"), &path).unwrap();
        path
    };
    let old = contents(&copy("old.redb"));
    let migrated = copy("migrated.redb");
    drop(RedbStore::open(&migrated).unwrap());
    let new = contents(&migrated);
    assert_ne!(old, new);

    let (mut olds, mut news) = (0, 0);
    for _ in 0..KILLS {
        let path = copy("crus.redb");
        let writer = Writer::start(&path, writes, 0);
        a_while(&mut random, 15_000);
        writer.kill();
        let found = contents(&path);
        if found == old {
            olds += 1;
        } else {
            news += 1;
            assert!(found == new, "neither old nor new: {:#?}", difference(&found, &new));
        }
        drop(RedbStore::open(&path).unwrap());
        let found = contents(&path);
        assert!(found == new, "migrated otherwise: {:#?}", difference(&found, &new));
    }
    println!("killed {KILLS} times; {olds} times it was still of format {format}, {news} times new");
}

// ---- no room -----------------------------------------------------------------------------------------------

#[test]
fn a_full_disk_is_said_and_harms_nothing_and_is_overcome() {
    let seed = seed();
    for (kind, disk) in Disk::kinds() {
        let (mut random, mut room) = (seed, Vec::new());
        for shortage in 0..8 {
            let writes = Writes { seed: draw(&mut random), sessions: usize::MAX };
            room.push(runs_out_of_room(&disk, &format!("crus-{shortage}.redb"), writes));
        }
        println!("{kind}: there was room for so many writes: {room:?}");
    }
}

/// Fills the disk under a store at work. How many writes there was room for.
fn runs_out_of_room(disk: &Disk, name: &str, writes: Writes) -> u64 {
    let mut random = writes.seed;
    let path = disk.folder().join(name);
    let elsewhere = tempfile::tempdir().unwrap();
    let mut reference = Reference::new(elsewhere.path(), writes);
    let mut writer = Writer::start(&path, writes, 0);
    assert_eq!(writer.line().unwrap(), OPENED);
    writer.go_on();
    for _ in 0..draw(&mut random) % 20 {
        assert_eq!(writer.write(), Ok(()));
    }
    disk.fill(writer.child.id(), &path);
    // What is free within the file is used first.
    let mut failures = 0;
    while failures < 3 {
        match writer.write() {
            Ok(()) => failures = 0,
            // Reading goes on as long as the file can be opened again.
            Err(line) if line.starts_with(UNREAD) => assert!(disk.stops_every_write(), "{line}"),
            Err(error) => {
                let why = ["No space left on device", "File too large"];
                assert!(why.iter().any(|why| error.contains(why)) && error.contains(name), "{error}");
                failures += 1;
                if failures < 3 {
                    writer.go_on();
                }
            }
        }
    }
    let room = writer.acknowledged;
    if draw(&mut random).is_multiple_of(2) {
        disk.free(writer.child.id());
        writer.go_on();
        while writer.acknowledged < room + 20 {
            assert_eq!(writer.write(), Ok(()));
        }
        reference.compare(&path, writer.kill());
    } else {
        // It ends, and starts again before there is room: reading is possible all the same.
        writer.kill();
        let mut again = Writer::start(&path, writes, room);
        assert_eq!(again.line().unwrap(), OPENED);
        disk.free(again.child.id());
        again.go_on();
        assert_eq!(again.write(), Ok(()));
        reference.compare(&path, again.kill());
    }
    fs::remove_file(path).unwrap();
    room
}

/// After an error the file is not where it was, as when its file system was unmounted: that is said, nothing is created,
/// and once it is back all of it is there.
#[test]
fn p9_a_store_that_is_gone_after_an_error_is_never_begun_anew() {
    let writes = Writes { seed: seed(), sessions: FEW };
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::NoWrites(tempfile::tempdir().unwrap());
    let mounted = disk.folder().join("mounted");
    let (path, away) = (mounted.join("crus.redb"), disk.folder().join("away"));
    fs::create_dir(&mounted).unwrap();
    let mut writer = Writer::start(&path, writes, 0);
    assert_eq!(writer.line().unwrap(), OPENED);
    writer.go_on();
    for _ in 0..20 {
        assert_eq!(writer.write(), Ok(()));
    }
    disk.fill(writer.child.id(), &path);
    let (unread, _) = writer.failure();
    assert!(unread, "the file was opened again, so that nothing would be noticed of what comes");

    fs::rename(&mounted, &away).unwrap();
    disk.free(writer.child.id());
    let mut says = |text: &str| {
        writer.go_on();
        let (unread, error) = writer.failure();
        assert!(unread && error.contains(text) && error.contains("crus.redb"), "{error}");
    };
    says("is gone");
    assert!(!mounted.exists());
    fs::create_dir(&mounted).unwrap();
    says("is gone");
    assert_eq!(fs::read_dir(&mounted).unwrap().count(), 0, "nothing was created");
    fs::write(&path, "").unwrap();
    says("is empty");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "nothing was written");
    drop(redb::Database::create(&path).unwrap());
    says("holds nothing");
    assert_eq!(fs::read_dir(&mounted).unwrap().count(), 1);

    fs::remove_dir_all(&mounted).unwrap();
    fs::rename(&away, &mounted).unwrap();
    writer.go_on();
    assert_eq!(writer.write(), Ok(()));
    Reference::new(folder.path(), writes).compare(&path, writer.kill());
}
