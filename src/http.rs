//! The HTTP server: `/metrics`, `/healthz`, `/readyz`, `/status` and a page for people.
//!
//! The server responds from memory and makes no calls, so it works while AWS, the receiver or the disk fail.
//! The [`Router`] makes the responses. This module has the socket and its limits. A client can hold a connection, but
//! not many connections, not for long, and not at the cost of polling.

mod access;
mod basic_auth;
mod body;
mod connections;
mod gzip;
mod page;
mod renderings;
mod responder;
mod router;
mod scrapes;
mod tls;
mod user_query;
mod watched;
mod web_config;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::lasting_fault::LastingFault;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub(crate) use self::access::WebScope;
pub use self::access::{Web, WebError};
pub(crate) use self::body::MemoryBody;
pub(crate) use self::connections::ConnectionSlot;
use self::connections::ConnectionSlots;
use self::renderings::Renderings;
pub(crate) use self::responder::{ConnectionLimits, MemoryResponse, Responder};
pub use self::router::Router;
use self::router::StatusResponder;
pub use self::scrapes::Scrapes;
use self::watched::Watched;
pub use self::web_config::{ClientAuth, Pem, RateLimit, TlsServerConfig, TlsVersion, WebConfig, load_web_config};

/// Maximum size of a request's line and headers in bytes. Requests of Prometheus and of browsers have a few hundred.
const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// Maximum bytes that are buffered for a connection. A larger response is written without a copy.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Maximum time for a request's headers to arrive.
const HEADERS_WAIT_MAX: Duration = Duration::from_secs(10);

/// Maximum time for a TLS handshake. An unfinished handshake holds one of the connections.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Response to a client that speaks plain HTTP on a TLS port. Without it the client would see a broken connection.
const SPEAK_TLS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n\
    this port speaks TLS: use https://\n";

/// Maximum age of a connection, so that a connection without a reader ends at some time. Prometheus keeps one
/// connection open and opens another when it ends.
const CONNECTION_MAX: Duration = Duration::from_secs(10 * 60);

/// Maximum time for a client to read its last response when the connection ends. It is less than a stop may take.
const CONNECTION_END_MAX: Duration = Duration::from_secs(2);

/// Connections that the system accepts in advance and that wait for a slot.
const BACKLOG_MAX: i32 = 1024;

/// New connections that are admitted before the server yields. The yield lets them read their requests before other
/// connections can take their slots. It is a part of all slots.
const ADMITTED_AT_ONCE_MAX: usize = 16;

/// Time between two checks for responses that are not read in time. The checks run only while there are such responses.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Pause after the system refused a connection. The usual cause is a lack of file descriptors; in the pause some close.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Error of [`HttpServer::bind`]. Its text says what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({key}): {}", advice(source.kind()))]
pub struct BindError {
    /// The address asked for.
    pub address: SocketAddr,
    /// The key of the configuration that has the address.
    pub key: &'static str,
    /// The system's error.
    pub source: io::Error,
}

fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "another program listens there; stop it, or choose another port",
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; [::] listens on all it has",
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose a higher one",
        _ => "choose another address",
    }
}

/// A server that is bound to its port.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    web: Web,
}

impl HttpServer {
    /// Binds the port. Call it before any other work, so that a second exporter on the machine fails here. `[::]` binds
    /// every address of both families, or of IPv4 alone on a machine without IPv6. Any other address binds that one.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        Self::bind_for("http.listen", address)
    }

    /// Binds the address that this key of the configuration has. Needs a runtime.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub(crate) fn bind_for(key: &'static str, address: SocketAddr) -> Result<Self, BindError> {
        match bind_with(address, listen) {
            Ok(listener) => Ok(Self { listener, web: Web::default() }),
            Err(source) => Err(BindError { address, key, source }),
        }
    }

    /// Puts the server behind a web configuration: its TLS, users and limits.
    #[must_use]
    pub fn behind(self, web: Web) -> Self {
        Self { web, ..self }
    }

    /// Returns the address that the server listens on. Port 0 is replaced by the port that the system chose.
    ///
    /// # Errors
    /// The system does not tell the address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves the exporter's own responses until `stop`, then waits until clients have read those under way.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        self.serve_with(StatusResponder { router, renderings: Renderings::default() }, stop).await;
    }

    /// Serves the responses of `responder` until `stop`, then waits until clients have read those under way.
    pub(crate) async fn serve_with<R: Responder>(self, responder: R, stop: CancellationToken) {
        let Self { listener, web } = self;
        let slots = ConnectionSlots::default();
        // The connections belong to this task and end with it at the latest.
        let mut connections = JoinSet::new();
        // The connection that is accepted and waits for a slot. Later connections wait in the system's queue.
        let mut newcomer = None;
        let mut admitted = 0_usize;
        let mut fault = LastingFault::default();
        // While this is set, slow readers are cut and what is stale is dropped.
        let (mut is_watching, mut next_check) = (false, Instant::now());
        loop {
            if let Some(stream) = newcomer.take() {
                match slots.admit() {
                    Ok(slot) => {
                        let serving = Serving { web: web.clone(), responder: responder.clone() };
                        connections.spawn(serve_slot(slot, stream, serving, stop.clone()));
                        admitted += 1;
                        if admitted.is_multiple_of(ADMITTED_AT_ONCE_MAX) {
                            tokio::task::yield_now().await;
                        }
                    }
                    Err(until) => {
                        newcomer = Some(stream);
                        (is_watching, next_check) = (true, next_check.min(until));
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                () = slots.changed() => is_watching = true,
                () = tokio::time::sleep_until(next_check), if is_watching => {
                    next_check = Instant::now() + CHECK_INTERVAL;
                    slots.cut_overdue();
                    is_watching = responder.forget_stale(Instant::now()) | slots.are_busy() | newcomer.is_some();
                }
                accepted = listener.accept(), if newcomer.is_none() => match accepted {
                    Ok((stream, _)) => {
                        if fault.succeeded() {
                            tracing::info!("accepting connections again");
                        }
                        // The end of a response does not wait for the client's acknowledgement. Without the option
                        // it is late, not lost.
                        let _ = stream.set_nodelay(true);
                        newcomer = Some(stream);
                    }
                    Err(error) => {
                        if fault.failed(error.kind()) {
                            tracing::warn!(%error, "cannot accept connections");
                        }
                        tokio::select! {
                            () = stop.cancelled() => break,
                            () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                        }
                    }
                }
            }
        }
        drop((listener, newcomer));
        while connections.join_next().await.is_some() {}
    }
}

/// Binds an address. On a machine without IPv6, `[::]` becomes `0.0.0.0`.
fn bind_with<L>(address: SocketAddr, listen: impl Fn(SocketAddr) -> io::Result<L>) -> io::Result<L> {
    listen(address).or_else(|error| {
        // Systems report a lack of IPv6 in different ways. These two errors occur only where there is IPv6.
        let is_there = matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied);
        if is_there || address.ip() != IpAddr::from(Ipv6Addr::UNSPECIFIED) {
            return Err(error);
        }
        listen((Ipv4Addr::UNSPECIFIED, address.port()).into()).map_err(|_| error)
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) {
        // Do not depend on the system's default (net.ipv6.bindv6only).
        socket.set_only_v6(false)?;
    }
    // As servers do: a restart does not wait for connections that the former process has closed.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG_MAX)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Everything that one connection is served with.
struct Serving<R> {
    web: Web,
    responder: R,
}

/// Serves one connection to its end, or until its slot is given to another connection.
async fn serve_slot<R: Responder>(
    slot: Arc<ConnectionSlot>,
    stream: TcpStream,
    serving: Serving<R>,
    stop: CancellationToken,
) {
    tokio::select! {
        () = slot.cut() => {}
        () = serve_stream(slot.clone(), stream, serving, stop) => {}
    }
}

/// Serves one connection to its end, over TLS if that is configured. Errors of a client are not logged.
async fn serve_stream<R: Responder>(
    slot: Arc<ConnectionSlot>,
    stream: TcpStream,
    serving: Serving<R>,
    stop: CancellationToken,
) {
    let Some(tls) = serving.web.now().tls.clone() else {
        return serve_http(Watched::new(stream, slot), serving, stop).await;
    };
    let handshake = async {
        let mut first = [0];
        // No message of TLS begins with a letter, and every method of HTTP does.
        if stream.peek(&mut first).await.is_ok_and(|read| read == 1) && first[0].is_ascii_alphabetic() {
            let mut stream = stream;
            let _ = stream.write_all(SPEAK_TLS).await;
            let _ = stream.shutdown().await;
            return None;
        }
        TlsAcceptor::from(tls).accept(stream).await.ok()
    };
    let handshake = tokio::time::timeout(HANDSHAKE_MAX, handshake);
    if let Some(Ok(Some(stream))) = stop.run_until_cancelled(handshake).await {
        serve_http(Watched::new(stream, slot), serving, stop).await;
    }
}

async fn serve_http<C, R>(stream: Watched<C>, serving: Serving<R>, stop: CancellationToken)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    R: Responder,
{
    let (serving, slot) = (&serving, &stream.slot.clone());
    // The web configuration is read for each request, so that a change also applies to open connections.
    let service = service_fn(async |request| {
        let Serving { web, responder } = serving;
        Ok::<_, Infallible>(web.now().respond(request, responder, slot).await)
    });
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(R::LIMITS.head_wait_max)
            .max_header_size(R::LIMITS.head_bytes_max)
            .max_buf_size(R::LIMITS.buffer_bytes_max)
            .serve_connection(TokioIo::new(stream), service)
    );
    let is_stopping = tokio::select! {
        _ = served.as_mut() => return,
        () = stop.cancelled() => true,
        () = tokio::time::sleep(CONNECTION_MAX) => false,
    };
    served.as_mut().graceful_shutdown();
    if !is_stopping {
        let ended = stop.run_until_cancelled(tokio::time::timeout(R::LIMITS.last_request_max, served.as_mut()));
        if ended.await.is_some() {
            return;
        }
    }
    let _ = tokio::time::timeout(CONNECTION_END_MAX, served).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address of a test")
    }

    #[test]
    fn every_address_is_of_ipv4_alone_where_there_is_no_ipv6() {
        let without_ipv6 = |asked: SocketAddr| {
            if asked.is_ipv4() { Ok(asked) } else { Err(io::Error::other("address family not supported")) }
        };
        assert_eq!(bind_with(address("[::]:10588"), without_ipv6).unwrap(), address("0.0.0.0:10588"));
        assert!(bind_with(address("[::1]:10588"), without_ipv6).is_err(), "one address means that one");
        assert_eq!(bind_with(address("127.0.0.1:1"), without_ipv6).unwrap(), address("127.0.0.1:1"));
    }

    #[test]
    fn a_port_that_is_taken_is_not_looked_for_elsewhere() {
        let taken = |asked: SocketAddr| {
            if asked.is_ipv4() { Ok(asked) } else { Err(io::Error::from(io::ErrorKind::AddrInUse)) }
        };
        assert!(bind_with(address("[::]:10588"), taken).is_err());
    }
}
