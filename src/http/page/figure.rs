//! A figure of a card: its name, its value, and notes below it. Beside it the formats of numbers, times and sizes.

use std::fmt::{self, Display, Formatter, Write as _};
use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use maud::{Markup, Render, html};

use super::terms::named;

/// A small text below the value of a figure. The class is empty, "warn" or "bad".
pub(super) struct FigureNote {
    class: &'static str,
    text: Markup,
}

/// Makes a note. The class is empty, "warn" or "bad".
pub(super) fn note(class: &'static str, text: impl Render) -> FigureNote {
    FigureNote { class, text: text.render() }
}

/// Renders a figure: its name, its value, and the notes below it.
pub(super) fn figure(name: &str, value: impl Render, beside: impl IntoIterator<Item = FigureNote>) -> Markup {
    html! {
        div { dt { (named(name)) } dd { (value) } (notes(beside)) }
    }
}

/// Renders the notes of a figure.
pub(super) fn notes(notes: impl IntoIterator<Item = FigureNote>) -> Markup {
    html! {
        @for FigureNote { class, text } in notes {
            dd class=[Some(class).filter(|class| !class.is_empty())] { (text) }
        }
    }
}

/// Renders how long ago a time was.
pub(super) fn ago(time: Option<UnixMillis>, now: UnixMillis) -> Markup {
    html! {
        @match time {
            None => "–",
            Some(time) => time datetime=(time) { (ShownDuration(now.since(time))) " ago" },
        }
    }
}

/// The ending of a word of which there are so many.
pub(super) fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Formats a size.
pub(super) fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

/// A whole number with separated thousands.
pub(super) struct Grouped(pub(super) u64);

impl Display for Grouped {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                f.write_char(',')?;
            }
            f.write_char(digit)?;
        }
        Ok(())
    }
}

/// A date and time to the second.
pub(super) struct ShownTime(pub(super) UnixMillis);

impl Display for ShownTime {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        match text.split_once('T') {
            Some((date, time)) => write!(f, "{date} {} UTC", time.get(..8).unwrap_or(time)),
            None => f.write_str(&text),
        }
    }
}

/// An estimate in seconds.
pub(super) struct About(pub(super) f64);

impl Display for About {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 < 10.0 { write!(f, "{:.1} s", self.0) } else { ShownDuration(Duration::from_secs_f64(self.0)).fmt(f) }
    }
}

/// A duration in its two largest units.
pub(super) struct ShownDuration(pub(super) Duration);

impl Display for ShownDuration {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
        let (two, first, second) = match (days, hours, minutes) {
            (0, 0, 0) => return write!(f, "{secs} s"),
            (0, 0, 10..) => return write!(f, "{minutes} min"),
            (0, 0, _) => ((minutes, secs % 60), "min", "s"),
            (0, _, _) => ((hours, minutes), "h", "min"),
            _ => ((days, hours), "d", "h"),
        };
        match two {
            (whole, 0) => write!(f, "{whole} {first}"),
            (whole, rest) => write!(f, "{whole} {first} {rest} {second}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_well() {
        let table = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (61, "1 min 1 s"),
            (3_599, "59 min"),
            (3_600, "1 h"),
            (3_660, "1 h 1 min"),
            (90_000, "1 d 1 h"),
        ];
        for (secs, text) in table {
            assert_eq!(ShownDuration(Duration::from_secs(secs)).to_string(), text);
        }
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(Grouped(number).to_string(), text);
        }
    }
}
