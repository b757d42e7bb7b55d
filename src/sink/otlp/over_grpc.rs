//! OTLP over gRPC: opentelemetry-proto's client on a channel of our own.
//!
//! opentelemetry-otlp's exporter is not used here: what it answers is one string, without the code and RetryInfo, and
//! nothing can be put under it that would see them.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cognito_auth_core::answer::Answer;
use http::Uri;
use http::header::HeaderMap;
use http::uri::Scheme;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use tonic::Status;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use super::answer::Reply;
use super::connector::Connector;
use super::tls::TlsInForce;
use super::{CONNECT_TIMEOUT, OtlpSetupError, REPLY_BYTES_MAX, USER_AGENT_VALUE, answer};
use crate::config::{Compression, OtlpConfig};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Exports over gRPC.
#[derive(Debug)]
pub(super) struct GrpcTransport {
    endpoint: Endpoint,
    connector: Connector,
    compression: Compression,
    seen: Seen,
    client: LogsServiceClient<GrpcChannel>,
}

impl GrpcTransport {
    /// Prepares to export; connects with the first export, and again whenever the connection is lost.
    pub(super) fn new(config: &OtlpConfig, tls: Option<TlsInForce>) -> Result<Self, OtlpSetupError> {
        let url = super::base_url(config)?;
        let connector = Connector::new(config, &url, tls, false)?;
        // TLS is the connector's, and tonic takes no https:// without its own; the requests name the true scheme.
        let mut plain = url.clone().into_parts();
        plain.scheme = Some(Scheme::HTTP);
        let plain = Uri::from_parts(plain).map_err(|_| OtlpSetupError::Endpoint)?;
        let endpoint = Endpoint::from(plain)
            .origin(url)
            .user_agent(USER_AGENT_VALUE)
            .map_err(OtlpSetupError::exporter)?
            .connect_timeout(CONNECT_TIMEOUT);
        let seen = Seen::default();
        let client = client(&endpoint, &connector, config.compression, &seen);
        Ok(Self { endpoint, connector, compression: config.compression, seen, client })
    }

    /// Leaves the connection for a new one. To be called after an export that got no answer: a connection may swallow
    /// everything (a dropped NAT entry, a vanished peer), which TCP notices after a quarter of an hour. Pings would notice it
    /// too, but gRPC servers allow one in five minutes and close the connection of a client that sends more.
    pub(super) fn reconnect(&mut self) {
        self.client = client(&self.endpoint, &self.connector, self.compression, &self.seen);
    }

    /// Exports a request with `headers`, and judges the answer. Has no timeout of its own.
    pub(super) async fn export(&mut self, request: ExportLogsServiceRequest, headers: HeaderMap) -> Answer {
        let mut request = tonic::Request::new(request);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        self.seen.forget();
        let result = self.client.export(request).await.map(tonic::Response::into_inner);
        let page = result.as_ref().err().and_then(|status| status.source()?.downcast_ref());
        match page {
            Some(Page(reply)) => answer::of_page(reply),
            // Nobody knows what else of it is not as the receiver wrote it.
            None if self.seen.malformed() => answer::no_answer(MALFORMED),
            None => answer::of_grpc(result, self.seen.failure()),
        }
    }
}

const MALFORMED: &str =
    "the answer's grpc-status-details-bin is not base64; look at what stands between here and the receiver";

fn client(
    endpoint: &Endpoint,
    connector: &Connector,
    compression: Compression,
    seen: &Seen,
) -> LogsServiceClient<GrpcChannel> {
    let channel = GrpcChannel { channel: endpoint.connect_with_connector_lazy(connector.clone()), seen: seen.clone() };
    let client = LogsServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
    match compression {
        Compression::Gzip => {
            client.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip)
        }
        Compression::None => client,
    }
}

/// A channel that looks at answers before tonic does, which reads all of them as gRPC: it finds protocol errors where there is a
/// 502 that will pass or a 413 that asks for less, it does not tell its own statuses from the receiver's, and it panics at
/// details of a status that are not base64.
#[derive(Clone, Debug)]
struct GrpcChannel {
    channel: Channel,
    seen: Seen,
}

/// What was seen of the latest answer's status, in its headers or trailers.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    failure: AtomicBool,
    malformed: AtomicBool,
}

impl Seen {
    fn forget(&self) {
        self.0.failure.store(false, Ordering::Relaxed);
        self.0.malformed.store(false, Ordering::Relaxed);
    }

    /// Whether the receiver sent a status other than OK.
    fn failure(&self) -> bool {
        self.0.failure.load(Ordering::Relaxed)
    }

    /// Whether its details could not be read.
    fn malformed(&self) -> bool {
        self.0.malformed.load(Ordering::Relaxed)
    }

    /// Notes what headers or trailers say, and takes out of them what tonic would panic at.
    fn look(&self, headers: &mut HeaderMap) {
        if headers.get(Status::GRPC_STATUS).is_some_and(|code| code != "0") {
            self.0.failure.store(true, Ordering::Relaxed);
        }
        if headers.get_all(STATUS_DETAILS).iter().any(|details| BASE64.decode(details).is_err()) {
            headers.remove(STATUS_DETAILS);
            self.0.malformed.store(true, Ordering::Relaxed);
        }
    }

    fn look_at_frame<D>(&self, mut frame: Frame<D>) -> Frame<D> {
        if let Some(trailers) = frame.trailers_mut() {
            self.look(trailers);
        }
        frame
    }
}

const STATUS_DETAILS: &str = "grpc-status-details-bin";

/// As tonic decodes a status's details: with padding or without it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An HTTP response in place of a gRPC one.
#[derive(Debug, thiserror::Error)]
#[error("an HTTP response that is none of gRPC: {}", .0.status)]
struct Page(Reply);

impl GrpcService<Body> for GrpcChannel {
    type ResponseBody = Body;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        GrpcService::poll_ready(&mut self.channel, context).map_err(BoxError::from)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let response = GrpcService::call(&mut self.channel, request);
        let seen = self.seen.clone();
        Box::pin(async move {
            let mut response = response.await?;
            seen.look(response.headers_mut());
            // A success that is none is tonic's to find: here it could pass for an acknowledgement.
            if response.status().is_success() || response.headers().contains_key(Status::GRPC_STATUS) {
                return Ok(response.map(|body| Body::new(body.map_frame(move |frame| seen.look_at_frame(frame)))));
            }
            Err(Page(super::read(response).await?).into())
        })
    }
}
