//! The Boot Orchestration Service, API v1, of older systems.
//!
//! # Guarantees
//!
//! - What is needed to ask once of a BOS that takes no names of ours, as [`crus_core::boots`] tells: a reboot is asked for
//!   only with the list of the sessions that there were before; the id in the reply is handed on; a session whose id is
//!   not known is looked for among those that began since.
//! - An answer to a request for a reboot counts as a refusal only if its code says that nothing was done. All others leave
//!   open what was.
//! - What a node came to is read from the status of each boot set alone. The session's own `error_count` stays 0 whatever
//!   happens, and its agent ends well even when it failed.
//! - No phase is asked for by its name: a name that BOS does not know left the connection hanging.
//!
//! # Caveats
//!
//! - Some versions never say that a session is `complete`. Nodes that got somewhere are told of all the same; for those
//!   that did not the time-out of the caller decides.
//! - No status tells whether the template configures its nodes: a session that is complete, and shows no sign of having begun
//!   or of having broken off before, is taken not to. So a node counts as booted, and is not configured, if the agent died
//!   right between: that the template's `enable_cfs` alone would tell.
//! - A boot set whose status, or whose phases, are not there yet may have any nodes: as long as one is missing, nobody is
//!   said to be left out. The status begins with all nodes that the limit has left of the set; one that lists none has
//!   none.
//! - A younger session that cannot be read may be any. It is looked at again and again, and does not keep others from being
//!   read.
//! - There are no tenants: BOS refuses the header.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use crus_core::Xname;
use crus_core::boots::{self, BootIds, Candidate, Found, IDS_MAX};
use crus_core::names::BootHandle;
use crus_core::ports::{
    BootKey, BootNode, BootNodeState, BootSession, BootStatus, Bos, Peer, PortError, RebootRequest,
    TemplateKey,
};
use reqwest::Method;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::limit;
use super::version::{explain, is_missing};
use crate::http::{Access, ConfigError, Http, PeerConfig, Reply, clean};

const VERSION: u64 = 1;
/// The longest `limit` that is sent: version 1 sets none, and hands it on in a Kubernetes job, which takes a megabyte.
const LIMIT_MAX_CHARS: usize = 262_144;
/// A template has a handful of boot sets: who answers with more does not mean it.
const BOOT_SETS_MAX: usize = 1000;
/// Answers of these codes say that nothing was done.
const REFUSALS: [u16; 15] = [400, 401, 403, 404, 405, 406, 409, 410, 411, 413, 414, 415, 422, 429, 431];
/// Of a session that was asked for through version 2.
const OTHER_API: &str =
    "it was asked for through version 2 of the API (option bos_api), and cannot be found through version 1";
/// Of a session for a tenant.
const NO_TENANTS: &str = "version 1 of its API knows no tenants: upgrade without one, or through version 2";

/// BOS v1 over HTTP.
#[derive(Debug)]
pub struct BosV1Client {
    http: Http,
}

impl BosV1Client {
    /// The BOS whose base URL ends in `/v1`. Nothing is asked of it yet.
    ///
    /// # Errors
    /// When the settings cannot work, whatever BOS says.
    pub fn new(config: PeerConfig) -> Result<Self, ConfigError> {
        Ok(BosV1Client { http: Http::new(Peer::Bos, config)? })
    }

    async fn get(&self, path: &[&str]) -> Result<Reply, PortError> {
        self.http.send(Access::Read, self.http.request(Method::GET, path)).await
    }

    /// A session without its nodes; `None` when there is none.
    async fn head(&self, id: &BootHandle) -> Result<Option<SessionHead>, PortError> {
        let reply = self.get(&["session", id.as_str()]).await?;
        if is_missing(&reply) {
            return Ok(None);
        }
        reply.json().map(Some)
    }

    /// What each boot set of a session came to, as far as BOS knows; and whether that is all of them.
    async fn boot_sets(&self, id: &BootHandle) -> Result<(Vec<BootSet>, bool), PortError> {
        let reply = self.get(&["session", id.as_str(), "status"]).await?;
        if is_missing(&reply) {
            return Ok((Vec::new(), false));
        }
        let status: SessionStatus = reply.json()?;
        let names = status.boot_sets.unwrap_or_default();
        // These become paths.
        let odd = |name: &String| name.is_empty() || name.len() > 253 || matches!(name.as_str(), "." | "..");
        if names.len() > BOOT_SETS_MAX || names.iter().any(odd) {
            return Err(reply.unusable("the names of its boot sets cannot be asked for"));
        }
        let mut sets = Vec::new();
        for name in &names {
            let reply = self.get(&["session", id.as_str(), "status", name]).await?;
            if !is_missing(&reply) {
                sets.push(reply.json::<BootSet>()?);
            }
        }
        let begun = sets.iter().filter(|set| !set.phases.is_empty()).count();
        let whole = !names.is_empty() && begun == names.len();
        Ok((sets, whole))
    }

    /// A session as it is now.
    async fn show(&self, id: &BootHandle) -> Result<Option<BootSession>, PortError> {
        // The session first, its nodes after it: what is complete does not move any more.
        let Some(head) = self.head(id).await? else { return Ok(None) };
        let (sets, whole) = self.boot_sets(id).await?;
        Ok(Some(session(id, head.is_complete(), &sets, whole)))
    }

    /// What is known of a session that may be the one that was asked for.
    async fn look_at(&self, candidate: &mut Candidate, request: &RebootRequest) -> Result<(), PortError> {
        let id = candidate.id.clone();
        // It was there a moment ago, and may be anything.
        let Some(head) = self.head(&id).await? else { return Ok(()) };
        let complete = head.is_complete();
        candidate.reboots = head.operation.map(|operation| operation.eq_ignore_ascii_case("reboot"));
        candidate.template = head.template_name.or(head.template_uuid).and_then(|name| name.parse().ok());
        candidate.limit = head.limit.filter(|limit| !limit.is_empty());
        if candidate.template.as_ref().is_some_and(|template| *template != request.template) {
            return Ok(());
        }
        let (sets, whole) = self.boot_sets(&id).await?;
        if whole {
            candidate.reboots = candidate.reboots.or_else(|| reboots(&sets));
        }
        if whole || complete {
            candidate.nodes = fold(&sets, complete).into_keys().collect();
        }
        Ok(())
    }
}

#[async_trait]
impl Bos for BosV1Client {
    async fn has_template(&self, template: &TemplateKey) -> Result<bool, PortError> {
        if template.tenant.is_some() {
            return Err(refused(NO_TENANTS));
        }
        let reply = self.get(&["sessiontemplate", template.name.as_str()]).await?;
        if is_missing(&reply) {
            return Ok(false);
        }
        if reply.status() == 404 {
            return Err(explain(&self.http, VERSION, &reply).await);
        }
        reply.done().map(|()| true)
    }

    async fn boot_ids(&self) -> Result<BootIds, PortError> {
        let reply = self.get(&["session"]).await?;
        if reply.status() == 404 {
            return Err(explain(&self.http, VERSION, &reply).await);
        }
        let listed: Vec<Listed> = reply.json()?;
        if listed.len() > IDS_MAX {
            let (count, max) = (listed.len(), IDS_MAX);
            return Err(refused(&format!(
                "it holds {count} sessions, more than the {max} that can be told apart: delete old ones"
            )));
        }
        // One that were missing here could pass for younger than it is, or for none at all.
        let ids: Option<BootIds> = listed.into_iter().map(Listed::id).collect();
        ids.ok_or_else(|| reply.unusable("its list of sessions holds something that is no id"))
    }

    async fn reboot(&self, request: &RebootRequest) -> Result<Option<BootHandle>, PortError> {
        if request.tenant.is_some() {
            return Err(refused(NO_TENANTS));
        }
        if request.nodes.is_empty() {
            return Err(refused("a reboot without nodes would be one of every node of the template"));
        }
        if request.before.is_none() {
            return Err(refused("what there was before is not noted, so that the reply must not be lost"));
        }
        let limit = limit(&request.nodes);
        if limit.len() > LIMIT_MAX_CHARS {
            return Err(refused(&format!(
                "it takes at most {LIMIT_MAX_CHARS} characters of node names at once"
            )));
        }
        let body = json!({"operation": "reboot", "templateName": request.template.as_str(), "limit": limit});
        let request = self.http.request(Method::POST, &["session"]).json(&body);
        let reply = self.http.send(Access::Write, request).await?;
        if reply.status() >= 400 {
            let refusal = reply.unexpected();
            return Err(match (REFUSALS.contains(&reply.status()), refusal) {
                (false, PortError::Refused { peer, detail }) => PortError::MayHaveActed { peer, detail },
                (_, error) => error,
            });
        }
        let created: Created = reply.json()?;
        let id =
            created.id().ok_or_else(|| reply.unusable("its answer does not say which session it began"))?;
        Ok(Some(id))
    }

    async fn session(&self, key: &BootKey) -> Result<Option<BootSession>, PortError> {
        if let Some(id) = &key.handle {
            return self.show(id).await;
        }
        let Some(before) = &key.request.before else {
            return Ok(Some(BootSession::unclear(OTHER_API.to_owned())));
        };
        let ids = self.boot_ids().await?;
        let mut candidates = Vec::new();
        let mut unread = None;
        for id in ids.since(before) {
            let mut candidate = Candidate {
                id: id.clone(),
                reboots: None,
                template: None,
                limit: None,
                nodes: BTreeSet::new(),
            };
            if let Err(error) = self.look_at(&mut candidate, &key.request).await {
                unread = Some(error);
            }
            candidates.push(candidate);
        }
        // That one of them cannot be read says something of it only if BOS answers otherwise.
        if let Some(error) = unread
            && self.boot_ids().await.is_err()
        {
            return Err(error);
        }
        match boots::find(&key.request, &candidates) {
            Found::This(id) => self.show(&id).await,
            found => Ok(found.session(|_| None)),
        }
    }
}

fn refused(detail: &str) -> PortError {
    PortError::Refused { peer: Peer::Bos, detail: detail.to_owned() }
}

/// One of `GET /session`: its id, whatever the documentation says.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listed {
    Id(String),
    Session(Created),
}

impl Listed {
    fn id(self) -> Option<BootHandle> {
        match self {
            Listed::Id(id) => id.parse().ok(),
            Listed::Session(session) => session.id(),
        }
    }
}

/// The answer to `POST /session`.
#[derive(Deserialize)]
struct Created {
    job: Option<String>,
    #[serde(default, deserialize_with = "null_is_empty")]
    links: Vec<Link>,
}

#[derive(Deserialize)]
struct Link {
    href: Option<String>,
    rel: Option<String>,
}

impl Created {
    /// The id that it was given: the end of the path of its link, or of the name of its job.
    fn id(&self) -> Option<BootHandle> {
        let hrefs = self
            .links
            .iter()
            .filter(|link| link.rel.as_deref().is_none_or(|rel| rel == "session" || rel == "self"));
        let linked = hrefs.filter_map(|link| link.href.as_deref()?.rsplit_once("/session/"));
        let job = self.job.as_deref().and_then(|job| job.strip_prefix("boa-"));
        linked.map(|(_, id)| id.trim_end_matches('/')).chain(job).find_map(|id| id.parse().ok())
    }
}

/// `GET /session/{id}`. What is not there is not known.
#[derive(Deserialize)]
struct SessionHead {
    operation: Option<String>,
    #[serde(rename = "templateName")]
    template_name: Option<String>,
    #[serde(rename = "templateUuid")]
    template_uuid: Option<String>,
    limit: Option<String>,
    complete: Option<Value>,
}

impl SessionHead {
    fn is_complete(&self) -> bool {
        self.complete.as_ref().is_some_and(is_true)
    }
}

/// Versions differ in whether they write a word or a text.
fn is_true(value: &Value) -> bool {
    *value == Value::Bool(true) || value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true"))
}

/// `GET /session/{id}/status`
#[derive(Deserialize)]
struct SessionStatus {
    boot_sets: Option<Vec<String>>,
}

/// `GET /session/{id}/status/{boot set}`. What has no name says nothing.
#[derive(Debug, Deserialize)]
struct BootSet {
    #[serde(default, deserialize_with = "null_is_empty")]
    phases: Vec<Phase>,
}

#[derive(Debug, Deserialize)]
struct Phase {
    #[serde(default, deserialize_with = "null_is_empty")]
    name: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    categories: Vec<CategoryNodes>,
    #[serde(default, deserialize_with = "null_is_empty")]
    errors: BTreeMap<String, Option<Vec<String>>>,
}

#[derive(Debug, Deserialize)]
struct CategoryNodes {
    #[serde(default, deserialize_with = "null_is_empty")]
    name: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    node_list: Vec<String>,
}

/// BOS writes `null` where it has nothing.
fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(value: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(value).map(Option::unwrap_or_default)
}

impl BootSet {
    fn has_phase(&self, name: &str) -> bool {
        self.phases.iter().any(|phase| phase.name.eq_ignore_ascii_case(name))
    }
}

/// Whether the operation of a session is a reboot, as its boot sets tell: each has the phases of the operation from its
/// beginning, and a reboot is the only one that both shuts down and boots. `None` when they do not tell.
fn reboots(sets: &[BootSet]) -> Option<bool> {
    let known = sets.iter().any(|set| PHASES.iter().any(|phase| set.has_phase(phase)));
    known.then(|| sets.iter().any(|set| set.has_phase(PHASES[SHUTDOWN]) && set.has_phase(PHASES[BOOT])))
}

/// In order: of a node that is moved from one list to another while we look, the graver one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Category {
    Succeeded,
    NotStarted,
    InProgress,
    Excluded,
    Failed,
}

impl Category {
    fn new(name: &str) -> Option<Category> {
        Some(match name.to_ascii_lowercase().as_str() {
            "succeeded" => Category::Succeeded,
            "not_started" => Category::NotStarted,
            "in_progress" => Category::InProgress,
            "excluded" => Category::Excluded,
            "failed" => Category::Failed,
            _ => return None,
        })
    }

    fn word(self) -> &'static str {
        match self {
            Category::Succeeded => "succeeded",
            Category::NotStarted => "not_started",
            Category::InProgress => "in_progress",
            Category::Excluded => "excluded",
            Category::Failed => "failed",
        }
    }
}

/// The phases of a reboot, in order.
const PHASES: [&str; 3] = ["shutdown", "boot", "configure"];
const SHUTDOWN: usize = 0;
const BOOT: usize = 1;
const CONFIGURE: usize = 2;

/// What a boot set knows of a node: its category in each phase, and what went wrong.
#[derive(Debug, Default)]
struct Story {
    categories: [Option<Category>; 3],
    error: Option<String>,
    /// Whether the set configures nodes.
    configures: bool,
}

impl BootSet {
    /// Its nodes, those that were left out included. What is no node's name is none of those we asked for.
    fn stories(&self) -> BTreeMap<Xname, Story> {
        let mut nodes: BTreeMap<Xname, Story> = BTreeMap::new();
        let mut configures = false;
        for phase in &self.phases {
            let Some(place) = PHASES.iter().position(|name| phase.name.eq_ignore_ascii_case(name)) else {
                continue;
            };
            for category in &phase.categories {
                let Some(which) = Category::new(&category.name) else { continue };
                for xname in category.node_list.iter().filter_map(|name| Xname::new(name).ok()) {
                    let known = &mut nodes.entry(xname).or_default().categories[place];
                    *known = (*known).max(Some(which));
                    configures |= place == CONFIGURE;
                }
            }
            for (error, names) in &phase.errors {
                for xname in names.iter().flatten().filter_map(|name| Xname::new(name).ok()) {
                    if let Some(story) = nodes.get_mut(&xname) {
                        story.error.get_or_insert_with(|| clean(error));
                    }
                }
            }
        }
        for story in nodes.values_mut() {
            story.configures = configures;
        }
        nodes
    }
}

/// How the nodes of all boot sets stand; `None` of one that all sets that name it have left out. Of a node in several the
/// set that is worst off counts. `complete`: whether the session is, so that nothing begins any more.
fn fold(sets: &[BootSet], complete: bool) -> BTreeMap<Xname, Option<BootNodeState>> {
    let stories: Vec<(Xname, Story)> = sets.iter().flat_map(BootSet::stories).collect();
    // A template configures the nodes of all its sets or of none, and what ended one of them may have ended the others.
    let unconfigured = complete && stories.iter().all(|(_, story)| story.may_end_unconfigured());
    let mut nodes: BTreeMap<Xname, Option<BootNodeState>> = BTreeMap::new();
    for (xname, story) in stories {
        let (here, known) = (story.state(unconfigured), nodes.entry(xname).or_default());
        if gravity(here.as_ref()) > gravity(known.as_ref()) {
            *known = here;
        }
    }
    nodes
}

fn gravity(state: Option<&BootNodeState>) -> u8 {
    match state {
        None => 0,
        Some(BootNodeState::Succeeded) => 1,
        Some(BootNodeState::Working(_)) => 2,
        Some(BootNodeState::Stopped(_)) => 3,
        Some(BootNodeState::Failed(_)) => 4,
    }
}

impl Story {
    /// Whether the set has left it out. One that was off already may be left out of its shutdown, and boots all the same.
    fn is_left_out(&self) -> bool {
        match self.categories[BOOT] {
            None => self.categories.contains(&Some(Category::Excluded)),
            Some(category) => category == Category::Excluded,
        }
    }

    /// Whether the session of this node may be one that leaves all its nodes unconfigured, once it is over: the node shows
    /// neither that one is configured, nor that the session broke off before.
    fn may_end_unconfigured(&self) -> bool {
        let [_, boot, configure] = self.categories;
        // What failed was told, if not always by its category: nothing broke off there.
        let has_failed = self.error.is_some() || self.categories.contains(&Some(Category::Failed));
        let broke_off = matches!(boot, Some(Category::NotStarted | Category::InProgress)) && !has_failed;
        let begun = matches!(configure, Some(Category::InProgress | Category::Succeeded | Category::Failed));
        self.is_left_out() || !(begun || broke_off)
    }

    /// How the node stands; `None` when it was left out. `unconfigured`: whether the session is over, and its template leaves
    /// its nodes unconfigured: then that phase is shown all the same, and never begins.
    fn state(&self, unconfigured: bool) -> Option<BootNodeState> {
        let [_, boot, configure] = self.categories;
        let phases = || PHASES.iter().zip(self.categories);
        if let Some((phase, _)) = phases().find(|(_, category)| *category == Some(Category::Failed)) {
            let error = self.error.clone().filter(|error| !error.is_empty());
            return Some(BootNodeState::Failed(error.unwrap_or_else(|| format!("failed in phase {phase}"))));
        }
        if self.is_left_out() {
            return None;
        }
        if configure == Some(Category::Excluded) {
            return Some(BootNodeState::Stopped(format!("left out of phase {}", PHASES[CONFIGURE])));
        }
        let booted = boot == Some(Category::Succeeded);
        let configured = match configure {
            Some(Category::Succeeded) => true,
            Some(Category::NotStarted) => unconfigured,
            None => !self.configures,
            Some(_) => false,
        };
        if booted && configured {
            return Some(BootNodeState::Succeeded);
        }
        let waits = phases()
            .find(|(_, category)| matches!(category, Some(Category::NotStarted | Category::InProgress)));
        let next = if booted { PHASES[CONFIGURE] } else { PHASES[BOOT] };
        Some(BootNodeState::Working(match waits {
            Some((phase, category)) => {
                format!("{phase} {}", category.unwrap_or(Category::NotStarted).word())
            }
            None => format!("{next} {}", Category::NotStarted.word()),
        }))
    }
}

/// Of a session that will boot no node.
const ALL_LEFT_OUT: &str = "it has left out each of its nodes";

/// A session as its boot sets tell; `whole`: whether these are all.
fn session(id: &BootHandle, complete: bool, sets: &[BootSet], whole: bool) -> BootSession {
    let states = fold(sets, complete);
    let known = whole || complete;
    let all_left_out = known && !states.is_empty() && states.values().all(Option::is_none);
    let nodes: Vec<BootNode> =
        states.into_iter().filter_map(|(xname, state)| Some(BootNode { xname, state: state? })).collect();
    let status = match complete || all_left_out {
        true => BootStatus::Complete,
        false if nodes.is_empty() => BootStatus::Pending,
        false => BootStatus::Running,
    };
    let members = if known { nodes.iter().map(|node| node.xname).collect() } else { BTreeSet::new() };
    let error = all_left_out.then(|| ALL_LEFT_OUT.to_owned());
    BootSession { handle: Some(id.clone()), status, error, members, nodes }
}

#[cfg(test)]
mod tests;
