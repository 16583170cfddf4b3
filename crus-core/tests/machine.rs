//! The machine by itself, given values: no ports, no clock, no simulator.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use crus_core::boots::{self, BootIds, Candidate};
use crus_core::claims::Turn;
use crus_core::history::Happening;
use crus_core::machine::{self, Effect, Event, Input};
use crus_core::model::{Failure, Group, NodeState, SeenGroup, Stage};
use crus_core::names::{BootHandle, NodeName, PartitionName, Xname};
use crus_core::ports::{
    BootKey, BootNode, BootNodeState, BootSession, BootStatus, NodeFacts, Peer, PortError, RebootRequest,
    Verdict,
};
use crus_core::promises;
use crus_core::time::WlmTime;
use crus_core::window::ZoneOffset;
use crus_core::wlm::{BaseState, Flag, Job, Partition, WlmNode};
use crus_core::{Limits, Session, Spec, Time, UpgradeId};
use proptest::prelude::*;

/// A world on paper: it does at once whatever it is asked.
struct Paper {
    now: Time,
    nodes: BTreeMap<NodeName, WlmNode>,
    names: BTreeMap<Xname, NodeName>,
    groups: BTreeMap<Group, Option<BTreeSet<Xname>>>,
    boots: BTreeMap<String, RebootRequest>,
    /// How often each node was rebooted.
    reboots: BTreeMap<Xname, u32>,
    jobs: Vec<Job>,
    /// Nodes that somebody put back to work after they were looked at last: nobody can know that.
    resumed_since_look: BTreeSet<NodeName>,
    /// How long a call takes, in milliseconds: half of it before it is carried out, half after.
    takes: u64,
    /// A reboot that something on the way to BOS holds up, and until when.
    held: Option<(Time, RebootRequest)>,
    /// The boot sessions of a BOS that takes no names of ours.
    nameless: Vec<Candidate>,
}

fn xname(n: u32) -> Xname {
    format!("x1000c0s{n}b0n0").parse().unwrap()
}

fn name(n: u32) -> NodeName {
    format!("nid{n:06}").parse().unwrap()
}

impl Paper {
    fn new(size: u32) -> Self {
        let idle = |n| WlmNode {
            name: name(n),
            base: BaseState::Idle,
            flags: BTreeSet::new(),
            cpus_allocated: Some(0),
            boot_time: Some(WlmTime(10)),
            reason: None,
        };
        Paper {
            now: Time(1_000_000),
            nodes: (1..=size).map(|n| (name(n), idle(n))).collect(),
            names: (1..=size).map(|n| (xname(n), name(n))).collect(),
            groups: BTreeMap::from([
                (Group::Starting, Some((1..=size).map(xname).collect())),
                (Group::Upgrading, Some(BTreeSet::new())),
                (Group::Failed, Some(BTreeSet::new())),
            ]),
            boots: BTreeMap::new(),
            reboots: BTreeMap::new(),
            jobs: Vec::new(),
            resumed_since_look: BTreeSet::new(),
            takes: 0,
            held: None,
            nameless: Vec::new(),
        }
    }

    /// Time passes; a reboot that was held up happens when it is let go.
    fn wait(&mut self, ms: u64) {
        let later = self.now + ms;
        if let Some((due, request)) = self.held.take_if(|(due, _)| *due <= later) {
            self.now = due;
            self.reboot(&request);
        }
        self.now = later;
    }

    fn wait_until(&mut self, time: Option<Time>) {
        self.wait(time.unwrap().since(self.now));
    }

    fn answer(&mut self, effect: Effect) -> Input {
        let at = self.now;
        self.wait(self.takes / 2);
        let input = self.carry_out(at, effect);
        self.wait(self.takes - self.takes / 2);
        input
    }

    fn carry_out(&mut self, at: Time, effect: Effect) -> Input {
        match &effect {
            Effect::ReadGroup(group) => {
                return Input::Group(*group, SeenGroup { at, members: self.groups[group].clone() });
            }
            Effect::ReadFacts(nodes) => {
                let known = nodes.iter().filter(|xname| self.names.contains_key(xname));
                let facts = known.map(|&xname| NodeFacts {
                    xname,
                    nid: self.names[&xname].as_str()[3..].parse().ok(),
                    role: "Compute".into(),
                    enabled: true,
                    locked: false,
                    arch: "X86".into(),
                });
                return Input::Facts { at, asked: nodes.clone(), facts: facts.collect() };
            }
            Effect::ReadTemplate(_) => return Input::Template { at, exists: true },
            Effect::Claim => return Input::Claim { at, turn: Turn::Granted },
            Effect::ReadNodes(names) => {
                let nodes = names.iter().filter_map(|name| self.nodes.get(name).cloned()).collect();
                self.resumed_since_look.retain(|name| !names.contains(name));
                return Input::Nodes { at, asked: names.clone(), nodes };
            }
            Effect::ReadJobs(names) => {
                return Input::Jobs { at, asked: names.clone(), jobs: self.jobs.clone() };
            }
            Effect::ReadPendingJobs => return Input::PendingJobs(self.jobs.clone()),
            Effect::ReadBootIds => return Input::BootIds(self.boot_ids()),
            Effect::ReadBoot(key) if key.handle.is_some() || key.request.before.is_some() => {
                let session = self.nameless_session(key);
                return Input::Boot { at, name: key.request.name.clone(), session };
            }
            Effect::ReadBoot(key) => {
                let name = &key.request.name;
                let session = self.boots.get(name.as_str()).map(|request| BootSession {
                    handle: None,
                    status: BootStatus::Complete,
                    error: None,
                    members: request.nodes.iter().copied().collect(),
                    nodes: (request.nodes.iter())
                        .map(|&xname| BootNode { xname, state: BootNodeState::Succeeded })
                        .collect(),
                });
                return Input::Boot { at, name: name.clone(), session };
            }
            Effect::ReadPartitions(names) => {
                let in_service = |node: &&WlmNode| node.is_in_service();
                let in_service: BTreeSet<NodeName> =
                    self.nodes.values().filter(in_service).map(|node| node.name.clone()).collect();
                let partition = |name: &PartitionName| Partition {
                    name: name.clone(),
                    total: self.nodes.len(),
                    in_service: in_service.clone(),
                };
                return Input::Partitions(names.iter().map(partition).collect());
            }
            Effect::ReadZone(_) => return Input::Zone { at, offset: Some(ZoneOffset::UTC) },
            Effect::Check(request) => {
                let verdicts = request.nodes.iter().map(|(xname, _)| (*xname, Verdict::Passed)).collect();
                return Input::Checked { step: request.step, verdicts };
            }
            Effect::Requeue(jobs) | Effect::Cancel(jobs) => self.jobs.retain(|job| !jobs.contains(&job.id)),
            Effect::Drain(names) => {
                for name in names {
                    if let Some(node) = self.nodes.get_mut(name) {
                        node.flags.insert(Flag::Drain);
                        node.reason = Some(crus_core::messages::drain_reason(id()));
                    }
                }
            }
            Effect::Resume(names) => {
                for name in names {
                    if let Some(node) = self.nodes.get_mut(name) {
                        node.flags.clear();
                        node.base = BaseState::Idle;
                        node.reason = None;
                    }
                }
            }
            Effect::MarkDown(names, reason) | Effect::MarkReason(names, reason) => {
                for name in names {
                    if let Some(node) = self.nodes.get_mut(name) {
                        node.reason = Some(reason.clone());
                        if matches!(effect, Effect::MarkDown(..)) {
                            node.base = BaseState::Down;
                        }
                    }
                }
            }
            Effect::AddMembers(group, nodes) => {
                self.groups.get_mut(group).unwrap().as_mut().unwrap().extend(nodes);
            }
            Effect::RemoveMembers(group, nodes) => {
                self.groups.get_mut(group).unwrap().as_mut().unwrap().retain(|x| !nodes.contains(x));
            }
            Effect::Reboot(request) => {
                let result = Ok(self.reboot(request));
                return Input::Asked { effect, rejected: Vec::new(), result };
            }
        }
        Input::Asked { effect, rejected: Vec::new(), result: Ok(None) }
    }

    /// What BOS calls the boot session, where it takes no name of ours.
    fn reboot(&mut self, request: &RebootRequest) -> Option<BootHandle> {
        let handle = request.before.is_some().then(|| self.add_nameless("ours", request.nodes.clone()));
        let known = self.boots.insert(request.name.to_string(), request.clone()).is_some();
        if known && handle.is_none() {
            return None;
        }
        for xname in &request.nodes {
            *self.reboots.entry(*xname).or_default() += 1;
            let node = self.nodes.get_mut(&self.names[xname]).unwrap();
            let busy = self.jobs.iter().any(|job| job.nodes.contains(&node.name));
            let unseen = self.resumed_since_look.contains(&node.name);
            assert!(
                (node.is_held() && node.is_quiet() && !busy) || unseen,
                "P2: {xname} rebooted as {}, busy {busy}",
                node.state()
            );
            node.base = BaseState::Down;
            node.boot_time = Some(WlmTime(i64::try_from(self.now.0 / 1000).unwrap()));
        }
        handle
    }

    fn add_nameless(&mut self, whose: &str, nodes: Vec<Xname>) -> BootHandle {
        let id: BootHandle = format!("{}-{whose}", self.nameless.len()).parse().unwrap();
        let nodes = nodes.into_iter().collect();
        let template = Some("image".parse().unwrap());
        self.nameless.push(Candidate { id: id.clone(), reboots: None, template, limit: None, nodes });
        id
    }

    fn boot_ids(&self) -> BootIds {
        self.nameless.iter().map(|session| session.id.clone()).collect()
    }

    fn nameless_session(&self, key: &BootKey) -> Option<BootSession> {
        let show = |id: &BootHandle| {
            let session = self.nameless.iter().find(|session| session.id == *id)?;
            let nodes =
                session.nodes.iter().map(|&xname| BootNode { xname, state: BootNodeState::Succeeded });
            Some(BootSession {
                handle: Some(id.clone()),
                status: BootStatus::Complete,
                error: None,
                members: session.nodes.clone(),
                nodes: nodes.collect(),
            })
        };
        if let Some(id) = &key.handle {
            return show(id);
        }
        let before = key.request.before.as_ref().unwrap();
        let younger = self.nameless.iter().filter(|session| !before.contains(&session.id));
        boots::find(&key.request, &younger.cloned().collect::<Vec<_>>()).session(show)
    }

    /// Runs the session until it is done; what happened.
    fn run(&mut self, session: &mut Session) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..10_000 {
            events.extend(machine::step(session, self.now, Input::Tick));
            assert_eq!(promises::session(session), [], "{session:#?}");
            if session.is_done() {
                return events;
            }
            match machine::outstanding(session, self.now).into_iter().next() {
                Some(effect) => {
                    let input = self.answer(effect);
                    events.extend(machine::step(session, self.now, input));
                }
                None => self.wait_until(machine::next_wake(session, self.now)),
            }
        }
        panic!("the session does not end: {:?}", session.head);
    }
}

fn id() -> UpgradeId {
    UpgradeId(uuid::Uuid::from_u128(1))
}

fn session(step_size: u32) -> Session {
    let spec = Spec {
        starting: "all".parse().unwrap(),
        upgrading: "up".parse().unwrap(),
        failed: "failed".parse().unwrap(),
        step_size: NonZeroU32::new(step_size).unwrap(),
        template: "image".parse().unwrap(),
        tenant: None,
        strategy: crus_core::Strategy::default(),
    };
    Session::new(id(), spec, "1", Limits::default(), Time(1_000_000))
}

#[test]
fn five_nodes_in_steps_of_three_say_what_the_original_said() {
    let mut paper = Paper::new(5);
    let mut session = session(3);
    paper.run(&mut session);
    let mut expected = Vec::new();
    for step in 0..2 {
        expected.extend([
            format!("Quiesce requested in step {step}: moving to QUIESCING"),
            format!("All nodes quiesced in step {step}: moving to QUIESCED"),
            format!("Began the boot session for step {step}: moving to BOOTING"),
            format!("The boot session for step {step} completed: moving to BOOTED"),
            format!("Step {step} boot session succeeded: moving to WLM_WAITING"),
            format!(
                "All WLM returned to ready in step {step}: advancing to step {} and moving to STARTING",
                step + 1
            ),
        ]);
    }
    expected
        .extend(["No nodes in step 2: moving to CLEANUP".to_owned(), "Upgrade Session Completed".to_owned()]);
    assert_eq!(texts(&session), expected);
    assert!(session.nodes.iter().all(|node| node.state == NodeState::Upgraded));
    assert!(paper.nodes.values().all(WlmNode::is_in_service));
    assert_eq!(paper.groups[&Group::Upgrading], Some(BTreeSet::new()));
}

#[test]
fn the_history_has_what_was_said_once_and_in_order() {
    let mut paper = Paper::new(2);
    let mut session = session(1);
    let told: Vec<_> = (paper.run(&mut session).into_iter())
        .filter_map(|event| match event {
            Event::Entry(entry) => Some(entry),
            _ => None,
        })
        .collect();
    let said: Vec<&str> = (told.iter())
        .filter_map(|entry| match &entry.what {
            Happening::Message { text } => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(said, texts(&session));
    let numbers: Vec<u64> = told.iter().map(|entry| entry.number).collect();
    assert_eq!(numbers, (1..=session.head.entries).collect::<Vec<_>>());
}

#[test]
fn late_or_foreign_input_changes_nothing() {
    let mut paper = Paper::new(2);
    let mut session = session(2);
    while session.head.stage != Stage::Quiescing {
        let effect = machine::outstanding(&session, paper.now).into_iter().next();
        let input = effect.map_or(Input::Tick, |effect| paper.answer(effect));
        machine::step(&mut session, paper.now, input);
    }
    let name = crus_core::names::BootSessionName::of(uuid::Uuid::from_u128(9), 7, 0);
    let before = session.clone();
    let late = Input::Boot {
        at: paper.now,
        name,
        session: Some(BootSession {
            handle: None,
            status: BootStatus::Complete,
            error: Some("nope".into()),
            members: BTreeSet::new(),
            nodes: Vec::new(),
        }),
    };
    assert_eq!(machine::step(&mut session, paper.now, late), []);
    assert_eq!(session, before);
    paper.run(&mut session);
    let done = session.clone();
    for input in [Input::Tick, Input::Delete { by: None }, Input::Template { at: paper.now, exists: false }] {
        assert_eq!(machine::step(&mut session, paper.now, input), []);
    }
    assert_eq!(session, done);
}

/// What the paper world may do instead of answering.
#[derive(Debug, Clone)]
enum Twist {
    Answer,
    /// The call fails; for a request: after it was carried out.
    Lost,
    /// The service dies and starts again: what was seen is forgotten, what was stored is not.
    Crash,
    /// Somebody drains a node with a reason of their own.
    Drain(u32),
    /// Somebody resumes a node.
    Resume(u32),
    /// A job holds a node for a while.
    Job(u32),
    NoJobs,
    Wait(u64),
    Delete,
}

fn twist() -> impl Strategy<Value = Twist> {
    prop_oneof![
        12 => Just(Twist::Answer),
        2 => Just(Twist::Lost),
        1 => Just(Twist::Crash),
        1 => (1..6u32).prop_map(Twist::Drain),
        1 => (1..6u32).prop_map(Twist::Resume),
        1 => (1..6u32).prop_map(Twist::Job),
        1 => Just(Twist::NoJobs),
        2 => (1..90_000u64).prop_map(Twist::Wait),
        1 => Just(Twist::Delete),
    ]
}

proptest! {
    /// P1, P2 (in `Paper::answer`), P3, P4, P5, P7, P9: whatever happens on the way, no promise breaks at any
    /// instant, and once things calm down the session ends.
    #[test]
    fn no_twist_breaks_a_promise(
        twists in prop::collection::vec(twist(), 0..250),
        step_size in 1..5u32,
        names_boots: bool,
        takes in prop_oneof![Just(0), 1..10_000u64],
    ) {
        let mut paper = Paper { takes, ..Paper::new(5) };
        let mut session = session(step_size);
        session.limits.names_boots = names_boots;
        let mut deleted = false;
        for twist in twists {
            if session.is_done() {
                break;
            }
            let effect = machine::outstanding(&session, paper.now).into_iter().next();
            let input = match (twist, effect) {
                (Twist::Answer, Some(effect)) => paper.answer(effect),
                (Twist::Lost, Some(effect)) => {
                    let error = PortError::MayHaveActed { peer: Peer::Wlm, detail: "lost".into() };
                    match paper.answer(effect.clone()) {
                        Input::Asked { effect, rejected, .. } => {
                            Input::Asked { effect, rejected, result: Err(error) }
                        }
                        _ => Input::Failed { effect, error },
                    }
                }
                (Twist::Crash, _) => {
                    session.known = Default::default();
                    Input::Tick
                }
                (Twist::Drain(n), _) => {
                    let node = paper.nodes.get_mut(&name(n)).unwrap();
                    node.flags.insert(Flag::Drain);
                    node.reason = Some("bad dimm".into());
                    Input::Tick
                }
                (Twist::Resume(n), _) => {
                    let node = paper.nodes.get_mut(&name(n)).unwrap();
                    node.flags.clear();
                    node.base = BaseState::Idle;
                    node.reason = None;
                    paper.resumed_since_look.insert(name(n));
                    Input::Tick
                }
                (Twist::Job(n), _) => {
                    // Jobs start on nodes in service only.
                    if paper.nodes[&name(n)].is_in_service() {
                        let (id, user) = ("7".to_owned(), "alice".to_owned());
                        paper.jobs = vec![Job { id, user, nodes: vec![name(n)], end: None }];
                    }
                    Input::Tick
                }
                (Twist::NoJobs, _) => {
                    paper.jobs.clear();
                    Input::Tick
                }
                (Twist::Wait(ms), _) => {
                    paper.now = paper.now + ms;
                    Input::Tick
                }
                (Twist::Delete, _) => {
                    deleted = true;
                    Input::Delete { by: None }
                }
                (Twist::Answer | Twist::Lost, None) => {
                    paper.now = machine::next_wake(&session, paper.now).unwrap();
                    Input::Tick
                }
            };
            let before = (session.head.clone(), session.nodes.clone(), session.messages.clone());
            let events = machine::step(&mut session, paper.now, input);
            prop_assert_eq!(promises::session(&session), []);
            assert_told(before, &session, &events);
        }
        paper.jobs.clear();
        paper.run(&mut session);
        prop_assert!(paper.reboots.values().all(|&n| n == 1), "P3: {:?}", paper.reboots);
        for (node, (_, seen)) in session.nodes.iter().zip(&paper.nodes) {
            let ours = seen.reason.as_deref().is_some_and(|r| r == crus_core::messages::drain_reason(id()));
            prop_assert!(!(seen.is_held() && ours), "P4/P7: {:?} left as {:?}", node, seen);
            let rebooted = paper.reboots.contains_key(&node.xname);
            match &node.state {
                NodeState::Upgraded => prop_assert!(rebooted),
                NodeState::Failed(Failure::ReturnTimedOut(_) | Failure::BootTimedOut) => {
                    prop_assert!(rebooted);
                }
                NodeState::Released => prop_assert!(deleted && !rebooted),
                state => prop_assert!(false, "ended as {state:?}"),
            }
        }
    }
}

fn texts(session: &Session) -> Vec<String> {
    session.messages.iter().map(ToString::to_string).collect()
}

/// Every durable change is told: a store that writes what the events say misses nothing.
fn assert_told(
    before: (crus_core::model::Head, Vec<crus_core::model::Node>, Vec<crus_core::Message>),
    after: &Session,
    events: &[Event],
) {
    let (head, nodes, messages) = before;
    let head_told =
        |e: &Event| matches!(e, Event::Head | Event::Phase(_) | Event::Stage { .. } | Event::Entry(_));
    assert!(head == after.head || events.iter().any(head_told), "the head changed untold: {events:?}");
    if !events.contains(&Event::Frozen) {
        for (i, node) in after.nodes.iter().enumerate() {
            assert!(nodes[i] == *node || events.contains(&Event::Node(i)), "node {i} changed untold");
        }
    }
    for i in messages.len()..after.messages.len() {
        assert!(events.contains(&Event::Message(i)), "message {i} untold");
    }
}

// ---- what a review found --------------------------------------------------------------------------------------

impl Paper {
    /// One round, as the driver does it. Returns the effect, if one was due; otherwise time jumps.
    fn round(&mut self, session: &mut Session) -> Option<Effect> {
        machine::step(session, self.now, Input::Tick);
        assert_eq!(promises::session(session), [], "{session:#?}");
        let effect = machine::outstanding(session, self.now).into_iter().next();
        match &effect {
            Some(effect) => {
                let input = self.answer(effect.clone());
                machine::step(session, self.now, input);
            }
            None => self.wait_until(machine::next_wake(session, self.now).or(Some(self.now))),
        }
        effect
    }

    fn until(&mut self, session: &mut Session, holds: impl Fn(&Session) -> bool) {
        for _ in 0..10_000 {
            if holds(session) {
                return;
            }
            self.round(session);
        }
        panic!("never: {:?}", session.head);
    }

    fn is_left_drained(&self, n: u32) -> bool {
        self.nodes[&name(n)].reason.as_deref() == Some(&crus_core::messages::drain_reason(id()))
    }
}

#[test]
fn p4_one_look_without_a_node_decides_nothing() {
    let mut paper = Paper::new(2);
    let mut session = session(2);
    paper.until(&mut session, |s| s.head.stage == Stage::Quiescing);
    paper.jobs = vec![Job { id: "1".into(), user: "ada".into(), nodes: vec![name(1)], end: None }];
    for _ in 0..20 {
        paper.round(&mut session);
    }
    // slurmctld is reconfigured: in one look the node is missing.
    let node = paper.nodes.remove(&name(2)).unwrap();
    while !matches!(paper.round(&mut session), Some(Effect::ReadNodes(_))) {}
    paper.nodes.insert(name(2), node);
    paper.jobs.clear();
    paper.run(&mut session);
    assert!(session.nodes.iter().all(|node| node.state == NodeState::Upgraded));
    assert!(!paper.is_left_drained(2));
}

#[test]
fn p4_a_node_that_is_gone_at_the_last_look_fails_without_a_spin() {
    let mut paper = Paper::new(2);
    let mut session = session(2);
    paper.until(&mut session, |s| s.head.stage == Stage::Quiescing);
    // Somebody else's node in the group holds the step up before the last look.
    paper.groups.get_mut(&Group::Upgrading).unwrap().as_mut().unwrap().insert(xname(77));
    paper.until(&mut session, |s| s.head.stage == Stage::Quiesced);
    for _ in 0..20 {
        paper.round(&mut session);
    }
    paper.nodes.remove(&name(2));
    paper.groups.get_mut(&Group::Upgrading).unwrap().as_mut().unwrap().remove(&xname(77));
    paper.run(&mut session);
    let states: Vec<_> = session.nodes.iter().map(|node| &node.state).collect();
    assert_eq!(states, [&NodeState::Upgraded, &NodeState::Failed(Failure::UnknownToWlm)]);
}

#[test]
fn p2_jobs_count_for_the_nodes_they_were_asked_about() {
    let mut paper = Paper::new(2);
    let mut session = session(2);
    paper.until(&mut session, |s| s.head.stage == Stage::Quiesced);
    // At the last look node 2 has been resumed by somebody: it goes back to draining alone.
    paper.nodes.get_mut(&name(2)).unwrap().flags.clear();
    paper.now = paper.now + 60_000;
    paper.until(&mut session, |s| s.head.stage == Stage::Quiescing);
    let mut asked = Vec::new();
    loop {
        match paper.round(&mut session) {
            Some(Effect::ReadJobs(names)) => asked = names,
            Some(Effect::Reboot(_)) => break,
            _ => {}
        }
    }
    assert_eq!(asked, [name(1), name(2)]);
}

/// What BOS received and did not answer may still come true: until it cannot any more, nodes are not released.
#[test]
fn p7_an_unanswered_request_is_not_forgotten_by_a_later_one_or_a_crash() {
    for crash in [false, true] {
        let mut paper = Paper::new(1);
        let mut session = session(1);
        paper.until(&mut session, |s| s.head.boot.is_some());
        let lost = PortError::MayHaveActed { peer: Peer::Bos, detail: "time-out".into() };
        let refused = PortError::Unreachable { peer: Peer::Bos, detail: "refused".into() };
        let first = paper.now;
        let mut answers = vec![refused, lost];
        while let Some(error) = answers.pop() {
            let mut request = None;
            while request.is_none() {
                machine::step(&mut session, paper.now, Input::Tick);
                match machine::outstanding(&session, paper.now).into_iter().next() {
                    Some(effect @ Effect::Reboot(_)) => request = Some(effect),
                    _ => _ = paper.round(&mut session),
                }
            }
            let effect = request.unwrap();
            machine::step(
                &mut session,
                paper.now,
                Input::Asked { effect, rejected: Vec::new(), result: Err(error) },
            );
            if crash {
                session.known = Default::default();
                break;
            }
        }
        machine::step(&mut session, paper.now, Input::Delete { by: None });
        paper.until(&mut session, |s| s.nodes[0].state == NodeState::Released);
        let after = paper.now.since(first);
        assert!(after >= session.limits.settle_ms, "crash {crash}: released after {after} ms");
    }
}

#[test]
fn a_clock_behind_the_stored_times_does_not_make_it_spin() {
    let mut paper = Paper::new(2);
    let mut session = session(2);
    paper.until(&mut session, |s| s.head.stage == Stage::WlmWaiting);
    session.known = Default::default();
    paper.now = paper.now - 600_000;
    for _ in 0..200 {
        paper.round(&mut session);
    }
    assert!(session.is_done(), "{:?}", session.head);
}

#[test]
fn p5_nodes_that_share_a_nid_are_not_told_apart_so_none_is_touched() {
    let mut paper = Paper::new(2);
    paper.names.insert(xname(3), name(1));
    paper.groups.insert(Group::Starting, Some((1..=3).map(xname).collect()));
    let mut session = session(3);
    paper.run(&mut session);
    let states: Vec<_> = session.nodes.iter().map(|node| node.state.clone()).collect();
    let shared = NodeState::Failed(Failure::NoNid);
    assert_eq!(states, [shared.clone(), NodeState::Upgraded, shared]);
    assert_eq!(paper.reboots.keys().copied().collect::<Vec<_>>(), [xname(2)]);
}

#[test]
fn p6_a_drain_with_a_blank_reason_is_somebodys() {
    let mut paper = Paper::new(1);
    paper.nodes.get_mut(&name(1)).unwrap().flags.insert(Flag::Drain);
    let mut session = session(1);
    paper.run(&mut session);
    assert_eq!(session.nodes[0].state, NodeState::Upgraded);
    assert!(paper.nodes[&name(1)].is_held());
}

/// Fault 14 of the original by another door: a peer whose words change with every attempt.
#[test]
fn p9_messages_do_not_grow_with_the_words_of_a_peer() {
    let mut paper = Paper::new(1);
    let mut session = session(1);
    for attempt in 0..500 {
        machine::step(&mut session, paper.now, Input::Tick);
        match machine::outstanding(&session, paper.now).into_iter().next() {
            Some(effect @ Effect::ReadTemplate(_)) => {
                let detail = format!("request {attempt} failed");
                let error = PortError::Unreachable { peer: Peer::Bos, detail };
                machine::step(&mut session, paper.now, Input::Failed { effect, error });
            }
            _ => _ = paper.round(&mut session),
        }
    }
    assert_eq!(session.messages.len(), 1, "{:#?}", session.messages);
    let condition = session.head.condition.clone().unwrap();
    assert!(
        !session.messages[0].text.contains(&condition),
        "the condition shows the latest words: {condition}"
    );
    paper.run(&mut session);
}

// ---- bounds ---------------------------------------------------------------------------------------------------

/// A group that is too large is waited for like any other condition.
#[test]
fn p9_a_group_with_more_nodes_than_a_session_may_have_waits_until_it_is_mended() {
    let mut paper = Paper::new(3);
    let mut session = session(2);
    session.limits.max_nodes = 2;
    for _ in 0..50 {
        paper.round(&mut session);
    }
    let condition = "group 'all' holds 3 nodes, and a session may have 2: divide the group, or raise max_nodes in the \
                     service's configuration";
    assert_eq!(session.head.condition.as_deref(), Some(condition));
    assert_eq!(texts(&session), [format!("Processing step 0 in stage STARTING failed - {condition}")]);
    assert!(!session.head.queued && session.nodes.is_empty());
    paper.groups.get_mut(&Group::Starting).unwrap().as_mut().unwrap().remove(&xname(3));
    paper.run(&mut session);
    assert!(session.nodes.iter().all(|node| node.state == NodeState::Upgraded));
    assert_eq!((session.nodes.len(), session.head.condition), (2, None));
}

/// The moments at which a session looks for its template while BOS is away.
fn attempts(id: u128, limits: Limits) -> Vec<Time> {
    let mut paper = Paper::new(1);
    let mut session = session(1);
    session.limits = limits;
    session.head.id = UpgradeId(uuid::Uuid::from_u128(id));
    let mut attempts = Vec::new();
    while attempts.len() < 12 {
        machine::step(&mut session, paper.now, Input::Tick);
        match machine::outstanding(&session, paper.now).into_iter().next() {
            Some(effect @ Effect::ReadTemplate(_)) => {
                attempts.push(paper.now);
                let error = PortError::Unreachable { peer: Peer::Bos, detail: "no route".into() };
                machine::step(&mut session, paper.now, Input::Failed { effect, error });
            }
            _ => _ = paper.round(&mut session),
        }
    }
    attempts
}

fn pauses(attempts: &[Time]) -> Vec<u64> {
    attempts.windows(2).map(|pair| pair[1].since(pair[0])).collect()
}

#[test]
fn p9_what_fails_is_tried_again_ever_more_seldom_but_at_a_bounded_pace() {
    let limits = Limits::default();
    for id in 1..=50 {
        let pauses = pauses(&attempts(id, limits.clone()));
        for (n, pause) in pauses.iter().enumerate() {
            let doubled = limits.poll_ms << n.min(16);
            assert!(*pause >= doubled.min(limits.retry_max_ms * 5 / 6), "session {id}: {pauses:?}");
            assert!(*pause <= (doubled * 6 / 5).min(limits.retry_max_ms), "session {id}: {pauses:?}");
        }
        assert_eq!(pauses, self::pauses(&attempts(id, limits.clone())), "the same again, whenever it is run");
    }
    // Whatever is configured: no faster than polls, and no slower than the bound.
    for (poll_ms, retry_max_ms) in [(10_000, 10_000), (10_000, 5_000), (10, u64::MAX), (7, 8)] {
        let limits = Limits { poll_ms, retry_max_ms, ..Limits::default() };
        for pause in pauses(&attempts(1, limits)) {
            assert!((poll_ms.min(retry_max_ms)..=retry_max_ms).contains(&pause), "{pause} ms");
        }
    }
}

#[test]
fn p9_sessions_that_fail_together_do_not_all_come_back_at_the_same_moment() {
    let sessions: Vec<Vec<Time>> = (1..=50).map(|id| attempts(id, Limits::default())).collect();
    for n in 1..12 {
        let moments: BTreeSet<Time> = sessions.iter().map(|attempts| attempts[n]).collect();
        // Of fifty moments drawn from two seconds or more, a few may be the same.
        assert!(moments.len() >= 40, "attempt {n} comes at {} moments only", moments.len());
    }
}

/// What peers and people write is of any length; what is kept of it with each node is not.
#[test]
fn words_of_others_are_kept_up_to_a_bound() {
    let long = "ä".repeat(100_000);
    let mut paper = Paper::new(3);
    let reasoned = paper.nodes.get_mut(&name(1)).unwrap();
    reasoned.flags.insert(Flag::Drain);
    reasoned.reason = Some(long.clone());
    let mut session = session(3);
    while !matches!(paper.round(&mut session), Some(Effect::Reboot(_))) {}
    let request = paper.boots.values().next().unwrap().clone();
    let failed = |&xname: &Xname| BootNode { xname, state: BootNodeState::Failed(long.clone()) };
    let boot = BootSession {
        handle: None,
        status: BootStatus::Complete,
        error: None,
        members: request.nodes.iter().copied().collect(),
        nodes: request.nodes.iter().map(failed).collect(),
    };
    let input = Input::Boot { at: paper.now, name: request.name, session: Some(boot) };
    machine::step(&mut session, paper.now, input);
    assert!(session.nodes.iter().all(|node| matches!(node.state, NodeState::Failed(Failure::Boot(_)))));
    paper.run(&mut session);
    for part in session.nodes.iter().map(|node| serde_json::to_string(node).unwrap()) {
        assert!(part.len() < 1_500, "{} bytes", part.len());
    }
    for message in &session.messages {
        assert!(message.text.chars().count() <= 1_001);
    }
    // Cut in what we keep, not in what the owner wrote (P6).
    let reason = paper.nodes[&name(1)].reason.clone().unwrap();
    assert!(reason.starts_with(&long) && reason.contains("upgrading-boot-session-failed"));
}

/// What was seen of the nodes of one step is not kept for the next.
#[test]
fn what_is_known_does_not_grow_from_step_to_step() {
    let mut paper = Paper::new(60);
    let mut session = session(2);
    for _ in 0..100_000 {
        machine::step(&mut session, paper.now, Input::Tick);
        let known = &session.known;
        let kept = [
            known.wlm.len(),
            known.missing.len(),
            known.drained.len(),
            known.marked.len(),
            known.rejected.len(),
            known.left_out.len(),
        ];
        // Those of this step, and while the next one is chosen those of that.
        assert!(kept.iter().all(|kept| *kept <= 4), "{kept:?} in step {}", session.head.step);
        if session.is_done() {
            assert_eq!(session.head.step, 30);
            return;
        }
        paper.round(&mut session);
    }
    panic!("the session does not end");
}

/// Whatever was asked for, BOS's limit of 524,288 characters is never exceeded: that could not be mended.
#[test]
fn a_step_is_never_larger_than_one_request_to_bos_can_be() {
    let size = 12_000;
    let mut paper = Paper::new(size);
    let mut session = session(size);
    paper.until(&mut session, |s| s.head.stage == Stage::Quiescing);
    assert_eq!(session.head.batch.len(), 10_000);
    let longest: Xname = "x999999c999999s999999b999999n999999".parse().unwrap();
    assert!(10_000 * (longest.to_string().len() + 1) < 524_288);
}

/// As many nodes as the default allows: the beginning, two steps, and a deletion.
#[test]
fn a_hundred_thousand_nodes_work_and_each_record_stays_small() {
    let mut paper = Paper::new(100_000);
    let mut session = session(50);
    paper.until(&mut session, |s| s.head.step == 2);
    assert_eq!(session.nodes.len(), 100_000);
    assert_eq!(session.nodes.iter().filter(|node| node.state == NodeState::Upgraded).count(), 100);
    let head = serde_json::to_string(&session.head).unwrap();
    assert!(head.len() < 1_000, "{head}");
    machine::step(&mut session, paper.now, Input::Delete { by: None });
    paper.run(&mut session);
    assert_eq!(session.nodes.iter().filter(|node| node.state == NodeState::Released).count(), 99_900);
}

/// A session whose reboot was refused, taken up by a service that speaks to BOS through the other version of its API.
#[test]
fn p3_p7_an_intent_of_the_other_version_of_bos_is_forgotten_or_given_back() {
    for deleted in [false, true] {
        let mut paper = Paper::new(2);
        let mut session = session(2);
        let request = loop {
            let effect = machine::outstanding(&session, paper.now).into_iter().next();
            if let Some(Effect::Reboot(request)) = effect {
                break request;
            }
            let input = effect.map_or(Input::Tick, |effect| paper.answer(effect));
            machine::step(&mut session, paper.now, input);
        };
        let error = PortError::Refused { peer: Peer::Bos, detail: "no".into() };
        let effect = Effect::Reboot(request);
        machine::step(
            &mut session,
            paper.now,
            Input::Asked { effect, rejected: Vec::new(), result: Err(error) },
        );
        // As after a restart.
        session.known = crus_core::model::Known::default();
        session.limits.names_boots = false;
        if deleted {
            machine::step(&mut session, paper.now, Input::Delete { by: None });
        }
        machine::step(&mut session, paper.now, Input::Tick);
        assert_eq!(session.head.boot, None);
        let expected = if deleted { NodeState::Released } else { NodeState::Quiesced };
        assert!(session.nodes.iter().all(|node| node.state == expected), "{:?}", session.nodes);
        let asks = machine::outstanding(&session, paper.now);
        assert!(!asks.iter().any(|effect| matches!(effect, Effect::Reboot(_))), "{asks:?}");
    }
}

// ---- requests whose answer is not known -----------------------------------------------------------------------

/// Refuses a call: nobody could be reached.
fn away(peer: Peer) -> PortError {
    PortError::Unreachable { peer, detail: "no route".into() }
}

impl Paper {
    /// Goes on until the reboot is about to be asked for.
    fn until_reboot(&mut self, session: &mut Session) -> Effect {
        for _ in 0..10_000 {
            machine::step(session, self.now, Input::Tick);
            assert_eq!(promises::session(session), [], "{session:#?}");
            match machine::outstanding(session, self.now).into_iter().next() {
                Some(effect @ Effect::Reboot(_)) => return effect,
                _ => _ = self.round(session),
            }
        }
        panic!("never asked for: {:?}", session.head);
    }

    /// What comes of a request for a reboot.
    fn answered(
        &mut self,
        session: &mut Session,
        effect: Effect,
        result: Result<Option<BootHandle>, PortError>,
    ) {
        machine::step(session, self.now, Input::Asked { effect, rejected: Vec::new(), result });
    }

    /// The call ends after 30 s without an answer; what holds it up lets it go after so long.
    fn hold(&mut self, session: &mut Session, effect: Effect, ms: u64) {
        let Effect::Reboot(request) = &effect else { panic!("{effect:?}") };
        self.wait(30_000);
        self.held = Some((self.now + ms, request.clone()));
        let lost = PortError::MayHaveActed { peer: Peer::Bos, detail: "timed out".into() };
        self.answered(session, effect, Err(lost));
    }
}

/// A session that takes two nodes at once, of a BOS that takes our names or does not.
fn pair(names_boots: bool) -> (Paper, Session) {
    let mut session = session(2);
    session.limits.names_boots = names_boots;
    (Paper::new(2), session)
}

/// Between the intent and the request the last look may take as long as it likes. What is lost is given its time from
/// the end of the request, not from the intent.
#[test]
fn p3_a_request_that_is_held_up_is_given_its_time_however_old_its_intent_is() {
    for names_boots in [true, false] {
        let (mut paper, mut session) = pair(names_boots);
        paper.takes = 2_000;
        paper.until(&mut session, |s| s.head.boot.is_some());
        // The controller of the workload manager is down for five minutes.
        let up = paper.now + 300_000;
        while paper.now < up {
            machine::step(&mut session, paper.now, Input::Tick);
            match machine::outstanding(&session, paper.now).into_iter().next() {
                Some(effect @ (Effect::ReadNodes(_) | Effect::ReadJobs(_))) => {
                    paper.wait(9_000);
                    let error = away(Peer::Wlm);
                    machine::step(&mut session, paper.now, Input::Failed { effect, error });
                }
                _ => _ = paper.round(&mut session),
            }
        }
        let effect = paper.until_reboot(&mut session);
        paper.hold(&mut session, effect, 50_000);
        paper.run(&mut session);
        paper.wait(50_000);
        assert!(paper.reboots.values().all(|&n| n == 1), "names {names_boots}: {:?}", paper.reboots);
        assert!(session.nodes.iter().all(|node| node.state == NodeState::Upgraded));
    }
}

/// It is about to be asked for once more when the first request is carried out after all, and BOS forgets it: the nodes show
/// their new boot before BOS is looked at.
#[test]
fn p3_a_node_that_shows_a_newer_boot_is_not_asked_to_reboot_again() {
    let (mut paper, mut session) = pair(true);
    let effect = paper.until_reboot(&mut session);
    paper.hold(&mut session, effect, 300_000);
    paper.until(&mut session, |s| s.known.may_ask);
    paper.wait(600_000);
    paper.boots.clear();
    paper.run(&mut session);
    assert!(paper.reboots.values().all(|&n| n == 1), "{:?}", paper.reboots);
    assert!(
        session.nodes.iter().all(|node| node.state == NodeState::Failed(Failure::BootSessionLost)),
        "{:?}",
        session.nodes
    );
}

/// The same while the operator takes the session away: the nodes are not put back to work to be rebooted there.
#[test]
fn p2_p7_a_request_that_is_held_up_does_not_reboot_nodes_that_were_given_back() {
    for names_boots in [true, false] {
        let (mut paper, mut session) = pair(names_boots);
        paper.takes = 2_000;
        paper.until(&mut session, |s| s.head.boot.is_some());
        paper.wait(300_000);
        let effect = paper.until_reboot(&mut session);
        paper.hold(&mut session, effect, 50_000);
        machine::step(&mut session, paper.now, Input::Delete { by: None });
        paper.run(&mut session);
        assert!(paper.reboots.values().all(|&n| n == 1), "names {names_boots}: {:?}", paper.reboots);
        assert!(session.nodes.iter().all(|node| node.state == NodeState::Upgraded), "{:?}", session.nodes);
    }
}

/// What is released was looked for when the request could not come true any more, not a moment before.
#[test]
fn p7_nodes_are_given_back_by_a_look_that_began_when_the_request_had_had_its_time() {
    let (mut paper, mut session) = pair(true);
    let effect = paper.until_reboot(&mut session);
    paper.hold(&mut session, effect, 59_999);
    machine::step(&mut session, paper.now, Input::Delete { by: None });
    // As if nobody had looked since.
    paper.until(&mut session, |s| s.known.boot.is_some() && s.known.wlm.len() == 2);
    paper.wait(59_000);
    machine::step(&mut session, paper.now, Input::Tick);
    paper.wait(1_000);
    machine::step(&mut session, paper.now, Input::Tick);
    paper.run(&mut session);
    assert!(session.nodes.iter().all(|node| node.state == NodeState::Upgraded), "{:?}", session.nodes);
}

/// Somebody else boots one of the nodes by the same template, before our request is made at all or after it was refused.
#[test]
fn p3_p4_a_boot_session_of_somebody_else_is_not_taken_for_one_that_was_not_asked_for() {
    for refused in [false, true] {
        let (mut paper, mut session) = pair(false);
        paper.until(&mut session, |s| s.head.boot.is_some());
        if refused {
            let effect = paper.until_reboot(&mut session);
            let error = PortError::Refused { peer: Peer::Bos, detail: "forbidden".into() };
            paper.answered(&mut session, effect, Err(error));
        }
        paper.add_nameless("theirs", vec![xname(1)]);
        paper.run(&mut session);
        assert!(
            session.nodes.iter().all(|node| node.state == NodeState::Upgraded),
            "refused {refused}: {:?}",
            session.nodes
        );
        assert!(paper.reboots.values().all(|&n| n == 1));
    }
}

/// The intent is old when the request is made: what began meanwhile was there before it all the same.
#[test]
fn p3_p4_what_began_between_an_old_intent_and_its_request_is_not_taken_for_ours() {
    let (mut paper, mut session) = pair(false);
    paper.until(&mut session, |s| s.head.boot.is_some());
    paper.add_nameless("theirs", vec![xname(1), xname(2)]);
    paper.wait(300_000);
    let effect = paper.until_reboot(&mut session);
    paper.hold(&mut session, effect, 0);
    paper.run(&mut session);
    assert!(session.nodes.iter().all(|node| node.state == NodeState::Upgraded), "{:?}", session.nodes);
    assert!(paper.reboots.values().all(|&n| n == 1), "{:?}", paper.reboots);
}

/// The answer is lost, and somebody else's session of one of the nodes shows before ours.
#[test]
fn p3_p4_a_boot_session_of_some_of_the_nodes_is_ours_only_once_ours_would_show() {
    let (mut paper, mut session) = pair(false);
    let effect = paper.until_reboot(&mut session);
    paper.hold(&mut session, effect, 50_000);
    paper.add_nameless("theirs", vec![xname(1)]);
    paper.run(&mut session);
    assert!(session.nodes.iter().all(|node| node.state == NodeState::Upgraded), "{:?}", session.nodes);
    assert!(paper.reboots.values().all(|&n| n == 1), "{:?}", paper.reboots);
}

/// BOS shows some of our nodes, and never more: it has left the others out.
#[test]
fn p3_p5_a_boot_session_of_some_of_the_nodes_is_adopted_when_no_other_shows_up() {
    let (mut paper, mut session) = pair(false);
    let effect = paper.until_reboot(&mut session);
    let Effect::Reboot(request) = &effect else { panic!("{effect:?}") };
    let some = RebootRequest { nodes: vec![xname(1)], ..request.clone() };
    paper.reboot(&some);
    let lost = PortError::MayHaveActed { peer: Peer::Bos, detail: "timed out".into() };
    paper.answered(&mut session, effect, Err(lost));
    paper.run(&mut session);
    let states: Vec<_> = session.nodes.iter().map(|node| &node.state).collect();
    assert!(
        matches!(states[..], [NodeState::Upgraded, NodeState::Failed(Failure::LeftOut(_))]),
        "{states:?}"
    );
    assert_eq!(paper.reboots, BTreeMap::from([(xname(1), 1)]));
}

fn condition(session: &Session) -> &str {
    session.head.condition.as_deref().unwrap_or_default()
}

/// Neither the wait for a doubtful request nor the one for a node that may be booting by it is silent.
#[test]
fn p9_what_keeps_a_lost_request_in_doubt_is_said() {
    let (mut paper, mut session) = pair(false);
    let effect = paper.until_reboot(&mut session);
    paper.hold(&mut session, effect, 3_600_000);
    paper.round(&mut session);
    assert!(condition(&session).contains("timed out"), "{:?}", condition(&session));
    let theirs = paper.add_nameless("theirs", vec![]);
    for deleted in [false, true] {
        if deleted {
            machine::step(&mut session, paper.now, Input::Delete { by: None });
        }
        for _ in 0..50 {
            paper.round(&mut session);
        }
        let expected = format!(
            "it is not known yet what came of the request for a reboot: boot session {theirs} may be the one asked \
             for, and does not show its nodes yet"
        );
        assert_eq!(condition(&session), expected, "deleted {deleted}");
    }
    let said = texts(&session).into_iter().filter(|text| text.contains("not known yet")).count();
    assert_eq!(said, 1, "{:#?}", session.messages);

    let (mut paper, mut session) = pair(true);
    let effect = paper.until_reboot(&mut session);
    paper.hold(&mut session, effect, 3_600_000);
    paper.nodes.get_mut(&name(2)).unwrap().flags.insert(Flag::NotResponding);
    for _ in 0..50 {
        paper.round(&mut session);
    }
    let expected = format!(
        "it is not known yet what came of the request for a reboot: the workload manager does not hear from {}, which \
         may be booting",
        xname(2)
    );
    assert_eq!(condition(&session), expected);
}

/// A refusal is said for as long as it stands, and what is refused is not asked for again with every poll.
#[test]
fn p9_a_reboot_that_is_refused_is_said_and_asked_for_at_a_bounded_pace() {
    for names_boots in [true, false] {
        let (mut paper, mut session) = pair(names_boots);
        let mut moments = Vec::new();
        for _ in 0..6 {
            let effect = paper.until_reboot(&mut session);
            moments.push(paper.now);
            let error = PortError::Refused { peer: Peer::Bos, detail: "forbidden".into() };
            paper.answered(&mut session, effect, Err(error));
            paper.round(&mut session);
            paper.round(&mut session);
            assert!(condition(&session).contains("forbidden"), "{:?}", condition(&session));
        }
        let pauses = pauses(&moments);
        assert!(pauses[4] >= session.limits.retry_max_ms * 5 / 6, "{pauses:?}");
        paper.run(&mut session);
        assert!(session.nodes.iter().all(|node| node.state == NodeState::Upgraded));
        assert_eq!(session.head.condition, None);
    }
}

/// The service was told to speak to BOS through the other version of its API while nodes boot: that is what they wait
/// for, and fail with.
#[test]
fn p9_nodes_that_boot_by_the_other_version_of_bos_fail_with_that_reason() {
    let (mut paper, mut session) = pair(true);
    let effect = paper.until_reboot(&mut session);
    paper.answered(&mut session, effect, Ok(None));
    let working = |&xname: &Xname| BootNode { xname, state: BootNodeState::Working("boots".into()) };
    let both = [xname(1), xname(2)];
    let running = BootSession {
        handle: None,
        status: BootStatus::Running,
        error: None,
        members: both.into(),
        nodes: both.iter().map(working).collect(),
    };
    let boot = session.head.boot.clone().unwrap();
    let input = Input::Boot { at: paper.now, name: boot.name, session: Some(running) };
    machine::step(&mut session, paper.now, input);
    assert_eq!(session.head.stage, Stage::Booting);
    session.known = Default::default();
    session.limits.names_boots = false;
    for _ in 0..10_000 {
        machine::step(&mut session, paper.now, Input::Tick);
        match machine::outstanding(&session, paper.now).into_iter().next() {
            Some(Effect::ReadBoot(key)) => {
                let unclear = Some(BootSession::unclear("it was asked for through the other version".into()));
                let input = Input::Boot { at: paper.now, name: key.request.name, session: unclear };
                machine::step(&mut session, paper.now, input);
                if session.head.stage == Stage::Booting {
                    assert!(condition(&session).contains("the other version"), "{:?}", condition(&session));
                }
            }
            _ => _ = paper.round(&mut session),
        }
        if session.is_done() {
            break;
        }
    }
    for node in &session.nodes {
        let NodeState::Failed(Failure::BootSession(why)) = &node.state else { panic!("{node:?}") };
        assert!(why.contains("the other version"), "{why}");
    }
}

/// What comes after a refusal is asked for on a look of its own: not on one that was made for others before.
#[test]
fn p2_the_look_before_a_reboot_is_not_one_that_others_may_make_early() {
    for names_boots in [true, false] {
        let (mut paper, mut session) = pair(names_boots);
        let effect = paper.until_reboot(&mut session);
        paper.answered(&mut session, effect, Err(away(Peer::Bos)));
        let mut sleeps = 0;
        loop {
            machine::step(&mut session, paper.now, Input::Tick);
            match machine::outstanding(&session, paper.now).into_iter().next() {
                Some(Effect::Reboot(_)) => break,
                Some(_) => _ = paper.round(&mut session),
                None => {
                    sleeps += 1;
                    assert_eq!(machine::next_look(&session, paper.now), None, "names {names_boots}");
                    paper.wait_until(machine::next_wake(&session, paper.now));
                }
            }
        }
        assert!(sleeps > 0, "names {names_boots}: it is not asked for again at once");
    }
}

impl Paper {
    /// An administrator switches the node off and on.
    fn power_cycle(&mut self, n: u32) -> Option<WlmTime> {
        let node = self.nodes.get_mut(&name(n)).unwrap();
        node.base = BaseState::Down;
        node.boot_time = Some(WlmTime(i64::try_from(self.now.0 / 1000).unwrap()));
        node.boot_time
    }
}

/// Nothing was ever asked for: then no boot session was lost, whatever the nodes did by themselves.
#[test]
fn p4_p9_a_node_that_boots_by_itself_while_bos_is_away_does_not_fail_its_step() {
    for names_boots in [true, false] {
        for error in [away(Peer::Bos), PortError::Refused { peer: Peer::Bos, detail: "forbidden".into() }] {
            let (mut paper, mut session) = pair(names_boots);
            paper.takes = 4_000;
            let effect = paper.until_reboot(&mut session);
            paper.answered(&mut session, effect, Err(error.clone()));
            paper.wait(3_600_000);
            paper.power_cycle(1);
            paper.run(&mut session);
            assert!(
                session.nodes.iter().all(|node| node.state == NodeState::Upgraded),
                "names {names_boots}, {error}: {:?}",
                session.nodes
            );
            assert_eq!(paper.reboots, BTreeMap::from([(xname(1), 1), (xname(2), 1)]));
        }
    }
}

/// The boot that a node made by itself before the request is no proof of the one that was asked for.
#[test]
fn p5_what_a_node_booted_before_it_was_asked_for_is_no_proof() {
    for names_boots in [true, false] {
        let (mut paper, mut session) = pair(names_boots);
        let effect = paper.until_reboot(&mut session);
        paper.answered(&mut session, effect, Err(away(Peer::Bos)));
        paper.wait(3_600_000);
        let theirs = paper.power_cycle(1);
        let effect = paper.until_reboot(&mut session);
        let first = &session.nodes[0];
        assert_eq!((&first.state, first.boot_before), (&NodeState::Rebooting, theirs), "names {names_boots}");
        // BOS will say that both have booted; the first one has not.
        let input = paper.answer(effect);
        paper.nodes.get_mut(&name(1)).unwrap().boot_time = theirs;
        machine::step(&mut session, paper.now, input);
        paper.run(&mut session);
        let states: Vec<_> = session.nodes.iter().map(|node| &node.state).collect();
        assert!(
            matches!(states[..], [NodeState::Failed(Failure::ReturnTimedOut(_)), NodeState::Upgraded]),
            "names {names_boots}: {states:?}"
        );
    }
}

/// A node that was out of touch at the intent has come back by itself since: silent after the request, it may be booting.
#[test]
fn p3_a_node_that_was_silent_at_the_intent_and_came_back_may_be_booting_once_it_is_silent_again() {
    let (mut paper, mut session) = pair(true);
    let out_of_touch = |paper: &mut Paper| {
        let node = paper.nodes.get_mut(&name(1)).unwrap();
        node.base = BaseState::Down;
        node.flags.insert(Flag::NotResponding);
    };
    out_of_touch(&mut paper);
    let effect = paper.until_reboot(&mut session);
    paper.answered(&mut session, effect, Err(away(Peer::Bos)));
    paper.wait(600_000);
    paper.power_cycle(1);
    paper.nodes.get_mut(&name(1)).unwrap().flags.remove(&Flag::NotResponding);
    let effect = paper.until_reboot(&mut session);
    paper.hold(&mut session, effect, 3_600_000);
    out_of_touch(&mut paper);
    for _ in 0..50 {
        paper.round(&mut session);
    }
    assert!(condition(&session).contains("may be booting"), "{:?}", condition(&session));
}

/// Likewise where nothing was asked for at all, since the last look came late.
#[test]
fn p4_p5_a_node_that_boots_by_itself_between_the_intent_and_the_request_does_not_fail_its_step() {
    let (mut paper, mut session) = pair(true);
    paper.until(&mut session, |s| s.head.boot.is_some());
    paper.wait(300_000);
    let theirs = paper.power_cycle(1);
    let effect = paper.until_reboot(&mut session);
    assert_eq!(session.nodes[0].boot_before, theirs);
    let lost = PortError::MayHaveActed { peer: Peer::Bos, detail: "timed out".into() };
    paper.answered(&mut session, effect, Err(lost));
    paper.run(&mut session);
    assert!(session.nodes.iter().all(|node| node.state == NodeState::Upgraded), "{:?}", session.nodes);
}
