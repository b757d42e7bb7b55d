//! The command line of cognito-auth-exporter.

fn main() {}
