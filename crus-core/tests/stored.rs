//! What was stored once can be read for ever: the files beside this test stay as they are. A new form gets a new
//! file.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use crus_core::model::{Boot, Failure, Holder, NodeState, Owed, Phase, Stage};
use crus_core::names::BootSessionName;
use crus_core::time::WlmTime;
use crus_core::{Limits, Message, Session, Spec, Time, UpgradeId};

/// A session in the middle of a step, with a node in every state.
fn session() -> Session {
    let spec = Spec {
        starting: "all".parse().unwrap(),
        upgrading: "up".parse().unwrap(),
        failed: "failed".parse().unwrap(),
        step_size: 8u32.try_into().unwrap(),
        template: "image".parse().unwrap(),
        strategy: crus_core::Strategy::default(),
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
    let written: serde_json::Value = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
    assert_eq!(written, serde_json::from_str::<serde_json::Value>(stored).unwrap());
}
