//! How many events to ask for at the top of a user's history.
//!
//! Pure. A poll reads through what it knows: it ends at the first event below its horizon ([`cursor`](crate::cursor)). So its
//! page has to hold what is new, what is remembered, and one event more; a full page shows what lies below as well, which is
//! known without looking.
//!
//! ```text
//!   newest               horizon                                oldest
//!   |--- new ---|--- known ---|-1-|- - - not asked for - - - - - ->
//!     estimated    counted
//! ```
//!
//! An estimate can be wrong. A short page that does not reach below the horizon costs a call and nothing else: it is dropped
//! as if it had never been asked for, and the walk begins with a full one. Nor is its token used: whether a token may be
//! presented with another MaxResults is documented nowhere.

/// How probable it may be that a short page does not reach. A call is worth a hundred events at least: its signature, its
/// headers, its place in the budget.
const MISSED: f64 = 0.01;

/// The shortest page.
const LEAST: u8 = 8;

/// What to ask for, 1 to `full`: a page that shows `known` events, and as many new ones as are likely where `expected` are
/// expected.
pub fn page_size(known: usize, expected: f64, full: u8) -> u8 {
    let new = likely(expected);
    let size = known.saturating_add(new).saturating_add(1);
    u8::try_from(size).unwrap_or(u8::MAX).clamp(LEAST.min(full), full)
}

/// The number that is surpassed with a probability of [`MISSED`] at most, where so many are expected on average.
///
/// Sign-ins come in clusters, and the average is an estimate: the geometric distribution, Poisson's with a rate of which only
/// the average is known, allows for both.
fn likely(expected: f64) -> usize {
    let more = (-MISSED.ln() / (1.0 / expected).ln_1p()).ceil() - 1.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and knows no NaN")]
    let more = more as usize;
    more
}
