//! Faults that tests inject: the kind, the calls that it applies to, from which call on, and how often.

use std::time::Duration;

/// An error response of the service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AwsError {
    /// The HTTP status.
    pub status: u16,
    /// The error's name, such as `TooManyRequestsException`.
    pub name: String,
    /// The error's message.
    pub message: String,
}

impl AwsError {
    /// An error with status 400, the status of nearly all errors.
    pub fn new(name: &str, message: impl Into<String>) -> Self {
        Self { status: 400, name: name.to_owned(), message: message.into() }
    }

    /// TooManyRequestsException: a quota is used up.
    pub fn throttled() -> Self {
        Self::new("TooManyRequestsException", "Rate exceeded")
    }

    /// ThrottlingException: a quota of CloudWatch Logs is used up.
    pub fn throttled_logs() -> Self {
        Self::new("ThrottlingException", "Rate exceeded")
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterException", message)
    }
}

/// The kind of a fault.
#[derive(Clone, PartialEq, Debug)]
pub enum FaultKind {
    /// The answer is an error.
    Refuse(AwsError),
    /// The connection is reset without an answer.
    Reset,
    /// The answer never comes.
    Hang,
    /// The answer comes late.
    Slow(Duration),
    /// The HTTP response is complete, but its JSON ends in the middle.
    CutJson,
    /// The connection ends in the middle of the response.
    CutConnection,
    /// The answer is HTML with this status: 502 as from a proxy, or 200 as from a captive portal.
    Html(u16),
    /// The page has no events. Its token leads to the start of the same page.
    EmptyPage,
    /// The page is right, but its token is the token of the request (none for the first page).
    RepeatToken,
    /// The page is the first page, whatever the token.
    RepeatPage,
    /// The events are right, in a random order.
    Shuffle,
    /// Every event has texts of 100,000 characters.
    Huge,
    /// The page has this many empty events in place of the right ones. Its token is right.
    EmptyEvents(usize),
    /// The events are right, but the newest has this many empty challenges.
    EmptyChallenges(usize),
}

/// A fault of some kind, and the calls that it applies to: all calls, unless limited.
#[derive(Clone, PartialEq, Debug)]
pub struct InjectedFault {
    kind: FaultKind,
    operation: Option<String>,
    pool: Option<String>,
    user: Option<String>,
    probability: f64,
    skipped: u64,
    left: u64,
}

impl From<FaultKind> for InjectedFault {
    fn from(kind: FaultKind) -> Self {
        Self::new(kind)
    }
}

impl From<AwsError> for InjectedFault {
    fn from(error: AwsError) -> Self {
        Self::new(FaultKind::Refuse(error))
    }
}

impl InjectedFault {
    /// A fault that applies to every call.
    pub fn new(kind: FaultKind) -> Self {
        Self { kind, operation: None, pool: None, user: None, probability: 1.0, skipped: 0, left: u64::MAX }
    }

    /// TooManyRequestsException.
    pub fn throttle() -> Self {
        AwsError::throttled().into()
    }

    /// ThrottlingException: the quota of CloudWatch Logs is used up.
    pub fn throttle_logs() -> Self {
        AwsError::throttled_logs().into()
    }

    /// InternalErrorException, with status 500.
    pub fn internal_error() -> Self {
        Self::from(AwsError { status: 500, ..AwsError::new("InternalErrorException", "Something went wrong") })
    }

    /// AccessDeniedException: the caller has no permission. This error is in no operation's model.
    pub fn access_denied() -> Self {
        Self::from(AwsError::new(
            "AccessDeniedException",
            "User is not authorized to perform this action because no identity-based policy allows it",
        ))
    }

    /// ExpiredTokenException: the caller's session has expired.
    pub fn expired_token() -> Self {
        Self::from(AwsError::new("ExpiredTokenException", "The security token included in the request is expired"))
    }

    /// UnrecognizedClientException: the caller's access key is unknown.
    pub fn unrecognized_client() -> Self {
        Self::from(AwsError::new(
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        ))
    }

    /// Limits the fault to calls of this operation, such as `ListUsers`.
    pub fn on(mut self, operation: &str) -> Self {
        self.operation = Some(operation.to_owned());
        self
    }

    /// Limits the fault to calls for this pool; for CloudWatch Logs to this log group, by the name or ARN of the call.
    pub fn in_pool(mut self, pool: &str) -> Self {
        self.pool = Some(pool.to_owned());
        self
    }

    /// Limits the fault to calls for this username.
    pub fn for_user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Limits the fault to this many calls.
    pub fn times(mut self, times: u64) -> Self {
        self.left = times;
        self
    }

    /// Skips the first `calls` of the calls that the fault would apply to.
    pub fn after(mut self, calls: u64) -> Self {
        self.skipped = calls;
        self
    }

    /// Applies the fault with this probability (0 to 1). The result follows from the world's seed.
    pub fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    fn matches(&self, operation: &str, pool: Option<&str>, user: Option<&str>) -> bool {
        let fits =
            |wanted: &Option<String>, is: Option<&str>| wanted.as_deref().is_none_or(|wanted| is == Some(wanted));
        fits(&self.operation, Some(operation)) && fits(&self.pool, pool) && fits(&self.user, user)
    }
}

/// The id of an injected fault, to remove it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultId(u64);

/// The injected faults, oldest first.
#[derive(Debug, Default)]
pub(super) struct InjectedFaults {
    injected: Vec<(FaultId, InjectedFault)>,
    next_id: u64,
}

impl InjectedFaults {
    pub(super) fn inject(&mut self, fault: InjectedFault) -> FaultId {
        let id = FaultId(self.next_id);
        self.next_id += 1;
        self.injected.push((id, fault));
        id
    }

    pub(super) fn remove(&mut self, id: FaultId) {
        self.injected.retain(|(injected, _)| *injected != id);
    }

    pub(super) fn remove_all(&mut self) {
        self.injected.clear();
    }

    /// The first fault that applies to this call and has calls left. Counts the call.
    pub(super) fn fault_for_call(
        &mut self,
        operation: &str,
        pool: Option<&str>,
        user: Option<&str>,
        random: &mut fastrand::Rng,
    ) -> Option<FaultKind> {
        for (_, fault) in &mut self.injected {
            if fault.left == 0 || !fault.matches(operation, pool, user) {
                continue;
            }
            if fault.skipped > 0 {
                fault.skipped -= 1;
            } else if fault.probability >= 1.0 || random.f64() < fault.probability {
                fault.left -= 1;
                return Some(fault.kind.clone());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(fault: InjectedFault, calls: &[(&str, &str, &str)]) -> Vec<bool> {
        let mut faults = InjectedFaults::default();
        faults.inject(fault);
        let mut random = fastrand::Rng::with_seed(1);
        let mut is_faulty = |(operation, pool, user): &(&str, &str, &str)| {
            faults.fault_for_call(operation, Some(pool), Some(user), &mut random).is_some()
        };
        calls.iter().map(&mut is_faulty).collect()
    }

    #[test]
    fn a_fault_meets_whom_it_names() {
        let fault = InjectedFault::throttle().on("A").in_pool("p").for_user("u");
        let calls = [("A", "p", "u"), ("B", "p", "u"), ("A", "q", "u"), ("A", "p", "v")];
        assert_eq!(faulty(fault, &calls), [true, false, false, false]);
    }

    #[test]
    fn a_fault_spares_the_first_and_is_spent_after_the_last() {
        let fault = InjectedFault::throttle().after(1).times(2);
        assert_eq!(faulty(fault, &[("A", "p", "u"); 5]), [false, true, true, false, false]);
    }

    #[test]
    fn a_cured_fault_meets_nobody() {
        let mut faults = InjectedFaults::default();
        let id = faults.inject(InjectedFault::throttle());
        faults.remove(id);
        assert_eq!(faults.fault_for_call("A", None, None, &mut fastrand::Rng::with_seed(1)), None);
    }
}
