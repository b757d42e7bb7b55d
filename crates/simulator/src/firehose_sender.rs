//! The task of a Firehose stream: buffers records, posts them to the endpoint, and retries.
//!
//! ```text
//! buffer --> request --> 200, well-formed: delivered
//!              ^  |----> 413: lost at once, not even in the backup
//!              |  '----> anything else, no answer: wait 1 s, 2 s, ... 2 min
//!              '----------------'  '--> after `retry_for`: backup
//! ```
//!
//! The world holds the records and the settings ([`crate::firehose`]). Waits are in the runtime's time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cognito_auth_core::event::UnixMillis;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Uri;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::ServedWorld;
use crate::firehose::{ANSWER_BYTES_MAX, DeliveryRequest, EndpointAnswer, FirehoseStream, StreamStep};

/// The longest time between two looks at a buffer.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Delivers the records of the stream `name` until the simulation stops or the stream is removed.
pub(super) async fn deliver(served: Arc<ServedWorld>, name: String) {
    let delivering = async {
        while let Some(records) = next_batch(&served, &name).await {
            if send(&served, &name, records).await.is_none() {
                return;
            }
        }
    };
    tokio::select! {
        () = delivering => {}
        () = served.stop.cancelled() => {}
    }
}

/// Reads or changes the stream. None if the stream does not exist.
fn with_stream<R>(
    served: &ServedWorld,
    name: &str,
    change: impl FnOnce(&mut FirehoseStream, UnixMillis) -> R,
) -> Option<R> {
    let mut world = served.world();
    let now = world.now();
    Some(change(world.find_firehose(name)?, now))
}

/// Waits until the buffer is full or old enough. None if the stream does not exist.
async fn next_batch(served: &ServedWorld, name: &str) -> Option<Vec<String>> {
    let mut first_seen: Option<Instant> = None;
    loop {
        let mut changed = std::pin::pin!(served.changed.notified());
        // Enabled before the look, so that a change between the look and the wait is not missed.
        changed.as_mut().enable();
        let waited = first_seen.map_or(Duration::ZERO, |since| since.elapsed());
        match with_stream(served, name, |stream, now| stream.step(now, waited))? {
            StreamStep::Deliver(records) => return Some(records),
            StreamStep::Buffer(rest) => {
                first_seen.get_or_insert_with(Instant::now);
                tokio::time::sleep(rest.min(LOOK_AGAIN_AFTER)).await;
            }
            StreamStep::Idle(Some(rest)) => tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = changed => {}
            },
            StreamStep::Idle(None) => changed.await,
        }
    }
}

/// Sends a batch until its fate is settled. None if the stream does not exist.
async fn send(served: &ServedWorld, name: &str, records: Vec<String>) -> Option<()> {
    let begun = Instant::now();
    let mut id: Option<String> = None;
    let mut wait = None;
    loop {
        let prepare = |stream: &mut FirehoseStream, now| {
            (stream.request_id(id.as_deref()), stream.settings.clone(), stream.arn().to_owned(), now)
        };
        let (request_id, settings, arn, now) = with_stream(served, name, prepare)?;
        // Encoded without the world's lock: a request can have many megabytes.
        let request = DeliveryRequest::new(&settings, arn, request_id.clone(), &records, now);
        let answer = match tokio::time::timeout(settings.timeout, post(&settings.endpoint, request)).await {
            Ok(answer) => answer,
            Err(_) => EndpointAnswer::none("no answer within the timeout"),
        };
        let is_repeated = with_stream(served, name, |stream, now| {
            stream.note(&request_id, records.len(), &answer, now);
            answer == EndpointAnswer::Accepted && wait.is_none() && stream.is_repeated()
        })?;
        served.changed.notify_waiters();
        let next_wait = wait.map_or(settings.first_wait, |wait: Duration| (wait * 2).min(settings.wait_max));
        let is_settled = match answer {
            EndpointAnswer::Accepted => !is_repeated,
            EndpointAnswer::TooLarge => true,
            EndpointAnswer::NotAccepted { .. } => begun.elapsed() + next_wait > settings.retry_for,
        };
        if is_settled {
            let settle = |stream: &mut FirehoseStream, _| match answer {
                EndpointAnswer::Accepted => stream.delivered_records(records.len()),
                EndpointAnswer::TooLarge => stream.lose(records),
                EndpointAnswer::NotAccepted { .. } => stream.back_up(records),
            };
            let settled = with_stream(served, name, settle);
            served.changed.notify_waiters();
            return settled;
        }
        id = Some(request_id);
        wait = Some(next_wait);
        let pause = with_stream(served, name, |stream, _| stream.with_jitter(next_wait))?;
        tokio::time::sleep(pause).await;
    }
}

/// Posts a request on a connection of its own.
async fn post(endpoint: &str, request: DeliveryRequest) -> EndpointAnswer {
    let id = request.id.clone();
    match exchange(endpoint, request).await {
        Ok((head, body)) => {
            let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
            EndpointAnswer::read(&id, head.status.as_u16(), header, &body)
        }
        Err(error) => EndpointAnswer::none(error.to_string()),
    }
}

type ExchangeError = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(
    endpoint: &str,
    request: DeliveryRequest,
) -> Result<(hyper::http::response::Parts, Bytes), ExchangeError> {
    let uri: Uri = endpoint.parse()?;
    let authority = uri.authority().ok_or("the endpoint has no host")?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut builder = hyper::Request::post(path).header("host", authority.as_str());
    for (name, value) in request.headers {
        builder = builder.header(name, value);
    }
    let request = builder.body(Full::new(Bytes::from(request.body)))?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok((head, body))
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        // The connection has ended. Its answer is complete, or the exchange fails.
        _ = connection => exchange.await,
    }
}
