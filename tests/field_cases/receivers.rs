//! Receivers under pressure, and addresses behind which there is no receiver.
