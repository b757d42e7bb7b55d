//! The HTTP server: `/metrics`, `/healthz`, `/readyz`, `/status` and a page for people.
//!
//! It answers from memory and asks nobody, so that it answers while AWS, the receiver or the disk do not. What it answers
//! is the [`Router`]'s; here are the socket and its limits: whoever can reach the port can hold a connection, but not many,
//! not long, and not at the cost of the work.

mod access;
mod gzip;
mod page;
mod router;
mod scrapes;
mod tls;
mod users;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use self::access::{Web, WebError};
pub use self::router::{Answer, Router};
pub use self::scrapes::Scrapes;

/// Connections at a time. A pair of Prometheus servers, the probes and a few people need ten. At the bound the oldest gives
/// way to a new one: whoever holds connections without asking, or does not read, keeps nobody out.
const CONNECTIONS_MAX: usize = 64;

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
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; 0.0.0.0 listens on all it has",
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
    /// Takes the port. Before anything else is begun: a second exporter on the machine shall fail here.
    ///
    /// # Errors
    /// Where the port cannot be had.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        match TcpListener::bind(address).await {
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
        // The connections are this task's own: they end with it, at the latest.
        let mut connections = JoinSet::new();
        let mut oldest_first = VecDeque::<AbortHandle>::with_capacity(CONNECTIONS_MAX);
        let mut refused = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        if std::mem::take(&mut refused) {
                            tracing::info!("connections are accepted again");
                        }
                        oldest_first.retain(|connection| !connection.is_finished());
                        if oldest_first.len() >= CONNECTIONS_MAX && let Some(oldest) = oldest_first.pop_front() {
                            oldest.abort();
                        }
                        oldest_first.push_back(connections.spawn(welcome(stream, self.web.clone(), router.clone(), stop.clone())));
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
        drop(self.listener);
        while connections.join_next().await.is_some() {}
    }
}

/// Serves one connection to its end, over TLS where that is spoken. What a client does wrong is the client's concern: nothing
/// is logged.
async fn welcome(stream: TcpStream, web: Web, router: Router, stop: CancellationToken) {
    let Some(tls) = web.now().tls.clone() else { return connection(stream, web, router, stop).await };
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
        connection(stream, web, router, stop).await;
    }
}

async fn connection<C>(stream: C, web: Web, router: Router, stop: CancellationToken)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (web, router) = (&web, &router);
    // Asked for each request: who may no longer ask may not on a connection that is open, either.
    let service = service_fn(async |request| Ok::<_, Infallible>(web.now().answer(request, router).await));
    let mut serving = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WAIT_MAX)
            .max_header_size(HEADERS_BYTES_MAX)
            .max_buf_size(BUFFER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        _ = serving.as_mut() => return,
        () = stop.cancelled() => {}
        () = tokio::time::sleep(CONNECTION_MAX) => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(CONNECTION_END_MAX, serving).await;
}
