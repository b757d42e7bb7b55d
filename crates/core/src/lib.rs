//! The pure core of cognito-auth-exporter: every decision that needs no I/O, clock, runtime or log.
//!
//! Every function takes the time, the limits and the input as arguments and answers with a value. The modules stand in
//! the order in which an event passes them.

pub mod audit;
pub mod budget;
pub mod schedule;
pub mod shard;
pub mod sizing;
pub mod users;

pub mod call;
pub mod event;
pub mod export;
pub mod listing;
pub mod member;
pub mod page;

pub mod cursor;
pub mod told;
pub mod walk;

pub mod arrival;

pub mod counters;
pub mod entry;
pub mod masking;
pub mod privacy;

pub mod ocsf;
pub mod record;

pub mod answer;
pub mod backoff;
pub mod batch_splitter;
pub mod lasting_fault;
pub mod printable;
pub mod redact;

#[cfg(any(test, feature = "fixtures"))]
pub mod fixtures;
