//! Reboots that are asked for once of a BOS that takes no names of ours (API v1).
//!
//! BOS v2 lets us name a boot session, and refuses the same name a second time: whoever does not know what came of a
//! request looks for the name, or asks again. BOS v1 gives each session an id of its own and tells it in the reply alone.
//! A second request is a second reboot.
//!
//! # Guarantees
//!
//! - Before a reboot is asked for, its intent is stored, and with it the ids of all boot sessions that there are at that
//!   moment ([`BootIds`]). So no clock is needed to tell later which sessions are younger than the intent: those that are
//!   not on the list. The server's times, which are local and without a zone, are never looked at. The list is as fresh
//!   as the last look at the nodes, and is read again as long as no request can be under way.
//! - As long as no request can be under way, because none was made or each was refused, no session is taken for ours.
//! - The id in the reply is stored before anything else is asked of anybody. From then on it is that session that is
//!   followed, and nothing is asked for again.
//! - Was the reply lost, or did the process die before the id was stored, then the session is looked for among the younger
//!   ones ([`find`]): one of another template, or with a node that was not asked for, is not it; one whose nodes are just
//!   those asked for is. One that has some of them alone is, if no better one shows up while a request may yet arrive. It is
//!   adopted, and its id stored.
//! - While a younger session may be the one, and does not show its nodes yet, nothing is asked for, and no node is given
//!   back: we wait. When that does not clear up in the time that a boot may take, the nodes are failed with that reason.
//! - The reboot is asked for again only if it is certain that it was not carried out: the peer refused it or could not be
//!   connected to, or BOS shows, in a look that began when any request has had its time to arrive
//!   ([`settle_ms`](crate::Limits::settle_ms), counted anew after a restart), no younger session that may be the one, and
//!   each node still shows the boot it had.
//!
//! So P3 holds whatever crashes, and a reply that is lost costs a look at each younger session.
//!
//! # Caveats
//!
//! - Whoever asks BOS for a reboot of the same template and of some of these very nodes, and of no others, while ours is
//!   lost on its way without having been carried out, cannot be told from us. Then their session is adopted, and what we
//!   would have done for the other nodes is not done: they fail as left out. No node is rebooted twice by us.
//! - A request that is held up on its way for longer than `settle_ms` could arrive after another one was made. The time
//!   must be longer than what stands between the service and BOS holds a request. The same goes for a gateway that repeats
//!   a `POST` by itself: it must not.
//! - A session that somebody deletes in BOS before its nodes were seen cannot be told from one that never was: to delete
//!   it stops nothing. Then the nodes alone show what became of it: one that is silent, or has booted anew, is not rebooted.
//! - A service that is told to use the other version of the API while a reboot is under way can find out nothing about it:
//!   its nodes are waited for as long as a boot may take, and fail with that reason. Change it while no session boots.
//! - A BOS that holds more than [`IDS_MAX`] sessions is not asked for reboots: the list would be too long to store. BOS v1
//!   never forgets a session by itself; delete old ones.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::names::{BootHandle, TemplateName, Xname};
use crate::ports::{BootSession, RebootRequest};

/// How many boot sessions BOS may hold: so many ids, of 36 characters in all known versions, fit into one record of any
/// store.
pub const IDS_MAX: usize = 10_000;

/// The boot sessions that there are at a moment. Cheap to clone: copies share the ids.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "BTreeSet<BootHandle>", into = "BTreeSet<BootHandle>")]
pub struct BootIds(Arc<BTreeSet<BootHandle>>);

impl BootIds {
    /// Whether this one was there.
    pub fn contains(&self, id: &BootHandle) -> bool {
        self.0.contains(id)
    }

    /// How many there were.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of them that were not there before, in order.
    pub fn since<'a>(&'a self, before: &'a BootIds) -> impl Iterator<Item = &'a BootHandle> {
        self.0.difference(&before.0)
    }
}

impl From<BTreeSet<BootHandle>> for BootIds {
    fn from(ids: BTreeSet<BootHandle>) -> Self {
        BootIds(Arc::new(ids))
    }
}

impl From<BootIds> for BTreeSet<BootHandle> {
    fn from(ids: BootIds) -> Self {
        (*ids.0).clone()
    }
}

impl FromIterator<BootHandle> for BootIds {
    fn from_iter<I: IntoIterator<Item = BootHandle>>(ids: I) -> Self {
        BTreeSet::from_iter(ids).into()
    }
}

/// A boot session that began after an intent was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: BootHandle,
    /// Whether it reboots nodes; `None` when BOS does not say.
    pub reboots: Option<bool>,
    /// Its session template; `None` when BOS does not say.
    pub template: Option<TemplateName>,
    /// What it was limited to, in BOS's words; `None` when BOS does not say.
    pub limit: Option<String>,
    /// The nodes in it, those that BOS left out included; empty as long as BOS does not know them.
    pub nodes: BTreeSet<Xname>,
}

/// What one candidate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    /// Another one.
    Other,
    /// Its nodes are not known yet.
    Unknown,
    /// Its nodes are some of those asked for: BOS shows no others, or it is somebody else's.
    Part,
    /// Its nodes, or what it was limited to, are just what was asked for.
    Same,
}

impl Candidate {
    fn likeness(&self, request: &RebootRequest) -> Likeness {
        let other_kind = self.reboots == Some(false);
        if other_kind || self.template.as_ref().is_some_and(|template| *template != request.template) {
            return Likeness::Other;
        }
        let asked: BTreeSet<Xname> = request.nodes.iter().copied().collect();
        if let Some(limit) = &self.limit {
            // Groups and roles are no names of nodes: that is somebody else's.
            let limited: Option<BTreeSet<Xname>> =
                limit.split(',').map(|name| Xname::new(name).ok()).collect();
            return if limited.is_some_and(|limited| limited == asked) {
                Likeness::Same
            } else {
                Likeness::Other
            };
        }
        if self.nodes.is_empty() {
            Likeness::Unknown
        } else if self.nodes == asked {
            Likeness::Same
        } else if self.nodes.is_subset(&asked) {
            Likeness::Part
        } else {
            Likeness::Other
        }
    }
}

/// What came of a request whose reply is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// None of the candidates is it.
    Nothing,
    /// It is this one.
    This(BootHandle),
    /// It cannot be told, for this reason.
    Unclear(String),
}

/// Looks for the boot session that a request made, among those that are younger than its intent.
pub fn find(request: &RebootRequest, candidates: &[Candidate]) -> Found {
    let like = |likeness| candidates.iter().filter(move |one| one.likeness(request) == likeness);
    let same: Vec<_> = like(Likeness::Same).collect();
    match same.as_slice() {
        [] => {}
        [one] => return Found::This(one.id.clone()),
        [one, other, ..] => {
            let why = format!(
                "boot sessions {} and {} both have just the nodes that were asked for",
                one.id, other.id
            );
            return Found::Unclear(why);
        }
    }
    if let Some(unknown) = like(Likeness::Unknown).next() {
        let why =
            format!("boot session {} may be the one asked for, and does not show its nodes yet", unknown.id);
        return Found::Unclear(why);
    }
    let parts: Vec<_> = like(Likeness::Part).collect();
    match parts.as_slice() {
        [] => Found::Nothing,
        [one] => Found::This(one.id.clone()),
        [one, other, ..] => {
            let why = format!(
                "boot sessions {} and {} each have some of the nodes that were asked for",
                one.id, other.id
            );
            Found::Unclear(why)
        }
    }
}

impl Found {
    /// What is to be said of the session: as it is `seen`, if it was found, under its id.
    pub fn session(self, seen: impl FnOnce(&BootHandle) -> Option<BootSession>) -> Option<BootSession> {
        match self {
            Found::Nothing => None,
            Found::This(id) => seen(&id),
            Found::Unclear(why) => Some(BootSession::unclear(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::BootSessionName;

    fn x(n: u32) -> Xname {
        Xname::new(&format!("x1c0s{n}b0n0")).unwrap()
    }

    fn request() -> RebootRequest {
        RebootRequest {
            name: BootSessionName::new("crus-1").unwrap(),
            tenant: None,
            template: "image".parse().unwrap(),
            nodes: vec![x(1), x(2)],
            before: Some(BootIds::default()),
        }
    }

    fn candidate(id: &str, nodes: &[u32]) -> Candidate {
        Candidate {
            id: id.parse().unwrap(),
            reboots: Some(true),
            template: Some("image".parse().unwrap()),
            limit: None,
            nodes: nodes.iter().copied().map(x).collect(),
        }
    }

    fn found(candidates: &[Candidate]) -> Found {
        find(&request(), candidates)
    }

    fn this(id: &str) -> Found {
        Found::This(id.parse().unwrap())
    }

    #[test]
    fn the_one_with_just_the_nodes_asked_for_is_ours_whatever_else_began() {
        let others =
            [candidate("a", &[3, 4]), candidate("b", &[1, 2, 3]), candidate("c", &[]), candidate("d", &[1])];
        assert_eq!(found(&[&others[..], &[candidate("e", &[2, 1])]].concat()), this("e"));
    }

    #[test]
    fn what_boots_other_nodes_another_image_or_no_reboot_is_not_ours() {
        let shutdown = Candidate { reboots: Some(false), ..candidate("c", &[1, 2]) };
        let image = Candidate { template: Some("other".parse().unwrap()), ..candidate("d", &[1, 2]) };
        assert_eq!(
            found(&[candidate("a", &[3]), candidate("b", &[1, 2, 3]), shutdown, image]),
            Found::Nothing
        );
        assert_eq!(found(&[]), Found::Nothing);
    }

    #[test]
    fn one_that_shows_no_nodes_yet_leaves_it_open_unless_it_cannot_be_ours() {
        assert!(matches!(found(&[candidate("a", &[])]), Found::Unclear(why) if why.contains(" a ")));
        assert!(matches!(found(&[candidate("a", &[]), candidate("b", &[1])]), Found::Unclear(_)));
        let other = Candidate { template: Some("other".parse().unwrap()), ..candidate("a", &[]) };
        assert_eq!(found(&[other]), Found::Nothing);
    }

    #[test]
    fn some_of_the_nodes_are_ours_if_nobody_else_has_others() {
        assert_eq!(found(&[candidate("a", &[1]), candidate("b", &[7])]), this("a"));
        assert!(matches!(found(&[candidate("a", &[1]), candidate("b", &[2])]), Found::Unclear(_)));
        assert!(matches!(found(&[candidate("a", &[1, 2]), candidate("b", &[1, 2])]), Found::Unclear(_)));
    }

    #[test]
    fn what_it_was_limited_to_tells_where_bos_shows_it() {
        let limited = |id, limit: &str| Candidate { limit: Some(limit.to_owned()), ..candidate(id, &[]) };
        let ours = limited("b", &format!("{},{}", x(2), x(1)));
        let others = [limited("a", &x(1).to_string()), limited("c", ""), limited("d", "blue"), ours];
        assert_eq!(found(&others), this("b"));
        assert_eq!(found(&others[..3]), Found::Nothing);
    }

    #[test]
    fn ids_are_stored_as_a_list() {
        let ids: BootIds = ["b", "a"].map(|id| id.parse().unwrap()).into_iter().collect();
        assert_eq!(serde_json::to_string(&ids).unwrap(), r#"["a","b"]"#);
        let later: BootIds = ["c", "b"].map(|id| id.parse().unwrap()).into_iter().collect();
        let since: Vec<String> = later.since(&ids).map(ToString::to_string).collect();
        assert_eq!(since, ["c"]);
    }
}
