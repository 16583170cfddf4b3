//! How long a test waits for what must come.

use std::time::{Duration, Instant};

/// On the slowest of machines.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Looks again and again until `met` holds.
pub async fn until(what: &str, met: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, what, met).await;
}

/// The same, for so long.
pub async fn until_within(patience: Duration, what: &str, mut met: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !met().await {
        assert!(begun.elapsed() < patience, "not seen in {} s: {what}", patience.as_secs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
