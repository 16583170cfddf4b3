//! A service behind the routes that keeps its sessions in memory, and a way to call the routes.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, Bytes};
use crus_api::access::{Access, Open};
use crus_api::health::{Check, CheckState, Exposition, Health, Readiness};
use crus_api::service::{Follow, News};
use crus_api::views::{Beside, Progress, Stamp};
use crus_api::{
    API_VERSION, ApiLimits, Page, Pages, ServiceError, SessionList, SessionStatus, Sessions, Site,
};
use crus_core::commands;
use crus_core::history::{Entry, Happening};
use crus_core::machine::{self, Input};
use crus_core::model::{
    Command, Counts, Failure, Head, HoldingJob, Node, NodeState, NumberedCommand, Pace, Pause, PauseReason,
    Phase, Stage, Summary,
};
use crus_core::plan::{Condition, Finding, Plan, PlannedStep};
use crus_core::time::WlmTime;
use crus_core::{Actor, Limits, Session, Spec, Time, UpgradeId, progress};
use http::request::Builder;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use tracing::{Span, error_span};

use crate::document;

/// The contract's own example of a request.
pub(crate) fn example() -> Value {
    json!({
        "failed_label": "nodes-that-failed",
        "starting_label": "nodes-to-upgrade",
        "upgrade_step_size": 30,
        "upgrade_template_id": "my-bos-session-template",
        "upgrading_label": "nodes-currently-upgrading",
        "workload_manager_type": "slurm"
    })
}

/// The example with one property set.
pub(crate) fn example_with(name: &str, value: Value) -> Value {
    let mut body = example();
    body[name] = value;
    body
}

/// The example without one property.
pub(crate) fn example_without(name: &str) -> Value {
    let mut body = example();
    body.as_object_mut().unwrap().remove(name);
    body
}

/// When the session of the document's examples is looked at: 2026-11-24T10:31:07.123Z.
const NOW: Time = Time(1_795_516_267_123);

/// So many minutes after 10:00 on the day of the examples.
fn at(minutes: i64) -> Time {
    Time(1_795_514_400_000u64.checked_add_signed(minutes * 60_000).unwrap())
}

/// The session that the document's examples are about.
pub(crate) fn session_of_examples() -> (Session, Vec<Entry>) {
    let id: UpgradeId = "c926acf6-b5c6-411e-ba6c-ea0448cab2ee".parse().unwrap();
    let spec = crus_api::request::spec(example().to_string().as_bytes(), &Site::default()).unwrap();
    let mut session = Session::new(id, spec, API_VERSION, Limits::default(), NOW - 4_267_123);
    session.nodes = (0..6)
        .map(|n| {
            let xname = format!("x1000c0s0b0n{n}").parse().unwrap();
            Node::new(xname, Some(format!("nid{:06}", n + 1).parse().unwrap()), at(-40))
        })
        .collect();
    for i in 0..2 {
        session.nodes[i].state = NodeState::Upgraded;
        session.nodes[i].step = Some(0);
    }
    let failed = &mut session.nodes[2];
    (failed.state, failed.since) = (NodeState::Failed(Failure::Boot("no link".into())), at(20));
    (failed.attempt, failed.step) = (1, Some(1));
    let draining = &mut session.nodes[3];
    (draining.state, draining.since, draining.step) = (NodeState::Draining, at(25), Some(2));
    let end = Some(WlmTime(i64::try_from(at(120).0 / 1000).unwrap()));
    draining.job = Some(HoldingJob { id: "17".into(), user: "alice".into(), end });
    let why = PauseReason::Command;
    let by = Some("grace".parse().unwrap());
    let happened = [
        (25, Happening::Stage { stage: Stage::Quiescing }),
        (
            25,
            Happening::Nodes { state: "draining".into(), failure: None, nodes: vec![session.nodes[3].xname] },
        ),
        (30, Happening::Paused { why: why.clone(), by: by.clone() }),
    ];
    let entries =
        (16..).zip(happened).map(|(number, (minute, what))| Entry { number, at: at(minute), step: 2, what });
    let head = &mut session.head;
    (head.phase, head.step, head.stage, head.batch) = (Phase::Rolling, 2, Stage::Quiescing, vec![3]);
    head.counts = Counts::of(&session.nodes);
    head.entries = 18;
    head.pause = Some(Pause { since: at(30), why, by });
    head.created_by = Some("ada".parse().unwrap());
    head.pace = Pace { boots: 2, total_ms: 501_000, least_ms: 241_000, most_ms: 260_000 };
    (session, entries.collect())
}

/// The plan that the document's examples are about.
fn plan_of_examples() -> Plan {
    let xname = |n: u32| format!("x1000c0s0b0n{n}").parse().unwrap();
    let step =
        |number: u32, nodes: [u32; 2], starts: i64, wait_min: u64, job: Option<HoldingJob>| PlannedStep {
            number,
            nodes: nodes.map(xname).into(),
            names: nodes.map(|n| format!("nid{:06}", n + 1).parse().unwrap()).into(),
            starts: Some(at(starts)),
            wait_ms: wait_min * 60_000,
            takes_ms: (wait_min + 12) * 60_000,
            job,
        };
    let end = Some(WlmTime(i64::try_from(at(120).0 / 1000).unwrap()));
    let job = HoldingJob { id: "17".into(), user: "alice".into(), end };
    let condition = |name, met, detail: &str| Condition { name, met, detail: detail.to_owned() };
    let finding = |reason: &str, n: u32| Finding { reason: reason.to_owned(), nodes: vec![xname(n)] };
    let held = "drained or taken down by somebody else: it is upgraded, and stays so (bad dimm)";
    let locked = "locked in the Hardware State Manager: the Boot Orchestration Service will leave it out, and it fails";
    Plan {
        at: at(0),
        conditions: vec![
            condition("template", true, "there is a session template 'my-bos-session-template'"),
            condition("starting_group", true, "group 'nodes-to-upgrade' holds 5 nodes"),
            condition(
                "upgrading_group",
                false,
                "there is no group 'nodes-currently-upgrading' in the Hardware State Manager",
            ),
        ],
        nodes: (0..5).map(xname).collect(),
        steps: vec![step(0, [0, 1], 0, 0, None), step(1, [2, 3], 12, 70, Some(job))],
        steps_total: 2,
        ends: Some((at(60), at(120))),
        lost: vec![finding(locked, 1), finding("unknown to the workload manager", 4)],
        warnings: vec![finding(held, 2)],
        caveats: vec!["A node that does not boot may cost an hour.".to_owned()],
    }
}

/// A guide of a page, and a reference.
#[derive(Debug)]
struct TwoPages;

impl Pages for TwoPages {
    fn page(&self, name: &str) -> Option<Page> {
        let html = format!("<!doctype html>\n<title>{name}</title>\n");
        ["", "api"].contains(&name).then(|| Page::new(html, "1", "default-src 'none'").unwrap())
    }
}

/// Sessions that nobody works on.
#[derive(Default)]
pub(crate) struct Memory {
    sessions: Mutex<Vec<Session>>,
    /// Of whichever session.
    entries: Mutex<Vec<Entry>>,
    /// How streams end.
    end: Mutex<Option<Result<News, ServiceError>>>,
    /// How often streams asked for news.
    asked: Arc<AtomicUsize>,
    /// How often nodes were read by their positions.
    reads: AtomicUsize,
    error: Mutex<Option<ServiceError>>,
}

impl Memory {
    fn with<T>(&self, look: impl FnOnce(&mut Vec<Session>) -> T) -> Result<T, ServiceError> {
        match &*self.error.lock().unwrap() {
            Some(error) => Err(error.clone()),
            None => Ok(look(&mut self.sessions.lock().unwrap())),
        }
    }
}

fn status(session: &Session) -> Arc<SessionStatus> {
    Arc::new(SessionStatus::of(&session.head, &session.messages))
}

#[async_trait]
impl Sessions for Memory {
    async fn create(&self, spec: Spec, by: Option<Actor>) -> Result<Arc<SessionStatus>, ServiceError> {
        self.with(|sessions| {
            // Ids fall, so that the order of creation is not theirs.
            let id = UpgradeId(uuid::Uuid::from_u128(u128::MAX - sessions.len() as u128));
            let mut session = Session::new(id, spec, API_VERSION, Limits::default(), Time(0));
            session.head.created_by = by;
            sessions.push(session);
            status(&sessions[sessions.len() - 1])
        })
    }

    async fn list(&self) -> Result<Arc<SessionList>, ServiceError> {
        self.with(|sessions| Arc::new(SessionList::new(sessions.iter().map(status).collect())))
    }

    async fn get(&self, id: UpgradeId) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        self.with(|sessions| sessions.iter().find(|session| session.head.id == id).map(status))
    }

    async fn delete(
        &self,
        id: UpgradeId,
        by: Option<Actor>,
    ) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        self.with(|sessions| {
            let session = sessions.iter_mut().find(|session| session.head.id == id)?;
            session.head.deletion = Some(Time(1));
            session.head.deleted_by = by;
            Some(status(session))
        })
    }

    async fn command(
        &self,
        id: UpgradeId,
        command: Command,
        by: Option<Actor>,
    ) -> Result<Option<Arc<SessionStatus>>, ServiceError> {
        let taken = self.with(|sessions| {
            let session = sessions.iter_mut().find(|session| session.head.id == id)?;
            let Session { head, messages, .. } = session.clone();
            let summary = Summary { head, messages, deletion_ordered: false, commands: Vec::new() };
            if let Some(reason) = commands::why_not(&summary, command) {
                return Some(Err(ServiceError::NotNow { reason }));
            }
            let number = session.head.commands + 1;
            machine::step(session, Time(2), Input::Command(NumberedCommand { number, command, by }));
            Some(Ok(status(session)))
        });
        taken?.transpose()
    }

    async fn head(&self, id: UpgradeId) -> Result<Option<Arc<Head>>, ServiceError> {
        self.with(|sessions| Some(Arc::new(found(sessions, id)?.head.clone())))
    }

    async fn nodes(&self, id: UpgradeId, from: usize, count: usize) -> Result<Vec<Node>, ServiceError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.with(|sessions| {
            let nodes = found(sessions, id).map(|session| session.nodes.iter().skip(from).take(count));
            nodes.into_iter().flatten().cloned().collect()
        })
    }

    async fn step_nodes(&self, id: UpgradeId) -> Result<Arc<[Node]>, ServiceError> {
        self.with(|sessions| {
            let session = found(sessions, id);
            session.map(|session| session.batch().cloned().collect()).unwrap_or_default()
        })
    }

    async fn plan(&self, _: Spec) -> Result<Plan, ServiceError> {
        self.with(|_| plan_of_examples())
    }

    async fn progress(&self, id: UpgradeId) -> Result<Option<Progress>, ServiceError> {
        self.with(|sessions| {
            let session = found(sessions, id)?;
            let waits_for = progress::waits_for(&session.head, session.batch());
            let beside = Beside { deletion_ordered: false, waits_for, expected_end: None, now: NOW };
            Some(Progress::of(&session.head, beside))
        })
    }

    async fn events(
        &self,
        id: UpgradeId,
        after: u64,
        count: usize,
    ) -> Result<Option<Vec<Entry>>, ServiceError> {
        let entries = self.entries.lock().unwrap().clone();
        self.with(|sessions| {
            found(sessions, id)?;
            Some(entries.into_iter().filter(|entry| entry.number > after).take(count).collect())
        })
    }

    async fn follow(&self, id: UpgradeId, after: u64) -> Result<Option<Box<dyn Follow>>, ServiceError> {
        let Some(entries) = self.events(id, after, usize::MAX).await? else { return Ok(None) };
        // One at a time, with a pause in between.
        let mut news: VecDeque<News> =
            entries.into_iter().flat_map(|entry| [News::Entries(vec![entry]), News::Nothing]).collect();
        news.pop_back();
        let end = self.end.lock().unwrap().clone().unwrap_or(Ok(News::Stopping));
        Ok(Some(Box::new(Told { news, end: Some(end), asked: Arc::clone(&self.asked) })))
    }

    fn span(&self, id: UpgradeId) -> Span {
        let sessions = self.sessions.lock().unwrap();
        error_span!("session", upgrade_id = %id, step = found(&sessions, id).map(|session| session.head.step))
    }
}

struct Told {
    news: VecDeque<News>,
    end: Option<Result<News, ServiceError>>,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl Follow for Told {
    async fn next(&mut self, _: Duration) -> Result<News, ServiceError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.news.pop_front().map_or_else(|| self.end.take().unwrap(), Ok)
    }
}

fn found(sessions: &[Session], id: UpgradeId) -> Option<&Session> {
    sessions.iter().find(|session| session.head.id == id)
}

/// The routes with a service of memory behind them.
pub(crate) struct Api {
    router: Router,
    memory: Arc<Memory>,
    pub(crate) health: Arc<State>,
}

/// How the service stands.
pub(crate) struct State {
    deaf: Mutex<Option<String>>,
    ready: AtomicBool,
}

impl State {
    pub(crate) fn set_deaf(&self, why: &str) {
        *self.deaf.lock().unwrap() = Some(why.to_owned());
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }
}

/// As in the examples of the document.
impl Health for State {
    fn deaf(&self) -> Option<String> {
        self.deaf.lock().unwrap().clone()
    }

    fn readiness(&self) -> Readiness {
        let ready = self.ready.load(Ordering::Relaxed);
        let check = |name, since: u64, detail: Option<&str>, state| Check {
            detail: detail.map(str::to_owned),
            name,
            since: Stamp(Time(since)),
            state,
        };
        let (begun, later) = (1_795_516_267_123, 1_795_516_938_500);
        let checks = if ready {
            let away = "the Boot Orchestration Service is unreachable: connection refused";
            [
                check("store", begun, None, CheckState::Ok),
                check("bos", later, Some(away), CheckState::Failing),
            ]
        } else {
            let full = "the store failed: no space left on device";
            [
                check("store", begun, Some(full), CheckState::Failing),
                check("bos", later, None, CheckState::Unknown),
            ]
        };
        Readiness { checks: checks.into(), ready }
    }

    fn metrics(&self, form: Exposition) -> String {
        format!("# {form:?}\n")
    }
}

impl Api {
    pub(crate) fn new() -> Self {
        Api::of(Site::default())
    }

    /// The same at a site of its own.
    pub(crate) fn of(site: Site) -> Self {
        Api::with(site, ApiLimits::default())
    }

    /// The same with limits of its own.
    pub(crate) fn with(site: Site, limits: ApiLimits) -> Self {
        Api::built(site, Arc::new(Open), |api| api.limits(limits))
    }

    /// The same, to those whom `access` knows, and put together otherwise.
    pub(crate) fn built(
        site: Site,
        access: Arc<dyn Access>,
        build: impl FnOnce(crus_api::Api) -> crus_api::Api,
    ) -> Self {
        let memory = Arc::new(Memory::default());
        let sessions = Arc::clone(&memory) as Arc<dyn Sessions>;
        let health = Arc::new(State { deaf: Mutex::default(), ready: AtomicBool::new(true) });
        let api = build(crus_api::Api::new(sessions, site, access))
            .health(health.clone())
            .pages(Arc::new(TwoPages));
        Api { router: api.router(), memory, health }
    }

    /// Sends a request, and reads nothing of the answer's body.
    pub(crate) fn open(&self, request: Request<Body>) -> axum::response::Response {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.router.clone().oneshot(request)).unwrap()
    }

    /// Sends a request, and gives it up when it has to wait for something.
    pub(crate) fn give_up(&self, request: Request<Body>) {
        let mut answer = pin!(self.router.clone().oneshot(request));
        let mut context = Context::from_waker(Waker::noop());
        assert!(answer.as_mut().poll(&mut context).is_pending());
    }

    /// Adds the session of the examples; its id.
    pub(crate) fn add_example(&self) -> String {
        let (session, entries) = session_of_examples();
        let id = session.head.id.to_string();
        self.memory.sessions.lock().unwrap().push(session);
        *self.memory.entries.lock().unwrap() = entries;
        id
    }

    /// Changes the session that was added last.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Session)) {
        change(self.memory.sessions.lock().unwrap().last_mut().unwrap());
    }

    /// How often streams asked for news.
    pub(crate) fn asked(&self) -> usize {
        self.memory.asked.load(Ordering::Relaxed)
    }

    /// How often nodes were read by their positions.
    pub(crate) fn reads(&self) -> usize {
        self.memory.reads.load(Ordering::Relaxed)
    }

    /// How streams end.
    pub(crate) fn end_streams(&self, end: Result<News, ServiceError>) {
        *self.memory.end.lock().unwrap() = Some(end);
    }

    /// From now on the service fails.
    pub(crate) fn fail(&self, error: ServiceError) {
        *self.memory.error.lock().unwrap() = Some(error);
    }

    /// The deletion of all sessions comes to its end.
    pub(crate) fn forget(&self) {
        self.memory.sessions.lock().unwrap().clear();
    }

    /// Sends a request. The answer is what the document says.
    pub(crate) fn call(&self, request: Request<Body>) -> Answer {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let answer = runtime.block_on(async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let (head, body) = response.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Answer { status: head.status, headers: head.headers, body }
        });
        document::check(&method, &path, &answer);
        answer
    }

    pub(crate) fn send(&self, method: &str, path: &str) -> Answer {
        self.call(request(method, path).body(Body::empty()).unwrap())
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path)
    }

    /// Posts a body as JSON.
    pub(crate) fn post(&self, body: impl Into<Body>) -> Answer {
        let request = request("POST", "/session").header("content-type", "application/json");
        self.call(request.body(body.into()).unwrap())
    }

    pub(crate) fn post_json(&self, body: &Value) -> Answer {
        self.post(body.to_string())
    }
}

pub(crate) fn request(method: &str, path: &str) -> Builder {
    Request::builder().method(method).uri(path)
}

/// An answer, complete.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }

    /// Checks the status; the answer goes on.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }
}
