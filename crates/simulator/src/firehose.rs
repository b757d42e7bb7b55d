//! A simulated Data Firehose stream: the records that wait in it, its requests to an HTTP endpoint, and the fate of
//! each record. `firehose_sender` makes the requests.
//!
//! <https://docs.aws.amazon.com/firehose/latest/dev/httpdeliveryrequestresponse.html>

mod request;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use fastrand::Rng;

use super::seeds::random_for;
pub use request::RecordForm;
pub(crate) use request::{ANSWER_BYTES_MAX, DeliveryRequest, EndpointAnswer};

/// The most attempts that are kept, the newest ones.
const ATTEMPTS_MAX: usize = 10_000;

/// The most records of one request.
const RECORDS_MAX: usize = 10_000;

/// The jitter of the waits between retries, as a share of the wait.
const JITTER: f64 = 0.15;

/// How a stream delivers. The defaults are those of Data Firehose.
#[derive(Clone, PartialEq, Debug)]
pub struct FirehoseSettings {
    /// The endpoint, such as `http://127.0.0.1:1234/`. In reality it is HTTPS.
    pub endpoint: String,
    /// `X-Amz-Firehose-Access-Key`.
    pub access_key: String,
    /// `X-Amz-Firehose-Common-Attributes`, a JSON text.
    pub common_attributes: Option<String>,
    /// Whether requests are compressed, with `Content-Encoding: gzip`.
    pub gzip: bool,
    /// The form of a record's data.
    pub form: RecordForm,
    /// The buffer is delivered when it holds this many bytes, or when its first record has waited so long.
    pub buffer_bytes: usize,
    /// The longest wait in the buffer; 0 to 900 s.
    pub buffer_for: Duration,
    /// How long a request is retried; 0 to 7200 s. Then its records go to the backup.
    pub retry_for: Duration,
    /// The wait before the first retry. It doubles with each.
    pub first_wait: Duration,
    /// The longest wait before a retry.
    pub wait_max: Duration,
    /// How long the endpoint may take for an answer.
    pub timeout: Duration,
    /// The share of accepted requests that are sent once more, as after a lost answer (0 to 1).
    pub repeated: f64,
    /// The share of retries with another request id (0 to 1). Firehose keeps the id by best effort.
    pub new_id: f64,
}

impl FirehoseSettings {
    /// The default settings for an endpoint.
    pub fn to_endpoint(url: &str, access_key: &str) -> Self {
        Self {
            endpoint: url.to_owned(),
            access_key: access_key.to_owned(),
            common_attributes: None,
            gzip: false,
            form: RecordForm::Single,
            buffer_bytes: 5 << 20,
            buffer_for: Duration::from_secs(300),
            retry_for: Duration::from_secs(300),
            first_wait: Duration::from_secs(1),
            wait_max: Duration::from_secs(120),
            timeout: Duration::from_secs(180),
            repeated: 0.0,
            new_id: 0.0,
        }
    }
}

/// A Firehose stream.
#[derive(Debug)]
pub struct FirehoseStream {
    /// How it delivers. A change holds from the next request on, also for a retry.
    pub settings: FirehoseSettings,
    name: String,
    arn: String,
    random: Rng,
    /// Records by the time from which the stream has them, then in the order of their arrival.
    waiting: BTreeMap<(UnixMillis, u64), String>,
    next_number: u64,
    attempts: VecDeque<FirehoseAttempt>,
    delivered: u64,
    backup: Vec<String>,
    lost: Vec<String>,
}

/// One request to the endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FirehoseAttempt {
    /// `X-Amz-Firehose-Request-Id`.
    pub request_id: String,
    /// When it was answered or failed, by the world's clock.
    pub at: UnixMillis,
    /// The number of exported records in it.
    pub records: usize,
    /// The status of the answer; None without an answer.
    pub status: Option<u16>,
    /// Why the answer does not count as a success. None for a success.
    pub fault: Option<String>,
}

/// The next step of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum StreamStep {
    /// It delivers these records.
    Deliver(Vec<String>),
    /// It has records, and waits for more, at most this long.
    Buffer(Duration),
    /// It has no records. The next one is due in this time, if any is on its way.
    Idle(Option<Duration>),
}

impl FirehoseStream {
    /// An empty stream.
    pub fn new(name: &str, region: &str, account_id: &str, settings: FirehoseSettings) -> Self {
        let partition = super::wire::partition(region);
        Self {
            settings,
            name: name.to_owned(),
            arn: format!("arn:{partition}:firehose:{region}:{account_id}:deliverystream/{name}"),
            random: random_for(1, name),
            waiting: BTreeMap::new(),
            next_number: 1,
            attempts: VecDeque::new(),
            delivered: 0,
            backup: vec![],
            lost: vec![],
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its ARN.
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// The requests so far, oldest first; at most the newest 10,000.
    pub fn attempts(&self) -> impl DoubleEndedIterator<Item = &FirehoseAttempt> + ExactSizeIterator {
        self.attempts.iter()
    }

    /// The number of records that the endpoint has accepted.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// The number of records that wait, also those that are not due yet. A record in a request does not wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The records that the stream has given up, as they are in its S3 backup.
    pub fn backup(&self) -> &[String] {
        &self.backup
    }

    /// The records that an answer with status 413 has lost. They are in no backup.
    pub fn lost(&self) -> &[String] {
        &self.lost
    }

    /// Puts the records of the backup into the stream again, as an operator does who replays it.
    pub fn replay_backup(&mut self, now: UnixMillis) {
        for record in std::mem::take(&mut self.backup) {
            self.put(now, record);
        }
    }

    /// Adds a record that the stream has from `at` on.
    pub fn put(&mut self, at: UnixMillis, record: String) {
        let number = self.next_number;
        self.next_number += 1;
        self.waiting.insert((at, number), record);
    }

    /// Seeds the ids and waits of the requests.
    pub(crate) fn seed(&mut self, seed: u64) {
        self.random = random_for(seed, &self.arn);
    }

    /// Says what to do next, when the first record has waited in the buffer for `waited`.
    pub(crate) fn step(&mut self, now: UnixMillis, waited: Duration) -> StreamStep {
        let last_due = (now, u64::MAX);
        let mut bytes = 0;
        let mut keys = vec![];
        for (key, record) in self.waiting.range(..=last_due) {
            // The data of a request is never over the buffer's size, unless one record is.
            if !keys.is_empty() && bytes + record.len() > self.settings.buffer_bytes || keys.len() == RECORDS_MAX {
                bytes = usize::MAX;
                break;
            }
            bytes += record.len();
            keys.push(*key);
        }
        if keys.is_empty() {
            let next = self.waiting.keys().next();
            return StreamStep::Idle(next.map(|(due, _)| due.since(now)));
        }
        if bytes < self.settings.buffer_bytes && waited < self.settings.buffer_for {
            return StreamStep::Buffer(self.settings.buffer_for - waited);
        }
        StreamStep::Deliver(keys.iter().filter_map(|key| self.waiting.remove(key)).collect())
    }

    /// The id of the next attempt: that of the attempt before, or a new one.
    pub(crate) fn request_id(&mut self, last_id: Option<&str>) -> String {
        let is_same = last_id.is_some() && !self.chance(self.settings.new_id);
        last_id.filter(|_| is_same).map_or_else(|| super::wire::uuid(&mut self.random), str::to_owned)
    }

    /// Notes an attempt.
    pub(crate) fn note(&mut self, id: &str, records: usize, answer: &EndpointAnswer, at: UnixMillis) {
        if self.attempts.len() >= ATTEMPTS_MAX {
            self.attempts.pop_front();
        }
        let (status, fault) = match answer {
            EndpointAnswer::Accepted => (Some(200), None),
            EndpointAnswer::TooLarge => (Some(413), Some("the request is too large".to_owned())),
            EndpointAnswer::NotAccepted { status, fault } => (*status, Some(fault.clone())),
        };
        let request_id = id.to_owned();
        self.attempts.push_back(FirehoseAttempt { request_id, at, records, status, fault });
    }

    /// Counts accepted records.
    pub(crate) fn delivered_records(&mut self, records: usize) {
        self.delivered += records as u64;
    }

    /// Moves records to the backup.
    pub(crate) fn back_up(&mut self, records: Vec<String>) {
        self.backup.extend(records);
    }

    /// Notes records that are in no backup.
    pub(crate) fn lose(&mut self, records: Vec<String>) {
        self.lost.extend(records);
    }

    /// A wait with its jitter.
    pub(crate) fn with_jitter(&mut self, wait: Duration) -> Duration {
        wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * self.random.f64())
    }

    /// Whether an accepted request is sent once more.
    pub(crate) fn is_repeated(&mut self) -> bool {
        self.chance(self.settings.repeated)
    }

    fn chance(&mut self, share: f64) -> bool {
        self.random.f64() < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_750_000_000_000);

    fn stream(records: usize) -> FirehoseStream {
        let mut settings = FirehoseSettings::to_endpoint("http://127.0.0.1:1/", "key");
        (settings.buffer_bytes, settings.buffer_for) = (100, Duration::from_secs(60));
        let mut stream = FirehoseStream::new("s", "eu-west-1", "111122223333", settings);
        (0..records).for_each(|number| stream.put(NOW, format!("record-{number:03}")));
        stream
    }

    #[test]
    fn the_buffer_is_delivered_when_it_is_full_or_old() {
        assert_eq!(stream(9).step(NOW, Duration::ZERO), StreamStep::Buffer(Duration::from_secs(60)));
        assert_eq!(
            stream(9).step(NOW, Duration::from_secs(60)),
            StreamStep::Deliver((0..9).map(|number| format!("record-{number:03}")).collect())
        );
        let mut full = stream(25);
        for expected in [10, 10] {
            let StreamStep::Deliver(records) = full.step(NOW, Duration::ZERO) else {
                panic!("a full buffer is delivered");
            };
            assert_eq!(records.len(), expected);
        }
        assert_eq!(full.waiting(), 5);
    }

    #[test]
    fn a_record_that_is_not_due_is_not_there() {
        let mut stream = stream(0);
        assert_eq!(stream.step(NOW, Duration::ZERO), StreamStep::Idle(None));
        stream.put(NOW.plus(Duration::from_secs(5)), "late".into());
        assert_eq!(stream.step(NOW, Duration::MAX), StreamStep::Idle(Some(Duration::from_secs(5))));
    }

    #[test]
    fn a_backup_can_be_replayed() {
        let mut stream = stream(0);
        stream.back_up(vec!["a".into(), "b".into()]);
        stream.replay_backup(NOW);
        assert_eq!((stream.backup().len(), stream.waiting()), (0, 2));
    }

    #[test]
    fn a_retry_keeps_its_id_unless_the_settings_say_otherwise() {
        let mut stream = stream(0);
        let first = stream.request_id(None);
        assert_eq!(stream.request_id(Some(&first)), first);
        stream.settings.new_id = 1.0;
        assert_ne!(stream.request_id(Some(&first)), first);
    }
}
