//! `crus session …` and `crus plan`: what each asks of the service, and how the answer is shown.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use super::args::{Connection, CreateArgs, Format, PlanArgs, SessionArgs, SessionVerb, UpgradeArgs};
use super::error::ClientError;
use super::exit;
use super::output::{Output, clean, note, pairs, print, seconds};
use super::picture::standing;
use super::profile::Profile;
use super::views::{Echo, Event, Node, Progress, Session, counted, strategy_words};
use super::wire::{Api, CallError, view};
use super::{plan, time, watch};

/// How many nodes or events are asked for at a time.
const PAGE: u64 = 1000;
/// How many characters of an id there must be: fewer are a slip of the hand.
const PREFIX_MIN: usize = 4;
/// How many characters an id has.
const ID_LENGTH: usize = 36;
/// How long an order may take to have its effect before that is said.
const TAKEN_UP: Duration = Duration::from_secs(10);
/// How often that is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Of how many sessions the progress is asked for at a time.
const SIDE_BY_SIDE: usize = 20;
/// How many messages of a session are shown to people.
const MESSAGES: usize = 20;

/// Runs `crus session`; returns what the process ends with.
///
/// # Errors
/// When it was not done: each says why, and what to do.
pub(crate) async fn run(args: SessionArgs) -> Result<u8, ClientError> {
    let (api, output) = connect(&args.connection)?;
    match args.verb {
        SessionVerb::Create(create) => {
            let CreateArgs { upgrade, wait, follow } = *create;
            let created = api.create(&body(&upgrade)?, upgrade.tenant.as_ref()).await.map_err(|error| {
                let hint = if error.is_in_doubt() {
                    ". The session may be there all the same: before that look with crus session list whether it was \
                     created"
                } else {
                    ""
                };
                ClientError::from(error).and(hint)
            })?;
            let session: Session = view(&created)?;
            if !wait {
                return show(output, &api, &created).await;
            }
            if !output.is_live() {
                print(&match output.line_format() {
                    Format::Table => format!("created session {}\n", clean(&session.upgrade_id)),
                    Format::Json => format!("{created}\n"),
                    // The events come after it in the same document.
                    Format::Toml => super::output::to_toml(&json!({ "session": created }))? + "\n",
                })?;
            }
            watch::watch(&api, session, &follow, output).await
        }
        SessionVerb::List => {
            let sessions = api.get(&["session"], &[]).await?;
            let of = if output.format() == Format::Table {
                at_work(&api, &sessions).await?
            } else {
                BTreeMap::new()
            };
            output.answer(&sessions, || list(output, &sessions, &of))?;
            Ok(exit::OK)
        }
        SessionVerb::Describe { id } => {
            let session = find(&api, &id.id).await?;
            show(output, &api, &session).await
        }
        SessionVerb::Nodes { id, state, limit } => {
            let session: Session = view(&find(&api, &id.id).await?)?;
            let id = &session.upgrade_id;
            let states = if state.is_empty() { vec![] } else { vec![("state", state.join(","))] };
            let nodes = pages(&api, id, "nodes", &states, String::new(), limit).await;
            let nodes = nodes.map_err(|error| no_such(&api, id, error))?;
            let answer = json!({ "nodes": nodes });
            output.answer(&answer, || node_table(output, &nodes))?;
            Ok(exit::OK)
        }
        SessionVerb::Watch { id, follow } => {
            let session = view(&find(&api, &id.id).await?)?;
            watch::watch(&api, session, &follow, output).await
        }
        SessionVerb::Events { id, after, limit } => {
            let session: Session = view(&find(&api, &id.id).await?)?;
            let id = &session.upgrade_id;
            let events = pages(&api, id, "events", &[], after.to_string(), limit).await;
            let events = events.map_err(|error| no_such(&api, id, error))?;
            let answer = json!({ "events": events });
            output.answer(&answer, || {
                let mut echo = Echo::default();
                let mut text = String::new();
                for raw in &events {
                    let event: Event = view(raw)?;
                    if !echo.is_one(&event) {
                        text += &watch::line(Format::Table, raw, &event)?;
                    }
                }
                Ok(text)
            })?;
            Ok(exit::OK)
        }
        SessionVerb::Pause { id } => order(&api, output, &id.id, "pause").await,
        SessionVerb::Resume { id } => order(&api, output, &id.id, "resume").await,
        SessionVerb::Retry { id } => order(&api, output, &id.id, "retry").await,
        SessionVerb::Delete { id, yes, wait, give_up_s } => {
            let session: Session = view(&find(&api, &id.id).await?)?;
            if !yes {
                confirm(&session)?;
            }
            let id = session.upgrade_id.clone();
            let deleted = api
                .order(Method::DELETE, &["session", &id])
                .await
                .map_err(|error| no_such(&api, &id, error))?;
            if !(wait && output.is_live()) {
                show(output, &api, &deleted).await?;
            }
            if wait { watch::until_gone(&api, session, give_up_s, output).await } else { Ok(exit::OK) }
        }
    }
}

/// Runs `crus plan`; returns what the process ends with.
///
/// # Errors
/// When it was not done: each says why, and what to do.
pub(crate) async fn run_plan(args: PlanArgs) -> Result<u8, ClientError> {
    let (api, output) = connect(&args.connection)?;
    let plan = api.plan(&body(&args.upgrade)?, args.upgrade.tenant.as_ref()).await?;
    output.answer(&plan, || plan::table(output, &plan))?;
    plan::code(&plan)
}

fn connect(connection: &Connection) -> Result<(Arc<Api>, Output), ClientError> {
    let profile = Profile::read(connection, |name| std::env::var_os(name))?;
    // Read anew for each request; what is wrong with it now is a matter of the configuration.
    profile.token.header()?;
    let api = Api::new(profile, Duration::from_secs(connection.timeout_s))?;
    Ok((Arc::new(api), Output::new(connection.format)))
}

/// The request for an upgrade.
fn body(upgrade: &UpgradeArgs) -> Result<Value, ClientError> {
    let mut body = json!({
        "failed_label": upgrade.failed_label,
        "starting_label": upgrade.starting_label,
        "upgrade_step_size": upgrade.upgrade_step_size,
        "upgrade_template_id": upgrade.upgrade_template_id,
        "upgrading_label": upgrade.upgrading_label,
        "workload_manager_type": upgrade.workload_manager_type,
    });
    let strategy = upgrade.strategy.read()?;
    if !strategy.is_empty() {
        body["strategy"] = Value::Object(strategy);
    }
    Ok(body)
}

/// The session of this id, or the only one whose id begins so.
async fn find(api: &Api, given: &str) -> Result<Value, ClientError> {
    let given = given.trim().to_ascii_lowercase();
    let is_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    if given.len() < PREFIX_MIN || given.len() > ID_LENGTH || !given.chars().all(is_id) {
        return Err(ClientError::usage(format!(
            "{:?} is no upgrade id: give one as crus session list shows it, or at least its first {PREFIX_MIN} characters",
            clean(&given)
        )));
    }
    if given.len() == ID_LENGTH {
        return api.get(&["session", &given], &[]).await.map_err(|error| no_such(api, &given, error));
    }
    let all = api.get(&["session"], &[]).await?;
    let begins_so = |session: &&Value| {
        session["upgrade_id"].as_str().is_some_and(|id| id.to_ascii_lowercase().starts_with(&given))
    };
    let found: Vec<&Value> = all.as_array().into_iter().flatten().filter(begins_so).collect();
    match found.as_slice() {
        [session] => Ok((*session).clone()),
        [] => Err(ClientError::failed(format!(
            "{} has no session whose id begins with {given}; crus session list shows all",
            api.url()
        ))),
        several => {
            let ids: Vec<&str> =
                several.iter().filter_map(|session| session["upgrade_id"].as_str()).collect();
            Err(ClientError::usage(format!(
                "{given} is the beginning of several ids: {}; give more of it",
                clean(&ids.join(", "))
            )))
        }
    }
}

/// The error of a request that is about a session.
pub(crate) fn no_such(api: &Api, id: &str, error: CallError) -> ClientError {
    if error.is_missing() {
        return ClientError::failed(format!(
            "{} has no session {} (404); crus session list shows all",
            api.url(),
            clean(id)
        ));
    }
    error.into()
}

/// All nodes or events of a session after this one, page by page, but no more than `limit`.
pub(crate) async fn pages(
    api: &Api,
    id: &str,
    what: &str,
    query: &[(&str, String)],
    mut after: String,
    limit: Option<u64>,
) -> Result<Vec<Value>, CallError> {
    let mut all: Vec<Value> = Vec::new();
    loop {
        let count = limit.unwrap_or(u64::MAX).saturating_sub(all.len() as u64).min(PAGE);
        if count == 0 {
            return Ok(all);
        }
        let mut query = query.to_vec();
        query.push(("limit", count.to_string()));
        if !after.is_empty() {
            query.push(("after", after.clone()));
        }
        let mut answer = api.get(&["session", id, what], &query).await?;
        let page = match answer.get_mut(what).map(Value::take) {
            Some(Value::Array(page)) => page,
            _ => Vec::new(),
        };
        let next = match &answer["next"] {
            Value::String(next) => next.clone(),
            Value::Number(next) => next.to_string(),
            _ => String::new(),
        };
        let is_last = page.is_empty() || next.is_empty() || next == after;
        all.extend(page);
        if is_last {
            return Ok(all);
        }
        after = next;
    }
}

/// Pauses, resumes or retries a session.
async fn order(api: &Api, output: Output, id: &str, verb: &str) -> Result<u8, ClientError> {
    let session: Session = view(&find(api, id).await?)?;
    let id = session.upgrade_id.as_str();
    let noted = api.order(Method::POST, &["session", id, verb]).await;
    let noted = noted.map_err(|error| no_such(api, id, error))?;
    let begun = Instant::now();
    let answer = loop {
        match is_taken_up(api, &session, verb).await {
            Ok(Some(answer)) => break answer,
            Ok(None) if begun.elapsed() < TAKEN_UP => tokio::time::sleep(LOOK_AGAIN).await,
            // It was noted: that is what was asked for.
            Ok(None) | Err(_) => {
                note(&format!(
                    "the service has noted it, and will take it up: {verb} of session {}",
                    clean(id)
                ));
                break noted;
            }
        }
    };
    show(output, api, &answer).await
}

/// The session once an order has its effect: the service answers when it has noted one, and whoever watches the session
/// next should see what it does then.
async fn is_taken_up(api: &Api, before: &Session, verb: &str) -> Result<Option<Value>, CallError> {
    let path = ["session", before.upgrade_id.as_str()];
    let answer = api.get(&path, &[]).await?;
    let progress = api.get(&[path[0], path[1], "progress"], &[]).await?;
    let (is_done, is_paused) = (answer["completed"] == true, !progress["paused"].is_null());
    let is_so = match verb {
        "pause" => is_paused || is_done,
        "resume" => !is_paused,
        _ => {
            // Counted as pending from when it is taken up, before any of them is touched again.
            let counts = view::<Progress>(&progress).map(|progress| progress.counts).unwrap_or_default();
            !(before.completed && is_done) && counts.failed + counts.skipped == 0
        }
    };
    Ok(is_so.then_some(answer))
}

/// Asks whether a session is really to be deleted.
fn confirm(session: &Session) -> Result<(), ClientError> {
    let mut terminal = io::stderr();
    if !io::stdin().is_terminal() || !terminal.is_terminal() {
        return Err(ClientError::usage(
            "there is no terminal to ask on whether that is meant; say so with --yes",
        ));
    }
    let question = format!(
        "Delete session {} ({} -> {}, {})?{} [y/N] ",
        session.upgrade_id,
        session.starting_label,
        session.upgrade_template_id,
        session.state,
        if session.completed { "" } else { " Its upgrade stops: no other node will be rebooted." }
    );
    let written = terminal.write_all(clean(&question).as_bytes()).and_then(|()| terminal.flush());
    written.map_err(|error| ClientError::output(&error))?;
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| ClientError::failed(format!("failed to read the answer: {error}")))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(ClientError::failed("nothing was deleted")),
    }
}

// ---- tables -----------------------------------------------------------------------------------------------

/// The progress of the sessions that are not finished, by their ids; without those whose is not told.
async fn at_work(api: &Arc<Api>, sessions: &Value) -> Result<BTreeMap<String, Progress>, ClientError> {
    let sessions: Vec<Session> = view(sessions)?;
    let at_work: Vec<Session> = sessions.into_iter().filter(|session| !session.completed).collect();
    let mut of = BTreeMap::new();
    for some in at_work.chunks(SIDE_BY_SIDE) {
        let asked = some.iter().map(async |session| {
            let id = session.upgrade_id.as_str();
            let progress = api.get(&["session", id, "progress"], &[]).await.ok()?;
            Some((id.to_owned(), view(&progress).ok()?))
        });
        of.extend(futures_util::future::join_all(asked).await.into_iter().flatten());
    }
    Ok(of)
}

fn list(output: Output, sessions: &Value, of: &BTreeMap<String, Progress>) -> Result<String, ClientError> {
    let now = Timestamp::now();
    let sessions: Vec<Session> = view(sessions)?;
    if sessions.is_empty() {
        return Ok("There are no sessions; crus session create starts one.\n".to_owned());
    }
    let paused = |session: &Session| {
        let paused = of.get(&session.upgrade_id)?.paused.as_ref()?;
        Some(format!("since {}", time::clock(now, &paused.since)))
    };
    let rows = sessions.iter().map(|session| {
        vec![
            session.upgrade_id.clone(),
            session.state.clone(),
            of.get(&session.upgrade_id).map(|of| format!("{:.0}", of.percent)).unwrap_or_default(),
            paused(session).unwrap_or_default(),
            session.starting_label.clone(),
            session.upgrade_template_id.clone(),
            session.upgrade_step_size.to_string(),
            session.messages.last().cloned().unwrap_or_default(),
        ]
    });
    Ok(output.table(
        &["ID", "STATE", "DONE %", "PAUSED (UTC)", "GROUP", "TEMPLATE", "STEP SIZE", "LAST MESSAGE"],
        rows,
    ))
}

/// Shows a session; to people with its progress and strategy, where the service tells them.
async fn show(output: Output, api: &Api, session: &Value) -> Result<u8, ClientError> {
    let mut beside = (None, None);
    if output.format() == Format::Table {
        let id = session["upgrade_id"].as_str().unwrap_or_default();
        let is_deleting = session["state"] == "DELETING";
        let told = async |what: &str| {
            let answer = api.get(&["session", id, what], &[]).await;
            if let Err(error) = &answer
                // One that is being deleted may be gone by now.
                && !(is_deleting && error.is_missing())
            {
                note(&format!("its {what} is not shown: {error}"));
            }
            answer.ok()
        };
        let (progress, strategy) = (told("progress").await, told("strategy").await);
        beside = (progress.and_then(|progress| view::<Progress>(&progress).ok()), strategy);
    }
    output.answer(session, || description(&view(session)?, beside.0.as_ref(), beside.1.as_ref()))?;
    Ok(exit::OK)
}

fn description(
    session: &Session,
    progress: Option<&Progress>,
    strategy: Option<&Value>,
) -> Result<String, ClientError> {
    let now = Timestamp::now();
    let mut lines = vec![("Session", session.upgrade_id.clone())];
    match progress {
        None => lines.push(("State", session.state.clone())),
        Some(progress) => {
            lines.push(("State", standing(progress)));
            let counts = format!("{} ({:.0} % done)", counted(&progress.counts), progress.percent);
            let counts = if progress.total == 0 { "not known yet".to_owned() } else { counts };
            lines.push(("Nodes", counts));
            // Nobody is known where nobody is asked.
            if let Some(by) = &progress.created_by {
                lines.push(("Created by", by.clone()));
            }
            lines.push(("Elapsed", time::duration(progress.elapsed_s)));
            let expected = progress.expected_end.as_ref().and_then(|end| time::expected(now, end));
            lines.push(("Expected end", expected.unwrap_or_default()));
            // Of a paused one it is the pause.
            let waits = progress.waits_for.clone().filter(|_| progress.paused.is_none());
            lines.push(("Waits", waits.unwrap_or_default()));
            let paused = progress.paused.as_ref();
            let paused = paused.map(|paused| format!("{}, since {}", paused.reason, seconds(&paused.since)));
            let by = progress.paused_by.as_ref().map(|by| format!(" (by {by})")).unwrap_or_default();
            let paused = paused.map(|paused| paused + &by);
            lines.push(("Paused", paused.unwrap_or_default()));
            lines.push(("Deleted by", progress.deleted_by.clone().unwrap_or_default()));
        }
    }
    lines.push(("Starting group", session.starting_label.clone()));
    lines.push(("Upgrading group", session.upgrading_label.clone()));
    lines.push(("Failed group", session.failed_label.clone()));
    lines.push(("Template", session.upgrade_template_id.clone()));
    lines.push(("Step size", session.upgrade_step_size.to_string()));
    lines.push(("Jobs run by", session.workload_manager_type.clone()));
    let words = strategy.map(strategy_words).unwrap_or_default();
    lines.push(("Strategy", words));
    let mut text = pairs(&lines);
    if !session.messages.is_empty() {
        let earlier = session.messages.len().saturating_sub(MESSAGES);
        text += "Messages\n";
        if earlier > 0 {
            text += &format!("  ({earlier} earlier ones: --format json shows all)\n");
        }
        for message in session.messages.iter().skip(earlier) {
            text += &format!("  {}\n", clean(message));
        }
    }
    Ok(text)
}

fn node_table(output: Output, nodes: &[Value]) -> Result<String, ClientError> {
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for node in nodes {
        let node: Node = view(node)?;
        let job = node.job.unwrap_or_default();
        rows.push(vec![
            node.name.unwrap_or_default(),
            node.xname,
            node.state,
            node.step.map(|step| step.to_string()).unwrap_or_default(),
            node.attempt.to_string(),
            node.since.map(|since| time::clock(now, &since)).unwrap_or_default(),
            job.id.unwrap_or_default(),
            job.user.unwrap_or_default(),
            job.end.map(|end| time::clock(now, &end)).unwrap_or_default(),
            node.reason.unwrap_or_default(),
        ]);
    }
    let head = [
        "NAME",
        "XNAME",
        "STATE",
        "STEP",
        "ATTEMPT",
        "SINCE (UTC)",
        "JOB",
        "USER",
        "JOB ENDS (UTC)",
        "REASON",
    ];
    Ok(output.table(&head, rows))
}
