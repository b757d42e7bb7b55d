//! The log lines, metrics and status of discovery. A lasting fault is logged when it begins, changes and ends.

use cognito_auth_core::lasting_fault::LastingFault;
use tracing::{debug, info, warn};

use super::enrolment::UserChangeCounts;
use crate::lifecycle::Clock;
use crate::metrics::Metrics;
use crate::source::{Listing, SourceError};
use crate::status::StatusBoard;
use crate::trouble::Trouble;
use cognito_auth_core::users::listing_pass::{Complete, Contested};

/// Places of contested names that one log line holds.
const PLACES_LOGGED: usize = 10;

/// Reports the discovery of one pool.
pub(super) struct DiscoveryReport {
    pool_id: String,
    metrics: Metrics,
    status: StatusBoard,
    clock: Clock,
    listing_trouble: LastingFault<Trouble>,
    /// The contested names that are in the log.
    contested: Contested,
}

impl DiscoveryReport {
    pub(super) fn new(pool_id: String, metrics: Metrics, status: StatusBoard, clock: Clock) -> Self {
        Self {
            pool_id,
            metrics,
            status,
            clock,
            listing_trouble: LastingFault::default(),
            contested: Contested::default(),
        }
    }

    /// Reports how many users a pass has met so far.
    pub(super) fn progress(&self, met: usize) {
        self.metrics.discovery_progress(&self.pool_id, met as u64);
    }

    /// Reports that users joined or left. `met` is how many the pass has met so far.
    pub(super) fn users_changed(&self, changes: UserChangeCounts, met: usize) {
        let UserChangeCounts { joined, left } = changes;
        if joined + left > 0 {
            info!(pool = self.pool_id, joined, left, met, "followed users changed");
        }
    }

    /// Reports a complete pass.
    pub(super) fn pass_completed(&mut self, complete: &Complete) {
        debug!(pool = self.pool_id, "the users were listed to the end");
        self.metrics.discovery_succeeded(&self.pool_id, self.clock.now());
        self.status.left_out(&self.pool_id, complete.left_out());
        self.contested(complete.contested());
    }

    /// Logs when names begin and cease to be claimed by several users. It gives their places, because the log holds no
    /// names.
    fn contested(&mut self, contested: &Contested) {
        let pool = &self.pool_id;
        for (key, before, now) in [
            ("usernames", &self.contested.by_hand, &contested.by_hand),
            ("exclude", &self.contested.exclude, &contested.exclude),
        ] {
            if now.iter().any(|place| !before.contains(place)) {
                let places: Vec<_> = now.iter().take(PLACES_LOGGED).map(usize::to_string).collect();
                warn!(
                    pool,
                    key,
                    names = now.len(),
                    places = places.join(" "),
                    remedy = "write the user's sub in place of the name",
                    "several users claim a configured name; all of them are followed"
                );
            } else if now.is_empty() && !before.is_empty() {
                info!(pool, key, "no configured name is claimed by several users any more");
            }
        }
        self.contested.clone_from(contested);
    }

    /// Reports how reading the listings went. Where the pool `has_users`, their polls report a fault that meets every
    /// call: one line for one cause.
    pub(super) fn listings_read(&mut self, result: &Result<(), (Listing, SourceError)>, has_users: bool) {
        let pool = &self.pool_id;
        let trouble = result.as_ref().err().map(|(_, error)| Trouble::of(error).unwrap_or(Trouble::Unanswered));
        let trouble = trouble.filter(|trouble| !(has_users && trouble.meets_every_call()));
        let is_news = match trouble {
            Some(trouble) => self.listing_trouble.failed(trouble),
            None => self.listing_trouble.succeeded(),
        };
        match result {
            Err((listing, error)) if is_news && trouble.is_some() => {
                let remedy = error.remedy(listing.operation(), pool);
                warn!(pool, %listing, cause = %error, remedy, "users cannot be listed; those known stay followed");
            }
            Ok(()) if is_news => info!(pool, "users can be listed again"),
            _ => {}
        }
        if let Err((_, error)) = result {
            self.status.pool_error(pool, &error.to_string(), self.clock.now());
        }
    }
}
