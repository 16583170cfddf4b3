//! Following a session to its end: a picture that moves, or a line for each event.

use std::sync::Arc;
use std::time::Duration;

use console::Term;
use crus_core::model::Counts;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::args::{FollowArgs, Format};
use super::error::ClientError;
use super::exit;
use super::follow::{self, Heard};
use super::output::{self, Output, clean, note, print, seconds};
use super::picture::{Picture, all_upgraded};
use super::session::pages;
use super::views::{Echo, Event, Nodes, Progress, Session, counted, pausing};
use super::wire::{Api, CallError, view};

/// How often the picture is drawn anew.
const GLANCE: Duration = Duration::from_secs(1);
/// How often the nodes of the picture are asked for, unless an event says that some moved.
const NODES_EVERY: Duration = Duration::from_secs(5);
/// How often it is asked whether a session has ended, beside its events: one that an older service ran has none.
const LOOK: Duration = Duration::from_secs(30);
/// How often, and how many times, it is asked when it may have ended just now.
const SOON: Duration = Duration::from_millis(200);
const SOON_MAX: u32 = 10;
/// The most nodes in flight that are asked for at a time.
const NODES: &str = "40";
/// How long the line of an event may be, for people.
const LINE_MAX: usize = 240;
/// States of nodes in flight.
const IN_FLIGHT: &str = "draining,quiesced,rebooting,returning";

/// How a session stands.
enum Standing {
    Working,
    Paused(String),
    /// It will be once its step is finished: what is said until then.
    Pausing(String),
    Done(Counts),
    Gone,
}

/// What is to be looked for after something was heard.
#[derive(Clone, Copy)]
enum Due {
    Nothing,
    /// Whether the session has ended.
    Look,
    /// The same, several times: what an event tells may be seen in the session a moment later.
    Soon,
}

/// Follows a session; returns what the process ends with.
pub(crate) async fn watch(
    api: &Arc<Api>,
    session: Session,
    flags: &FollowArgs,
    output: Output,
) -> Result<u8, ClientError> {
    let id = session.upgrade_id.clone();
    let ended = follow_to_end(api, session, flags, output).await;
    if matches!(ended, Ok(exit::INTERRUPTED)) {
        note(&clean(&format!(
            "the upgrade goes on; follow it with crus session watch {id}, stop it with crus session delete {id}"
        )));
    }
    ended
}

async fn follow_to_end(
    api: &Arc<Api>,
    session: Session,
    flags: &FollowArgs,
    output: Output,
) -> Result<u8, ClientError> {
    let give_up = Duration::from_secs(flags.give_up_s);
    let events = follow::follow(Arc::clone(api), session.upgrade_id.clone(), 0, give_up);
    let picture = output.is_live().then(|| Screen::new(session.clone()));
    let mut watch = Watch {
        api,
        id: session.upgrade_id,
        output,
        exit_on_pause: flags.exit_on_pause,
        last: 0,
        screen: picture,
        is_lost: false,
        pausing: None,
        echo: Echo::default(),
    };
    tokio::select! {
        ended = watch.run(events) => ended,
        interrupted = tokio::signal::ctrl_c() => match interrupted {
            Ok(()) => Ok(exit::INTERRUPTED),
            Err(error) => Err(ClientError::failed(format!("failed to listen for Ctrl-C: {error}"))),
        },
    }
}

struct Watch<'a> {
    api: &'a Arc<Api>,
    id: String,
    output: Output,
    exit_on_pause: bool,
    /// The number of the last event that was shown.
    last: u64,
    screen: Option<Screen>,
    is_lost: bool,
    /// What was said last of a step that is finished before the pause.
    pausing: Option<String>,
    echo: Echo,
}

impl Watch<'_> {
    async fn run(&mut self, mut heard: mpsc::Receiver<Heard>) -> Result<u8, ClientError> {
        let pace = if self.screen.is_some() { GLANCE } else { LOOK };
        // At once, too: the session may be done.
        let mut look_at = Instant::now();
        let mut soon = 0;
        loop {
            let due = tokio::select! {
                heard = heard.recv() => match heard {
                    Some(heard) => self.take_in(heard)?,
                    None => return Err(ClientError::failed("the events of the session ended; watch it again")),
                },
                () = tokio::time::sleep_until(look_at) => Due::Look,
            };
            match due {
                Due::Soon => soon = SOON_MAX,
                Due::Look => {}
                Due::Nothing if Instant::now() < look_at => continue,
                Due::Nothing => {}
            }
            // While the service is away the stream says so; asked as well it is only after that said something.
            let is_asked = !self.is_lost || soon > 0;
            let pace = if self.pausing.is_some() { pace.min(GLANCE) } else { pace };
            look_at = Instant::now() + if soon > 0 { SOON.min(pace) } else { pace };
            soon = soon.saturating_sub(1);
            if is_asked && let Some(code) = self.look().await? {
                return Ok(code);
            }
        }
    }

    /// Shows what was heard; tells what to look for then.
    fn take_in(&mut self, heard: Heard) -> Result<Due, ClientError> {
        match heard {
            Heard::Event(raw, event) => {
                let due = match event.kind.as_str() {
                    "finished" | "paused" => Due::Soon,
                    _ => Due::Nothing,
                };
                self.show(&raw, event)?;
                Ok(due)
            }
            Heard::Lost(why) => {
                self.is_lost = true;
                match &mut self.screen {
                    Some(screen) => {
                        screen.picture.lost = Some(why);
                        screen.draw()?;
                    }
                    None => note(&format!("{}; trying again until the service is back", clean(&why))),
                }
                Ok(Due::Nothing)
            }
            Heard::Back => {
                self.is_lost = false;
                match &mut self.screen {
                    Some(screen) => screen.picture.lost = None,
                    None => note(&format!("connected to {} again", self.api.url())),
                }
                Ok(Due::Soon)
            }
            Heard::Asked => Ok(Due::Look),
            Heard::Ended | Heard::Gone => Ok(Due::Soon),
            Heard::Failed(error) => Err(error),
        }
    }

    fn show(&mut self, raw: &Value, event: Event) -> Result<(), ClientError> {
        if event.number <= self.last {
            return Ok(());
        }
        self.last = event.number;
        match &mut self.screen {
            Some(screen) => {
                if event.kind == "nodes" {
                    screen.nodes_at = None;
                }
                screen.picture.add(event);
                Ok(())
            }
            // Programs get all of it.
            None if self.output.line_format() == Format::Table && self.echo.is_one(&event) => Ok(()),
            None => print(&line(self.output.line_format(), raw, &event)?),
        }
    }

    /// Looks how the session stands; returns what to end with when that is an end.
    async fn look(&mut self) -> Result<Option<u8>, ClientError> {
        let standing = match self.standing().await {
            Ok(standing) => standing,
            // The stream says it when the service is away.
            Err(error) if error.passing => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !matches!(standing, Standing::Pausing(_)) {
            self.pausing = None;
        }
        match standing {
            Standing::Working => {}
            Standing::Pausing(text) => {
                // The picture has it anyway.
                if self.screen.is_none() && self.exit_on_pause && self.pausing.as_ref() != Some(&text) {
                    note(&clean(&text));
                }
                self.pausing = Some(text);
            }
            Standing::Paused(_) if !self.exit_on_pause => {}
            Standing::Paused(why) => {
                self.catch_up().await?;
                self.end(&format!("session {} is paused. {why}", self.id))?;
                return Ok(Some(exit::PAUSED));
            }
            Standing::Done(counts) => {
                self.catch_up().await?;
                self.end(&format!("session {} is done: {}", self.id, counted(&counts)))?;
                return Ok(Some(if all_upgraded(&counts) { exit::OK } else { exit::NOT_ALL }));
            }
            Standing::Gone => {
                self.end(&format!("session {} is gone: it was deleted", self.id))?;
                return Ok(Some(exit::DELETED));
            }
        }
        if let Some(screen) = &self.screen {
            screen.draw()?;
        }
        Ok(None)
    }

    async fn standing(&mut self) -> Result<Standing, CallError> {
        let path = ["session", self.id.as_str()];
        let session = match self.api.get(&path, &[]).await {
            Err(error) if error.is_missing() => return Ok(Standing::Gone),
            session => session?,
        };
        let session: Session = known(&session)?;
        let progress = match self.api.get(&["session", &self.id, "progress"], &[]).await {
            Err(error) if error.is_missing() => return self.missing().await,
            progress => known::<Progress>(&progress?)?,
        };
        let standing = match (&progress.paused, pausing(&progress)) {
            // It ends with the session gone, whatever it was before.
            _ if session.state == "DELETING" => Standing::Working,
            _ if session.completed => Standing::Done(progress.counts),
            (Some(_), Some(text)) => Standing::Pausing(text),
            (Some(paused), None) => Standing::Paused(paused.reason.clone()),
            (None, _) => Standing::Working,
        };
        if let Some(screen) = &mut self.screen {
            let is_old = screen.nodes_at.is_none_or(|at| at.elapsed() >= NODES_EVERY);
            (screen.picture.session, screen.picture.progress) = (session, progress);
            if !is_old {
                return Ok(standing);
            }
            let query = [("state", IN_FLIGHT.to_owned()), ("limit", NODES.to_owned())];
            let nodes = self.api.get(&["session", &self.id, "nodes"], &query).await?;
            screen.picture.nodes = known::<Nodes>(&nodes)?.nodes;
            screen.nodes_at = Some(Instant::now());
        }
        Ok(standing)
    }

    /// What it means that a session has no progress: it was deleted just now, or the service has none of any.
    async fn missing(&self) -> Result<Standing, CallError> {
        match self.api.get(&["session", &self.id], &[]).await {
            Err(error) if error.is_missing() => Ok(Standing::Gone),
            Err(error) => Err(error),
            Ok(_) => Err(CallError::lasting(format!(
                "the service at {} does not tell progress and events: it is older than this crus ({}); look at the \
                 session with crus session describe",
                self.api.url(),
                env!("CARGO_PKG_VERSION")
            ))),
        }
    }

    /// Shows the events that the stream has not told yet.
    async fn catch_up(&mut self) -> Result<(), ClientError> {
        let events = match pages(self.api, &self.id, "events", &[], self.last.to_string(), None).await {
            Ok(events) => events,
            // The outcome is known; the rest of the story can be asked for later.
            Err(error) if error.passing || error.is_missing() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for raw in events {
            let event = view(&raw)?;
            self.show(&raw, event)?;
        }
        Ok(())
    }

    /// Says how it ended: below the picture, or beside the events.
    fn end(&self, text: &str) -> Result<(), ClientError> {
        let text = clean(text);
        match &self.screen {
            Some(screen) => {
                screen.draw()?;
                print(&format!("\n{text}\n"))
            }
            None => {
                note(&text);
                Ok(())
            }
        }
    }
}

/// What an answer is known to hold.
fn known<T: serde::de::DeserializeOwned>(answer: &Value) -> Result<T, CallError> {
    view(answer).map_err(|error| CallError::lasting(error.to_string()))
}

/// The line of an event.
pub(crate) fn line(format: Format, raw: &Value, event: &Event) -> Result<String, ClientError> {
    match format {
        Format::Table => {
            let text = clean(&format!("{}  {}", seconds(&event.at), event.words()));
            Ok(format!("{}\n", console::truncate_str(&text, LINE_MAX, "…")))
        }
        Format::Json => Ok(format!("{raw}\n")),
        // Such pieces one after the other are one document.
        Format::Toml => Ok(output::to_toml(&serde_json::json!({ "events": [raw] }))? + "\n"),
    }
}

/// Waits until a session is gone.
pub(crate) async fn until_gone(
    api: &Arc<Api>,
    session: Session,
    give_up_s: u64,
    output: Output,
) -> Result<u8, ClientError> {
    if output.is_live() {
        let flags = FollowArgs { exit_on_pause: false, give_up_s };
        let id = session.upgrade_id.clone();
        return match follow_to_end(api, session, &flags, output).await? {
            exit::DELETED => Ok(exit::OK),
            exit::INTERRUPTED => Ok(deletion_goes_on(&id)),
            other => Ok(other),
        };
    }
    let id = session.upgrade_id;
    let gone = async {
        let mut away_since = None;
        loop {
            match api.get(&["session", &id], &[]).await {
                Err(error) if error.is_missing() => return Ok(exit::OK),
                Err(error) if error.passing => {
                    let away = *away_since.get_or_insert_with(|| {
                        note(&format!("{error}; trying again until the service is back"));
                        Instant::now()
                    });
                    let give_up = Duration::from_secs(give_up_s);
                    if away.elapsed() >= give_up {
                        return Err(follow::gave_up(&error, give_up));
                    }
                }
                Err(error) => return Err(error.into()),
                Ok(_) => away_since = None,
            }
            tokio::time::sleep(GLANCE).await;
        }
    };
    tokio::select! {
        gone = gone => gone,
        _ = tokio::signal::ctrl_c() => Ok(deletion_goes_on(&id)),
    }
}

fn deletion_goes_on(id: &str) -> u8 {
    note(&clean(&format!(
        "the service goes on deleting session {id}; crus session list shows whether it is gone"
    )));
    exit::INTERRUPTED
}

/// The terminal with a picture on it.
struct Screen {
    term: Term,
    picture: Picture,
    /// When its nodes were asked for; `None` once they are known to have moved.
    nodes_at: Option<Instant>,
    /// How many lines are drawn.
    drawn: std::cell::Cell<usize>,
}

impl Screen {
    fn new(session: Session) -> Self {
        let picture = Picture { session, ..Picture::default() };
        Screen { term: Term::stdout(), picture, nodes_at: None, drawn: std::cell::Cell::new(0) }
    }

    /// Draws the picture over the one before, in one write, so that it does not flicker.
    fn draw(&self) -> Result<(), ClientError> {
        if self.picture.progress.state.is_empty() {
            return Ok(());
        }
        let (height, width) = self.term.size();
        // The last line stays free: a line feed there would scroll, and what is drawn could not be reached.
        let lines =
            self.picture.lines(Timestamp::now(), usize::from(width), usize::from(height).saturating_sub(2));
        let mut text = String::from("\x1b[?25l");
        if self.drawn.get() > 0 {
            text += &format!("\x1b[{}A", self.drawn.get());
        }
        text.push('\r');
        for line in &lines {
            text += line;
            text += "\x1b[K\n";
        }
        text += "\x1b[J\x1b[?25h";
        self.drawn.set(lines.len());
        print(&text)
    }
}
