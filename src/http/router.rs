//! From a request to its answer, without a socket.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::Semaphore;

use super::{Scrapes, gzip, page};
use crate::lifecycle::Clock;
use crate::metrics::{self, Metrics};
use crate::status::{Health, StatusBoard};

/// Renderings of the metrics at a time: one takes tens of milliseconds where there are many pools, and whoever asks faster
/// than that takes no more of the machine.
const RENDERINGS_MAX: usize = 2;

static RENDERINGS: Semaphore = Semaphore::const_new(RENDERINGS_MAX);

/// An answer, all of it in memory.
pub type Answer = Response<Full<Bytes>>;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

const NOT_FOUND: &str = "\
not found; there are:
/         what the exporter is doing, for people
/status   the same as JSON
/metrics  Prometheus metrics
/readyz   200 once counters are restored, 503 while starting, stopping or stuck
/healthz  200 while the process can make progress; /livez is the same
";

/// What the server answers from. Clones share it.
#[derive(Clone)]
pub struct Router {
    /// What `/metrics` shows.
    pub metrics: Metrics,
    /// What `/status` adds to it.
    pub board: StatusBoard,
    /// Who waits for a scrape.
    pub scrapes: Scrapes,
    /// What time it is.
    pub clock: Clock,
}

#[derive(Clone, Copy)]
enum Path {
    Metrics,
    Health,
    Ready,
    Status,
    Page,
}

impl Path {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/metrics" => Self::Metrics,
            "/healthz" | "/livez" => Self::Health,
            "/readyz" => Self::Ready,
            "/status" => Self::Status,
            "/" => Self::Page,
            _ => return None,
        })
    }
}

impl Router {
    /// Answers a request. What it carries is not looked at, and the body of an answer to HEAD is the server's to leave out.
    pub async fn answer<B>(&self, request: Request<B>) -> Answer {
        let mut answer = match (Path::of(request.uri().path()), request.method()) {
            (None, _) => plain(StatusCode::NOT_FOUND, NOT_FOUND.to_owned()),
            (Some(path), &Method::GET) => self.get(path, &request).await,
            // A scrape that shows nothing is none.
            (Some(Path::Metrics), &Method::HEAD) => self.metrics(request.headers()).await,
            (Some(path), &Method::HEAD) => self.get(path, &request).await,
            (Some(_), _) => {
                let refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
                with(refused, ALLOW, "GET, HEAD")
            }
        };
        harden(&mut answer);
        answer
    }

    async fn get<B>(&self, path: Path, request: &Request<B>) -> Answer {
        match path {
            Path::Metrics => {
                let scrape = self.scrapes.begin();
                let answer = self.metrics(request.headers()).await;
                if answer.status().is_success() {
                    self.scrapes.answered(scrape);
                }
                answer
            }
            Path::Health => health(self.board.live()),
            Path::Ready => health(self.board.is_ready()),
            Path::Status => {
                let report = self.board.report(&self.metrics, self.clock.now());
                match serde_json::to_vec_pretty(&report) {
                    Ok(json) => body(StatusCode::OK, JSON, json),
                    Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("writing the status: {error}\n")),
                }
            }
            Path::Page => {
                let report = self.board.report(&self.metrics, self.clock.now());
                let still = request.uri().query() == Some("still");
                let page = body(StatusCode::OK, HTML, page::render(&report, still).into_bytes());
                with(page, CONTENT_SECURITY_POLICY, page::policy())
            }
        }
    }

    /// Renders on a thread for blocking work: many pools take tens of milliseconds, which polling shall not feel.
    async fn metrics(&self, headers: &HeaderMap) -> Answer {
        let gzip = gzip::wanted(headers);
        let metrics = self.metrics.clone();
        let rendering = RENDERINGS.acquire().await;
        let rendered = tokio::task::spawn_blocking(move || {
            let _rendering = rendering;
            let text = metrics.render().into_bytes();
            if gzip { gzip::compress(&text) } else { text }
        });
        let Ok(rendered) = rendered.await else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "rendering the metrics failed\n".to_owned());
        };
        let answer = with(body(StatusCode::OK, metrics::CONTENT_TYPE, rendered), VARY, "Accept-Encoding");
        if gzip { with(answer, CONTENT_ENCODING, "gzip") } else { answer }
    }
}

/// The answer to a request that does not reach the router, with a header that says what would.
pub(super) fn refusal(status: StatusCode, text: &str, name: HeaderName, value: &'static str) -> Answer {
    let mut answer = with(plain(status, text.to_owned()), name, value);
    harden(&mut answer);
    answer
}

fn harden(answer: &mut Answer) {
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

fn health(health: Health) -> Answer {
    match health {
        Ok(()) => plain(StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn plain(status: StatusCode, text: String) -> Answer {
    body(status, TEXT, text.into_bytes())
}

fn body(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    with(answer, CONTENT_TYPE, content_type)
}

fn with(mut answer: Answer, name: HeaderName, value: &'static str) -> Answer {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}
