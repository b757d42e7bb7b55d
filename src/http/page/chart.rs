//! Charts as inline SVG: no script, no colours of their own (the style has them), and the same said in words.

use std::fmt::{self, Display, Formatter, Write as _};

use super::{Grouped, plural};
use crate::status::{HistorySlot, LastHour, SLOTS_MAX};

/// Height of the plot in its own units; one slot is as wide as four of them.
const HEIGHT: u64 = 100;
const SLOT_WIDTH: u64 = 4;

/// The strip above the bars that shows where threat protection acted.
const STRIP: u64 = 8;

/// Events of the last hour: failed at the bottom, passed above, threats in a strip of their own.
pub(super) struct Outcomes<'a>(pub(super) &'a LastHour);

impl Display for Outcomes<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let slots = &self.0.slots;
        let sum = |of: fn(&HistorySlot) -> u64| slots.iter().map(of).sum::<u64>();
        let (passed, failed, risk) = (sum(|slot| slot.passed), sum(|slot| slot.failed), sum(|slot| slot.risk));
        if passed + failed + risk == 0 {
            return f.write_str("<figure><figcaption><b>Last hour</b><span>no events</span></figcaption></figure>");
        }
        let most = slots.iter().map(|slot| slot.passed + slot.failed).max().unwrap_or(0).max(1);
        let (mut fail, mut pass, mut acted) = (String::new(), String::new(), String::new());
        // The newest stands at the right edge, however few there are.
        let first = SLOTS_MAX.saturating_sub(slots.len()) as u64;
        for (column, slot) in (first..).zip(slots) {
            let x = column * SLOT_WIDTH;
            // What is there is seen, however little it is beside the rest.
            let height = |count: u64| (count * (HEIGHT - STRIP) / most).max(u64::from(count > 0) * 2);
            let (low, high) = (height(slot.failed), height(slot.passed));
            bar(&mut fail, x, HEIGHT - low, low)?;
            bar(&mut pass, x, (HEIGHT - low).saturating_sub(high), high)?;
            bar(&mut acted, x, 0, u64::from(slot.risk > 0) * (STRIP - 3))?;
        }
        let width = SLOTS_MAX as u64 * SLOT_WIDTH;
        write!(
            f,
            "<figure><figcaption><b>Last hour</b><span><i class=\"pass\"></i>{p} passed</span>\
             <span><i class=\"fail\"></i>{e} failed</span><span><i class=\"risk\"></i>{r} threat{s}</span></figcaption>\
             <svg class=\"plot\" viewBox=\"0 0 {width} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
             aria-label=\"Events of the last hour: {p} passed, {e} failed, threat protection acted on {r}; at most {most} \
             in half a minute\">\
             <path class=\"grid\" vector-effect=\"non-scaling-stroke\" d=\"M0 {STRIP}H{width}M0 {HEIGHT}H{width}\"/>\
             <path class=\"fail\" d=\"{fail}\"/><path class=\"pass\" d=\"{pass}\"/><path class=\"risk\" d=\"{acted}\"/></svg>\
             <div class=\"axis\" aria-hidden=\"true\"><span>1 h ago</span><span>up to {m} in 30 s</span><span>now</span></div>\
             </figure>",
            p = Grouped(passed),
            e = Grouped(failed),
            r = Grouped(risk),
            s = plural(risk),
            m = Grouped(most),
        )
    }
}

fn bar(path: &mut String, x: u64, y: u64, height: u64) -> fmt::Result {
    if height > 0 {
        write!(path, "M{x} {y}h3v{height}h-3z")?;
    }
    Ok(())
}

/// How much of something is used up, 0 to 1 and above.
pub(super) struct Bar(pub(super) f64);

impl Display for Bar {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let used = (self.0.clamp(0.0, 1.0) * 1000.0).round() / 10.0;
        let class = if self.0 > 1.1 {
            " bad"
        } else if self.0 > 0.9 {
            " warn"
        } else {
            ""
        };
        write!(
            f,
            "<dd><svg class=\"bar{class}\" viewBox=\"0 0 100 4\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
             <rect class=\"track\" width=\"100\" height=\"4\"/><rect class=\"fill\" width=\"{used}\" height=\"4\"/></svg></dd>"
        )
    }
}
