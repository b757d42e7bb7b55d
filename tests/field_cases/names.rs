//! Whom a pool's configuration selects, when users choose their own attributes.
