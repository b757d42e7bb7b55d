//! A connection's stream that reports to its [`ConnectionSlot`] when the client reads.
//!
//! It also ends connections whose last request was not read to its end. A system that closes a socket with unread bytes
//! resets the connection, and a client that still sends would lose the response. So the stream ends the sending
//! direction, and then reads and drops what arrives, within limits, until the client has ended its direction.

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::connections::ConnectionSlot;

/// Maximum time that unread bytes are dropped for. It is less than a stop may take for a connection's end.
const DROP_MAX: Duration = Duration::from_secs(1);

/// Maximum number of unread bytes that are dropped. A client that reads while it sends stops much sooner.
const DROP_BYTES_MAX: usize = 8 << 20;

/// A stream with its slot.
pub(super) struct Watched<S> {
    stream: S,
    pub(super) slot: Arc<ConnectionSlot>,
    /// Set when the sending direction has ended and unread bytes are dropped.
    dropping: Option<Dropping>,
}

/// The limits of dropping unread bytes.
struct Dropping {
    bytes_left: usize,
    until: Pin<Box<Sleep>>,
}

impl<S: Unpin> Watched<S> {
    pub(super) fn new(stream: S, slot: Arc<ConnectionSlot>) -> Self {
        Self { stream, slot, dropping: None }
    }

    fn report(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(1..)) = written {
            self.slot.progressed();
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.report(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.report(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.slot.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, slot, dropping } = &mut *self;
        if dropping.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
            if !slot.has_unread() {
                return Poll::Ready(Ok(()));
            }
        }
        let dropping = dropping.get_or_insert_with(|| Dropping {
            bytes_left: DROP_BYTES_MAX,
            until: Box::pin(tokio::time::sleep(DROP_MAX)),
        });
        let mut piece = [0; 4096];
        while dropping.bytes_left > 0 && dropping.until.as_mut().poll(context).is_pending() {
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut piece))?;
            match piece.filled().len() {
                0 => break,
                read => dropping.bytes_left = dropping.bytes_left.saturating_sub(read),
            }
        }
        Poll::Ready(Ok(()))
    }
}
