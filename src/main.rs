//! arguments -> runtime -> command -> exit code.

use std::process::ExitCode;

use clap::Parser as _;
use cognito_auth_exporter::cli::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime needs only threads and a poll descriptor; without them nothing could be said or done");
    let code = runtime.block_on(arguments.execute());
    // What still runs is not waited for: a write to a pipe that nobody reads would never end. What must be on disk is.
    runtime.shutdown_background();
    code
}
