//! The two transports of OTLP: the same scenario over each, in parallel, and the exporter's counts of its requests.

use cognito_auth_simulator::world::World;

use crate::exporter::{Exporter, Scrape};
use crate::receiver::{Pki, Receiver};
use crate::test_env::{TestEnv, all_live, is};

/// The log line when delivery fails.
pub(crate) const BEGUN: &str = "the OTLP receiver takes no records";
/// The log line when delivery works again.
pub(crate) const ENDED: &str = "the OTLP receiver takes records again";

/// The transport of a scenario's receiver.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Over {
    Grpc,
    Http,
}

impl Over {
    /// Both transports.
    pub(crate) const BOTH: [Self; 2] = [Self::Grpc, Self::Http];

    /// An environment on which all of a pool's events are live, with a receiver with or without TLS; `otlp` are further
    /// lines of its section.
    pub(crate) async fn env(
        self,
        pki: Option<&Pki>,
        otlp: &str,
        pool: &str,
        populate: impl FnOnce(&mut World),
    ) -> TestEnv {
        let (receiver, protocol) = match (self, pki) {
            (Self::Grpc, None) => (Receiver::grpc().await, "grpc"),
            (Self::Grpc, Some(pki)) => (Receiver::grpc_tls(pki).await, "grpc"),
            (Self::Http, None) => (Receiver::http().await, "http/protobuf"),
            (Self::Http, Some(pki)) => (Receiver::http_tls(pki).await, "http/protobuf"),
        };
        TestEnv::set_for(receiver, protocol, &format!("{otlp}{}", all_live(pool)), populate).await
    }
}

/// Runs a scenario for all of these in parallel, because most of the time they wait.
pub(crate) fn for_each<T: Send>(casts: impl IntoIterator<Item = T>, scenario: impl AsyncFn(T) + Sync) {
    let play = |cast| tokio::runtime::Runtime::new().unwrap().block_on(scenario(cast));
    std::thread::scope(|threads| {
        for cast in casts {
            threads.spawn(move || play(cast));
        }
    });
}

/// The number of requests with this outcome.
pub(crate) fn requests(scrape: &Scrape, outcome: &str) -> f64 {
    scrape.sum("cognito_exporter_otlp_requests_total", &[&format!("outcome={outcome:?}")])
}

/// Waits until this many requests have this outcome.
pub(crate) fn until_requests(exporter: &Exporter, outcome: &str, least: f64) -> Scrape {
    exporter.until(&format!("{least} {outcome}"), |scrape| requests(scrape, outcome) >= least)
}

/// The number of records by their end.
#[derive(Clone, Copy, Default)]
pub(crate) struct Came {
    pub(crate) accepted: usize,
    pub(crate) rejected: usize,
    pub(crate) quarantined: usize,
}

impl Came {
    /// Checks that the exporter's metrics agree.
    pub(crate) fn check(self, exporter: &Exporter) {
        let scrape = exporter.scrape();
        let Self { accepted, rejected, quarantined } = self;
        for (outcome, records) in [("accepted", accepted), ("rejected", rejected), ("quarantined", quarantined)] {
            let labels = [&*format!("outcome={outcome:?}")];
            let as_said = is(&scrape, "cognito_exporter_otlp_records_total", &labels, records as f64);
            assert!(as_said, "not {records} {outcome}\n{}", scrape.interesting());
        }
    }
}
