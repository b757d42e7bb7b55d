//! OTLP over gRPC: tonic's client on a channel of our own.
//!
//! opentelemetry-otlp's exporter is not used here. It returns one string without the code and RetryInfo, and no layer
//! under it can see them. opentelemetry-proto's client accepts no request that is encoded already.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::BufMut as _;
use cognito_auth_core::answer::Answer;
use http::Uri;
use http::header::HeaderMap;
use http::uri::{PathAndQuery, Scheme};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use super::answer::HttpReply;
use super::connector::Connector;
use super::tls::TlsInForce;
use super::{BoxError, CONNECT_TIMEOUT, OtlpSetupError, REPLY_BYTES_MAX, USER_AGENT_VALUE, answer};
use crate::config::{Compression, OtlpConfig};
use crate::lifecycle::Clock;

/// Exports over gRPC.
#[derive(Debug)]
pub(super) struct GrpcTransport {
    endpoint: Endpoint,
    connector: Connector,
    compression: Compression,
    status: StatusWatch,
    clock: Clock,
    client: Grpc<GrpcChannel>,
}

impl GrpcTransport {
    /// Makes the transport. It connects with the first export, and again when the connection is lost.
    pub(super) fn new(config: &OtlpConfig, tls: Option<TlsInForce>, clock: Clock) -> Result<Self, OtlpSetupError> {
        let url = super::base_url(config)?;
        let connector = Connector::new(config, &url, tls, false)?;
        // The connector does TLS, and tonic accepts https:// only with its own TLS. The requests name the true scheme.
        let mut plain = url.clone().into_parts();
        plain.scheme = Some(Scheme::HTTP);
        let plain = Uri::from_parts(plain).map_err(|_| OtlpSetupError::Endpoint)?;
        let endpoint = Endpoint::from(plain)
            .origin(url)
            .user_agent(USER_AGENT_VALUE)
            .map_err(OtlpSetupError::exporter)?
            .connect_timeout(CONNECT_TIMEOUT);
        let status = StatusWatch::default();
        let client = client(&endpoint, &connector, config.compression, &status, &clock);
        Ok(Self { endpoint, connector, compression: config.compression, status, clock, client })
    }

    /// Drops the connection, so that a new one is made. Called after an export without an answer. A connection may lose
    /// everything that is sent (a dropped NAT entry, a vanished peer), and TCP notices that after a quarter of an hour.
    /// Pings would notice it too, but gRPC servers allow one in five minutes and close the connection of a client that
    /// sends more.
    pub(super) fn reconnect(&mut self) {
        self.client = client(&self.endpoint, &self.connector, self.compression, &self.status, &self.clock);
    }

    /// Exports an encoded request with `headers`, and interprets the answer. Has no timeout of its own.
    pub(super) async fn export(&mut self, request: Vec<u8>, headers: HeaderMap) -> Answer {
        let mut request = tonic::Request::new(request);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        self.status.reset();
        let result = self.call(request).await.map(tonic::Response::into_inner);
        let page = result.as_ref().err().and_then(|status| status.source()?.downcast_ref());
        match page {
            Some(PlainHttpResponse(reply)) => answer::of_plain_http(reply),
            // Other parts of the answer may have been altered, too.
            None if self.status.malformed() => answer::no_answer(MALFORMED),
            None => answer::of_grpc(result, self.status.failure()),
        }
    }

    async fn call(
        &mut self,
        request: tonic::Request<Vec<u8>>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, Status> {
        let ready = self.client.ready().await;
        ready.map_err(|error| Status::unknown(format!("Service was not ready: {error}")))?;
        self.client.unary(request, PathAndQuery::from_static(EXPORT), ExportCodec).await
    }
}

/// The path of LogsService's only method.
const EXPORT: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// Sends requests that are encoded already, and decodes the answers.
struct ExportCodec;

impl Codec for ExportCodec {
    type Encode = Vec<u8>;
    type Decode = ExportLogsServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for ExportCodec {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, request: Vec<u8>, bytes: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes.put_slice(&request);
        Ok(())
    }
}

impl Decoder for ExportCodec {
    type Item = ExportLogsServiceResponse;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<ExportLogsServiceResponse>, Status> {
        // The code that opentelemetry-proto's client gives an answer that cannot be read.
        let answer = ExportLogsServiceResponse::decode(bytes).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Some(answer))
    }
}

const MALFORMED: &str =
    "the answer's grpc-status-details-bin is not base64; check the proxies between the exporter and the receiver";

fn client(
    endpoint: &Endpoint,
    connector: &Connector,
    compression: Compression,
    status: &StatusWatch,
    clock: &Clock,
) -> Grpc<GrpcChannel> {
    let channel = endpoint.connect_with_connector_lazy(connector.clone());
    let channel = GrpcChannel { channel, status: status.clone(), clock: clock.clone() };
    let client = Grpc::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
    match compression {
        Compression::Gzip => {
            client.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip)
        }
        Compression::None => client,
    }
}

/// A channel that reads the answer's status before tonic does. tonic reads every answer as gRPC, with three
/// consequences:
/// - A 502 that will pass or a 413 that asks for less becomes a protocol error.
/// - tonic's own statuses cannot be told from the receiver's.
/// - Status details that are not base64 make tonic panic.
#[derive(Clone, Debug)]
struct GrpcChannel {
    channel: Channel,
    status: StatusWatch,
    clock: Clock,
}

/// Flags about the status of the latest answer, from its headers or trailers. Clones share them.
#[derive(Clone, Debug, Default)]
struct StatusWatch(Arc<StatusFlags>);

#[derive(Debug, Default)]
struct StatusFlags {
    failure: AtomicBool,
    malformed: AtomicBool,
}

impl StatusWatch {
    /// Clears the flags before the next export.
    fn reset(&self) {
        self.0.failure.store(false, Ordering::Relaxed);
        self.0.malformed.store(false, Ordering::Relaxed);
    }

    /// Returns whether the receiver sent a status other than OK.
    fn failure(&self) -> bool {
        self.0.failure.load(Ordering::Relaxed)
    }

    /// Returns whether the status details could not be read.
    fn malformed(&self) -> bool {
        self.0.malformed.load(Ordering::Relaxed)
    }

    /// Sets the flags from headers or trailers, and removes details at which tonic would panic.
    fn read(&self, headers: &mut HeaderMap) {
        if headers.get(Status::GRPC_STATUS).is_some_and(|code| code != "0") {
            self.0.failure.store(true, Ordering::Relaxed);
        }
        if headers.get_all(STATUS_DETAILS).iter().any(|details| BASE64.decode(details).is_err()) {
            headers.remove(STATUS_DETAILS);
            self.0.malformed.store(true, Ordering::Relaxed);
        }
    }

    fn read_frame<D>(&self, mut frame: Frame<D>) -> Frame<D> {
        if let Some(trailers) = frame.trailers_mut() {
            self.read(trailers);
        }
        frame
    }
}

const STATUS_DETAILS: &str = "grpc-status-details-bin";

/// Decodes status details as tonic does: with padding or without it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An HTTP response that came instead of a gRPC answer.
#[derive(Debug, thiserror::Error)]
#[error("an HTTP response that is not gRPC: {}", .0.status)]
struct PlainHttpResponse(HttpReply);

impl GrpcService<Body> for GrpcChannel {
    type ResponseBody = Body;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        GrpcService::poll_ready(&mut self.channel, context).map_err(BoxError::from)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let response = GrpcService::call(&mut self.channel, request);
        let (status, clock) = (self.status.clone(), self.clock.clone());
        Box::pin(async move {
            let mut response = response.await?;
            status.read(response.headers_mut());
            // tonic rejects a success that is not gRPC. Here it could be mistaken for an acknowledgement.
            if response.status().is_success() || response.headers().contains_key(Status::GRPC_STATUS) {
                return Ok(response.map(|body| Body::new(body.map_frame(move |frame| status.read_frame(frame)))));
            }
            Err(PlainHttpResponse(super::read(response, &clock).await?).into())
        })
    }
}
