//! What each command asks for, and how the answer is printed.

use serde_json::{Value, json};

use super::{ID, OTHER, UPGRADE, ask, at_work, printed, session};
use crate::support::fake::{Fake, Held};

/// The lines of a table: what is at their ends and how wide its columns are does not matter.
fn words(text: &str) -> Vec<Vec<String>> {
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

#[test]
fn without_a_terminal_answers_are_json_as_the_service_sent_them() {
    let fake = Fake::start(at_work());
    let json = |arguments: &[&str]| serde_json::from_str::<Value>(&printed(&fake, arguments)).unwrap();
    let held = fake.with(|held| held.clone());
    assert_eq!(json(&["session", "list"]), json!(held.sessions));
    assert_eq!(json(&["session", "describe", ID]), held.sessions[0]);
    assert_eq!(json(&["session", "nodes", ID]), json!({ "nodes": held.nodes }), "of several pages");
    assert_eq!(json(&["session", "events", ID]), json!({ "events": held.events }), "of several pages");
    assert_eq!(
        json(&["session", "--format", "json", "list"]),
        json!(held.sessions),
        "asked for in words, too"
    );
    for verb in ["pause", "resume", "retry"] {
        assert_eq!(json(&["session", verb, ID]), held.sessions[0]);
        assert_eq!(fake.asked(&format!("POST /session/{ID}/{verb}")).len(), 1);
    }
}

#[test]
fn toml_holds_the_same() {
    let fake = Fake::start(at_work());
    let toml = |arguments: &[&str]| {
        let text = printed(&fake, &[arguments, &["-o", "toml"]].concat());
        serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap()
    };
    let held = fake.with(|held| held.clone());
    assert_eq!(toml(&["session", "list"]), json!({ "results": held.sessions }));
    assert_eq!(toml(&["session", "describe", ID]), held.sessions[0]);
    let nodes = toml(&["session", "nodes", ID]);
    assert_eq!(nodes["nodes"][1]["job"], held.nodes[1]["job"]);
    assert_eq!(nodes["nodes"][0].get("job"), None, "TOML has no null");
}

#[test]
fn tables_are_for_people() {
    let fake = Fake::start(at_work());
    let table = |arguments: &[&str]| printed(&fake, &[arguments, &["--format", "table"]].concat());
    assert_eq!(
        table(&["session", "list"]),
        "\
ID                                    STATE     DONE %  GROUP        TEMPLATE   STEP SIZE  LAST MESSAGE
45a24461-eee3-4b58-b1c2-4c0798e363dd  UPDATING  33      slurm-nodes  new-image  8          Quiesce requested in step 1: moving to QUIESCING
"
    );
    assert_eq!(
        table(&["session", "describe", ID]),
        "\
Session          45a24461-eee3-4b58-b1c2-4c0798e363dd
State            UPDATING, step 1 QUIESCING
Nodes            1 pending, 1 draining, 1 upgraded (33 % done)
Elapsed          12 min
Waits            the jobs on nid000002
Starting group   slurm-nodes
Upgrading group  upgrading-nodes
Failed group     failed-nodes
Template         new-image
Step size        8
Jobs run by      slurm
Strategy         canary [1,5], max_failed 2%
Messages
  one
  Quiesce requested in step 1: moving to QUIESCING
"
    );
    assert_eq!(
        words(&table(&["session", "nodes", ID]))[1..],
        words(
            "nid000001 x1000c0s0b0n0 upgraded 1 0 2020-01-02 10:00:00
             nid000002 x1000c0s0b0n1 draining 1 0 2020-01-02 10:00:00 17 alice 2020-01-02 12:00:00
             nid000003 x1000c0s1b0n0 pending 1 0 2020-01-02 10:00:00"
        )
    );
    assert_eq!(
        table(&["session", "events", ID]),
        "\
2026-11-24T10:31:07Z  started: 3 nodes to upgrade
2026-11-24T10:31:07Z  step 1: QUIESCING
2026-11-24T10:31:07Z  2 nodes draining: x1000c0s0b0n[0-1]
"
    );
    let none = Fake::start(Held::default());
    let empty = printed(&none, &["session", "list", "-o", "table"]);
    assert_eq!(empty, "There are no sessions; crus session create starts one.\n");
}

#[test]
fn the_list_tells_which_session_is_paused() {
    let mut held = at_work();
    held.progress["paused"] = json!({ "reason": "Paused", "since": "2020-01-02T10:00:00.000Z" });
    let fake = Fake::start(held);
    let list = printed(&fake, &["session", "list", "-o", "table"]);
    assert!(list.contains("33      since 2020-01-02 10:00:00  slurm-nodes"), "{list}");
}

#[test]
fn nodes_and_events_can_be_chosen() {
    let fake = Fake::start(at_work());
    let names = |arguments: &[&str]| {
        let answer: Value = serde_json::from_str(&printed(&fake, arguments)).unwrap();
        let nodes = answer["nodes"].as_array().unwrap().clone();
        nodes.iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["session", "nodes", ID, "--state", "pending,upgraded"]), ["nid000001", "nid000003"]);
    assert_eq!(names(&["session", "nodes", ID, "--limit", "1"]), ["nid000001"]);
    let events: Value =
        serde_json::from_str(&printed(&fake, &["session", "events", ID, "--after", "2"])).unwrap();
    assert_eq!(events["events"].as_array().unwrap().len(), 1);
    assert_eq!(events["events"][0]["number"], 3);
    let wrong = ask(&fake, &["session", "nodes", ID, "--state", "gone"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.err.contains("possible values: pending, draining"), "{}", wrong.err);
}

#[test]
fn an_upgrade_is_asked_for_as_the_options_say() {
    let fake = Fake::start(Held { plan: json!({ "steps": [] }), ..at_work() });
    let plain = json!({
        "failed_label": "failed-nodes", "starting_label": "slurm-nodes", "upgrade_step_size": 8,
        "upgrade_template_id": "new-image", "upgrading_label": "upgrading-nodes", "workload_manager_type": "slurm",
    });
    let created = printed(&fake, &[&["session", "create"], UPGRADE.as_slice()].concat());
    assert_eq!(serde_json::from_str::<Value>(&created).unwrap(), session(ID, "UPDATING"));
    assert_eq!(fake.asked("POST /session")[0].body, plain, "no strategy unless one is asked for");
    let strategy = [
        "--max-failed",
        "2%",
        "--canary",
        "1,5",
        "--min-in-service",
        "batch=90%",
        "--window",
        "Europe/Zurich mon-tue 22:00-06:00",
        "--order",
        "spread",
        "--retries",
        "1",
    ];
    printed(&fake, &[&["plan"], UPGRADE.as_slice(), &strategy].concat());
    let mut asked = plain;
    asked["strategy"] = json!({
        "max_failed": "2%", "canary": [1, 5], "min_in_service": { "batch": "90%" }, "order": "spread", "retries": 1,
        "window": { "time_zone": "Europe/Zurich", "open": [{ "days": ["mon", "tue"], "from": "22:00", "to": "06:00" }] },
    });
    assert_eq!(fake.asked("POST /plan")[0].body, asked);
}

#[test]
fn the_beginning_of_an_id_names_one_session_or_none() {
    let mut held = at_work();
    held.sessions.push(session(OTHER, "CREATED"));
    let fake = Fake::start(held);
    let found = |id: &str| {
        let text = printed(&fake, &["session", "describe", id]);
        serde_json::from_str::<Value>(&text).unwrap()["upgrade_id"].as_str().unwrap().to_owned()
    };
    assert_eq!(found("45a24"), ID);
    assert_eq!(found("45A2FFFF-0"), OTHER);
    assert_eq!(found(&OTHER.to_uppercase()), OTHER);
    for (id, code, says) in [
        ("45a2", 2, "is the beginning of several ids: 45a24461"),
        ("45a", 2, "at least its first 4 characters"),
        ("../session", 2, "is no upgrade id"),
        ("beef", 1, "has no session whose id begins with beef"),
        (
            "beef0000-0000-4000-8000-000000000001",
            1,
            "has no session beef0000-0000-4000-8000-000000000001 (404)",
        ),
    ] {
        // What an order would do to the wrong one is why.
        for verb in ["describe", "delete", "watch"] {
            let yes: &[&str] = if verb == "delete" { &["--yes"] } else { &[] };
            let ended = ask(&fake, &[&["session", verb, id], yes].concat());
            assert_eq!(ended.code, Some(code), "{id}: {}", ended.err);
            assert!(ended.err.contains(says), "{id}: {}", ended.err);
        }
    }
    let changes = fake.with(|held| held.asked.iter().filter(|asked| !asked.what.starts_with("GET")).count());
    assert_eq!(changes, 0);
}

#[test]
fn nothing_is_deleted_unless_somebody_says_so() {
    let fake = Fake::start(at_work());
    let silent = ask(&fake, &["session", "delete", ID]);
    assert_eq!(silent.code, Some(2));
    assert!(silent.err.contains("say so with --yes"), "{}", silent.err);
    assert_eq!(fake.asked(&format!("DELETE /session/{ID}")).len(), 0);
    let text = printed(&fake, &["session", "delete", ID, "--yes"]);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["state"], "DELETING");
    assert_eq!(fake.asked(&format!("DELETE /session/{ID}")).len(), 1);
}

/// The service notes an order and takes it up later: whoever watches next must not see the session as it was.
#[test]
fn an_order_is_answered_once_it_has_its_effect() {
    let mut held = at_work();
    super::finish(&mut held, 2, 1, 0);
    let fake = Fake::start(held);
    let retried: Value = serde_json::from_str(&printed(&fake, &["session", "retry", ID])).unwrap();
    assert_eq!(retried["completed"], false);
    let paused = printed(&fake, &["session", "pause", ID, "-o", "table"]);
    assert!(paused.contains("\nPaused           Paused, since"), "{paused}");
}

#[test]
fn a_plan_says_what_is_in_the_way_and_a_script_learns_it_by_the_code() {
    let step = |step: u32, job: Value| {
        json!({ "count": 2, "job": job, "nodes": "nid[000001-000002]", "starts": "2020-01-02T10:00:00.000Z",
            "step": step, "takes_s": 900.5, "wait_s": 120.0 })
    };
    let plan = json!({
        "caveats": ["how long jobs run that are not there yet"],
        "conditions": [{ "detail": "holds 5 nodes", "met": true, "name": "starting_group" }],
        "ends": null, "feasible": true, "lost": [], "nodes": 5, "planned_at": "2020-01-02T10:00:00.000Z",
        "steps": [step(0, json!({ "end": "2020-01-02T12:00:00.000Z", "id": "17", "user": "alice" })), step(1, json!(null))],
        "steps_total": 3, "takes_s": { "high": 5400.0, "low": 2700.0 }, "warnings": [],
    });
    let fake = Fake::start(Held { plan: plan.clone(), ..at_work() });
    let arguments = [&["plan"], UPGRADE.as_slice()].concat();
    assert_eq!(serde_json::from_str::<Value>(&printed(&fake, &arguments)).unwrap(), plan);
    let table = [arguments.as_slice(), &["--format", "table"]].concat();
    assert_eq!(
        printed(&fake, &table),
        "\
Could begin  yes
Nodes        5 nodes, in 3 steps
Would take   45 min to 1 h 30 min

CONDITION
starting_group  ok  holds 5 nodes

STEP  NODES  STARTS (UTC)         WAITS FOR JOBS  TAKES   LAST JOB                             WHICH
0     2      2020-01-02 10:00:00  2 min           15 min  17 of alice, to 2020-01-02 12:00:00  nid[000001-000002]
1     2      2020-01-02 10:00:00  2 min           15 min                                       nid[000001-000002]
and 1 step more

What the estimate does not know
  how long jobs run that are not there yet
"
    );
    fake.with(|held| {
        held.plan["lost"] = json!([{ "count": 1, "reason": "unknown to HSM", "xnames": ["x1000c0s0b0n0"] }]);
    });
    let lost = ask(&fake, &table);
    assert_eq!(lost.code, Some(3));
    assert!(
        lost.out.contains("\nWill not make it\n  1 node, unknown to HSM: x1000c0s0b0n0\n"),
        "{}",
        lost.out
    );
    fake.with(|held| {
        held.plan["lost"] = json!([]);
        held.plan["conditions"][0]["met"] = json!(false);
    });
    let unmet = ask(&fake, &table);
    assert_eq!(unmet.code, Some(3));
    assert!(unmet.out.starts_with("Could begin  no: a condition is not met\n"), "{}", unmet.out);
    assert!(unmet.out.contains("starting_group  NOT MET  holds 5 nodes"), "{}", unmet.out);
}
