//! Polling: merged names, throttles, newcomers, and limits that cannot be true.
