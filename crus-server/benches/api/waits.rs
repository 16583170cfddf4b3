//! Time that is lost to other work of the machine: waits on a run queue, from `schedstat`, and stolen time, from `/proc/stat`.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::time::Instant;

/// The run-queue wait of each thread of a process so far, by thread id, in nanoseconds.
type Threads = HashMap<String, u64>;

/// The counters of the system at one moment.
pub(crate) struct Counters {
    read: Instant,
    generator: Threads,
    server: Threads,
    /// Ticks of all processors, and those of them that were stolen.
    ticks: (u64, u64),
}

/// The increase of the counters between two moments.
pub(crate) struct Waits {
    /// Of the load generator's process, in milliseconds a second; `None` if the kernel does not count it.
    generator: Option<f64>,
    /// Of the server's process, likewise.
    server: Option<f64>,
    /// The share of the processors' time that the hypervisor gave to other machines.
    stolen: f64,
}

impl Counters {
    /// Reads the counters of this process, of the server's, and of the machine.
    pub(crate) fn read(server: u32) -> Counters {
        Counters {
            read: Instant::now(),
            generator: threads(std::process::id()),
            server: threads(server),
            ticks: ticks(),
        }
    }

    /// Returns the increase since `before`.
    pub(crate) fn since(&self, before: &Counters) -> Waits {
        let seconds = (self.read - before.read).as_secs_f64();
        let (all, stolen) = (self.ticks.0 - before.ticks.0, self.ticks.1 - before.ticks.1);
        Waits {
            generator: wait_ms(&before.generator, &self.generator).map(|ms| ms / seconds),
            server: wait_ms(&before.server, &self.server).map(|ms| ms / seconds),
            stolen: stolen as f64 / all as f64,
        }
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0}"));
        let (generator, server) = (per_second(self.generator), per_second(self.server));
        write!(f, "{generator:>11}{server:>8}{:>7.1} %", self.stolen * 100.0)
    }
}

/// Returns whether the kernel counts the time that threads spend on a run queue.
pub(crate) fn are_counted() -> bool {
    !threads(std::process::id()).is_empty()
}

/// Returns the threads of a process that have run: none if the kernel does not count their waits. Such a kernel has no
/// `schedstat`, or answers "0 0 0" (Linux: `proc_pid_schedstat` in fs/proc/base.c).
fn threads(process: u32) -> Threads {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    tasks
        .filter_map(|task| {
            let task = task.unwrap();
            // The thread may have ended meanwhile.
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let mut fields = text.split_whitespace().map(|field| field.parse::<u64>().unwrap());
            let (_on_processor, waited, times_run) = (fields.next()?, fields.next()?, fields.next()?);
            (times_run > 0).then(|| (task.file_name().into_string().unwrap(), waited))
        })
        .collect()
}

/// Sums up how much longer the threads have waited. A thread that only one reading has is left out: a listing of /proc may miss
/// one while another ends, and all of its past would count.
fn wait_ms(before: &Threads, after: &Threads) -> Option<f64> {
    let waited = |(id, ns): (&String, &u64)| Some(ns.saturating_sub(*before.get(id)?));
    let ns: u64 = after.iter().filter_map(waited).sum();
    (!after.is_empty()).then_some(ns as f64 / 1e6)
}

/// Reads the line of all processors: user, nice, system, idle, iowait, irq, softirq, steal, in ticks. What follows them is
/// part of user and nice already (proc_stat(5)).
fn ticks() -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let line = text.lines().next().unwrap().strip_prefix("cpu ").unwrap();
    let fields: Vec<u64> = line.split_whitespace().take(8).map(|field| field.parse().unwrap()).collect();
    (fields.iter().sum(), fields[7])
}
