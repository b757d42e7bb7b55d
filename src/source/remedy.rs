//! What a person can do about an error: the second half of a line of `check`.

use super::{Operation, Refusal, RefusalCause, SourceError};

impl SourceError {
    /// What to do when `operation` failed so for the pool, in the imperative.
    pub fn remedy(&self, operation: Operation, pool_id: &str) -> String {
        match self {
            Self::Throttled(_) => {
                "wait, lower poll.requests_per_second, or ask AWS for a higher quota: the pool's applications share it"
                    .into()
            }
            Self::UserNotFound => "check the username and its case; of one who was deleted nothing is kept".into(),
            Self::InvalidParameter(_) => match operation {
                Operation::ListUsers => "check the pool's filter".into(),
                Operation::ListUsersInGroup => "check the pool's groups".into(),
                _ => "check the pool's id and its usernames".into(),
            },
            Self::Pool(refusal) | Self::Caller(refusal) => refusal.remedy(operation, pool_id),
            Self::Timeout(_) => "check the network path to the region, and poll.timeout".into(),
            Self::Passing(_) => "try again; if it stays so, check region, proxy and endpoint variables".into(),
        }
    }
}

impl Refusal {
    fn remedy(&self, operation: Operation, pool_id: &str) -> String {
        match self.cause {
            RefusalCause::NoSuchPool => "check the pool's id, its region and the account of the credentials".into(),
            RefusalCause::NoThreatProtection => {
                "set the pool's feature plan to Plus and threat protection to audit-only or full-function".into()
            }
            RefusalCause::NotEnabled => "enable in the pool what the message names".into(),
            RefusalCause::NoCredentials => {
                "give the exporter credentials: an instance, task or pod role, AWS_ACCESS_KEY_ID, or the pool's profile"
                    .into()
            }
            RefusalCause::BadCredentials => "renew the credentials, and check that this host's clock is right".into(),
            RefusalCause::RoleNotAssumable => {
                "allow sts:AssumeRole on the pool's role_arn, in the caller's policy and in the role's trust policy, \
                 and check external_id"
                    .into()
            }
            RefusalCause::NotAllowed => {
                format!("allow {} on {}", operation.iam_action(), resource(operation, pool_id))
            }
            RefusalCause::Other => {
                let (action, resource) = (operation.iam_action(), resource(operation, pool_id));
                format!("read the message; the exporter needs {action} on {resource}")
            }
        }
    }
}

/// What an IAM policy allows an operation on. A limit is the account's, not a pool's.
fn resource(operation: Operation, pool_id: &str) -> String {
    if operation == Operation::GetProvisionedLimit { "*".to_owned() } else { pool_arn(pool_id) }
}

/// The pool's ARN, with a wildcard for the account that an IAM policy accepts in its place.
fn pool_arn(pool_id: &str) -> String {
    let region = pool_id.split_once('_').map_or("*", |(region, _)| region);
    let partition = match region {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    format!("arn:{partition}:cognito-idp:{region}:*:userpool/{pool_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_call_names_the_action_and_the_pool() {
        let cause = RefusalCause::NotAllowed;
        let denied = SourceError::Caller(Refusal { cause, text: "denied".into() });
        assert_eq!(
            denied.remedy(Operation::ListUsers, "eu-west-1_Example"),
            "allow cognito-idp:ListUsers on arn:aws:cognito-idp:eu-west-1:*:userpool/eu-west-1_Example"
        );
        assert_eq!(denied.remedy(Operation::GetProvisionedLimit, "x_Y"), "allow cognito-idp:GetProvisionedLimit on *");
        assert!(denied.remedy(Operation::DescribeUserPool, "cn-north-1_X").contains("arn:aws-cn:"));
        assert!(denied.remedy(Operation::DescribeUserPool, "us-gov-west-1_X").contains("arn:aws-us-gov:"));
    }

    #[test]
    fn a_pool_without_threat_protection_is_told_the_plan() {
        let cause = RefusalCause::NoThreatProtection;
        let plan = SourceError::Pool(Refusal { cause, text: "off".into() });
        assert!(plan.remedy(Operation::AdminListUserAuthEvents, "eu-west-1_Example").contains("Plus"));
    }
}
