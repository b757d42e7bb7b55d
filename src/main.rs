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
    runtime.block_on(arguments.execute())
}
