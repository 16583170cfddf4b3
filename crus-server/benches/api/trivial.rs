//! A trivial server: hyper, and an answer that is ready. Its latency is that of the machine and the load generator.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use axum::body::{Body, Bytes};
use hyper::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The argument with which this program is a trivial server; the length of its answers' body follows.
pub(crate) const ARGUMENT: &str = "--trivial-server";

/// The number of worker threads of `crus serve`: `WORKERS` in src/serve.rs.
const WORKERS: usize = 2;

/// A trivial server in a process of its own.
pub(crate) struct Trivial {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Trivial {
    /// Starts a server that answers every request with a body of this length.
    pub(crate) fn start(body_bytes: usize) -> Trivial {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([ARGUMENT, &body_bytes.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Trivial { child, address: line.trim().parse().unwrap() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Trivial {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Runs the server in this process, until the other end of its input is closed: it dies with the bench.
pub(crate) fn run(body_bytes: usize) {
    std::thread::spawn(|| {
        _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let body = Bytes::from(vec![b'x'; body_bytes]);
    runtime.worker_threads(WORKERS).enable_all().build().unwrap().block_on(serve(body));
}

async fn serve(body: Bytes) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let body = body.clone();
        let answer = service_fn(move |_| {
            // Not a copy, which would cost more than the rest at the size of a list.
            let answer = Response::new(Body::from(body.clone()));
            async { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    }
}
