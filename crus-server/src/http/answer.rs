//! One request: what it may take, and its answer.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use crus_api::Problem;
use crus_api::access::Remote;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::{Method, Request, StatusCode, header};
use tokio::time::{Sleep, sleep, timeout};
use tower::ServiceExt;

use super::HttpLimits;
use super::state::State;

/// What requests of one connection are answered by.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    pub(super) router: Router,
    pub(super) limits: Arc<HttpLimits>,
    pub(super) state: Arc<State>,
}

impl Answers {
    /// Answers one. Whatever is wrong is an answer, too.
    pub(super) async fn answer(
        self,
        mut request: Request<Incoming>,
    ) -> Result<hyper::Response<Tracked>, Infallible> {
        let Answers { router, limits, state } = self;
        state.begin();
        request.extensions_mut().insert(Remote(state.remote));
        let answered = match limits.requests_per_second_per_client {
            Some(rate) => match state.ask(rate) {
                Ok(()) => answered(router, request, &limits, &state).await,
                Err(pause) => asks_too_often(rate, pause),
            },
            None => answered(router, request, &limits, &state).await,
        };
        Ok(answered.map(|body| Tracked { body, state }))
    }
}

async fn answered(
    router: Router,
    request: Request<Incoming>,
    limits: &HttpLimits,
    state: &Arc<State>,
) -> Response {
    let (head, body) = request.into_parts();
    let is_order = is_order(&head.method, head.uri.path());
    let late = Arc::<AtomicBool>::default();
    let body = match body.is_end_stream() {
        true => Body::empty(),
        false => Body::new(Paced {
            body,
            patience: limits.body_timeout,
            // Runs only once something must be waited for.
            timer: None,
            state: Arc::clone(state),
            late: Arc::clone(&late),
        }),
    };
    match timeout(limits.request_timeout, router.oneshot(Request::from_parts(head, body))).await {
        Ok(_) if late.load(Ordering::Relaxed) => {
            let detail = format!(
                "The body of the request was not there within {} s. Send it again, at once.",
                limits.body_timeout.as_secs_f32()
            );
            ends(state, Problem::new(StatusCode::REQUEST_TIMEOUT, detail))
        }
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => ends(state, takes_too_long(is_order, limits.request_timeout)),
    }
}

/// Whether a request changes something. A plan is asked for with a body, and changes nothing.
fn is_order(method: &Method, path: &str) -> bool {
    let is_plan = *method == Method::POST && path.trim_end_matches('/').ends_with("/plan");
    !method.is_safe() && !is_plan
}

/// Gateways and clients take a 503 as not done, and send it again: what was ordered would be done twice.
fn takes_too_long(is_order: bool, patience: Duration) -> Problem {
    let (status, what_now) = match is_order {
        true => (
            StatusCode::GATEWAY_TIMEOUT,
            "It may have been done all the same: look (GET /session) before you send it again.",
        ),
        false => (StatusCode::SERVICE_UNAVAILABLE, "Send it again."),
    };
    let seconds = patience.as_secs_f32();
    Problem::new(status, format!("The request was not finished within {seconds} s. {what_now}"))
}

/// What is left of the request may still come: this connection cannot serve another.
fn ends(state: &State, problem: Problem) -> Response {
    state.say_last();
    ([(header::CONNECTION, "close")], problem).into_response()
}

fn asks_too_often(rate: u32, pause: Duration) -> Response {
    let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
    let detail = format!(
        "One client may ask {rate} times in a second. Come again after {seconds} s, and less often then."
    );
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, detail);
    ([(header::RETRY_AFTER, seconds.to_string())], problem).into_response()
}

/// The body of a request, which must be there in time.
#[derive(Debug)]
struct Paced {
    body: Incoming,
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    state: Arc<State>,
    /// It was not.
    late: Arc<AtomicBool>,
}

/// The body was not there in time.
#[derive(Debug, thiserror::Error)]
#[error("the body was not there in time")]
struct Late;

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.state.got_body();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        self.state.awaits_body();
        let patience = self.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(timer.as_mut().poll(cx));
        self.late.store(true, Ordering::Relaxed);
        self.timer = None;
        Poll::Ready(Some(Err(Late.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer. Once it is dropped, all of it was handed over.
#[derive(Debug)]
pub(super) struct Tracked {
    body: Body,
    state: Arc<State>,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.state.end();
    }
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
