//! What operators look at beside the contract's answers, and tell a session to do.

use axum::body::Body;
use crus_api::service::News;
use crus_api::{ApiLimits, Site};
use crus_core::model::{Counts, Failure, Holder, Node, NodeState, Phase, Stage};
use crus_core::{Time, Xname};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::service::{Answer, Api, example, request};

const UNKNOWN: &str = "00000000-0000-0000-0000-000000000000";

/// The session of the examples, and its path.
fn with_example() -> (Api, String) {
    let api = Api::new();
    let path = format!("/session/{}", api.add_example());
    (api, path)
}

fn state_of(i: usize) -> NodeState {
    match i % 7 {
        0 => NodeState::Upgraded,
        1 => NodeState::Failed(Failure::BootTimedOut),
        2 => NodeState::Failed(Failure::DrainTimedOut),
        3 => NodeState::Rebooting,
        _ => NodeState::Pending,
    }
}

/// A session of so many nodes.
fn with_nodes(count: usize) -> (Api, String) {
    let (api, path) = with_example();
    api.change(|session| {
        session.nodes = (0..count)
            .map(|i| {
                let xname = format!("x{}c0s{}b0n{}", 1000 + i / 64, i / 2 % 32, i % 2).parse().unwrap();
                Node { state: state_of(i), ..Node::new(xname, None, Time(0)) }
            })
            .collect();
        session.head.counts = Counts::of(&session.nodes);
        // In no order, as the machine chooses them.
        session.head.batch = (0..count).rev().filter(|i| state_of(*i) == NodeState::Rebooting).collect();
    });
    (api, path)
}

fn xnames(page: &Value) -> Vec<String> {
    page["nodes"].as_array().unwrap().iter().map(|node| node["xname"].as_str().unwrap().to_owned()).collect()
}

/// All pages of a list, one after the other.
fn all_pages(api: &Api, path: &str, query: &str) -> (Vec<String>, usize) {
    let (mut all, mut pages, mut after) = (Vec::new(), 0, String::new());
    loop {
        let page = api.get(&format!("{path}/nodes?{query}{after}")).expect(200).json();
        all.extend(xnames(&page));
        pages += 1;
        match page["next"].as_str() {
            None => return (all, pages),
            Some(next) => {
                assert_eq!(Some(next), all.last().map(String::as_str));
                after = format!("&after={next}");
            }
        }
    }
}

// ---- nodes ------------------------------------------------------------------------------------------------

#[test]
fn nodes_are_shown_with_what_they_wait_for_and_why_they_failed() {
    let (api, path) = with_example();
    let nodes = api.get(&format!("{path}/nodes")).expect(200).json();
    assert_eq!((xnames(&nodes).len(), &nodes["next"]), (6, &Value::Null));
    let draining = &nodes["nodes"][3];
    assert_eq!(draining["job"], json!({ "end": "2026-11-24T12:00:00.000Z", "id": "17", "user": "alice" }));
    api.change(|session| {
        session.nodes[3].state = NodeState::Quiesced;
        session.nodes[4].holder = Holder::Other("bad DIMM".into());
        if let Some(job) = &mut session.nodes[3].job {
            job.end = None;
        }
    });
    let nodes = api.get(&format!("/apis/crus{path}/nodes")).expect(200).json();
    assert_eq!(nodes["nodes"][3]["job"], Value::Null, "it waits for no job any more");
    assert_eq!(nodes["nodes"][4]["reason"], "held by somebody else: bad DIMM");
}

#[test]
fn a_list_of_nodes_has_1000_unless_said_otherwise_and_10000_at_most() {
    let (api, path) = with_nodes(10_001);
    let lengths = |query: &str| xnames(&api.get(&format!("{path}/nodes{query}")).expect(200).json()).len();
    assert_eq!(lengths(""), 1000);
    assert_eq!(lengths("?limit=10000"), 10_000);
    assert_eq!(all_pages(&api, &path, "limit=5000").1, 3);
    api.get(&format!("{path}/nodes?limit=10001")).expect(400);
}

#[test]
fn one_node_of_many_in_a_state_is_found() {
    let (api, path) = with_nodes(5000);
    api.change(|session| {
        session.nodes.iter_mut().for_each(|node| node.state = NodeState::Upgraded);
        session.nodes[4321].state = NodeState::Failed(Failure::NoNid);
    });
    let found = api.get(&format!("{path}/nodes?state=failed&limit=1")).expect(200).json();
    assert_eq!((xnames(&found).len(), &found["next"]), (1, &Value::Null));
    assert_eq!(xnames(&api.get(&format!("{path}/nodes?state=draining")).json()), Vec::<String>::new());
}

#[test]
fn the_nodes_of_a_step_are_found_without_a_look_at_the_others() {
    let (api, path) = with_nodes(700);
    let (all, _) = all_pages(&api, &path, "state=rebooting,draining&limit=7");
    assert_eq!((all.len(), all.is_sorted_by_key(|xname| xname.parse::<Xname>().unwrap())), (100, true));
    assert_eq!(api.reads(), 0);
    assert_eq!(all_pages(&api, &path, "state=failed&limit=1000").0.len(), 100);
    assert!(api.reads() > 0);
}

#[test]
fn a_session_whose_turn_has_not_come_has_no_nodes_yet() {
    let api = Api::new();
    let id = api.post_json(&example()).expect(201).json()["upgrade_id"].as_str().unwrap().to_owned();
    assert_eq!(api.get(&format!("/session/{id}/nodes")).expect(200).text(), r#"{"next":null,"nodes":[]}"#);
    let progress = api.get(&format!("/session/{id}/progress")).expect(200).json();
    assert_eq!((&progress["total"], &progress["percent"]), (&json!(0), &json!(0)));
    assert_eq!(api.get(&format!("/session/{id}/events")).expect(200).text(), r#"{"events":[],"next":0}"#);
}

#[test]
fn all_that_is_wrong_with_a_query_is_told() {
    let (api, path) = with_example();
    for (query, told) in [
        ("limit=0", "limit is \"0\"; it must be a whole number from 1 to 10000."),
        ("limit=%2b1", "limit is \"+1\"; it must be a whole number from 1 to 10000."),
        ("limit=1&limit=2", "limit is given more than once; it must be given once."),
        ("state=failed,lost", "state is \"failed,lost\"; it must be one or more of pending, draining, "),
        ("after=nid000001", "after is \"nid000001\"; it must be x<cabinet>c<chassis>s<slot>b<board>n<node>"),
        ("sate=failed", "\"sate\" is not a parameter of this path; it has after, limit and state."),
        ("%1b%5b31m=1", "\"\\u{1b}[31m\" is not a parameter of this path"),
    ] {
        let detail = api.get(&format!("{path}/nodes?{query}")).expect(400).detail();
        assert!(detail.contains(told), "{query}: {detail}");
    }
    let both = api.get(&format!("{path}/nodes?limit=x&state=")).expect(400).detail();
    assert!(both.contains("limit is") && both.contains("state is"), "{both}");
    for query in ["after=-1", "after=1.5", "after=99999999999999999999", "after=x1000c0s0b0n0"] {
        api.get(&format!("{path}/events?{query}")).expect(400);
    }
    let many: String = (0..3000).map(|n| format!("{n}&")).collect();
    assert!(api.get(&format!("{path}/nodes?{many}")).expect(400).body.len() < 2000);
}

proptest! {
    #[test]
    fn the_pages_of_a_list_are_the_list(
        count in 0usize..40,
        limit in 1usize..12,
        states in prop::option::of(prop::sample::subsequence(vec!["pending", "upgraded", "failed", "skipped", "rebooting", "quiesced"], 1..4)),
    ) {
        let (api, path) = with_nodes(count);
        let query = states.as_ref().map(|states| format!("state={}&", states.join(","))).unwrap_or_default();
        let (pages, _) = all_pages(&api, &path, &format!("{query}limit={limit}"));
        let mut expected = Vec::new();
        api.change(|session| {
            let is_wanted = |node: &&Node| states.as_ref().is_none_or(|states| states.contains(&node.state.word()));
            expected = session.nodes.iter().filter(is_wanted).map(|node| node.xname.to_string()).collect();
        });
        prop_assert_eq!(pages, expected);
    }

    /// Whether there is a node of this name or not.
    #[test]
    fn a_list_goes_on_after_any_xname(count in 0usize..200, cabinet in 999u32..1005, slot in 0u32..34, node in 0u32..3) {
        let (api, path) = with_nodes(count);
        let after: Xname = format!("x{cabinet}c0s{slot}b0n{node}").parse().unwrap();
        let page = api.get(&format!("{path}/nodes?after={after}")).expect(200).json();
        let mut expected = Vec::new();
        api.change(|session| {
            let rest = session.nodes.iter().filter(|node| node.xname > after);
            expected = rest.map(|node| node.xname.to_string()).collect();
        });
        prop_assert_eq!(xnames(&page), expected);
    }
}

// ---- progress ---------------------------------------------------------------------------------------------

#[test]
fn the_counts_of_a_progress_add_up_and_it_ends_at_100_percent() {
    let (api, path) = with_nodes(1000);
    let progress = || api.get(&format!("{path}/progress")).expect(200).json();
    let sum: u64 =
        progress()["counts"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!((sum, &progress()["total"]), (1000, &json!(1000)));
    assert_eq!(progress()["percent"], 42, "those that are upgraded, failed or skipped: 429 of 1000");
    api.change(|session| {
        session.nodes.iter_mut().for_each(|node| node.state = NodeState::Upgraded);
        session.head.counts = Counts::of(&session.nodes);
        (session.head.phase, session.head.stage) = (Phase::Done, Stage::Cleanup);
        session.head.ended = Some(session.head.created + 90_500);
    });
    let done = progress();
    assert_eq!(
        (&done["percent"], &done["state"], &done["elapsed_s"]),
        (&json!(100), &json!("READY"), &json!(90.5))
    );
}

#[test]
fn a_progress_says_that_a_session_is_deleting() {
    let (api, path) = with_example();
    api.send("DELETE", &path).expect(200);
    assert_eq!(api.get(&format!("{path}/progress")).expect(200).json()["state"], "DELETING");
}

// ---- orders -----------------------------------------------------------------------------------------------

#[test]
fn a_session_is_paused_and_resumed_as_often_as_wanted() {
    let api = Api::new();
    let session = api.post_json(&example()).expect(201).json();
    let path = format!("/session/{}", session["upgrade_id"].as_str().unwrap());
    let is_paused = || api.get(&format!("{path}/progress")).json()["paused"] != Value::Null;
    for prefix in ["", "/apis/crus"] {
        for (order, paused) in [("pause", true), ("pause", true), ("resume", false), ("resume", false)] {
            let answer = api.send("POST", &format!("{prefix}{path}/{order}")).expect(200).json();
            assert_eq!(answer["upgrade_id"], session["upgrade_id"]);
            assert_eq!(is_paused(), paused, "{order}");
        }
    }
}

#[test]
fn an_order_that_makes_no_sense_is_refused_with_the_reason() {
    let (api, path) = with_example();
    let refused = |order: &str| api.send("POST", &format!("{path}/{order}")).expect(409).detail();
    assert!(refused("retry").contains("retry once step 2 is finished"), "it is paused, and in flight");
    api.change(|session| session.head.pause = None);
    assert!(refused("retry").contains("Pause it first"));
    api.change(|session| session.head.phase = Phase::Done);
    assert_eq!(refused("pause"), "The session is done: there is nothing to pause.");
    assert_eq!(refused("resume"), "The session is done: there is nothing to resume.");
    api.change(|session| session.head.counts.failed = 0);
    assert!(refused("retry").contains("None of the session's nodes failed"));
    api.send("DELETE", &path).expect(200);
    for order in ["pause", "resume", "retry"] {
        assert!(refused(order).contains("being deleted"), "{order}");
    }
}

// ---- events -----------------------------------------------------------------------------------------------

fn stream(api: &Api, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = request("GET", path).header("accept", "text/event-stream");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    api.call(request.body(Body::empty()).unwrap())
}

/// The ids of the events of a stream.
fn ids(stream: &Answer) -> Vec<&str> {
    stream.text().lines().filter_map(|line| line.strip_prefix("id: ")).collect()
}

#[test]
fn events_are_listed_from_any_number_on() {
    let (api, path) = with_example();
    let numbers = |query: &str| {
        let page = api.get(&format!("{path}/events{query}")).expect(200).json();
        let events = page["events"].as_array().unwrap();
        let numbers: Vec<u64> = events.iter().map(|event| event["number"].as_u64().unwrap()).collect();
        (numbers, page["next"].as_u64().unwrap())
    };
    assert_eq!(numbers(""), (vec![16, 17, 18], 18));
    assert_eq!(numbers("?limit=2"), (vec![16, 17], 17));
    assert_eq!(numbers("?after=17&limit=2"), (vec![18], 18));
    assert_eq!(numbers("?after=18"), (vec![], 18));
}

#[test]
fn a_stream_goes_on_after_the_last_event_that_was_seen() {
    let (api, path) = with_example();
    let path = format!("{path}/events");
    assert_eq!(ids(&stream(&api, &path, &[])), ["15", "16", "17", "18"]);
    assert_eq!(ids(&stream(&api, &format!("{path}?after=16"), &[])), ["17", "18"]);
    let resumed = stream(&api, &format!("{path}?after=3"), &[("last-event-id", "17")]);
    assert_eq!(ids(&resumed), ["18"], "the header wins: it is of the client's own, the query of its URL");
    assert_eq!(resumed.header("cache-control"), "no-store");
    stream(&api, &path, &[("last-event-id", "")]).expect(200);
    for wrong in ["x", "-1", "+1", "1 2", "18446744073709551616"] {
        stream(&api, &path, &[("last-event-id", wrong)]).expect(400);
        let list = request("GET", &path).header("last-event-id", wrong).body(Body::empty()).unwrap();
        api.call(list).expect(400);
    }
}

#[test]
fn a_stream_says_which_events_are_not_kept_any_more() {
    let (api, path) = with_example();
    let text = stream(&api, &format!("{path}/events?after=4"), &[]).expect(200).text().to_owned();
    assert!(text.contains("id: 15\nevent: gap\ndata: {\"from\":5,\"to\":15}\n\n"), "{text}");
}

#[test]
fn a_stream_of_a_session_that_is_deleted_ends_with_that() {
    let (api, path) = with_example();
    api.end_streams(Ok(News::Deleted));
    let text = stream(&api, &format!("{path}/events"), &[]).expect(200).text().to_owned();
    let last = format!(
        "event: deleted\ndata: {{\"upgrade_id\":\"{}\"}}\n\n",
        path.strip_prefix("/session/").unwrap()
    );
    assert!(text.ends_with(&last), "{text}");
}

#[test]
fn a_stream_shows_that_it_lives_when_nothing_happens() {
    let (api, path) = with_example();
    let text = stream(&api, &format!("{path}/events"), &[]).expect(200).text().to_owned();
    assert!(text.contains("\n\n: still here\n\n"), "{text}");
}

#[test]
fn who_accepts_a_stream_among_others_gets_one() {
    let (api, path) = with_example();
    for (accept, gets) in [
        ("text/event-stream, */*;q=0.1", "text/event-stream"),
        ("Text/Event-Stream;q=1", "text/event-stream"),
        ("*/*", "application/json"),
        ("text/*", "application/json"),
    ] {
        let request = request("GET", &format!("{path}/events")).header("accept", accept);
        assert_eq!(api.call(request.body(Body::empty()).unwrap()).expect(200).header("content-type"), gets);
    }
}

#[test]
fn nothing_is_read_for_a_client_that_does_not_read() {
    let (api, path) = with_example();
    let request = request("GET", &format!("{path}/events")).header("accept", "text/event-stream");
    let mut body = api.open(request.body(Body::empty()).unwrap()).into_body();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut told = Vec::new();
    for _ in 0..2 {
        let frame = runtime.block_on(body.frame()).unwrap().unwrap();
        told.push((String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap(), api.asked()));
    }
    assert_eq!((told[0].0.as_str(), told[0].1), ("retry: 1000\n\n", 0));
    assert!(told[1].0.contains("id: 16\n") && !told[1].0.contains("id: 17\n"), "{told:?}");
    assert_eq!(told[1].1, 1, "one look for what was read");
}

/// A place is free again once its stream has ended.
#[test]
fn as_many_clients_follow_as_may() {
    let limits = ApiLimits { max_streams: 2, ..ApiLimits::default() };
    let api = Api::with(Site::default(), limits);
    let path = format!("/session/{}/events", api.add_example());
    let open =
        || api.open(request("GET", &path).header("accept", "text/event-stream").body(Body::empty()).unwrap());
    let (first, second) = (open(), open());
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 200));
    let refused = stream(&api, &path, &[]).expect(503).detail();
    assert!(refused.contains("2 clients follow") && refused.contains("max_streams"), "{refused}");
    api.get(&path).expect(200);
    drop(first);
    stream(&api, &path, &[]).expect(200);
    stream(&api, &path, &[]).expect(200);
    let unknown = format!("/session/{UNKNOWN}/events");
    for _ in 0..3 {
        stream(&api, &unknown, &[]).expect(404);
    }
    drop(second);
}

#[test]
fn what_is_not_there_has_no_views_and_takes_no_orders() {
    let api = Api::new();
    for id in [UNKNOWN, "x"] {
        for (method, path) in [
            ("GET", "strategy"),
            ("GET", "nodes"),
            ("GET", "progress"),
            ("GET", "events"),
            ("POST", "pause"),
            ("POST", "resume"),
            ("POST", "retry"),
        ] {
            api.send(method, &format!("/session/{id}/{path}")).expect(404);
        }
        // That there is none of the id comes before what may be wrong with a stream.
        stream(&api, &format!("/session/{id}/events"), &[]).expect(404);
    }
}
