//! Long work of a command whose output goes elsewhere: a bar on a terminal, else a line now and then.
//!
//! Where what it prints goes to the terminal itself, or may come there by a pipe, that is seen to grow, and a bar would be
//! drawn into it.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::time::Duration;

use tokio::time::Instant;

use super::progress::Progress;

/// Work shorter than this is not long, and the lines are so far apart.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// How far it has come, for whoever waits for it. A bar goes away when this is dropped.
pub(super) struct LongWork {
    began: Instant,
    shown: Shown,
}

enum Shown {
    Bar(Progress),
    Lines(Lines),
    Nothing,
}

impl LongWork {
    /// Work in so many steps; None: nobody knows how many.
    pub(super) fn begin(doing: &'static str, steps: Option<u64>) -> Self {
        let shown = match (io::stderr().is_terminal(), output_is_out_of_sight()) {
            (true, true) => Shown::Bar(Progress::of(doing, steps)),
            (true, false) => Shown::Nothing,
            (false, _) => Shown::Lines(Lines { doing, steps, done: 0, told: Duration::ZERO }),
        };
        Self { began: Instant::now(), shown }
    }

    /// That many steps more are done.
    pub(super) fn advance(&mut self, steps: u64) {
        match &mut self.shown {
            Shown::Bar(bar) => bar.advance(steps),
            Shown::Lines(lines) => {
                lines.advance(steps, self.began.elapsed()).iter().for_each(|line| super::complain(line));
            }
            Shown::Nothing => {}
        }
    }
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
struct Lines {
    doing: &'static str,
    steps: Option<u64>,
    done: u64,
    told: Duration,
}

impl Lines {
    /// The line that is due, so long after the beginning.
    fn advance(&mut self, steps: u64, elapsed: Duration) -> Option<String> {
        self.done = self.done.saturating_add(steps);
        if elapsed.saturating_sub(self.told) < TOLD_EVERY {
            return None;
        }
        self.told = elapsed;
        let since = humantime::format_duration(Duration::from_secs(elapsed.as_secs()));
        let of = self.steps.map_or(String::new(), |steps| format!(" of {steps}"));
        Some(format!("{}: {}{of} after {since}", self.doing, self.done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_minute_says_how_far_it_is() {
        let mut lines = Lines { doing: "events read", steps: None, done: 0, told: Duration::ZERO };
        let told: Vec<_> = (1..=130).filter_map(|second| lines.advance(60, Duration::from_secs(second))).collect();
        assert_eq!(told, ["events read: 3600 after 1m", "events read: 7200 after 2m"]);
    }

    #[test]
    fn where_the_number_of_steps_is_known_it_is_said() {
        let mut lines = Lines { doing: "pools checked", steps: Some(40), done: 0, told: Duration::ZERO };
        assert_eq!(lines.advance(1, Duration::from_secs(59)), None);
        assert_eq!(lines.advance(1, Duration::from_secs(75)), Some("pools checked: 2 of 40 after 1m 15s".to_owned()));
    }
}
