//! Refuses a target that the exporter does not support, before anything is compiled for it.
//!
//! The state directory's permissions, its lock and the signals are those of Unix. On Windows the code would fail with
//! hundreds of errors, none of which says so.

/// The error for a target family that is not Unix.
const UNSUPPORTED: &str = "cognito-auth-exporter does not support Windows: its state directory and its signals are \
    those of Unix. Build it on Linux or macOS, or in WSL (docs/installation.md)";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Cargo sets it for targets of the family.
    if std::env::var_os("CARGO_CFG_UNIX").is_none() {
        println!("cargo::error={UNSUPPORTED}");
    }
}
