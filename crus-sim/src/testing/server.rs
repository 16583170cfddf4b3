//! A server over TLS that answers as a test wants.

use std::fmt::Display;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

type Act = dyn Fn(&str) -> Answer + Send + Sync;

/// What a request is answered with.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A status line's end, and JSON.
    Json(&'static str, String),
    /// This, whatever it is.
    Raw(String),
    /// Nothing, without closing.
    Silence,
}

/// An answer with this status line's end and body.
pub fn json(status: &'static str, body: impl Display) -> Answer {
    Answer::Json(status, body.to_string())
}

/// A server on the loopback; it ends when this is dropped.
pub struct Server {
    /// The address of its API.
    pub url: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    tls: Mutex<Arc<ServerConfig>>,
    act: Mutex<Arc<Act>>,
    requests: Mutex<Vec<String>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// A server with this certificate that answers so.
    pub async fn new(tls: Arc<ServerConfig>, act: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://localhost:{}/api", listener.local_addr().unwrap().port());
        let act: Arc<Act> = Arc::new(act);
        let state = State { tls: Mutex::new(tls), act: Mutex::new(act), requests: Mutex::default() };
        let state = Arc::new(state);
        let task = tokio::spawn(serve(listener, Arc::clone(&state)));
        Server { url, state, task }
    }

    /// From the next connection on it shows this certificate.
    pub fn show(&self, tls: Arc<ServerConfig>) {
        *self.state.tls.lock().unwrap() = tls;
    }

    /// From the next request on it answers so.
    pub fn act(&self, act: impl Fn(&str) -> Answer + Send + Sync + 'static) {
        *self.state.act.lock().unwrap() = Arc::new(act);
    }

    /// What was asked so far: request lines, headers and bodies.
    pub fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    /// The number of requests so far.
    pub fn count(&self) -> usize {
        self.state.requests.lock().unwrap().len()
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::clone(&*state.tls.lock().unwrap()));
            // Whoever does not like the certificate goes away.
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            let Some(request) = read_request(&mut stream).await else { return };
            let act = Arc::clone(&*state.act.lock().unwrap());
            let answer = act(&request);
            state.requests.lock().unwrap().push(request);
            let text = match answer {
                Answer::Json(status, body) => {
                    let length = body.len();
                    format!(
                        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n\
                         Content-Length: {length}\r\n\r\n{body}"
                    )
                }
                Answer::Raw(text) => text,
                Answer::Silence => return std::future::pending().await,
            };
            // The client may have hung up already: that is its good right.
            if stream.write_all(text.as_bytes()).await.is_ok() {
                _ = stream.shutdown().await;
            }
        });
    }
}

async fn read_request(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        let read = stream.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
}
