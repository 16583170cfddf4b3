//! What the process takes of the machine, by `/proc`.

use std::fs;

/// What the process takes at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) resident_bytes: i64,
    pub(super) open_fds: i64,
}

impl Usage {
    /// `None` where the system does not tell.
    pub(super) fn read() -> Option<Usage> {
        let pages = fs::read_to_string("/proc/self/statm").ok()?;
        let resident: i64 = pages.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let page = i64::try_from(rustix::param::page_size()).ok()?;
        // One of them is the folder that is being read.
        let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
        Some(Usage { resident_bytes: resident.saturating_mul(page), open_fds: i64::try_from(open).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_files_are_those_of_this_process() {
        let before = Usage::read().unwrap();
        let held: Vec<fs::File> = (0..50).map(|_| fs::File::open("/proc/self/statm").unwrap()).collect();
        let memory = std::hint::black_box(vec![1_u8; 64 << 20]);
        let with = Usage::read().unwrap();
        // Other tests run beside.
        assert!(with.open_fds >= before.open_fds + 25, "{before:?} {with:?}");
        assert!(with.resident_bytes >= before.resident_bytes + (32 << 20), "{before:?} {with:?}");
        drop((held, memory));
    }
}
