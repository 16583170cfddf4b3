//! Who is connected, and who makes room when there is none left.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::state::{Phase, State};

/// So long a connection has its place for sure: it may have sent its request already.
const GRACE: Duration = Duration::from_millis(250);

/// When there is no place, one in so many connections makes room at a time, so that it need not be looked for the longest
/// waiting ones each time.
const BATCH: usize = 32;

/// So many connections that were closed to make room may still be there, each with its file and its memory, until their tasks
/// have come round to end; twice as many for the sake of clients that have few.
const ENDING: usize = 64;

/// So many clients are remembered beyond those that are connected, each for as long as it has not got back the whole of its
/// burst.
const REMEMBERED: usize = 4096;

/// So long a client may ask at its pace at once, after it was silent.
const BURST: Duration = Duration::from_secs(2);

/// One address, or what stands for one.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// When it has got back the whole of its burst, in nanoseconds since the epoch.
    whole: AtomicU64,
}

impl Client {
    /// Takes in another request at this time since the epoch.
    ///
    /// # Errors
    /// When it asks at a higher rate than so many requests in a second: after what time it may ask again.
    pub(super) fn ask(&self, now: Duration, per_second: u32) -> Result<(), Duration> {
        let now = nanoseconds(now);
        let one = 1_000_000_000 / u64::from(per_second.max(1));
        // However low the rate, one may always be asked.
        let burst = nanoseconds(BURST).max(one);
        let taken = self.whole.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |whole| {
            let whole = whole.max(now) + one;
            (whole - now <= burst).then_some(whole)
        });
        taken.map(|_| ()).map_err(|whole| Duration::from_nanos(whole.max(now) + one - now - burst))
    }

    fn is_whole(&self, now: Duration) -> bool {
        self.whole.load(Ordering::Relaxed) <= nanoseconds(now)
    }
}

fn nanoseconds(time: Duration) -> u64 {
    // Lasts for 500 years.
    time.as_nanos() as u64
}

/// What stands for all addresses that one client may have: of IPv6 a customer is given 64 bits at least.
fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

/// All connections.
#[derive(Debug)]
pub(super) struct Places {
    epoch: Instant,
    limit: usize,
    limit_per_client: Option<usize>,
    table: Mutex<Table>,
    /// Told whenever a place is free again.
    freed: Notify,
    /// Each connection holds a receiver.
    ended: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Table {
    connections: HashMap<u64, Arc<State>>,
    clients: HashMap<IpAddr, Known>,
    next: u64,
    stopping: bool,
}

#[derive(Debug, Default)]
struct Known {
    client: Arc<Client>,
    connections: usize,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// All are taken by connections that are being served, or only just came. It is tried again in a moment.
    Full,
    /// This client has its share.
    Client,
}

/// A place, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    id: u64,
    pub(super) state: Arc<State>,
    _ended: watch::Receiver<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(self.id);
        self.places.freed.notify_one();
    }
}

/// What was done to find a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Evicted(pub(super) usize);

impl Places {
    pub(super) fn new(limit: usize, limit_per_client: Option<usize>) -> Arc<Self> {
        Arc::new(Places {
            epoch: Instant::now(),
            limit: limit.max(1),
            limit_per_client,
            table: Mutex::default(),
            freed: Notify::new(),
            ended: watch::Sender::new(()),
        })
    }

    /// Whether all are.
    pub(super) fn are_taken(&self) -> bool {
        self.count() >= self.limit
    }

    /// A place for a connection from there.
    ///
    /// When all are taken, the connections that have waited longest for their clients make room: of clients that have no fewer,
    /// and are among the heavy ones. When none of these has had its time, the client with the most connections makes room for
    /// one that has fewer; a client that has some is refused more, and one that has none yet waits.
    pub(super) fn take(
        self: &Arc<Self>,
        remote: SocketAddr,
        phase: Phase,
    ) -> (Result<Place, Refusal>, Evicted) {
        let address = key(remote.ip());
        let now = self.epoch.elapsed();
        let mut table = self.lock();
        let mut evicted = 0;
        let of_client = table.clients.get(&address).map_or(0, |known| known.connections);
        let ending = self.ended.receiver_count().saturating_sub(self.limit);
        if ending > ENDING {
            let (_, most) = table.heaviest();
            if of_client > 0 && of_client + 1 >= most && of_client < table.connections.len() {
                return (Err(Refusal::Client), Evicted(0));
            } else if of_client + 1 >= most || ending > 2 * ENDING {
                return (Err(Refusal::Full), Evicted(0));
            }
        }
        if self.limit_per_client.is_some_and(|limit| of_client >= limit) {
            let closed = table.make_room(1, now.saturating_sub(GRACE), |state, _| state.address == address);
            if closed == 0 {
                return (Err(Refusal::Client), Evicted(0));
            }
            evicted += closed;
        }
        if table.connections.len() >= self.limit {
            let (heaviest, most) = table.heaviest();
            // Nobody makes room for who has more, nor a light client while there are heavy ones.
            let least = of_client.max(most.div_ceil(2));
            let had_its_time = now.saturating_sub(GRACE);
            let mut closed = table.make_room(self.limit.div_ceil(BATCH), had_its_time, |_, of| of >= least);
            if closed == 0 {
                if of_client + 1 < most {
                    closed = table.make_room(1, now, |state, _| state.address == heaviest);
                } else if of_client > 0 && of_client < table.connections.len() {
                    return (Err(Refusal::Client), Evicted(evicted));
                }
            }
            if closed == 0 {
                return (Err(Refusal::Full), Evicted(evicted));
            }
            evicted += closed;
        }
        if table.clients.len() >= self.limit + REMEMBERED {
            table.forget(now, REMEMBERED / 2);
        }
        let known = table.clients.entry(address).or_default();
        known.connections += 1;
        let state = Arc::new(State::new(self.epoch, phase, remote, address, Arc::clone(&known.client)));
        if table.stopping {
            state.stop();
        }
        table.next += 1;
        let id = table.next;
        table.connections.insert(id, Arc::clone(&state));
        let place = Place { places: Arc::clone(self), id, state, _ended: self.ended.subscribe() };
        (Ok(place), Evicted(evicted))
    }

    /// Ready when there may be a place again: one is free, or has been taken for long enough.
    pub(super) async fn freed(&self) {
        // No matter which: it is tried again.
        _ = tokio::time::timeout(GRACE / 10, self.freed.notified()).await;
    }

    /// Closes some of the connections that have waited longest: the system has no more.
    pub(super) fn make_room(&self) -> usize {
        let count = self.limit.div_ceil(BATCH);
        self.lock().make_room(count, self.epoch.elapsed().saturating_sub(GRACE), |_, _| true)
    }

    /// Has every connection end once what is under way on it is answered.
    pub(super) fn stop(&self) {
        let mut table = self.lock();
        table.stopping = true;
        table.connections.values().for_each(|state| state.stop());
    }

    /// Ready once all connections have ended.
    pub(super) async fn ended(&self) {
        self.ended.closed().await;
    }

    /// How many connections there are.
    pub(super) fn count(&self) -> usize {
        self.lock().connections.len()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Every change leaves the table whole, whoever panics.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The client with the most connections, and how many these are.
    fn heaviest(&self) -> (IpAddr, usize) {
        let all = self.clients.iter().map(|(address, known)| (*address, known.connections));
        all.max_by_key(|(_, count)| *count).unwrap_or((IpAddr::from([0, 0, 0, 0]), 0))
    }

    /// Closes up to so many connections that wait for their clients, not later than since `latest`: those that have waited
    /// longest, among these, given with how many connections their clients have. Their places are free at once; their tasks
    /// end a moment later.
    fn make_room(&mut self, count: usize, latest: Duration, among: impl Fn(&State, usize) -> bool) -> usize {
        let latest = latest.as_millis() as u64;
        let mut waiting: Vec<(u64, u64, Phase)> = Vec::new();
        for (id, state) in &self.connections {
            let of_client = || self.clients.get(&state.address).map_or(0, |known| known.connections);
            if let Some((phase, since)) = state.look()
                && phase != Phase::Working
                && since <= latest
                && among(state, of_client())
            {
                waiting.push((since, *id, phase));
            }
        }
        if waiting.len() > count && count > 0 {
            waiting.select_nth_unstable_by_key(count - 1, |(since, id, _)| (*since, *id));
            waiting.truncate(count);
        }
        let mut closed = 0;
        for (since, id, phase) in waiting {
            // It may have gone on since.
            if self.connections.get(&id).is_some_and(|state| state.close((phase, since))) {
                self.remove(id);
                closed += 1;
            }
        }
        closed
    }

    /// Once its place is free nothing happens.
    fn remove(&mut self, id: u64) {
        let Some(state) = self.connections.remove(&id) else { return };
        if let Some(known) = self.clients.get_mut(&state.address) {
            known.connections -= 1;
            if known.connections == 0 && known.client.is_whole(state.elapsed()) {
                self.clients.remove(&state.address);
            }
        }
    }

    /// Forgets clients that are not connected: those that have got back the whole of their bursts, and the others, too, when
    /// more than so many would stay.
    fn forget(&mut self, now: Duration, most: usize) {
        self.clients.retain(|_, known| known.connections > 0 || !known.client.is_whole(now));
        if self.clients.values().filter(|known| known.connections == 0).count() > most {
            self.clients.retain(|_, known| known.connections > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> SocketAddr {
        SocketAddr::from((std::net::Ipv4Addr::from_bits(0x7f00_0000 + n), 1))
    }

    /// A place, for one who has waited for so long already.
    fn waiting(places: &Arc<Places>, n: u32, phase: Phase, since_ms: u64) -> Place {
        let place = places.take(address(n), Phase::Working).0.unwrap();
        place.state.enter_at(phase, since_ms);
        place
    }

    /// Places of which each was taken long enough ago.
    fn places(limit: usize, per_client: Option<usize>) -> Arc<Places> {
        let mut places = Places::new(limit, per_client);
        Arc::get_mut(&mut places).unwrap().epoch = Instant::now() - Duration::from_secs(1000);
        places
    }

    #[test]
    fn who_has_waited_longest_makes_room_and_who_is_served_never_does() {
        let places = places(3, None);
        let served = waiting(&places, 1, Phase::Working, 0);
        let older = waiting(&places, 2, Phase::Head, 5);
        let newer = waiting(&places, 3, Phase::Idle, 6);
        let (fourth, evicted) = places.take(address(4), Phase::New);
        assert_eq!(evicted, Evicted(1));
        assert_eq!(older.state.look(), None, "closed");
        assert!(served.state.look().is_some() && newer.state.look().is_some());
        older.state.begin();
        assert_eq!(older.state.look(), None, "nothing that it does opens it again");
        drop(older);
        assert_eq!(places.count(), 3, "its place was another's already");
        let (fifth, _) = places.take(address(5), Phase::New);
        assert_eq!(newer.state.look(), None);
        // Nobody is left who has had its time.
        assert_eq!(places.take(address(6), Phase::New).0.unwrap_err(), Refusal::Full);
        drop((fourth, fifth, served, newer));
        assert_eq!(places.count(), 0);
        assert!(places.lock().clients.is_empty(), "nothing is kept of who never asked");
    }

    #[test]
    fn who_has_fewest_finds_a_place_however_fast_others_come() {
        let places = places(4, None);
        // None of these has had its time.
        let heavy: Vec<Place> = [1, 1, 1, 2].map(|n| places.take(address(n), Phase::New).0.unwrap()).into();
        heavy[0].state.enter(Phase::Working);
        let (light, evicted) = places.take(address(3), Phase::New);
        assert_eq!((light.is_ok(), evicted), (true, Evicted(1)));
        let open: Vec<bool> = heavy.iter().map(|place| place.state.look().is_some()).collect();
        assert_eq!(open, [true, false, true, true], "who is served makes no room");
        assert_eq!(places.take(address(1), Phase::New).0.unwrap_err(), Refusal::Client);
        // As many as the heaviest would have: one that has none may wait.
        let _fourth = places.take(address(4), Phase::New).0.unwrap();
        assert_eq!(places.take(address(5), Phase::New).0.unwrap_err(), Refusal::Full);
    }

    #[test]
    fn nobody_makes_room_for_who_has_more() {
        let places = places(5, None);
        let light = waiting(&places, 9, Phase::Idle, 0);
        let heavy: Vec<Place> = (1..5).map(|n| waiting(&places, 1, Phase::Head, n)).collect();
        let _more = [1, 2].map(|n| places.take(address(n), Phase::New).0.unwrap());
        let open: Vec<bool> = heavy.iter().map(|place| place.state.look().is_some()).collect();
        assert_eq!(open, [false, false, true, true]);
        assert!(light.state.look().is_some(), "though it has waited longest");
    }

    #[test]
    fn those_that_made_room_count_until_they_are_gone() {
        let places = places(3, None);
        // Whose tasks never come round to end.
        let mut closed = Vec::new();
        let refused = loop {
            match places.take(address(1), Phase::Idle).0 {
                Ok(place) => {
                    place.state.enter_at(Phase::Idle, closed.len() as u64);
                    closed.push(place);
                }
                Err(refused) => break refused,
            }
        };
        assert_eq!((closed.len(), refused), (3 + ENDING + 1, Refusal::Full), "the only client waits");
        let light = places.take(address(2), Phase::Working).0.unwrap();
        assert_eq!(places.take(address(1), Phase::New).0.unwrap_err(), Refusal::Client);
        drop(closed);
        assert!(places.take(address(1), Phase::New).0.is_ok());
        drop(light);
    }

    #[test]
    fn a_client_with_too_many_connections_makes_room_for_itself() {
        let places = places(10, Some(2));
        let other = waiting(&places, 9, Phase::New, 0);
        let first = waiting(&places, 1, Phase::Idle, 1);
        let second = waiting(&places, 1, Phase::Working, 0);
        let third = places.take(address(1), Phase::New).0.unwrap();
        assert_eq!(first.state.look(), None);
        assert_eq!(places.take(address(1), Phase::New).0.unwrap_err(), Refusal::Client);
        drop((second, third));
        assert!(places.take(address(1), Phase::New).0.is_ok());
        assert!(other.state.look().is_some());
    }

    #[test]
    fn requests_beyond_the_rate_are_told_when_to_come_again() {
        let client = Client::default();
        let at = |ms| client.ask(Duration::from_millis(ms), 10);
        for _ in 0..20 {
            at(1000).unwrap();
        }
        assert_eq!(at(1000), Err(Duration::from_millis(100)));
        assert_eq!(at(1040), Err(Duration::from_millis(60)));
        at(1100).unwrap();
        assert!(at(1100).is_err());
        assert!(!client.is_whole(Duration::from_millis(1100)));
        assert!(client.is_whole(Duration::from_millis(3100)));
        for _ in 0..20 {
            at(60_000).unwrap();
        }
        assert!(at(60_000).is_err(), "no more than a burst is saved up");
        let slow = Client::default();
        slow.ask(Duration::ZERO, 1).unwrap();
    }

    #[test]
    fn the_table_of_clients_is_bounded_whoever_comes() {
        let places = Places::new(4, None);
        for n in 0..20_000 {
            let place = places.take(address(n), Phase::Working).0.unwrap();
            for _ in 0..3 {
                place.state.client.ask(place.state.elapsed(), 1).ok();
            }
        }
        assert!(places.lock().clients.len() <= 4 + REMEMBERED);
    }

    #[test]
    fn addresses_of_one_client_are_one() {
        let key_of = |text: &str| key(text.parse().unwrap());
        assert_eq!(key_of("2001:db8:1:2:aaaa::1"), key_of("2001:db8:1:2:bbbb::2"));
        assert_ne!(key_of("2001:db8:1:2::1"), key_of("2001:db8:1:3::1"));
        assert_eq!(key_of("::ffff:10.0.0.1"), key_of("10.0.0.1"));
        assert_ne!(key_of("10.0.0.1"), key_of("10.0.0.2"));
    }
}
