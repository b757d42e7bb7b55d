//! The body of an answer: bytes that other answers may share, handed to the connection piece by piece.
//!
//! A connection copies what it takes to write, at least under TLS, and a client that does not read makes it keep the copy.
//! So it gets pieces: what waits for a client is one piece and the shared bytes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::connections::ConnectionSlot;
use super::scrapes::PendingScrape;

/// Bytes handed over at a time.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// All of it is in memory.
pub(super) struct MemoryBody {
    rest: Bytes,
    /// Who has to be told that it was read.
    seen: Option<PendingScrape>,
    /// The place of the connection that writes it.
    place: Option<Arc<ConnectionSlot>>,
}

impl MemoryBody {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { rest: bytes, seen: None, place: None }
    }

    /// A body that counts as a scrape when it is written.
    pub(super) fn seen(mut self, seen: PendingScrape) -> Self {
        self.seen = Some(seen);
        self
    }

    /// Tells the place of the connection how far the writing has come.
    pub(super) fn written_at(&mut self, place: &Arc<ConnectionSlot>) {
        place.writing(self.rest.clone(), self.seen.take());
        self.place = Some(place.clone());
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
        if let Some(place) = &self.place {
            place.body_taken();
        }
    }
}
