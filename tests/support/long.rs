//! Tests that take a minute or more: they run in CI (CI=true) and where LONG_TESTS=1 or KILLS asks for them.

/// Whether long tests are to run. Where they are not, a line says so and how to run them.
#[expect(clippy::print_stdout, reason = "a skipped test says so where tests speak")]
pub(crate) fn are_wanted() -> bool {
    if !is_thorough() {
        println!("skipped: takes a minute or more; LONG_TESTS=1 runs it");
    }
    is_thorough()
}

/// Whether tests that can do more or less of the same are to do more.
pub(crate) fn is_thorough() -> bool {
    let is_set = |name, value| std::env::var_os(name).is_some_and(|set| set == value);
    is_set("LONG_TESTS", "1") || is_set("CI", "true") || std::env::var_os("KILLS").is_some()
}
