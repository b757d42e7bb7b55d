//! Charts as inline SVG without scripts. The style sheet has the colours, and a text says the same in words.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::{Grouped, plural};
use crate::status::{HistorySlot, LastHour, SLOTS_MAX};

/// Height of the plot in its own units.
const HEIGHT: u64 = 100;

/// Width of a slot in the same units, with the gap to the next one.
const SLOT_WIDTH: u64 = 4;

/// Height of the strip above the bars that shows where threat protection acted.
const STRIP: u64 = 8;

/// Draws the events of the last hour: failed at the bottom, passed above, threats in the strip.
pub(super) fn outcomes(hour: &LastHour) -> Markup {
    let slots = &hour.slots;
    let sum = |of: fn(&HistorySlot) -> u64| slots.iter().map(of).sum::<u64>();
    let (passed, failed, risk) = (sum(|slot| slot.passed), sum(|slot| slot.failed), sum(|slot| slot.risk));
    if passed + failed + risk == 0 {
        return html! {
            figure { figcaption { b { "Last hour" } span { "no events" } } }
        };
    }
    let most = slots.iter().map(|slot| slot.passed + slot.failed).max().unwrap_or(0).max(1);
    let (mut fail, mut pass, mut acted) = (String::new(), String::new(), String::new());
    // The newest slot is at the right edge, also if there are few.
    let first = SLOTS_MAX.saturating_sub(slots.len()) as u64;
    for (column, slot) in (first..).zip(slots) {
        let x = column * SLOT_WIDTH;
        // A small count beside large ones stays visible.
        let height = |count: u64| (count * (HEIGHT - STRIP) / most).max(u64::from(count > 0) * 2);
        let (low, high) = (height(slot.failed), height(slot.passed));
        draw(&mut fail, x, HEIGHT - low, low);
        draw(&mut pass, x, (HEIGHT - low).saturating_sub(high), high);
        draw(&mut acted, x, 0, u64::from(slot.risk > 0) * (STRIP - 3));
    }
    let width = SLOTS_MAX as u64 * SLOT_WIDTH;
    html! {
        figure {
            figcaption {
                b { "Last hour" }
                span { i class="pass" {} (Grouped(passed)) " passed" }
                span { i class="fail" {} (Grouped(failed)) " failed" }
                span { i class="risk" {} (Grouped(risk)) " threat" (plural(risk)) }
            }
            svg class="plot" viewBox={ "0 0 " (width) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label={
                "Events of the last hour: " (Grouped(passed)) " passed, " (Grouped(failed)) " failed, "
                "threat protection acted on " (Grouped(risk)) "; at most " (most) " in half a minute"
            } {
                path class="grid" vector-effect="non-scaling-stroke"
                    d={ "M0 " (STRIP) "H" (width) "M0 " (HEIGHT) "H" (width) } {}
                path class="fail" d=(fail) {}
                path class="pass" d=(pass) {}
                path class="risk" d=(acted) {}
            }
            div class="axis" aria-hidden="true" {
                span { "1 h ago" }
                span { "up to " (Grouped(most)) " in 30 s" }
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

/// Draws the used share of something, 0 to 1 and above.
pub(super) fn bar(share: f64) -> Markup {
    let width = (share.clamp(0.0, 1.0) * 1000.0).round() / 10.0;
    let class = if share > 1.1 {
        "bar bad"
    } else if share > 0.9 {
        "bar warn"
    } else {
        "bar"
    };
    html! {
        dd {
            svg class=(class) viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true" {
                rect class="track" width="100" height="4" {}
                rect class="fill" width=(width) height="4" {}
            }
        }
    }
}
