//! The maker of a server's responses. The server owns the socket, TLS, access control and the limits.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::body::MemoryBody;
use super::connections::ConnectionSlot;

/// A response that is in memory as a whole.
pub(crate) type MemoryResponse = Response<MemoryBody>;

/// The limits in which servers differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Maximum size of a request's line and headers, in bytes.
    pub(crate) head_bytes_max: usize,
    /// Maximum time for a request's head to arrive, and for a connection to be idle.
    pub(crate) head_wait_max: Duration,
    /// Maximum bytes that are buffered for a connection. At least as large as a head.
    pub(crate) buffer_bytes_max: usize,
    /// Maximum time to finish the request under way when the connection has reached its maximum age.
    pub(crate) last_request_max: Duration,
}

/// Makes the responses of a server. Clones share everything.
pub(crate) trait Responder: Clone + Send + Sync + 'static {
    /// The limits of the server's connections.
    const LIMITS: ConnectionLimits;

    /// Responds to a request that access control admits. Reports to the slot of the request's connection when it works
    /// on the request, and when the response is ready. Without these reports the connection may be cut for a new one.
    fn respond(
        &self,
        request: Request<Incoming>,
        slot: &Arc<ConnectionSlot>,
    ) -> impl Future<Output = MemoryResponse> + Send;

    /// Drops what is no longer of use. Returns whether something remains, so that this has to be called again.
    fn forget_stale(&self, _now: Instant) -> bool {
        false
    }
}
