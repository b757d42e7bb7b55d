//! Reads the time at which the service answered, by the service's clock. It is in the Date header, which the SDK hides.
//!
//! The header has whole seconds, so the answer was written before the end of that second. That end is the time used
//! here: an event of the same second is then never dated ahead of it. A header that is missing or unreadable gives no
//! time.
//!
//! A date that cannot be the service's gives no time either, and is removed before the SDK reads it. The SDK adds the
//! difference to its own clock, and panics if the sum is out of range.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_sdk_cognitoidentityprovider::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeDeserializationInterceptorContextRef,
};
use aws_sdk_cognitoidentityprovider::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_cognitoidentityprovider::primitives::{DateTime, DateTimeFormat};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use cognito_auth_core::event::UnixMillis;

use super::wire::millis;

/// The time from the beginning to the end of the second that a Date header names.
const REST_OF_THE_SECOND: Duration = Duration::from_millis(999);

/// The plausible times of an answer, in seconds since the epoch: from 2020, before this was written, to 2100.
const PLAUSIBLE_SECONDS: Range<i64> = 1_577_836_800..4_102_444_800;

/// Reads the Date header of one call's answer. Clones share what was read.
#[derive(Clone, Debug, Default)]
pub(super) struct DateOfAnswer(Arc<OnceLock<UnixMillis>>);

impl DateOfAnswer {
    /// Returns the end of the second in which the service answered, if the answer has a date.
    pub(super) fn get(&self) -> Option<UnixMillis> {
        self.0.get().copied()
    }
}

#[dyn_dispatch_hint]
impl Intercept for DateOfAnswer {
    fn name(&self) -> &'static str {
        "DateOfAnswer"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(served) = context.response().headers().get("date").and_then(end_of_second) {
            // The first attempt with a date counts: attempts are seconds apart.
            let _ = self.0.set(served);
        }
        Ok(())
    }
}

/// Removes a Date header that cannot be the service's from every answer.
#[derive(Debug)]
pub(super) struct PlausibleDate;

#[dyn_dispatch_hint]
impl Intercept for PlausibleDate {
    fn name(&self) -> &'static str {
        "PlausibleDate"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response_mut().headers_mut();
        if headers.get("date").is_some_and(|date| end_of_second(date).is_none()) {
            headers.remove("date");
        }
        Ok(())
    }
}

fn end_of_second(header: &str) -> Option<UnixMillis> {
    let date = DateTime::from_str(header, DateTimeFormat::HttpDate).ok()?;
    PLAUSIBLE_SECONDS.contains(&date.secs()).then(|| millis(date).plus(REST_OF_THE_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_header_is_the_end_of_its_second_and_any_other_text_is_none() {
        assert_eq!(end_of_second("Fri, 06 Nov 2026 08:49:37 GMT"), Some(UnixMillis(1_793_954_977_999)));
        for text in ["", "yesterday", "2026-11-06T08:49:37Z", "Sun, 99 Nov 2026 08:49:37 GMT"] {
            assert_eq!(end_of_second(text), None, "{text}");
        }
    }

    #[test]
    fn a_date_that_cannot_be_the_services_is_none() {
        for text in ["Thu, 01 Jan 1970 00:00:00 GMT", "Tue, 31 Dec 2019 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"]
        {
            assert_eq!(end_of_second(text), None, "{text}");
        }
    }
}
