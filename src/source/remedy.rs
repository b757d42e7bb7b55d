//! The remedy of an error: the second half of a line of `check`.

use cognito_auth_core::export::log_group::LogGroup;

use super::{Operation, Refusal, RefusalCause, SourceError};

/// rustls's words for a server certificate that it does not trust.
const UNTRUSTED: &str = "invalid peer certificate";

/// The action that STS names where a session with transitive tags, such as that of EKS Pod Identity, assumes a role
/// that may be assumed without tags only
/// (<https://docs.aws.amazon.com/eks/latest/userguide/pod-id-abac.html>).
const TAG_SESSION: &str = "sts:TagSession";

impl SourceError {
    /// Returns what to do about this error of `operation`, in the imperative.
    pub fn remedy(&self, operation: Operation, pool_id: &str) -> String {
        match self {
            Self::Throttled(_) => {
                "wait, lower poll.requests_per_second, or ask AWS for a higher quota: the pool's applications share it"
                    .into()
            }
            Self::UserNotFound => "check the username and its case; Cognito keeps nothing of a deleted user".into(),
            Self::InvalidParameter(_) => match operation {
                Operation::ListUsers => "check the pool's filter".into(),
                Operation::ListUsersInGroup => "check the pool's groups".into(),
                _ => "check the pool's id and its usernames".into(),
            },
            Self::Pool(refusal) | Self::Caller(refusal) => refusal.remedy(operation, pool_id),
            Self::Timeout(_) => "check the network path to the region, and poll.timeout".into(),
            Self::Passing(text) if text.contains(UNTRUSTED) => {
                "name the certificates of the proxy or endpoint that answers in AWS_CA_BUNDLE, which then replaces the \
                 system's"
                    .into()
            }
            Self::Passing(_) => "try again; if the error persists, check region, proxy and endpoint variables".into(),
        }
    }

    /// Returns what to do about this error of FilterLogEvents on the log group of a pool, in the imperative.
    pub fn remedy_for_logs(&self, log_group: &LogGroup, pool_id: &str) -> String {
        let permission =
            || format!("{} on {}", Operation::FilterLogEvents.iam_action(), policy_arn(log_group, pool_id));
        match self {
            Self::Throttled(_) => {
                "search the account's logs less, or raise pools[].export.read_interval: an account allows 5 \
                 FilterLogEvents calls/s in a region"
                    .into()
            }
            Self::InvalidParameter(_) => {
                "check pools[].export.log_group: the group's name, or the ARN of a group that another account shares"
                    .into()
            }
            Self::Pool(Refusal { cause: RefusalCause::NoSuchLogGroup, .. }) => {
                "create the log group, or correct pools[].export.log_group; the group lies in the pool's region, and \
                 one of another account needs its ARN"
                    .into()
            }
            Self::Caller(Refusal { cause: RefusalCause::NotAllowed, .. }) => format!("allow {}", permission()),
            Self::Caller(Refusal { cause: RefusalCause::Other, .. }) => {
                format!("read the message; the exporter needs {}", permission())
            }
            other => other.remedy(Operation::FilterLogEvents, pool_id),
        }
    }
}

impl Refusal {
    fn remedy(&self, operation: Operation, pool_id: &str) -> String {
        match self.cause {
            RefusalCause::NoSuchPool => "check the pool's id, its region and the account of the credentials".into(),
            RefusalCause::NoSuchLogGroup => "check pools[].export.log_group".into(),
            RefusalCause::NoThreatProtection => {
                "set the pool's feature plan to Plus and threat protection to audit-only or full-function".into()
            }
            RefusalCause::NotEnabled => "enable in the pool what the message names".into(),
            RefusalCause::NoCredentials => {
                "give the exporter credentials: an instance, task or pod role, AWS_ACCESS_KEY_ID, or the pool's profile"
                    .into()
            }
            RefusalCause::CredentialsSource => {
                "correct the source of the credentials, as the message says: variables, profile, credential_process, or \
                 the endpoint of task, pod or instance"
                    .into()
            }
            RefusalCause::LoginOver => "sign in again: `aws sso login` with the pool's profile".into(),
            RefusalCause::BadCredentials => "renew the credentials, or give others".into(),
            RefusalCause::ClockSkew => "set this host's clock, and keep it right (NTP)".into(),
            RefusalCause::StsRedirected => {
                "set AWS_ENDPOINT_URL_COGNITO_IDENTITY_PROVIDER in place of AWS_ENDPOINT_URL (or of a profile's \
                 endpoint_url), which applies to STS, too; or AWS_ENDPOINT_URL_STS beside it"
                    .into()
            }
            RefusalCause::RoleNotAssumable if self.text.contains(TAG_SESSION) => {
                "allow sts:TagSession beside sts:AssumeRole on the pool's role_arn, in the caller's policy and in the \
                 role's trust policy: the session tags of EKS Pod Identity are transitive"
                    .into()
            }
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

/// Returns the resource of an IAM policy that allows `operation`. A limit belongs to the account, not to a pool.
fn resource(operation: Operation, pool_id: &str) -> String {
    if operation == Operation::GetProvisionedLimit { "*".to_owned() } else { pool_arn(pool_id) }
}

/// Returns the pool's ARN, with a wildcard for the account. IAM policies accept the wildcard.
fn pool_arn(pool_id: &str) -> String {
    let (partition, region) = place(pool_id);
    format!("arn:{partition}:cognito-idp:{region}:*:userpool/{pool_id}")
}

/// Returns the resource of an IAM policy that allows reading the log group of a pool.
fn policy_arn(log_group: &LogGroup, pool_id: &str) -> String {
    if log_group.is_arn() {
        return format!("{}:*", log_group.identifier());
    }
    let (partition, region) = place(pool_id);
    format!("arn:{partition}:logs:{region}:*:log-group:{}:*", log_group.name())
}

/// Returns the partition and the region of a pool.
fn place(pool_id: &str) -> (&'static str, &str) {
    let region = pool_id.split_once('_').map_or("*", |(region, _)| region);
    let partition = match region {
        region if region.starts_with("cn-") => "aws-cn",
        region if region.starts_with("us-gov-") => "aws-us-gov",
        _ => "aws",
    };
    (partition, region)
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
    fn each_error_of_the_logs_has_its_remedy() {
        let group = LogGroup::new("/aws/vendedlogs/cognito");
        let refusal = |cause| Refusal { cause, text: "no".into() };
        let told = |error: SourceError| error.remedy_for_logs(&group, "eu-west-1_Example");
        assert_eq!(
            told(SourceError::Caller(refusal(RefusalCause::NotAllowed))),
            "allow logs:FilterLogEvents on arn:aws:logs:eu-west-1:*:log-group:/aws/vendedlogs/cognito:*"
        );
        let shared = LogGroup::new("arn:aws:logs:eu-west-1:444455556666:log-group:shared:*");
        assert_eq!(
            SourceError::Caller(refusal(RefusalCause::NotAllowed)).remedy_for_logs(&shared, "eu-west-1_Example"),
            "allow logs:FilterLogEvents on arn:aws:logs:eu-west-1:444455556666:log-group:shared:*"
        );
        for (error, word) in [
            (SourceError::Pool(refusal(RefusalCause::NoSuchLogGroup)), "create the log group"),
            (SourceError::Throttled("no".into()), "read_interval"),
            (SourceError::InvalidParameter("no".into()), "pools[].export.log_group"),
            (SourceError::Caller(refusal(RefusalCause::Other)), "log-group:/aws/vendedlogs/cognito:*"),
            (SourceError::Caller(refusal(RefusalCause::NoCredentials)), "AWS_ACCESS_KEY_ID"),
            (SourceError::Timeout("no".into()), "poll.timeout"),
            (SourceError::Passing("no".into()), "try again"),
        ] {
            let told = told(error);
            assert!(told.contains(word), "{told}");
        }
    }

    #[test]
    fn a_remedy_speaks_of_its_cause_and_of_the_clock_only_where_it_is_wrong() {
        let remedy = |cause| {
            SourceError::Caller(Refusal { cause, text: "no".into() }).remedy(Operation::DescribeUserPool, "eu-west-1_X")
        };
        for (cause, word) in [
            (RefusalCause::NoCredentials, "AWS_ACCESS_KEY_ID"),
            (RefusalCause::CredentialsSource, "credential_process"),
            (RefusalCause::LoginOver, "aws sso login"),
            (RefusalCause::BadCredentials, "renew"),
            (RefusalCause::StsRedirected, "AWS_ENDPOINT_URL_COGNITO_IDENTITY_PROVIDER"),
            (RefusalCause::RoleNotAssumable, "sts:AssumeRole"),
        ] {
            let told = remedy(cause);
            assert!(told.contains(word) && !told.contains("clock"), "{told}");
        }
        assert!(remedy(RefusalCause::ClockSkew).contains("clock"));
    }

    #[test]
    fn a_role_that_is_refused_for_its_session_tags_needs_another_action_than_one_that_is_refused() {
        let remedy = |action: &str| {
            let text = format!("User: hub is not authorized to perform: {action} on resource: target");
            let refusal = Refusal { cause: RefusalCause::RoleNotAssumable, text };
            SourceError::Caller(refusal).remedy(Operation::DescribeUserPool, "eu-west-1_X")
        };
        assert_eq!(
            remedy("sts:TagSession"),
            "allow sts:TagSession beside sts:AssumeRole on the pool's role_arn, in the caller's policy and in the \
             role's trust policy: the session tags of EKS Pod Identity are transitive"
        );
        assert!(!remedy("sts:AssumeRole").contains("TagSession"));
    }

    #[test]
    fn a_certificate_that_is_not_trusted_leads_to_the_bundle() {
        let remedy = |text: &str| SourceError::Passing(text.into()).remedy(Operation::ListUsers, "eu-west-1_X");
        assert!(remedy("ListUsers: invalid peer certificate: UnknownIssuer").contains("AWS_CA_BUNDLE"));
        assert!(!remedy("ListUsers: connection refused").contains("AWS_CA_BUNDLE"));
    }

    #[test]
    fn a_pool_without_threat_protection_is_told_the_plan() {
        let cause = RefusalCause::NoThreatProtection;
        let plan = SourceError::Pool(Refusal { cause, text: "off".into() });
        assert!(plan.remedy(Operation::AdminListUserAuthEvents, "eu-west-1_Example").contains("Plus"));
    }
}
