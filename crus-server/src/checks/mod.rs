//! Check commands: programs of the site that judge a node before it returns to service.
//!
//! A session names a command; which program that is, only the configuration says. It is run with the node's xname and its
//! name in Slurm as its last two arguments. Exit code 0 lets the node pass. Anything else, a time-out included, fails it,
//! with the first line that the program printed.
//!
//! # Guarantees
//!
//! - A program is run as it is configured, never by a shell, with nothing on its standard input and none of our
//!   environment but `PATH`, `HOME`, `LANG`, `LC_ALL`, `TZ` and `SLURM_CONF`; beside these are `CRUS_UPGRADE_ID`,
//!   `CRUS_XNAME`, `CRUS_NODE` and `CRUS_STEP`.
//! - It ends within its time-out, and what it started ends with it, as long as that stays in its process group.
//! - No more than so many run at a time; the others wait, and their time-out begins when they start.
//! - A node is checked once in a step, and once more when the service was started anew meanwhile.
//! - When the service stops, or has nothing more to do with a session, what still runs for it is killed.
//!
//! # Caveats
//!
//! - When the service is killed, what it ran goes on to its own end.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod process;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use crus_core::names::CheckName;
use crus_core::ports::{CheckRequest, Checks, Peer, PortError, Verdict};
use crus_core::{NodeName, UpgradeId, Xname};
use futures_util::FutureExt;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{Instrument, error_span, info};

use self::process::CannotRun;

/// Which check commands there are, and how they are run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckOptions {
    /// By name: the program, found by `PATH` unless it is a path, and its leading arguments.
    pub commands: BTreeMap<CheckName, Vec<String>>,
    /// How long the check of one node may take, in milliseconds.
    pub timeout_ms: u64,
    /// How many may run at a time.
    pub max_checks: usize,
}

impl Default for CheckOptions {
    /// No command; five minutes, eight at a time.
    fn default() -> Self {
        CheckOptions { commands: BTreeMap::new(), timeout_ms: 300_000, max_checks: 8 }
    }
}

/// Runs check commands. To be used within a runtime.
#[derive(Debug)]
pub struct CommandChecks {
    options: CheckOptions,
    places: Arc<Semaphore>,
    sessions: Mutex<HashMap<UpgradeId, OfStep>>,
    /// Every task holds a receiver for as long as it lives.
    alive: watch::Sender<()>,
}

/// The checks of a session in its latest step.
#[derive(Debug)]
struct OfStep {
    step: u32,
    checks: HashMap<Xname, Check>,
}

/// The check of one node. Dropping it ends it.
#[derive(Debug)]
enum Check {
    Running(Task),
    Judged(Verdict),
}

/// A task that is ended when it is dropped, and its program with it.
#[derive(Debug)]
struct Task(JoinHandle<Result<Verdict, CannotRun>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl CommandChecks {
    /// Runs nothing yet.
    pub fn new(options: CheckOptions) -> Self {
        let places = Arc::new(Semaphore::new(options.max_checks));
        CommandChecks { options, places, sessions: Mutex::default(), alive: watch::Sender::new(()) }
    }

    /// Kills all that runs, and waits at most `patience` for it to be gone. Returns whether it is.
    pub async fn stop(&self, patience: Duration) -> bool {
        self.sessions().clear();
        tokio::time::timeout(patience, self.alive.closed()).await.is_ok()
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<UpgradeId, OfStep>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, command: &[String], request: &CheckRequest, xname: Xname, node: &NodeName) -> Task {
        let (session, step) = (request.session, request.step);
        let environment = [
            ("CRUS_UPGRADE_ID", session.to_string()),
            ("CRUS_XNAME", xname.to_string()),
            ("CRUS_NODE", node.to_string()),
            ("CRUS_STEP", step.to_string()),
        ];
        let arguments = [xname.to_string(), node.to_string()];
        let (command, places) = (command.to_vec(), Arc::clone(&self.places));
        let limit = Duration::from_millis(self.options.timeout_ms);
        let alive = self.alive.subscribe();
        let task = async move {
            // Nobody closes it.
            let _place = places.acquire_owned().await;
            let judged = process::run(&command, &arguments, &environment, limit).await;
            match &judged {
                Ok(Verdict::Failed(why)) => info!("the node did not pass its check: {why}"),
                Ok(_) => info!("the node passed its check"),
                Err(why) => info!("the node was not checked: {why}"),
            }
            drop(alive);
            judged
        };
        let span = error_span!("check", upgrade_id = %session, step, %xname, command = %request.name);
        Task(tokio::spawn(task.instrument(span)))
    }
}

#[async_trait]
impl Checks for CommandChecks {
    async fn judge(&self, request: &CheckRequest) -> Result<Vec<(Xname, Verdict)>, PortError> {
        let Some(command) = self.options.commands.get(&request.name) else { return ().judge(request).await };
        let mut sessions = self.sessions();
        let of_step = sessions
            .entry(request.session)
            .or_insert_with(|| OfStep { step: request.step, checks: HashMap::new() });
        if of_step.step != request.step {
            *of_step = OfStep { step: request.step, checks: HashMap::new() };
        }
        // Said at once, rather than after a start that seems to go well.
        let mut cannot_run = process::look_for(command).err();
        let mut verdicts = Vec::with_capacity(request.nodes.len());
        for (xname, node) in &request.nodes {
            if cannot_run.is_some() && !of_step.checks.contains_key(xname) {
                continue;
            }
            let check = of_step.checks.entry(*xname);
            let check = check.or_insert_with(|| Check::Running(self.start(command, request, *xname, node)));
            match check.look() {
                Ok(verdict) => verdicts.push((*xname, verdict)),
                Err(error) => {
                    // It is no fault of the node: the next call tries again.
                    of_step.checks.remove(xname);
                    cannot_run = Some(error);
                }
            }
        }
        match cannot_run {
            None => Ok(verdicts),
            Some(error) => {
                let detail = format!("{}: {error}", request.name);
                Err(PortError::Unreachable { peer: Peer::Check, detail })
            }
        }
    }

    fn forget(&self, session: UpgradeId) {
        self.sessions().remove(&session);
    }
}

impl Check {
    /// How the node is judged by now.
    fn look(&mut self) -> Result<Verdict, CannotRun> {
        if let Check::Running(Task(task)) = self
            && let Some(ended) = task.now_or_never()
        {
            let verdict =
                ended.unwrap_or_else(|error| Err(CannotRun(format!("its task failed: {error}"))))?;
            *self = Check::Judged(verdict);
        }
        Ok(match self {
            Check::Running(_) => Verdict::Running,
            Check::Judged(verdict) => verdict.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
