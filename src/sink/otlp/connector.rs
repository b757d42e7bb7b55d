//! Connects to the receiver: over TCP, through a proxy if the environment has one, and with TLS if the endpoint says
//! so.
//!
//! ```text
//! endpoint   over     no proxy   proxy
//! https://   either   TLS        CONNECT, then TLS
//! http://    gRPC     plain      CONNECT
//! http://    HTTP     plain      plain, to the proxy, with the whole URL in the request (`is_forwarded`)
//! ```
//!
//! Both transports connect through here, so proxies and renewed certificates apply to both.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::tls::{self, TlsInForce};
use super::{BoxError, CONNECT_TIMEOUT, OtlpSetupError};
use crate::config::{OtlpConfig, origin};

type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Makes connections to one endpoint. The URL of a call is ignored.
#[derive(Clone)]
pub(super) struct Connector {
    endpoint: Uri,
    tcp: HttpConnector,
    proxy: Option<Proxy>,
    tls: Option<TlsInForce>,
}

#[derive(Clone)]
struct Proxy {
    intercept: Intercept,
    /// The TLS configuration of connections to the proxy itself, if its URL is https.
    tls: Option<Arc<ClientConfig>>,
    is_forwarding: bool,
}

impl Connector {
    /// Makes a connector to `endpoint`. `can_forward` is whether the requests are HTTP/1, which a proxy can forward.
    pub(super) fn new(
        config: &OtlpConfig,
        endpoint: &Uri,
        tls: Option<TlsInForce>,
        can_forward: bool,
    ) -> Result<Self, OtlpSetupError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let proxy = match config.proxies.for_url(endpoint) {
            Some(intercept) => Some(Proxy {
                tls: (intercept.uri().scheme_str() == Some("https")).then(tls::system_config).transpose()?,
                is_forwarding: can_forward && tls.is_none(),
                intercept,
            }),
            None => None,
        };
        Ok(Self { endpoint: endpoint.clone(), tcp, proxy, tls })
    }

    /// Returns the credentials that each request to a forwarding proxy must carry.
    pub(super) fn proxy_authorization(&self) -> Option<&HeaderValue> {
        self.proxy.as_ref().filter(|proxy| proxy.is_forwarding)?.intercept.basic_auth()
    }

    async fn connect(self) -> Result<Stream, BoxError> {
        let Self { endpoint, tcp, proxy, tls } = self;
        let is_forwarded = proxy.as_ref().is_some_and(|proxy| proxy.is_forwarding);
        let io = match proxy {
            None => Hop { tcp, tls: None }.connect(endpoint.clone()).await?,
            Some(proxy) => {
                let url = proxy.intercept.uri().clone();
                if !matches!(url.scheme_str(), Some("http" | "https")) {
                    let proxy = origin(&url).unwrap_or_default();
                    return Err(
                        format!("the proxy {proxy} cannot be used: only http:// and https:// proxies can").into()
                    );
                }
                let hop = Hop { tcp, tls: proxy.tls };
                if is_forwarded {
                    hop.connect(url).await?
                } else {
                    let mut tunnel = Tunnel::new(url, hop);
                    if let Some(authorization) = proxy.intercept.basic_auth() {
                        tunnel = tunnel.with_auth(authorization.clone());
                    }
                    tunnel.call(with_port(&endpoint)?).await?
                }
            }
        };
        let io = match tls {
            Some(tls) => over_tls(tls.now(), &endpoint, io).await?,
            None => io,
        };
        Ok(Stream { io, is_forwarded })
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("endpoint", &origin(&self.endpoint)).finish_non_exhaustive()
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Connecting<Stream>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// One connection to the receiver or to a proxy.
#[derive(Clone)]
struct Hop {
    tcp: HttpConnector,
    tls: Option<Arc<ClientConfig>>,
}

impl Hop {
    async fn connect(mut self, to: Uri) -> Result<Io, BoxError> {
        let stream = self.tcp.call(to.clone()).await?;
        let io = TokioIo::new(Box::new(stream.into_inner()) as Box<dyn Duplex>);
        match self.tls {
            Some(tls) => over_tls(tls, &to, io).await,
            None => Ok(io),
        }
    }
}

impl Service<Uri> for Hop {
    type Response = Io;
    type Error = BoxError;
    type Future = Connecting<Io>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        Box::pin(self.clone().connect(to))
    }
}

async fn over_tls(config: Arc<ClientConfig>, to: &Uri, io: Io) -> Result<Io, BoxError> {
    let host = to.host().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = ServerName::try_from(host.to_owned())?;
    let stream = TlsConnector::from(config).connect(name, io.into_inner()).await?;
    Ok(TokioIo::new(Box::new(stream)))
}

/// Returns the URL with an explicit port, also for the scheme's default. The tunnel's own default is the port of https.
fn with_port(url: &Uri) -> Result<Uri, BoxError> {
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 });
    let authority = format!("{}:{port}", url.host().unwrap_or_default());
    let scheme = url.scheme_str().unwrap_or("http");
    Ok(Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build()?)
}

/// A TLS or plain connection.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Io = TokioIo<Box<dyn Duplex>>;

/// A connection on which requests are sent.
pub(super) struct Stream {
    io: Io,
    is_forwarded: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_forwarded)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_asked_for_with_the_port_that_is_meant() {
        for (url, expected) in [
            ("https://logs.example", "https://logs.example:443/"),
            ("http://logs.example/path?token=secret", "http://logs.example:80/"),
            ("http://[::1]:4317", "http://[::1]:4317/"),
        ] {
            assert_eq!(with_port(&url.parse().unwrap()).unwrap().to_string(), expected);
        }
    }
}
