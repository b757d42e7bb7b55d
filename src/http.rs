//! The HTTP server: `/metrics`, `/healthz`, `/readyz`, `/status` and a page for people.
//!
//! It answers from memory and asks nobody, so that it answers while AWS, the receiver or the disk do not. What it answers
//! is the [`Router`]'s; here are the socket and its limits: whoever can reach the port can hold a connection, but not many,
//! not long, and not at the cost of the work.

mod gzip;
mod page;
mod router;
mod scrapes;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

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
}

impl HttpServer {
    /// Takes the port. Before anything else is begun: a second exporter on the machine shall fail here.
    ///
    /// # Errors
    /// Where the port cannot be had.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        match TcpListener::bind(address).await {
            Ok(listener) => Ok(Self { listener }),
            Err(source) => Err(BindError { address, source }),
        }
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
                        oldest_first.push_back(connections.spawn(connection(stream, router.clone(), stop.clone())));
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

/// Serves one connection to its end. What a client does wrong is the client's concern: nothing is logged.
async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let router = &router;
    let service = service_fn(async |request| Ok::<_, Infallible>(router.answer(request).await));
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
