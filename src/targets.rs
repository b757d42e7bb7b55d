//! Who is followed: users listed by hand, and users listed by Cognito.
//!
//! One [`Discovery`](discovery::Discovery) a pool reads the listings page by page ([`listing_pass`], pure), judges who is wanted
//! ([`selection`], pure), writes who joins and who leaves into the ledger, and tells the poller. What must hold:
//!
//! 1. The stored users is who is followed. A user is in the ledger before the poller hears of it, and at start the poller
//!    begins with the ledger, before any listing has answered.
//! 2. Only a [`Complete`](listing_pass::Complete) round says that somebody is gone, and only every listing's end makes one.
//! 3. Who is gone is noted as gone and keeps its cursor, until `discovery.forget_after`. Who comes back goes on with it; who
//!    comes back as another person (another `sub`) begins anew.
//! 4. One history is followed under one name. A name listed by hand may be another name of a listed user ([`names`], pure): it
//!    is followed as given only if a complete round did not meet it, or while nobody listed is followed whose name it could
//!    be. If it is met later, its cursor goes over to the user in one atomic write.
//! 5. Where there are several shards, each lists everybody and keeps its own. Who comes over from another shard is new here,
//!    whatever is stored of it from before that shard had it: its events are live from the start under the new share on.
//! 6. Nobody is followed less, or under another's cursor, for what a user writes into its own attributes. Only a name that AWS
//!    vouches for replaces a name followed as given, or leaves its user out (`exclusion`, pure). Two who claim one name are
//!    both followed.
//! 7. Memory is one page, and eight bytes for each user of the round.

pub mod discovery;
mod exclusion;
pub mod listing_pass;
pub mod names;
pub mod selection;
pub(crate) mod usernames_file;

#[cfg(test)]
mod tests;
