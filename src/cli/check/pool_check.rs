//! The steps of `check` for one pool: credentials, permissions, plan, names, users and export.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Duration;

use cognito_auth_core::budget::DEFAULT_READ_LIMIT;
use cognito_auth_core::export::log_delivery::{DeliveryVerdict, LogDelivery};
use cognito_auth_core::export::log_group::LogGroup;
use cognito_auth_core::export::log_page::ReadingRange;
use cognito_auth_core::shard::Shard;
use cognito_auth_core::users::listing_pass::ListingPass;
use cognito_auth_core::users::names::NamingRules;
use cognito_auth_core::users::selection::Selection;

use super::names_by_hand::{self, ListedName};
use super::report::{CheckReport, Subject};
use super::round::Following;
use crate::config::{Audit, ExportConfig, PoolConfig};
use crate::lifecycle::Clock;
use crate::source::cognito::{Clients, Cognito, Connection};
use crate::source::log_events::LogEvents as _;
use crate::source::{Listing, Operation, PoolDescription, Refusal, RefusalCause, Source, SourceError};
use crate::targets::usernames_file;

/// Attributes that a filter may name and that users can write.
const WRITTEN_BY_USERS: [&str; 6] =
    ["email", "phone_number", "name", "given_name", "family_name", "preferred_username"];

/// A name that no user has. The error "user not found" shows that the call is allowed.
const NOBODY: &str = "cognito-auth-exporter-check";

/// How far back `check` looks for log events.
const LOG_EVENTS_SINCE: Duration = Duration::from_hours(24);

/// The users of a pool, as far as the first pages of its listings tell.
struct ListedUsers {
    /// One of the followed users.
    somebody: Option<String>,
    /// Names listed by hand that were not met.
    unmet: BTreeSet<String>,
    following: Following,
}

/// The steps of one pool.
pub(super) struct PoolCheck<'a> {
    pub(super) pool: &'a PoolConfig,
    pub(super) shard: Shard,
    /// The budget for AdminListUserAuthEvents.
    pub(super) requests_per_second: f64,
    /// Whether `privacy.username` hides names.
    pub(super) hides_names: bool,
    pub(super) source: Cognito,
    pub(super) report: &'a mut CheckReport,
}

impl PoolCheck<'_> {
    /// Runs the steps. Returns the account and region that the pool's calls count for, and the number of users.
    pub(super) async fn run(&mut self, timeout: Duration, clients: &Clients) -> (String, Following) {
        let by_hand = self.by_hand(timeout).await;
        self.contradictions();
        let unlisted = Following {
            users: by_hand.len() as u64,
            or_more: !Selection::of(&self.pool.selection).listings().is_empty(),
        };
        if !self.credentials().await {
            return (self.payer(None), unlisted); // the other steps would fail for the same reason
        }
        let description = self.describe().await;
        let following = if self.is_export_alone() {
            let what = self.what("ListUsers and AdminListUserAuthEvents");
            self.report.note(&what, "not called: export.audit is \"off\", so nobody is listed or polled");
            Following::default()
        } else {
            let listed = self.listings(&by_hand, &description).await;
            let is_allowed = self.events(listed.somebody.as_deref()).await;
            self.names_by_hand(&by_hand, &listed.unmet, is_allowed).await;
            listed.following
        };
        if let Some(export) = &self.pool.export {
            self.log_delivery(export).await;
            self.log_group(export, clients, timeout).await;
        }
        (self.payer(description.account_id), following)
    }

    /// Runs the steps that make no call.
    pub(super) async fn run_offline(&mut self, timeout: Duration) {
        self.by_hand(timeout).await;
        self.contradictions();
        let what = self.what("credentials, permissions, plan, users and export");
        self.report.skipped(what, super::OFFLINE);
    }

    fn is_export_alone(&self) -> bool {
        self.pool.export.as_ref().is_some_and(|export| export.audit == Audit::Off)
    }

    async fn by_hand(&mut self, timeout: Duration) -> Vec<String> {
        let mut names = self.pool.selection.usernames.clone();
        let Some(path) = &self.pool.selection.usernames_file else { return names };
        let what = self.what(format_args!("usernames_file {}", path.display()));
        let read = tokio::time::timeout(timeout, usernames_file::read(path)).await;
        match read.unwrap_or_else(|_| Err(format!("no answer within {timeout:?}"))) {
            Ok((read, _)) => {
                self.report.ok(&what, format_args!("{} names", read.len()));
                names.extend(read);
            }
            Err(error) => self.report.failed(
                &what,
                error,
                "the file must be there, be text, and be readable by the exporter's user",
            ),
        }
        names
    }

    async fn credentials(&mut self) -> bool {
        let what = match &self.pool.role_arn {
            Some(role) => self.what(format_args!("role_arn {role}")),
            None => self.what("credentials"),
        };
        match self.source.check_credentials().await {
            Ok(access_key) => self.report.ok(&what, format_args!("access key {access_key}")),
            Err(error) => {
                let remedy = error.remedy(Operation::DescribeUserPool, &self.pool.id);
                self.report.failed(&what, error, remedy);
                return false;
            }
        }
        true
    }

    async fn describe(&mut self) -> PoolDescription {
        let what = self.what(Operation::DescribeUserPool);
        match self.source.describe().await {
            Ok(description) => {
                let account = description.account_id.as_deref().unwrap_or("unknown");
                let users = description.estimated_users.unwrap_or_default();
                self.report.ok(&what, format_args!("account {account}, about {users} users"));
                self.plan(&description);
                self.names(NamingRules::new(description.sign_in_names));
                description
            }
            Err(error) => {
                self.fail(&what, Operation::DescribeUserPool, &error);
                self.names(NamingRules::default());
                PoolDescription::default()
            }
        }
    }

    /// Notes settings that are allowed, and most likely not meant.
    fn contradictions(&mut self) {
        let PoolConfig { id, region, selection, .. } = self.pool;
        let of_id = id.rsplit_once('_').map_or("", |(region, _)| region);
        let is_region = of_id.contains('-') && of_id.ends_with(|c: char| c.is_ascii_digit());
        if is_region && of_id != region {
            let found = format!("calls go to {region}, but the pool's id is of {of_id}, where the pool is");
            self.report.note(self.what("region"), found);
        }
        if selection.all_users && !selection.groups.is_empty() {
            let found = "they add no user, because all_users follows every user; remove one of the two keys";
            self.report.note(self.what("groups"), found);
        }
        self.filter();
    }

    /// Notes that users can leave a filter's selection, if they can.
    fn filter(&mut self) {
        let attribute = self.pool.selection.filter.as_deref().and_then(|filter| filter.split(['=', '^']).next());
        if let Some(attribute) = attribute.map(str::trim).filter(|attribute| WRITTEN_BY_USERS.contains(attribute)) {
            let what = self.what("filter");
            let found = format_args!(
                "users who change their {attribute} are no longer followed; filter by status, or use groups"
            );
            self.report.note(&what, found);
        }
    }

    /// Notes which names may stand for users in `usernames` and `exclude`.
    fn names(&mut self, rules: NamingRules) {
        let what = self.what("names of users");
        if rules.are_known() {
            return self.report.ok(&what, rules);
        }
        let remedy = format!(
            "allow {} so that the pool's sign-in names count, or list and exclude users by username or sub",
            Operation::DescribeUserPool.iam_action()
        );
        self.report.note(&what, format_args!("{rules}; {remedy}"));
    }

    fn plan(&mut self, description: &PoolDescription) {
        let what = self.what("plan");
        let (tier, mode) = (description.tier.as_deref(), description.threat_protection.as_deref());
        let found = format!("{}, threat protection {}", tier.unwrap_or("unknown"), mode.unwrap_or("unknown"));
        if tier.is_none_or(|tier| tier == "PLUS") && mode != Some("OFF") {
            return self.report.ok(&what, found);
        }
        let cause = RefusalCause::NoThreatProtection;
        let off = SourceError::Pool(Refusal { cause, text: format!("{found}: Cognito keeps no auth events") });
        self.fail(&what, Operation::AdminListUserAuthEvents, &off);
    }

    /// Reads each listing's first page.
    async fn listings(&mut self, by_hand: &[String], pool: &PoolDescription) -> ListedUsers {
        let estimated = pool.estimated_users;
        let selection = Selection::of(&self.pool.selection).in_shard(&self.pool.id, self.shard);
        let mut round = ListingPass::begin(&selection, NamingRules::new(pool.sign_in_names), by_hand.iter().cloned());
        let mut wanted = BTreeSet::new();
        let mut unseen = Following::default();
        for (index, listing) in selection.listings().iter().enumerate() {
            let what = self.what(listing);
            match self.source.users(listing, None).await {
                Ok(page) => {
                    let more = page.next.is_some();
                    let and_more = if more { " and more" } else { "" };
                    self.report.ok(&what, format_args!("{} users{and_more}", page.users.len()));
                    if more && *listing == (Listing::Users { filter: None }) && estimated.is_some() {
                        let unlisted = estimated.unwrap_or_default().saturating_sub(page.users.len() as u64);
                        unseen.users = unlisted.div_ceil(self.shard.count().into());
                    } else {
                        unseen.or_more |= more;
                    }
                    wanted.extend(round.take(index, page).wanted.into_iter().map(|user| user.username));
                }
                Err(error) => {
                    unseen.or_more = true;
                    self.fail(&what, listing.operation(), &error);
                }
            }
        }
        let unmet: BTreeSet<String> = round.unmet().map(|user| user.username).collect();
        wanted.extend(unmet.iter().cloned());
        let following = Following { users: wanted.len() as u64 + unseen.users, ..unseen };
        ListedUsers { somebody: wanted.first().cloned(), unmet, following }
    }

    /// Reads an event. Returns whether that is allowed.
    async fn events(&mut self, somebody: Option<&str>) -> bool {
        let operation = Operation::AdminListUserAuthEvents;
        let what = self.what(operation);
        match self.source.page(somebody.unwrap_or(NOBODY), None, 1).await {
            Ok(page) if page.events.is_empty() => {
                self.report.ok(&what, "allowed; the user who was asked for has no events");
            }
            Ok(_) => self.report.ok(&what, "allowed, and there are events"),
            Err(SourceError::UserNotFound) => {
                self.report.ok(&what, "allowed; the user who was asked for does not exist");
            }
            Err(error) => {
                self.fail(&what, operation, &error);
                return false;
            }
        }
        true
    }

    /// Reports the names listed by hand that are not in the pool. Those that a listing met are; the others are tried.
    async fn names_by_hand(&mut self, by_hand: &[String], unmet: &BTreeSet<String>, is_allowed: bool) {
        if by_hand.is_empty() {
            return;
        }
        let what = self.what("names listed by hand");
        if !is_allowed {
            return self.report.skipped(what, "not tried, because AdminListUserAuthEvents failed");
        }
        // In the order of the configuration, each once.
        let mut left = unmet.clone();
        let listed = by_hand.iter().zip(1..).filter(|(name, _)| left.remove(*name));
        let to_try: Vec<_> = listed.map(|(name, place)| ListedName { place, name: name.clone() }).collect();
        let tried = names_by_hand::try_names(&self.source, &to_try, self.requests_per_second).await;
        match tried.finding(by_hand.len(), self.hides_names) {
            Ok(found) => self.report.ok(&what, found),
            Err(cause) => self.report.failed(&what, cause, names_by_hand::REMEDY),
        }
        if let Some(error) = &tried.stopped_by {
            let found = format_args!("{error}; the other names were not tried");
            self.report.note(&what, found);
        }
    }

    /// Compares where the pool exports its users' activity with the configuration. The permission is optional, so a
    /// refusal of the caller is a note.
    async fn log_delivery(&mut self, export: &ExportConfig) {
        let operation = Operation::GetLogDeliveryConfiguration;
        let what = self.what(operation);
        let found = match self.source.log_delivery().await {
            Ok(found) => found,
            Err(error @ SourceError::Caller(_)) => {
                let remedy = error.remedy(operation, &self.pool.id);
                let unknown = "whether the pool exports to the configured place is unknown";
                return self.report.note(&what, format_args!("{error}; {unknown}; {remedy}"));
            }
            Err(error) => return self.fail(&what, operation, &error),
        };
        let log_group = export.log_group.as_deref().map(LogGroup::new);
        let verdict = DeliveryVerdict::of(found.as_ref(), log_group.as_ref(), export.firehose);
        let target = found.as_ref().and_then(|found| found.destination.as_ref());
        let target = target.map_or_else(|| "nowhere".to_owned(), ToString::to_string);
        let destination = match &log_group {
            Some(group) => format!("log group {}", group.identifier()),
            None => "a Firehose stream with the exporter's endpoint as its destination".to_owned(),
        };
        let set_up = format!(
            "set the pool's log delivery (SetLogDeliveryConfiguration) for userAuthEvents to level INFO and {destination}"
        );
        match verdict {
            DeliveryVerdict::Matches => {
                self.report.ok(&what, format_args!("userAuthEvents go to {target}, as configured"));
            }
            DeliveryVerdict::BySubscription => self.report.note(
                &what,
                format_args!(
                    "userAuthEvents go to {target}; they get to the Firehose endpoint only if a subscription of the \
                     log group sends them to a Firehose stream"
                ),
            ),
            DeliveryVerdict::Absent => self.report.failed(&what, "the pool exports no userAuthEvents", set_up),
            DeliveryVerdict::Unusable => {
                let level = found.map(|LogDelivery { level, .. }| level).unwrap_or_default();
                self.report.failed(&what, format_args!("userAuthEvents of level {level} go to {target}"), set_up);
            }
            DeliveryVerdict::Elsewhere => {
                let cause = format_args!("userAuthEvents go to {target}, which the configuration does not read");
                let remedy = format!("{set_up}, or correct pools[].export.log_group or pools[].export.firehose");
                self.report.failed(&what, cause, remedy);
            }
        }
    }

    /// Reads a log event, if a log group is to be read.
    async fn log_group(&mut self, export: &ExportConfig, clients: &Clients, timeout: Duration) {
        let Some(log_group) = export.log_group.as_deref().map(LogGroup::new) else { return };
        let (operation, clock) = (Operation::FilterLogEvents, Clock::system());
        let what = self.what(format_args!("{operation} {}", log_group.identifier()));
        let now = clock.now();
        let range = ReadingRange { start: now.minus(LOG_EVENTS_SINCE), end: now };
        let source = clients.log_group(log_group.clone(), Connection::from(self.pool), timeout, clock);
        match source.log_events(range, 1, None).await {
            Ok(page) if !page.events.is_empty() => self.report.ok(&what, "allowed, and there are log events"),
            // An empty page may have a token, and a page behind it may hold some.
            Ok(_) => self.report.ok(&what, "allowed; no log event of the last 24 hours is on the first page"),
            Err(error) => {
                let remedy = error.remedy_for_logs(&log_group, &self.pool.id);
                self.report.failed(&what, error, remedy);
            }
        }
    }

    /// Reads the account's limit. The limit is optional, so an error is a note.
    pub(super) async fn limit(&mut self) -> Option<f64> {
        let operation = Operation::GetProvisionedLimit;
        let what = self.what(operation);
        match self.source.read_limit().await {
            Ok(limit) => {
                self.report.ok(&what, format_args!("the account's limit is {limit} requests/s"));
                Some(limit)
            }
            Err(error) => {
                let remedy = match &error {
                    SourceError::Caller(_) => error.remedy(operation, &self.pool.id),
                    _ => "write poll.requests_per_second as a number if it stays so".into(),
                };
                let default =
                    format_args!("{error}; the default of {DEFAULT_READ_LIMIT} requests/s is taken; {remedy}");
                self.report.note(&what, default);
                None
            }
        }
    }

    fn what(&self, step: impl Display) -> Subject {
        Subject::of_pool(&self.pool.id, step)
    }

    fn fail(&mut self, what: &Subject, operation: Operation, error: &SourceError) {
        self.report.failed(what, error, error.remedy(operation, &self.pool.id));
    }

    /// Returns the account and region. If the account is unknown, pools with the same credentials share a budget.
    fn payer(&self, account_id: Option<String>) -> String {
        let PoolConfig { region, profile, role_arn, .. } = self.pool;
        let of_role = || role_arn.as_ref().and_then(|arn| arn.split(':').nth(4)).map(str::to_owned);
        match (account_id.or_else(of_role), profile) {
            (Some(account), _) => format!("account {account} in {region}"),
            (None, Some(profile)) => format!("unknown account of profile {profile} in {region}"),
            (None, None) => format!("unknown account in {region}"),
        }
    }
}
