//! cognito-auth-exporter: Amazon Cognito's auth events in, OTLP log records and Prometheus counters out.
//!
//! Cognito keeps each user's sign-in history for two years and hands it out one user at a time, newest first. That makes
//! it at once the source and the durable queue, so the whole program is one flow, and the modules stand in its order:
//!
//! ```text
//! config -> targets -> schedule -> poller <budget> -> source -> walk ==> ledger ==> delivery -> sink
//!            (who)      (when)             (may I)    (a page)  (what's   |  one write  (OTLP, stdout)
//!                                                                new)     +- cursor, totals, outbox
//! beside: metrics <- totals and what the shell reports;  http <- metrics, status;  lifecycle -> every task
//! ```
//!
//! - A *walk* reads one user's history down from the newest event until it meets what is known ([`walk`](cognito_auth_core::walk), [`cursor`](cognito_auth_core::cursor)).
//! - What a page held is written with the cursor, the counters and the outgoing records in *one atomic write*
//!   ([`ledger`]): there is no unsafe moment to die.
//! - Counting and delivering are separate: the write puts records into an *outbox*, and a [`delivery`] takes them to the
//!   receiver. An outage of the log store never blinds the counters.
//! - Calls are the scarce good: [`schedule`](cognito_auth_core::schedule) says which user to ask next, [`budget`](cognito_auth_core::budget) when.
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

pub mod http;
pub mod metrics;
pub mod status;

pub mod app;
pub mod failpoint;
pub mod lifecycle;

pub mod cli;
