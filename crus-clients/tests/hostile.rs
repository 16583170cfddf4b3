//! Names from whoever means harm, whichever way they come: of the API, of HSM, of BOS, of Slurm. What then reaches a path,
//! a query, a body or a command line is exactly one value in its place, or nothing at all.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crus_clients::bos::BosClient;
use crus_clients::bos::v1::BosV1Client;
use crus_clients::hsm::HsmClient;
use crus_clients::http::PeerConfig;
use crus_clients::slurm::{Slurm, SlurmConfig};
use crus_core::names::{BootHandle, BootSessionName, NodeName, PartitionName, TenantName};
use crus_core::ports::{BootKey, Bos, Hsm, RebootRequest, TemplateKey, Wlm};
use crus_core::{GroupLabel, TemplateName, Xname};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// What somebody who means harm would try, and what would happen by accident.
const TRIED: [&str; 34] = [
    "",
    ".",
    "..",
    "../sessions",
    "..%2fsessions",
    "%2e%2e",
    "a/../../b",
    "a?limit=all",
    "a#b",
    "a&b=c",
    "%00",
    "a\0b",
    "a\nb",
    "a\r\nX-Evil: 1",
    "-M",
    "--help",
    "--cluster=other",
    "-all",
    "ALL",
    "all",
    "*",
    "a,b",
    "a b",
    "nid[1-99999999]",
    "nid[000001-000064]",
    "nid000001,nid000002",
    "1;rm -rf /",
    "$(reboot)",
    "`reboot`",
    "'\"",
    "State=DOWN",
    "x1000c0s0b0n0,x1000c0s0b0n1",
    "x1000c0s0b0n0/../x1000c0s0b0n1",
    "\u{202e}\u{fffd}",
];

/// One of these, alone or around a good beginning or end, or anything.
fn hostile(good: &'static str) -> impl Strategy<Value = String> {
    let tried = || prop::sample::select(TRIED.as_slice());
    prop_oneof![
        tried().prop_map(str::to_owned),
        tried().prop_map(move |text| format!("{good}{text}")),
        tried().prop_map(move |text| format!("{text}{good}")),
        "[-A-Za-z0-9._:%/,=\\[\\]]{0,12}",
        any::<String>(),
    ]
}

// ---- HSM and BOS ------------------------------------------------------------------------------------

/// A request as it came.
#[derive(Debug, Clone)]
struct Asked {
    method: String,
    /// The segments below `/api`, as they came.
    path: Vec<String>,
    query: Option<String>,
    tenant: Option<String>,
    body: Value,
}

impl Asked {
    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let line: Vec<&str> = head.lines().next().unwrap().split(' ').collect();
        let [method, target, "HTTP/1.1"] = line[..] else { panic!("{line:?}") };
        assert!(!head.to_ascii_lowercase().contains("x-evil"), "{head}");
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        let path = path.strip_prefix("/api/").unwrap_or_else(|| panic!("outside of the base: {target}"));
        Asked {
            method: method.to_owned(),
            path: path.split('/').map(str::to_owned).collect(),
            query,
            tenant: head.lines().find_map(|line| line.strip_prefix("cray-tenant-name: ")).map(str::to_owned),
            body: serde_json::from_str(body).unwrap_or_default(),
        }
    }

    /// The path as it stands for itself: nothing of it was encoded.
    fn plain(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }
}

type Answers = Arc<dyn Fn(&Asked) -> Value + Send + Sync>;

/// A server that notes what it is asked.
struct Recorder {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    answers: Arc<Mutex<Answers>>,
}

impl Recorder {
    fn start(runtime: &Runtime) -> Self {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}/api", listener.local_addr().unwrap());
        let answers: Answers = Arc::new(|_| json!({}));
        let recorder = Recorder { url, asked: Arc::default(), answers: Arc::new(Mutex::new(answers)) };
        let (asked, answers) = (Arc::clone(&recorder.asked), Arc::clone(&recorder.answers));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&asked), Arc::clone(&answers)));
            }
        });
        recorder
    }

    fn answers(&self, answers: impl Fn(&Asked) -> Value + Send + Sync + 'static) {
        *self.answers.lock().unwrap() = Arc::new(answers);
    }

    /// What was asked since the last time.
    fn taken(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    fn config(&self) -> PeerConfig {
        PeerConfig::new(self.url.parse().unwrap())
    }
}

async fn serve(mut stream: TcpStream, asked: Arc<Mutex<Vec<Asked>>>, answers: Arc<Mutex<Answers>>) {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                break;
            }
        }
        let Some(read) = stream.read(&mut buffer).await.ok().filter(|read| *read > 0) else { return };
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    let request = Asked::read(&text);
    let answers = Arc::clone(&*answers.lock().unwrap());
    let body = answers(&request).to_string();
    asked.lock().unwrap().push(request);
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await.unwrap();
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn check<S: Strategy>(count: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    proptest::test_runner::TestRunner::new(cases(count)).run(strategy, test).unwrap();
}

fn key(name: BootSessionName) -> BootKey {
    let template = "new-image".parse().unwrap();
    let request = RebootRequest { name, tenant: None, template, nodes: Vec::new(), before: None };
    BootKey { request, handle: None }
}

#[test]
fn a_name_of_the_api_is_one_segment_of_a_path_or_reaches_nobody() {
    let runtime = Runtime::new().unwrap();
    let recorder = Recorder::start(&runtime);
    let (hsm, bos) = (HsmClient::new(recorder.config()).unwrap(), BosClient::new(recorder.config()).unwrap());
    let old_bos = BosV1Client::new(recorder.config()).unwrap();
    let node = Xname::new("x1000c0s0b0n0").unwrap();
    check(256, &hostile("blue"), |text| {
        if let Ok(label) = GroupLabel::new(&text) {
            let lower = text.to_ascii_lowercase();
            _ = runtime.block_on(hsm.group(&label));
            _ = runtime.block_on(hsm.add_members(&label, &[node]));
            _ = runtime.block_on(hsm.remove_members(&label, &[node]));
            let asked = recorder.taken();
            let of = |n: usize| (asked[n].method.as_str(), asked[n].plain(), asked[n].query.as_deref());
            prop_assert_eq!(asked.len(), 3);
            prop_assert_eq!(of(0), ("GET", vec!["groups", &lower], None));
            prop_assert_eq!(of(1), ("POST", vec!["groups", &lower, "members"], None));
            prop_assert_eq!(of(2), ("DELETE", vec!["groups", &lower, "members", "x1000c0s0b0n0"], None));
        }
        if let Ok(template) = TemplateName::new(&text) {
            // What may name a template may name a tenant.
            let key = TemplateKey { tenant: TenantName::new(&text).ok(), name: template };
            _ = runtime.block_on(bos.has_template(&key));
            let asked = recorder.taken();
            prop_assert_eq!(asked.len(), 1);
            prop_assert_eq!((asked[0].plain(), &asked[0].query), (vec!["sessiontemplates", &text], &None));
            prop_assert_eq!(&asked[0].tenant, &Some(text.clone()));
            // The other BOS has templates elsewhere, and no tenants.
            _ = runtime.block_on(old_bos.has_template(&TemplateKey { tenant: None, ..key }));
            let asked = recorder.taken();
            prop_assert_eq!(asked.len(), 1);
            prop_assert_eq!((asked[0].plain(), &asked[0].tenant), (vec!["sessiontemplate", &text], &None));
        }
        if let Ok(name) = BootSessionName::new(&text) {
            _ = runtime.block_on(bos.session(&key(name)));
            for asked in recorder.taken() {
                let query = asked.query.clone().unwrap_or_default();
                let expected = match asked.path[0].as_str() {
                    "sessions" => (vec!["sessions", &text], String::new()),
                    _ => (vec!["components"], format!("session={text}")),
                };
                prop_assert_eq!((asked.plain(), query), expected);
            }
        }
        Ok(())
    });
}

#[test]
fn members_of_an_hsm_that_lies_are_nodes_or_nothing() {
    let runtime = Runtime::new().unwrap();
    let recorder = Recorder::start(&runtime);
    let hsm = HsmClient::new(recorder.config()).unwrap();
    let label = GroupLabel::new("blue").unwrap();
    let good = "x1000c0s0b0n0";
    check(128, &prop::collection::vec(hostile(good), 1..6), |lies| {
        let told = lies;
        recorder.answers(move |asked| match asked.path.last().map(String::as_str) {
            Some("Query") => {
                let component = |id: &String| json!({"ID": id, "NID": id, "Role": "Compute"});
                json!({"Components": told.iter().map(component).collect::<Vec<_>>()})
            }
            _ => json!({"label": told[0], "members": {"ids": told}}),
        });
        let nodes = runtime.block_on(hsm.group(&label)).unwrap().unwrap();
        let nodes: Vec<Xname> = nodes.into_iter().collect();
        let facts = runtime.block_on(hsm.facts(&nodes)).unwrap();
        prop_assert!(facts.iter().all(|facts| nodes.contains(&facts.xname)), "only what was asked about");
        _ = recorder.taken();
        _ = runtime.block_on(hsm.add_members(&label, &nodes));
        _ = runtime.block_on(hsm.remove_members(&label, &nodes));
        let asked = recorder.taken();
        prop_assert_eq!(asked.len(), 2 * nodes.len());
        for asked in asked {
            let xname = match asked.method.as_str() {
                "POST" => {
                    prop_assert_eq!(asked.body.as_object().unwrap().len(), 1);
                    prop_assert_eq!(asked.plain(), vec!["groups", "blue", "members"]);
                    asked.body["id"].as_str().unwrap().to_owned()
                }
                _ => {
                    prop_assert_eq!(asked.path.len(), 4);
                    asked.path[3].clone()
                }
            };
            prop_assert!(nodes.iter().any(|node| node.to_string() == xname), "{}", xname);
            prop_assert!(xname.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{}", xname);
        }
        Ok(())
    });
}

/// The next page is asked for by the last id of this one, whatever that is.
#[test]
fn an_id_of_a_bos_that_lies_is_one_value_of_a_query() {
    let runtime = Runtime::new().unwrap();
    let recorder = Recorder::start(&runtime);
    let bos = BosClient::new(recorder.config()).unwrap();
    let key = key("crus-1".parse().unwrap());
    let taken: Vec<String> = (0..1001).map(|n| format!("x{n}c0s0b0n0")).collect();
    let taken = taken.join(",");
    check(64, &hostile("x1000c0s0b0n0"), |lie| {
        let (id, components) = (lie.clone(), taken.clone());
        recorder.answers(move |asked| match asked.path[0].as_str() {
            "sessions" => {
                json!({"components": components, "status": {"status": id, "error": id}, "name": id})
            }
            _ => json!([{"id": id, "session": id, "error": id, "status": {"status": id}}]),
        });
        _ = runtime.block_on(bos.session(&key));
        recorder.answers({
            let (id, components) = (lie.clone(), taken.clone());
            move |asked| match asked.path[0].as_str() {
                "sessions" => json!({"components": components, "status": {"status": "running"}}),
                _ => json!([{"id": id, "session": id, "error": id, "status": {"status": id}}]),
            }
        });
        _ = runtime.block_on(bos.session(&key));
        for asked in recorder.taken() {
            prop_assert_eq!(&asked.method, "GET");
            let url = format!("http://h/?{}", asked.query.clone().unwrap_or_default());
            let url = reqwest::Url::parse(&url).unwrap();
            let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
            let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
            match asked.plain()[..] {
                ["sessions", "crus-1"] => prop_assert!(asked.query.is_none()),
                ["components"] if names.len() == 3 => {
                    prop_assert_eq!(names, ["session", "page_size", "start_after_id"]);
                    prop_assert_eq!(&pairs[2].1, &lie);
                }
                ["components"] => prop_assert_eq!(names, ["session", "page_size"]),
                _ => prop_assert!(false, "{:?}", asked),
            }
        }
        Ok(())
    });
}

/// BOS v1 says itself what it calls a session and its boot sets, and is asked by that.
#[test]
fn an_id_and_a_boot_set_of_an_older_bos_that_lies_are_one_segment_each() {
    let runtime = Runtime::new().unwrap();
    let recorder = Recorder::start(&runtime);
    let bos = BosV1Client::new(recorder.config()).unwrap();
    let reboot = RebootRequest {
        nodes: vec![Xname::new("x1000c0s0b0n0").unwrap()],
        before: Some([].into_iter().collect()),
        ..key("crus-1".parse().unwrap()).request
    };
    check(128, &(hostile("0a1b-2c3d"), hostile("compute")), |(id, set)| {
        let (told, boot_set) = (id, set.clone());
        recorder.answers(move |asked| match (asked.method.as_str(), asked.path.len()) {
            ("POST", _) => {
                json!({"job": format!("boa-{told}"), "links": [{"href": format!("/v1/session/{told}")}]})
            }
            (_, 1) => json!([told]),
            (_, 3) => json!({"boot_sets": [boot_set], "id": told}),
            _ => json!({"complete": true, "templateName": "new-image"}),
        });
        let handle: Option<BootHandle> = runtime.block_on(bos.reboot(&reboot)).ok().flatten();
        _ = runtime.block_on(bos.boot_ids());
        let asked = recorder.taken();
        prop_assert_eq!(asked.len(), 2);
        prop_assert!(asked.iter().all(|asked| asked.plain() == ["session"] && asked.query.is_none()));
        let Some(handle) = handle else { return Ok(()) };
        let of_handle = BootKey { request: reboot.clone(), handle: Some(handle.clone()) };
        _ = runtime.block_on(bos.session(&of_handle));
        for asked in recorder.taken() {
            prop_assert_eq!((asked.method.as_str(), &asked.query), ("GET", &None));
            match asked.plain()[..] {
                ["session", of] | ["session", of, "status"] => prop_assert_eq!(of, handle.as_str()),
                ["session", of, "status", part] => {
                    prop_assert_eq!(of, handle.as_str());
                    let url = reqwest::Url::parse("http://h/").unwrap();
                    let mut expected = url.clone();
                    expected.path_segments_mut().unwrap().pop_if_empty().push(&set);
                    prop_assert_eq!(format!("/{part}"), expected.path());
                    prop_assert!(!matches!(part, "" | "." | ".."));
                }
                _ => prop_assert!(false, "{:?}", asked),
            }
        }
        Ok(())
    });
}

// ---- Slurm ------------------------------------------------------------------------------------------

/// Stands for scontrol, squeue and scancel: notes its arguments, each ended by a NUL, and prints what it is told to.
struct Program {
    folder: tempfile::TempDir,
}

impl Program {
    fn new() -> Self {
        let program = Program { folder: tempfile::tempdir().unwrap() };
        let folder = program.folder.path().display();
        // The arguments first, in one piece: a test looks at them once the program has ended.
        let script = format!(
            "#!/bin/sh\nfor a; do printf '%s\\000' \"$a\"; done >>{folder}/asked\nexec cat {folder}/says\n"
        );
        let path = program.path();
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        program.says("");
        program
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("program")
    }

    fn says(&self, text: &str) {
        fs::write(self.folder.path().join("says"), text).unwrap();
    }

    /// The arguments that it got since the last time.
    fn taken(&self) -> Vec<String> {
        let file = self.folder.path().join("asked");
        let text = fs::read_to_string(&file).unwrap_or_default();
        _ = fs::remove_file(&file);
        text.split_terminator('\0').map(str::to_owned).collect()
    }

    fn slurm(&self) -> Slurm {
        let command = vec![self.path().to_str().unwrap().to_owned()];
        Slurm::new(SlurmConfig {
            scontrol: command.clone(),
            squeue: command.clone(),
            scancel: command,
            ..SlurmConfig::default()
        })
    }
}

#[test]
fn a_reason_is_one_argument_of_one_line_whatever_is_in_it() {
    let runtime = Runtime::new().unwrap();
    let program = Program::new();
    let slurm = program.slurm();
    let node = [NodeName::new("nid000001").unwrap()];
    check(64, &hostile("rolling-upgrade"), |reason| {
        for done in [
            runtime.block_on(slurm.drain(&node, &reason)),
            runtime.block_on(slurm.down(&node, &reason)),
            runtime.block_on(slurm.set_reason(&node, &reason)),
        ] {
            prop_assert_eq!(done, Ok(()));
        }
        let asked = program.taken();
        let [drain, down, set] = [&asked[..4], &asked[4..8], &asked[8..]];
        prop_assert_eq!(&drain[..3], ["update", "NodeName=nid000001", "State=DRAIN"]);
        prop_assert_eq!(&down[..3], ["update", "NodeName=nid000001", "State=DOWN"]);
        prop_assert_eq!(&set[..2], ["update", "NodeName=nid000001"]);
        prop_assert_eq!((set.len(), &drain[3], &down[3]), (3, &set[2], &set[2]));
        let text = set[2].strip_prefix("Reason=").unwrap();
        prop_assert!(!text.chars().any(|c| c.is_control() || c == '"'), "{:?}", text);
        let kept = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).take(200).collect::<String>();
        prop_assert_eq!(kept(text), kept(&reason));
        Ok(())
    });
}

#[test]
fn a_job_of_a_squeue_that_lies_is_ended_by_a_number_or_not_at_all() {
    let runtime = Runtime::new().unwrap();
    let program = Program::new();
    let slurm = program.slurm();
    let node = [NodeName::new("nid000001").unwrap()];
    check(64, &(hostile("17"), hostile("ada")), |(id, user)| {
        program.says(&format!("{id}|nid000001|RUNNING|NONE|{user}\n"));
        let jobs = runtime.block_on(slurm.jobs(&node)).unwrap_or_default();
        prop_assert_eq!(program.taken(), ["-a", "-h", "-t", "all", "-o", "%i|%N|%T|%e|%u"]);
        program.says("");
        let ids: Vec<String> = jobs.into_iter().map(|job| job.id).chain([id]).collect();
        let is_id = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '_');
        _ = runtime.block_on(slurm.cancel(&ids));
        for argument in program.taken() {
            prop_assert!(is_id(&argument), "{}", argument);
        }
        _ = runtime.block_on(slurm.requeue(&ids));
        match &program.taken()[..] {
            [] => {}
            [requeue, incomplete, list] => {
                prop_assert_eq!([requeue, incomplete], ["requeue", "incomplete"]);
                prop_assert!(list.split(',').all(is_id), "{}", list);
            }
            other => prop_assert!(false, "{:?}", other),
        }
        Ok(())
    });
}

#[test]
fn names_of_nodes_are_one_host_list_that_means_them_alone() {
    let runtime = Runtime::new().unwrap();
    let program = Program::new();
    let slurm = program.slurm();
    check(64, &prop::collection::vec(hostile("nid000001"), 1..5), |texts| {
        let names: Vec<NodeName> = texts.iter().filter_map(|text| NodeName::new(text).ok()).collect();
        _ = runtime.block_on(slurm.resume(&names));
        let asked = program.taken();
        if names.is_empty() {
            prop_assert!(asked.is_empty());
            return Ok(());
        }
        prop_assert_eq!(
            (asked.len(), &asked[0], &asked[2]),
            (3, &"update".to_owned(), &"State=RESUME".to_owned())
        );
        let list = asked[1].strip_prefix("NodeName=").unwrap();
        let mut meant = crus_core::hostlist::expand(list).unwrap();
        let mut wanted = names.clone();
        meant.sort();
        wanted.sort();
        wanted.dedup();
        prop_assert_eq!(meant, wanted);

        _ = runtime.block_on(slurm.nodes(&names));
        let asked = program.taken();
        prop_assert_eq!(&asked[..4], ["-a", "show", "node", "-o"]);
        prop_assert_eq!((asked.len(), asked[4].as_str()), (5, list));
        Ok(())
    });
}

/// Partitions are asked for all at once: none of their names is an argument.
#[test]
fn names_of_partitions_reach_no_command_line() {
    let runtime = Runtime::new().unwrap();
    let program = Program::new();
    let slurm = program.slurm();
    check(32, &hostile("batch"), |text| {
        let Ok(name) = PartitionName::new(&text) else { return Ok(()) };
        program.says(&format!("PartitionName={text} Nodes=nid[1-99999999] State=UP\n"));
        _ = runtime.block_on(slurm.partitions(&[name]));
        prop_assert_eq!(program.taken(), ["-a", "show", "partition", "-o"]);
        Ok(())
    });
}
