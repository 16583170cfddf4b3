//! Webhooks: a receiver over HTTP is told what happens, in order, signed, at least once, and never waited for.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::hmac;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crus_api::Sessions as _;
use crus_core::UpgradeId;
use crus_core::history::Happening;
use crus_core::model::{Command, Phase};
use crus_core::ports::{DriverStore as _, SessionStore as _};
use crus_server::webhook::{Class, Webhook, WebhookOptions};
use serde_json::Value;
use tokio::io::AsyncBufReadExt as _;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::support::replicas::{PATIENCE, Replica, Site, config, eventually};

const SECRET: &str = "a secret that nobody may see";

/// How the receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Takes,
    Answers(u16),
    /// Takes all but the start of a session.
    RefusesStarts,
    /// Takes one, and answers 503 from then on.
    TakesOne,
    /// Not at all.
    IsSilent,
}

/// A request as it came.
#[derive(Debug, Clone)]
struct Delivery {
    id: String,
    class: String,
    body: Value,
}

#[derive(Clone)]
struct Shared {
    mood: Arc<Mutex<Mood>>,
    taken: Arc<Mutex<Vec<Delivery>>>,
    attempts: Arc<AtomicUsize>,
}

/// A receiver that looks at each signature, as any must.
struct Receiver {
    url: String,
    shared: Shared,
    serving: AbortHandle,
    folder: tempfile::TempDir,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn receive(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    shared.attempts.fetch_add(1, Ordering::SeqCst);
    let mood = *shared.mood.lock().unwrap();
    match mood {
        Mood::Takes | Mood::TakesOne => {}
        Mood::Answers(code) => return StatusCode::from_u16(code).unwrap(),
        Mood::RefusesStarts if headers["crus-event"] != "started" => {}
        Mood::RefusesStarts => return StatusCode::UNPROCESSABLE_ENTITY,
        Mood::IsSilent => std::future::pending().await,
    }
    let header = |name: &str| headers[name].to_str().unwrap().to_owned();
    let (id, timestamp) = (header("webhook-id"), header("webhook-timestamp"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(timestamp.parse().unwrap()) < 60, "{timestamp} is not now");
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", &body].concat();
    let tag = header("webhook-signature").strip_prefix("v1,").map(|tag| BASE64_STANDARD.decode(tag).unwrap());
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    if hmac::verify(&key, &signed, &tag.unwrap()).is_err() {
        // No 401: what is refused so often enough is given up, before or after a test has looked.
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    assert_eq!(header("content-type"), "application/json");
    let body = serde_json::from_slice(&body).unwrap();
    if mood == Mood::TakesOne {
        *shared.mood.lock().unwrap() = Mood::Answers(503);
    }
    shared.taken.lock().unwrap().push(Delivery { id, class: header("crus-event"), body });
    StatusCode::NO_CONTENT
}

impl Receiver {
    async fn start(mood: Mood) -> Receiver {
        let shared =
            Shared { mood: Arc::new(Mutex::new(mood)), taken: Arc::default(), attempts: Arc::default() };
        let router = axum::Router::new().route("/hook", post(receive)).with_state(shared.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?token=t", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("secret"), format!("{SECRET}\n")).unwrap();
        Receiver { url, shared, serving: serving.abort_handle(), folder }
    }

    fn secret_file(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    fn is(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    fn attempts(&self) -> usize {
        self.shared.attempts.load(Ordering::SeqCst)
    }

    fn taken(&self) -> Vec<Delivery> {
        self.shared.taken.lock().unwrap().clone()
    }

    fn classes(&self) -> Vec<String> {
        self.taken().into_iter().map(|delivery| delivery.class).collect()
    }

    fn options(&self) -> WebhookOptions {
        WebhookOptions {
            url: Some(self.url.parse().unwrap()),
            secret_file: Some(self.secret_file()),
            // What was taken, and answered for too late, would come again.
            timeout_ms: u64::try_from(PATIENCE.as_millis()).unwrap(),
            retry_max_ms: 20,
            ..WebhookOptions::default()
        }
    }

    fn webhook(&self) -> Option<Webhook> {
        Some(Webhook::new(&self.options()).unwrap().unwrap())
    }

    /// Holds what was taken against the history: everything that is asked for, in order, each once unless a service
    /// ended in between.
    async fn has_taken_all(&self, site: &Site, id: UpgradeId, wants: fn(Class) -> bool, again: usize) {
        let history = site.store.history(id, 0, usize::MAX).await.unwrap();
        let expected: Vec<(String, Class)> = history
            .iter()
            .filter_map(|entry| {
                Some((format!("{id}-{}", entry.number), Class::of(entry).filter(|c| wants(*c))?))
            })
            .collect();
        assert!(!expected.is_empty());
        let taken = self.taken();
        let mut once = taken.clone();
        once.sort_by_key(|delivery| delivery.body["number"].as_u64());
        once.dedup_by_key(|delivery| delivery.id.clone());
        assert!(
            taken.len() - once.len() <= again,
            "{} of {} came again",
            taken.len() - once.len(),
            once.len()
        );
        let found: Vec<_> =
            once.iter().map(|delivery| (delivery.id.clone(), delivery.class.clone())).collect();
        let expected: Vec<_> =
            expected.into_iter().map(|(id, class)| (id, class.name().to_owned())).collect();
        assert_eq!(found, expected);
        if again == 0 {
            let numbers: Vec<_> =
                taken.iter().map(|delivery| delivery.body["number"].as_u64().unwrap()).collect();
            assert!(numbers.is_sorted_by(|one, next| one < next), "in order: {numbers:?}");
        }
        for delivery in &taken {
            assert_eq!(delivery.body["upgrade_id"], id.to_string());
            assert_eq!(delivery.id, format!("{id}-{}", delivery.body["number"]));
            assert!(delivery.body["at"].as_str().unwrap().ends_with('Z') && delivery.body["step"].is_u64());
        }
    }
}

async fn is_done(site: &Site, id: UpgradeId) -> bool {
    site.phase(id).await == Phase::Done
}

/// Done, and given up by who ran it: everything was delivered.
async fn is_over(site: &Site, replica: &Replica, id: UpgradeId) -> bool {
    is_done(site, id).await && !replica.store.owns(id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_that_is_asked_for_is_told_in_order_and_signed() {
    let site = Site::new(config());
    let receiver = Receiver::start(Mood::Takes).await;
    let replica = site.replica_telling(receiver.webhook(), 10).await;
    let id = replica.create().await;
    eventually("paused and resumed", async || {
        site.store.command(id, Command::Pause, None).await.unwrap();
        site.is_paused(id).await
    })
    .await;
    replica.order(id, Command::Resume).await;
    eventually("over", async || is_over(&site, &replica, id).await).await;
    receiver.has_taken_all(&site, id, |_| true, 0).await;
    let classes = receiver.classes();
    let of_orders = [Class::Retried, Class::Deleted];
    for class in Class::ALL.into_iter().filter(|class| !of_orders.contains(class)) {
        assert!(classes.iter().any(|name| name == class.name()), "{class:?} is not among {classes:?}");
    }
    assert_eq!(classes.last().map(String::as_str), Some("finished"));
    let taken = receiver.taken();
    let finished = &taken[taken.len() - 1].body;
    assert_eq!((&finished["kind"], &finished["counts"]["upgraded"]), (&"finished".into(), &3.into()));
    assert_eq!(site.store.delivered(id).await.unwrap(), finished["number"].as_u64(), "it is noted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_that_is_not_asked_for_is_not_sent_and_without_a_webhook_nothing_is_noted() {
    let site = Site::new(config());
    let receiver = Receiver::start(Mood::Takes).await;
    let options = WebhookOptions { events: [Class::Started, Class::NodeFailed].into(), ..receiver.options() };
    let replica = site.replica_telling(Webhook::new(&options).unwrap(), 10).await;
    let id = replica.create().await;
    eventually("over", async || is_over(&site, &replica, id).await).await;
    receiver.has_taken_all(&site, id, |class| matches!(class, Class::Started | Class::NodeFailed), 0).await;
    let latest = site.store.summary(id).await.unwrap().unwrap().head.entries;
    assert_eq!(site.store.delivered(id).await, Ok(Some(latest)), "the rest need not be looked at again");
    replica.crash().await;

    let plain = site.replica(10).await;
    let id = plain.create().await;
    eventually("over", async || is_over(&site, &plain, id).await).await;
    assert_eq!(site.store.delivered(id).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_or_not_answered_is_tried_again_under_the_same_id() {
    let site = Site::new(config());
    let receiver = Receiver::start(Mood::Answers(500)).await;
    let options = WebhookOptions { timeout_ms: 2_000, ..receiver.options() };
    let replica = site.replica_telling(Webhook::new(&options).unwrap(), 10).await;
    let id = replica.create().await;
    for mood in [Mood::Answers(500), Mood::IsSilent, Mood::Answers(429), Mood::Answers(302)] {
        receiver.is(mood);
        let before = receiver.attempts();
        eventually("it is tried again", async || receiver.attempts() > before + 1).await;
        assert_eq!(receiver.classes(), [""; 0], "{mood:?}");
    }
    // A secret that is replaced meanwhile is read anew; with a wrong one nothing is taken.
    std::fs::write(receiver.secret_file(), "another one").unwrap();
    let before = receiver.attempts();
    // The one that was under way is signed with the right one.
    eventually("tried with another secret", async || receiver.attempts() > before + 1).await;
    receiver.is(Mood::Takes);
    let before = receiver.attempts();
    eventually("looked at", async || receiver.attempts() > before + 3).await;
    assert_eq!(receiver.classes(), [""; 0], "taken with a wrong signature");
    std::fs::write(receiver.secret_file(), SECRET).unwrap();
    eventually("over", async || is_over(&site, &replica, id).await).await;
    receiver.has_taken_all(&site, id, |_| true, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_is_refused_for_good_does_not_hold_up_those_after_it() {
    let site = Site::new(config());
    let receiver = Receiver::start(Mood::RefusesStarts).await;
    let replica = site.replica_telling(receiver.webhook(), 10).await;
    let id = replica.create().await;
    eventually("over", async || is_over(&site, &replica, id).await).await;
    receiver.has_taken_all(&site, id, |class| class != Class::Started, 0).await;
    assert_eq!(receiver.attempts(), 12 + receiver.taken().len(), "it was tried, and given up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p9_a_receiver_that_is_away_slows_neither_the_upgrade_nor_a_shutdown() {
    let site = Site::new(config());
    let receiver = Receiver::start(Mood::IsSilent).await;
    let options = WebhookOptions { timeout_ms: 600_000, ..receiver.options() };
    let replica = site.replica_telling(Webhook::new(&options).unwrap(), 10).await;
    let id = replica.create().await;
    eventually("done though the first request hangs", async || {
        receiver.attempts() > 0 && is_done(&site, id).await
    })
    .await;
    assert_eq!((receiver.attempts(), receiver.taken().len()), (1, 0), "the others wait for it");
    assert!(replica.store.owns(id), "what is not delivered is not left");
    assert!(replica.controller.shutdown(PATIENCE).await, "long before the request ends by itself");

    // What was missed comes after a restart, though the session is done.
    receiver.is(Mood::Takes);
    let next = site.replica_telling(receiver.webhook(), 10).await;
    eventually("over", async || {
        receiver.classes().last().is_some_and(|class| class == "finished") && is_over(&site, &next, id).await
    })
    .await;
    receiver.has_taken_all(&site, id, |_| true, 0).await;
    let attempts = receiver.attempts();
    next.crash().await;
    let last = site.replica_telling(receiver.webhook(), 10).await;
    let other = last.create().await;
    eventually("another one over", async || is_over(&site, &last, other).await).await;
    let of_first =
        receiver.taken().iter().filter(|delivery| delivery.body["upgrade_id"] == id.to_string()).count();
    assert_eq!(of_first, attempts - 1, "nothing of the first is told again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_a_session_over_goes_on_telling_where_the_other_one_was() {
    let site = Site::new(config());
    let receiver = Receiver::start(Mood::TakesOne).await;
    let first = site.replica_telling(receiver.webhook(), 10).await;
    let id = first.create().await;
    eventually("something was told", async || !receiver.taken().is_empty()).await;
    eventually("a step is done", async || {
        site.happened(id, |what| matches!(what, Happening::StepDone { .. })).await > 0
    })
    .await;
    first.crash().await;
    let second = site.replica_telling(receiver.webhook(), 10).await;
    eventually("its own", async || second.store.owns(id)).await;
    receiver.is(Mood::Takes);
    eventually("over", async || is_over(&site, &second, id).await).await;
    // What was delivered and could not be noted comes again: it was the latest.
    receiver.has_taken_all(&site, id, |_| true, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p7_a_session_that_is_not_told_of_can_be_retried_and_deleted() {
    let site = Site::new(config());
    let receiver = Receiver::start(Mood::Answers(500)).await;
    // The deletion waits for so long.
    let options = WebhookOptions { timeout_ms: 200, ..receiver.options() };
    let replica = site.replica_telling(Webhook::new(&options).unwrap(), 10).await;
    let id = replica.create().await;
    eventually("done", async || is_done(&site, id).await).await;
    replica.order(id, Command::Retry).await;
    eventually("done once more", async || {
        site.happened(id, |what| matches!(what, Happening::Finished { .. })).await == 2
    })
    .await;
    replica.controller.delete(id, None).await.unwrap().unwrap();
    eventually("gone", async || site.store.summary(id).await.unwrap().is_none()).await;
    assert!(replica.controller.get(id).await.unwrap().is_none());
    assert_eq!(receiver.taken().len(), 0);
}

/// The service as a process, with all that it logs: neither the secret nor the path of the URL, which may be one, is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_tells_what_it_is_configured_to_and_logs_no_secret() {
    let receiver = Receiver::start(Mood::Answers(500)).await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_crus"));
    command.args([
        "serve",
        "--demo",
        "--listen",
        "127.0.0.1:0",
        "--log",
        "trace",
        "--webhook-url",
        &receiver.url,
    ]);
    command.arg("--webhook-secret-file").arg(receiver.secret_file());
    command.args(["--webhook-events", "started", "--webhook-retry-max-s", "0.05"]);
    command
        .stdout(std::process::Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .kill_on_drop(true);
    let mut service = command.spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(service.stdout.take().unwrap()).lines();
    let first = lines.next_line().await.unwrap().unwrap();
    let url = first.strip_prefix("listening on ").unwrap().to_owned();
    let spec = serde_json::json!({
        "starting_label": "slurm-nodes",
        "upgrading_label": "upgrading-nodes",
        "failed_label": "failed-nodes",
        "upgrade_step_size": 4,
        "upgrade_template_id": "new-image",
        "workload_manager_type": "slurm",
    });
    let created = reqwest::Client::new().post(format!("{url}/session")).json(&spec).send().await.unwrap();
    assert_eq!(created.status().as_u16(), 201);
    eventually("it was refused, and came again", async || receiver.attempts() > 1).await;
    receiver.is(Mood::Takes);
    eventually("it was taken", async || receiver.classes() == ["started"]).await;
    service.kill().await.unwrap();
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("does not take what it is told, trying again: it answered 500"), "{log}");
    for secret in [SECRET, "token=t", "/hook"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}

#[test]
fn options_that_do_not_go_together_are_said_and_no_secret_is_shown() {
    let url: crus_server::webhook::HookUrl = "https://hooks.example.com/T0/s3cret".parse().unwrap();
    let half = WebhookOptions { url: Some(url), ..WebhookOptions::default() };
    let error = Webhook::new(&half).err().unwrap().to_string();
    assert!(error.contains("webhook_url and webhook_secret_file go together"), "{error}");
    let missing = WebhookOptions { secret_file: Some(Path::new("/nowhere").to_owned()), ..half };
    let error = format!("{:#}", Webhook::new(&missing).err().unwrap());
    assert!(error.contains("/nowhere (set by webhook_secret_file)"), "{error}");
    assert!(!format!("{missing:?}").contains("s3cret"));
    assert!(Webhook::new(&WebhookOptions::default()).unwrap().is_none());
}
