//! What went wrong with a call, cut by what the caller can do.
//!
//! The SDK's errors are first boiled down to a [`Failure`], which `classify`, a pure table, turns into a [`SourceError`].
//! The rules are those of the service's error tables
//! (<https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/CommonErrors.html>, and the operations'
//! own), read generously: any code that an AWS front end answers with can come, whatever the operation's model says.
//!
//! The texts go to the log. They never hold a raw answer, and nothing of a user: the service quotes parameters back, so
//! that a message which holds one is withheld.

use std::error::Error;
use std::time::Duration;

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_cognitoidentityprovider::config::ProvideCredentials as _;
use aws_sdk_cognitoidentityprovider::config::http::HttpResponse;
use aws_sdk_cognitoidentityprovider::error::{ErrorMetadata, ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::result::ConnectorError;

use crate::personal;
use crate::source::{Listing, Operation, Refusal, RefusalCause, SourceError};

/// Characters of a text at most; a line of a log should stay one.
const TEXT_CHARS_MAX: usize = 300;

/// What happened to a call, as far as it matters.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Failure {
    /// The service, or something before it, answered with an error.
    Refused { status: u16, code: Option<String>, message: Option<String> },
    /// Something answered that cannot be read.
    Unreadable { status: u16, content_type: Option<String>, bytes: Option<usize> },
    /// There was no answer in time.
    TimedOut(String),
    /// There were no credentials to call with, or they could not be got.
    NoCredentials(CredentialsFault, String),
    /// There was no answer.
    Unanswered(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CredentialsFault {
    /// Nothing is configured.
    Missing,
    /// What is configured is wrong.
    Bad,
    /// The role may not be assumed.
    RoleRefused,
    /// They did not come in time.
    TimedOut,
    /// Their source cannot be reached, or fails for now.
    Passing,
}

/// Says what an operation's error means. `personal` are the parameters that must not be shown.
pub(super) fn source_error<E>(operation: Operation, error: &SdkError<E, HttpResponse>, personal: &[&str]) -> SourceError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    classify(operation, &failure(error), personal)
}

/// The body of an answer that is a success by its status and that the SDK could not read.
pub(super) fn unreadable_answer<E>(error: &SdkError<E, HttpResponse>) -> Option<&[u8]> {
    match error {
        SdkError::ResponseError(unreadable) if unreadable.raw().status().is_success() => {
            unreadable.raw().body().bytes()
        }
        _ => None,
    }
}

/// Says what a listing's error means.
pub(super) fn listing_error<E>(listing: &Listing, error: &SdkError<E, HttpResponse>, token: Option<&str>) -> SourceError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let asked = match listing {
        Listing::Users { filter } => filter.as_deref().unwrap_or_default(),
        Listing::Group(_) => "",
    };
    source_error(listing.operation(), error, &[asked, token.unwrap_or_default()])
}

/// Gets credentials within `timeout` and gives their access key id.
pub(super) async fn credentials(
    timeout: Duration,
    provider: &Option<SharedCredentialsProvider>,
) -> Result<String, SourceError> {
    let failure = match provider {
        None => Failure::NoCredentials(CredentialsFault::Missing, "no source of credentials".to_owned()),
        Some(provider) => match tokio::time::timeout(timeout, provider.provide_credentials()).await {
            Ok(Ok(credentials)) => return Ok(credentials.access_key_id().to_owned()),
            Ok(Err(error)) => credentials_failure(&error),
            Err(_) => Failure::NoCredentials(CredentialsFault::TimedOut, format!("none after {timeout:?}")),
        },
    };
    Err(judge("credentials", None, &failure, &[]))
}

fn failure<E>(error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(refused) => Failure::Refused {
            status: refused.raw().status().as_u16(),
            code: refused.err().code().map(str::to_owned),
            message: refused.err().message().map(str::to_owned),
        },
        SdkError::ResponseError(unreadable) => Failure::Unreadable {
            status: unreadable.raw().status().as_u16(),
            content_type: unreadable.raw().headers().get("content-type").map(str::to_owned),
            bytes: unreadable.raw().body().bytes().map(<[u8]>::len),
        },
        SdkError::TimeoutError(_) => Failure::TimedOut(causes(error)),
        SdkError::DispatchFailure(unsent) => match find::<CredentialsError>(error) {
            Some(credentials) => credentials_failure(credentials),
            None if unsent.is_timeout() => Failure::TimedOut(causes(error)),
            None => Failure::Unanswered(causes(error)),
        },
        _ => Failure::Unanswered(causes(error)),
    }
}

fn credentials_failure(error: &CredentialsError) -> Failure {
    let refused = find::<ErrorMetadata>(error);
    let fault = match error {
        CredentialsError::CredentialsNotLoaded(_) => CredentialsFault::Missing,
        CredentialsError::ProviderTimedOut(_) => CredentialsFault::TimedOut,
        CredentialsError::InvalidConfiguration(_) => CredentialsFault::Bad,
        _ => match (refused, find::<ConnectorError>(error)) {
            (_, Some(connector)) if connector.is_timeout() => CredentialsFault::TimedOut,
            (_, Some(_)) => CredentialsFault::Passing,
            // STS (or its like) answered, in a way that says nothing of the caller.
            (Some(answer), None) => match answer.code() {
                Some("AccessDenied" | "AccessDeniedException") => CredentialsFault::RoleRefused,
                Some(code) if !is_throttle(code) && !code.starts_with("Internal") && !code.starts_with("ServiceUn") => {
                    CredentialsFault::Bad
                }
                _ => CredentialsFault::Passing,
            },
            (None, None) => CredentialsFault::Bad,
        },
    };
    let text = match refused {
        Some(answer) => coded(answer.code(), answer.message()),
        None if fault == CredentialsFault::Missing => error.source().map_or("nothing is configured".into(), chain),
        None => chain(error),
    };
    Failure::NoCredentials(fault, text)
}

fn classify(operation: Operation, failure: &Failure, personal: &[&str]) -> SourceError {
    judge(operation.as_str(), Some(operation), failure, personal)
}

fn judge(what: &str, operation: Option<Operation>, failure: &Failure, personal: &[&str]) -> SourceError {
    let text = |cause: &str| bounded(&format!("{what}: {cause}"));
    let caller = |cause, told: &str| SourceError::Caller(Refusal { cause, text: text(told) });
    match failure {
        Failure::Refused { status, code, message } => {
            let message = message.as_deref().map(|message| impersonal(message, personal));
            let said = match (code, &message) {
                (None, None) => format!("error without a code (status {status})"),
                _ => coded(code.as_deref(), message.as_deref()),
            };
            refused(operation, *status, code.as_deref().unwrap_or_default(), message.as_deref(), text(&said))
        }
        Failure::Unreadable { status, content_type, bytes } => {
            let kind = content_type.as_deref().unwrap_or("no content type");
            let size = bytes.map_or("cut off or too large".to_owned(), |bytes| format!("{bytes} bytes"));
            let text = text(&format!("answer cannot be read (status {status}, {kind}, {size})"));
            by_status(*status, text)
        }
        Failure::TimedOut(cause) => SourceError::Timeout(text(cause)),
        Failure::NoCredentials(fault, told) => {
            let told = format!("{}: {told}", fault.as_str());
            match fault {
                CredentialsFault::Missing => caller(RefusalCause::NoCredentials, &told),
                CredentialsFault::Bad => caller(RefusalCause::BadCredentials, &told),
                CredentialsFault::RoleRefused => caller(RefusalCause::RoleNotAssumable, &told),
                CredentialsFault::TimedOut => SourceError::Timeout(text(&told)),
                CredentialsFault::Passing => SourceError::Passing(text(&told)),
            }
        }
        Failure::Unanswered(cause) => SourceError::Passing(text(cause)),
    }
}

impl CredentialsFault {
    fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "no AWS credentials found",
            Self::Bad => "AWS credentials cannot be used",
            Self::RoleRefused => "the role cannot be assumed",
            Self::TimedOut => "AWS credentials did not come in time",
            Self::Passing => "AWS credentials cannot be got now",
        }
    }
}

fn refused(operation: Option<Operation>, status: u16, code: &str, message: Option<&str>, text: String) -> SourceError {
    let pool = |cause, text| SourceError::Pool(Refusal { cause, text });
    let caller = |cause, text| SourceError::Caller(Refusal { cause, text });
    match code {
        code if is_throttle(code) => SourceError::Throttled(text),
        "UserNotFoundException" => SourceError::UserNotFound,
        "InvalidParameterException"
        | "InvalidParameterValueException"
        | "ValidationException"
        | "SerializationException" => SourceError::InvalidParameter(text),
        "UserPoolAddOnNotEnabledException" | "FeatureUnavailableInTierException" => {
            pool(RefusalCause::NoThreatProtection, text)
        }
        "OperationNotEnabledException" | "InvalidUserPoolConfigurationException" => {
            pool(RefusalCause::NotEnabled, text)
        }
        // The same name for a pool and for a group; a missing group is a mistake in one listing.
        "ResourceNotFoundException"
            if operation == Some(Operation::ListUsersInGroup)
                && message.is_some_and(|message| message.starts_with("Group")) =>
        {
            SourceError::InvalidParameter(text)
        }
        "ResourceNotFoundException" => pool(RefusalCause::NoSuchPool, text),
        "NotAuthorizedException"
        | "AccessDeniedException"
        | "AccessDenied"
        | "ForbiddenException"
        | "UnauthorizedAccess" => caller(RefusalCause::NotAllowed, text),
        "ExpiredTokenException"
        | "ExpiredToken"
        | "RequestExpired"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "AuthFailure"
        | "OptInRequired"
        | "NotSignedException" => caller(RefusalCause::BadCredentials, text),
        _ => by_status(status, text),
    }
}

/// What a status says where no code does: a proxy or a firewall in front of the service has no other words.
fn by_status(status: u16, text: String) -> SourceError {
    match status {
        401 | 403 | 407 => SourceError::Caller(Refusal { cause: RefusalCause::Other, text }),
        429 => SourceError::Throttled(text),
        _ => SourceError::Passing(text),
    }
}

fn is_throttle(code: &str) -> bool {
    matches!(
        code,
        "TooManyRequestsException"
            | "ThrottlingException"
            | "Throttling"
            | "ThrottledException"
            | "RequestThrottled"
            | "RequestThrottledException"
            | "RequestLimitExceeded"
            | "SlowDown"
    )
}

fn coded(code: Option<&str>, message: Option<&str>) -> String {
    match (code, message) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(only), None) | (None, Some(only)) => only.to_owned(),
        (None, None) => "no reason given".to_owned(),
    }
}

/// A message of the service's without what it quotes of the request. What follows from the personal parameters alone is
/// looked for by whole words: a user called `user` costs the text, not the secret.
fn impersonal(message: &str, parameters: &[&str]) -> String {
    // "2 validation errors detected: Value 'x' at 'username' failed ...; Value 'y' at 'nextToken' failed ...": quotes
    // inside a value are not escaped, so everything between the first value and the last name goes.
    let quoted = message.find("Value '").zip(message.rfind("' at '")).filter(|(from, to)| from < to);
    let unquoted = match quoted {
        Some((from, to)) => format!("{}Value (withheld){}", &message[..from], &message[to + 1..]),
        None => message.to_owned(),
    };
    if parameters.iter().any(|parameter| personal::holds_word(&unquoted, parameter)) {
        return "(message withheld: it quotes the request)".to_owned();
    }
    unquoted
}

/// One line, not too long.
fn bounded(text: &str) -> String {
    let mut line = String::new();
    let mut chars = 0;
    for char in text.chars().map(|char| if char.is_control() { ' ' } else { char }) {
        if char == ' ' && line.ends_with(' ') {
            continue;
        }
        if chars == TEXT_CHARS_MAX {
            line.push_str("...");
            break;
        }
        line.push(char);
        chars += 1;
    }
    line
}

/// What the SDK's error stands for: its own words ("dispatch failure") say nothing.
fn causes(error: &(dyn Error + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), chain)
}

/// What an error and its sources say, each once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = vec![];
    for cause in std::iter::successors(Some(error), |&error| error.source()) {
        let text = cause.to_string();
        if !said.iter().any(|earlier| earlier.contains(&text)) {
            said.push(text);
        }
    }
    said.join(": ")
}

fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    std::iter::successors(Some(error), |&error| error.source()).find_map(|error| error.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, code: &str, message: &str) -> Failure {
        Failure::Refused { status, code: Some(code.into()), message: Some(message.into()) }
    }

    fn judged(failure: &Failure) -> SourceError {
        classify(Operation::AdminListUserAuthEvents, failure, &["ada", "token-7"])
    }

    /// The error without its text, as a word.
    fn kind(error: &SourceError) -> String {
        match error {
            SourceError::Throttled(_) => "throttled".into(),
            SourceError::UserNotFound => "user".into(),
            SourceError::InvalidParameter(_) => "parameter".into(),
            SourceError::Pool(refusal) => format!("pool {:?}", refusal.cause),
            SourceError::Caller(refusal) => format!("caller {:?}", refusal.cause),
            SourceError::Timeout(_) => "timeout".into(),
            SourceError::Passing(_) => "passing".into(),
        }
    }

    #[test]
    fn every_error_of_the_service_has_its_place() {
        for (status, code, expected) in [
            (400, "TooManyRequestsException", "throttled"),
            (400, "ThrottlingException", "throttled"),
            (429, "", "throttled"),
            (400, "UserNotFoundException", "user"),
            (400, "InvalidParameterException", "parameter"),
            (400, "ValidationException", "parameter"),
            (400, "UserPoolAddOnNotEnabledException", "pool NoThreatProtection"),
            (400, "ResourceNotFoundException", "pool NoSuchPool"),
            (400, "OperationNotEnabledException", "pool NotEnabled"),
            (400, "NotAuthorizedException", "caller NotAllowed"),
            (400, "AccessDeniedException", "caller NotAllowed"),
            (400, "ExpiredTokenException", "caller BadCredentials"),
            (400, "UnrecognizedClientException", "caller BadCredentials"),
            (400, "InvalidSignatureException", "caller BadCredentials"),
            (403, "MissingAuthenticationToken", "caller BadCredentials"),
            (403, "SomethingNew", "caller Other"),
            (401, "", "caller Other"),
            (500, "InternalErrorException", "passing"),
            (503, "ServiceUnavailable", "passing"),
            (502, "", "passing"),
            (400, "SomethingNew", "passing"),
        ] {
            assert_eq!(kind(&judged(&refusal(status, code, "why"))), expected, "{status} {code}");
        }
    }

    #[test]
    fn what_is_no_answer_passes_and_what_is_no_permission_does_not() {
        let credentials = |fault| Failure::NoCredentials(fault, "why".into());
        let unreadable = |status| Failure::Unreadable { status, content_type: None, bytes: Some(0) };
        for (failure, expected) in [
            (unreadable(200), "passing"),
            (unreadable(403), "caller Other"),
            (unreadable(502), "passing"),
            (unreadable(429), "throttled"),
            (Failure::TimedOut("why".into()), "timeout"),
            (Failure::Unanswered("why".into()), "passing"),
            (credentials(CredentialsFault::Missing), "caller NoCredentials"),
            (credentials(CredentialsFault::Bad), "caller BadCredentials"),
            (credentials(CredentialsFault::RoleRefused), "caller RoleNotAssumable"),
            (credentials(CredentialsFault::TimedOut), "timeout"),
            (credentials(CredentialsFault::Passing), "passing"),
        ] {
            assert_eq!(kind(&judged(&failure)), expected, "{failure:?}");
        }
    }

    #[test]
    fn a_missing_group_is_not_a_missing_pool() {
        let missing = |message: &str| {
            classify(Operation::ListUsersInGroup, &refusal(400, "ResourceNotFoundException", message), &[])
        };
        assert_eq!(kind(&missing("Group not found.")), "parameter");
        assert_eq!(kind(&missing("User pool eu-west-1_Example does not exist.")), "pool NoSuchPool");
    }

    #[test]
    fn a_text_names_operation_and_cause() {
        assert_eq!(
            judged(&refusal(400, "AccessDeniedException", "no policy allows it")).to_string(),
            "AdminListUserAuthEvents: AccessDeniedException: no policy allows it"
        );
        let html = Failure::Unreadable { status: 502, content_type: Some("text/html".into()), bytes: Some(157) };
        assert_eq!(
            judged(&html).to_string(),
            "AdminListUserAuthEvents: answer cannot be read (status 502, text/html, 157 bytes)"
        );
    }

    #[test]
    fn no_text_holds_a_parameter_or_a_second_line() {
        for (message, expected) in [
            ("User Ada is odd", "(message withheld: it quotes the request)"),
            ("Invalid token-7.", "(message withheld: it quotes the request)"),
            ("adamant", "adamant"),
            ("two\nlines", "two lines"),
            (
                "1 validation error detected: Value 'a' at 'b' at 'username' failed to satisfy constraint: \\S+",
                "1 validation error detected: Value (withheld) at 'username' failed to satisfy constraint: \\S+",
            ),
        ] {
            let text = judged(&refusal(400, "InvalidParameterException", message)).to_string();
            let told = "parameters refused: AdminListUserAuthEvents: InvalidParameterException: ";
            assert_eq!(text, format!("{told}{expected}"));
        }
        let long = judged(&refusal(400, "InvalidParameterException", &"x".repeat(10_000))).to_string();
        assert!(long.chars().count() < TEXT_CHARS_MAX + 50);
    }
}
