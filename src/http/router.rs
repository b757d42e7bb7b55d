//! The router: makes the response to a request, without a socket.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    AGE, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::access::KnownClient;
use super::body::MemoryBody;
use super::connections::ConnectionSlot;
use super::renderings::{Rendering, RenderingKind, Renderings};
use super::responder::{ConnectionLimits, MemoryResponse, Responder};
use super::scrapes::{PendingScrape, Scrape};
use super::user_query::UserQuery;
use super::{Scrapes, gzip, page};
use crate::lifecycle::Clock;
use crate::metrics::{self, Metrics};
use crate::status::user_place::PlaceError;
use crate::status::{ProbeResult, StatusBoard, StatusReport};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

const NOT_FOUND: &str = "\
not found; there are:
/         what the exporter is doing, for people
/status   the same as JSON; ?user_pool_id=ID&username=NAME tells the place of one user, behind authentication
/metrics  Prometheus metrics
/readyz   200 once counters are restored, 503 while starting, stopping or stuck
/healthz  200 while the process can make progress; /livez is the same
";

/// Why no user is shown without access control.
const NO_AUTHENTICATION: &str = "\
the place of a user is personal data, and this server knows no clients: list basic_auth_users in the web configuration \
(http.web_config_file), or require client certificates there\n";

/// The data of the responses. Clones share it.
#[derive(Clone)]
pub struct Router {
    /// The metrics, for `/metrics`, `/status` and the page.
    pub metrics: Metrics,
    /// The state that `/status` and the page add to the metrics.
    pub board: StatusBoard,
    /// The scrapes, which wake the pools that wait for one.
    pub scrapes: Scrapes,
    /// The clock of reports.
    pub clock: Clock,
}

/// The router with the renderings that its responses share.
#[derive(Clone)]
pub(super) struct StatusResponder {
    pub(super) router: Router,
    pub(super) renderings: Renderings,
}

impl Responder for StatusResponder {
    const LIMITS: ConnectionLimits = ConnectionLimits {
        head_bytes_max: super::HEADERS_BYTES_MAX,
        head_wait_max: super::HEADERS_WAIT_MAX,
        buffer_bytes_max: super::BUFFER_BYTES_MAX,
        last_request_max: super::CONNECTION_END_MAX,
    };

    async fn respond(&self, request: Request<Incoming>, slot: &Arc<ConnectionSlot>) -> MemoryResponse {
        slot.responding();
        let mut response = self.router.respond(request, &self.renderings).await;
        response.body_mut().written_at(slot);
        response
    }

    fn forget_stale(&self, now: Instant) -> bool {
        self.renderings.forget_stale(now)
    }
}

#[derive(Clone, Copy)]
enum Route {
    Metrics,
    Health,
    Ready,
    Status,
    Page,
}

impl Route {
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
    /// Responds to a request. It ignores the request's body. The server leaves out the body of a response to HEAD.
    pub(super) async fn respond<B>(&self, request: Request<B>, renderings: &Renderings) -> MemoryResponse {
        let mut response = match (Route::of(request.uri().path()), request.method()) {
            (None, _) => plain(StatusCode::NOT_FOUND, NOT_FOUND.to_owned()),
            (Some(path), &Method::GET | &Method::HEAD) => self.get(path, &request, renderings).await,
            (Some(_), _) => {
                let refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
                with(refused, ALLOW, "GET, HEAD")
            }
        };
        harden(&mut response);
        response
    }

    async fn get<B>(&self, path: Route, request: &Request<B>, renderings: &Renderings) -> MemoryResponse {
        match path {
            Route::Metrics => {
                // HEAD shows no metrics, so it does not count as a scrape.
                let counts = request.method() == Method::GET;
                self.metrics(request.headers(), counts, renderings).await
            }
            Route::Health => health(self.board.live()),
            Route::Ready => health(self.board.is_ready()),
            Route::Status if UserQuery::is_in(request.uri().query()) => self.user_place(request).await,
            Route::Status => {
                let render = |report: &StatusReport| {
                    serde_json::to_vec_pretty(report).expect("a report is maps with text keys, and a Vec takes all")
                };
                self.report(RenderingKind::Status, JSON, renderings, render).await
            }
            Route::Page => {
                let still = request.uri().query() == Some("still");
                let kind = if still { RenderingKind::StillPage } else { RenderingKind::Page };
                let render = move |report: &StatusReport| page::render(report, still).into_bytes();
                let page = self.report(kind, HTML, renderings, render).await;
                with(page, CONTENT_SECURITY_POLICY, page::policy())
            }
        }
    }

    async fn metrics(&self, headers: &HeaderMap, counts: bool, renderings: &Renderings) -> MemoryResponse {
        let gzip = gzip::wanted(headers);
        let kind = if gzip { RenderingKind::CompressedMetrics } else { RenderingKind::Metrics };
        let (metrics, scrapes) = (self.metrics.clone(), self.scrapes.clone());
        let render = move || {
            let scrape = scrapes.begin();
            let text = metrics.render().into_bytes();
            (if gzip { gzip::compress(&text) } else { text }, scrape)
        };
        let asked = Instant::now();
        let Some(rendering) = renderings.get(kind, asked, self.scrapes.awaited(), render).await else {
            return failed();
        };
        let mut response = with(rendered(&rendering, asked, metrics::CONTENT_TYPE), VARY, "Accept-Encoding");
        if counts {
            let scrape = PendingScrape { scrapes: self.scrapes.clone(), scrape: rendering.scrape };
            response = response.map(|body| body.counted_as(scrape));
        }
        if gzip { with(response, CONTENT_ENCODING, "gzip") } else { response }
    }

    /// Tells the place of one user, to clients that are known.
    async fn user_place<B>(&self, request: &Request<B>) -> MemoryResponse {
        if request.extensions().get::<KnownClient>().is_none() {
            return plain(StatusCode::FORBIDDEN, NO_AUTHENTICATION.to_owned());
        }
        let UserQuery { user_pool_id, username } = match UserQuery::parse(request.uri().query()) {
            Ok(user) => user,
            Err(mistake) => return plain(StatusCode::BAD_REQUEST, format!("{mistake}\n")),
        };
        match self.board.user_place(&user_pool_id, &username).await {
            Ok(place) => {
                let json = serde_json::to_vec_pretty(&place).expect("a place is a map with text keys");
                body(StatusCode::OK, JSON, json.into())
            }
            Err(error @ (PlaceError::NoSuchPool | PlaceError::NotFollowed | PlaceError::OtherName)) => {
                plain(StatusCode::NOT_FOUND, format!("{error}\n"))
            }
            Err(error @ (PlaceError::NotPolled | PlaceError::Busy | PlaceError::Ledger(_))) => {
                let busy = plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"));
                with(busy, RETRY_AFTER, "5")
            }
        }
    }

    async fn report(
        &self,
        kind: RenderingKind,
        content_type: &'static str,
        renderings: &Renderings,
        render: impl FnOnce(&StatusReport) -> Vec<u8> + Send + 'static,
    ) -> MemoryResponse {
        let router = self.clone();
        let render = move || {
            let report = router.board.report(&router.metrics, router.clock.now());
            (render(&report), Scrape::default())
        };
        let asked = Instant::now();
        match renderings.get(kind, asked, Scrape::default(), render).await {
            Some(rendering) => rendered(&rendering, asked, content_type),
            None => failed(),
        }
    }
}

/// Makes a rendering a response. The header `Age` marks one that was made for an earlier request, with its age in
/// seconds (RFC 9111).
fn rendered(rendering: &Rendering, asked: Instant, content_type: &'static str) -> MemoryResponse {
    let mut response = body(StatusCode::OK, content_type, rendering.bytes.clone());
    if let Some(age) = rendering.shared_age(asked) {
        response.headers_mut().insert(AGE, age.as_secs().into());
    }
    response
}

fn failed() -> MemoryResponse {
    plain(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the response could not be rendered; please report what the log says\n".to_owned(),
    )
}

/// Makes the response to a request that access control refuses, with a header that tells the client what to do.
pub(super) fn refusal(status: StatusCode, text: &str, name: HeaderName, value: &'static str) -> MemoryResponse {
    let mut response = with(plain(status, text.to_owned()), name, value);
    harden(&mut response);
    response
}

fn harden(response: &mut MemoryResponse) {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

fn health(health: ProbeResult) -> MemoryResponse {
    match health {
        Ok(()) => plain(StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

fn plain(status: StatusCode, text: String) -> MemoryResponse {
    body(status, TEXT, text.into_bytes().into())
}

fn body(status: StatusCode, content_type: &'static str, bytes: Bytes) -> MemoryResponse {
    let mut response = Response::new(MemoryBody::new(bytes));
    *response.status_mut() = status;
    with(response, CONTENT_TYPE, content_type)
}

fn with(mut response: MemoryResponse, name: HeaderName, value: &'static str) -> MemoryResponse {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}
