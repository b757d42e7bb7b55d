//! Tests that take a minute or more. They run in CI (CI=true), or with LONG_TESTS=1 or KILLS.

/// Whether to run long tests. If not, prints a line that says how to run them.
#[expect(clippy::print_stdout, reason = "a skipped test prints the reason")]
pub(crate) fn are_wanted() -> bool {
    if !is_thorough() {
        println!("skipped: takes a minute or more; LONG_TESTS=1 runs it");
    }
    is_thorough()
}

/// Whether tests of variable length are to run longer.
pub(crate) fn is_thorough() -> bool {
    let is_set = |name, value| std::env::var_os(name).is_some_and(|set| set == value);
    is_set("LONG_TESTS", "1") || is_set("CI", "true") || std::env::var_os("KILLS").is_some()
}
