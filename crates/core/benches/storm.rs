//! Storms in virtual time: `cargo bench -p cognito-auth-core --bench storm` prints the table of docs/scheduling.md.

#![expect(clippy::print_stdout, reason = "the benchmark prints a table")]

#[path = "../tests/support/storm_sim.rs"]
mod storm_sim;

use std::time::Duration;

use storm_sim::{HOUR, StormFigures, StormTerms, run};

fn main() {
    // Cargo's test runner also builds and runs benchmarks, without this argument.
    if !std::env::args().any(|argument| argument == "--bench") {
        return println!("run it with: cargo bench -p cognito-auth-core --bench storm");
    }
    println!(
        "| storm | calls of allowed | new | known | of them new | unseen, most and last | open walks | seconds | remembered a page, most | polls, backlog |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let trial = StormTerms::trial;
    let calm = |terms: StormTerms| StormTerms { min_interval: Duration::from_secs(15), ..terms };
    let outcomes = |terms: StormTerms| StormTerms { ending: 50, late: 1, ends: 5 * HOUR, to_the_end: true, ..terms };
    show("60 users, no restart", &trial());
    show("60 users, after restarts", &trial().after_restarts());
    show("the same, polls every 15 s", &calm(trial()));
    show("the same, after restarts", &calm(trial()).after_restarts());
    show("the same, polls every 15 s, five hours", &outcomes(calm(trial())));
    show("one user, the hour", &StormTerms::one_user());
    show("one user, five hours", &outcomes(StormTerms::one_user()));
}

fn show(name: &str, terms: &StormTerms) {
    let figures = run(terms);
    let &StormFigures { calls, new, known, unseen, unseen_most, open_walks, remembered_most, by_kind, .. } = &figures;
    println!(
        "| {name} | {calls} = {:.0} % | {new} | {known} | {:.0} % | {unseen_most}, {unseen} | {} to {open_walks} | {} | {:.0}, {remembered_most} | {}, {} |",
        100.0 * figures.used(),
        100.0 * figures.share_new(),
        figures.open_walks_at_first,
        figures.seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.0}")),
        figures.written_per_page(),
        by_kind[0],
        by_kind[1],
    );
    println!(
        "  unseen first {} revisions {} unfinished {} delay most {} s outcome delay most {} s missing {} commits {}",
        figures.unseen_at_first,
        figures.revisions,
        figures.unfinished,
        figures.delay_most / 1000,
        figures.outcome_delay_most / 1000,
        figures.outcomes_missing,
        figures.commits,
    );
}
