//! Posts exports over HTTP and reads the receiver's whole answer.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use cognito_auth_core::record::SERVICE_NAME;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Method, Request, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;

use super::answer::HttpReply;
use super::connector::Connector;
use super::tls::TlsInForce;
use super::{BoxError, OtlpSetupError, USER_AGENT_VALUE};
use crate::config::OtlpConfig;
use crate::lifecycle::Clock;

/// The time for which an unused connection is kept: less than the minute after which common proxies close theirs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);

type HyperClient = Client<Connector, Full<Bytes>>;

/// A client of one receiver.
pub(super) struct HttpClient {
    /// The URL that records are posted to.
    endpoint: Uri,
    connector: Connector,
    inner: Mutex<HyperClient>,
    clock: Clock,
}

/// The content of a post.
pub(super) struct HttpContent {
    pub(super) media_type: HeaderValue,
    pub(super) is_gzip: bool,
    pub(super) body: Bytes,
}

impl HttpClient {
    /// Makes a client. It connects with the first export.
    pub(super) fn new(config: &OtlpConfig, tls: Option<TlsInForce>, clock: Clock) -> Result<Self, OtlpSetupError> {
        let endpoint = endpoint(config)?;
        let connector = Connector::new(config, &endpoint, tls, true)?;
        let inner = Mutex::new(client(&connector));
        Ok(Self { endpoint, connector, inner, clock })
    }

    /// Returns the URL that records are posted to.
    pub(super) fn endpoint(&self) -> &Uri {
        &self.endpoint
    }

    /// Drops the connections, so that new ones are made.
    pub(super) fn reconnect(&self) {
        *self.inner.lock() = client(&self.connector);
    }

    /// Posts `content` with the configuration's `headers`, and reads the answer. Has no timeout of its own.
    pub(super) async fn post(&self, content: HttpContent, mut headers: HeaderMap) -> Result<HttpReply, BoxError> {
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(USER_AGENT_VALUE));
        if let Some(authorization) = self.connector.proxy_authorization() {
            headers.insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        headers.insert(CONTENT_TYPE, content.media_type);
        headers.remove(CONTENT_ENCODING);
        if content.is_gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let mut request = Request::new(Full::new(content.body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        *request.headers_mut() = headers;
        let client = self.inner.lock().clone();
        Ok(super::read(client.request(request).await?, &self.clock).await?)
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SERVICE_NAME)
    }
}

fn client(connector: &Connector) -> HyperClient {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .build(connector.clone())
}

/// Returns the URL that records are posted to: `/v1/logs` under the base URL, before its query.
fn endpoint(config: &OtlpConfig) -> Result<Uri, OtlpSetupError> {
    let base = super::base_url(config)?;
    if config.endpoint_is_exact {
        return Ok(base);
    }
    let path = base.path().trim_end_matches('/');
    let query = base.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(format!("{path}/v1/logs{query}").parse().map_err(|_| OtlpSetupError::Endpoint)?);
    Uri::from_parts(parts).map_err(|_| OtlpSetupError::Endpoint)
}
