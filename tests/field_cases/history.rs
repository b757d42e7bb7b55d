//! One event is one EventId, and no date is trusted.
