//! The users of a pool that are followed: which are wanted, under which names, and which names are one user's.
//!
//! An error here follows a user twice, or not at all. So these rules ask nobody: the exporter's `targets` reads the
//! listings for them, and its poller the pages.

mod exclusion;
pub mod listing_pass;
pub mod names;
pub mod selection;
pub mod twins;

#[cfg(test)]
mod tests;
