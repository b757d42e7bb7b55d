//! Cases from the field: small inputs from public reports about exporters of this kind, and from attacks on user pools.
//! Each test names its origin. The tests run the built binary against a simulated Cognito and a real receiver.

mod aws;
mod history;
mod names;
mod polling;
mod receivers;
mod serving;
mod state;
mod transport;
