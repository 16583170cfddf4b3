//! What was stored once can be read for ever: the files beside this test stay as they are. A new form gets a new
//! file.

use crus_core::history::{Entry, Happening};
use crus_core::machine::Event;
use crus_core::model::{
    Boot, Command, Counts, Failure, Holder, HoldingJob, NodeState, Ordered, Owed, Pace, Pause, PauseReason,
    Phase, Stage,
};
use crus_core::names::BootSessionName;
use crus_core::stored::{self, Parts};
use crus_core::time::WlmTime;
use crus_core::{Actor, Limits, Message, Session, Spec, Strategy, Time, UpgradeId};

/// A session in the middle of a step, with a node in every state.
fn session() -> Session {
    let spec = Spec {
        starting: "all".parse().unwrap(),
        upgrading: "up".parse().unwrap(),
        failed: "failed".parse().unwrap(),
        step_size: 8u32.try_into().unwrap(),
        template: "image".parse().unwrap(),
        tenant: None,
        strategy: Strategy::default(),
    };
    let id = UpgradeId(uuid::Uuid::from_u128(0x6a7e_55e0));
    let mut session = Session::new(id, spec, "1.13.0", Limits::default(), Time(1_000));
    let failures = [
        Failure::UnknownToHsm,
        Failure::NoNid,
        Failure::NotCompute("Management".into()),
        Failure::UnknownToWlm,
        Failure::DrainTimedOut,
        Failure::LeftOut("locked".into()),
        Failure::Boot("no link".into()),
        Failure::BootSession("No nodes were found to act upon.".into()),
        Failure::BootSessionLost,
        Failure::TakenOver,
        Failure::BootTimedOut,
        Failure::ReturnTimedOut("DOWN+DRAIN".into()),
    ];
    let states = [
        NodeState::Pending,
        NodeState::Draining,
        NodeState::Quiesced,
        NodeState::Rebooting,
        NodeState::Returning,
        NodeState::Upgraded,
        NodeState::Released,
    ];
    let states = states.into_iter().chain(failures.into_iter().map(NodeState::Failed));
    for (n, state) in (1u32..).zip(states) {
        let name = format!("nid{n:06}").parse().unwrap();
        let xname = format!("x1000c0s{n}b0n0").parse().unwrap();
        let mut node = crus_core::model::Node::new(xname, Some(name), Time(2_000));
        if state != NodeState::Pending {
            node.step = Some(3);
            node.boot_before = Some(WlmTime(77));
        }
        if n == 6 {
            node.holder = Holder::Other("bad dimm".into());
            node.rebooted = true;
        }
        node.owed = Owed {
            listing: n.is_multiple_of(2),
            marking: n.is_multiple_of(3),
            resuming: n.is_multiple_of(5),
        };
        node.state = state;
        session.nodes.push(node);
    }
    let head = &mut session.head;
    head.phase = Phase::Rolling;
    head.step = 3;
    head.stage = Stage::Booting;
    head.stage_since = Time(3_000);
    head.batch = vec![1, 2, 3];
    let name = BootSessionName::of(id.0, 3, 0);
    head.boot = Some(Boot {
        name,
        handle: None,
        before: None,
        intended: Time(3_000),
        unanswered: Some(Time(3_001)),
        begun: Some(Time(3_002)),
        silent: Vec::new(),
    });
    head.deletion = Some(Time(4_000));
    head.condition = Some("there is no group 'up'".into());
    head.ended = Some(Time(5_000));
    session.messages = vec![Message::new("Quiesce requested in step 3: moving to QUIESCING", Time(0))];
    session
}

#[test]
fn the_first_form_is_read() {
    let read: Session = serde_json::from_str(include_str!("stored/session-1.json")).unwrap();
    assert_eq!(read, session());
}

#[test]
fn the_second_form_is_read_and_written_as_it_was() {
    let stored = include_str!("stored/session-2.json");
    let read: Session = serde_json::from_str(stored).unwrap();
    let mut expected = session();
    expected.head.queued = true;
    expected.messages[0].times = 12;
    expected.messages.push(Message::new("Began the boot session for step 3: moving to BOOTING", Time(3_002)));
    assert_eq!(read, expected);
    assert_eq!(serde_json::to_value(&read).unwrap(), json(stored));
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

/// With everything that the third form has and the second had not.
fn session_of_the_third_form() -> Session {
    let mut session = session();
    session.head.spec.strategy = serde_json::from_str::<Strategy>(
        r#"{"max_failed": "5%", "max_failed_step": 2, "canary": [1, 5], "soak_s": 600, "drain_timeout_s": 3600,
            "on_drain_timeout": "later", "order": "spread", "domain": "cabinet", "max_per_domain": 3,
            "min_in_service": {"batch": "90%", "debug": 4}, "retries": 2, "check_command": "burn-in",
            "window": {"time_zone": "Europe/Zurich", "open": [{"days": ["mon"], "from": "22:00", "to": "06:00"}]}}"#,
    )
    .unwrap();
    let failures = [Failure::CheckFailed("memory".into()), Failure::SoakFailed("DOWN".into())];
    let states = [NodeState::Deferred].into_iter().chain(failures.map(NodeState::Failed));
    for (n, state) in (100u32..).zip(states) {
        let name = format!("nid{n:06}").parse().unwrap();
        let xname = format!("x1000c0s{n}b0n0").parse().unwrap();
        let mut node = crus_core::model::Node::new(xname, Some(name), Time(2_000));
        node.state = state;
        node.step = Some(2);
        node.attempt = n - 99;
        node.deferred = n.is_multiple_of(2);
        node.checked = n.is_multiple_of(3);
        session.nodes.push(node);
    }
    let job = |end| HoldingJob { id: "17_3".into(), user: "ada".into(), end };
    session.nodes[1].job = Some(job(Some(WlmTime(1_795_000_000))));
    session.nodes[2].job = Some(job(None));
    let head = &mut session.head;
    head.counts = Counts::of(&session.nodes);
    head.entries = 12_345;
    head.commands = 77;
    head.pause =
        Some(Pause { since: Time(6_000), why: PauseReason::MaxFailed { failed: 3, max: 2 }, by: None });
    head.accepted = 2;
    head.canaries = 1;
    head.soak_until = Some(Time(7_000));
    head.pace = Pace { boots: 3, total_ms: 900_000, least_ms: 200_000, most_ms: 400_000 };
    if let Some(boot) = &mut head.boot {
        boot.silent = vec![1, 3];
    }
    session
}

#[test]
fn the_third_form_is_read_and_written_as_it_is() {
    let stored = include_str!("stored/session-3.json");
    let read: Session = serde_json::from_str(stored).unwrap();
    assert_eq!(read, session_of_the_third_form());
    assert_eq!(serde_json::to_value(&read).unwrap(), json(stored));
}

/// The same form, where callers are asked who they are: the names are added to it.
#[test]
fn who_did_what_is_read_and_written_as_it_is() {
    let stored = include_str!("stored/session-3-by.json");
    let read: Session = serde_json::from_str(stored).unwrap();
    let mut expected = session_of_the_third_form();
    let name = |name: &str| Some(name.parse::<Actor>().unwrap());
    expected.head.created_by = name("ada");
    expected.head.deleted_by = name("Grace Hopper");
    expected.head.retry = true;
    expected.head.retry_by = name("svc/night-shift");
    expected.head.pause = Some(Pause { since: Time(6_000), why: PauseReason::Command, by: name("Zo\u{eb}") });
    assert_eq!(read, expected);
    assert_eq!(serde_json::to_value(&read).unwrap(), json(stored));
}

#[test]
fn who_ordered_what_is_read_from_its_first_form_as_well() {
    let read = |text: &str| serde_json::from_str::<Ordered>(text).unwrap();
    let by = Some("ada".parse().unwrap());
    let nobody = Ordered { command: Command::Pause, by: None };
    assert_eq!((read("\"pause\""), serde_json::to_string(&nobody).unwrap().as_str()), (nobody, "\"pause\""));
    let pause = Ordered { command: Command::Pause, by };
    let written = r#"{"command":"pause","by":"ada"}"#;
    assert_eq!((read(written), serde_json::to_string(&pause).unwrap().as_str()), (pause, written));
    let entry = |text: &str| stored::entry(session().head.id, text.as_bytes()).unwrap().what;
    let resumed = entry(r#"{"number":1,"at":1000,"step":0,"kind":"resumed","by":"ada"}"#);
    assert_eq!(resumed, Happening::Resumed { by: Some("ada".parse().unwrap()) });
}

/// Of a boot that a BOS without names was asked for, and for a tenant: what is noted before the request, and what BOS
/// calls it after the reply. The forms before know neither.
#[test]
fn a_boot_without_a_name_of_ours_is_read_and_written_as_it_is() {
    let stored = include_str!("stored/session-3-v1.json");
    let read: Session = serde_json::from_str(stored).unwrap();
    let mut expected = session();
    expected.head.spec.tenant = Some("vcluster-blue".parse().unwrap());
    let boot = expected.head.boot.as_mut().unwrap();
    boot.handle = Some("07877de1-09bb-4ca8-a4e5-943b1262dbf0".parse().unwrap());
    boot.before = Some(["a-1", "b-2"].map(|id| id.parse().unwrap()).into_iter().collect());
    assert_eq!(read, expected);
    assert_eq!(serde_json::to_value(&read).unwrap(), json(stored));
}

/// One entry of every kind.
fn history() -> Vec<Entry> {
    let nodes = ["x1000c0s0b0n0", "x1000c0s0b0n1", "x1000c0s1b0n0"].map(|name| name.parse().unwrap());
    let happenings = [
        Happening::Started { nodes: 17 },
        Happening::Stage { stage: Stage::Quiescing },
        Happening::Nodes { state: "draining".into(), failure: None, nodes: nodes.into() },
        Happening::Nodes {
            state: "failed".into(),
            failure: Some(Failure::Boot("no link".into())),
            nodes: nodes[..1].into(),
        },
        Happening::Message { text: "Quiesce requested in step 3: moving to QUIESCING".into() },
        Happening::Paused { why: PauseReason::Command, by: None },
        Happening::Paused { why: PauseReason::MaxFailedStep { failed: 2, max: 1 }, by: None },
        Happening::Resumed { by: None },
        Happening::Retried { nodes: 2, by: None },
        Happening::DeletionOrdered { by: None },
        Happening::StepDone { upgraded: 6, failed: 2 },
        Happening::Finished { counts: Counts { upgraded: 15, failed: 2, ..Counts::default() } },
    ];
    let entries = (1u64..).zip(happenings);
    entries.map(|(number, what)| Entry { number, at: Time(1_000 * number), step: 3, what }).collect()
}

#[test]
fn the_history_of_the_third_form_is_read_and_written_as_it_is() {
    let session = session();
    let events: Vec<Event> = history().into_iter().map(Event::Entry).collect();
    let written = Parts::of(&session, &events).unwrap().history;
    let written: Vec<_> =
        written.iter().map(|(_, value)| json(std::str::from_utf8(value).unwrap())).collect();
    let stored = json(include_str!("stored/history-3.json"));
    assert_eq!(serde_json::Value::from(written), stored);
    let values = stored.as_array().unwrap().iter().map(ToString::to_string);
    let read = values.map(|value| stored::entry(session.head.id, value.as_bytes()).unwrap());
    assert_eq!(read.collect::<Vec<_>>(), history());
}

/// What is damaged is told, and not believed: the machine takes the positions of a step for granted.
#[test]
fn a_step_of_nodes_that_are_not_there_is_unreadable() {
    let whole = session();
    let count = u32::try_from(whole.nodes.len()).unwrap();
    for (batch, silent) in [(vec![0, whole.nodes.len()], vec![]), (vec![0], vec![usize::MAX])] {
        let mut session = whole.clone();
        session.head.batch = batch;
        session.head.boot.as_mut().unwrap().silent = silent;
        let parts = Parts::all(&session).unwrap();
        let read = stored::session(session.head.id, &parts.head.unwrap(), parts.nodes, parts.messages);
        let told = read.unwrap_err().to_string();
        assert!(told.contains("names node ") && told.ends_with(&format!("and there are {count}")), "{told}");
    }
}
