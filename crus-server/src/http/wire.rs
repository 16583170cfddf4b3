//! What passes between the service and a client: noted, so that it is known who waits for whom; and hyper's own words
//! replaced by better ones.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::refusal::Refusals;
use super::state::State;

/// A connection as the system has it; TLS, if any, is spoken over this.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    state: Arc<State>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, state: Arc<State>) -> Self {
        Wire { stream, state }
    }

    fn note(&self, written: Poll<io::Result<usize>>, wanted: usize) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.state.blocked(),
            Poll::Ready(Ok(bytes)) => self.state.sent(*bytes, *bytes == wanted),
            Poll::Ready(Err(_)) => {}
        }
        written
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.state.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(written, slices.iter().map(|slice| slice.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A connection as HTTP is spoken over it.
///
/// hyper answers by itself what it cannot read: with a status, and nothing else. It is said here what is wrong.
#[derive(Debug)]
pub(super) struct Worded<I> {
    io: I,
    state: Arc<State>,
    refusals: Arc<Refusals>,
    /// What is sent instead, how much of it was, and how long that was which it replaces.
    instead: Option<(Vec<u8>, usize, usize)>,
}

impl<I> Worded<I> {
    pub(super) fn new(io: I, state: Arc<State>, refusals: Arc<Refusals>) -> Self {
        Worded { io, state, refusals, instead: None }
    }

    pub(super) fn into_inner(self) -> I {
        self.io
    }

    /// Whether this is hyper's own answer, and is now to be replaced.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        if self.instead.is_none()
            && !self.state.is_serving()
            && let Some(instead) = self.refusals.instead_of(bytes)
        {
            self.state.say_last();
            self.instead = Some((instead, 0, bytes.len()));
        }
        self.instead.is_some()
    }
}

impl<I: AsyncWrite + Unpin> Worded<I> {
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while let Some((instead, sent, length)) = &mut self.instead {
            if *sent == instead.len() {
                let length = *length;
                self.instead = None;
                return Poll::Ready(Ok(length));
            }
            match ready!(Pin::new(&mut self.io).poll_write(cx, &instead[*sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                more => *sent += more,
            }
        }
        Poll::Ready(Ok(0))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Worded<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Worded<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.replaces(bytes) {
            true => self.poll_instead(cx),
            false => Pin::new(&mut self.io).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.replaces(slices.first().map_or(&[], |first| first)) {
            true => self.poll_instead(cx),
            false => Pin::new(&mut self.io).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
