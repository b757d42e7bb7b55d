//! The printer of events: one JSON object a line for programs, aligned columns for people.

use std::io::{self, Write};

use super::EventsOutput;
use crate::cli::table::{cell, line, widen};
use crate::source::cognito::wire::{WireContext, WireEvent, WireRisk};

/// The table's columns with the width of most values, so that the pages of a long history stay aligned.
const COLUMNS: [(&str, usize); 10] = [
    ("CreationDate", 24),
    ("EventType", 14),
    ("EventResponse", 13),
    ("RiskDecision", 15),
    ("RiskLevel", 9),
    ("IpAddress", 15),
    ("City", 16),
    ("Country", 16),
    ("DeviceName", 24),
    ("EventId", 36),
];

/// Prints pages of events.
pub(super) enum EventsPrinter {
    Jsonl,
    Table { widths: [usize; COLUMNS.len()], headed: bool },
}

impl EventsPrinter {
    pub(super) fn new(output: EventsOutput) -> Self {
        match output {
            EventsOutput::Jsonl => Self::Jsonl,
            EventsOutput::Table => Self::Table { widths: COLUMNS.map(|(_, width)| width), headed: false },
        }
    }

    /// Prints a page. A table gets its head before the first page.
    pub(super) fn print(&mut self, events: &[WireEvent], out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Jsonl => events.iter().try_for_each(|event| {
                serde_json::to_writer(&mut *out, event)?;
                out.write_all(b"\n")
            }),
            Self::Table { widths, headed } => {
                let rows: Vec<_> = events.iter().map(row).collect();
                rows.iter().for_each(|row| widen(widths, row));
                if !std::mem::replace(headed, true) {
                    writeln!(out, "{}", line(&COLUMNS.map(|(name, _)| name.to_owned()), widths))?;
                }
                rows.iter().try_for_each(|row| writeln!(out, "{}", line(row, widths)))
            }
        }
    }
}

fn row(event: &WireEvent) -> [String; COLUMNS.len()] {
    let risk = event.event_risk.as_ref();
    let context = event.event_context_data.as_ref();
    let in_risk = |member: fn(&WireRisk) -> &Option<String>| cell(risk.and_then(|risk| member(risk).as_deref()));
    let in_context =
        |member: fn(&WireContext) -> &Option<String>| cell(context.and_then(|context| member(context).as_deref()));
    [
        cell(event.creation_date.map(|time| time.to_string()).as_deref()),
        cell(event.event_type.as_deref()),
        cell(event.event_response.as_deref()),
        in_risk(|risk| &risk.risk_decision),
        in_risk(|risk| &risk.risk_level),
        in_context(|context| &context.ip_address),
        in_context(|context| &context.city),
        in_context(|context| &context.country),
        in_context(|context| &context.device_name),
        cell(event.event_id.as_deref()),
    ]
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::event::UnixMillis;

    use super::*;

    fn printed(output: EventsOutput, pages: &[Vec<WireEvent>]) -> String {
        let (mut printer, mut out) = (EventsPrinter::new(output), vec![]);
        for page in pages {
            printer.print(page, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    fn sign_in(device: &str) -> WireEvent {
        WireEvent {
            event_id: Some("768d375c-ee6c-435e-a005-25c4981565c3".into()),
            creation_date: Some(UnixMillis(1_723_136_049_929)),
            event_type: Some("SignIn".into()),
            event_context_data: Some(WireContext { device_name: Some(device.into()), ..WireContext::default() }),
            ..WireEvent::default()
        }
    }

    #[test]
    fn columns_stay_aligned_over_pages_and_absent_values_are_dashes() {
        let table =
            printed(EventsOutput::Table, &[vec![sign_in("Other, Other")], vec![sign_in("Chrome 126, Windows 10")]]);
        let lines: Vec<&str> = table.lines().collect();
        let column = |line: &str, text: &str| line.find(text).unwrap();
        assert_eq!(lines.len(), 3);
        assert!(lines.iter().all(|line| line.trim_end() == *line));
        assert_eq!(column(lines[0], "DeviceName"), column(lines[1], "Other, Other"));
        assert_eq!(column(lines[0], "EventId"), column(lines[2], "768d375c"));
        assert!(lines[1].starts_with("2024-08-08T16:54:09.929Z  SignIn          -"));
    }

    #[test]
    fn a_hostile_device_cannot_drive_the_terminal() {
        let table = printed(EventsOutput::Table, &[vec![sign_in("\u{1b}[2Jgone\nforever")]]);
        assert!(!table.contains('\u{1b}') && table.lines().count() == 2, "{table:?}");
    }

    #[test]
    fn without_events_there_is_a_head_or_nothing() {
        assert_eq!(printed(EventsOutput::Table, &[vec![]]).lines().count(), 1);
        assert_eq!(printed(EventsOutput::Jsonl, &[vec![]]), "");
    }
}
