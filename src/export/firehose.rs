//! The endpoint for Data Firehose: receives requests of the HTTP endpoint destination
//! (<https://docs.aws.amazon.com/firehose/latest/dev/httpdeliveryrequestresponse.html>).
//!
//! ```text
//! head --key, method, id, version--> body --gunzip--> records --base64--> batch --decode--> Intake::take --> 200
//!       401   400    400    400           '- 400: too large, too slow, malformed                 '- 503
//! ```
//!
//! Firehose repeats a request until the answer is exactly 200, for up to two hours, and then writes it to its backup.
//! It drops a request that is answered 413, so no answer is 413. A request is answered 200 when all of its events are
//! on the disk.
//!
//! The body is read, decoded and taken in batches, so a large request is never in memory as a whole. The error of a
//! malformed request may stand behind a full batch. Then the answer is 400 although the batch was taken. This does no
//! harm: its events are events, and a repetition of them changes nothing.
//!
//! # Memory
//!
//! At most 8 requests (`REQUESTS_MAX`) are read at a time. Others are answered 503, and Firehose repeats them. Each
//! holds a batch of at most 4 MiB (`BATCH_BYTES_MAX`) and one record, one record in base64, a piece of inflated JSON
//! and the connection's buffer. This is less than 8 MiB, and less than 64 MiB for all. At most 2 batches
//! (`BATCHES_MAX`) are decoded and taken at a time. A request of 64 MiB with 80,000 events raises the memory of an
//! optimised process by 12 MiB.
//!
//! # What a client without an access key can do
//!
//! | attempt | result |
//! |---|---|
//! | guess keys | every key is compared, in the same time; one log line says that it began |
//! | send a large body | the answer is 401 before a byte of it is read; then up to 8 MiB are dropped for a second |
//! | send a head slowly | the connection is closed after 75 s, and sooner if another needs its place |
//! | never finish a handshake | the same after 10 s |
//! | hold many connections | there are at most 64; one without an accepted key gives way to a new one after 250 ms |
//! | not read the answers | the connection gives way in the same way, and is closed after 10 min |
//! | send a huge head | beyond 96 KiB the answer is 431, and the connection is closed |
//!
//! A client with a key can hold the places of 8 requests. Each is answered after 170 s (`REQUEST_MAX`), and 30 s after
//! its last byte (`BODY_PAUSE_MAX`).

mod access_keys;
mod answer;
mod record_batch;
mod record_splitter;
mod request;
mod request_faults;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use http::Request;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Bytes, Incoming};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use self::access_keys::AccessKeys;
pub use self::access_keys::AccessKeysError;
use self::answer::{BusyCause, FirehoseFault, InvalidRequest};
use self::record_batch::RecordBatch;
use self::request::{BODY_BYTES_MAX, RequestHead, RequestReader};
use self::request_faults::RequestFaults;
use super::Intake;
use crate::config::FirehoseConfig;
use crate::http::{
    BindError, ConnectionLimits, ConnectionSlot, HttpServer, MemoryResponse, Responder, Web, WebError, WebScope,
};
use crate::lifecycle::{Clock, Stops};
use crate::metrics::{FirehoseOutcome, Metrics};

/// Maximum number of requests that are read at a time. It bounds the memory. Firehose sends the buffers of a stream one
/// after the other, and repeats what is answered 503 after a second.
const REQUESTS_MAX: u32 = 8;

/// Maximum number of batches that are decoded and taken at a time: one is decoded while another is written.
const BATCHES_MAX: usize = 2;

/// Maximum time for a request. Firehose gives up after 3 minutes, and the answer has to arrive before.
const REQUEST_MAX: Duration = Duration::from_secs(170);

/// Maximum pause within a body. A client that is gone without a word must not hold the place of a request for long.
const BODY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Size of a batch, in bytes of its records, at which it is taken. With 4,000 events of a kilobyte the write of a batch
/// costs little an event, and a batch is decoded within a tenth of a second.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Maximum size that one record in gzip may inflate to, in bytes. CloudWatch Logs makes such records of at most 1 MiB
/// of log events.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// Maximum size that the records of a request may inflate to together, in bytes: 16 times the largest request. A record
/// beyond it goes to the quarantine as it came.
const INFLATED_BYTES_MAX: usize = 1 << 30;

/// Maximum size of a request's line and headers in bytes. The common attributes of a stream may have 64 KiB, and an
/// access key 4 KiB.
const HEAD_BYTES_MAX: usize = 96 << 10;

/// Maximum time for a request's head to arrive, and for a connection to be idle. Load balancers close an idle
/// connection after 60 s by default. So they close it, and send no request to a connection that is just being closed.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(75);

/// Maximum bytes that are buffered for a connection.
const BUFFER_BYTES_MAX: usize = 128 << 10;

/// Error of [`FirehoseServer::bind`].
#[derive(Debug, thiserror::Error)]
pub enum FirehoseError {
    /// The address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The access keys cannot be used.
    #[error(transparent)]
    AccessKeys(#[from] AccessKeysError),
    /// The web configuration cannot be used.
    #[error(transparent)]
    Web(#[from] WebError),
}

/// The endpoint, bound to its port.
pub struct FirehoseServer {
    server: HttpServer,
    web: Web,
    keys: AccessKeys,
}

impl FirehoseServer {
    /// Reads the access keys and the web configuration, and binds the port.
    ///
    /// # Errors
    /// The port cannot be bound, or a file cannot be used. The text says which, and what to do.
    pub async fn bind(config: &FirehoseConfig) -> Result<Self, FirehoseError> {
        let server = HttpServer::bind_for("firehose.listen", config.listen)?;
        let config = config.clone();
        let read = tokio::task::spawn_blocking(move || {
            let keys = AccessKeys::load(&config.access_keys_file)?;
            let why = "Data Firehose identifies itself by its access key, and repeats what is refused";
            let web = Web::load_scope(config.web_config_file.as_deref(), WebScope::TlsAndHeaders(why))?;
            Ok::<_, FirehoseError>((keys, web))
        });
        let (keys, web) = read.await.expect("reading files does not panic, and the runtime still runs")?;
        Ok(Self { server: server.behind(web.clone()), web, keys })
    }

    /// Returns the address that the endpoint listens on. Port 0 is replaced by the port that the system chose.
    ///
    /// # Errors
    /// The system does not tell the address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.server.local_addr()
    }

    /// Advised length of an access key in bytes: 128 random bits, in hexadecimal.
    pub const KEY_BYTES_ADVISED: usize = 32;

    /// Returns how many access keys are shorter than advised.
    pub fn short_keys(&self) -> usize {
        self.keys.short_keys()
    }

    /// Returns the scheme of the endpoint's URL, `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        self.web.scheme()
    }

    /// Serves until the soft stop, and then until the requests in flight are answered. Until then new requests are
    /// answered 503. At the hard stop requests in flight are answered 503, too.
    pub async fn serve<I: Intake>(self, intake: Arc<I>, metrics: Metrics, clock: Clock, stops: Stops) {
        let Self { server, web, keys } = self;
        metrics.add_firehose();
        let endpoint = Endpoint(Arc::new(SharedEndpoint {
            keys: keys.clone(),
            intake,
            metrics,
            clock,
            stops: stops.clone(),
            requests: Semaphore::new(REQUESTS_MAX as usize),
            batches: Semaphore::new(BATCHES_MAX),
            faults: RequestFaults::default(),
        }));
        let end = CancellationToken::new();
        let drain = async {
            stops.soft.cancelled().await;
            tokio::select! {
                _ = endpoint.0.requests.acquire_many(REQUESTS_MAX) => {}
                () = stops.hard.cancelled() => {}
            }
            end.cancel();
        };
        tokio::join!(
            server.serve_with(endpoint.clone(), end.clone()),
            web.keep(end.clone()),
            keys.keep(end.clone()),
            endpoint.0.faults.watch(end.clone()),
            drain,
        );
    }
}

/// Answers the requests. Clones share everything.
struct Endpoint<I>(Arc<SharedEndpoint<I>>);

impl<I> Clone for Endpoint<I> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct SharedEndpoint<I> {
    keys: AccessKeys,
    intake: Arc<I>,
    metrics: Metrics,
    clock: Clock,
    stops: Stops,
    /// Held by each request that is read.
    requests: Semaphore,
    /// Held while a batch is decoded and taken.
    batches: Semaphore,
    faults: RequestFaults,
}

impl<I: Intake> Responder for Endpoint<I> {
    const LIMITS: ConnectionLimits = ConnectionLimits {
        head_bytes_max: HEAD_BYTES_MAX,
        head_wait_max: HEAD_WAIT_MAX,
        buffer_bytes_max: BUFFER_BYTES_MAX,
        last_request_max: REQUEST_MAX,
    };

    async fn respond(&self, request: Request<Incoming>, slot: &Arc<ConnectionSlot>) -> MemoryResponse {
        let endpoint = &*self.0;
        let now = endpoint.clock.now();
        let (parts, mut body) = request.into_parts();
        let is_authorized = endpoint.keys.accept(&parts.headers);
        let answered = if is_authorized {
            // From here on the connection is not cut for a new one.
            slot.responding();
            match RequestHead::read(&parts) {
                Ok(head) => endpoint.receive(head, &mut body, now).await,
                Err(invalid) => Err(invalid.into()),
            }
        } else {
            Err(FirehoseFault::Unauthorized)
        };
        endpoint.metrics.firehose_request(match &answered {
            Ok(()) => FirehoseOutcome::Ok,
            Err(fault) => fault.outcome(),
        });
        if let Err(fault) = &answered {
            endpoint.faults.note(*fault, Instant::now());
        }
        let is_read = body.is_end_stream();
        if !is_read {
            slot.leave_unread();
        }
        let mut response = answer::response(answer::request_id(&parts.headers), now, answered, is_read);
        if is_authorized {
            response.body_mut().written_at(slot);
        }
        response
    }
}

impl<I: Intake> SharedEndpoint<I> {
    /// Reads a request and has its records taken, unless the process stops or too many requests are read.
    async fn receive(
        &self,
        head: RequestHead<'_>,
        body: &mut Incoming,
        received: UnixMillis,
    ) -> Result<(), FirehoseFault> {
        if self.stops.soft.is_cancelled() {
            return Err(BusyCause::Stopping.into());
        }
        let Ok(_permit) = self.requests.try_acquire() else {
            return Err(BusyCause::TooManyRequests.into());
        };
        let deadline = Instant::now() + REQUEST_MAX;
        tokio::select! {
            biased;
            taken = self.read_and_take(head, body, received, deadline) => taken,
            () = self.stops.hard.cancelled() => Err(BusyCause::Stopping.into()),
        }
    }

    async fn read_and_take(
        &self,
        head: RequestHead<'_>,
        body: &mut Incoming,
        received: UnixMillis,
        deadline: Instant,
    ) -> Result<(), FirehoseFault> {
        if usize::try_from(body.size_hint().lower()).map_or(true, |bytes| bytes > BODY_BYTES_MAX) {
            return Err(InvalidRequest::BodyTooLarge.into());
        }
        let mut reader = RequestReader::new(head);
        let mut inflated_bytes_left = INFLATED_BYTES_MAX;
        while let Some(bytes) = next_bytes(body, deadline).await? {
            for piece in bytes.chunks(reader.piece_bytes_max()) {
                reader.push(piece)?;
                if reader.batch_bytes() >= BATCH_BYTES_MAX {
                    self.take(reader.take_batch(), &mut inflated_bytes_left, received, deadline).await?;
                }
                // Polling needs the runtime's only worker.
                tokio::task::yield_now().await;
            }
        }
        self.take(reader.finish()?, &mut inflated_bytes_left, received, deadline).await
    }

    /// Decodes a batch and has it taken, in parts if its records inflate.
    async fn take(
        &self,
        batch: RecordBatch,
        inflated_bytes_left: &mut usize,
        received: UnixMillis,
        deadline: Instant,
    ) -> Result<(), FirehoseFault> {
        let mut rest = batch;
        while !rest.is_empty() {
            let (mut batch, mut left) = (rest, *inflated_bytes_left);
            let permit = timeout_at(deadline, self.batches.acquire()).await.map_err(|_| BusyCause::TooSlow)?;
            let decoded = tokio::task::spawn_blocking(move || {
                let documents = batch.decode(BATCH_BYTES_MAX, DOCUMENT_BYTES_MAX, &mut left);
                (documents, batch, left)
            });
            let documents;
            (documents, rest, *inflated_bytes_left) = decoded.await.map_err(|_| BusyCause::Failed)?;
            let taken = timeout_at(deadline, self.intake.take(documents, received)).await;
            taken.map_err(|_| BusyCause::TooSlow)?.map_err(BusyCause::from)?;
            drop(permit);
        }
        Ok(())
    }
}

/// Reads the next bytes of a body. None at its end.
async fn next_bytes(body: &mut Incoming, deadline: Instant) -> Result<Option<Bytes>, InvalidRequest> {
    loop {
        let until = deadline.min(Instant::now() + BODY_PAUSE_MAX);
        match timeout_at(until, body.frame()).await {
            Err(_) => return Err(InvalidRequest::BodyTooSlow),
            Ok(None) => return Ok(None),
            Ok(Some(Err(_))) => return Err(InvalidRequest::BodyBroken),
            // A frame without data holds trailers, which mean nothing here.
            Ok(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}
