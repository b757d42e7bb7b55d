//! Charts as inline SVG without scripts. The style sheet has the colours, and a text says the same in words.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::figure::{Grouped, plural};
use super::terms::term;
use crate::status::{DAY_SLOTS_MAX, DaySlot, HistorySlot, LastDay, LastHour, SLOTS_MAX};

/// Height of the plot in its own units.
const HEIGHT: u64 = 100;

/// Width of a slot in the same units, with the gap to the next one.
const SLOT_WIDTH: u64 = 4;

/// Height of the strip above the bars that shows where threat protection acted.
const STRIP: u64 = 8;

/// The time that a chart shows, in words.
struct Axis {
    title: &'static str,
    begin: &'static str,
    slot: &'static str,
    slots_max: usize,
}

const HOUR: Axis = Axis { title: "Last hour", begin: "1 h ago", slot: "30 s", slots_max: SLOTS_MAX };
const DAY: Axis = Axis { title: "Last 24 hours", begin: "24 h ago", slot: "15 min", slots_max: DAY_SLOTS_MAX };

/// The events of one slot.
struct Bar {
    passed: u64,
    failed: u64,
    risk: u64,
}

impl From<&HistorySlot> for Bar {
    fn from(slot: &HistorySlot) -> Self {
        Self { passed: slot.passed, failed: slot.failed, risk: slot.risk }
    }
}

impl From<&DaySlot> for Bar {
    fn from(slot: &DaySlot) -> Self {
        Self { passed: slot.passed.into(), failed: slot.failed.into(), risk: slot.risk.into() }
    }
}

/// Draws the events of the last hour.
pub(super) fn hour(hour: &LastHour) -> Markup {
    outcomes(&HOUR, &hour.slots.iter().map(Bar::from).collect::<Vec<_>>())
}

/// Draws the events of the last 24 hours.
pub(super) fn day(day: &LastDay) -> Markup {
    outcomes(&DAY, &day.slots.iter().map(Bar::from).collect::<Vec<_>>())
}

/// Draws the events of a time: failed at the bottom, passed above, threats in the strip.
fn outcomes(axis: &Axis, bars: &[Bar]) -> Markup {
    let sum = |of: fn(&Bar) -> u64| bars.iter().map(of).sum::<u64>();
    let (passed, failed, risk) = (sum(|bar| bar.passed), sum(|bar| bar.failed), sum(|bar| bar.risk));
    if passed + failed + risk == 0 {
        return html! {
            figure { figcaption { b { (axis.title) } span { "no events" } } }
        };
    }
    let most = bars.iter().map(|bar| bar.passed + bar.failed).max().unwrap_or(0).max(1);
    let (mut fail, mut pass, mut acted) = (String::new(), String::new(), String::new());
    // The newest slot is at the right edge, also if there are few.
    let first = axis.slots_max.saturating_sub(bars.len()) as u64;
    for (column, bar) in (first..).zip(bars) {
        let x = column * SLOT_WIDTH;
        // A small count beside large ones stays visible.
        let height = |count: u64| (count * (HEIGHT - STRIP) / most).max(u64::from(count > 0) * 2);
        let (low, high) = (height(bar.failed), height(bar.passed));
        draw(&mut fail, x, HEIGHT - low, low);
        draw(&mut pass, x, (HEIGHT - low).saturating_sub(high), high);
        draw(&mut acted, x, 0, u64::from(bar.risk > 0) * (STRIP - 3));
    }
    let width = axis.slots_max as u64 * SLOT_WIDTH;
    html! {
        figure {
            figcaption {
                b { (axis.title) }
                span { i class="pass" {} (Grouped(passed)) " passed" }
                span { i class="fail" {} (Grouped(failed)) " failed" }
                span { i class="risk" {} (Grouped(risk)) " " @if risk == 1 { "threat" } @else { (term("threats")) } }
            }
            svg class="plot" viewBox={ "0 0 " (width) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label={
                (axis.title) ": " (Grouped(passed)) " events passed, " (Grouped(failed)) " failed, "
                (Grouped(risk)) " threat" (plural(risk)) "; at most " (Grouped(most)) " in " (axis.slot)
            } {
                path class="grid" vector-effect="non-scaling-stroke"
                    d={ "M0 " (STRIP) "H" (width) "M0 " (HEIGHT) "H" (width) } {}
                path class="fail" d=(fail) {}
                path class="pass" d=(pass) {}
                path class="risk" d=(acted) {}
            }
            div class="axis" aria-hidden="true" {
                span { (axis.begin) }
                span { "up to " (Grouped(most)) " in " (axis.slot) }
                span { "now" }
            }
        }
    }
}

/// Adds a bar to the data of a path.
fn draw(path: &mut String, x: u64, y: u64, height: u64) {
    if height > 0 {
        let _ = write!(path, "M{x} {y}h3v{height}h-3z"); // writing into a String does not fail
    }
}

/// Draws the used share of something, 0 to 1 and above. The class is empty, "warn" or "bad"; a note says the reason.
pub(super) fn bar(share: f64, class: &str) -> Markup {
    let width = (share.clamp(0.0, 1.0) * 1000.0).round() / 10.0;
    html! {
        dd {
            svg class={ "bar " (class) } viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true" {
                rect class="track" width="100" height="4" {}
                rect class="fill" width=(width) height="4" {}
            }
        }
    }
}
