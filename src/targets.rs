//! The users that are followed: users listed by hand, and users that Cognito lists.
//!
//! One [`Discovery`](discovery::Discovery) for each pool reads the listings page by page ([`listing_pass`]) and judges
//! which users are wanted ([`selection`]). The core decides both. `enrolment` and `retirement` write the users that
//! join and leave into the ledger, and report them through [`user_change`]. The rules:
//!
//! 1. The ledger says which users are followed. A user is in the ledger before its change is reported. At the start the
//!    stored users are reported before any listing has answered.
//! 2. Only a [`Complete`] pass says that a user is gone, and a pass is complete only at the end of every listing.
//! 3. A user that is gone is noted as gone and keeps its cursor until `discovery.forget_after`. A user that comes back
//!    goes on with its cursor. A name that comes back with another `sub` belongs to another person and begins anew.
//! 4. One history is followed under one name. A name listed by hand may be another name of a listed user ([`names`]).
//!    It is followed as given only if a complete pass did not meet it, or while no listed user is followed that could
//!    have it. If it is met later, its cursor goes over to the user in one atomic write.
//! 5. Where there are several shards, each lists all users and keeps its own. A user that comes from another shard is
//!    new here, even if an older record is stored. Its events are live from the start under the new share on.
//! 6. A user's own attributes never remove another user from the followed users or change its cursor. Only a name that
//!    AWS vouches for replaces a name followed as given, or excludes its user (the core's `users/exclusion`). Two users
//!    that claim one name are both followed.
//! 7. Memory is one page, and eight bytes for each user of the pass.
//!
//! [`listing_pass`]: cognito_auth_core::users::listing_pass
//! [`selection`]: cognito_auth_core::users::selection
//! [`names`]: cognito_auth_core::users::names
//! [`Complete`]: cognito_auth_core::users::listing_pass::Complete

pub mod discovery;
mod discovery_report;
mod enrolment;
mod pool_users;
mod retirement;
pub mod user_change;
pub(crate) mod usernames_file;
