//! A metric family: a constant whose type holds its kind and its number of labels. A value of another kind or a missing
//! label does not compile.
//!
//! The `prometheus` crate's own vectors check the number of labels at run time. They identify their children by a hash
//! of the joined label values, in which ("a", "bc") and ("ab", "c") are equal. Here the values are plain data (see
//! [`super::pool`]). They become text only for a scrape, all of a pool's at one time.
//!
//! The text is written here, not by the crate's encoder. The encoder asks for a sample of each value with copies of all
//! label names and values, and a scrape of 50 pools has 28,000 values (docs/performance.md).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::marker::PhantomData;

use prometheus::core::Metric as _;

/// One metric: its name, its help, its kind and its labels.
pub(super) struct Family<K, const LABELS: usize> {
    head: FamilyHead,
    labels: [&'static str; LABELS],
    kind: PhantomData<K>,
}

/// The part of a family that its samples share.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct FamilyHead {
    name: &'static str,
    help: &'static str,
    type_name: &'static str,
}

/// A number that only grows; its value is a `u64`.
pub(super) struct Counter;
/// A number that goes up and down; its value is a finite `f64`.
pub(super) struct Gauge;
/// A distribution; its value is the crate's histogram.
pub(super) struct Distribution;

/// The kind of a metric family.
pub(super) trait MetricKind {
    const TYPE_NAME: &'static str;
    type Value<'a>;
    /// Writes the lines of a sample. `labels` is the text between the braces.
    fn write(lines: &mut String, name: &str, labels: &str, value: Self::Value<'_>);
}

impl MetricKind for Counter {
    const TYPE_NAME: &'static str = "counter";
    type Value<'a> = u64;
    fn write(lines: &mut String, name: &str, labels: &str, value: u64) {
        line(lines, &[name], &[labels]);
        end_with_count(lines, value);
    }
}

impl MetricKind for Gauge {
    const TYPE_NAME: &'static str = "gauge";
    type Value<'a> = f64;
    fn write(lines: &mut String, name: &str, labels: &str, value: f64) {
        line(lines, &[name], &[labels]);
        end_with(lines, value);
    }
}

impl MetricKind for Distribution {
    const TYPE_NAME: &'static str = "histogram";
    type Value<'a> = &'a prometheus::Histogram;
    fn write(lines: &mut String, name: &str, labels: &str, value: &prometheus::Histogram) {
        let metric = value.metric();
        let histogram = metric.get_histogram();
        let count = histogram.get_sample_count();
        for bucket in histogram.get_bucket() {
            line(lines, &[name, "_bucket"], &[labels, ",le=\"", &bucket.upper_bound().to_string(), "\""]);
            end_with_count(lines, bucket.cumulative_count());
        }
        line(lines, &[name, "_bucket"], &[labels, ",le=\"+Inf\""]);
        end_with_count(lines, count);
        line(lines, &[name, "_sum"], &[labels]);
        end_with(lines, histogram.get_sample_sum());
        line(lines, &[name, "_count"], &[labels]);
        end_with_count(lines, count);
    }
}

/// Begins a line with a name and the labels between braces, each in parts. Without labels there are no braces.
fn line(lines: &mut String, name: &[&str], labels: &[&str]) {
    name.iter().for_each(|part| lines.push_str(part));
    if labels.iter().any(|part| !part.is_empty()) {
        lines.push('{');
        labels.iter().for_each(|part| lines.push_str(part));
        lines.push('}');
    }
    lines.push(' ');
}

/// Ends a line with a whole number. Prometheus reads it as a double, so a number that a double cannot hold is rounded.
fn end_with_count(lines: &mut String, value: u64) {
    const EXACT_MAX: u64 = 1 << f64::MANTISSA_DIGITS;
    match value {
        0 => lines.push_str("0\n"),
        1..=EXACT_MAX => writeln!(lines, "{value}").expect("writing to a String cannot fail"),
        _ => end_with(lines, value as f64),
    }
}

fn end_with(lines: &mut String, value: f64) {
    writeln!(lines, "{value}").expect("writing to a String cannot fail");
}

impl<K: MetricKind, const LABELS: usize> Family<K, LABELS> {
    /// Declares a family.
    pub(super) const fn new(name: &'static str, help: &'static str, labels: [&'static str; LABELS]) -> Self {
        Self { head: FamilyHead { name, help, type_name: K::TYPE_NAME }, labels, kind: PhantomData }
    }

    /// Returns what the family's samples share.
    pub(super) const fn head(&self) -> FamilyHead {
        self.head
    }

    /// Returns the text of these label values, as it stands between the braces.
    pub(super) fn labels_text(&self, values: [&str; LABELS]) -> String {
        let mut text = String::new();
        for (name, value) in self.labels.iter().zip(values) {
            push_label(&mut text, name, value);
        }
        text
    }
}

/// Appends a label. The text format writes a backslash, a quotation mark and a line feed as two characters.
fn push_label(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() {
        text.push(',');
    }
    text.push_str(name);
    text.push_str("=\"");
    for part in value.split_inclusive(['\\', '"', '\n']) {
        let special = part.chars().next_back().filter(|last| matches!(last, '\\' | '"' | '\n'));
        match special {
            Some(special) => {
                text.push_str(&part[..part.len() - 1]);
                text.push_str(match special {
                    '\n' => "\\n",
                    '"' => "\\\"",
                    _ => "\\\\",
                });
            }
            None => text.push_str(part),
        }
    }
    text.push('"');
}

impl Family<Distribution, 1> {
    /// Makes the distribution of a one-label family. `buckets` are upper bounds in seconds, ascending.
    pub(super) fn distribution(buckets: &[f64]) -> prometheus::Histogram {
        // The name and help given here are never shown: a sample has the family's.
        prometheus::Histogram::with_opts(prometheus::HistogramOpts::new("unnamed", "unnamed").buckets(buckets.to_vec()))
            .expect("the buckets are constants that ascend")
    }
}

/// The text of one scrape, by family. The samples of a family are put in ascending order of their label values.
#[derive(Default)]
pub(super) struct Exposition(BTreeMap<FamilyHead, String>);

impl Exposition {
    /// Adds one sample.
    pub(super) fn put<K: MetricKind, const LABELS: usize>(
        &mut self,
        family: &Family<K, LABELS>,
        labels: [&str; LABELS],
        value: K::Value<'_>,
    ) {
        K::write(self.lines(family.head), family.head.name, &family.labels_text(labels), value);
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

    /// Adds counters of one family, given the text of their labels in two parts: one that they share, and their own.
    pub(super) fn put_counters<'a>(
        &mut self,
        family: FamilyHead,
        shared_labels: &str,
        counters: impl Iterator<Item = (&'a str, u64)>,
    ) {
        let lines = self.lines(family);
        for (labels, value) in counters {
            line(lines, &[family.name], &[shared_labels, labels]);
            end_with_count(lines, value);
        }
    }

    fn lines(&mut self, family: FamilyHead) -> &mut String {
        self.0.entry(family).or_default()
    }

    /// Returns the families in ascending order of their names, each with its head, followed by `more`.
    pub(super) fn into_text(self, more: &str) -> String {
        let head = |FamilyHead { name, help, type_name }: &FamilyHead| {
            format!("# HELP {name} {}\n# TYPE {name} {type_name}\n", help.replace('\\', "\\\\").replace('\n', "\\n"))
        };
        let parts: Vec<_> = self.0.into_iter().map(|(family, lines)| (head(&family), lines)).collect();
        let bytes = parts.iter().map(|(head, lines)| head.len() + lines.len()).sum::<usize>() + more.len();
        let mut text = String::with_capacity(bytes);
        for (head, lines) in parts {
            text.push_str(&head);
            text.push_str(&lines);
        }
        text.push_str(more);
        text
    }
}
