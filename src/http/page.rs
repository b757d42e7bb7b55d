//! `/`: the status report for people, as one page without scripts or anything from elsewhere.
//!
//! It answers one question at a glance, whether sign-in events flow, and then shows why one may believe it: a card for
//! each pool, one for delivery. What is bad is a word and a colour, never a colour alone.

mod chart;

use std::fmt::{self, Display, Formatter, Write as _};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cognito_auth_core::event::UnixMillis;
use sha2::{Digest as _, Sha256};

use self::chart::{Bar, Outcomes};
use crate::status::{ErrorStatus, FindingSeverity, HistoryWalks, PoolStatus, StatusFinding, StatusReport};

/// How often an open page reads itself anew.
const REFRESH_SECS: u64 = 15;

const STYLE: &str = include_str!("page/style.css");

/// What the page may do: show itself, with this very style, and nothing else.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
});

/// The page's content security policy.
pub(super) fn policy() -> &'static str {
    &POLICY
}

/// Writes the page; one that stands still does not read itself anew.
pub(super) fn render(report: &StatusReport, still: bool) -> String {
    let mut html = String::new();
    write(&mut html, report, still).expect("writing into a String does not fail");
    html
}

fn write(html: &mut String, report: &StatusReport, still: bool) -> fmt::Result {
    let now = report.now;
    let (refresh, other) = if still {
        (String::new(), "<a href=\"?\">refresh by itself</a>")
    } else {
        (format!("<meta http-equiv=\"refresh\" content=\"{REFRESH_SECS}\">"), "<a href=\"?still\">stand still</a>")
    };
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}cognito-auth-exporter</title>\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">{refresh}<link rel=\"icon\" href=\"data:,\">\
         <style>{STYLE}</style></head><body>\n<header><h1>cognito-auth-exporter</h1><p>{} &middot; up {} &middot; {}</p>\
         <nav aria-label=\"Elsewhere\"><a href=\"metrics\">metrics</a><a href=\"status\">JSON</a>{other}</nav></header>\n<main>\n",
        if report.flowing { "" } else { "(!) " },
        Escaped(report.version),
        ShownDuration(now.since(report.started)),
        ShownTime(now),
    )?;
    write_verdict(html, report)?;
    report.pools.iter().try_for_each(|pool| write_pool(html, pool, now))?;
    write_delivery(html, report)?;
    html.push_str("</main>\n</body></html>\n");
    Ok(())
}

fn write_verdict(html: &mut String, report: &StatusReport) -> fmt::Result {
    let worst = report.findings.first().map(|finding| finding.severity);
    let starts = !report.ready && worst < Some(FindingSeverity::Error);
    let (class, sign, words) = match worst {
        Some(FindingSeverity::Error) => ("bad", CROSS, "Sign-in events do not all flow"),
        _ if starts => ("warn", MARK, "Not ready"),
        Some(FindingSeverity::Warning) => ("warn", MARK, "Sign-in events flow, with a caveat"),
        None => ("good", CHECK, "Sign-in events flow"),
    };
    let totals = &report.totals;
    write!(
        html,
        "<section class=\"verdict {class}\" aria-labelledby=\"verdict\">{sign}<h2 id=\"verdict\" class=\"{class}\">{words}</h2>\
         <p>{} users in {} pool{}; {} events and {} threats counted",
        Grouped(totals.users.ok + totals.users.missing + totals.users.failing),
        Grouped(totals.pools),
        plural(totals.pools),
        Grouped(totals.events),
        Grouped(totals.risk_events),
    )?;
    if totals.history_events > 0 {
        write!(html, ", {} of history", Grouped(totals.history_events))?;
    }
    if let Some(reason) = &report.reason {
        write!(html, "; not ready: {}", Escaped(reason))?;
    }
    html.push_str("</p>");
    if !report.findings.is_empty() {
        html.push_str("<ul>");
        for finding in &report.findings {
            write_finding(html, finding, report)?;
        }
        html.push_str("</ul>");
    }
    html.push_str("</section>\n");
    Ok(())
}

fn write_finding(html: &mut String, finding: &StatusFinding, report: &StatusReport) -> fmt::Result {
    let (class, word) = match finding.severity {
        FindingSeverity::Error => ("bad", "Error"),
        FindingSeverity::Warning => ("warn", "Warning"),
    };
    write!(html, "<li><b class=\"{class}\">{word}:</b> ")?;
    let pool = finding.pool.as_ref().and_then(|id| report.pools.iter().find(|pool| pool.id == *id));
    if let Some(pool) = pool {
        write!(html, "<b>{}</b>: ", Escaped(&pool.name))?;
    }
    write!(html, "{}</li>", Escaped(&finding.text))
}

fn write_pool(html: &mut String, pool: &PoolStatus, now: UnixMillis) -> fmt::Result {
    let (class, word) = match pool.up {
        None => ("warn", "not asked yet"),
        Some(true) => ("good", "up"),
        Some(false) => ("bad", "down"),
    };
    write!(
        html,
        "<section class=\"card\"><h2>{} <span class=\"chip {class}\">{word}</span> <small>{}, {}",
        Escaped(&pool.name),
        Escaped(&pool.id),
        Escaped(&pool.region),
    )?;
    if let Some(account) = &pool.account_id {
        write!(html, ", account {}", Escaped(account))?;
    }
    html.push_str("</small></h2>");
    if let Some(reason) = &pool.reason {
        write!(html, "<p class=\"why bad\">{}</p>", Escaped(reason))?;
    }
    html.push_str("<dl>");
    write_figures(html, pool, now)?;
    write!(html, "</dl>{}", Outcomes(&pool.last_hour))?;
    write_errors(html, &pool.last_errors, now)?;
    html.push_str("</section>\n");
    Ok(())
}

fn write_figures(html: &mut String, pool: &PoolStatus, now: UnixMillis) -> fmt::Result {
    match pool.users {
        None => tile(html, "Users followed", '–', [])?,
        Some(users) => {
            let missing = (users.missing > 0).then(|| ("", format!("{} missing", Grouped(users.missing))));
            let failing = (users.failing > 0).then(|| ("bad", format!("{} failing", Grouped(users.failing))));
            let all = users.ok + users.missing + users.failing;
            tile(html, "Users followed", Grouped(all), missing.into_iter().chain(failing))?;
        }
    }
    let objective =
        pool.objective_seconds.map(|secs| ("", format!("objective {}", ShownDuration(Duration::from_secs(secs)))));
    write!(html, "<div><dt>Oldest poll</dt><dd>{}</dd>", Ago(pool.oldest_poll, now))?;
    if let (Some(oldest), Some(secs)) = (pool.oldest_poll, pool.objective_seconds.filter(|secs| *secs > 0)) {
        write!(html, "{}", Bar(now.since(oldest).div_duration_f64(Duration::from_secs(secs))))?;
    }
    notes(html, objective)?;
    html.push_str("</div>");
    let round = pool
        .round_seconds_estimate
        .map(|secs| ("", format!("a round takes {}", ShownDuration(Duration::from_secs(secs)))));
    let hour = &pool.last_hour;
    let throttled = (hour.throttled > 0)
        .then(|| ("warn", format!("{} of {} calls throttled", Grouped(hour.throttled), Grouped(hour.calls))));
    match pool.budget_requests_per_second {
        None => tile(html, "Budget", '–', round)?,
        Some(budget) => {
            let required =
                pool.required_requests_per_second.map(|calls| ("", format!("the objective takes {calls:.1}/s")));
            let notes = throttled.into_iter().chain(required).chain(round);
            tile(html, "Budget", format_args!("{budget:.1}/s"), notes)?;
        }
    }
    let p95 = hour.delay_p95_seconds.map(|secs| ("", format!("95 % within {}", About(secs))));
    let expected = pool.event_delay_seconds_estimate;
    let expected =
        expected.map(|secs| ("", format!("{} to expect on average", ShownDuration(Duration::from_secs(secs)))));
    match hour.delay_median_seconds {
        None => {
            tile(html, "Delay", '–', [("", "no live event in the last hour".to_owned())].into_iter().chain(expected))?;
        }
        Some(median) => tile(html, "Delay, median", About(median), p95.into_iter().chain(expected))?,
    }
    let threats = ("", format!("{} threats", Grouped(pool.risk_events)));
    let history = (pool.history_events > 0).then(|| ("", format!("{} of history", Grouped(pool.history_events))));
    tile(html, "Live events", Grouped(pool.events), std::iter::once(threats).chain(history))?;
    let listed = pool.discovery_last_success.map(|_| ("", format!("listed {}", Ago(pool.discovery_last_success, now))));
    let HistoryWalks { users_done, users, seconds_left_estimate } = pool.history_walks;
    let walked = (users_done < users).then(|| {
        let left = seconds_left_estimate.map(|secs| format!(", {} left", ShownDuration(Duration::from_secs(secs))));
        ("", format!("history of {} of {} walked{}", Grouped(users_done), Grouped(users), left.unwrap_or_default()))
    });
    match (pool.catching_up, pool.backlog_walks) {
        (None, _) => tile(html, "Backlog", '–', listed),
        (Some(_), 0) => tile(html, "Backlog", "none", listed),
        (Some(_), walks) => {
            let users = ("", format!("user{} with more to read", plural(walks)));
            tile(html, "Backlog", Grouped(walks), std::iter::once(users).chain(walked).chain(listed))
        }
    }
}

fn write_delivery(html: &mut String, report: &StatusReport) -> fmt::Result {
    let now = report.now;
    html.push_str("<section class=\"card\"><h2>Delivery and state</h2><dl>");
    match &report.outbox {
        None => tile(html, "Records", "none", [("", "no sink: only metrics are exported".to_owned())])?,
        Some(outbox) => {
            write!(html, "<div><dt>Waiting</dt><dd>{} records</dd>", Grouped(outbox.records))?;
            if let Some(limit) = outbox.limit_bytes.filter(|limit| *limit > 0) {
                #[expect(clippy::cast_precision_loss, reason = "for the eye")]
                let used = outbox.bytes as f64 / limit as f64;
                write!(html, "{}", Bar(used))?;
                notes(html, [("", format!("{} of {}", bytes(outbox.bytes), bytes(limit)))])?;
            } else {
                notes(html, [("", bytes(outbox.bytes))])?;
            }
            html.push_str("</div>");
            tile(html, "Oldest record", Ago(outbox.oldest, now), [])?;
            tile(html, "Last acknowledged", Ago(report.delivery.last_success, now), [])?;
        }
    }
    if let Some(records) = report.quarantined_records {
        let class = if records > 0 { Some(("warn", "refused by the receiver".to_owned())) } else { None };
        tile(html, "Quarantine", Grouped(records), class)?;
    }
    for (stage, time) in &report.progress {
        let work = if *stage == "deliver" { "delivery" } else { stage };
        tile(html, &format!("Last {work}"), Ago(Some(time.0), now), [])?;
    }
    if let Some(size) = report.state.size_bytes {
        let rebuilds = report.state.rebuilds;
        let rebuilt = (rebuilds > 0).then(|| ("warn", format!("begun anew {rebuilds} time{}", plural(rebuilds))));
        tile(html, "Ledger", bytes(size), rebuilt)?;
    }
    html.push_str("</dl>");
    write_errors(html, &report.delivery.last_errors, now)?;
    html.push_str("</section>\n");
    Ok(())
}

fn write_errors(html: &mut String, errors: &[ErrorStatus], now: UnixMillis) -> fmt::Result {
    let Some(latest) = errors.first() else { return Ok(()) };
    write!(html, "<details><summary>Last errors, the latest {}</summary><ol>", Ago(Some(latest.last), now))?;
    for error in errors {
        let (last, cause, count) = (Ago(Some(error.last), now), Escaped(&error.cause), Grouped(error.count));
        write!(html, "<li>{cause}<small>{last}, {count} time{}</small></li>", plural(error.count))?;
    }
    html.push_str("</ol></details>");
    Ok(())
}

/// A figure: its name, its value, and what is to be said beside it.
fn tile(
    html: &mut String,
    name: &str,
    value: impl Display,
    beside: impl IntoIterator<Item = (&'static str, String)>,
) -> fmt::Result {
    write!(html, "<div><dt>{}</dt><dd>{value}</dd>", Escaped(name))?;
    notes(html, beside)?;
    html.push_str("</div>");
    Ok(())
}

fn notes(html: &mut String, notes: impl IntoIterator<Item = (&'static str, String)>) -> fmt::Result {
    notes.into_iter().try_for_each(|(class, text)| match class {
        "" => write!(html, "<dd>{text}</dd>"),
        class => write!(html, "<dd class=\"{class}\">{text}</dd>"),
    })
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

const CHECK: &str = "<svg class=\"good\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><circle cx=\"12\" cy=\"12\" r=\"11\" \
    fill=\"currentColor\" opacity=\".15\"/><path d=\"M6.5 12.5l3.7 3.7 7.3-8\" fill=\"none\" stroke=\"currentColor\" \
    stroke-width=\"2.4\" stroke-linecap=\"round\" stroke-linejoin=\"round\"/></svg>";
const MARK: &str = "<svg class=\"warn\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><path d=\"M12 2.5l10.5 18.5h-21z\" \
    fill=\"currentColor\" opacity=\".15\"/><path d=\"M12 9v5.5M12 17.6v.4\" fill=\"none\" stroke=\"currentColor\" \
    stroke-width=\"2.4\" stroke-linecap=\"round\"/></svg>";
const CROSS: &str = "<svg class=\"bad\" viewBox=\"0 0 24 24\" aria-hidden=\"true\"><circle cx=\"12\" cy=\"12\" r=\"11\" \
    fill=\"currentColor\" opacity=\".15\"/><path d=\"M8 8l8 8M16 8l-8 8\" fill=\"none\" stroke=\"currentColor\" \
    stroke-width=\"2.4\" stroke-linecap=\"round\"/></svg>";

/// A text as HTML shows it, in an element or in a quoted attribute.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            other => f.write_char(other),
        })
    }
}

/// A whole number with its thousands apart.
struct Grouped(u64);

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

/// A time of day, to the second.
struct ShownTime(UnixMillis);

impl Display for ShownTime {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        match text.split_once('T') {
            Some((date, time)) => write!(f, "{date} {} UTC", time.get(..8).unwrap_or(time)),
            None => f.write_str(&text),
        }
    }
}

/// How long ago a time was.
struct Ago(Option<UnixMillis>, UnixMillis);

impl Display for Ago {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self(None, _) => f.write_char('–'),
            Self(Some(time), now) => {
                write!(f, "<time datetime=\"{time}\">{} ago</time>", ShownDuration(now.since(*time)))
            }
        }
    }
}

/// An estimate in seconds.
struct About(f64);

impl Display for About {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 < 10.0 { write!(f, "{:.1} s", self.0) } else { ShownDuration(Duration::from_secs_f64(self.0)).fmt(f) }
    }
}

/// A duration in its two largest units, as far as they matter.
struct ShownDuration(Duration);

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

    #[test]
    fn nothing_written_elsewhere_becomes_markup() {
        assert_eq!(Escaped("<b title=\"x\">&'</b>").to_string(), "&lt;b title=&quot;x&quot;&gt;&amp;&#39;&lt;/b&gt;");
    }
}
