//! A client that follows the events of a session.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::support::{PATIENCE, Service};

/// An event as a client sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: Option<u64>,
    pub(crate) kind: String,
    pub(crate) data: Value,
}

/// A client that follows a session on one connection, until that ends.
pub(crate) struct Client {
    seen: Arc<Mutex<Vec<Event>>>,
    /// Whether the stream came to its end in order.
    reading: JoinHandle<bool>,
}

impl Client {
    /// `last`: the number of the event that it saw last, or 0.
    pub(crate) async fn connect(service: &Service, path: &str, last: u64) -> Self {
        let request = reqwest::Client::new().get(format!("{}{path}/events", service.url));
        let request = request.header("accept", "text/event-stream").header("last-event-id", last);
        let mut response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::clone(&seen);
        let reading = tokio::spawn(async move {
            let mut rest = String::new();
            loop {
                match response.chunk().await {
                    Ok(Some(bytes)) => rest += std::str::from_utf8(&bytes).unwrap(),
                    Ok(None) => return true,
                    Err(_) => return false,
                }
                while let Some((block, more)) = rest.split_once("\n\n") {
                    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                    if let (Some(kind), Some(data)) = (field("event: "), field("data: ")) {
                        let id = field("id: ").map(|id| id.parse().unwrap());
                        let data = serde_json::from_str(data).unwrap();
                        events.lock().unwrap().push(Event { id, kind: kind.to_owned(), data });
                    }
                    rest = more.to_owned();
                }
            }
        });
        Client { seen, reading }
    }

    pub(crate) fn seen(&self) -> Vec<Event> {
        self.seen.lock().unwrap().clone()
    }

    /// Once its connection has ended: what it saw, and whether that was the end of the stream.
    pub(crate) async fn end(self) -> (Vec<Event>, bool) {
        let in_order = tokio::time::timeout(PATIENCE, self.reading).await.unwrap().unwrap();
        let seen = self.seen.lock().unwrap().clone();
        (seen, in_order)
    }
}
