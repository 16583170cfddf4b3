//! The Hardware State Manager, API v2: groups of nodes and facts about nodes.
//!
//! HSM has no call that sets all members of a group: they are added and removed one by one, several at a time.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;

use std::collections::BTreeSet;

use async_trait::async_trait;
use crus_core::ports::{Hsm, NodeFacts, Peer, PortError, Rejected};
use crus_core::{GroupLabel, Xname};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::{Access, ConfigError, Http, PeerConfig};

/// How many members are added or removed at a time: more gains nothing, the database takes them in turn.
const PARALLEL: usize = 8;
/// How many nodes are asked about in one request: some 300 KB of answer.
const FACTS_PER_REQUEST: usize = 1000;

/// HSM v2 over HTTP.
#[derive(Debug)]
pub struct HsmClient {
    http: Http,
}

impl HsmClient {
    /// The HSM whose base URL ends in `/hsm/v2`. Nothing is asked of it yet.
    ///
    /// # Errors
    /// When the settings cannot work, whatever HSM says.
    pub fn new(config: PeerConfig) -> Result<Self, ConfigError> {
        Ok(HsmClient { http: Http::new(Peer::Hsm, config)? })
    }

    async fn add_member(&self, label: &GroupLabel, xname: Xname) -> Result<Option<Rejected>, PortError> {
        let request = self.http.request(Method::POST, &["groups", label.as_str(), "members"]);
        let request = request.json(&json!({"id": xname.to_string()}));
        let reply = self.http.send(Access::Write, request).await?;
        let rejected = |unknown| Some(Rejected { xname, detail: reply.detail().to_owned(), unknown });
        if reply.says(409, "existing member in the same group") {
            Ok(None)
        } else if reply.says(409, "existing member in another exclusive group") {
            Ok(rejected(false))
        } else if reply.says(400, "linked component does not exist") || reply.says(400, "invalid xname ID") {
            Ok(rejected(true))
        } else if reply.says(404, "no such group") {
            Err(PortError::Refused { peer: Peer::Hsm, detail: reply.detail().to_owned() })
        } else {
            reply.done().map(|()| None)
        }
    }

    async fn remove_member(&self, label: &GroupLabel, xname: Xname) -> Result<(), PortError> {
        let path = ["groups", label.as_str(), "members", &xname.to_string()];
        let reply = self.http.send(Access::Write, self.http.request(Method::DELETE, &path)).await?;
        // Nothing is in a group that is gone.
        if reply.says(404, "group has no such member") || reply.says(404, "no such group") {
            return Ok(());
        }
        reply.done()
    }

    async fn query(&self, nodes: &[Xname]) -> Result<Vec<NodeFacts>, PortError> {
        let ids: Vec<String> = nodes.iter().map(Xname::to_string).collect();
        let request = self.http.request(Method::POST, &["State", "Components", "Query"]);
        let request = request.json(&json!({"ComponentIDs": ids}));
        // A POST that changes nothing.
        let found: Components = self.http.send(Access::Read, request).await?.json()?;
        let asked: BTreeSet<Xname> = nodes.iter().copied().collect();
        let facts = found.components.into_iter().flatten().filter_map(Component::facts);
        Ok(facts.filter(|facts| asked.contains(&facts.xname)).collect())
    }
}

/// Makes these calls, [`PARALLEL`] at a time. After the first error nothing more is begun, but what was begun is
/// waited for: a request given up half-way might still arrive after the next one.
async fn all<T>(
    mut calls: impl Iterator<Item = impl Future<Output = Result<T, PortError>>>,
) -> Result<Vec<T>, PortError> {
    let mut running = FuturesUnordered::new();
    let (mut done, mut error) = (Vec::new(), None::<PortError>);
    loop {
        while error.is_none() && running.len() < PARALLEL {
            let Some(call) = calls.next() else { break };
            running.push(call);
        }
        match running.next().await {
            Some(Ok(value)) => done.push(value),
            // One that may have acted leaves the most to find out.
            Some(Err(e)) if error.is_none() || e.may_have_acted() => error = Some(e),
            Some(Err(_)) => {}
            None => return error.map_or(Ok(done), Err),
        }
    }
}

#[async_trait]
impl Hsm for HsmClient {
    async fn group(&self, label: &GroupLabel) -> Result<Option<BTreeSet<Xname>>, PortError> {
        let request = self.http.request(Method::GET, &["groups", label.as_str()]);
        let reply = self.http.send(Access::Read, request).await?;
        if reply.says(404, "no such group") {
            return Ok(None);
        }
        let group: Group = reply.json()?;
        Ok(Some(group.nodes(label)))
    }

    async fn add_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<Vec<Rejected>, PortError> {
        let rejected = all(nodes.iter().copied().map(|xname| self.add_member(label, xname))).await?;
        Ok(rejected.into_iter().flatten().collect())
    }

    async fn remove_members(&self, label: &GroupLabel, nodes: &[Xname]) -> Result<(), PortError> {
        all(nodes.iter().copied().map(|xname| self.remove_member(label, xname))).await.map(drop)
    }

    async fn facts(&self, nodes: &[Xname]) -> Result<Vec<NodeFacts>, PortError> {
        let mut facts = Vec::new();
        for some in nodes.chunks(FACTS_PER_REQUEST) {
            facts.extend(self.query(some).await?);
        }
        Ok(facts)
    }
}

#[derive(Deserialize)]
struct Group {
    members: Members,
}

#[derive(Deserialize)]
struct Members {
    /// Go's empty list may be `null`.
    ids: Option<Vec<String>>,
}

impl Group {
    /// A group may hold anything that has an xname; only nodes can be upgraded.
    fn nodes(self, label: &GroupLabel) -> BTreeSet<Xname> {
        let ids = self.members.ids.unwrap_or_default();
        let all = ids.len();
        let (nodes, others): (Vec<_>, Vec<_>) = ids.iter().map(|id| Xname::new(id)).partition(Result::is_ok);
        if let Some(Err(first)) = others.first() {
            tracing::warn!(group = %label, members = all, skipped = others.len(), %first, "skipped members that are not nodes");
        }
        nodes.into_iter().flatten().collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Components {
    components: Option<Vec<Component>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Component {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "NID", default)]
    nid: Value,
    role: Option<String>,
    enabled: Option<bool>,
    locked: Option<bool>,
    arch: Option<String>,
}

impl Component {
    fn facts(self) -> Option<NodeFacts> {
        Some(NodeFacts {
            xname: Xname::new(&self.id).ok()?,
            nid: nid(&self.nid),
            role: self.role.unwrap_or_default(),
            enabled: self.enabled.unwrap_or(true),
            locked: self.locked.unwrap_or(false),
            arch: self.arch.unwrap_or_default(),
        })
    }
}

/// A node id of its own. HSM writes a number, older ones a text; 0 and -1 stand for none.
fn nid(value: &Value) -> Option<u32> {
    let number = match value {
        Value::Number(number) => number.as_u64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    u32::try_from(number).ok().filter(|nid| *nid > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::any_json;

    #[test]
    fn a_nid_is_a_positive_number_or_none() {
        assert_eq!(nid(&json!(7)), Some(7));
        assert_eq!(nid(&json!("7")), Some(7));
        for none in
            [json!(0), json!(-1), json!("0"), json!(""), json!(1.5), json!(4_294_967_296_u64), json!(null)]
        {
            assert_eq!(nid(&none), None, "{none}");
        }
    }

    #[test]
    fn a_component_that_says_little_is_an_enabled_unlocked_node_without_a_nid() {
        let component: Component = serde_json::from_value(json!({"ID": "X1000C0S0B0N1"})).unwrap();
        let expected = NodeFacts {
            xname: Xname::new("x1000c0s0b0n1").unwrap(),
            nid: None,
            role: String::new(),
            enabled: true,
            locked: false,
            arch: String::new(),
        };
        assert_eq!(component.facts(), Some(expected));
    }

    #[test]
    fn members_that_are_not_nodes_are_skipped() {
        let label = GroupLabel::new("all").unwrap();
        let nodes = |ids: Value| {
            let group: Group =
                serde_json::from_value(json!({"label": "all", "members": {"ids": ids}})).unwrap();
            group.nodes(&label)
        };
        let one = BTreeSet::from([Xname::new("x1000c0s0b0n1").unwrap()]);
        assert_eq!(nodes(json!(["x1000c0s0b0", "x1000c0s0b0n1", "ALL", ""])), one);
        assert_eq!(nodes(Value::Null), BTreeSet::new());
    }

    /// With the longest xnames that there are, and far below the default limit of an answer.
    #[test]
    fn a_group_of_a_hundred_thousand_nodes_fits_into_an_answer() {
        let xname = |n: u32| format!("x999999c999999s999999b999999n{}", 900_000 + n % 100_000);
        let ids: Vec<String> = (0..100_000).map(xname).collect();
        let body = serde_json::to_vec(&json!({"label": "all", "members": {"ids": ids}})).unwrap();
        assert!(body.len() < PeerConfig::new("http://h".parse().unwrap()).body_max_bytes / 10);
        let group: Group = serde_json::from_slice(&body).unwrap();
        assert_eq!(group.nodes(&GroupLabel::new("all").unwrap()).len(), 100_000);
    }

    proptest! {
        #[test]
        fn any_json_is_decoded_or_refused(value in any_json(&["members", "ids", "Components", "ID", "NID", "Enabled"])) {
            let label = GroupLabel::new("all").unwrap();
            if let Ok(group) = serde_json::from_value::<Group>(value.clone()) {
                group.nodes(&label);
            }
            if let Ok(found) = serde_json::from_value::<Components>(value.clone()) {
                for facts in found.components.into_iter().flatten().filter_map(Component::facts) {
                    prop_assert_ne!(facts.nid, Some(0));
                }
            }
            nid(&value);
        }
    }
}
