//! How far long work has come: a bar on a terminal, nothing anywhere else.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Redrawn at most so often a second: seen as moving, and nothing to a terminal over a slow line.
const REDRAWN_HZ: u8 = 5;

/// A bar on stderr that goes away when it is dropped. indicatif hides it where stderr is no terminal.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A bar for this many steps; None: nobody knows how many.
    pub(super) fn of(doing: &'static str, steps: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(steps, ProgressDrawTarget::stderr_with_hz(REDRAWN_HZ));
        let template = match steps {
            Some(_) => "{msg} {wide_bar} {human_pos}/{human_len}, {eta} left",
            None => "{msg} {spinner} {human_pos}, {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(doing);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// That many steps more are done.
    pub(super) fn advance(&self, steps: u64) {
        self.0.inc(steps);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
