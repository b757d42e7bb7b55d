//! A simulated Cognito on loopback: the one that stands behind `demo`, the tests and the benchmarks.
//!
//! It speaks what the exporter's AWS client speaks (AWS JSON 1.1 for Cognito, the query protocol for STS) and is faithful
//! in what the exporter depends on: pages newest first, tokens that look like the service's, times in scientific notation,
//! the errors' names and shapes, quotas shared by an account's pools. Where the service's behaviour is unknown it is a
//! switch, so that tests can show that either way is right; where it may fail, it fails on request ([`fault`]).
//!
//! Everything that is decided is decided in [`world`] and `service`, without I/O, under a lock that no I/O is awaited
//! with. This file is only the HTTP server around them.

pub mod calls;
pub mod fault;
mod filter;
pub mod paging;
pub mod population;
pub mod quota;
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
use service::{Reply, Request, Transmission};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use world::{Clock, World};

/// The largest request that is read, in bytes. A token alone may have 131,072.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// How long a stop waits for a client that is in the middle of its request.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// The pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How a simulation starts.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; a free port of 127.0.0.1 by default.
    pub listen: SocketAddr,
    /// The world's time.
    pub clock: Clock,
    /// What every id and every chance follows from.
    pub seed: u64,
    /// The account's limits; the documented ones by default.
    pub quotas: Quotas,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            clock: Clock::Real,
            seed: 1,
            quotas: Quotas::documented(),
        }
    }
}

impl Options {
    /// A world for tests: its time stands at `now` until it is moved, and no quota is in the way.
    pub fn still(now: UnixMillis) -> Self {
        Self { clock: Clock::Manual(now), quotas: Quotas::unlimited(), ..Self::default() }
    }
}

/// A running simulation. Dropping it stops it.
pub struct Simulation {
    addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

/// What the connections share.
struct Shared {
    world: Mutex<World>,
    /// Told after every call and every look at the world through [`Simulation::world`].
    changed: Notify,
    stop: CancellationToken,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        // A test's panic inside `world(..)` must not hide itself behind a second one here.
        self.world.lock()
    }
}

impl Simulation {
    /// Binds the listener and starts to answer. Needs a Tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
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

    /// The endpoint to give to a client, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Looks at the world, or changes it, between two requests.
    pub fn world<R>(&self, look: impl FnOnce(&mut World) -> R) -> R {
        let result = look(&mut self.shared.world());
        self.shared.changed.notify_waiters();
        result
    }

    /// Waits until the world is as `condition` wants it: looked at now, and after every call and every change.
    pub async fn until(&self, mut condition: impl FnMut(&World) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            // Enabled before looking: a change between the look and the wait is not missed.
            changed.as_mut().enable();
            if condition(&self.shared.world()) {
                return;
            }
            changed.await;
        }
    }

    /// Lets a population live in the world, with a pause between its ticks, until the simulation stops.
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

    /// The most requests that were ever being answered at once.
    pub fn most_in_flight(&self) -> usize {
        self.shared.most_in_flight.load(Ordering::Relaxed)
    }

    /// Stops listening, lets the answers under way finish (hung ones are dropped), and waits for that.
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

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker) {
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { tasks.spawn(serve(stream, Arc::clone(&shared))); }
                // Out of descriptors, or the peer was gone already: the next one may do better.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Small answers must not wait for the peer's acknowledgement; without it they merely do.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| respond(Arc::clone(&shared), request));
    // The world says what its answers are dated, hyper's clock does not.
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
        // Closed with nothing lingering, the peer sees a reset rather than an end.
        let _ = connection.into_parts().io.into_inner().set_zero_linger();
    }
}

/// The connection ends here, unanswered.
#[derive(Debug, thiserror::Error)]
#[error("connection reset on request")]
struct Reset;

async fn respond(shared: Arc<Shared>, request: hyper::Request<Incoming>) -> Result<hyper::Response<Content>, Reset> {
    let _in_flight = InFlight::enter(&shared);
    let (head, body) = request.into_parts();
    let body = Limited::new(body, REQUEST_BYTES_MAX).collect().await.map_err(|_| Reset)?.to_bytes();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let reply = service::answer(
        &mut shared.world(),
        &Request { target: header("x-amz-target"), authorization: header("authorization"), body: &body },
    );
    shared.changed.notify_waiters();
    match reply.delivery {
        Transmission::Whole | Transmission::CutShort => {}
        Transmission::Reset => return Err(Reset),
        Transmission::After(delay) => tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = shared.stop.cancelled() => return Err(Reset),
        },
        Transmission::Never => {
            shared.stop.cancelled().await;
            return Err(Reset);
        }
    }
    Ok(response(reply))
}

fn response(reply: Reply) -> hyper::Response<Content> {
    let mut response = hyper::Response::new(Content {
        length: reply.body.len() as u64,
        breaks_off: reply.delivery == Transmission::CutShort,
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

/// Counts a request while it is being answered, also when its client goes away.
struct InFlight<'a>(&'a Shared);

impl<'a> InFlight<'a> {
    fn enter(shared: &'a Shared) -> Self {
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

/// An answer's body, whole, or broken off in the middle although its full length was announced.
struct Content {
    rest: Option<Bytes>,
    length: u64,
    breaks_off: bool,
}

impl Body for Content {
    type Data = Bytes;
    type Error = Reset;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Reset>>> {
        let breaks_off = self.breaks_off;
        Poll::Ready(match self.rest.take() {
            Some(rest) if breaks_off => Some(Ok(Frame::data(rest.slice(..rest.len() / 2)))),
            Some(rest) => Some(Ok(Frame::data(rest))),
            None if breaks_off => Some(Err(Reset)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && !self.breaks_off
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
