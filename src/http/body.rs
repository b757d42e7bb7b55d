//! The body of a response: bytes that responses may share, given to the connection in pieces.
//!
//! A connection copies the bytes that it writes, at least under TLS, and keeps the copy until the client reads it. With
//! pieces, a slow client costs one piece and a reference to the shared bytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::connections::ConnectionSlot;
use super::scrapes::PendingScrape;

/// Maximum size of a piece in bytes.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// A body that is in memory as a whole.
pub(crate) struct MemoryBody {
    rest: Bytes,
    /// The scrape that is counted when the body is written.
    scrape: Option<PendingScrape>,
    /// The slot of the connection that writes the body.
    slot: Option<Arc<ConnectionSlot>>,
}

impl MemoryBody {
    pub(crate) fn new(bytes: Bytes) -> Self {
        Self { rest: bytes, scrape: None, slot: None }
    }

    /// Makes the body count as a scrape when it is written.
    pub(super) fn counted_as(mut self, scrape: PendingScrape) -> Self {
        self.scrape = Some(scrape);
        self
    }

    /// Sets the slot of the connection that writes the body, and reports the progress of writing to it.
    pub(crate) fn written_at(&mut self, slot: &Arc<ConnectionSlot>) {
        slot.writing(self.rest.clone(), self.scrape.take());
        self.slot = Some(slot.clone());
    }
}

impl hyper::body::Body for MemoryBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.rest.len().min(PIECE_BYTES_MAX);
        let piece = self.rest.split_to(piece);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

impl Drop for MemoryBody {
    fn drop(&mut self) {
        if let Some(slot) = &self.slot {
            slot.body_taken();
        }
    }
}
