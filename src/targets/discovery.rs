//! The loop that keeps a pool's followed users up to date.
//!
//! It begins with the stored users. Then it reads the listings page by page through a [`ListingPass`], enrols the users
//! of each page, and retires the others at the end of a complete pass. `enrolment` and `retirement` write every step to
//! the ledger before the next one, and each step can be repeated. If the process dies, the next pass does the rest:
//!
//! | the process dies | then |
//! |---|---|
//! | between two pages | the enrolled users are polled from the next start on, the others when they are listed again |
//! | after some of the gone users were noted | the next complete pass notes the rest |
//! | under a changed selection, before its first pass is complete | after the start a user is polled only once it is listed again |

use std::sync::Arc;
use std::time::Duration;

use cognito_auth_core::backoff::Backoff;
use cognito_auth_core::shard::Shard;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::discovery_report::DiscoveryReport;
use super::enrolment::{Enrolment, NewcomerRules};
use super::pool_users::{LEDGER_RETRY_AFTER, PoolUsers};
use super::retirement::Retirement;
use super::user_change::{FollowedUsers, UserChange};
use super::usernames_file::UsernamesFile;
use crate::ledger::{Ledger, PoolRecord};
use crate::lifecycle::Clock;
use crate::metrics::Metrics;
use crate::pool::Pool;
use crate::source::{Listing, Source, SourceError};
use crate::status::StatusBoard;
use cognito_auth_core::users::listing_pass::{Complete, ListingPass};
use cognito_auth_core::users::names::NamingRules;
use cognito_auth_core::users::selection::{HistoryDepth, JoiningRules, Selection, SelectionRules};

/// How often the usernames file is checked for a change.
const FILE_LOOK_EVERY: Duration = Duration::from_secs(5);

/// Pause after a listing that broke off. It is doubled up to `discovery.interval` while nothing is read.
const LISTING_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Throttles of one page in a row after which the listing counts as broken off. Each of them slows the rate limiter
/// down.
const THROTTLES_MAX: u32 = 8;

/// How often a pool that refused to be described is asked for its sign-in names. Once known they are not asked for
/// again: a pool keeps them from its creation on.
const SIGN_IN_NAMES_EVERY: Duration = Duration::from_hours(1);

/// The pool whose users are discovered.
pub struct DiscoveredPool<S> {
    /// The pool as followed.
    pub pool: Arc<Pool<S>>,
    /// The pool as stored.
    pub record: PoolRecord,
    /// The names that its users have, as far as known.
    pub naming_rules: NamingRules,
}

/// The settings of discovery that may change while a pool is followed.
#[derive(Clone, PartialEq, Debug)]
pub struct DiscoverySettings {
    /// The users to follow.
    pub selection: SelectionRules,
    /// `shard`; it never changes.
    pub shard: Shard,
    /// `discovery.interval`.
    pub interval: Duration,
    /// `discovery.forget_after`.
    pub forget_after: Duration,
    /// `poll.first_run`, for users that join.
    pub history: HistoryDepth,
}

/// The parts of the program that discovery uses.
pub struct DiscoveryServices<F> {
    /// The store of the followed users.
    pub ledger: Ledger,
    /// Receives numbers.
    pub metrics: Metrics,
    /// Receives error texts.
    pub status: StatusBoard,
    /// The time of joining and leaving.
    pub clock: Clock,
    /// Receives the changes of the followed users.
    pub followed: F,
}

/// Discovers the users of one pool.
pub struct Discovery<S, F> {
    pool: Arc<Pool<S>>,
    record: PoolRecord,
    settings: DiscoverySettings,
    new_settings: watch::Receiver<DiscoverySettings>,
    naming: PoolNaming,
    usernames_file: UsernamesFile,
    users: Arc<PoolUsers<F>>,
    enrolment: Enrolment<F>,
    retirement: Retirement<F>,
    report: DiscoveryReport,
}

/// The naming rules of a pool, and when the pool was last asked for them.
struct PoolNaming {
    rules: NamingRules,
    asked_at: Option<Instant>,
}

impl PoolNaming {
    fn is_due(&self) -> bool {
        !self.rules.are_known() && self.asked_at.is_none_or(|asked| asked.elapsed() >= SIGN_IN_NAMES_EVERY)
    }
}

impl<S: Source, F: FollowedUsers> Discovery<S, F> {
    /// Prepares the discovery of a pool that was described just now. `new_settings` brings later settings.
    pub fn new(
        discovered: DiscoveredPool<S>,
        settings: DiscoverySettings,
        new_settings: watch::Receiver<DiscoverySettings>,
        services: DiscoveryServices<F>,
    ) -> Self {
        let DiscoveredPool { pool, record, naming_rules } = discovered;
        let DiscoveryServices { ledger, metrics, status, clock, followed } = services;
        let pool_id = pool.identity.id.clone();
        let newcomers = NewcomerRules {
            pool_id: pool_id.clone(),
            joining: JoiningRules {
                pool_followed_since: record.followed_since,
                lost_since: record.lost_since,
                configured_since: pool.rules.followed_since,
                history: settings.history,
            },
            shares: record.shares.clone(),
        };
        let users = Arc::new(PoolUsers { pool_id: pool_id.clone(), ledger, clock: clock.clone(), followed });
        Self {
            naming: PoolNaming { rules: naming_rules, asked_at: Some(Instant::now()) },
            usernames_file: UsernamesFile::new(settings.selection.usernames_file.clone()),
            enrolment: Enrolment::new(users.clone(), metrics.clone(), newcomers),
            retirement: Retirement::new(users.clone()),
            report: DiscoveryReport::new(pool_id, metrics, status, clock),
            pool,
            record,
            settings,
            new_settings,
            users,
        }
    }

    /// Keeps the followed users up to date until the soft stop.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(mut self) {
        let mut selection = self.selection();
        self.begin(&selection).await;
        loop {
            if self.new_settings.has_changed().unwrap_or(false) {
                selection = self.apply_new_settings(&selection).await;
            }
            self.usernames_file.refresh(&self.users.pool_id).await;
            self.learn_naming_rules().await;
            let by_hand = self.settings.selection.usernames.iter().chain(self.usernames_file.names()).cloned();
            let pass = ListingPass::begin(&selection, self.naming.rules, by_hand);
            // The names of a file that cannot be read are unknown: no user is retired for missing there.
            let may_retire = !self.usernames_file.is_unreadable();
            if let Some(complete) = self.read_to_its_end(&selection, pass).await {
                self.settle(complete, may_retire, &selection).await;
                self.retirement.forget(self.settings.forget_after).await;
                self.pause(self.settings.interval).await;
            }
        }
    }

    /// The present selection, among the users of this shard.
    fn selection(&self) -> Selection {
        let selection = Selection::of(&self.settings.selection);
        selection.named_by(self.users.ledger.privacy().clone()).in_shard(&self.users.pool_id, self.settings.shard)
    }

    /// Begins with the stored users if they were enrolled under this selection; otherwise notes that they cannot be
    /// trusted.
    async fn begin(&mut self, selection: &Selection) {
        if self.record.selection == Some(selection.digest()) {
            return self.enrolment.continue_with_stored(selection, &self.settings.selection.usernames).await;
        }
        // Stored users were enrolled under another selection. Without any, all that follow are of this one.
        let is_empty = self.users.ledger.followed(&self.users.pool_id).next().is_none();
        self.record.selection = is_empty.then(|| selection.digest());
        self.write_record().await;
    }

    /// Applies new settings between two passes. No user leaves by it: the next complete pass finds the users that are
    /// gone.
    async fn apply_new_settings(&mut self, before: &Selection) -> Selection {
        self.settings = self.new_settings.borrow_and_update().clone();
        self.enrolment.set_history(self.settings.history);
        self.usernames_file.set_path(self.settings.selection.usernames_file.as_deref());
        // The role may have changed together with the settings.
        self.naming.asked_at = None;
        let selection = self.selection();
        if selection.digest() != before.digest() {
            // Until the next complete pass, a start does not trust the stored users.
            self.record.selection = None;
            self.write_record().await;
        }
        selection
    }

    /// Asks again for the pool's sign-in names while they are unknown: one call an hour, because other calls come
    /// first.
    async fn learn_naming_rules(&mut self) {
        if !self.naming.is_due() {
            return;
        }
        self.naming.asked_at = Some(Instant::now());
        let pool = &self.users.pool_id;
        match self.pool.source.describe().await {
            Ok(description) => {
                self.naming.rules = NamingRules::new(description.sign_in_names);
                if self.naming.rules.are_known() {
                    info!(pool, names = %self.naming.rules, "sign-in names of the pool known");
                }
            }
            // The pool task has logged this at the start; the polls log a fault that meets every call.
            Err(error) => debug!(pool, %error, "sign-in names of the pool still unknown"),
        }
    }

    /// Reads every listing to its end, however often one breaks off. Answers None if the usernames file or the settings
    /// changed meanwhile: then the pass begins again.
    async fn read_to_its_end(&mut self, selection: &Selection, mut pass: ListingPass<'_>) -> Option<Complete> {
        let mut backoff = Backoff::doubling(LISTING_RETRY_AFTER, self.settings.interval);
        loop {
            let met = pass.met();
            let result = self.read_on(&mut pass).await;
            self.report_listings(pass.listings() > 0, result).await;
            if pass.met() > met {
                backoff.succeeded();
            }
            pass = match pass.complete(|name| self.enrolment.was_listed(name)) {
                Ok(complete) => return Some(complete),
                Err(unfinished) => unfinished,
            };
            // With several shards a name may be an alias of another shard's user: then only a complete pass can tell.
            if !self.enrolment.any_listed() && selection.is_whole() {
                let as_given: Vec<_> = pass.unmet().collect();
                self.enrolment.join(&as_given).await;
            }
            self.report_changes(pass.met());
            self.retirement.forget(self.settings.forget_after).await;
            if self.pause(backoff.failed()).await {
                return None;
            }
        }
    }

    /// Reads on in every listing that has not come to its end. The other listings are read even if one breaks off.
    /// Answers the first error.
    async fn read_on(&mut self, pass: &mut ListingPass<'_>) -> Result<(), (Listing, SourceError)> {
        let mut result = Ok(());
        for listing in 0..pass.listings() {
            let read = self.read_listing(listing, pass).await;
            result = result.and(read);
        }
        result
    }

    async fn read_listing(&mut self, index: usize, pass: &mut ListingPass<'_>) -> Result<(), (Listing, SourceError)> {
        let (mut throttles, mut refusals) = (0, 0);
        while let Some((listing, token)) = pass.next(index) {
            self.pool.source.lists().acquire().await;
            match self.pool.source.users(listing, token).await {
                Ok(page) => {
                    throttles = 0;
                    let taken = pass.take(index, page);
                    self.enrolment.join_listed(&taken.wanted).await;
                    self.report.progress(pass.met());
                    if taken.token_repeated {
                        let error = SourceError::Passing("the service repeated its listing token".into());
                        return Err((listing.clone(), error));
                    }
                }
                // The rate limiter has slowed down; the same page is asked for again.
                Err(SourceError::Throttled(_)) if throttles < THROTTLES_MAX => throttles += 1,
                // The token was refused or has expired: the listing begins again, once before it counts as broken off.
                Err(SourceError::InvalidParameter(_)) if token.is_some() && refusals == 0 => {
                    refusals += 1;
                    pass.from_the_top(index);
                }
                Err(error) => {
                    if matches!(error, SourceError::InvalidParameter(_)) {
                        pass.from_the_top(index);
                    }
                    return Err((listing.clone(), error));
                }
            }
        }
        Ok(())
    }

    /// Applies a complete pass: follows names as given that are no alias of a listed user, and retires users that were
    /// not met.
    async fn settle(&mut self, complete: Complete, may_retire: bool, selection: &Selection) {
        self.enrolment.join_as_given(&complete, selection).await;
        self.users.followed.apply(UserChange::AsGiven(complete.as_given().len() as u64)).await;
        if may_retire {
            self.retirement.retire(&complete).await;
            self.enrolment.end_loss();
            let record = PoolRecord { lost_since: None, selection: Some(selection.digest()), ..self.record.clone() };
            if record != self.record {
                self.record = record;
                self.write_record().await;
            }
        }
        self.enrolment.pass_completed(&complete);
        self.report_changes(complete.len());
        self.report.pass_completed(&complete);
        self.enrolment.keep_owners(complete.into_owners());
    }

    async fn write_record(&self) {
        let (ledger, pool_id) = (&self.users.ledger, &self.users.pool_id);
        while let Err(error) = ledger.follow_pool(pool_id, self.record.clone()).await {
            debug!(pool = pool_id, %error, "pool record not stored; retrying");
            tokio::time::sleep(LEDGER_RETRY_AFTER).await;
        }
    }

    /// Waits; answers at once, with true, when the usernames file or the settings have changed.
    async fn pause(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            tokio::time::sleep_until(until.min(Instant::now() + FILE_LOOK_EVERY)).await;
            if self.new_settings.has_changed().unwrap_or(false)
                || self.usernames_file.refresh(&self.users.pool_id).await
            {
                return true;
            }
        }
        false
    }

    fn report_changes(&mut self, met: usize) {
        let mut changes = self.enrolment.take_changes();
        changes.left += self.retirement.take_left();
        self.report.users_changed(changes, met);
        self.enrolment.log_unreadable();
    }

    /// Reports how the listings went. Where no user is known, only the listings show whether the pool answers.
    async fn report_listings(&mut self, any_listing: bool, result: Result<(), (Listing, SourceError)>) {
        let by_hand = &self.settings.selection.usernames;
        let has_users = self.enrolment.any_followed() || !by_hand.is_empty() || !self.usernames_file.names().is_empty();
        self.report.listings_read(&result, has_users);
        if !has_users && any_listing {
            self.users.followed.apply(UserChange::Listed(result.map_err(|(_, error)| error))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use cognito_auth_core::entry::PoolIdentity;
    use cognito_auth_core::event::UnixMillis;
    use cognito_auth_core::schedule::PoolSlot;
    use cognito_auth_core::shard::Shares;
    use cognito_auth_core::walk::Rules;
    use parking_lot::Mutex;
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::StateConfig;
    use crate::rate_limiter::RateLimiter;
    use crate::source::metered::Metered;
    use crate::source::{ListedUser, Page, PageToken, PoolDescription, UserPage};

    const POOL: &str = "eu-west-1_Discovery";
    const NOW: UnixMillis = UnixMillis(1_795_523_756_000);

    /// A pool of which only the listing is read. It reports each call.
    #[derive(Clone)]
    struct ListingSource {
        listed: Arc<Mutex<Result<Vec<&'static str>, SourceError>>>,
        calls: mpsc::Sender<Instant>,
    }

    impl ListingSource {
        fn of(listed: Result<Vec<&'static str>, SourceError>) -> (Self, mpsc::Receiver<Instant>) {
            let (calls, called) = mpsc::channel(8);
            (Self { listed: Arc::new(Mutex::new(listed)), calls }, called)
        }
    }

    impl Source for ListingSource {
        async fn page(&self, _: &str, _: Option<&PageToken>, _: u8) -> Result<Page, SourceError> {
            unreachable!("discovery polls no user")
        }

        async fn users(&self, _: &Listing, _: Option<&PageToken>) -> Result<UserPage, SourceError> {
            // Not every test takes the calls.
            let _full = self.calls.try_send(Instant::now());
            let listed = |name: &&str| ListedUser {
                username: (*name).to_owned(),
                sub: Some(format!("sub-of-{name}")),
                email: None,
                phone_number: None,
                preferred_username: None,
                created: None,
                enabled: true,
                federated: false,
            };
            let names = self.listed.lock().clone()?;
            Ok(UserPage { users: names.iter().map(listed).collect(), next: None })
        }

        async fn describe(&self) -> Result<PoolDescription, SourceError> {
            Err(SourceError::Caller("denied".into()))
        }

        fn events_cut(&self) -> u64 {
            0
        }

        async fn read_limit(&self) -> Result<f64, SourceError> {
            unreachable!("discovery asks for no limit")
        }
    }

    /// Records each change once, after comparing it with the ledger.
    struct Recorder {
        ledger: Ledger,
        changes: watch::Sender<Vec<String>>,
    }

    impl Recorder {
        fn record(&self, change: &str, username: &str, is_followed: bool) {
            let standing = self.ledger.standing(POOL, username).unwrap().expect("a reported user is stored");
            assert_eq!(standing.gone_since.is_none(), is_followed, "{username} {change}");
            let change = format!("{username} {change}");
            self.changes.send_if_modified(|changes| {
                let is_new = !changes.contains(&change);
                changes.extend(is_new.then_some(change));
                is_new
            });
        }
    }

    impl FollowedUsers for Recorder {
        async fn apply(&self, change: UserChange) {
            match change {
                UserChange::Joined(users) => users.iter().for_each(|(name, _)| self.record("joined", name, true)),
                UserChange::Left(names) => names.iter().for_each(|name| self.record("left", name, false)),
                UserChange::Heard(_) | UserChange::Waiting(_) | UserChange::AsGiven(_) | UserChange::Listed(_) => {}
            }
        }
    }

    /// The discovery of every user of a pool, and the sender of later settings, which has to live as long.
    fn discovery<F: FollowedUsers>(
        source: ListingSource,
        ledger: &Ledger,
        interval: Duration,
        followed: F,
    ) -> (Discovery<ListingSource, F>, watch::Sender<DiscoverySettings>) {
        let identity =
            Arc::new(PoolIdentity { id: POOL.into(), name: POOL.into(), region: "eu-west-1".into(), account_id: None });
        let metrics = Metrics::new(NOW);
        metrics.add_pool(&identity);
        let (reads, lists) = (RateLimiter::new(1000.0), RateLimiter::new(1000.0));
        let source = Metered::new(source, identity.clone(), metrics.clone(), reads, lists);
        let rules = Rules { overlap: Duration::ZERO, settle: Duration::ZERO, followed_since: None };
        let pool = Arc::new(Pool { slot: PoolSlot(0), source, identity, rules, has_told: false });
        let shares = Shares::begun(Shard::WHOLE, NOW);
        let record = PoolRecord { followed_since: NOW, lost_since: None, selection: None, shares };
        let settings = DiscoverySettings {
            selection: SelectionRules { all_users: true, ..SelectionRules::default() },
            shard: Shard::WHOLE,
            interval,
            forget_after: Duration::from_hours(24),
            history: HistoryDepth::None,
        };
        let services = DiscoveryServices {
            ledger: ledger.clone(),
            metrics,
            status: StatusBoard::new(NOW),
            clock: Clock::manual(NOW),
            followed,
        };
        let discovered = DiscoveredPool { pool, record, naming_rules: NamingRules::default() };
        let (sender, new_settings) = watch::channel(settings.clone());
        (Discovery::new(discovered, settings, new_settings, services), sender)
    }

    fn ledger(directory: &tempfile::TempDir) -> Ledger {
        let state = StateConfig { path: directory.path().to_owned(), ..StateConfig::default() };
        Ledger::open(&state, NOW).unwrap().ledger
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_in_the_ledger_before_it_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = ledger(&directory);
        let (source, _calls) = ListingSource::of(Ok(vec!["ann", "ben"]));
        let listed = source.listed.clone();
        let (changes, mut recorded) = watch::channel(vec![]);
        let recorder = Recorder { ledger: ledger.clone(), changes };
        let (discovery, _settings) = discovery(source, &ledger, Duration::from_mins(10), recorder);
        let stop = CancellationToken::new();
        let steps = async {
            recorded.wait_for(|changes| changes.len() == 2).await.unwrap();
            *listed.lock() = Ok(vec!["ben"]);
            let changes = recorded.wait_for(|changes| changes.len() == 3).await.unwrap().clone();
            stop.cancel();
            changes
        };
        let ((), changes) = tokio::join!(discovery.run(stop.clone()), steps);
        assert_eq!(changes, ["ann joined", "ben joined", "ann left"]);
        ledger.close().await;
    }

    /// More failures in a row than a pause can double.
    #[tokio::test(start_paused = true)]
    async fn listings_that_are_always_refused_are_tried_again_after_each_interval() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = ledger(&directory);
        let (source, mut calls) = ListingSource::of(Err(SourceError::Caller("not authorized".into())));
        let recorder = Recorder { ledger: ledger.clone(), changes: watch::channel(vec![]).0 };
        let (discovery, _settings) = discovery(source, &ledger, Duration::from_secs(10), recorder);
        let stop = CancellationToken::new();
        let tries = async {
            let mut before = calls.recv().await.unwrap();
            for expected in std::iter::once(5).chain([10; 100]) {
                let now = calls.recv().await.unwrap();
                assert_eq!((now - before).as_secs(), expected);
                before = now;
            }
            stop.cancel();
        };
        tokio::join!(discovery.run(stop.clone()), tries);
        ledger.close().await;
    }
}
