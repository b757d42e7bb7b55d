//! The service: takes a request and the world, and returns the reply.
//!
//! This file is the envelope, AWS JSON 1.1: it reads the caller and the operation, and writes the answer or the error.
//! `operations` computes Cognito's answer, and `log_events` that of CloudWatch Logs. A request without `X-Amz-Target`
//! is for STS and goes to `sts`.
//!
//! It does no I/O. It changes the world: it logs the call, uses quota, counts down faults, and remembers tokens.

mod log_events;
mod operations;
mod rules;

use log_events::FilterInput;
use operations::Input;
use serde::de::DeserializeOwned;
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
    let (service, operation) = target.rsplit_once('.').unwrap_or(("", target));
    if service == LOGS {
        answer_logs(world, &caller, operation, request.body)
    } else {
        answer_cognito(world, caller, operation, request.body)
    }
}

/// CloudWatch Logs in `X-Amz-Target`. Every other service is Cognito.
const LOGS: &str = "Logs_20140328";

/// The namespaces of the services' errors.
const COGNITO_MODEL: &str = "com.amazonaws.cognito.identity.idp.model";
const LOGS_MODEL: &str = "com.amazonaws.logs";

fn answer_cognito(world: &mut World, caller: Caller, operation: &str, body: &[u8]) -> ServiceReply {
    let (input, malformed) = read::<Input>(body);
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
    let mut reply = reply(world, answered, COGNITO_MODEL);
    reply.apply_fault(fault.as_ref());
    reply
}

fn answer_logs(world: &mut World, caller: &Caller, operation: &str, body: &[u8]) -> ServiceReply {
    let (input, malformed) = read::<FilterInput>(body);
    let fault = world.fault_for_call(operation, input.group(), None);
    let answered = match (&fault, malformed) {
        (Some(FaultKind::Refuse(refusal)), _) => Err(refusal.clone()),
        (_, Some(malformed)) => Err(malformed),
        (fault, None) => log_events::perform(world, caller, operation, &input, fault.as_ref()),
    };
    let at = world.now();
    world.calls_mut().push(Call {
        operation: operation.to_owned(),
        pool: input.group().map(str::to_owned),
        user: None,
        max_results: input.limit,
        token: input.next_token,
        at,
        access_key: caller.access_key.clone(),
        outcome: CallResult::of(&answered, fault.as_ref()),
    });
    let mut reply = reply(world, answered, LOGS_MODEL);
    reply.apply_fault(fault.as_ref());
    reply
}

/// Reads the input of a call. Malformed input comes as an empty one with the error.
fn read<T: DeserializeOwned + Default>(body: &[u8]) -> (T, Option<AwsError>) {
    match serde_json::from_slice(body) {
        Ok(input) => (input, None),
        Err(error) => (T::default(), Some(AwsError::new("SerializationException", error.to_string()))),
    }
}

fn reply(world: &mut World, answered: Result<String, AwsError>, model: &str) -> ServiceReply {
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
            let prefix = if world.prefixed_errors { format!("{model}#") } else { String::new() };
            reply.status = status;
            reply.body = json!({ "__type": format!("{prefix}{name}"), "message": message }).to_string();
            reply.error_type = Some(format!("{name}:http://internal.amazon.com/coral/{model}/"));
        }
    }
    reply
}
