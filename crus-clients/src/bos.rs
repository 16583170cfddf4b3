//! The Boot Orchestration Service, API v2: asks for reboots and follows them.
//!
//! BOS has no call that tells how the nodes of one session ended: each component (node) tells how it stands and
//! which session has it, and a session tells which nodes it took.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod v1;
mod version;

use std::collections::BTreeSet;

use async_trait::async_trait;
use crus_core::boots::BootIds;
use crus_core::names::{BootHandle, BootSessionName};
use crus_core::ports::{
    BootKey, BootNode, BootNodeState, BootSession, BootStatus, Bos, Peer, PortError, RebootRequest,
    TemplateKey,
};
use crus_core::{TenantName, Xname};
use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::json;

use self::version::{explain, is_missing};
use crate::http::{Access, ConfigError, Http, PeerConfig, Reply, clean};

const VERSION: u64 = 2;
/// The longest `limit` that BOS takes, in characters.
const LIMIT_MAX_CHARS: usize = 524_288;
/// More components than this are asked for page by page: some 1 MB of answer each.
const PAGE: usize = 1000;
/// A million nodes: whoever answers with more does not mean it.
const PAGES_MAX: usize = 1000;
/// In whose name a request is.
const TENANT_HEADER: &str = "Cray-Tenant-Name";
/// Of a session that was asked for through version 1.
const OTHER_API: &str =
    "it was asked for through version 1 of the API (option bos_api), and cannot be found through version 2";

/// BOS v2 over HTTP.
#[derive(Debug)]
pub struct BosClient {
    http: Http,
}

impl BosClient {
    /// The BOS whose base URL ends in `/v2`. Nothing is asked of it yet.
    ///
    /// # Errors
    /// When the settings cannot work, whatever BOS says.
    pub fn new(config: PeerConfig) -> Result<Self, ConfigError> {
        Ok(BosClient { http: Http::new(Peer::Bos, config)? })
    }

    /// A request for a tenant, if there is one: BOS shows each its own templates, sessions and components.
    fn request(&self, tenant: Option<&TenantName>, method: Method, path: &[&str]) -> RequestBuilder {
        let request = self.http.request(method, path);
        match tenant {
            Some(tenant) => request.header(TENANT_HEADER, tenant.as_str()),
            None => request,
        }
    }

    async fn get(&self, tenant: Option<&TenantName>, path: &[&str]) -> Result<Reply, PortError> {
        self.http.send(Access::Read, self.request(tenant, Method::GET, path)).await
    }

    /// The components that belong to a session that took so many.
    async fn components(
        &self,
        tenant: Option<&TenantName>,
        name: &BootSessionName,
        taken: usize,
    ) -> Result<Vec<Component>, PortError> {
        let request =
            || self.request(tenant, Method::GET, &["components"]).query(&[("session", name.as_str())]);
        if taken <= PAGE {
            return self.http.send(Access::Read, request()).await?.json();
        }
        let mut found: Vec<Component> = Vec::new();
        for _ in 0..PAGES_MAX {
            let mut page = request().query(&[("page_size", PAGE)]);
            let last = found.last().map(|component| component.id.clone());
            if let Some(last) = &last {
                page = page.query(&[("start_after_id", last)]);
            }
            let reply = self.http.send(Access::Read, page).await?;
            let page: Vec<Component> = reply.json()?;
            // A short page is not the last one for sure: nodes missing here would pass for taken over.
            let Some(end) = page.last() else { return Ok(found) };
            if last.is_some_and(|last| end.id <= last) {
                return Err(reply.unusable("its pages of components do not go on"));
            }
            found.extend(page);
        }
        let detail = format!("it shows more than {} components of one session", PAGE * PAGES_MAX);
        Err(PortError::Refused { peer: Peer::Bos, detail })
    }
}

#[async_trait]
impl Bos for BosClient {
    async fn has_template(&self, template: &TemplateKey) -> Result<bool, PortError> {
        let reply = self.get(template.tenant.as_ref(), &["sessiontemplates", template.name.as_str()]).await?;
        if is_missing(&reply) {
            return Ok(false);
        }
        if reply.status() == 404 {
            return Err(explain(&self.http, VERSION, &reply).await);
        }
        reply.done().map(|()| true)
    }

    async fn boot_ids(&self) -> Result<BootIds, PortError> {
        let detail = "version 2 of its API gives no ids to boot sessions: they have names".to_owned();
        Err(PortError::Refused { peer: Peer::Bos, detail })
    }

    async fn reboot(&self, request: &RebootRequest) -> Result<Option<BootHandle>, PortError> {
        let refused = |detail: String| Err(PortError::Refused { peer: Peer::Bos, detail });
        if request.nodes.is_empty() {
            return refused("a reboot without nodes would be one of every node of the template".to_owned());
        }
        let limit = limit(&request.nodes);
        if limit.len() > LIMIT_MAX_CHARS {
            return refused(format!("it takes at most {LIMIT_MAX_CHARS} characters of node names at once"));
        }
        let body = json!({
            "name": request.name.as_str(),
            "operation": "reboot",
            "template_name": request.template.as_str(),
            "limit": limit,
        });
        let tenant = request.tenant.as_ref();
        let request = self.request(tenant, Method::POST, &["sessions"]).json(&body);
        let reply = self.http.send(Access::Write, request).await?;
        if reply.says(409, "already exists") {
            return Ok(None);
        }
        reply.done().map(|()| None)
    }

    async fn session(&self, key: &BootKey) -> Result<Option<BootSession>, PortError> {
        if key.handle.is_some() || key.request.before.is_some() {
            return Ok(Some(BootSession::unclear(OTHER_API.to_owned())));
        }
        let (name, tenant) = (&key.request.name, key.request.tenant.as_ref());
        // The session first, its components after it. Read the other way round, a session that ends in between
        // would be complete with nodes that still work, and these would pass for failed. This way nodes are never
        // seen earlier than their session; at worst it still runs with all of them done, which the next look mends.
        let reply = self.get(tenant, &["sessions", name.as_str()]).await?;
        if is_missing(&reply) {
            let components = self.components(tenant, name, usize::MAX).await?;
            let nodes = components.into_iter().filter_map(|component| component.boot_node(name)).collect();
            return Ok(BootSession::of_nodes(nodes));
        }
        let session: Session = reply.json()?;
        let Some(status) = session.status() else {
            return Err(reply.unusable("its session has a status that is not known"));
        };
        let members = session.members();
        let nodes = match status {
            BootStatus::Pending => Vec::new(),
            BootStatus::Running | BootStatus::Complete | BootStatus::Unclear => {
                let components = self.components(tenant, name, members.len()).await?;
                components.into_iter().filter_map(|component| component.boot_node(name)).collect()
            }
        };
        Ok(Some(BootSession { handle: None, status, error: said(session.status.error), members, nodes }))
    }
}

/// The nodes, one by one. Without spaces: BOS would act on the first one alone, and report success.
fn limit(nodes: &[Xname]) -> String {
    nodes.iter().map(Xname::to_string).collect::<Vec<_>>().join(",")
}

/// What was said, when anything was.
fn said(text: Option<String>) -> Option<String> {
    text.map(|text| clean(&text)).filter(|text| !text.is_empty())
}

#[derive(Deserialize)]
struct Session {
    components: Option<String>,
    status: SessionStatus,
}

#[derive(Deserialize)]
struct SessionStatus {
    status: String,
    error: Option<String>,
}

impl Session {
    fn status(&self) -> Option<BootStatus> {
        match self.status.status.as_str() {
            "pending" => Some(BootStatus::Pending),
            "running" => Some(BootStatus::Running),
            "complete" => Some(BootStatus::Complete),
            _ => None,
        }
    }

    /// The nodes that it took. What is no node's name is none of those we asked for.
    fn members(&self) -> BTreeSet<Xname> {
        let ids = self.components.as_deref().unwrap_or_default().split(',');
        ids.filter_map(|id| Xname::new(id.trim()).ok()).collect()
    }
}

#[derive(Deserialize)]
struct Component {
    id: String,
    enabled: Option<bool>,
    session: Option<String>,
    error: Option<String>,
    status: Option<ComponentStatus>,
}

#[derive(Deserialize)]
struct ComponentStatus {
    status: Option<String>,
}

impl Component {
    /// How the node stands in this session; `None` when it is not this session's (any more).
    fn boot_node(self, session: &BootSessionName) -> Option<BootNode> {
        if self.session.as_deref() != Some(session.as_str()) {
            return None;
        }
        let xname = Xname::new(&self.id).ok()?;
        let status = said(self.status.and_then(|status| status.status));
        let status = status.unwrap_or_else(|| "unknown".to_owned());
        // What is not said to be let go is still BOS's.
        let let_go = self.enabled == Some(false);
        let state = match (status.as_str(), said(self.error)) {
            ("failed", error) => BootNodeState::Failed(error.unwrap_or(status)),
            _ if !let_go => BootNodeState::Working(status),
            ("stable", None) => BootNodeState::Succeeded,
            (_, Some(error)) => BootNodeState::Stopped(error),
            ("on_hold", None) => BootNodeState::Stopped(status),
            (_, None) => BootNodeState::Stopped("disabled in BOS while it was booting".to_owned()),
        };
        Some(BootNode { xname, state })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::json::any_json;

    fn name() -> BootSessionName {
        BootSessionName::new("crus-1").unwrap()
    }

    fn state(component: Value) -> Option<BootNodeState> {
        let component: Component = serde_json::from_value(component).unwrap();
        component.boot_node(&name()).map(|node| node.state)
    }

    fn component(status: &str, enabled: bool, error: &str) -> Value {
        json!({"id": "x1c0s0b0n0", "session": "crus-1", "enabled": enabled, "error": error,
               "status": {"status": status, "phase": ""}})
    }

    #[test]
    fn a_node_succeeded_only_when_stable_let_go_without_error_and_still_ours() {
        assert_eq!(state(component("stable", false, "")), Some(BootNodeState::Succeeded));
        assert_eq!(state(component("stable", true, "")), Some(BootNodeState::Working("stable".to_owned())));
        assert_eq!(state(component("stable", false, "e")), Some(BootNodeState::Stopped("e".to_owned())));
        let mut taken = component("stable", false, "");
        taken["session"] = json!("other");
        assert_eq!(state(taken), None);
        let mut unsaid = component("stable", false, "");
        unsaid["enabled"] = Value::Null;
        assert_eq!(state(unsaid), Some(BootNodeState::Working("stable".to_owned())));
    }

    #[test]
    fn a_node_that_failed_or_was_stopped_says_why() {
        let failed = |why: &str| Some(BootNodeState::Failed(why.to_owned()));
        assert_eq!(state(component("failed", false, "no\tpower\n")), failed("no power"));
        assert_eq!(state(component("failed", false, "")), failed("failed"));
        let stopped = |why: &str| Some(BootNodeState::Stopped(why.to_owned()));
        assert_eq!(state(component("on_hold", false, "unknown to PCS")), stopped("unknown to PCS"));
        assert_eq!(state(component("on_hold", false, "")), stopped("on_hold"));
        let by_hand = stopped("disabled in BOS while it was booting");
        assert_eq!(state(component("power_on_called", false, "")), by_hand);
        let on_hold = Some(BootNodeState::Working("on_hold".to_owned()));
        assert_eq!(state(component("on_hold", true, "")), on_hold, "so every session begins");
    }

    #[test]
    fn a_session_lists_its_nodes_with_commas_or_none() {
        let members = |components: Value| {
            let session = json!({"components": components, "status": {"status": "running"}});
            serde_json::from_value::<Session>(session).unwrap().members().len()
        };
        assert_eq!(members(json!("x1c0s0b0n0,x1c0s0b0n1")), 2);
        assert_eq!(members(json!("x1c0s0b0n0, x1c0s0b0n1,")), 2);
        assert_eq!((members(json!("")), members(Value::Null)), (0, 0));
    }

    #[test]
    fn a_limit_has_no_spaces_and_no_comma_at_the_end() {
        let nodes = ["x1c0s0b0n0", "x1c0s0b0n1"].map(|text| Xname::new(text).unwrap());
        assert_eq!(limit(&nodes), "x1c0s0b0n0,x1c0s0b0n1");
    }

    proptest! {
        #[test]
        fn any_json_is_decoded_or_refused(
            value in any_json(&["id", "enabled", "session", "error", "status", "components"]),
        ) {
            if let Ok(session) = serde_json::from_value::<Session>(value.clone()) {
                session.members();
                session.status();
            }
            if let Ok(component) = serde_json::from_value::<Component>(value) {
                component.boot_node(&name());
            }
        }
    }
}
