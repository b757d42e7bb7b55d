//! Tests that take a minute or more. They run in CI (CI=true), or with LONG_TESTS=1 or KILLS.

use crate::skips;

/// Whether to run long tests. If not, records the skip.
pub(crate) fn are_wanted() -> bool {
    if !is_thorough() {
        skips::record("a minute or more", "LONG_TESTS=1 cargo test");
    }
    is_thorough()
}

/// Whether tests of variable length are to run longer.
pub(crate) fn is_thorough() -> bool {
    let is_set = |name, value| std::env::var_os(name).is_some_and(|set| set == value);
    is_set("LONG_TESTS", "1") || is_set("CI", "true") || std::env::var_os("KILLS").is_some()
}
