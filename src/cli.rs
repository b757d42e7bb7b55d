//! The commands.

pub mod events;
