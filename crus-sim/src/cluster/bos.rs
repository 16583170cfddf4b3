//! BOS v2 as it was seen to behave.

use std::collections::{BTreeMap, BTreeSet};

use crus_core::promises::What;
use crus_core::{TemplateName, Time, Xname};
use serde::{Deserialize, Serialize};

use super::Cluster;
use super::limit::{exact_xname, narrow};
use super::queue::{Event, Ix};
use crate::config::{BootSet, TemplateSpec};

/// What a session does to its nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Boots what is off or runs another image: on nodes that run the image already it succeeds without a reboot.
    Boot,
    /// Reboots.
    Reboot,
    /// Switches off.
    Shutdown,
}

/// A request for a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSession {
    /// Its name.
    pub name: String,
    /// What to do.
    pub operation: Operation,
    /// The session template.
    pub template_name: String,
    /// **Empty means every node of the template.**
    pub limit: String,
    /// A staged session never completes.
    pub stage: bool,
    /// Whether nodes that HSM has disabled are taken all the same.
    pub include_disabled: bool,
}

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionStatus {
    /// Its nodes are not worked out yet.
    Pending,
    /// Its nodes are being booted.
    Running,
    /// Nothing more will happen.
    Complete,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// What was asked for.
    pub request: NewSession,
    /// How far it is.
    pub status: SessionStatus,
    /// When it was created.
    pub start_time: Time,
    /// When it was complete.
    pub end_time: Option<Time>,
    /// What kept it from running.
    pub error: Option<String>,
    /// The nodes that it took, once it runs, whoever has them now.
    pub components: BTreeSet<Xname>,
}

/// The extended status of a session: totals over the components that it still has. Frozen when it is complete.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ExtendedStatus {
    /// `managed_components_count`
    pub managed: usize,
    /// Components in phase `powering_on`.
    pub powering_on: usize,
    /// Components in phase `powering_off`.
    pub powering_off: usize,
    /// Components in phase `configuring`.
    pub configuring: usize,
    /// Components that BOS has let go, or is content with.
    pub complete: usize,
    /// Components that are stable, without an error.
    pub successful: usize,
    /// Components that failed.
    pub failed: usize,
    /// Components by error.
    pub errors: BTreeMap<String, Vec<Xname>>,
}

/// A component: a node as BOS sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootComponent {
    /// Which node.
    pub xname: Xname,
    /// Whether BOS acts on it.
    pub enabled: bool,
    /// The session that it belongs to; empty before the first.
    pub session: String,
    /// What went wrong with it last; empty when nothing did.
    pub error: String,
    /// `status.status`: `power_on_pending`, `power_on_called`, `power_off_pending`, `power_off_gracefully_called`,
    /// `configuring`, `stable`, `failed`, `on_hold`.
    pub status: &'static str,
    /// `status.phase`: `powering_off`, `powering_on`, `configuring` or empty.
    pub phase: &'static str,
    /// `event_stats.power_on_attempts`
    pub power_on_attempts: u32,
    /// `event_stats.power_off_graceful_attempts`
    pub power_off_attempts: u32,
    /// The session template that it is to run; empty before the first session.
    pub desired: String,
    /// The session template that it runs; empty for the image from before.
    pub actual: String,
    /// When it changed last.
    pub last_updated: Time,
}

/// What BOS answers instead of doing it: the text is the problem's `detail`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BosError {
    /// The store is down.
    #[error("Unable to connect to the Redis database")]
    StoreDown,
    /// There is a session of this name.
    #[error("Session '{0}' already exists")]
    SessionExists(String),
    /// There is no such session template to make a session of.
    #[error("Session Template Name invalid: {0}")]
    UnknownTemplate(String),
    /// The session template is broken.
    #[error("Session template fails check: {0}")]
    BrokenTemplate(String),
    /// The request is not of the right form.
    #[error("{0}")]
    BadRequest(String),
    /// There is no such session.
    #[error("Session '{0}' does not exist")]
    NoSuchSession(String),
    /// There is no such session template.
    #[error("Session template '{0}' does not exist")]
    NoSuchTemplate(String),
    /// There is no such component.
    #[error("Component '{0}' does not exist")]
    NoSuchComponent(String),
}

impl BosError {
    /// The status code of the answer.
    pub fn status(&self) -> u16 {
        match self {
            BosError::StoreDown => 503,
            BosError::SessionExists(_) => 409,
            BosError::UnknownTemplate(_) | BosError::BrokenTemplate(_) | BosError::BadRequest(_) => 400,
            BosError::NoSuchSession(_) | BosError::NoSuchTemplate(_) | BosError::NoSuchComponent(_) => 404,
        }
    }
}

/// The longest limit that BOS takes.
const LIMIT_MAX: usize = 524_288;
/// How soon a session is set up again when HSM does not answer.
const SETUP_RETRY_MS: u64 = 5_000;

/// BOS's own data; what it knows of nodes is in the nodes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Bos {
    down: bool,
    templates: BTreeMap<String, TemplateSpec>,
    sessions: BTreeMap<u32, Entry>,
    /// The session of each name. A number is never used again, a name may be.
    numbers: BTreeMap<String, u32>,
    last: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    session: Session,
    /// What the session took, before it shows.
    taken: BTreeSet<Xname>,
    /// What it took and left out of each boot set.
    #[serde(default)]
    sets: BTreeMap<String, SetNodes>,
    /// The status at the end.
    frozen: Option<ExtendedStatus>,
}

/// The nodes of one boot set in a session.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct SetNodes {
    taken: BTreeSet<Xname>,
    /// Named, and not booted: disabled, locked, of another architecture.
    excluded: BTreeSet<Xname>,
}

/// How the nodes of one boot set stand, as version 1 of the API tells: by phase and category.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SetStatus {
    /// For each of `shutdown`, `boot` and `configure`: the nodes of `not_started`, `in_progress`, `succeeded`, `failed`
    /// and `excluded`.
    pub phases: BTreeMap<&'static str, BTreeMap<&'static str, BTreeSet<Xname>>>,
    /// Nodes by what went wrong with them.
    pub errors: BTreeMap<String, BTreeSet<Xname>>,
}

impl Bos {
    pub(super) fn new(templates: &BTreeMap<TemplateName, TemplateSpec>) -> Self {
        Bos {
            down: false,
            templates: templates.iter().map(|(name, spec)| (name.to_string(), spec.clone())).collect(),
            sessions: BTreeMap::new(),
            numbers: BTreeMap::new(),
            last: 0,
        }
    }
}

impl Cluster {
    /// Stops or starts BOS's store. While it is down, every call here fails with [`BosError::StoreDown`]; what is
    /// under way goes on.
    pub fn set_bos_down(&mut self, down: bool) {
        self.bos.down = down;
    }

    fn store(&self) -> Result<&Bos, BosError> {
        if self.bos.down { Err(BosError::StoreDown) } else { Ok(&self.bos) }
    }

    /// The names of all session templates, in order.
    ///
    /// # Errors
    /// Only [`BosError::StoreDown`].
    pub fn boot_templates(&self) -> Result<Vec<&str>, BosError> {
        Ok(self.store()?.templates.keys().map(String::as_str).collect())
    }

    /// One session template.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn boot_template(&self, name: &str) -> Result<&TemplateSpec, BosError> {
        self.store()?.templates.get(name).ok_or_else(|| BosError::NoSuchTemplate(name.to_owned()))
    }

    /// Creates or replaces a session template.
    ///
    /// # Errors
    /// When the name is not one.
    pub fn put_boot_template(&mut self, name: &str, template: TemplateSpec) -> Result<(), BosError> {
        check_name(name)?;
        self.store()?;
        self.bos.templates.insert(name.to_owned(), template);
        Ok(())
    }

    /// Deletes a session template.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn delete_boot_template(&mut self, name: &str) -> Result<(), BosError> {
        self.boot_template(name)?;
        self.bos.templates.remove(name);
        Ok(())
    }

    /// The number of the next session: no two have the same, not even one that is forgotten.
    pub fn next_boot_session(&self) -> u32 {
        self.bos.last + 1
    }

    /// `POST /sessions`
    ///
    /// # Errors
    /// As each [`BosError`] says.
    pub fn create_boot_session(&mut self, request: NewSession) -> Result<&Session, BosError> {
        check_name(&request.name)?;
        if request.limit.chars().count() > LIMIT_MAX {
            return Err(BosError::BadRequest("limit is too long".to_owned()));
        }
        let bos = self.store()?;
        match bos.templates.get(&request.template_name) {
            None => return Err(BosError::UnknownTemplate(request.template_name)),
            Some(TemplateSpec { broken: Some(why), .. }) => {
                return Err(BosError::BrokenTemplate(why.clone()));
            }
            Some(_) => {}
        }
        if bos.numbers.contains_key(&request.name) {
            return Err(BosError::SessionExists(request.name));
        }
        self.bos.last += 1;
        let number = self.bos.last;
        let pending = self.draws.boots.span(self.config.bos.pending);
        self.plan(pending, Event::SessionResolves(number));
        self.bos.numbers.insert(request.name.clone(), number);
        let session = Session {
            request,
            status: SessionStatus::Pending,
            start_time: self.now,
            end_time: None,
            error: None,
            components: BTreeSet::new(),
        };
        let entry = Entry { session, taken: BTreeSet::new(), sets: BTreeMap::new(), frozen: None };
        self.tell_reboot_asked(&entry.session.request);
        Ok(&self.bos.sessions.entry(number).insert_entry(entry).into_mut().session)
    }

    /// Tells the witness which nodes are to be rebooted, and how fresh the knowledge is that lies behind it.
    fn tell_reboot_asked(&mut self, request: &NewSession) {
        for xname in request.limit.split(',').filter_map(exact_xname) {
            let looked = self.by_xname.get(&xname).and_then(|&ix| self.node(ix).looked.earlier());
            self.tell(What::RebootAsked { xname, boot_session: request.name.clone(), looked });
        }
    }

    /// All sessions, by name.
    ///
    /// # Errors
    /// Only [`BosError::StoreDown`].
    pub fn boot_sessions(&self) -> Result<Vec<&Session>, BosError> {
        let bos = self.store()?;
        let entries = bos.numbers.values().filter_map(|number| bos.sessions.get(number));
        Ok(entries.map(|entry| &entry.session).collect())
    }

    /// `GET /sessions/N`
    ///
    /// # Errors
    /// When there is none of this name, or none any more.
    pub fn boot_session(&self, name: &str) -> Result<&Session, BosError> {
        self.entry(name).map(|(_, entry)| &entry.session)
    }

    fn entry(&self, name: &str) -> Result<(u32, &Entry), BosError> {
        let bos = self.store()?;
        let entry = bos.numbers.get(name).and_then(|number| Some((*number, bos.sessions.get(number)?)));
        entry.ok_or_else(|| BosError::NoSuchSession(name.to_owned()))
    }

    /// `GET /sessions/N/status`
    ///
    /// # Errors
    /// As [`boot_session`](Self::boot_session).
    pub fn boot_session_status(&self, name: &str) -> Result<ExtendedStatus, BosError> {
        let (number, entry) = self.entry(name)?;
        Ok(entry.frozen.clone().unwrap_or_else(|| self.totals(number, entry)))
    }

    /// `DELETE /sessions/N`: forgets the session and **stops nothing**.
    ///
    /// # Errors
    /// As [`boot_session`](Self::boot_session).
    pub fn delete_boot_session(&mut self, name: &str) -> Result<(), BosError> {
        let (number, _) = self.entry(name)?;
        self.session_forgotten(number);
        Ok(())
    }

    /// All components, in the order of their xnames.
    ///
    /// # Errors
    /// Only [`BosError::StoreDown`].
    pub fn boot_components(&self) -> Result<Vec<BootComponent>, BosError> {
        self.store()?;
        let nodes = self.by_xname.values().map(|&ix| self.node(ix));
        Ok(nodes.filter(|node| node.spec.in_hsm).map(|node| node.to_bos()).collect())
    }

    /// The components that a session still has: `GET /components?session=N`. None when there is no such session.
    ///
    /// # Errors
    /// Only [`BosError::StoreDown`].
    pub fn boot_components_of(&self, session: &str) -> Result<Vec<BootComponent>, BosError> {
        match self.entry(session) {
            Ok((number, entry)) => Ok(self.owned(number, entry).map(|ix| self.node(ix).to_bos()).collect()),
            // Its components outlive a session that was deleted.
            Err(BosError::NoSuchSession(_)) => {
                let mut components = self.boot_components()?;
                components.retain(|component| component.session == session);
                Ok(components)
            }
            Err(error) => Err(error),
        }
    }

    /// One component.
    ///
    /// # Errors
    /// When there is none.
    pub fn boot_component(&self, xname: Xname) -> Result<BootComponent, BosError> {
        self.component_ix(xname).map(|ix| self.node(ix).to_bos())
    }

    pub(super) fn component_ix(&self, xname: Xname) -> Result<Ix, BosError> {
        self.store()?;
        let ix = self.by_xname.get(&xname).copied().filter(|&ix| self.node(ix).spec.in_hsm);
        ix.ok_or_else(|| BosError::NoSuchComponent(xname.to_string()))
    }

    /// The nodes that a session took and still has.
    fn owned(&self, number: u32, entry: &Entry) -> impl Iterator<Item = Ix> {
        let taken = entry.taken.iter().filter_map(|xname| self.by_xname.get(xname).copied());
        taken.filter(move |&ix| self.node(ix).component.owner == number)
    }

    fn totals(&self, number: u32, entry: &Entry) -> ExtendedStatus {
        let mut totals = ExtendedStatus::default();
        for component in self.owned(number, entry).map(|ix| self.node(ix).to_bos()) {
            totals.managed += 1;
            match component.phase {
                "powering_on" => totals.powering_on += 1,
                "powering_off" => totals.powering_off += 1,
                "configuring" => totals.configuring += 1,
                _ => {}
            }
            totals.complete += usize::from(!component.enabled);
            match component.status {
                "stable" if component.error.is_empty() => totals.successful += 1,
                "failed" => totals.failed += 1,
                _ => {}
            }
            if !component.error.is_empty() {
                totals.errors.entry(component.error).or_default().push(component.xname);
            }
        }
        totals
    }

    /// Works out the nodes of a session and takes them.
    pub(super) fn session_resolves(&mut self, number: u32) -> bool {
        let Some(entry) = self.bos.sessions.get(&number) else { return false };
        if !self.hsm_ready() {
            self.plan(SETUP_RETRY_MS, Event::SessionResolves(number));
            return true;
        }
        let request = entry.session.request.clone();
        match self.resolve(&request) {
            Err(error) => self.end_session(number, Some(error)),
            Ok((nodes, sets)) => {
                if !request.stage {
                    for xname in &nodes {
                        if let Some(&ix) = self.by_xname.get(xname) {
                            self.take_component(ix, number, &request);
                        }
                    }
                }
                if let Some(entry) = self.bos.sessions.get_mut(&number) {
                    entry.taken = nodes;
                    entry.sets = sets;
                }
                let setup = self.draws.boots.span(self.config.bos.setup);
                self.plan(setup, Event::SessionRuns(number));
            }
        }
        true
    }

    fn resolve(&self, request: &NewSession) -> Result<(BTreeSet<Xname>, BTreeMap<String, SetNodes>), String> {
        let template = self.bos.templates.get(&request.template_name);
        let template =
            template.ok_or_else(|| format!("Session Template Name invalid: {}", request.template_name))?;
        let mut nodes = BTreeSet::new();
        let mut sets = BTreeMap::new();
        for (name, boot_set) in &template.boot_sets {
            let named = self.named_by(boot_set);
            let may_boot = |xname: &Xname| self.may_boot(*xname, boot_set, request.include_disabled);
            let (taken, excluded) = named.into_iter().partition(may_boot);
            sets.insert(name.clone(), SetNodes { taken, excluded });
        }
        nodes.extend(sets.values().flat_map(|set| &set.taken).copied());
        let nodes = narrow(&request.limit, nodes, |name| self.inventory(name))?;
        if nodes.is_empty() {
            return Err("No nodes were found to act upon.".to_owned());
        }
        for set in sets.values_mut() {
            set.taken.retain(|xname| nodes.contains(xname));
            let excluded = std::mem::take(&mut set.excluded);
            set.excluded = narrow(&request.limit, excluded, |name| self.inventory(name))?;
        }
        Ok((nodes, sets))
    }

    /// `GET /session/N/status`, and that of each boot set, of version 1: nothing before the session runs.
    ///
    /// # Errors
    /// As [`boot_session`](Self::boot_session).
    pub fn boot_set_statuses(&self, name: &str) -> Result<BTreeMap<String, SetStatus>, BosError> {
        let (number, entry) = self.entry(name)?;
        if entry.session.status == SessionStatus::Pending {
            return Ok(BTreeMap::new());
        }
        let status = |set: &SetNodes| {
            let mut status = SetStatus::default();
            let mut put = |categories: [&'static str; 3], xname: Xname| {
                for (phase, category) in ["shutdown", "boot", "configure"].into_iter().zip(categories) {
                    status.phases.entry(phase).or_default().entry(category).or_default().insert(xname);
                }
            };
            for &xname in &set.excluded {
                put(["excluded"; 3], xname);
            }
            for &xname in &set.taken {
                let Some(&ix) = self.by_xname.get(&xname) else { continue };
                let node = self.node(ix);
                let component = node.to_bos();
                // Of a node that another session took over nothing more is heard.
                let owned = node.component.owner == number;
                put(
                    if owned { categories(&component) } else { ["succeeded", "in_progress", "not_started"] },
                    xname,
                );
                if owned && !component.error.is_empty() {
                    status.errors.entry(component.error).or_default().insert(xname);
                }
            }
            status
        };
        Ok(entry.sets.iter().map(|(name, set)| (name.clone(), status(set))).collect())
    }

    fn named_by(&self, boot_set: &BootSet) -> BTreeSet<Xname> {
        let listed = boot_set.node_list.iter().filter_map(|text| exact_xname(text));
        let names = boot_set.node_groups.iter().chain(&boot_set.node_roles_groups);
        let grouped = names.filter_map(|name| self.inventory(name)).flatten();
        listed.chain(grouped).collect()
    }

    /// The nodes of an HSM group or role.
    fn inventory(&self, name: &str) -> Option<BTreeSet<Xname>> {
        if let Ok(group) = self.group(name)
            && group.label == name
        {
            return Some(group.members.clone());
        }
        let nodes = self.nodes.iter().filter(|node| node.spec.in_hsm && node.spec.role == name);
        let nodes: BTreeSet<_> = nodes.map(|node| node.spec.xname).collect();
        (!nodes.is_empty()).then_some(nodes)
    }

    fn may_boot(&self, xname: Xname, boot_set: &BootSet, include_disabled: bool) -> bool {
        let Some(&ix) = self.by_xname.get(&xname) else { return false };
        let spec = &self.node(ix).spec;
        // BOS takes nodes of unknown architecture for x86.
        let arch = if spec.arch == "Unknown" { "X86" } else { &spec.arch };
        spec.in_hsm
            && (spec.enabled || include_disabled)
            && !(spec.locked && self.config.bos.respects_locks)
            && arch == boot_set.arch
    }

    pub(super) fn session_runs(&mut self, number: u32) -> bool {
        let Some(entry) = self.bos.sessions.get_mut(&number) else { return false };
        entry.session.status = SessionStatus::Running;
        entry.session.components = entry.taken.clone();
        self.check_session(number);
        true
    }

    /// Completes a session that has nothing left to wait for.
    pub(super) fn check_session(&mut self, number: u32) {
        let Some(entry) = self.bos.sessions.get(&number) else { return };
        if entry.session.status == SessionStatus::Running
            && !entry.session.request.stage
            && !self.owned(number, entry).any(|ix| self.node(ix).component.enabled)
        {
            self.end_session(number, None);
        }
    }

    fn end_session(&mut self, number: u32, error: Option<String>) {
        let Some(entry) = self.bos.sessions.get(&number) else { return };
        let totals = self.totals(number, entry);
        let now = self.now;
        let Some(entry) = self.bos.sessions.get_mut(&number) else { return };
        entry.frozen = Some(totals);
        entry.session.status = SessionStatus::Complete;
        entry.session.end_time = Some(now);
        entry.session.error = error;
        let forgotten = entry.session.start_time + self.config.bos.forget_ms;
        self.queue.plan(forgotten.max(now), Event::SessionForgotten(number));
    }

    pub(super) fn session_forgotten(&mut self, number: u32) -> bool {
        let Some(entry) = self.bos.sessions.remove(&number) else { return false };
        self.bos.numbers.remove(&entry.session.request.name);
        true
    }
}

/// Where a node stands in the phases of version 1.
fn categories(component: &BootComponent) -> [&'static str; 3] {
    match (component.status, component.phase) {
        ("stable", _) => ["succeeded"; 3],
        ("failed", _) => ["succeeded", "failed", "not_started"],
        ("on_hold", _) if !component.enabled => ["failed", "not_started", "not_started"],
        ("on_hold", _) => ["not_started"; 3],
        (_, "powering_off") => ["in_progress", "not_started", "not_started"],
        (_, "configuring") => ["succeeded", "succeeded", "in_progress"],
        _ => ["succeeded", "in_progress", "not_started"],
    }
}

fn check_name(name: &str) -> Result<(), BosError> {
    // The rule is that of the core's type; the words are those of the schema that BOS checks with.
    TemplateName::new(name).map(drop).map_err(|_| {
        let pattern = "^[a-zA-Z0-9](?:[-._a-zA-Z0-9]{0,125}[a-zA-Z0-9])?$";
        BosError::BadRequest(format!("'{name}' does not match '{pattern}' - 'name'"))
    })
}
