//! Who works on which nodes and groups: sessions that share any run one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::messages;
use crate::model::{Phase, Session, Spec, UpgradeId};
use crate::names::Xname;
use crate::time::Time;

/// The sessions of one process that are not done, and what each works on.
///
/// # Assumptions
/// Every session that is not done is entered before any of them is run: a session that was not entered
/// blocks nobody.
#[derive(Debug, Default)]
pub struct Claims(Mutex<BTreeMap<UpgradeId, Claim>>);

#[derive(Debug)]
struct Claim {
    created: Time,
    spec: Spec,
    /// `None` while it waits for its turn.
    nodes: Option<BTreeSet<Xname>>,
}

impl Claims {
    /// Enters a session, with its nodes if they are frozen already.
    pub fn enter(&self, session: &Session) {
        let frozen = session.head.phase == Phase::Rolling;
        let nodes = frozen.then(|| session.nodes.iter().map(|node| node.xname).collect());
        let claim = Claim { created: session.head.created, spec: session.head.spec.clone(), nodes };
        self.lock().insert(session.head.id, claim);
    }

    /// Grants a session its nodes, unless another one works on any of them or on a group of this session, or
    /// was created earlier and will use a group of it.
    ///
    /// # Errors
    /// What the session waits for, in words.
    pub fn claim(&self, id: UpgradeId, nodes: &[Xname]) -> Result<(), String> {
        let mut claims = self.lock();
        let Some(own) = claims.get(&id) else { return Err(format!("session {id} was not entered")) };
        let ahead = claims.iter().filter(|(other, claim)| {
            **other != id && (claim.nodes.is_some() || (claim.created, **other) < (own.created, id))
        });
        let blocked = ahead
            .filter_map(|(other, claim)| Some((claim.created, *other, shared(&own.spec, nodes, claim)?)))
            .min();
        if let Some((_, other, what)) = blocked {
            return Err(messages::waits_for_session(other, &what));
        }
        if let Some(own) = claims.get_mut(&id) {
            own.nodes = Some(nodes.iter().copied().collect());
        }
        Ok(())
    }

    /// A session is done: it blocks nobody any more.
    pub fn leave(&self, id: UpgradeId) {
        self.lock().remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<UpgradeId, Claim>> {
        // Every change is one insertion or removal: a panic elsewhere leaves it whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What two sessions share, if anything. They may not share a group that either of them changes.
fn shared(spec: &Spec, nodes: &[Xname], other: &Claim) -> Option<String> {
    let changed = |spec: &Spec| [spec.upgrading.clone(), spec.failed.clone()];
    let used = |spec: &Spec| [spec.starting.clone(), spec.upgrading.clone(), spec.failed.clone()];
    let group = (changed(spec).into_iter().find(|label| used(&other.spec).contains(label)))
        .or_else(|| changed(&other.spec).into_iter().find(|label| used(spec).contains(label)));
    if let Some(label) = group {
        return Some(format!("the group '{label}'"));
    }
    let theirs = other.nodes.as_ref()?;
    nodes.iter().find(|xname| theirs.contains(xname)).map(|xname| format!("the node {xname}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Limits;

    fn session(n: u128, created: u64, groups: [&str; 3]) -> Session {
        let [starting, upgrading, failed] = groups.map(|label| label.parse().unwrap());
        let spec = Spec {
            starting,
            upgrading,
            failed,
            step_size: std::num::NonZeroU32::MIN,
            template: "image".parse().unwrap(),
        };
        let id = UpgradeId(uuid::Uuid::from_u128(n));
        Session::new(id, spec, "1", Limits::default(), Time(created))
    }

    fn nodes(names: &[&str]) -> Vec<Xname> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn sessions_that_share_a_group_or_a_node_take_turns_in_order_of_creation() {
        let claims = Claims::default();
        let first = session(9, 1, ["a", "up", "failed"]);
        let second = session(5, 2, ["b", "up", "failed-b"]);
        let apart = session(3, 3, ["c", "up-c", "failed-c"]);
        let overlapping = session(2, 4, ["d", "up-d", "failed-d"]);
        for session in [&first, &second, &apart, &overlapping] {
            claims.enter(session);
        }
        let ab = nodes(&["x1c0s0b0n0", "x1c0s1b0n0"]);
        let c = nodes(&["x1c0s2b0n0"]);
        let why = claims.claim(second.head.id, &ab).unwrap_err();
        assert_eq!(why, format!("Waiting for session {}, which uses the group 'up'", first.head.id));
        assert_eq!(claims.claim(first.head.id, &ab), Ok(()));
        assert_eq!(claims.claim(apart.head.id, &c), Ok(()));
        let why = claims.claim(overlapping.head.id, &c).unwrap_err();
        assert_eq!(why, format!("Waiting for session {}, which uses the node x1c0s2b0n0", apart.head.id));
        claims.leave(first.head.id);
        claims.leave(apart.head.id);
        assert_eq!(claims.claim(second.head.id, &ab), Ok(()));
        assert_eq!(claims.claim(overlapping.head.id, &c), Ok(()));
    }

    #[test]
    fn a_group_that_another_session_empties_cannot_be_a_starting_group() {
        let claims = Claims::default();
        let first = session(1, 1, ["a", "up", "failed"]);
        let rerun = session(2, 2, ["failed", "up-b", "failed-b"]);
        claims.enter(&first);
        claims.enter(&rerun);
        assert!(claims.claim(rerun.head.id, &[]).unwrap_err().contains("the group 'failed'"));
    }
}
