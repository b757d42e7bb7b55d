//! `/`: the status report for people, as one page without scripts or anything from elsewhere.

use std::fmt::{self, Display, Formatter, Write as _};
use std::time::Duration;

use crate::event::UnixMillis;
use crate::metrics::UserCounts;
use crate::status::{ErrorStatus, PoolStatus, StatusReport};

/// How often an open page reads itself anew.
const REFRESH_SECS: u64 = 15;

const STYLE: &str = "\
:root{color-scheme:light dark;--line:#8884;--bad:#c22;--good:#183}\
@media(prefers-color-scheme:dark){:root{--bad:#f77;--good:#7d8}}\
body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.4rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.35rem .9rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top}\
th{font-weight:600;white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
small{opacity:.7}.bad{color:var(--bad);font-weight:600}.good{color:var(--good);font-weight:600}";

/// Writes the page.
pub(super) fn render(report: &StatusReport) -> String {
    let mut html = String::new();
    write(&mut html, report).expect("writing into a String does not fail");
    html
}

fn write(html: &mut String, report: &StatusReport) -> fmt::Result {
    let now = report.now;
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>cognito-auth-exporter</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><meta http-equiv=\"refresh\" content=\"{REFRESH_SECS}\">\
         <style>{STYLE}</style></head><body>\n<h1>cognito-auth-exporter <small>{}</small></h1>\n<p>{}, up {}, at {now}",
        Escaped(report.version),
        Health(report),
        Span(now.since(report.started)),
    )?;
    for reason in &report.paused {
        write!(html, " &middot; <span class=\"bad\">paused: {}</span>", Escaped(reason))?;
    }
    html.push_str(
        " &middot; <a href=\"metrics\">metrics</a> &middot; <a href=\"status\">status as JSON</a></p>\n\
         <h2>User pools</h2>\n<div class=\"scroll\"><table>\n<tr><th>Pool<th>State<th class=\"n\">Users\
         <th>Oldest poll<th>Round<th class=\"n\">Budget<th class=\"n\">Events<th class=\"n\">Risk<th class=\"n\">History</tr>\n",
    );
    if report.pools.is_empty() {
        html.push_str("<tr><td colspan=\"9\">none yet</td></tr>\n");
    }
    for pool in &report.pools {
        write_pool(html, pool, now)?;
    }
    html.push_str("</table></div>\n<h2>Delivery</h2>\n<table>\n");
    match &report.outbox {
        None => row(html, "Outbox", "no sink: only metrics are exported")?,
        Some(outbox) => {
            let limit = outbox.limit_bytes.map_or(String::new(), |limit| format!(" of {}", bytes(limit)));
            let waiting = format!("{} records, {}{limit}", outbox.records, bytes(outbox.bytes));
            row(html, "Outbox", waiting)?;
            row(html, "Oldest record", Ago(outbox.oldest, now))?;
            row(html, "Last acknowledged", Ago(report.delivery.last_success, now))?;
        }
    }
    if let Some(records) = report.quarantined_records {
        row(html, "Quarantine", format!("{records} records"))?;
    }
    for (stage, time) in &report.progress {
        row(html, &format!("Last {stage}"), Ago(Some(time.0), now))?;
    }
    if let Some(size) = report.state.size_bytes {
        row(html, "Ledger", bytes(size))?;
    }
    if report.state.rebuilds > 0 {
        row(html, "Ledger rebuilt", format!("{} times", report.state.rebuilds))?;
    }
    html.push_str("</table>\n");
    write_errors(html, "Delivery errors", &report.delivery.last_errors, now)?;
    for pool in &report.pools {
        write_errors(html, &format!("Errors of {}", pool.name), &pool.last_errors, now)?;
    }
    html.push_str("</body></html>\n");
    Ok(())
}

fn write_pool(html: &mut String, pool: &PoolStatus, now: UnixMillis) -> fmt::Result {
    let state = match pool.up {
        None => "not asked yet",
        Some(true) => "<span class=\"good\">up</span>",
        Some(false) => "<span class=\"bad\">down</span>",
    };
    write!(
        html,
        "<tr><td>{}<br><small>{}, {}</small><td>{state}",
        Escaped(&pool.name),
        Escaped(&pool.id),
        Escaped(&pool.region),
    )?;
    if pool.catching_up == Some(true) {
        write!(html, "<br><small>catching up, {} walks</small>", pool.backlog_walks)?;
    }
    html.push_str("<td class=\"n\">");
    match pool.users {
        None => html.push('–'),
        Some(UserCounts { ok, missing, failing }) => {
            write!(html, "{}", ok + missing + failing)?;
            if missing > 0 {
                write!(html, "<br><small>{missing} missing</small>")?;
            }
            if failing > 0 {
                write!(html, "<br><span class=\"bad\">{failing} failing</span>")?;
            }
        }
    }
    write!(html, "<td>{}", Ago(pool.oldest_poll, now))?;
    if let Some(objective) = pool.objective_seconds {
        write!(html, "<br><small>objective {}</small>", Span(Duration::from_secs(objective)))?;
    }
    match pool.round_seconds_estimate {
        None => html.push_str("<td>–"),
        Some(secs) => write!(html, "<td>{}", Span(Duration::from_secs(secs)))?,
    }
    if let Some(delay) = pool.event_delay_seconds_estimate {
        write!(html, "<br><small>mean delay {}</small>", Span(Duration::from_secs(delay)))?;
    }
    match pool.budget_requests_per_second {
        None => html.push_str("<td class=\"n\">–"),
        Some(budget) => write!(html, "<td class=\"n\">{budget:.1}/s")?,
    }
    if let Some(required) = pool.required_requests_per_second {
        write!(html, "<br><small>objective takes {required:.2}/s</small>")?;
    }
    let (events, risk, history) = (pool.events, pool.risk_events, pool.history_events);
    writeln!(html, "<td class=\"n\">{events}<td class=\"n\">{risk}<td class=\"n\">{history}</tr>")
}

fn write_errors(html: &mut String, title: &str, errors: &[ErrorStatus], now: UnixMillis) -> fmt::Result {
    if errors.is_empty() {
        return Ok(());
    }
    write!(html, "<h2>{}</h2>\n<table>\n", Escaped(title))?;
    for error in errors {
        let last = Ago(Some(error.last), now);
        let (cause, count) = (Escaped(&error.cause), error.count);
        writeln!(html, "<tr><th>{last}<td class=\"n\">{count} &times;<td>{cause}</tr>")?;
    }
    html.push_str("</table>\n");
    Ok(())
}

fn row(html: &mut String, name: &str, value: impl Display) -> fmt::Result {
    writeln!(html, "<tr><th>{}<td>{value}</tr>", Escaped(name))
}

fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

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

struct Health<'a>(&'a StatusReport);

impl Display for Health<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.0.reason {
            None => f.write_str("<span class=\"good\">ready</span>"),
            Some(reason) => write!(f, "<span class=\"bad\">not ready: {}</span>", Escaped(reason)),
        }
    }
}

/// How long ago a time was.
struct Ago(Option<UnixMillis>, UnixMillis);

impl Display for Ago {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self(None, _) => f.write_char('–'),
            Self(Some(time), now) => write!(f, "<span title=\"{time}\">{} ago</span>", Span(now.since(*time))),
        }
    }
}

/// A duration in its two largest units.
struct Span(Duration);

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{secs} s"),
            (0, 0, _) => write!(f, "{minutes} min {} s", secs % 60),
            (0, _, _) => write!(f, "{hours} h {minutes} min"),
            _ => write!(f, "{days} d {hours} h"),
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
            (60, "1 min 0 s"),
            (3_599, "59 min 59 s"),
            (3_600, "1 h 0 min"),
            (90_000, "1 d 1 h"),
        ];
        for (secs, text) in table {
            assert_eq!(Span(Duration::from_secs(secs)).to_string(), text);
        }
    }

    #[test]
    fn nothing_written_elsewhere_becomes_markup() {
        assert_eq!(Escaped("<b title=\"x\">&'</b>").to_string(), "&lt;b title=&quot;x&quot;&gt;&amp;&#39;&lt;/b&gt;");
    }
}
