//! OTLP over gRPC: opentelemetry-proto's client on a channel of our own.
//!
//! opentelemetry-otlp's exporter is not used here: what it answers is one string, without the code and RetryInfo, and
//! nothing can be put under it that would see them.

use std::error::Error as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use http::header::HeaderMap;
use http::uri::Scheme;
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
use crate::sink::Answer;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Exports over gRPC.
#[derive(Debug)]
pub(super) struct GrpcTransport {
    endpoint: Endpoint,
    connector: Connector,
    compression: Compression,
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
        let client = client(&endpoint, &connector, config.compression);
        Ok(Self { endpoint, connector, compression: config.compression, client })
    }

    /// Leaves the connection for a new one. To be called after an export that got no answer: a connection may swallow
    /// everything (a dropped NAT entry, a vanished peer), which TCP notices after a quarter of an hour. Pings would notice it
    /// too, but gRPC servers allow one in five minutes and close the connection of a client that sends more.
    pub(super) fn reconnect(&mut self) {
        self.client = client(&self.endpoint, &self.connector, self.compression);
    }

    /// Exports a request with `headers`, and judges the answer. Has no timeout of its own.
    pub(super) async fn export(&mut self, request: ExportLogsServiceRequest, headers: HeaderMap) -> Answer {
        let mut request = tonic::Request::new(request);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        let result = self.client.export(request).await.map(tonic::Response::into_inner);
        let page = result.as_ref().err().and_then(|status| status.source()?.downcast_ref());
        match page {
            Some(Page(reply)) => answer::of_http(reply),
            None => answer::of_grpc(result),
        }
    }
}

fn client(endpoint: &Endpoint, connector: &Connector, compression: Compression) -> LogsServiceClient<GrpcChannel> {
    let channel = endpoint.connect_with_connector_lazy(connector.clone());
    let client = LogsServiceClient::new(GrpcChannel(channel)).max_decoding_message_size(REPLY_BYTES_MAX);
    match compression {
        Compression::Gzip => {
            client.send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip)
        }
        Compression::None => client,
    }
}

/// A channel that tells a proxy's page from a receiver's answer. tonic reads both as gRPC, and finds protocol errors where
/// there is a 502 that will pass or a 413 that asks for less.
#[derive(Clone, Debug)]
struct GrpcChannel(Channel);

/// An HTTP response in place of a gRPC one.
#[derive(Debug, thiserror::Error)]
#[error("an HTTP response that is none of gRPC: {}", .0.status)]
struct Page(Reply);

impl GrpcService<Body> for GrpcChannel {
    type ResponseBody = Body;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        GrpcService::poll_ready(&mut self.0, context).map_err(BoxError::from)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let response = GrpcService::call(&mut self.0, request);
        Box::pin(async move {
            let response = response.await?;
            // A success that is none is tonic's to find: here it could pass for an acknowledgement.
            if response.status().is_success() || response.headers().contains_key(Status::GRPC_STATUS) {
                return Ok(response);
            }
            Err(Page(super::read(response).await?).into())
        })
    }
}
