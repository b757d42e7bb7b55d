//! All integration tests in one program, so that it is linked once and the tests wait at the same time. Unit tests are
//! in the files of the code.
//!
//! `cargo test` runs all of them, and ends with the list of those that were skipped; `cargo test crashes::` runs those
//! of one file.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/cognito.rs"]
mod cognito;
#[path = "support/disk.rs"]
mod disk;
#[path = "support/export_sim.rs"]
mod export_sim;
#[path = "support/exporter.rs"]
mod exporter;
#[path = "support/folders.rs"]
mod folders;
#[path = "support/histories.rs"]
mod histories;
#[path = "support/long.rs"]
mod long;
#[path = "support/outputs.rs"]
mod outputs;
#[path = "support/peers.rs"]
mod peers;
#[path = "support/prometheus.rs"]
mod prometheus;
#[path = "support/receiver.rs"]
mod receiver;
#[path = "support/rules.rs"]
mod rules;
#[path = "support/schedule_sim.rs"]
mod schedule_sim;
#[path = "support/skips.rs"]
mod skips;
#[path = "support/store.rs"]
mod store;
#[path = "support/test_env.rs"]
mod test_env;
#[path = "support/transports.rs"]
mod transports;
#[path = "support/turn_sim.rs"]
mod turn_sim;

mod alerting_end_to_end;
mod alerts;
mod boto3_simulation;
mod check;
mod cli;
mod clock;
mod compose;
mod config;
mod config_example;
mod config_show;
mod control;
mod crashes;
mod dashboards;
mod deploy;
mod discovery;
mod end_to_end;
mod events;
mod events_boto3;
mod events_follow;
mod events_outputs;
mod events_resume;
mod events_users;
mod export;
mod export_crashes;
mod faults;
mod field_cases;
mod firehose;
mod first_scrape;
mod following;
mod http;
mod iam;
mod ledger;
mod ledger_faults;
mod limits;
mod log_group;
mod ocsf;
mod otlp;
mod page;
mod privacy;
mod quarantine;
mod readme;
mod receiver_faults;
mod receiver_limits;
mod release;
mod reload;
mod rotel;
mod samples;
mod schedule;
mod shards;
mod simulation;
mod sizing;
mod snapshots;
mod source;
mod state;
mod status;
mod stopping;
mod throttling;
mod tidy;
mod web;
mod workflows;
