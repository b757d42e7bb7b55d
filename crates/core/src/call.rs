//! A call to AWS: its operation and its outcome, as the metrics count it.

use std::fmt;

/// The `outcome` label of `cognito_exporter_api_requests_total`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CallOutcome {
    /// An answer.
    Ok,
    /// TooManyRequestsException or ThrottlingException.
    Throttled,
    /// The caller or the pool's plan was refused.
    Denied,
    /// UserNotFoundException or ResourceNotFoundException: no such user, pool or log group.
    NotFound,
    /// No answer in time.
    Timeout,
    /// Everything else.
    Error,
}

/// The operations that the exporter calls. None of them makes a user billable. AdminGetUser would, and is never called.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// One user's history. Quota category UserResourceRead.
    AdminListUserAuthEvents,
    /// Every user. Quota category UserList.
    ListUsers,
    /// A group's members. Quota category UserList.
    ListUsersInGroup,
    /// The pool's ARN, plan and sign-in names. Quota category UserPoolRead.
    DescribeUserPool,
    /// The account's request limit. Quota category LimitManagement.
    GetProvisionedLimit,
    /// Where the pool exports its users' activity. Only `check` calls it.
    GetLogDeliveryConfiguration,
    /// A page of the log group that receives the export. A call to CloudWatch Logs, with a quota of its own.
    FilterLogEvents,
}

impl Operation {
    /// Returns the operation's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AdminListUserAuthEvents => "AdminListUserAuthEvents",
            Self::ListUsers => "ListUsers",
            Self::ListUsersInGroup => "ListUsersInGroup",
            Self::DescribeUserPool => "DescribeUserPool",
            Self::GetProvisionedLimit => "GetProvisionedLimit",
            Self::GetLogDeliveryConfiguration => "GetLogDeliveryConfiguration",
            Self::FilterLogEvents => "FilterLogEvents",
        }
    }

    /// Returns the IAM action that allows it, such as `cognito-idp:ListUsers` or `logs:FilterLogEvents`.
    pub fn iam_action(self) -> String {
        let service = if self == Self::FilterLogEvents { "logs" } else { "cognito-idp" };
        format!("{service}:{}", self.as_str())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
