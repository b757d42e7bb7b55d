//! How far long work has come, for whoever waits for it: a bar on a terminal, else a line now and then.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// Redrawn at most so often a second: seen as moving, and nothing to a terminal over a slow line.
const REDRAWN_HZ: u8 = 5;

/// Work shorter than this is not long, and the lines are so far apart.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// Work under way, told on stderr. A bar goes away when this is dropped.
pub(super) struct Progress {
    began: Instant,
    shown: ProgressDisplay,
}

enum ProgressDisplay {
    Bar(ProgressBar),
    Lines(ProgressLines),
    Nothing,
}

impl Progress {
    /// Of work that prints nothing before it is done. `done` says what its steps are, such as "users rewound"; None of
    /// them: nobody knows how many.
    pub(super) fn of(done: &'static str, steps: Option<u64>) -> Self {
        Self::shown(true, done, steps)
    }

    /// Of work that prints as it goes. What comes to the terminal itself, or may come there by a pipe, is seen to grow, and
    /// a bar would be drawn into it.
    pub(super) fn beside_output(done: &'static str, steps: Option<u64>) -> Self {
        Self::shown(output_is_out_of_sight(), done, steps)
    }

    fn shown(bar_is_apart: bool, done: &'static str, steps: Option<u64>) -> Self {
        let shown = match (io::stderr().is_terminal(), bar_is_apart) {
            (true, true) => ProgressDisplay::Bar(bar(done, steps)),
            (true, false) => ProgressDisplay::Nothing,
            (false, _) => ProgressDisplay::Lines(ProgressLines { done, steps, count: 0, told: Duration::ZERO }),
        };
        Self { began: Instant::now(), shown }
    }

    /// That many steps more are done.
    pub(super) fn advance(&mut self, steps: u64) {
        match &mut self.shown {
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
        if let ProgressDisplay::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn bar(done: &'static str, steps: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(steps, ProgressDrawTarget::stderr_with_hz(REDRAWN_HZ));
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

/// Whether stdout is neither a terminal nor a pipe, whose other end may write to one.
fn output_is_out_of_sight() -> bool {
    let out = io::stdout();
    let kind = || {
        let out = std::fs::File::from(out.as_fd().try_clone_to_owned()?);
        out.metadata().map(|metadata| metadata.file_type())
    };
    !out.is_terminal() && kind().is_ok_and(|kind| !kind.is_fifo() && !kind.is_socket())
}

/// What is said where no bar can be drawn.
#[derive(Debug)]
struct ProgressLines {
    done: &'static str,
    steps: Option<u64>,
    count: u64,
    told: Duration,
}

impl ProgressLines {
    /// The line that is due, so long after the beginning.
    fn advance(&mut self, steps: u64, elapsed: Duration) -> Option<String> {
        self.count = self.count.saturating_add(steps);
        if elapsed.saturating_sub(self.told) < TOLD_EVERY {
            return None;
        }
        self.told = elapsed;
        let since = humantime::format_duration(Duration::from_secs(elapsed.as_secs()));
        let of = self.steps.map_or(String::new(), |steps| format!(" of {steps}"));
        Some(format!("{}: {}{of} after {since}", self.done, self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_minute_says_how_far_it_is() {
        let mut lines = ProgressLines { done: "events read", steps: None, count: 0, told: Duration::ZERO };
        let told: Vec<_> = (1..=130).filter_map(|second| lines.advance(60, Duration::from_secs(second))).collect();
        assert_eq!(told, ["events read: 3600 after 1m", "events read: 7200 after 2m"]);
    }

    #[test]
    fn where_the_number_of_steps_is_known_it_is_said() {
        let mut lines = ProgressLines { done: "pools checked", steps: Some(40), count: 0, told: Duration::ZERO };
        assert_eq!(lines.advance(1, Duration::from_secs(59)), None);
        assert_eq!(lines.advance(1, Duration::from_secs(75)), Some("pools checked: 2 of 40 after 1m 15s".to_owned()));
    }
}
