//! The shapes of values. Each shape describes in one phrase what it accepts, and reads exactly that.
//!
//! The phrase and the code that reads stand side by side, so that the "accepted: ..." of a mistake stays correct.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use cognito_auth_core::event::UnixMillis;
use figment::value::{Dict, Num, Value};
use serde_json::Value as WrittenValue;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::effective::HIDDEN;

/// The single key of the table that a TOML date without quotes becomes.
const TOML_DATE: &str = "$__toml_private_datetime";

/// A value as it was written. A value from the environment is always text.
#[derive(Clone, Copy)]
pub(crate) struct Given<'a> {
    pub(super) value: &'a Value,
    pub(super) from_variable: bool,
}

impl<'a> Given<'a> {
    pub(crate) fn text(self) -> Option<&'a str> {
        self.value.as_str()
    }

    fn variable_text(self) -> Option<&'a str> {
        self.text().filter(|_| self.from_variable).map(str::trim)
    }

    fn flag(self) -> Option<bool> {
        self.value.to_bool().or_else(|| self.variable_text()?.parse().ok())
    }

    pub(crate) fn whole(self) -> Option<u64> {
        match self.value {
            Value::Num(_, number) => u64::try_from(number.to_u128_lossy()?).ok(),
            _ => self.variable_text()?.parse().ok(),
        }
    }

    fn number(self) -> Option<f64> {
        match self.value {
            // The detour over text reads whole numbers of every width as exactly as a float can.
            Value::Num(_, number) => number.to_f64().or_else(|| whole_text(*number)?.parse().ok()),
            _ => self.variable_text()?.parse().ok(),
        }
    }

    fn date(self) -> Option<&'a str> {
        self.text().or_else(|| self.value.as_dict()?.get(TOML_DATE)?.as_str())
    }

    /// Returns the value if it is a table. A date does not count as one.
    pub(crate) fn table(self) -> Option<&'a Dict> {
        self.value.as_dict().filter(|dict| !dict.contains_key(TOML_DATE))
    }

    /// Returns the kind of the value, for a mistake that must not show the value.
    pub(crate) fn kind(self) -> &'static str {
        match self.value {
            Value::String(..) | Value::Char(..) => "text",
            Value::Bool(..) => "a flag",
            Value::Num(..) => "a number",
            Value::Empty(..) => "nothing",
            Value::Array(..) => "a list",
            Value::Dict(..) if self.table().is_none() => "a date",
            Value::Dict(..) => "a table",
        }
    }

    /// Returns the value on one line, shortened. For a list or table it returns the kind.
    pub(super) fn shown(self) -> String {
        const CHARACTERS_MAX: usize = 60;
        match self.value {
            Value::String(_, text) if text.chars().count() > CHARACTERS_MAX => {
                format!("{:?}...", text.chars().take(CHARACTERS_MAX).collect::<String>())
            }
            Value::String(_, text) => format!("{text:?}"),
            Value::Bool(_, flag) => flag.to_string(),
            Value::Num(_, number) => whole_text(*number)
                .or_else(|| Some(format!("{:?}", number.to_f64()?)))
                .unwrap_or_else(|| self.kind().to_owned()),
            _ => self.date().unwrap_or(self.kind()).to_owned(),
        }
    }
}

fn whole_text(number: Num) -> Option<String> {
    let unsigned = number.to_u128().map(|number| number.to_string());
    unsigned.or_else(|| Some(number.to_i128()?.to_string()))
}

/// A shape of values: its description, the function that reads it, and the one that writes it.
pub(crate) struct Shape<T> {
    /// The description, as a phrase.
    pub(super) accepted: String,
    /// Whether a mistake must not show the value.
    pub(super) secret: bool,
    read: Box<dyn Fn(Given<'_>) -> Option<T>>,
    /// Writes a value as a file would. None if the value is not of this shape, or is not shown.
    write: Writer<T>,
}

/// Writes a value.
type Writer<T> = Box<dyn Fn(&T) -> Option<WrittenValue>>;

impl<T: 'static> Shape<T> {
    pub(super) fn new(accepted: impl Into<String>, read: impl Fn(Given<'_>) -> Option<T> + 'static) -> Self {
        Self { accepted: accepted.into(), secret: false, read: Box::new(read), write: Box::new(|_| None) }
    }

    /// Sets how a value is written. Without it the value is not shown.
    pub(super) fn written<V: Into<WrittenValue>>(self, write: impl Fn(&T) -> V + 'static) -> Self {
        Self { write: Box::new(move |value| Some(write(value).into())), ..self }
    }

    /// Makes mistakes hide the value, for secrets and people's names.
    pub(crate) fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// Accepts also what the other shape accepts.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            accepted: format!("{}, or {}", self.accepted, other.accepted),
            secret: self.secret || other.secret,
            read: Box::new(move |given| (self.read)(given).or_else(|| (other.read)(given))),
            write: Box::new(move |value| (self.write)(value).or_else(|| (other.write)(value))),
        }
    }

    /// Changes what is read. `back` undoes the change; None for a value that is not of this shape.
    pub(super) fn map<U: 'static>(
        self,
        change: impl Fn(T) -> U + 'static,
        back: impl Fn(&U) -> Option<T> + 'static,
    ) -> Shape<U> {
        let Self { accepted, secret, read, write } = self;
        Shape {
            accepted,
            secret,
            read: Box::new(move |given| read(given).map(&change)),
            write: Box::new(move |value| write(&back(value)?)),
        }
    }

    /// Reads a value. None if it is not of this shape.
    pub(super) fn read(&self, given: Given<'_>) -> Option<T> {
        (self.read)(given)
    }

    /// Writes a value as a file would, or a placeholder if it is not shown.
    pub(super) fn write(&self, value: &T) -> WrittenValue {
        (self.write)(value).unwrap_or_else(|| HIDDEN.into())
    }
}

/// Text that `read` parses.
pub(crate) fn parsed<T: 'static>(accepted: impl Into<String>, read: impl Fn(&str) -> Option<T> + 'static) -> Shape<T> {
    Shape::new(accepted, move |given| read(given.text()?))
}

/// Text that `is_fine`.
pub(crate) fn text(accepted: impl Into<String>, is_fine: impl Fn(&str) -> bool + 'static) -> Shape<String> {
    parsed(accepted, move |text| is_fine(text).then(|| text.to_owned())).written(String::clone)
}

/// Text of 1 to `most` characters without white space and control characters.
pub(super) fn name(most: usize) -> Shape<String> {
    text(format!("1 to {most} characters without white space"), move |text| {
        let graphic = |c: char| !c.is_whitespace() && !c.is_control();
        (1..=most).contains(&text.chars().count()) && text.chars().all(graphic)
    })
}

/// Text of 1 to `most` characters on one line, not only white space.
pub(super) fn line(most: usize) -> Shape<String> {
    text(format!("1 to {most} characters on one line"), move |text| {
        (1..=most).contains(&text.chars().count()) && !text.chars().any(char::is_control) && !text.trim().is_empty()
    })
}

pub(crate) fn flag() -> Shape<bool> {
    Shape::new("true or false", |given| given.flag()).written(|flag| *flag)
}

/// A whole number of the type that the range has.
pub(crate) fn whole<N>(range: RangeInclusive<N>) -> Shape<N>
where
    N: TryFrom<u64> + TryInto<u64> + Copy + PartialOrd + Display + 'static,
{
    let accepted = format!("a whole number from {} to {}", range.start(), range.end());
    Shape::new(accepted, move |given| N::try_from(given.whole()?).ok().filter(|number| range.contains(number)))
        .written(|number| (*number).try_into().ok())
}

pub(super) fn number(range: RangeInclusive<f64>) -> Shape<f64> {
    let accepted = format!("a number from {} to {}", range.start(), range.end());
    Shape::new(accepted, move |given| given.number().filter(|number| range.contains(number))).written(|number| *number)
}

/// A share such as `"20%"`, above 0 and at most 1.
pub(super) fn percentage() -> Shape<f64> {
    parsed("a percentage up to \"100%\"", |text| {
        let percent: f64 = text.trim().strip_suffix('%')?.trim_end().parse().ok()?;
        (percent > 0.0 && percent <= 100.0).then_some(percent / 100.0)
    })
    .written(|share| {
        // Nine digits are more than a person writes, and fewer than a product of floats has by chance.
        let percent = format!("{:.9}", share * 100.0);
        format!("{}%", percent.trim_end_matches('0').trim_end_matches('.'))
    })
}

/// One of these words.
pub(crate) fn word<T: Copy + PartialEq + 'static>(words: &'static [(&'static str, T)]) -> Shape<T> {
    let quoted: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
    let shape = parsed(quoted.join(", "), |text| words.iter().find(|(word, _)| *word == text).map(|(_, it)| *it));
    let write = |meaning: &T| words.iter().find(|(_, it)| it == meaning).map(|(word, _)| (*word).into());
    Shape { write: Box::new(write), ..shape }
}

/// A duration between two bounds, which are written as in the configuration.
pub(super) fn duration(least: &'static str, most: &'static str) -> Shape<Duration> {
    const LITERAL: &str = "the bounds are literals of this crate, and a test reads every key";
    let range = parse_duration(least).expect(LITERAL)..=parse_duration(most).expect(LITERAL);
    parsed(format!("a duration from \"{least}\" to \"{most}\""), move |text| {
        parse_duration(text).filter(|duration| range.contains(duration))
    })
    .written(|duration| write_duration(*duration))
}

/// Writes a duration in the largest unit of which it is a whole number: `26h` rather than `1day 2h`.
fn write_duration(duration: Duration) -> String {
    const UNITS: [(&str, u128); 6] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1000),
    ];
    let nanos = duration.as_nanos();
    let unit = UNITS.iter().find(|(_, unit)| nanos.is_multiple_of(*unit) && nanos > 0);
    match unit {
        Some((name, unit)) => format!("{}{name}", nanos / unit),
        None if nanos == 0 => "0s".to_owned(),
        None => format!("{nanos}ns"),
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text.trim()).ok()
}

/// A size in bytes between two bounds, which are written as in the configuration.
pub(super) fn size(least: &'static str, most: &'static str) -> Shape<u64> {
    const LITERAL: &str = "the bounds are literals of this crate, and a test reads every key";
    let range = parse_size(least).expect(LITERAL)..=parse_size(most).expect(LITERAL);
    parsed(format!("a size from \"{least}\" to \"{most}\""), move |text| {
        parse_size(text).filter(|size| range.contains(size))
    })
    .written(|size| write_size(*size))
}

/// Writes a size in the largest unit, of 1024 or of 1000, of which it is a whole number.
fn write_size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 8] = [
        ("TiB", 1 << 40),
        ("TB", 1_000_000_000_000),
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("KB", 1_000),
    ];
    let unit = UNITS.iter().find(|(_, unit)| bytes.is_multiple_of(*unit) && bytes > 0);
    unit.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

fn parse_size(text: &str) -> Option<u64> {
    text.trim().parse().ok().map(|ByteSize(bytes)| bytes)
}

pub(crate) fn path() -> Shape<PathBuf> {
    parsed("a path", |text| (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text)))
        .written(|path| path.to_string_lossy().into_owned())
}

pub(super) fn socket_address() -> Shape<SocketAddr> {
    parsed("an IP address and port, such as \"[::]:10588\" or \"127.0.0.1:10588\"", |text| text.trim().parse().ok())
        .written(SocketAddr::to_string)
}

/// A moment in RFC 3339, as text or as TOML's own date.
pub(super) fn moment() -> Shape<UnixMillis> {
    Shape::new("a time in RFC 3339, such as \"2026-01-31T12:00:00Z\"", |given| {
        let moment = OffsetDateTime::parse(given.date()?.trim(), &Rfc3339).ok()?;
        Some(UnixMillis::from_secs_and_nanos(moment.unix_timestamp(), moment.nanosecond()))
    })
    .written(UnixMillis::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: impl Into<Value>) -> Value {
        value.into()
    }

    fn from_file<T: 'static>(shape: &Shape<T>, value: impl Into<Value>) -> Option<T> {
        let value = written(value);
        shape.read(Given { value: &value, from_variable: false })
    }

    fn from_variable<T: 'static>(shape: &Shape<T>, text: &str) -> Option<T> {
        let value = written(text);
        shape.read(Given { value: &value, from_variable: true })
    }

    #[test]
    fn a_number_is_text_only_in_a_variable() {
        assert_eq!(from_file(&whole(1_u8..=60), 60), Some(60));
        assert_eq!(from_file(&whole(1_u8..=60), "60"), None);
        assert_eq!(from_variable(&whole(1_u8..=60), " 60 "), Some(60));
        assert_eq!(from_variable(&number(0.01..=30.0), "2.5"), Some(2.5));
        assert_eq!(from_variable(&flag(), "true"), Some(true));
        assert_eq!(from_file(&flag(), "true"), None);
    }

    #[test]
    fn a_number_out_of_range_is_none_however_wide() {
        let shape = whole(1_u8..=60);
        for text in ["0", "61", "256", "257", "-1", "99999999999999999999", "1.0", "", "six"] {
            assert_eq!(from_variable(&shape, text), None, "{text}");
        }
        assert_eq!(from_file(&shape, -1), None);
        assert_eq!(from_file(&shape, u128::MAX), None);
        assert_eq!(from_file(&shape, 3.0), None);
        for number_text in ["NaN", "inf", "-0.1", "30.1"] {
            assert_eq!(from_variable(&number(0.01..=30.0), number_text), None, "{number_text}");
        }
    }

    #[test]
    fn a_rate_may_be_written_without_a_fraction() {
        assert_eq!(from_file(&number(0.01..=30.0), 5), Some(5.0));
        assert_eq!(from_file(&number(-1.0..=30.0), -1), Some(-1.0));
        assert_eq!(from_file(&number(0.01..=30.0), 0.5), Some(0.5));
    }

    #[test]
    fn percentages_are_shares() {
        for (text, share) in
            [("20%", Some(0.2)), ("100 %", Some(1.0)), ("0%", None), ("101%", None), ("20", None), ("NaN%", None)]
        {
            assert_eq!(from_file(&percentage(), text), share, "{text}");
        }
    }

    #[test]
    fn durations_and_sizes_keep_their_bounds() {
        let shape = duration("1s", "7d");
        for (text, seconds) in [
            ("1s", Some(1)),
            ("7d", Some(604_800)),
            ("1h 30m", Some(5400)),
            ("999ms", None),
            ("8d", None),
            ("10", None),
            ("", None),
            ("-1s", None),
            ("99999999999999999999y", None),
        ] {
            assert_eq!(from_file(&shape, text), seconds.map(Duration::from_secs), "{text}");
        }
        let shape = size("8MiB", "64GiB");
        for (text, mib) in [
            ("8MiB", Some(8)),
            ("0.5 GiB", Some(512)),
            ("7MiB", None),
            ("65GiB", None),
            ("-8MiB", None),
            ("", None),
            ("999999999999999999999PiB", None),
        ] {
            assert_eq!(from_file(&shape, text), mib.map(|mib: u64| mib << 20), "{text}");
        }
    }

    #[test]
    fn a_size_is_written_in_the_largest_unit_that_is_exact_and_reads_as_the_same() {
        for (text, expected) in [
            ("1 GB", "1GB"),
            ("1GiB", "1GiB"),
            ("1024 MiB", "1GiB"),
            ("1.5GB", "1500MB"),
            ("0.5GiB", "512MiB"),
            ("1TB", "1TB"),
            ("1TiB", "1TiB"),
            ("20000000", "20MB"),
            ("10000001B", "10000001B"),
        ] {
            let bytes = parse_size(text).unwrap();
            assert_eq!((write_size(bytes).as_str(), parse_size(&write_size(bytes))), (expected, Some(bytes)), "{text}");
        }
    }

    #[test]
    fn names_are_counted_in_characters() {
        assert!(from_file(&name(3), "äöü").is_some());
        for text in ["", "abcd", "a b", "a\u{a0}b", "a\nb", "\u{7}"] {
            assert_eq!(from_file(&name(3), text), None, "{text:?}");
        }
        assert!(from_file(&line(3), "a b").is_some());
        for text in ["", "   ", "a\nb", "abcd"] {
            assert_eq!(from_file(&line(3), text), None, "{text:?}");
        }
    }

    #[test]
    fn a_moment_keeps_its_milliseconds_and_its_offset() {
        for (text, millis) in [
            ("1970-01-01T00:00:01.5Z", Some(1500)),
            ("1970-01-01T01:00:00+01:00", Some(0)),
            ("1970-01-01", None),
            ("1970-01-01T00:00:00", None),
            ("yesterday", None),
        ] {
            assert_eq!(from_file(&moment(), text), millis.map(UnixMillis), "{text}");
        }
    }

    #[test]
    fn a_value_is_shown_short_and_on_one_line() {
        let shown = |value: Value| Given { value: &value, from_variable: false }.shown();
        assert_eq!(shown(written("a\n\"b\"")), r#""a\n\"b\"""#);
        assert_eq!(shown(written("x".repeat(1000))), format!("\"{}\"...", "x".repeat(60)));
        assert_eq!(shown(written(-3)), "-3");
        assert_eq!(shown(written(5.0)), "5.0");
        assert_eq!(shown(written(true)), "true");
        assert_eq!(shown(written(vec!["secret"])), "a list");
    }
}
