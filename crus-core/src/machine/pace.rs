//! When a call is made again.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use crate::model::{CallKind, Limits, Session};
use crate::time::Time;

/// When a request of this kind may be made again.
pub(super) fn paced(session: &Session, kind: CallKind) -> Time {
    let asked = session.known.asked.get(&kind).map_or(Time(0), |&at| at + session.limits.poll_ms);
    let trouble = session.known.troubles.get(&kind).map_or(Time(0), |trouble| trouble.until);
    asked.max(trouble)
}

/// The pause before a call that failed so many times in a row is made again. It doubles with each failure, and is up
/// to a fifth longer than that, by a hash of what it is about: sessions that fail together do not all come back at
/// the same moment. Never shorter than a poll interval nor longer than the bound.
pub(super) fn retry_pause(session: &Session, kind: CallKind, failures: u32) -> u64 {
    let Limits { poll_ms, retry_max_ms, .. } = session.limits;
    let doubled = poll_ms.saturating_mul(1 << failures.saturating_sub(1).min(16));
    // The longest pauses differ as well.
    let pause = doubled.min(retry_max_ms - retry_max_ms / 6);
    let mut hash = DefaultHasher::new();
    (session.head.id, kind, failures).hash(&mut hash);
    let jitter = (pause / 5).checked_add(1).map_or(0, |range| hash.finish() % range);
    pause.saturating_add(jitter).max(poll_ms).min(retry_max_ms)
}
