//! A simulated Cognito on loopback for `demo`, the tests and the benchmarks, with what it exports to.
//!
//! It supports the protocols of the exporter's AWS clients: AWS JSON 1.1 for Cognito and CloudWatch Logs, and the query
//! protocol for STS. It imitates the behaviour that the exporter depends on: pages newest first, tokens that look like
//! the service's, times in scientific notation, the names and forms of errors, and quotas that an account's pools
//! share. Where the service's behaviour is unknown, the simulation has a setting for it, so that tests can cover each
//! possibility. Tests inject failures with [`fault`].
//!
//! A pool can export its events ([`export`]) to a log group ([`logs`]), which answers FilterLogEvents, and to a
//! Firehose stream ([`firehose`]), which posts them to an HTTP endpoint.
//!
//! [`world`] and `service` hold all the rules and do no I/O. A mutex protects the world, and it is never held across an
//! await. This file is the HTTP server around them.

mod caller;
pub mod calls;
pub mod export;
pub mod fault;
mod filter;
pub mod firehose;
mod firehose_sender;
mod history;
pub mod logs;
pub mod paging;
pub mod population;
pub mod quota;
mod reply;
mod seeds;
mod service;
mod sts;
pub mod wire;
pub mod world;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cognito_auth_core::event::UnixMillis;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::{Mutex, MutexGuard};
use population::Population;
use quota::Quotas;
use reply::{ServiceReply, Transmission};
use service::ServiceRequest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use world::{World, WorldClock};

/// The largest request body, in bytes. A token alone can have 131,072 characters.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// The longest wait for open requests at a stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// The pause after an error of `accept`.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The options of a simulation.
#[derive(Clone, Debug)]
pub struct Options {
    /// The listen address; by default a free port of 127.0.0.1.
    pub listen: SocketAddr,
    /// The source of the world's time.
    pub clock: WorldClock,
    /// The seed of all ids and random numbers.
    pub seed: u64,
    /// The request-rate quotas; by default the documented ones.
    pub quotas: Quotas,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            clock: WorldClock::Real,
            seed: 1,
            quotas: Quotas::documented(),
        }
    }
}

impl Options {
    /// Options for tests: the clock is stopped at `now`, and there are no quotas.
    pub fn still(now: UnixMillis) -> Self {
        Self { clock: WorldClock::Manual(now), quotas: Quotas::unlimited(), ..Self::default() }
    }
}

/// A running simulation. Dropping it stops the simulation.
pub struct Simulation {
    addr: SocketAddr,
    shared: Arc<ServedWorld>,
    tasks: TaskTracker,
}

/// The state that the connections share.
struct ServedWorld {
    world: Mutex<World>,
    /// Notified after every call and every use of [`Simulation::world`].
    changed: Notify,
    stop: CancellationToken,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

impl ServedWorld {
    fn world(&self) -> MutexGuard<'_, World> {
        // A test's panic inside `world(..)` must not hide itself behind a second one here.
        self.world.lock()
    }
}

impl Simulation {
    /// Binds the listener and starts to answer. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(ServedWorld {
            world: Mutex::new(World::new(options.clock, options.seed, options.quotas)),
            changed: Notify::new(),
            stop: CancellationToken::new(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        });
        let tasks = TaskTracker::new();
        tasks.spawn(accept(listener, Arc::clone(&shared), tasks.clone()));
        Ok(Self { addr, shared, tasks })
    }

    /// The endpoint URL for clients, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The listen address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Reads or changes the world between two requests.
    pub fn world<R>(&self, access: impl FnOnce(&mut World) -> R) -> R {
        let result = access(&mut self.shared.world());
        self.shared.changed.notify_waiters();
        result
    }

    /// Waits until `condition` holds. It is checked now, and after every call and every change.
    pub async fn until(&self, mut condition: impl FnMut(&World) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            // Enabled before the check, so that a change between the check and the wait is not missed.
            changed.as_mut().enable();
            if condition(&self.shared.world()) {
                return;
            }
            changed.await;
        }
    }

    /// Runs a population in the world, with a pause between its ticks, until the simulation stops.
    pub fn enliven(&self, mut population: Population, pause: Duration) {
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            while !shared.stop.is_cancelled() {
                {
                    let mut world = shared.world();
                    let now = world.now();
                    population.tick(&mut world, now);
                }
                shared.changed.notify_waiters();
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = shared.stop.cancelled() => {}
                }
            }
        });
    }

    /// Has a Firehose stream of the world deliver its records to its endpoint, until the simulation stops.
    pub fn deliver_firehose(&self, stream: &str) {
        self.tasks.spawn(firehose_sender::deliver(Arc::clone(&self.shared), stream.to_owned()));
    }

    /// The highest number of concurrent requests so far.
    pub fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight.load(Ordering::Relaxed)
    }

    /// Stops listening, and waits until the open requests are answered. Requests that hang are dropped.
    pub async fn stop(self) {
        self.shared.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation").field("addr", &self.addr).finish_non_exhaustive()
    }
}

async fn accept(listener: TcpListener, shared: Arc<ServedWorld>, tasks: TaskTracker) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { tasks.spawn(serve(stream, Arc::clone(&shared))); }
                // Out of file descriptors, or the client has already disconnected. A later attempt can succeed.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<ServedWorld>) {
    // Without delay, small answers do not wait for the client's acknowledgement. An error only makes them slower.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| respond(Arc::clone(&shared), request));
    // The Date header follows the world's clock, not hyper's.
    let mut connection = http1::Builder::new().auto_date_header(false).serve_connection(TokioIo::new(stream), service);
    let result = tokio::select! {
        result = &mut connection => result,
        () = shared.stop.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            match tokio::time::timeout(STOP_PATIENCE, &mut connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if result.is_err() {
        // A linger time of zero makes the close a reset for the client.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}

/// The error that makes hyper close a connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("connection reset on request")]
struct ConnectionReset;

async fn respond(
    shared: Arc<ServedWorld>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<ReplyBody>, ConnectionReset> {
    let _in_flight = InFlight::enter(&shared);
    let (head, body) = request.into_parts();
    let body = Limited::new(body, REQUEST_BYTES_MAX).collect().await.map_err(|_| ConnectionReset)?.to_bytes();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let reply = service::answer(
        &mut shared.world(),
        &ServiceRequest { target: header("x-amz-target"), authorization: header("authorization"), body: &body },
    );
    shared.changed.notify_waiters();
    match reply.transmission {
        Transmission::Whole | Transmission::CutShort => {}
        Transmission::Reset => return Err(ConnectionReset),
        Transmission::After(delay) => tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = shared.stop.cancelled() => return Err(ConnectionReset),
        },
        Transmission::Never => {
            shared.stop.cancelled().await;
            return Err(ConnectionReset);
        }
    }
    Ok(response(reply))
}

fn response(reply: ServiceReply) -> hyper::Response<ReplyBody> {
    let mut response = hyper::Response::new(ReplyBody {
        length: reply.body.len() as u64,
        is_cut: reply.transmission == Transmission::CutShort,
        rest: Some(Bytes::from(reply.body)),
    });
    *response.status_mut() = hyper::StatusCode::from_u16(reply.status).unwrap_or(hyper::StatusCode::IM_A_TEAPOT);
    let texts = [
        ("content-type", Some(reply.content_type.to_owned())),
        ("date", reply.date.map(wire::http_date)),
        ("x-amzn-requestid", Some(reply.request_id)),
        ("x-amzn-errortype", reply.error_type),
    ];
    for (name, text) in texts {
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// Counts a request until it is answered or its client disconnects.
struct InFlight<'a>(&'a ServedWorld);

impl<'a> InFlight<'a> {
    fn enter(shared: &'a ServedWorld) -> Self {
        let now = shared.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        shared.most_in_flight.fetch_max(now, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response body: whole, or cut in the middle although the header announces the full length.
struct ReplyBody {
    rest: Option<Bytes>,
    length: u64,
    is_cut: bool,
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = ConnectionReset;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ConnectionReset>>> {
        let is_cut = self.is_cut;
        Poll::Ready(match self.rest.take() {
            Some(rest) if is_cut => Some(Ok(Frame::data(rest.slice(..rest.len() / 2)))),
            Some(rest) => Some(Ok(Frame::data(rest))),
            None if is_cut => Some(Err(ConnectionReset)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && !self.is_cut
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
