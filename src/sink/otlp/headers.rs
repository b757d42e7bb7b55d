//! The headers of every export: those of the configuration, overridden by those of a file. The file is read before each
//! export, so a rotated token needs no restart.
//!
//! The file has the format of OTEL_EXPORTER_OTLP_HEADERS: `name=value` pairs with percent-encoded values, between
//! commas (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/#specifying-headers-via-environment-variables>).
//! Pairs may also be on separate lines.

use std::path::PathBuf;

use cognito_auth_core::lasting_fault::LastingFault;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::OtlpSetupError;
use crate::config::Secret;

/// The headers of the configuration and of its file. Debug shows no value.
pub(super) struct Headers {
    fixed: HeaderMap,
    file: Option<HeadersFile>,
}

struct HeadersFile {
    path: PathBuf,
    /// The headers that were read last.
    last: HeaderMap,
    /// The present fault of the file.
    fault: LastingFault<String>,
}

/// The number of a pair that is not a header, from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Malformed(usize);

impl Headers {
    /// Reads the headers for the first time.
    pub(super) fn open(pairs: &[(String, Secret)], file: Option<PathBuf>) -> Result<Self, OtlpSetupError> {
        let fixed = pairs.iter().enumerate().map(|(index, (name, value))| {
            header(name, value.reveal()).ok_or(OtlpSetupError::Header { key: "otlp.headers", pair: index + 1 })
        });
        Ok(Self { fixed: fixed.collect::<Result<_, _>>()?, file: file.map(HeadersFile::open).transpose()? })
    }

    /// Returns the present headers. While the file cannot be read, the last ones are used: the receiver decides whether
    /// they are still valid.
    pub(super) async fn current(&mut self) -> HeaderMap {
        let mut headers = self.fixed.clone();
        if let Some(file) = &mut self.file {
            file.refresh().await;
            for (name, value) in &file.last {
                headers.insert(name.clone(), value.clone());
            }
        }
        headers
    }
}

impl HeadersFile {
    fn open(path: PathBuf) -> Result<Self, OtlpSetupError> {
        const KEY: &str = "otlp.headers_file";
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Self {
                last: parse(&text).map_err(|Malformed(pair)| OtlpSetupError::Header { key: KEY, pair })?,
                path,
                fault: LastingFault::default(),
            }),
            Err(source) => Err(OtlpSetupError::Unreadable { key: KEY, path, source }),
        }
    }

    async fn refresh(&mut self) {
        let read = match tokio::fs::read_to_string(&self.path).await {
            Ok(text) => parse(&text).map_err(|Malformed(pair)| format!("pair {pair} is not of the form name=value")),
            Err(error) => Err(error.to_string()),
        };
        let path = self.path.display();
        match read {
            Ok(headers) => {
                self.last = headers;
                if self.fault.succeeded() {
                    tracing::info!(%path, "otlp.headers_file can be used again");
                }
            }
            Err(fault) => {
                if self.fault.failed(fault.clone()) {
                    tracing::warn!(%path, fault, "otlp.headers_file cannot be used; keeping its last headers");
                }
            }
        }
    }
}

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Headers(***)")
    }
}

fn parse(text: &str) -> Result<HeaderMap, Malformed> {
    text.split([',', '\n'])
        .map(str::trim)
        .filter(|pair| !pair.is_empty())
        .enumerate()
        .map(|(index, pair)| {
            pair.split_once('=')
                .and_then(|(name, value)| header(name.trim(), &percent_decoded(value.trim())?))
                .ok_or(Malformed(index + 1))
        })
        .collect()
}

fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = name.parse().ok()?;
    let mut value: HeaderValue = value.parse().ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(headers: &HeaderMap) -> Vec<(String, String)> {
        let mut pairs: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        pairs.sort();
        pairs
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn pairs_stand_between_commas_or_on_lines() {
        let headers = parse("Authorization=Basic%20YWJj==, x-tenant = a%2Cb\nx-more=1\n\n").unwrap();
        assert_eq!(
            shown(&headers),
            [pair("authorization", "Basic YWJj=="), pair("x-more", "1"), pair("x-tenant", "a,b")]
        );
    }

    #[test]
    fn a_malformed_pair_is_named_by_its_place() {
        for text in ["a=1,secret", "a=1,sec ret=2", "a=1,b=%zz", "a=1,b=%0a", "a=1,b=%2"] {
            assert_eq!(parse(text), Err(Malformed(2)), "{text}");
        }
        let pairs = [("a".to_owned(), Secret::new("1")), ("b".to_owned(), Secret::new("secret\n"))];
        let error = Headers::open(&pairs, None).unwrap_err().to_string();
        assert!(error.contains("pair 2") && !error.contains("secret"), "{error}");
    }

    #[tokio::test]
    async fn a_changed_file_is_read_again_and_a_missing_one_leaves_its_last_headers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        std::fs::write(&path, "x-token=one").unwrap();
        let fixed = [("x-token".to_owned(), Secret::new("zero")), ("x-fixed".to_owned(), Secret::new("f"))];
        let mut headers = Headers::open(&fixed, Some(path.clone())).unwrap();
        assert_eq!(shown(&headers.current().await), [pair("x-fixed", "f"), pair("x-token", "one")]);
        std::fs::write(&path, "x-token=two").unwrap();
        assert_eq!(headers.current().await["x-token"], "two");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(headers.current().await["x-token"], "two");
        assert_eq!(format!("{headers:?}"), "Headers(***)");
    }

    #[test]
    fn a_missing_file_is_an_error_at_start() {
        assert!(matches!(
            Headers::open(&[], Some("/nonexistent/headers".into())),
            Err(OtlpSetupError::Unreadable { key: "otlp.headers_file", .. })
        ));
    }
}
