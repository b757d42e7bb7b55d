//! The words of the page and what they mean. A word has a tooltip where it is used. A list at the end of the page has
//! all of them, for telephones, keyboards and screen readers.

use maud::{Markup, html};

/// The words, in the order of the page. Docs: `docs/status.md`.
const TERMS: [(&str, &str); 19] = [
    ("Users followed", "Users whose sign-in events are read: those that the configuration selects, in this shard."),
    ("missing", "Users that the configuration names and Cognito does not know."),
    ("failing", "Users for whom Cognito answers calls with errors, three times in a row or more."),
    ("left out", "Listed users that are not followed: disabled or federated ones, and those that `exclude` names."),
    (
        "Oldest poll",
        "The staleness of the pool: the time since the least recently polled user was polled or was first followed.",
    ),
    ("objective", "The longest time that a user should go without a poll: poll.max_interval."),
    (
        "Budget",
        "Calls per second that the exporter makes at most in this account and region, for all its pools there. It \
         falls when Cognito throttles, and rises again.",
    ),
    ("round", "The time to poll every user once at the present budget. Active users are polled more often."),
    ("Delay", "The time from an event's creation to its first sight, of the live events of the last hour."),
    ("Live events", "Events since their user is followed. Each is counted once, by its present outcome."),
    ("threats", "Live events on which threat protection acted or whose risk it does not know."),
    ("history", "Events from before their user was followed. They are delivered, and not counted as live."),
    ("watch", "The time for which an event in progress is read again, to see its outcome: poll.settle."),
    ("Backlog", "Users with more events to read than one turn takes."),
    ("Export", "Cognito's own export of the events of this pool, and what polls find that it misses."),
    ("Outbox", "Records on the disk that wait until the receiver acknowledges them. Polling pauses when it is full."),
    ("Quarantine", "Records that the receiver refused as invalid. They are kept aside until you retry or drop them."),
    (
        "Last progress",
        "When each stage (poll, commit, deliver) last finished work, or found none to do. An old time means that the \
         stage is stuck.",
    ),
    ("Ledger", "The durable state: how far each user is read, totals, and the outbox."),
];

fn meaning(word: &str) -> Option<&'static str> {
    TERMS.iter().find(|(term, _)| *term == word).map(|(_, meaning)| *meaning)
}

/// Renders the name of a figure. A word before a comma has the tooltip.
pub(super) fn named(name: &str) -> Markup {
    let (word, rest) = name.split_once(',').unwrap_or((name, ""));
    html! { (term(word)) @if !rest.is_empty() { "," (rest) } }
}

/// Renders a word with its tooltip, if it has one.
pub(super) fn term(word: &str) -> Markup {
    html! {
        @match meaning(word) {
            Some(meaning) => abbr title=(meaning) { (word) },
            None => (word),
        }
    }
}

/// Renders all words, folded.
pub(super) fn glossary() -> Markup {
    html! {
        details class="card" {
            summary { "What the words mean" }
            // The target is inside, because browsers unfold what holds the target of a link.
            dl class="terms" id="terms" {
                @for (term, meaning) in TERMS { div { dt { (term) } dd { (meaning) } } }
            }
        }
    }
}
