//! When the service answered, by its own clock: the Date header, which the SDK does not hand on.
//!
//! The header has whole seconds, so the answer was written before the end of the second it names: that end is what counts.
//! An event of the same second is then never taken for one dated ahead. A header that is missing or cannot be read is none.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_sdk_cognitoidentityprovider::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_cognitoidentityprovider::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_cognitoidentityprovider::primitives::{DateTime, DateTimeFormat};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;

use super::wire::millis;
use crate::event::UnixMillis;

/// What is left of the second that a Date header names.
const REST_OF_THE_SECOND: Duration = Duration::from_millis(999);

/// Reads the Date header of one call's answer. Clones share what was read.
#[derive(Clone, Debug, Default)]
pub(super) struct DateOfAnswer(Arc<OnceLock<UnixMillis>>);

impl DateOfAnswer {
    /// The end of the second in which the service answered, if the answer says so.
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
            // Of several attempts the first that has a date counts: they are seconds apart.
            let _ = self.0.set(served);
        }
        Ok(())
    }
}

fn end_of_second(header: &str) -> Option<UnixMillis> {
    let date = DateTime::from_str(header, DateTimeFormat::HttpDate).ok()?;
    Some(millis(date).plus(REST_OF_THE_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_header_is_the_end_of_its_second_and_any_other_text_is_none() {
        assert_eq!(end_of_second("Sun, 06 Nov 1994 08:49:37 GMT"), Some(UnixMillis(784_111_777_999)));
        for text in ["", "yesterday", "1994-11-06T08:49:37Z", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(end_of_second(text), None, "{text}");
        }
    }
}
