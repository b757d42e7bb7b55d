//! The progress of long work on stderr: a bar on a terminal, otherwise a line a minute.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// Maximum number of redraws a second. It looks fluent, and suits a terminal over a slow connection.
const REDRAW_HZ: u8 = 5;

/// Time between two lines. Shorter work prints none.
const LINE_INTERVAL: Duration = Duration::from_mins(1);

/// The progress of work. Dropping it clears the bar.
pub(super) struct Progress {
    began: Instant,
    display: ProgressDisplay,
}

enum ProgressDisplay {
    Bar(ProgressBar),
    Lines(ProgressLines),
    Nothing,
}

impl Progress {
    /// The progress of work that prints nothing before it is done. `done` names the steps, such as "users rewound". The
    /// number of steps is None if it is unknown.
    pub(super) fn of(done: &'static str, steps: Option<u64>) -> Self {
        Self::new(true, done, steps)
    }

    /// The progress of work that prints as it goes. There is no bar if the output goes to the terminal, or to a pipe
    /// that may end there. The bar would be drawn into the output.
    pub(super) fn beside_output(done: &'static str, steps: Option<u64>) -> Self {
        Self::new(output_is_out_of_sight(), done, steps)
    }

    /// The progress of work that prints to a file of its own if `has_file`, and to stdout otherwise.
    pub(super) fn beside_file(done: &'static str, steps: Option<u64>, has_file: bool) -> Self {
        Self::new(has_file || output_is_out_of_sight(), done, steps)
    }

    fn new(bar_is_apart: bool, done: &'static str, steps: Option<u64>) -> Self {
        let display = match (io::stderr().is_terminal(), bar_is_apart) {
            (true, true) => ProgressDisplay::Bar(bar(done, steps)),
            (true, false) => ProgressDisplay::Nothing,
            (false, _) => ProgressDisplay::Lines(ProgressLines { done, steps, count: 0, printed: Duration::ZERO }),
        };
        Self { began: Instant::now(), display }
    }

    /// Prints a message for people, clear of the bar.
    pub(super) fn say(&self, text: &str) {
        match &self.display {
            ProgressDisplay::Bar(bar) => bar.suspend(|| super::complain(text)),
            ProgressDisplay::Lines(_) | ProgressDisplay::Nothing => super::complain(text),
        }
    }

    /// Adds finished steps.
    pub(super) fn advance(&mut self, steps: u64) {
        match &mut self.display {
            ProgressDisplay::Bar(bar) => bar.inc(steps),
            ProgressDisplay::Lines(lines) => {
                lines.advance(steps, self.began.elapsed()).iter().for_each(|line| super::complain(line));
            }
            ProgressDisplay::Nothing => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let ProgressDisplay::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}

fn bar(done: &'static str, steps: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(steps, ProgressDrawTarget::stderr_with_hz(REDRAW_HZ));
    let template = match steps {
        Some(_) => "{msg} {wide_bar} {human_pos}/{human_len}, {eta} left",
        None => "{msg} {spinner} {human_pos}, {elapsed}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(done);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Returns whether stdout is neither a terminal nor a pipe, whose reader may write to the terminal.
fn output_is_out_of_sight() -> bool {
    let out = io::stdout();
    let kind = || {
        let out = std::fs::File::from(out.as_fd().try_clone_to_owned()?);
        out.metadata().map(|metadata| metadata.file_type())
    };
    !out.is_terminal() && kind().is_ok_and(|kind| !kind.is_fifo() && !kind.is_socket())
}

/// The lines that are printed if no bar can be drawn.
#[derive(Debug)]
struct ProgressLines {
    done: &'static str,
    steps: Option<u64>,
    count: u64,
    printed: Duration,
}

impl ProgressLines {
    /// Adds finished steps, and returns a line if one is due at `elapsed` after the beginning.
    fn advance(&mut self, steps: u64, elapsed: Duration) -> Option<String> {
        self.count = self.count.saturating_add(steps);
        if elapsed.saturating_sub(self.printed) < LINE_INTERVAL {
            return None;
        }
        self.printed = elapsed;
        let since = humantime::format_duration(Duration::from_secs(elapsed.as_secs()));
        let of = self.steps.map_or(String::new(), |steps| format!(" of {steps}"));
        let left = self.left(elapsed).map_or(String::new(), |left| format!(", about {left} left"));
        Some(format!("{}: {}{of} after {since}{left}", self.done, self.count))
    }

    /// The time that the steps left take at the pace so far, if their number is known.
    fn left(&self, elapsed: Duration) -> Option<humantime::FormattedDuration> {
        let left = self.steps?.checked_sub(self.count).filter(|left| *left > 0 && self.count > 0)?;
        let seconds = elapsed.as_secs_f64() * left as f64 / self.count as f64;
        Duration::try_from_secs_f64(seconds.round()).ok().map(humantime::format_duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_minute_says_how_far_it_is() {
        let mut lines = ProgressLines { done: "events read", steps: None, count: 0, printed: Duration::ZERO };
        let told: Vec<_> = (1..=130).filter_map(|second| lines.advance(60, Duration::from_secs(second))).collect();
        assert_eq!(told, ["events read: 3600 after 1m", "events read: 7200 after 2m"]);
    }

    #[test]
    fn where_the_number_of_steps_is_known_it_is_said() {
        let mut lines = ProgressLines { done: "pools checked", steps: Some(40), count: 0, printed: Duration::ZERO };
        assert_eq!(lines.advance(1, Duration::from_secs(59)), None);
        assert_eq!(
            lines.advance(1, Duration::from_secs(75)),
            Some("pools checked: 2 of 40 after 1m 15s, about 23m 45s left".to_owned())
        );
        // An estimate that was too low says nothing of the time left.
        assert_eq!(
            lines.advance(40, Duration::from_secs(150)),
            Some("pools checked: 42 of 40 after 2m 30s".to_owned())
        );
    }
}
