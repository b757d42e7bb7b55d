//! Turns the SDK's errors into a [`SourceError`], which says what the caller can do.
//!
//! The SDK's errors are first reduced to a [`Failure`], which the pure function `classify` turns into a
//! [`SourceError`]. The rules follow the service's error tables
//! (<https://docs.aws.amazon.com/cognito-user-identity-pools/latest/APIReference/CommonErrors.html> and the operations'
//! own). They accept any code of an AWS front end, also codes that the operation's model does not list.
//!
//! The texts go to the log. They never contain a raw answer or a user's data. The service quotes parameters back, so a
//! message that contains one is withheld.

use std::error::Error;
use std::time::Duration;

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_cognitoidentityprovider::config::ProvideCredentials as _;
use aws_sdk_cognitoidentityprovider::config::http::HttpResponse;
use aws_sdk_cognitoidentityprovider::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::date_time::{DateTime, Format};
use cognito_auth_core::event::UnixMillis;
use cognito_auth_core::redact;

use super::answer::Excess;
use super::wire::millis;
use crate::source::{Listing, Operation, Refusal, RefusalCause, SourceError};

/// The most characters of a text, so that a log line stays one line.
const TEXT_CHARS_MAX: usize = 300;

/// The largest clock difference that AWS accepts in a signature: five minutes in either direction.
const SKEW_MAX: Duration = Duration::from_mins(5);

/// The circumstances of a call that may explain its failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation {
    /// This host's time.
    pub(super) now: UnixMillis,
    /// Whether a role is assumed and an endpoint that was meant for Cognito applies to STS, too.
    pub(super) sts_is_redirected: bool,
}

/// A failed call, reduced to what its classification needs.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Failure {
    /// The service, or a proxy in front of it, answered with an error.
    Refused { status: u16, code: Option<String>, message: Option<String>, dated: Option<UnixMillis> },
    /// An answer came that cannot be read.
    Unreadable { status: u16, content_type: Option<String>, bytes: Option<usize> },
    /// An answer came that is larger than any answer of the service.
    Excessive(Excess),
    /// No answer came in time.
    TimedOut(String),
    /// There were no credentials, or they could not be loaded.
    NoCredentials(CredentialsFault, String),
    /// No answer came.
    Unanswered(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CredentialsFault {
    /// Nothing is configured.
    Missing,
    /// The configured source is wrong, or does not provide credentials.
    Source,
    /// The credentials were loaded and are not accepted.
    Bad,
    /// The IAM Identity Center login has to be repeated.
    LoginOver,
    /// The clock of this host is wrong.
    Clock,
    /// The role may not be assumed.
    RoleRefused,
    /// STS was called at an endpoint that is not its own.
    RoleMisdirected,
    /// The credentials did not come in time.
    TimedOut,
    /// The source cannot be reached, or fails temporarily.
    Passing,
}

/// Classifies an operation's error. `personal` are the parameters that must not be shown.
pub(super) fn source_error<E>(
    situation: Situation,
    operation: Operation,
    error: &SdkError<E, HttpResponse>,
    personal: &[&str],
) -> SourceError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    classify(situation, operation, &failure(situation, error), personal)
}

/// Returns the error for a page with more than `max` of `what`. The page is refused whole, so no cursor moves past it.
pub(super) fn too_many(operation: Operation, what: &str, max: usize) -> SourceError {
    SourceError::Passing(format!("{operation}: answer exceeds the {max} {what} of a page"))
}

/// Returns the body of an answer with a success status that the SDK could not read.
pub(super) fn unreadable_answer<E>(error: &SdkError<E, HttpResponse>) -> Option<&[u8]> {
    match error {
        SdkError::ResponseError(unreadable) if unreadable.raw().status().is_success() => {
            unreadable.raw().body().bytes()
        }
        _ => None,
    }
}

/// Classifies a listing's error.
pub(super) fn listing_error<E>(
    situation: Situation,
    listing: &Listing,
    error: &SdkError<E, HttpResponse>,
    token: Option<&str>,
) -> SourceError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let asked = match listing {
        Listing::Users { filter } => filter.as_deref().unwrap_or_default(),
        Listing::Group(_) => "",
    };
    source_error(situation, listing.operation(), error, &[asked, token.unwrap_or_default()])
}

/// Loads credentials within `timeout` and returns their access key id.
pub(super) async fn credentials(
    situation: Situation,
    timeout: Duration,
    provider: &Option<SharedCredentialsProvider>,
) -> Result<String, SourceError> {
    let failure = match provider {
        None => Failure::NoCredentials(CredentialsFault::Missing, "no source of credentials".to_owned()),
        Some(provider) => match tokio::time::timeout(timeout, provider.provide_credentials()).await {
            Ok(Ok(credentials)) => return Ok(credentials.access_key_id().to_owned()),
            Ok(Err(error)) => credentials_failure(situation, &error),
            Err(_) => Failure::NoCredentials(CredentialsFault::TimedOut, format!("none after {timeout:?}")),
        },
    };
    Err(judge("credentials", None, situation, &failure, &[]))
}

fn failure<E>(situation: Situation, error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(refused) => Failure::Refused {
            status: refused.raw().status().as_u16(),
            code: refused.err().code().map(str::to_owned),
            message: refused.err().message().map(str::to_owned),
            dated: dated(refused.raw()),
        },
        SdkError::ResponseError(unreadable) => match find::<Excess>(error) {
            Some(excess) => Failure::Excessive(*excess),
            None => Failure::Unreadable {
                status: unreadable.raw().status().as_u16(),
                content_type: unreadable.raw().headers().get("content-type").map(str::to_owned),
                bytes: unreadable.raw().body().bytes().map(<[u8]>::len),
            },
        },
        SdkError::TimeoutError(_) => Failure::TimedOut(causes(error)),
        SdkError::DispatchFailure(unsent) => match find::<CredentialsError>(error) {
            Some(credentials) => credentials_failure(situation, credentials),
            None if unsent.is_timeout() => Failure::TimedOut(causes(error)),
            None => Failure::Unanswered(causes(error)),
        },
        _ => Failure::Unanswered(causes(error)),
    }
}

/// Returns the service's time when it answered.
fn dated(answer: &HttpResponse) -> Option<UnixMillis> {
    DateTime::from_str(answer.headers().get("date")?, Format::HttpDate).ok().map(millis)
}

fn credentials_failure(situation: Situation, error: &CredentialsError) -> Failure {
    if let Some(sts) = sts_failure(situation, error) {
        return match sts {
            // The credentials for the call to STS itself.
            Failure::NoCredentials(..) => sts,
            Failure::Refused { status, code, message, dated } => {
                let code = code.as_deref();
                let told = match (code, &message) {
                    (None, None) => format!("error without a code (status {status})"),
                    _ => coded(code, message.as_deref()),
                };
                let skew = skew(situation, code.unwrap_or_default(), message.as_deref(), dated);
                let fault = refused_by_sts(situation, status, code, skew.is_some());
                Failure::NoCredentials(fault, told + &skew.unwrap_or_default())
            }
            Failure::Unreadable { .. } if situation.sts_is_redirected => {
                Failure::NoCredentials(CredentialsFault::RoleMisdirected, "the answer is not one of STS".into())
            }
            Failure::Unreadable { .. } | Failure::Excessive(_) => {
                Failure::NoCredentials(CredentialsFault::Passing, "the answer of STS cannot be read".into())
            }
            Failure::TimedOut(told) => Failure::NoCredentials(CredentialsFault::TimedOut, told),
            Failure::Unanswered(told) => Failure::NoCredentials(CredentialsFault::Passing, told),
        };
    }
    let told = chain(error);
    let fault = match error {
        CredentialsError::CredentialsNotLoaded(_) => {
            let told = error.source().map_or("nothing is configured".into(), chain);
            return Failure::NoCredentials(CredentialsFault::Missing, told);
        }
        CredentialsError::ProviderTimedOut(_) => CredentialsFault::TimedOut,
        _ => match find::<ConnectorError>(error) {
            Some(connector) if connector.is_timeout() => CredentialsFault::TimedOut,
            Some(_) => CredentialsFault::Passing,
            None if tells_of_a_login(&told) => CredentialsFault::LoginOver,
            None => CredentialsFault::Source,
        },
    };
    if told.contains("credentials-login") {
        // The SDK's text names a compile-time feature, which its user cannot enable.
        return Failure::NoCredentials(
            fault,
            "the profile is one of `aws login`, which the exporter cannot use".into(),
        );
    }
    Failure::NoCredentials(fault, told)
}

/// Returns the failure of the call to STS that provides credentials, if there was one.
fn sts_failure(situation: Situation, error: &CredentialsError) -> Option<Failure> {
    let role = find::<SdkError<AssumeRoleError, HttpResponse>>(error).map(|error| failure(situation, error));
    let web = || find::<SdkError<AssumeRoleWithWebIdentityError, HttpResponse>>(error);
    role.or_else(|| web().map(|error| failure(situation, error)))
}

fn refused_by_sts(situation: Situation, status: u16, code: Option<&str>, is_skewed: bool) -> CredentialsFault {
    match code {
        Some("AccessDenied" | "AccessDeniedException") => CredentialsFault::RoleRefused,
        Some(code) if is_throttle(code) => CredentialsFault::Passing,
        _ if status >= 500 => CredentialsFault::Passing,
        _ if is_skewed => CredentialsFault::Clock,
        _ if situation.sts_is_redirected => CredentialsFault::RoleMisdirected,
        Some(code) if is_of_credentials(code) => CredentialsFault::Bad,
        Some(_) => CredentialsFault::Source,
        None => CredentialsFault::Passing,
    }
}

/// Returns whether the text asks for a new login: the SDK's words about an IAM Identity Center token, or the service's.
fn tells_of_a_login(told: &str) -> bool {
    told.contains("SSO token") || told.contains("UnauthorizedException")
}

/// Returns a text about the clock if a refusal is its fault, by the service's words or its Date; None otherwise.
fn skew(situation: Situation, code: &str, message: Option<&str>, dated: Option<UnixMillis>) -> Option<String> {
    let says_so = matches!(code, "RequestExpired" | "RequestTimeTooSkewed" | "RequestInTheFuture")
        || message.is_some_and(|message| {
            message.contains("Signature expired") || message.contains("Signature not yet current")
        });
    let off = |dated: UnixMillis| {
        let (behind, ahead) = (dated.since(situation.now), situation.now.since(dated));
        let (off, which) = if behind > ahead { (behind, "behind") } else { (ahead, "ahead of") };
        let off = Duration::from_secs(off.as_secs());
        (off > SKEW_MAX).then(|| format!(" (this host's clock is {} {which} AWS's)", humantime::format_duration(off)))
    };
    dated.filter(|_| says_so || is_of_credentials(code)).and_then(off).or(says_so.then(String::new))
}

fn classify(situation: Situation, operation: Operation, failure: &Failure, personal: &[&str]) -> SourceError {
    judge(operation.as_str(), Some(operation), situation, failure, personal)
}

fn judge(
    what: &str,
    operation: Option<Operation>,
    situation: Situation,
    failure: &Failure,
    personal: &[&str],
) -> SourceError {
    let text = |cause: &str| bounded(&format!("{what}: {cause}"));
    let caller = |cause, told: &str| SourceError::Caller(Refusal { cause, text: text(told) });
    match failure {
        Failure::Refused { status, code, message, dated } => {
            let code = code.as_deref();
            let skew = skew(situation, code.unwrap_or_default(), message.as_deref(), *dated);
            let message = message.as_deref().map(|message| redacted(message, personal));
            let said = match (code, &message) {
                (None, None) => format!("error without a code (status {status})"),
                _ => coded(code, message.as_deref()),
            };
            if let Some(skew) = skew {
                return caller(RefusalCause::ClockSkew, &(said + &skew));
            }
            refused(operation, *status, code.unwrap_or_default(), message.as_deref(), text(&said))
        }
        Failure::Excessive(excess) => SourceError::Passing(text(&excess.to_string())),
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
                CredentialsFault::Source => caller(RefusalCause::CredentialsSource, &told),
                CredentialsFault::Bad => caller(RefusalCause::BadCredentials, &told),
                CredentialsFault::LoginOver => caller(RefusalCause::LoginOver, &told),
                CredentialsFault::Clock => caller(RefusalCause::ClockSkew, &told),
                CredentialsFault::RoleRefused => caller(RefusalCause::RoleNotAssumable, &told),
                CredentialsFault::RoleMisdirected => caller(RefusalCause::StsRedirected, &told),
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
            Self::Source => "AWS credentials are configured but cannot be loaded",
            Self::Bad | Self::Clock => "AWS credentials cannot be used",
            Self::LoginOver => "the IAM Identity Center login has expired",
            Self::RoleRefused | Self::RoleMisdirected => "the role cannot be assumed",
            Self::TimedOut => "AWS credentials did not come in time",
            Self::Passing => "AWS credentials cannot be loaded at the moment",
        }
    }
}

fn refused(operation: Option<Operation>, status: u16, code: &str, message: Option<&str>, text: String) -> SourceError {
    let pool = |cause, text| SourceError::Pool(Refusal { cause, text });
    let caller = |cause, text| SourceError::Caller(Refusal { cause, text });
    match code {
        code if is_throttle(code) => SourceError::Throttled(text),
        // CloudWatch Logs. Cognito's error of this name is about the number of resources.
        "LimitExceededException" if operation == Some(Operation::FilterLogEvents) => SourceError::Throttled(text),
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
        // The code is the same for a pool and for a group. A missing group is a mistake in one listing.
        "ResourceNotFoundException"
            if operation == Some(Operation::ListUsersInGroup)
                && message.is_some_and(|message| message.starts_with("Group")) =>
        {
            SourceError::InvalidParameter(text)
        }
        "ResourceNotFoundException" if operation == Some(Operation::FilterLogEvents) => {
            pool(RefusalCause::NoSuchLogGroup, text)
        }
        "ResourceNotFoundException" => pool(RefusalCause::NoSuchPool, text),
        "NotAuthorizedException"
        | "AccessDeniedException"
        | "AccessDenied"
        | "ForbiddenException"
        | "UnauthorizedAccess" => caller(RefusalCause::NotAllowed, text),
        code if is_of_credentials(code) => caller(RefusalCause::BadCredentials, text),
        _ => by_status(status, text),
    }
}

/// Classifies an answer without a code by its status: a proxy or a firewall in front of the service sends no code.
fn by_status(status: u16, text: String) -> SourceError {
    match status {
        401 | 403 | 407 => SourceError::Caller(Refusal { cause: RefusalCause::Other, text }),
        429 => SourceError::Throttled(text),
        _ => SourceError::Passing(text),
    }
}

/// Returns whether a code means that the credentials are wrong, unknown or expired.
fn is_of_credentials(code: &str) -> bool {
    matches!(
        code,
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
            | "NotSignedException"
    )
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

/// Returns the service's message without the values that it quotes from the request. Personal parameters are searched
/// as whole words. For a user called `user` that withholds harmless texts, but it never reveals a name.
fn redacted(message: &str, parameters: &[&str]) -> String {
    // "2 validation errors detected: Value 'x' at 'username' failed ...; Value 'y' at 'nextToken' failed ..."
    // Quotes inside a value are not escaped, so everything between the first value and the last name is removed.
    let quoted = message.find("Value '").zip(message.rfind("' at '")).filter(|(from, to)| from < to);
    let unquoted = match quoted {
        Some((from, to)) => format!("{}Value (withheld){}", &message[..from], &message[to + 1..]),
        None => message.to_owned(),
    };
    if parameters.iter().any(|parameter| redact::holds_word(&unquoted, parameter)) {
        return "(message withheld: it quotes the request)".to_owned();
    }
    unquoted
}

/// Returns the text as one line of at most [`TEXT_CHARS_MAX`] characters.
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

/// Returns the causes of an SDK error. Its own text ("dispatch failure") says nothing.
fn causes(error: &(dyn Error + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), chain)
}

/// Returns the texts of an error and its sources, each once.
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
        Failure::Refused { status, code: Some(code.into()), message: Some(message.into()), dated: None }
    }

    const NOW: UnixMillis = UnixMillis(1_750_000_000_000);
    const PLAIN: Situation = Situation { now: NOW, sts_is_redirected: false };

    fn judged(failure: &Failure) -> SourceError {
        classify(PLAIN, Operation::AdminListUserAuthEvents, failure, &["ada", "token-7"])
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
            (Failure::Excessive(Excess::Values(1)), "passing"),
            (Failure::TimedOut("why".into()), "timeout"),
            (Failure::Unanswered("why".into()), "passing"),
            (credentials(CredentialsFault::Missing), "caller NoCredentials"),
            (credentials(CredentialsFault::Source), "caller CredentialsSource"),
            (credentials(CredentialsFault::Bad), "caller BadCredentials"),
            (credentials(CredentialsFault::LoginOver), "caller LoginOver"),
            (credentials(CredentialsFault::Clock), "caller ClockSkew"),
            (credentials(CredentialsFault::RoleRefused), "caller RoleNotAssumable"),
            (credentials(CredentialsFault::RoleMisdirected), "caller StsRedirected"),
            (credentials(CredentialsFault::TimedOut), "timeout"),
            (credentials(CredentialsFault::Passing), "passing"),
        ] {
            assert_eq!(kind(&judged(&failure)), expected, "{failure:?}");
        }
    }

    #[test]
    fn the_clock_is_blamed_where_a_skew_is_seen_and_nowhere_else() {
        let minutes = |minutes: i64| Some(UnixMillis(NOW.0 + minutes * 60_000));
        for (code, message, dated, expected) in [
            ("UnrecognizedClientException", "The security token is invalid.", None, "caller BadCredentials"),
            ("UnrecognizedClientException", "The security token is invalid.", minutes(4), "caller BadCredentials"),
            ("InvalidSignatureException", "Check your AWS Secret Access Key.", minutes(0), "caller BadCredentials"),
            ("InvalidSignatureException", "Check your AWS Secret Access Key.", minutes(-7), "caller ClockSkew"),
            ("InvalidSignatureException", "Signature expired: 2 is now earlier than 3", None, "caller ClockSkew"),
            ("SignatureDoesNotMatch", "Signature not yet current: 3 is later than 2", minutes(0), "caller ClockSkew"),
            ("RequestExpired", "Request has expired.", None, "caller ClockSkew"),
            ("RequestTimeTooSkewed", "The difference is too large.", None, "caller ClockSkew"),
            // Not the clock's fault, however wrong it is.
            ("AccessDeniedException", "no policy allows it", minutes(60), "caller NotAllowed"),
        ] {
            let (code, message) = (Some(code.to_owned()), Some(message.to_owned()));
            let failure = Failure::Refused { status: 400, code, message, dated };
            assert_eq!(kind(&judged(&failure)), expected, "{failure:?}");
        }
        let told = |minutes: i64| {
            let (code, message) = (Some("InvalidSignatureException".to_owned()), Some("no".to_owned()));
            let dated = Some(UnixMillis(NOW.0 + minutes * 60_000));
            judged(&Failure::Refused { status: 400, code, message, dated }).to_string()
        };
        assert!(told(90).ends_with(": no (this host's clock is 1h 30m behind AWS's)"), "{}", told(90));
        assert!(told(-6).ends_with(": no (this host's clock is 6m ahead of AWS's)"), "{}", told(-6));
    }

    #[test]
    fn what_sts_says_is_cut_by_what_to_do() {
        let redirected = Situation { sts_is_redirected: true, ..PLAIN };
        for (status, code, plain, elsewhere) in [
            (403, Some("AccessDenied"), CredentialsFault::RoleRefused, CredentialsFault::RoleRefused),
            (403, Some("ExpiredToken"), CredentialsFault::Bad, CredentialsFault::RoleMisdirected),
            (400, Some("UnknownOperationException"), CredentialsFault::Source, CredentialsFault::RoleMisdirected),
            (404, None, CredentialsFault::Passing, CredentialsFault::RoleMisdirected),
            (400, Some("Throttling"), CredentialsFault::Passing, CredentialsFault::Passing),
            (503, Some("ServiceUnavailable"), CredentialsFault::Passing, CredentialsFault::Passing),
            (503, None, CredentialsFault::Passing, CredentialsFault::Passing),
        ] {
            assert_eq!(refused_by_sts(PLAIN, status, code, false), plain, "{status} {code:?}");
            assert_eq!(refused_by_sts(redirected, status, code, false), elsewhere, "{status} {code:?}");
        }
        assert_eq!(refused_by_sts(redirected, 403, Some("SignatureDoesNotMatch"), true), CredentialsFault::Clock);
    }

    #[test]
    fn a_missing_group_is_not_a_missing_pool() {
        let missing = |message: &str| {
            classify(PLAIN, Operation::ListUsersInGroup, &refusal(400, "ResourceNotFoundException", message), &[])
        };
        assert_eq!(kind(&missing("Group not found.")), "parameter");
        assert_eq!(kind(&missing("User pool eu-west-1_Example does not exist.")), "pool NoSuchPool");
    }

    #[test]
    fn a_missing_log_group_is_not_a_missing_pool_and_a_limit_of_the_logs_is_a_throttle() {
        let of = |operation, code| kind(&classify(PLAIN, operation, &refusal(400, code, "why"), &[]));
        assert_eq!(of(Operation::FilterLogEvents, "ResourceNotFoundException"), "pool NoSuchLogGroup");
        assert_eq!(of(Operation::GetLogDeliveryConfiguration, "ResourceNotFoundException"), "pool NoSuchPool");
        assert_eq!(of(Operation::FilterLogEvents, "LimitExceededException"), "throttled");
        assert_eq!(of(Operation::DescribeUserPool, "LimitExceededException"), "passing");
        assert_eq!(of(Operation::FilterLogEvents, "AccessDeniedException"), "caller NotAllowed");
        assert_eq!(of(Operation::FilterLogEvents, "InvalidParameterException"), "parameter");
        let unavailable = refusal(500, "ServiceUnavailableException", "why");
        assert_eq!(kind(&classify(PLAIN, Operation::FilterLogEvents, &unavailable, &[])), "passing");
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
