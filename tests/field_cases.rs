//! Cases from the field: small inputs, taken from public reports about exporters of this kind and from the ways in which
//! user pools are attacked. Each test names its origin. The cases run the built binary against a simulated Cognito and a
//! real receiver.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/exporter.rs"]
mod exporter;
#[path = "support/long.rs"]
mod long;
#[path = "support/receiver.rs"]
mod receiver;
#[path = "support/stage.rs"]
mod stage;

#[path = "field_cases/aws.rs"]
mod aws;
#[path = "field_cases/history.rs"]
mod history;
#[path = "field_cases/names.rs"]
mod names;
#[path = "field_cases/polling.rs"]
mod polling;
#[path = "field_cases/receivers.rs"]
mod receivers;
#[path = "field_cases/serving.rs"]
mod serving;
#[path = "field_cases/state.rs"]
mod state;
#[path = "field_cases/transport.rs"]
mod transport;
