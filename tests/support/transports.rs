//! The two transports of OTLP: the same scenario over each, at once, and what the exporter says of its requests.

use cognito_auth_simulator::world::World;

use crate::exporter::{Exporter, Scrape};
use crate::receiver::{Pki, Receiver};
use crate::test_env::{TestEnv, all_live, is};

/// What people are told when delivery fails, and when it works again.
pub(crate) const BEGUN: &str = "the OTLP receiver takes no records";
/// See [`BEGUN`].
pub(crate) const ENDED: &str = "the OTLP receiver takes records again";

/// How a scenario's receiver is spoken to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Over {
    Grpc,
    Http,
}

impl Over {
    /// Both of them.
    pub(crate) const BOTH: [Self; 2] = [Self::Grpc, Self::Http];

    /// A env on which all of a pool's events are live, whose receiver speaks TLS or does not; `otlp` are further lines of
    /// its section.
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

/// Plays a scenario for all of these at once: most of the time they wait.
pub(crate) fn for_each<T: Send>(casts: impl IntoIterator<Item = T>, scenario: impl AsyncFn(T) + Sync) {
    let play = |cast| tokio::runtime::Runtime::new().unwrap().block_on(scenario(cast));
    std::thread::scope(|threads| {
        for cast in casts {
            threads.spawn(move || play(cast));
        }
    });
}

/// Requests that ended so.
pub(crate) fn requests(scrape: &Scrape, outcome: &str) -> f64 {
    scrape.sum("cognito_exporter_otlp_requests_total", &[&format!("outcome={outcome:?}")])
}

/// Waits until so many requests ended so.
pub(crate) fn until_requests(exporter: &Exporter, outcome: &str, least: f64) -> Scrape {
    exporter.until(&format!("{least} {outcome}"), |scrape| requests(scrape, outcome) >= least)
}

/// How many records came to which end.
#[derive(Clone, Copy, Default)]
pub(crate) struct Came {
    pub(crate) accepted: usize,
    pub(crate) rejected: usize,
    pub(crate) quarantined: usize,
}

impl Came {
    /// Checks that it is what the exporter says.
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
