//! How many calls to one peer may be under way at a time, whichever sessions they are for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Places for calls. Clones are the same ones. Who waits first gets one first.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    free: Arc<Semaphore>,
    all: usize,
}

/// No place was free for so long: the call was not made.
#[derive(Debug, thiserror::Error)]
#[error("{all} calls to it are under way, and none ended within {} s", patience.as_secs_f64())]
pub(crate) struct AllTaken {
    all: usize,
    patience: Duration,
}

impl Places {
    /// So many places, at least one.
    pub(crate) fn new(count: usize) -> Self {
        let all = count.clamp(1, Semaphore::MAX_PERMITS);
        Places { free: Arc::new(Semaphore::new(all)), all }
    }

    /// Waits for a place, at most so long. It is free again when what this returns is dropped.
    pub(crate) async fn take(&self, patience: Duration) -> Result<SemaphorePermit<'_>, AllTaken> {
        match timeout(patience, self.free.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            // Places are never closed.
            Ok(Err(_)) | Err(_) => Err(AllTaken { all: self.all, patience }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_place_is_waited_for_and_given_back() {
        let places = Places::new(2);
        let one = places.take(Duration::from_secs(60)).await.unwrap();
        places.clone().take(Duration::from_secs(60)).await.map(drop).unwrap();
        let two = places.take(Duration::from_secs(60)).await.unwrap();
        let error = places.take(Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(error.to_string(), "2 calls to it are under way, and none ended within 0.01 s");
        let (third, ()) = tokio::join!(places.take(Duration::from_secs(60)), async { drop(one) });
        assert!(third.is_ok());
        drop(two);
    }
}
