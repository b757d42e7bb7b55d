//! cognito-auth-exporter: exports Amazon Cognito's auth events as OTLP log records and Prometheus counters.
//!
//! Cognito keeps each user's sign-in history for two years and returns it one user at a time, newest first. So Cognito
//! is both the source and the durable queue. The program is one flow, and the modules are in its order:
//!
//! ```text
//! config -> targets -> schedule -> poller <budget> -> source -> walk ==> ledger ==> delivery -> sink
//!           (users)     (when)           (rate)      (a page)  (new      |  one write  (OTLP, stdout)
//!                                                              events)   +- cursor, counters, outbox
//! beside: metrics <- counters and reports of the tasks;  http <- metrics, status;  lifecycle -> every task
//! ```
//!
//! - A *walk* reads one user's history from the newest event down to the known ones ([`walk`](cognito_auth_core::walk),
//!   [`cursor`](cognito_auth_core::cursor)).
//! - The cursor, the counters and the outgoing records of a page are written in *one atomic write* ([`ledger`]), so a
//!   crash at any moment loses nothing.
//! - Counting and delivery are separate: the write puts records into an *outbox*, and [`delivery`] sends them to the
//!   receiver. An outage of the receiver does not affect the counters.
//! - Calls are scarce: [`schedule`](cognito_auth_core::schedule) chooses the next user, and
//!   [`budget`](cognito_auth_core::budget) the time of the call.
//!
//! ARCHITECTURE.md has the map and the invariants.

pub mod config;

pub mod targets;

pub mod poller;
pub mod pool;
pub mod rate_limiter;
mod trouble;

pub mod source;

pub mod ledger;

pub mod delivery;
pub mod sink;

pub mod export;
pub mod http;
pub mod metrics;
pub mod status;

pub mod app;
pub mod control;
pub mod failpoint;
pub mod lifecycle;

pub mod cli;

#[cfg(test)]
mod captured_log;
