//! Waiting for what must come.

use std::time::{Duration, Instant};

/// The longest wait for what must come, on the slowest of machines.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until `met` holds.
pub async fn until(what: &str, met: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, what, met).await;
}

/// As [`until`], with another limit.
pub async fn until_within(patience: Duration, what: &str, mut met: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !met().await {
        assert!(begun.elapsed() < patience, "not seen in {} s: {what}", patience.as_secs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
