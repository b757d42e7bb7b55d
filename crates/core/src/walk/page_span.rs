//! The stretch of time that one page covers.

use crate::event::{AuthEvent, UnixMillis};
use crate::page::Page;

/// How far down a page reaches.
#[derive(Clone, Copy)]
pub(super) struct PageSpan {
    oldest: Option<UnixMillis>,
    /// The time above which nothing is left to read: the oldest time of a page in order, the newest time of any other.
    /// An event dated far behind says nothing about the events that follow it. A lower edge that is too high only makes
    /// the cursor remember more.
    pub(super) lower_edge: Option<UnixMillis>,
    /// Whether the page is not newest first, in itself or against the page before.
    pub(super) out_of_order: bool,
    end_of_history: bool,
}

impl PageSpan {
    /// The span of a page that follows one whose oldest event has the time `previous_oldest`.
    pub(super) fn of(page: &Page, previous_oldest: Option<UnixMillis>) -> Self {
        let times = || page.events.iter().filter_map(date_of);
        let in_order = previous_oldest.into_iter().chain(times()).is_sorted_by(|newer, older| newer >= older);
        let (oldest, newest) = (times().min(), times().max());
        let lower_edge = if in_order { oldest } else { newest };
        Self { oldest, lower_edge, out_of_order: !in_order, end_of_history: page.next.is_none() }
    }

    /// Whether nothing at or above `bound` is left to read.
    pub(super) fn reads_through(self, bound: UnixMillis) -> bool {
        self.end_of_history || (!self.out_of_order && self.oldest.is_some_and(|oldest| oldest < bound))
    }
}

/// An event's CreationDate, held one millisecond below [`UnixMillis::MAX`], which stands for "above every event".
pub(super) fn date_of(event: &AuthEvent) -> Option<UnixMillis> {
    event.creation_date.map(|date| date.min(UnixMillis(i64::MAX - 1)))
}
