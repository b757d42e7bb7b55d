//! The schedule, measured: the daemon's schedule against round-robin and against the square-root rule, which knows the
//! rates that the schedule has to learn. `cargo bench --bench schedule` prints the tables of docs/scheduling.md and
//! draws its plots; `-- policies`, `-- turns`, `-- max-interval` and `-- export` are its parts.
//!
//! Time is virtual and every trace is seeded, so the figures do not depend on the machine.

#![expect(clippy::print_stdout, reason = "the benchmark prints a table")]

#[path = "schedule/plot.rs"]
mod plot;

#[path = "../tests/support/export_sim.rs"]
mod export_sim;

#[path = "../tests/support/schedule_sim.rs"]
mod schedule_sim;

#[path = "../tests/support/turn_sim.rs"]
mod turn_sim;

use std::time::Instant;

use export_sim::{ExportTerms, Sources, run_export};
use plot::{Bars, Curve, Curves};
use schedule_sim::{Delays, HOUR, Learnt, SIEGE, SimTerms, TraceShape, contestants, mean, quantile, run, trace};
use turn_sim::{InProgress, TurnTerms, add_history, run_turns};

const USERS: u32 = 5000;
const SEEDS: u64 = 10;
const MAX_INTERVAL_SEEDS: u64 = 3;

/// The past events of each user in the trace with history.
const HISTORY: u32 = 300;

/// The time of one round through all users, in minutes: a third of `max_interval`, and two and a half times it. And the
/// hour from which events are measured: the start, when nothing is known yet, or after the first round.
const CASES: [(f64, f64); 3] = [(20.0, 0.0), (150.0, 0.0), (150.0, 6.0)];

const NAMES: [&str; 4] = ["round-robin", "known rates", "foreseen rates", "learnt"];

/// The figures of one run.
#[derive(Clone, Copy)]
struct Figures {
    mean: f64,
    late: f64,
    risk_mean: f64,
    risk_late: f64,
    oldest: f64,
}

impl Figures {
    fn of(mut delays: Delays) -> Self {
        Self {
            mean: mean(&delays.all),
            late: quantile(&mut delays.all, 0.95),
            risk_mean: mean(&delays.high_risk),
            risk_late: quantile(&mut delays.high_risk, 0.95),
            oldest: delays.oldest,
        }
    }
}

fn main() {
    // Cargo's test runner also builds and runs benchmarks, without this argument.
    if !std::env::args().any(|argument| argument == "--bench") {
        return println!("run it with: cargo bench --bench schedule");
    }
    let began = Instant::now();
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let is_asked = |part: &str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    if is_asked("policies") {
        policies();
    }
    if is_asked("turns") {
        turns();
    }
    if is_asked("max-interval") {
        max_interval();
    }
    if is_asked("export") {
        export();
    }
    println!("\n{:.0} s", began.elapsed().as_secs_f64());
}

/// The schedule against round-robin and the square-root rule.
fn policies() {
    for (round_minutes, from_hour) in CASES {
        let terms = terms(round_minutes);
        let kept = terms.kept_interval(USERS as usize) / 60.0;
        let after = if from_hour == 0.0 { "" } else { ", after the first round" };
        println!("\n### A round of {round_minutes} minutes{after}\n");
        println!("The kept interval is {kept:.0} minutes. The events are those of hours {from_hour} to 24.\n");
        let mut oldest: f64 = 0.0;
        println!(
            "| trace | events | round-robin | known rates | foreseen rates | learnt | of r.-r. | of known | \
             of foreseen |"
        );
        println!("|---|---|--:|--:|--:|--:|--:|--:|--:|");
        let mut bars = vec![];
        for shape in TraceShape::ALL {
            let runs: Vec<[Figures; 4]> = (0..SEEDS).map(|seed| duel(shape, &terms, from_hour, seed)).collect();
            let median = |who: usize, what: fn(&Figures) -> f64| median(runs.iter().map(|run| what(&run[who])));
            let row = |mean: fn(&Figures) -> f64, late: fn(&Figures) -> f64| {
                let minutes = |who| format!("{:.1} / {:.1}", median(who, mean) / 60.0, median(who, late) / 60.0);
                let ratio = |who: usize| {
                    format!("{:.2}", crate::median(runs.iter().map(|run| mean(&run[3]) / mean(&run[who]))))
                };
                [0, 1, 2, 3].map(minutes).into_iter().chain([0, 1, 2].map(ratio)).collect::<Vec<_>>().join(" | ")
            };
            println!("| {} | all | {} |", shape.name(), row(|figures| figures.mean, |figures| figures.late));
            println!("| | high risk | {} |", row(|figures| figures.risk_mean, |figures| figures.risk_late));
            oldest = oldest.max(median(3, |figures| figures.oldest));
            bars.push((shape.name(), [0, 1, 2, 3].map(|who| median(who, |figures| figures.mean) / 60.0)));
        }
        let minutes = oldest / 60.0;
        println!("\nWith the learnt schedule, the longest time between two polls of one user was {minutes:.1} min.");
        if from_hour == 0.0 {
            let title = format!("Mean delay of an event in minutes, a round takes {round_minutes} min");
            save(&format!("delay-{round_minutes}min.svg"), &Bars { title: &title, names: NAMES, groups: &bars }.draw());
        }
    }
    save("distribution.svg", &distribution());
    save("attack.svg", &attack());
}

/// Prints the purposes of the calls of whole turns, and the delay beside its forecast.
fn turns() {
    println!(
        "\n{USERS} users. The delay and its forecast are those of hours 8 to 20; of an attack at hours 12 to 16 also"
    );
    println!("those of hours 14 to 16, when it is known. Shares of all calls in percent.\n");
    println!(
        "| trace | a round takes | polls | looks | further pages | short pages dropped | backlog | delay, s | \
         forecast / delay |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|");
    let shapes = [
        (TraceShape::Uniform, 0),
        (TraceShape::Zipf, 0),
        (TraceShape::Dormant, 0),
        (TraceShape::Dormant, HISTORY),
        (TraceShape::Daily, 0),
        (TraceShape::Attacks, 0),
        (TraceShape::Shifting, 0),
        (TraceShape::Siege, 0),
        (TraceShape::Flood, 0),
    ];
    for round_minutes in [20.0, 50.0] {
        for (shape, history) in shapes {
            let terms = TurnTerms {
                terms: terms(round_minutes),
                in_progress: InProgress { answered: 0.2, abandoned: 0.03 },
                history: history > 0,
                forecast_every: 60.0,
            };
            let mut trace = trace(shape, USERS, 20.0 * HOUR, 4.0 * HOUR, 1);
            add_history(&mut trace, history);
            let figures = run_turns(&trace, &terms, 3.0 * HOUR);
            let calls = figures.calls;
            let all = (calls.polls + calls.looks + calls.further + calls.backlog) as f64 / 100.0;
            let further = calls.further - figures.dropped;
            let shares = [calls.polls, calls.looks, further, figures.dropped, calls.backlog];
            let shares = shares.map(|calls| format!("{:.1}", calls as f64 / all)).join(" | ");
            let row = |name: &str, time| {
                let (delay, forecast) = (figures.mean_delay(&time), figures.mean_forecast(&time));
                println!("| {name} | {round_minutes} min | {shares} | {delay:.0} | {:.2} |", forecast / delay);
            };
            let name = if history > 0 {
                format!("{}, {history} past events each", shape.name())
            } else {
                shape.name().to_owned()
            };
            row(&name, 8.0 * HOUR..20.0 * HOUR);
            if matches!(shape, TraceShape::Siege | TraceShape::Flood) {
                row("the same, while it lasts", SIEGE.start + 2.0 * HOUR..SIEGE.end);
            }
        }
    }
}

/// The mean delay where `max_interval` is longer.
fn max_interval() {
    println!("\n{USERS} users, mean delay in minutes: all events / high risk; median of {MAX_INTERVAL_SEEDS} seeds.\n");
    println!("| trace | a round takes | max_interval 1 h | 2 h | 4 h |");
    println!("|---|--:|--:|--:|--:|");
    for round_minutes in [20.0, 40.0, 55.0] {
        for shape in TraceShape::ALL {
            let delays = [1.0, 2.0, 4.0].map(|hours| {
                let terms = SimTerms { max_interval: hours * HOUR, ..terms(round_minutes) };
                let runs: Vec<(f64, f64)> = (0..MAX_INTERVAL_SEEDS)
                    .map(|seed| {
                        let trace = trace(shape, USERS, 24.0 * HOUR, 1.5 * terms.kept_interval(USERS as usize), seed);
                        let delays = run(&trace, &terms, &mut Learnt::new(&trace, &terms));
                        (mean(&delays.all), mean(&delays.high_risk))
                    })
                    .collect();
                let minutes = |what: fn(&(f64, f64)) -> f64| median(runs.iter().map(what)) / 60.0;
                format!("{:.1} / {:.1}", minutes(|run| run.0), minutes(|run| run.1))
            });
            println!("| {} | {round_minutes} min | {} |", shape.name(), delays.join(" | "));
        }
    }
}

/// The delays of a large pool with Cognito's own export, and without it.
fn export() {
    const EXPORT_USERS: u32 = 50_000;
    const PER_SECOND: f64 = 5.0;
    println!("\n{EXPORT_USERS} users at {PER_SECOND} calls per second. The events are those of hours 3 to 15.\n");
    println!(
        "| trace | sources | lost by the export | delay of told events | of all events | median | 95 % | lost events \
         found | calls/s |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|");
    let mut audits = vec![];
    let none = 0.0..0.0;
    let outage = 8.0 * HOUR..10.0 * HOUR;
    let cases = [
        ("polling", Sources::Polling, 1.0, "-", none.clone()),
        ("export, sample", Sources::Sample(0.2), 0.0, "0", none.clone()),
        ("export, sample", Sources::Sample(0.2), 0.005, "0.5 %", none.clone()),
        ("export, sample", Sources::Sample(0.2), 0.005, "0.5 %, and an outage", outage.clone()),
        ("export, sample of 1/s", Sources::Sample(1.0), 0.005, "0.5 %, and an outage", outage.clone()),
        ("export and polling in full", Sources::Full, 0.005, "0.5 %", none),
        ("export and polling in full", Sources::Full, 0.005, "0.5 %, and an outage", outage),
    ];
    for shape in [TraceShape::Uniform, TraceShape::Dormant] {
        for (name, sources, loss, lost, outage) in cases.clone() {
            let terms = SimTerms { calls_per_second: PER_SECOND, min_interval: 15.0, max_interval: HOUR };
            let mut trace = trace(shape, EXPORT_USERS, 15.0 * HOUR, 6.0 * HOUR, 1);
            trace.measured.start = 3.0 * HOUR;
            let mut figures = run_export(&trace, &ExportTerms { terms, sources, loss, outage }, 6.0 * HOUR);
            let told = if figures.told.is_empty() { "-".into() } else { format!("{:.0} s", mean(&figures.told)) };
            println!(
                "| {} | {name} | {lost} | {told} | {} | {} | {} | {:.0} % | {:.1} |",
                shape.name(),
                in_words(mean(&figures.all)),
                in_words(quantile(&mut figures.all, 0.5)),
                in_words(quantile(&mut figures.all, 0.95)),
                100.0 * figures.lost_found,
                figures.calls_per_second,
            );
            if let Some(share) = figures.loss.share() {
                let (low, high) = figures.loss.interval();
                let changes = figures
                    .changes
                    .iter()
                    .map(|(at, is_up)| format!("{} after {:.0} min", if *is_up { "up" } else { "down" }, at / 60.0));
                audits.push(format!(
                    "| {} | {name} | {lost} | {:.1} % ({:.1} to {:.1} %) | {} | {} |",
                    shape.name(),
                    100.0 * share,
                    100.0 * low,
                    100.0 * high,
                    changes.collect::<Vec<_>>().join(", "),
                    if figures.in_outage.is_empty() { "-".into() } else { in_words(mean(&figures.in_outage)) },
                ));
            }
        }
    }
    println!("\n| trace | sources | lost by the export | measured loss (95 %) | changes | delay of the outage |");
    println!("|---|---|--:|--:|---|--:|");
    audits.iter().for_each(|row| println!("{row}"));
}

/// A time in seconds, minutes or hours.
fn in_words(seconds: f64) -> String {
    match seconds {
        ..100.0 => format!("{seconds:.0} s"),
        100.0..6000.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / HOUR),
    }
}

fn terms(round_minutes: f64) -> SimTerms {
    SimTerms { calls_per_second: f64::from(USERS) / (round_minutes * 60.0), min_interval: 15.0, max_interval: HOUR }
}

/// All policies on one trace of a day.
fn duel(shape: TraceShape, terms: &SimTerms, from_hour: f64, seed: u64) -> [Figures; 4] {
    let mut trace = trace(shape, USERS, 24.0 * HOUR, terms.kept_interval(USERS as usize) * 1.5, seed);
    trace.measured.start = from_hour * HOUR;
    contestants(&trace, terms, seed).map(|mut policy| Figures::of(run(&trace, terms, policy.as_mut())))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    quantile(&mut values, 0.5)
}

/// The share of events that are found within a time.
fn distribution() -> String {
    let terms = terms(CASES[0].0);
    let trace = trace(TraceShape::Dormant, USERS, 24.0 * HOUR, HOUR * 1.5, 0);
    let curves = contestants(&trace, &terms, 0).into_iter().zip(NAMES).filter(|(_, name)| *name != "foreseen rates");
    let curves: Vec<Curve> = curves
        .map(|(mut policy, name)| {
            let mut delays = run(&trace, &terms, policy.as_mut()).all;
            let points =
                (0..=100).map(|percent| (quantile(&mut delays, f64::from(percent) / 100.0) / 60.0, f64::from(percent)));
            Curve { name, points: points.collect() }
        })
        .collect();
    Curves {
        title: "Log-normal, 60 % dormant: events found within so many minutes, in percent",
        width: 30.0,
        height: 100.0,
        step: (5.0, 20.0),
        shaded: None,
        curves: &curves,
    }
    .draw()
}

/// How often an attacked user is polled before, during and after the attack.
fn attack() -> String {
    let terms = terms(CASES[0].0);
    let trace = trace(TraceShape::Attacks, USERS, 24.0 * HOUR, HOUR * 1.5, 0);
    // The attacked user with the fewest other events, and with time before and after the attack.
    let attacks = trace.rates.iter().zip(&trace.users).enumerate().filter(|(_, (rate, _))| rate.foreseen > rate.known);
    let in_view = attacks.filter_map(|(user, (rate, events))| {
        let first = events.iter().find(|(_, high_risk)| *high_risk)?.0;
        (6.0 * HOUR..16.0 * HOUR).contains(&first).then_some((user, rate.known, first))
    });
    let (user, _, begins) = in_view.min_by(|one, other| one.1.total_cmp(&other.1)).expect("100 users are attacked");
    let from = begins - 3.0 * HOUR;
    let curves: Vec<Curve> = contestants(&trace, &terms, 0)
        .into_iter()
        .zip(NAMES)
        .filter(|(_, name)| *name != "foreseen rates")
        .map(|(mut policy, name)| {
            let polls = run(&trace, &terms, policy.as_mut()).polls;
            let times: Vec<f64> =
                polls.iter().filter(|(_, who)| *who as usize == user).map(|(time, _)| *time).collect();
            // The age of the known state of the user: a sawtooth.
            let teeth = times.windows(2).flat_map(|pair| [(pair[0], 0.0), (pair[1], (pair[1] - pair[0]) / 60.0)]);
            let points =
                teeth.map(|(time, age)| ((time - from) / HOUR, age)).filter(|(hour, _)| (0.0..=10.0).contains(hour));
            Curve { name, points: points.collect() }
        })
        .collect();
    Curves {
        title: "A quiet user is attacked (shaded): age of what is known of it, in minutes, over ten hours",
        width: 10.0,
        height: 65.0,
        step: (1.0, 10.0),
        shaded: Some((3.0, 7.0)),
        curves: &curves,
    }
    .draw()
}

fn save(name: &str, drawing: &str) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/scheduling");
    std::fs::create_dir_all(folder).expect("docs can be written");
    std::fs::write(format!("{folder}/{name}"), drawing).expect("docs can be written");
}
