//! OTLP over gRPC: opentelemetry-proto's client on a channel of our own.
//!
//! opentelemetry-otlp's exporter is not used here: what it answers is one string, without the code and RetryInfo, and
//! nothing can be put under it that would see them.

use std::time::Duration;

use http::header::HeaderMap;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};

use super::tls::Tls;
use super::{CONNECT_TIMEOUT, OtlpSetupError, USER_AGENT_VALUE, answer};
use crate::config::{Compression, OtlpConfig};
use crate::sink::Answer;

/// A connection that swallows everything (a dropped NAT entry, a vanished peer) is noticed after these two: pings are sent
/// only while an export waits.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long a ping may go unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// Exports over gRPC.
#[derive(Debug)]
pub(super) struct GrpcTransport {
    client: LogsServiceClient<Channel>,
}

impl GrpcTransport {
    /// Prepares to export; connects with the first export, and again whenever the connection is lost.
    pub(super) fn new(config: &OtlpConfig) -> Result<Self, OtlpSetupError> {
        let url = super::base_url(config)?;
        let secure = url.scheme_str() == Some("https");
        let mut endpoint = Endpoint::from(url)
            .user_agent(USER_AGENT_VALUE)
            .map_err(OtlpSetupError::tls)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        if secure {
            endpoint = endpoint
                .tls_config(Tls::read(config)?.for_grpc())
                .map_err(OtlpSetupError::tls)?;
        }
        let mut client = LogsServiceClient::new(endpoint.connect_lazy()).max_decoding_message_size(REPLY_BYTES_MAX);
        if config.compression == Compression::Gzip {
            client = client
                .send_compressed(CompressionEncoding::Gzip)
                .accept_compressed(CompressionEncoding::Gzip);
        }
        Ok(Self { client })
    }

    /// Exports a request with `headers`, and judges the answer. Has no timeout of its own.
    pub(super) async fn export(&mut self, request: ExportLogsServiceRequest, headers: HeaderMap) -> Answer {
        let mut request = tonic::Request::new(request);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        let result = self.client.export(request).await.map(tonic::Response::into_inner);
        answer::of_grpc(result)
    }
}
