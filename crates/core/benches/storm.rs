//! Storms in virtual time: `cargo bench -p cognito-auth-core --bench storm` prints the table of docs/scheduling.md.

#![expect(clippy::print_stdout, reason = "the benchmark prints a table")]

#[path = "../tests/support/storm_sim.rs"]
mod storm_sim;

use std::time::Duration;

use storm_sim::{HOUR, StormTerms, run};

/// The bytes of a remembered event in a stored cursor, as `src/ledger/stored_user.rs` writes it.
const REMEMBERED_BYTES: f64 = 46.0;

fn main() {
    // Cargo's test runner also builds and runs benchmarks, without this argument.
    if !std::env::args().any(|argument| argument == "--bench") {
        return println!("run it with: cargo bench -p cognito-auth-core --bench storm");
    }
    println!(
        "| storm | calls | of allowed | new | known | of them new | unseen in the end | open walks | seconds | kB written \
         a page | longest delay of an event, of an outcome |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let trial = StormTerms::trial;
    let calm = |terms: StormTerms| StormTerms { min_interval: Duration::from_secs(15), ..terms };
    let settled = |terms: StormTerms| StormTerms { ending: 50, late: 1, ends: 5 * HOUR, to_the_end: true, ..terms };
    show("storm, polls every second", &trial());
    show("storm, polls every 15 s", &calm(trial()));
    show("after restarts, polls every second", &trial().after_restarts());
    show("after restarts, polls every 15 s", &calm(trial()).after_restarts());
    show("storm, polls every 15 s, 5 h", &settled(calm(trial())));
    show("one user, 1 h", &StormTerms::one_user());
    show("one user, 5 h", &settled(StormTerms::one_user()));
}

fn show(name: &str, terms: &StormTerms) {
    let figures = run(terms);
    println!(
        "| {name} | {} | {:.0} % | {} | {} | {:.0} % | {} | {} | {} | {:.1} | {} s, {} s |",
        figures.calls,
        100.0 * figures.used(),
        figures.new,
        figures.known,
        100.0 * figures.share_new(),
        figures.unseen,
        figures.open_walks,
        figures.seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.0}")),
        figures.written_per_page() * REMEMBERED_BYTES / 1000.0,
        figures.delay_most / 1000,
        figures.outcome_delay_most / 1000,
    );
}
