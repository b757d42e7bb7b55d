//! A simulated user or attacker, and the events of each.
//!
//! A sign-in has its final response here. The population decides whether it is first shown as InProgress.

use std::time::Duration;

use cognito_auth_core::event::{
    AuthEvent, Challenge, ChallengeName, ChallengeResponse, EventContext, EventResponse, EventRisk, EventType,
    RiskDecision, RiskLevel, UnixMillis, Word,
};
use fastrand::Rng;

use super::profiles::{self, CITIES, DEVICES, pick};
use crate::wire;

/// A user with an account.
#[derive(Clone, Debug)]
pub(super) struct SimulatedUser {
    pub(super) username: String,
    /// The usual city, as an index into `CITIES`.
    home: usize,
    device: &'static str,
    address: String,
    has_mfa: bool,
    /// Whether Cognito knows the city of the address.
    city_known: bool,
    /// The mean pause between sign-ins.
    pub(super) pause: Duration,
    pub(super) is_newcomer: bool,
    /// Whether the user signs in with another provider. Threat protection records no events of such a user.
    pub(super) is_federated: bool,
}

impl SimulatedUser {
    /// A new user whose username ends in `number`. Without a pause, the user never signs in.
    pub(super) fn new(random: &mut Rng, number: u64, pause: Option<Duration>) -> Self {
        Self {
            username: profiles::username(random, number),
            home: random.usize(..CITIES.len()),
            device: DEVICES[random.usize(..DEVICES.len())],
            address: profiles::address(random),
            has_mfa: random.bool(),
            city_known: random.f64() < 0.8,
            pause: pause.unwrap_or(Duration::MAX),
            is_newcomer: false,
            is_federated: false,
        }
    }

    /// A sign-in, usually from the usual city with the usual device. The risk follows from another city or device.
    pub(super) fn sign_in(&self, random: &mut Rng, at: UnixMillis) -> AuthEvent {
        let (has_new_device, travels) = (random.f64() < 0.05, random.f64() < 0.03);
        let city = if travels { random.usize(..CITIES.len()) } else { self.home };
        let mut context = self.context(random, city);
        if has_new_device {
            context.device_name = Some((*pick(random, &DEVICES)).to_owned());
        }
        if has_new_device || travels {
            context.ip_address = Some(profiles::address(random));
        }
        let risk = match (travels, has_new_device) {
            (false, false) => no_risk(),
            (false, true) => takeover(RiskDecision::AccountTakeover, RiskLevel::Low, false),
            (true, false) => takeover(RiskDecision::AccountTakeover, RiskLevel::Medium, false),
            (true, true) => takeover(RiskDecision::AccountTakeover, RiskLevel::High, false),
        };
        let knows_password = random.f64() >= 0.06;
        let mut challenges = vec![challenge(ChallengeName::Password, knows_password)];
        let mut passes = knows_password;
        if knows_password && self.has_mfa {
            passes = random.f64() >= 0.05;
            challenges.push(challenge(ChallengeName::Mfa, passes));
        }
        let response = if passes { EventResponse::Pass } else { EventResponse::Fail };
        AuthEvent { risk: Some(risk), challenges, ..event(random, EventType::SignIn, response, context, at) }
    }

    /// Another event than a sign-in, from the usual city.
    pub(super) fn other_event(
        &self,
        random: &mut Rng,
        kind: EventType,
        response: EventResponse,
        at: UnixMillis,
    ) -> AuthEvent {
        let context = self.context(random, self.home);
        event(random, kind, response, context, at)
    }

    /// The context of an event in a city. Some members are missing or "null", as in Cognito's events.
    fn context(&self, random: &mut Rng, city: usize) -> EventContext {
        let city = &CITIES[city];
        EventContext {
            ip_address: Some(self.address.clone()),
            device_name: (random.f64() >= 0.1).then(|| self.device.to_owned()),
            timezone: (random.f64() >= 0.3).then(|| city.timezone.to_owned()),
            city: Some(if self.city_known { city.name } else { "null" }.to_owned()),
            country: Some(city.country.to_owned()),
        }
    }
}

/// The address and country of an attacker.
#[derive(Clone, Debug)]
pub(super) struct AttackOrigin {
    address: String,
    country: &'static str,
}

impl AttackOrigin {
    pub(super) fn new(random: &mut Rng) -> Self {
        Self { address: profiles::attacker_address(random), country: pick(random, &CITIES).country }
    }

    /// A sign-in attempt with a stolen password. Most attempts fail or are blocked; one in twenty succeeds.
    pub(super) fn attempt(&self, random: &mut Rng, at: UnixMillis) -> AuthEvent {
        let (response, decision, level) = match random.u8(..100) {
            0..45 => (EventResponse::Fail, RiskDecision::Block, RiskLevel::High),
            45..75 => (EventResponse::Fail, RiskDecision::AccountTakeover, RiskLevel::High),
            75..95 => (EventResponse::Fail, RiskDecision::AccountTakeover, RiskLevel::Medium),
            _ => (EventResponse::Pass, RiskDecision::AccountTakeover, RiskLevel::High),
        };
        let is_known_password =
            response == EventResponse::Pass || decision == RiskDecision::Block && random.f64() < 0.3;
        let context = EventContext {
            ip_address: Some(self.address.clone()),
            device_name: Some("Other, Other".to_owned()),
            timezone: None,
            city: Some("null".to_owned()),
            country: Some(self.country.to_owned()),
        };
        AuthEvent {
            risk: Some(takeover(decision, level, is_known_password)),
            challenges: vec![challenge(ChallengeName::Password, is_known_password)],
            ..event(random, EventType::SignIn, response, context, at)
        }
    }
}

fn event(
    random: &mut Rng,
    kind: EventType,
    response: EventResponse,
    context: EventContext,
    at: UnixMillis,
) -> AuthEvent {
    AuthEvent {
        id: Some(wire::uuid(random)),
        event_type: Some(Word::Known(kind)),
        creation_date: Some(at),
        response: Some(Word::Known(response)),
        risk: Some(no_risk()),
        challenges: vec![],
        context: Some(context),
        feedback: None,
    }
}

fn no_risk() -> EventRisk {
    EventRisk { decision: Some(Word::Known(RiskDecision::NoRisk)), level: None, compromised_credentials: Some(false) }
}

fn takeover(decision: RiskDecision, level: RiskLevel, is_compromised: bool) -> EventRisk {
    EventRisk {
        decision: Some(Word::Known(decision)),
        level: Some(Word::Known(level)),
        compromised_credentials: Some(is_compromised),
    }
}

fn challenge(name: ChallengeName, succeeded: bool) -> Challenge {
    let response = if succeeded { ChallengeResponse::Success } else { ChallengeResponse::Failure };
    Challenge { name: Some(Word::Known(name)), response: Some(Word::Known(response)) }
}
