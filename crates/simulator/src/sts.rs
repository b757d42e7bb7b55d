//! STS on the same port: AssumeRole and GetCallerIdentity in the query protocol.
//!
//! It supports the parts that an AWS client needs to act in another account. The world remembers the role of each
//! access key, so it can tell the account of a later call.

use cognito_auth_core::event::UnixMillis;

use super::caller::Caller;
use super::calls::{Call, CallResult};
use super::fault::{AwsError, FaultKind};
use super::reply::{ServiceReply, Transmission};
use super::world::{ACCOUNT_ID, Session, World};

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// The lifetime of credentials in seconds: the default, and the bounds of `DurationSeconds`.
const DURATION_SECONDS: i64 = 3600;
const DURATION_SECONDS_MIN: i64 = 900;
const DURATION_SECONDS_MAX: i64 = 43_200;

/// The most sessions that are remembered. At the limit all are forgotten, and their keys count as plain keys.
const SESSIONS_MAX: usize = 10_000;

/// Answers a query.
pub(super) fn answer(world: &mut World, caller: &Caller, body: &[u8]) -> ServiceReply {
    let form = Form::read(body);
    let operation = form.get("Action").unwrap_or_default().to_owned();
    let fault = world.fault_for_call(&operation, None, None);
    let answered = match (&fault, operation.as_str()) {
        (Some(FaultKind::Refuse(refusal)), _) => Err(refusal.clone()),
        (_, "AssumeRole") => assume_role(world, caller, &form),
        (_, "GetCallerIdentity") => caller_identity(world, caller),
        (_, unknown) => Err(AwsError::new("InvalidAction", format!("Could not find operation {unknown}"))),
    };
    let at = world.now();
    world.calls_mut().push(Call {
        operation: operation.clone(),
        pool: None,
        user: None,
        token: None,
        max_results: None,
        at,
        access_key: caller.access_key.clone(),
        outcome: CallResult::of(&answered, fault.as_ref()),
    });
    let (request_id, date) = (world.new_id(), world.date_header_time());
    let (status, body) = match answered {
        Ok(result) => {
            let body = format!(
                "<{operation}Response xmlns=\"{NAMESPACE}\"><{operation}Result>{result}</{operation}Result>\
                 <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation}Response>"
            );
            (200, body)
        }
        Err(AwsError { status, name, message }) => {
            let (name, message) = (escaped(&name), escaped(&message));
            let body = format!(
                "<ErrorResponse xmlns=\"{NAMESPACE}\"><Error><Type>Sender</Type><Code>{name}</Code>\
                 <Message>{message}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
            );
            (status, body)
        }
    };
    let mut reply = ServiceReply {
        status,
        content_type: "text/xml",
        error_type: None,
        request_id,
        date,
        body,
        transmission: Transmission::Whole,
    };
    reply.apply_fault(fault.as_ref());
    reply
}

fn assume_role(world: &mut World, caller: &Caller, form: &Form) -> Result<String, AwsError> {
    let required = |name| {
        form.get(name).ok_or_else(|| AwsError::new("ValidationError", format!("Value at '{name}' must not be null")))
    };
    let (arn, session_name) = (required("RoleArn")?, required("RoleSessionName")?);
    let seconds = match form.get("DurationSeconds") {
        None => DURATION_SECONDS,
        Some(text) => text
            .parse()
            .ok()
            .filter(|seconds| (DURATION_SECONDS_MIN..=DURATION_SECONDS_MAX).contains(seconds))
            .ok_or_else(|| AwsError::new("ValidationError", "Value at 'durationSeconds' is out of range"))?,
    };
    // STS gives the same error for an unknown role and for a wrong ExternalId.
    let assumable = world.roles.iter().any(|role| {
        role.arn == arn && (role.external_id.is_none() || role.external_id.as_deref() == form.get("ExternalId"))
    });
    if !assumable {
        let message = format!(
            "User: {} is not authorized to perform: sts:AssumeRole on resource: {arn}",
            identity(world, caller).1
        );
        return Err(AwsError { status: 403, ..AwsError::new("AccessDenied", message) });
    }
    let access_key = format!("ASIA{}", key_text(world, 16));
    let (secret, token) = (key_text(world, 40), key_text(world, 200));
    let expires = UnixMillis(world.now().0 + seconds * 1000);
    let session = Session { role_arn: arn.to_owned(), session_name: session_name.to_owned(), expires };
    let assumed = escaped(&assumed_arn(&session));
    if world.sessions.len() >= SESSIONS_MAX {
        world.sessions.clear();
    }
    world.sessions.insert(access_key.clone(), session);
    Ok(format!(
        "<Credentials><AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
         <SessionToken>{token}</SessionToken><Expiration>{expires}</Expiration></Credentials>\
         <AssumedRoleUser><AssumedRoleId>AROAEXAMPLE:{}</AssumedRoleId><Arn>{assumed}</Arn></AssumedRoleUser>",
        escaped(session_name)
    ))
}

fn caller_identity(world: &World, caller: &Caller) -> Result<String, AwsError> {
    if caller.access_key.is_none() {
        return Err(AwsError {
            status: 403,
            ..AwsError::new("MissingAuthenticationToken", "Request is missing Authentication Token")
        });
    }
    let (account, arn) = identity(world, caller);
    Ok(format!("<Arn>{}</Arn><UserId>AIDAEXAMPLE</UserId><Account>{}</Account>", escaped(&arn), escaped(&account)))
}

/// A caller's account and ARN.
fn identity(world: &World, caller: &Caller) -> (String, String) {
    match caller.access_key.as_ref().and_then(|key| world.sessions.get(key)) {
        Some(session) => (account_of(&session.role_arn).to_owned(), assumed_arn(session)),
        None => {
            let account = world.home_account.as_deref().unwrap_or(ACCOUNT_ID);
            (account.to_owned(), format!("arn:aws:iam::{account}:user/exporter"))
        }
    }
}

fn assumed_arn(session: &Session) -> String {
    let role = session.role_arn.rsplit('/').next().unwrap_or_default();
    format!("arn:aws:sts::{}:assumed-role/{role}/{}", account_of(&session.role_arn), session.session_name)
}

fn account_of(arn: &str) -> &str {
    arn.split(':').nth(4).unwrap_or_default()
}

/// Random characters from the alphabet of access keys.
fn key_text(world: &mut World, length: usize) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let random = world.random();
    (0..length).map(|_| char::from(ALPHABET[random.usize(..ALPHABET.len())])).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The decoded fields of a form.
struct Form(Vec<(String, String)>);

impl Form {
    fn read(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let fields = text.split('&').filter_map(|field| field.split_once('='));
        Self(fields.map(|(name, value)| (decoded(name), decoded(value))).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Decodes percent-encoding. An invalid sequence stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = |digit: &u8| char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                bytes.push(hex(high).unwrap_or(0) << 4 | hex(low).unwrap_or(0));
                tail
            }
            (b'+', tail) => {
                bytes.push(b' ');
                tail
            }
            (plain, tail) => {
                bytes.push(*plain);
                tail
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_decoded() {
        let form = Form::read(b"Action=AssumeRole&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fx&ExternalId=a+b%2B%&Empty=");
        assert_eq!(form.get("RoleArn"), Some("arn:aws:iam::1:role/x"));
        assert_eq!(form.get("ExternalId"), Some("a b+%"));
        assert_eq!(form.get("Empty"), Some(""));
        assert_eq!(form.get("Absent"), None);
    }
}
