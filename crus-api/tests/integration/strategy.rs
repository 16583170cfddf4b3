//! The strategy of a request: what it may hold, what the site adds to it, and how it is shown.

use std::collections::BTreeSet;
use std::sync::Arc;

use crus_api::{Caps, Site};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::arbitrary::any_value;
use crate::document::DOCUMENT;
use crate::schema;
use crate::service::{Api, example, example_with};

/// What is wrong with a strategy, by option. No session comes of it.
#[track_caller]
fn errors_at(site: Site, strategy: Value) -> Map<String, Value> {
    let api = Api::of(site);
    let problem = api.post_json(&example_with("strategy", strategy)).expect(422).json();
    assert_eq!(api.get("/session").text(), "[]");
    let detail = problem["detail"].as_str().unwrap();
    let errors = problem["errors"].as_object().unwrap().clone();
    for (name, reasons) in &errors {
        for reason in reasons.as_array().unwrap() {
            assert!(detail.contains(reason.as_str().unwrap()), "{name} {reason} is not in: {detail}");
        }
    }
    errors
}

#[track_caller]
fn errors(strategy: Value) -> Map<String, Value> {
    errors_at(Site::default(), strategy)
}

/// The one thing that is wrong with a strategy.
#[track_caller]
fn reason_at(site: Site, option: &str, strategy: Value) -> String {
    let errors = errors_at(site, strategy);
    assert_eq!(errors.len(), 1, "{errors:?}");
    let reasons = errors[&format!("strategy.{option}")].as_array().unwrap();
    assert_eq!(reasons.len(), 1, "{errors:?}");
    reasons[0].as_str().unwrap().to_owned()
}

#[track_caller]
fn reason(option: &str, value: impl Into<Value>) -> String {
    let value: Value = value.into();
    reason_at(Site::default(), option, json!({ option: value }))
}

/// The strategy of the session that comes of this one, as it is shown.
#[track_caller]
fn shown_at(site: Site, strategy: &Value) -> Value {
    let api = Api::of(site);
    let session = api.post_json(&example_with("strategy", strategy.clone())).expect(201).json();
    api.get(&format!("/session/{}/strategy", session["upgrade_id"].as_str().unwrap())).expect(200).json()
}

fn site(defaults: impl Into<Value>, caps: Value) -> Site {
    let defaults = crus_api::strategy::parse(&defaults.into().to_string()).unwrap();
    let caps: Caps = serde_json::from_value(caps).unwrap();
    assert_eq!(caps.problem(&defaults), None);
    Site { defaults, caps, ..Site::default() }
}

fn everything() -> Value {
    json!({
        "canary": [1, 5], "check_command": "health", "domain": "cabinet", "drain_timeout_s": 3600, "max_failed": "2%",
        "max_failed_step": 1, "max_per_domain": 2, "min_in_service": { "batch": "90%", "debug": 2 },
        "on_drain_timeout": "later", "order": "spread", "retries": 1, "soak_s": 60,
        "window": {
            "open": [{ "days": ["mon", "fri"], "from": "22:00", "to": "06:00" }, { "from": "12:00", "to": "24:00" }],
            "time_zone": "Europe/Zurich"
        }
    })
}

#[test]
fn a_strategy_is_shown_as_it_was_sent() {
    assert_eq!(shown_at(Site::default(), &everything()), everything());
    assert_eq!(shown_at(Site::default(), &json!({})), json!({}));
    let said = json!({ "canary": [], "min_in_service": {}, "on_drain_timeout": "wait", "retries": 0.0, "order": null });
    assert_eq!(shown_at(Site::default(), &said), json!({}), "what is said to be as it is anyway");
}

#[test]
fn a_request_without_one_has_none_and_is_answered_as_ever() {
    let api = Api::new();
    let without = api.post_json(&example()).expect(201).json();
    let with = api.post_json(&example_with("strategy", everything())).expect(201).json();
    let names = |session: &Value| session.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&with), names(&without));
    let path = format!("/apis/crus/session/{}/strategy", without["upgrade_id"].as_str().unwrap());
    assert_eq!(api.get(&path).expect(200).text(), "{}");
}

#[test]
fn all_that_is_wrong_is_told_at_once_by_its_place() {
    let told = errors(json!({
        "max_failed": "many", "canary": [1, 0, "2"], "soak_s": true, "drain_timeout_s": 0.5, "on_drain_timeout": "kill",
        "order": 3, "domain": "", "max_per_domain": -1, "min_in_service": { "batch": 1.5, "a b": "5%" }, "retries": 11,
        "check_command": "rm -rf", "colour": "red",
        "window": { "zone": "UTC", "open": [{ "from": "24:00", "to": "6" }, 7, { "days": ["fri", "Sat"], "from": "01:00" }] }
    }));
    let amount =
        "must be a whole number of nodes from 0, such as 3, or a percentage from 0% to 100%, such as \"5%\"";
    let expected = json!({
        "strategy.canary[1]": ["is 0; it must be a whole number from 1 to 100000"],
        "strategy.canary[2]": ["is a string; it must be a whole number from 1 to 100000"],
        "strategy.check_command": ["must be 1 to 64 letters, digits, '-', '_' or '.'"],
        "strategy.colour": ["is not an option of a strategy"],
        "strategy.domain": ["must be cabinet, chassis, slot or board"],
        "strategy.drain_timeout_s": ["is 0.5; it must be a whole number of seconds from 1 to 2592000 (30 days)"],
        "strategy.max_failed": [format!("is a string; it {amount}")],
        "strategy.max_per_domain": ["is -1; it must be a whole number from 1 to 100000"],
        "strategy.min_in_service.a b": ["is no partition: the name must be 1 to 64 letters, digits, '-', '_' or '.'"],
        "strategy.min_in_service.batch": [format!("is 1.5; it {amount}")],
        "strategy.on_drain_timeout": ["must be wait, skip, requeue, cancel or later"],
        "strategy.order": ["is 3; it must be soonest_free, name, spread or pack"],
        "strategy.retries": ["is 11; it must be a whole number from 0 to 10"],
        "strategy.soak_s": ["is true; it must be a whole number of seconds from 1 to 2592000 (30 days)"],
        "strategy.window.open[0].from": ["is 24:00; it must be 00:00, of the next day"],
        "strategy.window.open[0].to": ["must be a time of day from 00:00 to 24:00, such as 06:30"],
        "strategy.window.open[1]":
            ["is 7; it must be a span, such as {\"days\": [\"fri\"], \"from\": \"22:00\", \"to\": \"06:00\"}"],
        "strategy.window.open[2].days[1]": ["must be mon, tue, wed, thu, fri, sat or sun"],
        "strategy.window.open[2].to": ["is missing; it must be a time of day from 00:00 to 24:00, such as 06:30"],
        "strategy.window.time_zone":
            ["is missing; it must be a name of the IANA time zone database, such as Europe/Zurich or UTC"],
        "strategy.window.zone": ["is not a property of a window"]
    });
    assert_eq!(Value::Object(told), expected);
}

#[test]
fn it_is_told_together_with_what_is_wrong_with_the_rest_of_the_request() {
    let mut body = example_with("strategy", json!({ "retries": "x" }));
    body["upgrade_step_size"] = json!(0);
    let problem = Api::new().post_json(&body).expect(422).json();
    let names: Vec<&String> = problem["errors"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["strategy.retries", "upgrade_step_size"]);
}

#[test]
fn what_is_no_object_is_told_what_it_is() {
    for (value, is) in [(json!(null), "null"), (json!([]), "an array"), (json!("fast"), "a string")] {
        let errors = errors(value);
        let reason = errors["strategy"][0].as_str().unwrap();
        assert!(reason.starts_with(&format!("is {is}; it must be an object of options")), "{reason}");
    }
}

#[test]
fn an_option_is_given_once() {
    let twice = |strategy: &str| {
        let body = example_with("strategy", json!("S")).to_string().replace("\"S\"", strategy);
        Api::new().post(body).expect(422).json()["errors"].clone()
    };
    let told = json!(["is given more than once; it must be given once"]);
    for (strategy, place) in [
        (r#"{"retries":1,"retries":1}"#, "strategy.retries"),
        (r#"{"min_in_service":{"a":1,"a":2}}"#, "strategy.min_in_service.a"),
        (
            r#"{"window":{"time_zone":"UTC","time_zone":"UTC","open":[{"from":"01:00","to":"02:00"}]}}"#,
            "strategy.window.time_zone",
        ),
    ] {
        assert_eq!(twice(strategy), json!({ place: told }), "{strategy}");
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (strategy, option) in [
        (json!({ "soak_s": 60 }), "soak_s"),
        (json!({ "soak_s": 60, "canary": [] }), "soak_s"),
        (json!({ "on_drain_timeout": "skip" }), "on_drain_timeout"),
        (json!({ "order": "pack", "max_per_domain": 2 }), "max_per_domain"),
    ] {
        let reason = reason_at(Site::default(), option, strategy);
        assert!(reason.starts_with("needs ") || reason.starts_with("contradicts "), "{reason}");
    }
    // Of what could not be read nothing follows for others.
    let errors = errors(json!({ "soak_s": 60, "canary": "1" }));
    assert_eq!(errors.keys().collect::<Vec<_>>(), ["strategy.canary"]);
}

#[test]
fn lists_are_bounded() {
    assert!(
        reason("canary", json!(vec![1; 17])).starts_with("lists 17 steps; it must be an array of at most 16")
    );
    let floors: Map<String, Value> = (0..65).map(|n| (format!("p{n}"), json!(1))).collect();
    assert_eq!(reason("min_in_service", floors), "names 65 partitions; it may name 64");
    let window = json!({ "time_zone": "UTC", "open": vec![json!({ "from": "01:00", "to": "02:00" }); 17] });
    let reason = reason_at(Site::default(), "window.open", json!({ "window": window }));
    assert!(reason.starts_with("lists 17 spans; it must be an array of 1 to 16"), "{reason}");
}

#[test]
fn however_much_is_wrong_the_answer_is_short() {
    let spans = vec![json!({ "days": vec![0; 7], "from": 1, "to": 1, "x": 1 }); 16];
    let mut strategy = json!({ "window": { "open": spans } });
    for i in 0..900 {
        strategy[format!("\u{1b}option{i:04}")] = json!(i);
    }
    let problem = Api::new().post_json(&example_with("strategy", strategy)).expect(422);
    assert!(problem.body.len() < 12_000, "{}", problem.body.len());
    let detail = problem.detail();
    assert!(detail.contains("more mistakes are not listed."), "{detail}");
}

#[test]
fn a_time_zone_and_a_check_command_are_ones_that_the_service_knows() {
    let known = |checks: &[&str]| Site {
        check_commands: Some(checks.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<_>>()),
        knows_zone: Arc::new(|zone| zone == "UTC"),
        ..Site::default()
    };
    let window = |zone: &str| json!({ "time_zone": zone, "open": [{ "from": "01:00", "to": "02:00" }] });
    shown_at(known(&["health"]), &json!({ "check_command": "health", "window": window("UTC") }));
    let told = reason_at(known(&["health", "net"]), "check_command", json!({ "check_command": "wealth" }));
    assert!(told.ends_with("in the service's configuration: it has health and net"), "{told}");
    let told = reason_at(known(&[]), "check_command", json!({ "check_command": "health" }));
    assert!(told.ends_with("it has none"), "{told}");
    let told = reason_at(known(&[]), "window.time_zone", json!({ "window": window("Mars/Olympus") }));
    assert!(told.starts_with("is not a time zone that is known here; it must be"), "{told}");
}

// ---- what the site adds -----------------------------------------------------------------------------------

#[test]
fn what_is_left_out_is_as_the_site_has_it() {
    let defaults = json!({ "canary": [1], "max_failed": "2%", "soak_s": 600, "retries": 1 });
    let at = |strategy: Value| shown_at(site(defaults.clone(), json!({})), &strategy);
    assert_eq!(at(json!({})), defaults);
    let asked = at(json!({ "max_failed": 3, "retries": 0, "order": "name" }));
    assert_eq!(asked, json!({ "canary": [1], "max_failed": 3, "soak_s": 600, "order": "name" }));
    assert_eq!(at(json!({ "max_failed": null, "soak_s": null })), json!({ "canary": [1], "retries": 1 }));
    let api = Api::of(site(defaults.clone(), json!({})));
    let session = api.post_json(&example()).expect(201).json();
    let path = format!("/session/{}/strategy", session["upgrade_id"].as_str().unwrap());
    assert_eq!(api.get(&path).json(), defaults, "of a request without a strategy, too");
}

#[test]
fn what_the_service_itself_does_is_shown_where_a_strategy_says_nothing() {
    let order = Some(crus_core::batch::Order::SoonestFree);
    let service = Site { drain_timeout_ms: Some(90_500), order, ..Site::default() };
    let at = |strategy: Value| shown_at(service.clone(), &strategy);
    let own = json!({ "drain_timeout_s": 91, "on_drain_timeout": "skip", "order": "soonest_free" });
    assert_eq!(at(json!({})), own);
    let asked = json!({ "drain_timeout_s": 60, "on_drain_timeout": "requeue", "order": "name" });
    assert_eq!(at(asked.clone()), asked);
    assert_eq!(
        at(json!({ "drain_timeout_s": 60, "order": "name" })),
        json!({ "drain_timeout_s": 60, "order": "name" })
    );
}

#[test]
fn a_default_gives_way_to_what_contradicts_it() {
    let at = |defaults: Value, strategy: Value| shown_at(site(defaults, json!({})), &strategy);
    assert_eq!(at(json!({ "canary": [1], "soak_s": 600 }), json!({ "canary": [] })), json!({}));
    let late = json!({ "drain_timeout_s": 60, "on_drain_timeout": "skip" });
    assert_eq!(at(late, json!({ "drain_timeout_s": null })), json!({}));
    assert_eq!(at(json!({ "max_per_domain": 2 }), json!({ "order": "pack" })), json!({ "order": "pack" }));
    assert_eq!(
        at(json!({ "order": "pack" }), json!({ "max_per_domain": 2 })),
        json!({ "max_per_domain": 2 })
    );
}

#[test]
fn a_cap_holds_where_nothing_is_asked_for() {
    let window = json!({ "time_zone": "UTC", "open": [{ "from": "20:00", "to": "06:00" }] });
    let caps = json!({
        "max_failed": "5%", "max_per_domain": 4, "domain": "cabinet", "min_in_service": { "batch": "80%" }, "window": window
    });
    let held = json!({
        "max_failed": "5%", "max_per_domain": 4, "domain": "cabinet", "min_in_service": { "batch": "80%" }, "window": window
    });
    let at = |strategy: Value| shown_at(site(json!({}), caps.clone()), &strategy);
    assert_eq!(at(json!({})), held);
    assert_eq!(
        at(json!({ "max_failed": null, "window": null, "max_per_domain": null, "min_in_service": {} })),
        held
    );
    let night = json!({ "time_zone": "UTC", "open": [{ "days": ["sat"], "from": "22:00", "to": "05:00" }] });
    let less = json!({
        "max_failed": "1%", "max_per_domain": 1, "domain": "cabinet", "min_in_service": { "batch": "90%", "debug": 1 },
        "window": night
    });
    assert_eq!(at(less.clone()), less);
    let spread = at(json!({ "order": "spread", "domain": "cabinet" }));
    assert_eq!(spread["max_per_domain"], Value::Null, "spreading takes one of a domain by itself");
}

#[test]
fn what_goes_beyond_a_cap_is_refused_and_the_cap_named() {
    let window = json!({ "time_zone": "UTC", "open": [{ "from": "20:00", "to": "06:00" }] });
    let caps = json!({
        "max_failed": "5%", "max_retries": 1, "max_per_domain": 4, "min_in_service": { "batch": "80%" },
        "on_drain_timeout": ["wait", "skip"], "window": window
    });
    let night = |zone: &str, to: &str| json!({ "window": { "time_zone": zone, "open": [{ "from": "22:00", "to": to }] } });
    for (strategy, option, told) in [
        (
            json!({ "max_failed": "6%" }),
            "max_failed",
            "is 6%; the service's configuration allows a percentage of at most 5% (strategy_caps.max_failed)",
        ),
        (
            json!({ "max_failed": 1 }),
            "max_failed",
            "is 1; the service's configuration allows a percentage of at most 5%, and not a number (strategy_caps.max_failed)",
        ),
        (
            json!({ "retries": 2 }),
            "retries",
            "is 2; the service's configuration allows at most 1 (strategy_caps.max_retries)",
        ),
        (
            json!({ "max_per_domain": 5 }),
            "max_per_domain",
            "is 5; the service's configuration allows at most 4 (strategy_caps.max_per_domain)",
        ),
        (
            json!({ "order": "pack" }),
            "order",
            "is pack, which takes whole domains; the service's configuration allows at most 4 nodes of a chassis at a time (strategy_caps.max_per_domain)",
        ),
        (
            json!({ "domain": "board", "max_per_domain": 4 }),
            "domain",
            "is board; the service's configuration allows chassis or larger ones (strategy_caps.max_per_domain)",
        ),
        (
            json!({ "min_in_service": { "batch": "79%" } }),
            "min_in_service.batch",
            "is 79%; the service's configuration allows a percentage of at least 80% (strategy_caps.min_in_service)",
        ),
        (
            json!({ "drain_timeout_s": 60, "on_drain_timeout": "cancel" }),
            "on_drain_timeout",
            "is cancel; the service's configuration allows wait and skip (strategy_caps.on_drain_timeout)",
        ),
        (
            night("Europe/Zurich", "06:00"),
            "window.time_zone",
            "is Europe/Zurich; the service's configuration allows UTC alone (strategy_caps.window)",
        ),
        (
            night("UTC", "07:00"),
            "window.open",
            "goes beyond it; the service's configuration allows no time outside its own window (strategy_caps.window)",
        ),
    ] {
        assert_eq!(reason_at(site(json!({}), caps.clone()), option, strategy), told);
    }
    for fine in [
        json!({ "max_failed": 0 }),
        json!({ "retries": 1 }),
        json!({ "min_in_service": { "batch": "100%" } }),
    ] {
        shown_at(site(json!({}), caps.clone()), &fine);
    }
}

#[test]
fn a_step_is_not_larger_than_the_site_allows() {
    let api = Api::of(site(json!({}), json!({ "max_step_size": 50 })));
    api.post_json(&example_with("upgrade_step_size", json!(50))).expect(201);
    let problem = api.post_json(&example_with("upgrade_step_size", json!(51))).expect(422).json();
    let told = "is 51; the service's configuration allows at most 50 (strategy_caps.max_step_size)";
    assert_eq!(problem["errors"], json!({ "upgrade_step_size": [told] }));
}

#[test]
fn caps_that_the_defaults_do_not_keep_to_are_told() {
    let problem = |defaults: Value, caps: Value| {
        let defaults = crus_api::strategy::parse(&defaults.to_string()).unwrap();
        serde_json::from_value::<Caps>(caps).unwrap().problem(&defaults)
    };
    let told = problem(json!({ "retries": 3 }), json!({ "max_retries": 1 })).unwrap();
    assert!(told.starts_with("strategy.retries, which holds where a request says nothing, is 3; "), "{told}");
    assert!(
        problem(json!({}), json!({ "on_drain_timeout": ["skip"] })).is_some(),
        "a drain is waited for by default"
    );
    assert!(problem(json!({}), json!({ "domain": "slot" })).is_some());
    let never = json!({ "window": { "time_zone": "UTC", "open": [] } });
    assert!(problem(json!({}), never).unwrap().starts_with("strategy_caps.window "));
}

// ---- whatever is sent -------------------------------------------------------------------------------------

fn amount() -> impl Strategy<Value = Value> {
    prop_oneof![
        (-1i64..12).prop_map(Value::from),
        (0u32..110).prop_map(|percent| json!(format!("{percent}%"))),
        Just(json!(null))
    ]
}

/// A value near to what the options of a strategy may hold.
fn near_option(name: &str) -> BoxedStrategy<Value> {
    let word = |words: &'static [&'static str]| {
        prop_oneof![9 => prop::sample::select(words).prop_map(Value::from), 1 => Just(Value::Null)].boxed()
    };
    let near = match name {
        "canary" => prop::collection::vec(0u32..9, 0..18).prop_map(Value::from).boxed(),
        "max_failed" | "max_failed_step" => amount().boxed(),
        "on_drain_timeout" => word(&["wait", "skip", "requeue", "cancel", "later", "Wait"]),
        "order" => word(&["soonest_free", "name", "spread", "pack", "fast"]),
        "domain" => word(&["cabinet", "chassis", "slot", "board", "rack"]),
        "min_in_service" => prop::collection::btree_map("[a-z _.]{1,3}", amount(), 0..4)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
            .boxed(),
        "window" => near_window(),
        "check_command" => prop_oneof!["[a-z .]{0,4}".prop_map(Value::from), Just(Value::Null)].boxed(),
        _ => prop_oneof![
            6 => (-1i64..12).prop_map(Value::from),
            1 => Just(json!(2_592_001)),
            1 => Just(json!(7.0)),
            1 => Just(json!(0.5)),
            1 => Just(Value::Null)
        ]
        .boxed(),
    };
    prop_oneof![12 => near, 1 => any_value()].boxed()
}

fn near_window() -> BoxedStrategy<Value> {
    let time = prop_oneof![
        9 => (0u32..25, 0u32..61).prop_map(|(h, m)| format!("{h:02}:{m:02}")),
        1 => "[0-9:]{0,6}"
    ];
    let days =
        prop::option::of(prop::collection::vec(prop::sample::select(&["mon", "sun", "Mon"][..]), 0..4));
    let span = (time.clone(), time, days).prop_map(|(from, to, days)| match days {
        Some(days) => json!({ "from": from, "to": to, "days": days }),
        None => json!({ "from": from, "to": to }),
    });
    let open = prop::collection::vec(span, 0..3);
    (open, "(UTC)?").prop_map(|(open, zone)| json!({ "open": open, "time_zone": zone })).boxed()
}

fn near_strategy() -> impl Strategy<Value = Value> {
    let known = DOCUMENT["components"]["schemas"]["Strategy"]["properties"].as_object().unwrap();
    let names: Vec<String> = known.keys().cloned().chain(["Retries".into()]).collect();
    let option = prop::sample::select(names).prop_flat_map(|name| {
        let value = near_option(&name);
        (Just(name), value)
    });
    prop::collection::vec(option, 0..6).prop_map(|options| Value::Object(options.into_iter().collect()))
}

/// Whole numbers as integers, as our types read them.
fn with_integers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => json!(float as i64),
            _ => Value::Number(number),
        },
        Value::Array(values) => values.into_iter().map(with_integers).collect(),
        Value::Object(map) => map.into_iter().map(|(name, value)| (name, with_integers(value))).collect(),
        other => other,
    }
}

/// The strategy that our own types make of it, if it is one.
fn as_types_read(strategy: &Value) -> Option<crus_core::Strategy> {
    let read: crus_core::Strategy = serde_json::from_value(with_integers(strategy.clone())).ok()?;
    read.problems().is_empty().then_some(read)
}

/// Whether the document takes it. What options say to each other, and the names of partitions, are beyond a schema.
fn is_documented(strategy: &Value) -> bool {
    let schema = json!({ "$ref": "#/components/schemas/Strategy" });
    schema::check(&DOCUMENT, &schema, strategy).is_ok() && as_types_read(strategy).is_some()
}

proptest! {
    #[test]
    fn the_service_takes_what_the_document_and_the_types_take_and_shows_it(strategy in near_strategy()) {
        let api = Api::new();
        let answer = api.post_json(&example_with("strategy", strategy.clone()));
        prop_assert_eq!(answer.status.as_u16(), if is_documented(&strategy) { 201 } else { 422 }, "{}", answer.text());
        if answer.status == 201 {
            let path = format!("/session/{}/strategy", answer.json()["upgrade_id"].as_str().unwrap());
            prop_assert_eq!(api.get(&path).json(), json!(as_types_read(&strategy)));
        }
    }

    #[test]
    fn any_json_is_a_strategy_or_told_why_not(strategy in any_value()) {
        let status = Api::new().post_json(&example_with("strategy", strategy.clone())).status.as_u16();
        prop_assert_eq!(status, if strategy == json!({}) { 201 } else { 422 });
    }

    #[test]
    fn whatever_is_asked_for_the_caps_hold(strategy in near_strategy(), defaults in near_strategy()) {
        let caps: Caps = serde_json::from_value(json!({
            "max_failed": 3, "max_retries": 2, "max_per_domain": 2, "min_in_service": { "a": 2 },
            "on_drain_timeout": ["wait", "skip", "later"],
            "window": { "time_zone": "UTC", "open": [{ "from": "20:00", "to": "06:00" }] }
        })).unwrap();
        let defaults = crus_api::strategy::parse(&defaults.to_string()).unwrap_or_default();
        let defaults = if caps.problem(&defaults).is_none() { defaults } else { crus_core::Strategy::default() };
        let api = Api::of(Site { defaults, caps: caps.clone(), ..Site::default() });
        let answer = api.post_json(&example_with("strategy", strategy));
        prop_assert!(matches!(answer.status.as_u16(), 201 | 422), "{}", answer.text());
        if answer.status == 201 {
            let path = format!("/session/{}/strategy", answer.json()["upgrade_id"].as_str().unwrap());
            let shown: crus_core::Strategy = serde_json::from_value(api.get(&path).json()).unwrap();
            prop_assert!(shown.problems().is_empty());
            prop_assert!(matches!(shown.max_failed, Some(crus_core::strategy::Amount::Count(0..=3) | crus_core::strategy::Amount::Percent(0))));
            prop_assert!(shown.retries <= 2);
            prop_assert!(shown.order == Some(crus_core::batch::Order::Spread) || shown.max_per_domain.is_some());
            prop_assert!(shown.max_per_domain.is_none_or(|most| most.get() <= 2));
            prop_assert!(shown.window.unwrap().is_within(caps.window.as_ref().unwrap()));
            prop_assert!(shown.min_in_service.values().next().is_some());
        }
    }
}
