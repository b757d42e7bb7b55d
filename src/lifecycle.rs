//! The life of the process: its tasks, their stops, its signals and its clock.
//!
//! - [`Lifecycle`] spawns every task and stops them in the order of the flow.
//! - [`Signals`] and [`Hangups`] catch the signals of a stop and of a reload.
//! - [`Clock`] is the only source of the time of day, so that tests can set it.

mod clock;
mod signals;
mod tasks;

pub use self::clock::Clock;
pub use self::signals::{Hangups, Signals};
pub use self::tasks::{Duty, Lifecycle, RunOutcome, STOP_MAX, Stops, TaskFault};
