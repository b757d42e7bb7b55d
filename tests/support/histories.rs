//! Events of simulated users that several tests need.

use cognito_auth_core::event::{AuthEvent, EventRisk, FeedbackValue, UnixMillis, Word};
use cognito_auth_simulator::world::World;

/// A sign-in that passed although threat protection is sure of an account takeover.
pub(crate) fn taken_over(world: &mut World, at: UnixMillis) -> AuthEvent {
    let mut event = world.sign_in(at);
    event.risk = Some(EventRisk {
        decision: Some(Word::parse("AccountTakeover")),
        level: Some(Word::parse("High")),
        compromised_credentials: Some(false),
    });
    event
}

/// Adds events of every shape to a user, some within the same millisecond. They include the unusual values of the
/// service: City "null", unknown words, missing members.
pub(crate) fn events_of_every_shape(world: &mut World, pool: &str, user: &str, count: i64, newest: UnixMillis) {
    for number in 0..count {
        let mut event = world.sign_in(UnixMillis(newest.0 - (number / 3) * 86_399_989));
        match number % 5 {
            0 => event.response = Some(Word::parse("InProgress")),
            1 => event.risk = Some(EventRisk::default()),
            2 => {
                event = AuthEvent {
                    id: event.id,
                    creation_date: event.creation_date,
                    event_type: Some(Word::parse("Überraschung")),
                    ..AuthEvent::default()
                }
            }
            3 => event.context.as_mut().unwrap().city = Some("null".into()),
            _ => event.challenges.clear(),
        }
        world.arrive(pool, user, &event);
        if number % 7 == 0 {
            let id = event.id.as_deref().unwrap();
            world.feedback(pool, user, id, FeedbackValue::Invalid, "Admin");
        }
    }
}
