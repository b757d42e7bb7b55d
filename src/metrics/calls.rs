//! The metrics of calls to AWS, by account and region, because AWS counts calls there.

use std::collections::BTreeMap;

use cognito_auth_core::call::{CallOutcome, Operation};
use cognito_auth_core::event::UnixMillis;
use prometheus::Histogram;

use super::family::{Counter, Distribution, Exposition, Family, Gauge};
use super::labels::PerLabel;

const API_REQUESTS: Family<Counter, 4> = Family::new(
    "cognito_exporter_api_requests_total",
    "Calls to AWS, by operation and outcome.",
    ["account_id", "region", "operation", "outcome"],
);
const API_DURATION: Family<Distribution, 2> = Family::new(
    "cognito_exporter_api_request_duration_seconds",
    "Time that calls to AWS took, whatever their outcome.",
    ["region", "operation"],
);
const API_BUDGET: Family<Gauge, 2> = Family::new(
    "cognito_exporter_api_budget_requests_per_second",
    "The budget for AdminListUserAuthEvents at present, after back-off.",
    ["account_id", "region"],
);
const API_ACCOUNT_LIMIT: Family<Gauge, 2> = Family::new(
    "cognito_exporter_api_account_limit_requests_per_second",
    "The account's limit for the category of AdminListUserAuthEvents; absent unless the budget is a share of it.",
    ["account_id", "region"],
);
const API_ACCOUNT_LIMIT_READ: Family<Gauge, 2> = Family::new(
    "cognito_exporter_api_account_limit_read_timestamp_seconds",
    "When AWS last gave the account's limit; 0 while it is the documented default.",
    ["account_id", "region"],
);
/// From a nearby region's fastest answer to the default timeout of a call.
const API_DURATION_BUCKETS_SECS: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// `account_id` before the account is known.
pub(super) const UNKNOWN_ACCOUNT: &str = "unknown";

/// The metrics of the calls made.
#[derive(Default)]
pub(super) struct CallMetrics {
    pub(super) accounts: BTreeMap<(String, String), AccountCalls>,
    pub(super) durations: BTreeMap<String, PerLabel<Operation, Histogram>>,
}

/// The metrics of one account and region.
pub(super) struct AccountCalls {
    pub(super) requests: PerLabel<Operation, PerLabel<CallOutcome, u64>>,
    pub(super) budget_per_second: Option<f64>,
    pub(super) limit: Option<AccountLimit>,
}

/// The limit of an account in a region, if the budget is a share of it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AccountLimit {
    /// Requests per second in the category UserResourceRead.
    pub per_second: f64,
    /// The time at which AWS gave the limit; None if it is the documented default.
    pub read: Option<UnixMillis>,
}

impl CallMetrics {
    pub(super) fn account(&mut self, account: Option<&str>, region: &str) -> &mut AccountCalls {
        let key = (account.unwrap_or(UNKNOWN_ACCOUNT).to_owned(), region.to_owned());
        self.accounts.entry(key).or_insert_with(|| AccountCalls {
            requests: PerLabel::new(|| PerLabel::new(|| 0)),
            budget_per_second: None,
            limit: None,
        })
    }

    pub(super) fn durations(&mut self, region: &str) -> &mut PerLabel<Operation, Histogram> {
        self.durations
            .entry(region.to_owned())
            .or_insert_with(|| PerLabel::new(|| Family::distribution(&API_DURATION_BUCKETS_SECS)))
    }

    pub(super) fn put(&self, scrape: &mut Exposition) {
        for ((account, region), calls) in &self.accounts {
            for (operation, outcomes) in calls.requests.iter() {
                for (outcome, count) in outcomes.iter() {
                    scrape.put(&API_REQUESTS, [account, region, operation, outcome], *count);
                }
            }
            scrape.put_known(&API_BUDGET, [account, region], calls.budget_per_second);
            if let Some(AccountLimit { per_second, read }) = calls.limit {
                scrape.put(&API_ACCOUNT_LIMIT, [account, region], per_second);
                scrape.put(&API_ACCOUNT_LIMIT_READ, [account, region], read.map_or(0.0, UnixMillis::as_secs_f64));
            }
        }
        for (region, durations) in &self.durations {
            for (operation, duration) in durations.iter() {
                scrape.put(&API_DURATION, [region, operation], duration);
            }
        }
    }
}
