//! A plan over HTTP of the real service, and what becomes of it.

use serde_json::{Value, json};

use crate::support::simulated::{self, Simulated};
use crate::support::{Service, spec, until};

async fn plan(service: &Service, prefix: &str, spec: &Value) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("{}{prefix}/plan", service.url)).json(spec);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn unmet(plan: &Value) -> Vec<String> {
    let conditions = plan["conditions"].as_array().unwrap().iter();
    conditions.filter(|c| c["met"] == false).map(|c| c["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_planned_over_http_is_what_then_happens() {
    let mut config = simulated::nodes(12);
    config.nodes[4].name = None;
    let site = Simulated::start(config, 1, 600.0).await;
    let service = Service::start(site.serve());
    let spec = spec(4);
    let (code, planned) = plan(&service, "", &spec).await;
    assert_eq!((code, &planned["feasible"]), (200, &json!(true)), "{planned}");
    assert_eq!(planned["steps_total"], 3);
    assert_eq!(planned["lost"][0]["count"], 1);
    assert_eq!(service.get("/session").await, (200, json!([])), "nothing is created");

    let path = service.create(&spec).await;
    let (code, conflicting) = plan(&service, "/apis/crus", &spec).await;
    assert_eq!((code, unmet(&conflicting)), (200, vec!["conflicts".to_owned()]), "{conflicting}");

    until("it is done", async || service.get(&path).await.1["completed"] == true).await;
    let (_, nodes) = service.get(&format!("{path}/nodes")).await;
    let mut steps = vec![Vec::new(); 3];
    for node in nodes["nodes"].as_array().unwrap() {
        if let Some(step) = node["step"].as_u64() {
            steps[usize::try_from(step).unwrap()].push(node["name"].as_str().unwrap().to_owned());
        }
    }
    for (step, names) in planned["steps"].as_array().unwrap().iter().zip(steps) {
        let planned = crus_core::hostlist::expand(step["nodes"].as_str().unwrap()).unwrap();
        assert_eq!(planned.iter().map(ToString::to_string).collect::<Vec<_>>(), names);
    }
}
