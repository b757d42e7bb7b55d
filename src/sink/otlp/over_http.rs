//! OTLP over HTTP with protobuf.
//!
//! opentelemetry-otlp's exporter is not used here, because it makes the body from the SDK's records only.

use std::io::Write as _;

use cognito_auth_core::answer::Answer;
use flate2::write::GzEncoder;
use http::header::{HeaderMap, HeaderValue};

use super::http_client::{HttpClient, HttpContent};
use super::tls::TlsInForce;
use super::{OtlpSetupError, answer};
use crate::config::{Compression, OtlpConfig};
use crate::lifecycle::Clock;

/// Exports over HTTP with protobuf.
#[derive(Debug)]
pub(super) struct HttpTransport {
    client: HttpClient,
    compression: Compression,
    accept_any_2xx: bool,
}

impl HttpTransport {
    /// Makes the transport. It connects with the first export.
    pub(super) fn new(config: &OtlpConfig, tls: Option<TlsInForce>, clock: Clock) -> Result<Self, OtlpSetupError> {
        Ok(Self {
            client: HttpClient::new(config, tls, clock)?,
            compression: config.compression,
            accept_any_2xx: config.accept_any_2xx,
        })
    }

    /// Drops the connections, so that new ones are made.
    pub(super) fn reconnect(&self) {
        self.client.reconnect();
    }

    /// Exports an encoded request with `headers`, and interprets the answer. Has no timeout of its own.
    pub(super) async fn export(&self, request: Vec<u8>, headers: HeaderMap) -> Answer {
        let is_gzip = self.compression == Compression::Gzip;
        let content = HttpContent {
            media_type: HeaderValue::from_static("application/x-protobuf"),
            is_gzip,
            body: if is_gzip { compressed(&request).into() } else { request.into() },
        };
        match self.client.post(content, headers).await {
            Ok(reply) => answer::of_http(&reply, self.accept_any_2xx),
            Err(error) => answer::no_answer(&answer::chain(&*error)),
        }
    }
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to a Vec does not fail")
}
