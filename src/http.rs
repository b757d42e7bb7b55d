//! The HTTP server: `/metrics`, `/healthz`, `/readyz`, `/status` and a page for people.
//!
//! It answers from memory and asks nobody, so that it answers while AWS, the receiver or the disk do not. What it answers
//! is the [`Router`]'s; here are the socket and its limits: whoever can reach the port can hold a connection, but not many,
//! not long, and not at the cost of the work.

mod access;
mod basic_auth;
mod body;
mod connections;
mod gzip;
mod page;
mod renderings;
mod router;
mod scrapes;
mod tls;
mod watched;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

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

pub use self::access::{Web, WebError};
use self::connections::{ConnectionSlot, ConnectionSlots};
use self::renderings::Renderings;
pub use self::router::Router;
pub use self::scrapes::Scrapes;
use self::watched::Watched;

/// Bytes of a request's line and headers; ours have a few hundred.
const HEADERS_BYTES_MAX: usize = 16 * 1024;

/// Bytes buffered of a connection; a larger answer is written from where it lies.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// How long a request's headers may take to arrive.
const HEADERS_WAIT_MAX: Duration = Duration::from_secs(10);

/// How long a TLS handshake may take; whoever does not finish it holds one of the connections meanwhile.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// What a client is told that does not speak TLS where it is spoken. It would see a broken connection otherwise.
const SPEAK_TLS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n\
    this port speaks TLS: use https://\n";

/// How long a connection may serve, so that one that nobody reads does not keep its place for ever. Prometheus keeps one
/// open and opens another when it ends.
const CONNECTION_MAX: Duration = Duration::from_secs(10 * 60);

/// How long an answer under way may take to be read when its connection is to end. Less than a process has to end.
const CONNECTION_END_MAX: Duration = Duration::from_secs(2);

/// Connections that the system accepts for us and that wait to be taken up.
const BACKLOG_MAX: i32 = 1024;

/// Newcomers that enter at once, a part of all places. Then they get to read what their clients have sent, before others can
/// take their places.
const ENTER_AT_ONCE_MAX: usize = 16;

/// How often it is looked for answers that are not read in time, while there are answers to be read.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Pause after the system refused a connection, mostly for want of file descriptors: time for some to close.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Why nothing listens, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (http.listen): {}", advice(source.kind()))]
pub struct BindError {
    /// The address asked for.
    pub address: SocketAddr,
    /// What the system said.
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

/// A server that has its port.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    web: Web,
}

impl HttpServer {
    /// Takes the port. Before anything else is begun: a second exporter on the machine shall fail here. `[::]` is every
    /// address of the machine, of both families, and of IPv4 alone where there is no IPv6; any other address is that one.
    ///
    /// # Errors
    /// Where the port cannot be had.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        match bind_with(address, listen) {
            Ok(listener) => Ok(Self { listener, web: Web::default() }),
            Err(source) => Err(BindError { address, source }),
        }
    }

    /// The same, open to those only whom a web configuration lets in.
    #[must_use]
    pub fn behind(self, web: Web) -> Self {
        Self { web, ..self }
    }

    /// Where it listens; the port that the system chose where 0 was asked for.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop`, then lets the answers under way be read.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        let Self { listener, web } = self;
        let (places, renderings) = (ConnectionSlots::default(), Renderings::default());
        // The connections are this task's own: they end with it, at the latest.
        let mut connections = JoinSet::new();
        // Accepted, and waiting for a place; whoever comes after it waits in the system's queue.
        let mut newcomer = None;
        let mut entered = 0_usize;
        let mut refused = false;
        // Answers are to be read in time, and renderings let go of.
        let (mut is_watching, mut next_look) = (false, Instant::now());
        loop {
            if let Some(stream) = newcomer.take() {
                match places.enter() {
                    Ok(place) => {
                        let serving =
                            Serving { web: web.clone(), router: router.clone(), renderings: renderings.clone() };
                        connections.spawn(at(place, stream, serving, stop.clone()));
                        entered += 1;
                        if entered.is_multiple_of(ENTER_AT_ONCE_MAX) {
                            tokio::task::yield_now().await;
                        }
                    }
                    Err(until) => {
                        newcomer = Some(stream);
                        (is_watching, next_look) = (true, next_look.min(until));
                    }
                }
            }
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                () = places.changed() => is_watching = true,
                () = tokio::time::sleep_until(next_look), if is_watching => {
                    next_look = Instant::now() + LOOK_EVERY;
                    places.cut_overdue();
                    is_watching = renderings.forget_stale(Instant::now()) | places.are_busy() | newcomer.is_some();
                }
                accepted = listener.accept(), if newcomer.is_none() => match accepted {
                    Ok((stream, _)) => {
                        if std::mem::take(&mut refused) {
                            tracing::info!("connections are accepted again");
                        }
                        newcomer = Some(stream);
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut refused, true) {
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

/// Binds an address; in place of every IPv6 address every IPv4 address, where a machine has no IPv6.
fn bind_with<L>(address: SocketAddr, listen: impl Fn(SocketAddr) -> io::Result<L>) -> io::Result<L> {
    listen(address).or_else(|error| {
        // What the system says where there is no IPv6 differs; these two it says only where there is.
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
        // Whatever the system's default is (net.ipv6.bindv6only).
        socket.set_only_v6(false)?;
    }
    // As every server does: a restart does not wait for connections that the former process has closed.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG_MAX)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// What a connection is served with.
struct Serving {
    web: Web,
    router: Router,
    renderings: Renderings,
}

/// Serves one connection to its end, or until another takes its place.
async fn at(place: Arc<ConnectionSlot>, stream: TcpStream, serving: Serving, stop: CancellationToken) {
    tokio::select! {
        () = place.cut() => {}
        () = welcome(place.clone(), stream, serving, stop) => {}
    }
}

/// Serves one connection to its end, over TLS where that is spoken. What a client does wrong is the client's concern: nothing
/// is logged.
async fn welcome(place: Arc<ConnectionSlot>, stream: TcpStream, serving: Serving, stop: CancellationToken) {
    let Some(tls) = serving.web.now().tls.clone() else {
        return connection(Watched { stream, place }, serving, stop).await;
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
        connection(Watched { stream, place }, serving, stop).await;
    }
}

async fn connection<C>(stream: Watched<C>, serving: Serving, stop: CancellationToken)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (serving, place) = (&serving, &stream.place.clone());
    // Asked for each request: who may no longer ask may not on a connection that is open, either.
    let service = service_fn(async |request| {
        let Serving { web, router, renderings } = serving;
        Ok::<_, Infallible>(web.now().answer(request, router, renderings, place).await)
    });
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WAIT_MAX)
            .max_header_size(HEADERS_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        _ = served.as_mut() => return,
        () = stop.cancelled() => {}
        () = tokio::time::sleep(CONNECTION_MAX) => {}
    }
    served.as_mut().graceful_shutdown();
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
