//! A table with the figures of several runs: the minimum, the median and the maximum of each.

use std::time::Duration;

use crate::cast::{Contender, Run};

/// A table in Markdown, a column for each contender.
pub(crate) struct FigureTable {
    columns: Vec<String>,
    rows: Vec<(String, Vec<String>)>,
}

/// Bytes in MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl FigureTable {
    pub(crate) fn new(columns: &[Contender]) -> Self {
        Self { columns: columns.iter().map(Contender::name).collect(), rows: vec![] }
    }

    /// A row of figures, each contender's own.
    pub(crate) fn row(&mut self, what: &str, measured: &[Vec<Run>], figure: impl Fn(&Run) -> f64) {
        let cells = measured.iter().map(|runs| cell(runs.iter().map(&figure).collect())).collect();
        self.rows.push((what.to_owned(), cells));
    }

    /// A row of figures of a table with one column.
    pub(crate) fn plain(&mut self, what: &str, figures: &[f64]) {
        self.rows.push((what.to_owned(), vec![cell(figures.to_vec())]));
    }

    /// A row with the ratio of each contender's figure to the first contender's, run by run.
    pub(crate) fn ratio(&mut self, what: &str, measured: &[Vec<Run>], figure: impl Fn(&Run) -> f64) {
        let [first, others @ ..] = measured else { return };
        let of =
            |runs: &Vec<Run>| cell(runs.iter().zip(first).map(|(run, first)| figure(run) / figure(first)).collect());
        let cells = std::iter::once(String::new()).chain(others.iter().map(of)).collect();
        self.rows.push((what.to_owned(), cells));
    }

    /// The rows that every case has.
    pub(crate) fn common_rows(&mut self, measured: &[Vec<Run>]) {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        self.row("calls", measured, |run| run.calls as f64);
        self.row("MaxResults of most calls", measured, |run| run.page_size.into());
        self.row("peak memory, MiB", measured, |run| mib(run.peak_bytes));
        self.row("start to ready, ms", measured, |run| milliseconds(run.ready));
        self.row("start to first poll, ms", measured, |run| milliseconds(run.first_poll));
        self.row("(the field's CPU per call, ms)", measured, |run| milliseconds(run.field_cpu) / run.calls as f64);
    }

    pub(crate) fn print(&self) {
        println!("| least / median / most | {} |", self.columns.join(" | "));
        println!("|---|{}", "---:|".repeat(self.columns.len()));
        for (what, cells) in &self.rows {
            println!("| {what} | {} |", cells.join(" | "));
        }
    }
}

fn cell(mut figures: Vec<f64>) -> String {
    figures.sort_by(f64::total_cmp);
    let (Some(least), Some(most)) = (figures.first(), figures.last()) else { return "not here".to_owned() };
    let median = figures[figures.len() / 2];
    if least.to_bits() == most.to_bits() {
        return digits(*least);
    }
    format!("{} / {} / {}", digits(*least), digits(median), digits(*most))
}

/// A figure with three significant digits.
fn digits(figure: f64) -> String {
    match figure.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        1.0.. => format!("{figure:.2}"),
        0.1.. => format!("{figure:.3}"),
        _ => format!("{figure:.4}"),
    }
}
