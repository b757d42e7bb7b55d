//! A call to Cognito: its operation and its outcome, as the metrics count it.

use std::fmt;

/// The `outcome` label of `cognito_exporter_api_requests_total`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CallOutcome {
    /// An answer.
    Ok,
    /// TooManyRequestsException.
    Throttled,
    /// The caller or the pool's plan was refused.
    Denied,
    /// UserNotFoundException or ResourceNotFoundException.
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
        }
    }

    /// Returns the IAM action that allows it, such as `cognito-idp:ListUsers`.
    pub fn iam_action(self) -> String {
        format!("cognito-idp:{}", self.as_str())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
