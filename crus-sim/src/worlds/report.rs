//! What many worlds add up to, and the running of them.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{Failed, Outcome, hours, run};
use crate::journal::Kind;
use crate::world::Stuck;

/// How so many worlds went.
#[derive(Debug, Default)]
pub struct Report {
    /// How many came to a good end.
    pub worlds: u64,
    /// All of them together. Of `settling`, the most.
    pub sum: Outcome,
    /// The seed that took the most rounds to settle.
    pub slowest: u64,
    /// The one of the lowest seed that did not end well, if any did not.
    pub failed: Option<Box<Failed>>,
    /// How long it took.
    pub wall: Duration,
    /// Processor time, of all threads together; the wall clock's where the system does not tell.
    pub busy: Duration,
}

impl Report {
    /// Runs the worlds of these seeds on so many threads. After the first that does not end well no more are begun; its
    /// trace is written down.
    pub fn of(first: u64, seeds: u64, threads: usize) -> Report {
        let began = Instant::now();
        let (next, stop) = (AtomicU64::new(0), AtomicU64::new(seeds));
        let report = Mutex::new(Report::default());
        std::thread::scope(|scope| {
            for _ in 0..threads.max(1) {
                scope.spawn(|| {
                    let mut own = Report::default();
                    let (wall, busy) = (Instant::now(), thread_time());
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= stop.load(Ordering::Relaxed) {
                            break;
                        }
                        if !own.take(first + n, guarded(first + n, false)) {
                            stop.fetch_min(n, Ordering::Relaxed);
                        }
                    }
                    own.busy = match (busy, thread_time()) {
                        (Some(from), Some(to)) => to.saturating_sub(from),
                        _ => wall.elapsed(),
                    };
                    report.lock().unwrap_or_else(PoisonError::into_inner).add(own);
                });
            }
        });
        let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(failed) = &mut report.failed
            && let Err(replayed) = guarded(failed.seed, true)
        {
            *failed = replayed;
        }
        report.wall = began.elapsed();
        report
    }

    /// Takes in how a world went; tells whether it went well.
    fn take(&mut self, seed: u64, result: Result<Outcome, Box<Failed>>) -> bool {
        match result {
            Ok(outcome) => {
                self.add(Report { worlds: 1, sum: outcome, slowest: seed, ..Report::default() });
                true
            }
            Err(failed) => {
                self.add(Report { failed: Some(failed), ..Report::default() });
                false
            }
        }
    }

    fn add(&mut self, other: Report) {
        self.worlds += other.worlds;
        self.busy += other.busy;
        if other.sum.settling > self.sum.settling {
            (self.sum.settling, self.slowest) = (other.sum.settling, other.slowest);
        }
        self.sum.counts.add(&other.sum.counts);
        self.sum.checks += other.sum.checks;
        self.sum.virtual_ms += other.sum.virtual_ms;
        merge(&mut self.sum.faults, other.sum.faults);
        merge(&mut self.sum.deeds, other.sum.deeds);
        merge(&mut self.sum.sessions, other.sum.sessions);
        merge(&mut self.sum.nodes, other.sum.nodes);
        merge(&mut self.sum.options, other.sum.options);
        let seed = |failed: &Option<Box<Failed>>| failed.as_ref().map_or(u64::MAX, |failed| failed.seed);
        if seed(&other.failed) < seed(&self.failed) {
            self.failed = other.failed;
        }
    }
}

fn merge<K: Ord>(sum: &mut BTreeMap<K, u64>, more: BTreeMap<K, u64>) {
    for (key, count) in more {
        *sum.entry(key).or_default() += count;
    }
}

/// A world whose panic is a failure like any other, so that its seed is told.
fn guarded(seed: u64, trace: bool) -> Result<Outcome, Box<Failed>> {
    catch_unwind(AssertUnwindSafe(|| run(seed, trace))).unwrap_or_else(|_| {
        let stuck = Stuck::Failed("a panic, told above".to_owned());
        Err(Box::new(Failed { seed, stuck, trace: String::new() }))
    })
}

/// The processor time of this thread, where the system tells it.
fn thread_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { worlds, sum, slowest, wall, busy, .. } = self;
        let events = sum.events();
        writeln!(f, "{worlds} worlds, {events} events, {} checks", sum.checks)?;
        writeln!(f, "\nevents")?;
        for kind in Kind::ALL {
            writeln!(f, "  {:<28}{:>14}", kind.name(), sum.events_of(kind))?;
        }
        writeln!(f, "\nfaults by port")?;
        for ((peer, kind), count) in &sum.faults {
            writeln!(f, "  {:<40}{:<14}{count:>10}", peer.to_string(), kind)?;
        }
        writeln!(f, "\nwhat befell the service, and what operators did")?;
        for (deed, count) in &sum.deeds {
            writeln!(f, "  {:<34}{count:>10}", deed.name())?;
        }
        writeln!(f, "\nstrategies")?;
        for (option, count) in &sum.options {
            writeln!(f, "  {option:<34}{count:>10}")?;
        }
        writeln!(f, "\nsessions")?;
        for (how, count) in &sum.sessions {
            writeln!(f, "  {how:<34}{count:>10}")?;
        }
        writeln!(f, "nodes of completed sessions")?;
        for (how, count) in &sum.nodes {
            writeln!(f, "  {how:<34}{count:>10}")?;
        }
        let (rounds, ms) = sum.settling;
        writeln!(
            f,
            "\nfrom the last fault to the end: at most {rounds} rounds (seed {slowest}: {})",
            hours(ms)
        )?;
        writeln!(f, "virtual time: {}", hours(sum.virtual_ms))?;
        let (wall, busy) = (wall.as_secs_f64(), busy.as_secs_f64());
        let rate = if busy > 0.0 { events as f64 / busy } else { 0.0 };
        write!(f, "wall time: {wall:.1} s; processor time: {busy:.1} s; {rate:.0} events per second and core")
    }
}
