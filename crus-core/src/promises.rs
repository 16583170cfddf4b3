//! The promises P1–P9, checked.
//!
//! [`session`] checks what a session says of itself; it is cheap and runs after every step, in production as
//! well. An [`Audit`] checks what really happened, as a witness tells it: the simulator, or a test that
//! watches a real cluster. P9 (fix and go on) is about what must happen in the end: whoever knows that nothing
//! is in the way any more waits for a bounded time, and then calls it broken with [`no_end`].
//!
//! Beside them stand the promises of a [strategy](crate::strategy), by their names: `max_failed`, `max_failed_step`,
//! `canary`, `max_per_domain`, `min_in_service` and `window`; `paused`; and `history` and `counts`, of what is told.

mod audit;
mod fact;
mod strategy;

pub use self::audit::{Audit, NodeView, Outcome};
pub use self::fact::{By, Fact, What};
pub use self::strategy::history;
use crate::claims;
use crate::model::{Counts, NodeState, Owed, Phase, Session};

/// A promise that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise: `"P1"` to `"P9"`, or one of a strategy by its name.
    pub promise: &'static str,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.promise, self.what)
    }
}

fn broken(promise: &'static str, what: String) -> Violation {
    Violation { promise, what }
}

/// Checks what a session must satisfy at every instant. The cost grows with the size of a step, except once,
/// when the session is done.
pub fn session(session: &Session) -> Vec<Violation> {
    let head = &session.head;
    let mut violations = Vec::new();
    let in_flight = session.in_flight().count();
    if in_flight as u64 > u64::from(head.spec.step_size.get()) {
        violations.push(broken("P1", format!("{in_flight} nodes are in flight")));
    }
    for node in session.batch() {
        let xname = node.xname;
        match node.state {
            NodeState::Rebooting | NodeState::Returning if head.boot.is_none() => {
                violations.push(broken("P3", format!("{xname} reboots in no boot session")));
            }
            NodeState::Upgraded if !node.rebooted => {
                violations.push(broken("P5", format!("{xname} counts as upgraded without a newer boot")));
            }
            _ => {}
        }
    }
    if head.counts.total() != session.nodes.len() {
        let (counts, nodes) = (head.counts.total(), session.nodes.len());
        violations.push(broken("counts", format!("{counts} of {nodes} nodes are counted")));
    }
    if head.phase == Phase::Done {
        if head.counts != Counts::of(&session.nodes) {
            let (told, are) = (head.counts, Counts::of(&session.nodes));
            violations.push(broken("counts", format!("it ended with {told}, of nodes that are {are}")));
        }
        for node in &session.nodes {
            let released = node.state == NodeState::Released && head.deletion.is_some();
            let decided = released || matches!(node.state, NodeState::Upgraded | NodeState::Failed(_));
            if !decided || !node.owed.is_nothing() {
                let promise = if head.deletion.is_some() { "P7" } else { "P4" };
                let Owed { listing, marking, resuming } = node.owed;
                violations.push(broken(
                    promise,
                    format!(
                        "{} ended as {:?}, owed: listing {listing}, marking {marking}, resuming {resuming}",
                        node.xname, node.state
                    ),
                ));
            }
        }
    }
    violations
}

/// The violation of a session that has not ended within the time that it was given after the last condition was
/// met, and the last fault over (P9).
pub fn no_end(session: &Session) -> Violation {
    let head = &session.head;
    let waits = head.condition.as_deref().unwrap_or("nothing that it says");
    broken("P9", format!("session {} stays in step {}, {}, for {waits}", head.id, head.step, head.stage))
}

/// Checks that two sessions that both work share no node and no group that either of them changes (P8).
pub fn apart(one: &Session, other: &Session) -> Option<Violation> {
    let work = |session: &Session| session.head.phase == Phase::Rolling;
    let shared = (work(one) && work(other)).then(|| claims::shared(one, other))??;
    Some(broken("P8", format!("sessions {} and {} both work on {shared}", one.head.id, other.head.id)))
}

/// The violation of a session that is done and still there within that time, though its deletion was ordered (P7).
pub fn not_deleted(session: &Session) -> Violation {
    broken("P7", format!("session {} is still there, though deletion was ordered", session.head.id))
}
