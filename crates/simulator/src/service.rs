//! The answers: one request and the world in, one reply out. This is the envelope, Cognito's AWS JSON 1.1: who calls, what
//! for, and how the answer or its error is written. What is answered is in `operations`; STS's queries go on to `sts`.
//!
//! Pure, but that it changes the world: calls are logged, quotas used, faults spent, tokens remembered.

mod operations;
mod rules;

use std::time::Duration;

use cognito_auth_core::event::UnixMillis;
use operations::Input;
use serde_json::json;

use super::calls::{Call, Outcome};
use super::fault::{Misfortune, Refusal};
use super::world::World;

/// What the service looks at in a request.
pub(super) struct Request<'a> {
    /// `X-Amz-Target`; STS has none.
    pub(super) target: Option<&'a str>,
    pub(super) authorization: Option<&'a str>,
    pub(super) body: &'a [u8],
}

/// A response, and how it is to be delivered.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) error_type: Option<String>,
    pub(super) request_id: String,
    /// The Date header.
    pub(super) date: Option<UnixMillis>,
    pub(super) body: String,
    pub(super) delivery: Transmission,
}

/// How a reply reaches the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transmission {
    Whole,
    After(Duration),
    CutShort,
    Reset,
    Never,
}

/// Who calls, by the `Authorization` header. The signature is not verified.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Caller {
    pub(super) access_key: Option<String>,
    pub(super) region: Option<String>,
}

impl Caller {
    /// Reads `AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/<service>/aws4_request, ...`.
    pub(super) fn read(authorization: Option<&str>) -> Self {
        let scope = authorization
            .and_then(|header| header.split_once("Credential="))
            .map_or("", |(_, rest)| rest.split([',', ' ']).next().unwrap_or(""));
        let mut parts = scope.split('/').filter(|part| !part.is_empty());
        Self { access_key: parts.next().map(str::to_owned), region: parts.nth(1).map(str::to_owned) }
    }
}

/// Answers a request.
pub(super) fn answer(world: &mut World, request: &Request<'_>) -> Reply {
    let caller = Caller::read(request.authorization);
    let Some(target) = request.target else {
        return super::sts::answer(world, &caller, request.body);
    };
    let operation = target.rsplit('.').next().unwrap_or(target);
    let (input, malformed) = match serde_json::from_slice::<Input>(request.body) {
        Ok(input) => (input, None),
        Err(error) => (Input::default(), Some(Refusal::new("SerializationException", error.to_string()))),
    };
    let misfortune = world.strike(operation, input.user_pool_id.as_deref(), input.username.as_deref());
    let answered = match (&misfortune, malformed) {
        (Some(Misfortune::Refuse(refusal)), _) => Err(refusal.clone()),
        (_, Some(malformed)) => Err(malformed),
        (misfortune, None) => operations::perform(world, &caller, operation, &input, misfortune.as_ref()),
    };
    let at = world.now();
    world.calls_mut().push(Call {
        operation: operation.to_owned(),
        pool: input.user_pool_id,
        user: input.username,
        token: input.next_token.or(input.pagination_token),
        max_results: input.max_results.or(input.limit),
        at,
        access_key: caller.access_key,
        outcome: Outcome::of(&answered, misfortune.as_ref()),
    });
    let mut reply = reply(world, answered);
    reply.spoil(misfortune.as_ref());
    reply
}

fn reply(world: &mut World, answered: Result<String, Refusal>) -> Reply {
    let mut reply = Reply {
        status: 200,
        content_type: "application/x-amz-json-1.1",
        error_type: None,
        request_id: world.new_id(),
        date: world.answer_date(),
        body: String::new(),
        delivery: Transmission::Whole,
    };
    match answered {
        Ok(body) => reply.body = body,
        Err(Refusal { status, name, message }) => {
            const MODEL: &str = "com.amazonaws.cognito.identity.idp.model";
            let prefix = if world.prefixed_errors { format!("{MODEL}#") } else { String::new() };
            reply.status = status;
            reply.body = json!({ "__type": format!("{prefix}{name}"), "message": message }).to_string();
            reply.error_type = Some(format!("{name}:http://internal.amazon.com/coral/{MODEL}/"));
        }
    }
    reply
}

impl Reply {
    /// Does to a reply what a misfortune does to its form; what it does to its content is `operations`' business.
    pub(super) fn spoil(&mut self, misfortune: Option<&Misfortune>) {
        match misfortune {
            Some(Misfortune::Reset) => self.delivery = Transmission::Reset,
            Some(Misfortune::Hang) => self.delivery = Transmission::Never,
            Some(Misfortune::Slow(delay)) => self.delivery = Transmission::After(*delay),
            Some(Misfortune::CutConnection) => self.delivery = Transmission::CutShort,
            Some(Misfortune::CutJson) => self.body.truncate(self.body.floor_char_boundary(self.body.len() / 2)),
            Some(Misfortune::Html(status)) => {
                self.status = *status;
                self.content_type = "text/html";
                self.error_type = None;
                self.body = "<html><body><h1>Not what you asked for</h1></body></html>".to_owned();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_read_from_the_signature() {
        let header = "AWS4-HMAC-SHA256 Credential=AKIAEXAMPLE/20240808/eu-west-1/cognito-idp/aws4_request, SignedHeaders=host, Signature=0";
        let caller = Caller::read(Some(header));
        assert_eq!(caller.access_key.as_deref(), Some("AKIAEXAMPLE"));
        assert_eq!(caller.region.as_deref(), Some("eu-west-1"));
        assert_eq!(Caller::read(Some("Bearer x")), Caller::default());
    }
}
