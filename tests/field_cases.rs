//! Cases from the field: small inputs, taken from public reports about exporters of this kind and from the ways in which
//! user pools are attacked. Each test names its origin. The cases run the built binary against a simulated Cognito and a
//! real receiver.

mod aws;
mod history;
mod names;
mod polling;
mod receivers;
mod serving;
mod state;
mod transport;
