//! Who is followed: users listed by hand, and users listed by Cognito.
//!
//! One [`Discovery`](discovery::Discovery) a pool works out who is wanted ([`roster`], pure), writes newcomers into the
//! ledger, so that the time of their joining survives, and tells the poller who joined and who left.

pub mod discovery;
pub mod roster;
