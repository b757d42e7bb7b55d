//! How many events to ask for at the top of a user's history.
//!
//! Pure. A poll reads again what it knows, and ends below its watermark ([`cursor`](crate::cursor)). So its page has to
//! hold the new events, the remembered events, and one event more. A full page shows only more of the events below,
//! which are all known:
//!
//! ```text
//!   newest                  watermark                            oldest
//!   |---- new ----|-- remembered --|-1-|- - not asked for - - - - ->
//!      estimated       counted
//! ```
//!
//! An estimate can be wrong. A short page that does not reach below the watermark is dropped, and the walk begins with
//! a full page. That costs a call and loses nothing. The short page's token is not used, because no documentation says
//! whether a token may be presented with another MaxResults. [`Credit`] bounds the number of such calls.

/// The probability that there are more new events than estimated. One more call (its signature, its round trip, its
/// part of the quota) costs as much as a hundred pages that are one event longer.
const SURPASSED: f64 = 0.01;

/// The shortest page, in events. No estimate foresees which user becomes active, and room for a few more events costs
/// less than the rest of a call. Of 1, 5 and 8, this is the smallest that adds clearly less than 2 % of calls in the
/// hardest measured case: every user's activity changes every eight hours, and a user is polled every two and a half
/// hours.
const LEAST: u8 = 8;

/// How many events to ask for: from 1 to `full`. `remembered` events are known already, and `expected` is the mean
/// number of new ones.
pub fn page_size(remembered: usize, expected: f64, full: u8) -> u8 {
    let size = likely(expected).saturating_add(remembered).saturating_add(1);
    u8::try_from(size).unwrap_or(u8::MAX).max(LEAST).min(full)
}

/// The number of events that is surpassed with the probability [`SURPASSED`], where `expected` is the mean.
///
/// Sign-ins come in clusters and a rate is an estimate, so the counts of a Poisson distribution are too small. The
/// geometric distribution allows for both: it is a Poisson distribution whose rate is known only on average.
fn likely(expected: f64) -> usize {
    let most = (-SURPASSED.ln() / (1.0 / expected).ln_1p()).ceil() - 1.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates, and NaN becomes 0")]
    let most = most as usize;
    most
}

/// The number of calls that a pool's short pages may still cost. Every turn earns a fiftieth of a call, and a page that
/// was too short spends one. So short pages add at most 2 % of calls, however wrong the estimates are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credit {
    hundredths: i32,
}

impl Credit {
    const EARNED: i32 = 2;
    const CALL: i32 = 100;

    /// The most that is saved, for a time when many users become active at once.
    const MOST: i32 = 10 * Self::CALL;

    /// The credit after a page that was not newest first. Full pages follow for 10,000 turns, because only they show
    /// whether the order is kept.
    const DOUBT: i32 = -10_000 * Self::EARNED;

    /// The credit of a pool whose pages were all long enough and in order.
    pub const FULL: Self = Self { hundredths: Self::MOST };

    /// Whether a short page may be asked for.
    pub fn suffices(self) -> bool {
        self.hundredths >= Self::CALL
    }

    /// Accounts for a turn.
    pub fn spend(&mut self, fit: Fit) {
        match fit {
            Fit::Enough => {}
            Fit::TooShort => self.hundredths -= Self::CALL,
            Fit::OutOfOrder => self.hundredths = self.hundredths.min(Self::DOUBT),
        }
        self.hundredths = (self.hundredths + Self::EARNED).min(Self::MOST);
    }
}

/// Whether the size of a turn's first page was right.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fit {
    /// It was full, or long enough.
    #[default]
    Enough,
    /// It was short and did not reach below what is known.
    TooShort,
    /// A page was not newest first.
    OutOfOrder,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_what_is_remembered_what_is_likely_and_one_more() {
        // (remembered, expected) -> of 60
        let table = [
            ((0, 0.0), 8), // the shortest
            ((1, 0.01), 8),
            ((7, 0.0), 8), // 7 remembered and one below
            ((8, 0.0), 9),
            ((8, 0.1), 10), // more than one: 1/121
            ((8, 1.0), 15), // more than six: 1/128
            ((8, 10.0), 57),
            ((8, 11.0), 60),
            ((58, 0.0), 59),
            ((59, 0.0), 60),
            ((60, 0.0), 60),
            ((usize::MAX, f64::INFINITY), 60),
            ((1, f64::NAN), 8),
            ((1, -1.0), 8),
        ];
        for ((remembered, expected), size) in table {
            assert_eq!(page_size(remembered, expected, 60), size, "{remembered} remembered, {expected} expected");
        }
    }

    #[test]
    fn no_page_is_larger_than_the_largest_nor_empty() {
        for full in 1..=60 {
            for remembered in 0..70 {
                for expected in [0.0, 1e-300, 0.5, 7.0, 1e300] {
                    assert!((1..=full).contains(&page_size(remembered, expected, full)));
                }
            }
        }
    }

    #[test]
    fn more_is_asked_for_where_more_is_remembered_or_expected() {
        let size = |remembered, expected: u32| page_size(remembered, f64::from(expected) / 8.0, 60);
        for remembered in 0..70 {
            for expected in 0..100 {
                assert!(size(remembered, expected) <= size(remembered + 1, expected));
                assert!(size(remembered, expected) <= size(remembered, expected + 1));
            }
        }
    }

    /// Extra calls of so many polls, all of whose pages are too short where they may be.
    fn extra_calls(credit: &mut Credit, polls: u32) -> u32 {
        let mut calls = 0;
        for _ in 0..polls {
            let fit = if credit.suffices() { Fit::TooShort } else { Fit::Enough };
            calls += u32::from(fit == Fit::TooShort);
            credit.spend(fit);
        }
        calls
    }

    #[test]
    fn pages_that_are_always_too_short_make_two_percent_more_calls_and_ten() {
        let mut credit = Credit::FULL;
        assert_eq!(extra_calls(&mut credit, 10_000), 209);
        assert_eq!(extra_calls(&mut credit, 10_000), 200);
    }

    #[test]
    fn after_a_page_out_of_order_full_ones_are_asked_for_until_trust_is_earned_again() {
        let mut credit = Credit::FULL;
        credit.spend(Fit::OutOfOrder);
        credit.spend(Fit::OutOfOrder);
        let mut polls = 0;
        while !credit.suffices() {
            credit.spend(Fit::Enough);
            polls += 1;
        }
        assert_eq!(polls, 10_049);
    }
}
