//! The cost of each part between an answer and a log record, in time and allocations.
//!
//! `cargo bench --bench parts`, or `-- sdk` for the parts with that text in their names. `sdk::call` is the minimum
//! for any program with AWS's SDK, and `otlp::encode` for one with opentelemetry-proto's types. docs/performance.md
//! discusses the figures.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

#[path = "whole/collector.rs"]
mod collector;

use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::entry::{Entry, EventSource, PoolIdentity, UserIdentity};
use cognito_auth_core::event::{AuthEvent, UnixMillis};
use cognito_auth_core::export::ExportDetails;
use cognito_auth_core::masking::Modes;
use cognito_auth_core::walk::Rules;
use cognito_auth_exporter::source::Page;
use cognito_auth_simulator::quota::Quotas;
use cognito_auth_simulator::world::{World, WorldClock};

/// Counts the allocations of each part, beside its time.
#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

const NOW: UnixMillis = UnixMillis(1_795_523_756_000);

const HOUR_MS: i64 = 3_600_000;

const POOL: &str = "eu-west-1_Parts";

/// The records of one export: the default of `otlp.batch_size`.
const BATCH: usize = 512;

fn main() {
    divan::main();
}

/// Events of one user, newest first, seven hours apart.
fn events(count: usize) -> Vec<AuthEvent> {
    let mut world = World::new(WorldClock::Manual(NOW), 1, Quotas::unlimited());
    (0..count).map(|age| world.sign_in(UnixMillis(NOW.0 - (1 + 7 * age as i64) * HOUR_MS))).collect()
}

fn page(count: usize) -> Page {
    Page { events: events(count), next: None, received: NOW, served: None }
}

fn rules() -> Rules {
    Rules { overlap: Duration::from_hours(1), settle: Duration::from_mins(30), followed_since: None }
}

/// The cursor of a new user, all of whose events are live.
fn unknown() -> Cursor {
    Cursor::new(UnixMillis(0), UnixMillis(0))
}

fn identity(pool: &str) -> Arc<PoolIdentity> {
    Arc::new(PoolIdentity {
        id: pool.to_owned(),
        name: pool.to_owned(),
        region: "eu-west-1".to_owned(),
        account_id: Some("111122223333".to_owned()),
    })
}

fn entries(count: usize) -> Vec<Entry> {
    let pool = identity(POOL);
    let user = Arc::new(UserIdentity { username: "ada".to_owned(), sub: Some("a-sub".to_owned()) });
    let entry = |event| Entry {
        pool: pool.clone(),
        user: user.clone(),
        event,
        revision: 0,
        history: false,
        observed: NOW,
        told_by: EventSource::default(),
        details: ExportDetails::default(),
        masked: Modes::default(),
    };
    events(count).into_iter().map(entry).collect()
}

/// A call of AWS's SDK with a prepared answer: signed, not sent, decoded.
mod sdk {
    use aws_credential_types::Credentials;
    use aws_sdk_cognitoidentityprovider::config::retry::RetryConfig;
    use aws_sdk_cognitoidentityprovider::config::{Region, StalledStreamProtectionConfig};
    use aws_sdk_cognitoidentityprovider::operation::admin_list_user_auth_events::AdminListUserAuthEventsOutput;
    use aws_sdk_cognitoidentityprovider::{Client, Config};
    use aws_smithy_runtime_api::client::http::{
        HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
    };
    use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
    use aws_smithy_types::body::SdkBody;
    use bytes::Bytes;
    use cognito_auth_core::event::AuthEvent;
    use cognito_auth_exporter::source::cognito::wire::WirePage;
    use cognito_auth_simulator::wire::event_json;
    use divan::Bencher;

    use crate::{POOL, events};

    #[derive(Clone, Debug)]
    struct Canned(Bytes);

    impl HttpConnector for Canned {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            HttpConnectorFuture::ready(Ok(HttpResponse::new(200.try_into().unwrap(), SdkBody::from(self.0.clone()))))
        }
    }

    fn client(events_on_page: usize) -> Client {
        let events: Vec<_> = events(events_on_page).iter().map(event_json).collect();
        let canned = Canned(format!("{{\"AuthEvents\":[{}]}}", events.join(",")).into());
        let config = Config::builder()
            .behavior_version_latest()
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new("key", "not-a-secret", None, None, "parts"))
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .http_client(http_client_fn(move |_, _| SharedHttpConnector::new(canned.clone())))
            .build();
        Client::from_conf(config)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    async fn asked(client: &Client) -> AdminListUserAuthEventsOutput {
        client.admin_list_user_auth_events().user_pool_id(POOL).username("ada").max_results(60).send().await.unwrap()
    }

    #[divan::bench(args = [0, 5, 60])]
    fn call(bencher: Bencher<'_, '_>, events: usize) {
        let (runtime, client) = (runtime(), client(events));
        bencher.bench_local(|| runtime.block_on(asked(&client)));
    }

    /// From the SDK's types to the core's.
    #[divan::bench(args = [5, 60])]
    fn convert(bencher: Bencher<'_, '_>, events: usize) {
        let output = runtime().block_on(asked(&client(events)));
        bencher.with_inputs(|| output.clone()).bench_local_values(|output| {
            WirePage::from(output).events.into_iter().map(AuthEvent::from).collect::<Vec<_>>()
        });
    }
}

mod walk {
    use cognito_auth_core::walk::Walk;
    use divan::Bencher;

    use crate::{NOW, page, rules, unknown};

    /// A page without new events.
    #[divan::bench(args = [5, 60])]
    fn known(bencher: Bencher<'_, '_>, events: usize) {
        let (page, rules, mut cursor) = (page(events), rules(), unknown());
        Walk::begin(&cursor, NOW).take(&mut cursor, &page, &rules);
        bencher.bench_local(|| Walk::begin(&cursor, NOW).take(&mut cursor, &page, &rules));
    }

    /// A page with only new events.
    #[divan::bench(args = [60])]
    fn new(bencher: Bencher<'_, '_>, events: usize) {
        let (page, rules) = (page(events), rules());
        bencher
            .with_inputs(unknown)
            .bench_local_values(|mut cursor| Walk::begin(&cursor, NOW).take(&mut cursor, &page, &rules));
    }
}

mod ledger {
    use std::path::Path;

    use cognito_auth_core::counters::Series;
    use cognito_auth_exporter::config::StateConfig;
    use cognito_auth_exporter::delivery::{Outbox as _, Settlement};
    use cognito_auth_exporter::ledger::{Commit, Ledger, UserRecord};
    use divan::Bencher;
    use tempfile::TempDir;
    use tokio::runtime::{Builder, Runtime};
    use tokio::task::JoinSet;

    use crate::{BATCH, NOW, POOL, entries, identity, unknown};

    /// An open ledger in which users are enrolled.
    struct Enrolled {
        ledger: Ledger,
        runtime: Runtime,
        record: UserRecord,
        _directory: TempDir,
    }

    impl Enrolled {
        /// Uses a disk in memory if there is one, because the time of a real disk is not the exporter's.
        fn new(users: usize) -> Self {
            let memory = Path::new("/dev/shm");
            let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
            let state = StateConfig { path: directory.path().to_owned(), ..StateConfig::default() };
            let ledger = Ledger::open(&state, NOW).unwrap().ledger;
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let record = UserRecord { joined: NOW, sub: None, cursor: unknown(), activity: None };
            let users = (0..users).map(|user| (user.to_string(), record.clone())).collect();
            runtime.block_on(ledger.enroll(POOL, users)).unwrap();
            Self { ledger, runtime, record, _directory: directory }
        }

        fn commit(&self, user: usize, events: usize) -> Commit {
            Commit {
                pool: identity(POOL),
                username: user.to_string(),
                record: self.record.clone(),
                totals: vec![(Series::History, 1)],
                entries: entries(events),
                told: vec![],
            }
        }

        /// Reads and settles batches until the outbox is empty.
        async fn drain(&self) {
            loop {
                let batch = self.ledger.read(None, BATCH).unwrap();
                let delivered: Vec<_> = batch.into_iter().map(|(id, _)| id).collect();
                if delivered.is_empty() {
                    return;
                }
                self.ledger.settle(Settlement { delivered, quarantined: vec![] }).await.unwrap();
            }
        }
    }

    /// The commit of a page of new events with its records and cursor, up to the sync.
    #[divan::bench(args = [1, 60])]
    fn commit(bencher: Bencher<'_, '_>, events: usize) {
        let enrolled = Enrolled::new(1);
        bencher
            .with_inputs(|| enrolled.commit(0, events))
            .bench_local_values(|commit| enrolled.runtime.block_on(enrolled.ledger.commit(commit)).unwrap());
    }

    /// As many pages of new events as one poller has in flight, committed together, and their delivery from the
    /// outbox: all that the ledger does for them.
    #[divan::bench(args = [1, 60])]
    fn catch_up(bencher: Bencher<'_, '_>, events: usize) {
        const IN_FLIGHT: usize = 16;
        let enrolled = Enrolled::new(IN_FLIGHT);
        let commits = || (0..IN_FLIGHT).map(|user| enrolled.commit(user, events)).collect();
        bencher.with_inputs(commits).bench_local_values(|commits: Vec<Commit>| {
            enrolled.runtime.block_on(async {
                let mut written = JoinSet::new();
                for commit in commits {
                    let ledger = enrolled.ledger.clone();
                    written.spawn(async move { ledger.commit(commit).await.unwrap() });
                }
                written.join_all().await;
                enrolled.drain().await;
            });
        });
    }
}

mod otlp {
    use std::io::Write as _;

    use cognito_auth_core::answer::Answer;
    use cognito_auth_core::entry::Entry;
    use cognito_auth_core::record::Record;
    use cognito_auth_core::record::TimestampSource;
    use cognito_auth_exporter::config::OtlpConfig;
    use cognito_auth_exporter::lifecycle::Clock;
    use cognito_auth_exporter::sink::Sink as _;
    use cognito_auth_exporter::sink::otlp::{OtlpRecord, OtlpSink};
    use divan::Bencher;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use prost::Message as _;
    use tokio::runtime::{Builder, Runtime};

    use crate::collector::Collector;
    use crate::{BATCH, entries};

    fn runtime() -> Runtime {
        Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    fn sink(endpoint: &str) -> OtlpSink {
        OtlpSink::connect(&OtlpConfig::new(endpoint), "parts", &Clock::system()).unwrap()
    }

    /// Makes the records, as delivery has the sink make them.
    fn records(sink: &OtlpSink, entries: &[Entry]) -> Vec<OtlpRecord> {
        entries.iter().map(|entry| sink.record(entry)).collect()
    }

    /// The request for a batch.
    fn request() -> ExportLogsServiceRequest {
        let runtime = runtime();
        let collector = runtime.block_on(Collector::start());
        let mut sink = sink(&collector.endpoint());
        let records = records(&sink, &entries(BATCH));
        assert!(matches!(runtime.block_on(sink.deliver(&records)), Answer::Accepted { rejected: 0, .. }));
        ExportLogsServiceRequest::decode(&*collector.last()).unwrap()
    }

    /// From entries to the core's records, which borrow from them.
    #[divan::bench]
    fn record(bencher: Bencher<'_, '_>) {
        let entries = entries(BATCH);
        bencher.bench_local(|| {
            for entry in &entries {
                divan::black_box(Record::of(entry, TimestampSource::Event));
            }
        });
    }

    /// From entries to the bytes of their records.
    #[divan::bench]
    fn write(bencher: Bencher<'_, '_>) {
        let (sink, entries) = (sink("http://localhost:4318"), entries(BATCH));
        bencher.bench_local(|| records(&sink, &entries));
    }

    /// prost alone, from the types of opentelemetry-proto. The exporter does not do this.
    #[divan::bench]
    fn encode(bencher: Bencher<'_, '_>) {
        let request = request();
        bencher.bench_local(|| request.encode_to_vec());
    }

    #[divan::bench]
    fn gzip(bencher: Bencher<'_, '_>) {
        let bytes = request().encode_to_vec();
        bencher.bench_local(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&bytes).unwrap();
            encoder.finish().unwrap()
        });
    }

    /// From entries to the answer of a receiver that counts the records and acknowledges them. The result includes the
    /// receiver's time.
    #[divan::bench]
    fn deliver(bencher: Bencher<'_, '_>) {
        let runtime = runtime();
        let collector = runtime.block_on(Collector::start());
        let mut sink = sink(&collector.endpoint());
        let entries = entries(BATCH);
        bencher.bench_local(|| {
            let records = records(&sink, &entries);
            runtime.block_on(sink.deliver(&records))
        });
    }
}

mod metrics {
    use cognito_auth_exporter::metrics::Metrics;
    use divan::Bencher;

    use crate::{NOW, identity};

    /// `/metrics` as text.
    #[divan::bench(args = [1, 50])]
    fn render(bencher: Bencher<'_, '_>, pools: usize) {
        let metrics = Metrics::new(NOW);
        for pool in 0..pools {
            metrics.add_pool(&identity(&format!("eu-west-1_Parts{pool}")));
        }
        bencher.bench_local(|| metrics.render());
    }
}
