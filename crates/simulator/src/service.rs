//! The service: takes a request and the world, and returns the reply.
//!
//! This file is the envelope, Cognito's AWS JSON 1.1: it reads the caller and the operation, and writes the answer or
//! the error. `operations` computes the answer. A request without `X-Amz-Target` is for STS and goes to `sts`.
//!
//! It does no I/O. It changes the world: it logs the call, uses quota, counts down faults, and remembers tokens.

mod operations;
mod rules;

use operations::Input;
use serde_json::json;

use super::caller::Caller;
use super::calls::{Call, CallResult};
use super::fault::{AwsError, FaultKind};
use super::reply::{ServiceReply, Transmission};
use super::sts;
use super::world::World;

/// The parts of a request that the service reads.
pub(super) struct ServiceRequest<'a> {
    /// `X-Amz-Target`; absent from requests to STS.
    pub(super) target: Option<&'a str>,
    pub(super) authorization: Option<&'a str>,
    pub(super) body: &'a [u8],
}

/// Answers a request.
pub(super) fn answer(world: &mut World, request: &ServiceRequest<'_>) -> ServiceReply {
    let caller = Caller::read(request.authorization);
    let Some(target) = request.target else {
        return sts::answer(world, &caller, request.body);
    };
    let operation = target.rsplit('.').next().unwrap_or(target);
    let (input, malformed) = match serde_json::from_slice::<Input>(request.body) {
        Ok(input) => (input, None),
        Err(error) => (Input::default(), Some(AwsError::new("SerializationException", error.to_string()))),
    };
    let fault = world.fault_for_call(operation, input.user_pool_id.as_deref(), input.username.as_deref());
    let answered = match (&fault, malformed) {
        (Some(FaultKind::Refuse(refusal)), _) => Err(refusal.clone()),
        (_, Some(malformed)) => Err(malformed),
        (fault, None) => operations::perform(world, &caller, operation, &input, fault.as_ref()),
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
        outcome: CallResult::of(&answered, fault.as_ref()),
    });
    let mut reply = reply(world, answered);
    reply.apply_fault(fault.as_ref());
    reply
}

fn reply(world: &mut World, answered: Result<String, AwsError>) -> ServiceReply {
    let mut reply = ServiceReply {
        status: 200,
        content_type: "application/x-amz-json-1.1",
        error_type: None,
        request_id: world.new_id(),
        date: world.date_header_time(),
        body: String::new(),
        transmission: Transmission::Whole,
    };
    match answered {
        Ok(body) => reply.body = body,
        Err(AwsError { status, name, message }) => {
            const MODEL: &str = "com.amazonaws.cognito.identity.idp.model";
            let prefix = if world.prefixed_errors { format!("{MODEL}#") } else { String::new() };
            reply.status = status;
            reply.body = json!({ "__type": format!("{prefix}{name}"), "message": message }).to_string();
            reply.error_type = Some(format!("{name}:http://internal.amazon.com/coral/{MODEL}/"));
        }
    }
    reply
}
