//! One connection, from its first byte to its last.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tracing::debug;

use super::answer::Answers;
use super::places::Place;
use super::refusal::{self, Refusals};
use super::state::{Phase, State};
use super::wire::{Wire, Worded};
use super::{HttpLimits, MAX_BUFFER_BYTES};

/// So many bytes that a client still sends are taken in after it was told why its connection is closed.
const LINGER_BYTES: usize = 256 * 1024;

/// The first byte of every TLS connection: that of a handshake.
const TLS_HANDSHAKE: u8 = 22;

/// Why a connection is given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Its client took too long.
    Late(Phase),
    /// Another one needed its place.
    Evicted,
    /// The service ends, and nothing is under way on it.
    Stopped,
}

/// Watches over what is done for a connection.
///
/// Its timer is moved only when it must ring sooner; when it rings too soon it is set anew. So a connection that is busy never
/// touches it.
struct Guard {
    state: Arc<State>,
    limits: Arc<HttpLimits>,
    timer: Pin<Box<Sleep>>,
    armed: bool,
}

impl Guard {
    fn new(state: Arc<State>, limits: Arc<HttpLimits>) -> Self {
        Guard { state, limits, timer: Box::pin(sleep_until(Instant::now())), armed: false }
    }

    /// Goes on with `work`, and says why it is to be given up, should it be.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        work: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Result<T, Cut>> {
        // First of all, so that nothing that is told from now on is missed.
        self.state.register(cx.waker());
        if self.state.look().is_none() {
            return Poll::Ready(Err(Cut::Evicted));
        }
        if let Poll::Ready(done) = work(cx) {
            return Poll::Ready(Ok(done));
        }
        // What came by now was taken in.
        if self.state.is_stopping() && !self.state.is_serving() && !self.is_blocked() {
            return Poll::Ready(Err(Cut::Stopped));
        }
        while let Some(deadline) = self.state.deadline(&self.limits) {
            if !self.armed || deadline < self.timer.deadline() {
                self.timer.as_mut().reset(deadline);
                self.armed = true;
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                break;
            }
            self.armed = false;
            if deadline <= Instant::now()
                && let Some((phase, _)) = self.state.look()
            {
                return Poll::Ready(Err(Cut::Late(phase)));
            }
        }
        match self.state.look() {
            None => Poll::Ready(Err(Cut::Evicted)),
            Some(_) => Poll::Pending,
        }
    }

    fn is_blocked(&self) -> bool {
        matches!(self.state.look(), Some((Phase::Blocked, _)))
    }

    /// Does `work`, unless it is given up.
    async fn over<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Cut> {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| self.poll(cx, |cx| work.as_mut().poll(cx))).await
    }
}

/// How connections are served.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub(super) answers: axum::Router,
    pub(super) limits: Arc<HttpLimits>,
    pub(super) refusals: Arc<Refusals>,
}

impl Service {
    /// Serves a connection to its end.
    pub(super) async fn serve(self, place: Place, stream: TcpStream, tls: Option<Arc<ServerConfig>>) {
        let mut guard = Guard::new(Arc::clone(&place.state), Arc::clone(&self.limits));
        let ended = match tls {
            None => self.talk(&mut guard, Wire::new(stream, Arc::clone(&place.state))).await,
            Some(config) => self.talk_over_tls(&mut guard, stream, config).await,
        };
        if let Err(cut) = ended {
            debug!(client = %place.state.remote, ?cut, "connection given up");
        }
        drop(place);
    }

    async fn talk_over_tls(
        self,
        guard: &mut Guard,
        stream: TcpStream,
        config: Arc<ServerConfig>,
    ) -> Result<(), Cut> {
        let mut first = [TLS_HANDSHAKE];
        // What fails now fails again in a moment, and is told then.
        let seen = guard.over(stream.peek(&mut first)).await?;
        let mut wire = Wire::new(stream, Arc::clone(&guard.state));
        if seen.is_ok() && first[0].is_ascii_uppercase() {
            return last_words(guard, &mut wire, &refusal::not_tls()).await;
        }
        if let Some(rate) = self.limits.requests_per_second_per_client {
            // A handshake costs more than most requests: a client that makes nothing else must not have more of them.
            while let Err(pause) = guard.state.ask_ahead(rate) {
                guard.over(tokio::time::sleep(pause)).await?;
            }
        }
        match guard.over(TlsAcceptor::from(config).accept(wire)).await? {
            Ok(stream) => {
                guard.state.enter(Phase::New);
                self.talk(guard, stream).await
            }
            Err(error) => {
                debug!(client = %guard.state.remote, %error, "failed to agree on TLS");
                Ok(())
            }
        }
    }

    async fn talk<I>(self, guard: &mut Guard, io: I) -> Result<(), Cut>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Service { answers: router, limits, refusals } = self;
        let state = Arc::clone(&guard.state);
        let worded = Worded::new(io, Arc::clone(&state), Arc::clone(&refusals));
        let answers = Answers { router, limits: Arc::clone(&limits), state: Arc::clone(&state) };
        let mut http = http1::Builder::new()
            // Time-outs are ours: hyper's closes a slow connection without a word.
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_header_size(limits.max_header_bytes)
            .max_buf_size(MAX_BUFFER_BYTES.max(limits.max_header_bytes))
            .serve_connection(
                TokioIo::new(worded),
                service_fn(move |request| answers.clone().answer(request)),
            );
        let mut stopping = false;
        let ended = std::future::poll_fn(|cx| {
            guard.poll(cx, |cx| {
                // Before a request it would read nothing any more.
                if !stopping && state.is_stopping() && state.is_serving() {
                    stopping = true;
                    Pin::new(&mut http).graceful_shutdown();
                }
                Pin::new(&mut http).poll(cx)
            })
        })
        .await;
        let mut io = http.into_parts().io.into_inner().into_inner();
        match ended {
            Ok(ended) => {
                if let Err(error) = ended {
                    debug!(client = %state.remote, %error, "connection ended early");
                }
                if state.said_last() {
                    return linger(guard, &mut io).await;
                }
                Ok(())
            }
            Err(Cut::Late(Phase::Head)) => last_words(guard, &mut io, &refusals.slow_head()).await,
            Err(cut) => {
                // Over TLS, an end without a word is one that anybody may have brought about: a client that was about to ask
                // for more must not take it for that. What cannot be said at once is not waited for.
                _ = io.shutdown().now_or_never();
                Err(cut)
            }
        }
    }
}

/// Says why the connection ends, and ends it.
async fn last_words(
    guard: &mut Guard,
    io: &mut (impl AsyncRead + AsyncWrite + Unpin),
    words: &[u8],
) -> Result<(), Cut> {
    guard.state.enter(Phase::Lingering);
    let said = guard
        .over(async {
            io.write_all(words).await?;
            io.shutdown().await
        })
        .await?;
    match said {
        Ok(()) => linger(guard, io).await,
        // It has gone.
        Err(_) => Ok(()),
    }
}

/// Takes in what still comes, for a while: a client that sends into a closed connection may never see the answer.
async fn linger(guard: &mut Guard, io: &mut (impl AsyncRead + Unpin)) -> Result<(), Cut> {
    guard.state.enter(Phase::Lingering);
    let taken_in = async {
        let (mut buffer, mut left) = ([0; 4096], LINGER_BYTES);
        // It has gone when this fails.
        while let Ok(more @ 1..) = io.read(&mut buffer).await {
            left = left.saturating_sub(more);
            if left == 0 {
                break;
            }
        }
    };
    guard.over(taken_in).await
}
