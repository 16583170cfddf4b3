//! How many files may be open: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Kept for all else: the store, calls to peers (16 to each of two), the pipes of Slurm's programs and of checks, and what
/// their libraries open for a moment.
const OTHERS: u64 = 256;

/// Makes room for so many connections, and says how many of them there may be.
///
/// The soft limit is raised no further than that: programs that we start inherit it, and some of them, Slurm's among them,
/// close every file that there might be.
pub fn fit(max_connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let (now, most) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let wanted = max_connections as u64 + OTHERS;
    let mut given = now;
    if now < wanted {
        let raised = Rlimit { current: Some(wanted.min(most)), maximum: limit.maximum };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => given = wanted.min(most),
            Err(error) => warn!(%error, "failed to raise the limit of open files"),
        }
    }
    let fitting = fitting(max_connections, given);
    if fitting < max_connections {
        warn!(
            "max_connections is {max_connections}, and the system lets the service open {given} files: no more than \
             {fitting} connections are served at a time. Raise the limit (LimitNOFILE of systemd, ulimit -Hn) to {wanted}"
        );
    }
    fitting
}

/// How many of so many streams of events there may be beside so many connections, which may be fewer than configured: they never
/// take all places, or nobody could do anything about what they show.
pub fn fit_streams(max_streams: usize, connections: usize) -> usize {
    if max_streams < connections {
        return max_streams;
    }
    let fitting = connections / 2;
    warn!(
        "max_streams is {max_streams}, and no more than {connections} connections are served at a time: no more than {fitting} \
         clients may follow events, so that others can be served"
    );
    fitting
}

/// Half of few files are for connections.
fn fitting(max_connections: usize, files: u64) -> usize {
    let room = files.saturating_sub(OTHERS).max(files / 2).max(1);
    max_connections.min(usize::try_from(room).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_all_else() {
        assert_eq!(fitting(1024, 4096), 1024);
        assert_eq!(fitting(1024, 1024), 768);
        assert_eq!(fitting(1024, 256), 128);
        assert_eq!(fitting(10, 256), 10);
        assert_eq!(fitting(10, 0), 1);
    }

    #[test]
    fn streams_never_take_all_connections() {
        assert_eq!(fit_streams(64, 1024), 64);
        assert_eq!(fit_streams(63, 64), 63);
        assert_eq!(fit_streams(64, 64), 32);
        assert_eq!(fit_streams(64, 10), 5);
        assert_eq!(fit_streams(1, 1), 0);
    }
}
