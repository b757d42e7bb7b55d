//! The report of `check`: its steps, as lines while they are done, or as one JSON document at the end.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use cognito_auth_core::printable::printable;
use serde::Serialize;

use crate::cli::output::TextOrJson;
use crate::config::ConfigErrors;

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum StepStatus {
    Ok,
    /// Worth knowing, and no failure.
    Note,
    Failed,
    /// Not tried.
    Skipped,
}

/// A step, as JSON shows it.
#[derive(Serialize)]
struct ReportedStep {
    status: StepStatus,
    /// The pool that the step is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
    what: String,
    /// The finding, or the reason why the step was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<String>,
    /// The cause of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    /// The remedy for a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// The subject of a step: a part of the exporter or of a pool.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pool: Option<String>,
    what: String,
}

impl Subject {
    /// A part of a pool.
    pub(super) fn of_pool(id: &str, what: impl Display) -> Self {
        Self { pool: Some(id.to_owned()), what: what.to_string() }
    }
}

impl From<String> for Subject {
    fn from(what: String) -> Self {
        Self { pool: None, what }
    }
}

impl From<&str> for Subject {
    fn from(what: &str) -> Self {
        what.to_owned().into()
    }
}

impl From<&Subject> for Subject {
    fn from(subject: &Subject) -> Self {
        subject.clone()
    }
}

impl From<&String> for Subject {
    fn from(what: &String) -> Self {
        what.clone().into()
    }
}

/// The numbers of steps by their status.
#[derive(Clone, Copy, Default, Serialize)]
struct StepCounts {
    ok: usize,
    note: usize,
    failed: usize,
    skipped: usize,
}

/// Reports each step, and counts them.
pub(super) struct CheckReport {
    format: TextOrJson,
    counts: StepCounts,
    /// The steps so far; kept only for JSON.
    steps: Vec<ReportedStep>,
}

#[derive(Serialize)]
struct ReportDocument<'a> {
    /// `ok` or `failed`.
    status: StepStatus,
    steps: &'a [ReportedStep],
    summary: StepCounts,
}

impl CheckReport {
    pub(super) fn new(format: TextOrJson) -> Self {
        Self { format, counts: StepCounts::default(), steps: Vec::new() }
    }

    pub(super) fn ok(&mut self, subject: impl Into<Subject>, found: impl Display) {
        self.counts.ok += 1;
        self.found(StepStatus::Ok, "ok    ", subject.into(), found.to_string());
    }

    pub(super) fn note(&mut self, subject: impl Into<Subject>, found: impl Display) {
        self.counts.note += 1;
        self.found(StepStatus::Note, "note  ", subject.into(), found.to_string());
    }

    /// Reports a step that was not tried.
    pub(super) fn skipped(&mut self, subject: impl Into<Subject>, why: impl Display) {
        self.counts.skipped += 1;
        self.found(StepStatus::Skipped, "skip  ", subject.into(), why.to_string());
    }

    pub(super) fn failed(&mut self, subject: impl Into<Subject>, cause: impl Display, remedy: impl Display) {
        let Subject { pool, what } = subject.into();
        self.counts.failed += 1;
        self.line("FAIL  ", &format!("{}{what}: {cause}", prefix(pool.as_deref())));
        self.line("      -> ", &remedy.to_string());
        let (cause, remedy) = (Some(cause.to_string()), Some(remedy.to_string()));
        self.keep(ReportedStep { status: StepStatus::Failed, pool, what, found: None, cause, remedy });
    }

    fn found(&mut self, status: StepStatus, mark: &str, Subject { pool, what }: Subject, found: String) {
        self.line(mark, &format!("{}{what}: {found}", prefix(pool.as_deref())));
        self.keep(ReportedStep { status, pool, what, found: Some(found), cause: None, remedy: None });
    }

    fn keep(&mut self, step: ReportedStep) {
        if self.format == TextOrJson::Json {
            self.steps.push(step);
        }
    }

    /// Prints a line for people, without control characters, because parts of it come from a service, a receiver or a
    /// file.
    fn line(&self, mark: &str, text: &str) {
        if self.format == TextOrJson::Text {
            // If stdout cannot be written, the exit code still tells the result.
            let _ = writeln!(io::stdout(), "{mark}{}", printable(text));
        }
    }

    /// Prints the summary, or the document. Returns the exit code: 1 if a step failed.
    pub(super) fn conclude(self) -> ExitCode {
        let StepCounts { ok, failed, skipped, .. } = self.counts;
        let tried = ok + failed;
        let and_skipped = if skipped > 0 { format!("; {skipped} skipped") } else { String::new() };
        if failed == 0 {
            self.line("", &format!("all {tried} steps succeeded{and_skipped}"));
        } else {
            self.line("", &format!("{failed} of {tried} steps failed{and_skipped}"));
        }
        self.print_document();
        ExitCode::from(u8::from(failed > 0))
    }

    fn print_document(&self) {
        if self.format == TextOrJson::Text {
            return;
        }
        let status = if self.counts.failed > 0 { StepStatus::Failed } else { StepStatus::Ok };
        let document = ReportDocument { status, steps: &self.steps, summary: self.counts };
        let mut out = io::stdout().lock();
        // If stdout cannot be written, the exit code still tells the result.
        let _ = serde_json::to_writer_pretty(&mut out, &document);
        let _ = writeln!(out);
    }
}

/// Prints the mistakes of a configuration that cannot be used as a JSON document, if that is the format. People read
/// them on stderr.
pub(super) fn mistakes(format: TextOrJson, errors: &ConfigErrors) {
    let mut report = CheckReport::new(format);
    if format == TextOrJson::Json {
        for mistake in errors.mistakes() {
            let (what, remedy) = ("configuration", "correct what this names");
            report.failed(what, mistake, remedy);
        }
        report.print_document();
    }
}

/// Returns what a line begins with.
fn prefix(pool: Option<&str>) -> String {
    pool.map(|pool| format!("pool {pool} ")).unwrap_or_default()
}
