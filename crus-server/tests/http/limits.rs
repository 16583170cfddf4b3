//! Each limit, and what is said to who exceeds it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::routing::{get, post};
use crus_server::http::HttpLimits;
use futures_util::stream;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::{GET, GET_AND_CLOSE, HANGS, Served, gated, limits, rest, until};

/// Short, and long enough for a loaded machine to do something before it is over.
const SHORT: Duration = Duration::from_millis(400);

fn hello() -> Router {
    Router::new().route("/", get(async || "hello"))
}

/// The status, the headers, and the problem of an answer that is the last on its connection.
fn problem(answer: &str) -> (u16, String, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").expect(answer);
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    let problem: Value = serde_json::from_str(body).expect(body);
    assert_eq!(problem["status"], status);
    (status, head.to_owned(), problem)
}

/// The detail of an answer that the OpenAPI document has for every operation.
fn documented(name: &str) -> String {
    let document: Value = serde_json::from_str(crus_api::routes::OPENAPI).unwrap();
    let answer = &document["components"]["responses"][name]["content"]["application/problem+json"];
    answer["example"]["detail"].as_str().unwrap().to_owned()
}

/// A connection from another address of loopback.
async fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 7, last), 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// One answer of `hello`, on a connection that is kept.
async fn greet(stream: &mut TcpStream) -> bool {
    let asked = async {
        stream.write_all(GET).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            answer.push(stream.read_u8().await?);
        }
        Ok::<_, std::io::Error>(())
    };
    timeout(HANGS, asked).await.expect("an answer, or the end of the connection").is_ok()
}

#[tokio::test]
async fn what_is_no_request_is_told_so_in_a_problem() {
    let served = Served::new(hello(), limits()).await;
    for garbage in [&b"\x16\x03\x01\x02\x00\x01"[..], b"HELLO\r\n\r\n", b"GET / HTTP/1.1\r\nna me: x\r\n\r\n"]
    {
        let (status, head, problem) = problem(&rest(served.connect(garbage).await).await);
        assert_eq!(status, 400, "{garbage:?}");
        assert!(head.contains("connection: close") && head.contains("date: "), "{head}");
        assert!(problem["detail"].as_str().unwrap().contains("not a request of HTTP/1.1"));
    }
}

#[tokio::test]
async fn heads_that_are_too_long_are_told_what_they_may_have() {
    let served = Served::new(hello(), HttpLimits { max_header_bytes: 2000, ..limits() }).await;
    let long = format!("GET / HTTP/1.1\r\nhost: crus\r\nx: {}\r\n\r\n", "x".repeat(3000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: 1\r\n".repeat(101));
    // Sent on without end, it is not read on.
    let endless = format!("GET / HTTP/1.1\r\nx: {}", "x".repeat(300_000));
    for request in [long, many, endless] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        // It may be refused before all is sent.
        stream.write_all(request.as_bytes()).await.ok();
        let (status, _, problem) = problem(&rest(stream).await);
        assert_eq!(status, 431);
        assert_eq!(problem["detail"], documented("HeadTooLong").replace("16384", "2000"));
    }
    let fits = format!("GET / HTTP/1.1\r\nconnection: close\r\n{}\r\n", "x: 1\r\n".repeat(99));
    assert!(rest(served.connect(fits.as_bytes()).await).await.ends_with("hello"));
}

#[tokio::test]
async fn a_path_that_is_too_long_is_told_so() {
    let served = Served::new(hello(), HttpLimits { max_header_bytes: 100_000, ..limits() }).await;
    let request = format!("GET /{} HTTP/1.1\r\nhost: crus\r\n\r\n", "x".repeat(66_000));
    let (status, _, _) = problem(&rest(served.connect(request.as_bytes()).await).await);
    assert_eq!(status, 414);
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_must_be_whole_in_time() {
    let served = Served::new(hello(), HttpLimits { head_timeout: SHORT, ..limits() }).await;
    let mut stream = served.connect(b"GET / HTTP/1.1\r\nx: ").await;
    let begun = Instant::now();
    let (mut from, mut to) = stream.split();
    let drip = async {
        while to.write_all(b"x").await.is_ok() {
            tokio::time::sleep(SHORT / 20).await;
        }
    };
    let mut answer = String::new();
    let read = from.read_to_string(&mut answer);
    tokio::select! {
        () = drip => panic!("closed without a word"),
        read = timeout(HANGS, read) => { read.expect("it is closed").unwrap(); }
    }
    assert!(begun.elapsed() >= SHORT);
    assert_eq!(problem(&answer).0, 408);
}

#[tokio::test]
async fn a_body_that_comes_byte_by_byte_must_be_whole_in_time() {
    let read = post(async |request: Request| match to_bytes(request.into_body(), 1 << 20).await {
        Ok(body) => body.len().to_string(),
        Err(_) => "failed".to_owned(),
    });
    let router = Router::new().route("/", read);
    let served = Served::new(router, HttpLimits { body_timeout: SHORT, ..limits() }).await;
    let whole =
        served.connect(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc");
    assert!(rest(whole.await).await.ends_with("\r\n\r\n3"));
    for head in ["content-length: 1000", "transfer-encoding: chunked"] {
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n");
        let mut stream = served.connect(head.as_bytes()).await;
        let (mut from, mut to) = stream.split();
        let drip = async {
            while to.write_all(if head.contains("chunked") { b"1\r\nx\r\n" } else { b"x" }).await.is_ok() {
                tokio::time::sleep(SHORT / 20).await;
            }
        };
        let mut answer = String::new();
        tokio::select! {
            () = drip => panic!("closed without a word"),
            read = timeout(HANGS, from.read_to_string(&mut answer)) => { read.expect("it is closed").unwrap(); }
        }
        let (status, head, problem) = problem(&answer);
        assert_eq!(status, 408);
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(problem["detail"], documented("TooSlow").replace("10 s", "0.4 s"));
    }
}

#[tokio::test]
async fn a_connection_is_kept_between_requests_for_a_while() {
    let served = Served::new(hello(), HttpLimits { idle_timeout: SHORT, ..limits() }).await;
    let mut stream = served.connect(b"").await;
    for _ in 0..3 {
        assert!(greet(&mut stream).await);
    }
    let begun = Instant::now();
    assert_eq!(rest(stream).await, "", "closed without a word");
    assert!(begun.elapsed() >= SHORT / 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_reads_a_little_now_and_then_is_not_waited_for() {
    let router = Router::new().route("/", get(async || vec![b'.'; 64 << 20]));
    let served =
        Served::new(router, HttpLimits { stall_timeout: SHORT, max_connections: 1, ..limits() }).await;
    let mut slow = served.connect(GET).await;
    let drip = async {
        while slow.read_u8().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // It was given up, and saw that.
        std::future::pending::<()>().await;
    };
    let next = async {
        let mut second = served.connect(GET).await;
        second.read_u8().await.unwrap();
    };
    tokio::select! {
        () = drip => unreachable!(),
        next = timeout(HANGS, next) => next.expect("the only place is given to the next one"),
    }
}

#[tokio::test]
async fn a_stream_that_has_nothing_to_tell_is_kept_and_one_that_is_not_read_is_not() {
    let quiet = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    let loud = || {
        Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b'.'; 65_536]))))
    };
    let router = Router::new()
        .route("/quiet", get(async move || quiet()))
        .route("/loud", get(async move || loud()))
        .route("/", get(async || "hello"));
    let impatient = HttpLimits { stall_timeout: SHORT, idle_timeout: SHORT, max_connections: 2, ..limits() };
    let served = Served::new(router, impatient).await;
    let mut quiet = served.connect(b"GET /quiet HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let mut head = [0; 12];
    quiet.read_exact(&mut head).await.unwrap();
    let begun = Instant::now();
    // It takes the other place, and must give it back again and again.
    while begun.elapsed() < SHORT * 2 {
        let _loud = served.connect(b"GET /loud HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(rest(served.connect(GET_AND_CLOSE).await).await.ends_with("hello"));
    }
    let more = async { while quiet.read_u8().await.is_ok() {} };
    assert!(timeout(Duration::from_millis(1), more).await.is_err(), "it is still open");
}

#[tokio::test]
async fn one_client_has_no_more_than_its_share_of_the_connections() {
    let (router, _gate, waiting) = gated();
    let router = router.route("/hello", get(async || "hello"));
    let served = Served::new(router, HttpLimits { max_connections_per_client: Some(2), ..limits() }).await;
    // Two that are being served cannot make room.
    let _first = served.connect(GET).await;
    let _second = served.connect(GET).await;
    until(&waiting, 2).await;
    let (status, head, _) = problem(&rest(served.connect(b"").await).await);
    assert_eq!(status, 503);
    assert!(head.contains("retry-after: "), "{head}");
    // Others are served all the same.
    let mut other = connect_from(9, served.address).await;
    other.write_all(b"GET /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(rest(other).await.ends_with("hello"));
}

#[tokio::test]
async fn a_client_with_too_many_connections_loses_the_one_that_has_waited_longest() {
    let served = Served::new(hello(), HttpLimits { max_connections_per_client: Some(2), ..limits() }).await;
    let mut first = served.connect(b"").await;
    assert!(greet(&mut first).await);
    let mut second = served.connect(b"").await;
    assert!(greet(&mut second).await);
    // Each has its place for sure for a quarter of a second.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut third = served.connect(b"").await;
    assert!(greet(&mut third).await);
    assert!(greet(&mut second).await);
    assert_eq!(rest(first).await, "");
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again_and_others_are_served() {
    let served =
        Served::new(hello(), HttpLimits { requests_per_second_per_client: Some(5), ..limits() }).await;
    let mut refused = None;
    for _ in 0..50 {
        let answer = rest(served.connect(GET_AND_CLOSE).await).await;
        if !answer.ends_with("hello") {
            refused = Some(answer);
            break;
        }
    }
    let (status, head, problem) = problem(&refused.expect("fifty at once are too many"));
    assert_eq!(status, 429);
    assert!(head.contains("retry-after: 1\r\n"), "{head}");
    assert_eq!(problem["detail"], documented("TooOften").replace("1000 times", "5 times"));
    let mut other = connect_from(8, served.address).await;
    assert!(greet(&mut other).await);
    // Who does as told is served again, on the same connection as well.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(rest(served.connect(GET_AND_CLOSE).await).await.ends_with("hello"));
}

#[tokio::test]
async fn connections_that_only_wait_make_room_for_who_asks() {
    let served = Served::new(hello(), HttpLimits { max_connections: 8, ..limits() }).await;
    let mut silent = Vec::new();
    for n in 0..40 {
        let mut stream = connect_from(n, served.address).await;
        // Some begin to ask, and some asked once.
        match n % 3 {
            0 => stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap(),
            1 => _ = greet(&mut stream).await,
            _ => {}
        }
        silent.push(stream);
        let mut client = served.connect(b"").await;
        assert!(greet(&mut client).await, "{n}");
    }
}

#[tokio::test]
async fn a_shutdown_waits_for_nobody_who_only_holds_a_connection() {
    let mut served = Served::new(hello(), limits()).await;
    let mut held = vec![served.connect(b"").await, served.connect(b"GET / HT").await];
    let mut idle = served.connect(b"").await;
    assert!(greet(&mut idle).await);
    held.push(idle);
    served.stop();
    // Nothing here ever times out by itself.
    timeout(HANGS, served.ended).await.unwrap().unwrap();
    for stream in held {
        assert_eq!(rest(stream).await, "");
    }
}
