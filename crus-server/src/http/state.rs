//! What a connection waits for, and since when.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::HttpLimits;
use super::places::Client;

/// An answer that is taken at this pace, in bytes for each millisecond, never counts as stalled; one that is taken more
/// slowly does so by as much. 4 KiB/s: a modem's, and the longest list of sessions takes some minutes by it.
const PACE: u64 = 4;

/// How long what a client still sends is taken in after it was told why its connection is closed: a connection closed before
/// that takes the answer away from it.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// For us: a request is being answered.
    Working = 0,
    /// For the client to end the TLS handshake.
    Handshake,
    /// For the first byte of its first request.
    New,
    /// For the first byte of another request.
    Idle,
    /// For the rest of the head of a request.
    Head,
    /// For more of the body of a request.
    Body,
    /// For the client to take in more of an answer.
    Blocked,
    /// For the client to close.
    Lingering,
}

const PHASES: [Phase; 8] = [
    Phase::Working,
    Phase::Handshake,
    Phase::New,
    Phase::Idle,
    Phase::Head,
    Phase::Body,
    Phase::Blocked,
    Phase::Lingering,
];

/// The word of a connection that was closed to make room: nothing that it does changes that.
const CLOSED: u64 = u64::MAX;

/// The state of one connection. Its own task changes it at every turn and without a lock; others look at it when a place is
/// wanted, and may close it.
#[derive(Debug)]
pub(super) struct State {
    /// The time that all times here are counted from.
    epoch: Instant,
    /// The phase in the lowest three bits, and above them since when, in milliseconds.
    word: AtomicU64,
    /// A request was taken in, and its answer is not all handed over.
    serving: AtomicBool,
    /// What was answered last tells why the connection ends.
    last_word: AtomicBool,
    /// The TLS handshake was counted as a request: the first one is not counted again.
    prepaid: AtomicBool,
    /// The service ends.
    stopping: AtomicBool,
    waker: AtomicWaker,
    pub(super) client: Arc<Client>,
    /// What stands for all addresses of the client.
    pub(super) address: IpAddr,
    /// The other end.
    pub(super) remote: SocketAddr,
}

impl State {
    pub(super) fn new(
        epoch: Instant,
        phase: Phase,
        remote: SocketAddr,
        address: IpAddr,
        client: Arc<Client>,
    ) -> Self {
        let state = State {
            epoch,
            word: AtomicU64::new(0),
            serving: AtomicBool::new(false),
            last_word: AtomicBool::new(false),
            prepaid: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            client,
            address,
            remote,
        };
        state.enter(phase);
        state
    }

    fn now(&self) -> u64 {
        // Lasts for 500 million years.
        self.epoch.elapsed().as_millis() as u64
    }

    /// Since the time that all times are counted from.
    pub(super) fn elapsed(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// The phase, and since when; `None` once it was closed to make room.
    pub(super) fn look(&self) -> Option<(Phase, u64)> {
        let word = self.word.load(Ordering::Relaxed);
        (word != CLOSED).then(|| (PHASES[(word & 7) as usize], word >> 3))
    }

    fn is(&self, phase: Phase) -> bool {
        self.look().is_some_and(|(now, _)| now == phase)
    }

    /// It waits for something else from now on.
    pub(super) fn enter(&self, phase: Phase) {
        self.enter_since(phase, self.now());
    }

    fn enter_since(&self, phase: Phase, since: u64) {
        let before = self.word.swap((since << 3) | phase as u64, Ordering::Relaxed);
        if before == CLOSED {
            self.word.store(CLOSED, Ordering::Relaxed);
        }
    }

    /// Counts a request of its client.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub(super) fn ask(&self, per_second: u32) -> Result<(), Duration> {
        match self.prepaid.swap(false, Ordering::Relaxed) {
            true => Ok(()),
            false => self.client.ask(self.elapsed(), per_second),
        }
    }

    /// Counts its first request already.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub(super) fn ask_ahead(&self, per_second: u32) -> Result<(), Duration> {
        self.client.ask(self.elapsed(), per_second)?;
        self.prepaid.store(true, Ordering::Relaxed);
        Ok(())
    }

    // ---- what its own task tells --------------------------------------------------------------------------

    /// Something came from the client.
    pub(super) fn received(&self) {
        match self.look() {
            // The head of its first request is waited for from the beginning.
            Some((Phase::New, since)) => self.enter_since(Phase::Head, since),
            Some((Phase::Idle, _)) => self.enter(Phase::Head),
            Some((Phase::Blocked, _)) if !self.is_serving() => self.enter(Phase::Head),
            _ => {}
        }
    }

    /// A request was taken in.
    pub(super) fn begin(&self) {
        self.serving.store(true, Ordering::Relaxed);
        self.enter(Phase::Working);
    }

    /// More of the body of a request is waited for, since the request was taken in.
    pub(super) fn awaits_body(&self) {
        if let Some((Phase::Working, since)) = self.look() {
            self.enter_since(Phase::Body, since);
        }
    }

    /// The body of a request came, or some of it.
    pub(super) fn got_body(&self) {
        if let Some((Phase::Body, since)) = self.look() {
            self.enter_since(Phase::Working, since);
        }
    }

    /// An answer was handed over to be sent.
    pub(super) fn end(&self) {
        self.serving.store(false, Ordering::Relaxed);
        if !self.is(Phase::Blocked) {
            self.enter(Phase::Idle);
        }
    }

    /// Whether a request was taken in, and its answer is not all handed over.
    pub(super) fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    /// The client takes in no more of an answer.
    pub(super) fn blocked(&self) {
        if matches!(self.look(), Some((Phase::Working | Phase::Idle | Phase::Body, _))) {
            self.enter(Phase::Blocked);
        }
    }

    /// The client took in so many bytes: all that there were, or not.
    pub(super) fn sent(&self, bytes: usize, all: bool) {
        let Some((Phase::Blocked, since)) = self.look() else { return };
        let now = self.now();
        let since = since.saturating_add(bytes as u64 / PACE);
        match all || since >= now {
            true => self.enter(if self.is_serving() { Phase::Working } else { Phase::Idle }),
            false => self.enter_since(Phase::Blocked, since),
        }
    }

    /// What is answered now tells why the connection ends.
    pub(super) fn say_last(&self) {
        self.last_word.store(true, Ordering::Relaxed);
    }

    /// Whether what was answered last tells why the connection ends.
    pub(super) fn said_last(&self) -> bool {
        self.last_word.load(Ordering::Relaxed)
    }

    /// Until when it may wait, if anything but us is waited for. The time-out of a body is another's: it can be told.
    pub(super) fn deadline(&self, limits: &HttpLimits) -> Option<Instant> {
        let (phase, since) = self.look()?;
        let patience = match phase {
            Phase::Working | Phase::Body => return None,
            Phase::Handshake | Phase::New | Phase::Head => limits.head_timeout,
            Phase::Idle => limits.idle_timeout,
            Phase::Blocked => limits.stall_timeout,
            Phase::Lingering => LINGER,
        };
        Some(self.epoch + Duration::from_millis(since) + patience)
    }

    // ---- what others tell ---------------------------------------------------------------------------------

    /// To be told when one of these happens.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Closes it if it still waits for the same, and says whether it did.
    pub(super) fn close(&self, seen: (Phase, u64)) -> bool {
        let word = (seen.1 << 3) | seen.0 as u64;
        let closed = self.word.compare_exchange(word, CLOSED, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if closed {
            self.waker.wake();
        }
        closed
    }

    /// Has it end once what is under way is answered.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether it is to end.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

#[cfg(test)]
impl State {
    /// As [`State::enter`], at another time.
    pub(super) fn enter_at(&self, phase: Phase, since_ms: u64) {
        self.enter_since(phase, since_ms);
    }
}
