//! Check commands that do as a test wrote: a node passes, fails or hangs, after so much virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use crus_core::names::CheckName;
use crus_core::ports::{CheckRequest, Checks, Peer, PortError, Verdict};
use crus_core::{Time, UpgradeId, Xname};

use crate::cluster::{SharedCluster, lock};

/// How the check of a node goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckEnd {
    /// It passes.
    Passes {
        /// Virtual milliseconds after its start.
        after_ms: u64,
    },
    /// It fails.
    Fails {
        /// Virtual milliseconds after its start.
        after_ms: u64,
        /// Why.
        words: String,
    },
    /// It does not end by itself: its time-out fails it.
    Hangs,
}

/// A check that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StartedCheck {
    /// When.
    pub at: Time,
    /// For which session.
    pub session: UpgradeId,
    /// In which step.
    pub step: u32,
    /// Of which node.
    pub xname: Xname,
}

/// Scripted check commands. Clones share the script and what runs.
#[derive(Debug, Clone)]
pub struct SimChecks {
    cluster: SharedCluster,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    names: BTreeSet<CheckName>,
    timeout_ms: u64,
    usual: CheckEnd,
    ends: BTreeMap<Xname, CheckEnd>,
    /// What was started, with how it goes.
    running: BTreeMap<(UpgradeId, Xname), (StartedCheck, CheckEnd)>,
    started: Vec<StartedCheck>,
}

impl SimChecks {
    /// No command is there yet. A check passes at once, unless something else is said, and may take a minute.
    pub fn new(cluster: &SharedCluster) -> Self {
        let state = State {
            names: BTreeSet::new(),
            timeout_ms: 60_000,
            usual: CheckEnd::Passes { after_ms: 0 },
            ends: BTreeMap::new(),
            running: BTreeMap::new(),
            started: Vec::new(),
        };
        SimChecks { cluster: Arc::clone(cluster), state: Arc::new(Mutex::new(state)) }
    }

    /// Puts a command into the configuration.
    pub fn add(&self, name: CheckName) {
        self.state().names.insert(name);
    }

    /// Takes a command out of the configuration.
    pub fn remove(&self, name: &CheckName) {
        self.state().names.remove(name);
    }

    /// How long a check may take, in virtual milliseconds.
    pub fn set_timeout(&self, ms: u64) {
        self.state().timeout_ms = ms;
    }

    /// How checks go that start from now on, of nodes of which nothing else is said.
    pub fn set_usual(&self, end: CheckEnd) {
        self.state().usual = end;
    }

    /// How checks of a node go that start from now on.
    pub fn set(&self, xname: Xname, end: CheckEnd) {
        self.state().ends.insert(xname, end);
    }

    /// All checks that were started, in order.
    pub fn started(&self) -> Vec<StartedCheck> {
        self.state().started.clone()
    }

    /// The service died: what it ran died with it, and so did what it knew.
    pub fn die(&self) {
        self.state().running.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Checks for SimChecks {
    async fn judge(&self, request: &CheckRequest) -> Result<Vec<(Xname, Verdict)>, PortError> {
        let now = lock(&self.cluster).now();
        let mut state = self.state();
        if !state.names.contains(&request.name) {
            let detail = format!("there is no check command '{}' in the configuration", request.name);
            return Err(PortError::Refused { peer: Peer::Check, detail });
        }
        let (session, step) = (request.session, request.step);
        // What is left of an earlier step is of no use any more.
        state.running.retain(|(of, _), (check, _)| *of != session || check.step == step);
        let mut verdicts = Vec::new();
        for (xname, _) in &request.nodes {
            let key = (session, *xname);
            if !state.running.contains_key(&key) {
                let check = StartedCheck { at: now, session, step, xname: *xname };
                let end = state.ends.get(xname).unwrap_or(&state.usual).clone();
                state.started.push(check);
                state.running.insert(key, (check, end));
            }
            let timeout_ms = state.timeout_ms;
            let verdict =
                state.running.get(&key).map(|(check, end)| end.after(now.since(check.at), timeout_ms));
            verdicts.extend(verdict.map(|verdict| (*xname, verdict)));
        }
        Ok(verdicts)
    }

    fn forget(&self, session: UpgradeId) {
        self.state().running.retain(|(of, _), _| *of != session);
    }
}

impl CheckEnd {
    /// The verdict so long after the start.
    fn after(&self, ms: u64, timeout_ms: u64) -> Verdict {
        let (ends_after, verdict) = match self {
            CheckEnd::Passes { after_ms } => (*after_ms, Verdict::Passed),
            CheckEnd::Fails { after_ms, words } => (*after_ms, Verdict::Failed(words.clone())),
            CheckEnd::Hangs => (u64::MAX, Verdict::Passed),
        };
        if ends_after > timeout_ms && ms >= timeout_ms {
            return Verdict::Failed(format!("it did not end within {} s", timeout_ms as f64 / 1000.0));
        }
        if ms >= ends_after { verdict } else { Verdict::Running }
    }
}
