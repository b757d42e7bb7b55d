//! The card of delivery and state: what waits for the receiver, and whether every stage moves.

use cognito_auth_core::event::UnixMillis;
use maud::{Markup, display, html};

use super::chart;
use super::figure::{FigureNote, Grouped, ago, bytes, figure, note, notes, plural};
use super::last_errors;
use super::terms::named;
use crate::status::{OutboxStatus, StatusReport};

/// The share of the outbox from which on it is said that polling will pause.
const NEARLY_FULL: f64 = 0.8;

pub(super) fn render(report: &StatusReport) -> Markup {
    html! {
        section class="card" {
            h2 { "Delivery and state" }
            dl { (figures(report)) }
            (last_errors(&report.delivery.last_errors, report.now))
        }
    }
}

fn figures(report: &StatusReport) -> Markup {
    let now = report.now;
    let rebuilds = report.state.rebuilds;
    let rebuilt = (rebuilds > 0).then(|| {
        note("warn", format!("damaged and begun anew {rebuilds} time{}; the log says more", plural(rebuilds)))
    });
    html! {
        @match &report.outbox {
            None => (figure("Outbox", "none", [note("", "no sink: only metrics are exported")])),
            Some(outbox) => {
                (outbox_figure(outbox))
                @let none = outbox.oldest.is_none().then(|| note("", "none waits"));
                (figure("Oldest record", ago(outbox.oldest, now), none))
                (acknowledged(report))
            }
        }
        @if let Some(records) = report.quarantined_records {
            @let refused = (records > 0).then(|| note("warn", "refused by the receiver; `quarantine list` shows why"));
            (figure("Quarantine", display(Grouped(records)), refused))
        }
        (progress(report))
        @if let Some(size) = report.state.size_bytes { (figure("Ledger", bytes(size), rebuilt)) }
    }
}

fn outbox_figure(outbox: &OutboxStatus) -> Markup {
    #[expect(clippy::cast_precision_loss, reason = "a share for a bar")]
    let share = outbox.limit_bytes.filter(|limit| *limit > 0).map(|limit| outbox.bytes as f64 / limit as f64);
    let class = match share {
        Some(1.0..) => "bad",
        Some(NEARLY_FULL..) => "warn",
        _ => "",
    };
    let reason = match class {
        "bad" => Some("full: polling pauses until the receiver takes records"),
        "warn" => Some("nearly full: polling pauses when it is"),
        _ => None,
    };
    let of_limit = outbox.limit_bytes.map(|limit| format!(" of {}", bytes(limit))).unwrap_or_default();
    let size = note("", format!("{}{of_limit}", bytes(outbox.bytes)));
    html! {
        div {
            dt { (named("Outbox")) }
            dd { (Grouped(outbox.records)) " record" (plural(outbox.records)) }
            @if let Some(share) = share { (chart::bar(share, class)) }
            (notes(reason.map(|reason| note(class, reason)).into_iter().chain([size])))
        }
    }
}

/// When the receiver last took records, and why it takes none.
fn acknowledged(report: &StatusReport) -> Markup {
    let delivery = &report.delivery;
    let latest = delivery.last_errors.first();
    let failing = latest.filter(|error| delivery.last_success.is_none_or(|success| success < error.last));
    let beside: Option<FigureNote> = match (failing, delivery.last_success) {
        (Some(error), _) => Some(note("bad", format!("since then: {}", error.cause))),
        (None, None) => Some(note("", "nothing was sent to an OTLP receiver since the start")),
        (None, Some(_)) => None,
    };
    figure("Last acknowledged", ago(delivery.last_success, report.now), beside)
}

/// When each stage last moved: the least recent one as the value.
fn progress(report: &StatusReport) -> Markup {
    let oldest: Option<UnixMillis> = report.progress.values().map(|time| time.0).min();
    let stages =
        report.progress.iter().map(|(stage, time)| note("", html! { (stage) " " (ago(Some(time.0), report.now)) }));
    figure("Last progress", ago(oldest, report.now), stages)
}
