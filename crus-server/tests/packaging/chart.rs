//! The Helm chart: linted and rendered by Helm itself, held to the schemas of Kubernetes, and to the service.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crus_server::{VERSION, settings};
use serde_json::{Value, json};

use crate::support::crus;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/helm/cray-crus");
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/packaging/chart.py");
const GUIDE: &str = include_str!("../../docs/installing.md");
const API: &str = include_str!("../../../crus-api/src/openapi.json");

/// From here on Helm means it: 1 is an advice.
const WARNING: u64 = 2;

/// Kinds that others define: Kubernetes has no schema for them.
const FOREIGN: [&str; 3] = ["PrometheusRule", "ServiceMonitor", "VirtualService"];

/// Variables of what the service runs, not of the service.
const OF_SLURM: [&str; 2] = ["SLURM_CONF", "LD_LIBRARY_PATH"];

/// What Helm makes of each of these values. `None` where real peers are not wanted.
fn helm(values: &[Value]) -> Option<Vec<Value>> {
    if crus_sim::left_out("Helm") {
        return None;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let python = target.join("helm/bin/python");
    assert!(python.exists(), "{} is missing: `cargo xtask test` installs it", python.display());
    let mut script = Command::new(python);
    script.args([SCRIPT, CHART]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut script = script.spawn().unwrap();
    script.stdin.take().unwrap().write_all(Value::from(values).to_string().as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answer["helm"].as_str().unwrap().starts_with('v'));
    Some(answer["answers"].as_array().unwrap().clone())
}

/// As a site may set it: each once.
fn sites() -> Vec<Value> {
    vec![
        json!({}),
        json!({"replicaCount": 2, "peers": {"via": "mesh"}, "slurm": {"munge": {"via": "host"}}, "antiAffinity": "required",
               "ingress": {"enabled": false}, "podDisruptionBudget": {"enabled": false}}),
        json!({"replicaCount": 1, "etcd": {"endpoints": []}, "persistence": {"storageClassName": "ceph"}}),
        json!({"auth": {"enabled": false}, "updateStrategy": "Recreate", "priorityClassName": ""}),
        json!({
            "auth": {"tokenSecret": "crus-tokens", "jwks": ""},
            "config": {
                "check_commands": {"health": ["/opt/site/health", "--quick"]},
                "etcd_lease_s": 15,
                "poll_interval_s": 2.5,
                "strategy": {"canary": [1, 5], "max_failed": "2%"},
                "strategy_caps": {"max_step_size": 200, "on_drain_timeout": ["wait", "skip"]},
            },
            "etcd": {"endpoints": ["https://a:2379", "https://b:12379/"], "tlsSecret": "etcd-tls", "userSecret": "etcd-user"},
            "imagePullSecrets": [{"name": "registry"}],
            "ingress": {"enabled": false},
            "metrics": {
                "dashboard": {"enabled": true},
                "prometheusRule": {"enabled": true, "labels": {"release": "prometheus"}},
                "serviceMonitor": {"enabled": true},
            },
            "networkPolicy": {"egress": [{"ports": [443], "cidrs": ["10.92.100.0/24"]}]},
            "nodeSelector": {"kind": "ncn"},
            "podAnnotations": {"a": "b"},
            "podLabels": {"c": "d"},
            "slurm": {"programs": {"hostPath": "/opt/slurm"}},
            "tls": {"secret": "crus-tls"},
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "traces": {"endpoint": "https://collector.monitoring:14318/otlp", "headersSecret": "crus-traces"},
            "webhook": {"secret": "crus-webhook"},
        }),
        of_the_guide().into(),
    ]
}

/// The values that the guide shows.
fn of_the_guide() -> &'static str {
    let (_, kubernetes) = GUIDE.split_once("\n## On Kubernetes\n").unwrap();
    let (_, values) = kubernetes.split_once("\n```yaml\n").unwrap();
    values.split_once("\n```\n").unwrap().0
}

/// What came of a site's values, of one kind.
fn of_kind<'a>(answer: &'a Value, kind: &str) -> Vec<&'a Value> {
    let all = answer["manifests"].as_array().unwrap_or_else(|| panic!("{answer}"));
    all.iter().map(|found| &found["manifest"]).filter(|manifest| manifest["kind"] == kind).collect()
}

fn the<'a>(answer: &'a Value, kind: &str) -> &'a Value {
    let [manifest] = of_kind(answer, kind)[..] else { panic!("not one {kind}: {answer}") };
    manifest
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn pod(answer: &Value) -> &Value {
    &the(answer, "Deployment")["spec"]["template"]["spec"]
}

/// The service's own.
fn container(answer: &Value) -> &Value {
    let [container, ..] = list(&pod(answer)["containers"]) else { panic!("no container") };
    assert_eq!(container["name"], "crus");
    container
}

#[test]
fn helm_finds_nothing_wrong_and_kubernetes_would_take_it() {
    let Some(answers) = helm(&sites()) else { return };
    for answer in &answers {
        for message in list(&answer["lint"]) {
            assert!(message["severity"].as_u64().unwrap() < WARNING, "{message}");
        }
        for found in list(&answer["manifests"]) {
            let kind = text(&found["manifest"]["kind"]);
            let is_foreign = FOREIGN.contains(&kind) && found["invalid"].is_null();
            assert!(is_foreign || found["invalid"] == json!([]), "{kind}: {}", found["invalid"]);
            assert_eq!(found["manifest"]["metadata"]["namespace"], "services", "{kind}");
        }
        assert!(of_kind(answer, "Secret").is_empty(), "secrets are the site's");
    }
    assert_eq!(of_kind(&answers[0], "PodDisruptionBudget").len(), 1);
    assert_eq!(the(&answers[0], "Deployment")["spec"]["replicas"], 3);
    assert_eq!(the(&answers[2], "Deployment")["spec"]["strategy"]["type"], "Recreate", "a file has one user");
    assert_eq!(of_kind(&answers[2], "PersistentVolumeClaim").len(), 1);
}

#[test]
fn mistakes_in_values_are_told() {
    let mistakes = [
        (json!({"replicaCounts": 3}), "replicaCounts"),
        (json!({"replicaCount": 0}), "/replicaCount"),
        (json!({"peers": {"via": "magic"}}), "/peers/via"),
        (json!({"etcd": {"endpoints": ["etcd:2379"]}}), "/etcd/endpoints/0"),
        (json!({"etcd": {"endpoints": ["https://etcd-0"]}}), "/etcd/endpoints/0"),
        (json!({"etcd": {"endpoints": ["http://10.92.100.71/"]}}), "/etcd/endpoints/0"),
        (json!({"traces": {"endpoint": "http://collector"}}), "/traces/endpoint"),
        (json!({"traces": {"headersSecret": "crus-traces"}}), "traces.headersSecret needs traces.endpoint"),
        (json!({"podSecurityContext": {"runAsUser": 0}}), "/podSecurityContext/runAsUser"),
        (json!({"etcd": {"endpoints": []}}), "set etcd.endpoints for more"),
        (json!({"auth": {"audience": ""}}), "auth.jwks needs auth.issuer and auth.audience"),
        (json!({"auth": {"jwks": ""}}), "auth needs auth.jwks or auth.tokenSecret"),
        (json!({"tls": {"secret": "crus-tls"}}), "tls.secret and ingress.enabled exclude each other"),
    ];
    let Some(answers) = helm(&mistakes.clone().map(|(values, _)| values)) else { return };
    for (answer, (values, told)) in answers.iter().zip(mistakes) {
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{values} was taken"));
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn the_pods_have_no_privilege_and_write_nowhere_but_to_their_volumes() {
    let Some(answers) = helm(&sites()) else { return };
    for answer in &answers {
        let (pod, container) = (pod(answer), container(answer));
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(the(answer, "ServiceAccount")["automountServiceAccountToken"], false);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert!(pod["securityContext"]["runAsUser"].as_u64().unwrap() > 0);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(
            container["securityContext"],
            json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "privileged": false,
                   "readOnlyRootFilesystem": true})
        );
        for amount in ["requests", "limits"] {
            for resource in ["cpu", "memory"] {
                assert!(container["resources"][amount][resource].is_string(), "{amount} of {resource}");
            }
        }
        for key in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod[key].is_null(), "{key}");
        }
        let may_write = ["/var/lib/crus", "/var/run/munge"];
        for mount in list(&container["volumeMounts"]) {
            let path = text(&mount["mountPath"]);
            assert!(mount["readOnly"] == true || may_write.contains(&path), "{path}");
        }
        let volumes = list(&pod["volumes"]);
        for volume in volumes.iter().filter_map(|volume| volume["secret"].as_object()) {
            assert_eq!(volume["defaultMode"], 0o440, "{volume:?}");
        }
        let named: BTreeSet<&str> = volumes.iter().map(|volume| text(&volume["name"])).collect();
        let containers = list(&pod["containers"]).iter();
        let mounts = containers.flat_map(|container| list(&container["volumeMounts"]));
        let mounted: BTreeSet<&str> = mounts.map(|mount| text(&mount["name"])).collect();
        assert_eq!(named, mounted);
        assert_eq!(named.len(), volumes.len(), "each once");
    }
}

/// Who installs it is told at once, and not by pods that never become ready.
#[test]
fn what_the_chart_does_not_bring_is_told_to_who_installs_it() {
    let Some(answers) = helm(&sites()) else { return };
    for answer in &answers {
        let notes = text(&answer["notes"]);
        let volumes = list(&pod(answer)["volumes"]).iter();
        let mut needed: BTreeSet<&str> = volumes
            .flat_map(|it| [&it["secret"]["secretName"], &it["configMap"]["name"]])
            .filter_map(Value::as_str)
            .collect();
        let variables = list(&container(answer)["env"]).iter();
        needed.extend(variables.filter_map(|it| it["valueFrom"]["secretKeyRef"]["name"].as_str()));
        for map in of_kind(answer, "ConfigMap") {
            needed.remove(text(&map["metadata"]["name"]));
        }
        assert!(needed.contains("slurm-map"), "{needed:?}");
        for name in needed {
            assert!(notes.contains(&format!(" {name}: ")), "{name}: {notes}");
        }
        let is_in_etcd = of_kind(answer, "PersistentVolumeClaim").is_empty();
        assert_eq!(notes.contains("etcd, 3.4 or newer, at http"), is_in_etcd, "{notes}");
    }
}

#[test]
fn probes_ports_and_selectors_meet_the_service() {
    let api: Value = serde_json::from_str(API).unwrap();
    let Some(answers) = helm(&sites()) else { return };
    for answer in &answers {
        let container = container(answer);
        for (probe, path) in
            [("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")]
        {
            let asked = &container[probe]["httpGet"];
            assert_eq!(asked["path"], path);
            assert!(api["paths"][path]["get"].is_object(), "{path} is none of the API");
            assert_eq!(asked["port"], "api");
        }
        let labels = the(answer, "Deployment")["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
        let service = the(answer, "Service");
        let mut selectors =
            vec![&service["spec"]["selector"], &the(answer, "Deployment")["spec"]["selector"]["matchLabels"]];
        selectors.extend(
            of_kind(answer, "PodDisruptionBudget").iter().map(|it| &it["spec"]["selector"]["matchLabels"]),
        );
        selectors.extend(
            of_kind(answer, "NetworkPolicy").iter().map(|it| &it["spec"]["podSelector"]["matchLabels"]),
        );
        selectors.extend(
            of_kind(answer, "ServiceMonitor").iter().map(|it| &it["spec"]["selector"]["matchLabels"]),
        );
        for selector in selectors {
            let selector = selector.as_object().unwrap();
            assert!(
                !selector.is_empty() && selector.iter().all(|(name, value)| labels.get(name) == Some(value))
            );
        }
        let grace_s = pod(answer)["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace_s * 1000 >= settings::Config::default().shutdown_timeout_ms + 10_000);
    }
    let gateway = &the(&answers[0], "VirtualService")["spec"]["http"][0];
    assert_eq!(gateway["match"][0]["uri"]["prefix"], "/apis/crus/");
    assert_eq!(gateway["rewrite"]["uri"], "/");
    assert_eq!(gateway["retries"]["attempts"], 0, "a change is never asked for twice by a proxy");
    let port = &the(&answers[0], "Service")["spec"]["ports"][0]["port"];
    assert_eq!(&gateway["route"][0]["destination"]["port"]["number"], port);
    let egress = |site: usize| list(&the(&answers[site], "NetworkPolicy")["spec"]["egress"]);
    let ports =
        |rule: &Value| list(&rule["ports"]).iter().filter_map(|it| it["port"].as_u64()).collect::<Vec<_>>();
    let allowed: Vec<u64> = egress(4).iter().flat_map(ports).collect();
    assert!([2379, 12379, 443, 14318].iter().all(|port| allowed.contains(port)), "{allowed:?}");
    // A policy sees the ports of the pods of HSM and BOS, which are not those of their services.
    let beside = json!([{"podSelector": {}}]);
    let reaches_any_port = |rule: &&Value| rule["to"] == beside && rule["ports"].is_null();
    assert_eq!(egress(1).iter().filter(reaches_any_port).count(), 1);
    assert_eq!(egress(0).iter().filter(reaches_any_port).count(), 0);
    let scraped = &the(&answers[4], "ServiceMonitor")["spec"]["endpoints"][0];
    assert_eq!(scraped["scheme"], "https");
    assert_eq!(scraped["tlsConfig"]["ca"]["secret"]["name"], "crus-tls");
    // Behind the gateway all come from one address, and so does who asks whether the pod is alive.
    let config: toml::Table = text(&the(&answers[0], "ConfigMap")["data"]["crus.toml"]).parse().unwrap();
    for option in ["requests_per_second_per_client", "max_connections_per_client"] {
        assert_eq!(config[option].as_str(), Some("none"), "{option}");
    }
}

/// With the variables of the pod, as Kubernetes sets them.
#[test]
fn the_service_takes_the_configuration_of_every_site() {
    let Some(answers) = helm(&sites()) else { return };
    for answer in &answers {
        let config = text(&of_kind(answer, "ConfigMap")[0]["data"]["crus.toml"]);
        let folder = tempfile::tempdir().unwrap();
        let path: PathBuf = folder.path().join("crus.toml");
        fs::write(&path, config).unwrap();
        let mut command = crus();
        command.args(["serve", "--print-config", "--config"]).arg(&path);
        let mut keys: Vec<String> = config.parse::<toml::Table>().unwrap().keys().cloned().collect();
        for variable in list(&container(answer)["env"]) {
            let name = text(&variable["name"]);
            if OF_SLURM.contains(&name) {
                continue;
            }
            let setting = settings::all().find(|setting| setting.variable() == name);
            let setting = setting.unwrap_or_else(|| panic!("{name} is the variable of no option"));
            assert!(!keys.contains(&setting.key.to_owned()), "{} is set twice", setting.key);
            keys.push(setting.key.to_owned());
            let value = if setting.key.ends_with("_url") { "https://keycloak/token" } else { "somebody" };
            command.env(name, value);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}\n{config}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).unwrap();
        for key in &keys {
            // "none" is printed as a comment.
            let is_of = |line: &&str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
            let line = printed.lines().find(is_of);
            assert!(
                line.is_some_and(|line| !line.ends_with("from the default")),
                "{key} is not set: {printed}"
            );
        }
        // What it reads from files is mounted.
        let mounts: Vec<&str> =
            list(&container(answer)["volumeMounts"]).iter().map(|mount| text(&mount["mountPath"])).collect();
        let table: toml::Table = config.parse().unwrap();
        for (key, value) in table.iter().filter(|(key, _)| key.ends_with("_file")) {
            let file = Path::new(value.as_str().unwrap());
            assert!(
                mounts.iter().any(|mount| file.starts_with(mount)),
                "{key} is {file:?}, which is not mounted"
            );
        }
        assert!(container(answer)["args"] == json!(["serve", "--config", "/etc/crus/crus.toml"]));
        assert!(mounts.contains(&"/etc/crus/crus.toml"));
    }
}

#[test]
fn the_rules_and_the_dashboard_of_the_chart_are_those_that_are_shipped() {
    let shipped = |path: &str| fs::read_to_string(Path::new(CHART).join("../..").join(path)).unwrap();
    let Some(answers) = helm(&sites()) else { return };
    let everything = &answers[4];
    let groups = list(&the(everything, "PrometheusRule")["spec"]["groups"]);
    let rules: Vec<&Value> = groups.iter().flat_map(|group| list(&group["rules"])).collect();
    let alerts = shipped("prometheus/crus.rules.yaml").matches("- alert: ").count();
    assert!(alerts > 0 && rules.iter().filter(|rule| rule["alert"].is_string()).count() == alerts);
    // What is for Prometheus is not for Helm.
    assert!(
        rules.iter().any(|rule| text(&rule["annotations"]["summary"]).contains("{{ $labels.instance }}"))
    );
    let boards = of_kind(everything, "ConfigMap");
    let board = boards.iter().find_map(|map| map["data"]["crus.json"].as_str()).unwrap();
    let board: Value = serde_json::from_str(board).unwrap();
    assert_eq!(board, serde_json::from_str::<Value>(&shipped("grafana/crus.json")).unwrap());
    let endpoint = &the(everything, "ServiceMonitor")["spec"]["endpoints"][0];
    assert_eq!(
        (&endpoint["path"], &endpoint["relabelings"][0]["replacement"]),
        (&json!("/metrics"), &json!("crus"))
    );
}

#[test]
fn the_versions_of_the_chart_are_that_of_the_service() {
    let chart = fs::read_to_string(Path::new(CHART).join("Chart.yaml")).unwrap();
    for key in ["version", "appVersion"] {
        assert!(chart.lines().any(|line| line == format!("{key}: {VERSION}")), "{key}");
    }
    let Some(answers) = helm(&[json!({})]) else { return };
    let image = text(&container(&answers[0])["image"]);
    assert!(image.ends_with(&format!(":{VERSION}")), "{image}");
}
