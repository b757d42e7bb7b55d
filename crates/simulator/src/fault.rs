//! What can go wrong, on request: a fault says what, for whom, from when on and how often.

use std::time::Duration;

/// An error that the service answers with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The error's name, such as `TooManyRequestsException`.
    pub name: String,
    /// Its message.
    pub message: String,
}

impl Refusal {
    /// An error with status 400, as nearly all are.
    pub fn new(name: &str, message: impl Into<String>) -> Self {
        Self { status: 400, name: name.to_owned(), message: message.into() }
    }

    /// The quota's.
    pub fn throttled() -> Self {
        Self::new("TooManyRequestsException", "Rate exceeded")
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new("InvalidParameterException", message)
    }
}

/// What goes wrong.
#[derive(Clone, PartialEq, Debug)]
pub enum Misfortune {
    /// An error in place of the answer.
    Refuse(Refusal),
    /// The connection is reset in place of the answer.
    Reset,
    /// There never is an answer.
    Hang,
    /// The answer comes late.
    Slow(Duration),
    /// A proper HTTP response whose JSON ends in the middle.
    CutJson,
    /// The connection ends in the middle of the response.
    CutConnection,
    /// A page of HTML with this status: 502 as proxies send it, or 200 as captive portals do.
    Html(u16),
    /// No event, and a token that leads to where this page should have begun.
    EmptyPage,
    /// The right page, with the token that asked for it (or none, for the first) as its next.
    RepeatToken,
    /// The first page again, whatever token was sent.
    RepeatPage,
    /// The right events in a wrong order.
    Shuffle,
    /// Texts of 100,000 characters in every event.
    Huge,
    /// So many events without a member in place of the right ones, before the right token.
    EmptyEvents(usize),
    /// The right events, the newest of them with so many challenges without a member.
    EmptyChallenges(usize),
}

/// A misfortune and whom it meets: everybody, until narrowed.
#[derive(Clone, PartialEq, Debug)]
pub struct Fault {
    pub(super) misfortune: Misfortune,
    operation: Option<String>,
    pool: Option<String>,
    user: Option<String>,
    probability: f64,
    spared: u64,
    left: u64,
}

impl From<Misfortune> for Fault {
    fn from(misfortune: Misfortune) -> Self {
        Self::new(misfortune)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::new(Misfortune::Refuse(refusal))
    }
}

impl Fault {
    /// A fault that meets every call.
    pub fn new(misfortune: Misfortune) -> Self {
        Self { misfortune, operation: None, pool: None, user: None, probability: 1.0, spared: 0, left: u64::MAX }
    }

    /// TooManyRequestsException.
    pub fn throttle() -> Self {
        Refusal::throttled().into()
    }

    /// InternalErrorException, with status 500.
    pub fn internal_error() -> Self {
        Self::from(Refusal { status: 500, ..Refusal::new("InternalErrorException", "Something went wrong") })
    }

    /// The caller may not: AccessDeniedException, which is in no operation's model.
    pub fn access_denied() -> Self {
        Self::from(Refusal::new(
            "AccessDeniedException",
            "User is not authorized to perform this action because no identity-based policy allows it",
        ))
    }

    /// The caller's session is over.
    pub fn expired_token() -> Self {
        Self::from(Refusal::new("ExpiredTokenException", "The security token included in the request is expired"))
    }

    /// The caller's key is not known.
    pub fn unrecognized_client() -> Self {
        Self::from(Refusal::new(
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
        ))
    }

    /// Only calls of this operation, such as `ListUsers`.
    pub fn on(mut self, operation: &str) -> Self {
        self.operation = Some(operation.to_owned());
        self
    }

    /// Only calls for this pool.
    pub fn in_pool(mut self, pool: &str) -> Self {
        self.pool = Some(pool.to_owned());
        self
    }

    /// Only calls for this username.
    pub fn for_user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Only so many times, then never again.
    pub fn times(mut self, times: u64) -> Self {
        self.left = times;
        self
    }

    /// Not the first so many of the calls that it would meet.
    pub fn after(mut self, spared: u64) -> Self {
        self.spared = spared;
        self
    }

    /// By chance, with this probability (0 to 1), as the world's seed has it.
    pub fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    fn concerns(&self, operation: &str, pool: Option<&str>, user: Option<&str>) -> bool {
        let fits =
            |wanted: &Option<String>, is: Option<&str>| wanted.as_deref().is_none_or(|wanted| is == Some(wanted));
        fits(&self.operation, Some(operation)) && fits(&self.pool, pool) && fits(&self.user, user)
    }
}

/// Names an injected fault, to take it back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultId(u64);

/// The faults in force, oldest first.
#[derive(Debug, Default)]
pub(super) struct Faults {
    injected: Vec<(FaultId, Fault)>,
    next_id: u64,
}

impl Faults {
    pub(super) fn inject(&mut self, fault: Fault) -> FaultId {
        let id = FaultId(self.next_id);
        self.next_id += 1;
        self.injected.push((id, fault));
        id
    }

    pub(super) fn cure(&mut self, id: FaultId) {
        self.injected.retain(|(injected, _)| *injected != id);
    }

    pub(super) fn cure_all(&mut self) {
        self.injected.clear();
    }

    /// What meets this call: the first fault that concerns it and is not spent.
    pub(super) fn strike(
        &mut self,
        operation: &str,
        pool: Option<&str>,
        user: Option<&str>,
        random: &mut fastrand::Rng,
    ) -> Option<Misfortune> {
        for (_, fault) in &mut self.injected {
            if fault.left == 0 || !fault.concerns(operation, pool, user) {
                continue;
            }
            if fault.spared > 0 {
                fault.spared -= 1;
            } else if fault.probability >= 1.0 || random.f64() < fault.probability {
                fault.left -= 1;
                return Some(fault.misfortune.clone());
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strikes(fault: Fault, calls: &[(&str, &str, &str)]) -> Vec<bool> {
        let mut faults = Faults::default();
        faults.inject(fault);
        let mut random = fastrand::Rng::with_seed(1);
        let mut strike = |(operation, pool, user): &(&str, &str, &str)| {
            faults.strike(operation, Some(pool), Some(user), &mut random).is_some()
        };
        calls.iter().map(&mut strike).collect()
    }

    #[test]
    fn a_fault_meets_whom_it_names() {
        let fault = Fault::throttle().on("A").in_pool("p").for_user("u");
        let calls = [("A", "p", "u"), ("B", "p", "u"), ("A", "q", "u"), ("A", "p", "v")];
        assert_eq!(strikes(fault, &calls), [true, false, false, false]);
    }

    #[test]
    fn a_fault_spares_the_first_and_is_spent_after_the_last() {
        let fault = Fault::throttle().after(1).times(2);
        assert_eq!(strikes(fault, &[("A", "p", "u"); 5]), [false, true, true, false, false]);
    }

    #[test]
    fn a_cured_fault_meets_nobody() {
        let mut faults = Faults::default();
        let id = faults.inject(Fault::throttle());
        faults.cure(id);
        assert_eq!(faults.strike("A", None, None, &mut fastrand::Rng::with_seed(1)), None);
    }
}
