//! A metric family: a constant whose type holds its kind and its number of labels. A value of another kind or a missing
//! label does not compile.
//!
//! The `prometheus` crate's own vectors check the number of labels at run time. They identify their children by a hash
//! of the joined label values, in which ("a", "bc") and ("ab", "c") are equal. Here the values are plain data (see
//! [`super::pool`]). They become samples only for a scrape, all of a pool's at one time.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use prometheus::core::Metric as _;
use prometheus::proto::{self, MetricFamily, MetricType};

/// One metric: its name, its help, its kind and its labels.
pub(super) struct Family<K, const LABELS: usize> {
    name: &'static str,
    help: &'static str,
    labels: [&'static str; LABELS],
    kind: PhantomData<K>,
}

/// A number that only grows; its value is a `u64`.
pub(super) struct Counter;
/// A number that goes up and down; its value is a finite `f64`.
pub(super) struct Gauge;
/// A distribution; its value is the crate's histogram.
pub(super) struct Distribution;

/// The kind of a metric family.
pub(super) trait MetricKind {
    const TYPE: MetricType;
    type Value<'a>;
    fn sample(value: Self::Value<'_>) -> proto::Metric;
}

impl MetricKind for Counter {
    const TYPE: MetricType = MetricType::COUNTER;
    type Value<'a> = u64;
    fn sample(value: u64) -> proto::Metric {
        let mut counter = proto::Counter::default();
        counter.set_value(value as f64);
        let mut metric = proto::Metric::default();
        metric.set_counter(counter);
        metric
    }
}

impl MetricKind for Gauge {
    const TYPE: MetricType = MetricType::GAUGE;
    type Value<'a> = f64;
    fn sample(value: f64) -> proto::Metric {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        proto::Metric::from_gauge(gauge)
    }
}

impl MetricKind for Distribution {
    const TYPE: MetricType = MetricType::HISTOGRAM;
    type Value<'a> = &'a prometheus::Histogram;
    fn sample(value: &prometheus::Histogram) -> proto::Metric {
        value.metric()
    }
}

impl<K, const LABELS: usize> Family<K, LABELS> {
    /// Declares a family.
    pub(super) const fn new(name: &'static str, help: &'static str, labels: [&'static str; LABELS]) -> Self {
        Self { name, help, labels, kind: PhantomData }
    }
}

impl Family<Distribution, 1> {
    /// Makes the distribution of a one-label family. `buckets` are upper bounds in seconds, ascending.
    pub(super) fn distribution(buckets: &[f64]) -> prometheus::Histogram {
        // The name and help given here are never shown: a sample has the family's.
        prometheus::Histogram::with_opts(prometheus::HistogramOpts::new("unnamed", "unnamed").buckets(buckets.to_vec()))
            .expect("the buckets are constants that ascend")
    }
}

/// The samples of one scrape, by family.
#[derive(Default)]
pub(super) struct Exposition(BTreeMap<&'static str, MetricFamily>);

impl Exposition {
    /// Adds one sample.
    pub(super) fn put<K: MetricKind, const LABELS: usize>(
        &mut self,
        family: &Family<K, LABELS>,
        labels: [&str; LABELS],
        value: K::Value<'_>,
    ) {
        let mut sample = K::sample(value);
        sample.set_label(family.labels.iter().zip(labels).map(label_pair).collect());
        self.0
            .entry(family.name)
            .or_insert_with(|| {
                let mut named = MetricFamily::default();
                named.set_name(family.name.to_owned());
                named.set_help(family.help.to_owned());
                named.set_field_type(K::TYPE);
                named
            })
            .mut_metric()
            .push(sample);
    }

    /// Adds a gauge if its value is known. An unknown value is absent rather than 0.
    pub(super) fn put_known<const LABELS: usize>(
        &mut self,
        family: &Family<Gauge, LABELS>,
        labels: [&str; LABELS],
        value: Option<f64>,
    ) {
        if let Some(value) = value {
            self.put(family, labels, value);
        }
    }

    /// Returns the families in ascending order of their names.
    pub(super) fn into_families(self) -> Vec<MetricFamily> {
        self.0.into_values().collect()
    }
}

fn label_pair((name, value): (&&'static str, &str)) -> proto::LabelPair {
    let mut pair = proto::LabelPair::default();
    pair.set_name((*name).to_owned());
    pair.set_value(value.to_owned());
    pair
}
