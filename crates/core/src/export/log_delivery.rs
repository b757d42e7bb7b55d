//! Where a user pool exports its users' activity, and whether the configuration reads it there.
//!
//! Pure. Cognito's GetLogDeliveryConfiguration tells the former
//! (<https://docs.aws.amazon.com/cognito/latest/developerguide/exporting-quotas-and-usage.html>).

use super::log_group::LogGroup;

/// The level at which Cognito exports `userAuthEvents`. It exports nothing at another one.
const LEVEL: &str = "INFO";

/// The export of a pool's `userAuthEvents`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogDelivery {
    /// `LogLevel`.
    pub level: String,
    /// The destination; None if the answer names none that is known.
    pub destination: Option<DeliveryTarget>,
}

/// Where Cognito exports to. Each has its ARN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DeliveryTarget {
    /// A log group of CloudWatch Logs.
    LogGroup(String),
    /// A stream of Data Firehose.
    Firehose(String),
    /// A bucket of S3.
    Bucket(String),
}

impl std::fmt::Display for DeliveryTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LogGroup(arn) => write!(f, "log group {}", LogGroup::new(arn).identifier()),
            Self::Firehose(arn) => write!(f, "Firehose stream {arn}"),
            Self::Bucket(arn) => write!(f, "S3 bucket {arn}"),
        }
    }
}

/// Whether the configured sources get what the pool exports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliveryVerdict {
    /// They do.
    Matches,
    /// The records get to the Firehose endpoint only if a subscription of the log group sends them there.
    BySubscription,
    /// The pool does not export `userAuthEvents`.
    Absent,
    /// The pool exports at another level than INFO, or to nowhere that is known.
    Unusable,
    /// The pool exports to somewhere else.
    Elsewhere,
}

impl DeliveryVerdict {
    /// Compares the pool's export with the configuration: the log group that is read, and whether the Firehose endpoint
    /// takes the pool's records.
    pub fn of(found: Option<&LogDelivery>, log_group: Option<&LogGroup>, firehose: bool) -> Self {
        let Some(LogDelivery { level, destination }) = found else { return Self::Absent };
        match destination {
            _ if level != LEVEL => Self::Unusable,
            None => Self::Unusable,
            Some(DeliveryTarget::LogGroup(arn)) => match log_group {
                Some(group) if group.may_be(&LogGroup::new(arn)) => Self::Matches,
                _ if firehose => Self::BySubscription,
                _ => Self::Elsewhere,
            },
            Some(DeliveryTarget::Firehose(_)) if firehose => Self::Matches,
            Some(DeliveryTarget::Firehose(_) | DeliveryTarget::Bucket(_)) => Self::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_pool_exports_is_compared_with_what_is_read() {
        use DeliveryVerdict::{Absent, BySubscription, Elsewhere, Matches, Unusable};
        let group = LogGroup::new("/aws/vendedlogs/cognito");
        let arn = |name: &str| format!("arn:aws:logs:eu-west-1:111122223333:log-group:{name}:*");
        let to = |destination| Some(LogDelivery { level: "INFO".into(), destination: Some(destination) });
        let here = to(DeliveryTarget::LogGroup(arn("/aws/vendedlogs/cognito")));
        let there = to(DeliveryTarget::LogGroup(arn("/aws/vendedlogs/other")));
        let stream = to(DeliveryTarget::Firehose("arn:aws:firehose:eu-west-1:111122223333:deliverystream/s".into()));
        let bucket = to(DeliveryTarget::Bucket("arn:aws:s3:::bucket".into()));
        let quiet = here.clone().map(|delivery| LogDelivery { level: "ERROR".into(), ..delivery });
        let nowhere = here.clone().map(|delivery| LogDelivery { destination: None, ..delivery });
        // What is configured: the log group, the endpoint, both.
        for (found, verdicts) in [
            (None, [Absent; 3]),
            (here, [Matches, BySubscription, Matches]),
            (there, [Elsewhere, BySubscription, BySubscription]),
            (stream, [Elsewhere, Matches, Matches]),
            (bucket, [Elsewhere; 3]),
            (quiet, [Unusable; 3]),
            (nowhere, [Unusable; 3]),
        ] {
            let configured = [(Some(&group), false), (None, true), (Some(&group), true)];
            let judged = configured.map(|(group, firehose)| DeliveryVerdict::of(found.as_ref(), group, firehose));
            assert_eq!(judged, verdicts, "{found:?}");
        }
    }
}
