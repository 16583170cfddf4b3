//! What the calls say of who was called.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crus_api::health::{Check, CheckState};
use crus_api::views::Stamp;
use crus_core::Time;
use crus_core::ports::{Clock, Peer, PortError, StoreError};
use tracing::{info, warn};

use crate::store::Lease;

/// So many characters of what is wrong are shown.
const DETAIL_MAX: usize = 240;

/// How something stands, and since when.
#[derive(Debug, Clone)]
struct Standing {
    state: CheckState,
    since: Time,
    detail: Option<String>,
    /// When something was asked for last that says how it stands.
    asked: Option<Instant>,
    /// When it was probed last.
    probed: Option<Instant>,
}

impl Standing {
    fn unknown(since: Time) -> Self {
        Standing { state: CheckState::Unknown, since, detail: None, asked: None, probed: None }
    }

    /// Takes in how a call went. Whether it stands otherwise since, for the log.
    fn take_in(&mut self, now: Time, wrong: Option<String>) -> bool {
        let state = if wrong.is_some() { CheckState::Failing } else { CheckState::Ok };
        let is_new = self.state != state;
        if is_new {
            self.state = state;
            self.since = now;
        }
        self.detail = wrong.map(|detail| detail.chars().take(DETAIL_MAX).collect());
        self.asked = Some(Instant::now());
        is_new
    }

    fn check(&self, name: &'static str) -> Check {
        Check { detail: self.detail.clone(), name, since: Stamp(self.since), state: self.state }
    }

    /// Whether it is to be probed now; then it counts as probed.
    fn is_due(&mut self, every: Duration) -> bool {
        let is_long_ago = |then: Option<Instant>| then.is_none_or(|then| then.elapsed() >= every);
        let is_due = is_long_ago(self.asked) && is_long_ago(self.probed);
        if is_due {
            self.probed = Some(Instant::now());
        }
        is_due
    }
}

/// How the peers stand.
pub struct PeerStates {
    clock: Arc<dyn Clock>,
    standing: Mutex<[Standing; 3]>,
}

impl PeerStates {
    /// Nothing is known of them.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.now();
        PeerStates { clock, standing: Mutex::new(std::array::from_fn(|_| Standing::unknown(now))) }
    }

    fn place(peer: Peer) -> Option<usize> {
        match peer {
            Peer::Hsm => Some(0),
            Peer::Bos => Some(1),
            Peer::Wlm => Some(2),
            // A program that cannot be run: the session that names it says so.
            Peer::Check => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, [Standing; 3]> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in how a call went.
    ///
    /// One that was refused may have been refused for what it asked, or for who asked: a probe tells, since what it asks is
    /// never refused for itself.
    pub fn called(&self, peer: Peer, error: Option<&PortError>) {
        let Some(place) = PeerStates::place(peer) else { return };
        match error {
            Some(PortError::Refused { .. }) => self.lock()[place].asked = None,
            _ => self.take_in(place, error),
        }
    }

    /// Takes in how a probe went.
    pub fn probed(&self, peer: Peer, error: Option<&PortError>) {
        if let Some(place) = PeerStates::place(peer) {
            self.take_in(place, error);
        }
    }

    fn take_in(&self, place: usize, error: Option<&PortError>) {
        let now = self.clock.now();
        let is_new = self.lock()[place].take_in(now, error.map(ToString::to_string));
        match error {
            Some(error) if is_new => warn!("{error}"),
            _ => {}
        }
        if is_new && error.is_none() {
            info!("{} answers", [Peer::Hsm, Peer::Bos, Peer::Wlm][place]);
        }
    }

    /// Whether a peer is to be probed now: for so long it was neither probed nor asked anything that says how it stands.
    pub fn is_due(&self, peer: Peer, every: Duration) -> bool {
        PeerStates::place(peer).is_some_and(|place| self.lock()[place].is_due(every))
    }

    /// How a peer stands.
    pub fn check(&self, peer: Peer) -> Check {
        let name = crate::metrics::word_of(peer);
        match PeerStates::place(peer) {
            Some(place) => self.lock()[place].check(name),
            None => Standing::unknown(self.clock.now()).check(name),
        }
    }
}

/// How the store stands. Reads and writes count apart: a file on a full disk can be read.
pub struct StoreState {
    clock: Arc<dyn Clock>,
    reads: Mutex<Standing>,
    writes: Mutex<Standing>,
}

impl StoreState {
    /// It was opened a moment ago, but nothing was asked of it.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let standing = || Mutex::new(Standing::unknown(clock.now()));
        StoreState { reads: standing(), writes: standing(), clock }
    }

    fn of(&self, write: bool) -> MutexGuard<'_, Standing> {
        let standing = if write { &self.writes } else { &self.reads };
        standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in how a call went. That something is another replica's, was changed, or is of another version is no fault of the
    /// store.
    pub fn called(&self, write: bool, error: Option<&StoreError>) {
        let failed = error.filter(|error| matches!(error, StoreError::Failed(_)));
        if error.is_some() && failed.is_none() {
            return;
        }
        self.of(write).take_in(self.clock.now(), failed.map(ToString::to_string));
    }

    /// Whether it can be used, as far as is known.
    pub fn is_usable(&self) -> bool {
        [false, true].into_iter().all(|write| self.of(write).state != CheckState::Failing)
    }

    /// Whether it is to be probed by a read now: for so long nothing was read.
    pub fn is_read_due(&self, every: Duration) -> bool {
        self.of(false).is_due(every)
    }

    /// Whether it is to be probed by a write now: the last one failed, so long ago. Where nothing is written nobody would see that it works again.
    pub fn is_write_due(&self, every: Duration) -> bool {
        let mut writes = self.of(true);
        writes.state == CheckState::Failing && writes.is_due(every)
    }

    /// How it stands.
    pub fn check(&self) -> Check {
        let (reads, writes) = (self.of(false).check("store"), self.of(true).check("store"));
        match (reads.state, writes.state) {
            (_, CheckState::Failing) | (CheckState::Unknown, CheckState::Ok) => writes,
            _ => reads,
        }
    }
}

/// How the lease of this replica stands, by the store that has it.
pub struct LeaseState {
    clock: Arc<dyn Clock>,
    look: Box<dyn Fn() -> Lease + Send + Sync>,
    standing: Mutex<Standing>,
}

impl LeaseState {
    /// By this look at it.
    pub fn new(clock: Arc<dyn Clock>, look: impl Fn() -> Lease + Send + Sync + 'static) -> Self {
        let standing = Mutex::new(Standing::unknown(clock.now()));
        LeaseState { clock, look: Box::new(look), standing }
    }

    /// How it stands.
    pub fn check(&self) -> Check {
        self.look().0
    }

    /// How it stands, and how many sessions are owned by it.
    pub fn look(&self) -> (Check, usize) {
        let Lease { trouble, sessions } = (self.look)();
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        standing.take_in(self.clock.now(), trouble);
        (standing.check("lease"), sessions)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use crus_core::window::ZoneOffset;

    use super::*;

    const NEVER: Duration = Duration::from_secs(3600);

    #[derive(Default)]
    struct Set(AtomicU64);

    impl Clock for Set {
        fn now(&self) -> Time {
            Time(self.0.load(Ordering::Relaxed))
        }
        fn zone(&self, _: &str, _: Time) -> Option<ZoneOffset> {
            None
        }
    }

    fn away() -> PortError {
        PortError::Unreachable { peer: Peer::Bos, detail: "no route".to_owned() }
    }

    #[test]
    fn a_state_lasts_since_it_began_and_its_detail_is_the_latest() {
        let clock = Arc::new(Set::default());
        let states = PeerStates::new(clock.clone());
        let at = |now: u64, error: Option<PortError>| {
            clock.0.store(now, Ordering::Relaxed);
            states.called(Peer::Bos, error.as_ref());
            let Check { state, since: Stamp(Time(since)), detail, .. } = states.check(Peer::Bos);
            (state, since, detail)
        };
        assert_eq!(states.check(Peer::Bos).state, CheckState::Unknown);
        assert_eq!(at(10, None), (CheckState::Ok, 10, None));
        assert_eq!(at(20, None), (CheckState::Ok, 10, None));
        let detail = |text: &str| Some(format!("the Boot Orchestration Service {text}"));
        assert_eq!(at(30, Some(away())), (CheckState::Failing, 30, detail("is unreachable: no route")));
        let unclear = PortError::MayHaveActed { peer: Peer::Bos, detail: "it broke".to_owned() };
        assert_eq!(
            at(40, Some(unclear)),
            (CheckState::Failing, 30, detail("gave no usable answer: it broke"))
        );
        assert_eq!(at(50, None), (CheckState::Ok, 50, None));
        assert_eq!(states.check(Peer::Hsm).state, CheckState::Unknown, "each by itself");
    }

    /// A call may be refused for what it asks: that says nothing of the peer. One for bad credentials is found by a probe.
    #[test]
    fn a_refused_call_has_the_peer_probed_once_and_a_refused_probe_tells() {
        let states = PeerStates::new(Arc::new(Set::default()));
        let refused = PortError::Refused { peer: Peer::Hsm, detail: "bad token".to_owned() };
        states.called(Peer::Hsm, None);
        assert!(!states.is_due(Peer::Hsm, NEVER), "it was called");
        states.called(Peer::Hsm, Some(&refused));
        assert_eq!(states.check(Peer::Hsm).state, CheckState::Ok);
        assert!(states.is_due(Peer::Hsm, NEVER), "now it is unclear");
        states.probed(Peer::Hsm, Some(&refused));
        assert_eq!(states.check(Peer::Hsm).state, CheckState::Failing);
        states.called(Peer::Hsm, Some(&refused));
        assert!(!states.is_due(Peer::Hsm, NEVER), "it was probed: not more often than that");
    }

    #[test]
    fn a_store_that_fails_to_write_is_no_use_though_it_can_be_read() {
        let store = StoreState::new(Arc::new(Set::default()));
        let failed = StoreError::Failed("the disk is full".to_owned());
        store.called(false, None);
        store.called(true, None);
        assert_eq!((store.check().state, store.is_usable()), (CheckState::Ok, true));
        store.called(true, Some(&failed));
        store.called(false, None);
        assert_eq!((store.check().state, store.is_usable()), (CheckState::Failing, false));
        assert!(store.is_write_due(Duration::ZERO) && !store.is_write_due(NEVER));
        // Nobody's fault.
        store.called(true, Some(&StoreError::NotOwner(crus_core::UpgradeId(uuid::Uuid::nil()))));
        assert!(!store.is_usable());
        store.called(true, None);
        assert!(store.is_usable() && !store.is_write_due(Duration::ZERO));
    }

    #[test]
    fn a_lease_that_is_lost_is_shown_with_its_reason() {
        let held = Arc::new(Mutex::new(true));
        let look = Arc::clone(&held);
        let state = LeaseState::new(Arc::new(Set::default()), move || match *look.lock().unwrap() {
            true => Lease { trouble: None, sessions: 3 },
            false => Lease { trouble: Some("etcd is away".to_owned()), sessions: 0 },
        });
        assert_eq!((state.check().state, state.look().1), (CheckState::Ok, 3));
        *held.lock().unwrap() = false;
        let Check { state, detail, name, .. } = state.check();
        assert_eq!((name, state, detail.as_deref()), ("lease", CheckState::Failing, Some("etcd is away")));
    }
}
