//! What a request must hold to become a session: 422 and the reasons.

use crus_api::site::Site;
use serde_json::{Value, json};

use crate::service::{Api, example, example_with, example_without, request};

const LABELS: [&str; 3] = ["failed_label", "starting_label", "upgrading_label"];
const TEXTS: [&str; 5] =
    ["failed_label", "starting_label", "upgrade_template_id", "upgrading_label", "workload_manager_type"];
const BEGINNING: &str = "Input data was understood, but failed validation. ";

/// What is wrong with a body, by property. No session comes of it.
#[track_caller]
fn errors(body: impl Into<axum::body::Body>) -> Value {
    let api = Api::new();
    let problem = api.post(body).expect(422).json();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with(BEGINNING), "{detail}");
    for (name, reasons) in problem["errors"].as_object().unwrap() {
        assert!(detail.contains(&name.escape_debug().to_string()), "{name} is not in: {detail}");
        for reason in reasons.as_array().unwrap() {
            assert!(detail.contains(reason.as_str().unwrap()), "{reason} is not in: {detail}");
        }
    }
    assert_eq!(api.get("/session").text(), "[]");
    problem["errors"].clone()
}

#[track_caller]
fn reason(name: &str, value: Value) -> String {
    let errors = errors(example_with(name, value).to_string());
    assert_eq!(errors.as_object().unwrap().len(), 1, "{errors}");
    let reasons = errors[name].as_array().unwrap();
    assert_eq!(reasons.len(), 1, "{errors}");
    reasons[0].as_str().unwrap().to_owned()
}

#[test]
fn each_property_is_required() {
    for name in example().as_object().unwrap().keys() {
        let errors = errors(example_without(name).to_string());
        let reason = errors[name][0].as_str().unwrap();
        assert!(reason.starts_with("is missing; it must be "), "{name} {reason}");
        assert_eq!(errors.as_object().unwrap().len(), 1);
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    assert_eq!(
        errors(r#"{"failed_label": "", "starting_label": null, "upgrade_step_size": "30", "colour": "red"}"#),
        json!({
            "colour": ["is not a property of a session"],
            "failed_label": ["is empty; it must be the label of the HSM group that will receive the nodes that fail"],
            "starting_label": ["is null; it must be the label of the HSM group of the nodes to upgrade"],
            "upgrade_step_size": ["is a string; it must be a whole number from 1 to 100000"],
            "upgrade_template_id": ["is missing; it must be the name of a BOS session template"],
            "upgrading_label": ["is missing; it must be the label of the HSM group that will hold the nodes in flight"],
            "workload_manager_type": ["is missing; it must be \"slurm\", the only workload manager supported"]
        })
    );
}

#[test]
fn a_text_is_a_text() {
    for name in TEXTS {
        for (value, is) in [
            (json!(null), "null"),
            (json!(""), "empty"),
            (json!(true), "true"),
            (json!(7), "7"),
            (json!(-1.5), "-1.5"),
            (json!(["x"]), "an array"),
            (json!({ "x": 1 }), "an object"),
        ] {
            let reason = reason(name, value);
            assert!(reason.starts_with(&format!("is {is}; it must be ")), "{name} {reason}");
        }
    }
}

#[test]
fn a_string_with_a_broken_escape_is_not_a_name() {
    let body = example().to_string().replace("nodes-that-failed", "\\ud800");
    let errors = errors(body);
    let reason = errors["failed_label"][0].as_str().unwrap();
    assert!(reason.starts_with("is a string with a broken escape; it must be"), "{reason}");
}

#[test]
fn a_step_size_is_a_whole_number_within_reason() {
    let api = Api::new();
    let with = |number: &str| example().to_string().replace("30", number);
    for (number, size) in [
        ("1", 1),
        ("30", 30),
        ("30.0", 30),
        ("3e1", 30),
        ("1E+2", 100),
        ("300e-1", 30),
        ("99999", 99_999),
        ("100000", 100_000),
    ] {
        assert_eq!(api.post(with(number)).expect(201).json()["upgrade_step_size"], size, "{number}");
    }
    let bad = [
        "0",
        "-0",
        "-1",
        "0.5",
        "3.5",
        "-30",
        "1e-400",
        "1e400",
        "-1e400",
        "100001",
        "4294967297",
        "18446744073709551617",
        "1e19",
    ];
    for number in bad {
        let errors = errors(with(number));
        let reason = format!("is {number}; it must be a whole number from 1 to 100000");
        assert_eq!(errors, json!({ "upgrade_step_size": [reason] }));
    }
    for (value, is) in [
        (json!("30"), "a string"),
        (json!(""), "empty"),
        (json!(true), "true"),
        (json!(false), "false"),
        (json!(null), "null"),
        (json!([30]), "an array"),
        (json!({}), "an object"),
    ] {
        let told = reason("upgrade_step_size", value);
        assert_eq!(told, format!("is {is}; it must be a whole number from 1 to 100000"));
    }
    let long = errors(with(&"9".repeat(5000)));
    let reason = long["upgrade_step_size"][0].as_str().unwrap();
    assert!(reason.len() < 150, "{reason}");
}

#[test]
fn a_label_is_one_that_hsm_takes() {
    let api = Api::new();
    for name in LABELS {
        for good in ["x", "a-b_c.d:e", "0", "...", &"l".repeat(255)] {
            assert_eq!(api.post_json(&example_with(name, json!(good))).expect(201).json()[name], good);
        }
        for bad in
            [".", "..", " x", "x y", "x/y", "x,y", "x\n", "größe", "ſ", "\u{212a}", "*", &"l".repeat(256)]
        {
            let told = reason(name, json!(bad));
            assert_eq!(
                told, "must be 1 to 255 letters, digits, '-', ':', '.' or '_', and not be '.' or '..'",
                "{bad}"
            );
        }
    }
}

#[test]
fn a_label_in_upper_case_is_the_one_in_lower_case() {
    let api = Api::new();
    let created = api.post_json(&example_with("starting_label", json!("Nodes-To-Upgrade"))).expect(201);
    assert_eq!(created.json()["starting_label"], "nodes-to-upgrade");
}

/// FIELD-NOTES, "What it got wrong", 2.
#[test]
fn the_three_groups_are_three() {
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        for same in [["shared", "shared"], ["Shared", "sHARED"]] {
            let mut body = example();
            body[LABELS[a]] = json!(same[0]);
            body[LABELS[b]] = json!(same[1]);
            let told = errors(body.to_string());
            let expected = json!({
                LABELS[a]: [format!("must differ from {}", LABELS[b])],
                LABELS[b]: [format!("must differ from {}", LABELS[a])],
            });
            assert_eq!(told, expected);
        }
    }
    let mut body = example();
    for name in LABELS {
        body[name] = json!("shared");
    }
    assert_eq!(
        errors(body.to_string())["failed_label"],
        json!(["must differ from starting_label and upgrading_label"])
    );
    // Two labels that are both wrong are not the same.
    let told = errors(example_without("failed_label").to_string().replace("nodes-to-upgrade", ""));
    assert!(!told.to_string().contains("differ"), "{told}");
}

#[test]
fn a_template_is_one_that_bos_takes() {
    let api = Api::new();
    for good in ["x", "A.b-c_9", &"t".repeat(127)] {
        let created = api.post_json(&example_with("upgrade_template_id", json!(good))).expect(201);
        assert_eq!(created.json()["upgrade_template_id"], good);
    }
    for bad in ["-x", "x-", ".", "a b", "a/b", "ä", &"t".repeat(128)] {
        let told = reason("upgrade_template_id", json!(bad));
        assert!(told.starts_with("must be 1 to 127 letters, digits"), "{told}");
    }
}

#[test]
fn slurm_is_the_only_workload_manager() {
    for other in ["pbs", "Slurm", "slurm ", "SLURM"] {
        let told = reason("workload_manager_type", json!(other));
        assert_eq!(told, "must be \"slurm\", the only workload manager supported");
    }
}

#[test]
fn an_unknown_property_is_refused_by_name() {
    assert_eq!(reason("Strategy", json!({})), "is not a property of a session");
    assert_eq!(reason("Failed_Label", json!("x")), "is not a property of a session");
    assert_eq!(reason("", json!(1)), "is not a property of a session");
}

#[test]
fn what_a_property_is_called_cannot_steer_a_terminal() {
    let problem = Api::new().post_json(&example_with("\u{1b}[31m\u{202e}", json!(1))).expect(422).json();
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains(r#""\u{1b}[31m\u{202e}" is not a property of a session."#), "{detail}");
}

#[test]
fn however_much_is_unknown_the_answer_is_short() {
    let mut body = example();
    for i in 0..3000 {
        body[format!("p{i:04}")] = json!(i);
    }
    body["x".repeat(5000)] = json!(1);
    let problem = Api::new().post_json(&body).expect(422);
    assert!(problem.body.len() < 2000, "{}", problem.text());
    assert!(problem.detail().contains("2993 more properties are unknown."), "{}", problem.text());
}

#[test]
fn a_property_is_given_once() {
    let twice = |text: &str| example().to_string().replacen('{', &format!("{{{text},"), 1);
    for (text, name) in [
        (r#""upgrade_step_size":30"#, "upgrade_step_size"),
        (r#""upgrade_step_size":null"#, "upgrade_step_size"),
        (r#""failed\u005flabel":"x""#, "failed_label"),
        (r#""state":1,"state":1"#, "state"),
    ] {
        let expected = json!({ name: ["is given more than once; it must be given once"] });
        assert_eq!(errors(twice(text)), expected);
    }
}

#[test]
fn a_body_that_is_not_an_object_is_told_what_it_is() {
    for (body, is) in [
        ("null", "null"),
        ("true", "true"),
        ("30", "30"),
        ("\"x\"", "a string"),
        ("\"\"", "empty"),
        ("[]", "an array"),
        (" [{\"failed_label\": \"x\"}]\n", "an array"),
    ] {
        let problem = Api::new().post(body).expect(422).json();
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with(BEGINNING) && detail.ends_with(&format!("; it is {is}.")), "{detail}");
        assert_eq!(problem["errors"].as_object().unwrap().keys().collect::<Vec<_>>(), ["body"]);
    }
}

#[test]
fn depth_is_no_danger() {
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    Api::new().post(deep.clone()).expect(422);
    Api::new().post("[".repeat(60_000)).expect(400);
    Api::new().post("{\"a\":".repeat(10_000)).expect(400);
    let body = |name: &str| example().to_string().replacen('{', &format!("{{\"{name}\":{deep},"), 1);
    assert_eq!(errors(body("colour")), json!({ "colour": ["is not a property of a session"] }));
    Api::new().post(body("messages")).expect(201);
}

#[test]
fn an_answered_session_can_be_sent_again() {
    let api = Api::new();
    let first = api.post_json(&example()).expect(201).json();
    let second = api.post_json(&first).expect(201).json();
    assert_ne!(first["upgrade_id"], second["upgrade_id"]);
    assert_eq!(api.get("/session").json(), json!([first, second]));
}

#[test]
fn read_only_properties_are_ignored_whatever_they_hold() {
    let api = Api::new();
    for name in ["api_version", "completed", "kind", "messages", "state", "upgrade_id"] {
        for value in [json!(null), json!("READY"), json!(true), json!(1e300), json!([[]]), json!({ "x": {} })]
        {
            let created = api.post_json(&example_with(name, value)).expect(201).json();
            assert_eq!(created["state"], "UPDATING");
            assert_eq!(created["completed"], false);
            assert_eq!(created["messages"], json!([]));
        }
    }
}

/// A header is none of the properties: what is wrong with it is told by its name.
#[test]
fn a_tenant_is_one_name_or_left_out() {
    let api = Api::new();
    let ask = |path: &str, tenants: &[&str]| {
        let mut asked = request("POST", path).header("content-type", "application/json");
        for tenant in tenants {
            asked = asked.header("cray-tenant-name", *tenant);
        }
        api.call(asked.body(example().to_string().into()).unwrap())
    };
    for path in ["/session", "/apis/crus/session", "/plan"] {
        for wrong in [&[""][..], &["-a"], &["a b"], &["a/b"], &["a", "b"], &[&"a".repeat(128)]] {
            let problem = ask(path, wrong).expect(400).json();
            let detail = problem["detail"].as_str().unwrap();
            assert!(
                detail.starts_with("The header Cray-Tenant-Name must be the name of one tenant"),
                "{detail}"
            );
        }
    }
    assert_eq!(api.get("/session").text(), "[]");
    let created = ask("/session", &["Blue-1.x_"]).expect(201).json();
    assert_eq!(created.get("tenant"), None, "the documented answer stays as it is");
    let progress = format!("/session/{}/progress", created["upgrade_id"].as_str().unwrap());
    assert_eq!(api.get(&progress).json()["tenant"], "Blue-1.x_");
    let created = ask("/session", &[]).expect(201).json();
    let progress = format!("/session/{}/progress", created["upgrade_id"].as_str().unwrap());
    assert_eq!(api.get(&progress).json()["tenant"], Value::Null);
}

#[test]
fn a_tenant_is_refused_where_bos_knows_none() {
    let api = Api::of(Site { tenants: false, ..Site::default() });
    let request = request("POST", "/session").header("content-type", "application/json");
    let request = request.header("cray-tenant-name", "blue").body(example().to_string().into()).unwrap();
    let problem = api.call(request).expect(422).json();
    let reason = problem["errors"]["Cray-Tenant-Name"][0].as_str().unwrap();
    assert!(reason.starts_with("must be left out: the Boot Orchestration Service"), "{reason}");
    assert!(problem["detail"].as_str().unwrap().contains(reason), "{problem}");
}
