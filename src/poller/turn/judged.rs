//! The pages of a turn that are judged and wait for their commit.

use std::collections::BTreeMap;

use cognito_auth_core::cursor::Cursor;
use cognito_auth_core::event::EventKey;
use cognito_auth_core::told::{ToldEvent, ToldEvents};
use cognito_auth_core::walk::{Rules, Taken, Walk};

use crate::ledger::ToldChange;
use crate::source::Page;

/// A page, and what the walk says of it.
#[derive(Clone)]
pub(super) struct JudgedPage {
    pub(super) page: Page,
    pub(super) taken: Taken,
    /// What the pool's export had told of the page's events. None in a pool without one.
    told: Option<ToldEvents>,
}

impl JudgedPage {
    /// Has the walk judge a page.
    pub(super) fn judge(
        walk: &mut Walk,
        cursor: &mut Cursor,
        page: Page,
        rules: &Rules,
        told: Option<ToldEvents>,
    ) -> Self {
        let taken = match &told {
            Some(told) => walk.take_beside(cursor, &page, rules, told),
            None => walk.take(cursor, &page, rules),
        };
        Self { page, taken, told }
    }
}

/// What pages tell of events that the export may tell, too: one change for each event, from before the first page to
/// after the last.
pub(super) fn told_changes(pages: &[JudgedPage]) -> Vec<(EventKey, ToldChange)> {
    let mut changes: BTreeMap<EventKey, ToldChange> = BTreeMap::new();
    for JudgedPage { page, taken, told } in pages {
        for (key, after) in &taken.told {
            let before = || told.as_ref().and_then(|told| told.get(key)).cloned();
            let date = || page.events.iter().find(|event| event.key() == *key).and_then(|event| event.creation_date);
            let change = changes.entry(*key).or_insert_with(|| {
                let before = before();
                // A page may show one event with two dates, and the table has it at one of them.
                let date = before.as_ref().map_or_else(date, ToldEvent::date_of_place);
                ToldChange { date, before, after: after.clone() }
            });
            change.after = after.clone();
        }
    }
    changes.into_iter().collect()
}
