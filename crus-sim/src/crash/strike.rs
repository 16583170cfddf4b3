//! Points, and what strikes there.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, pending};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crus_core::Time;
use crus_core::ports::{Bos, Clock, RebootRequest, StoreError};

/// Where a point is. The names are those of [`Calls`](crate::ports::Calls), and `store.save` and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Nothing is asked yet.
    Before(&'static str),
    /// It was carried out, and the service does not know.
    After(&'static str),
    /// After a round of a session: what it saw is taken in, and what it must not forget is stored.
    Round,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Before(call) => write!(f, "before {call}"),
            Place::After(call) => write!(f, "after {call}"),
            Place::Round => f.write_str("after a round"),
        }
    }
}

impl Place {
    /// Whether it is right before a request that changes a peer.
    pub(super) fn is_request(self) -> bool {
        matches!(self, Place::Before(call) if REQUESTS.contains(&call))
    }
}

const REQUESTS: [&str; 9] = [
    "hsm.add_members",
    "hsm.remove_members",
    "bos.reboot",
    "wlm.drain",
    "wlm.resume",
    "wlm.down",
    "wlm.set_reason",
    "wlm.requeue",
    "wlm.cancel",
];

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strike {
    /// The service dies, and starts again after so many virtual milliseconds.
    Dies {
        /// How long it is away.
        down_ms: u64,
    },
    /// Before a request: it arrives twice, as one does that something on the way sent again.
    Twice,
    /// Before a reboot: the service dies and starts again at once, and the request arrives so many virtual
    /// milliseconds later.
    Late {
        /// How much later.
        ms: u64,
    },
    /// Before a request or a write: it is carried out, its answer is lost, and the service lives on.
    Lost,
}

/// What happens at which points, counted from 0. As text: `12:dies:0,31:twice,40:late:5000,57:lost`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Strikes(pub(super) BTreeMap<usize, Strike>);

impl<const N: usize> From<[(usize, Strike); N]> for Strikes {
    fn from(strikes: [(usize, Strike); N]) -> Self {
        Strikes(strikes.into())
    }
}

impl fmt::Display for Strikes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0.iter().map(|(at, strike)| match strike {
            Strike::Dies { down_ms } => format!("{at}:dies:{down_ms}"),
            Strike::Twice => format!("{at}:twice"),
            Strike::Late { ms } => format!("{at}:late:{ms}"),
            Strike::Lost => format!("{at}:lost"),
        });
        f.write_str(&words.collect::<Vec<_>>().join(","))
    }
}

impl FromStr for Strikes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let strike = |word: &str| {
            let mut parts = word.split(':');
            let at = parts.next()?.parse().ok()?;
            let kind = parts.next()?;
            let ms = parts.next().map(|ms| ms.parse().ok());
            let strike = match (kind, ms) {
                ("dies", Some(ms)) => Strike::Dies { down_ms: ms? },
                ("late", Some(ms)) => Strike::Late { ms: ms? },
                ("twice", None) => Strike::Twice,
                ("lost", None) => Strike::Lost,
                _ => return None,
            };
            Some((at, strike))
        };
        let words = text.split(',').filter(|word| !word.is_empty());
        let strikes = words.map(|word| strike(word).ok_or_else(|| format!("{word:?} is no strike")));
        Ok(Strikes(strikes.collect::<Result<_, _>>()?))
    }
}

/// The points that the service of one world passes, and what strikes it there. Clones are the same points.
#[derive(Clone, Default)]
pub struct Points(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    strikes: Strikes,
    passed: Vec<Place>,
    struck: usize,
    /// How long the service that just died stays away.
    dying: Option<u64>,
    deaths: u64,
    clock: Option<Arc<dyn Clock>>,
    late: Vec<(Time, Arc<dyn Bos>, RebootRequest)>,
}

impl Points {
    /// Points at which this happens.
    pub fn with(strikes: Strikes) -> Self {
        Points(Arc::new(Mutex::new(State { strikes, ..State::default() })))
    }

    /// The points passed so far, in order.
    pub fn passed(&self) -> Vec<Place> {
        self.state().passed.clone()
    }

    /// How often something happened at one of them.
    pub fn struck(&self) -> usize {
        self.state().struck
    }

    /// How often the service died.
    pub fn deaths(&self) -> u64 {
        self.state().deaths
    }

    /// The clock by which late requests arrive.
    pub(super) fn tell_time_by(&self, clock: Arc<dyn Clock>) {
        self.state().clock = Some(clock);
    }

    /// How long the service stays away, if it has just died.
    pub(crate) fn take_death(&self) -> Option<u64> {
        self.state().dying.take()
    }

    /// Passes the point after a round; whether the service dies there.
    pub(crate) fn round_ended(&self) -> bool {
        self.pass(Place::Round);
        self.state().dying.is_some()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a point. What strikes there and is not over with it is returned.
    fn pass(&self, place: Place) -> Option<Strike> {
        let mut state = self.state();
        let at = state.passed.len();
        state.passed.push(place);
        let strike = state.strikes.0.get(&at).copied()?;
        state.struck += 1;
        let down_ms = match strike {
            Strike::Dies { down_ms } => down_ms,
            Strike::Late { .. } => 0,
            Strike::Twice | Strike::Lost => return Some(strike),
        };
        state.dying = Some(down_ms);
        state.deaths += 1;
        Some(strike)
    }

    /// Passes a point before or after a call. A service that dies there never goes on.
    pub(super) async fn arrive(&self, place: Place) -> Option<Strike> {
        self.deliver(None).await;
        let strike = self.pass(place)?;
        if self.state().dying.is_some() && !matches!(strike, Strike::Late { .. }) {
            pending::<()>().await;
        }
        Some(strike)
    }

    /// Writes to the store, with a point before and after it.
    pub(crate) async fn write<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let strike = self.arrive(Place::Before(call)).await;
        let answer = answer.await;
        self.arrive(Place::After(call)).await;
        if strike == Some(Strike::Lost) {
            return Err(StoreError::Failed("the answer was lost".to_owned()));
        }
        answer
    }

    /// How much later a reboot arrives that is asked for now, if that strikes at the next point.
    pub(super) fn late_next(&self) -> Option<u64> {
        let state = self.state();
        match state.strikes.0.get(&state.passed.len()) {
            Some(Strike::Late { ms }) => Some(*ms),
            _ => None,
        }
    }

    /// Takes a request that arrives so many virtual milliseconds later.
    pub(super) fn arrives_late(&self, ms: u64, bos: Arc<dyn Bos>, request: RebootRequest) {
        let mut state = self.state();
        let arrives = state.clock.as_ref().map(|clock| clock.now()).unwrap_or_default() + ms;
        state.late.push((arrives, bos, request));
    }

    /// Lets late requests arrive that are due, or all that are due by then.
    pub(super) async fn deliver(&self, by: Option<Time>) {
        let due: Vec<_> = {
            let mut state = self.state();
            if state.late.is_empty() {
                return;
            }
            let by = by.or_else(|| state.clock.as_ref().map(|clock| clock.now())).unwrap_or_default();
            state.late.extract_if(.., |(at, ..)| *at <= by).collect()
        };
        for (_, bos, request) in due {
            // Nobody is there to hear the answer.
            drop(bos.reboot(&request).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_are_read_as_they_are_written() {
        let text = "12:dies:0,31:twice,40:late:5000,57:lost";
        assert_eq!(text.parse::<Strikes>().map(|strikes| strikes.to_string()), Ok(text.to_owned()));
        assert_eq!("12:sleeps".parse::<Strikes>(), Err("\"12:sleeps\" is no strike".to_owned()));
    }
}
